"""Words and legends that all pictures of posteriors share."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D

from training.files.arrays import title_of
from training.files.posterior_draws import SavedPosteriors
from training.files.rows import printable
from training.pictures import look
from training.pictures.look import INK, MUTED, joined

MOST_SHOWN = 6
"""Observations."""
INDENT = 0.05  # inches that legends put before their first mark
NUMBERS_TOLD = 3


def name_and_details(saved: SavedPosteriors) -> tuple[str, str]:
    """The data's name, and how the draws were made."""
    name, schedule = title_of(saved.path.stem.removesuffix("_posterior"))
    samplers = ", ".join(sorted(set(saved.sampler)))
    chains, draws = saved.points.shape[:2]
    drawn = f"{chains * draws:,} draws each" + (f", every {saved.every}th" * (saved.every > 1))
    return name, joined(schedule, f"by {samplers}", drawn)


def part_of(saved: SavedPosteriors, shown: int) -> str:
    """Which observations are shown, if not all."""
    if shown == saved.count:
        return ""
    return f"first of {saved.count:,}" if shown == 1 else f"first {shown} of {saved.count:,}"


def value_words(values: np.ndarray) -> str:
    """What was observed ``[K]``, or as much of it as is readable."""
    listed = ", ".join(f"{value:.3g}".replace("-", "−") for value in values[:NUMBERS_TOLD])
    more = ", …" if len(values) > NUMBERS_TOLD else ""
    return f"y = ({listed}{more})" if len(values) > 1 else f"y = {listed}"


def axis_name(name: str, room: float = 2.0) -> str:
    """The name of a coordinate, or as much of it as fits into so many inches."""
    return fitting(printable(name), room)


def fitting(name: str, room: float) -> str:
    """A column's name, or as much of it as fits into so many inches, and none of it mathematics."""
    short = look.shortened(name, room, FontProperties(size=look.TEXT_SIZE))
    return short.replace("$", r"\$")


LINE_LETTERS = 150
"""Of a line of a verdict."""


def verdict_lines(verdict: str) -> list[str]:
    """The lines of a verdict on a check, that are written below its headline."""
    return textwrap.wrap(verdict, LINE_LETTERS)


def write_verdict(
    figure: Figure,
    left: float,
    lines: Sequence[str],
    handles: Sequence[Any],
    note: str,
    right: float,
) -> None:
    """Writes the lines of a verdict, and below them what ``legend_line`` does."""
    width, height = figure.get_size_inches()
    style: dict[str, Any] = {"size": look.SMALL_SIZE, "color": INK, "parse_math": False}
    for number, each in enumerate(lines):
        top = 1 - (look.TOP + look.LINE_HEIGHT * (number - 0.3)) / height
        figure.text(left / width, top, each, va="top", **style)
    legend_line(figure, left, handles, note, right, look.LINE_HEIGHT * len(lines))


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
    bottom, room = height - look.TOP - look.LINE_HEIGHT - below, width - left - (right or left)
    axes = look.axes_at(figure, (left, bottom, room, 0.01))
    axes.set_axis_off()
    look.write(axes, note, (1, 1), (0, 6), ha="right")
    anchor = (-INDENT / room, 1.0)
    look.legend(axes, len(handles), handles=handles, bbox_to_anchor=anchor)


def label_outer(axes: Axes, number: int, count: int, across: int, x: str, y: str) -> None:
    """Names and numbers at the left, and below what has no panel under it."""
    first, last = number % across == 0, number + across >= count
    axes.tick_params(labelleft=first, labelbottom=last)
    look.label(axes, x=x * last, y=y * first)


def dots(label: str, color: Any = MUTED, alpha: float = 1.0) -> Line2D:
    """A mark of points in a legend."""
    return Line2D([], [], ls="none", marker="o", ms=4, mew=0, color=color, alpha=alpha, label=label)


def line(label: str, color: Any = INK, **style: Any) -> Line2D:
    """A mark of a line in a legend."""
    return Line2D([], [], color=color, label=label, **{"lw": 1.4, **style})
