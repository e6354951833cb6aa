"""Rows among their nearest neighbors, a new one counted as one of them.

What is said of each of n + 1 rows alike has ranks that are even, if they are exchangeable (see
``conformal``). Two such numbers are made of the K nearest others of each row.

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

import torch
from torch import Tensor

from training.measure.conformal import AT_ONCE, placed

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
        new row ``[M, C]``, and the distance ``[M]`` of the farthest of these.

        Args:
            scores: Q of each known row, in [0, 1], ``[n, Q]``.
            new: The rows.
            shares: Between 0 and 1.
        """
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
