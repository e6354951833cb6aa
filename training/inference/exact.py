"""Exact posterior of a Gaussian mixture under a linear Gaussian likelihood, again a mixture.

With ``x ~ sum_k w_k N(m_k, S)`` and observations ``y = A x + n``, ``n ~ N(0, Sigma)``,

    x | y ~ sum_k r_k N(m_k + G (y - A m_k), S - G A S),     G = S A^T (A S A^T + Sigma)^-1,

where ``r_k`` is proportional to ``w_k N(y; A m_k, A S A^T + Sigma)`` (Bishop 2006, section 2.3.3,
for each component).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from training.inference.likelihoods import Gaussian


@dataclass(frozen=True)
class ExactPosterior:
    """Exact posteriors of M observations: Gaussian mixtures whose components share one covariance.

    Attributes:
        weights: Weights of the components, ``r [M, K]``, which sum to 1.
        centers: Means of the components ``[M, K, D]``.
        covariance: Covariance of each component ``[D, D]``.

    Example:
        >>> prior = torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2).double()
        >>> seen = torch.tensor([[1.0, -2.0]]).double()
        >>> ExactPosterior.from_components(*prior, Gaussian(torch.tensor(1.0)), seen).mean.tolist()
        [[0.5, -1.0]]
    """

    weights: Tensor
    centers: Tensor
    covariance: Tensor

    @classmethod
    def from_components(
        cls,
        weights: Tensor,
        means: Tensor,
        covariance: Tensor,
        likelihood: Gaussian,
        observed: Tensor,
    ) -> Self:
        """Compute the exact posterior of each observation under a Gaussian mixture prior.

        Args:
            weights: Weights of the prior's components ``[K]``.
            means: Means of the prior's components ``[K, D]``.
            covariance: Covariance ``[D, D]`` shared by the prior's components, possibly singular.
            likelihood: Likelihood of the observations.
            observed: Observations ``[M, N]``.
        """
        seen = likelihood.observe(torch.eye(len(covariance), dtype=torch.float64)).T
        predicted = seen @ covariance @ seen.T + likelihood.covariance(len(seen))
        gain = torch.linalg.solve(predicted, seen @ covariance).T
        apart = observed[:, None] - means @ seen.T
        distance = (apart @ torch.linalg.inv(predicted) * apart).sum(dim=2)
        share = (weights.log() - distance / 2).softmax(dim=1)
        return cls(share, means + apart @ gain.T, covariance - gain @ seen @ covariance)

    @property
    def mean(self) -> Tensor:
        """Posterior means ``[M, D]``."""
        return (self.weights[:, :, None] * self.centers).sum(dim=1)

    @property
    def std(self) -> Tensor:
        """Posterior standard deviations of the coordinates ``[M, D]``."""
        apart = (self.centers - self.mean[:, None]).square()
        between = (self.weights[:, :, None] * apart).sum(dim=1)
        return (between + self.covariance.diagonal()).sqrt()

    def below(self, points: Tensor) -> Tensor:
        """Return the marginal posterior distribution functions ``[M, D]`` at points ``[M, D]``."""
        width = self.covariance.diagonal().sqrt()
        parts = torch.special.ndtr((points[:, None] - self.centers) / width)
        return (self.weights[:, :, None] * parts).sum(dim=1)
