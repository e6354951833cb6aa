"""Figures drawn with Matplotlib, whose constrained layout makes room for all labels."""

import textwrap
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import ListedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from training.pictures import theme
from training.pictures.figure import (
    Band,
    Boxes,
    Figure,
    Image,
    Labeled,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
    Segments,
    Span,
    Steps,
    Words,
)
from training.pictures.theme import FAINT, INK, MUTED, brief

TITLE, TEXT, SMALL = 13.0, 9.5, 8.0  # sizes of fonts in points
LINE, MARGIN = 0.2, 0.12  # height of a line of text, and margin of the page, in inches
SIDE, BETWEEN, LABELS = 0.8, 0.3, 0.5  # room left of panels, between them, and below them
LEAST_WIDTH = 6.5  # of the page in inches
MOST_LINES = 5
MANY = 60  # points from which those at the edge of a panel are cut
DASHES = (0, (5, 4))


def draw(figure: Figure) -> matplotlib.figure.Figure:
    """Draw a figure: its words on top, then the legend, then the panels."""
    wide = figure.size[0] * figure.columns
    width = max(wide + _gaps(figure) + 2 * MARGIN, LEAST_WIDTH)
    room = width - 2 * MARGIN
    bold = {"size": TITLE, "weight": "bold", "color": INK}
    head = [
        (wrapped(figure.title, 0.9 * room, TITLE, 2), bold, 0.27),
        (wrapped(figure.subtitle, room, TEXT), {"size": TEXT, "color": MUTED}, LINE),
        (wrapped(figure.sentence, room, SMALL), {"size": SMALL, "color": INK}, LINE),
    ]
    top = MARGIN + sum(len(lines) * height for lines, _, height in head) + 0.05
    heights = list(figure.heights) or [figure.size[1]] * figure.rows
    keys = _lines_of_legend(figure.legend, room)
    words = [_words_height(figure, row) for row in range(figure.rows)]
    above = top + LINE * len(keys) + 0.08 * bool(keys)
    height = above + sum(heights) + sum(words) + MARGIN
    made = matplotlib.figure.Figure(
        (width, height), dpi=theme.DPI, facecolor="white", layout="constrained"
    )
    engine: Any = made.get_layout_engine()
    engine.set(rect=(0, 0, 1, 1 - above / height))
    engine.set(w_pad=0.07, h_pad=0.05, wspace=0.01, hspace=0.01)
    y = height - MARGIN
    for lines, style, each in head:
        if lines:
            place: dict[str, Any] = {"va": "top", "parse_math": False, "linespacing": 1.25, **style}
            made.text(MARGIN / width, y / height, "\n".join(lines), **place)
        y -= len(lines) * each
    grid = made.subplots(
        figure.rows,
        figure.columns,
        squeeze=False,
        gridspec_kw={"height_ratios": [h + w for h, w in zip(heights, words, strict=True)]},
    )
    places = list(grid.ravel())
    for number, axes in enumerate(places):
        panel = figure.panels[number] if number < len(figure.panels) else None
        if panel is None:
            axes.set_axis_off()
            continue
        row = figure.panels[number - number % figure.columns :][: figure.columns]
        notes = max(len(_note(each, figure.size[0])) for each in row if each is not None)
        _draw_panel(axes, panel, figure.size[0], heights[number // figure.columns], notes)
        if figure.shared and panel.axes:
            _share(axes, figure, number)
    for number, line in enumerate(keys):
        _draw_legend(made, line, (height - top - LINE * number) / height)
    if figure.scale is not None:
        _draw_scale(made, figure.scale, places)
    return made


def _draw_legend(made: matplotlib.figure.Figure, marks: Sequence[Labeled], top: float) -> None:
    """Draw a line of the legend, whose top is at a fraction of the height of the page."""
    legend = made.legend(
        handles=[_handle(mark) for mark in marks],
        loc="upper left",
        bbox_to_anchor=(0.5 * MARGIN / made.get_figwidth(), top),
        ncols=len(marks),
        frameon=False,
        fontsize=SMALL,
        labelcolor=MUTED,
        handlelength=1.4,
        handletextpad=0.6,
        columnspacing=1.6,
        borderpad=0.2,
    )
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_scale(made: matplotlib.figure.Figure, scale: Scale, places: Sequence[Axes]) -> None:
    """Draw a color bar beside all panels."""
    colored = ScalarMappable(cmap=ListedColormap(list(map(tuple, scale.colors))))
    bar = made.colorbar(colored, ax=places, ticks=[0, 1], aspect=30, fraction=0.03, pad=0.015)
    bar.ax.set_yticklabels([scale.low, scale.high])
    bar.ax.tick_params(length=0, labelcolor=MUTED, labelsize=SMALL)
    bar.outline.set_visible(False)
    bar.set_label(scale.label, size=SMALL, color=MUTED)
    made.draw_without_rendering()  # beside panels of equal scales the layout needs two passes


def wrapped(text: str, width: float, size: float, most: int = MOST_LINES) -> list[str]:
    """Wrap a text into at most ``most`` lines of ``width`` inches; a longer text is cut off."""
    if not text:
        return []
    letters = max(int(0.93 * len(text) * width / max(_inches(text, size), 1e-9)), 4)
    lines = textwrap.wrap(text, letters)
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], lines[most - 1][: letters - 1].rstrip() + "…"]


