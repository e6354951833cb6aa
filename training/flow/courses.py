"""Courses: solvers with their times, one way between the first time and the end time.

A network file has the cheapest for each use that was found good enough when its training ended
(``trials``); where nothing else is asked for, these are taken.
"""

from collections.abc import Callable
from dataclasses import replace
from math import isclose
from sys import intern
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.flow.solvers import SOLVERS, Solver
from training.flow.solvers.fitted import FITTED, fitted

NATS = 0.01
"""What log densities may be off by."""


GaussRule = Callable[[int], tuple[Tensor, Tensor]]
"""Of a number n, the nodes and weights ``[n]`` of a quadrature: see ``trials.gauss_rule``."""
AT_REST = "exp_ab2"
"""The solver of flows in which nothing moves: it takes one call."""


class Use(NamedTuple):
    """What a course is for.

    Attributes:
        melts: Whether it goes from points to latents.
        densities: Whether log densities are taken along.
        error: What states may be off by at its end, in standard deviations.
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
"""A first look at samples; points of samples and posteriors; these with their log densities; the
latents, and the log densities, of given points. In the order in which they are tried."""


class Course(nn.Module):
    """A solver and its times.

    Args:
        solver: ``fitted`` or a name in ``SOLVERS``.
        steps: Their number.
        dimensions: D.
        melts: Whether it goes from the first time to the end time; of what is fitted to one way.
        quadrature: Whether integrals along the way are sums over its times; a fitted method takes
            none otherwise.
        error: Of states at its end, in standard deviations, as measured.
        nats: Of log densities; None if they were not looked at.
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
        # One object for equal names, and names that no other part has: a file that is opened and
        # saved has the same bytes.
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
        """Of the constructor."""
        names = ("steps", "dimensions", "melts", "quadrature", "error", "nats")
        return {"solver": self.name, **{name: getattr(self, name) for name in names}}

    @property
    def solver(self) -> Solver:
        """The method; one that is fitted goes along these times alone."""
        integrals = self.integrals if self.quadrature else None
        if self.name == FITTED:
            return fitted(self.way, self.weights, integrals, self.dimensions)
        weights = None if integrals is None else integrals.tolist()
        return replace(SOLVERS[self.name], quadrature=weights)

    @property
    def way(self) -> Tensor:
        """The times in the order in which they are met."""
        return self.times if self.melts else self.times.flip(0)

    @property
    def calls(self) -> int:
        """Of the denoiser."""
        return self.steps * (1 if self._fitted else SOLVERS[self.name].calls_per_step or 1)

    @property
    def traces(self) -> int:
        """Of the Jacobian, where densities are taken along."""
        if self.quadrature:
            return len(self.integrals) - (0 if self._fitted else 2)
        known = None if self._fitted else SOLVERS[self.name].traces_per_step
        return self.calls if known is None else self.steps * known

    @property
    def _fitted(self) -> bool:
        """Whether the solver is the fitted method, which evaluates the network once a step."""
        return self.name == FITTED

    def spans(self, first: float, last: float) -> bool:
        """Whether it goes between these times."""
        ends = self.times[[0, -1]].tolist()
        return isclose(ends[0], first, rel_tol=1e-9) and isclose(ends[1], last, rel_tol=1e-9)

    def cost(self, use: Use) -> int:
        """Calls, and products for traces where the use takes these."""
        return self.calls + (self.traces * self.dimensions if use.densities else 0)

    def place(self, grid: Callable[[int], Tensor], rule: GaussRule | None = None) -> None:
        """Puts its times on a grid, by the number of steps; those of a quadrature at the nodes of a
        rule of Gauss, and at both ends of the grid, which count for nothing."""
        if self.name == FITTED or not self.quadrature:
            self.times.copy_(grid(self.steps))
            return
        assert rule is not None, "a quadrature goes by a rule"
        nodes, weights = rule(self.steps - 1)
        self.times[[0, -1]] = grid(1)
        self.times[1:-1] = nodes
        self.integrals.zero_()
        self.integrals[1:-1] = weights if self.melts else -weights.flip(0)

    def serves(self, use: Use) -> bool:
        """Whether its errors are small enough."""
        dense = not use.densities or self.nats is not None
        return dense and self.excess(use) <= 1

    def excess(self, use: Use) -> float:
        """The larger of its errors, as far as they were measured, in units of what may be."""
        nats = self.nats if use.densities and self.nats is not None else 0.0
        return max(self.error / use.error, nats / NATS)

    def check(self) -> None:
        """Raises ValueError unless it can be gone along."""
        if self.name not in (FITTED, *SOLVERS):
            raise ValueError(f"it has a course of '{self.name}', a solver that is not known")
        if any(buffer.dtype != torch.float64 for buffer in self.buffers()):
            raise ValueError("its courses are not in float64")
        if (self.times.diff() <= 0).any():
            raise ValueError("the times of its courses do not increase")


def courses_at_rest(first: float, last: float, dimensions: int) -> dict[str, Course]:
    """Courses between two times of a flow whose network is 0: standardized states stay where they
    are, so that one step is exact."""
    courses = {}
    for name, use in USES.items():
        courses[name] = Course(AT_REST, 1, dimensions, use.melts, nats=0.0)
        courses[name].times.copy_(torch.tensor([first, last], dtype=torch.float64))
    return courses
