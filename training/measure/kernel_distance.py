"""The kernel distance of two sets of features: an unbiased estimate of a squared MMD.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = (x . y / d + 1)^3

(Gretton et al. 2012, eq. 3). On Inception features it is the KID of Binkowski et al. (2018). Being
unbiased at any number of images, it may fall below zero for sets that are close.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.errors import DataError

BLOCK = 2048
SUBSETS, SUBSET_SIZE = 100, 1000


@dataclass(frozen=True)
class SubsetDistances:
    """Mean and standard deviation of the distance over pairs of random subsets of one size."""

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The distance between all features ``[n, d]`` and ``[m, d]``, in float64.

    Memory does not grow with n and m beyond the features themselves.

    Raises:
        DataError: Fewer than two in a set, sets of different dimensions, or values not finite.
    """
    _require_features(first, second)
    cross = _kernel_sum(first, second) / (len(first) * len(second))
    return _mean_of_pairs(first) + _mean_of_pairs(second) - 2 * cross


def subset_distances(
    first: Tensor,
    second: Tensor,
    generator: torch.Generator,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
) -> SubsetDistances:
    """How the distance varies over random subsets of ``min(size, n, m)`` features of each set.

    Where a subset is the whole set it does not vary, and the standard deviation tells nothing.

    Args:
        first, second: ``[n, d]`` and ``[m, d]``.
        generator: Generator on the CPU, which draws each subset without repetition.
        subsets: Number of pairs of subsets.
        size: Number of features in a subset, or all if there are fewer.

    Raises:
        DataError: As ``kernel_distance``.
    """
    _require_features(first, second)
    size = min(size, len(first), len(second))

    def draw(features: Tensor) -> Tensor:
        chosen = torch.randperm(len(features), generator=generator)[:size]
        return features[chosen.to(features.device)]

    distances = [kernel_distance(draw(first), draw(second)) for _ in range(subsets)]
    values = torch.tensor(distances, dtype=torch.float64)
    return SubsetDistances(float(values.mean()), float(values.std(correction=0)), subsets, size)


def _require_features(*sets: Tensor) -> None:
    for features in sets:
        if features.ndim != 2 or len(features) < 2:
            raise DataError(
                f"features of shape {list(features.shape)} have no kernel distance: they should be "
                "[n, d] with n at least 2"
            )
        if not features.isfinite().all():
            raise DataError("features that are not finite have no kernel distance")
    if len({features.shape[1] for features in sets}) > 1:
        dims = " and ".join(str(features.shape[1]) for features in sets)
        raise DataError(f"features of {dims} dimensions have no kernel distance")


def _mean_of_pairs(features: Tensor) -> float:
    """The mean of ``k(x_i, x_j)`` over ``i != j``."""
    count = len(features)
    itself = sum(
        float(_kernel(part.double().square().sum(dim=1), features.shape[1]).sum())
        for part in torch.split(features, BLOCK)
    )
    return (_kernel_sum(features, features) - itself) / (count * (count - 1))


def _kernel_sum(first: Tensor, second: Tensor) -> float:
    total = 0.0
    for rows in torch.split(first, BLOCK):
        doubled = rows.double()
        for columns in torch.split(second, BLOCK):
            total += float(_kernel(doubled @ columns.double().T, first.shape[1]).sum())
    return total


def _kernel(products: Tensor, dim: int) -> Tensor:
    return (products / dim + 1) ** 3
