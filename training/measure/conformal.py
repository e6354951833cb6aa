"""Levels to ask for, so that what is stated holds: split conformal prediction.

Each of n truths that were held out has a *score* in [0, 1], the content of the smallest region of a
family that holds it (``posterior.coverage``). Asked for with content

    q = s_(k),  k = ceil((n + 1) l),    s_(1) <= ... <= s_(n),

regions hold a new truth with a probability of at least l, and at most ``l + 1 / (n + 1)`` where
scores do not tie, *whatever the posterior is worth*, if the new one is exchangeable with those held
out (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, "Distribution-free predictive inference for
regression"; of ranks by a posterior, Chernozhukov, Wuethrich and Zhu 2021, "Distributional
conformal prediction"). The probability is over the truths held out, too. Given these, what regions
hold has the law ``Beta(k, n + 1 - k)``: so far may a single calibration be off.

The same ranks say how *odd* something is: of n + 1 exchangeable numbers, each is among the largest
m with a probability of ``m / (n + 1)``, and so

    p = #{i: t_i >= t} / (n + 1)

with the new one counted is at most a with a probability of at most a, for any number t that treats
all n + 1 alike. Several are joined by their own p-values p_k as ``t = sum_k 1 / p_k``, which is
such a number: the smallest counts most, as in the harmonic mean p (Wilson 2019).
"""

from dataclasses import dataclass
from math import ceil

import torch
from scipy.stats import beta
from torch import Tensor

TINY = 1e-9
"""Of what is rounded up."""
CERTAINTY = 0.9
"""Of a single calibration: how often what it holds lies in the range that is stated."""
AT_ONCE = 1 << 22
"""Numbers that are compared at a time."""


def fewest(share: float) -> int:
    """Truths without which no region but that of everything is sure to hold a share."""
    return ceil(share / (1 - share) - TINY)


def asked(scores: Tensor, share: float | Tensor) -> Tensor:
    """Contents ``[...]`` to ask for, so that a share of truths is held.

    Args:
        scores: ``[n, ...]``, of n truths.
        share: Between 0 and 1; one for all, or ``[...]``.

    Returns:
        1, for everything, where the truths are too few.
    """
    count = len(scores)
    shares = torch.as_tensor(share, dtype=torch.float64).expand_as(scores[0])
    place = ((count + 1) * shares - TINY).ceil().long().clamp_min(1)
    ordered = scores.sort(dim=0).values.gather(0, place.clamp_max(count)[None] - 1)[0]
    return ordered.masked_fill(place > count, 1.0)


def local_contents(scores: Tensor, nearest: Tensor) -> Tensor:
    """Where the score of each truth is among those of its neighbors, from 0 to 1, ``[n, ...]``.

    Levels by neighbors alone need not hold on average: those in the midst are neighbors of many.
    Asked for with what these contents hold on average (``asked``), they do, but for that a truth is
    none of its own neighbors (as in Guan 2023, "Localized conformal prediction").

    Args:
        scores: ``[n, ...]``.
        nearest: The places ``[n, K]`` of the neighbors of each, itself not among them.
    """
    size = max(1, AT_ONCE // (nearest.shape[1] * scores[0].numel()))
    parts = zip(torch.split(nearest, size), torch.split(scores, size), strict=True)
    below = torch.cat([(scores[places] < own[:, None]).sum(dim=1) for places, own in parts])
    return (below + 0.5) / (nearest.shape[1] + 1)


@dataclass(frozen=True)
class Holding:
    """What regions hold that n truths have set.

    Attributes:
        truths: n.
        share: That was stated.
        mean: Over calibrations by so many truths; at least the share, at most ``1 / (n + 1)`` more.
        low: Less is held by one calibration in twenty.
        high: More is held by one in twenty.
    """

    truths: int
    share: float
    mean: float
    low: float
    high: float

    @classmethod
    def by(cls, truths: int, share: float) -> "Holding":
        """That of so many truths."""
        place = ceil((truths + 1) * share - TINY)
        if place > truths:
            return cls(truths, share, 1.0, 1.0, 1.0)
        tail = (1 - CERTAINTY) / 2
        low, high = beta.ppf([tail, 1 - tail], place, truths + 1 - place).tolist()
        return cls(truths, share, place / (truths + 1), low, high)


def recalibrated(ranks: Tensor, levels: Tensor) -> Tensor:
    """Levels ``[...]`` taken to those at which truths are: a monotone map of [0, 1] to itself.

    It goes through ``(i / (n + 1), u_(i))`` for the sorted ranks, and is linear between: the
    inverse of their distribution function (Kuleshov, Fenner and Ermon 2018). A draw at a level,
    moved to what this makes of it, is at or below a truth as often as it should be.

    Args:
        ranks: Of n truths ``[n, ...]``, in [0, 1].
        levels: In [0, 1], ``[S, ...]``.
    """
    ranks = ranks.to(levels)
    ends = torch.zeros_like(ranks[:1])
    knots = torch.cat([ends, ranks.sort(dim=0).values, ends + 1])
    place = levels * (len(ranks) + 1)
    below = place.floor().long().clamp(0, len(ranks))
    return torch.lerp(knots.gather(0, below), knots.gather(0, below + 1), place - below)


def crossed(scores: Tensor) -> Tensor:
    """Contents ``[n, V]`` as the other half of the truths has them: shares of its scores that are
    smaller, even from 0 to 1 whatever the posterior is worth.

    Args:
        scores: ``[n, V]``, of n truths in any order.
    """
    made = torch.empty_like(scores)
    for own, other in ((0, 1), (1, 0)):
        ordered = scores[other::2].T.sort(dim=1).values.contiguous()
        below = torch.searchsorted(ordered, scores[own::2].T.contiguous()).T
        made[own::2] = (below + 0.5) / (ordered.shape[1] + 1)
    return made


def oddness(known: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """How odd each of M new rows is among n known ones, by K numbers at once.

    Args:
        known: ``[n, K]``, or ``[M, n, K]`` where they depend on the new row; larger is odder.
        new: ``[M, K]``.

    Returns:
        p-values ``[M]``, at most a in a share a of rows that are like the known ones; and which
        number is the oddest ``[M]``.
    """
    p_values, oddest = [], []
    known = known.expand(len(new), *known.shape[-2:])
    size = max(1, AT_ONCE // known[0].numel())
    for others, rows in zip(torch.split(known, size), torch.split(new, size), strict=True):
        every = torch.cat([others, rows[:, None]], dim=1).mT.contiguous()  # [B, K, n + 1]
        smaller = torch.searchsorted(every.sort(dim=2).values, every)
        own = 1 - smaller.double() / every.shape[2]  # the share that is no less
        joined = (1 / own).sum(dim=1)
        p_values.append((joined >= joined[:, -1:]).double().mean(dim=1))
        oddest.append(own[:, :, -1].argmin(dim=1))
    return torch.cat(p_values), torch.cat(oddest)
