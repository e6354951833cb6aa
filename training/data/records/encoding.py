"""Later rows as a network knows its columns."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from training.data.records.cells import TEXTS, Cells, open_cells
from training.data.records.inferring import Survey, decimal_of
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn, Records
from training.data.records.tidying import MOST_EXACT, made_values
from training.data.records.values import date_text, day_of, marks_of, number_in, reader_of, visible
from training.data.records.writing import text_of
from training.data.tables.foreign import listed

SAME, MOMENT = 1e-12, 1e-10
"""What a number may be off, relative to it, and a date, in days, and be the same."""
MOST_TEXTS = 100_000
"""Maximum number of different texts of a column that are remembered."""
MOST_NAMED = 20
"""Unknown levels that lines name, the most frequent ones."""


def encode(
    source: Any,
    columns: Sequence[RecordColumn],
    separator: str | None = None,
    decimal: str | None = None,
    missing_values: Sequence[str] = (),
    asked: Sequence[str] = (),
    like: Records | None = None,
) -> tuple[Records, list[str]]:
    """Rows of a file or a data frame against columns that are known, found by their names; also
    tells what is missing, in lines for people.

    Args:
        source: As ``open_cells`` takes it.
        columns: What is known, such as the columns of what a network was trained on.
        separator: What is between the cells of a text; None finds it.
        decimal: The decimal sign; None finds it.
        missing_values: Texts that stand for no value, beside the usual ones.
        asked: Names of columns that are not missed.
        like: Records whose decimal sign a text has that leaves it open, as 4,500 does, and has
            their separator; None for a point.

    Returns:
        Records with these columns in this order, all of them held out. A column that the source
        lacks is missing in all rows, a level that is unknown in its cell. The source's other
        columns are kept beside; ``order`` is the source's.

    Raises:
        DataError: It is missing or broken, has no rows, or no column that is known, or has text
            where a number or a date should be.
    """
    cells = open_cells(source, separator)
    own = {column.name: column for column in columns if column.name in cells.names}
    if not own:
        raise DataError(
            f"{cells.name} has none of the columns {listed([column.name for column in columns])}"
        )
    usual, is_text = ".", isinstance(source, str | Path) and Path(source).suffix.lower() in TEXTS
    if like is not None and is_text and cells.separator == like.separator:
        usual = like.decimal
    sign = _decimal(cells, own.values(), usual) if decimal is None else decimal
    read = _Read.of(cells, own, sign, marks_of(missing_values), is_text)
    values = read.rows(columns)
    if not len(values):
        raise DataError(f"{cells.name} has no rows")
    records = Records(
        columns,
        values,
        held_out=np.ones(len(values), dtype=bool),
        beside={name: np.array(texts, dtype=object) for name, texts in read.beside.items()},
        order=list(cells.names),
        separator=cells.separator,
        decimal=sign,
        as_written=read.as_written,
    )
    return records, _told(cells, columns, (*own, *asked), read.unknown)


def contradicted(records: Records, like: Records) -> Iterator[str]:
    """What rows have of columns that were left out of others, as they were constant there, if it is
    another value: a sentence for each column."""
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
                f"column '{name}' is constant in the training, but not in {len(rows)} row(s): row "
                f"{rows[0] + 1} has {visible(others[0])} in place of {visible(own) or 'no value'}"
            )


class _Read(NamedTuple):
    """What the columns of a source have.

    Attributes:
        values: Of those that are known, ``[n]``.
        beside: Texts of the others.
        unknown: How often there are levels that are unknown, by column and level.
        as_written: Of ``Records``.
    """

    values: dict[str, np.ndarray]
    beside: dict[str, list[str]]
    unknown: Counter[tuple[str, str]]
    as_written: dict[str, dict[int, str]]

    def rows(self, columns: Sequence[RecordColumn]) -> np.ndarray:
        """Values ``[n, P]``, with those that are made of others."""
        names = [column.name for column in columns]
        values = np.full((len(next(iter(self.values.values()))), len(columns)), np.nan)
        for name, numbers in self.values.items():
            values[:, names.index(name)] = numbers
        for place, column in enumerate(columns):
            if column.of in self.values:
                values[:, place] = made_values(values, names, column)
        return values

    @classmethod
    def of(
        cls,
        cells: Cells,
        own: Mapping[str, RecordColumn],
        decimal: str,
        marks: frozenset[str],
        is_text: bool,
    ) -> "_Read":
        """Read all cells; of a source that is text, each present cell is written as it was read."""
        readers = {name: reader_of(column, cells, decimal, marks) for name, column in own.items()}
        read: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in own}
        beside: dict[str, list[str]] = {name: [] for name in cells.names if name not in own}
        unknown: Counter[tuple[str, str]] = Counter()
        as_written: dict[str, dict[int, str]] = {}
        written = {name: _Written(column, decimal) for name, column in own.items()}
        count = 0
        for block in cells.blocks():
            for name, texts in zip(cells.names, block, strict=True):
                if name in beside:
                    beside[name] += texts
                    continue
                values, column = readers[name](texts, count), own[name]
                read[name].append(values)
                if is_text:
                    again = written[name].differ(texts, values)
                    as_written.setdefault(name, {}).update(
                        (count + row, texts[row]) for row in again
                    )
                own_marks = {*marks, column.missing.lower()}
                for row in np.flatnonzero(_are_lost(column, values)).tolist():
                    if texts[row] in column.levels or texts[row].lower() in own_marks:
                        continue
                    as_written.setdefault(name, {})[count + row] = texts[row]
                    if np.isnan(values[row]):
                        unknown[name, texts[row]] += 1
            count += len(block[0])
        as_written = {name: texts for name, texts in as_written.items() if texts}
        whole = {name: np.concatenate(parts) for name, parts in read.items()}
        return cls(whole, beside, unknown, as_written)


class _Written:
    """Whether the texts of a column are those that its values are written as."""

    def __init__(self, column: RecordColumn, decimal: str):
        self._column, self._decimal = column, decimal
        self._same: dict[str, bool] = {}

    def differ(self, texts: Sequence[str], values: np.ndarray) -> list[int]:
        """Return the rows whose cells are present and would be written as other texts."""
        if self._column.type == CATEGORY:
            return []
        rows = []
        for row, (text, value) in enumerate(zip(texts, values.tolist(), strict=True)):
            if value != value:
                continue
            same = self._same.get(text)
            if same is None:
                same = text_of(self._column, value, self._decimal) == text
                if len(self._same) < MOST_TEXTS:
                    self._same[text] = same
            if not same:
                rows.append(row)
        return rows


def _are_lost(column: RecordColumn, values: np.ndarray) -> np.ndarray:
    """Whether values ``[n]`` that are read may not be what their column would be written as."""
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
    columns: Sequence[RecordColumn],
    expected: Sequence[str],
    unknown: Counter[tuple[str, str]],
) -> list[str]:
    """Lines about columns that are missing, beside those that may be, and about unknown levels."""
    absent = [column.name for column in columns if not (column.of or column.name in expected)]
    lines = [f"{cells.name} lacks {listed(absent)}: all their cells are missing"] * bool(absent)
    return lines + [
        f"'{shown(level)}' is an unknown level of '{name}': {rows} cell(s) are missing"
        for (name, level), rows in unknown.most_common(MOST_NAMED)
    ]


def _decimal(cells: Cells, columns: Any, usual: str) -> str:
    """The decimal sign of the first rows; the usual one if they leave it open."""
    numbers = {
        column.name: Survey(column.name) for column in columns if column.type in (NUMBER, WHOLE)
    }
    for name, texts in zip(cells.names, next(cells.blocks(), []), strict=False):
        if name in numbers:
            numbers[name].add(texts)
    return decimal_of(numbers.values(), usual)
