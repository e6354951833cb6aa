"""From texts of cells to the values of a column."""

from collections.abc import Callable, Sequence

import numpy as np

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from training.data.records.cells import Cells
from training.data.records.parsing import (
    DAYS,
    NOTHING,
    TIMES,
    day_of,
    formats_of,
    marks_of,
    number_in,
)
from training.data.records.records import CATEGORY, NUMBER, WHOLE, RecordColumn
from training.data.tables.making import LARGEST
from training.data.tables.text import is_number

ISO_FORMATS = tuple(DAYS[0] + time for time in TIMES)
"""That dates may be written in instead: data frames do."""


class _Misfit(Exception):
    """A text, which is neither of a column's type nor missing."""


def numbers_of(texts: Sequence[str], decimal: str, missing_marks: frozenset[str]) -> np.ndarray:
    """The numbers ``[n]`` of texts, NaN where there is none."""
    if decimal == ".":
        try:
            values = np.array(texts, dtype=np.float64)
        except ValueError:
            pass
        else:
            if missing_marks == NOTHING and not any("_" in text for text in texts):
                return np.where(np.isfinite(values), values, np.nan)
    return np.array([_number(text, decimal, missing_marks) for text in texts])


def _number(text: str, decimal: str, missing_marks: frozenset[str]) -> float:
    if text.lower() in missing_marks:
        return np.nan
    if decimal == "." and is_number(text):
        return float(text)
    number = number_in(text, decimal)
    if number is None:
        raise _Misfit(text)
    return number.value


def reader_of(
    column: RecordColumn, cells: Cells, decimal: str, missing_marks: frozenset[str] = NOTHING
) -> Callable[[list[str], int], np.ndarray]:
    """What reads texts into the values ``[n]`` of a column, NaN where they are missing.

    The reader takes the texts and the number of the first one's row. It raises DataError, which
    names the row, for what is neither of the column's type nor missing, and for numbers that are
    too large. Unknown levels are missing, and so is what the column's own source has where a cell
    is missing, such as -999.
    """
    plain = _plain_reader(column, decimal, missing_marks | marks_of([column.missing]))

    def place_of(row: int) -> str:
        return f"{cells.name}, {cells.place_of(row)}, column '{column.name}'"

    def read(texts: list[str], first: int) -> np.ndarray:
        try:
            values = plain(texts)
        except _Misfit as error:
            text = str(error)
            raise DataError(
                f"{place_of(first + texts.index(text))}: '{shown(text)}' is no {column.type}: mend "
                "it, or leave the cell empty"
            ) from error
        large = np.flatnonzero(np.abs(values) > LARGEST)
        if len(large):
            raise DataError(
                f"{place_of(first + int(large[0]))}: {values[large[0]]:g} is no value that can be "
                "squared: mend it, or leave the column out"
            )
        return values

    return read


def _plain_reader(
    column: RecordColumn, decimal: str, missing_marks: frozenset[str]
) -> Callable[[Sequence[str]], np.ndarray]:
    """A reader that raises ``_Misfit``."""
    if column.type in (NUMBER, WHOLE):
        return lambda texts: numbers_of(texts, decimal, missing_marks)
    known = dict.fromkeys(column.rare, len(column.levels) - 1.0)
    known |= {level: float(place) for place, level in enumerate(column.levels)}
    numbers = _by_number(column.levels)

    def value(text: str) -> float:
        if text not in known:
            if text.lower() in missing_marks:
                known[text] = np.nan
            elif column.type == CATEGORY:
                number = number_in(text) if numbers else None
                known[text] = np.nan if number is None else numbers.get(number.value, np.nan)
            else:
                known[text] = _day(text, column.date_format)
        return known[text]

    return lambda texts: np.array([value(text) for text in texts])


def _day(text: str, date_format: str) -> float:
    for each in (date_format, *formats_of(text, ISO_FORMATS)):
        day = day_of(text, each)
        if day is not None:
            return day
    raise _Misfit(text)


def _by_number(levels: Sequence[str]) -> dict[float, float]:
    """Places of levels that are all numbers, so that 1.0 is known for 1."""
    numbers = [number_in(level) for level in levels]
    if any(number is None or number.form.coded for number in numbers):
        return {}
    return {number.value: float(place) for place, number in enumerate(numbers) if number}
