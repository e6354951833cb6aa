"""Distances between two sets of features: Frechet distance and kernel distance.

The Frechet distance is that of two Gaussians, from streamed moments:

    d^2 = |m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1^{1/2} C2 C1^{1/2})^{1/2}

(Dowson and Landau 1982). On Inception features it is the FID (Heusel et al. 2017, eq. 6).

For factors ``C1 = A1 A1^T`` and ``C2 = A2 A2^T`` the last trace is the sum of the singular values
of ``A1^T A2``, and is computed in that way. Eigenvalues of the product have errors of eps times the
largest. Few images in many dimensions leave many zero eigenvalues, and the square root would turn
each error into sqrt(eps). Singular values have errors of eps themselves, and directions of zero
variance, up to rounding, are left out of a covariance's factor.

The kernel distance is an unbiased estimate of a squared MMD:

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
    k(x, y) = (x . y / d + 1)^3

(Gretton et al. 2012, eq. 3). On Inception features it is the KID of Binkowski et al. (2018). As it
is unbiased for any number of images, it may be negative for sets that are close.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.distributed import sum_over_ranks

SYMMETRY_TOLERANCE = 1e-6
"""Largest asymmetry of a covariance, in units of its largest entry; float32 has about 1e-7."""
NEGATIVE_TOLERANCE = 1e-3
"""Largest negative eigenvalue, in units of the largest: rounding in float32 leaves less."""


@dataclass(frozen=True)
class Moments:
    """Moments of a set of features, in float64.

    Attributes:
        count: Number of features.
        mean: Mean ``[d]``.
        covariance: Unbiased covariance ``[d, d]``.
    """

    count: int
    mean: Tensor
    covariance: Tensor


class FeatureStatistics:
    """Streaming computation of the moments of features in d dimensions.

    Memory holds ``d x d`` numbers, but not the features. Sums are taken in float64 relative to the
    mean of the first batch, since squares far from the origin would lose the digits that determine
    a covariance.

    Args:
        dim: d, the number of dimensions.
        device: Device of the sums.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        self._count = 0
        self._shift = torch.zeros(dim, dtype=torch.float64, device=device)
        self._total = torch.zeros_like(self._shift)
        self._square = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def add(self, features: Tensor) -> None:
        """Add a batch of features ``[n, d]``."""
        if len(features) == 0:
            return
        if self._count == 0:
            self._shift = features.double().mean(dim=0)
        centered = features.double() - self._shift
        self._count += len(features)
        self._total += centered.sum(dim=0)
        self._square.addmm_(centered.T, centered)

    def moments(self) -> Moments:
        """Return the moments of all features on all ranks, on every rank.

        Some ranks may have no features.

        Raises:
            DataError: There are fewer than two features, or a value is not finite.
        """
        count = int(sum_over_ranks(torch.tensor(self._count, device=self._shift.device)))
        if count < 2:
            raise DataError(f"{count} images or points have no covariance: give at least two")
        offset = self._total / max(self._count, 1)
        own_mean = self._shift + offset
        mean = sum_over_ranks(self._count * own_mean) / count
        # Squares of each rank are about its own mean; add those of the ranks' means about the
        # overall mean.
        apart = own_mean - mean
        square = self._square - self._count * offset.outer(offset)
        square = sum_over_ranks(square + self._count * apart.outer(apart))
        covariance = (square + square.T) / (2 * (count - 1))
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise DataError("the features have values that are not finite: check the images")
        return Moments(count, mean, covariance)


