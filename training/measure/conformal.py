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
such a number: the smallest counts most, as in the harmonic mean p (Wilson 2019). Families of them
are joined in the same way, so that one number that sees what no other does is not drowned by many.

*Neighbors.* What is said of each of n + 1 rows alike has ranks that are even, if they are
exchangeable. Two such numbers are made of the K nearest others of each row.

*How far it is from them*, beside how far they are from theirs: with a_i the mean distance of row i
to its neighbors N_i, and c, below which distances are none, for rows that repeat each other,

    t_i = (a_i + c) / (mean of a_j over N_i + c),

which is large in gaps, and beside narrow clusters too (the local outlier factor of Breunig et al.
2000, by mean distances).

*Where its score is among theirs*, u_i = #{j in N_i: s_j < s_i}. Of the new row this grows with its
score, so that the scores s for which u is among the smallest k of all n + 1 reach up to one of its
neighbors':

    s <= s_(u* + 1) of the neighbors,    u* = the k-th smallest of u_1 .. u_n,  k = ceil((n + 1) l),

and hold its own with a probability of at least l (localized conformal prediction, Guan 2023). Where
the new row is a neighbor, its score counts as smaller, which only makes the u larger.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch
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
    """Contents ``[...]`` to ask for, so that a share of truths, one for all or ``[...]``, is held,
    by scores ``[n, ...]``; 1, for everything, where the truths are too few."""
    count = len(scores)
    place = placed(count, share).expand_as(scores[0])
    ordered = scores.sort(dim=0).values.gather(0, place.clamp_max(count)[None] - 1)[0]
    return ordered.masked_fill(place > count, 1.0)


def placed(truths: int, share: float | Tensor | Sequence[float]) -> Tensor:
    """k, of shares ``[...]``; more than there are truths where these are too few."""
    shares = torch.as_tensor(share, dtype=torch.float64)
    return ((truths + 1) * shares - TINY).ceil().long().clamp_min(1)


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
        from scipy.stats import beta  # takes most of a second to import

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
    smaller, even from 0 to 1 whatever the posterior is worth. Scores ``[n, V]`` are of n truths in
    any order."""
    made = torch.empty_like(scores)
    for own, other in ((0, 1), (1, 0)):
        ordered = scores[other::2].T.sort(dim=1).values.contiguous()
        below = torch.searchsorted(ordered, scores[own::2].T.contiguous()).T
        made[own::2] = (below + 0.5) / (ordered.shape[1] + 1)
    return made


def oddness(*families: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """How odd each of M new rows is among n known ones, by numbers that are larger of odder rows.

    Args:
        families: Numbers that are joined first, and then with the others: those of known rows
            ``[n, K]``, or ``[M, n, K]`` where they depend on the new row, and of new ones
            ``[M, K]``.

    Returns:
        p-values ``[M]``, at most a in a share a of rows that are like the known ones; and which
        number of all is the oddest ``[M]``.
    """
    count = len(families[0][1])
    known = [others.expand(count, *others.shape[-2:]) for others, _ in families]
    size = max(1, AT_ONCE // sum(others[0].numel() for others in known))
    p_values, oddest = [], []
    for rows in torch.split(torch.arange(count), size):
        shares, joined = [], []
        for others, (_, new) in zip(known, families, strict=True):
            own = _no_less(torch.cat([others[rows], new[rows, None]], dim=1).mT)  # [m, K, n + 1]
            shares.append(own[:, :, -1])
            joined.append(_no_less((1 / own).sum(dim=1)))
        together = sum(1 / each for each in joined)
        assert isinstance(together, Tensor)
        p_values.append(_no_less(together)[:, -1])
        oddest.append(torch.cat(shares, dim=1).argmin(dim=1))
    return torch.cat(p_values), torch.cat(oddest)


def _no_less(values: Tensor) -> Tensor:
    """The share of numbers that are no less than each ``[..., n]``."""
    values = values.contiguous()
    smaller = torch.searchsorted(values.sort(dim=-1).values, values)
    return 1 - smaller.double() / values.shape[-1]


NONE = 0.01
"""c, in the units of the rows, which are about standard deviations."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The K nearest others of each of n rows.

    Attributes:
        known: The rows ``[n, C]``.
        distances: Rising, ``[n, K]``.
        places: Of the neighbors ``[n, K]``.
    """

    known: Tensor
    distances: Tensor
    places: Tensor

    @classmethod
    def of(cls, known: Tensor, count: int) -> "Neighbors":
        """Those of rows ``[n, C]``; all others, if they are fewer than count."""
        apart = torch.cdist(known, known).fill_diagonal_(torch.inf)
        nearest = apart.topk(min(count, len(known) - 1), largest=False)
        return cls(known, nearest.values, nearest.indices)

    def relative(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """t of the known rows ``[M, n]`` and of the new one ``[M]``, for each new one ``[M, C]``
        alone."""
        count, farthest = self.places.shape[1], self.distances[:, -1]
        of_known, of_new = [], []
        for apart in self._apart(new, count):
            nearest = apart.topk(count, largest=False)
            own, enters = nearest.values.mean(dim=1), apart < farthest
            mean = (self.distances.sum(dim=1) + torch.where(enters, apart - farthest, 0.0)) / count
            leaves = torch.where(enters, own[:, None] - mean[:, self.places[:, -1]], 0.0)
            around = (mean[:, self.places].sum(dim=2) + leaves) / count
            of_known.append((mean + NONE) / (around + NONE))
            of_new.append((own + NONE) / (mean.gather(1, nearest.indices).mean(dim=1) + NONE))
        return torch.cat(of_known), torch.cat(of_new)

    def asked(self, scores: Tensor, new: Tensor, shares: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Scores ``[M, L, Q]`` up to which L shares of truths are held, by the neighbors of each
        new row ``[M, C]`` with Q scores of each known row, in [0, 1], ``[n, Q]``, and the distance
        ``[M]`` of the farthest of these."""
        (total, width), count = scores.shape, self.places.shape[1]
        size = max(1, AT_ONCE // (count * width))
        parts = zip(torch.split(self.places, size), torch.split(scores, size), strict=True)
        below = torch.cat([(scores[k] < own[:, None]).sum(dim=1) for k, own in parts])
        grows = scores[self.places[:, -1]] >= scores  # if the new row takes the last one's place
        wanted = placed(total, shares)
        contents, distances = [], []
        for apart in self._apart(new, width):
            enters = (apart < self.distances[:, -1])[:, :, None]
            ranks = (below + (enters & grows)).sort(dim=1).values  # [m, n, Q]
            most = ranks[:, wanted.clamp_max(total) - 1]  # u* [m, L, Q]
            nearest = apart.topk(count, largest=False)
            ordered = scores[nearest.indices].sort(dim=1).values  # [m, K, Q]
            own = ordered.gather(1, most.clamp_max(count - 1))
            everything = (most >= count) | (wanted > total)[:, None]
            contents.append(own.masked_fill(everything, 1.0))
            distances.append(nearest.values[:, -1])
        return torch.cat(contents), torch.cat(distances)

    def _apart(self, new: Tensor, width: int) -> Iterator[Tensor]:
        """Distances ``[m, n]`` of some new rows at a time to the known ones, of which each is to
        have so many numbers."""
        for rows in torch.split(new.to(self.known), max(1, AT_ONCE // (len(self.known) * width))):
            yield torch.cdist(rows, self.known)
