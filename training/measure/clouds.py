"""Position of rows relative to a distribution with known mean and covariance.

Let z be the difference of a row y ``[C]`` from the mean, in units of the standard deviations or of
the noise, with the covariance ``R = A diag(v) A^T``.

surprise    ``z^T R^-1 z / 2``, minus a Gaussian's log density up to a constant
alone       ``max_j |(R^-1 z)_j| / sqrt((R^-1)_jj)``, the largest error of a value predicted
            linearly from all others, in standard deviations of such errors (Lauritzen 1996,
            section 5.1)
places      ``R^(-1/4) z``, coordinates for distances: a compromise between z, where a few wide
            directions dominate, and whitened values, where directions of pure noise dominate
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.flow.coordinates.conditions import LEAST_VARIANCE


@dataclass(frozen=True, eq=False)
class Cloud:
    """Mean and covariance of a distribution of rows, for measuring how unusual new rows are.

    Attributes:
        mean: Mean of each column ``[C]``.
        gain: Inverse unit of each column ``[C]``, 0 for ignored columns.
        variances: Variances along the axes, v ``[C]``, increasing.
        axes: Principal axes A ``[C, C]``.
    """

    mean: Tensor
    gain: Tensor
    variances: Tensor
    axes: Tensor

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor, noise: Tensor | None = None) -> "Cloud":
        """Create a cloud from the moments of rows.

        Args:
            mean: Mean of the rows ``[C]``.
            covariance: Covariance of the rows ``[C, C]``, 0 for columns to be ignored.
            noise: Standard deviations of the noise in each column ``[C]``, used as units; None to
                use the standard deviations of the rows.
        """
        unit = covariance.diagonal().sqrt() if noise is None else noise
        gain = torch.where(unit > 0, 1 / unit, 0.0)
        variances, axes = torch.linalg.eigh(gain[:, None] * covariance * gain)
        return cls(mean, gain, variances.clamp_min(LEAST_VARIANCE), axes)

    def along(self, rows: Tensor) -> Tensor:
        """Return the coordinates ``[N, C]`` of scaled rows ``[N, C]`` along the principal axes."""
        return (rows - self.mean) * self.gain @ self.axes

    def surprise(self, rows: Tensor) -> Tensor:
        """Return half of the squared Mahalanobis distance of each row, ``[N]``.

        The result is minus the Gaussian log density of the row up to a constant, in nats.

        Args:
            rows: Rows ``[N, C]``.
        """
        return (self.along(rows).square() / self.variances).sum(dim=1) / 2

    def alone(self, rows: Tensor) -> Tensor:
        """Predict each value of a row linearly from its other values; return the largest error.

        Args:
            rows: Rows ``[N, C]``.

        Returns:
            Errors ``[N]``, in units of the standard deviation of the prediction error.
        """
        scaled = self.along(rows) / self.variances @ self.axes.T
        return (scaled.abs() / (self.axes.square() / self.variances).sum(dim=1).sqrt()).amax(dim=1)

    def places(self, rows: Tensor) -> Tensor:
        """Return half-whitened coordinates ``[N, C]`` of rows, for distances between rows.

        Coordinates along the principal axes are divided by the fourth root of the variances. They
        are then rotated back: the signs of the axes are arbitrary and differ between machines.

        Args:
            rows: Rows ``[N, C]``.
        """
        return self.along(rows) * self.variances**-0.25 @ self.axes.T
