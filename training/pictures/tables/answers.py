"""Choice of the pictures of query results, and pictures of predictions, odd cells and checks."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from training.data.records.records import DATE
from training.data.records.values import text_of
from training.files.answers import PredictedColumn, SavedAnswerCheck, SavedAnswers
from training.measure.reliability import TELLING, wilson
from training.names import script
from training.pictures import theme
from training.pictures.tables.drawn_rows import (
    DrawnRows,
    draw_associations,
    draw_marginals,
    write_dates,
)
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE

ALONE = f"samples alone: {script('ask')} sample with --data adds a comparison"


def pictures_of_answers(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the pictures of a CSV of ``ask.py``, chosen by the JSON of its parameters.

    Raises:
        DataError: The CSV or its parameters are broken.
    """
    saved = SavedAnswers.load(path)
    stem = (folder or path.parent) / saved.stem
    draw: dict[str, Callable[[], Figure]] = {}
    if saved.question == "sample":
        drawn = DrawnRows(saved)
        if drawn.columns:
            draw["marginals"] = partial(draw_marginals, drawn)
        if drawn.has_associations:
            draw["associations"] = partial(draw_associations, drawn)
        note = "" if saved.real else ALONE
        return [replace(each, note=note) for each in theme.figures(stem, draw)]
    if saved.question == "score" and oddest(saved.tails, 1):
        draw["odd"] = partial(draw_odd, saved)
    if saved.asked:
        draw["cells"] = partial(draw_cells, saved)
    return theme.figures(stem, draw)


def pictures_of_check(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the pictures of a calibration check of ``ask.py``.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedAnswerCheck.load(path)
    draw = {"intervals": partial(draw_intervals, saved)}
    if any(column.reliability is not None for column in saved.columns):
        draw["levels"] = partial(draw_reliability, saved)
    return theme.figures((folder or path.parent) / path.stem, draw)


MOST_ROWS, MOST_COLUMNS = 12, 10
CELL_HEIGHT, CELL_WIDTH, ROW_NAMES = 0.4, 1.15, 1.35  # inches
PLAIN, PLAINLY_ODD = 0.1, 1e-4
"""Probabilities at which the coloring of cells begins, and at which it is full."""


def oddest(tails: np.ndarray, most: int) -> list[int]:
    """Return the indices of at most ``most`` rows with the least probable cells, lowest first.

    Rows without any known cell are left out.

    Args:
        tails: Tail probabilities of cells ``[n, P]``; NaN where cells are missing.
        most: Largest number of rows.
    """
    least = np.fmin.reduce(tails, axis=1)
    order = np.argsort(least, kind="stable")  # NaN comes last
    return [int(row) for row in order[:most] if not math.isnan(least[row])]


def outlier_columns(tails: np.ndarray, most: int) -> list[int]:
    """Return the indices of at most ``most`` columns with the least probable cells, increasing.

    Args:
        tails: Tail probabilities of cells ``[n, P]``; NaN where cells are missing.
        most: Largest number of columns.
    """
    return sorted(np.argsort(np.fmin.reduce(tails, axis=0), kind="stable")[:most].tolist())


def count_of_odd(saved: SavedAnswers) -> str:
    """Describe in words how many cells are flagged as outliers, and how many are by chance."""
    known = saved.tails[~np.isnan(saved.tails)]
    return (
        f"{(known <= saved.odd).sum():,} of {len(known):,} cells have a probability of at "
        f"most {saved.odd:g}; {saved.odd * len(known):,.0f} or fewer are expected by "
        "chance"
    )


def draw_odd(saved: SavedAnswers) -> Figure:
    """Draw the rows with the least probable cells, and how probable each cell is given its row."""
    rows = oddest(saved.tails, MOST_ROWS)
    columns = outlier_columns(saved.tails[rows], MOST_COLUMNS)
    dim = saved.tails.shape[1]
    width = min((theme.WIDE - ROW_NAMES - 0.2) / len(columns), CELL_WIDTH)
    size = np.array([width * len(columns), CELL_HEIGHT * len(rows)])
    height = theme.TOP + 0.35 + size[1] + 0.15
    figure = theme.new_figure(max(ROW_NAMES + size[0] + 0.2, 7.0), height)
    some = f"{len(columns)} of {dim} columns" * (dim > len(columns))
    title = (
        f"Outlier cells of {saved.name}: the {len(rows)} most extreme of {len(saved.rows):,} rows"
    )
    theme.headline(
        figure, title, theme.joined(count_of_odd(saved), some), 0.2, height - theme.MARGIN
    )
    axes = theme.axes_at(figure, (ROW_NAMES, 0.15, *size))
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.spines[:].set_visible(False)
    names = [theme.fitting(saved.rows.columns[place].name, width - 0.08) for place in columns]
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(columns)) + 0.5, names)
    labels = [f"row {row + 1},  {saved.log_prob[row]:.1f} nats".replace("-", "−") for row in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.5, labels)
    axes.tick_params(length=0, labelcolor=INK)
    for (down, along), tail in np.ndenumerate(saved.tails[np.ix_(rows, columns)]):
        column, value = columns[along], saved.rows.values[rows[down], columns[along]]
        text = text_of(saved.rows.columns[column], value, saved.rows.decimal) or "–"
        _draw_cell(axes, along, down, theme.fitting(text, width - 0.1), tail, tail <= saved.odd)
    return figure


