"""Observations of columns that are curved functions of what is linear in a state.

The columns of tables are ``x_j = h_j(u_j)``, with ``u = c + B x_0`` linear in the state. A number
y_j that is seen with Gaussian noise has the likelihood ``L_j(u) = N(y_j; h_j(u), Sigma_jj)`` of its
column. Times the prior's Gaussian of u_j it has a mean and a variance; the Gaussian ``N(y'_j; u,
R_j)`` that is left when the prior's is divided out stands for it (one step of expectation
propagation; Minka 2001). What it leaves out of each column by itself is put back by the factor

    int L_j(u) N(u; m, v) du / int N(y'_j; u, R_j) N(u; m, v) du,

if u_j is about N(m, v). Values of columns are counted from their centers c.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from training.inference.likelihoods import Gaussian
from training.inference.target import Target

POINTS, FARTHEST, ZOOMS = 201, 6.0, 4
"""Of a line that means are taken on: its points, its half-length in standard deviations, and how
often it is laid again, about as long as the result."""
LEAST = 1e-3
"""Of the prior's precision, that a number seen adds at least."""
TABLE, TINY, LARGEST = 601, 1e-300, 20.0
"""Points of the table of factors, the smallest likelihood in it, and its largest logarithm."""


@dataclass(frozen=True)
class CurvedColumns:
    """What is seen of columns, and the Gaussians that stand for it.

    Attributes:
        operator: Rows of B of the columns seen ``[K, D]``.
        observed: y' ``[M, K]``.
        variance: R ``[M, K]``.
        line: Values of each column ``[K, G]``.
        log_likelihood: There ``[M, K, G]``.
    """

    operator: Tensor
    observed: Tensor
    variance: Tensor
    line: Tensor
    log_likelihood: Tensor

    @classmethod
    def of(cls, target: Target, likelihood: Gaussian) -> "CurvedColumns":
        """Those of the target's observations, which are of coordinates."""
        seen = _Seen(target, likelihood)
        mean, std = seen.moments()
        prior = seen.scale**-2
        precision = std**-2 - prior
        known = precision > LEAST * prior
        precision = torch.where(known, precision, LEAST * prior)
        observed = torch.where(known, mean / (std.square() * precision), mean)
        line = _line(TABLE, target.device) * seen.scale
        log_likelihood = seen.log_likelihood(line.expand(-1, target.count, -1)).permute(1, 2, 0)
        return cls(seen.operator, observed, 1 / precision, line[:, 0].T, log_likelihood)

    def alone(self, place: int) -> "CurvedColumns":
        """Those of one observation."""
        one = slice(place, place + 1)
        of_one = (self.observed[one], self.variance[one], self.line, self.log_likelihood[one])
        return CurvedColumns(self.operator, *of_one)

    def log_factor(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Logarithms ``[M, N]`` of the product of factors, for values that are about normal, of
        means ``[M, N, K]`` and variances ``[K]``."""
        line, step = self.line, self.line[:, 1] - self.line[:, 0]
        # Where they vary by less than a step of the line, sums over it are no integrals.
        spread = variance.maximum(step.square())[:, None]
        mixed = _blurred(self._likelihood, step[:, None], spread)
        whole = self.variance[..., None] + spread
        stands = -(self.observed[..., None] - line).square() / (2 * whole) - whole.log() / 2
        table = mixed.clamp_min(TINY).log() - stands - self._offset
        table = table.clamp(-LARGEST, LARGEST).mT.to(mean).contiguous()
        place = ((mean - line[:, 0].to(mean)) / step.to(mean)).clamp_(0, line.shape[1] - 1.001)
        below = place.long()
        part = place.sub_(below)
        low, high = table.gather(1, below), table.gather(1, below.add_(1))
        return low.lerp_(high, part).sum(dim=2)

    @cached_property
    def _likelihood(self) -> Tensor:
        """``[M, K, G]``, of largest 1."""
        return (self.log_likelihood - self.log_likelihood.amax(dim=2, keepdim=True)).exp()

    @cached_property
    def _offset(self) -> Tensor:
        """What makes the factor about 1 at the center of the line ``[M, K, 1]``, whatever the
        likelihood's height: the same at all times, so that weights do not notice."""
        at = self.log_likelihood.argmax(dim=2, keepdim=True)
        apart = self.observed[..., None] - self.line.expand_as(self.log_likelihood).gather(2, at)
        variance = self.variance[..., None]
        return apart.square() / (2 * variance) + variance.log() / 2


class _Seen:
    """Numbers seen, as functions of values of their columns."""

    def __init__(self, target: Target, likelihood: Gaussian):
        self._target, self._likelihood = target, likelihood
        flow, device = target.prior.flow, target.device
        assert flow.coordinates is not None
        self._bent = flow.coordinates.bent
        unit = torch.eye(flow.basis.dim, dtype=torch.float64, device=device)
        self._center = flow.coordinates.to_columns(flow.basis.from_eigen(0 * unit[:1]))
        whole = flow.coordinates.to_columns(flow.basis.from_eigen(unit)) - self._center
        self._picks = likelihood.observe(torch.arange(len(unit), device=device)[None])[0]
        self.operator = whole.T[self._picks]
        variance = flow.noisy_variance(target.prior.times[0]).double()
        self.scale = (self.operator.square() @ variance).sqrt()
        """Standard deviations of values under the prior ``[K]``."""
        self._noise = likelihood.covariance_root(len(self._picks)).norm(dim=1)

    def log_likelihood(self, values: Tensor) -> Tensor:
        """Of values ``[G, M, K]``, each by itself, but for a constant."""
        columns = self._center.expand(values[..., 0].numel(), -1).clone()
        columns[:, self._picks] += values.flatten(0, 1)
        prior = self._target.prior
        seen = self._likelihood.observe(prior.origin + self._bent(columns) / prior.unit)
        return -((seen.view_as(values) - self._target.observed) / self._noise).square() / 2

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations ``[M, K]`` of likelihood times prior."""
        line = _line(POINTS, self._target.device)
        std = self.scale.expand(self._target.count, -1)
        mean = torch.zeros_like(std)
        for _ in range(ZOOMS):
            values = mean + line * std
            weight = self.log_likelihood(values) - (values / self.scale).square() / 2
            weight = weight.softmax(dim=0)
            mean = (weight * values).sum(dim=0)
            # Not below half a step, lest the next line miss what lies between two points.
            least = std * FARTHEST / (POINTS - 1)
            std = (weight * (values - mean).square()).sum(dim=0).sqrt().maximum(least)
        return mean, std


def _blurred(values: Tensor, step: Tensor, variance: Tensor) -> Tensor:
    """Means of values ``[M, K, G]`` on lines, their points ``step [K, 1]`` apart, over the normal
    distribution of ``variance [K, 1]`` around each point."""
    count = values.shape[2]
    apart = torch.arange(1 - count, count, dtype=step.dtype, device=step.device) * step
    density = (-apart.square() / (2 * variance)).exp()
    # A point's weights are the last one's, moved by one: rows of a view, if values are turned.
    weights = density.unfold(1, count, 1)
    sums = torch.einsum("kgh,mkh->mkg", weights, values.flip(2))
    return sums / weights.sum(dim=2)


def _line(count: int, device: torch.device) -> Tensor:
    """``[count, 1, 1]``, in standard deviations."""
    place = torch.linspace(-FARTHEST, FARTHEST, count, dtype=torch.float64)
    return place.to(device)[:, None, None]
