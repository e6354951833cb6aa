"""Correlation matrices between the first time and later ones, as heat maps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.pictures.style.colors import DIVERGING, INK, MUTED
from training.pictures.style.look import (
    HEADLINE_HEIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    axes_at,
    headline,
    new_figure,
    quiet,
)

SIDE, SMALL_SIDE = 2.1, 1.5  # inches
LEFT, GAP, BAR_GAP, BAR_WIDTH, RIGHT = 1.05, 0.2, 0.25, 0.14, 0.65
TITLE_HEIGHT, BOTTOM = 0.45, 0.5
FEW = 3  # dimensions up to which numbers are written into the cells
LEAST_COLUMNS = 3  # that the headline has room over
DARK = 0.45  # magnitude from which numbers are written in white


def draw_matrices(
    rows: Sequence[tuple[str, np.ndarray]],
    dim: int,
    times: np.ndarray,
    notes: Sequence[str],
    title: str,
    subtitle: str,
) -> Figure:
    """A row for each quantity, a column for each time, all in the same colors.

    Args:
        rows: Names and matrices ``[L, d, d]``, in which d cells a side stand for all dimensions.
        dim: Number of dimensions.
        times: ``[L]``.
        notes: On each time.
        title: What is seen.
        subtitle: How to read it.
    """
    side = SMALL_SIDE if dim <= FEW else SIDE
    columns = max(len(times), LEAST_COLUMNS)
    width = LEFT + columns * side + (columns - 1) * GAP + BAR_GAP + BAR_WIDTH + RIGHT
    height_of_all = len(rows) * side + (len(rows) - 1) * GAP
    height = 0.1 + HEADLINE_HEIGHT + TITLE_HEIGHT + height_of_all + BOTTOM
    figure = new_figure(width, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    colors = LinearSegmentedColormap.from_list("correlation", DIVERGING)
    norm = Normalize(-1, 1)
    for row, (name, matrices) in enumerate(rows):
        bottom = BOTTOM + (len(rows) - 1 - row) * (side + GAP)
        for column, matrix in enumerate(matrices):
            axes = axes_at(figure, LEFT + column * (side + GAP), bottom, side, side)
            ends = (0.5, dim + 0.5)
            image = axes.imshow(matrix, colors, norm, extent=(*ends, *ends[::-1]))
            _finish(axes, dim)
            if dim <= FEW:
                _numbers(axes, matrix)
            if row == 0:
                _titles(axes, f"t = {times[column]:.2f}", notes[column])
            left, low = column == 0, row == len(rows) - 1
            axes.tick_params(left=left, labelleft=left, bottom=low, labelbottom=low)
        _row_names(figure.axes[-len(matrices)], name)
    figure.axes[-len(times)].set_xlabel("dimension, time t", size=SMALL_SIZE, color=MUTED)
    used = LEFT + len(times) * side + (len(times) - 1) * GAP
    bar_axes = axes_at(figure, used + BAR_GAP, BOTTOM, BAR_WIDTH, height_of_all)
    bar = figure.colorbar(image, cax=bar_axes, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.set_label("correlation", size=SMALL_SIZE, color=MUTED)
    bar_axes.tick_params(length=2.5, color=MUTED, labelcolor=MUTED, labelsize=SMALL_SIZE)
    return figure


def _finish(axes: Axes, dim: int) -> None:
    quiet(axes)
    axes.spines[:].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))


def _numbers(axes: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > DARK else INK
        rounded = round(float(value), 2) + 0.0  # no minus zero
        text = f"{rounded:.2f}".replace("-", "−")
        axes.text(column + 1, row + 1, text, size=TEXT_SIZE, color=color, ha="center", va="center")


def _titles(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, loc="left", size=TEXT_SIZE, color=INK, pad=18)
    axes.annotate(
        note,
        (0, 1),
        xytext=(0, 6),
        xycoords="axes fraction",
        textcoords="offset points",
        size=SMALL_SIZE,
        color=MUTED,
    )


def _row_names(axes: Axes, name: str) -> None:
    axes.set_ylabel("dimension, first time", size=SMALL_SIZE, color=MUTED)
    axes.annotate(
        name,
        (0, 0.5),
        xytext=(-52, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="center",
        size=TEXT_SIZE,
        color=INK,
    )
