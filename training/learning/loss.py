"""The denoising loss: regression of F on its unit-variance target.

For clean points e and noise n, the loss is

    E_t E_u E_n mean_i ((D_i(e + n, t) - e_i) / c_out,i(t))^2,     n ~ N(0, diag gamma(t)).

The mean over dimensions makes it comparable between data sets: ``F = 0``, the best linear denoiser,
has loss 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, expm1
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError, require_known
from torch_utils.seeds import seeded_generator
from training.flow.denoisers import NetworkDenoiser
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.learning.targets import OthersOfBatch, averaging_shift
from training.names import BY_WEIGHT, T_SAMPLINGS

# Mean and standard deviation of the log of the largest noise std under ``normal`` sampling (Karras
# et al. 2022, table 1).
LOG_STD_MEAN, LOG_STD_STD = -1.2, 1.2
NOISE_BLOCK = 1 << 17
"""Largest number of noise values from one generator, but at least one row."""


class NoiseDraws(NamedTuple):
    """Random times and noise of B samples in the loss.

    Attributes:
        t: Times ``[B]``, float64.
        noise: Standard normal noise ``[B, D]``.
    """

    t: Tensor
    noise: Tensor

    def of_rows(self, rows: slice | Tensor) -> "NoiseDraws":
        """Return the times and noise of the samples with the given indices or in a slice."""
        return NoiseDraws(self.t[rows], self.noise[rows])

    def in_pairs(self) -> "NoiseDraws":
        """Return each draw followed by the same time with the opposite noise."""
        noise = torch.stack([self.noise, -self.noise], dim=1).flatten(0, 1)
        return NoiseDraws(self.t.repeat_interleave(2), noise)


@dataclass(frozen=True)
class DenoisingLoss:
    """Denoising loss over one schedule's range of times.

    Args:
        schedule: Schedule of the noise.
        t_min: First time.
        t_max: Last time.
        t_sampling: Distribution of times, always stratified over the batch. ``uniform``: uniform in
            t. ``normal`` and ``log_uniform``: truncated normal and uniform in the log of the
            largest noise standard deviation. ``by_weight``: uniform until the data is a tenth of
            the variance, then proportional to the weight ``xi / (xi + gamma)`` of a time in the log
            likelihood (``held_out``).
    """

    schedule: NoiseSchedule
    t_min: float
    t_max: float
    t_sampling: str = "uniform"

    def __post_init__(self) -> None:
        require_known("t_sampling", self.t_sampling, T_SAMPLINGS)
        if self.t_sampling == BY_WEIGHT and not isinstance(self.schedule, InflationSchedule):
            raise UsageError(
                f"t_sampling={BY_WEIGHT} needs the inflationary schedule: give precond=ifs, or "
                "another t_sampling"
            )
        if not self.t_min < self.t_max:
            raise UsageError(
                f"tmin is {self.t_min:g} and tmax is {self.t_max:g}: give a smaller tmin or a "
                "larger tmax"
            )

    def regression(self, denoiser: NetworkDenoiser) -> nn.Module:
        """Return the module that computes F and its target from clean points and noise."""
        return DenoisingRegression(denoiser)

    def draw(self, count: int, generator: torch.Generator) -> NoiseDraws:
        """Draw the times and noise of ``count`` samples, on the generator's device, float64."""
        t = self._times(count, generator)
        return NoiseDraws(t, _normal(count, self.schedule.dim, generator, torch.float64))

    def draw_rows(
        self,
        rows: slice,
        count: int,
        dtype: torch.dtype,
        device: torch.device,
        keys: tuple[int, ...],
        *,
        antithetic: bool = False,
    ) -> NoiseDraws:
        """Draw the times and noise of some of the samples of a batch.

        The draws of a sample are the same however ranks divide the batch. Noise comes in blocks of
        rows, each from its own generator, and only the needed blocks are drawn.

        Args:
            rows: Slice of the samples, at least one.
            count: Number of all samples in the batch.
            dtype: Data type of the noise; times are in float64.
            device: Device to draw on.
            keys: Keys that seed the generators.
            antithetic: Whether samples come in pairs of the same time and opposite noise. If both
                samples of a pair have the same point, gradient terms that are odd in the noise
                cancel where the noise is small.
        """
        dim = self.schedule.dim
        size = max(1, NOISE_BLOCK // dim)

        def drawn(rows: slice, strata: float) -> NoiseDraws:
            """Draw the times and the noise of rows, with one row per stratum of time."""
            generator = seeded_generator(device, *keys)
            t, noise = self._times(strata, generator)[rows], []
            for first in range(rows.start // size * size, rows.stop, size):
                own = generator if first == 0 else seeded_generator(device, *keys, first)
                block = _normal(min(size, ceil(strata) - first), dim, own, dtype)
                noise.append(block[max(rows.start - first, 0) : rows.stop - first])
            return NoiseDraws(t, torch.cat(noise))

        if not antithetic:
            return drawn(rows, count)
        pairs = drawn(slice(rows.start // 2, (rows.stop + 1) // 2), count / 2).in_pairs()
        first = rows.start % 2
        return pairs.of_rows(slice(first, first + rows.stop - rows.start))

    def per_sample(
        self,
        denoiser: nn.Module,
        clean: Tensor,
        draws: NoiseDraws,
        conditions: Mapping[str, Tensor] = MappingProxyType({}),
        others: OthersOfBatch | None = None,
    ) -> Tensor:
        """Return the loss ``[B]`` of each sample; for an ensemble, the mean of its members' losses.

        Args:
            denoiser: A ``DenoisingRegression``, perhaps wrapped for data parallelism.
            clean: Clean points ``e [B, D]``, eigenspace.
            draws: Times and noise of these samples.
            conditions: Other inputs of the network, such as ``labels [B, L]``.
            others: Further points of the same distribution, to average targets over.
        """
        residual, target = denoiser(clean, draws.t, draws.noise, others, **conditions)
        errors = (residual - target).square().mean(dim=-1)
        return errors.mean(dim=0) if errors.ndim == 2 else errors

    def _times(self, strata: float, generator: torch.Generator) -> Tensor:
        """Draw times, one per stratum, in order; the last stratum may be half as wide."""
        device, count = generator.device, ceil(strata)
        place = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        place[-1] *= strata - (count - 1)
        return self._time_at((torch.arange(count, device=device) + place) / strata)

    def _time_at(self, quantiles: Tensor) -> Tensor:
        if self.t_sampling == "uniform":
            return self.t_min + (self.t_max - self.t_min) * quantiles
        if self.t_sampling == BY_WEIGHT:
            return self._by_weight(quantiles)
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        log_std = self.schedule.reference_log_noise(ends) / 2
        low, high = log_std.tolist()
        if self.t_sampling == "log_uniform":
            log_std = low + (high - low) * quantiles
        else:
            low, high = torch.special.ndtr((log_std - LOG_STD_MEAN) / LOG_STD_STD).tolist()
            normal = torch.special.ndtri(low + (high - low) * quantiles)
            log_std = LOG_STD_MEAN + LOG_STD_STD * normal
        times = self.schedule.time_of_log_noise(2 * log_std)
        return times.clamp(self.t_min, self.t_max)

    def _by_weight(self, quantiles: Tensor) -> Tensor:
        """Return times at quantiles ``[n]`` of a density that falls as ``1 / gamma``.

        It is constant in the first part of the range.
        """
        late = min(self.schedule.default_t_max(), self.t_max)
        assert isinstance(self.schedule, InflationSchedule)
        rate = self.schedule.top_rate
        early = late - self.t_min
        # The density is 1 up to this time, and exp(-rate (t - late)) after it.
        mass = quantiles * (early - expm1(-rate * (self.t_max - late)) / rate)
        after = late - (-rate * (mass - early).clamp_min(0)).log1p() / rate
        return torch.where(mass < early, self.t_min + mass, after).clamp_max(self.t_max)


def _normal(count: int, dim: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randn(count, dim, generator=generator, device=generator.device, dtype=dtype)


class DenoisingRegression(nn.Module):
    """Denoiser as a regression of the network output F on its target ``(e - c_skip x) / c_out``.

    Args:
        denoiser: Network denoiser.
    """

    def __init__(self, denoiser: NetworkDenoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        clean: Tensor,
        t: Tensor,
        noise: Tensor,
        others: OthersOfBatch | None = None,
        **conditions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return F and its target, both ``[B, D]``, for clean points ``[B, D]`` and unit noise.

        With ``others``, further points of the same distribution, targets are averaged over near
        points. Everything but F is computed in the dtype of the points. For an ensemble of K
        networks in training, F is ``[K, B, D]``.
        """
        gamma = self.denoiser.schedule.noise_variance(t).to(clean.dtype)
        c = self.denoiser.coefficients_under(gamma)
        noisy = clean + gamma.sqrt() * noise
        target = c.clean_weight * clean + c.noise_weight * noise
        if others is not None:
            target = target + averaging_shift(clean, noise, gamma, others) / c.c_out
        z = (c.c_in * noisy).to(torch.get_default_dtype())
        residual = self.denoiser.residual(z, t, **conditions)
        return residual, target.to(residual.dtype)
