"""Pictures of the columns of data against samples, each column by itself and in pairs."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.stats import ks_2samp, rankdata

from training.files.arrays import evenly
from training.files.rows import LABELS, SavedTable
from training.pictures import theme
from training.pictures.theme import BLUE, MUTED, ORANGE
from training.pictures.trajectories.clouds import latent_law, name_and_details

LEVEL = 0.05
"""Probability that chance alone exceeds the bounds shown in the pictures."""
OUTER = 0.01
"""Share of the rows that axes leave out if they are far away."""


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Kolmogorov-Smirnov distance ``[D]`` of each column between two sets of rows.

    Args:
        first: Rows of the first set ``[n, D]``.
        second: Rows of the second set ``[m, D]``.
    """
    tests = (ks_2samp(*pair, method="asymp") for pair in zip(first.T, second.T, strict=True))
    return np.array([test.statistic for test in tests])


def chance(first: int, second: int, columns: int = 1) -> float:
    """Return the Kolmogorov-Smirnov distance that no column exceeds by chance at the 5 % level.

    The two sets of rows have the same distribution. The bound is Bonferroni's, so that columns may
    be dependent.

    Args:
        first: Number of rows of the first set.
        second: Number of rows of the second set.
        columns: Number of columns.
    """
    critical = math.sqrt(math.log(2 * columns / LEVEL) / 2)
    return min(critical * math.sqrt(1 / first + 1 / second), 1.0)


def rank_correlations(rows: np.ndarray) -> np.ndarray:
    """Return Spearman's correlations ``[D, D]`` between columns of rows ``[n, D]``.

    Correlations of a constant column are 0.
    """
    ranks = rankdata(rows, axis=0)
    ranks -= ranks.mean(axis=0)
    length = np.sqrt(np.square(ranks).sum(axis=0))
    ranks /= np.where(length > 0, length, 1)
    return np.asarray(ranks.T @ ranks)


def limits(*columns: np.ndarray) -> tuple[float, float]:
    """Return axis limits that contain several sets of numbers ``[n]``, except for outliers.

    The first set limits the width of the axis, so that outliers of other sets cannot shrink its
    picture to a line.
    """
    # With few rows, none is left out.
    lows = [np.quantile(each, OUTER / 2, method="lower") for each in columns]
    highs = [np.quantile(each, 1 - OUTER / 2, method="higher") for each in columns]
    low, high, first, last = min(lows), max(highs), lows[0], highs[0]
    reach = last - first
    if reach > 0:
        low, high = max(low, first - reach), min(high, last + reach)
    least = max(1e-6 * max(abs(low), abs(high)), 1e-300)
    if high - low <= least:  # constant
        room = max(0.05 * abs(low), least) if low else 0.5
        return float(low - room), float(high + room)
    room = 0.04 * (high - low)
    return float(low - room), float(high + room)


FEW_ROWS = 20
"""Number of rows from which a histogram is drawn; fewer rows are drawn as points."""
LARGE_DISTANCE = 0.2
"""Kolmogorov-Smirnov distance that a comparison must be able to detect to conclude a good fit.

It is the distance between normal distributions whose means differ by half a standard deviation.
"""
LEAST_BINS, MOST_BINS = 8, 36
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STRIP = 0.11  # of the tallest bar: how far below the bars one line of quantiles lies
FILL = 0.35  # opacity of the data's bars
MEDIAN: dict[str, Any] = {"marker": "o", "ms": 3.6, "mfc": "white", "mew": 1}
STRAYS = 0.015  # share outside the axes from which a panel states it


