"""Explicit steps with an exact inverse: two states coupled through a Runge-Kutta method.

With ``x(t + h) = x + P_h(t, x)`` the step of a method, the coupling of McCallum and Foster (2024,
*Efficient, accurate and stable gradients for neural ODEs*, section 3) is

    y' = lambda y + (1 - lambda) z + P_h(t, z),        z' = z - P_-h(t + h, y'),

which has a closed-form inverse for any h:

    z = z' + P_-h(t + h, y'),        y = (y' - (1 - lambda) z - P_h(t, z)) / lambda.

For the standardized variable, which removes the known linear part of the flow, it is the family of
Blasingame and Liu (2025, *Rex: reversible solvers for diffusion models*).

The state is the mean ``x = (y + z) / 2``. It is accompanied by the *gap* ``(y - z) / 2``, which
starts at zero. A method of odd order p makes opposite errors in y and z: they stay in the gap, and
the mean is of order p + 1. The inverse starts from both. Without the gap it is one more integration
that starts with a gap of zero, with the accuracy of its order.

The default of ``COUPLING`` is 1. A smaller lambda damps the gap, by lambda per step, but mixes its
error into the mean, and amplifies rounding errors of the inverse by ``1 / lambda`` per step. The
gap needs little damping here: it shrinks where the flow expands, and grows as ``exp(int |dv/dx|
dt)`` where the flow contracts. This growth is bounded by the ratio of the widths of noise and data.
Measurements are in docs/reference/solvers.md.
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from training.flow.solvers.explicit import Tableau, slopes_of, weighted_sum
from training.flow.solvers.solver import Method, PairMethod, Velocity

COUPLING = 1.0
"""Coupling lambda, above 0 and at most 1."""


def reversible(tableau: Tableau, coupling: float = COUPLING) -> PairMethod:
    """Return the reversible method that couples two states by a Runge-Kutta method.

    The method yields the mean of the two states, and their gap: half of their difference.

    Args:
        tableau: Coefficients of the Runge-Kutta method.
        coupling: Coupling lambda, above 0 and at most 1.
    """

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
    """Convert a method for pairs of states to a method for single states.

    The method starts from two equal states, and yields the mean of each pair.
    """

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        return (mean for mean, _ in pairs(v, x, None, times))

    return integrate
