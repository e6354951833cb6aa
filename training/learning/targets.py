"""Targets with less noise: averages of the clean points that a noisy point may come from.

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

from dataclasses import dataclass
from math import ceil, log2
from typing import NamedTuple

import torch
from torch import Tensor

from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import NoiseSchedule

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
