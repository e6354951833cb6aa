"""The look that all pictures share: colors, words, type, headlines, panels, legends, pages."""

import textwrap
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

INK = "#22262e"  # titles and labels
MUTED = "#6b7280"  # secondary text
FAINT = "#d5d9e0"  # axes, grids
BLUE = "#3f5fd0"
ORANGE = "#e8862e"
DIVERGING = ("#1c2766", BLUE, "#f4f5f8", ORANGE, "#7f3606")  # from -1 over 0 to 1

# The plane's colors from left to right, as hues in degrees, at its bottom and at its top; and the
# lightness of bottom and top. All can be seen on white.
BOTTOM_HUES = (272.0, 385.0)
TOP_HUES = (240.0, 430.0)
LIGHTNESS = (0.46, 0.79)
CHROMA = 0.17

_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def colors_of_places(places: np.ndarray, width: float) -> np.ndarray:
    """A color, sRGB in 0..1 ``[N, 3]``, for each place of the plane ``[N, 2]``, so that neighbors
    look alike. At a width from the origin colors have nearly reached their ends."""
    across, up = (0.5 + 0.5 * np.tanh(places / width)).T
    left, right = (b + (t - b) * up for b, t in zip(BOTTOM_HUES, TOP_HUES, strict=True))
    hue = np.deg2rad(left + (right - left) * across)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * up
    return _to_srgb(lightness, hue)


def sequential_colors(count: int) -> np.ndarray:
    """So many colors from dark blue over magenta to light orange, sRGB in 0..1 ``[count, 3]``."""
    share = np.linspace(0, 1, count)
    hue = BOTTOM_HUES[0] + (TOP_HUES[1] - BOTTOM_HUES[0]) * share
    return _to_srgb(LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * share, np.deg2rad(hue))


