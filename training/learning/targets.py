"""Targets of less noise: where a noisy point came from, averaged over where it may have come from.

A noisy point ``x = e + n`` is regressed on the clean point e it was made of, of which the denoiser
learns the mean. Let ``e_1, ..., e_R`` be further points of the same law, drawn independently of x.
If it were not known which of the 1 + R points x was made of, each would have been it with the
probability

    w_j ~ exp(-|x - e_j|^2 / (2 gamma)),        |.|^2 / gamma summed over dimensions,

so that ``E[e | x, {e, e_1, ..., e_R}] = sum_j w_j e_j``. It has the same mean given x as e itself,
``E[e | x]``, whatever R is, and less variance (Rao and Blackwell). Regression on it has the same
answer, and gets there sooner. Targets like these, with all of a batch, were proposed by Xu, Tong
and Jaakkola (2023) as stable target fields.

Where noise is narrow, few of the further points are near enough to x to matter. So there are many
of them, and x takes those that are within three standard deviations of the noise along one axis.
The interval depends on x alone. If e is inside, then given the number of points that are, they are
independent draws of the law there, and so is e, until it is said which of them x was made of. So
all of the above holds for them. If e is outside, three times in a thousand, it stays what it is.
Both have the right mean, in each case. If an interval holds more than can be afforded, x takes
those among one half of the points, or one half of that, and so on. Which half is drawn by lot for
each x, so that two samples of a batch rarely share all of their points.
"""

from dataclasses import dataclass
from math import ceil, log2
from typing import NamedTuple

import torch
from torch import Tensor

from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import NoiseSchedule

HALF_WIDTH = 3.0
"""Standard deviations of noise along the axis on each side of x."""
MOST_NEAR = 512
"""The most further points that a target is averaged over."""
LOT_BITS = 30
"""Of a lot, an integer: the first says which half, the next which half of that, and so on."""
LEAST = -80.0
"""Of the logarithm of a weight, that is 1e-35: less is nothing, and numbers below 1e-38 cost a
processor ten times as much."""


@dataclass(frozen=True)
class OtherPoints:
    """Further points of the law, of which a noisy point finds those that are near.

    Their sets are all points, their two halves as they were drawn, the four quarters, and so on,
    each in the order of one axis. From a place in the order of a set, one in that of its half
    follows without a search: it is the number of points before it that belong to the half.

    Attributes:
        columns: The sets' points ``[D, (S + 1) N]``, and then padding, so that ``most`` columns
            begin at each.
        keys: Coordinates of all along the axis, rising, ``[N]``.
        uppers: Of each of S splits, how many points before each place in the order of the sets
            that are split go to an upper half, ``[N + 1]``.
        axis: Along which points are near.
        most: Most points that one noisy point takes.
    """

    columns: Tensor
    keys: Tensor
    uppers: tuple[Tensor, ...]
    axis: int
    most: int

    @classmethod
    def of(cls, points: Tensor, axis: int, most: int = MOST_NEAR) -> "OtherPoints":
        """Orders points ``[R, D]``: all but the last few, if they have no such parts."""
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
        """Points ``[D, B, most]`` whose place on the axis is within intervals, and how many these
        are ``[B]``: what comes after them is to be ignored.

        Args:
            center: ``[B]``.
            half_width: ``[B]``.
            lots: Random integers ``[B]`` of LOT_BITS bits, by which each interval is given a half,
                a half of that and so on, until it holds no more than can be taken.
        """
        first = torch.searchsorted(self.keys, center - half_width)
        after = torch.searchsorted(self.keys, center + half_width, right=True)
        ends, number = torch.stack([first, after]), torch.zeros_like(lots)
        offset, half = torch.zeros_like(lots), len(self.keys)
        for split, uppers in enumerate(self.uppers):
            half //= 2
            upper = lots >> (LOT_BITS - 1 - split) & 1
            # Of the points before a place in its set, those that belong to the chosen half.
            before = uppers[ends] - number * half
            before = torch.where(upper.bool(), before, ends - 2 * number * half - before)
            deeper = ends[1] - ends[0] > self.most
            number = torch.where(deeper, 2 * number + upper, number)
            ends = torch.where(deeper, number * half + before, ends)
            offset += deeper * len(self.keys)
        runs = self.columns.unfold(1, self.most, 1)
        return runs[:, offset + ends[0]], ends[1] - ends[0]


