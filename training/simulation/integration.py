"""How the options of a simulation settle its solver, its times, and whether it tells densities.

What has to be tried out, a grid of equal errors or a number of steps, is tried on a few latents
that all scripts draw alike, so that it needs no data.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.grids import EqualErrorGrid, Grid, choose_steps, fit_equal_error_grid
from training.flow.likelihood import Likelihood, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import DEFAULT_STEPS, Solver, get_solver
from training.model.model import Model
from training.settings.options import given_options

MAX_STEPS = 10**6
PILOTS = 64
STORED = "time_grid"
"""Name of a grid in what a network file says about itself."""


def chosen_solver(options: Mapping[str, Any]) -> Solver:
    """The solver of ``solver_options``. Raises UsageError for tolerances that it does not take."""
    solver = get_solver(options["solver"], options["rtol"], options["atol"])
    tolerances = sorted(given_options() & {"rtol", "atol"})
    if tolerances and not solver.adaptive:
        raise UsageError(
            f"--{tolerances[0]} goes with adaptive solvers such as dopri5, but {solver.name} takes "
            "given steps"
        )
    return solver


def chosen_likelihood(
    options: Mapping[str, Any], levels_per_unit: float | None = None
) -> Likelihood | None:
    """What ``likelihood_options`` ask for; None if they do not.

    Args:
        options: ``log_prob``, ``trace``, ``probes`` and ``seed``.
        levels_per_unit: Of images.

    Raises:
        UsageError: How is said, but not that, or probes for an exact trace.
    """
    given = given_options()
    for name in ("trace", "probes"):
        if name in given and not options["log_prob"]:
            raise UsageError(f"--{name} goes with --log_prob")
    if "probes" in given and options["trace"] == "exact":
        raise UsageError("--probes goes with --trace=hutchinson: an exact trace has none")
    if not options["log_prob"]:
        return None
    trace = Trace(options["trace"], options["probes"], options["seed"])
    return Likelihood(trace, levels_per_unit)


def steps_and_end(
    steps: int | str | None, h: float | None, t_max: float
) -> tuple[int | str, float]:
    """Number of steps, or ``auto``, and the last time T: ``steps * h``, or ``t_max``."""
    if isinstance(steps, int) and steps > MAX_STEPS:
        raise UsageError(f"--steps is {steps}: it must be at most {MAX_STEPS}")
    if h is None:
        return steps or DEFAULT_STEPS, t_max
    if isinstance(steps, str):
        raise UsageError(f"--steps={steps} finds the step size itself: leave --h out")
    if steps is None:
        if t_max / h > MAX_STEPS:
            raise UsageError(f"h is {h:g}, which makes more than {MAX_STEPS} steps up to {t_max:g}")
        steps = max(1, math.floor(t_max / h * (1 + 1e-9)))
    end = steps * h
    # 7.01 and 701 * 0.01 mean the same time.
    return steps, t_max if math.isclose(end, t_max, rel_tol=1e-9) else end


def first_time(schedule: NoiseSchedule, options: Mapping[str, Any], end: float) -> float:
    """The first time, by ``disc``. Raises UsageError if it is not before the last."""
    if end <= schedule.t_min:
        raise UsageError(f"T is {end:g}, but simulations start at t = {schedule.t_min:g}")
    if options["disc"] != "vp_ode":
        return schedule.t_min
    first: float = options["vpode_disc_eps"]
    if not schedule.t_min <= first < end:
        raise UsageError(
            f"--vpode_disc_eps is {first:g}: it must be at least {schedule.t_min:g}, and less than "
            f"T = {end:g}"
        )
    return first


def even_grid(schedule: NoiseSchedule, options: Mapping[str, Any], end: float) -> Grid:
    """Even over ``[0, T]`` (``ifs``) or ``[eps, T]`` (``vp_ode``), by number of steps.

    The baselines have grids of their own, which ``ifs`` stands for.
    """
    first = first_time(schedule, options, end)
    if options["disc"] == "vp_ode":
        return lambda steps: torch.linspace(first, end, steps + 1, dtype=torch.float64)
    return lambda steps: schedule.times(steps, end)


@dataclass(frozen=True)
class NetworkFile:
    """A network and its file, where a grid may be kept.

    Attributes:
        path: The file.
        model: What is in it.
    """

    path: Path
    model: Model

    def stored_grid(self, solver: Solver, times: Tensor) -> EqualErrorGrid | None:
        """The grid in the file, if it is one of this solver over these times.

        Raises:
            DataError: What is in its place makes no sense.
        """
        stored = self.model.about.get(STORED)
        if stored is None:
            return None
        try:
            name, found = stored["solver"], torch.tensor(stored["times"], dtype=torch.float64)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.path} holds a broken '{STORED}': {error}") from error
        if found.ndim != 1 or len(found) < 2 or not (found.diff() > 0).all():
            raise DataError(f"{self.path} holds a broken '{STORED}': its times do not increase")
        fits = torch.allclose(found[[0, -1]], times[[0, -1]].to(found), rtol=1e-9)
        return EqualErrorGrid(found) if name == solver.name and fits else None

    def store_grid(self, grid: EqualErrorGrid, solver: Solver) -> None:
        """Writes the network file anew, with a grid in it."""
        if distributed.is_main():
            # Anew, since this run may have left the calibration out.
            model = Model.load(self.path)
            about = {STORED: {"solver": solver.name, "times": grid.times.tolist()}}
            dataclasses.replace(model, about={**model.about, **about}).save(self.path)
            logger.info(f"Stored the grid of times in {self.path}")
        distributed.barrier()


def settle_times(
    flow: ProbabilityFlow,
    solver: Solver,
    steps: int | str,
    end: float,
    options: Mapping[str, Any],
    file: NetworkFile | None = None,
) -> Tensor:
    """The times of a simulation, increasing ``[steps + 1]``, float64, on the CPU.

    Args:
        flow: On its device.
        solver: Of the simulation.
        steps: How many, or ``auto``.
        end: T.
        options: ``disc``, ``tol``, ``store_grid``, and ``vpode_disc_eps`` of images.
        file: Of the network; None for a flow without one.
    """
    tried = steps == "auto"
    if not tried and "tol" in given_options():
        raise UsageError("--tol goes with a number of steps of 'auto'")
    if options["store_grid"] and (options["disc"] != "adapted" or file is None):
        raise UsageError("--store_grid goes with a network and --disc=adapted")
    if options["store_grid"] and "://" in options["network"]:
        raise UsageError("--store_grid writes into the network file: give a path, not a URL")
    even = even_grid(flow.schedule, options, end)
    adapts = options["disc"] == "adapted"
    if not (tried or adapts):
        return even(int(steps))
    law = flow.latent_law(torch.tensor(end, dtype=torch.float64, device=flow.device))
    latents = law.sample(PILOTS, seeded_generator("cpu", 0, Stream.PILOT))
    grid = even
    if adapts:
        grid = _adapted_grid(flow, solver, latents, even(1), options["store_grid"], file)
    if not tried:
        return grid(int(steps))
    choice = choose_steps(flow, latents, grid, solver, options["tol"])
    logger.info(
        f"{choice.steps} steps of {solver.name}, for an expected error of {choice.error:.1e} "
        f"(--tol={options['tol']:g})"
    )
    return grid(choice.steps)


def _adapted_grid(
    flow: ProbabilityFlow,
    solver: Solver,
    latents: Tensor,
    times: Tensor,
    store: bool,
    file: NetworkFile | None,
) -> Grid:
    stored = file.stored_grid(solver, times) if file and not store else None
    if stored:
        return stored
    grid = fit_equal_error_grid(flow, latents, times, solver)
    if file and store:
        file.store_grid(grid, solver)
    return grid
