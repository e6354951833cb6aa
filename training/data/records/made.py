"""Columns that are made of others: weekday and season of dates, and whether cells are missing.

The season of a day is the sine and the cosine of 2 pi (day of the year - 1) / 365.25.
"""

from collections.abc import Sequence

import numpy as np

from training.data.records.parsing import rounded_moment
from training.data.records.records import CATEGORY, NUMBER, RecordColumn

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THURSDAY = 3
"""The weekday of 1970-01-01."""
YEAR = 365.25
IS_MISSING = " is missing"
"""What the name of a column gets behind it that says where its cells are."""


def calendar_columns(date: str) -> list[RecordColumn]:
    """The columns that are made of a date, by its name."""
    return [
        RecordColumn(f"{date} weekday", CATEGORY, WEEKDAYS, of=date),
        RecordColumn(f"{date} season sine", NUMBER, of=date),
        RecordColumn(f"{date} season cosine", NUMBER, of=date),
    ]


def missing_column(name: str) -> RecordColumn:
    """The column that says where cells of another, by its name, are missing."""
    return RecordColumn(f"{name}{IS_MISSING}", CATEGORY, ("no", "yes"), of=name)


def says_missing(column: RecordColumn) -> bool:
    """Whether it is a ``missing_column``."""
    return column.name == f"{column.of}{IS_MISSING}"


def says_weekday(column: RecordColumn) -> bool:
    """Whether it says on which weekday a date is."""
    return bool(column.of) and column.levels == WEEKDAYS


def on_weekday(days: np.ndarray, weekday: float, date_format: str) -> np.ndarray:
    """The times ``[N]`` in days since 1970-01-01, moved by up to three days so that they are on a
    weekday, 0 for Monday, as a format writes them."""
    own = np.array([rounded_moment(day, date_format).weekday() for day in days.tolist()])
    week = len(WEEKDAYS)
    moved: np.ndarray = days - ((own - weekday + week // 2) % week - week // 2)
    return moved


def made_values(values: np.ndarray, names: Sequence[str], column: RecordColumn) -> np.ndarray:
    """The values ``[N]`` of a column that is made of another; those of dates are NaN where the date
    is missing.

    Args:
        values: ``[N, D]``, with dates in days since 1970-01-01.
        names: ``[D]``.
        column: One of ``calendar_columns``, or a ``missing_column``.
    """
    dates = values[:, list(names).index(column.of)]
    if says_missing(column):
        return np.isnan(dates).astype(np.float64)
    days = np.floor(dates)
    if column.type == CATEGORY:
        return (days + THURSDAY) % len(WEEKDAYS)
    whole = np.where(np.isnan(days), 0, days).astype("int64").astype("datetime64[D]")
    of_year = (whole - whole.astype("datetime64[Y]")).astype(np.float64)
    angle = 2 * np.pi * of_year / YEAR
    wave = np.sin(angle) if column.name.endswith(" sine") else np.cos(angle)
    return np.where(np.isnan(days), np.nan, wave)
