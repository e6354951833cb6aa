"""Which of weighted draws to take, and how to temper their weights."""

import torch
from torch import Tensor

from training.measure.posterior.importance import effective_size

BISECTIONS = 40


def systematic(log_weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Numbers ``[M, count]`` of draws, each taken as often as its weight says, to within one.

    Systematic resampling: ``count`` even steps through the sum of the weights, from a random start.

    Args:
        log_weights: ``[M, P]``, in any normalization.
        uniform: The starts ``[M]``, in [0, 1).
        count: How many to take.
    """
    total = torch.softmax(log_weights, dim=1).cumsum(dim=1)
    steps = torch.arange(count, dtype=total.dtype, device=total.device)
    levels = (steps + uniform[:, None]) / count * total[:, -1:]
    return torch.searchsorted(total, levels, right=True).clamp_max(log_weights.shape[1] - 1)


def tempered(log_weights: Tensor, worth: int) -> Tensor:
    """Log weights ``[M, P]`` times the largest exponent, at most 1, at which they are worth so many
    draws."""
    most = torch.ones(len(log_weights), dtype=log_weights.dtype, device=log_weights.device)
    return largest_exponent(log_weights, most, worth)[:, None] * log_weights


def largest_exponent(log_weights: Tensor, most: Tensor, worth: float) -> Tensor:
    """The largest exponent ``[M]``, at most ``most``, at which weights are worth so many draws.

    Args:
        log_weights: ``[M, P]``.
        most: ``[M]``.
        worth: Effective size to keep.
    """
    low, high = torch.zeros_like(most), most.clone()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = effective_size(middle[:, None] * log_weights) >= worth
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    whole = effective_size(most[:, None] * log_weights) >= worth
    return torch.where(whole, most, high)
