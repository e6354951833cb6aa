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
    """Mean and covariance of a distribution of rows.

    Attributes:
        mean: Mean ``[C]``.
        gain: Inverse units ``[C]``, 0 for columns that do not count.
        variances: Variances along the axes, v ``[C]``, increasing.
        axes: Principal axes A ``[C, C]``.
    """

    mean: Tensor
    gain: Tensor
    variances: Tensor
    axes: Tensor

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor, noise: Tensor | None = None) -> "Cloud":
        """Build from a mean ``[C]`` and a covariance ``[C, C]``.

        Args:
            mean: Mean of the rows.
            covariance: Covariance of the rows, 0 for columns that do not count.
            noise: Standard deviations of noise ``[C]``, used as units; None to use those of the
                rows.
        """
        unit = covariance.diagonal().sqrt() if noise is None else noise
        gain = torch.where(unit > 0, 1 / unit, 0.0)
        variances, axes = torch.linalg.eigh(gain[:, None] * covariance * gain)
        return cls(mean, gain, variances.clamp_min(LEAST_VARIANCE), axes)

    def along(self, rows: Tensor) -> Tensor:
        """Return rows ``[N, C]`` in their units along the axes."""
        return (rows - self.mean) * self.gain @ self.axes

    def surprise(self, rows: Tensor) -> Tensor:
        """Return the surprise of rows ``[N]``, in nats."""
        return (self.along(rows).square() / self.variances).sum(dim=1) / 2

    def alone(self, rows: Tensor) -> Tensor:
        """Return the largest prediction error of a single value of each row, ``[N]``.

        Errors are in standard deviations.
        """
        scaled = self.along(rows) / self.variances @ self.axes.T
        return (scaled.abs() / (self.axes.square() / self.variances).sum(dim=1).sqrt()).amax(dim=1)

    def places(self, rows: Tensor) -> Tensor:
        """Return coordinates for distances ``[N, C]``.

        They are rotated back from the axes, whose signs are arbitrary, so that they do not depend
        on where they are computed.
        """
        return self.along(rows) * self.variances**-0.25 @ self.axes.T