def require_moments(mean: Tensor, covariance: Tensor, name: str) -> None:
    """Check a mean ``[d]`` and a covariance ``[d, d]``, up to rounding in float32.

    Args:
        mean: Mean, which must be finite.
        covariance: Covariance, which must be finite, symmetric and without negative eigenvalues.
        name: Name of the distribution in error messages.

    Raises:
        DataError: The mean or the covariance is invalid.
    """
    _require_symmetric(mean, covariance, name)
    _require_not_negative(torch.linalg.eigvalsh(covariance.double()), name)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Return the squared Frechet distance of two Gaussians.

    Covariances may be singular. The distance is not negative, and 0 up to rounding for equal
    Gaussians.

    Args:
        mean1: Mean of the first Gaussian ``[d]``.
        cov1: Covariance of the first Gaussian ``[d, d]``.
        mean2: Mean of the second Gaussian ``[d]``.
        cov2: Covariance of the second Gaussian ``[d, d]``.

    Raises:
        DataError: A covariance is not symmetric and positive semidefinite, a value is not finite,
            or the dimensions differ.
    """
    _require_symmetric(mean1, cov1, "the first Gaussian")
    _require_symmetric(mean2, cov2, "the second Gaussian")
    if mean1.shape != mean2.shape:
        raise DataError(
            f"Gaussians of {len(mean1)} and {len(mean2)} dimensions cannot be compared: use "
            "one detector"
        )
    first, second = _factor(cov1, "the first Gaussian"), _factor(cov2, "the second Gaussian")
    overlap = torch.linalg.svdvals(first.T @ second).sum()
    shift = (mean1.double() - mean2.double()).square().sum()
    return max(0.0, float(shift + first.square().sum() + second.square().sum() - 2 * overlap))


def _factor(covariance: Tensor, name: str) -> Tensor:
    """Return ``A [d, r]`` in float64 with ``A A^T`` the covariance ``[d, d]``.

    The number r is its numerical rank.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    _require_not_negative(values, name)
    # A covariance has no negative eigenvalues: the lowest one bounds the accuracy of the others.
    noise = torch.maximum(len(values) * torch.finfo(torch.float64).eps * values[-1], -values[0])
    kept = values > noise
    return vectors[:, kept] * values[kept].sqrt()


def _require_symmetric(mean: Tensor, covariance: Tensor, name: str) -> None:
    dim = mean.numel()
    if mean.ndim != 1 or dim == 0 or covariance.shape != (dim, dim):
        raise DataError(
            f"{name} has a mean of shape {list(mean.shape)} and a covariance of shape "
            f"{list(covariance.shape)}: expected [d] and [d, d]"
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DataError(f"{name} has a mean or covariance that is not finite: compute it again")
    asymmetry = (covariance - covariance.T).abs().max()
    if asymmetry > SYMMETRY_TOLERANCE * covariance.abs().max():
        raise DataError(
            f"{name} has a covariance that is not symmetric: its transpose differs by "
            f"{float(asymmetry):.3g}: compute it again"
        )


def _require_not_negative(eigenvalues: Tensor, name: str) -> None:
    lowest, highest = float(eigenvalues[0]), float(eigenvalues[-1])
    if lowest < -NEGATIVE_TOLERANCE * max(highest, 0.0):
        raise DataError(
            f"{name} has a covariance with the negative eigenvalue {lowest:.3g} (the "
            f"largest is {highest:.3g}): compute it again"
        )


BLOCK = 2048
SUBSETS, SUBSET_SIZE = 100, 1000


@dataclass(frozen=True)
class SubsetDistances:
    """Kernel distances between random subsets of two sets of features.

    Attributes:
        mean: Mean distance over pairs of subsets.
        std: Standard deviation of the distance over pairs of subsets.
        subsets: Number of pairs of subsets.
        size: Number of features in each subset.
    """

    mean: float
    std: float
    subsets: int
    size: int


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Return the kernel distance (KID) between two sets of features, computed in float64.

    The kernel matrices ``[n, m]`` are never stored as a whole.

    Args:
        first: Features ``[n, d]`` of the first set.
        second: Features ``[m, d]`` of the second set.

    Raises:
        DataError: A set has fewer than two features, dimensions differ, or a value is not finite.
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
    """Measure how the kernel distance (KID) varies over random subsets of features.

    A subset has ``min(size, n, m)`` features of each set. If the subset is the whole set, the
    distance does not vary, and the standard deviation has no meaning.

    Args:
        first: Features ``[n, d]`` of the first set.
        second: Features ``[m, d]`` of the second set.
        generator: Generator on the CPU, which draws each subset without repetition.
        subsets: Number of pairs of subsets.
        size: Number of features in a subset.

    Raises:
        DataError: A set has fewer than two features, dimensions differ, or a value is not finite.
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
                f"features have shape {list(features.shape)}: expected [images, dimensions], with "
                "at least two images"
            )
        if not features.isfinite().all():
            raise DataError("some features are not finite: check the images or points")
    if len({features.shape[1] for features in sets}) > 1:
        dims = " and ".join(str(features.shape[1]) for features in sets)
        raise DataError(f"features have {dims} dimensions: use one detector for both sets")


def _mean_of_pairs(features: Tensor) -> float:
    """Return the mean of ``k(x_i, x_j)`` over ``i != j``."""
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
