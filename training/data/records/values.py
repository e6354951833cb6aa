"""Parsing of a cell as a number, a date, or a missing value, and conversion of whole columns."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from training.data.records.raw_tables import Cells
from training.data.records.records import CATEGORY, NUMBER, WHOLE, RecordColumn
from training.data.tables.formats import MISSING_MARKS
from training.data.tables.making import LARGEST
from training.data.tables.text import is_number

NOTHING = MISSING_MARKS | {"inf", "-inf", "+inf", "infinity", "-infinity"}
"""Missing values in lower case, including infinite numbers from failed simulations."""
EPOCH = datetime(1970, 1, 1)
DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%d %B %Y"),
    *("%B %d, %Y", "%Y-%m"),
)
"""Date formats; the first one that fits is used."""
TIMES = (
    *("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", "T%H:%M", "T%H:%M:%S"),
    *("T%H:%M:%SZ", "T%H:%M:%S.%f", "T%H:%M:%S.%fZ"),
)
DATE_FORMATS = tuple(day + time for time in TIMES for day in DAYS)
LONGEST_SHOWN = 40
UNITS = {"%f": 1e-6, "%S": 1.0, "%M": 60.0}
"""Resolution in seconds of formats with times, finest first; formats without times have days."""
OF_DAYS, OF_MONTHS = ("%d", "%j", "%H", "%I", "%x", "%c"), ("%m", "%b", "%B")
"""Codes of formats with days, and with months."""


class NumberForm(NamedTuple):
    """Written form of a number.

    Attributes:
        prefix: Text before the number, such as $.
        suffix: Text after the number, such as %.
        grouped: Whether thousands are grouped, as in 1,234.
        decimals: Number of decimals; None if the number has an exponent.
        coded: Whether the number has a leading zero, as in zip codes.
        whole: Whether the value is a whole number.
    """

    prefix: str
    suffix: str
    grouped: bool
    decimals: int | None
    coded: bool
    whole: bool


class Number(NamedTuple):
    """A number parsed from a text.

    Attributes:
        value: Value of the number.
        form: Written form of the number.
    """

    value: float
    form: NumberForm


@cache
def _pattern(decimal: str) -> re.Pattern[str]:
    group = "," if decimal == "." else r"[.'\u00a0 ]"
    money = r"[$€£¥]?"
    return re.compile(
        rf"(?P<sign>[-+−]?)(?P<prefix>{money}\s?)(?P<sign2>-?)"
        rf"(?P<whole>\d{{1,3}}(?:{group}\d{{3}})+|\d*)(?P<rest>{re.escape(decimal)}\d*)?"
        rf"(?P<exponent>[eE][-+]?\d+)?(?P<suffix>\s?(?:%|{money}))",
        re.ASCII,
    )


def number_in(text: str, decimal: str = ".") -> Number | None:
    """Parse a text as a number; return None if the text is not a number.

    Args:
        text: The text.
        decimal: Decimal sign.
    """
    match = _pattern(decimal).fullmatch(text)
    if match is None:
        return None
    whole = re.sub(r"\D", "", match["whole"], flags=re.ASCII)
    digits = (match["rest"] or "")[1:]
    if not whole + digits:
        return None
    value = float(f"{whole or 0}.{digits or 0}{match['exponent'] or ''}")
    if (match["sign"] + match["sign2"]) in ("-", "−"):
        value = -value
    grouped = len(match["whole"]) > len(whole)
    decimals = None if match["exponent"] else len(digits)
    coded = len(whole) > 1 and whole[0] == "0"
    around = match["prefix"], match["suffix"]
    return Number(value, NumberForm(*around, grouped, decimals, coded, value.is_integer()))


def visible(text: str) -> str:
    """Return a text for a message, shortened and without control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= LONGEST_SHOWN else f"{plain[: LONGEST_SHOWN - 3]}..."


def marks_of(missing_values: Iterable[object]) -> frozenset[str]:
    """Return the texts that represent missing values, in lower case.

    Args:
        missing_values: Texts or numbers in addition to usual texts such as NA. For a number, its
            usual written forms are included.

    Raises:
        UsageError: The argument is a single text rather than a list.
    """
    if isinstance(missing_values, str):
        raise UsageError(
            f"missing_values is {missing_values!r}: give a list, for example [{missing_values!r}]"
        )
    marks = {str(mark).strip().lower() for mark in missing_values}
    for number in [number_in(mark) for mark in marks]:
        if number is not None:
            forms = (f"{number.value:.{digits}f}" for digits in range(4))
            marks |= {text for form in forms for text in (form, form.replace(".", ","))}
    return NOTHING | marks


def day_of(text: str, date_format: str) -> float | None:
    """Parse a text as a date; return days since 1970-01-01, or None for texts in other formats.

    Times with an offset (%z) are converted to UTC.
    """
    try:
        moment = datetime.strptime(text, date_format)
    except (ValueError, re.error):  # the latter for a format that names a part twice
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return (moment - EPOCH) / timedelta(days=1)


