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
of them, and x takes those that are within five standard deviations of the noise along one axis. The
interval depends on x alone. Given their number, the points inside are independent draws of the law
there; and so is e, until it is said which of them x was made of, except once in 1.7 million that it
lies outside. So all of the above holds for them. If an interval holds more than can be afforded, x
takes those among one half of the points, or one quarter of them, and so on. Which half is drawn by
lot for each x, so that two samples of a batch rarely share all of their points.
"""

from dataclasses import dataclass
from math import ceil, log2
from typing import NamedTuple

import torch
from torch import Tensor

from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import NoiseSchedule

HALF_WIDTH = 5.0
"""Standard deviations of noise along the axis on each side of x."""
MOST_NEAR = 512
"""The most further points that a target is averaged over."""
LOTS = 1 << 30
"""Lots are integers below this. By their first bits they tell halves, then quarters, and so on."""
FARTHEST = 160.0
"""Squared distance beyond that of e, in units of the noise, from which on a weight is 1e-35: less
is nothing, and numbers below 1e-38 cost a processor ten times as much."""


@dataclass(frozen=True)
class OtherPoints:
    """Further points of the law, of which a noisy point finds those that are near.

    Attributes:
        points: Rows of D: all points, then their halves as they were drawn, their quarters, ...,
            the rows of each such part in the order of the axis; then padding, so that every run has
            ``most`` rows.
        keys: Coordinates along the axis, moved so that those of all parts are one rising sequence.
        moves: By how much those of the first part of each level are moved, ``[L]``.
        parts: Parts of each level: ``[1, 2, 4, ...]``.
        reach: Largest absolute coordinate along the axis, ``[]``.
        axis: Along which points are near.
        most: Most points that one noisy point takes.
    """

    points: Tensor
    keys: Tensor
    moves: Tensor
    parts: Tensor
    reach: Tensor
    axis: int
    most: int

    @classmethod
    def of(cls, points: Tensor, axis: int, most: int = MOST_NEAR) -> "OtherPoints":
        """Finds places for points ``[R, D]``: all but the last few, if they have no such parts."""
        splits = max(0, ceil(log2(len(points) / most)))
        points = points[: len(points) >> splits << splits]
        along = points[:, axis]
        tiny = torch.finfo(points.dtype).tiny  # or parts would not be apart where all is 0
        reach = along.abs().max().clamp(min=tiny)
        orders = [along.argsort()[None]]
        for _ in range(splits):
            orders.append(_halved(orders[-1]))
        first, moves, keys = 0, [], []
        for order in orders:
            number = torch.arange(first, first + len(order), device=points.device)
            move = 4 * reach * number.to(points.dtype)
            keys.append((along[order] + move[:, None]).flatten())
            moves.append(move[0])
            first += len(order)
        single = points.float()
        rows = [single[order.flatten()] for order in orders]
        padded = torch.cat([*rows, single.new_zeros(most, points.shape[1])])
        parts = 2 ** torch.arange(len(orders), device=points.device)
        return cls(padded, torch.cat(keys), torch.stack(moves), parts, reach, axis, most)

    def near(self, center: Tensor, half_width: Tensor, lots: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[B, D, most]`` whose place on the axis is within intervals, and how many these
        are ``[B, 1]``: what comes after them is to be ignored.

        Args:
            center: ``[B]``.
            half_width: ``[B]``.
            lots: Random integers ``[B]`` below LOTS, by which each interval is given a half, a
                quarter of that and so on, if it holds more than can be taken.
        """
        ends = torch.stack([center - half_width, center + half_width], dim=1)
        # Half way to the next part there is nothing.
        moves = self.moves + 4 * self.reach * (lots[:, None] * self.parts // LOTS)
        ends = ends.clamp(-2 * self.reach, 2 * self.reach)[..., None] + moves[:, None]
        first = torch.searchsorted(self.keys, ends[:, 0].contiguous())
        after = torch.searchsorted(self.keys, ends[:, 1].contiguous(), right=True)
        counts = after - first
        # The first level whose part holds no more than can be taken; the last one never does.
        level = (counts <= self.most).int().argmax(dim=1, keepdim=True)
        runs = self.points.unfold(0, self.most, 1)
        return runs[first.gather(1, level)[:, 0]], counts.gather(1, level)


def _halved(order: Tensor) -> Tensor:
    """Numbers of points ``[P, S]``, of consecutive parts, each in an order, as parts of half the
    size ``[2P, S/2]``, in the same order."""
    half = order.shape[1] // 2
    upper = order // half % 2
    among_upper = upper.cumsum(dim=1)
    among_lower = torch.arange(order.shape[1], device=order.device) - among_upper
    place = torch.where(upper.bool(), half - 1 + among_upper, among_lower)
    return torch.empty_like(order).scatter_(1, place, order).view(-1, half)


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
    noisy ones, ``[B, D]``: zero where there are none.

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
    near.sub_(clean.float()[..., None])
    scale, own = std.float().reciprocal(), noise.float()
    distance = torch.zeros_like(near[:, 0])
    for e, f, n in zip(near.unbind(dim=1), scale.T, own.T, strict=True):
        distance += (e * f[:, None]).sub_(n[:, None]).square_()
    distance.masked_fill_(torch.arange(points.most, device=clean.device) >= counts, torch.inf)
    # In units of the weight of e, whose own distance is that of a draw of the noise.
    distance.sub_(own.square().sum(dim=1, keepdim=True))
    weights = distance.clamp_(max=FARTHEST).mul_(-0.5).exp_()
    shift = torch.stack([(weights * e).sum(dim=1) for e in near.unbind(dim=1)], dim=1)
    return (shift / (1 + weights.sum(dim=1, keepdim=True))).to(clean.dtype)