def _inches(text: str, size: float) -> float:
    """Return the width of a line of text in inches."""
    font = FontProperties(size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) / 72


def _gaps(figure: Figure) -> float:
    """Return the total width in inches of the labels left of panels, and of the color bar."""
    bar = 0.8 if figure.scale is not None else 0.0
    if not any(panel is not None and panel.axes for panel in figure.panels):
        return 0.12 * figure.columns + bar
    left = any(panel is not None and (panel.y or panel.y_ticks != {}) for panel in figure.panels)
    inner = BETWEEN if figure.shared or not left else SIDE
    named = [
        len(text)
        for panel in figure.panels
        for text in ((panel.y_ticks or {}).values() if panel is not None else ())
    ]
    names = min(0.075 * max(named, default=0), 1.8)
    return (SIDE if left else BETWEEN) + names + (figure.columns - 1) * inner + bar


def _words_height(figure: Figure, row: int) -> float:
    """Return the height in inches of titles above, and labels below, the panels of a row."""
    panels = figure.panels[row * figure.columns : (row + 1) * figure.columns]
    above, below = 0.0, 0.0
    for panel in panels:
        if panel is not None:
            lines = len(_title(panel, figure.size[0])) + len(_note(panel, figure.size[0]))
            above = max(above, LINE * lines)
            if panel.axes and (not figure.shared or row == figure.rows - 1):
                numbers = 0.3 if panel.x_ticks != {} else 0.0
                below = max(below, numbers + LINE * bool(panel.x))
    return above + below + 0.12


def _title(panel: Panel, width: float) -> list[str]:
    return wrapped(panel.title, width + BETWEEN, TEXT, 2)


def _note(panel: Panel, width: float) -> list[str]:
    return [
        line for part in panel.note.split("\n") for line in wrapped(part, width + BETWEEN, SMALL, 3)
    ]


def _lines_of_legend(marks: Sequence[Labeled], room: float) -> list[list[Labeled]]:
    """Return the entries of a legend in lines of ``room`` inches."""
    lines, used = list[list[Labeled]](), room
    for mark in marks:
        wide = _inches(mark.label, SMALL) + 0.48
        used += wide
        if used > room:
            lines.append([])
            used = wide
        lines[-1].append(mark)
    return lines


def _share(axes: Axes, figure: Figure, number: int) -> None:
    """Remove the numbers and labels that an outer panel shows."""
    last = number + figure.columns >= len(figure.panels)
    if not last and figure.panels[number + figure.columns] is not None:
        axes.tick_params(labelbottom=False)
        axes.set_xlabel("")
    if number % figure.columns and figure.panels[number - 1] is not None:
        axes.tick_params(labelleft=False)
        axes.set_ylabel("")