def _to_srgb(lightness: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Colors of full chroma, or of as much as sRGB has at that lightness and hue."""
    chromas = np.linspace(0, CHROMA, 24)[:, None]
    lab = np.stack(
        np.broadcast_arrays(lightness, chromas * np.cos(hue), chromas * np.sin(hue)), axis=-1
    )
    linear = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    inside = ((linear >= 0) & (linear <= 1)).all(axis=-1)
    best = np.where(inside, np.arange(len(chromas))[:, None], 0).max(axis=0)
    linear = np.clip(linear[best, np.arange(len(hue))], 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def joined(*words: str, by: str = " · ") -> str:
    """Words in one line, without those that are empty."""
    return by.join(word for word in words if word)


def brief(value: float) -> str:
    """A number that is not negative with two digits, or all of those before its point.

    Example:
        >>> brief(123.4), brief(0.00012), brief(float("nan"))
        ('123', '1.2·10⁻⁴', '–')
    """
    if value != value:
        return "–"
    if value == 0 or value >= 1e-3:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    first, power = f"{value:.1e}".split("e")
    return f"{first.removesuffix('.0')}·{power_of_ten(int(power))}"


def power_of_ten(power: int) -> str:
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def words_for(value: Any, words: dict[str, str]) -> str:
    """The words for a value; none for what there are no words for."""
    return words.get(value, "") if isinstance(value, str) else ""


@dataclass(frozen=True)
class Picture:
    """A picture that can be made: ``write`` draws it into the file that it will be. The note is
    what the user should know about it; it may be empty."""

    path: Path
    write: Callable[[Path], None]
    note: str = ""


def figures(stem: Path, draw: Mapping[str, Callable[[], Figure]]) -> list[Picture]:
    """PNGs of figures that are drawn when they are written, by the last part of their names."""

    def picture(name: str, make: Callable[[], Figure]) -> Picture:
        path = stem.with_name(f"{stem.name}_{name}.png")
        return Picture(path, lambda destination: make().savefig(destination, format="png"))

    return [picture(name, make) for name, make in draw.items()]


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
    """A bold title and a muted line under it, either of which may be empty, at distances from the
    left and of their top from the bottom edge."""
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

    def is_wide(count: int) -> bool:
        short = text if count == len(text) else f"{text[:count].rstrip()}…"
        return text_to_path.get_text_width_height_descent(short, font, ismath=False)[0] > 72 * room

    if not is_wide(len(text)):
        return text
    kept = bisect_left(range(1, len(text)), True, key=is_wide)
    return f"{text[:kept].rstrip()}…"


def axes_at(figure: Figure, place: ArrayLike, **options: Any) -> Any:
    """Quiet axes at ``(left, bottom, width, height)``. Any, since 3-D ones have other methods."""
    width, height = figure.get_size_inches()
    box = np.asarray(place) / (width, height, width, height)
    axes = figure.add_axes(tuple(box), **options)
    if "projection" not in options:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(length=2.5, width=0.8, color=FAINT, labelcolor=MUTED, labelsize=SMALL_SIZE)
        axes.set_axisbelow(True)
    return axes


def stacked(
    title: str, subtitle: str, heights: Sequence[float], xlabel: str, legend_lines: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of panels under one another, of heights from the top down, over one horizontal axis.
    ``legend`` will have so many lines above them."""
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


def panels(
    count: int,
    across: int,
    size: tuple[float, float],
    title: str = "",
    subtitle: str = "",
    **room: float,
) -> tuple[Figure, Iterator[Any]]:
    """A figure, and axes for so many panels, made as they are wanted, row by row, of which some are
    side by side; else as ``panel_page``."""
    figure, places = panel_page(-(-count // across), across, size, title, subtitle, **room)
    return figure, (axes_at(figure, place) for place in places.reshape(-1, 4)[:count])


def quiet_3d(axes: Any, names: Sequence[str]) -> None:
    """Takes out of three-dimensional axes what draws the eye from the data: a faint box is left,
    with names and numbers if there are any."""
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


INDENT = 0.05  # inches that legends put before their first mark
LINE_LETTERS = 150
"""Of a line of a verdict."""


def fitting(name: str, room: float) -> str:
    """A column's name, or as much of it as fits into so many inches, and none of it mathematics."""
    short = shortened(name, room, FontProperties(size=TEXT_SIZE))
    return short.replace("$", r"\$")


def above_panels(verdict: str) -> float:
    """Inches that a headline, a verdict on a check, and a legend take."""
    return TOP + LINE_HEIGHT * (len(textwrap.wrap(verdict, LINE_LETTERS)) + 1.3)


def write_verdict(
    figure: Figure, left: float, verdict: str, handles: Sequence[Any], note: str, right: float
) -> None:
    """Writes a verdict below the headline, and below it what ``legend_line`` does."""
    width, height = figure.get_size_inches()
    style: dict[str, Any] = {"size": SMALL_SIZE, "color": INK, "parse_math": False}
    lines = textwrap.wrap(verdict, LINE_LETTERS)
    for number, each in enumerate(lines):
        top = 1 - (TOP + LINE_HEIGHT * (number - 0.3)) / height
        figure.text(left / width, top, each, va="top", **style)
    legend_line(figure, left, handles, note, right, LINE_HEIGHT * len(lines))


def legend_line(
    figure: Figure,
    left: float,
    handles: Sequence[Any],
    note: str = "",
    right: float | None = None,
    below: float = 0.0,
) -> None:
    """A legend below the headline, and a note at the other end of the line. Distances are in
    inches: from the left edge, from the right one, by default as much, and between the headline and
    the legend."""
    width, height = figure.get_size_inches()
    bottom, room = height - TOP - LINE_HEIGHT - below, width - left - (right or left)
    axes = axes_at(figure, (left, bottom, room, 0.01))
    axes.set_axis_off()
    write(axes, note, (1, 1), (0, 6), ha="right")
    anchor = (-INDENT / room, 1.0)
    legend(axes, len(handles), handles=handles, bbox_to_anchor=anchor)


def label_outer(axes: Sequence[Axes], across: int, x: str, y: str) -> None:
    """Names and numbers of ``panels`` at the left, and below what has no panel under it."""
    for number, panel in enumerate(axes):
        first, last = number % across == 0, number + across >= len(axes)
        panel.tick_params(labelleft=first, labelbottom=last)
        label(panel, x=x * last, y=y * first)


def color_bar(figure: Figure, colored: Any, place: ArrayLike, **options: Any) -> Any:
    """Axes at a place that say what colors mean."""
    bar = figure.colorbar(colored, cax=axes_at(figure, place), **options)
    bar.outline.set_visible(False)
    return bar.ax


def dots(label: str, color: Any = MUTED, alpha: float = 1.0) -> Line2D:
    """A mark of points in a legend."""
    return Line2D([], [], ls="none", marker="o", ms=4, mew=0, color=color, alpha=alpha, label=label)


def line(label: str, color: Any = INK, **style: Any) -> Line2D:
    """A mark of a line in a legend."""
    return Line2D([], [], color=color, label=label, **{"lw": 1.4, **style})


class Page:
    """An empty page, of a width and height in pixels."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.figure: Figure = new_figure(width / DPI, height / DPI)

    def headline(self, title: str, subtitle: str, left: int, top: int) -> None:
        headline(self.figure, title, subtitle, left / DPI, (self.height - top) / DPI)

    def image(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Lays an image ``[h, w, 3]`` of 8 bits on the page, pixel by pixel."""
        self.figure.figimage(pixels, left, self.height - top - pixels.shape[0], origin="upper")

    def text(self, text: str, x: float, y: float, **style: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)
