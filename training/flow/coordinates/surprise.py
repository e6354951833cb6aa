"""How unlike the simulations an observation is, in nats.

Conditions y ``[..., C]``, after powers of skewed ones and normal scores of those with long tails
(``conditions``), are whitened by the mean and covariance of those that a flow was trained on,
``r = W (y - mean)``. Were these Gaussian, ``|r|^2 / 2`` would be minus their log density, up to a
constant. An observation's *surprise* is what it has of this beyond the median simulation,

    surprise(y) = |r(y)|^2 / 2 - median of |r|^2 / 2 over simulations:

so many nats less likely it is than a typical one. Conditions that a flow does not see do not count,
and have rows and columns of zeros in W, unless all simulations had the same there: none tells what
another value does. It is *unlike* the simulations if that is more than 99.9 % of them have.
Quantiles are of rows left out one by one: with d_i^2 the squared distance of row i of N from the
mean of all,

    |r_i|^2 = N / (N - 1) * d_i^2 / (1 - d_i^2 / (N - 1))

is its distance by the mean and covariance of all others (by Sherman and Morrison's formula), so
that few rows of many conditions do not seem nearer to their mean than a new one can be.

Where conditions depend on each other there are axes without any variance. They are given
``LEAST_VARIANCE``, below which neither linear prediction nor network can tell standardized
conditions apart: an observation 0.001 standard deviations off such an axis has 500 nats, as it does
what no simulation did, and one that is off by rounding has none.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from training.flow.coordinates.conditions import LEAST_VARIANCE, require_width
from training.flow.eigenbasis import identity

MOST_CONDITIONS = 1024
"""Up to which network files hold where they lie: 8 MB."""
LEVELS = (0.5, 0.9, 0.99, 0.999)
"""Of the quantiles; the first is a typical simulation's, the last the limit."""


class Surprise(nn.Module):
    """Where simulated conditions lie.

    Args:
        count: C.

    Attributes:
        mean: ``[C]``, float64.
        whitening: W ``[C, C]``, symmetric in standardized units.
        quantiles: Of ``|r|^2 / 2`` over simulations, at ``LEVELS``.
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
        """Takes the place of simulated conditions ``[N, C]``, of which those count that are
        relevant or did not vary, or all; returns itself."""
        y = conditions.double()
        mean, spread = y.mean(dim=0), y.std(dim=0, correction=0)
        # A condition that did not vary is measured by its own size, and then ought not to vary.
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
        """``r [..., C]``, float64."""
        return (conditions.to(self.mean) - self.mean) @ self.whitening.T

    @property
    def covariance(self) -> Tensor:
        """Of the simulations ``[C, C]``; 0 of conditions that do not count."""
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
        """The surprise of conditions ``[..., C]``, in nats. Raises DataError if they are of another
        number."""
        require_width(conditions, len(self.mean))
        return self.whitened(conditions).square().sum(dim=-1) / 2 - self.quantiles[0]

    @property
    def limit(self) -> float:
        """The surprise that one simulation of a thousand has."""
        return float(self.quantiles[-1] - self.quantiles[0])

    def summary(self, nats: Tensor) -> dict[str, float]:
        """What results say of the surprise of observations ``[M]``."""
        unlike = int((nats > self.limit).sum())
        return {"limit": self.limit, "largest": float(nats.max()), "unlike": unlike}

    def check(self) -> None:
        """Raises ValueError if the quantiles are none."""
        if (self.quantiles < 0).any() or (self.quantiles.diff() < 0).any():
            raise ValueError("quantiles of how unlike conditions are each other do not rise")
