"""From texts of cells to the values of a column."""

from collections.abc import Callable, Sequence

import numpy as np

from training.data.records.parsing import DAYS, NOTHING, TIMES, day_of, formats_of, number_in
from training.data.records.records import CATEGORY, NUMBER, WHOLE, RecordColumn

ISO_FORMATS = tuple(DAYS[0] + time for time in TIMES)
"""That dates may be written in instead: data frames do."""


def numbers_of(texts: Sequence[str], decimal: str, missing_marks: frozenset[str]) -> np.ndarray:
    """The numbers ``[n]`` of texts, NaN where there is none."""
    if decimal == ".":
        try:
            values = np.array(texts, dtype=np.float64)
        except ValueError:
            pass
        else:
            if missing_marks == NOTHING:
                return np.where(np.isfinite(values), values, np.nan)
    return np.array([_number(text, decimal, missing_marks) for text in texts])


def _number(text: str, decimal: str, missing_marks: frozenset[str]) -> float:
    if text.lower() in missing_marks:
        return np.nan
    if decimal == ".":
        try:
            return float(text)
        except ValueError:
            pass
    number = number_in(text, decimal)
    if number is None:
        raise ValueError(text)
    return number.value


def reader_of(
    column: RecordColumn, decimal: str, missing_marks: frozenset[str] = NOTHING
) -> Callable[[Sequence[str]], np.ndarray]:
    """What reads texts into the values ``[n]`` of a column, NaN where they are missing.

    The reader raises ValueError, with the text alone, for what is neither of the column's type nor
    missing; unknown levels are missing.
    """
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
    raise ValueError(text)


def _by_number(levels: Sequence[str]) -> dict[float, float]:
    """Places of levels that are all numbers, so that 1.0 is known for 1."""
    numbers = [number_in(level) for level in levels]
    if any(number is None or number.form.coded for number in numbers):
        return {}
    return {number.value: float(place) for place, number in enumerate(numbers) if number}
