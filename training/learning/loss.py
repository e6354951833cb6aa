"""The denoising loss: regression of F on its unit-variance target.

For clean points e and noise n, the loss is

    E_t E_u E_n mean_i ((D_i(e + n, t) - e_i) / c_out,i(t))^2,     n ~ N(0, diag gamma(t)).

The mean over dimensions makes it comparable between data sets: ``F = 0``, the best linear denoiser,
has loss 1.

Targets with less noise: averages of the clean points that a noisy point may come from.

A noisy point ``x = e + n`` is regressed on the clean point e that it was made from, and the
denoiser learns the mean of e. Let ``e_1, ..., e_R`` be further points of the same distribution,
drawn independently of x. If it were unknown which of the 1 + R points x was made from, the
probability of each would be

    w_j ~ exp(-|x - e_j|^2 / (2 gamma)),        |.|^2 / gamma summed over dimensions,

so that ``E[e | x, {e, e_1, ..., e_R}] = sum_j w_j e_j``. It has the same mean given x as e itself,
``E[e | x]``, for any R, and less variance (Rao and Blackwell). Regression on it has the same
solution, and converges faster. Such targets, with all points of a batch, were proposed by Xu, Tong
and Jaakkola (2023) as stable target fields.

Where noise is narrow, few of the further points are near enough to x to matter. There are therefore
many of them, and x uses those within three standard deviations of the noise along one axis. The
interval depends on x alone. If e is inside, then given the number of points inside, these are
independent draws of the distribution there, and so is e, as long as it is not revealed which of
them x was made from. The argument above therefore applies to them. If e is outside, three times in
a thousand, the target stays e. Both cases have the right mean. If an interval contains more points
than can be afforded, x uses those in one half of the points, or one half of that, and so on. The
half is drawn at random for each x, so that two samples of a batch rarely share all of their points.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, expm1, log2
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError, require_known
from torch_utils.seeds import seeded_generator
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.names import BY_WEIGHT, T_SAMPLINGS

HALF_WIDTH = 3.0
"""Half width of the interval along the axis around x, in standard deviations of the noise."""
MOST_NEAR = 512
"""Largest number of further points that a target is averaged over."""
LOT_BITS = 30
"""Number of bits of a lot, a random integer: the first bit chooses a half, the next a half of that,
and so on.
"""
LEAST = -80.0
"""Smallest logarithm of a weight, 1e-35: smaller weights are negligible, and processors take ten
times as long for numbers below 1e-38.
"""


@dataclass(frozen=True)
class OtherPoints:
    """Further points of the distribution, with an index to find the points near a noisy point.

    The index has sets of points: all points, their two halves as drawn, the four quarters, and so
    on, each sorted along one axis. A position in a sorted set is converted to a position in a
    sorted half without a search, by counting the earlier points that belong to the half.

    Attributes:
        columns: Points of all sets ``[D, (S + 1) N]``, for S rounds of halving, followed by
            ``most`` columns of padding.
        keys: Coordinates of all points along the axis, increasing, ``[N]``.
        uppers: For each of S rounds of halving, counts ``[N + 1]``: the number of points before
            each position that belong to an upper half.
        axis: Axis along which near points are searched.
        most: Largest number of points that one noisy point uses.
    """

    columns: Tensor
    keys: Tensor
    uppers: tuple[Tensor, ...]
    axis: int
    most: int

    @classmethod
    def from_points(cls, points: Tensor, axis: int, most: int = MOST_NEAR) -> "OtherPoints":
        """Create the index of points ``[R, D]``, without the last few if R cannot be halved evenly.

        Args:
            points: The points.
            axis: Axis along which near points are searched.
            most: Largest number of points that one noisy point uses.
        """
        splits = max(0, ceil(log2(len(points) / most)))
        points = points[: len(points) >> splits << splits]
        keys, order = points[:, axis].sort()
        orders, uppers = [order], []
        for split in range(splits):
            order, upper = _halved(order, 1 << split)
            orders.append(order)
            uppers.append(upper)
        padded = torch.cat([*orders, order.new_zeros(most)])
        columns = points.T.float().index_select(1, padded)
        return cls(columns, keys, tuple(uppers), axis, most)

    def near(self, center: Tensor, half_width: Tensor, lots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points ``[D, B, most]`` whose coordinates on the axis are within intervals.

        Args:
            center: Centers of the intervals ``[B]``.
            half_width: Half widths of the intervals ``[B]``.
            lots: Random integers ``[B]`` of ``LOT_BITS`` bits. The bits choose a half of the
                points, then a half of this half and so on, until at most ``most`` points are in the
                interval.

        Returns:
            The points, and the number ``[B]`` of points in each interval. Further columns are
            padding.
        """
        first = torch.searchsorted(self.keys, center - half_width)
        after = torch.searchsorted(self.keys, center + half_width, right=True)
        ends, number = torch.stack([first, after]), torch.zeros_like(lots)
        offset, half = torch.zeros_like(lots), len(self.keys)
        for split, uppers in enumerate(self.uppers):
            half //= 2
            upper = lots >> (LOT_BITS - 1 - split) & 1
            # Count the points before a place in its set that belong to the chosen half.
            before = uppers[ends] - number * half
            before = torch.where(upper.bool(), before, ends - 2 * number * half - before)
            deeper = ends[1] - ends[0] > self.most
            number = torch.where(deeper, 2 * number + upper, number)
            ends = torch.where(deeper, number * half + before, ends)
            offset += deeper * len(self.keys)
        runs = self.columns.unfold(1, self.most, 1)
        return runs[:, offset + ends[0]], ends[1] - ends[0]


