"""Explicit steps with an exact inverse: two states coupled through a Runge-Kutta method.

With ``x(t + h) = x + P_h(t, x)`` the step of a method, the coupling of McCallum and Foster (2024,
*Efficient, accurate and stable gradients for neural ODEs*, section 3) is

    y' = lambda y + (1 - lambda) z + P_h(t, z),        z' = z - P_-h(t + h, y'),

which is undone in closed form, whatever h is:

    z = z' + P_-h(t + h, y'),        y = (y' - (1 - lambda) z - P_h(t, z)) / lambda.

Around the standardized variable, in which the known linear part of the flow is gone, it is the
family of Blasingame and Liu (2025, *Rex: reversible solvers for diffusion models*).

The state is the mean ``x = (y + z) / 2``, and with it goes the *gap* ``(y - z) / 2``, which starts
at zero. A method of odd order p makes opposite errors in y and z: they stay in the gap, and the
mean is of order p + 1. The way back starts from both. Without the gap it is one more integration
that starts at zero, and as exact as its order.

Why ``COUPLING`` is 1: a smaller lambda damps the gap, by lambda a step, but mixes its error into
the mean, and multiplies rounding errors on the way back by ``1 / lambda`` a step. The gap needs
little damping here: it shrinks where the flow expands, and grows as ``exp(int |dv/dx| dt)`` where
that contracts, which is bounded by how much narrower the data are than the noise. See
docs/solvers.md for what was measured.
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from training.flow.solvers.explicit import Tableau, slopes_of, weighted_sum
from training.flow.solvers.solver import Method, PairMethod, Velocity

COUPLING = 1.0
"""lambda, above 0 and at most 1."""


def reversible(tableau: Tableau, coupling: float = COUPLING) -> PairMethod:
    """The coupled steps of a method of a single state, or what undoes them; the coupling is
    lambda."""

    def change(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        return h * weighted_sum(tableau.weights, slopes_of(tableau, v, x, t, h))

    def there(v: Velocity, x: Tensor, times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        y = z = x
        for t, following in pairwise(times):
            h = following - t
            y = coupling * y + (1 - coupling) * z + change(v, z, t, h)
            z = z - change(v, y, following, -h)
            yield (y + z) / 2, (y - z) / 2

    def back(v: Velocity, x: Tensor, gap: Tensor, times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        y, z = x + gap, x - gap
        for t, before in pairwise(times):
            h = t - before
            z = z + change(v, y, t, -h)
            y = (y - (1 - coupling) * z - change(v, z, before, h)) / coupling
            yield (y + z) / 2, (y - z) / 2

    def integrate(
        v: Velocity, x: Tensor, gap: Tensor | None, times: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return there(v, x, times) if gap is None else back(v, x, gap, times)

    return integrate


def without_gap(pairs: PairMethod) -> Method:
    """The method that starts both states at one, and gives their means."""

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        return (mean for mean, _ in pairs(v, x, None, times))

    return integrate
