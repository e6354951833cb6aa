"""Conditional distributions and draws of a flow of records, in the units of its columns.

Rows are values ``[n, P]`` of records, NaN for missing cells. Intervals and probabilities are those
of a single cell, given the other cells of its row, and are computed without draws. Whole rows are
drawn.

**Margins.** Columns of drawn rows have the same marginal distributions as the data. A flow smooths
narrow features, above all repeated values of a column, so its draws have fewer of them. More rows
than wanted are therefore drawn, and weighted by *raking* (Deming and Stephan 1940). Of all weights
for which the bins of each column have the same shares as in the data, raking finds those nearest to
equal weights. Rows are sampled in proportion to their weights, each at most once. Dependences
between columns in a row stay as drawn. A column with missing cells is left as drawn, because its
observed cells may have another distribution than all cells.

**Calibration.** Intervals are calibrated by split conformal prediction, on the held-out cells of
the training. The score of a held-out cell is the content of the smallest central interval of the
flow that covers the cell. The interval is taken as it is written: rounded to the bins of the
column, and within its range. With n scores ``s_(1) <= ... <= s_(n)`` of a column, an interval that
is to cover a share l of new cells has the content

    s_(k),    k = ceil((n + 1) l),

and covers a new cell with a probability of at least l, and at most ``l + 1 / (n + 1)`` if scores do
not tie, for any flow (``measure.conformal``). This needs cells that are exchangeable with new ones:
neither the weights nor the choice between networks may depend on them. If n is too small for such a
k, the content is between the largest score and 1, and nothing is guaranteed.

Scores are computed twice: given all other observed cells of the row, and given four of five of
them. The content is interpolated between these two shares of known cells.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, isnan
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.row_hashes import RowHashes
from training.data.tables.reading import is_missing_indicator
from training.data.tables.table import DataTable
from training.files.arrays import evenly
from training.files.records import without_rows
from training.flow.bin_averages import SEQUENCES, mean_and_error, offsets
from training.inference.draws import systematic
from training.measure.conformal import placed
from training.names import CELL_ERROR, CELL_POINTS, RECORDS, script
from training.networks.mixture import ABSENT, ASKED, KNOWN, alike
from training.networks.questions import QuestionNetwork
from training.subjects.record_spaces import (
    CodedRows,
    RecordSpace,
    digest_of,
    level_of,
    numbers_of_rows,
)
from training.trained.network import TrainedNetwork
from training.trained.questions import EncodedRows, QuestionFlow


class CategoryDistribution(NamedTuple):
    """Probabilities of the L categories or distinct values of a column, in each of n rows.

    Attributes:
        values: Categories (as indices) or distinct values ``[L]``, increasing.
        probabilities: Probabilities ``[n, L]`` of these values.
    """

    values: np.ndarray
    probabilities: np.ndarray

    @property
    def likeliest(self) -> np.ndarray:
        """Most probable value in each row, ``[n]``."""
        return np.asarray(self.values[self.probabilities.argmax(axis=1)])

    def at(self, truth: np.ndarray) -> np.ndarray:
        """Return the probability of one value ``[n]`` per row; 0 for unknown values."""
        at = level_of(truth, self.values)
        return np.where(at < 0, 0.0, self.probabilities[np.arange(len(at)), at])

    def around(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``P(x < value)`` and ``P(x <= value)``, both ``[n]``, for one value per row."""
        below = np.where(self.values < truth[:, None], self.probabilities, 0.0).sum(axis=1)
        return below, below + self.at(truth)

    def ranks(self, truth: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Return the randomized probability integral transform ``[n]`` of one value per row."""
        below, upto = self.around(truth)
        drawn = torch.rand(len(truth), generator=generator, dtype=torch.float64).numpy()
        return np.asarray(below + (upto - below) * drawn)


class CellDistribution(NamedTuple):
    """Conditional distribution of one column in each of n rows.

    Attributes:
        quantiles: Quantiles ``[n, Q]`` at Q quantile levels; not meaningful for unordered
            categories.
        levels: Probabilities of the categories of a column; None for a number.
        atoms: Probabilities of the frequently repeated values (atoms) of a number; None for other
            columns.
    """

    quantiles: np.ndarray
    levels: CategoryDistribution | None = None
    atoms: CategoryDistribution | None = None


@dataclass(frozen=True)
class RowScores:
    """Log densities of n rows, and tail probabilities of their cells in P columns.

    Attributes:
        log_prob: Log density ``[n]`` in nats of the observed cells: densities of continuous numbers
            in their units, probabilities of other values. In tables with discrete numbers, it is
            the sum over cells, each given those before it (categories first), which is the joint
            density as far as the conditional distributions of the network agree.
        error: Estimated error ``[n]`` of the numerical integration, in nats; 0 in tables without
            discrete numbers, whose rows are integrated by a schedule that was chosen by its error.
        tails: Tail probability ``[n, P]`` of each cell, given the other cells of the row. For a
            category, it is the probability of a category at most as probable; for a number, of a
            value at least as far out on either side. NaN for missing cells.
    """

    log_prob: np.ndarray
    error: np.ndarray
    tails: np.ndarray


TIMES = 4
"""Number of rows drawn for each row to be kept."""
ROWS_PER_BIN, FEWEST_BINS = 100, 10
"""Least number of rows of the data in a bin, and number of bins below which bins are smaller.

A value that this many rows have is a bin of its own.
"""
ROUNDS = 50
"""Number of raking rounds over all columns."""


@dataclass(frozen=True, eq=False)
class Margins:
    """Binned marginal distributions of P columns.

    Attributes:
        ends: Boundaries between the bins of each column, increasing, ``[bins - 1]``.
        shares: Probabilities of the bins of each column, ``[bins]``, which add to 1.
    """

    ends: Sequence[np.ndarray]
    shares: Sequence[np.ndarray]

    @classmethod
    def of(cls, rows: np.ndarray) -> "Margins":
        """Compute the margins of rows ``[n, P]``; a column with NaN has a single bin."""
        return cls(*zip(*map(_margin, rows.T), strict=True))

    @classmethod
    def read(cls, listed: object, columns: int, broken: Exception) -> "Margins | None":
        """Return the margins from the JSON value that ``listed`` returns; None for None.

        Raises:
            Exception: The value does not describe margins of this number of columns; the error is
                ``broken``.
        """
        if listed is None:
            return None
        ends, shares = [], []
        for pair in by_column(listed, columns, broken):
            try:
                between, parts = (np.array(part, dtype=np.float64) for part in pair)
            except (TypeError, ValueError):
                raise broken from None
            rising = between.ndim == parts.ndim == 1 and bool((np.diff(between) > 0).all())
            if not (rising and len(parts) == len(between) + 1 and bool((parts >= 0).all())):
                raise broken
            ends.append(between)
            shares.append(parts)
        return cls(ends, shares)

    @property
    def listed(self) -> list[list[list[float]]]:
        """Margins as a JSON value, for a network file."""
        pairs = zip(self.ends, self.shares, strict=True)
        return [[ends.tolist(), shares.tolist()] for ends, shares in pairs]

    def kept(self, drawn: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Choose drawn rows that together have these margins; return their indices ``[count]``.

        Margins of columns with NaN are ignored.

        Args:
            drawn: Rows ``[N, P]`` to choose from, at least ``count``.
            count: Number of rows to keep.
            seed: Random seed.
        """
        parts = [
            (np.searchsorted(ends, column), shares)
            for ends, shares, column in zip(self.ends, self.shares, drawn.T, strict=True)
            if not np.isnan(column).any()
        ]
        weights = np.full(len(drawn), count / len(drawn))
        for _ in range(ROUNDS):
            for bins, shares in parts:
                have = np.bincount(bins, weights=weights, minlength=len(shares))
                ratio = np.where(have > 0, count * shares / np.where(have > 0, have, 1.0), 1.0)
                weights = (weights * ratio[bins]).clip(max=1.0)
        # Shuffle, so that a row's chance depends only on its weight.
        generator = seeded_generator("cpu", seed, Stream.RESAMPLING)
        order = torch.randperm(len(drawn), generator=generator)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        log_weights = torch.from_numpy(weights).log()[order]
        taken = np.unique(order[systematic(log_weights[None], uniform, count)[0]])
        # If margins need more rows of some kind than there are, others take their place.
        left = np.setdiff1d(order.numpy(), taken)
        more = left[np.argsort(-weights[left], kind="stable")[: count - len(taken)]]
        return np.sort(np.concatenate([taken, more]))


def by_column(listed: object, count: int, broken: Exception) -> list[Any]:
    """Check that a JSON value is a list with one entry per column, and return it.

    Raises:
        Exception: The value is not a list of this length; the error is ``broken``.
    """
    if not (isinstance(listed, list) and len(listed) == count):
        raise broken
    return listed


def _margin(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boundaries between bins, and the shares of bins, of values ``[n]``."""
    if np.isnan(column).any():
        return np.zeros(0), np.ones(1)
    values, counts = np.unique(column, return_counts=True)
    least = min(ROWS_PER_BIN, len(column) / FEWEST_BINS)
    firsts, filled = [0], 0
    for at, count in enumerate(counts.tolist()):
        if filled and (filled >= least or count >= least):
            firsts.append(at)
            filled = 0
        filled += count
    shares = np.add.reduceat(counts, firsts) / len(column)
    first = np.array(firsts[1:], dtype=np.int64)
    return (values[first - 1] + values[first]) / 2, shares


KNOWN_SHARES = (0.8, 1.0)
"""Fractions of known cells, among the other cells of a row, at which scores are computed."""
MOST_CELLS, MOST_KNOTS = 1000, 200
"""Largest numbers per column of scores that are computed, and of sorted scores that are kept."""
FEWEST_SCORES, WIDE = 100, 50
"""Least number of scores per column, and number P of columns above which there are fewer than in
other tables: the time that they take increases with ``P^4``.
"""
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
        of_wide = max(FEWEST_SCORES, int(MOST_CELLS * (WIDE / rows.shape[1]) ** 4))
        for place in places:
            own = rows[~np.isnan(rows[:, place])][: min(MOST_CELLS, of_wide)]
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


MOST_NUMBERS = 1 << 22
"""Largest number of inverse values in memory at a time (32 MB).

With four times as many, a third of the time was spent on memory pages.
"""
MOST_ROWS, MOST_ALIKE = 1024, 4096
"""Largest number of rows per evaluation, with different patterns of known cells and with one."""
MOST_POINTS = 4096
"""Largest number of points of bins per evaluation."""
FEWEST_ALIKE = 16
"""Least number of rows with one pattern of cells for an evaluation of their own."""
TINY = 1e-12
"""Smallest probability that is used as a divisor or quantile level."""
Progress = Callable[[float], object]
"""Type of a callback that takes the number of cells completed since the last call."""


@dataclass(frozen=True, eq=False)
class RecordFlow:
    """Conditional distributions of records by a trained network.

    Attributes:
        network: Trained network.
        empty: Records without rows, which define the columns.
        space: Map between records and the flow.
        ask: Indices of the target columns if the network has only one query; empty for any query.
        margins: Marginal distributions of the training rows; None if the network file has none.
        held: Scores of held-out cells for calibrating intervals; None in older files.
        within: Whether quantiles of discrete numbers stay within the range of the data.
    """

    network: TrainedNetwork
    empty: DataTable
    space: RecordSpace
    ask: Sequence[int]
    margins: Margins | None = None
    held: CalibrationScores | None = None
    within: bool = True

    @classmethod
    def of(cls, network: TrainedNetwork) -> "RecordFlow":
        """Return the flow of a network file.

        Raises:
            DataError: The file has another kind of data, or is broken.
        """
        if network.data_kind != RECORDS:
            raise DataError(
                f"{network.path} is a network of {network.data_kind}: conditional queries need a "
                f"network that {script('train')} makes of a table with --any, or of one "
                "with text, dates or missing values"
            )
        about, module = network.about, network.denoiser.network
        broken = DataError(f"{network.path} is damaged: its descriptions of columns do not match")
        empty = without_rows(str(about.get("records")), broken)
        values, ask = about.get("values"), about.get("ask")
        coordinates = network.coordinates
        if not (
            coordinates is not None
            and isinstance(module, QuestionNetwork)
            and isinstance(values, list)
            and len(values) == len(empty.columns)
            and all(_are_levels(column) for column in values)
            and isinstance(ask, list)
            and all(name in empty.names for name in ask)
        ):
            raise broken
        space = RecordSpace(empty.columns, [tuple(column) for column in values], coordinates)
        own = (max(1, len(space.numbers)), space.level_counts, space.atoms)
        if own != (module.dim, module.level_counts, module.atoms):
            raise broken
        places, count = [empty.names.index(name) for name in ask], len(empty.columns)
        margins = Margins.read(about.get("margins"), count, broken)
        held = CalibrationScores.read(about.get("held_cells"), count, broken)
        return cls(network, empty, space, places, margins, held)

    @cached_property
    def questions(self) -> QuestionFlow:
        """Flow of the network for conditional queries, with its integration schedules."""
        network = self.network.denoiser.network
        assert isinstance(network, QuestionNetwork)
        return QuestionFlow(self.network.flow, network)

    def was_trained_on(self, records: DataTable) -> bool:
        """Return whether records are the training data, with the same held-out rows."""
        return self.network.about.get("rows_sha256") == digest_of(records)

    def repeated(self, records: DataTable) -> int:
        """Return the number of rows that are in the training data, beyond chance.

        Only rows without missing numbers are compared.
        """
        numbers = numbers_of_rows(records, self.space.numbers)
        sketch = RowHashes.read(self.network.path, self.network.about)
        return sketch.repeated_beyond_chance(numbers, alike=True)

    def distributions(
        self,
        values: np.ndarray,
        known: np.ndarray,
        place: int,
        levels: Sequence[float] | np.ndarray,
        progress: Progress | None = None,
    ) -> CellDistribution:
        """Return the conditional distribution of one column in each row.

        Args:
            values: Rows ``[n, P]``.
            known: Which cells to condition on, bool ``[n, P]``, without the column itself.
            place: Index of the column.
            levels: Increasing quantile levels ``[Q]``, or ``[n, Q]`` for each row.
            progress: Callback with numbers of rows.
        """
        wanted = np.array(levels, dtype=np.float64)
        wanted = np.tile(wanted, (len(values), 1)) if wanted.ndim == 1 else wanted
        rows = CodedRows(self.space, values)
        if self.space.atoms_at(place):
            return self._law_with_atoms(rows, known, place, wanted, progress)
        if place in self.space.numbers:
            return CellDistribution(self._quantiles_of_number(rows, known, place, wanted, progress))
        shares = self._shares(rows, known, place, progress)
        own = np.array(self.space.values[place])
        below = shares.cumsum(axis=1) / shares.sum(axis=1, keepdims=True)
        which = [(below < level[:, None] - 1e-9).sum(axis=1) for level in wanted.T]
        quantiles = [own[at.clip(max=len(own) - 1)] for at in which]
        return CellDistribution(np.stack(quantiles, axis=1), CategoryDistribution(own, shares))

    @property
    def rows_drawn(self) -> int:
        """Number of rows that are drawn together."""
        return self._sizes[0]

    def drawn(
        self,
        values: np.ndarray,
        asked: np.ndarray,
        seed: int,
        progress: Progress | None = None,
        first: int = 0,
    ) -> np.ndarray:
        """Return rows ``[n, P]`` with some cells replaced by a joint draw.

        Draws are conditional on the other observed cells of the row. They depend only on the seed
        and the index of a block of rows.

        Args:
            values: Rows ``[n, P]``.
            asked: Which cells to draw, bool ``[n, P]``.
            seed: Random seed.
            progress: Callback with numbers of rows.
            first: Index of the first row, a multiple of ``rows_drawn``, if rows are drawn in parts.
        """
        self.require_any()
        made, size = np.array(values, dtype=np.float64), self.rows_drawn
        for start in range(0, len(values), size):
            rows = slice(start, start + size)
            states = self._states(values[rows], ~asked[rows], asked[rows])
            generator = seeded_generator("cpu", seed, Stream.QUESTIONS, first + start)
            encoded = self.space.encoded(values[rows])
            drawn = self.space.decoded(self.questions.draws(encoded, states, generator))
            made[rows] = np.where(asked[rows], drawn, made[rows])
            if progress:
                progress(len(states))
        return made

    def scores(self, values: np.ndarray, progress: Progress | None = None) -> RowScores:
        """Return log densities of rows ``[n, P]``, and tail probabilities of their cells.

        Progress is called with numbers of rows.
        """
        self.require_any()
        there = ~np.isnan(values) & np.array([not column.of for column in self.empty.columns])
        rows, places = CodedRows(self.space, values), np.flatnonzero(there.any(axis=0)).tolist()
        # Both parts take about as long.
        parts = None if progress is None else lambda done: progress(done / 2)
        # With bins, the joint density takes a hundred times as long as the chain.
        has_bins = bool((self.space.coordinates.steps > 0).any())
        log_prob, error = (
            self._in_a_chain(rows, there, parts)
            if has_bins
            else self.log_prob(values, there, parts)
        )
        tails = np.full(values.shape, np.nan)
        for place in places:
            some = np.flatnonzero(there[:, place])
            known = there[some]
            known[:, place] = False
            tails[some, place] = self._tails(rows.at(some), known, place)
            if progress:
                progress(len(values) / 2 / len(places))
        return RowScores(log_prob, error, tails)

    def tails(self, values: np.ndarray, known: np.ndarray, place: int) -> np.ndarray:
        """Return the tail probabilities ``[n]`` of one column's values.

        For a number, this is the probability of a value at least as far out on either side; for a
        category, the probability of a category at most as probable.
        """
        return self._tails(CodedRows(self.space, values), known, place)

    def _tails(self, rows: CodedRows, known: np.ndarray, place: int) -> np.ndarray:
        if place in self.space.numbers:
            below, upto = self._around(rows, known, place)
            return np.asarray((2 * np.minimum(upto, 1 - below)).clip(max=1.0))
        levels = self._categories(rows, known, place)
        own = levels.at(rows.values[:, place])
        likelier = levels.probabilities > own[:, None] * (1 + 1e-9)
        return np.asarray(np.where(likelier, 0.0, levels.probabilities).sum(axis=1))

    def contents(self, values: np.ndarray, known: np.ndarray, place: int) -> np.ndarray:
        """Return the probabilities ``[n]`` of the smallest central intervals that cover the values.

        Intervals are rounded to the bins of the column, as in the results. The probability is 1 for
        a value that no interval covers.

        Args:
            values: Rows ``[n, P]``.
            known: Which cells to condition on, bool ``[n, P]``.
            place: Index of the column.
        """
        below, upto = self._around(CodedRows(self.space, values), known, place)
        made = np.maximum(1 - 2 * upto, 2 * below - 1).clip(0.0, 1.0)
        made[~self.space.reachable(place, values[:, place], self.within)] = 1.0
        return np.asarray(made)

    def _around(
        self, rows: CodedRows, known: np.ndarray, place: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities ``[n]`` that a column is below, and at most, its values.

        A discrete value includes its whole bin.
        """
        if place not in self.space.numbers:
            return self._categories(rows, known, place).around(rows.values[:, place])
        at = self.space.cell(place)
        step = float(self.space.coordinates.steps[at])
        points = torch.stack([each[:, at] for each in rows.ends[: 2 if step else 1]], dim=1)
        ranks = self._ranks_of_number(rows, known, place, points)
        if not self.space.atoms_at(place):
            return ranks[:, 0], ranks[:, -1]
        shares = self._shares(rows, known, place)
        ends = [self._with_atoms(rows.values[:, place], each, shares, place) for each in ranks.T]
        return ends[0][0], ends[-1][1]

    def ranks(
        self,
        values: np.ndarray,
        known: np.ndarray,
        place: int,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """Return the conditional distribution functions ``[n]`` of a column at its values.

        Args:
            values: Rows ``[n, P]``.
            known: Which cells to condition on, bool ``[n, P]``.
            place: Index of the column.
            generator: Generator that randomizes discrete numbers within their bins, so that ranks
                are uniform if the flow is correct; None for the centers of the bins. Categories
                need a generator.
        """
        rows = CodedRows(self.space, values)
        if place not in self.space.numbers:
            assert generator is not None
            return self._categories(rows, known, place).ranks(values[:, place], generator)
        shift: Tensor | float = 0.0
        if generator is not None:
            size = (len(values), self.space.dim)
            shift = torch.rand(size, generator=generator, dtype=torch.float64) - 0.5
        points = self.space.located(values, shift)[:, [self.space.cell(place)]]
        ranks = self._ranks_of_number(rows, known, place, points)[:, 0]
        if not self.space.atoms_at(place):
            return ranks
        shares = self._shares(rows, known, place)
        below, upto = self._with_atoms(values[:, place], ranks, shares, place)
        if generator is None:
            return (below + upto) / 2
        drawn = torch.rand(len(values), generator=generator, dtype=torch.float64).numpy()
        return below + drawn * (upto - below)

    def _with_atoms(
        self, column: np.ndarray, ranks: np.ndarray, shares: np.ndarray, place: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities ``[n]`` that a number with atoms is below, and at most, its values.

        Args:
            column: Values ``[n]``.
            ranks: Ranks ``[n]`` of the values among those at no atom.
            shares: Probabilities, see ``_shares``.
            place: Place of the column.
        """
        atoms = np.array(self.space.atoms_at(place))
        at, elsewhere = level_of(column, atoms), shares[:, -1] * ranks
        less = (atoms < column[:, None]) & (np.arange(len(atoms)) != at[:, None])
        below = elsewhere + np.where(less, shares[:, :-1], 0.0).sum(axis=1)
        own = np.where(at >= 0, shares[np.arange(len(at)), at], 0.0)
        return below, below + own

    def _categories(self, rows: CodedRows, known: np.ndarray, place: int) -> CategoryDistribution:
        """Return the distribution of a column of categories."""
        own = np.array(self.space.values[place])
        return CategoryDistribution(own, self._shares(rows, known, place))

    def _shares(
        self, rows: CodedRows, known: np.ndarray, place: int, progress: Progress | None = None
    ) -> np.ndarray:
        """Return probabilities ``[n, L]`` of categories, or of a number's atoms and of no atom."""
        at, made = (
            self.space.level_cell(place),
            np.empty((len(known), len(self.space.values[place]))),
        )
        for some, codes, states in self._blocks(rows, known, self._only(place), progress):
            shares = self.questions.level_probabilities(codes, states, at - self.space.dim)
            made[some] = shares.double()
        return made

    def _law_with_atoms(
        self,
        rows: CodedRows,
        known: np.ndarray,
        place: int,
        wanted: np.ndarray,
        progress: Progress | None,
    ) -> CellDistribution:
        """Return the distribution of a number with atoms, at quantile levels ``[n, Q]``.

        The quantile is an atom if the distribution function jumps over the level there. Elsewhere
        it is that of the flow, at the level without the atoms below.
        """
        atoms, shares = np.array(self.space.atoms_at(place)), self._shares(rows, known, place)
        left, made = np.array(wanted), np.full(wanted.shape, np.nan)
        at_atoms = np.tile(rows.values[:1], (len(atoms), 1))
        at_atoms[:, place] = atoms
        points = self.space.located(at_atoms)[:, self.space.cell(place)].expand(len(wanted), -1)
        ranks = self._ranks_of_number(rows, known, place, points)
        for at, atom in enumerate(atoms.tolist()):
            column = np.full(len(wanted), atom)
            ends = self._with_atoms(column, ranks[:, at], shares, place)
            below, upto = (part[:, None] for part in ends)
            made[(below <= wanted) & (wanted <= upto)] = atom
            left -= np.where(upto < wanted, shares[:, at, None], 0.0)
        left = (left / shares[:, -1:].clip(min=TINY)).clip(TINY, 1 - TINY)
        own = self._quantiles_of_number(rows, known, place, left, progress)
        made = np.where(np.isnan(made), own, made)
        return CellDistribution(made, atoms=CategoryDistribution(atoms, shares[:, :-1]))

    def _quantiles_of_number(
        self,
        rows: CodedRows,
        known: np.ndarray,
        place: int,
        levels: np.ndarray,
        progress: Progress | None,
    ) -> np.ndarray:
        """Return quantiles ``[n, Q]`` of a number at no atom, at levels ``[n, Q]``."""
        at, made = self.space.cell(place), torch.empty(levels.shape, dtype=torch.float64)
        for some, codes, states in self._blocks(rows, known, self._only(place), progress, True):
            wanted = torch.from_numpy(levels[some])
            made[some] = self.questions.quantiles(codes, states, at, wanted)
        return self.space.decoded_numbers(place, made, self.within)

    def _ranks_of_number(
        self, rows: CodedRows, known: np.ndarray, place: int, points: Tensor
    ) -> np.ndarray:
        """Return ranks ``[n, Q]`` of coordinates ``[n, Q]`` of a number among those at no atom."""
        at, made = self.space.cell(place), np.empty(points.shape)
        for some, codes, states in self._blocks(rows, known, self._only(place), None, True):
            made[some] = self.questions.ranks(codes, states, at, points[some])
        return made

    def log_prob(
        self, values: np.ndarray, asked: np.ndarray, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return joint log densities ``[n]`` of some cells given the others, and their errors.

        Discrete numbers contribute the probability of their bin. For one number it is exact. For
        several, it is the density at the center of the bins if its error has a small bound, and
        otherwise the mean over points of a Sobol sequence, whose number is doubled until the error
        is small. See also ``RowScores``.

        Args:
            values: Rows ``[n, P]``.
            asked: Which cells have their log density computed, bool ``[n, P]``.
            progress: Callback with numbers of rows.
        """
        made, errors = np.zeros((2, len(values)))
        several = asked[:, self.space.numbers].sum(axis=1) > 1
        one, joint = np.flatnonzero(~several), np.flatnonzero(several)
        if len(one):
            rows = CodedRows(self.space, values[one])
            made[one], errors[one] = self._in_a_chain(rows, asked[one], progress)
        if len(joint):
            made[joint], errors[joint] = self._jointly(values[joint], asked[joint], progress)
        return made, errors

    def _jointly(
        self, values: np.ndarray, asked: np.ndarray, progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return joint log densities of rows ``[n]``, and their errors; see ``log_prob``."""
        means, errors = np.zeros((2, len(values)))
        steps = self.space.coordinates.steps
        of_cells = self.space.states(torch.from_numpy(asked).long()) == 1
        discrete = of_cells[:, : self.space.dim] & (steps > 0)
        discrete &= ~torch.from_numpy(self.space.at_atoms(values))
        for rows in self._slices(len(values)):
            part, of_cell = np.arange(len(values))[rows], discrete[rows]
            bound = self._bound_at_centers(values[rows], asked[rows], of_cell)
            narrow, wide = part[bound <= CELL_ERROR], part[~(bound <= CELL_ERROR)]
            means[narrow] = self._log_densities(values[narrow], asked[narrow])
            errors[narrow] = bound[bound <= CELL_ERROR]
            if progress:
                progress(len(narrow))
            for some in self._slices(len(wide), CELL_POINTS):  # most of the time
                self._over_cells(values, asked, wide[some], means, errors)
                if progress:
                    progress(len(wide[some]))
            means[part] += (of_cell * torch.where(steps > 0, steps, 1.0).log()).sum(dim=1).numpy()
            errors[part] = np.where(np.isinf(means[part]), 0.0, errors[part])
        return means, errors

    def _in_a_chain(
        self, rows: CodedRows, asked: np.ndarray, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return log densities of cells one after the other, each given those before, and errors.

        Categories come first, then numbers in the order of their columns. For one number, this is
        the joint density.
        """
        values = rows.values
        no_levels, (made, errors) = self.space.no_levels(values), np.zeros((2, len(values)))
        continuous = self.space.coordinates.steps == 0
        slopes = self.space.log_slopes(values) * continuous
        for some, codes, states in self._blocks(rows, ~asked, asked & ~no_levels, progress):
            low, high = rows.ends
            ends = low[some], high[some]
            numbers, levels, error = self.questions.log_prob(codes, states, ends)
            of_maps = (slopes[some] * (states[:, : self.space.dim] == ASKED)).sum(dim=1)
            made[some], errors[some] = numbers + levels + of_maps, error
        nowhere = ((self.space.impossible(values) | no_levels) & asked).any(axis=1)
        return np.where(nowhere, -np.inf, made), np.where(nowhere, 0.0, errors)

    def _bound_at_centers(
        self, values: np.ndarray, asked: np.ndarray, discrete: Tensor
    ) -> np.ndarray:
        """Return second-order error bounds ``[n]`` of log densities at bin centers.

        Args:
            values: Rows ``[n, P]``.
            asked: Cells ``[n, P]`` whose density is computed.
            discrete: Whether numbers are asked for and discrete ``[n, D]``.
        """
        if not bool(discrete.any()):
            return np.zeros(len(values))
        states = self._states(values, ~asked, asked)
        quarter = self.space.coordinates.steps / 4
        moved = [self._moved(values, asked, shift) for shift in (quarter, -quarter)]
        ends = [self.space.encoded(each).numbers for each in moved]
        noise, std = self.questions.noise_at(self.space.encoded(values), states)
        # Half of an edge, because its ends may be outside the domain.
        edge = torch.where(discrete, 2 * (ends[0] - ends[1]) / std, 0.0)
        noise = torch.where(discrete, noise, 0.0)
        return np.asarray(((edge * noise).square() + edge.square()).sum(dim=1) / 24)

    def _over_cells(
        self,
        values: np.ndarray,
        asked: np.ndarray,
        rows: np.ndarray,
        means: np.ndarray,
        errors: np.ndarray,
    ) -> None:
        """Store means over bins of some rows, and their errors, in ``means`` and ``errors``."""
        steps, points = self.space.coordinates.steps, 0
        shifts = offsets(steps > 0) * steps  # to points in cells, [SEQUENCES, points, D]
        taken: np.ndarray = np.zeros((len(rows), SEQUENCES, 0))
        while len(rows) and points < shifts.shape[1]:
            more = shifts[:, points : max(1, 2 * points)]
            each = more.shape[0] * more.shape[1]
            where, by = np.repeat(rows, each), more.flatten(0, 1).repeat(len(rows), 1)
            densities = self._log_densities(values[where], asked[where], by)
            taken = np.concatenate([taken, densities.reshape(len(rows), *more.shape[:2])], axis=2)
            mean, error = mean_and_error(torch.from_numpy(taken))
            means[rows], errors[rows] = mean.numpy(), error.numpy()
            still, points = errors[rows] > CELL_ERROR, max(1, 2 * points)
            rows, taken = rows[still], taken[still]

    def _log_densities(
        self, values: np.ndarray, asked: np.ndarray, shift: Tensor | None = None
    ) -> np.ndarray:
        """Return log densities ``[n]`` of asked cells, numbers shifted by ``[n, D]`` if given."""
        no_levels = self.space.no_levels(values)
        moved = values if shift is None else self._moved(values, asked, shift)
        states = self._states(values, ~asked, asked & ~no_levels)
        codes = self.space.encoded(moved)
        of_levels, known = self.questions.log_levels(codes, states)
        of_numbers = self.questions.joint_log_prob(codes, known)
        slopes = self.space.log_slopes(moved) * (states[:, : self.space.dim] == ASKED)
        nowhere = ((self.space.impossible(values) | no_levels) & asked).any(axis=1)
        return np.where(nowhere, -np.inf, of_numbers + of_levels + slopes.sum(dim=1))

    def _moved(self, values: np.ndarray, asked: np.ndarray, shift: Tensor) -> np.ndarray:
        """Return values whose asked numbers are shifted by ``[D]`` or ``[n, D]``."""
        moved = np.array(values)
        if self.space.numbers:
            elsewhere = asked[:, self.space.numbers] & ~self.space.at_atoms(values)
            by = np.where(elsewhere, shift.numpy(), 0.0)
            moved[:, self.space.numbers] += by
        return moved

    def _slices(self, count: int, repeats: int = 1) -> Iterator[slice]:
        """Yield slices of rows for one evaluation each, with a number of points per row."""
        numbers = self.questions.network.mixture.covariances.numel()
        size = max(1, min(MOST_POINTS, MOST_NUMBERS // numbers) // repeats)
        return (slice(start, start + size) for start in range(0, count, size))

    def require_any(self) -> None:
        """Check that the network was trained for any query.

        Raises:
            UsageError: The network was trained for one query.
        """
        if self.ask:
            names = ",".join(self.empty.names[place] for place in self.ask)
            raise UsageError(
                f"{self.network.path} was trained with --ask={names} and predicts only these "
                "columns: to predict others, train again without --ask"
            )

    def require_asked(self, places: Sequence[int]) -> None:
        """Check that the network was trained for a query with these target columns.

        Raises:
            UsageError: The network was trained for another query.
        """
        if self.ask and not set(places) <= set(self.ask):
            own = ",".join(self.empty.names[place] for place in self.ask)
            names = ", ".join(self.empty.names[place] for place in places)
            raise UsageError(
                f"{self.network.path} was trained with --ask={own}, and does not model {names}"
            )

    def _only(self, place: int) -> np.ndarray:
        """Return cells ``[1, P]`` that select one column."""
        return np.arange(len(self.empty.columns))[None] == place

    def _states(self, values: np.ndarray, known: np.ndarray, asked: np.ndarray) -> Tensor:
        """Return states of cells ``[n, D + C]``: asked, known, or absent.

        Missing cells are absent. So are unknown categories, and the indicator of an asked cell that
        is missing.
        """
        there = known & ~np.isnan(values) & ~self.space.no_levels(values)
        for place, column in enumerate(self.empty.columns):
            if column.of in self.empty.names:
                tells = asked[:, self.empty.names.index(column.of)]
                was_there = is_missing_indicator(column) & (values[:, place] == 0)
                there[:, place] &= ~tells | was_there
        states = np.where(asked, ASKED, np.where(there, KNOWN, ABSENT))
        return self.space.states(torch.from_numpy(states))

    @property
    def _sizes(self) -> tuple[int, int]:
        """Largest numbers of rows per evaluation, with different patterns of cells and with one."""
        count, dim, _ = self.questions.network.mixture.covariances.shape
        sizes = MOST_NUMBERS // (count * dim * dim), MOST_NUMBERS // (count * dim)
        return max(1, min(MOST_ROWS, sizes[0])), max(1, min(MOST_ALIKE, sizes[1]))

    def _blocks(
        self,
        rows: CodedRows,
        known: np.ndarray,
        asked: np.ndarray,
        progress: Progress | None = None,
        elsewhere: bool = False,
    ) -> Iterator[tuple[np.ndarray, EncodedRows, Tensor]]:
        """Yield the indices of rows for one evaluation each, their codes, and their queries.

        Rows with the same pattern of known cells are evaluated together: they share what does not
        depend on values. Progress is reported after each evaluation.

        Args:
            rows: Rows.
            known: Which cells to condition on, bool ``[n, P]``.
            asked: Which cells are targets, bool ``[n, P]`` or ``[1, P]``.
            progress: Callback with numbers of rows.
            elsewhere: Whether target numbers are at none of their atoms.
        """
        asked = np.broadcast_to(asked, known.shape)
        states = self._states(rows.values, known, asked)
        codes, at_atoms = rows.codes, torch.from_numpy(self.space.at_atoms(rows.values))
        if elsewhere:
            for at in self.space.atoms:
                place = self.space.numbers[at]
                is_asked, cell = (
                    torch.from_numpy(asked[:, place].copy()),
                    self.space.level_cell(place),
                )
                states[:, cell] = torch.where(is_asked, KNOWN, states[:, cell])
                levels, last = codes.levels.clone(), len(self.space.atoms_at(place))
                levels[is_asked, cell - self.space.dim] = last
                codes = EncodedRows(codes.numbers, levels)
        chosen = np.flatnonzero(asked.any(axis=1))
        pattern = torch.cat([states, at_atoms], dim=1)[chosen]
        groups, _ = alike(pattern, torch.zeros(1))
        order = groups.argsort(stable=True).numpy()
        parts = np.split(order, groups.bincount().cumsum(0)[:-1].numpy())
        mixed, same = self._sizes
        large = [(part, same) for part in parts if len(part) >= FEWEST_ALIKE]
        small = [part for part in parts if len(part) < FEWEST_ALIKE]
        rest = [(np.concatenate(small), mixed)] if small else []
        cuts = [
            (part, size, start)
            for part, size in [*large, *rest]
            for start in range(0, len(part), size)
        ]
        for part, size, start in cuts:
            own = chosen[part[start : start + size]]
            yield own, codes.at(torch.from_numpy(own)), states[own]
            if progress:
                progress(len(own))


def _are_levels(values: object) -> bool:
    """Return whether values of levels are finite and distinct, except for a final NaN."""
    if not (isinstance(values, list) and all(isinstance(value, float) for value in values)):
        return False
    own = values[:-1] if values and isnan(values[-1]) else values
    return all(isfinite(value) for value in own) and len(set(own)) == len(own)
