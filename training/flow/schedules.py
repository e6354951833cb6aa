"""Noise schedules: the noise variance of each eigen-dimension at time t, and the global scale.

The distribution ``p_t`` is that of the data convolved with ``N(0, diag gamma(t))`` in eigenspace.
The flow moves the scaled variable ``x = s(t) x_tilde``. The inflationary schedule (Inflationary
Flows, arXiv 2407.08843, sections 3.2-3.3) is

    gamma_i(t) = gamma0 exp(rho (1 + g_i) t),
    s(t)       = A0 / sqrt(xi* + gamma*(t)),      gamma*(t) = gamma0 exp(rho (1 + g*) t),

with ``xi*`` the largest data variance and ``g* = max g``. It preserves the participation ratio
(PRP) if all ``g_i`` are 0. It reduces the participation ratio to ``d`` dimensions (PRR) if ``g_i =
1`` for the ``d`` top-variance dimensions and less for the others. The *inflation gap* is ``IG = g*
- g_i``.

Isotropic schedules serve as baselines. They are the three tabulated by Karras et al. 2022 (table
1): EDM's own schedule, and the variance-preserving and variance-exploding schedules of Song et al.
2021.
"""

from abc import ABC, abstractmethod
from math import inf, log

import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError, require_known
from training.names import G_TYPES

INFLATION_DEFAULTS = {
    "g_type": "orig",
    "inflation_gap": 1.02,
    "g_rescaling": 1.0,
    "rho": 1.0,
    "gamma0": 5e-4,
}
"""Defaults of the optional arguments of ``InflationSchedule.to_dimension``."""


