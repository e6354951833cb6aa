"""The two-stage Gauss-Legendre method: order 4, and symmetric in time.

    k_i = v(x + h sum_j a_ij k_j, t + c_i h),        x(t + h) = x + h (k_1 + k_2) / 2,

with ``c = 1/2 -+ sqrt(3)/6`` and ``a`` as below (Hairer, Lubich and Wanner, *Geometric Numerical
Integration*, sections II.1 and V.2). A step over -h undoes a step over h: the map of states has the
method itself, run backwards, as its exact inverse, at any number of steps and with no hidden state
to carry along. What is left of a round trip is how well the equations for the ``k_i`` are solved.

They are solved by fixed-point iteration, started from the last step's ``k`` extended linearly. Each
sample stops on its own, once its ``k`` change by rounding errors only, so that it does not depend on
what else is in the batch. A step takes some 10 to 30 calls, the fewer the shorter it is, and many
more where the iteration hardly contracts.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.flow.solvers.solver import Velocity

ROOT = 3**0.5 / 6
NODES = (1 / 2 - ROOT, 1 / 2 + ROOT)
STAGES = ((1 / 4, 1 / 4 - ROOT), (1 / 4 + ROOT, 1 / 4))

TOLERANCE = 1e-15
"""Of the changes of a state in an iteration, in units of its size or of 1."""
ROUNDED = 1e-6
"""Rounding errors of float32 change a state by less."""
UNSOLVED = 1e-2
"""A last change above this is no rounding error, not even that of bfloat16."""
MAX_ITERATIONS = 500
PATIENCE, LONG_PATIENCE = 3, 10
"""Iterations without a smaller change until rounding errors are taken to be reached: the second
number where changes are above ``ROUNDED``, since they may also grow for a while before they fall."""


def gauss_legendre(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """States at ``times[1:]``.

    Raises:
        DataError: The iteration does not converge.
    """
    slopes: tuple[Tensor, Tensor] | None = None
    last_h = None
    for t, following in pairwise(times):
        h = following - t
        if slopes is None or last_h is None:
            first = v(x, t)
            guess = first, first
        else:
            guess = _extended(slopes, h / last_h)
        slopes = _solve(v, x, t, h, guess)
        last_h = h
        x = x + h * (slopes[0] + slopes[1]) / 2
        yield x


def _extended(slopes: tuple[Tensor, Tensor], ratio: Tensor) -> tuple[Tensor, Tensor]:
    """The line through the last step's stages at those of the next, ``ratio`` times as long."""
    early, late = slopes
    # In units of the last step, from its beginning.
    at = [(1 + ratio * node - NODES[0]) / (NODES[1] - NODES[0]) for node in NODES]
    return torch.lerp(early, late, at[0]), torch.lerp(early, late, at[1])


def _solve(
    v: Velocity, x: Tensor, t: Tensor, h: Tensor, guess: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The stages ``k_1, k_2 [B, D]``."""
    first, second = guess
    size = x.detach().abs().amax(dim=1).clamp(min=1)
    smallest = torch.full_like(size, torch.inf)
    stalled = torch.zeros_like(size)
    done = torch.zeros_like(size, dtype=torch.bool)
    for _ in range(MAX_ITERATIONS):
        early = v(x + h * (STAGES[0][0] * first + STAGES[0][1] * second), t + NODES[0] * h)
        early = torch.where(done[:, None], first, early)
        late = v(x + h * (STAGES[1][0] * early + STAGES[1][1] * second), t + NODES[1] * h)
        late = torch.where(done[:, None], second, late)
        moved = torch.maximum((early - first).abs(), (late - second).abs()).detach().amax(dim=1)
        change = h.abs() * moved / size
        first, second = early, late
        stalled = torch.where(change < smallest, 0, stalled + 1)
        smallest = torch.minimum(smallest, change)
        patience = torch.where(smallest <= ROUNDED, PATIENCE, LONG_PATIENCE)
        done = done | (change <= TOLERANCE) | (stalled >= patience)
        if done.all():
            break
    if not (done & (smallest <= UNSOLVED)).all():
        raise DataError(
            f"an implicit step at t = {float(t):g} of size {float(h.abs()):g} has no solution that "
            "the iteration finds: use more steps"
        )
    return first, second
