"""Mixtures of four Gaussians with one covariance, with exact denoisers; nonlinear observations."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training import EigenBasis, InflationSchedule
from training.flow.denoisers import MixtureDenoiser
from training.flow.integration_choice import choose_integrations
from training.flow.pfode import ProbabilityFlow
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian, Likelihood

TRIED = 512
"""Number of trajectories from data, and from latents, that the integration schedules are fitted
to.
"""


@dataclass(frozen=True)
class Mixture:
    """Weights ``[K]``, means ``[K, D]`` and the covariance ``[D, D]`` of all components."""

    weights: Tensor
    means: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, dim: int, seed: int = 0) -> "Mixture":
        """Draw a mixture whose columns have variance 1."""
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn(4, dim, generator=generator, dtype=torch.float64)
        root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        whole = root @ root.T
        std = whole.diagonal().sqrt()
        correlation = whole / (std[:, None] * std) / 2 + torch.eye(dim, dtype=torch.float64) / 2
        weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
        made = cls(weights, means, 0.35**2 * correlation)
        std = made.moments[1].diagonal().sqrt()
        return cls(weights, made.means / std, made.covariance / (std[:, None] * std))

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.means
        apart = self.means - mean
        return mean, self.covariance + (self.weights[:, None] * apart).T @ apart

    def blurred(self, variance: float) -> "Mixture":
        """Return the mixture with added noise."""
        eye = torch.eye(len(self.covariance), dtype=torch.float64)
        return Mixture(self.weights, self.means, self.covariance + variance * eye)

    def posterior(self, likelihood: Gaussian, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return exact means and standard deviations ``[M, D]``."""
        parts = (self.weights, self.means, self.covariance)
        exact = ExactPosterior.from_components(*parts, likelihood, observed)
        return exact.mean, exact.std

    def sample(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = self.weights.multinomial(count, replacement=True, generator=generator)
        noise = torch.randn(count, len(self.covariance), generator=generator, dtype=torch.float64)
        return self.means[chosen] + noise @ torch.linalg.cholesky(self.covariance).T


def exact_flow(mixture: Mixture) -> ProbabilityFlow:
    """Return the flow of the exact denoiser, with the integration schedules of trained networks."""
    basis, dim = EigenBasis.from_moments(*mixture.moments), len(mixture.covariance)
    schedule = InflationSchedule.to_dimension(
        dim, dim, top_variance=basis.top_variance, gamma0=1e-4
    )
    parts = (mixture.weights, mixture.means, mixture.covariance, torch.eye(dim).double())
    flow = ProbabilityFlow(MixtureDenoiser(*parts, basis, schedule), schedule, basis)
    generator, first = torch.Generator().manual_seed(4), flow.times()[0]
    noisy = flow.to_eigen(mixture.sample(TRIED, 5)) + schedule.sample_noise(TRIED, first, generator)
    latents = flow.latent.sample(TRIED, generator)
    flow.integrations = choose_integrations(lambda _: flow, noisy, latents, steps=32)
    return flow


class Nonlinear(Likelihood):
    """A function of the point, observed with Gaussian noise."""

    def __init__(self, function: Callable[[Tensor], Tensor], noise: float):
        self.function, self.noise = function, noise

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        return -((observed[:, 0] - self.function(points)) / self.noise).square() / 2

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        values = self.function(points)
        noise = torch.randn(len(values), generator=generator, dtype=torch.float64)
        return (values + self.noise * noise)[:, None]

    def to(self, device: torch.device) -> "Nonlinear":
        return self


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "size": lambda points: points.square().mean(dim=1).sqrt(),
    "product": lambda points: points[:, 0] * points[:, 1],
}