def _halved(order: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """Split the ordered points ``[N]`` of each of ``sets`` sets in two, which keep their order.

    Return these ``[N]``, half set by half set, and the number of points before each place in the
    first order that go to an upper half ``[N + 1]``.
    """
    count, half = len(order), len(order) // sets // 2
    place = torch.arange(count, device=order.device).view(sets, -1)
    earlier = half * torch.arange(sets, device=order.device)[:, None]  # uppers in earlier sets
    upper = order.view(sets, -1) >= 2 * earlier + half
    ahead = order.new_zeros(count + 1)
    torch.cumsum(upper.flatten(), dim=0, out=ahead[1:])
    before = ahead[:-1].view(sets, -1) - earlier
    place = torch.where(upper, 2 * earlier + half + before, place - before)
    return torch.empty_like(order).scatter_(0, place.flatten(), order), ahead


class OthersOfBatch(NamedTuple):
    """Further points for averaging targets, with a random choice for each sample of a batch.

    Attributes:
        points: The further points, with their index.
        lots: Random integers ``[B]`` that choose the sets of points in the index to search.
    """

    points: OtherPoints
    lots: Tensor

    def of_rows(self, rows: slice) -> "OthersOfBatch":
        """Return the choices of the samples in a slice."""
        return self._replace(lots=self.lots[rows])


def informative_axis(basis: EigenBasis, schedule: NoiseSchedule, t_max: float) -> int:
    """Return the index of the axis with the least noise relative to the data.

    Noise is compared at half of the end time.

    This axis distinguishes noisy points best. The axis is a compressed dimension, or the first
    dimension.
    """
    time = torch.full((), t_max / 2, dtype=torch.float64, device=basis.eigenvalues.device)
    return int((basis.eigenvalues / schedule.noise_variance(time)).argmax())


def averaging_shift(
    clean: Tensor, noise: Tensor, variance: Tensor, others: OthersOfBatch
) -> Tensor:
    """Return the shifts ``[B, D]`` from clean points to averaged targets.

    A target is averaged over the further points near the noisy point. The shift is zero if no
    points are near, or if the noise is so large that the clean point is outside the interval.
    Shifts are accurate to about 1e-7 of the points' size, however small the noise is.

    Args:
        clean: Clean points ``e [B, D]`` of the noisy points.
        noise: Unit noise that was added ``[B, D]``.
        variance: Variance of the noise, ``gamma [B, D]``.
        others: Further points of the same distribution.
    """
    std = variance.sqrt()
    points, axis = others.points, others.points.axis
    center = clean[:, axis] + std[:, axis] * noise[:, axis]
    near, counts = points.near(center, HALF_WIDTH * std[:, axis], others.lots)
    # In single precision, as far points have no weight. Loop over dimensions, as there are few:
    # sums over a short last axis take four times as long.
    near.sub_(clean.T.float()[..., None])
    own, scale = noise.T.float(), std.T.float().reciprocal()
    # Half of n^2 - (d / std - n)^2, for positions d relative to e: e itself has the weight 1.
    log_weights = torch.zeros_like(near[0])
    for d, square, linear in zip(near, -0.5 * scale.square(), scale * own, strict=True):
        log_weights += (d * square[:, None]).add_(linear[:, None]).mul_(d)
    beyond = torch.arange(points.most, device=clean.device) >= counts[:, None]
    log_weights.masked_fill_(beyond, -torch.inf)
    weights = log_weights.clamp_(min=LEAST).exp_()
    shift = torch.stack([(weights * d).sum(dim=1) for d in near], dim=1)
    inside = noise[:, axis, None].abs() <= HALF_WIDTH
    return (inside * shift / (1 + weights.sum(dim=1, keepdim=True))).to(clean.dtype)


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
