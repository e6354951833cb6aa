"""Where the times of an integration lie, and how many it takes, found out on a few samples.

**Equal errors.** A step h at t of a method of order p makes an error of about ``C(t) h^(p+1)``.
``C`` is measured along the way from latents to data: in each of K even cells, one step is set
against two of a method of order 5. The sum of n errors is least where they are equal, so that the
density of times goes as ``C^(1/(p+1))`` (de Boor 1973, *Good approximation by splines with variable
knots*).

**As many steps as needed.** The number of steps is doubled until the ends of n and 2n steps differ
by no more than a tolerance; between the last two numbers the error is taken to be a power of n.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, log
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver
from training.flow.solvers.explicit import DORMAND_PRINCE, runge_kutta

CELLS = 32
LEAST_DENSITY = 0.1
"""Of the highest: where errors happen to vanish for the few samples, steps stay bounded."""
FEWEST_STEPS, MOST_STEPS = 4, 4096

Grid = Callable[[int], Tensor]
"""``steps + 1`` increasing times, float64, of a number of steps."""


@dataclass(frozen=True)
class EqualErrorGrid:
    """Times between which the errors are equal.

    Attributes:
        times: Increasing ``[K + 1]``, float64.
    """

    times: Tensor

    @classmethod
    def of(cls, times: Tensor, density: Tensor, least: float) -> "EqualErrorGrid":
        """With as many steps in a cell as a density says, whose ends ``[K + 1]`` increase, float64
        on the CPU; even, if it is 0 everywhere. The density ``[K]`` is not negative, up to a
        factor, and at least this share of the highest."""
        density = density.clamp_min(least * (float(density.max()) or 1.0))
        mass = torch.cat([torch.zeros(1, dtype=torch.float64), (density * times.diff()).cumsum(0)])
        quantiles = torch.linspace(0, 1, 2 * len(density) + 1, dtype=torch.float64) * mass[-1]
        cell = torch.searchsorted(mass, quantiles).clamp(1, len(density))
        weight = (quantiles - mass[cell - 1]) / (mass[cell] - mass[cell - 1])
        placed = torch.lerp(times[cell - 1], times[cell], weight)
        placed[0], placed[-1] = times[0], times[-1]
        return cls(placed)

    def __call__(self, steps: int) -> Tensor:
        place = torch.linspace(0, len(self.times) - 1, steps + 1, dtype=torch.float64)
        place = place.to(self.times.device)
        cell = place.long().clamp(max=len(self.times) - 2)
        return torch.lerp(self.times[cell], self.times[cell + 1], place - cell)


class StepChoice(NamedTuple):
    """A number of steps, and the error that is expected with it (RMS, scaled variable)."""

    steps: int
    error: float


@torch.no_grad()
def fit_equal_error_grid(
    flow: ProbabilityFlow, latents: Tensor, times: Tensor, solver: Solver
) -> EqualErrorGrid:
    """The grid on which a solver makes equal errors.

    Args:
        flow: The flow, on its device.
        latents: Scaled eigenspace ``[n, D]`` at the last time.
        times: Increasing times, of which the first and the last count.
        solver: A solver with fixed steps.

    Raises:
        DataError: The errors are not finite.
    """
    if solver.adaptive:
        raise UsageError(f"{solver.name} chooses its own steps: leave --disc=adapted out")
    if solver.multistep:
        raise UsageError(
            f"the errors of {solver.name} cancel on even times, and adapted ones make it worse: "
            "give --disc=ifs"
        )
    first, last = float(times[0]), float(times[-1])
    even = torch.linspace(last, first, CELLS + 1, dtype=torch.float64, device=latents.device)
    errors = _errors_of_steps(flow, latents.double(), even, solver)
    density = errors.cpu() ** (1 / (solver.order + 1))
    if not density.isfinite().all():
        raise DataError(
            "the errors of the solver are NaN or infinite: use a shorter time, or --disc=ifs"
        )
    # Of Gaussian data there are no errors, and times are even.
    return EqualErrorGrid.of(even.flip(0).cpu(), density.flip(0), LEAST_DENSITY)


def _errors_of_steps(flow: ProbabilityFlow, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
    """Root mean square errors ``[S]`` of single steps between times ``[S + 1]``, each from the
    right state."""
    velocity = flow.standardized_velocity if solver.standardized else flow.velocity
    state = x / flow.latent_std(times[0]) if solver.standardized else x
    exact = runge_kutta(DORMAND_PRINCE)
    errors = []
    for start, end in pairwise(times):
        *_, following = exact(velocity, state, torch.stack([start, (start + end) / 2, end]))
        (reached,) = solver.method(velocity, state, torch.stack([start, end]))
        errors.append((reached - following).square().mean().sqrt())
        state = following
    return torch.stack(errors)


def choose_steps(
    flow: ProbabilityFlow, latents: Tensor, grid: Grid, solver: Solver, tolerance: float
) -> StepChoice:
    """The least number of steps for an accuracy, of generation and of the melt back.

    Args:
        flow: The flow, on its device.
        latents: Scaled eigenspace ``[n, D]`` at the last time of the grid.
        grid: The times of so many steps.
        solver: A solver with fixed steps.
        tolerance: Root mean square error at the end, in the scaled variable.

    Raises:
        UsageError: The solver is adaptive, or the tolerance is not reached; says what is.
    """
    if solver.adaptive:
        raise UsageError(f"{solver.name} chooses its own steps: give --rtol and --atol instead")
    # Any points near the data will do.
    rk5 = SOLVERS["exp_rk5"]
    points = flow.to_data(*_end(flow, latents, grid(4 * FEWEST_STEPS), rk5, melts=False))

    def ends(steps: int) -> Tensor | None:
        try:
            generated, _ = _end(flow, latents, grid(steps), solver, melts=False)
            melted, _ = _end(flow, points, grid(steps), solver, melts=True)
        except DataError:  # steps too long to be solved, or even to stay finite
            return None
        return torch.stack([generated, melted])

    steps, error, coarse = FEWEST_STEPS, inf, ends(FEWEST_STEPS)
    least = error
    while steps < MOST_STEPS:
        fine = ends(2 * steps)
        last, error = error, inf
        if coarse is not None and fine is not None:
            error = float((coarse - fine).square().mean(dim=(1, 2)).sqrt().max())
        least = min(least, error)
        if error <= tolerance:
            return _between(steps, last, error, tolerance)
        steps, coarse = 2 * steps, fine
    raise UsageError(
        f"--tol={tolerance:g} is not reached: {solver.name} came to {least:.1g} at best, with up "
        f"to {MOST_STEPS} steps; give a larger one, or another solver or precision"
    )


def _between(steps: int, last: float, error: float, tolerance: float) -> StepChoice:
    """Fewer than ``steps`` that suffice, but more than half of them, whose error was ``last``."""
    if last == inf or error <= 0:
        return StepChoice(steps, error)
    power = log(last / error, 2)
    fewer = ceil(steps * (error / tolerance) ** (1 / power))
    chosen = min(max(fewer, steps // 2 + 1), steps)
    return StepChoice(chosen, error * (steps / chosen) ** power)


def _end(
    flow: ProbabilityFlow, start: Tensor, times: Tensor, solver: Solver, *, melts: bool
) -> tuple[Tensor, Tensor]:
    """Where points of image space, or latents, end, and at what time."""
    simulate = flow.melt if melts else flow.generate
    trajectory = simulate(start, times.to(start), solver)
    return trajectory.end, trajectory.times[-1]
