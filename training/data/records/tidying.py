"""Cleaning of records: missing cells that are not wanted, identifiers, and rare levels.

Each function reports its changes in lines of text. It also derives columns: weekday and season of
dates, and indicators of missing cells. The season of a day is the sine and the cosine of 2 pi (day
of the year - 1) / 365.25.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from dnnlib.errors import DataError, UsageError
from training.data.records.inferring import MOST_LEVELS, fewest_rows
from training.data.records.raw_tables import Cells
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn, Records
from training.data.records.values import rounded_moment, visible
from training.data.records.writing import text_of
from training.data.tables.making import FEWEST_ROWS
from training.data.tables.marginals import IDENTIFIER as CALLED_IDENTIFIER
from training.data.tables.marginals import Marginal

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THURSDAY = 3
"""Weekday of 1970-01-01, counted from Monday."""
YEAR = 365.25
IS_MISSING = " is missing"
"""Suffix of the name of a column that indicates missing cells."""


def is_missing_indicator(column: RecordColumn) -> bool:
    """Return whether a column indicates the missing cells of another column."""
    return column.name == f"{column.of}{IS_MISSING}"


def is_weekday(column: RecordColumn) -> bool:
    """Return whether a column contains the weekday of a date."""
    return bool(column.of) and column.levels == WEEKDAYS


def on_weekday(days: np.ndarray, weekday: float, date_format: str) -> np.ndarray:
    """Move dates ``[N]`` to the nearest day with a given weekday, by up to three days.

    Args:
        days: Days since 1970-01-01 ``[N]``.
        weekday: The weekday, 0 for Monday.
        date_format: Format whose precision determines the day of each date.
    """
    own = np.array([rounded_moment(day, date_format).weekday() for day in days.tolist()])
    week = len(WEEKDAYS)
    return np.asarray(days - ((own - weekday + week // 2) % week - week // 2))


def made_values(values: np.ndarray, names: Sequence[str], column: RecordColumn) -> np.ndarray:
    """Return the values ``[N]`` of a derived column: weekday, season, or missing-cell indicator.

    Values derived from a date are NaN where the date is missing.

    Args:
        values: Values ``[N, D]`` of the columns; dates in days since 1970-01-01.
        names: Names of the D columns.
        column: The derived column.
    """
    dates = values[:, list(names).index(column.of)]
    if is_missing_indicator(column):
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
"""Level that represents all rare levels."""
MOST_EXACT = 2.0**53
"""Limit up to which floating-point numbers represent all integers."""
MOST_RARE, SHOWN_LEVELS = 1000, 6
"""Maximum number of rare levels stored per column, and listed in a line."""


def without_missing(records: Records, missing: str, cells: Cells, lines: list[str]) -> Records:
    """Return records after dropping or imputing missing cells, as a method requires.

    Args:
        records: The records.
        missing: Method for missing cells, a name in ``MISSING``.
        cells: Source of the records, for messages.
        lines: List to add lines of text to, about the changes.

    Raises:
        DataError: Cells are missing although the method refuses them, or too few rows are left.
    """
    holes = np.isnan(records.values)
    if missing == "keep" or not holes.any():
        return records
    if missing == "refuse":
        row, index = map(int, np.argwhere(holes)[0])
        raise DataError(
            f"{cells.name}, {cells.place_of(row)}, column '{records.names[index]}': the value is "
            "missing. Keep missing values with --missing=keep, or drop their rows with "
            "--missing=drop"
        )
    if missing == "drop":
        whole = ~holes.any(axis=1)
        if whole.sum() < FEWEST_ROWS:
            raise DataError(
                f"{cells.name} has {int(whole.sum())} rows without missing cells: need at least "
                f"{FEWEST_ROWS}, or --missing=keep"
            )
        lines.append(f"Dropped {int((~whole).sum())} of {len(whole)} rows with missing cells")
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
        f"Warning: {int(holes.sum())} missing cells are replaced by the mean or the most "
        "frequent category of their column; this makes a spike that samples reproduce"
    )
    return replace(records, values=values)


def without_identifiers(
    records: Records,
    asked: Collection[str],
    lines: list[str],
    texts_of: Callable[[str], np.ndarray],
) -> Records:
    """Return records without identifiers and constants among the modeled columns.

    Args:
        records: The records.
        asked: Names of columns with a type given by the user, which are kept.
        lines: List to add warnings to, about extreme repeated values.
        texts_of: Function from the name of a column to its texts ``[N]`` as written, since numbers
            lose digits of long identifiers.
    """
    kept, beside, constants = [], dict(records.beside), dict(records.constants)
    for index, column in enumerate(records.columns):
        values = records.values[:, index]
        present = values[~np.isnan(values)]
        if column.type in (NUMBER, WHOLE) and column.name not in asked:
            one = Marginal.from_values(present)
            if one.lone is not None:
                lines.append(
                    f"Warning: {column.name} is {one.lone[0]:.10g} in {one.lone[1]} rows, "
                    "far from all its other values: if this stands for a missing value, "
                    f"give --missing_values={one.lone[0]:.10g}"
                )
            counts = present[0] in (0, 1) and bool((np.diff(present) == 1).all())
            called = one.whole and (counts or CALLED_IDENTIFIER.fullmatch(column.name))
            if called or (column.type == WHOLE and np.abs(present).max() > MOST_EXACT):
                texts = texts_of(column.name)
                # Long identifiers may be equal as numbers, and would be written with other digits.
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
    """Return records with rare levels of category columns merged into one last level.

    Rare levels have few training rows, or exceed ``MOST_LEVELS``. Ordered levels are not merged.

    Args:
        records: The records.
        asked: Names of columns with a type given by the user; their levels are merged only if there
            are more than ``MOST_LEVELS``.
        lines: List to add lines of text to, about the changes.
    """
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
        # A level may already have this name: the rare levels are merged with it.
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
            (f"{len(rare)} rare categories of '{column.name}' are merged into '{OTHER}': {named}")
            + ", ..." * (len(rare) > SHOWN_LEVELS)
        )
    return replace(records, columns=columns, values=values)


def with_made_columns(records: Records, calendar: bool, is_missing: Sequence[str]) -> Records:
    """Return records with derived columns added.

    Args:
        records: The records.
        calendar: Whether to add the weekday of each date column, and its season as two numbers.
        is_missing: Names of the columns that get an indicator of missing cells.

    Raises:
        UsageError: A column of the same name exists, or a column in ``is_missing`` does not exist
            or has no missing cells.
    """
    added = []
    for date in (column.name for column in records.columns if column.type == DATE and calendar):
        added += [
            ("calendar", RecordColumn(f"{date} weekday", CATEGORY, WEEKDAYS, of=date)),
            ("calendar", RecordColumn(f"{date} season sine", NUMBER, of=date)),
            ("calendar", RecordColumn(f"{date} season cosine", NUMBER, of=date)),
        ]
    for name in is_missing:
        if name not in records.names:
            raise UsageError(
                f"--is_missing={visible(name)}: no modeled column has this name, so correct the "
                "name"
            )
        if not np.isnan(records.values[:, records.names.index(name)]).any():
            raise UsageError(
                f"--is_missing={visible(name)}: the column has no missing cells, so leave the "
                "name out"
            )
        indicator = RecordColumn(f"{name}{IS_MISSING}", CATEGORY, ("no", "yes"), of=name)
        added.append(("is_missing", indicator))
    for option, column in added:
        if column.name in records.order:
            raise UsageError(
                f"--{option} adds the column '{column.name}', which already exists: leave "
                "the option out"
            )
    extra = [made_values(records.values, records.names, column) for _, column in added]
    return replace(
        records,
        columns=[*records.columns, *(column for _, column in added)],
        values=np.column_stack([records.values, *extra]),
    )
