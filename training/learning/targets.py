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
there, and so is e, except once in 1.7 million; so all of the above holds for them. If an interval
holds more than can be afforded, x takes those among the first half of the points as they were
drawn, or the first quarter, and so on: their order says nothing of where they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import NoiseSchedule

HALF_WIDTH = 5.0
"""Standard deviations of noise along the axis on each side of x."""
MOST_NEAR = 512
"""The most further points that a target is averaged over."""
FARTHEST = 160.0
"""Squared distance beyond that of e, in units of the noise, from which on a weight is 1e-35: less
is nothing, and numbers below 1e-38 cost a processor ten times as much."""


@dataclass(frozen=True)
class OtherPoints:
    """Further points of the law, of which a noisy point finds those that are near.

    Attributes:
        points: All ``[N, D]``, then the first half of them, the first quarter, ..., each of these
            levels in the order of the axis; then padding, so that every run has ``most`` rows.
        keys: Coordinates along the axis ``[N]``, moved so that all levels are one rising sequence.
        shifts: By how much each level is moved, ``[L]``.
        reach: Largest absolute coordinate along the axis, ``[]``.
        axis: Along which points are near.
        most: Most points that one noisy point takes.
    """

    points: Tensor
    keys: Tensor
    shifts: Tensor
    reach: Tensor
    axis: int
    most: int

    @classmethod
    def of(cls, points: Tensor, axis: int, most: int = MOST_NEAR) -> "OtherPoints":
        """Finds places for points ``[R, D]``."""
        tiny = torch.finfo(points.dtype).tiny  # or levels would not be apart where all is 0
        reach, levels = points[:, axis].abs().max().clamp(min=tiny), [points]
        while len(levels[-1]) > most:
            levels.append(points[: len(levels[-1]) // 2])
        levels = [level[level[:, axis].argsort()] for level in levels]
        shifts = 4 * reach * torch.arange(len(levels), device=points.device, dtype=points.dtype)
        moved = [level[:, axis] + shift for level, shift in zip(levels, shifts, strict=True)]
        padded = torch.cat([*levels, points.new_zeros(most, points.shape[1])]).float()
        return cls(padded, torch.cat(moved), shifts, reach, axis, most)

    def near(self, center: Tensor, half_width: Tensor) -> tuple[Tensor, Tensor]:
        """Points ``[B, D, most]`` whose place on the axis is within intervals, and how many these
        are ``[B, 1]``: what comes after them is to be ignored.

        Args:
            center: ``[B]``.
            half_width: ``[B]``.
        """
        ends = torch.stack([center - half_width, center + half_width], dim=1)
        # Half way to the next level there is nothing.
        ends = ends.clamp(-2 * self.reach, 2 * self.reach)[..., None] + self.shifts
        first = torch.searchsorted(self.keys, ends[:, 0].contiguous())
        after = torch.searchsorted(self.keys, ends[:, 1].contiguous(), right=True)
        counts = after - first
        # The first level that holds no more than can be taken; the last one never does.
        level = (counts <= self.most).int().argmax(dim=1, keepdim=True)
        runs = self.points.unfold(0, self.most, 1)
        return runs[first.gather(1, level)[:, 0]], counts.gather(1, level)


def telling_axis(basis: EigenBasis, schedule: NoiseSchedule, t_max: float) -> int:
    """The axis along which noise leaves most to tell points apart by: of least noise for what data
    vary, half way. A compressed one, or the first."""
    time = torch.full((), t_max / 2, dtype=torch.float64, device=basis.eigenvalues.device)
    return int((basis.eigenvalues / schedule.noise_variance(time)).argmax())


def averaged_origin(clean: Tensor, noise: Tensor, variance: Tensor, others: OtherPoints) -> Tensor:
    """Where noisy points came from ``[B, D]``: the mean of e and of the others that are near.

    Args:
        clean: What they were made of, ``e [B, D]``.
        noise: The unit noise that was added ``[B, D]``.
        variance: That of the noise, ``gamma [B, D]``.
        others: Further points of the law of the clean ones.
    """
    std = variance.sqrt()
    noisy = clean + std * noise
    near, counts = others.near(noisy[:, others.axis], HALF_WIDTH * std[:, others.axis])
    # In single precision: what is far has no weight. And dimension by dimension, of which there are
    # few: sums over a short last axis take four times as long.
    x, scale = (noisy / std).float(), std.float().reciprocal()
    distance = torch.zeros_like(near[:, 0])
    for e, f, z in zip(near.unbind(dim=1), scale.T, x.T, strict=True):
        distance += (e * f[:, None]).sub_(z[:, None]).square_()
    distance.masked_fill_(torch.arange(others.most, device=clean.device) >= counts, torch.inf)
    # In units of the weight of e, whose own distance is that of a draw of the noise.
    own = noise.float().square().sum(dim=1, keepdim=True)
    weights = distance.sub_(own).clamp_(max=FARTHEST).mul_(-0.5).exp_()
    averaged = torch.stack([(weights * e).sum(dim=1) for e in near.unbind(dim=1)], dim=1)
    total = 1 + weights.sum(dim=1, keepdim=True)
    return ((clean.float() + averaged) / total).to(clean.dtype)
