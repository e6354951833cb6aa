"""A mixture of three Gaussians, for tests of what holds for any data: far cheaper than the toys."""

import torch
from torch import Tensor

from training.data.toys import GaussianMixture, Toy


class Bumps(Toy):
    """Three Gaussians in a few dimensions: as far from one Gaussian as a toy is.

    Args:
        dim: The number of dimensions.
    """

    def __init__(self, dim: int):
        self.name, self.dim = "bumps", dim
        generator = torch.Generator().manual_seed(dim)
        means = torch.randn(3, dim, generator=generator, dtype=torch.float64)
        weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        width, whole = torch.linspace(0.1, 0.3, dim).double(), torch.eye(dim).double()
        self.mixture = GaussianMixture(weights, means, torch.diag(width**2), whole)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        chosen = self.mixture.weights.multinomial(count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.mixture.means[chosen] + noise @ self.mixture.covariance.sqrt()
