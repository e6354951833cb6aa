"""Figures drawn with Bokeh, and the interactive parts of a report.

Charts take no text from files as mathematics: Bokeh would read a name with ``$$`` as such, so axes
have plain text, and titles and legends are part of the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from bokeh.models import (
    BasicTickFormatter,
    BoxSelectTool,
    ColumnDataSource,
    DataRange1d,
    FixedTicker,
    HoverTool,
    LassoSelectTool,
    PanTool,
    PlainText,
    PrintfTickFormatter,
    Range1d,
    ResetTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.models.annotations import BoxAnnotation, Span
from bokeh.plotting import figure

from training.pictures import figure as marks
from training.pictures.content import Flow, Views
from training.pictures.figure import Figure, Mark, Panel, common_box, page_positions
from training.pictures.theme import FAINT, INK, MUTED, joined

LEAST, MOST = 150, 900
"""Least and largest height of a chart in pixels."""
DOT = 4
"""Diameter of a point in pixels."""
INCH = 80
"""Pixels of a page for an inch of a picture."""
MARKERS = {
    "o": ("circle", ""),
    "s": ("square", "■"),
    "^": ("triangle", "▲"),
    "v": ("inverted_triangle", "▼"),
    "D": ("diamond", "◆"),
    "x": ("x", "×"),
    "P": ("cross", "+"),
    "*": ("star", "★"),
    "_": ("dash", "–"),
}
"""Bokeh's name of a marker, and its sign in a legend, by Matplotlib's name."""


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        text: Text of the entry.
        color: CSS color.
        mark: ``line``, ``dashed``, ``dot``, ``band`` or ``sign``.
        sign: Character in the color of the entry; may be empty.
    """

    text: str
    color: str
    mark: str = "line"
    sign: str = ""


@dataclass(frozen=True)
class Chart:
    """A Bokeh figure with its texts.

    Attributes:
        plot: Figure, whose name identifies its place on the page.
        title: Title of the chart.
        alt: Description for readers who cannot see the chart.
        keys: Entries of the legend.
        note: Note below the title.
    """

    plot: figure
    title: str
    alt: str
    keys: Sequence[Key] = ()
    note: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts of one figure side by side, as far as there is room.

    Attributes:
        figure: Description of the figure.
        charts: Charts of its panels.
        keys: Entries of the legend.
        scale: CSS colors of the color scale; empty for none.
    """

    kind: ClassVar[str] = "figure"
    figure: Figure
    charts: Sequence[Chart]
    keys: Sequence[Key]
    scale: Sequence[str]


@dataclass(frozen=True)
class FlowCharts:
    """Charts of an animation of points.

    Attributes:
        flow: Description of the animation.
        name: Name of the sources for the page's script, ``{name}-points`` and
            ``{name}-frames``.
        panels: Charts of the points at the start, at the current time, and at the end.
        planes: Charts of the coordinate planes of 3-D points at the current time.
    """

    kind: ClassVar[str] = "animation"
    flow: Flow
    name: str
    panels: Sequence[Chart]
    planes: Sequence[Chart]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings for the page's script."""
        legends = []
        for number, each in enumerate(self.flow.colorings):
            scale = each.scale and (each.scale[0], css(each.scale[1]), each.scale[2])
            legends.append({"column": f"color-{number}", "note": each.note, "scale": scale})
        return {
            "name": self.name,
            "times": list(map(float, self.flow.times)),
            "count": self.flow.points.shape[1],
            "turns": bool(self.planes),
            "legends": legends,
        }


@dataclass(frozen=True)
class ViewsChart:
    """A chart of two selectable columns.

    Attributes:
        views: Description of the chart.
        chart: The chart.
        sets: Names of the sources of points; the columns of a source are in ``{set}-columns``.
    """

    kind: ClassVar[str] = "columns"
    views: Views
    chart: Chart
    sets: Sequence[str]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings for the page's script."""
        return {"sets": list(self.sets)}


