"""The course of a training run: its loss, and below it the learning rate."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnlib.errors import DataError
from training.pictures.style import look
from training.pictures.style.colors import BLUE, MUTED, ORANGE
from training.pictures.style.picture import Picture, figures

STATS = "stats.jsonl"
LARGEST_FILE = 1 << 28
"""Bytes; a line has some 500."""
HEIGHTS = (2.6, 0.7)  # inches
FEW = 60  # reports up to which each is marked
MANY = 200  # reports from which a running median is drawn over them
# The loss of a network that says nothing, F = 0, since F's target has unit variance. What it leaves
# is the best linear denoiser.
BASELINE = 1.0


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


def pictures_of_training(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a run's statistics. Raises DataError if they are broken."""
    draw = partial(draw_training, SavedTraining.load(path), path.resolve().parent.name)
    return figures((folder or path.parent) / "training", {"curve": draw})


def draw_training(saved: SavedTraining, run: str) -> Figure:
    """Loss and learning rate against samples.

    Args:
        saved: What to draw.
        run: Name of its folder.
    """
    samples, rate = saved.samples, saved.learning_rate
    last = saved.loss[np.isfinite(saved.loss)][-1]
    figure, (loss_axes, rate_axes) = look.stacked(
        f"Training of {run}",
        f"{samples[-1]:.3g} million samples, last loss {last:.4f}",
        HEIGHTS,
        "million samples",
        legend_lines=0,
    )
    _loss(loss_axes, samples, saved.loss)
    rate_axes.fill_between(samples, rate, color=ORANGE, alpha=0.18, lw=0)
    rate_axes.plot(samples, rate, color=ORANGE, lw=1.4, **_marks(samples))
    highest = float(np.nanmax(rate, initial=0.0)) or 1.0
    rate_axes.set(ylim=(0, 1.15 * highest))
    rate_axes.set_yticks([0, highest], ["0", f"{highest:.2g}"])
    look.label(rate_axes, y="learning\nrate")
    look.label(loss_axes, y="loss")
    for axes in (loss_axes, rate_axes):
        axes.set_xlim(0, 1.008 * samples[-1])
    return figure


def running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Median over ``reach`` neighbors on either side, fewer at the ends; NaN is left out."""
    padded = np.pad(values.astype(float), reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    ordered = np.sort(windows, axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(len(values))
    middle = (ordered[rows, np.maximum(count - 1, 0) // 2] + ordered[rows, count // 2]) / 2
    return np.where(np.isfinite(values), middle, np.nan)


def _loss(axes: Axes, samples: np.ndarray, loss: np.ndarray) -> None:
    axes.axhline(BASELINE, color=MUTED, lw=1, ls=look.DASHED)
    many = len(samples) > MANY
    axes.plot(
        samples,
        loss,
        color=BLUE,
        lw=0.6 if many else 1.6,
        alpha=0.35 if many else 1,
        **_marks(samples),
    )
    if many:
        axes.plot(samples, running_median(loss, len(loss) // 60), color=BLUE, lw=1.8)
    # The first reports of a run may be far above the rest, which would then be one flat line.
    low, high = np.nanquantile(loss, [0.002, 0.99])
    low, high = min(low, BASELINE), max(high, BASELINE)
    room = 0.08 * max(high - low, 0.01)
    axes.set_ylim(low - room, high + 1.6 * room)
    look.write(
        axes,
        "F = 0: the network adds nothing",
        (1, BASELINE),
        (-2, 3),
        ("axes fraction", "data"),
        ha="right",
    )


def _marks(samples: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if len(samples) <= FEW else {}


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
