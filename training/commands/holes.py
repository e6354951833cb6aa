"""Whether it tells something that cells of records are missing."""

import numpy as np

from training.data.records.made import says_missing
from training.data.records.records import CATEGORY, Records
from training.data.tables.foreign import listed
from training.files.arrays import evenly
from training.measure.association import association

MOST_LOOKED_AT = 10_000
"""Rows of many."""
FEWEST_HOLES = 20
"""Missing cells, and others, of a column that is looked at."""
TELLING = 5.0
"""Standard deviations of chance from which on columns go along with each other."""


def telling_holes(records: Records) -> list[str]:
    """Lines about columns whose cells are missing where others have other values, unless a column
    says so already."""
    values = records.values[evenly(len(records), MOST_LOOKED_AT)]
    missing, names = np.isnan(values), []
    is_level = np.array([column.type == CATEGORY for column in records.columns])
    for place, name in enumerate(records.names):
        count = missing[:, place].sum()
        if not FEWEST_HOLES <= count <= len(values) - FEWEST_HOLES:
            continue
        pairs = [
            (np.column_stack([missing[:, place], values[:, other]]), np.array([True, level]))
            for other, level in enumerate(is_level)
            if other != place
        ]
        known = any(column.of == name and says_missing(column) for column in records.columns)
        strength = max((association(*pair) for pair in pairs if not known), default=0.0)
        if strength > TELLING / len(values) ** 0.5:
            names.append(name)
    if not names:
        return []
    typed = ",".join(f'"{name}"' if "," in name else name for name in names)
    return [
        f"Where cells of {listed(names)} are missing depends on other columns: it may tell "
        f"something too, and --is_missing={typed} makes columns of it"
    ]
