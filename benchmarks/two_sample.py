"""Distance between two sets of samples, without assumptions on their distributions."""

import torch
from torch import Tensor

CHUNK = 2048


def energy_distance(first: Tensor, second: Tensor) -> float:
    """The energy distance of two samples ``[n, D]`` and ``[m, D]`` (Szekely and Rizzo 2013).

    ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` over all pairs, a point with itself included. So it is
    never negative, 0 for equal sets, and about ``E|X - X'| (1/n + 1/m)`` for samples of one law.
    """
    cross = mean_distance(first, second)
    return 2 * cross - mean_distance(first, first) - mean_distance(second, second)


def mean_distance(first: Tensor, second: Tensor) -> float:
    """Mean Euclidean distance over all pairs; memory grows with one set, not with both."""
    rows = torch.split(first.double(), CHUNK)
    second = second.double()
    # Differences rather than a matrix product: close points would lose their digits.
    exactly = "donot_use_mm_for_euclid_dist"
    total = sum(torch.cdist(part, second, compute_mode=exactly).sum() for part in rows)
    return float(total) / (len(first) * len(second))
