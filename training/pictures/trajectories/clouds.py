"""A point cloud at several times in a row; every point keeps its color from panel to panel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.pictures.style.colors import INK, MUTED
from training.pictures.style.look import (
    AZIMUTH,
    ELEVATION,
    HEADLINE_HEIGHT,
    TEXT_SIZE,
    WIDE,
    axes_at,
    headline,
    new_figure,
    quiet,
    quiet_3d,
)

LEFT, RIGHT, GAP = 0.5, 0.1, 0.14  # inches around and between the panels
TIME_HEIGHT, TICKS_HEIGHT, ROW_GAP = 0.24, 0.42, 0.2
# Share of a cloud's points that may lie beyond the limits, so that strays do not shrink the rest.
# Those beyond a cube are drawn all the same, and a cube is mostly corners.
STRAYS = {2: 5e-4, 3: 3e-2}


@dataclass(frozen=True)
class Row:
    """One trajectory to draw.

    Attributes:
        points: ``[K, N, 2 or 3]``.
        times: ``[K]``.
        colors: One a point ``[N, 3]``.
        axis_names: One a dimension.
        title: What is seen.
        subtitle: How to read it.
    """

    points: np.ndarray
    times: np.ndarray
    colors: np.ndarray
    axis_names: Sequence[str]
    title: str
    subtitle: str


def draw_clouds(rows: Sequence[Row]) -> Figure:
    """Rows of panels under one another, all on the same scale, one panel a time."""
    count = max(len(row.times) for row in rows)
    side = (WIDE - LEFT - RIGHT - GAP * (count - 1)) / count
    row_height = HEADLINE_HEIGHT + TIME_HEIGHT + side + TICKS_HEIGHT
    height = len(rows) * row_height + (len(rows) - 1) * ROW_GAP + 0.1
    figure = new_figure(WIDE, height)
    box = common_box([row.points for row in rows])
    top = height - 0.1
    for row in rows:
        headline(figure, row.title, row.subtitle, LEFT, top)
        bottom = top - row_height + TICKS_HEIGHT
        for column, (points, time) in enumerate(zip(row.points, row.times, strict=True)):
            place = (LEFT + column * (side + GAP), bottom, side, side)
            axes = cloud_axes(figure, place, box, row.axis_names, named=column == 0)
            scatter(axes, points, row.colors)
            axes.set_title(f"t = {time:.2f}", size=TEXT_SIZE, color=INK, pad=5)
        top -= row_height + ROW_GAP
    return figure


def common_box(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """Limits of a square or cube that holds all but stray points of several clouds.

    Args:
        clouds: Each ``[..., d]``.

    Returns:
        ``[d, 2]``, of the same width in each dimension.
    """
    share = STRAYS[clouds[0].shape[-1]] / 2
    ends = [np.quantile(cloud, [share, 1 - share], axis=-2) for cloud in clouds]
    low, high = np.concatenate([end.reshape(2, -1, end.shape[-1]) for end in ends], axis=1)
    low, high = low.min(axis=0), high.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9) * 1.08
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def seen_places(points: np.ndarray) -> np.ndarray:
    """Where points ``[..., 2 or 3]`` lie on the page ``[..., 2]``, in their own units."""
    if points.shape[-1] == 2:
        return points
    elevation, azimuth = np.deg2rad([ELEVATION, AZIMUTH])
    right = [-np.sin(azimuth), np.cos(azimuth), 0.0]
    level = -np.sin(elevation)
    up = [level * np.cos(azimuth), level * np.sin(azimuth), np.cos(elevation)]
    return points @ np.array([right, up]).T


def telling_times(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of saved times for the panels: the first, the last, and those between that show most.

    Panels are mostly spaced evenly by how far the points move, since a flow rests for long at its
    data end, and a little by the number of states.

    Args:
        points: ``[S, N, d]``.
        count: Of panels; no more than S are chosen.
    """
    saved = len(points)
    moved = np.sqrt(np.square(np.diff(points, axis=0)).sum(axis=-1).mean(axis=-1))
    path = np.concatenate([[0.0], np.cumsum(moved)])
    share = 0.75 * path / max(path[-1], 1e-12) + 0.25 * np.linspace(0, 1, saved)
    count = min(count, saved)
    chosen = [0]
    for number in range(1, count):
        nearest = int(np.abs(share - share[-1] * number / (count - 1)).argmin())
        chosen.append(int(np.clip(nearest, chosen[-1] + 1, saved - count + number)))
    return np.array(chosen)


def cloud_axes(
    figure: Figure,
    place: tuple[float, float, float, float],
    box: np.ndarray,
    names: Sequence[str],
    named: bool = True,
) -> Any:
    """Axes of equal aspect for a cloud.

    Args:
        figure: Where to add them.
        place: Left, bottom, width and height in inches.
        box: Limits ``[2 or 3, 2]``.
        names: Of the dimensions.
        named: Whether to write the names: the first panel of a row does so for all.
    """
    if len(box) == 3:
        axes = axes_at(figure, *place, projection="3d")
        axes.set(xlim=box[0], ylim=box[1], zlim=box[2])
        axes.set_box_aspect((1, 1, 1), zoom=1.25)
        quiet_3d(axes, names if named else ())
        return axes
    axes = axes_at(figure, *place)
    quiet(axes)
    axes.set(xlim=box[0], ylim=box[1], aspect="equal")
    axes.locator_params(nbins=5)
    if named:
        axes.set_xlabel(names[0], size=TEXT_SIZE, color=MUTED, labelpad=1)
        axes.set_ylabel(names[1], size=TEXT_SIZE, color=MUTED, labelpad=1)
    else:
        axes.tick_params(labelleft=False)
    return axes


def scatter(axes: Any, points: np.ndarray, colors: np.ndarray, size: float = 4.0) -> Any:
    """Draws points ``[N, 2 or 3]`` in their colors ``[N, 3]``."""
    if points.shape[-1] == 3:  # those in the distance are drawn paler
        return axes.scatter(*points.T, c=colors, s=size, linewidths=0, clip_on=False)
    return axes.scatter(*points.T, c=colors, s=size, linewidths=0, alpha=0.85)
