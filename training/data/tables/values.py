"""Types of columns: parsing of cells, inference of types from texts, and writing of cells.

Grids of dates: years, quarters, months and weeks.

A column of dates is on a grid if every date is a whole number of periods from the first. A period
is 12, 6, 3 or 1 months, on the same day of the month or on the last, or 7 days. A grid is written
as text, for example ``12 months from 01-01`` (month and day), or ``7 days from 4``, the remainder
of days since 1970-01-01 (a Thursday) divided by 7. In a month that lacks the day, the date is its
last day.
"""

import csv
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow import compute

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path
from torch_utils.inert_pickle import shown
from training.data.tables.formats import MISSING_MARKS, NotNumber, is_number
from training.data.tables.formats import numbers_of as plain_numbers
from training.data.tables.making import IDENTIFIER as CALLED_IDENTIFIER
from training.data.tables.making import LARGEST
from training.data.tables.raw_tables import Cells
from training.data.tables.schema import CATEGORY, DATE, NUMBER, WHOLE, Column
from training.data.tables.table import DataTable
from training.names import COLUMN_TYPES, IDENTIFIER

PERIODS = (12, 6, 3, 1)
"""Periods in months, longest first."""
FEWEST = {12: 3, 6: 6, 3: 6, 1: 3}
"""Minimum number of different dates per period in months: a few can be on a grid by chance."""
FEWEST_WEEKS = 5
"""Minimum number of different dates on a grid of weeks."""
WEEK = 7
GRID = re.compile(
    r"(12|6|3|1) months from (0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])|7 days from ([0-6])", re.ASCII
)


def grid_of(days: np.ndarray) -> str:
    """Return the regular grid of a column's dates, such as months, as text; empty if irregular.

    Args:
        days: Dates in days since 1970-01-01 ``[n]``, NaN for missing dates.
    """
    dates = np.unique(days[~np.isnan(days)])
    if len(dates) < min(FEWEST.values()) or (dates != np.floor(dates)).any():
        return ""
    whole = dates.astype("int64").astype("datetime64[D]")
    if whole[0] < np.datetime64("0001-01-01") or whole[-1] > np.datetime64("9999-12-31"):
        return ""
    months, day_of_month, lengths = _parts(whole)
    day = int(day_of_month.max())
    if (day_of_month == np.minimum(day, lengths)).all():
        if (day_of_month == lengths).all():
            day = 31  # the last day of each month
        step = int(np.gcd.reduce(np.diff(months)))
        for period in PERIODS:
            if step % period == 0 and len(dates) >= FEWEST[period]:
                return f"{period} months from {int(months[0]) % period + 1:02d}-{day:02d}"
    if (
        len(dates) >= FEWEST_WEEKS
        and int(np.gcd.reduce(np.diff(dates.astype("int64")))) % WEEK == 0
    ):
        return f"{WEEK} days from {int(dates[0]) % WEEK}"
    return ""


