"""Records without what cannot be modelled: holes that are not wanted, numbers of rows, rare levels.

Each function says what it did in lines for people. Columns are also made of others: weekday and
season of dates, and whether cells are missing. The season of a day is the sine and the cosine of 2
pi (day of the year - 1) / 365.25.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from dnnlib.errors import DataError, UsageError
from training.data.records.cells import Cells
from training.data.records.inferring import MOST_LEVELS, fewest_rows
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn, Records
from training.data.records.values import rounded_moment, visible
from training.data.records.writing import text_of
from training.data.tables.making import FEWEST_ROWS
from training.data.tables.marginals import IDENTIFIER as CALLED_IDENTIFIER
from training.data.tables.marginals import Marginal

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
    return np.asarray(days - ((own - weekday + week // 2) % week - week // 2))


def made_values(values: np.ndarray, names: Sequence[str], column: RecordColumn) -> np.ndarray:
    """The values ``[N]`` of a column, one of ``calendar_columns`` or a ``missing_column``, that is
    made of another of those named; those of dates, in days since 1970-01-01, are NaN where the date
    is missing."""
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


OTHER = "other"
"""The level of rare ones."""
MOST_EXACT = 2.0**53
"""Up to which floating-point numbers are all whole ones."""
MOST_RARE, SHOWN_LEVELS = 1000, 6
"""Rare levels that a column remembers, and that a line names."""


def without_holes(records: Records, missing: str, cells: Cells, lines: list[str]) -> Records:
    """The rows with their missing cells, or with what is to become of these by ``MISSING``; lines
    get what was done. Raises DataError if cells are missing and must not be, or too few rows are
    left."""
    holes = np.isnan(records.values)
    if missing == "keep" or not holes.any():
        return records
    if missing == "refuse":
        row, index = map(int, np.argwhere(holes)[0])
        raise DataError(
            f"{cells.name}, {cells.place_of(row)}, column '{records.names[index]}': the value is "
            "missing: --missing=keep keeps it so, --missing=drop leaves such rows out"
        )
    if missing == "drop":
        whole = ~holes.any(axis=1)
        if whole.sum() < FEWEST_ROWS:
            raise DataError(
                f"{cells.name} has {int(whole.sum())} rows without missing cells: at least "
                f"{FEWEST_ROWS} are needed"
            )
        lines.append(f"Left out {int((~whole).sum())} of {len(whole)} rows with missing cells")
        return records.at(whole)
    values = records.values.copy()
    for index, column in enumerate(records.columns):
        present = values[~holes[:, index], index]
        if column.type == CATEGORY:
            filled = float(np.bincount(present.astype(int)).argmax())
        else:
            filled = present.mean().round() if column.type == WHOLE else present.mean()
        values[holes[:, index], index] = filled
    lines.append(
        f"Warning: {int(holes.sum())} missing cells are filled in by the mean or the most frequent "
        "level of their column, which makes a spike there that samples have too"
    )
    return replace(records, values=values)


def without_identifiers(
    records: Records,
    asked: Collection[str],
    lines: list[str],
    texts_of: Callable[[str], np.ndarray],
) -> Records:
    """Moves numbers that only count rows, or are all the same, out of what is modelled.

    Args:
        records: The rows.
        asked: Columns whose type was given, which stay.
        lines: Gets warnings of far values that repeat.
        texts_of: Gives the texts ``[N]`` of a column as they were written: numbers have not all
            digits of long ones.
    """
    kept, beside, constants = [], dict(records.beside), dict(records.constants)
    for index, column in enumerate(records.columns):
        values = records.values[:, index]
        present = values[~np.isnan(values)]
        if column.type in (NUMBER, WHOLE) and column.name not in asked:
            one = Marginal.of(present)
            if one.lone is not None:
                lines.append(
                    f"Warning: {column.name} is {one.lone[0]:.10g} in {one.lone[1]} rows, far from "
                    "all its other values: if that stands for a missing value, give "
                    f"--missing_values={one.lone[0]:.10g}"
                )
            counts = present[0] in (0, 1) and bool((np.diff(present) == 1).all())
            called = one.whole and (counts or CALLED_IDENTIFIER.fullmatch(column.name))
            if called or (column.type == WHOLE and np.abs(present).max() > MOST_EXACT):
                texts = texts_of(column.name)
                # Long ones may be the same as numbers, and would be written with other digits.
                if called or len(set(texts.tolist())) >= len(present):
                    beside[column.name] = texts
                    continue
            if present.min() == present.max():
                constants[column.name] = text_of(column, float(present[0]), records.decimal)
                continue
        kept.append(index)
    return replace(
        records,
        columns=[records.columns[index] for index in kept],
        values=records.values[:, kept],
        beside=beside,
        constants=constants,
    )


def with_rare_levels_together(
    records: Records, asked: Collection[str], lines: list[str]
) -> Records:
    """Records whose rare levels are one, the last: those that few rows have that train, and those
    beyond ``MOST_LEVELS``. Levels with an order stay, and where a type was given (``asked``) only
    levels beyond the most are rare. Lines get what was done."""
    columns, values = list(records.columns), records.values.copy()
    for index, column in enumerate(columns):
        if column.type != CATEGORY or column.ordered:
            continue
        places = values[~records.held_out & ~np.isnan(values[:, index]), index].astype(int)
        counts = np.bincount(places, minlength=len(column.levels))
        frequent = np.argsort(-counts, kind="stable")[:MOST_LEVELS]
        fewest = 1 if column.name in asked else fewest_rows(len(places))
        kept = sorted(place for place in map(int, frequent) if counts[place] >= fewest)
        rare = [place for place in np.argsort(-counts, kind="stable").tolist() if place not in kept]
        if len(rare) < 2:
            continue
        # A level may have this name already: the rare ones join it.
        kept = [place for place in kept if column.levels[place] != OTHER]
        new_places = np.full(len(column.levels), float(len(kept)))
        new_places[kept] = range(len(kept))
        present = ~np.isnan(values[:, index])
        values[present, index] = new_places[values[present, index].astype(int)]
        levels = (*(column.levels[place] for place in kept), OTHER)
        names = tuple(column.levels[place] for place in rare if column.levels[place] != OTHER)
        columns[index] = replace(column, levels=levels, rare=names[:MOST_RARE])
        named = ", ".join(map(visible, names[:SHOWN_LEVELS]))
        lines.append(
            f"{len(rare)} rare levels of '{column.name}' are put together as '{OTHER}': {named}"
            + ", ..." * (len(rare) > SHOWN_LEVELS)
        )
    return replace(records, columns=columns, values=values)


def with_made_columns(records: Records, calendar: bool, is_missing: Sequence[str]) -> Records:
    """Records with further columns that are made of others: the weekday and the season of dates, if
    ``calendar``, and where cells of columns are missing. Raises UsageError if there are columns of
    these names already, or none of which cells are missing."""
    dates = [column for column in records.columns if column.type == DATE and calendar]
    added = [("calendar", new) for column in dates for new in calendar_columns(column.name)]
    for name in is_missing:
        if name not in records.names:
            raise UsageError(f"--is_missing={visible(name)}: no such column is modelled")
        if not np.isnan(records.values[:, records.names.index(name)]).any():
            raise UsageError(f"--is_missing={visible(name)}: it is missing in no row that is kept")
        added.append(("is_missing", missing_column(name)))
    for option, column in added:
        if column.name in records.order:
            raise UsageError(
                f"--{option} adds '{column.name}', which there is already: leave it out"
            )
    extra = [made_values(records.values, records.names, column) for _, column in added]
    return replace(
        records,
        columns=[*records.columns, *(column for _, column in added)],
        values=np.column_stack([records.values, *extra]),
    )
