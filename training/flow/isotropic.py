"""Isotropic noise schedules, the baselines that an inflationary flow is compared with.

They are those tabulated by Karras et al. 2022 (table 1): EDM's own, and the variance-preserving and
variance-exploding ones of Song et al. 2021.
"""

from abc import abstractmethod
from math import log

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.schedules import NoiseSchedule


class IsotropicSchedule(NoiseSchedule):
    """The same noise for all dimensions: children say how much, and how it is scaled.

    Args:
        dim: D.
        t_min: First time, when there is some noise already.
    """

    name: str
    default_t_min: float
    end: float

    def __init__(self, dim: int, t_min: float | None = None):
        super().__init__()
        self.dim, self.t_min = dim, self.default_t_min if t_min is None else t_min
        if not 0 < self.t_min < self.end:
            raise UsageError(
                f"tmin is {self.t_min:g}: {self.name} needs a positive one below {self.end:g}"
            )

    def noise_variance(self, t: Tensor) -> Tensor:
        return self.variance(t)[..., None].expand(*t.shape, self.dim)

    def log_noise_rate(self, t: Tensor) -> Tensor:
        return self.log_rate(t)[..., None].expand(*t.shape, self.dim)

    def reference_log_noise(self, t: Tensor) -> Tensor:
        return self.variance(t).log()

    def default_t_max(self, conditional: bool = False) -> float:
        return self.end

    def scale(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def log_scale_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """``gamma(t) [...]`` of every dimension."""

    @abstractmethod
    def log_rate(self, t: Tensor) -> Tensor:
        """``d log gamma / dt [...]``."""


class EDMSchedule(IsotropicSchedule):
    """Noise of standard deviation t, never scaled."""

    name, default_t_min, end = "EDM", 0.002, 80.0
    GRID_POWER = 7

    def variance(self, t: Tensor) -> Tensor:
        return t**2

    def log_rate(self, t: Tensor) -> Tensor:
        return 2 / t

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        return (log_noise / 2).exp()

    def times(self, steps: int, t_max: float) -> Tensor:
        """Times whose seventh roots are evenly spaced (Karras et al. 2022, equation 5)."""
        first, last = (time ** (1 / self.GRID_POWER) for time in (self.t_min, t_max))
        return torch.linspace(first, last, steps + 1, dtype=torch.float64) ** self.GRID_POWER


class VPSchedule(IsotropicSchedule):
    """Variance preserving: ``1 + gamma = exp(beta_d t^2 / 2 + beta_min t) = 1 / s^2``."""

    name, default_t_min, end = "VP", 1e-3, 1.0
    BETA_D, BETA_MIN = 19.9, 0.1

    def variance(self, t: Tensor) -> Tensor:
        return torch.expm1(self._exponent(t))

    def log_rate(self, t: Tensor) -> Tensor:
        return (self.BETA_D * t + self.BETA_MIN) / -torch.expm1(-self._exponent(t))

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        exponent = torch.log1p(log_noise.exp())
        root = (self.BETA_MIN**2 + 2 * self.BETA_D * exponent).sqrt()
        return (root - self.BETA_MIN) / self.BETA_D

    def scale(self, t: Tensor) -> Tensor:
        return (-self._exponent(t) / 2).exp()

    def log_scale_rate(self, t: Tensor) -> Tensor:
        return -(self.BETA_D * t + self.BETA_MIN) / 2

    def times(self, steps: int, t_max: float) -> Tensor:
        return torch.linspace(self.t_min, t_max, steps + 1, dtype=torch.float64)

    def _exponent(self, t: Tensor) -> Tensor:
        return self.BETA_D * t**2 / 2 + self.BETA_MIN * t


class VESchedule(IsotropicSchedule):
    """Variance exploding: noise of variance t, never scaled."""

    name, default_t_min, end = "VE", 0.02**2, 100.0**2

    def variance(self, t: Tensor) -> Tensor:
        return t

    def log_rate(self, t: Tensor) -> Tensor:
        return 1 / t

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        return log_noise.exp()

    def times(self, steps: int, t_max: float) -> Tensor:
        """Geometric, as the noise levels of Song et al. 2021 are."""
        first, last = log(self.t_min), log(t_max)
        return torch.linspace(first, last, steps + 1, dtype=torch.float64).exp()
