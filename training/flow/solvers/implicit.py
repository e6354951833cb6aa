"""The two-stage Gauss-Legendre method: order 4, and symmetric in time.

    k_i = v(x + h sum_j a_ij k_j, t + c_i h),        x(t + h) = x + h (k_1 + k_2) / 2,

with ``c = 1/2 -+ sqrt(3)/6`` and ``a`` as below (Hairer, Lubich and Wanner, *Geometric Numerical
Integration*, sections II.1 and V.2). A step over -h undoes a step over h: the map of states has the
method itself, run backwards, as its exact inverse, at any number of steps and with no hidden state
to carry along. What is left of a round trip is how well the equations for the ``k_i`` are solved.

They are solved by fixed-point iteration, started from the last step's ``k`` extended linearly. Each
sample stops on its own, once its ``k`` change by rounding errors only, so that it does not depend
on what else is in the batch. A step takes some 10 to 30 calls, the fewer the shorter it is, and
many more where the iteration hardly contracts. Where it does not, steps are so long that the
equations may have several solutions, and a round trip need not be one.
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
TURNS, MANY_TURNS = 3, 12
"""Changes that turned up or down so often since the smallest one are rounding errors: the second
number where that one is above ``ROUNDED``, since many dimensions may swing while they contract."""
UNSOLVED = 1e-2
"""Changes above this are no rounding errors, not even those of bfloat16."""
MAX_ITERATIONS = 300


def gauss_legendre(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """States at ``times[1:]``. Raises DataError if the iteration does not converge."""
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
    first, second = solved = guess
    size = x.detach().abs().amax(dim=1).clamp(min=1)
    progress = _Progress(size)
    for _ in range(MAX_ITERATIONS):
        early = v(x + h * (STAGES[0][0] * first + STAGES[0][1] * second), t + NODES[0] * h)
        late = v(x + h * (STAGES[1][0] * early + STAGES[1][1] * second), t + NODES[1] * h)
        moved = torch.maximum((early - first).abs(), (late - second).abs()).detach().amax(dim=1)
        best = progress.is_best(h.abs() * moved / size)[:, None]
        solved = torch.where(best, early, solved[0]), torch.where(best, late, solved[1])
        first, second = early, late
        if progress.done.all() or progress.failed.any():
            break
    if not progress.done.all() or progress.failed.any():
        raise DataError(
            f"an implicit step at t = {float(t):g} of size {float(h.abs()):g} has no solution that "
            "the iteration finds: use more steps, or check the weights"
        )
    return solved


class _Progress:
    """How the iteration of each sample goes, as its changes tell.

    They fall where it contracts, and grow where its solution repels it; either may take a turn.
    Rounding errors go up and down.

    Attributes:
        done: ``[B]``, what has come to rest.
        failed: ``[B]``, what of it has not come to rest at a solution.
    """

    def __init__(self, like: Tensor):
        self._smallest = self._last = torch.full_like(like, torch.inf)
        self._rising = self.done = self.failed = torch.zeros_like(like, dtype=torch.bool)
        self._turns = torch.zeros_like(like)

    def is_best(self, change: Tensor) -> Tensor:
        """Takes the next changes ``[B]``: are they the smallest, of samples not done before?"""
        best = (change < self._smallest) & ~self.done
        rising = change > self._last
        turned = (rising != self._rising) | (change == self._last)
        self._smallest = torch.where(best, change, self._smallest)
        self._turns = torch.where(best, 0, self._turns + turned)
        self._last, self._rising = change, rising
        enough = torch.where(self._smallest <= ROUNDED, TURNS, MANY_TURNS)
        resting = (change <= TOLERANCE) | (self._turns >= enough) | ~change.isfinite()
        self.failed = self.failed | (resting & ~(change <= UNSOLVED) & ~self.done)
        self.done = self.done | resting
        return best
