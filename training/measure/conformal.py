"""Adjusted levels with guaranteed coverage: split conformal prediction.

Each of n cases of a calibration set has a *score* in [0, 1]: the level of the smallest region of a
family that contains its true value (``posterior.coverage``). Regions at level

    q = s_(k),  k = ceil((n + 1) l),    s_(1) <= ... <= s_(n),

cover a new true value with a probability of at least l, and at most ``l + 1 / (n + 1)`` without
ties of scores, *however poor the posterior is*, if the new case is exchangeable with the
calibration set (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, "Distribution-free predictive
inference for regression"; with ranks by a posterior, Chernozhukov, Wuethrich and Zhu 2021,
"Distributional conformal prediction"). The probability is also over calibration sets. For a given
calibration set, coverage has the distribution ``Beta(k, n + 1 - k)``, which is the error that a
single calibration may have.

The same ranks measure how *odd* a case is. Among n + 1 exchangeable numbers, each is among the m
largest with a probability of ``m / (n + 1)``. Hence

    p = #{i: t_i >= t} / (n + 1),

counting the new case too, is at most a with a probability of at most a, for any number t that
treats all n + 1 cases alike. Several numbers are combined by their own p-values p_k as ``t = sum_k
1 / p_k``, which is such a number. The smallest p-value counts most, as in the harmonic mean p-value
(Wilson 2019). Families of numbers are combined in the same way, so that one number that detects
what no other does is not outweighed by many.

*Neighbors.* A number that is computed alike for each of n + 1 rows has uniform ranks if the rows
are exchangeable. Two such numbers are computed from the K nearest other rows of each row.

*Relative distance to the neighbors*: with a_i the mean distance of row i to its neighbors N_i, and
c, a distance that counts as none, so that repeated rows cause no problem,

    t_i = (a_i + c) / (mean of a_j over N_i + c),

which is large in gaps, and next to narrow clusters too (the local outlier factor of Breunig et al.
2000, with mean distances).

*Rank of the score among the neighbors' scores*, u_i = #{j in N_i: s_j < s_i}. For the new row it
increases with the row's score. The scores s with u among the smallest k of all n + 1 therefore
extend up to one of its neighbors' scores,

    s <= s_(u* + 1) of the neighbors,    u* = the k-th smallest of u_1 .. u_n,  k = ceil((n + 1) l),

and include the row's own score with a probability of at least l (localized conformal prediction,
Guan 2023). Where the new row is a neighbor of another, its score counts as smaller, which only
makes u larger.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

TINY = 1e-9
"""Tolerance for rounding errors before a value is rounded up."""
CERTAINTY = 0.9
"""Probability that the coverage of a single calibration lies in the reported range."""
AT_ONCE = 1 << 22
"""Number of values that are compared at once."""


def fewest(share: float) -> int:
    """Return the smallest size of a calibration set for bounded regions with a given coverage.

    Args:
        share: Nominal coverage.
    """
    return ceil(share / (1 - share) - TINY)


def asked(scores: Tensor, share: float | Tensor) -> Tensor:
    """Return the conformally adjusted levels ``[...]`` of regions with a given nominal coverage.

    Where the calibration set is too small, the level is 1, for unbounded regions.

    Args:
        scores: Scores ``[n, ...]`` of the calibration set.
        share: Nominal coverage, one number or ``[...]``.
    """
    count = len(scores)
    place = placed(count, share).expand_as(scores[0])
    ordered = scores.sort(dim=0).values.gather(0, place.clamp_max(count)[None] - 1)[0]
    return ordered.masked_fill(place > count, 1.0)


def placed(truths: int, share: float | Tensor | Sequence[float]) -> Tensor:
    """Return the rank ``k = ceil((n + 1) l)`` of the adjusted level among n sorted scores.

    The calibration set has size n, the first argument, and l are the nominal coverages ``[...]``.
    The rank exceeds n where the calibration set is too small for l.
    """
    shares = torch.as_tensor(share, dtype=torch.float64)
    return ((truths + 1) * shares - TINY).ceil().long().clamp_min(1)


@dataclass(frozen=True)
class Holding:
    """Actual coverage of conformal regions whose level was set by a calibration set of n cases.

    Attributes:
        truths: Size of the calibration set, n.
        share: Nominal coverage.
        mean: Mean coverage over calibration sets of size n; at least ``share``, and at most ``1 /
            (n + 1)`` more.
        low: 5 % quantile of the coverage over calibration sets.
        high: 95 % quantile of the coverage over calibration sets.
    """

    truths: int
    share: float
    mean: float
    low: float
    high: float

    @classmethod
    def by(cls, truths: int, share: float) -> "Holding":
        """Compute the coverage for a calibration set of a given size and a nominal coverage."""
        place = ceil((truths + 1) * share - TINY)
        if place > truths:
            return cls(truths, share, 1.0, 1.0, 1.0)
        tail = (1 - CERTAINTY) / 2
        from scipy.stats import beta  # takes most of a second to import

        low, high = beta.ppf([tail, 1 - tail], place, truths + 1 - place).tolist()
        return cls(truths, share, place / (truths + 1), low, high)


def recalibrated(ranks: Tensor, levels: Tensor) -> Tensor:
    """Map the levels of draws so that true values have uniform ranks among recalibrated draws.

    The map of [0, 1] to itself is the inverse of the distribution function of the ranks (Kuleshov,
    Fenner and Ermon 2018): it passes through ``(i / (n + 1), u_(i))`` for the sorted ranks u, and
    is linear in between. After a draw is moved to the mapped level, its nominal and actual level
    agree.

    Args:
        ranks: Ranks of n true values ``[n, ...]``, in [0, 1].
        levels: Levels of draws ``[S, ...]``, in [0, 1].
    """
    ranks = ranks.to(levels)
    ends = torch.zeros_like(ranks[:1])
    knots = torch.cat([ends, ranks.sort(dim=0).values, ends + 1])
    place = levels * (len(ranks) + 1)
    below = place.floor().long().clamp(0, len(ranks))
    return torch.lerp(knots.gather(0, below), knots.gather(0, below + 1), place - below)


def crossed(scores: Tensor) -> Tensor:
    """Return cross-calibrated levels ``[n, V]`` of scores.

    The level of a score is the fraction of smaller scores in the other half of the cases. Levels
    are uniform from 0 to 1 even if the posterior is poor.

    Args:
        scores: Scores ``[n, V]`` of n cases in any order.
    """
    made = torch.empty_like(scores)
    for own, other in ((0, 1), (1, 0)):
        ordered = scores[other::2].T.sort(dim=1).values.contiguous()
        below = torch.searchsorted(ordered, scores[own::2].T.contiguous()).T
        made[own::2] = (below + 0.5) / (ordered.shape[1] + 1)
    return made


def outlier_p_values(*families: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Test whether M new rows are outliers relative to n known rows.

    The test uses scores that are larger for more unusual rows.

    Args:
        families: Families of scores. The scores of a family are combined first, and then the
            families. A family has the scores of known rows ``[n, K]``, or ``[M, n, K]`` if they
            depend on the new row, and the scores of new rows ``[M, K]``.

    Returns:
        P-values ``[M]``, and the index ``[M]`` of the most extreme score of each new row. At most a
        share ``alpha`` of rows that are exchangeable with the known ones has a p-value up to
        ``alpha``.
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
    """Return, for each number ``[..., n]``, the fraction of numbers that are at least as large."""
    values = values.contiguous()
    smaller = torch.searchsorted(values.sort(dim=-1).values, values)
    return 1 - smaller.double() / values.shape[-1]


NONE = 0.01
"""Distance c that counts as none, in the units of the rows, which are about standard deviations."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The K nearest neighbors of each of n known rows among the other known rows.

    Attributes:
        known: Known rows ``[n, C]``.
        distances: Increasing distances to the neighbors ``[n, K]``.
        places: Indices of the neighbors ``[n, K]``.
    """

    known: Tensor
    distances: Tensor
    places: Tensor

    @classmethod
    def from_rows(cls, known: Tensor, count: int) -> "Neighbors":
        """Find the nearest neighbors of each known row.

        Args:
            known: Known rows ``[n, C]``.
            count: K, the number of neighbors; all other rows if there are fewer.
        """
        apart = torch.cdist(known, known).fill_diagonal_(torch.inf)
        nearest = apart.topk(min(count, len(known) - 1), largest=False)
        return cls(known, nearest.values, nearest.indices)

    def relative(self, new: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean distances of rows to their neighbors, relative to those of the neighbors.

        Each of M new rows is added to the known rows separately.

        Args:
            new: New rows ``[M, C]``.

        Returns:
            Relative distances ``[M, n]`` of the known rows, and ``[M]`` of the new row.
        """
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
        """Return local conformal levels with nominal coverages, from the neighbors of new rows.

        Args:
            scores: Q scores of each known row ``[n, Q]``, at least 0.
            new: New rows ``[M, C]``.
            shares: L nominal coverages.

        Returns:
            Levels ``[M, L, Q]``, and the distance ``[M]`` of the farthest neighbor.
        """
        (total, width), count = scores.shape, self.places.shape[1]
        size = max(1, AT_ONCE // (count * width))
        parts = zip(torch.split(self.places, size), torch.split(scores, size), strict=True)
        below = torch.cat([(scores[k] < own[:, None]).sum(dim=1) for k, own in parts])
        grows = scores[self.places[:, -1]] >= scores  # if the new row displaces the last neighbor
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
        """Yield distances ``[m, n]`` of blocks of new rows to the known ones.

        A block is sized for ``width`` values per known row.
        """
        for rows in torch.split(new.to(self.known), max(1, AT_ONCE // (len(self.known) * width))):
            yield torch.cdist(rows, self.known)
