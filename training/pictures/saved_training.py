"""Reads the record of a training run into the arrays that are drawn."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError

LARGEST_FILE = 1 << 28
"""Bytes; a line has some 500."""


@dataclass(frozen=True)
class SavedTraining:
    """The course of a training run, K reports.

    Attributes:
        samples: Trained on so far, millions, increasing, ``[K]``.
        loss: Mean since the report before, ``[K]``; NaN where no step was counted.
        learning_rate: ``[K]``.
    """

    samples: np.ndarray
    loss: np.ndarray
    learning_rate: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "SavedTraining":
        """Reads a ``stats.jsonl``.

        Raises:
            DataError: Missing file, a line that is not such statistics, or no report with a loss.
        """
        try:
            if not path.is_file() or path.stat().st_size > LARGEST_FILE:
                raise DataError(f"{path} is no file, or larger than any run's statistics")
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: give a run's stats.jsonl") from error
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if number == len(lines):  # a run that goes on may be writing it
                    break
                record = None
            rows.append(_report(record, f"line {number} of {path}"))
        table = np.array(rows, dtype=float).reshape(-1, 3)
        if not np.isfinite(table[:, 1]).any():
            raise DataError(f"{path} has no report with a loss yet: nothing to draw")
        if (np.diff(table[:, 0]) <= 0).any():
            raise DataError(f"{path} counts samples backwards: it is not the record of one run")
        return cls(table[:, 0] / 1e6, table[:, 1], table[:, 2])


def _report(record: Any, where: str) -> tuple[float, float, float]:
    names = ("seen", "Loss/loss", "Progress/learning_rate")
    if not isinstance(record, dict) or "seen" not in record:
        raise DataError(f"{where} is not a report of training: it should be JSON with 'seen'")
    values = [record.get(name, math.nan) for name in names]
    for name, value in zip(names, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{where} has {value!r:.40} for {name}: it should be a number")
        if abs(value) > 1e300 or (name in record and math.isnan(value)):
            raise DataError(f"{where} has {value!s:.40} for {name}: training went wrong there")
    return values[0], values[1], values[2]
