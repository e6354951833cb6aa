"""Answers about rows from Python: what ``ask.py`` gives, as data frames."""

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from dnnlib.numbers import fraction, natural
from training.commands.frames import FRAMES, kind_of
from training.data.records.records import Records
from training.data.tables.formats import MISSING
from training.runs import asking
from training.runs.asking import Sheet
from training.runs.intervals import Interval
from training.subjects import NetworkFile, RecordFlow

DIGITS = 15
"""Of whole numbers that floating-point numbers hold, which a column with missing cells gets."""


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """What a network of records answers. Rows are a data frame, or a path of a table, whose columns
    have the names of those that it was trained on; answers are data frames of the same kind, or of
    pandas.

    Attributes:
        flow: The answers as arrays.
    """

    flow: RecordFlow

    @classmethod
    def open(cls, location: str | Path) -> "Answers":
        """Those of a network file that ``train.py`` made of records, or with ``--any``.

        Raises:
            DataError: It is missing or broken, or of other data.
        """
        return cls(RecordFlow.of(NetworkFile.open(str(location))))

    def __repr__(self) -> str:
        return f"Answers({', '.join(self.flow.empty.names)})"

    def fill(self, rows: Any, interval: float = 0.9, held_out: Records | bool = True) -> Any:
        """The rows with medians and likeliest levels in their holes, and how sure these are.

        Args:
            rows: With missing cells.
            interval: Probability of the intervals of numbers.
            held_out: Whether intervals are as cells were that the training held out; or its
                records, whose held-out rows set them so that they hold. See ``Interval``.
        """
        intervals = Interval(fraction("interval", interval), held_out)
        records = self._rows(rows)
        return _like(rows, _frame(asking.fill(self.flow, records, intervals), records))

    def complete(self, rows: Any, tables: int = 20, seed: int = 0) -> list[Any]:
        """So many tables with joint draws in the holes, for multiple imputation."""
        records, seed = self._rows(rows), natural("seed", seed)
        return [
            _like(rows, _frame(asking.completed(self.flow, records, seed, number), records))
            for number in range(natural("tables", tables))
        ]

    def predict(
        self,
        rows: Any,
        columns: Sequence[str],
        interval: float = 0.9,
        held_out: Records | bool = True,
    ) -> Any:
        """The rows with predictions of columns, given the cells of all others that are there; see
        ``fill``."""
        intervals = Interval(fraction("interval", interval), held_out)
        columns = [columns] if isinstance(columns, str) else columns
        records = self._rows(rows, columns)
        return _like(rows, _frame(asking.predict(self.flow, records, columns, intervals), records))

    def score(self, rows: Any, odd: float = 0.01) -> Any:
        """Log density of each row, its error, and its odd cells.

        Args:
            rows: Of which missing cells are passed over.
            odd: Cells are odd whose value is this improbable, given the others of their row.
        """
        odd = 1.0 if odd == 1 else fraction("odd", odd)
        records = self._rows(rows)
        return _like(rows, _frame(asking.score(self.flow, records, odd), records))

    def sample(self, count: int, given: Mapping[str, object] | None = None, seed: int = 0) -> Any:
        """So many rows, given what all of them have, by the names of columns."""
        count, seed = natural("count", count), natural("seed", seed)
        if not isinstance(given or {}, Mapping):
            raise UsageError(f"given is {given!r}: give values by column, as {{'garden': 'yes'}}")
        sign = self.flow.empty.decimal
        pairs = [
            (name, str(value).replace(".", sign) if isinstance(value, Real) else str(value))
            for name, value in (given or {}).items()
        ]
        return _frame(asking.draw(self.flow, count, pairs, seed), self.flow.empty)

    def check(
        self, records: Records, hidden: float = 0.2, level: float = 0.05, seed: int = 0
    ) -> dict[str, Any]:
        """Whether hidden cells of held-out rows are where the flow says; see ``ask.py check``."""
        hidden, level = fraction("hidden", hidden, 0.5), fraction("level", level)
        seed = natural("seed", seed)
        return asking.checked(self.flow, records, hidden, level, seed)

    def _rows(self, rows: Any, asked: Sequence[str] = ()) -> Records:
        if isinstance(rows, Records):  # whose levels may be others, by their places
            raise UsageError("rows are Records: give the file or the data frame that these are of")
        return asking.rows_of(self.flow, rows, asked)


def _frame(sheet: Sheet, records: Records) -> Any:
    """A sheet as a data frame, with numbers where its texts are such; codes, as 01234, are none,
    nor are identifiers of which numbers would lose digits."""
    own = {column.name: column.missing for column in records.columns}
    texts = {name: {row[at] for row in sheet.rows} for at, name in enumerate(sheet.names)}
    # Texts that pandas takes for missing may be levels, and what the source writes need not be one.
    gone = {
        name: [text for text in some if text.lower() in MISSING or text == own.get(name)]
        for name, some in texts.items()
    }
    as_written = {
        name: str
        for name, some in texts.items()
        if any(text[:1] == "0" and text[1:2].isdigit() for text in some)
        or (name in records.beside and gone[name] and any(map(_is_long, some)))
    }
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([sheet.names, *sheet.rows])

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
    """A data frame of pandas as one of the kind of these rows, with the index of those of pandas;
    of others missing cells are None."""
    kind = kind_of(rows)
    if kind == FRAMES:
        return frame.set_index(rows.index)
    if kind in ("builtins", "pathlib"):
        return frame
    columns = {
        name: column.astype(object).where(column.notna(), None).tolist()
        for name, column in frame.items()
    }
    return importlib.import_module(kind).DataFrame(columns)