@singledispatch
def drawn(part: Any) -> Any:
    """Return a part of a report as the page's template takes it; tables and images as they are."""
    return part


@drawn.register
def _figure(part: Figure) -> Charts:
    panels = [panel for panel in part.panels if panel is not None]
    charts = [_chart(panel, part) for panel in panels]
    colors = [] if part.scale is None else css(part.scale.colors)
    return Charts(part, charts, [_key(mark) for mark in part.legend], colors)


def _chart(panel: Panel, whole: Figure) -> Chart:
    """Return the chart of a panel."""
    height = int(np.clip(INCH * whole.size[1], LEAST, MOST))
    options: dict[str, Any] = {"height": height}
    if panel.equal:
        options = {"aspect_ratio": 1, "max_width": 420}
    for name, log, limits in (
        ("x", panel.x_log, panel.x_limits),
        ("y", panel.y_log, panel.y_limits),
    ):
        options |= {f"{name}_axis_type": "log"} if log else {}
        options |= {f"{name}_range": limits} if limits is not None else {}
    made = plot(panel.x, panel.y, **options)
    for ticks, axis, log in (
        (panel.x_ticks, made.xaxis, panel.x_log),
        (panel.y_ticks, made.yaxis, panel.y_log),
    ):
        axis.visible = panel.axes and ticks != {}
        if ticks:
            axis.ticker = FixedTicker(ticks=list(ticks))
            names: Any = {place: PlainText(text=text) for place, text in ticks.items()}
            axis.major_label_overrides = names
        else:
            axis.formatter = (
                PrintfTickFormatter(format="%.2g") if log else BasicTickFormatter(precision=3)
            )
    made.grid.visible = panel.axes and not panel.equal
    for mark in panel.marks:
        draw(mark, made)
    title = joined(panel.title, panel.note.replace("\n", " "), by=": ") or whole.title
    axes = joined(panel.y, panel.x, by=" by ")
    return Chart(made, panel.title, joined(title, axes, whole.title, by=". "), note=panel.note)


def _key(mark: marks.Labeled) -> Key:
    """Return the entry of a mark in a legend."""
    color, label = mark.color, mark.label
    if not isinstance(color, str):
        color = css(color)[0] if len(color) == 1 else MUTED
    color = MUTED if color == INK else color  # visible on a dark page too
    if isinstance(mark, marks.Points):
        sign = "○" if mark.hollow else MARKERS[mark.marker][1]
        return Key(label, color, "sign" if sign else "dot", sign)
    filled = getattr(mark, "filled", False)
    if filled or isinstance(mark, marks.Band | marks.Span):
        return Key(label, color if filled else MUTED, "band")
    return Key(label, color, "dashed" if getattr(mark, "dashed", False) else "line")


def plot(x: str = "", y: str = "", **options: Any) -> figure:
    """Return an empty chart as wide as its container, with tools that need no mouse wheel.

    Args:
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        **options: Options of Bokeh's ``figure``.
    """
    tools = [PanTool(), ZoomInTool(), ZoomOutTool(), ResetTool()]
    style: dict[str, Any] = {
        "sizing_mode": "stretch_width",
        "tools": tools,
        "active_drag": None,
        **options,
    }
    if "aspect_ratio" in style:
        style["sizing_mode"] = "scale_width"
    made = figure(**style)
    made.xaxis.axis_label = PlainText(text=x) if x else None
    made.yaxis.axis_label = PlainText(text=y) if y else None
    made.name = made.id
    made.toolbar.logo = None
    made.toolbar.autohide = False
    made.background_fill_color = None
    made.border_fill_color = None
    made.outline_line_color = None
    made.min_border = 4
    for axis in made.axis:
        axis.axis_line_color = None
        axis.major_tick_line_color = None
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "12px"
        axis.axis_label_text_font_size = "13px"
        axis.axis_label_text_font_style = "normal"
    made.grid.grid_line_alpha = 0.5
    return made


