"""The law of latents: what a generation starts from, and what a melt should end in.

Latents are the states of the scaled variable at the last time T, in eigenspace. They have mean zero
and uncorrelated dimensions, and dimension i has the variance

    s(T)^2 (xi_i + gamma_i(T)),

exactly, whatever the data: the *closed form*. The law that stands for theirs is the Gaussian with
independent dimensions of these variances, or of others: those of latents that were seen, or the
numbers of the paper's tables.
"""

from dataclasses import dataclass
from hashlib import sha256
from math import inf, log, pi

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.schedules import NoiseSchedule


@dataclass(frozen=True, eq=False)
class LatentLaw:
    """A Gaussian with mean zero and independent dimensions.

    Attributes:
        variance: ``[D]``, float64, of scaled eigenspace latents, largest data variance first.

    Example:
        >>> import torch
        >>> law = LatentLaw(torch.tensor([1.0, 0.25], dtype=torch.float64))
        >>> latents = law.sample(1000, torch.Generator().manual_seed(0))
        >>> law.log_prob(latents).shape
        torch.Size([1000])
        >>> law
        LatentLaw(dim=2, std=[1, 0.5])
    """

    variance: Tensor

    @classmethod
    def auto(cls, schedule: NoiseSchedule, data_variance: Tensor, t: Tensor) -> "LatentLaw":
        """The closed form.

        Args:
            schedule: The noise and the scale.
            data_variance: ``xi [D]``, the variances of the data along the axes.
            t: The time of the latents, ``[]``.
        """
        return cls(schedule.latent_variance(t, data_variance))

    @classmethod
    def empirical(cls, latents: Tensor) -> "LatentLaw":
        """The mean squares of latents ``[N, D]`` in which a melt ended."""
        return cls(latents.square().mean(dim=0))

    @classmethod
    def paper(cls, dim: int, dims_to_keep: int, eps: float, end_std: float = 1.0) -> "LatentLaw":
        """The variances of the paper's tables.

        Args:
            dim: The number of dimensions, D.
            dims_to_keep: The number of kept ones, which have the variance ``end_std ** 2``.
            eps: The variance of the compressed ones.
            end_std: ``A0``, which the schedule's scale aims at.
        """
        kept = torch.full((dim,), end_std**2, dtype=torch.float64)
        return cls(kept).with_compressed(eps, dims_to_keep)

    def with_compressed(self, eps: float, dims_to_keep: int) -> "LatentLaw":
        """This law, but with the variance ``eps`` in all dimensions after the kept ones.

        Raises:
            UsageError: ``eps`` is not a positive number.
        """
        if not 0 < eps < inf:
            raise UsageError(f"eps is {eps:g}: it must be a positive variance")
        variance = self.variance.clone()
        variance[dims_to_keep:] = eps
        return LatentLaw(variance)

    @property
    def dim(self) -> int:
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
        return noise.to(self.variance.device) * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: They are of another dimension.
        """
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise DataError(f"latents have shape {list(x.shape)}, but this law has D = {self.dim}")
        std = self.std
        normalizer = std.log().sum() + self.dim * log(2 * pi) / 2
        return -(x / std).square().sum(dim=-1) / 2 - normalizer

    def digest(self) -> str:
        """SHA-256 of the variances."""
        return sha256(self.variance.cpu().numpy().tobytes()).hexdigest()

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3g}" for value in self.std[:4].tolist())
        return f"LatentLaw(dim={self.dim}, std=[{shown}{', ...' if self.dim > 4 else ''}])"
