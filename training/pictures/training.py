"""The course of a training run: its loss, and below it the learning rate."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.pictures.style.colors import BLUE, FAINT, MUTED, ORANGE
from training.pictures.style.look import (
    HEADLINE_HEIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    axes_at,
    headline,
    new_figure,
    quiet,
)

WIDTH, LEFT, RIGHT = 8.0, 0.75, 0.2  # inches
LOSS_HEIGHT, RATE_HEIGHT, GAP, BOTTOM = 2.6, 0.7, 0.2, 0.5
FEW = 60  # reports up to which each is marked
MANY = 200  # reports from which a running median is drawn over them
# The loss of a network that says nothing, F = 0, since F's target has unit variance. What it leaves
# is the best linear denoiser.
BASELINE = 1.0


def draw_training(
    samples: np.ndarray, loss: np.ndarray, learning_rate: np.ndarray, title: str, subtitle: str
) -> Figure:
    """Loss and learning rate against samples.

    Args:
        samples: Trained on so far, millions, increasing, ``[K]``.
        loss: ``[K]``; NaN leaves a gap.
        learning_rate: ``[K]``; NaN leaves a gap.
        title: What is seen.
        subtitle: How to read it.
    """
    height = 0.1 + HEADLINE_HEIGHT + 0.1 + LOSS_HEIGHT + GAP + RATE_HEIGHT + BOTTOM
    figure = new_figure(WIDTH, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    wide = WIDTH - LEFT - RIGHT
    rate_axes = axes_at(figure, LEFT, BOTTOM, wide, RATE_HEIGHT)
    loss_axes = axes_at(figure, LEFT, BOTTOM + RATE_HEIGHT + GAP, wide, LOSS_HEIGHT)
    _loss(loss_axes, samples, loss)
    rate_axes.fill_between(samples, learning_rate, color=ORANGE, alpha=0.18, lw=0)
    rate_axes.plot(samples, learning_rate, color=ORANGE, lw=1.4, **_marks(samples))
    highest = float(np.nanmax(learning_rate, initial=0.0)) or 1.0
    rate_axes.set(ylim=(0, 1.15 * highest))
    rate_axes.set_yticks([0, highest], ["0", f"{highest:.2g}"])
    rate_axes.set_ylabel("learning rate", size=SMALL_SIZE, color=MUTED)
    rate_axes.set_xlabel("million samples", size=TEXT_SIZE, color=MUTED)
    loss_axes.set_ylabel("loss", size=TEXT_SIZE, color=MUTED)
    loss_axes.tick_params(labelbottom=False)
    for axes in (loss_axes, rate_axes):
        quiet(axes)
        axes.set_xlim(0, 1.008 * samples[-1])
        axes.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    figure.align_ylabels([loss_axes, rate_axes])
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
    axes.axhline(BASELINE, color=MUTED, lw=1, ls=(0, (5, 4)))
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
    axes.annotate(
        "F = 0: the network adds nothing",
        (1, BASELINE),
        xytext=(-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        size=SMALL_SIZE,
        color=MUTED,
    )


def _marks(samples: np.ndarray) -> dict[str, Any]:
    return {"marker": "o", "markersize": 3.5} if len(samples) <= FEW else {}
