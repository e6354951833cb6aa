"""Observations of columns that are nonlinear functions of linear functions of the state.

Columns of tables are ``x_j = h_j(u_j)``, with ``u = c + B x_0`` linear in the state. An observed
value y_j with Gaussian noise has the likelihood ``L_j(u) = N(y_j; h_j(u), Sigma_jj)``. Its product
with the prior's Gaussian of u_j has a mean and a variance. Dividing the prior out of the Gaussian
with these moments leaves ``N(y'_j; u, R_j)``, which approximates the likelihood (one step of
expectation propagation; Minka 2001). The factor

    int L_j(u) N(u; m, v) du / int N(y'_j; u, R_j) N(u; m, v) du

corrects this approximation for each column separately, if u_j is about N(m, v). Values of columns
are measured from their centers c.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from training.inference.likelihoods import Gaussian
from training.inference.target import Target

POINTS, FARTHEST, ZOOMS = 201, 6.0, 4
"""Grid for the integrals: number of points, half-length in standard deviations, and how often the
grid is adapted to the width of the result.
"""
LEAST = 1e-3
"""Smallest fraction of the prior's precision that an observed value adds."""
TABLE, TINY, LARGEST = 601, 1e-300, 20.0
"""Number of points of the table of factors, smallest likelihood in it, and largest absolute log
factor.
"""


@dataclass(frozen=True)
class CurvedColumns:
    """Gaussian approximations of the likelihoods of nonlinearly transformed columns.

    Attributes:
        operator: Rows ``[K, D]`` of the linear map B for the K observed columns.
        observed: Pseudo-observations ``y' [M, K]``, the means of the Gaussians.
        variance: Variances ``R [M, K]`` of the pseudo-observations.
        line: Grid of G values of each column before its transform ``[K, G]``.
        log_likelihood: Log likelihoods on the grid ``[M, K, G]``.
    """

    operator: Tensor
    observed: Tensor
    variance: Tensor
    line: Tensor
    log_likelihood: Tensor

    @classmethod
    def from_target(cls, target: Target, likelihood: Gaussian) -> "CurvedColumns":
        """Approximate the likelihoods of observations that are noisy values of columns.

        Args:
            target: Posteriors of these observations.
            likelihood: Gaussian likelihood of the observations.
        """
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
        """Return the approximation for the observation with index ``place`` only."""
        one = slice(place, place + 1)
        of_one = (self.observed[one], self.variance[one], self.line, self.log_likelihood[one])
        return CurvedColumns(self.operator, *of_one)

    def log_factor(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the log product ``[M, N]`` of the columns' correction factors.

        Each factor is averaged over an uncertain, approximately normal value of the column.

        Args:
            mean: Means of the values ``[M, N, K]``.
            variance: Variances of the values ``[K]``.
        """
        line, step = self.line, self.line[:, 1] - self.line[:, 0]
        # If values vary by less than the grid spacing, sums over the grid do not approximate the
        # integrals.
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
        """Likelihoods on the grid ``[M, K, G]``, scaled to a maximum of 1."""
        return (self.log_likelihood - self.log_likelihood.amax(dim=2, keepdim=True)).exp()

    @cached_property
    def _offset(self) -> Tensor:
        """Constants ``[M, K, 1]`` that make the factor about 1 where the likelihood is largest.

        They do not depend on the likelihood's height, and are the same at all times, so that
        weights do not depend on them.
        """
        at = self.log_likelihood.argmax(dim=2, keepdim=True)
        apart = self.observed[..., None] - self.line.expand_as(self.log_likelihood).gather(2, at)
        variance = self.variance[..., None]
        return apart.square() / (2 * variance) + variance.log() / 2


class _Seen:
    """Likelihoods of M observations, as functions of K columns before their transforms."""

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
        """Return the log likelihoods of columns, up to a constant.

        Args:
            values: G values of each column before its transform, ``[G, M, K]``.
        """
        columns = self._center.expand(values[..., 0].numel(), -1).clone()
        columns[:, self._picks] += values.flatten(0, 1)
        prior = self._target.prior
        seen = self._likelihood.observe(prior.origin + self._bent(columns) / prior.unit)
        return -((seen.view_as(values) - self._target.observed) / self._noise).square() / 2

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the posterior mean and standard deviation of each column alone, ``[M, K]``."""
        line = _line(POINTS, self._target.device)
        std = self.scale.expand(self._target.count, -1)
        mean = torch.zeros_like(std)
        for _ in range(ZOOMS):
            values = mean + line * std
            weight = self.log_likelihood(values) - (values / self.scale).square() / 2
            weight = weight.softmax(dim=0)
            mean = (weight * values).sum(dim=0)
            # At least half a grid spacing, so that the next grid does not miss a mode between two
            # points.
            least = std * FARTHEST / (POINTS - 1)
            std = (weight * (values - mean).square()).sum(dim=0).sqrt().maximum(least)
        return mean, std


def _blurred(values: Tensor, step: Tensor, variance: Tensor) -> Tensor:
    """Return means of gridded values ``[M, K, G]`` under normal distributions around grid points.

    Args:
        values: Values on the grids.
        step: Spacing of the grids ``[K, 1]``.
        variance: Variances of the normal distributions ``[K, 1]``.
    """
    count = values.shape[2]
    apart = torch.arange(1 - count, count, dtype=step.dtype, device=step.device) * step
    density = (-apart.square() / (2 * variance)).exp()
    # Weights of a point are those of its neighbor, shifted by one: rows of a view of one array, if
    # the values are flipped.
    weights = density.unfold(1, count, 1)
    sums = torch.einsum("kgh,mkh->mkg", weights, values.flip(2))
    return sums / weights.sum(dim=2)


def _line(count: int, device: torch.device) -> Tensor:
    """Return a symmetric grid ``[count, 1, 1]``, in standard deviations."""
    place = torch.linspace(-FARTHEST, FARTHEST, count, dtype=torch.float64)
    return place.to(device)[:, None, None]
