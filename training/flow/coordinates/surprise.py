"""Surprise of an observation: how unlikely it is relative to simulations, in nats.

Conditions y ``[..., C]``, after powers for skewed ones and normal scores for those with long tails
(``conditions``), are whitened by the mean and covariance of the training conditions, ``r = W (y -
mean)``. If these were Gaussian, ``|r|^2 / 2`` would be the negative log density, up to a constant.
The *surprise* of an observation is its excess over the median simulation,

    surprise(y) = |r(y)|^2 / 2 - median of |r|^2 / 2 over simulations,

that is, how many nats less likely it is than a typical simulation. Conditions that are not inputs
of the flow do not count and have zero rows and columns in W. The exception is a condition with the
same value in all simulations, since no simulation shows the effect of another value. An observation
is *out of distribution* if its surprise exceeds that of 99.9 % of simulations. Quantiles use
leave-one-out distances: with d_i^2 the squared distance of row i of N from the mean of all rows,

    |r_i|^2 = N / (N - 1) * d_i^2 / (1 - d_i^2 / (N - 1))

is its distance under the mean and covariance of all other rows (by the formula of Sherman and
Morrison). Otherwise, with few rows and many conditions, training rows would appear closer to their
mean than new rows can be.

If conditions depend on each other, some axes have no variance. They get the variance
``LEAST_VARIANCE``, below which neither linear prediction nor network can separate standardized
conditions. An observation 0.001 standard deviations off such an axis has a surprise of 500 nats,
since no simulation lies there; a rounding error has none.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.flow.coordinates.conditions import LEAST_VARIANCE, require_width
from training.flow.eigenbasis import identity

MOST_CONDITIONS = 1024
"""Maximum number of conditions whose distribution network files store: 8 MB."""
LEVELS = (0.5, 0.9, 0.99, 0.999)
"""Levels of the quantiles; the first is the typical simulation, the last is the limit."""


class Surprise(nn.Module):
    """A Gaussian model of the simulated conditions, which detects unlikely observations.

    Args:
        count: C, the number of conditions.

    Attributes:
        mean: Mean of each condition ``[C]``, float64.
        whitening: Whitening matrix ``W [C, C]``, symmetric in standardized units.
        quantiles: Quantiles of ``|r|^2 / 2`` over simulations at the probabilities ``LEVELS``,
            where r are whitened conditions.
    """

    mean: Tensor
    whitening: Tensor
    quantiles: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("whitening", identity(count))
        self.register_buffer("quantiles", torch.zeros(len(LEVELS), dtype=torch.float64))

    def fit(self, conditions: Tensor, relevant: Sequence[int] = ()) -> "Surprise":
        """Fit the model to simulated conditions ``[N, C]``, and return the model itself.

        Args:
            conditions: Simulated conditions ``[N, C]``.
            relevant: Indices of the conditions that the surprise depends on, in addition to
                constant conditions; empty for all conditions.
        """
        y = conditions.double()
        mean, spread = y.mean(dim=0), y.std(dim=0, correction=0)
        # A constant condition is measured in units of its own size: it should not vary.
        size = torch.where(mean == 0, 1.0, mean.abs())
        varied = y.amax(dim=0) > y.amin(dim=0)
        unit = torch.where(varied, spread, size)
        counts = torch.ones_like(mean)
        if relevant:
            counts[varied] = 0
            counts[list(relevant)] = 1
        scaled = (y - mean) / unit * counts
        variance, axes = torch.linalg.eigh(scaled.T @ scaled / len(y))
        self.mean.copy_(mean)
        root = axes / variance.clamp_min(LEAST_VARIANCE).sqrt() @ axes.T
        self.whitening.copy_(counts[:, None] * root * (counts / unit))
        count = max(len(y) - 1, 1)
        squares = self.whitened(y).square().sum(dim=1)
        left = (1 - squares / count).clamp_min(LEAST_VARIANCE)
        alone = (1 + 1 / count) * squares / left / 2
        self.quantiles.copy_(torch.from_numpy(np.quantile(alone.numpy(), LEVELS)))
        return self

    def whitened(self, conditions: Tensor) -> Tensor:
        """Return the whitened conditions ``r [..., C]``, float64."""
        return (conditions.to(self.mean) - self.mean) @ self.whitening.T

    @property
    def covariance(self) -> Tensor:
        """Covariance ``[C, C]`` of the simulated conditions; 0 for conditions that are ignored."""
        precision = self.whitening.T @ self.whitening
        scale = precision.diagonal().sqrt()
        counts = scale > 0
        some = counts.nonzero()[:, 0]
        units = scale[some, None] * scale[some]
        covariance = torch.zeros_like(precision)
        covariance[counts[:, None] & counts] = (
            torch.linalg.inv(precision[some][:, some] / units) / units
        ).flatten()
        return covariance

    def forward(self, conditions: Tensor) -> Tensor:
        """Return the surprise ``[...]`` of conditions ``[..., C]``, in nats.

        The surprise is the log density of a typical simulation minus that of the conditions.

        Raises:
            DataError: The number of conditions is wrong.
        """
        require_width(conditions, len(self.mean))
        return self.whitened(conditions).square().sum(dim=-1) / 2 - self.quantiles[0]

    @property
    def limit(self) -> float:
        """Out-of-distribution limit: the surprise in nats that 1 in 1,000 simulations exceeds."""
        return float(self.quantiles[-1] - self.quantiles[0])

    def summary(self, nats: Tensor) -> dict[str, float]:
        """Return a summary, for result files, of the surprise ``[M]`` of M observations.

        Returns:
            The ``limit`` in nats, the ``largest`` surprise, and the number ``unlike`` of
            observations above the limit.
        """
        unlike = int((nats > self.limit).sum())
        return {"limit": self.limit, "largest": float(nats.max()), "unlike": unlike}

    def check(self) -> None:
        """Raise ValueError if the quantiles are negative or decrease."""
        if (self.quantiles < 0).any() or (self.quantiles.diff() < 0).any():
            raise ValueError(
                "the stored quantiles of the surprise of conditions decrease or are negative: "
                "restore the file from a copy"
            )
