"""Where a melt ends: each eigen-dimension's histogram against the Gaussian of the closed form."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.pictures.style.colors import BLUE, INK, MUTED, ORANGE
from training.pictures.style.look import (
    HEADLINE_HEIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    axes_at,
    headline,
    new_figure,
    quiet,
)

MOST_PANELS, COLUMNS = 6, 3
PANEL_WIDTH, PANEL_HEIGHT = 3.4, 1.75  # inches
TITLE_HEIGHT, TICKS_HEIGHT, MARGIN, GAP = 0.52, 0.38, 0.3, 0.3
RANGE = 4.0  # standard deviations of the Gaussian on either side
LEAST_BINS, MOST_BINS = 16, 48
TALLEST = 1.7  # bars are cut at this many times the Gaussian's peak


def draw_latents(
    latents: np.ndarray, variance: np.ndarray, compressed: np.ndarray, title: str, subtitle: str
) -> Figure:
    """One panel for each of the first dimensions.

    Args:
        latents: Scaled, in eigenspace, ``[N, D]``.
        variance: Of the closed form, ``[D]``.
        compressed: Which dimensions inflate less than others, bool ``[D]``.
        title: What is seen.
        subtitle: How to read it.
    """
    count = min(latents.shape[1], MOST_PANELS)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    row_height = TITLE_HEIGHT + PANEL_HEIGHT + TICKS_HEIGHT
    width = 2 * MARGIN + columns * PANEL_WIDTH + (columns - 1) * GAP
    height = 0.1 + HEADLINE_HEIGHT + rows * row_height
    figure = new_figure(width, height)
    headline(figure, title, subtitle, MARGIN, height - 0.1)
    for number in range(count):
        row, column = divmod(number, columns)
        left = MARGIN + column * (PANEL_WIDTH + GAP)
        bottom = (rows - 1 - row) * row_height + TICKS_HEIGHT
        axes = axes_at(figure, left, bottom, PANEL_WIDTH, PANEL_HEIGHT)
        values, exact = latents[:, number], float(variance[number])
        name = f"eigen-dimension {number + 1}"
        if compressed[number]:
            name += f", variance compressed to {_share(exact / variance.max())}"
        _panel(axes, values, exact, ORANGE if compressed[number] else BLUE)
        axes.set_title(name, loc="left", size=TEXT_SIZE, color=INK, pad=20)
        _second_title(axes, _variances(values, exact))
    return figure


def gaussian(values: np.ndarray, variance: float) -> np.ndarray:
    """Density of ``N(0, variance)``."""
    return np.exp(-0.5 * values**2 / variance) / math.sqrt(2 * math.pi * variance)


def _panel(axes: Axes, values: np.ndarray, variance: float, color: str) -> None:
    reach = RANGE * math.sqrt(variance)
    # Few points in many bins would be nothing but spikes.
    bins = int(np.clip(4 * len(values) ** (1 / 3), LEAST_BINS, MOST_BINS))
    edges = np.linspace(-reach, reach, bins + 1)
    # By all points, not only those in range: bars and curve then compare even if some lie beyond.
    density = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
    axes.bar(edges[:-1], density, np.diff(edges), align="edge", color=color, alpha=0.35, lw=0)
    grid = np.linspace(-reach, reach, 201)
    axes.plot(grid, gaussian(grid, variance), color=color, lw=1.8)
    peak = float(gaussian(np.zeros(1), variance)[0])
    top = min(max(1.12 * peak, 1.05 * float(density.max())), TALLEST * peak)
    axes.set(xlim=(-reach, reach), ylim=(0, top), yticks=[])
    quiet(axes)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=7)
    notes = []
    if density.max() > top:
        notes.append(f"tallest bar cut:\n{density.max() / peak:.1f} × the curve")
    beyond = float((np.abs(values) > reach).mean())
    if beyond > 1e-3:
        notes.append(f"{beyond:.1%} of points\nlie beyond")
    axes.text(
        0.99,
        0.97,
        "\n".join(notes),
        transform=axes.transAxes,
        ha="right",
        va="top",
        size=SMALL_SIZE,
        color=MUTED,
    )


def _second_title(axes: Axes, text: str) -> None:
    axes.annotate(
        text,
        (0, 1),
        xytext=(0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        size=SMALL_SIZE,
        color=MUTED,
    )


def _variances(values: np.ndarray, exact: float) -> str:
    measured = float(np.square(values).mean())
    return f"variance {measured:#.3g} = {measured / exact:.3f} × the closed form"


def _share(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio >= 0.01 else f"{ratio:.1e}"
