"""Split conformal calibration of the intervals of a network of records, by its held-out cells.

The score of a held-out cell is the content of the smallest central interval of the flow that covers
the cell. The interval is taken as it is written: rounded to the bins of the column, and within its
range. With n scores ``s_(1) <= ... <= s_(n)`` of a column, an interval that is to cover a share l
of new cells has the content

    s_(k),    k = ceil((n + 1) l),

and covers a new cell with a probability of at least l, and at most ``l + 1 / (n + 1)`` if scores do
not tie, for any flow (``measure.conformal``). This needs cells that are exchangeable with new ones:
neither the weights nor the choice between networks may depend on them. If n is too small for such a
k, the content is between the largest score and 1, and nothing is guaranteed.

Scores are computed twice: given all other observed cells of the row, and given four of five of
them. The content is interpolated between these two shares of known cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.arrays import evenly
from training.measure.conformal import placed
from training.subjects.record_margins import by_column

KNOWN_SHARES = (0.8, 1.0)
"""Fractions of known cells, among the other cells of a row, at which scores are computed."""
MOST_CELLS, MOST_KNOTS = 1000, 200
"""Largest numbers per column of scores that are computed, and of sorted scores that are kept."""
FARTHEST = 1 - 2**-50
"""Largest content of a central interval, whose ends are ranks in double precision."""
Contents = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Type of the function ``RecordFlow.contents``, which returns contents of central intervals."""


@dataclass(frozen=True, eq=False)
class CalibrationScores:
    """Sorted conformal scores of the held-out cells of P columns.

    Attributes:
        counts: Number of scores, n, of each column; 0 for a column without intervals.
        known: For each column, two increasing mean fractions ``[2]`` of known cells among the other
            cells of a row.
        contents: For each column, the sorted scores ``[2, knots]`` at each of these fractions.
    """

    counts: Sequence[int]
    known: Sequence[np.ndarray]
    contents: Sequence[np.ndarray]

    @classmethod
    def of(
        cls, contents: Contents, rows: np.ndarray, places: Sequence[int], seed: int
    ) -> "CalibrationScores":
        """Compute the scores of held-out rows ``[n, P]``.

        Args:
            contents: Function that returns the probability contents of central intervals.
            rows: Held-out rows ``[n, P]``.
            places: Indices of the columns to score.
            seed: Random seed for the choice of rows and of known cells.
        """
        counts, none = [0] * rows.shape[1], np.zeros((2, 0))
        shares, scores = [np.zeros(2)] * rows.shape[1], [none] * rows.shape[1]
        for place in places:
            own = rows[~np.isnan(rows[:, place])][:MOST_CELLS]
            if not len(own):
                continue
            kept, parts = evenly(len(own), MOST_KNOTS), []
            for at, share in enumerate(KNOWN_SHARES):
                generator = seeded_generator("cpu", seed, Stream.HELD_OUT, place, at)
                chosen = torch.rand(own.shape, generator=generator) < share
                known = ~np.isnan(own) & chosen.numpy()
                known[:, place] = False
                parts.append(
                    (known_frequencies(known).mean(), np.sort(contents(own, known, place))[kept])
                )
            counts[place] = len(own)
            shares[place], scores[place] = (np.array(each) for each in zip(*parts, strict=True))
        return cls(counts, shares, scores)

    def content(self, place: int, share: float, known: np.ndarray) -> np.ndarray:
        """Return the probability contents ``[n]`` that intervals of a column need for a coverage.

        The content in a row depends only on the known cells of the row. For a column without
        scores, the content is the coverage itself.

        Args:
            place: Index of the column.
            share: Coverage that intervals of new cells should have.
            known: Whether each cell of the rows is known, bool ``[n, P]``.
        """
        if not self.counts[place]:
            return np.full(len(known), share)
        count, each = self.counts[place], []
        wanted = float(placed(count, share))
        if wanted > count:
            wanted = (count + 1) * share
        for own in self.contents[place]:
            order = np.concatenate([[0], evenly(count, len(own)) + 1, [count + 1]])
            ends = np.concatenate([[0.0], own, [1.0]])
            each.append(min(float(np.interp(wanted, order, ends)), FARTHEST))
        return np.interp(known_frequencies(known), self.known[place], each)

    @classmethod
    def read(cls, listed: object, columns: int, broken: Exception) -> "CalibrationScores | None":
        """Return the scores from the JSON value that ``listed`` returns; None for None.

        Raises:
            Exception: The value is invalid; the error is ``broken``.
        """
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
        """Scores as a JSON value, for a network file."""
        columns = zip(self.counts, self.known, self.contents, strict=True)
        return [[count, known.tolist(), own.round(6).tolist()] for count, known, own in columns]


def known_frequencies(known: np.ndarray) -> np.ndarray:
    """Return the fraction ``[n]`` of known cells in each row, given bool ``[n, P]``."""
    return np.asarray(known.sum(axis=1) / max(1, known.shape[1] - 1))