def formats_of(text: str, among: Iterable[str]) -> tuple[str, ...]:
    """Return the date formats that fit a text.

    Args:
        text: The text.
        among: Date formats to try.
    """
    if not any(letter.isdecimal() for letter in text):
        return ()
    return tuple(each for each in among if day_of(text, each) is not None)


def rounded_moment(days: float, date_format: str) -> datetime:
    """Return a number of days since 1970-01-01 as a time, rounded to the resolution of a format.

    Times outside of Python's calendar (years 1 to 9999) are moved to its first or last time.
    """
    unit = next((UNITS[code] for code in UNITS if code in date_format), 86400.0)
    if unit == 86400.0 and ("%H" in date_format or "%I" in date_format):
        unit = 3600.0
    earliest, latest = (moment - EPOCH for moment in (datetime.min, datetime(9999, 12, 31)))
    days = min(max(days, earliest.days), latest.days)
    moment = EPOCH + timedelta(seconds=round(days * 86400.0 / unit) * unit)
    if any(code in date_format for code in OF_DAYS):
        return moment
    # For formats of months or years, round to the nearest start: strftime would truncate.
    by_month = any(code in date_format for code in OF_MONTHS)
    first = moment.replace(day=1) if by_month else moment.replace(month=1, day=1)
    if moment.year == datetime.max.year:
        return first
    after = (first + timedelta(days=31 if by_month else 366)).replace(day=1)
    return first if moment - first < after - moment else after


def date_text(days: float, date_format: str) -> str:
    """Return a date, in days since 1970-01-01, as text in a format."""
    moment = rounded_moment(days, date_format)
    # strftime writes years before 1000 with fewer digits, which strptime does not read.
    return moment.replace(tzinfo=UTC).strftime(date_format.replace("%Y", f"{moment.year:04d}"))


ISO_FORMATS = tuple(DAYS[0] + time for time in TIMES)
"""Alternative date formats, as written by data frames."""


class _Misfit(Exception):
    """Error for a text that is neither of a column's type nor missing."""


def numbers_of(texts: Sequence[str], decimal: str, missing_marks: frozenset[str]) -> np.ndarray:
    """Convert texts to numbers ``[n]``, NaN for missing values.

    Args:
        texts: Texts ``[n]`` of a numeric column.
        decimal: Decimal sign.
        missing_marks: Texts that represent missing values, in lower case.
    """
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
    column: RecordColumn, cells: Cells, decimal: str, missing_marks: frozenset[str]
) -> Callable[[list[str], int], np.ndarray]:
    """Return a function that converts texts to the values ``[n]`` of a column, NaN if missing.

    The returned function takes n texts and the row number of the first text. The function raises
    DataError, which names the row, for a text that does not fit the column's type and for a number
    that is too large. Unknown categories become missing values, and so does the column's own code
    for missing values, such as -999.

    Args:
        column: Type and format of the column.
        cells: Source of the texts, for messages.
        decimal: Decimal sign.
        missing_marks: Texts that represent missing values, in lower case.
    """
    plain = _plain_reader(column, decimal, missing_marks | marks_of([column.missing]))

    def place_of(row: int) -> str:
        return f"{cells.name}, {cells.place_of(row)}, column '{column.name}'"

    def read(texts: list[str], first: int) -> np.ndarray:
        try:
            values = plain(texts)
        except _Misfit as error:
            text, kind = str(error), "whole number" if column.type == WHOLE else column.type
            raise DataError(
                f"{place_of(first + texts.index(text))}: '{shown(text)}' is not a {kind}: correct "
                "the cell, or leave it empty"
            ) from error
        large = np.flatnonzero(np.abs(values) > LARGEST)
        if len(large):
            raise DataError(
                f"{place_of(first + int(large[0]))}: {values[large[0]]:g} is too large: correct "
                "the cell, or leave the column out"
            )
        return values

    return read


def _plain_reader(
    column: RecordColumn, decimal: str, missing_marks: frozenset[str]
) -> Callable[[Sequence[str]], np.ndarray]:
    """Return a reader that raises ``_Misfit``."""
    if column.type in (NUMBER, WHOLE):
        return lambda texts: numbers_of(texts, decimal, missing_marks)
    known = dict.fromkeys(column.rare, len(column.levels) - 1.0)
    known |= {level: float(place) for place, level in enumerate(column.levels)}
    read = [number_in(level) for level in column.levels]
    # Indices of levels by number, if all levels are numbers, so that 1.0 matches 1.
    numbers = {number.value: float(place) for place, number in enumerate(read) if number}
    if any(number is None or number.form.coded for number in read):
        numbers = {}

    def value(text: str) -> float:
        if text not in known:
            if text.lower() in missing_marks:
                known[text] = np.nan
            elif column.type == CATEGORY:
                number = number_in(text) if numbers else None
                known[text] = np.nan if number is None else numbers.get(number.value, np.nan)
            else:
                formats = (column.date_format, *formats_of(text, ISO_FORMATS))
                days = [day for day in (day_of(text, each) for each in formats) if day is not None]
                if not days:
                    raise _Misfit(text)
                known[text] = days[0]
        return known[text]

    return lambda texts: np.array([value(text) for text in texts])
