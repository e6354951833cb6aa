"""Integration schedules: a solver and its time grid from the first to the end time.

After training, a network file stores the cheapest accurate schedule for each use
(``integration_choice``). The stored schedule is the default if no solver or times are requested.
"""

from collections.abc import Callable
from dataclasses import replace
from math import isclose
from sys import intern
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.flow.solvers import FITTED, SOLVERS, Solver, fitted

NATS = 0.01
"""Acceptable error of log densities, in nats."""


GaussRule = Callable[[int], tuple[Tensor, Tensor]]
"""Function from n to the n nodes and weights of a quadrature: ``integration_errors.gauss_rule``."""
AT_REST = "exp_ab2"
"""Solver for flows whose standardized states are constant; it takes one network evaluation."""


class Use(NamedTuple):
    """Requirements of one use of integration schedules, for example drawing samples.

    Attributes:
        melts: Whether the integration runs from points to latents rather than from latents to
            points.
        densities: Whether log densities are integrated too.
        error: Acceptable error of the final states, in standard deviations.
    """

    melts: bool
    densities: bool
    error: float


USES = {
    "look": Use(False, False, 1e-2),
    "points": Use(False, False, 1e-3),
    "points_and_densities": Use(False, True, 1e-3),
    "latents": Use(True, False, 1e-3),
    "densities": Use(True, True, 3e-3),
}
"""Uses of integration schedules, in the order in which schedules are tried.

They are a first look at samples, points of samples and posteriors, points with their log densities,
latents of given points, and log densities of given points.
"""


class Integration(nn.Module):
    """An integration schedule: a solver and its times.

    Args:
        solver: ``fitted`` or a name in ``SOLVERS``.
        steps: Number of steps.
        dimensions: D, the dimension of states.
        melts: Whether the integration runs from points to latents rather than from latents to
            points. A fitted method runs in one direction only.
        quadrature: Whether integrals along a trajectory are weighted sums over the schedule's
            times. A fitted method computes integrals in this way only.
        error: Measured error of the final states, in standard deviations.
        nats: Measured error of log densities, in nats; None if not measured.

    Attributes:
        times: Increasing times ``[steps + 1]``.
        weights: Weights ``[steps, steps]`` of the slopes in each step of a fitted method.
        integrals: Weights of the values at the schedule's times in integrals along a trajectory.
    """

    times: Tensor
    weights: Tensor
    integrals: Tensor

    def __init__(
        self,
        solver: str,
        steps: int,
        dimensions: int,
        melts: bool,
        quadrature: bool = False,
        error: float = 0.0,
        nats: float | None = None,
    ):
        super().__init__()
        # Equal names share one object, distinct from the names of other parts, so that a file that
        # is opened and saved keeps the same bytes.
        self.name, self.steps, self.dimensions = intern(solver), steps, dimensions
        self.melts, self.quadrature, self.error, self.nats = melts, quadrature, error, nats
        sizes: dict[str, tuple[int, ...]] = {"times": (steps + 1,)}
        if solver == FITTED:
            sizes["weights"] = (steps, steps)
        if quadrature:
            sizes["integrals"] = (steps + (solver != FITTED),)
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @property
    def arguments(self) -> dict[str, str | int | float | None]:
        """Arguments of the constructor that reproduce this schedule without its times."""
        names = ("steps", "dimensions", "melts", "quadrature", "error", "nats")
        return {"solver": self.name, **{name: getattr(self, name) for name in names}}

    @property
    def solver(self) -> Solver:
        """Solver of the schedule; a fitted solver works for the schedule's times only."""
        integrals = self.integrals if self.quadrature else None
        if self.name == FITTED:
            return fitted(self.way, self.weights, integrals, self.dimensions)
        weights = None if integrals is None else integrals.tolist()
        return replace(SOLVERS[self.name], quadrature=weights)

    @property
    def way(self) -> Tensor:
        """Times ``[steps + 1]`` in the order of integration, decreasing toward data."""
        return self.times if self.melts else self.times.flip(0)

    @property
    def calls(self) -> int:
        """Number of network evaluations (NFE) of the integration; one a step of a fitted method."""
        return self.steps * (1 if self.name == FITTED else SOLVERS[self.name].calls_per_step or 1)

    @property
    def traces(self) -> int:
        """Number of traces of the Jacobian that an integration of log densities takes."""
        if self.quadrature:
            return len(self.integrals) - (0 if self.name == FITTED else 2)
        known = None if self.name == FITTED else SOLVERS[self.name].traces_per_step
        return self.calls if known is None else self.steps * known

    def spans(self, first: float, last: float) -> bool:
        """Return whether the times of the schedule start at ``first`` and end at ``last``."""
        ends = self.times[[0, -1]].tolist()
        return isclose(ends[0], first, rel_tol=1e-9) and isclose(ends[1], last, rel_tol=1e-9)

    def cost(self, use: Use) -> int:
        """Return the number of network evaluations, plus vector-Jacobian products for densities."""
        return self.calls + (self.traces * self.dimensions if use.densities else 0)

    def place(self, grid: Callable[[int], Tensor], rule: GaussRule | None = None) -> None:
        """Set the times of the schedule from a grid, or from a quadrature rule.

        Args:
            grid: Function from a number of steps to increasing times.
            rule: Gauss rule, which gives the inner times and their weights in a quadrature; the
                first and the last time have weight 0. None for schedules without quadrature.
        """
        if self.name == FITTED or not self.quadrature:
            self.times.copy_(grid(self.steps))
            return
        assert rule is not None, "a quadrature needs an integration rule"
        nodes, weights = rule(self.steps - 1)
        self.times[[0, -1]] = grid(1)
        self.times[1:-1] = nodes
        self.integrals.zero_()
        self.integrals[1:-1] = weights if self.melts else -weights.flip(0)

    def serves(self, use: Use) -> bool:
        """Return whether the measured errors of the schedule are small enough for a use."""
        dense = not use.densities or self.nats is not None
        return dense and self.excess(use) <= 1

    def excess(self, use: Use) -> float:
        """Return the largest measured error as a multiple of the tolerance of a use."""
        nats = self.nats if use.densities and self.nats is not None else 0.0
        return max(self.error / use.error, nats / NATS)

    def check(self) -> None:
        """Raise ValueError if the solver is unknown, or arrays or times are invalid."""
        if self.name not in (FITTED, *SOLVERS):
            raise ValueError(
                f"an integration schedule has '{self.name}', an unknown solver: update the code"
            )
        if any(buffer.dtype != torch.float64 for buffer in self.buffers()):
            raise ValueError(
                "the stored arrays of an integration schedule are not float64: restore the file "
                "from a copy"
            )
        if (self.times.diff() <= 0).any():
            raise ValueError(
                "the stored times of an integration schedule are not increasing: restore the file "
                "from a copy"
            )


def trivial_integrations(first: float, last: float, dimensions: int) -> dict[str, Integration]:
    """Return the integration schedules of each use for a flow whose network output is 0.

    Standardized states are then constant, so that one step is exact.

    Args:
        first: First time of the flow.
        last: End time of the flow.
        dimensions: D, the dimension of states.
    """
    integrations = {}
    for name, use in USES.items():
        integrations[name] = Integration(AT_REST, 1, dimensions, use.melts, nats=0.0)
        integrations[name].times.copy_(torch.tensor([first, last], dtype=torch.float64))
    return integrations
