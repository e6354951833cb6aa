"""Rows as CSV, for people and spreadsheets."""

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from dnnlib.files import atomic_path

DIGITS = 12
"""Significant digits: enough for what is generated, few enough that 0.3 is 0.3."""


def save_csv(path: Path, names: Sequence[str], rows: Tensor) -> None:
    """Writes columns by name and rows ``[N, len(names)]``, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([f"{value:.{DIGITS}g}" for value in row] for row in rows.tolist())
