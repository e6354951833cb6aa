"""The look that all pictures share: type, headlines, panels, legends, unobtrusive axes.

Sizes are in inches, those of type in points.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from training.pictures.style.colors import FAINT, INK, MUTED

DPI = 150
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 13.0, 9.5, 8.0
MARGIN, HEADLINE_HEIGHT, LINE_HEIGHT = 0.1, 0.62, 0.2  # the headline with its subtitle
TOP = MARGIN + HEADLINE_HEIGHT
WIDE = 11.0  # a picture across a page
STACK_WIDTH, STACK_LEFT, STACK_RIGHT, STACK_GAP, STACK_BOTTOM = 8.0, 0.85, 0.2, 0.28, 0.5
LABELS = 0.5  # of the right edge of stacked panels' labels from the axes
PANE = "#f7f8fb"
NAME_3D = 0.3  # about how far the names of 3-D axes are from the box
ELEVATION, AZIMUTH = 14, -72  # degrees: the toys' sheets are seen on their folded side
DASHED = (0, (5, 4))


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def headline(figure: Figure, title: str, subtitle: str, left: float, top: float) -> None:
    """A bold title and a muted line under it, either of which may be empty.

    Args:
        figure: Where to write.
        title: What is seen.
        subtitle: How to read it.
        left: Distance from the left edge.
        top: Distance of the headline's top from the bottom edge.
    """
    width, height = figure.get_size_inches()
    # Names of files are in it, which may have dollar signs.
    place: dict[str, Any] = {"x": left / width, "ha": "left", "va": "top", "parse_math": False}
    for text, down, color, font in (
        (title, 0, INK, FontProperties(size=TITLE_SIZE, weight="bold")),
        (subtitle, 0.27, MUTED, FontProperties(size=TEXT_SIZE)),
    ):
        fitting = shortened(text, width - left - MARGIN, font)
        figure.text(y=(top - down) / height, s=fitting, color=color, font=font, **place)


def shortened(text: str, room: float, font: FontProperties) -> str:
    """A text, or as much of it as fits into so many inches."""
    short = text
    while text_to_path.get_text_width_height_descent(short, font, ismath=False)[0] > 72 * room:
        text = text[:-1]
        short = f"{text.rstrip()}…"
    return short


def axes_at(figure: Figure, place: ArrayLike, **options: Any) -> Any:
    """Quiet axes at ``(left, bottom, width, height)``. Any, since 3-D ones have other methods."""
    width, height = figure.get_size_inches()
    box = np.asarray(place) / (width, height, width, height)
    axes = figure.add_axes(tuple(box), **options)
    if "projection" not in options:
        quiet(axes)
    return axes


def stacked(
    title: str, subtitle: str, heights: Sequence[float], xlabel: str, legend_lines: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of panels under one another, over one horizontal axis.

    Args:
        title: What is seen.
        subtitle: How to read it.
        heights: Of the panels, from the top down.
        xlabel: What their horizontal axis is.
        legend_lines: How many lines ``legend`` will have above them.
    """
    head = TOP + LINE_HEIGHT * legend_lines
    height = head + sum(heights) + STACK_GAP * (len(heights) - 1) + STACK_BOTTOM
    figure = new_figure(STACK_WIDTH, height)
    headline(figure, title, subtitle, STACK_LEFT, height - MARGIN)
    width, top = STACK_WIDTH - STACK_LEFT - STACK_RIGHT, height - head
    panels = []
    for each in heights:
        axes = axes_at(figure, (STACK_LEFT, top - each, width, each))
        axes.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
        axes.yaxis.set_label_coords(-LABELS / width, 0.5)
        axes.tick_params(labelbottom=False)
        panels.append(axes)
        top -= each + STACK_GAP
    panels[-1].tick_params(labelbottom=True)
    label(panels[-1], x=xlabel)
    return figure, panels


