"""Laws of latents.

Latents are the states of the scaled variable at the last time T, in eigenspace. They have mean zero
and uncorrelated dimensions, and dimension i has the variance

    s(T)^2 (xi_i + gamma_i(T)),

exactly, whatever the data: the *closed form*. A law that stands for theirs is

- the Gaussian with independent dimensions of these variances, or of others: those of latents that
  were seen, or the numbers of the paper's tables;
- a *learned* one, in which compressed dimensions depend on the kept ones (``conditional``).

Each *whitens* latents: takes them to standard normal ones, one to one, and back.
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
class LatentLaw(ABC):
    """What latents are distributed as.

    Attributes:
        variance: ``[D]``, float64, of scaled eigenspace latents, largest data variance first.
    """

    variance: Tensor

    @property
    def dim(self) -> int:
        """D."""
        return len(self.variance)

    @property
    def std(self) -> Tensor:
        """The standard deviations ``[D]``."""
        return self.variance.sqrt()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latents ``[count, D]``, float64, on the device of the variances.

        Args:
            count: The number of latents.
            generator: The source of random numbers, on the CPU, so that all devices draw the same;
                None for torch's own.
        """
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.unwhiten(noise.to(self.variance.device))

    @abstractmethod
    def whiten(self, x: Tensor) -> Tensor:
        """The standard normal ``w [N, D]`` of latents ``[N, D]``; differentiable."""

    @abstractmethod
    def unwhiten(self, w: Tensor) -> Tensor:
        """The latents ``[N, D]`` of standard normal ones ``[N, D]``: inverse of ``whiten``."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: They are of another dimension.
        """

    def digest(self) -> str:
        """SHA-256 of all that the law depends on."""
        return sha256(self.variance.cpu().numpy().tobytes()).hexdigest()

    def _require_dim(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise DataError(f"latents have shape {list(x.shape)}, but this law has D = {self.dim}")

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3g}" for value in self.std[:4].tolist())
        name = type(self).__name__
        return f"{name}(dim={self.dim}, std=[{shown}{', ...' if self.dim > 4 else ''}])"


class GaussianLaw(LatentLaw):
    """A Gaussian with mean zero and independent dimensions.

    Example:
        >>> import torch
        >>> law = GaussianLaw(torch.tensor([1.0, 0.25], dtype=torch.float64))
        >>> latents = law.sample(1000, torch.Generator().manual_seed(0))
        >>> law.log_prob(latents).shape
        torch.Size([1000])
        >>> law
        GaussianLaw(dim=2, std=[1, 0.5])
    """

    @classmethod
    def empirical(cls, latents: Tensor) -> "GaussianLaw":
        """The mean squares of latents ``[N, D]`` in which a melt ended."""
        return cls(latents.square().mean(dim=0))

    @classmethod
    def paper(cls, dim: int, dims_to_keep: int, eps: float, end_std: float = 1.0) -> "GaussianLaw":
        """The variances of the paper's tables.

        Args:
            dim: The number of dimensions, D.
            dims_to_keep: The number of kept ones, which have the variance ``end_std ** 2``.
            eps: The variance of the compressed ones.
            end_std: ``A0``, which the schedule's scale aims at.
        """
        kept = torch.full((dim,), end_std**2, dtype=torch.float64)
        return cls(kept).with_compressed(eps, dims_to_keep)

    def with_compressed(self, eps: float, dims_to_keep: int) -> "GaussianLaw":
        """This law, but with the variance ``eps`` in all dimensions after the kept ones.

        Raises:
            UsageError: ``eps`` is not a positive number.
        """
        if not 0 < eps < inf:
            raise UsageError(f"eps is {eps:g}: it must be a positive variance")
        variance = self.variance.clone()
        variance[dims_to_keep:] = eps
        return GaussianLaw(variance)

    def whiten(self, x: Tensor) -> Tensor:
        return x / self.std

    def unwhiten(self, w: Tensor) -> Tensor:
        return w * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        self._require_dim(x)
        std = self.std
        normalizer = std.log().sum() + self.dim * log(2 * pi) / 2
        return -(x / std).square().sum(dim=-1) / 2 - normalizer


@dataclass(frozen=True, eq=False, repr=False)
class LearnedLaw(LatentLaw):
    """Kept dimensions are Gaussian; compressed ones have a learned law, given the kept ones.

    Attributes:
        mixture: The law of the compressed dimensions, in standard deviations.
    """

    mixture: ConditionalMixture

    def whiten(self, x: Tensor) -> Tensor:
        kept, compressed = self._split(x / self.std)
        return torch.cat([kept, self.mixture.whiten(kept, compressed)], dim=1)

    def unwhiten(self, w: Tensor) -> Tensor:
        kept, scores = self._split(w)
        return torch.cat([kept, self.mixture.unwhiten(kept, scores)], dim=1) * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        self._require_dim(x)
        rows = x.reshape(-1, self.dim) / self.std
        kept, compressed = self._split(rows)
        gaussian = -(kept.square() + log(2 * pi)).sum(dim=1) / 2
        log_density = gaussian + self.mixture.log_prob(kept, compressed) - self.std.log().sum()
        return log_density.view(x.shape[:-1])

    def digest(self) -> str:
        content = sha256(self.variance.cpu().numpy().tobytes())
        for name, tensor in sorted(self.mixture.state_dict().items()):
            content.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return content.hexdigest()

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.mixture.kept], x[:, self.mixture.kept :]
