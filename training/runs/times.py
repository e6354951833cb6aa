"""The times of a simulation: where they lie, and how many of them it takes.

What has to be tried out, a grid of equal errors or a number of steps, is tried on a few latents
that all scripts draw alike, so that it needs no data.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.grids import Grid, choose_steps, fit_equal_error_grid
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import Solver
from training.subjects import NetworkFile, Subject

PILOTS = 64
"""Latents that times are tried out on."""
MANY_CALLS = 1000
"""Of a denoiser, beyond which hardly any accuracy is gained with most solvers."""


@dataclass(frozen=True)
class TimeChoice:
    """Along which times a flow is to be integrated.

    Attributes:
        steps: Their number; None for as many as the tolerance takes.
        end: T.
        first: First time, from which they are even; None for the schedule's own times.
        adapted: Whether they lie so that steps make equal errors.
        tolerance: Error that is allowed where the number of steps is to be found.
        store: Whether adapted times are to be kept in the network's file.
        given: The times themselves, if they are known.
    """

    steps: int | None
    end: float
    first: float | None = None
    adapted: bool = False
    tolerance: float = 1e-4
    store: bool = False
    given: Tensor | None = None

    def even(self, schedule: NoiseSchedule) -> Grid:
        """Even times by number of steps. The isotropic schedules have their own in place of these.
        Raises UsageError if the first time is not before the last."""
        if self.end <= schedule.t_min:
            raise UsageError(f"T is {self.end:g}, but simulations start at t = {schedule.t_min:g}")
        first = self.first
        if first is None:
            return lambda steps: schedule.times(steps, self.end)
        if not schedule.t_min <= first < self.end:
            raise UsageError(
                f"--vpode_disc_eps is {first:g}: it must be at least {schedule.t_min:g}, and less "
                f"than T = {self.end:g}"
            )
        return lambda steps: torch.linspace(first, self.end, steps + 1, dtype=torch.float64)

    def of(self, subject: Subject, flow: ProbabilityFlow, solver: Solver) -> Tensor:
        """The times of a subject's flow, which ``on`` gave; see ``settle``."""
        return self.settle(subject.pilots(flow, PILOTS), solver, subject.file)

    def settle(
        self, flow: ProbabilityFlow, solver: Solver, file: NetworkFile | None = None
    ) -> Tensor:
        """The times, increasing ``[steps + 1]``, float64, on the CPU, for a flow on its device,
        whose network may be from a file."""
        if self.given is not None:
            return self.given
        grid = self.even(flow.schedule)
        calls = (self.steps or 0) * (solver.calls_per_step or 1)
        if calls > MANY_CALLS and solver.name != "euler" and not solver.adaptive:
            logger.info(
                f"{self.steps} steps of {solver.name} are {calls:,} denoiser calls each way: "
                "'auto' steps find how few are as accurate, by --tol"
            )
        if self.steps is not None and not self.adapted:
            return grid(self.steps)
        law = flow.latent_law(torch.tensor(self.end, dtype=torch.float64, device=flow.device))
        latents = law.sample(PILOTS, seeded_generator("cpu", 0, Stream.PILOT))
        if self.adapted:
            stored = file.stored_grid(solver, grid(1)) if file and not self.store else None
            adapted = stored or fit_equal_error_grid(flow, latents, grid(1), solver)
            if file and self.store:
                file.store_grid(adapted, solver)
            grid = adapted
        if self.steps is not None:
            return grid(self.steps)
        choice = choose_steps(flow, latents, grid, solver, self.tolerance)
        logger.info(
            f"{choice.steps} steps of {solver.name}, for an expected error of {choice.error:.1e} "
            f"(--tol={self.tolerance:g})"
        )
        return grid(choice.steps)