def _draw_cell(axes: Axes, x: int, y: int, text: str, tail: float, is_odd: bool) -> None:
    reach = math.log10(PLAIN / PLAINLY_ODD)
    depth = 0.0 if math.isnan(tail) else math.log10(PLAIN / max(tail, PLAINLY_ODD)) / reach
    color = ORANGE if depth > 0 else theme.PANE
    alpha = 0.12 + 0.88 * depth if depth > 0 else 1.0
    axes.add_patch(Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, color=color, alpha=alpha, lw=0))
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    weight = "bold" if is_odd else "normal"
    missing = math.isnan(tail)
    axes.text(x + 0.5, y + (0.5 if missing else 0.34), text, size=8.5, weight=weight, **style)
    if not missing:
        axes.text(x + 0.5, y + 0.74, f"p = {theme.brief(tail)}", size=6.5, **style)


MOST_PANELS, MOST_CELLS = 8, 150
PANEL, PANEL_LEFT = (4.5, 1.9), 0.9  # inches


def draw_cells(saved: SavedAnswers) -> Figure:
    """Draw predictions: a panel per column with intervals or probabilities, and true values."""
    shown = saved.asked[:MOST_PANELS]
    across = min(2, len(shown))
    what = "Predictions" if saved.question == "predict" else "Filled cells"
    more = f"{MOST_PANELS} of {len(saved.asked)} columns" if len(saved.asked) > MOST_PANELS else ""
    figure, panels = theme.panels(
        len(shown),
        across,
        PANEL,
        f"{what} of {saved.name}",
        theme.joined(f"bars: {saved.interval:.0%} intervals, with the median", more),
        left=PANEL_LEFT,
        gap=0.95,
        top=theme.TOP + 1.3 * theme.LINE_HEIGHT,
        above=0.46,
        least_width=theme.STACK_WIDTH,
    )
    handles = [
        theme.dots("true value in the interval, or most likely category correct", BLUE),
        theme.dots("not so", ORANGE),
    ]
    handles *= any(asked.known.any() for asked in shown)
    if any((~asked.known).any() for asked in shown if asked.is_level):
        handles.append(theme.dots("not known", MUTED))
    theme.legend_line(figure, PANEL_LEFT, handles)
    for axes, asked in zip(panels, shown, strict=True):
        _draw_answers(axes, asked)
        theme.name_panel(
            axes, theme.fitting(asked.column.name, PANEL[0]), hits_of(asked, saved.interval)
        )
    return figure