def _draw_panel(axes: Axes, panel: Panel, width: float, height: float, notes: int) -> None:
    """Draw a panel, with room for as many lines of notes as others of its row have."""
    axes.set_axisbelow(True)
    if panel.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(length=2.5, width=0.8, color=FAINT, labelcolor=MUTED, labelsize=SMALL)
        if not panel.equal and panel.y_ticks != {}:
            axes.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    else:
        axes.set_axis_off()
        axes.set_anchor("NW")
    for log, scale, axis in (
        (panel.x_log, axes.set_xscale, axes.xaxis),
        (panel.y_log, axes.set_yscale, axes.yaxis),
    ):
        if log:
            scale("log")
            axis.set_minor_locator(NullLocator())
        axis.get_offset_text().set(size=SMALL - 1, color=MUTED)
    if panel.equal:
        axes.set_aspect("equal")
    axes.set(
        **{"xlim": panel.x_limits} if panel.x_limits is not None else {},
        **{"ylim": panel.y_limits} if panel.y_limits is not None else {},
    )
    for mark in panel.marks:
        _draw(mark, axes)
    for ticks, axis, log, spine, inches, side in (
        (panel.x_ticks, axes.xaxis, panel.x_log, "bottom", width / 3, width / 1.4),
        (panel.y_ticks, axes.yaxis, panel.y_log, "left", 1.8, height),
    ):
        if ticks is not None:
            names = ["".join(wrapped(name, inches, SMALL, 1)) for name in ticks.values()]
            axis.set_ticks(list(ticks), names, parse_math=False)
            axes.spines[spine].set_visible(bool(ticks) or spine == "bottom")
        elif log:
            _ticks_of_logarithm(axis)
        else:
            axis.set_major_locator(MaxNLocator(int(np.clip(2.4 * side, 3, 8)), steps=[1, 2, 5, 10]))
    name, note = _title(panel, width), _note(panel, width)
    style: dict[str, Any] = {"parse_math": False, "linespacing": 1.25}
    pad = 5 + 72 * 0.165 * notes
    axes.set_title("\n".join(name), loc="left", size=TEXT, color=INK, pad=pad, **style)
    if note:
        style |= {"textcoords": "offset points", "size": SMALL, "color": MUTED, "in_layout": False}
        style |= {"xycoords": "axes fraction", "va": "top"}
        axes.annotate("\n".join(note), (0, 1), (0, pad - 2), **style)
        if not name:  # the title alone makes room
            axes.set_title(" ", loc="left", size=4, pad=pad)
    axes.set_xlabel(panel.x, size=TEXT, color=MUTED, labelpad=2, parse_math=False)
    axes.set_ylabel(panel.y, size=TEXT, color=MUTED, labelpad=2, parse_math=False)


def _ticks_of_logarithm(axis: Any) -> None:
    """Set ticks at powers of ten, or closer ones on an axis of few powers."""
    low, high = axis.get_view_interval()
    spread = max(high, 1e-300) / max(low, 1e-300)
    steps = (1, 2, 5) if spread < 20 else (1, 3) if spread < 1000 else (1,)
    axis.set_major_locator(LogLocator(subs=steps))
    if spread < 2.5:  # too few round numbers
        axis.set_major_locator(FixedLocator(np.geomspace(low, high, 7)[1:-1:2].tolist()))
    axis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))


def _handle(mark: Labeled) -> Any:
    """Return the entry of a mark in a legend."""
    label, color = mark.label, mark.color  # type: tuple[str, Any]
    if not isinstance(color, str):  # one color for all items, or a meaning of its own
        color = tuple(color[0]) if len(color) == 1 else MUTED
    if isinstance(mark, Points):
        size = float(np.clip(np.mean(mark.size), 4, 9))
        style: dict[str, Any] = {"ls": "none", "marker": mark.marker, "ms": size, "color": color}
        style |= {"mfc": "none"} if mark.hollow else {"mew": 1.2 if mark.marker in "x+_" else 0}
        return Line2D([], [], label=label, alpha=max(mark.alpha, 0.6), **style)
    if isinstance(mark, Band | Span) or (isinstance(mark, Steps | Boxes) and mark.filled):
        return Patch(color=color, alpha=mark.alpha, lw=0, label=label)
    dashes: Any = (0, (3, 2)) if getattr(mark, "dashed", False) else "-"
    width = max(getattr(mark, "width", 1.4), 1.2)
    return Line2D([], [], color=color, lw=width, ls=dashes, label=label)


