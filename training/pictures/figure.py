"""Description of a figure: data, marks, labels and words, without a plotting library.

Two back ends draw a description: ``training.pictures.drawing`` with Matplotlib into a file, and
``training.report.drawing`` with Bokeh into a page. All texts are plain: no mathematical markup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from training.pictures.theme import AZIMUTH, ELEVATION, FAINT, INK, MUTED

Color = str | np.ndarray
"""A CSS color, or one sRGB color per item, ``[N, 3]`` from 0 to 1."""
Limits = tuple[float, float]
FEW = 20
"""Number of samples from which a histogram is drawn; fewer samples are drawn as points."""


@dataclass(frozen=True, eq=False)
class Points:
    """Markers at N places.

    Attributes:
        x: Horizontal coordinates ``[N]``.
        y: Vertical coordinates ``[N]``.
        color: Color of all markers, or one for each.
        label: Text of the legend; empty for none.
        size: Diameter in points, for all markers or for each ``[N]``.
        marker: Shape as in Matplotlib, such as ``o``, ``^``, ``D``, ``x`` or ``_``.
        alpha: Opacity.
        hollow: Whether only the outlines of the markers are drawn.
    """

    x: ArrayLike
    y: ArrayLike
    color: Color
    label: str = ""
    size: float | np.ndarray = 4.0
    marker: str = "o"
    alpha: float = 1.0
    hollow: bool = False


@dataclass(frozen=True, eq=False)
class Line:
    """A line through N places; NaN interrupts it.

    Attributes:
        x: Horizontal coordinates ``[N]``.
        y: Vertical coordinates ``[N]``.
        color: Color.
        label: Text of the legend; empty for none.
        width: Width in points.
        dashed: Whether the line is dashed.
        alpha: Opacity.
    """

    x: ArrayLike
    y: ArrayLike
    color: Color
    label: str = ""
    width: float = 1.4
    dashed: bool = False
    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class Segments:
    """N straight lines between two ends each, ``(x0, y0)`` and ``(x1, y1)``, all ``[N]``."""

    x0: ArrayLike
    x1: ArrayLike
    y0: ArrayLike
    y1: ArrayLike
    color: Color
    label: str = ""
    width: float = 1.4
    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class Band:
    """The area between two curves ``[N]`` over ``x``, ``[N]``."""

    x: ArrayLike
    low: ArrayLike
    high: ArrayLike
    color: Color = FAINT
    label: str = ""
    alpha: float = 0.6


@dataclass(frozen=True, eq=False)
class Boxes:
    """N rectangles, filled or outlined, from ``x0`` to ``x1`` and from ``y0`` to ``y1``."""

    x0: ArrayLike
    x1: ArrayLike
    y0: ArrayLike
    y1: ArrayLike
    color: Color
    label: str = ""
    alpha: float = 1.0
    filled: bool = True


@dataclass(frozen=True, eq=False)
class Steps:
    """A histogram: heights ``[N]`` between edges ``[N + 1]``, filled or as an outline."""

    edges: np.ndarray
    heights: np.ndarray
    color: Color
    label: str = ""
    alpha: float = 1.0
    filled: bool = False
    width: float = 1.4


@dataclass(frozen=True)
class Rule:
    """A straight line across the panel, at a value of the vertical or the horizontal axis."""

    value: float
    vertical: bool = False
    color: str = MUTED
    label: str = ""
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Span:
    """A strip across the panel, between two values of the vertical or the horizontal axis."""

    low: float
    high: float
    vertical: bool = False
    color: str = FAINT
    label: str = ""
    alpha: float = 0.6


@dataclass(frozen=True, eq=False)
class Image:
    """An image in 8-bit RGB ``[H, W, 3]``, whose first row is on top.

    Attributes:
        cells: Colors of the pixels.
        place: Left, right, bottom and top edge; None for pixels of unit size from the origin.
    """

    cells: np.ndarray
    place: tuple[float, float, float, float] | None = None

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge in the coordinates of the panel."""
        height, width = self.cells.shape[:2]
        return self.place or (0, width, 0, height)


@dataclass(frozen=True, eq=False)
class Words:
    """Texts at N places.

    Attributes:
        x: Horizontal coordinates ``[N]``.
        y: Vertical coordinates ``[N]``.
        texts: N texts.
        color: Color of all texts, or one for each.
        size: Size in points.
        align: ``left``, ``center`` or ``right``: the side of a text that is at its place.
        bold: Which texts are bold.
    """

    x: ArrayLike
    y: ArrayLike
    texts: Sequence[str]
    color: Color = INK
    size: float = 8.0
    align: str = "center"
    bold: Sequence[bool] = ()


