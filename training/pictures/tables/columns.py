"""One column of a table in a panel, and words that all pictures of tables share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from training.files.rows import LABELS, SavedTable
from training.pictures.style import look
from training.pictures.style.colors import BLUE, INK, MUTED, ORANGE
from training.pictures.tables.fit import limits

LEAST_BINS, MOST_BINS = 8, 36
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STRIP = 0.11  # of the tallest bar: how far below the bars one line of quantiles lies
FILL = 0.35  # opacity of the data's bars
MEDIAN: dict[str, Any] = {"marker": "o", "ms": 3.6, "mfc": "white", "mew": 1}
INDENT = 0.05  # inches that legends put before their first mark
STRAYS = 0.015  # share beyond the axes from which a panel tells it


def draw_column(
    axes: Axes, labels: Sequence[str], values: Sequence[np.ndarray], strips: bool = True
) -> None:
    """Bars of data, the outline of samples, and below them lines of quantiles.

    Args:
        axes: Where to draw.
        labels: What the sets are.
        values: One or two sets ``[n]``.
        strips: Whether to draw the quantiles.
    """
    low, high = limits(*values)
    fewest = min(len(each) for each in values)
    bins = 1 + 2 * int(np.clip(1.25 * fewest ** (1 / 3), LEAST_BINS // 2, MOST_BINS // 2))
    edges = np.linspace(low, high, bins + 1)
    # By all rows, not only those in range, so that the sets compare.
    shares = [np.histogram(each, edges)[0] / len(each) for each in values]
    top = max(float(np.max(shares)), 1e-9)
    notes = []
    for number, (label, each, share) in enumerate(zip(labels, values, shares, strict=True)):
        color = color_of(label)
        if is_outlined(label):
            axes.stairs(share / top, edges, color=color, lw=1.3)
        else:
            axes.stairs(share / top, edges, color=color, alpha=FILL, fill=True, lw=0)
        if strips:
            _quantiles(axes, each, -STRIP * (number + 1), color)
        beyond = float(((each < low) | (each > high)).mean())
        if beyond > STRAYS:
            notes.append(f"{beyond:.0%} of {label} beyond")
    floor = -STRIP * (len(values) + 0.7) if strips else 0
    axes.set(xlim=(low, high), ylim=(floor, 1.06), yticks=[])
    axes.spines["left"].set_visible(False)
    few_numbers(axes.xaxis)
    axes.xaxis.get_offset_text().set(size=look.SMALL_SIZE - 1, color=MUTED)
    look.note_inside(axes, "\n".join(notes))


def legend_below_headline(
    figure: Figure, left: float, labels: Sequence[str], strips: bool = True, note: str = ""
) -> None:
    """What bars, outlines and lines of quantiles are, and a note at the other end of the line.

    Args:
        figure: Where to write.
        left: Inches from either edge.
        labels: What the sets are.
        strips: Whether there are quantiles.
        note: Some words.
    """
    width, height = figure.get_size_inches()
    bottom = height - look.TOP - look.LINE_HEIGHT
    axes = look.axes_at(figure, (left, bottom, width - 2 * left, 0.01))
    axes.set_axis_off()
    look.write(axes, note, (1, 1), (0, 6), ha="right")
    handles: list[Patch | Line2D] = []
    for label in labels:
        color = color_of(label)
        if is_outlined(label):
            handles.append(Line2D([], [], color=color, lw=1.5, label=label))
        else:
            handles.append(Patch(color=color, alpha=FILL, lw=0, label=label))
    if strips:
        words = f"{', '.join(f'{100 * share:g}' for share in QUANTILES)} % quantiles"
        handles.append(Line2D([], [], color=INK, lw=1, label=words, **MEDIAN))
    # Flush with what is above and below, whatever the width.
    anchor = (-INDENT / (width - 2 * left), 1.0)
    look.legend(axes, len(handles), handles=handles, bbox_to_anchor=anchor)


def few_numbers(axis: Axis) -> None:
    """Round numbers at an axis, none so near to an end that it would touch those of a neighbor."""
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))


def is_outlined(label: str) -> bool:
    return label == LABELS["gen"]


def color_of(label: str) -> str:
    return ORANGE if is_outlined(label) else BLUE


def fitting(name: str, room: float) -> str:
    """A column's name, or as much of it as fits into so many inches, and none of it mathematics."""
    short = look.shortened(name, room, FontProperties(size=look.TEXT_SIZE))
    return short.replace("$", r"\$")


def counted(tables: Sequence[SavedTable], counts: Sequence[int]) -> str:
    """How many rows of what are drawn, and how many cannot be."""
    parts = []
    for table, count in zip(tables, counts, strict=True):
        what = "rows of data" if table.kind == "melt" else table.label
        lost = table.trajectory.count - count
        left_out = f" ({lost:,} not finite, left out)" if lost else ""
        parts.append(f"{count:,} {what}{left_out}")
    return ", ".join(parts)


def _quantiles(axes: Axes, values: np.ndarray, y: float, color: str) -> None:
    """A line from the lowest to the highest, thick between the quartiles, with the median."""
    lowest, first, median, third, highest = np.quantile(values, QUANTILES)
    axes.plot([lowest, highest], [y, y], color=color, lw=1, solid_capstyle="butt")
    axes.plot([first, third], [y, y], color=color, lw=3, solid_capstyle="butt")
    axes.plot([median], [y], ls="none", mec=color, **MEDIAN)
