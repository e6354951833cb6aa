"""Style of the charts: plain axes, tools that need no mouse wheel, colors of the pictures.

Charts contain no text from files, because Bokeh would take a name with ``$$`` for mathematics.
Titles and legends are part of the page.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    BoxSelectTool,
    ColumnDataSource,
    DataRange1d,
    HoverTool,
    LassoSelectTool,
    PanTool,
    PrintfTickFormatter,
    Range1d,
    ResetTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.models.annotations import Span
from bokeh.plotting import figure

from training.pictures.theme import MUTED, sequential_colors
from training.report.content import Chart, Key, Picker, Views

HEIGHT = 250
"""Height in pixels of a chart of full width."""
DOT = 4
"""Diameter of a point in pixels."""


def plot(x: str = "", y: str = "", height: int = HEIGHT, **options: Any) -> figure:
    """Return an empty chart as wide as its container.

    Args:
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        height: Height in pixels.
        **options: Options of Bokeh's ``figure``.
    """
    made = figure(
        height=height,
        sizing_mode="stretch_width",
        tools=[PanTool(), ZoomInTool(), ZoomOutTool(), ResetTool()],
        active_drag=None,
        x_axis_label=x or None,
        y_axis_label=y or None,
        **options,
    )
    return quiet(made)


def cloud(box: np.ndarray, x: str = "", y: str = "") -> figure:
    """Return an empty square chart where a lasso or a box selects points.

    Args:
        box: Limits of the axes ``[2, 2]``.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
    """
    lasso = LassoSelectTool(continuous=False)
    made = figure(
        aspect_ratio=1,
        sizing_mode="scale_width",
        x_range=Range1d(start=float(box[0, 0]), end=float(box[0, 1])),
        y_range=Range1d(start=float(box[1, 0]), end=float(box[1, 1])),
        tools=[lasso, BoxSelectTool(), PanTool(), ZoomInTool(), ZoomOutTool(), ResetTool()],
        active_drag=lasso,
        toolbar_location="above",
        x_axis_label=x or None,
        y_axis_label=y or None,
    )
    return quiet(made)


def quiet(made: figure) -> figure:
    """Reduce the frame of a chart, and return the chart."""
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


def few_digits(axis: Any) -> None:
    """Format the numbers of an axis with two digits."""
    axis.formatter = PrintfTickFormatter(format="%.2g")


def scatter(
    made: figure,
    source: ColumnDataSource,
    x: str,
    y: str,
    color: str,
    alpha: float = 0.8,
    hover: Sequence[tuple[str, str]] = (),
) -> None:
    """Add points to a chart; points that are not selected fade.

    Args:
        made: Chart.
        source: Source of the points.
        x: Column of horizontal coordinates.
        y: Column of vertical coordinates.
        color: Column of colors, or one color.
        alpha: Opacity.
        hover: Pairs of a label and a column for the tooltip of a point.
    """
    points = made.scatter(
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
    if hover:
        tips = [(text, f"@{{{column}}}") for text, column in hover]
        made.add_tools(HoverTool(renderers=[points], tooltips=tips, visible=False))


def views(
    clouds: Sequence[tuple[Key, np.ndarray, float]],
    names: Sequence[str],
    groups: Picker | None,
    title: str,
    alt: str,
    note: str,
) -> Views:
    """Return a scatter plot of two columns, which the reader of the page selects.

    Args:
        clouds: Legend entry, points ``[G, n, K]`` and opacity of each cloud. G is the number of
            groups, or 1 if all groups share the points.
        names: Names of the K columns.
        groups: Selection of the group, or None for one group.
        title: Title of the chart.
        alt: Description for readers who cannot see the chart.
        note: Note below the chart.
    """
    made, sets = plot(height=380, x_range=DataRange1d(), y_range=DataRange1d()), []
    second = min(1, len(names) - 1)
    for key, rows, alpha in clouds:
        pairs = np.ndindex(len(rows), len(names))
        columns = {f"{group}-{k}": float32(rows[group, :, k]) for group, k in pairs}
        shown = ColumnDataSource({"x": columns["0-0"], "y": columns[f"0-{second}"]})
        held = ColumnDataSource(columns)
        shown.name, held.name = shown.id, f"{shown.id}-columns"
        scatter(made, shown, "x", "y", key.color, alpha=alpha)
        sets.append(shown.id)
        keep(made, held)
    chart = Chart(made, title, alt, [key for key, _, _ in clouds], note)
    return Views(chart, sets, groups, Picker("across", names), Picker("up", names, second))


def keep(made: figure, source: ColumnDataSource) -> None:
    """Attach a source to a chart without drawing it, for the script of the page."""
    made.tags = [*made.tags, source]


def level(made: figure, value: float, dashed: bool = True, vertical: bool = False) -> None:
    """Add a straight line across the whole chart, at a value of one of its axes.

    Args:
        made: Chart.
        value: Value on the vertical axis, or on the horizontal axis for a vertical line.
        dashed: Whether the line is dashed.
        vertical: Whether the line is vertical.
    """
    dimension: Any = "height" if vertical else "width"
    dash = "dashed" if dashed else "solid"
    made.add_layout(
        Span(location=value, dimension=dimension, line_color=MUTED, line_dash=dash, line_width=1)
    )


def packed(colors: np.ndarray) -> np.ndarray:
    """Convert sRGB colors ``[N, 3]`` from 0 to 1 to 0xRRGGBBAA ``[N]``, uint32, for Bokeh."""
    red, green, blue = np.rint(255 * colors).astype(np.uint32).T
    return (red << 24) | (green << 16) | (blue << 8) | np.uint32(255)


def css(colors: np.ndarray) -> list[str]:
    """Convert sRGB colors ``[N, 3]`` from 0 to 1 to CSS colors."""
    return [f"#{value >> 8:06x}" for value in packed(colors).tolist()]


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values ``[N]`` between ``low`` and ``high`` to sequential colors ``[N, 3]``."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return sequential_colors(256)[np.rint(255 * share).astype(int)]


def float32(values: np.ndarray) -> np.ndarray:
    """Flatten numbers ``[...]``, and convert them to float32; numbers too large are clipped."""
    largest = np.finfo(np.float32).max
    return np.clip(values, -largest, largest).astype(np.float32).ravel()