Labeled = Points | Line | Segments | Band | Boxes | Steps | Rule | Span
"""Marks that a legend can explain."""
Mark = Labeled | Image | Words


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes with its marks.

    Attributes:
        marks: Marks from the lowest to the uppermost.
        title: Title.
        note: Sentence or numbers below the title.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        x_limits: Limits of the horizontal axis; None for those of the marks.
        y_limits: Limits of the vertical axis; None for those of the marks.
        x_log: Whether the horizontal axis is logarithmic.
        y_log: Whether the vertical axis is logarithmic.
        x_ticks: Text by place of the ticks, empty for no ticks; None for automatic ones.
        y_ticks: The same for the vertical axis.
        equal: Whether both axes have the same scale.
        axes: Whether axes are drawn at all.
    """

    marks: Sequence[Mark]
    title: str = ""
    note: str = ""
    x: str = ""
    y: str = ""
    x_limits: Limits | None = None
    y_limits: Limits | None = None
    x_log: bool = False
    y_log: bool = False
    x_ticks: Mapping[float, str] | None = None
    y_ticks: Mapping[float, str] | None = None
    equal: bool = False
    axes: bool = True


@dataclass(frozen=True, eq=False)
class Scale:
    """A color scale: colors from the lowest to the highest value, with their meaning.

    Attributes:
        low: Lowest value, as text.
        high: Highest value, as text.
        colors: sRGB colors ``[n, 3]`` from 0 to 1.
        label: Meaning of the colors.
    """

    low: str
    high: str
    colors: np.ndarray
    label: str


@dataclass(frozen=True, eq=False)
class Figure:
    """Panels in rows, with the words that they share.

    Attributes:
        title: Title.
        subtitle: Facts about the data, and how to read the figure.
        panels: Panels row by row; None leaves a place empty.
        columns: Number of panels in a row.
        size: Width and height of a panel in inches.
        sentence: Verdict or explanation below the subtitle.
        heights: Heights of the rows in inches, if they differ.
        shared: Whether the panels of a column share their horizontal axis, and those of a row
            their vertical axis, so that only the outer ones need numbers and labels.
        scale: Color scale of all panels; None if colors are explained by words.
        key: Further entries of the legend, which no panel draws.
    """

    title: str
    subtitle: str
    panels: Sequence[Panel | None]
    columns: int = 1
    size: tuple[float, float] = (3.2, 2.4)
    sentence: str = ""
    heights: Sequence[float] = ()
    shared: bool = False
    scale: Scale | None = None
    key: Sequence[Labeled] = ()

    @property
    def legend(self) -> list[Labeled]:
        """Marks with a label, one for each label, in their order."""
        panels = [panel for panel in self.panels if panel is not None]
        marks = [mark for panel in panels for mark in panel.marks]
        found: dict[str, Labeled] = {}
        for mark in (*self.key, *marks):
            if isinstance(mark, Labeled) and mark.label:
                found.setdefault(mark.label, mark)
        return list(found.values())

    @property
    def rows(self) -> int:
        """Number of rows of panels."""
        return -(-len(self.panels) // self.columns)


# Share of a cloud's points that may lie outside the limits of an axis, so that strays do not shrink
# the rest. A cube needs more room than a square to contain the same points.
STRAYS = {2: 5e-4, 3: 4e-3}


def common_box(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """Return the limits ``[d, 2]`` of a square or cube around several clouds ``[..., d]``.

    Stray points may lie outside.
    """
    share = STRAYS[clouds[0].shape[-1]] / 2
    ends = [np.quantile(cloud, [share, 1 - share], axis=-2) for cloud in clouds]
    low, high = np.concatenate([end.reshape(2, -1, end.shape[-1]) for end in ends], axis=1)
    low, high = low.min(axis=0), high.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9) * 1.08
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a mask ``[...]`` of the points ``[..., d]`` within limits ``[d, 2]``."""
    return np.asarray(((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=-1))


def subscript(number: int) -> str:
    """Format a number as a subscript."""
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def page_positions(points: np.ndarray) -> np.ndarray:
    """Project points ``[..., 2 or 3]`` onto the page ``[..., 2]``, in the units of the points."""
    if points.shape[-1] == 2:
        return points
    return points @ _directions()[:2].T


def _directions() -> np.ndarray:
    """Return the directions ``[3, 3]`` to the right, upward, and to the viewer of the page."""
    elevation, azimuth = np.deg2rad([ELEVATION, AZIMUTH])
    right = [-np.sin(azimuth), np.cos(azimuth), 0.0]
    level = -np.sin(elevation)
    up = [level * np.cos(azimuth), level * np.sin(azimuth), np.cos(elevation)]
    return np.array([right, up, np.cross(right, up)])


def cloud(
    points: np.ndarray, color: Color, box: np.ndarray, size: float = 2.0, alpha: float = 0.85
) -> Points:
    """Return the marks of points in the plane or in space.

    Points in space are projected onto the page, the nearest last; distant points are paler, and
    points outside the box are left out.

    Args:
        points: Points ``[N, 2 or 3]``.
        color: Color of all points, or one for each.
        box: Limits ``[2 or 3, 2]``.
        size: Diameter in points.
        alpha: Opacity.
    """
    if points.shape[-1] == 2:
        return Points(points[:, 0], points[:, 1], color, size=size, alpha=alpha)
    there = np.flatnonzero(inside(points, box))
    depth = points[there] @ _directions()[2]
    order = there[np.argsort(depth, kind="stable")]
    if not isinstance(color, str) and len(there):
        share = (np.sort(depth) - depth.min()) / max(float(np.ptp(depth)), 1e-12)
        color = 1 - (1 - color[order]) * (0.45 + 0.55 * share)[:, None]
    x, y = page_positions(points[order]).T
    return Points(x, y, color, size=size, alpha=alpha)


def cloud_panel(
    marks: Sequence[Mark],
    box: np.ndarray,
    names: Sequence[str] = (),
    title: str = "",
    note: str = "",
) -> Panel:
    """Return a panel of equal scales for marks in the plane or in space.

    Args:
        marks: Marks, projected onto the page if the box is a cube.
        box: Limits ``[2 or 3, 2]``.
        names: Names of the axes; without names the axes have no numbers.
        title: Title of the panel.
        note: Note below the title.
    """
    if len(box) == 3:
        seen = page_positions(np.array(list(product(*box))))
        off = 0.13 * float(np.ptp(box[0]))
        low, high = seen.min(axis=0) - 1.1 * off, seen.max(axis=0) + np.array([2, 0.3]) * off
        half = float((high - low).max()) / 2
        marks = [*_cube(box, names, off), *marks]
        box = np.stack([(high + low) / 2 - half, (high + low) / 2 + half], axis=1)
        ticks: Mapping[float, str] | None = None
        axes, x, y = False, "", ""
    else:
        ticks, axes = None if names else {}, True
        x, y = names or ("", "")
    (left, right), (bottom, top) = box.tolist()
    return Panel(
        marks,
        title,
        note,
        x,
        y,
        (left, right),
        (bottom, top),
        x_ticks=ticks,
        y_ticks=ticks,
        equal=True,
        axes=axes,
    )


def _cube(box: np.ndarray, names: Sequence[str], off: float) -> list[Mark]:
    """Return the edges of a cube, and the names and numbers of its axes at a distance ``off``."""
    corners = np.array(list(product(*box)))
    pairs = [(a, b) for a in range(8) for b in range(a) if (corners[a] != corners[b]).sum() == 1]
    start, end = page_positions(corners)[np.array(pairs)].swapaxes(0, 1)
    cube = Segments(start[:, 0], end[:, 0], start[:, 1], end[:, 1], FAINT, width=0.8)
    if not names:
        return [cube]
    (left, right), (front, back), (floor, roof) = box
    middle = box.mean(axis=1)
    sides = [[middle[0], front, floor], [right, middle[1], floor], [right, back, middle[2]]]
    named = page_positions(np.array(sides)) + off * np.array([[0, -1], [0.8, -0.8], [1.2, 0]])
    ends = [[left, front, floor], [right, front, floor], [right, back, roof]]
    at = page_positions(np.array(ends)) + off * np.array([[0, -0.5], [0, -0.5], [0.9, 0]])
    numbers = [f"{value:.2g}".replace("-", "−") for value in (left, right, roof)]
    return [
        cube,
        Words(named[:, 0], named[:, 1], names, MUTED, 9.5),
        Words(at[:, 0], at[:, 1], numbers, MUTED, 7.0),
    ]


def histogram(
    values: np.ndarray,
    edges: np.ndarray,
    color: Color,
    label: str = "",
    *,
    top: float = 1.0,
    height: float = 0.1,
    **style: Any,
) -> Mark:
    """Return a histogram of values, or their points if there are fewer than ``FEW``.

    Args:
        values: Values ``[n]``.
        edges: Edges of the bins.
        color: Color.
        label: Text of the legend.
        top: Count of values that has height 1.
        height: Height of the points.
        **style: Opacity, width and filling of the histogram.
    """
    if len(values) < FEW:
        return Points(values, np.full(len(values), height), color, label, size=5, alpha=0.7)
    return Steps(edges, np.histogram(values, edges)[0] / top, color, label, **style)