def hits_of(asked: PredictedColumn, interval: float) -> str:
    """Describe in words the fraction of right predictions, its 95 % range and the nominal rate."""
    known = asked.known
    count = int(known.sum())
    if not count:
        return f"{len(known):,} cells"
    share, says, low, high = _shares_right(asked, interval)
    share_of = f"{share:.1%} ({low:.1%} to {high:.1%}) of {count:,}"
    if asked.is_level:
        return f"most likely category correct in {share_of}, predicted {says:.1%}"
    return f"intervals cover {share_of} true values, nominal {100 * says:.3g}%"


def is_calibrated(asked: PredictedColumn, interval: float) -> bool | None:
    """Return whether predictions of a column are right about as often as the nominal rate.

    An interval is right if it covers the true value, a category if it is the true one. Intervals
    may be right more often than the nominal rate, since they include their ends.

    Returns:
        Whether the nominal rate is in the 95 % range of the fraction of right predictions; None if
        there are too few true values to judge (``TELLING``).
    """
    _, says, low, high = _shares_right(asked, interval)
    right = says <= high and (low <= says or not asked.is_level)
    return None if right and (high - low) / 2 > TELLING else right


def _shares_right(asked: PredictedColumn, interval: float) -> tuple[float, float, float, float]:
    """Return the share of right predictions, the nominal rate, and the share's 95 % range."""
    known = asked.known
    share = float(asked.right[known].mean())
    low, high = wilson(share, known.sum())
    says = float(asked.probability[known].mean()) if asked.is_level else interval
    return share, says, float(low), float(high)


def _draw_answers(axes: Axes, asked: PredictedColumn) -> None:
    is_level, order = asked.is_level, asked.in_order(MOST_CELLS)
    x = np.arange(1, len(order) + 1)
    y = asked.probability[order] if is_level else asked.truth[order]
    colors = np.where(asked.right, BLUE, ORANGE)
    colors = np.where(asked.known, colors, MUTED)[order]
    size = float(np.interp(len(order), [20, MOST_CELLS], [24, 9]))
    if not is_level:
        width = float(np.interp(len(order), [20, MOST_CELLS], [4, 1.6]))
        axes.vlines(x, asked.low[order], asked.high[order], color=BLUE, alpha=0.25, lw=width)
        axes.plot(x, asked.guess[order], "_", ms=width + 1, color=INK, mew=0.9)
    axes.scatter(x, y, s=size, c=colors, lw=0, zorder=3)
    if is_level:
        axes.set_ylim(0, 1.04)
    elif asked.column.type == DATE:
        write_dates(axes.yaxis, asked.column)
    axes.set_xlim(0.3, len(order) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    some = "" if len(order) == len(asked.guess) else f"{len(order)} of {len(asked.guess):,} "
    theme.label(axes, f"{some}cells, sorted", "probability" if is_level else "")


MOST_CHECKED = 30
LINE, NAMES, BETWEEN, RIGHT = 0.24, 1.6, 0.22, 0.25  # inches


def draw_intervals(saved: SavedAnswerCheck) -> Figure:
    """Draw a panel per probability with the coverage of each column's intervals.

    Orange marks columns whose 95 % range excludes the nominal probability.
    """
    columns = sorted(range(len(saved.columns)), key=lambda place: -_farthest(saved, place))
    columns = sorted(columns[:MOST_CHECKED])
    levels = saved.probabilities[:4]
    width = (theme.WIDE - NAMES - RIGHT - BETWEEN * (len(levels) - 1)) / len(levels)
    high = LINE * len(columns) + 0.1
    figure = theme.new_figure(theme.WIDE, theme.above_panels(saved.verdict) + 0.3 + high + 0.5)
    dim = len(saved.columns)
    some = (
        f"the {MOST_CHECKED} of {dim} columns that are farthest off" if dim > MOST_CHECKED else ""
    )
    _headline(figure, saved, "Prediction intervals and true values", some)
    places = -np.arange(len(columns), dtype=float)
    for number, probability in enumerate(levels):
        axes = theme.axes_at(figure, (NAMES + number * (width + BETWEEN), 0.5, width, high))
        axes.axvline(100 * probability, color=MUTED, lw=0.9, ls=theme.DASHED)
        for place, index in zip(places.tolist(), columns, strict=True):
            column = saved.columns[index]
            if probability in column.coverage:
                share = column.coverage[probability]
                low, top = map(float, wilson(share, column.cells))
                color = BLUE if low <= probability <= top else ORANGE
                axes.hlines(place, 100 * low, 100 * top, color=color, lw=1.4, alpha=0.6)
                axes.plot(100 * share, place, "o", ms=4.5, mew=0, color=color)
        axes.set(ylim=(places[-1] - 0.7, 0.7), yticks=[])
        axes.set_xlim(right=min(axes.get_xlim()[1], 101.0))
        if number == 0:
            names = [theme.fitting(saved.columns[index].name, NAMES - 0.3) for index in columns]
            axes.set_yticks(places, names)
            axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="x", color=FAINT, lw=0.6, alpha=0.7)
        theme.name_panel(axes, f"{100 * probability:g} % intervals")
        theme.label(axes, "hold, %")
    return figure


