"""Where numbers lie among others, by the mean and covariance of these.

With rows y ``[C]`` in units of their standard deviations, or of their noise, as z, and their
covariance ``R = A diag(v) A^T``,

surprise    ``z^T R^-1 z / 2``, minus a Gaussian's log density up to a constant
alone       ``max_j |(R^-1 z)_j| / sqrt((R^-1)_jj)``, the largest error of a number that all others
            foretell linearly, in standard deviations of such errors (Lauritzen 1996, section 5.1)
places      ``R^(-1/4) z``, in which distances are taken: half way between z, of which a few wide
            directions drown all others, and whitened numbers, in which directions of nothing but
            noise do
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.flow.coordinates.conditions import LEAST_VARIANCE


@dataclass(frozen=True, eq=False)
class Cloud:
    """A mean and a covariance.

    Attributes:
        mean: ``[C]``.
        gain: One over the units ``[C]``, 0 of numbers that do not count.
        variances: v ``[C]``, rising.
        axes: A ``[C, C]``.
    """

    mean: Tensor
    gain: Tensor
    variances: Tensor
    axes: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor, noise: Tensor | None = None) -> "Cloud":
        """That of a mean ``[C]`` and a covariance ``[C, C]``, 0 of what does not count, in units of
        the standard deviations of noise ``[C]``, if it is known."""
        unit = covariance.diagonal().sqrt() if noise is None else noise
        gain = torch.where(unit > 0, 1 / unit, 0.0)
        variances, axes = torch.linalg.eigh(gain[:, None] * covariance * gain)
        return cls(mean, gain, variances.clamp_min(LEAST_VARIANCE), axes)

    def along(self, rows: Tensor) -> Tensor:
        """Rows ``[N, C]`` in their units along the axes."""
        return (rows - self.mean) * self.gain @ self.axes

    def surprise(self, rows: Tensor) -> Tensor:
        """``[N]``, in nats."""
        return (self.along(rows).square() / self.variances).sum(dim=1) / 2

    def alone(self, rows: Tensor) -> Tensor:
        """``[N]``, in standard deviations."""
        scaled = self.along(rows) / self.variances @ self.axes.T
        return (scaled.abs() / (self.axes.square() / self.variances).sum(dim=1).sqrt()).amax(dim=1)

    def places(self, rows: Tensor) -> Tensor:
        """``[N, C]``, the same wherever they are computed: not along the axes, whose signs are
        any, but turned back."""
        return self.along(rows) * self.variances**-0.25 @ self.axes.T