@singledispatch
def _draw(mark: Mark, axes: Axes) -> None:
    """Draw a mark on axes."""
    raise TypeError(f"{type(mark).__name__} is no mark that Matplotlib can draw")


@_draw.register
def _points(mark: Points, axes: Axes) -> None:
    size = np.square(np.broadcast_to(mark.size, np.shape(mark.x)))
    style: dict[str, Any] = {"marker": mark.marker, "alpha": mark.alpha, "zorder": 2}
    if mark.hollow:
        style |= {"facecolors": "none", "edgecolors": mark.color, "linewidths": 1.2}
    else:
        style |= {"c": mark.color, "linewidths": 1.2 if mark.marker in "x+_" else 0}
    axes.scatter(mark.x, mark.y, s=size, clip_on=np.size(mark.x) > MANY, **style)


@_draw.register
def _line(mark: Line, axes: Axes) -> None:
    dashes: Any = DASHES if mark.dashed else "-"
    axes.plot(mark.x, mark.y, color=mark.color, lw=mark.width, ls=dashes, alpha=mark.alpha)


@_draw.register
def _segments(mark: Segments, axes: Axes) -> None:
    ends = np.stack(np.broadcast_arrays(mark.x0, mark.y0, mark.x1, mark.y1), axis=-1)
    lines = LineCollection(
        list(ends.reshape(-1, 2, 2)),
        colors=mark.color,
        linewidths=mark.width,
        alpha=mark.alpha,
        zorder=2,
    )
    axes.add_collection(lines)
    axes.autoscale_view()


@_draw.register
def _band(mark: Band, axes: Axes) -> None:
    style: dict[str, Any] = {"color": mark.color, "alpha": mark.alpha, "lw": 0, "zorder": 2}
    axes.fill_between(mark.x, mark.low, mark.high, **style)


@_draw.register
def _boxes(mark: Boxes, axes: Axes) -> None:
    x0, x1, y0, y1 = np.broadcast_arrays(mark.x0, mark.x1, mark.y0, mark.y1)
    corners = np.stack([x0, y0, x1, y0, x1, y1, x0, y1], axis=-1).reshape(-1, 4, 2)
    style: dict[str, Any] = {"facecolors": mark.color, "linewidths": 0}
    if not mark.filled:
        style = {"facecolors": "none", "edgecolors": mark.color, "linewidths": 1.3}
    axes.add_collection(PolyCollection(list(corners), alpha=mark.alpha, zorder=2, **style))
    axes.autoscale_view()


@_draw.register
def _steps(mark: Steps, axes: Axes) -> None:
    style: dict[str, Any] = {"lw": 0, "fill": True} if mark.filled else {"lw": mark.width}
    axes.stairs(mark.heights, mark.edges, color=mark.color, alpha=mark.alpha, zorder=2, **style)


@_draw.register
def _rule(mark: Rule, axes: Axes) -> None:
    line = axes.axvline if mark.vertical else axes.axhline
    line(mark.value, color=mark.color, lw=mark.width, ls=DASHES if mark.dashed else "-")


@_draw.register
def _span(mark: Span, axes: Axes) -> None:
    strip = axes.axvspan if mark.vertical else axes.axhspan
    strip(mark.low, mark.high, color=mark.color, alpha=mark.alpha, lw=0, zorder=2)


@_draw.register
def _image(mark: Image, axes: Axes) -> None:
    axes.imshow(mark.cells, extent=mark.edges, interpolation="nearest", aspect=axes.get_aspect())


@_draw.register
def _words(mark: Words, axes: Axes) -> None:
    colors = [mark.color] * len(mark.texts) if isinstance(mark.color, str) else list(mark.color)
    bold = list(mark.bold) or [False] * len(mark.texts)
    places = zip(np.ravel(mark.x), np.ravel(mark.y), mark.texts, colors, bold, strict=True)
    for x, y, text, color, heavy in places:
        style: dict[str, Any] = {"size": mark.size, "ha": mark.align, "va": "center"}
        style |= {"color": color, "weight": "bold" if heavy else "normal", "parse_math": False}
        style["in_layout"] = False  # a text that leaves its panel does not move others
        axes.text(float(x), float(y), text, **style)
