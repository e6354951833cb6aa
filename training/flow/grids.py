"""Time grids of an integration, and the number of steps, both determined on a few samples.

**Equal errors.** A step h at t of a method of order p has an error of about ``C(t) h^(p+1)``. ``C``
is measured along trajectories from latents to data: in each of K even intervals, one step is
compared with two steps of a method of order 5. The sum of n errors is smallest if they are equal,
which makes the density of times proportional to ``C^(1/(p+1))`` (de Boor 1973, *Good approximation
by splines with variable knots*).

**Number of steps.** The number of steps doubles until the end states of n and 2n steps differ by at
most a tolerance. Between the last two numbers, the error is modeled as a power of n.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf, log

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver
from training.flow.solvers.explicit import DORMAND_PRINCE, runge_kutta

CELLS = 32
LEAST_DENSITY = 0.1
"""Lower bound of the density of times, as a share of its maximum.

It bounds step sizes where errors happen to vanish for the few samples.
"""
FEWEST_STEPS, MOST_STEPS = 4, 4096

Grid = Callable[[int], Tensor]
"""Function from a number of steps to ``steps + 1`` increasing times, float64."""


@dataclass(frozen=True)
class EqualErrorGrid:
    """A time grid, for any number of steps, whose steps have equal errors.

    Attributes:
        times: Increasing reference times ``[K + 1]``, float64, between which times are
            interpolated.
    """

    times: Tensor

    @classmethod
    def from_density(cls, times: Tensor, density: Tensor, least: float) -> "EqualErrorGrid":
        """Return the time grid whose steps have a given density in each of K intervals.

        Args:
            times: Ends ``[K + 1]`` of the intervals, increasing, float64 on the CPU.
            density: Relative number of steps per unit of time in each interval ``[K]``, not
                negative. If all values are 0, times are evenly spaced.
            least: Lower bound of the density, as a share of its maximum.
        """
        density = density.clamp_min(least * (float(density.max()) or 1.0))
        mass = torch.cat([torch.zeros(1, dtype=torch.float64), (density * times.diff()).cumsum(0)])
        quantiles = torch.linspace(0, 1, 2 * len(density) + 1, dtype=torch.float64) * mass[-1]
        cell = torch.searchsorted(mass, quantiles).clamp(1, len(density))
        weight = (quantiles - mass[cell - 1]) / (mass[cell] - mass[cell - 1])
        placed = torch.lerp(times[cell - 1], times[cell], weight)
        placed[0], placed[-1] = times[0], times[-1]
        return cls(placed)

    def __call__(self, steps: int) -> Tensor:
        """Return ``steps + 1`` increasing times for a number of steps."""
        place = torch.linspace(0, len(self.times) - 1, steps + 1, dtype=torch.float64)
        place = place.to(self.times.device)
        cell = place.long().clamp(max=len(self.times) - 2)
        return torch.lerp(self.times[cell], self.times[cell + 1], place - cell)


@torch.no_grad()
def fit_equal_error_grid(
    flow: ProbabilityFlow, latents: Tensor, times: Tensor, solver: Solver
) -> EqualErrorGrid:
    """Return the time grid on which all steps of a solver have equal errors.

    Args:
        flow: The flow, on its device.
        latents: Latents ``[n, D]`` in scaled eigenspace at the last time.
        times: Increasing times; only the first and the last are used.
        solver: A solver with fixed steps.

    Raises:
        UsageError: The solver is adaptive or a multistep method.
        DataError: The errors are not finite.
    """
    if solver.adaptive:
        raise UsageError(f"{solver.name} chooses its own step sizes: leave --disc=adapted out")
    if solver.multistep:
        raise UsageError(
            f"the errors of {solver.name} cancel on evenly spaced times, and adapted times "
            "increase these errors: give --disc=ifs"
        )
    first, last = float(times[0]), float(times[-1])
    even = torch.linspace(last, first, CELLS + 1, dtype=torch.float64, device=latents.device)
    errors = _errors_of_steps(flow, latents.double(), even, solver)
    density = errors.cpu() ** (1 / (solver.order + 1))
    if not density.isfinite().all():
        raise DataError(
            "the errors of the solver are NaN or infinite: integrate to a shorter time, or give "
            "--disc=ifs"
        )
    # For Gaussian data all errors are 0, and times are even.
    return EqualErrorGrid.from_density(even.flip(0).cpu(), density.flip(0), LEAST_DENSITY)


def _errors_of_steps(flow: ProbabilityFlow, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
    """Return RMS errors ``[S]`` of single steps between times ``[S + 1]``, from accurate states."""
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
) -> tuple[int, float]:
    """Return the smallest number of steps that is accurate in both directions, and its error.

    The error is the expected root mean square error of the scaled states at the end.

    Args:
        flow: The flow, on its device.
        latents: Latents ``[n, D]`` in scaled eigenspace at the last time of the grid.
        grid: Function from a number of steps to times.
        solver: A solver with fixed steps.
        tolerance: Largest acceptable root mean square error of the scaled states at the end.

    Raises:
        UsageError: The solver is adaptive, or the tolerance is not reached; the message gives the
            error that was reached.
    """
    if solver.adaptive:
        raise UsageError(
            f"{solver.name} chooses its own step sizes: give --rtol and --atol instead"
        )
    # Any points near the data are suitable.
    rk5 = SOLVERS["exp_rk5"]
    points = flow.to_data(*_end(flow, latents, grid(4 * FEWEST_STEPS), rk5, melts=False))

    def ends(steps: int) -> Tensor | None:
        try:
            generated, _ = _end(flow, latents, grid(steps), solver, melts=False)
            melted, _ = _end(flow, points, grid(steps), solver, melts=True)
        except DataError:  # steps too long for the solver, or for finite states
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
        f"--tol={tolerance:g} was not reached: the best error of {solver.name} is "
        f"{least:.1g}, with up to {MOST_STEPS} steps; give a larger --tol, another solver "
        "or a higher precision"
    )


def _between(steps: int, last: float, error: float, tolerance: float) -> tuple[int, float]:
    """Return a sufficient number of steps, above ``steps / 2``, and its expected error.

    Args:
        steps: Largest number of steps, whose error is below the tolerance.
        last: Error of half as many steps.
        error: Error of ``steps`` steps.
        tolerance: Acceptable error.
    """
    if last == inf or error <= 0:
        return steps, error
    power = log(last / error, 2)
    fewer = ceil(steps * (error / tolerance) ** (1 / power))
    chosen = min(max(fewer, steps // 2 + 1), steps)
    return chosen, error * (steps / chosen) ** power


def _end(
    flow: ProbabilityFlow, start: Tensor, times: Tensor, solver: Solver, *, melts: bool
) -> tuple[Tensor, Tensor]:
    """Return end states and end time for points of image space, or for latents."""
    simulate = flow.melt if melts else flow.generate
    trajectory = simulate(start, times.to(start), solver)
    return trajectory.end, trajectory.times[-1]
