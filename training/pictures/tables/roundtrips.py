"""How far from where they started rows of a table come back, by column, the worst ones first."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from training.files.rows import LARGEST, SavedTable
from training.pictures.style import look
from training.pictures.style.colors import BLUE, FAINT, ORANGE
from training.pictures.style.words import joined
from training.pictures.tables.columns import fitting
from training.pictures.trajectories.words import name_and_details

MOST = 20
LEFT, RIGHT, WIDTH, LINE, BOTTOM = 2.4, 0.3, 5.0, 0.21, 0.55  # inches
LEAST = 1e-16
"""An error that is drawn for none."""


def draw_roundtrip(melt: SavedTable, back: SavedTable) -> Figure:
    """Errors of at most 20 columns in units of their standard deviations.

    Args:
        melt: From rows to latents.
        back: From these latents to rows, as many.
    """
    error, largest = column_errors(melt, back)
    order = np.argsort(-largest, kind="stable")[:MOST]
    height = look.TOP + look.LINE_HEIGHT + LINE * len(order) + BOTTOM
    figure = look.new_figure(LEFT + WIDTH + RIGHT, height)
    name, details = name_and_details(melt.trajectory)
    dim = len(melt.names)
    which = f"the {MOST} worst of {dim} columns" if dim > MOST else ""
    look.headline(
        figure,
        f"Rows of {name}, melted and back",
        joined(details, f"{melt.trajectory.count:,} rows", which),
        look.MARGIN + 0.2,
        height - look.MARGIN,
    )
    axes = look.axes_at(figure, (LEFT, BOTTOM, WIDTH, LINE * len(order)))
    places = np.arange(len(order))[::-1]
    root, most = (np.maximum(values[order], LEAST) for values in (error, largest))
    axes.hlines(places, root, most, color=FAINT, lw=2, zorder=1)
    axes.plot(root, places, "o", ms=5, mew=0, color=BLUE, label="root mean square")
    axes.plot(most, places, "D", ms=4.5, mew=0, color=ORANGE, label="largest")
    axes.set_xscale("log")
    axes.set(ylim=(-0.7, len(order) - 0.3), xlim=(root.min() / 3, most.max() * 3))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(places, [fitting(melt.names[column], LEFT - 0.3) for column in order])
    axes.grid(axis="x", color=FAINT, lw=0.6, alpha=0.7)
    look.label(axes, "error in standard deviations of the column")
    look.legend(axes, 2)
    return figure


def column_errors(melt: SavedTable, back: SavedTable) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square and largest errors ``[D]`` over the standard deviations of the columns.

    Rows that cannot be drawn are left out; a constant column has its errors in its own units.
    """
    error = np.abs(back.points - melt.points)
    error = error[~np.isnan(error).any(axis=1)]
    std = _root_mean_square(melt.rows - melt.rows.mean(axis=0))
    with np.errstate(over="ignore"):
        error = np.minimum(error / np.where(std > 0, std, 1), LARGEST)
    return _root_mean_square(error), error.max(axis=0)


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    """That of columns ``[n, D]``, whose squares may be too small or too large for a float."""
    largest = np.abs(values).max(axis=0)
    parts = values / np.where(largest > 0, largest, 1)
    return np.asarray(largest * np.sqrt(np.square(parts).mean(axis=0)))
