"""Posteriors that are known: Gaussian mixtures in closed form, and others by draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.inference.exact import ExactPosterior


class Mixture(ExactPosterior):
    """Gaussian mixtures of M observations."""

    def draws(self, count: int) -> Tensor:
        """``[M, S, D]``."""
        generator = torch.Generator().manual_seed(7)
        chosen = self.weights.multinomial(count, replacement=True, generator=generator)
        value, axes = torch.linalg.eigh(self.covariance)
        root = axes * value.clamp_min(0).sqrt()
        noise = torch.randn(*chosen.shape, len(root), generator=generator, dtype=torch.float64)
        centers = self.centers.gather(1, chosen[:, :, None].expand(-1, -1, len(root)))
        return centers + noise @ root.T

    def below_along(self, integrations: Tensor, values: Tensor) -> Tensor:
        """The posterior's share below values ``[M, S, W]`` along directions ``[W, D]``."""
        centers = self.centers @ integrations.T
        width = ((integrations @ self.covariance) * integrations).sum(dim=1).clamp_min(1e-30).sqrt()
        share = torch.zeros_like(values)
        for k in range(centers.shape[1]):
            below = torch.special.ndtr((values - centers[:, k, None]) / width)
            share += self.weights[:, k, None, None] * below
        return share


@dataclass(frozen=True)
class Drawn:
    """The same of draws ``points [M, S, D]``, as many as it takes to know a posterior by."""

    points: Tensor

    @property
    def mean(self) -> Tensor:
        return self.points.mean(dim=1)

    @property
    def std(self) -> Tensor:
        return self.points.std(dim=1)

    def draws(self, count: int) -> Tensor:
        """So many, spread evenly over all."""
        places = torch.linspace(0, self.points.shape[1] - 1, count).long()
        return self.points[:, places]

    def below(self, points: Tensor) -> Tensor:
        """The posterior's share below each coordinate of points ``[M, D]``, ``[M, D]``."""
        return (self.points < points[:, None]).double().mean(dim=1)

    def below_along(self, integrations: Tensor, values: Tensor) -> Tensor:
        """The posterior's share below values ``[M, S, W]`` along directions ``[W, D]``."""
        along = (self.points @ integrations.T).sort(dim=1).values.mT.contiguous()
        places = torch.searchsorted(along, values.mT.contiguous())
        return places.mT.double() / along.shape[2]
