"""What a cell says: a number as people write it, a date, or nothing."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from dnnlib.errors import UsageError
from training.data.tables.formats import MISSING

NOTHING = MISSING | {"inf", "-inf", "+inf", "infinity", "-infinity"}
"""Cells without a value, in lower case: simulations that failed leave infinite ones."""
EPOCH = datetime(1970, 1, 1)
DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%d %B %Y"),
    *("%B %d, %Y", "%Y-%m"),
)
"""Where several fit, the first is taken."""
TIMES = (
    *("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", "T%H:%M", "T%H:%M:%S"),
    *("T%H:%M:%SZ", "T%H:%M:%S.%f", "T%H:%M:%S.%fZ"),
)
DATE_FORMATS = tuple(day + time for time in TIMES for day in DAYS)
LONGEST_SHOWN = 40
UNITS = {"%f": 1e-6, "%S": 1.0, "%M": 60.0}
"""Seconds to which a format writes times, the finest first; without any, days."""
OF_DAYS, OF_MONTHS = ("%d", "%j", "%H", "%I", "%x", "%c"), ("%m", "%b", "%B")
"""What formats have that write days, and months."""


class NumberForm(NamedTuple):
    """How a number is written: ``decimals`` is None with an exponent, ``coded`` says that it begins
    with a zero as zip codes do."""

    prefix: str
    suffix: str
    grouped: bool
    decimals: int | None
    coded: bool
    whole: bool


class Number(NamedTuple):
    """A number in a text, and how it is written."""

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
    """The number that a text is; None if it is none."""
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
    """A text as lines for people have it: short, without what moves the cursor."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= LONGEST_SHOWN else f"{plain[: LONGEST_SHOWN - 3]}..."


def marks_of(missing_values: Iterable[object]) -> frozenset[str]:
    """Texts that stand for no value, in lower case: the usual ones and these; of a number,
    the forms in which tables write it. Raises UsageError of one text: each letter would be one."""
    if isinstance(missing_values, str):
        raise UsageError(f"missing_values is {missing_values!r}: give a list, [{missing_values!r}]")
    marks = {str(mark).strip().lower() for mark in missing_values}
    for number in [number_in(mark) for mark in marks]:
        if number is not None:
            forms = (f"{number.value:.{digits}f}" for digits in range(4))
            marks |= {text for form in forms for text in (form, form.replace(".", ","))}
    return NOTHING | marks


def day_of(text: str, date_format: str) -> float | None:
    """Days since 1970-01-01 of a text, in universal time if it has an offset (%z); None if it is no
    such date."""
    try:
        moment = datetime.strptime(text, date_format)
    except (ValueError, re.error):  # the latter of a format that names a part twice
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return (moment - EPOCH) / timedelta(days=1)


def formats_of(text: str, among: Iterable[str] = DATE_FORMATS) -> tuple[str, ...]:
    """The formats, among these, in which a text is a date."""
    if not any(letter.isdecimal() for letter in text):
        return ()
    return tuple(each for each in among if day_of(text, each) is not None)


def rounded_moment(days: float, date_format: str) -> datetime:
    """The time of so many days since 1970-01-01, rounded to what a format writes.

    Times that no calendar has become the nearest that it has.
    """
    unit = next((UNITS[code] for code in UNITS if code in date_format), 86400.0)
    if unit == 86400.0 and ("%H" in date_format or "%I" in date_format):
        unit = 3600.0
    earliest, latest = (moment - EPOCH for moment in (datetime.min, datetime(9999, 12, 31)))
    days = min(max(days, earliest.days), latest.days)
    moment = EPOCH + timedelta(seconds=round(days * 86400.0 / unit) * unit)
    if any(code in date_format for code in OF_DAYS):
        return moment
    # Of months, and of years, the nearest begins: strftime would write the one that it is in.
    by_month = any(code in date_format for code in OF_MONTHS)
    first = moment.replace(day=1) if by_month else moment.replace(month=1, day=1)
    if moment.year == datetime.max.year:
        return first
    after = (first + timedelta(days=31 if by_month else 366)).replace(day=1)
    return first if moment - first < after - moment else after


def date_text(days: float, date_format: str) -> str:
    """A date as its format writes it."""
    moment = rounded_moment(days, date_format)
    # strftime writes years before 1000 with fewer digits, which strptime does not read.
    return moment.replace(tzinfo=UTC).strftime(date_format.replace("%Y", f"{moment.year:04d}"))
