"""Style that all pictures share: colors, wording, fonts, headlines, panels, legends, pages."""

import textwrap
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
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

# Hues in degrees at the left and right ends of the plane, at its bottom and at its top, and the
# lightness of bottom and top. All colors are visible on white.
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
    """Return a color ``[N, 3]``, sRGB from 0 to 1, for each point of the plane ``[N, 2]``.

    Neighboring points have similar colors. At distance ``width`` from the origin, colors have
    nearly reached their extremes.
    """
    across, up = (0.5 + 0.5 * np.tanh(places / width)).T
    left, right = (b + (t - b) * up for b, t in zip(BOTTOM_HUES, TOP_HUES, strict=True))
    hue = np.deg2rad(left + (right - left) * across)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * up
    return _to_srgb(lightness, hue)


def srgb(color: str) -> np.ndarray:
    """Return a CSS color as sRGB ``[3]`` from 0 to 1."""
    return np.array(to_rgb(color))


def diverging_colors(values: np.ndarray) -> np.ndarray:
    """Return an sRGB color ``[..., 3]`` for each value ``[...]`` from -1 over 0 to 1."""
    stops = np.stack([srgb(color) for color in DIVERGING])
    places = np.linspace(-1, 1, len(stops))
    return np.stack([np.interp(values, places, channel) for channel in stops.T], axis=-1)


def sequential_colors(count: int) -> np.ndarray:
    """Return ``count`` sRGB colors from dark blue via magenta to light orange, from 0 to 1."""
    share = np.linspace(0, 1, count)
    hue = BOTTOM_HUES[0] + (TOP_HUES[1] - BOTTOM_HUES[0]) * share
    return _to_srgb(LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * share, np.deg2rad(hue))


