"""Pictures of training runs: training loss, held-out results, and learning rate."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.files.stats import SavedTraining
from training.pictures import theme
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE

LOSS_HEIGHT, NATS_HEIGHT, RATE_HEIGHT = 2.6, 1.4, 0.7  # inches
FEW = 60  # number of reports up to which each is marked
FAR = 8.0  # distances of the median from the best, below which log densities are cut off
MANY = 200  # number of reports from which a running median is drawn over them
# The loss of a network with F = 0, since F's target has unit variance. What remains is then the
# best linear denoiser.
BASELINE = 1.0


def pictures_of_training(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the picture of the statistics of a training run.

    Raises:
        DataError: The statistics are broken.
    """
    draw = partial(draw_training, SavedTraining.load(path), path.resolve().parent.name)
    return theme.figures((folder or path.parent) / "training", {"curve": draw})


def draw_training(saved: SavedTraining, run: str) -> Figure:
    """Draw losses, validation log densities if there are any, and learning rate by samples."""
    samples, rate = saved.samples, saved.learning_rate
    last = saved.loss[np.isfinite(saved.loss)][-1]
    tells, best = [f"{samples[-1]:.3g} million samples, last loss {last:.4f}"], saved.best
    if best is not None:
        tells.append(f"best validation loss after {samples[best]:.3g} million")
    heights = [LOSS_HEIGHT, *[NATS_HEIGHT] * (saved.nats is not None), RATE_HEIGHT]
    figure, (loss_axes, *nats_axes, rate_axes) = theme.stacked(
        f"Training of {run}",
        theme.joined(*tells),
        heights,
        "million samples",
        legend_lines=int(best is not None),
    )
    _loss(loss_axes, saved)
    for axes in nats_axes:
        _nats(axes, saved)
    color = ORANGE if best is None else MUTED  # orange is for held-out results
    rate_axes.fill_between(samples, rate, color=color, alpha=0.18, lw=0)
    rate_axes.plot(samples, rate, color=color, lw=1.4, **_marks(samples))
    highest = float(np.nanmax(rate, initial=0.0)) or 1.0
    rate_axes.set(ylim=(0, 1.15 * highest))
    rate_axes.set_yticks([0, highest], ["0", f"{highest:.2g}"])
    theme.label(rate_axes, y="learning\nrate")
    theme.label(loss_axes, y="loss")
    for axes in (loss_axes, *nats_axes, rate_axes):
        axes.set_xlim(0, 1.008 * samples[-1])
    return figure


def running_median(values: np.ndarray, reach: int) -> np.ndarray:
    """Return the running median over ``reach`` neighbors on either side, which ignores NaN."""
    padded = np.pad(values.astype(float), reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    medians, there = np.full(len(values), np.nan), np.isfinite(values)
    medians[there] = np.nanmedian(windows[there], axis=1)
    return medians


def _loss(axes: Axes, saved: SavedTraining) -> None:
    samples, loss = saved.samples, saved.loss
    axes.axhline(BASELINE, color=MUTED, lw=1, ls=theme.DASHED)
    many = len(samples) > MANY
    axes.plot(
        samples,
        loss,
        color=BLUE,
        lw=0.6 if many else 1.6,
        alpha=0.35 if many else 1,
        label=None if many else "training",
        **_marks(samples),
    )
    if many:
        smooth = running_median(loss, len(loss) // 60)
        axes.plot(samples, smooth, color=BLUE, lw=1.8, label="training")
    # The first reports of a run may be far above the rest, which would then be one flat line.
    ends = [np.nanquantile(loss, [0.002, 0.99])]
    if saved.held_out is not None:
        _held_out(axes, saved, saved.held_out)
        ends.append(np.nanquantile(saved.held_out, [0, 0.99]))
        theme.legend(axes, 3)
    low, high = np.min(ends), np.max(ends)
    low, high = min(low, BASELINE), max(high, BASELINE)
    room = 0.08 * max(high - low, 0.01)
    axes.set_ylim(low - room, high + 1.6 * room)
    theme.write(
        axes,
        "F = 0: the network adds nothing",
        (1, BASELINE),
        (-2, 3),
        ("axes fraction", "data"),
        ha="right",
    )


def _nats(axes: Axes, saved: SavedTraining) -> None:
    """Draw mean log densities, cutting off early ones that are far below the rest."""
    nats, best = saved.nats, saved.best
    assert nats is not None
    assert best is not None
    _held_out(axes, saved, nats)
    highest = float(nats[best])
    lowest = max(float(np.nanmin(nats)), highest - FAR * (highest - float(np.nanmedian(nats))))
    room = 0.1 * max(highest - lowest, 0.01)
    axes.set_ylim(lowest - room, highest + 2 * room)
    theme.label(axes, y="held-out\nnats")
    note = f"best {highest:.4g} nats: estimated mean log density of validation rows"
    theme.note_above(axes, note.replace("-", "−", 1) if highest < 0 else note)


def _held_out(axes: Axes, saved: SavedTraining, values: np.ndarray) -> None:
    """Draw a curve of values ``[K]``, with a ring around that of the best report."""
    there = np.isfinite(values)
    samples, best = saved.samples, saved.best
    axes.plot(
        samples[there],
        values[there],
        color=ORANGE,
        lw=1.4,
        label="validation, averaged weights",
        **_marks(samples),
    )
    if best is not None:
        axes.axvline(samples[best], color=FAINT, lw=1, zorder=0)
        ring: dict[str, Any] = {
            "ms": 9,
            "mfc": "none",
            "mec": INK,
            "mew": 1.4,
            "ls": "none",
            "clip_on": False,
        }
        axes.plot(samples[best], values[best], "o", label="best on the validation set", **ring)


def _marks(samples: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if len(samples) <= FEW else {}