def draw_column(
    axes: Axes, labels: Sequence[str], values: Sequence[np.ndarray], strips: bool = True
) -> None:
    """Draw histograms of one or two sets of values: bars for data, an outline for samples.

    Lines below the histograms show quantiles.

    A set of fewer than ``FEW_ROWS`` is drawn as points.
    """
    low, high = limits(*values)
    fewest = min(len(each) for each in values)
    bins = 1 + 2 * int(np.clip(1.25 * fewest ** (1 / 3), LEAST_BINS // 2, MOST_BINS // 2))
    edges = np.linspace(low, high, bins + 1)
    # Relative to all rows, not only those in range, so that the sets are comparable.
    shares = [np.histogram(each, edges)[0] / len(each) for each in values]
    drawn = [share for share, each in zip(shares, values, strict=True) if len(each) >= FEW_ROWS]
    top = max(float(np.max(drawn, initial=0)), 1e-9)
    notes = []
    for number, (label, each, share) in enumerate(zip(labels, values, shares, strict=True)):
        if len(each) < FEW_ROWS:
            draw_points(axes, each, color_of(label), 0.3 * (number + 1))
        else:
            draw_shares(axes, label, share / top, edges, 1.3)
        if strips and len(each) >= FEW_ROWS:
            _quantiles(axes, each, -STRIP * (number + 1), color_of(label))
        beyond = float(((each < low) | (each > high)).mean())
        if beyond > STRAYS:
            notes.append(f"{beyond:.0%} of {label} beyond")
    floor = -STRIP * (len(values) + 0.7) if strips else 0
    axes.set(xlim=(low, high), ylim=(floor, 1.06), yticks=[])
    axes.spines["left"].set_visible(False)
    few_numbers(axes.xaxis)
    axes.xaxis.get_offset_text().set(size=theme.SMALL_SIZE - 1, color=MUTED)
    theme.note_inside(axes, "\n".join(notes))


def draw_points(axes: Axes, values: np.ndarray, color: str, height: float) -> None:
    """Draw a small set of numbers as points, all at one height."""
    heights = np.full(len(values), height)
    axes.plot(values, heights, "o", ms=5, mew=0, alpha=0.7, color=color, clip_on=False)


def draw_shares(
    axes: Axes, label: str, shares: np.ndarray, edges: np.ndarray, width: float
) -> None:
    """Draw the frequencies of values: bars for data, or an outline for samples.

    Args:
        axes: Axes to draw on.
        label: Label of the set, which shows whether it is data or samples.
        shares: Frequencies ``[n]``.
        edges: Edges of the bars ``[n + 1]``.
        width: Line width of an outline.
    """
    if is_outlined(label):
        axes.stairs(shares, edges, color=color_of(label), lw=width)
    else:
        axes.stairs(shares, edges, color=color_of(label), alpha=FILL, fill=True, lw=0)


def legend_below_headline(
    figure: Figure, left: float, labels: Sequence[str], strips: bool = True, note: str = ""
) -> None:
    """Draw a legend of bars, outlines and quantile lines, and a note at the other end of the line.

    Args:
        figure: Figure to draw on.
        left: Distance of either end from the edge, inches.
        labels: Labels of the sets.
        strips: Whether there are lines of quantiles.
        note: Note; may be empty.
    """
    handles = [
        theme.line(label, color_of(label), lw=1.5)
        if is_outlined(label)
        else Patch(color=color_of(label), alpha=FILL, lw=0, label=label)
        for label in labels
    ]
    if strips:
        words = f"{', '.join(f'{100 * share:g}' for share in QUANTILES)} % quantiles"
        handles.append(theme.line(words, lw=1, **MEDIAN))
    theme.legend_line(figure, left, handles, note)


def few_numbers(*axes: Axis) -> None:
    """Set a few round ticks on each axis, away from the ends, where another axis may begin."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))


def is_outlined(label: str) -> bool:
    """Return whether a set of rows is drawn as an outline: samples are, data are not."""
    return label == LABELS["gen"]


def color_of(label: str) -> str:
    """Return the color of a set of rows: orange for samples, blue for data."""
    return ORANGE if is_outlined(label) else BLUE


def counted(tables: Sequence[SavedTable], counts: Sequence[int]) -> str:
    """Describe in words how many rows of each table are drawn, and how many are not finite."""
    parts = []
    for table, count in zip(tables, counts, strict=True):
        what = "rows of data" if table.kind == "melt" else table.label
        lost = table.trajectory.count - count
        left_out = f" ({lost:,} not finite, not drawn)" if lost else ""
        parts.append(f"{count:,} {what}{left_out}")
    return ", ".join(parts)


def _quantiles(axes: Axes, values: np.ndarray, y: float, color: str) -> None:
    """Draw a line between the outer quantiles, thick between the quartiles, with the median."""
    lowest, first, median, third, highest = np.quantile(values, QUANTILES)
    axes.plot([lowest, highest], [y, y], color=color, lw=1, solid_capstyle="butt")
    axes.plot([first, third], [y, y], color=color, lw=3, solid_capstyle="butt")
    axes.plot([median], [y], ls="none", mec=color, **MEDIAN)


MOST, ACROSS = 20, 5
LEFT, GAP, WIDEST, HEIGHT = 0.3, 0.32, 5.1, 1.15  # inches
LEAST_WIDTH = 8.0


def column_page(
    count: int, title: str, subtitle: str, widest: float = WIDEST, **room: float
) -> tuple[Figure, Iterator[Axes], float]:
    """Return a figure with a panel per column, an iterator over panels, and their width.

    Args:
        count: Number of columns.
        title: Title of the figure.
        subtitle: Line below the title.
        widest: Largest width of a panel, inches.
        **room: Room around the panels; see ``theme.panel_page``.
    """
    across = min(count, ACROSS)
    width = min((theme.WIDE - 2 * LEFT - GAP * (across - 1)) / across, widest)
    figure, panels = theme.panels(
        count,
        across,
        (width, HEIGHT),
        title,
        subtitle,
        left=LEFT,
        right=LEFT,
        gap=GAP,
        top=theme.TOP + 1.3 * theme.LINE_HEIGHT,
        **{"above": 0.46, "below": 0.42, "least_width": LEAST_WIDTH, **room},
    )
    return figure, panels, width


def draw_marginals(tables: Sequence[SavedTable]) -> Figure:
    """Draw histograms of at most 20 columns, a panel each, for data, samples, or both."""
    labels, names = [table.label for table in tables], tables[0].names
    rows = [table.rows for table in tables]
    order, far = np.arange(len(names)), None
    if len(rows) == 2:
        far = distances(rows[0], rows[1])
        order = np.argsort(-far, kind="stable")
    shown, dim = order[:MOST], len(names)
    worst = f"{MOST} of" if far is None else f"The {MOST} worst-fitting of"
    which = f"{worst} {dim} columns" if dim > MOST else "Columns"
    figure, panels, width = column_page(len(shown), *_headline(tables, which))
    for axes, column in zip(panels, shown, strict=True):
        draw_column(axes, labels, [each[:, column] for each in rows])
        note = "" if far is None else f"KS distance {far[column]:.3f}"
        theme.name_panel(axes, theme.fitting(names[column], width), note)
    note = ""
    if far is not None:
        bound = chance(len(rows[0]), len(rows[1]), dim)
        note = theme.joined(
            "worst first" if dim > 1 else "",
            f"columns not shown: KS at most {far[order[MOST]]:.2g}" if dim > MOST else "",
            f"by chance {'all are' if dim > 1 else 'it is'} below {bound:.2g} (95 %)",
        )
    legend_below_headline(figure, LEFT, labels, note=note)
    return figure


def _headline(tables: Sequence[SavedTable], what: str, *more: str) -> tuple[str, str]:
    name, details = name_and_details(tables[0].trajectory)
    of = "data and samples" if len(tables) == 2 else tables[0].label
    counts = counted(tables, [len(table.rows) for table in tables])
    distribution = latent_law(tables[-1].trajectory)
    return f"{what} of {name}: {of}", theme.joined(details, counts, distribution, *more)


MOST_PAIRED = 5
LARGEST, PAIRS_LEFT, RIGHT, PAIRS_GAP, BOTTOM = 2.9, 0.85, 0.2, 0.3, 0.55  # inches
PAIRS_LEAST_WIDTH = 7.5
MOST_POINTS = 2000
"""Number of points drawn of each set."""


def draw_pairs(tables: Sequence[SavedTable]) -> Figure:
    """Draw two to five columns in pairs, in a matrix of panels, for data, samples, or both."""
    rows = [table.rows for table in tables]
    correlations = [rank_correlations(each) for each in rows]
    chosen = informative_columns(correlations, MOST_PAIRED)
    size = len(chosen)
    ends = {int(column): limits(*(each[:, column] for each in rows)) for column in chosen}
    side = min((theme.WIDE - PAIRS_LEFT - RIGHT - PAIRS_GAP * (size - 1)) / size, LARGEST)
    step = side + PAIRS_GAP
    height = theme.TOP + 2 * theme.LINE_HEIGHT + size * step + BOTTOM - PAIRS_GAP
    figure = theme.new_figure(
        max(PAIRS_LEFT + size * step - PAIRS_GAP + RIGHT, PAIRS_LEAST_WIDTH), height
    )
    telling = (
        "whose correlations differ most" if len(tables) == 2 else "with the strongest correlations"
    )
    dim = len(tables[0].names)
    chosen_of = f"{size} of {dim} columns, {telling}" if size < dim else ""
    words = _headline(tables, "Pairs of columns", chosen_of, "ρ: rank correlation")
    theme.headline(figure, *words, RIGHT, height - theme.MARGIN)
    legend_below_headline(figure, RIGHT, [table.label for table in tables], strips=False)
    for row, across in np.ndindex(size, size):
        place = (PAIRS_LEFT + across * step, BOTTOM + (size - 1 - row) * step, side, side)
        axes = theme.axes_at(figure, place)
        here, beside = int(chosen[across]), int(chosen[row])
        if row == across:
            values = [each[:, here] for each in rows]
            draw_column(axes, [table.label for table in tables], values, strips=False)
        else:
            # A single set fills both halves.
            which = int(across > row) if len(tables) == 2 else 0
            _scatter(axes, rows[which][:, [here, beside]], color_of(tables[which].label))
            axes.set(xlim=ends[here], ylim=ends[beside])
            correlation = round(correlations[which][here, beside], 2) + 0.0
            theme.note_above(axes, f"ρ {correlation:.2f}".replace("-", "−"))
        label_pair(axes, row, across, [tables[0].names[column] for column in chosen], side, 0.62)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_offset_text().set(size=theme.SMALL_SIZE - 1, color=MUTED)
        axes.xaxis.get_offset_text().set_visible(row == size - 1)
        axes.yaxis.get_offset_text().set_visible(across == 0 and row != across)
    return figure


def label_pair(
    axes: Axes, row: int, across: int, names: Sequence[str], side: float, off: float
) -> None:
    """Label a panel of a matrix of pairs: below the last row, and left of the first column.

    Args:
        axes: Axes of the panel.
        row: Row of the panel.
        across: Column of the panel.
        names: Names of the columns.
        side: Side of a panel, inches.
        off: Distance of the left label from the axes, inches.
    """
    is_last, is_first = row == len(names) - 1, across == 0
    axes.tick_params(labelbottom=is_last, labelleft=is_first and row > 0)
    x, y = (theme.fitting(names[place], side) for place in (across, row))
    theme.label(axes, x=x * is_last, y=y * is_first)
    if is_first:
        axes.yaxis.set_label_coords(-off / side, 0.5)


def informative_columns(correlations: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Choose at most ``most`` columns with strong, or strongly different, correlations.

    For one set of rows, correlations are strong; for two sets, they differ between the sets.

    Args:
        correlations: Correlations ``[D, D]`` of one set or two sets.
        most: Largest number of columns.

    Returns:
        Indices in column order.
    """
    change = np.abs(correlations[0] - (correlations[1] if len(correlations) == 2 else 0))
    np.fill_diagonal(change, 0)
    chosen = list(np.unravel_index(change.argmax(), change.shape))
    if chosen[0] == chosen[1]:  # all are equal
        chosen = [0, 1]
    while len(chosen) < min(most, len(change)):
        gain = change[:, chosen].sum(axis=1)
        gain[chosen] = -1
        chosen.append(gain.argmax())
    return np.sort(chosen)


def _scatter(axes: Axes, points: np.ndarray, color: str) -> None:
    """Draw points ``[n, 2]``, or an evenly spaced subset of many; fewer points are larger."""
    shown = points[evenly(len(points), MOST_POINTS)]
    size = float(np.interp(np.log10(len(shown)), [1.5, 3.3], [4.0, 2.0]))
    axes.plot(*shown.T, "o", ms=size, mew=0, color=color, alpha=0.5)
    few_numbers(axes.xaxis, axes.yaxis)
