"""Encoding of new rows by the columns of a trained network."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from training.data.tables.formats import listed, table_suffix
from training.data.tables.raw_tables import TEXTS, Cells, open_cells
from training.data.tables.reading import MOST_EXACT, made_values
from training.data.tables.schema import CATEGORY, DATE, NUMBER, WHOLE, Column, Schema
from training.data.tables.table import DataTable
from training.data.tables.values import (
    Survey,
    column_texts,
    date_text,
    day_of,
    decimal_of,
    marks_of,
    number_in,
    reader_of,
    visible,
)

SAME, MOMENT = 1e-12, 1e-10
"""Tolerances for equality: relative for numbers, in days for dates."""
MOST_NAMED = 20
"""Maximum number of unknown levels in messages, the most frequent ones."""


def encode(
    source: Any,
    columns: Sequence[Column],
    separator: str | None = None,
    decimal: str | None = None,
    missing_values: Sequence[str] = (),
    asked: Sequence[str] = (),
    like: Schema | None = None,
) -> tuple[DataTable, list[str]]:
    """Encode the rows of a file or a data frame as values of known columns, matched by name.

    Args:
        source: File or data frame, as for ``open_cells``.
        columns: Known columns, for example the columns of a network's training data.
        separator: Separator of the cells of a text file; None detects the separator.
        decimal: Decimal sign; None detects the sign.
        missing_values: Texts that represent missing values, in addition to usual texts such as NA.
        asked: Names of columns that may be absent without a report.
        like: Schema that decides the decimal sign of a text file with the same separator, if
            numbers such as 4,500 are ambiguous; None for a decimal point.

    Returns:
        Rows of the known columns, all rows held out, and lines of text about missing data. A
        column that the source lacks is missing in all rows; a cell with an unknown category is
        missing. Other columns of the source are stored as texts in ``beside``; ``order`` is the
        order of the source.

    Raises:
        DataError: The source is missing or broken, is a file without rows, has no known column, or
            has text where a number or a date should be.
    """
    cells = open_cells(source, separator)
    own = {column.name: column for column in columns if column.name in cells.names}
    if not own:
        raise DataError(
            f"{cells.name} has none of the columns {listed([column.name for column in columns])}: "
            "give a table with at least one of them"
        )
    usual, is_text = ".", isinstance(source, str | Path) and table_suffix(Path(source)) in TEXTS
    if like is not None and is_text and cells.separator == like.separator:
        usual = like.decimal
    sign = _decimal(cells, own.values(), usual) if decimal is None else decimal
    read = _Read.from_cells(cells, own, sign, marks_of(missing_values), is_text)
    values = read.rows(columns)
    if isinstance(source, str | Path) and not len(values):  # a partition may be empty
        raise DataError(f"{cells.name} has no rows: give a table with at least one row")
    records = DataTable(
        columns,
        list(cells.names),
        beside={name: np.array(texts, dtype=object) for name, texts in read.beside.items()},
        separator=cells.separator,
        decimal=sign,
        typed=True,
        values=values,
        held_out=np.ones(len(values), dtype=bool),
        as_written=read.as_written,
    )
    return records, _told(cells, columns, (*own, *asked), read.unknown)


def contradicted(records: DataTable, like: Schema) -> Iterator[str]:
    """Yield a sentence for each column that is constant in the training data, but not in new rows.

    Args:
        records: New rows.
        like: Schema of the training data.
    """
    missing = marks_of(())
    for name, own in like.constants.items():
        if name in records.constants:
            texts = np.full(len(records), records.constants[name], dtype=object)
        elif name in records.beside:
            texts = records.beside[name]
        else:
            continue
        number, others = number_in(own, like.decimal), list[str]()
        for text in dict.fromkeys(texts.tolist()):
            here = number_in(text, records.decimal)
            alike = number.value == here.value if number and here else text == own
            if not (alike or text.lower() in missing):
                others.append(text)
        rows = np.flatnonzero(np.isin(texts, others))
        if len(rows):
            yield (
                f"column '{name}' is constant in the training data, but not in {len(rows)} "
                f"row(s): row {rows[0] + 1} has {visible(others[0])} instead of "
                f"{visible(own) or 'no value'}"
            )


class _Read(NamedTuple):
    """Contents of the columns of a source.

    Attributes:
        values: Values of the known columns ``[n]``.
        beside: Texts of the other columns.
        unknown: Counts of unknown levels, by column and level.
        as_written: See ``DataTable``.
    """

    values: dict[str, np.ndarray]
    beside: dict[str, list[str]]
    unknown: Counter[tuple[str, str]]
    as_written: dict[str, dict[int, str]]

    def rows(self, columns: Sequence[Column]) -> np.ndarray:
        """Return the values ``[n, P]`` of P columns, including indicators of missing cells."""
        names = [column.name for column in columns]
        values = np.full((len(next(iter(self.values.values()))), len(columns)), np.nan)
        for name, numbers in self.values.items():
            values[:, names.index(name)] = numbers
        for place, column in enumerate(columns):
            if column.of in self.values:
                values[:, place] = made_values(values, names, column)
        return values

    @classmethod
    def from_cells(
        cls,
        cells: Cells,
        own: Mapping[str, Column],
        decimal: str,
        marks: frozenset[str],
        is_text: bool,
    ) -> "_Read":
        """Read all cells; for text sources, store texts that would be written differently."""
        readers = {name: reader_of(column, cells, decimal, marks) for name, column in own.items()}
        read: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in own}
        beside: dict[str, list[str]] = {name: [] for name in cells.names if name not in own}
        unknown: Counter[tuple[str, str]] = Counter()
        as_written: dict[str, dict[int, str]] = {}
        count = 0
        for block in cells.blocks():
            for name, cells_of_column in zip(cells.names, block, strict=True):
                if name in beside:
                    beside[name] += cells_of_column.to_pylist()
                    continue
                values, column = readers[name](cells_of_column, count), own[name]
                read[name].append(values)
                encoded = cells_of_column.dictionary_encode()
                texts, places = encoded.dictionary.to_pylist(), np.array(encoded.indices)
                of_texts = np.empty(len(texts))
                of_texts[places] = values
                lost = _are_lost(column, of_texts)
                levels, missing = {*column.levels}, {*marks, column.missing.lower()}
                lost &= [text not in levels and text.lower() not in missing for text in texts]
                others = lost.copy()
                if is_text and column.type != CATEGORY:
                    again = np.array(column_texts(column, of_texts, decimal), dtype=object)
                    others |= ~np.isnan(of_texts) & (again != np.array(texts, dtype=object))
                written = as_written.setdefault(name, {})
                for row in np.flatnonzero(others[places]).tolist():
                    written[count + row] = texts[places[row]]
                for text in np.flatnonzero(lost & np.isnan(of_texts)).tolist():
                    unknown[name, texts[text]] += int((places == text).sum())
            count += len(block[0])
        as_written = {name: texts for name, texts in as_written.items() if texts}
        whole = {name: np.concatenate(parts) for name, parts in read.items()}
        return cls(whole, beside, unknown, as_written)


def _are_lost(column: Column, values: np.ndarray) -> np.ndarray:
    """Return whether values ``[n]`` may not survive being written by their column."""
    if column.type == CATEGORY:
        return np.isnan(values) | (values == len(column.levels) - 1) & bool(column.rare)
    if column.type == DATE:
        days, form = np.unique(values[~np.isnan(values)]), column.date_format
        again = [day_of(date_text(day, form), form) or 0.0 for day in days.tolist()]
        return np.isin(values, days[np.abs(days - np.array(again)) > MOMENT])
    digits = 0 if column.type == WHOLE else column.decimals
    if digits is None:
        return np.zeros(len(values), dtype=bool)
    largest, size = MOST_EXACT / 10.0**digits, np.abs(values)
    return np.asarray((size > largest) | (np.abs(values.round(digits) - values) > SAME * size))


def _told(
    cells: Cells,
    columns: Sequence[Column],
    expected: Sequence[str],
    unknown: Counter[tuple[str, str]],
) -> list[str]:
    """Return lines about missing columns, except for expected ones, and unknown levels."""
    absent = [column.name for column in columns if not (column.of or column.name in expected)]
    lines = [
        f"{cells.name} has no column(s) {listed(absent)}: all their cells count as missing"
    ] * bool(absent)
    return lines + [
        (f"'{shown(level)}' is an unknown category of '{name}': {rows} cell(s) count as missing")
        for (name, level), rows in unknown.most_common(MOST_NAMED)
    ]


def _decimal(cells: Cells, columns: Any, usual: str) -> str:
    """Return the decimal sign of the first rows; the usual one if they are ambiguous."""
    numbers = {
        column.name: Survey(column.name) for column in columns if column.type in (NUMBER, WHOLE)
    }
    for name, texts in zip(cells.names, next(cells.blocks(), []), strict=False):
        if name in numbers:
            numbers[name].add(texts)
    return decimal_of(numbers.values(), usual)