def _farthest(saved: SavedAnswerCheck, place: int) -> float:
    column = saved.columns[place]
    return max(
        (abs(held - probability) for probability, held in column.coverage.items()), default=0.0
    )


MOST_LEVELED, ACROSS = 12, 4
SQUARE = (2.15, 2.0)  # inches


def draw_reliability(saved: SavedAnswerCheck) -> Figure:
    """Draw reliability diagrams of at most 12 categorical columns, one panel each.

    Observed frequencies are drawn against predicted probabilities. Larger dots stand for more
    cells.
    """
    shown = [column for column in saved.columns if column.reliability is not None][:MOST_LEVELED]
    across = min(len(shown), ACROSS)
    figure, panels = theme.panels(
        len(shown),
        across,
        SQUARE,
        left=0.75,
        gap=0.45,
        top=theme.above_panels(saved.verdict),
        above=0.46,
        least_width=theme.WIDE,
    )
    _headline(figure, saved, "Predicted and observed frequencies of categories")
    axes_of_all = list(panels)
    for axes, column in zip(axes_of_all, shown, strict=True):
        assert column.reliability is not None
        probability, share, count = column.reliability.T
        low, high = wilson(share, count)
        axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8)
        colors = np.where((low <= probability) & (probability <= high), BLUE, ORANGE)
        axes.vlines(probability, low, high, colors=colors, lw=1.4, alpha=0.6)
        sizes = 8 + 40 * count / count.max()
        axes.scatter(probability, share, s=sizes, c=colors, lw=0, zorder=3)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        theme.name_panel(axes, theme.fitting(column.name, SQUARE[0]), f"{column.cells:,} cells")
    theme.label_outer(axes_of_all, across, "probability", "observed frequency")
    return figure


def _headline(figure: Figure, saved: SavedAnswerCheck, what: str, some: str = "") -> None:
    right = "no miscalibration found" if saved.conclusive else "too few rows to test"
    outcome = right if saved.passed else "not calibrated in some columns"
    details = theme.joined(f"{saved.rows:,} validation rows", outcome, some)
    theme.headline(figure, what, details, 0.2, figure.get_size_inches()[1] - theme.MARGIN)
    handles = [
        theme.line("the prediction is within the 95 % bar", BLUE),
        theme.line("it is outside", ORANGE),
    ]
    note = "one bar of twenty excludes it by chance"
    theme.write_verdict(figure, 0.2, saved.verdict, handles, note, 0.2)