def panel_page(
    rows: int,
    columns: int,
    size: tuple[float, float],
    title: str = "",
    subtitle: str = "",
    *,
    left: float = 0.6,
    right: float = 0.2,
    gap: float = 0.5,
    top: float = TOP,
    above: float = 0.5,
    below: float = 0.5,
    least_width: float = 0.0,
) -> tuple[Figure, np.ndarray]:
    """A figure with room for equal panels in rows and columns.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        size: Width and height of a panel.
        title: What is seen.
        subtitle: How to read it.
        left: Room left of all panels.
        right: Room right of all panels.
        gap: Between columns.
        top: Room above all rows.
        above: Room above each row, for titles.
        below: Room below each row, for ticks and labels.
        least_width: Of the figure.

    Returns:
        The figure, and the panels' places for ``axes_at``, ``[rows, columns, 4]``.
    """
    wide, high = size
    width = max(left + columns * wide + (columns - 1) * gap + right, least_width)
    height = top + rows * (above + high + below)
    row, column = np.mgrid[:rows, :columns]
    places = [
        left + column * (wide + gap),
        height - top - (row + 1) * (above + high + below) + below,
        np.full_like(row, wide, dtype=float),
        np.full_like(row, high, dtype=float),
    ]
    figure = new_figure(width, height)
    headline(figure, title, subtitle, left, height - MARGIN)
    return figure, np.stack(places, axis=-1)


def quiet(axes: Axes) -> None:
    """Takes out of two-dimensional axes what draws the eye from the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(length=2.5, width=0.8, color=FAINT, labelcolor=MUTED, labelsize=SMALL_SIZE)
    axes.set_axisbelow(True)


def quiet_3d(axes: Any, names: Sequence[str]) -> None:
    """The same for three-dimensional axes: a faint box, with names and numbers if there are any."""
    axes.set_facecolor("none")
    axes.set_proj_type("ortho")
    axes.view_init(ELEVATION, AZIMUTH)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(PANE)
        axis.line.set_color(FAINT)
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))
    axes.grid(False)
    axes.tick_params(pad=-4, labelsize=SMALL_SIZE - 1, labelcolor=MUTED, color=FAINT)
    if not names:
        axes.tick_params(labelbottom=False, labelleft=False, labelright=False, labeltop=False)
    # Matplotlib's own labels keep a distance that small panels have no room for.
    (left, right), (front, back), (floor, roof) = axes.get_xlim(), axes.get_ylim(), axes.get_zlim()
    off = NAME_3D / axes.get_window_extent().width * axes.figure.dpi * (right - left)
    places = [
        ((left + right) / 2, front - off, floor - off),
        (right + off, (front + back) / 2, floor - off),
        (right + 1.2 * off, back, (floor + roof) / 2),
    ]
    for place, name in zip(places, names, strict=False):
        axes.text(*place, name, size=TEXT_SIZE, color=MUTED, ha="center", va="center")


def label(axes: Axes, x: str = "", y: str = "", size: float = TEXT_SIZE) -> None:
    """Names the axes; a name of two lines is smaller."""
    for text, write, pad in ((x, axes.set_xlabel, 2), (y, axes.set_ylabel, 1)):
        if text:
            fitting = SMALL_SIZE if "\n" in text else size
            write(text, size=fitting, color=MUTED, labelpad=pad)


def name_panel(axes: Axes, title: str, note: str = "") -> None:
    """A title above the left corner of a panel, and a muted line under it."""
    axes.set_title(title, loc="left", size=TEXT_SIZE, color=INK, pad=20 if note else 7)
    write(axes, note, (0, 1), (0, 7))


def note_above(axes: Axes, *notes: str) -> None:
    """A muted line above the right corner of a panel."""
    write(axes, " · ".join(notes), (1, 1), (0, 3), ha="right")


def note_inside(axes: Axes, text: str, side: str = "right") -> None:
    """Muted lines in an upper corner of a panel."""
    x, shift = (1, -3) if side == "right" else (0, 4)
    write(axes, text, (x, 1), (shift, -3), ha=side, va="top")


def write(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    shift: tuple[float, float],
    coords: Any = "axes fraction",
    **style: Any,
) -> None:
    """A muted text, if any, some points from a place in axes."""
    if not text:
        return
    style = {"size": SMALL_SIZE, "color": MUTED, **style}
    axes.annotate(text, place, shift, xycoords=coords, textcoords="offset points", **style)


def legend(axes: Axes, columns: int = 1, **options: Any) -> None:
    """A legend above the left corner of a panel."""
    style: dict[str, Any] = {
        "loc": "lower left",
        "bbox_to_anchor": (-0.01, 1.0),
        "ncols": columns,
        "frameon": False,
        "fontsize": SMALL_SIZE,
        "labelcolor": MUTED,
        "borderpad": 0,
        "handlelength": 1.4,
        "handletextpad": 0.6,
        "columnspacing": 1.6,
    }
    axes.legend(**{**style, **options})
