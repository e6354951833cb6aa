"""The continuous ranked probability score: how far draws are from truths, in their own units.

    CRPS = E|X - x| - E|X - X'| / 2

for independent draws X, X' and the truth x (Gneiting and Raftery 2007). Small is good, and on
average the right posterior has the least. The mean difference of S draws in order is

    E|X - X'| = 2 / (S (S - 1)) sum_i (2 i - S - 1) x_(i)

without the pairs of a draw with itself, so that the score is that of the law of the draws,
whatever their number (the *fair* score; Ferro 2014).
"""

import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.measure.posterior.ranks import require_runs


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """The score ``[R, ...]`` of draws ``[R, S, ...]`` and truths ``[R, ...]``, float64.

    Raises:
        DataError: Of other shapes, NaN, or one draw a run.
    """
    require_runs(draws, truth)
    count = draws.shape[1]
    if count < 2:
        raise DataError("one draw has no spread to score: it needs at least two a run")
    ordered = draws.double().sort(dim=1).values
    index = torch.arange(1, count + 1, dtype=torch.float64, device=draws.device)
    weight = (2 * index - count - 1) / (count * (count - 1))
    half_spread = torch.einsum("s,rs...->r...", weight, ordered)
    return (ordered - truth[:, None]).abs().mean(dim=1) - half_spread