def _halved(order: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """Splits the numbers of points ``[N]``, set by set, of so many sets in two, which keep their
    order. Returns these ``[N]``, half set by half set, and how many of the points before each place
    in the first order go to an upper half ``[N + 1]``."""
    count, half = len(order), len(order) // sets // 2
    place = torch.arange(count, device=order.device).view(sets, -1)
    earlier = half * torch.arange(sets, device=order.device)[:, None]  # uppers of the sets before
    upper = order.view(sets, -1) >= 2 * earlier + half
    ahead = order.new_zeros(count + 1)
    torch.cumsum(upper.flatten(), dim=0, out=ahead[1:])
    before = ahead[:-1].view(sets, -1) - earlier
    place = torch.where(upper, 2 * earlier + half + before, place - before)
    return torch.empty_like(order).scatter_(0, place.flatten(), order), ahead


class OthersOfBatch(NamedTuple):
    """Further points, and for each sample of a batch a lot ``[B]``: a random integer that says
    among which of them it looks for those that are near."""

    points: OtherPoints
    lots: Tensor

    def of_rows(self, rows: slice) -> "OthersOfBatch":
        """Those of some samples."""
        return self._replace(lots=self.lots[rows])


def telling_axis(basis: EigenBasis, schedule: NoiseSchedule, t_max: float) -> int:
    """The axis along which noise leaves most to tell points apart by: of least noise for what data
    vary, half way. A compressed one, or the first."""
    time = torch.full((), t_max / 2, dtype=torch.float64, device=basis.eigenvalues.device)
    return int((basis.eigenvalues / schedule.noise_variance(time)).argmax())


def averaging_shift(
    clean: Tensor, noise: Tensor, variance: Tensor, others: OthersOfBatch
) -> Tensor:
    """What to add to clean points to have the mean of these and of the others that are near their
    noisy ones, ``[B, D]``: zero where there are none, or where the noise is too large for the
    clean point to be near itself.

    It is right to about 1e-7 of the points' size, however small the noise is.

    Args:
        clean: What noisy points were made of, ``e [B, D]``.
        noise: The unit noise that was added ``[B, D]``.
        variance: That of the noise, ``gamma [B, D]``.
        others: Further points of the law of the clean ones.
    """
    std = variance.sqrt()
    points, axis = others.points, others.points.axis
    center = clean[:, axis] + std[:, axis] * noise[:, axis]
    near, counts = points.near(center, HALF_WIDTH * std[:, axis], others.lots)
    # In single precision: what is far has no weight. And dimension by dimension, of which there are
    # few: sums over a short last axis take four times as long.
    near.sub_(clean.T.float()[..., None])
    own, scale = noise.T.float(), std.T.float().reciprocal()
    # Half of n^2 - (d / std - n)^2, for places d relative to e: e itself has the weight 1.
    log_weights = torch.zeros_like(near[0])
    for d, square, linear in zip(near, -0.5 * scale.square(), scale * own, strict=True):
        log_weights += (d * square[:, None]).add_(linear[:, None]).mul_(d)
    beyond = torch.arange(points.most, device=clean.device) >= counts[:, None]
    log_weights.masked_fill_(beyond, -torch.inf)
    weights = log_weights.clamp_(min=LEAST).exp_()
    shift = torch.stack([(weights * d).sum(dim=1) for d in near], dim=1)
    inside = noise[:, axis, None].abs() <= HALF_WIDTH
    return (inside * shift / (1 + weights.sum(dim=1, keepdim=True))).to(clean.dtype)
