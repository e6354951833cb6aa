"""Base distributions of latents.

Latents are the states of the scaled variable at the last time T, in eigenspace. They have mean zero
and uncorrelated dimensions, and dimension i has the variance

    s(T)^2 (xi_i + gamma_i(T)),

exactly, whatever the data: the *closed form*. A base distribution approximates the distribution of
latents. It is either

- a Gaussian with independent dimensions, whose variances are the closed form, those of observed
  latents, or the numbers in the paper's tables;
- or a *learned* distribution, in which compressed dimensions depend on the kept ones
  (``conditional``).

Each base distribution can *whiten* latents: map them one-to-one to standard normal ones.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from math import inf, log, pi

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.latent.conditional import ConditionalMixture


@dataclass(frozen=True, eq=False, repr=False)
class LatentDistribution(ABC):
    """Interface of base distributions of the latents.

    Attributes:
        variance: Variances ``[D]`` of the latents in scaled eigenspace, float64, in the order of
            decreasing data variance.
    """

    variance: Tensor

    @property
    def dim(self) -> int:
        """Dimension D of the latents."""
        return len(self.variance)

    @property
    def std(self) -> Tensor:
        """Standard deviations ``[D]`` of the latents."""
        return self.variance.sqrt()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents ``[count, D]``, float64, on the device of the variances.

        Args:
            count: Number of latents.
            generator: Random generator on the CPU, so that draws agree on all devices; None for
                torch's global one.
        """
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.unwhiten(noise.to(self.variance.device))

    @abstractmethod
    def whiten(self, x: Tensor) -> Tensor:
        """Map latents ``[N, D]`` to standard normal variables ``w [N, D]``, differentiably."""

    @abstractmethod
    def unwhiten(self, w: Tensor) -> Tensor:
        """Map standard normal variables ``w [N, D]`` to latents: the inverse of ``whiten``."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: Latents do not have D dimensions.
        """

    def digest(self) -> str:
        """Return the SHA-256 of all parameters of the distribution."""
        return sha256(self.variance.cpu().numpy().tobytes()).hexdigest()

    def _require_dim(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise DataError(
                f"latents have shape {list(x.shape)}, but this distribution has D = {self.dim}: "
                f"give [..., {self.dim}]"
            )

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3g}" for value in self.std[:4].tolist())
        name = type(self).__name__
        return f"{name}(dim={self.dim}, std=[{shown}{', ...' if self.dim > 4 else ''}])"


class GaussianLatents(LatentDistribution):
    """A Gaussian base distribution with mean zero and independent dimensions.

    Example:
        >>> import torch
        >>> distribution = GaussianLatents(torch.tensor([1.0, 0.25], dtype=torch.float64))
        >>> latents = distribution.sample(1000, torch.Generator().manual_seed(0))
        >>> distribution.log_prob(latents).shape
        torch.Size([1000])
        >>> distribution
        GaussianLatents(dim=2, std=[1, 0.5])
    """

    @classmethod
    def empirical(cls, latents: Tensor) -> "GaussianLatents":
        """Return the Gaussian whose variances are the mean squares of latents ``[N, D]``."""
        return cls(latents.square().mean(dim=0))

    @classmethod
    def paper(
        cls, dim: int, dims_to_keep: int, eps: float, end_std: float = 1.0
    ) -> "GaussianLatents":
        """Return the Gaussian with the latent variances of the paper's tables.

        Args:
            dim: D, the number of dimensions.
            dims_to_keep: Number of kept dimensions, which have the variance ``end_std ** 2``.
            eps: Variance of the compressed dimensions.
            end_std: ``A0``, the standard deviation that the schedule's scaled variable approaches.
        """
        kept = torch.full((dim,), end_std**2, dtype=torch.float64)
        return cls(kept).with_compressed(eps, dims_to_keep)

    def with_compressed(self, eps: float, dims_to_keep: int) -> "GaussianLatents":
        """Return a copy whose compressed dimensions have the variance ``eps``.

        Args:
            eps: Variance of the compressed dimensions.
            dims_to_keep: Number of kept dimensions, which come first.

        Raises:
            UsageError: ``eps`` is not a positive number.
        """
        if not 0 < eps < inf:
            raise UsageError(f"eps is {eps:g}: give a positive variance")
        variance = self.variance.clone()
        variance[dims_to_keep:] = eps
        return GaussianLatents(variance)

    def whiten(self, x: Tensor) -> Tensor:
        """Divide latents ``[N, D]`` by their standard deviations."""
        return x / self.std

    def unwhiten(self, w: Tensor) -> Tensor:
        """Multiply standard normal variables ``w [N, D]`` by the standard deviations."""
        return w * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: Latents do not have D dimensions.
        """
        self._require_dim(x)
        std = self.std
        normalizer = std.log().sum() + self.dim * log(2 * pi) / 2
        return -(x / std).square().sum(dim=-1) / 2 - normalizer


@dataclass(frozen=True, eq=False, repr=False)
class LearnedLatents(LatentDistribution):
    """A base distribution with Gaussian kept dimensions and learned compressed dimensions.

    Attributes:
        mixture: Conditional distribution of the compressed dimensions given the kept dimensions,
            both divided by their standard deviations.
    """

    mixture: ConditionalMixture

    def whiten(self, x: Tensor) -> Tensor:
        """Map latents ``[N, D]`` to standard normal variables ``w [N, D]``.

        Kept dimensions are divided by their standard deviations; compressed dimensions become
        normal scores.
        """
        kept, compressed = self._split(x / self.std)
        return torch.cat([kept, self.mixture.whiten(kept, compressed)], dim=1)

    def unwhiten(self, w: Tensor) -> Tensor:
        """Map standard normal variables ``w [N, D]`` to latents ``[N, D]``."""
        kept, scores = self._split(w)
        return torch.cat([kept, self.mixture.unwhiten(kept, scores)], dim=1) * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: Latents do not have D dimensions.
        """
        self._require_dim(x)
        rows = x.reshape(-1, self.dim) / self.std
        kept, compressed = self._split(rows)
        gaussian = -(kept.square() + log(2 * pi)).sum(dim=1) / 2
        log_density = gaussian + self.mixture.log_prob(kept, compressed) - self.std.log().sum()
        return log_density.view(x.shape[:-1])

    def digest(self) -> str:
        """Return the SHA-256 of the variances and the parameters of the mixture."""
        content = sha256(self.variance.cpu().numpy().tobytes())
        for name, tensor in sorted(self.mixture.state_dict().items()):
            content.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return content.hexdigest()

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.mixture.kept], x[:, self.mixture.kept :]
