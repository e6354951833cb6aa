"""Columns of rows of data against samples: singly, in pairs, and how far the sets are apart."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import ks_2samp, rankdata

from training.files.arrays import evenly
from training.files.rows import LABELS
from training.pictures.content import Result, judged
from training.pictures.figure import FEW, Boxes, Mark, Panel, Points, Steps
from training.pictures.figure import Segments as Lines
from training.pictures.theme import BLUE, ORANGE

LEVEL = 0.05
"""Probability that chance alone exceeds the bounds shown in the pictures."""
OUTER = 0.01
"""Share of the rows that axes leave out if they are far away."""
LARGE_DISTANCE = 0.2
"""Kolmogorov-Smirnov distance that a comparison must be able to detect to conclude a good fit.

It is the distance between normal distributions whose means differ by half a standard deviation.
"""
LEAST_BINS, MOST_BINS = 8, 36
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STRIP = 0.11  # of the tallest bar: how far below the bars one line of quantiles lies
FILL = 0.35  # opacity of the data's bars
STRAYS = 0.015  # share outside the axes from which a panel states it
MOST, ACROSS = 20, 5
"""Number of columns that are shown at most, and number of panels side by side."""
MOST_POINTS = 2000
"""Number of points drawn of each set."""


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


def fit_result(of: str, gap: float, bound: float, column: str) -> Result:
    """Return the largest distance between columns of data and of samples as a judged number.

    Args:
        of: Data and samples.
        gap: Kolmogorov-Smirnov distance.
        bound: Bound that chance exceeds at the 5 % level.
        column: Name of the column.
    """
    fits = judged(gap <= bound, bound, LARGE_DISTANCE)
    value = f"largest Kolmogorov-Smirnov distance {gap:.3f}, of {column}"
    target = f"at most {bound:.3f}, by chance with 95 % probability"
    return Result.tested(of, "columns of samples against data", value, target, fits, "rows")


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


def is_outlined(label: str) -> bool:
    """Return whether a set of rows is drawn as an outline: samples are, data are not."""
    return label == LABELS["gen"]


def color_of(label: str) -> str:
    """Return the color of a set of rows: orange for samples, blue for data."""
    return ORANGE if is_outlined(label) else BLUE


def shares(label: str, edges: np.ndarray, heights: np.ndarray) -> Steps:
    """Return the frequencies of values: bars for data, or an outline for samples."""
    color = color_of(label)
    if is_outlined(label):
        return Steps(edges, heights, color, label)
    return Steps(edges, heights, color, label, FILL, filled=True)


def column_panel(
    sets: Mapping[str, np.ndarray],
    title: str = "",
    note: str = "",
    strips: bool = True,
    ticks: Mapping[float, str] | None = None,
) -> Panel:
    """Return histograms of one or two sets of values: bars for data, an outline for samples.

    Lines below the histograms show quantiles. A set of few rows is drawn as points.

    Args:
        sets: Values ``[n]`` by label of their set.
        title: Title of the panel.
        note: Note below the title.
        strips: Whether quantiles are drawn.
        ticks: Ticks of the horizontal axis; None for automatic ones.
    """
    low, high = limits(*sets.values())
    fewest = min(map(len, sets.values()))
    bins = 1 + 2 * int(np.clip(1.25 * fewest ** (1 / 3), LEAST_BINS // 2, MOST_BINS // 2))
    edges = np.linspace(low, high, bins + 1)
    # Relative to all rows, not only those in range, so that the sets are comparable.
    heights = {label: np.histogram(each, edges)[0] / len(each) for label, each in sets.items()}
    many = [heights[label].max() for label, each in sets.items() if len(each) >= FEW]
    top = max([*many, 1e-9])
    marks, notes = list[Mark](), [note] if note else []
    for place, (label, values) in enumerate(sets.items(), start=1):
        if len(values) < FEW:
            marks.append(few_points(label, values, 0.3 * place))
        else:
            marks.append(shares(label, edges, heights[label] / top))
        if strips and len(values) >= FEW:
            marks += _quantiles(values, -STRIP * place, color_of(label))
        beyond = float(((values < low) | (values > high)).mean())
        if beyond > STRAYS:
            notes.append(f"{beyond:.0%} of {label} beyond")
    floor = -STRIP * (len(sets) + 0.7) if strips else 0
    return Panel(
        marks,
        title,
        "\n".join(notes),
        x_limits=(low, high),
        y_limits=(floor, 1.06),
        x_ticks=ticks,
        y_ticks={},
    )


def few_points(label: str, values: np.ndarray, height: float) -> Points:
    """Return a small set of numbers as points, all at one height."""
    heights = np.full(len(values), height)
    return Points(values, heights, color_of(label), label, 5, alpha=0.7)


def _quantiles(values: np.ndarray, y: float, color: str) -> list[Mark]:
    """Return a line between the outer quantiles, thick between the quartiles, with the median."""
    lowest, first, median, third, highest = np.quantile(values, QUANTILES)
    label = f"{', '.join(f'{100 * share:g}' for share in QUANTILES)} % quantiles"
    return [
        Lines([lowest], [highest], [y], [y], color, width=1.0),
        Lines([first], [third], [y], [y], color, width=3.0),
        Points([median], [y], color, label, 3.6, hollow=True),
    ]


def bars_of_levels(
    sets: Mapping[str, np.ndarray], counts: Mapping[str, int], places: np.ndarray
) -> list[Mark]:
    """Return horizontal bars of data and outlines of samples; points for a set of few rows.

    Args:
        sets: Frequencies ``[n]`` of the values by label of their set.
        counts: Numbers of rows by label.
        places: Vertical places of the values ``[n]``.
    """
    marks: list[Mark] = []
    for label, share in sets.items():
        color = color_of(label)
        if counts[label] < FEW:
            marks.append(Points(share, places, color, label, 6, alpha=0.8))
            continue
        ends = (np.zeros(len(share)), share, places - 0.38, places + 0.38)
        outlined = is_outlined(label)
        marks.append(Boxes(*ends, color, label, 1.0 if outlined else FILL, not outlined))
    return marks


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


def scattered(points: np.ndarray, color: str, label: str = "", alpha: float = 0.5) -> Points:
    """Return points ``[n, 2]``, or an evenly spaced subset of many; fewer points are larger."""
    shown = points[evenly(len(points), MOST_POINTS)]
    size = float(np.interp(np.log10(max(len(shown), 1)), [1.5, 3.3], [4.0, 2.0]))
    return Points(shown[:, 0], shown[:, 1], color, label, size, alpha=alpha)


def signed(value: float, form: str = ".2f") -> str:
    """Format a number with a minus sign instead of a hyphen, and without a negative zero."""
    return f"{round(float(value), 9) + 0.0:{form}}".replace("-", "−")
