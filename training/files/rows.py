"""Simulated rows of a table: simulations that have points and names, and rows as CSV.

``--csv`` writes rows in the format of the source: all columns, discrete ones rounded, samples
within the range of their columns, and log_prob and log_prob_error if they exist.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.files import atomic_path
from training.files.declared import Format
from training.files.trajectory import TRAJECTORY, SavedTrajectory

DIGITS = 12
"""Number of significant digits in a CSV: enough for generated values, and 0.3 is printed as 0.3."""
POINTS, NAMES, DENSITIES, ROW_INDEX = "points", "names", "log_prob", "row_index"
ERRORS = "log_prob_error"
MAY_BE_WILD = (POINTS, DENSITIES)
"""Names of arrays with rows that may be infinite or NaN: such rows are counted, and not drawn."""
_WILD = {name: replace(TRAJECTORY.keys[name], wild=True) for name in (DENSITIES, ERRORS)}
ROWS = replace(TRAJECTORY, keys={**TRAJECTORY.keys, **_WILD})
FORMATS = {
    "rows": Format(
        *("simulated rows", "tables.content_of", "run", MAY_BE_WILD),
        of=TRAJECTORY.kind,
        needs=[POINTS, NAMES],
    )
}
LARGEST = 1e150
"""Maximum magnitude of values to be drawn: squares and ranges of values must be finite."""
LABELS = {"melt": "data", "roundtrip": "returned rows", "gen": "samples"}


def save_csv(path: Path, names: Sequence[str], rows: Tensor) -> None:
    """Write rows ``[N, len(names)]`` as a CSV with the names of the columns, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([f"{value:.{DIGITS}g}" for value in row] for row in rows.tolist())


@dataclass(frozen=True)
class SavedTable:
    """A saved simulation of N rows of a table with D columns.

    Attributes:
        trajectory: States in the coordinates of the flow.
        names: Names of the columns.
        points: Initial rows of an inflation, or final rows of other simulations, in the units of
            the columns ``[N, D]``; rows that cannot be drawn are NaN.
        log_prob: Log densities in nats ``[N]``, NaN where they cannot be drawn; None if they were
            not requested.
        row_index: Indices of the rows in their data set ``[N]``; None for generated rows.
        errors: Standard errors of the log densities ``[N]``, NaN where they cannot be drawn; None
            if the log densities are exact.
    """

    trajectory: SavedTrajectory
    names: Sequence[str]
    points: np.ndarray
    log_prob: np.ndarray | None
    row_index: np.ndarray | None
    errors: np.ndarray | None

    @classmethod
    def load(cls, path: Path, choose: Callable[[int], np.ndarray] | None = None) -> "SavedTable":
        """Read and check the results file of a simulation of rows.

        Args:
            path: The file.
            choose: Function from the number of rows N to the indices of the rows whose states are
                loaded; None for evenly spaced rows.

        Raises:
            DataError: The file is missing or broken, an array is missing or has a wrong shape, a
                value is out of range, or fewer than two rows can be drawn.
        """
        trajectory = SavedTrajectory.load(path, of_table=True, choose=choose)
        count, dim = trajectory.count, trajectory.dim
        with ROWS.open(path, N=count, D=dim) as arrays:
            points, names = _drawn(arrays.read(POINTS)), arrays.read(NAMES)
            log_prob, row_index, errors = (
                _drawn(arrays.read(name)) if name in arrays else None
                for name in (DENSITIES, ROW_INDEX, ERRORS)
            )
        points[np.isnan(points).any(axis=1)] = np.nan
        shown = [printable(str(name)) for name in names]
        table = cls(trajectory, shown, points, log_prob, row_index, errors)
        if len(table.rows) < 2:
            raise DataError(
                f"{path}: '{POINTS}' needs at least two finite rows: repeat the simulation"
            )
        return table

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.trajectory.path

    @property
    def kind(self) -> str:
        """Kind of the simulation: ``melt`` (inflation), ``roundtrip`` or ``gen`` (generation)."""
        return self.trajectory.kind

    @property
    def label(self) -> str:
        """Description of the rows for titles and legends."""
        return LABELS[self.kind]

    @property
    def rows(self) -> np.ndarray:
        """Rows that can be drawn ``[n, D]``."""
        return np.asarray(self.points[~np.isnan(self.points).any(axis=1)])

    @property
    def densities(self) -> np.ndarray:
        """Log densities that can be drawn ``[n]``; empty if none are known."""
        known = np.zeros(0) if self.log_prob is None else self.log_prob
        return known[~np.isnan(known)]


def printable(name: str) -> str:
    """Return a name without unprintable characters and repeated spaces; "(no name)" if empty."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name)
    return " ".join(plain.split()) or "(no name)"


def _drawn(values: np.ndarray) -> np.ndarray:
    """Return an array in float64, NaN where it cannot be drawn."""
    return np.where(np.abs(values) < LARGEST, values.astype(np.float64), np.nan)
