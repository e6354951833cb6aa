"""A training run: the folder that ``toy_train.py`` and ``train.py`` write.

The folder is ``{outdir}/{00000}-{data}-{schedule}-{network}[...][-{desc}]/``, with

    training_options.json         options with their final values; the command, the versions, and
                                  the start time; --resume reads it
    log.txt                       the lines of the console, with times; a resumed run appends
    stats.jsonl                   one JSON object per report, see below
    events.out.tfevents.*         the same numbers: tensorboard --logdir={outdir}
    network-snapshot-{kimg}.pkl   the network with averaged weights after this number of thousand
                                  samples
    training-state-{kimg}.pt      the last two states for --resume: weights, averages,
                                  optimizer, step

Keys of ``stats.jsonl``:

    seen                          samples trained on so far
    Loss/loss                     mean since the last report; 1 is the best linear denoiser
    Loss/held_out                 validation loss of the averaged weights: of tables, and with
                                  --held_out of images
    Loss/held_out_numbers, Loss/held_out_levels
                                  of records: contributions of numbers and categories to it
    Likelihood/held_out_nats      of tables: estimated mean log density of validation rows
    Gradient/norm                 mean norm of the gradient
    Progress/learning_rate        current value
    Progress/skipped_steps        steps skipped so far because the gradient was not finite
    Timing/seconds                since the start, or the start of the resumed run
    Timing/seconds_per_kimg       per thousand samples since the last report
    Timing/waiting_for_data       fraction of the time spent waiting for batches
    Resources/peak_memory_gib     of the process, at the times of its reports
    Resources/peak_gpu_memory_gib of the device, on CUDA
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError
from dnnlib.files import open_file
from training.files.declared import Format

STATS = "stats.jsonl"
LARGEST_FILE = 1 << 28
"""Maximum size of a ``stats.jsonl`` in bytes; one line has about 500 bytes."""
COLUMNS = (
    "seen",
    "Loss/loss",
    "Progress/learning_rate",
    "Loss/held_out",
    "Likelihood/held_out_nats",
)
FORMATS = {"training": Format("reports of a training run", "training.content_of")}


@dataclass(frozen=True)
class SavedTraining:
    """Statistics of a training run in K reports.

    Attributes:
        samples: Number of samples trained on so far ``[K]``, in millions, increasing.
        loss: Mean loss since the previous report, ``[K]``; NaN if no step was counted.
        learning_rate: Learning rate ``[K]``.
        held_out: Validation loss of the averaged weights ``[K]``, NaN where it was not computed;
            None if it was never computed.
        nats: Mean log density ``[K]`` of the validation rows of a table, in nats per row, NaN where
            it was not computed; None if it was never computed.
    """

    samples: np.ndarray
    loss: np.ndarray
    learning_rate: np.ndarray
    held_out: np.ndarray | None = None
    nats: np.ndarray | None = None

    @property
    def best(self) -> int | None:
        """Index of the report with the best validation result; None if there is none."""
        if self.nats is not None:
            return int(np.nanargmax(self.nats))
        return None if self.held_out is None else int(np.nanargmin(self.held_out))

    @classmethod
    def load(cls, path: Path) -> "SavedTraining":
        """Read the statistics of a run from its ``stats.jsonl``.

        Raises:
            DataError: The file is missing, a line is malformed, or no line contains a loss.
        """
        with open_file(path, "the stats.jsonl of a run", LARGEST_FILE) as file:
            try:
                lines = file.read().decode("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path} cannot be read: give the stats.jsonl of a run") from error
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if number == len(lines):  # a running training may be writing it
                    break
                record = None
            rows.append(_report(record, f"line {number} of {path}"))
        table = np.array(rows, dtype=float).reshape(-1, len(COLUMNS))
        if not np.isfinite(table[:, 1]).any():
            raise DataError(f"{path} has no report with a loss: train until the first report")
        if (np.diff(table[:, 0]) <= 0).any():
            raise DataError(
                f"{path}: the number of samples decreases, so that it mixes several runs: give "
                "the stats.jsonl of one run"
            )
        held_out, nats = (column if np.isfinite(column).any() else None for column in table.T[3:])
        return cls(table[:, 0] / 1e6, table[:, 1], table[:, 2], held_out, nats)


def _report(record: Any, where: str) -> list[float]:
    if not isinstance(record, dict) or "seen" not in record:
        raise DataError(
            f"{where} is not a report of training, a JSON object with 'seen': remove this line"
        )
    values = [record.get(name, math.nan) for name in COLUMNS]
    for name, value in zip(COLUMNS, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(
                f"{where} has {value!r:.40} for {name}, expected a number: remove this line"
            )
        if abs(value) > 1e300 or (name in record and math.isnan(value)):
            raise DataError(
                f"{where} has {value!s:.40} for {name}: the training diverged: train again with "
                "a smaller --lr"
            )
    return values
