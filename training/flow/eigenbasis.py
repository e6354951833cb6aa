"""The eigenbasis of the data: ``e = W^T (u - mu)``, with variances ``xi`` in decreasing order."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dnnlib.errors import DataError
from torch_utils.distributed import sum_over_ranks


class EigenBasis(nn.Module):
    """The eigenbasis of the data: mean, principal axes and variances, as buffers in float64.

    Args:
        mean: Mean ``mu [D]`` of the data.
        eigenvalues: Variances ``xi [D]`` along the axes, in decreasing order, not negative.
        eigenvectors: Axes ``W [D, D]``, orthonormal columns in the order of the eigenvalues.
    """

    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, mean: Tensor, eigenvalues: Tensor, eigenvectors: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.double())
        self.register_buffer("eigenvalues", eigenvalues.double())
        self.register_buffer("eigenvectors", eigenvectors.double())
        self._kept: tuple[Tensor, dict[torch.dtype, Tensor] | None] | None = None  # see _axes
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Return the dimension and the participation ratio, as text for ``repr``."""
        return f"dim={self.dim}, participation_ratio={self.participation_ratio:.4g}"

    @property
    def dim(self) -> int:
        """Dimension D of the data."""
        return len(self.mean)

    @property
    def top_variance(self) -> float:
        """Largest data variance ``xi*``."""
        return float(self.eigenvalues[0])

    @classmethod
    def standard(cls, dim: int, variance: float = 1.0) -> "EigenBasis":
        """Return the basis for mean 0 and equal variances, whose axes are the coordinate axes."""
        ones = torch.ones(dim, dtype=torch.float64)
        return cls(0 * ones, variance * ones, ones.diag())

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> "EigenBasis":
        """Return the basis of data with a given mean ``[D]`` and covariance ``[D, D]``.

        The sign of each axis makes its largest component positive, so that the same data has the
        same coordinates on every machine.

        Raises:
            DataError: The moments are not finite, or the data does not vary.
        """
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise DataError(
                "the data contain non-finite values: no eigenbasis exists, so remove these values"
            )
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance.double())
        eigenvalues, eigenvectors = eigenvalues.flip(0).clamp(min=0), eigenvectors.flip(1)
        if eigenvalues[0] <= 0:
            raise DataError("the data are constant: no eigenbasis exists, so give data that vary")
        largest = eigenvectors.abs().argmax(dim=0, keepdim=True)
        return cls(mean, eigenvalues, eigenvectors * eigenvectors.gather(0, largest).sign())

    @classmethod
    def fit(cls, batches: Iterable[Tensor]) -> "EigenBasis":
        """Fit the basis to batches of points ``[n, D]`` in one pass, storing a ``D x D`` matrix.

        Sums are taken in float64 about the first batch's mean. With a process group the sums are
        over all ranks, and each rank streams its own shard.

        Raises:
            DataError: There are fewer than two points, or values do not vary or are not finite.
        """
        sums: _Sums | None = None
        for batch in batches:
            points = batch.double().flatten(1)
            if sums is None:
                sums = _Sums(points)
            sums.add(points)
        if sums is None:
            raise DataError("there are no points to fit an eigenbasis to: give at least two")
        return cls.from_moments(*sums.moments())

    @property
    def participation_ratio(self) -> float:
        """Participation ratio ``(sum xi)^2 / sum xi^2``, an effective dimension."""
        return float(self.eigenvalues.sum() ** 2 / (self.eigenvalues**2).sum())

    def describe(self) -> str:
        """Return the first eight variances and the participation ratio as text."""
        head = ", ".join(f"{value:.4g}" for value in self.eigenvalues[:8].tolist())
        more = ", ..." if self.dim > 8 else ""
        ratio = self.participation_ratio
        return f"Variances {head}{more}; participation ratio {ratio:.4g} of {self.dim}"

    def covariance(self) -> Tensor:
        """Return the covariance ``W diag(xi) W^T [D, D]`` of the data."""
        return (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T

    def floored_variance(self) -> Tensor:
        """Return the variances ``xi [D]``, raised to at least a millionth of the largest variance.

        A constant pixel, for example, has the variance 0.
        """
        return self.eigenvalues.clamp(min=1e-6 * self.top_variance)

    def second_moments(self, batches: Iterable[Tensor]) -> Tensor:
        """Return the mean squares ``[D]``, along the axes, of the points of all ranks.

        Args:
            batches: Batches ``[n, D]`` of points in image space.
        """
        total, count = torch.zeros_like(self.mean), self.mean.new_zeros(1)
        for batch in batches:
            total += self.to_eigen(batch.to(self.mean.device)).square().sum(dim=0)
            count += len(batch)
        sums = sum_over_ranks(torch.cat([total, count]))
        return sums[:-1] / sums[-1]

    def to_eigen(self, points: Tensor) -> Tensor:
        """Map points ``[..., D]`` from image space to eigenspace."""
        return (points.to(self.mean.dtype) - self.mean) @ self.eigenvectors

    def from_eigen(self, points: Tensor) -> Tensor:
        """Map points ``[..., D]`` from eigenspace to image space."""
        return self.rotate_back(points) + self.mean

    def rotate_back(self, vectors: Tensor) -> Tensor:
        """Rotate differences of points ``[..., D]`` from eigenspace to image space.

        The mean is not added.
        """
        axes = self._axes(vectors.dtype)
        return vectors if axes is None else vectors @ axes.T

    def rotate(self, vectors: Tensor) -> Tensor:
        """Rotate differences of points ``[..., D]`` from image space to eigenspace."""
        axes = self._axes(vectors.dtype)
        return vectors if axes is None else vectors @ axes

    def _axes(self, dtype: torch.dtype) -> Tensor | None:
        """Return W in a dtype, or None if W is the identity, as for tables.

        The result is cached, since training needs it twice a step.
        """
        if self._kept is None or self._kept[0] is not self.eigenvectors:
            axes = self.eigenvectors
            # For meta tensors and subclasses of Tensor the values are unknown: assume a rotation.
            known = type(axes) is Tensor and not axes.is_meta
            turns = not known or not torch.equal(axes, identity(self.dim).to(axes))
            self._kept = axes, {} if turns else None
        rounded = self._kept[1]
        if rounded is not None and dtype not in rounded:
            with torch.inference_mode(False):  # inference tensors block gradients
                rounded[dtype] = self.eigenvectors.to(dtype)
        return None if rounded is None else rounded[dtype]


def identity(dim: int) -> Tensor:
    """Return the identity matrix ``[dim, dim]``, float64.

    On the meta device ``torch.eye`` imports the compiler, which takes a second.
    """
    return torch.zeros(dim, dim, dtype=torch.float64).fill_diagonal_(1)


def _forget(basis: nn.Module, keys: object) -> None:
    assert isinstance(basis, EigenBasis)
    basis._kept = None


class _Sums:
    """Running sums for a mean and a covariance, about a point near the mean for accuracy."""

    def __init__(self, first: Tensor):
        self.shift = first.mean(dim=0)
        if dist.is_initialized():
            dist.broadcast(self.shift, src=0)
        self.count = torch.zeros_like(self.shift[0])
        self.total = torch.zeros_like(self.shift)
        self.square = torch.zeros_like(self.shift.outer(self.shift))

    def add(self, points: Tensor) -> None:
        centered = points - self.shift
        self.count += len(points)
        self.total += centered.sum(dim=0)
        self.square.addmm_(centered.T, centered)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean ``[D]`` and covariance ``[D, D]`` of all points on all ranks."""
        for sums in (self.count, self.total, self.square):
            sum_over_ranks(sums)
        if self.count < 2:
            raise DataError(
                "one point has no covariance: give at least two points for an eigenbasis"
            )
        offset = self.total / self.count
        return self.shift + offset, self.square / self.count - offset.outer(offset)
