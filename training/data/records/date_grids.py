"""Grids of dates: years, quarters, months and weeks.

A column of dates is on a grid if every date is a whole number of periods from the first. A period
is 12, 6, 3 or 1 months, on the same day of the month or on the last, or 7 days. A grid is written
as text, for example ``12 months from 01-01`` (month and day), or ``7 days from 4``, the remainder
of days since 1970-01-01 (a Thursday) divided by 7. In a month that lacks the day, the date is its
last day.
"""

import re

import numpy as np

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
