"""Columns that are made of others: weekday and season of dates, and whether cells are missing.

The season of a day is the sine and the cosine of 2 pi (day of the year - 1) / 365.25.
"""

from collections.abc import Sequence

import numpy as np

from training.data.records.parsing import visible
from training.data.records.records import CATEGORY, NUMBER, RecordColumn, Records

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THURSDAY = 3
"""The weekday of 1970-01-01."""
YEAR = 365.25
IS_MISSING = " is missing"
"""What the name of a column gets behind it that says where its cells are."""
FEWEST_HOLES, TELLING = 20, 5.0
"""Missing cells, and others, of a column for which it is looked whether they tell something; and
standard deviations of a correlation from which on they do."""


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


def telling_holes(records: Records, known: Sequence[str]) -> list[str]:
    """Lines about columns, beside those that are known, whose cells are missing where others have
    other values."""
    names = []
    marks = np.column_stack([_marks_of(records, place) for place in range(len(records.columns))])
    for place, name in enumerate(records.names):
        missing = np.isnan(records.values[:, place])
        if name in known or not FEWEST_HOLES <= missing.sum() <= len(missing) - FEWEST_HOLES:
            continue
        there = ~np.isnan(marks)
        unit = (missing - missing.mean()) / missing.std()
        off = np.where(there, marks - np.nanmean(marks, axis=0), 0.0)
        spread = np.sqrt(np.square(off).sum(axis=0)) + 1e-12
        own = np.array([at == place for at in _columns_of_marks(records)])
        if (np.abs(unit @ off) / spread)[~own].max(initial=0.0) > TELLING:
            names.append(name)
    if not names:
        return []
    listed = ", ".join(map(visible, names))
    return [
        f"Where cells of {listed} are missing depends on other columns: it may tell something too, "
        f"and --is_missing={','.join(names)} makes columns of it"
    ]


def _columns_of_marks(records: Records) -> list[int]:
    counts = [len(column.levels) or 1 for column in records.columns]
    return [place for place, count in enumerate(counts) for _ in range(count)]


def _marks_of(records: Records, place: int) -> np.ndarray:
    """Ranks of a number ``[N, 1]``, or indicators of levels ``[N, L]``; NaN where missing."""
    values, column = records.values[:, place], records.columns[place]
    there = ~np.isnan(values)
    if column.type == CATEGORY:
        marks = (values[:, None] == np.arange(len(column.levels))).astype(np.float64)
    else:
        marks = values.argsort().argsort()[:, None].astype(np.float64)
    return np.where(there[:, None], marks, np.nan)