def on_grid(days: np.ndarray, grid: str) -> np.ndarray:
    """Move dates to the nearest dates of a grid.

    Args:
        days: Dates in days since 1970-01-01 ``[...]``, NaN for missing dates, which remain NaN.
        grid: Grid as text (``grid_of``); if empty, dates are returned unchanged.
    """
    match = GRID.fullmatch(grid)
    if match is None:
        return days
    present = ~np.isnan(days)
    made = np.array(days, dtype=np.float64)
    own = made[present]
    if match[4]:
        first = int(match[4])
        made[present] = first + WEEK * np.round((own - first) / WEEK)
        return made
    period, first, day = int(match[1]), int(match[2]) - 1, int(match[3])
    months, _, _ = _parts(np.floor(own).astype("int64").astype("datetime64[D]"))
    before = first + period * ((months - first) // period - 1)
    near = np.stack([_dates(before + at * period, day) for at in range(3)])
    nearest = np.abs(near - own).argmin(axis=0)
    made[present] = np.take_along_axis(near, nearest[None], axis=0)[0]
    return made


def _parts(dates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return months since 1970-01, days of the month, and lengths of the months, each ``[n]``."""
    months = dates.astype("datetime64[M]")
    day = (dates - months.astype("datetime64[D]")).astype("int64") + 1
    lengths = ((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(
        "int64"
    )
    return months.astype("int64"), day, lengths


def _dates(months: np.ndarray, day: int) -> np.ndarray:
    """Return days since 1970-01-01 ``[n]`` of a day of each month since 1970-01, or of its last."""
    start = months.astype("datetime64[M]")
    lengths = (start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")
    offset = np.minimum(day, lengths.astype("int64")) - 1
    return np.asarray(start.astype("datetime64[D]").astype("int64") + offset, dtype=np.float64)


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


def numbers_of(texts: pyarrow.Array, decimal: str, missing_marks: frozenset[str]) -> np.ndarray:
    """Convert texts to numbers ``[n]``, NaN for missing values.

    Args:
        texts: Texts ``[n]`` of a numeric column.
        decimal: Decimal sign.
        missing_marks: Texts that represent missing values, in lower case.

    Raises:
        NotNumber: A text is neither a number nor missing.
    """
    read = partial(_number, decimal=decimal, missing_marks=missing_marks)
    if decimal == "." and missing_marks == NOTHING:
        values = plain_numbers(texts, read)
        return np.where(np.isfinite(values), values, np.nan)
    different = texts.dictionary_encode()
    known = np.array([read(text) for text in different.dictionary.to_pylist()], dtype=np.float64)
    return known[np.array(different.indices)]


def _number(text: str, decimal: str, missing_marks: frozenset[str]) -> float:
    if text.lower() in missing_marks:
        return np.nan
    if decimal == "." and is_number(text):
        return float(text)
    number = number_in(text, decimal)
    if number is None:
        raise NotNumber(text)
    return number.value


def reader_of(
    column: Column, cells: Cells, decimal: str, missing_marks: frozenset[str]
) -> Callable[[pyarrow.Array, int], np.ndarray]:
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

    def read(texts: pyarrow.Array, first: int) -> np.ndarray:
        try:
            values = plain(texts)
        except NotNumber as error:
            text, kind = str(error), "whole number" if column.type == WHOLE else column.type
            row = first + compute.index(texts, text).as_py()
            raise DataError(
                f"{place_of(row)}: '{shown(text)}' is not a {kind}: correct the cell, or leave it "
                "empty"
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
    column: Column, decimal: str, missing_marks: frozenset[str]
) -> Callable[[pyarrow.Array], np.ndarray]:
    """Return a reader that raises ``NotNumber``."""
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
                formats = (column.date_format, *ISO_FORMATS)
                days = (day_of(text, each) for each in formats)
                day = next((each for each in days if each is not None), None)
                if day is None:
                    raise NotNumber(text)
                known[text] = day
        return known[text]

    def values(texts: pyarrow.Array) -> np.ndarray:
        different = texts.dictionary_encode()
        found = np.array([value(text) for text in different.dictionary.to_pylist()])
        return found[np.array(different.indices)]

    return values


MOST_COUNTED = 100_000
"""Maximum number of different texts of a column that are counted."""
MOST_DECIMALS = 9
"""Maximum number of decimals for rounding written numbers; longer numbers are written in full."""
MOST_LEVELS, FEWEST_ROWS = 100, 5
"""Maximum number of levels of a category, and minimum rows per level; other levels are merged."""
CONSTANT = "constant"
"""Type of a column with one value: it is left out of the model, and restored on output."""


DECIMAL, GROUPED, CODED = r"^-?(\d+\.?\d*|\.\d+)$", r"^-?\d{1,3}(\.\d{3})+$", r"^-?0."
"""Patterns of plain numbers: all, with points that may separate thousands, with a leading zero."""


def _among(texts: pyarrow.Array, marks: frozenset[str]) -> pyarrow.BooleanArray:
    """Return the mask ``[n]`` of texts that are marks, which are in lower case."""
    return compute.is_in(compute.utf8_lower(texts), value_set=pyarrow.array(sorted(marks)))


@dataclass
class Survey:
    """Statistics of the texts in a column's cells, from which its type is inferred.

    Attributes:
        name: Name of the column.
        missing_marks: Texts that represent missing values, in lower case.
        rows: Number of cells.
        missing: Number of cells without a value.
        missing_texts: Different texts of the cells without a value.
        counts: Number of cells by text, for the first ``MOST_COUNTED`` different texts. Numbers are
            no longer counted afterwards.
        forms: Written forms of the numbers, by decimal sign; None if some cell is not a number with
            this decimal sign.
        only: Decimal signs that are required, since some cell is a number with this sign only.
        formats: Date formats that fit all cells.
    """

    name: str
    missing_marks: frozenset[str] = NOTHING
    rows: int = 0
    missing: int = 0
    missing_texts: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    forms: dict[str, set[NumberForm] | None] = field(
        default_factory=lambda: {".": set(), ",": set()}
    )
    only: set[str] = field(default_factory=set)
    formats: tuple[str, ...] = DATE_FORMATS

    def add(self, texts: pyarrow.Array) -> None:
        """Add more cells to the statistics."""
        self.rows += len(texts)
        different, counts = compute.value_counts(texts).flatten()
        missing = np.array(_among(different, self.missing_marks))
        self.missing += int(np.array(counts)[missing].sum())
        self.missing_texts.update(different.filter(missing).to_pylist())
        different, counts = different.filter(~missing), counts.filter(~missing)
        new = self._plain_numbers(different)
        for text in different.filter(new).to_pylist():
            if text not in self.counts:
                self._look_at(text)
        if len(self.counts) == MOST_COUNTED:
            different, counts = different.filter(new), counts.filter(new)
        for text, count in zip(different.to_pylist(), counts.to_pylist(), strict=True):
            if text in self.counts or len(self.counts) < MOST_COUNTED:
                self.counts[text] += count

    def _plain_numbers(self, texts: pyarrow.Array) -> np.ndarray:
        """Add the forms of plain numbers such as -1.50; return the mask ``[n]`` of other texts.

        All plain numbers with the same number of decimals, and with or without a leading zero and
        a fraction, have the same form.
        """
        plain = compute.match_substring_regex(texts, DECIMAL)
        others, numbers = ~np.array(plain), texts.filter(plain)
        point = np.array(compute.find_substring(numbers, "."))
        after = np.array(compute.binary_length(numbers)) - 1 - point
        grouped = compute.match_substring_regex(numbers, GROUPED)
        coded = compute.match_substring_regex(numbers, CODED)
        values = np.array(numbers.cast(pyarrow.float64()))
        whole = np.isfinite(values) & (values == np.floor(values))
        form = np.where(point < 0, 0, after + 1)
        for more in (np.array(grouped), np.array(coded), whole):
            form = 2 * form + more
        _, places = np.unique(form, return_index=True)
        for text in numbers.take(pyarrow.array(np.sort(places))).to_pylist():
            self._look_at(text)
        return others

    def _look_at(self, text: str) -> None:
        known = set()
        for sign, forms in self.forms.items():
            number = None if forms is None else number_in(text, sign)
            if forms is None or number is None:
                self.forms[sign] = None
            else:
                forms.add(number.form)
                known.add(sign)
        if len(known) == 1:
            self.only |= known
        if known:
            self.formats = ()
        elif self.formats:
            self.formats = formats_of(text, self.formats)

    def numbers(self, decimal: str) -> Column | None:
        """Return a numeric column if all texts are numbers in one currency or unit, else None.

        Args:
            decimal: Decimal sign.
        """
        forms = self.forms[decimal]
        if not forms:
            return None
        prefixes = {form.prefix for form in forms if form.prefix}
        suffixes = {form.suffix for form in forms if form.suffix}
        if len(prefixes) > 1 or len(suffixes) > 1:
            return None
        digits = [MOST_DECIMALS + 1 if form.decimals is None else form.decimals for form in forms]
        return Column(
            self.name,
            WHOLE if all(form.whole for form in forms) else NUMBER,
            decimals=max(digits) if max(digits) <= MOST_DECIMALS else None,
            prefix="".join(prefixes),
            suffix="".join(suffixes),
            grouped=any(form.grouped for form in forms),
        )

    def has_codes(self, decimal: str) -> bool:
        """Return whether any number has a leading zero, as in zip codes.

        Args:
            decimal: Decimal sign.
        """
        return any(form.coded for form in self.forms[decimal] or ())

    @property
    def present(self) -> int:
        """Number of cells with a value."""
        return self.rows - self.missing

    @property
    def level_texts(self) -> list[str]:
        """Different texts, sorted: numbers by value, then other texts alphabetically."""

        def key(text: str) -> tuple[bool, float, str]:
            number = number_in(text)
            return number is None, 0.0 if number is None else number.value, text

        return sorted(self.counts, key=key)

    @property
    def rarely_repeats(self) -> bool:
        """Whether repeated texts are rare, as for identifiers.

        Frequent texts then cover less than half of the cells, or there are too many texts to count.
        """
        if len(self.counts) == MOST_COUNTED:
            return True
        fewest = fewest_rows(self.present)
        frequent = (count for _, count in self.counts.most_common(MOST_LEVELS))
        return 2 * sum(count for count in frequent if count >= fewest) < self.present


def fewest_rows(present: int) -> int:
    """Return the minimum number of rows of a category; smaller categories are merged.

    Args:
        present: Number of cells with a value.
    """
    return min(FEWEST_ROWS, max(2, present // 20))


def decimal_of(surveys: Iterable[Survey], usual: str = ".") -> str:
    """Return the decimal sign of a table.

    The sign is a comma if some column is numeric only with a comma, and no column only with a
    point.

    Args:
        surveys: Statistics of the columns.
        usual: Sign to return if all cells are ambiguous, such as 4,500.
    """
    signs = {sign for survey in surveys for sign in survey.only if survey.numbers(sign) is not None}
    return "," if signs == {","} else "." if signs else usual


def column_of(survey: Survey, decimal: str, asked: str | tuple[str, ...] | None) -> Column | str:
    """Return the typed column; ``IDENTIFIER`` or ``CONSTANT`` for a column that is not modeled.

    Args:
        survey: Statistics of the column.
        decimal: Decimal sign of the table.
        asked: Type given by the user: a name in ``COLUMN_TYPES``, ``IDENTIFIER``, ordered levels
            such as ``small<medium<large`` or a tuple of levels, or a date format such as
            ``%d.%m.%Y``. None infers the type.

    Raises:
        UsageError: The cells do not fit the user's type.
        DataError: The column has no values.
    """
    column = _inferred(survey, decimal) if asked is None else _asked_for(survey, decimal, asked)
    if isinstance(column, Column) and len(survey.missing_texts) == 1:
        return replace(column, missing=next(iter(survey.missing_texts)))
    return column


def _inferred(survey: Survey, decimal: str) -> Column | str:
    name, numbers = survey.name, survey.numbers(decimal)
    if not name:
        return IDENTIFIER
    if len(survey.counts) < 2:
        return CONSTANT
    if numbers is not None and not survey.has_codes(decimal) and len(survey.counts) > 2:
        return numbers
    if survey.formats:
        return Column(name, DATE, date_format=survey.formats[0])
    every_one = len(survey.counts) == survey.present
    if len(survey.counts) > 2 and (
        survey.rarely_repeats or (every_one and CALLED_IDENTIFIER.fullmatch(name))
    ):
        return IDENTIFIER
    return Column(name, CATEGORY, tuple(survey.level_texts))


def _asked_for(survey: Survey, decimal: str, asked: str | tuple[str, ...]) -> Column | str:
    name = survey.name
    if not survey.counts:
        raise DataError(f"column '{shown(name)}' has no values: leave the column out")
    if isinstance(asked, tuple):
        ordered = survey.counts.keys() <= set(asked)  # else a later block has others
        return Column(name, CATEGORY, asked if ordered else tuple(survey.level_texts), ordered)
    if asked == IDENTIFIER:
        return IDENTIFIER
    if "%" in asked or asked == DATE:
        formats = survey.formats if asked == DATE else (asked,)
        strange = [text for text in survey.counts if not formats or not formats_of(text, formats)]
        if strange:
            raise UsageError(
                f"column '{shown(name)}' has '{shown(strange[0])}', which is not a date"
                + (": give the date format, for example" if asked == DATE else f" of {asked}:")
                + f' --types="{name}:%d.%m.%Y %H:%M"'
            )
        return Column(name, DATE, date_format=formats[0])
    if asked in (NUMBER, WHOLE):
        column = survey.numbers(decimal)
        if column is None or (asked == WHOLE and column.type != WHOLE):
            numbers = {text: number_in(text, decimal) for text in survey.counts}
            strange = [
                text
                for text, number in numbers.items()
                if number is None or (asked == WHOLE and not number.form.whole)
            ]
            kind = "a whole number" if asked == WHOLE else "a number"
            raise UsageError(
                (
                    f"column '{shown(name)}' has '{shown(strange[0])}', which is not {kind}: "
                    "give another type, or declare it missing with --missing_values"
                )
                if strange
                else f"column '{shown(name)}' has numbers with several units: use one unit"
            )
        return replace(column, type=asked)
    if asked == CATEGORY:
        if len(survey.counts) == MOST_COUNTED:
            raise UsageError(
                f"column '{shown(name)}' has {MOST_COUNTED:,} or more categories: give another type"
            )
        return Column(name, CATEGORY, tuple(survey.level_texts))
    levels = tuple(level.strip() for level in asked.split("<"))
    unknown = [text for text in survey.counts if text not in levels]
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise UsageError(
            f"'{asked}' is not a valid type of column '{shown(name)}': give "
            f"{', '.join(COLUMN_TYPES)}, {IDENTIFIER}, ordered levels "
            "(small<medium<large) or a date format (%d.%m.%Y)"
        )
    if unknown:
        raise UsageError(
            f"column '{shown(name)}' has '{shown(unknown[0])}', which is not one of {asked}: add "
            "this level, or correct the cells"
        )
    return Column(name, CATEGORY, levels, ordered=True)


MOST_INTEGER = 2.0**63
"""Limit from which whole numbers exceed integers of 64 bits."""


def text_of(column: Column, value: float, decimal: str = ".") -> str:
    """Return a value of a column as text, in the notation of the source.

    Args:
        column: Type and format of the column.
        value: The value, NaN if missing.
        decimal: Decimal sign.
    """
    if isnan(value):
        return column.missing
    if column.type == CATEGORY:
        return column.levels[_place(column, value)]
    if column.type == DATE:
        return date_text(value, column.date_format)
    if column.type == WHOLE:
        value = float(round(value))
    digits = f"{value!r}"
    if column.decimals is not None:
        digits = f"{value:{',' * column.grouped}.{column.decimals}f}"
        if float(digits.replace(",", "")) == 0:
            digits = digits.removeprefix("-")
    if decimal == ",":
        digits = digits.translate({ord(","): ".", ord("."): ","})
    sign = "-" if digits.startswith("-") else ""
    return f"{sign}{column.prefix}{digits.removeprefix('-')}{column.suffix}"


def _place(column: Column, value: float) -> int:
    return min(max(round(value), 0), len(column.levels) - 1)


def texts_of(
    records: DataTable, values: np.ndarray | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return columns of texts, in the notation and the order of the source.

    Args:
        records: The records.
        values: New rows ``[n, D]``, which have empty identifiers; None for the rows of the records.

    Returns:
        The names of the source's columns, and the texts of each column ``[len(names)][n]``.
    """
    rows = records.values if values is None else values
    columns = []
    for name in records.order:
        if name in records.constants:
            columns.append([records.constants[name]] * len(rows))
        elif name in records.beside:
            texts = records.beside[name].tolist()
            columns.append(texts if values is None else [""] * len(rows))
        else:
            column, numbers = _column(records, name, rows)
            texts = column_texts(column, numbers, records.decimal)
            for row, text in records.as_written.get(name, {}).items() if values is None else ():
                texts[row] = text
            columns.append(texts)
    return list(records.order), columns


def column_texts(column: Column, values: np.ndarray, decimal: str = ".") -> list[str]:
    """Return the values ``[n]`` of a column as texts; see ``text_of``."""
    # By bits, since 0 and -0 are equal and have two texts.
    different, places = np.unique(values.astype(np.float64).view(np.int64), return_inverse=True)
    numbers = different.view(np.float64).tolist()
    has_form = column.decimals is not None or column.prefix or column.suffix or decimal != "."
    if column.type == NUMBER and not has_form:  # the same text, in a third of the time
        texts = [column.missing if isnan(value) else repr(value) for value in numbers]
    else:
        texts = [text_of(column, value, decimal) for value in numbers]
    return [texts[place] for place in places.tolist()]


def save_texts(
    path: Path, names: Sequence[str], rows: Iterable[Sequence[str]], separator: str = ","
) -> None:
    """Write a table of texts with column names to a file, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def frame_of(records: DataTable, values: np.ndarray | None = None) -> Any:
    """Return rows as a pandas data frame, in the order of the source.

    Numbers are rounded to the decimals of their column, whole numbers are integers, categories have
    the type category, dates are times, and identifiers are texts. Constants are numbers if
    possible, else texts.

    Args:
        records: The records.
        values: New rows ``[n, D]``, which have no identifiers; None for the rows of the records.
    """
    pandas = importlib.import_module("pandas")
    rows = records.values if values is None else values
    columns: dict[str, Any] = {}
    for name in records.order:
        if name in records.constants:
            number = number_in(records.constants[name], records.decimal)
            columns[name] = [number.value if number else records.constants[name]] * len(rows)
        elif name not in records.beside:
            columns[name] = _series(pandas, *_column(records, name, rows))
        elif values is None:
            columns[name] = records.beside[name]
    return pandas.DataFrame(columns)


def _column(records: DataTable, name: str, rows: np.ndarray) -> tuple[Column, np.ndarray]:
    index = records.names.index(name)
    return records.columns[index], rows[:, index]


def _series(pandas: Any, column: Column, values: np.ndarray) -> Any:
    missing = np.isnan(values)
    if column.type == CATEGORY:
        places = [-1 if isnan(value) else _place(column, value) for value in values.tolist()]
        return pandas.Categorical.from_codes(places, list(column.levels), column.ordered)
    if column.type == DATE:
        moments = [
            None if isnan(value) else rounded_moment(value, column.date_format)
            for value in values.tolist()
        ]
        return pandas.Series(moments, dtype="datetime64[us]")
    if column.type == WHOLE:
        whole = np.where(missing, 0, values).round()
        if np.abs(whole).max(initial=0) >= MOST_INTEGER:
            return values
        if not missing.any():
            return whole.astype(np.int64)
        return pandas.arrays.IntegerArray(whole.astype(np.int64), missing)
    return values if column.decimals is None else values.round(column.decimals)
