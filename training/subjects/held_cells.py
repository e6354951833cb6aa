"""How far out held-out cells are, as a network sees them: by this its intervals are set.

Of a column with n held-out cells, central intervals of the flow with content c hold ``F(c)`` of
them. The interval that is to hold a share s is the one with the content c where

    (n F(c) + m c) / (n + m) = s,

as if m more cells had been held out, and were where the flow says: few held-out cells leave the
flow's own content as it is, many set it. Other cells of their rows are known as often as those of
a question in the training are at most, so that this is right on average over questions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream

OWN = 50
"""m."""
KNOWN = 0.8
"""Of the other cells of a row that are there."""
MOST_CELLS, MOST_KNOTS = 1000, 200
"""Of a column: cells that are looked at, and contents that are kept, evenly many cells apart."""
Ranks = Callable[[np.ndarray, np.ndarray, int, torch.Generator], np.ndarray]
"""Of ``RecordFlow``."""


@dataclass(frozen=True, eq=False)
class HeldCells:
    """Contents of central intervals whose ends held-out cells are at.

    Attributes:
        counts: Cells of each of P columns, n; 0 of one without intervals.
        contents: Of each, rising, ``[knots]``.
    """

    counts: Sequence[int]
    contents: Sequence[np.ndarray]

    @classmethod
    def of(cls, ranks: Ranks, rows: np.ndarray, places: Sequence[int], seed: int) -> "HeldCells":
        """Those of rows ``[n, P]`` that were held out, in columns of numbers at such places."""
        counts, contents = [0] * rows.shape[1], [np.zeros(0)] * rows.shape[1]
        for place in places:
            generator = seeded_generator("cpu", seed, Stream.HELD_OUT, place)
            own = rows[~np.isnan(rows[:, place])][:MOST_CELLS]
            if not len(own):
                continue
            known = torch.rand(own.shape, generator=generator).numpy() < KNOWN
            known[:, place] = False
            central = np.abs(2 * ranks(own, known & ~np.isnan(own), place, generator) - 1)
            kept = np.linspace(0, len(own) - 1, min(len(own), MOST_KNOTS)).round().astype(int)
            counts[place], contents[place] = len(own), np.sort(central)[kept]
        return cls(counts, contents)

    def content(self, place: int, share: float) -> float:
        """Of the interval of a column that is to hold a share."""
        own, count = self.contents[place], self.counts[place]
        if not count:
            return share
        # F, of which each knot has as many cells below it as above in its place.
        below = (np.arange(len(own)) + 0.5) / len(own)
        ends = np.concatenate([[0.0], own, [1.0]])
        held = np.concatenate([[0.0], below, [1.0]])
        return float(np.interp(share, (count * held + OWN * ends) / (count + OWN), ends))

    @classmethod
    def read(cls, listed: object, columns: int, broken: Exception) -> "HeldCells | None":
        """What ``listed`` gave; None of None. Raises an error if it is no list of so many."""
        if listed is None:
            return None
        if not (isinstance(listed, list) and len(listed) == columns):
            raise broken
        counts, contents = [], []
        for pair in listed:
            try:
                count, own = int(pair[0]), np.array(pair[1], dtype=np.float64)
            except (TypeError, ValueError, IndexError):
                raise broken from None
            inside = own.ndim == 1 and bool(((own >= 0) & (own <= 1)).all())
            if not (inside and bool((np.diff(own) >= 0).all()) and (len(own) > 0) == (count > 0)):
                raise broken
            counts.append(count)
            contents.append(own)
        return cls(counts, contents)

    @property
    def listed(self) -> list[list[object]]:
        """As JSON has them."""
        pairs = zip(self.counts, self.contents, strict=True)
        return [[count, own.round(6).tolist()] for count, own in pairs]
