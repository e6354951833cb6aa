"""How the errors of roundtrips are spread over the images: histograms, in gray levels."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from training.pictures.images.pixels import ROUNDED_AWAY
from training.pictures.style.colors import BLUE, INK, MUTED
from training.pictures.style.look import (
    HEADLINE_HEIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    axes_at,
    brief,
    headline,
    new_figure,
    quiet,
)

PANEL_WIDTH, PANEL_HEIGHT, LEFT, GAP, RIGHT = 4.2, 2.2, 0.65, 0.7, 0.25  # inches
TITLE_HEIGHT, BOTTOM = 0.45, 0.5
LEAST_BINS, MOST_BINS = 8, 40
LEAST_RANGE = 4  # highest over lowest error on the axis


def draw_errors(rms: np.ndarray, largest: np.ndarray, title: str, subtitle: str) -> Figure:
    """Two histograms, on a logarithmic axis.

    Args:
        rms: Root-mean-square errors of images, before rounding, gray levels ``[N]``.
        largest: Largest errors of a pixel, before rounding, gray levels ``[N]``.
        title: What is seen.
        subtitle: How to read it.
    """
    height = 0.1 + HEADLINE_HEIGHT + TITLE_HEIGHT + PANEL_HEIGHT + BOTTOM
    figure = new_figure(LEFT + 2 * PANEL_WIDTH + GAP + RIGHT, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    for number, (errors, name) in enumerate(
        ((rms, "root-mean-square error of an image"), (largest, "largest error of a pixel"))
    ):
        left = LEFT + number * (PANEL_WIDTH + GAP)
        axes = axes_at(figure, left, BOTTOM, PANEL_WIDTH, PANEL_HEIGHT)
        axes.set_title(name, loc="left", size=TEXT_SIZE, color=INK, pad=20)
        middle, high = float(np.median(errors)), float(errors.max())
        axes.annotate(
            f"median {brief(middle)}, highest {brief(high)}",
            (0, 1),
            xytext=(0, 7),
            xycoords="axes fraction",
            textcoords="offset points",
            size=SMALL_SIZE,
            color=MUTED,
        )
        _bars(axes, errors)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    _mark_rounding(axes)
    figure.axes[0].set_ylabel("images", size=TEXT_SIZE, color=MUTED)
    return figure


def error_bins(errors: np.ndarray) -> np.ndarray:
    """Edges of bins, evenly spaced in the logarithm, that hold all positive errors ``[N]``."""
    positive = errors[errors > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1e-3)
    # Errors that are nearly equal have a wider axis than theirs, on which there are ticks.
    widen = max(math.sqrt(LEAST_RANGE * low / high), 1.02)
    low, high = low / widen, high * widen
    bins = int(np.clip(3 * len(positive) ** (1 / 3), LEAST_BINS, MOST_BINS))
    return np.geomspace(low, high, bins + 1)


def _bars(axes: Axes, errors: np.ndarray) -> None:
    edges = error_bins(errors)
    counts = np.histogram(errors, edges)[0]
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, alpha=0.55, lw=0)
    axes.set_xscale("log")
    axes.set_xlabel("gray levels of 255, before rounding", size=TEXT_SIZE, color=MUTED)
    none = int((errors == 0).sum())
    if none:
        text = f"{none} more without\nany error"
        style: dict[str, Any] = {"ha": "left", "va": "top", "size": SMALL_SIZE, "color": MUTED}
        axes.text(0.02, 0.97, text, transform=axes.transAxes, **style)
    quiet(axes)
    spread = edges[-1] / edges[0]
    steps = (1, 2, 5) if spread < 10 else (1, 3) if spread < 1000 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda value, position: brief(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _mark_rounding(axes: Axes) -> None:
    """Marks the error below which rounding to 8 bits restores an image, if it is in sight."""
    low, high = axes.get_xlim()
    if not low < ROUNDED_AWAY < high:
        return
    axes.axvline(ROUNDED_AWAY, color=MUTED, lw=1, ls=(0, (5, 4)))
    near = math.log(ROUNDED_AWAY / low) > 0.5 * math.log(high / low)
    axes.annotate(
        "below ½: exact\nafter rounding",
        (ROUNDED_AWAY, 1),
        xytext=(-5 if near else 5, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if near else "left",
        va="top",
        size=SMALL_SIZE,
        color=MUTED,
    )