class NoiseSchedule(nn.Module, ABC):
    """Interface of noise schedules: noise variances and scale of a flow as functions of time.

    Times are tensors of any shape ``[...]``.

    Attributes:
        name: Short name, used in file names.
        dim: Number of eigen-dimensions D.
        t_min: First time of a simulation.
    """

    name: str
    dim: int
    t_min: float = 0.0

    @abstractmethod
    def noise_variance(self, t: Tensor) -> Tensor:
        """Return the noise variances ``gamma(t) [..., D]``."""

    @abstractmethod
    def log_noise_rate(self, t: Tensor) -> Tensor:
        """Return the log-derivative ``d log gamma / dt [..., D]``."""

    @abstractmethod
    def reference_log_noise(self, t: Tensor) -> Tensor:
        """Return the log of the largest noise variance ``[...]``, the network's time input."""

    @abstractmethod
    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times ``[...]`` at which ``reference_log_noise`` has the given values."""

    @abstractmethod
    def scale(self, t: Tensor) -> Tensor:
        """Return the scale ``s(t) [...]`` of the states."""

    @abstractmethod
    def log_scale_rate(self, t: Tensor) -> Tensor:
        """Return the log-derivative ``d log s / dt [...]``."""

    def times(self, steps: int, t_max: float) -> Tensor:
        """Return ``steps + 1`` increasing times of a simulation, float64.

        Times are evenly spaced unless a schedule overrides this method.
        """
        return torch.linspace(self.t_min, t_max, steps + 1, dtype=torch.float64)

    @abstractmethod
    def default_t_max(self, conditional: bool = False) -> float:
        """Return the default end time, at which noise dominates the data.

        Args:
            conditional: Whether the flow has conditions. The end time is then later, so that noise
                also dominates the differences between conditional means.
        """

    def extra_repr(self) -> str:
        """Return the name, the dimension and the first time, as text for ``repr``."""
        return f"{self.name}, dim={self.dim}, t_min={self.t_min:g}"

    def latent_variance(self, t: Tensor, data_variance: Tensor) -> Tensor:
        """Return the variance ``s(t)^2 (xi_i + gamma_i(t)) [..., D]`` of the scaled variable."""
        return self.scale(t)[..., None] ** 2 * (data_variance + self.noise_variance(t))

    def sample_noise(self, count: int, t: Tensor, generator: torch.Generator) -> Tensor:
        """Draw noise ``[count, D]`` from ``N(0, diag gamma(t))`` in eigenspace, float64.

        Args:
            count: Number of draws.
            t: Time ``[]``.
            generator: Random generator on the CPU.
        """
        std = self.noise_variance(t).sqrt()
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return noise.to(std.device) * std


class InflationSchedule(NoiseSchedule):
    """Exponentially growing noise, ``gamma_i(t) = gamma0 exp(growth_rate_i t)``.

    Args:
        exponents: Exponents ``g [D]``, sorted like the eigenvalues (largest variance first).
        rho: Inflation rate, 1/time.
        gamma0: Noise variance at t = 0, in squared data units.
        top_variance: ``xi*``, the largest data variance.
        end_std: ``A0``, the standard deviation that the scaled variable approaches.
        name: ``PRP`` or ``PRRto{d}D``.

    Raises:
        UsageError: A value is not positive, or no dimension inflates.
    """

    SIGNAL_FRACTION, CONDITIONAL_FRACTION = 0.1, 1e-3

    def __init__(
        self,
        exponents: Tensor,
        rho: float = 1.0,
        gamma0: float = 5e-4,
        top_variance: float = 1.0,
        end_std: float = 1.0,
        name: str = "PRP",
    ):
        super().__init__()
        for label, value in (("rho", rho), ("gamma0", gamma0), ("end_vars (A0)", end_std)):
            if not 0 < value < inf:
                raise UsageError(f"{label} is {value}: give a positive number")
        self.dim = len(exponents)
        self.rho, self.gamma0, self.name = rho, gamma0, name
        self.top_variance, self.end_std = top_variance, end_std
        self.register_buffer("growth_rates", rho * (1 + exponents.double()))
        self.top_rate = float(self.growth_rates.max())
        if self.top_rate <= 0:
            raise UsageError(
                "no dimension inflates: give exponents g with rho (1 + g) above 0 for at least "
                "one dimension"
            )

    growth_rates: Tensor

    def extra_repr(self) -> str:
        """Return the name, the dimension, rho and gamma0, as text for ``repr``."""
        return f"{self.name}, dim={self.dim}, rho={self.rho:g}, gamma0={self.gamma0:g}"

    @classmethod
    def to_dimension(
        cls,
        dims_to_keep: int,
        data_dim: int,
        *,
        g_type: str = "orig",
        inflation_gap: float = 1.02,
        g_rescaling: float = 1.0,
        rho: float = 1.0,
        gamma0: float = 5e-4,
        top_variance: float = 1.0,
        end_std: float = 1.0,
    ) -> "InflationSchedule":
        """Return the PRP schedule if all dimensions are kept, else the PRR schedule.

        PRP schedules preserve the participation ratio of the data. PRR schedules reduce the
        participation ratio, by compressing some dimensions.

        Args:
            dims_to_keep: d, the number of top-variance dimensions that keep inflating.
            data_dim: D, the dimension of the data.
            g_type: Exponents of the compressed dimensions: ``orig`` for ``g = -d/(D-d)``, so that
                all g sum to 0, or ``constant_inflation_gap`` for ``g = 1 - inflation_gap``.
            inflation_gap: Difference between the exponents of kept and compressed dimensions, used
                by ``constant_inflation_gap`` only.
            g_rescaling: Factor on every g. The published value is 1; smaller values compress less.
            rho: Inflation rate, 1/time.
            gamma0: Noise variance at t = 0, in squared data units.
            top_variance: ``xi*``, the largest data variance.
            end_std: ``A0``, the standard deviation that the scaled variable approaches.

        Raises:
            UsageError: A value is out of range.
        """
        sizes = {"rho": rho, "gamma0": gamma0, "top_variance": top_variance, "end_std": end_std}
        if not 1 <= dims_to_keep <= data_dim:
            raise UsageError(
                f"dims_to_keep is {dims_to_keep}, but the data has {data_dim} dimensions: "
                f"give 1 to {data_dim}"
            )
        require_known("g_type", g_type, G_TYPES)
        for label, value in (("inflation_gap", inflation_gap), ("g_rescaling", g_rescaling)):
            if not 0 < value < inf:
                raise UsageError(f"{label} is {value}: give a positive number")
        if dims_to_keep == data_dim:
            return cls(torch.zeros(data_dim), name="PRP", **sizes)
        if g_type == "orig":
            compressed = -dims_to_keep / (data_dim - dims_to_keep)
        else:
            compressed = 1 - inflation_gap
        exponents = torch.full((data_dim,), compressed, dtype=torch.float64)
        exponents[:dims_to_keep] = 1
        return cls(g_rescaling * exponents, name=f"PRRto{dims_to_keep}D", **sizes)

    def noise_variance(self, t: Tensor) -> Tensor:
        """Return the noise variances ``gamma0 exp(growth_rate_i t) [..., D]``."""
        return self.gamma0 * (self.growth_rates * t[..., None]).exp()

    def log_noise_rate(self, t: Tensor) -> Tensor:
        """Return ``d log gamma / dt [..., D]``: the growth rates, constant in time."""
        return self.growth_rates.expand(*t.shape, self.dim)

    def reference_log_noise(self, t: Tensor) -> Tensor:
        """Return the log of the noise variance ``[...]`` of the fastest growing dimension."""
        return log(self.gamma0) + self.top_rate * t

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times ``[...]`` at which the fastest growing dimension has this log noise."""
        return (log_noise - log(self.gamma0)) / self.top_rate

    def scale(self, t: Tensor) -> Tensor:
        """Return the scale ``A0 / sqrt(xi* + gamma*(t)) [...]``."""
        return self.end_std * (self.top_variance + self._top_noise(t)).rsqrt()

    def log_scale_rate(self, t: Tensor) -> Tensor:
        """Return the log-derivative ``d log s / dt [...]``, never positive."""
        top_noise = self._top_noise(t)
        return -0.5 * self.top_rate * top_noise / (self.top_variance + top_noise)

    def default_t_max(self, conditional: bool = False) -> float:
        """Return the time when the data variance is a fixed part of the largest latent variance.

        Without conditions the fraction is one tenth. A standardized cumulant of order k has then
        shrunk to ``0.1^(k/2)``, so a kurtosis is 1 % of that of the data, and the remaining
        non-Gaussianity is about 1e-5 nats.

        With conditions the fraction is one thousandth. Latents are drawn from the distribution for
        all data, whose mean is 0, whereas data given conditions has another mean m. In the Gaussian
        case with conditional variance v, a flow that starts from mean 0 has an error of ``m /
        sqrt(v + gamma(T))`` standard deviations ``sqrt(v)`` of the conditional distribution. If m
        is one standard deviation of the data, the error is 0.33 at one tenth and 0.03 at one
        thousandth. For small data sets the shorter time can fit better (``subjects.end_times``).

        Raises:
            UsageError: ``gamma0`` alone already exceeds the noise variance at the end time.
        """
        fraction = self.CONDITIONAL_FRACTION if conditional else self.SIGNAL_FRACTION
        end_variance = (1 / fraction - 1) * self.top_variance
        if self.gamma0 >= end_variance:
            raise UsageError(
                f"gamma0 is {self.gamma0:g}, but noise of variance {end_variance:g} "
                "already dominates the data: give a smaller gamma0, or set tmax"
            )
        return log(end_variance / self.gamma0) / self.top_rate

    def _top_noise(self, t: Tensor) -> Tensor:
        return self.gamma0 * (self.top_rate * t).exp()


