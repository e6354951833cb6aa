"""Priors of small images whose posteriors are known, with their exact denoisers.

All are mixtures of Gaussians ``N(m_k, S)`` with one covariance, that of a Gaussian random field on
the pixels, ``S = exp(-distance / length)``; a field alone is a mixture of one. Noise of one
variance g in all pixels keeps the axes U of S, so that with ``S = U diag(s) U^T`` Tweedie's formula
is, along them,

    D(x) = x - g (x - m(x)) / (s + g),
    m(x) = sum_k softmax_k(log w_k - |x - m_k|^2 / 2 (s + g)) m_k.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.inverse.known import Mixture
from training import EigenBasis, InflationSchedule
from training.flow.pfode import ProbabilityFlow
from training.inference.likelihoods import Gaussian

GAMMA0 = 1e-4


@dataclass(frozen=True)
class Fields:
    """A mixture of Gaussian random fields.

    Attributes:
        shape: ``(C, H, W)``.
        weights: ``[K]``.
        means: ``[K, D]``.
        covariance: ``[D, D]``.
    """

    shape: tuple[int, int, int]
    weights: Tensor
    means: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, side: int, components: int) -> "Fields":
        """Standardized pixels on a square; the means of several components are fields too, and
        have three quarters of the variance."""
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
        field = (-torch.cdist(places, places) / (side / 2)).exp()
        dim, generator = side * side, torch.Generator().manual_seed(side + components)
        normal = torch.randn(components, dim, generator=generator, dtype=torch.float64)
        shares = torch.linspace(2, 1, components, dtype=torch.float64)
        if components == 1:
            return cls((1, side, side), shares / 2, torch.zeros_like(normal), field)
        smooth = (-torch.cdist(places, places) / side).exp()
        means = normal @ torch.linalg.cholesky(smooth).T
        return cls((1, side, side), shares / shares.sum(), 0.75**0.5 * means, field / 4)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.means
        apart = self.means - mean
        return mean, self.covariance + (self.weights[:, None] * apart).T @ apart

    def sample(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = self.weights.multinomial(count, replacement=True, generator=generator)
        noise = torch.randn(count, len(self.covariance), generator=generator, dtype=torch.float64)
        return self.means[chosen] + noise @ torch.linalg.cholesky(self.covariance).T

    def posterior(self, likelihood: Gaussian, observed: Tensor) -> Mixture:
        """That of points with the noise of the first time, as the flow has them."""
        blurred = self.covariance + GAMMA0 * torch.eye(len(self.covariance)).double()
        return Mixture.from_components(self.weights, self.means, blurred, likelihood, observed)

    @property
    def flow(self) -> ProbabilityFlow:
        """With the exact denoiser; all dimensions are kept."""
        basis, dim = EigenBasis.from_moments(*self.moments), len(self.covariance)
        top = basis.top_variance
        schedule = InflationSchedule.to_dimension(dim, dim, top_variance=top, gamma0=GAMMA0)
        return ProbabilityFlow(FieldDenoiser(self, basis, schedule), schedule, basis)


class FieldDenoiser(nn.Module):
    """The exact denoiser, of states ``[B, D]`` in eigenspace and a time ``[]``, in their dtype."""

    def __init__(self, fields: Fields, basis: EigenBasis, schedule: InflationSchedule):
        super().__init__()
        self.schedule = schedule
        variance, axes = torch.linalg.eigh(fields.covariance)
        self.log_weights, self.variance = fields.weights.log(), variance
        self.turn = basis.eigenvectors.T.double() @ axes
        self.means = (fields.means - basis.mean) @ axes

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        gamma = self.schedule.noise_variance(t.double()).reshape(-1)[0]
        turn, means = self.turn.to(x), self.means.to(x)
        states, precision = x @ turn, (1 / (self.variance + gamma)).to(x)
        # |x - m|^2 but for |x|^2, which is the same for all components.
        square = (means.square() @ precision) / 2 - (states * precision) @ means.T
        mean = (self.log_weights.to(x) - square).softmax(dim=1) @ means
        return x - (gamma.to(x) * precision * (states - mean)) @ turn.T
