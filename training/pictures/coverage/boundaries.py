"""Carried boundaries: closed curves in the plane, or cuts of closed surfaces by a plane.

Surfaces that lie within one another hide each other, so they are drawn as a plane cuts them. A
triangle is cut by a plane if its corners are on both sides, in a segment between points on two of
its edges; where ``h`` is the height above the plane, an edge from a to b is met at
``a + h_a / (h_a - h_b) (b - a)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.measure.boundaries import Boundary
from training.pictures.style.colors import INK, MUTED, sequential_colors
from training.pictures.style.look import (
    HEADLINE_HEIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    WIDE,
    axes_at,
    headline,
    new_figure,
    quiet,
)

LEFT, RIGHT, GAP = 0.6, 0.1, 0.5  # inches around and between the panels
LEGEND_HEIGHT, TITLE_HEIGHT, TICKS_HEIGHT = 0.25, 0.5, 0.5
POINT_COLOR, POINT_SIZE, MOST_POINTS = "#c9ced8", 1.8, 2500
MOST_IN_LEGEND = 7
STRAYS = 2e-3  # share of the points that may lie beyond the limits


@dataclass(frozen=True)
class Panel:
    """Boundaries in the plane.

    Attributes:
        points: Drawn beneath ``[N, 2]``.
        outlines: Of R boundaries, the ends of their segments, ``[M, 2, 2]`` each.
        limits: Of the axes ``[2, 2]``.
        axis_names: Of both.
        title: What is seen.
        note: How to read it.
    """

    points: np.ndarray
    outlines: Sequence[np.ndarray]
    limits: np.ndarray
    axis_names: Sequence[str]
    title: str
    note: str


def draw_boundaries(
    rows: Sequence[Sequence[Panel]],
    names: Sequence[str],
    title: str,
    subtitle: str,
) -> Figure:
    """Rows of panels; a boundary has its color in all of them.

    Args:
        rows: All of the same number of panels.
        names: Of the R boundaries, from the innermost on.
        title: What is seen.
        subtitle: How to read it.
    """
    columns = len(rows[0])
    side = (WIDE - LEFT - RIGHT - GAP * (columns - 1)) / columns
    row_height = TITLE_HEIGHT + side + TICKS_HEIGHT
    height = 0.1 + HEADLINE_HEIGHT + LEGEND_HEIGHT + len(rows) * row_height
    figure = new_figure(WIDE, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    colors = sequential_colors(len(names))
    top = height - 0.1 - HEADLINE_HEIGHT
    _legend(figure, names, colors, top)
    for number, row in enumerate(rows):
        bottom = top - LEGEND_HEIGHT - (number + 1) * row_height + TICKS_HEIGHT
        for column, panel in enumerate(row):
            axes = axes_at(figure, LEFT + column * (side + GAP), bottom, side, side)
            _draw(axes, panel, colors)
    return figure


def edges(boundary: Boundary) -> np.ndarray:
    """The sides of a polygon ``[F, 2, 2]``."""
    return boundary.vertices[boundary.faces]


def cut(boundary: Boundary, axis: int) -> np.ndarray:
    """Where the plane of all points with 0 on an axis cuts a mesh.

    Returns:
        The ends of segments in the two other axes ``[M, 2, 2]``.
    """
    start = boundary.vertices[boundary.faces]
    end = np.roll(start, -1, axis=1)
    above, next_above = start[..., axis], end[..., axis]
    # Points in the plane count as above it, so that a triangle has two such edges or none.
    crossed = (above < 0) != (next_above < 0)
    share = (above / np.where(crossed, above - next_above, 1))[..., None]
    ends = (start + share * (end - start))[crossed].reshape(-1, 2, 3)
    return np.delete(ends, axis, axis=2)


def limits_of(points: np.ndarray, boundaries: Sequence[Boundary]) -> np.ndarray:
    """A square or cube ``[D, 2]`` that holds boundaries, and all points but strays."""
    within = np.quantile(points, [STRAYS / 2, 1 - STRAYS / 2], axis=0)
    corners = np.concatenate([within, *(boundary.vertices for boundary in boundaries)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9) * 1.05
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def _draw(axes: Axes, panel: Panel, colors: np.ndarray) -> None:
    quiet(axes)
    points = panel.points
    shown = np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).round().astype(int)
    axes.plot(*points[shown].T, "o", ms=POINT_SIZE, mew=0, color=POINT_COLOR, zorder=1)
    width = 1.4 if len(colors) <= MOST_IN_LEGEND else 0.8
    for outline, color in zip(panel.outlines, colors, strict=True):
        axes.add_collection(
            LineCollection(list(outline), colors=[color], linewidths=width, capstyle="round")
        )
    axes.set(xlim=panel.limits[0], ylim=panel.limits[1], aspect="equal")
    axes.locator_params(nbins=6)
    axes.set_xlabel(panel.axis_names[0], size=TEXT_SIZE, color=MUTED, labelpad=2)
    axes.set_ylabel(panel.axis_names[1], size=TEXT_SIZE, color=MUTED, labelpad=0)
    axes.set_title(panel.title, loc="left", size=TEXT_SIZE, color=INK, pad=20)
    axes.annotate(
        panel.note,
        (0, 1),
        xytext=(0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        size=SMALL_SIZE,
        color=MUTED,
    )


def _legend(figure: Figure, names: Sequence[str], colors: np.ndarray, top: float) -> None:
    count = len(names)
    shown = np.linspace(0, count - 1, min(count, MOST_IN_LEGEND)).round().astype(int)
    width, height = figure.get_size_inches()
    figure.legend(
        [Line2D([], [], color=colors[index], lw=2) for index in shown],
        [names[index] for index in shown],
        loc="upper left",
        bbox_to_anchor=(LEFT / width, top / height),
        ncols=len(shown),
        frameon=False,
        fontsize=SMALL_SIZE,
        labelcolor=MUTED,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.2,
        handletextpad=0.5,
        columnspacing=1.4,
    )