class IsotropicSchedule(NoiseSchedule):
    """Base class of noise schedules with equal noise in all dimensions.

    Args:
        dim: D, the number of eigen-dimensions.
        t_min: First time, at which the noise variance is already positive.

    Raises:
        UsageError: ``t_min`` is not between 0 and the end time.
    """

    name: str
    default_t_min: float
    end: float

    def __init__(self, dim: int, t_min: float | None = None):
        super().__init__()
        self.dim, self.t_min = dim, self.default_t_min if t_min is None else t_min
        if not 0 < self.t_min < self.end:
            raise UsageError(
                f"tmin is {self.t_min:g}: give a positive tmin below {self.end:g} for {self.name}"
            )

    def noise_variance(self, t: Tensor) -> Tensor:
        """Return the noise variances ``gamma(t) [..., D]``, equal in all dimensions."""
        return self.variance(t)[..., None].expand(*t.shape, self.dim)

    def log_noise_rate(self, t: Tensor) -> Tensor:
        """Return ``d log gamma / dt [..., D]``, equal in all dimensions."""
        return self.log_rate(t)[..., None].expand(*t.shape, self.dim)

    def reference_log_noise(self, t: Tensor) -> Tensor:
        """Return the log of the noise variance ``[...]``."""
        return self.variance(t).log()

    def default_t_max(self, conditional: bool = False) -> float:
        """Return the end time of the published schedule, with or without conditions."""
        return self.end

    def scale(self, t: Tensor) -> Tensor:
        """Return the scale ``s(t) = 1 [...]``: states are not scaled."""
        return torch.ones_like(t)

    def log_scale_rate(self, t: Tensor) -> Tensor:
        """Return ``d log s / dt = 0 [...]``."""
        return torch.zeros_like(t)

    @abstractmethod
    def variance(self, t: Tensor) -> Tensor:
        """Return the noise variance ``gamma(t) [...]`` shared by all dimensions."""

    @abstractmethod
    def log_rate(self, t: Tensor) -> Tensor:
        """Return the log-derivative ``d log gamma / dt [...]``."""


