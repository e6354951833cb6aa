"""The look that all pictures share: type, figures, headlines, unobtrusive axes."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.pictures.style.colors import FAINT, INK, MUTED

DPI = 150
TITLE_SIZE, TEXT_SIZE, SMALL_SIZE = 13.0, 9.5, 8.0
HEADLINE_HEIGHT = 0.62  # inches, with its subtitle
WIDE = 11.0  # inches: a picture across a page
PANE = "#f7f8fb"
ELEVATION, AZIMUTH = 14, -72  # degrees: the toys' sheets are seen on their folded side


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure, size in inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def headline(figure: Figure, title: str, subtitle: str, left: float, top: float) -> None:
    """A bold title and a muted line under it.

    Args:
        figure: Where to write.
        title: What is seen.
        subtitle: How to read it; may be empty.
        left: Inches from the left edge.
        top: Inches of the headline's top from the bottom edge.
    """
    width, height = figure.get_size_inches()
    # Names of files are in it, which may have dollar signs.
    place: dict[str, Any] = {"x": left / width, "ha": "left", "va": "top", "parse_math": False}
    room = width - left - 0.1
    text = shortened(title, room, TITLE_SIZE)
    figure.text(y=top / height, s=text, size=TITLE_SIZE, weight="bold", color=INK, **place)
    text = shortened(subtitle, room, TEXT_SIZE)
    figure.text(y=(top - 0.27) / height, s=text, size=TEXT_SIZE, color=MUTED, **place)


def shortened(text: str, room: float, size: float) -> str:
    """A text that fits into so many inches at that size in points, judged by its usual width."""
    most = int(room * 72 / (0.6 * size))
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def joined(*words: str) -> str:
    """Words of a subtitle in one line, without those that are empty."""
    return " · ".join(word for word in words if word)


def brief(value: float) -> str:
    """A number that is not negative with two digits, or all of those before its point."""
    if value == 0 or value >= 1e-3:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    first, power = f"{value:.1e}".split("e")
    return f"{first.removesuffix('.0')}·{power_of_ten(int(power))}"


def power_of_ten(power: int) -> str:
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def axes_at(
    figure: Figure, left: float, bottom: float, width: float, height: float, **options: Any
) -> Any:
    """Axes at a place of the figure in inches. Any, since 3-D axes have methods of their own."""
    total_width, total_height = figure.get_size_inches()
    box = (left / total_width, bottom / total_height, width / total_width, height / total_height)
    return figure.add_axes(box, **options)


def quiet(axes: Axes) -> None:
    """Takes out of two-dimensional axes what draws the eye from the data."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(length=2.5, width=0.8, color=FAINT, labelcolor=MUTED, labelsize=SMALL_SIZE)
    axes.set_axisbelow(True)


def quiet_3d(axes: Any, names: Sequence[str]) -> None:
    """The same for three-dimensional axes: a faint box, with the names, if any, on its edges."""
    axes.set_facecolor("none")
    axes.set_proj_type("ortho")
    axes.view_init(ELEVATION, AZIMUTH)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(PANE)
        axis.line.set_color(FAINT)
        axis.set_ticks([])
    # Matplotlib's own labels keep a distance that small panels have no room for.
    (left, right), (front, back), (floor, roof) = axes.get_xlim(), axes.get_ylim(), axes.get_zlim()
    off = 0.09 * (right - left)
    places = [
        ((left + right) / 2, front - off, floor - off),
        (right + off, (front + back) / 2, floor - off),
        (right + 1.2 * off, back, (floor + roof) / 2),
    ]
    for place, name in zip(places, names, strict=False):
        axes.text(*place, name, size=TEXT_SIZE, color=MUTED, ha="center", va="center")
