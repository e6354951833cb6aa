"""Conditional queries about rows, which are data frames."""

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import UsageError
from dnnlib.numbers import fraction, natural
from dnnlib.warned import collecting
from training.data.tables.formats import MISSING_MARKS, listed
from training.data.tables.schema import CATEGORY
from training.data.tables.table import DataTable
from training.models.conversion import FRAMES, columns_of, frame_class, kind_of
from training.models.library import library_class
from training.models.queries import Asking, Interval, Sheet, place_of
from training.models.results import QueryDraws
from training.subjects import RecordFlow
from training.trained.network import TrainedNetwork

DIGITS = 15
"""Digits of whole numbers that floating point represents exactly, the type of a column with missing
cells.
"""


@library_class
@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """A trained network of records that answers conditional queries about rows.

    Rows are a data frame, or the path of a table, whose columns have the names of the training
    data. Results are data frames of the same kind, or of pandas.

    Attributes:
        flow: Flow of records, for queries with arrays instead of data frames.
    """

    flow: RecordFlow

    @classmethod
    def open(cls, location: str | Path) -> "Answers":
        """Open a network file that ``train.py`` made from records, or with ``--any``.

        Raises:
            DataError: The file is missing or broken, or of other data.
        """
        return cls(RecordFlow.of(TrainedNetwork.open(str(location))))

    @classmethod
    def load(cls, path: str | Path) -> "Answers":
        """Load answers from a file that ``save`` or ``train.py`` wrote; see ``open``."""
        return cls.open(path)

    def save(self, path: str | Path) -> None:
        """Write the network file atomically; ``ask.py`` and ``load`` open it."""
        self.flow.network.save(path)

    def __repr__(self) -> str:
        return f"Answers({', '.join(self.flow.empty.names)})"

    def fill(self, rows: Any, interval: float = 0.9, held_out: Any = True) -> Any:
        """Impute missing values by medians and most probable levels.

        Columns with the ends of intervals, or with probabilities, are added.

        Args:
            rows: Rows with missing cells.
            interval: Nominal coverage of the intervals of numbers.
            held_out: Whether to calibrate intervals with the scores of held-out cells in the
                network file; or the table of the training, whose held-out rows then calibrate the
                intervals for the same query.
        """
        intervals = Interval(fraction("interval", interval), _rows_of(held_out))
        records = self._rows(rows)
        return _like(rows, _frame(Asking(self.flow).fill(records, intervals), records))

    def complete(self, rows: Any, tables: int = 20, seed: int = 0) -> list[Any]:
        """Return ``tables`` tables with joint draws of the missing values.

        The tables serve multiple imputation.
        """
        records, seed = self._rows(rows), natural("seed", seed)
        return [
            _like(rows, _frame(Asking(self.flow).completed(records, seed, number), records))
            for number in range(natural("tables", tables))
        ]

    def predict(
        self,
        rows: Any,
        columns: Sequence[str],
        interval: float = 0.9,
        held_out: Any = True,
    ) -> Any:
        """Predict columns, given all other cells that are present; see ``fill``."""
        intervals = Interval(fraction("interval", interval), _rows_of(held_out))
        columns = [columns] if isinstance(columns, str) else columns
        records = self._rows(rows, columns)
        return _like(rows, _frame(Asking(self.flow).predict(records, columns, intervals), records))

    def score(self, rows: Any, odd: float = 0.01) -> Any:
        """Return the log density of each row, its error, and its outlying cells.

        Args:
            rows: Rows; their missing cells are ignored.
            odd: A cell is flagged as an outlier if the conditional probability of its value, given
                the other cells of its row, is below this number.
        """
        odd = 1.0 if odd == 1 else fraction("odd", odd)
        records = self._rows(rows)
        return _like(rows, _frame(Asking(self.flow).score(records, odd), records))

    def sample(self, count: int, given: Mapping[str, object] | None = None, seed: int = 0) -> Any:
        """Draw ``count`` rows, optionally given values of some columns."""
        count, seed = natural("count", count), natural("seed", seed)
        if not isinstance(given or {}, Mapping):
            raise UsageError(
                f"the conditions {given!r} have no column names: give values by column, for "
                "example "
                "{'garden': 'yes'}"
            )
        sign = self.flow.empty.decimal
        pairs = [
            (name, str(value).replace(".", sign) if isinstance(value, Real) else str(value))
            for name, value in (given or {}).items()
        ]
        return _frame(Asking(self.flow).draw(count, pairs, seed), self.flow.empty)

    def posterior(self, columns: str | Sequence[str]) -> "QueryPosterior":
        """Return the joint posterior of numeric columns, given all other observed cells of a row.

        ``training.check`` and ``training.calibrate`` take this posterior like any other.

        Args:
            columns: Names of the columns.

        Raises:
            UsageError: There is no such column, it is not a number, or the network was trained for
                another query.
        """
        names = [columns] if isinstance(columns, str) else list(columns)
        places = [place_of(self.flow.empty, name) for name in names]
        for name, place in zip(names, places, strict=True):
            if self.flow.empty.columns[place].type == CATEGORY:
                raise UsageError(f"'{name}' is a category: posteriors are of numbers; use predict")
        if not places or len(set(places)) < len(places):
            raise UsageError(f"the columns of a posterior are {listed(names)}: name each once")
        self.flow.require_any()
        return QueryPosterior(self, names)

    def check(
        self, table: Any, hidden: float = 0.2, level: float = 0.05, seed: int = 0
    ) -> dict[str, Any]:
        """Test the conditional distributions of hidden cells in the held-out rows of a table.

        See ``ask.py check``.
        """
        hidden, level = fraction("hidden", hidden, 0.5), fraction("level", level)
        seed = natural("seed", seed)
        return Asking(self.flow).checked(_rows_of(table), hidden, level, seed)

    def _rows(self, rows: Any, asked: Sequence[str] = ()) -> DataTable:
        if isinstance(_rows_of(rows), DataTable):  # their levels may have other indices
            raise UsageError(
                "rows are a table to train on: give the file or data frame that it was made from"
            )
        return Asking(self.flow).rows_of(rows, asked)


