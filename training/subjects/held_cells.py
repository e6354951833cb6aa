"""How far out held-out cells are, as a network sees them: by this its intervals are set.

Of a column with n held-out cells, central intervals of the flow with content c hold ``F(c)`` of
them. The interval that is to hold a share s is the one with the content c where

    (n F(c) + m c) / (n + m) = s,

as if m more cells had been held out, and were where the flow says: few held-out cells leave the
flow's own content as it is, many set it. F is measured twice, with all other cells of a row known
that are there, and with four of five; between these two shares of known cells c is linear.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.arrays import evenly
from training.measure.posterior.coverage import central_values
from training.subjects.record_margins import by_column

OWN = 50
"""m."""
KNOWN = (0.8, 1.0)
"""Shares of the other cells of a row that are there."""
MOST_CELLS, MOST_KNOTS = 1000, 200
"""Of a column: cells that are looked at, and contents that are kept, evenly many cells apart."""
Ranks = Callable[[np.ndarray, np.ndarray, int, torch.Generator], np.ndarray]
"""Of ``RecordFlow``."""


@dataclass(frozen=True, eq=False)
class HeldCells:
    """Contents of central intervals whose ends held-out cells are at.

    Attributes:
        counts: Cells of each of P columns, n; 0 of one without intervals.
        known: Which share of the other cells was known, of each column rising ``[2]``.
        contents: Of each column, at each of these, rising, ``[2, knots]``.
    """

    counts: Sequence[int]
    known: Sequence[np.ndarray]
    contents: Sequence[np.ndarray]

    @classmethod
    def of(cls, ranks: Ranks, rows: np.ndarray, places: Sequence[int], seed: int) -> "HeldCells":
        """Those of rows ``[n, P]`` that were held out, in columns of numbers at such places."""
        counts, none = [0] * rows.shape[1], np.zeros((2, 0))
        shares, contents = [np.zeros(2)] * rows.shape[1], [none] * rows.shape[1]
        for place in places:
            own = rows[~np.isnan(rows[:, place])][:MOST_CELLS]
            if not len(own):
                continue
            kept, parts = evenly(len(own), MOST_KNOTS), []
            for at, share in enumerate(KNOWN):
                generator = seeded_generator("cpu", seed, Stream.HELD_OUT, place, at)
                chosen = torch.rand(own.shape, generator=generator) < share
                known = ~np.isnan(own) & chosen.numpy()
                known[:, place] = False
                central = central_values(torch.from_numpy(ranks(own, known, place, generator)))
                parts.append((known_shares(known).mean(), central.sort().values.numpy()[kept]))
            counts[place] = len(own)
            shares[place], contents[place] = (np.array(each) for each in zip(*parts, strict=True))
        return cls(counts, shares, contents)

    def content(self, place: int, share: float, known: np.ndarray) -> np.ndarray:
        """Of the intervals ``[n]`` of a column that are to hold a share of the cells, by which
        cells are known where it is asked ``[n, P]``. A row's interval is by its own alone, whatever
        the others of a file lack."""
        if not self.counts[place]:
            return np.full(len(known), share)
        count, each = self.counts[place], []
        for own in self.contents[place]:
            # An interval that ends at the k-th of n cells holds k / (n + 1) of further ones.
            kept, ends = evenly(count, len(own)), np.concatenate([[0.0], own, [1.0]])
            held = np.concatenate([[0.0], (kept + 1) / (count + 1), [1.0]])
            each.append(np.interp(share, (count * held + OWN * ends) / (count + OWN), ends))
        return np.interp(known_shares(known), self.known[place], each)

    @classmethod
    def read(cls, listed: object, columns: int, broken: Exception) -> "HeldCells | None":
        """What ``listed`` gave; None of None. Raises an error if it is no list of so many."""
        if listed is None:
            return None
        columns_of = []
        for column in by_column(listed, columns, broken):
            try:
                count, known, own = column
                known, own = np.array(known, dtype=np.float64), np.array(own, dtype=np.float64)
                fits = known.shape == (2,) and own.shape == (2, min(count, MOST_KNOTS))
                rise = all((np.diff(each) >= 0).all() for each in (known, own))
                inside = all(((each >= 0) & (each <= 1)).all() for each in (known, own))
            except (TypeError, ValueError):
                raise broken from None
            if not (isinstance(count, int) and count <= MOST_CELLS and fits and rise and inside):
                raise broken
            columns_of.append((count, known, own))
        return cls(*zip(*columns_of, strict=True))

    @property
    def listed(self) -> list[list[object]]:
        """As JSON has them."""
        columns = zip(self.counts, self.known, self.contents, strict=True)
        return [[count, known.tolist(), own.round(6).tolist()] for count, known, own in columns]


def known_shares(known: np.ndarray) -> np.ndarray:
    """Of the other cells of each row ``[n]``, of which ``[n, P]`` that of a column is not known."""
    return np.asarray(known.sum(axis=1) / max(1, known.shape[1] - 1))