class EDMSchedule(IsotropicSchedule):
    """EDM schedule: noise of standard deviation t, without scaling."""

    name, default_t_min, end = "EDM", 0.002, 80.0
    GRID_POWER = 7

    def variance(self, t: Tensor) -> Tensor:
        """Return the noise variance ``t^2 [...]``."""
        return t**2

    def log_rate(self, t: Tensor) -> Tensor:
        """Return ``d log gamma / dt = 2 / t [...]``."""
        return 2 / t

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times ``[...]`` with a given log noise variance, ``exp(log gamma / 2)``."""
        return (log_noise / 2).exp()

    def times(self, steps: int, t_max: float) -> Tensor:
        """Return times whose seventh roots are evenly spaced (Karras et al. 2022, equation 5)."""
        first, last = (time ** (1 / self.GRID_POWER) for time in (self.t_min, t_max))
        return torch.linspace(first, last, steps + 1, dtype=torch.float64) ** self.GRID_POWER


class VPSchedule(IsotropicSchedule):
    """Variance-preserving schedule: ``1 + gamma = exp(beta_d t^2 / 2 + beta_min t) = 1 / s^2``."""

    name, default_t_min, end = "VP", 1e-3, 1.0
    BETA_D, BETA_MIN = 19.9, 0.1

    def variance(self, t: Tensor) -> Tensor:
        """Return the noise variance ``exp(beta_d t^2 / 2 + beta_min t) - 1 [...]``."""
        return torch.expm1(self._exponent(t))

    def log_rate(self, t: Tensor) -> Tensor:
        """Return ``d log gamma / dt = (beta_d t + beta_min) (1 + gamma) / gamma [...]``."""
        return (self.BETA_D * t + self.BETA_MIN) / -torch.expm1(-self._exponent(t))

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times ``[...]`` with a given log noise variance, roots of a quadratic."""
        exponent = torch.log1p(log_noise.exp())
        root = (self.BETA_MIN**2 + 2 * self.BETA_D * exponent).sqrt()
        return (root - self.BETA_MIN) / self.BETA_D

    def scale(self, t: Tensor) -> Tensor:
        """Return the scale ``s(t) = 1 / sqrt(1 + gamma) [...]``."""
        return (-self._exponent(t) / 2).exp()

    def log_scale_rate(self, t: Tensor) -> Tensor:
        """Return ``d log s / dt = -(beta_d t + beta_min) / 2 [...]``."""
        return -(self.BETA_D * t + self.BETA_MIN) / 2

    def _exponent(self, t: Tensor) -> Tensor:
        return self.BETA_D * t**2 / 2 + self.BETA_MIN * t


class VESchedule(IsotropicSchedule):
    """Variance-exploding schedule: noise of variance t, without scaling."""

    name, default_t_min, end = "VE", 0.02**2, 100.0**2

    def variance(self, t: Tensor) -> Tensor:
        """Return the noise variance ``t [...]``."""
        return t

    def log_rate(self, t: Tensor) -> Tensor:
        """Return ``d log gamma / dt = 1 / t [...]``."""
        return 1 / t

    def time_of_log_noise(self, log_noise: Tensor) -> Tensor:
        """Return the times ``[...]`` with a given log noise variance, ``exp(log gamma)``."""
        return log_noise.exp()

    def times(self, steps: int, t_max: float) -> Tensor:
        """Return geometrically spaced times, like the noise levels of Song et al. 2021."""
        first, last = log(self.t_min), log(t_max)
        return torch.linspace(first, last, steps + 1, dtype=torch.float64).exp()