@library_class
@dataclass(frozen=True, eq=False, repr=False)
class QueryPosterior:
    """Joint posterior of D numeric columns, given all other observed cells of a row.

    Attributes:
        answers: Trained network of the rows.
        names: Names of the columns.
    """

    answers: Answers
    names: Sequence[str]

    def __repr__(self) -> str:
        return f"QueryPosterior({', '.join(self.names)})"

    def sample(self, observed: Any, draws: int = 1000, seed: int = 0) -> QueryDraws:
        """Return S draws of the D columns for each of M rows.

        Args:
            observed: Rows: a data frame or the path of a table, with or without the columns. Their
                missing cells are unknown.
            draws: Number of draws per row, S.
            seed: Random seed.
        """
        with collecting() as warnings:
            count, (values, places) = natural("draws", draws), self._values(observed)
            repeated = np.repeat(values, count, axis=0)
            drawn = self.answers.flow.drawn(repeated, self._asked(repeated), natural("seed", seed))
        points = drawn[:, places].reshape(len(values), count, len(places))
        return QueryDraws(names=[*self.names], points=points, warnings=tuple(warnings))

    def log_prob(self, points: Any, observed: Any) -> np.ndarray:
        """Return the log densities ``[M]`` of points ``[M, D]``, one for each row, in nats.

        For discrete columns it is the mean density over the quantization bin, and for frequently
        repeated values (atoms) the log probability.
        """
        values, places = self._values(observed)
        values[:, places] = columns_of(points, self.names, "points")
        return self.answers.flow.log_prob(values, self._asked(values))[0]

    def _values(self, observed: Any) -> tuple[np.ndarray, list[int]]:
        """Return rows ``[M, P]`` without the columns, and the indices of the columns."""
        values = np.array(self.answers._rows(observed, self.names).values)
        places = [place_of(self.answers.flow.empty, name) for name in self.names]
        values[:, places] = np.nan
        return values, places

    def _asked(self, values: np.ndarray) -> np.ndarray:
        columns = np.isin(self.answers.flow.empty.names, self.names)
        return np.tile(columns, (len(values), 1))


def _rows_of(table: Any) -> Any:
    """Return the typed rows of a ``Table``; other values are returned unchanged."""
    rows = getattr(table, "rows", None)
    return rows.as_typed() if isinstance(rows, DataTable) else table


def _frame(sheet: Sheet, records: DataTable) -> Any:
    """Convert a sheet to a data frame, with texts parsed as numbers where possible.

    Codes such as 01234 remain texts, as do identifiers that would lose digits.
    """
    own = {column.name: column.missing for column in records.columns}
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(sheet.names)
    texts = {name: set[str]() for name in sheet.names}
    for columns in sheet.blocks:
        writer.writerows(zip(*columns, strict=True))
        for some, column in zip(texts.values(), columns, strict=True):
            some.update(column)
    # Levels may be texts that pandas reads as missing, and the source may write other marks.
    gone = {
        name: [text for text in some if text.lower() in MISSING_MARKS or text == own.get(name)]
        for name, some in texts.items()
    }
    as_written = {
        name: str
        for name, some in texts.items()
        if any(text[:1] == "0" and text[1:2].isdigit() for text in some)
        or (name in records.beside and gone[name] and any(map(_is_long, some)))
    }

    def read(**options: Any) -> Any:
        file.seek(0)
        pandas = importlib.import_module("pandas")
        as_is = {"keep_default_na": False, "na_values": gone, "skip_blank_lines": False}
        return pandas.read_csv(file, **as_is, **options)

    frame = read(decimal=records.decimal, dtype=as_written)
    if records.decimal != "." and sheet.plain:
        frame[sheet.plain] = read(usecols=sheet.plain)[sheet.plain]
    return frame


def _is_long(text: str) -> bool:
    return len(text) > DIGITS and text.removeprefix("-").isdecimal()


def _like(rows: Any, frame: Any) -> Any:
    """Convert a data frame of pandas to the kind of these rows.

    A data frame of pandas gets the same index. In other kinds missing cells are None.
    """
    kind = kind_of(rows)
    if kind == FRAMES:
        return frame.set_index(rows.index)
    if kind in ("builtins", "pathlib"):
        return frame
    columns = {
        name: column.astype(object).where(column.notna(), None).tolist()
        for name, column in frame.items()
    }
    made = frame_class(kind)
    return frame if made is None else made(columns)
