"""Warnings about data sets and about the duration of computations."""

import numpy as np

from dnnlib.warned import warn
from training.data.tables.formats import listed
from training.data.tables.reading import is_missing_indicator
from training.data.tables.schema import CATEGORY
from training.data.tables.table import DataTable
from training.files.arrays import evenly
from training.measure.association import with_indicators

MOST_LOOKED_AT = 10_000
"""Maximum number of rows that are analyzed."""
FEWEST_HOLES = 20
"""Minimum number of missing cells, and of present ones, in a column that is analyzed."""
TELLING = 5.0
"""Threshold of an association between columns, in standard errors."""


def informative_missing(records: DataTable) -> list[str]:
    """Return lines about columns whose missingness depends on other columns.

    Columns with an indicator column are omitted.
    """
    values = records.values[evenly(len(records), MOST_LOOKED_AT)]
    missing, counts = np.isnan(values), np.isnan(values).sum(axis=0)
    looked_at = (counts >= FEWEST_HOLES) & (counts <= len(values) - FEWEST_HOLES)
    for column in records.columns:
        if is_missing_indicator(column):
            looked_at[records.names.index(column.of)] = False
    places, strengths = np.flatnonzero(looked_at), np.zeros(int(looked_at.sum()))
    for other, column in enumerate(records.columns) if len(places) else ():
        each = with_indicators(values[:, other], column.type == CATEGORY, missing[:, places])
        strengths = np.fmax(strengths, np.where(places == other, 0.0, each))
    strong = strengths > TELLING / len(values) ** 0.5
    names = [records.names[place] for place in places[strong].tolist()]
    if not names:
        return []
    typed = ",".join(f'"{name}"' if "," in name else name for name in names)
    return [
        (
            f"Missing cells of {listed(names)} depend on other columns and may be "
            f"informative: --is_missing={typed} adds indicator columns"
        )
    ]


LONGER = 1.1
"""Ratio of the duration to the given minutes from which a command warns that it took longer."""


def warn_if_longer(what: str, seconds: float, minutes: float | None, why: str) -> None:
    """Warn about a command that took longer than its ``--minutes``.

    Args:
        what: Name of the work that took the time.
        seconds: Duration in seconds.
        minutes: The given minutes; None for none.
        why: Part of the work that is not included in these minutes, in words.
    """
    if minutes is not None and seconds > 60 * minutes * LONGER:
        warn(
            "over-time",
            f"{what} took {seconds / 60:.2g} minutes, more than --minutes={minutes:g}: {why}",
        )
