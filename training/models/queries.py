"""Queries about the rows of a file, with results as sheets, and a check of these results.

A sheet has the columns of the source, as the source writes them, and further columns with the
results: intervals of numbers, probabilities of categories, log densities.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from dnnlib.warned import warn
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.streams import Stream
from training.data.tables.encoding import contradicted, encode
from training.data.tables.reading import is_missing_indicator
from training.data.tables.schema import CATEGORY, DATE, WHOLE
from training.data.tables.table import DataTable
from training.data.tables.values import column_texts, text_of, texts_of
from training.files.answers import INDEX, SCORES
from training.files.arrays import evenly
from training.measure.conformal import asked, fewest
from training.measure.posterior.calibration import detectable, holm, ks_p_values, verdict
from training.measure.reliability import reliability
from training.names import script
from training.subjects.records import FARTHEST, TIMES, CellDistribution, Progress, RecordFlow

MOST_HELD_OUT = 2000
"""Largest number of held-out cells of a column for calibrating its intervals."""


@dataclass(frozen=True)
class Interval:
    """Central prediction intervals with a nominal coverage.

    Without calibration, the flow's own quantiles are used. With conformal calibration, the
    intervals have the nominal coverage for any flow. The calibration set consists of the cells that
    the training held out (``CalibrationScores``), or of held-out rows with the same query. The
    score of a cell is ``RecordFlow.contents``.

    Attributes:
        share: Nominal coverage of the intervals.
        held_out: Records whose held-out rows calibrate the intervals. True for calibration by the
            scores in the network file; False for no calibration.
        seed: Random seed of the cells that are masked in these rows.
    """

    share: float
    held_out: DataTable | bool = True
    seed: int = 0

    @property
    def said(self) -> str:
        """Nominal coverage of the intervals, in words."""
        return f"{100 * self.share:.6g}%"

    def answers_of(self, flow: RecordFlow) -> RecordFlow:
        """Return the flow for these intervals; its range is wider if rows calibrate them.

        Raises:
            DataError: The calibration rows have other columns, or may have trained the network.
        """
        if isinstance(self.held_out, bool):
            return flow
        require_of_training(flow, self.held_out)
        return replace(flow, within=False)

    def levels(self, flow: RecordFlow, known: np.ndarray, place: int) -> np.ndarray:
        """Return levels ``[n, 3]`` of the lower end, the median, and the upper end of a column.

        Args:
            flow: Flow of records.
            known: Cells ``[n, P]`` known in the queries. Held-out rows are masked with the same
                patterns, in the same proportions.
            place: Index of the column.

        Raises:
            DataError: Too few cells of the column are held out.
        """
        level, held_out = np.full(len(known), self.share), self.held_out
        if flow.empty.columns[place].type == CATEGORY:
            pass
        elif isinstance(held_out, DataTable):
            level[:] = self._held(flow, held_out, known, place)
        elif held_out and flow.held is not None:
            level = flow.held.content(place, self.share, known)
            if 0 < flow.held.counts[place] < (needed := fewest(self.share)):
                warn(
                    "few-validation-cells",
                    f"only {flow.held.counts[place]} validation cells of "
                    f"'{flow.empty.names[place]}' "
                    f"exist: calibrated intervals of {self.said} need at least {needed}, "
                    "so these may cover less",
                )
        return np.stack([(1 - level) / 2, np.full(len(known), 0.5), (1 + level) / 2], axis=1)

    def _held(self, flow: RecordFlow, held_out: DataTable, known: np.ndarray, place: int) -> float:
        values = held_out.at(held_out.held_out).values
        values = values[~np.isnan(values[:, place])][:MOST_HELD_OUT]
        name, needed = flow.empty.names[place], fewest(self.share)
        if len(values) < needed:
            raise DataError(
                f"{len(values)} cells of '{name}' are held out: calibrated intervals of "
                f"{self.said} need at least {needed}"
            )
        generator = seeded_generator("cpu", self.seed, Stream.HELD_OUT)
        which = torch.randint(len(known), (len(values),), generator=generator).numpy()
        scores = torch.from_numpy(flow.contents(values, known[which], place))
        level = float(asked(scores, self.share))
        if level > FARTHEST:
            warn(
                "beyond-widest-interval",
                f"validation cells of '{name}' lie beyond the widest intervals "
                f"of the flow: intervals end there, and may cover less than {self.said}",
            )
            level = FARTHEST
        logger.info(
            f"Intervals of '{name}': {100 * level:.1f} % intervals of the flow cover "
            f"{self.said}, on {len(values)} validation cells"
        )
        return level


def require_of_training(flow: RecordFlow, records: DataTable) -> None:
    """Check that records can calibrate a network, and warn of rows that the training data contain.

    Raises:
        DataError: The records have other columns, or may have trained the network.
        UsageError: ``records`` are not the rows of a typed table.
    """
    given: object = records
    if not isinstance(given, DataTable):
        raise UsageError(
            f"got {type(given).__name__} for a typed table: give a table of Table.open"
        )
    require_same_columns(flow, records)
    if not (records.held_out.all() or flow.was_trained_on(records)):
        raise DataError(
            "this is not the data set of the training, so its held-out rows may have "
            "been trained on: give the training data set, or a table of new rows"
        )
    if records.held_out.all() and (again := flow.repeated(records)):
        warn(
            "rows-of-training",
            f"at least {again} of these {len(records)} rows are in the data set "
            "of the training, most of which was trained on: predictions for new rows may "
            "be worse",
        )


def require_same_columns(flow: RecordFlow, records: DataTable) -> None:
    """Check that records have the columns of a network.

    Raises:
        DataError: The columns differ.
    """
    if list(records.columns) != list(flow.empty.columns):
        raise DataError(
            "the data set has other columns, types or categories than the network, which "
            f"has {', '.join(flow.empty.names)}"
        )


LEVELS = (0.5, 0.8, 0.9, 0.95)
FEWEST_CELLS = 20
"""Least number of cells of a column that is tested."""
MOST_COMPARED = 10_000
"""Largest number of real rows that are compared with sampled ones."""
BLOCK = 1 << 15
"""Number of rows whose answers are in memory at a time."""
MOST_KEPT = 100_000
"""Largest number of rows selected together from several times as many draws."""
KINDS = {WHOLE: "whole numbers", DATE: "dates"}
FEWEST_NEIGHBORS = 10
"""Least number of rows for a comparison of nearest neighbors."""


@dataclass(frozen=True)
class Sheet:
    """Named columns of texts, which are computed and written in blocks of rows.

    Attributes:
        names: Names of the columns.
        count: Number of rows.
        blocks: Texts of each column ``[len(names)][n]``, for one block of rows after another.
        beside: Number of result columns, which come last.
        plain: Names of columns with plain numbers, independent of the source's decimal sign.
    """

    names: list[str]
    count: int
    blocks: Iterable[list[list[str]]]
    beside: int = 0
    plain: Sequence[str] = ()

    @property
    def rows(self) -> Iterator[tuple[str, ...]]:
        """Texts of one row after another, ``[len(names)]``."""
        for columns in self.blocks:
            yield from zip(*columns, strict=True)


class ResultColumn(NamedTuple):
    """Name of a result column of a sheet.

    Attributes:
        name: Name of the column.
        plain: Whether its texts are plain numbers.
    """

    name: str
    plain: bool = False


@dataclass(frozen=True)
class Asking:
    """Interface for queries to a flow of records, with results as sheets.

    Attributes:
        flow: Flow of records.
        progress: Callback with numbers of cells or rows completed, or None.
    """

    flow: RecordFlow
    progress: Progress | None = None

    def rows_of(
        self, source: Any, asked: Sequence[str] = (), missing_values: Sequence[str] = ()
    ) -> DataTable:
        """Convert records, a file or a data frame to rows with the columns of the network.

        See ``encode`` for the arguments. Values that do not fit, and numbers far outside the
        training data, cause warnings.
        """
        empty, records = self.flow.empty, source
        lines: list[str] = []
        if not isinstance(source, DataTable):
            records, lines = encode(
                source, empty.columns, missing_values=missing_values, asked=asked, like=empty
            )
        for line in [*lines, *contradicted(records, empty)]:
            warn("dropped-columns", f"{line}")
        self._warn_of_far(records.values, asked)
        return records

    def _warn_of_far(self, values: np.ndarray, asked: Sequence[str] = ()) -> None:
        """Warn of numbers ``[n, P]`` far outside the training data, except in asked columns."""
        flow, counts = self.flow, np.zeros(values.shape[1], dtype=int)
        reach = flow.questions.network.mixture.reach
        for start in range(0, len(values), BLOCK):
            counts += flow.space.beyond(values[start : start + BLOCK], reach).sum(axis=0)
        for name, count in zip(flow.empty.names, counts.tolist(), strict=True):
            if count and name not in asked:
                warn(
                    "far-from-data",
                    f"column '{name}' has {count} value(s) far outside the range "
                    "of the training data: predictions from them are extrapolations",
                )

    def fill(self, records: DataTable, interval: Interval) -> Sheet:
        """Return rows with missing values imputed, and columns with the uncertainty.

        Numbers are imputed by their median, categories by the most probable category, given the
        observed cells of the row. For each column with missing values, result columns contain the
        ends of the interval, or the category's probability.

        Raises:
            UsageError: The network was trained for one query, and other values are missing.
        """
        holes = records.holes
        own = np.array([not column.of for column in records.columns])
        missing = np.flatnonzero(holes.any(axis=0) & own).tolist()
        self.flow.require_asked(missing)
        flow = interval.answers_of(self.flow)
        rows_of = {place: np.flatnonzero(holes[:, place]) for place in missing}
        levels = {
            place: interval.levels(flow, ~np.isnan(records.values[rows]), place)
            for place, rows in rows_of.items()
        }

        def filled(block: slice, part: DataTable) -> list[list[str]]:
            values, known, beside = part.values.copy(), ~np.isnan(part.values), list[list[str]]()
            for place, rows in rows_of.items():
                first, last = np.searchsorted(rows, [block.start, block.stop])
                own = rows[first:last] - block.start
                distribution = flow.distributions(
                    part.values[own], known[own], place, levels[place][first:last], self.progress
                )
                values[own, place] = self._best_guess(distribution, place)
                beside += [
                    _in_rows(texts, own, len(part))
                    for texts in self._spread(records, distribution, place)
                ]
            return [*texts_of(_with_all_columns(part, values))[1], *beside]

        names = _with_all_columns(records, records.values).order
        beside = [each for place in missing for each in self._names_of_spread(records, place)]
        return _sheet(names, beside, records, filled)

    def completed(self, records: DataTable, seed: int, table: int) -> Sheet:
        """Return rows with missing values imputed by joint draws; each table has other draws."""
        own = (seed << 32) + table  # so that tables of two seeds, put together, never repeat

        def drawn(block: slice, part: DataTable) -> list[list[str]]:
            asked = np.isnan(part.values)
            values = self.flow.drawn(part.values, asked, own, self.progress, block.start)
            return texts_of(_with_all_columns(part, values))[1]

        names = _with_all_columns(records, records.values).order
        return _sheet(names, (), records, drawn, self.flow.rows_drawn)

    def predict(self, records: DataTable, columns: Sequence[str], interval: Interval) -> Sheet:
        """Return rows with predictions of columns, given the observed cells of other columns.

        Predictions are medians and intervals of numbers, and the most probable category with all
        probabilities. Frequently repeated values (atoms) of a number also get probabilities.

        Raises:
            UsageError: There is no such column, or the network was not trained for it.
        """
        places = [place_of(records, name) for name in columns]
        if len(set(places)) < len(places):
            raise UsageError(f"a column is named twice: {', '.join(columns)}")
        self.flow.require_asked(places)
        flow = interval.answers_of(self.flow)

        def known_of(values: np.ndarray) -> np.ndarray:
            known = ~np.isnan(values)
            known[:, places] = False
            return known

        levels = {place: interval.levels(flow, known_of(records.values), place) for place in places}

        def predicted(block: slice, part: DataTable) -> list[list[str]]:
            known, beside = known_of(part.values), list[list[str]]()
            for place in places:
                distribution = flow.distributions(
                    part.values, known, place, levels[place][block], self.progress
                )
                column = records.columns[place]
                guess = self._best_guess(distribution, place)
                beside.append(column_texts(column, guess, records.decimal))
                if column.type != CATEGORY:
                    beside += self._spread(records, distribution, place)
                likely = distribution.levels or distribution.atoms
                if likely is not None:
                    beside += [_numbers(shares, ".4f") for shares in likely.probabilities.T]
            return [*texts_of(part)[1], *beside]

        beside = []
        for place in places:
            column = records.columns[place]
            beside.append(ResultColumn(f"{column.name}_predicted"))
            if column.type != CATEGORY:
                beside += self._names_of_spread(records, place)
            values = flow.space.atoms_at(place) or flow.space.values[place]
            levels_of = column_texts(column, np.array(values), records.decimal)
            beside += [ResultColumn(f"{column.name}_is_{level}", True) for level in levels_of]
        return _sheet(records.order, beside, records, predicted)

    def score(self, records: DataTable, odd: float) -> Sheet:
        """Return a sheet with log densities of rows, outlier cells, and probabilities of cells.

        The first columns are the row number, the log density and its error, the lowest cell
        probability, and the names of outlier cells, least probable first.

        Args:
            records: Rows.
            odd: Tail probability up to which a cell is flagged as an outlier.
        """

        def scored(block: slice, part: DataTable) -> list[list[str]]:
            scores = self.flow.scores(part.values, self.progress)
            least, named = list[str](), list[str]()
            for tails in scores.tails:
                order = [place for place in np.argsort(tails).tolist() if tails[place] <= odd]
                named.append("; ".join(f"{records.names[at]} ({tails[at]:.2g})" for at in order))
                least.append("" if np.isnan(tails).all() else f"{np.nanmin(tails):.3g}")
            return [
                [str(1 + row) for row in range(block.start, block.stop)],
                _numbers(scores.log_prob, ".4f"),
                _numbers(scores.error, ".2g"),
                least,
                named,
                *texts_of(part)[1],
                *(_numbers(tails, ".3g") for tails in scores.tails.T),
            ]

        # The source's first column may have no name, but here another column comes first.
        further = [ResultColumn(name or INDEX) for name in records.order]
        further += [ResultColumn(f"{name}_probability", True) for name in records.names]
        sheet = _sheet(SCORES, further, records, scored)
        return replace(sheet, plain=[*SCORES[:-1], *sheet.plain])

    def draw(self, count: int, given: Sequence[tuple[str, str]], seed: int) -> Sheet:
        """Return sampled rows that share given values; see ``table``.

        Raises:
            UsageError: A column or a category does not exist, or a value is not valid for its
                column.
        """
        row, names = self._given_row(given), self.flow.empty.names
        self._warn_of_far(row[None])
        drawn = self.table(row, count, seed)
        for made, column in enumerate(self.flow.empty.columns):
            if is_missing_indicator(column):
                drawn[drawn[:, made] == 1, names.index(column.of)] = np.nan
        return sheet_of(self.flow.empty, drawn)

    def table(self, row: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Return sampled rows ``[count, P]`` with given values ``[P]``, NaN for values to sample.

        If nothing is given, each column has the same distribution as in the training rows
        (``Margins``). More rows are then drawn, and some of them are kept. Progress is called with
        numbers of rows.
        """
        margins = self.flow.margins if np.isnan(row).all() else None
        times, made = TIMES if margins else 1, np.empty((count, len(row)))

        def tell(rows: float) -> None:
            if self.progress:
                self.progress(rows / times)

        for start in range(0, count, MOST_KEPT):
            part = slice(start, min(count, start + MOST_KEPT))
            wanted, own = part.stop - start, hash_seed(seed, start) if start else seed
            values = np.tile(row, (times * wanted, 1))
            drawn = self.flow.drawn(values, np.isnan(values), own, tell)
            made[part] = drawn[margins.kept(drawn, wanted, own)] if margins else drawn
        return made

    def _given_row(self, given: Sequence[tuple[str, str]]) -> np.ndarray:
        """Return the given values and those derived from them ``[P]``; NaN elsewhere."""
        flow = self.flow
        row = np.full(len(flow.empty.columns), np.nan)
        for name, text in given:
            place = place_of(flow.empty, name)
            column, value = flow.empty.columns[place], np.full(len(row), np.nan)
            frame = importlib.import_module("pandas").DataFrame({name: [text]})
            with suppress(DataError):  # raised for an invalid value
                one, _ = encode(frame, flow.empty.columns, decimal=flow.empty.decimal)
                value = one.values[0]
            if ((row != value) & ~np.isnan(row + value)).any():
                raise UsageError(f"--given={name}:{text} contradicts an earlier value")
            row = np.where(np.isnan(value), row, value)
            broken = column.type == WHOLE and row[place] != np.round(row[place])
            if np.isnan(row[place]) or broken or flow.space.no_levels(row[None])[0, place]:
                own = () if place in flow.space.numbers else flow.space.values[place]
                levels = ", ".join(text_of(column, value) for value in own)
                kind = KINDS.get(column.type, "numbers")
                raise UsageError(f"--given={name}:{text}: '{name}' must be {levels or kind}")
        return row

    def to_compare(self, records: DataTable, given: Sequence[tuple[str, str]]) -> DataTable:
        """Return rows with given values to compare draws with; held-out rows if there are any.

        Raises:
            DataError: The records have other columns, or may have trained the network.
            UsageError: There are too few rows with these values.
        """
        require_of_training(self.flow, records)
        row = self._given_row(given)
        wanted = ~np.isnan(row)
        chosen = (records.values[:, wanted] == row[wanted]).all(axis=1)
        if records.held_out.any():
            chosen &= records.held_out
        rows = np.flatnonzero(chosen)
        if len(rows) < FEWEST_CELLS:
            raise UsageError(
                f"--data has {len(rows)} comparable rows, held out and with the given "
                f"values: need at least {FEWEST_CELLS}"
            )
        return records.at(rows[evenly(len(rows), MOST_COMPARED)])

    def checked(self, records: DataTable, hidden: float, level: float, seed: int) -> Any:
        """Check the calibration of conditional distributions on held-out rows.

        Cells are split at random into parts that are masked together, each cell once. Each masked
        cell is queried by itself, given the cells of its row that are not masked. If the flow is
        right, its distribution functions at the true values are uniform between 0 and 1 for each
        column.

        Args:
            records: Training records; only held-out rows are used.
            hidden: Share of the cells that are masked together, at most a half.
            level: Level of all tests together.
            seed: Random seed of the masking and of draws.

        Raises:
            DataError: The records have other columns, or too few rows are held out.
        """
        require_of_training(self.flow, records)
        values = records.at(records.held_out).values
        generator = seeded_generator("cpu", seed, Stream.HELD_OUT)
        there = ~np.isnan(values)
        parts = torch.randint(max(2, round(1 / hidden)), values.shape, generator=generator).numpy()
        if self.flow.ask:
            parts = np.zeros_like(parts)
            parts[:, list(self.flow.ask)] = 1
        places = list(self.flow.ask) or list(range(values.shape[1]))
        columns, p_values, fewest = {}, {}, len(values)
        for place in places:
            rows = np.flatnonzero(there[:, place])
            if len(rows) < FEWEST_CELLS:
                continue
            known = there[rows] & (parts[rows] != parts[rows, place, None])
            facts, ranks = self._column_check(values[rows], known, place, generator)
            name = records.names[place]
            columns[name] = facts
            p_values[f"ranks of {name}"] = float(ks_p_values(torch.from_numpy(ranks)[:, None])[0])
            fewest = min(fewest, len(rows))
        if not columns:
            raise DataError(
                f"fewer than {FEWEST_CELLS} validation cells per column are observed in "
                f"{len(values)} rows: hold out more rows with {script('dataset_tool')} "
                "--held-out"
            )
        adjusted = holm(p_values)
        facts = {
            "rows": len(values),
            "hidden": None if self.flow.ask else hidden,
            "level": level,
            "columns": columns,
            "p_values": p_values,
            "adjusted": adjusted,
            "verdict": verdict(adjusted, level, fewest, "cells"),
            "detectable": detectable(level, len(adjusted), fewest),
            "fails": min(adjusted.values()) < level,
        }
        if not self.flow.ask and not records.held_out.all():
            facts["copies"] = self._nearest(records, seed)
        return facts

    def _best_guess(self, distribution: CellDistribution, place: int) -> np.ndarray:
        """Return medians ``[n]`` of numbers, or the most probable categories."""
        if self.flow.empty.columns[place].type == CATEGORY:
            assert distribution.levels is not None
            return distribution.levels.likeliest
        return self.flow.space.within_range(place, distribution.quantiles[:, 1])

    def _names_of_spread(self, records: DataTable, place: int) -> list[ResultColumn]:
        """Return the columns with the ends of intervals of a number, or a highest probability."""
        column = records.columns[place]
        if column.type == CATEGORY:
            return [ResultColumn(f"{column.name}_probability", True)]
        return [ResultColumn(f"{column.name}_{end}") for end in ("low", "high")]

    def _spread(
        self, records: DataTable, distribution: CellDistribution, place: int
    ) -> list[list[str]]:
        """Return the texts ``[n]`` of these columns."""
        column = records.columns[place]
        if column.type == CATEGORY:
            assert distribution.levels is not None
            return [_numbers(distribution.levels.probabilities.max(axis=1), ".4f")]
        ends = distribution.quantiles[:, 0], distribution.quantiles[:, 2]
        return [column_texts(column, end, records.decimal) for end in ends]

    def _column_check(
        self, values: np.ndarray, known: np.ndarray, place: int, generator: torch.Generator
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return facts about one column's masked cells, and their ranks ``[n]``."""
        truth = values[:, place]
        facts: dict[str, Any] = {"cells": len(truth)}
        distribution = self.flow.distributions(values, known, place, (0.5,))
        if distribution.levels is not None:
            own = distribution.levels.at(truth)
            ranks = distribution.levels.ranks(truth, generator)
            shares = distribution.levels.probabilities
            overall = np.array([(truth == value).mean() for value in distribution.levels.values])
            present = overall[overall > 0]
            facts |= {
                "right": float((distribution.levels.likeliest == truth).mean()),
                "said": float(shares.max(axis=1).mean()),
                "log_loss": float(-np.log(own.clip(1e-12)).mean()),
                "log_loss_of_shares": float(-(present * np.log(present)).sum()),
                "reliability": reliability(shares, distribution.levels.values == truth[:, None]),
            }
        else:
            ranks = self.flow.ranks(values, known, place, generator)
            facts["mean_error"] = float(np.abs(distribution.quantiles[:, 0] - truth).mean())
            facts["mean_error_of_median"] = float(np.abs(truth - np.median(truth)).mean())
        inside = np.abs(2 * ranks - 1)
        facts["coverage"] = {f"{share:g}": float((inside <= share).mean()) for share in LEVELS}
        return facts, ranks

    def _nearest(self, records: DataTable, seed: int) -> dict[str, float]:
        """Return the median distances of sampled and of held-out rows to the nearest training row.

        Samples much nearer to training rows would be copies. Distances are in coordinates of the
        flow, and different levels count 1. Only rows without missing cells are used, since samples
        have none.
        """
        whole = ~np.isnan(records.values).any(axis=1)
        train = records.values[whole & ~records.held_out]
        others = records.values[whole & records.held_out]
        if min(len(train), len(others)) < FEWEST_NEIGHBORS:
            return {}
        count = min(len(others), 1000)
        empty = np.full((count, len(records.columns)), np.nan)
        drawn = self.flow.drawn(empty, np.isnan(empty), seed)

        def coded(values: np.ndarray) -> torch.Tensor:
            rows = self.flow.space.encoded(values)
            return torch.cat([rows.numbers.nan_to_num(0.0), 10.0 * rows.levels], dim=1)

        known, numbers = coded(train[:20_000]), self.flow.space.dim

        def nearest(values: np.ndarray) -> float:
            least = []
            for part in torch.split(coded(values), 256):
                far = torch.cdist(part[:, :numbers], known[:, :numbers]).square()
                differ = torch.cdist(part[:, numbers:], known[:, numbers:], p=0.0)
                least.append((far + differ).min(dim=1).values)
            return float(torch.cat(least).sqrt().median())

        return {"drawn": nearest(drawn), "held_out": nearest(others[:count])}


def place_of(records: DataTable, name: str) -> int:
    """Return the index of a column.

    Raises:
        UsageError: There is no column of this name.
    """
    if name not in records.names:
        raise UsageError(f"there is no column '{name}': columns are {', '.join(records.names)}")
    return records.names.index(name)


def sheet_of(records: DataTable, values: np.ndarray) -> Sheet:
    """Return new rows ``[n, P]`` in the columns of records as a sheet."""
    starts = range(0, len(values), BLOCK)
    blocks = (texts_of(records, values[start : start + BLOCK])[1] for start in starts)
    return Sheet([*records.order], len(values), blocks)


def _sheet(
    names: Sequence[str],
    beside: Sequence[ResultColumn],
    records: DataTable,
    texts: Callable[[slice, DataTable], list[list[str]]],
    multiple: int = 1,
) -> Sheet:
    """Return a sheet with a row for each of some records.

    Args:
        names: Names of the first columns.
        beside: Further columns, whose names are changed if they exist already.
        records: All records.
        texts: Function of the place of a block and its records, which returns texts by column.
        multiple: The size of blocks is a multiple of this number of rows.
    """
    names, plain = list(names), list[str]()
    for name, is_plain in beside:
        while name in names:
            name += "_"
        names.append(name)
        plain += [name] * is_plain
    size, count = multiple * max(1, BLOCK // multiple), len(records)
    places = (slice(start, min(count, start + size)) for start in range(0, count, size))
    blocks = (texts(block, records.at(np.arange(block.start, block.stop))) for block in places)
    return Sheet(names, count, blocks, len(beside), plain)


def _numbers(values: np.ndarray, form: str) -> list[str]:
    """Write plain numbers ``[n]`` in a format; NaN is empty."""
    return ["" if value != value else format(value, form) for value in values.tolist()]


def _in_rows(texts: Sequence[str], rows: np.ndarray, count: int) -> list[str]:
    """Return a column of ``count`` texts that is empty except in some rows."""
    whole = [""] * count
    for row, text in zip(rows.tolist(), texts, strict=True):
        whole[row] = text
    return whole


def _with_all_columns(records: DataTable, values: np.ndarray) -> DataTable:
    """Return records with new values, with columns that the source lacks at the end."""
    own = [column.name for column in records.columns if not column.of]
    lacking = [name for name in own if name not in records.order]
    return replace(records, values=values, order=[*records.order, *lacking])


def check_lines(facts: dict[str, Any]) -> list[str]:
    """Describe the most important numbers of a check in words."""
    hidden = facts["hidden"]
    lines = [
        f"{facts['rows']} validation rows; of their cells "
        + (f"{hidden:.0%} are hidden at a time" if hidden else "those of the query are hidden"),
        "  column               cells  50/80/90/95 % cover  scores",
    ]
    for name, column in facts["columns"].items():
        shares = " ".join(f"{100 * share:.0f}" for share in column["coverage"].values())
        if "log_loss" in column:
            beside = (
                f"most likely category correct {column['right']:.0%} (predicted "
                f"probability {column['said']:.0%}); log loss {column['log_loss']:.3f}, "
                f"of category frequencies {column['log_loss_of_shares']:.3f}"
            )
        else:
            beside = (
                f"mean absolute error {column['mean_error']:.4g}, of the median "
                f"{column['mean_error_of_median']:.4g}"
            )
        lines.append(f"  {name:20} {column['cells']:5}  {shares:20} {beside}")
    copies = facts.get("copies")
    if copies:
        lines.append(
            "Median distance to the nearest training row: drawn rows "
            f"{copies['drawn']:.3g}, validation rows {copies['held_out']:.3g}. Much "
            "smaller distances would mean copies; larger ones do not guarantee privacy"
        )
    lines.append(facts["verdict"])
    return lines