def float32(values: Any) -> np.ndarray:
    """Flatten numbers ``[...]``, and convert them to float32; numbers too large are clipped."""
    largest = np.finfo(np.float32).max
    return np.clip(np.asarray(values, dtype=float), -largest, largest).astype(np.float32).ravel()


def packed(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB colors ``[N, 3]`` from 0 to 1 to 0xRRGGBBAA ``[N]``, uint32, for Bokeh."""
    red, green, blue = np.rint(255 * colors).astype(np.uint32).T
    return (red << 24) | (green << 16) | (blue << 8) | np.uint32(255)


def css(colors: np.ndarray) -> list[str]:
    """Convert sRGB colors ``[N, 3]`` from 0 to 1 to CSS colors."""
    return [f"#{value >> 8:06x}" for value in packed(colors).tolist()]


def _color(color: marks.Color, count: int) -> Any:
    """Return one color, or a color for each of ``count`` items."""
    if isinstance(color, str):
        return MUTED if color == INK else color  # visible on a dark page too
    return packed(np.broadcast_to(np.asarray(color)[..., :3], (count, 3)))


@singledispatch
def draw(mark: Mark, made: figure) -> None:
    """Add a mark to a chart."""
    raise TypeError(f"{type(mark).__name__} is no mark that Bokeh can draw")


@draw.register
def _points(mark: marks.Points, made: figure) -> None:
    x, y = float32(mark.x), float32(mark.y)
    marker, color = MARKERS[mark.marker][0], _color(mark.color, len(x))
    outlined = mark.hollow or mark.marker in "x_+"
    source = ColumnDataSource({"x": x, "y": y, "size": np.broadcast_to(mark.size, x.shape) * 1.3})
    style: dict[str, Any] = {"fill_alpha": 0 if mark.hollow else mark.alpha}
    if isinstance(color, str):
        style |= {"fill_color": color, "line_color": color if outlined else None}
    else:
        source.data["color"] = color
        style |= {"fill_color": "color", "line_color": "color" if outlined else None}
    made.scatter("x", "y", source=source, size="size", marker=marker, **style)


@draw.register
def _line(mark: marks.Line, made: figure) -> None:
    style: dict[str, Any] = {"line_dash": "dashed" if mark.dashed else "solid", "alpha": mark.alpha}
    color = _color(mark.color, 1)
    color = color if isinstance(color, str) else css(np.atleast_2d(mark.color)[:, :3])[0]
    made.line(float32(mark.x), float32(mark.y), color=color, line_width=mark.width, **style)


@draw.register
def _segments(mark: marks.Segments, made: figure) -> None:
    ends = np.broadcast_arrays(mark.x0, mark.y0, mark.x1, mark.y1)
    x0, y0, x1, y1 = map(float32, ends)
    data: dict[str, Any] = {"x0": x0, "y0": y0, "x1": x1, "y1": y1}
    color = _color(mark.color, len(x0))
    if not isinstance(color, str):
        data["color"], color = color, "color"
    source = ColumnDataSource(data)
    style: dict[str, Any] = {"color": color, "alpha": mark.alpha, "line_width": mark.width}
    made.segment("x0", "y0", "x1", "y1", source=source, **style)


@draw.register
def _band(mark: marks.Band, made: figure) -> None:
    color = MUTED if mark.color == FAINT else mark.color
    alpha = 0.2 if mark.color == FAINT else mark.alpha
    made.varea(*map(float32, (mark.x, mark.low, mark.high)), fill_color=color, fill_alpha=alpha)


@draw.register
def _boxes(mark: marks.Boxes, made: figure) -> None:
    left, right, bottom, top = map(float32, np.broadcast_arrays(mark.x0, mark.x1, mark.y0, mark.y1))
    data: dict[str, Any] = {"left": left, "right": right, "bottom": bottom, "top": top}
    color = _color(mark.color, len(left))
    if not isinstance(color, str):
        data["color"], color = color, "color"
    fill, line = (color, None) if mark.filled else (None, color)
    style: dict[str, Any] = {"fill_color": fill, "line_color": line, "fill_alpha": mark.alpha}
    made.quad("left", "right", "top", "bottom", source=ColumnDataSource(data), **style)


@draw.register
def _steps(mark: marks.Steps, made: figure) -> None:
    edges, heights = float32(mark.edges), float32(mark.heights)
    color = mark.color if isinstance(mark.color, str) else css(np.atleast_2d(mark.color))[0]
    if mark.filled:
        style: dict[str, Any] = {"fill_color": color, "fill_alpha": mark.alpha, "line_color": None}
        made.quad(left=edges[:-1], right=edges[1:], top=heights, bottom=0, **style)
        return
    x, y = np.repeat(edges, 2), np.concatenate([[0], np.repeat(heights, 2), [0]])
    made.line(x, float32(y), color=color, line_width=mark.width, alpha=mark.alpha)


@draw.register
def _rule(mark: marks.Rule, made: figure) -> None:
    dimension: Any = "height" if mark.vertical else "width"
    color = MUTED if mark.color == INK else mark.color
    dash = "dashed" if mark.dashed else "solid"
    style: dict[str, Any] = {"line_color": color, "line_dash": dash, "line_width": mark.width}
    made.add_layout(Span(location=mark.value, dimension=dimension, **style))


@draw.register
def _span(mark: marks.Span, made: figure) -> None:
    color = MUTED if mark.color == FAINT else mark.color
    ends = ("left", "right") if mark.vertical else ("bottom", "top")
    place: dict[str, Any] = dict(zip(ends, (mark.low, mark.high), strict=True))
    made.add_layout(BoxAnnotation(fill_color=color, fill_alpha=0.2, line_color=None, **place))


@draw.register
def _image(mark: marks.Image, made: figure) -> None:
    left, right, bottom, top = mark.edges
    height, width = mark.cells.shape[:2]
    rgba = np.full((height, width, 4), 255, dtype=np.uint8)
    rgba[..., :3] = mark.cells
    image: Any = rgba[::-1].copy().view(np.uint32).reshape(height, width)
    low, high = min(bottom, top), max(bottom, top)
    if top < bottom:  # the first row is at the lower end of a reversed axis
        image = image[::-1].copy()
        made.y_range = Range1d(start=bottom, end=top)
    made.image_rgba(image=[image], x=left, y=low, dw=right - left, dh=high - low)


@draw.register
def _words(mark: marks.Words, made: figure) -> None:
    data: dict[str, Any] = {"x": float32(mark.x), "y": float32(mark.y), "text": list(mark.texts)}
    bold = list(mark.bold) or [False] * len(mark.texts)
    data["style"] = ["bold" if heavy else "normal" for heavy in bold]
    color = _color(mark.color, len(mark.texts))
    if not isinstance(color, str):
        data["color"], color = color, "color"
    style: dict[str, Any] = {
        "text_color": color,
        "text_font_style": "style",
        "text_baseline": "middle",
    }
    style |= {"text_font_size": f"{mark.size + 2:.0f}px", "text_align": mark.align}
    made.text("x", "y", "text", source=ColumnDataSource(data), **style)


def _cloud(box: np.ndarray, x: str = "", y: str = "") -> figure:
    """Return an empty square chart where a lasso or a box selects points.

    Args:
        box: Limits of the axes ``[2, 2]``.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
    """
    lasso = LassoSelectTool(continuous=False)
    tools = [lasso, BoxSelectTool(), PanTool(), ZoomInTool(), ZoomOutTool(), ResetTool()]
    ranges = [Range1d(start=float(low), end=float(high)) for low, high in box]
    return plot(
        x,
        y,
        aspect_ratio=1,
        x_range=ranges[0],
        y_range=ranges[1],
        tools=tools,
        active_drag=lasso,
        toolbar_location="above",
    )


def _scatter(
    made: figure, source: ColumnDataSource, x: str, y: str, color: str, alpha: float = 0.8
) -> Any:
    """Add points to a chart; points that are not selected fade."""
    return made.scatter(
        x,
        y,
        source=source,
        size=DOT,
        fill_color=color,
        line_color=None,
        fill_alpha=alpha,
        nonselection_fill_alpha=0.07,
        nonselection_line_alpha=0,
    )


def _keep(made: figure, source: ColumnDataSource) -> None:
    """Attach a source to a chart without drawing it, for the script of the page."""
    made.tags = [*made.tags, source]


@drawn.register
def _views(part: Views) -> ViewsChart:
    made, sets = plot(height=380, x_range=DataRange1d(), y_range=DataRange1d()), []
    second = min(1, len(part.names) - 1)
    for each in part.clouds:
        pairs = np.ndindex(len(each.rows), len(part.names))
        columns = {f"{group}-{k}": float32(each.rows[group, :, k]) for group, k in pairs}
        shown = ColumnDataSource({"x": columns["0-0"], "y": columns[f"0-{second}"]})
        held = ColumnDataSource(columns)
        shown.name, held.name = shown.id, f"{shown.id}-columns"
        _scatter(made, shown, "x", "y", str(each.color), alpha=each.alpha)
        sets.append(shown.id)
        _keep(made, held)
    keys = [Key(each.label, str(each.color), "dot") for each in part.clouds]
    return ViewsChart(part, Chart(made, part.title, part.alt, keys, part.note), sets)


@drawn.register
def _flow(part: Flow) -> FlowCharts:
    points, turns = part.points, part.points.shape[-1] == 3
    seen = page_positions(points[[0, 0, -1]])
    data: dict[str, Any] = {"sample": part.samples, "number": part.numbers}
    data |= {f"color-{k}": packed(each.colors) for k, each in enumerate(part.colorings)}
    data["color"] = data["color-0"]
    for number, place in enumerate(("start", "now", "end")):
        data |= {f"{place}_{axis}": float32(seen[number, :, k]) for k, axis in enumerate("xy")}
    axes = "xyz"[: points.shape[-1]]
    if turns:
        data |= {f"now_{axis}_own": float32(points[0, :, k]) for k, axis in enumerate(axes)}
    source = ColumnDataSource(data)
    frames = ColumnDataSource({name: float32(points[..., k]) for k, name in enumerate(axes)})
    name = source.id
    source.name, frames.name = f"{name}-points", f"{name}-frames"
    box = common_box([points])
    if turns:  # contains the points when viewed from any direction
        reach = float(np.abs(box).max())
        box = np.array([[-reach, reach], [-reach, reach]])
    names = [] if turns else list(part.names)
    places = zip(("start", "now", "end"), (part.ends[0], "now", part.ends[1]), strict=True)
    panels = [
        _flow_chart(box, source, (f"{place}_x", f"{place}_y"), title, names)
        for place, title in places
    ]
    _keep(panels[0].plot, frames)
    for panel in panels[1:]:
        panel.plot.x_range, panel.plot.y_range = panels[0].plot.x_range, panels[0].plot.y_range
    planes = []
    for first, second in combinations(range(3), 2) if turns else ():
        pair = [part.names[first], part.names[second]]
        columns = (f"now_{'xyz'[first]}_own", f"now_{'xyz'[second]}_own")
        planes.append(_flow_chart(box, source, columns, f"now, {pair[0]} and {pair[1]}", pair))
    return FlowCharts(part, name, panels, planes)


def _flow_chart(
    box: np.ndarray,
    source: ColumnDataSource,
    columns: tuple[str, str],
    title: str,
    names: Sequence[str],
) -> Chart:
    made = _cloud(box, *names[:2])
    points = _scatter(made, source, *columns, "color")
    tips = [("number", "@{number}")]
    made.add_tools(HoverTool(renderers=[points], tooltips=tips, visible=False))
    return Chart(made, title, f"Points: {title}. All panels have the same scale.")
