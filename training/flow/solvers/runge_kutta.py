"""Explicit Runge-Kutta methods of given steps, each a Butcher tableau.

    k_i = v(x + h sum_j a_ij k_j, t + c_i h),        x(t + h) = x + h sum_i b_i k_i

(Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, section II.1).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from training.flow.solvers.solver import Method, Velocity, Widened


class Tableau(NamedTuple):
    """Coefficients of a method.

    Attributes:
        nodes: ``c``, where in the step each stage is.
        stages: ``a``, rows of increasing length; that of the first stage is empty.
        weights: ``b``.
        error: ``b - b_hat``, the difference to an embedded method; empty if there is none.
    """

    nodes: Sequence[float]
    stages: Sequence[Sequence[float]]
    weights: Sequence[float]
    error: Sequence[float] = ()

    @property
    def counts(self) -> list[bool]:
        """Whether each stage has a weight of its own, or leads to other stages alone."""
        error = self.error or self.weights
        return [bool(b or e) for b, e in zip(self.weights, error, strict=False)]


EULER = Tableau(nodes=(0,), stages=((),), weights=(1,))
HEUN = Tableau(nodes=(0, 1), stages=((), (1,)), weights=(1 / 2, 1 / 2))
RK4 = Tableau(
    nodes=(0, 1 / 2, 1 / 2, 1),
    stages=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
CASH_KARP = Tableau(
    nodes=(0, 1 / 5, 3 / 10, 3 / 5, 1, 7 / 8),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (3 / 10, -9 / 10, 6 / 5),
        (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
        (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
    ),
    weights=(37 / 378, 0, 250 / 621, 125 / 594, 0, 512 / 1771),
)
"""Cash and Karp 1990, *A variable order Runge-Kutta method*: order 5, and tame at long steps."""
DORMAND_PRINCE = Tableau(
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    # The last entry is for the velocity at the end of the step, the first of the next one.
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Dormand and Prince 1980, *A family of embedded Runge-Kutta formulae*: order 5 (4)."""


def weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``sum_i w_i k_i``, without the terms of no weight; not all may be."""
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return sum(terms[1:], start=terms[0])


def slopes_of(
    tableau: Tableau, v: Velocity, x: Tensor, t: Tensor, h: Tensor, first: Tensor | None = None
) -> list[Tensor]:
    """The stages ``k_i [B, D]`` of a step from ``x [B, D]`` at t, ``[]`` or ``[B]``, over h.

    Args:
        tableau: The method.
        v: The velocity.
        x: Where the step begins.
        t: When.
        h: Its size.
        first: ``v(x, t)``, if it is known already.
    """
    slopes = [v(x, t) if first is None else first]
    light = v.alone if isinstance(v, Widened) else v
    for node, row, counts in zip(
        tableau.nodes[1:], tableau.stages[1:], tableau.counts[1:], strict=True
    ):
        stage = v if counts else light
        slopes.append(stage(x + h[..., None] * weighted_sum(row, slopes), t + node * h))
    return slopes


def runge_kutta(tableau: Tableau) -> Method:
    """The method of a tableau, one step between neighboring times."""

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        for t, following in pairwise(times):
            h = following - t
            slopes = slopes_of(tableau, v, x, t, h)
            x = x + h * weighted_sum(tableau.weights, slopes)
            yield x

    return integrate