def colored(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values ``[N]`` between ``low`` and ``high`` to sequential colors ``[N, 3]``."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return sequential_colors(256)[np.rint(255 * share).astype(int)]


def _to_srgb(lightness: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Return colors with full chroma, or the most that sRGB allows at that lightness and hue."""
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
    """Join words into one line, leaving out empty ones."""
    return by.join(word for word in words if word)


def brief(value: float) -> str:
    """Format a nonnegative number with two digits, or with all digits before the decimal point.

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
    """Format a power of ten with a superscript exponent."""
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def words_for(value: Any, words: dict[str, str]) -> str:
    """Return the text that ``words`` has for a value, or an empty text if there is none."""
    return words.get(value, "") if isinstance(value, str) else ""


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn.

    Attributes:
        path: File of the picture.
        write: Function that draws the picture into a file.
        note: Advice for the user about the picture; may be empty.
    """

    path: Path
    write: Callable[[Path], None]
    note: str = ""


def figures(stem: Path, draw: Mapping[str, Callable[[], Figure]]) -> list[Picture]:
    """Return PNG pictures that are drawn when they are written.

    Args:
        stem: Folder and first part of the file names.
        draw: Functions that draw the figures, by last part of the file name.
    """

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
LABELS = 0.5  # distance of the labels' right edge from the axes of stacked panels
PANE = "#f7f8fb"
NAME_3D = 0.3  # approximate distance of the names of 3-D axes from the box
ELEVATION, AZIMUTH = 14, -72  # degrees: show the folded side of the toys' sheets
DASHED = (0, (5, 4))


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def headline(figure: Figure, title: str, subtitle: str, left: float, top: float) -> None:
    """Write a bold title and a muted subtitle, either of which may be empty.

    Args:
        figure: Figure to write on.
        title: Title.
        subtitle: Line below the title.
        left: Distance from the left edge, inches.
        top: Distance of the title's top from the bottom edge, inches.
    """
    width, height = figure.get_size_inches()
    # Titles contain file names, which may contain dollar signs.
    place: dict[str, Any] = {"x": left / width, "ha": "left", "va": "top", "parse_math": False}
    for text, down, color, font in (
        (title, 0, INK, FontProperties(size=TITLE_SIZE, weight="bold")),
        (subtitle, 0.27, MUTED, FontProperties(size=TEXT_SIZE)),
    ):
        fitting = shortened(text, width - left - MARGIN, font)
        figure.text(y=(top - down) / height, s=fitting, color=color, font=font, **place)


def shortened(text: str, room: float, font: FontProperties) -> str:
    """Return a text, cut off with an ellipsis if it is wider than ``room`` inches."""

    def is_wide(count: int) -> bool:
        short = text if count == len(text) else f"{text[:count].rstrip()}…"
        return text_to_path.get_text_width_height_descent(short, font, ismath=False)[0] > 72 * room

    if not is_wide(len(text)):
        return text
    kept = bisect_left(range(1, len(text)), True, key=is_wide)
    return f"{text[:kept].rstrip()}…"


def axes_at(figure: Figure, place: ArrayLike, **options: Any) -> Any:
    """Return plain axes at ``(left, bottom, width, height)`` in inches.

    The return type is Any because 3-D axes have other methods.
    """
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
    """Return a figure of stacked panels that share one horizontal axis.

    Args:
        title: Title of the figure.
        subtitle: Line below the title.
        heights: Heights of the panels from top to bottom, inches.
        xlabel: Label of the horizontal axis.
        legend_lines: Number of lines reserved for ``legend`` above the panels.
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
    """Return a figure with room for panels of equal size in rows and columns.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        size: Width and height of a panel.
        title: Title of the figure.
        subtitle: How to read the figure.
        left: Room left of all panels.
        right: Room right of all panels.
        gap: Room between columns.
        top: Room above all rows.
        above: Room above each row, for titles.
        below: Room below each row, for ticks and labels.
        least_width: Least width of the figure.

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
    """Return a figure and an iterator that creates the axes of its panels, row by row.

    Args:
        count: Number of panels.
        across: Number of panels per row.
        size: Width and height of a panel, inches.
        title: Title of the figure.
        subtitle: Line below the title.
        **room: Room around the panels; see ``panel_page``.
    """
    figure, places = panel_page(-(-count // across), across, size, title, subtitle, **room)
    return figure, (axes_at(figure, place) for place in places.reshape(-1, 4)[:count])


def quiet_3d(axes: Any, names: Sequence[str]) -> None:
    """Reduce the decoration of 3-D axes to a faint box.

    Args:
        axes: Three-dimensional axes.
        names: Names of the axes. Without names, the axes have no numbers.
    """
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
    # Matplotlib places its own labels too far away for small panels.
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
    """Label the axes of a panel; a label of two lines has a smaller font."""
    for text, write, pad in ((x, axes.set_xlabel, 2), (y, axes.set_ylabel, 1)):
        if text:
            fitting = SMALL_SIZE if "\n" in text else size
            write(text, size=fitting, color=MUTED, labelpad=pad)


def name_panel(axes: Axes, title: str, note: str = "") -> None:
    """Write a title above the left corner of a panel, and a muted line below it."""
    axes.set_title(title, loc="left", size=TEXT_SIZE, color=INK, pad=20 if note else 7)
    write(axes, note, (0, 1), (0, 7))


def note_above(axes: Axes, *notes: str) -> None:
    """Write a muted line above the right corner of a panel."""
    write(axes, " · ".join(notes), (1, 1), (0, 3), ha="right")


def note_inside(axes: Axes, text: str, side: str = "right") -> None:
    """Write muted lines in an upper corner of a panel."""
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
    """Write a muted text, unless it is empty, at an offset in points from a place in the axes."""
    if not text:
        return
    style = {"size": SMALL_SIZE, "color": MUTED, **style}
    axes.annotate(text, place, shift, xycoords=coords, textcoords="offset points", **style)


def legend(axes: Axes, columns: int = 1, **options: Any) -> None:
    """Draw a legend above the left corner of a panel."""
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


INDENT = 0.05  # inches that legends leave before their first mark
LINE_LETTERS = 150
"""Number of letters per line of a verdict."""


def fitting(name: str, room: float) -> str:
    """Return a column's name, cut off at ``room`` inches, with dollar signs escaped."""
    short = shortened(name, room, FontProperties(size=TEXT_SIZE))
    return short.replace("$", r"\$")


def above_panels(verdict: str) -> float:
    """Return the total height in inches of a headline, the verdict of a check, and a legend."""
    return TOP + LINE_HEIGHT * (len(textwrap.wrap(verdict, LINE_LETTERS)) + 1.3)


def write_verdict(
    figure: Figure, left: float, verdict: str, handles: Sequence[Any], note: str, right: float
) -> None:
    """Write a verdict below the headline, and a ``legend_line`` below the verdict."""
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
    """Draw a legend below the headline, and a note at the other end of the line.

    Args:
        figure: Figure to draw on.
        left: Distance of the legend from the left edge, inches.
        handles: Marks of the legend.
        note: Note; may be empty.
        right: Distance of the note from the right edge, inches; None for the same as ``left``.
        below: Distance between the headline and the legend, inches.
    """
    width, height = figure.get_size_inches()
    bottom, room = height - TOP - LINE_HEIGHT - below, width - left - (right or left)
    axes = axes_at(figure, (left, bottom, room, 0.01))
    axes.set_axis_off()
    write(axes, note, (1, 1), (0, 6), ha="right")
    anchor = (-INDENT / room, 1.0)
    legend(axes, len(handles), handles=handles, bbox_to_anchor=anchor)


def label_outer(axes: Sequence[Axes], across: int, x: str, y: str) -> None:
    """Label panels: the first of each row at the left, the last of each column at the bottom."""
    for number, panel in enumerate(axes):
        first, last = number % across == 0, number + across >= len(axes)
        panel.tick_params(labelleft=first, labelbottom=last)
        label(panel, x=x * last, y=y * first)


def color_bar(figure: Figure, colored: Any, place: ArrayLike, **options: Any) -> Any:
    """Draw a color bar at a place and return its axes."""
    bar = figure.colorbar(colored, cax=axes_at(figure, place), **options)
    bar.outline.set_visible(False)
    return bar.ax


def dots(label: str, color: Any = MUTED, alpha: float = 1.0) -> Line2D:
    """Return a legend mark for points."""
    return Line2D([], [], ls="none", marker="o", ms=4, mew=0, color=color, alpha=alpha, label=label)


def line(label: str, color: Any = INK, **style: Any) -> Line2D:
    """Return a legend mark for a line."""
    return Line2D([], [], color=color, label=label, **{"lw": 1.4, **style})


class Page:
    """An empty page with a width and height in pixels."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.figure: Figure = new_figure(width / DPI, height / DPI)

    def headline(self, title: str, subtitle: str, left: int, top: int) -> None:
        """Write a title and a subtitle, at a place in pixels from the upper left corner."""
        headline(self.figure, title, subtitle, left / DPI, (self.height - top) / DPI)

    def image(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Draw an 8-bit image ``[h, w, 3]`` on the page, pixel by pixel."""
        self.figure.figimage(pixels, left, self.height - top - pixels.shape[0], origin="upper")

    def text(self, text: str, x: float, y: float, **style: Any) -> None:
        """Write a text at a place in pixels from the upper left corner."""
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)
