"""How well the columns of two sets of rows fit, and what of them axes can hold.

The distance of Kolmogorov and Smirnov is the largest difference of two distribution functions,
whatever the units. Of n and m rows of one law it passes ``c sqrt((n + m) / (n m))`` with
probability ``2 exp(-2 c^2)``, if n and m are large (Smirnov 1939); if they are small, less often.
"""

import math

import numpy as np

LEVEL = 0.05
"""Probability that chance alone exceeds the bounds shown in the pictures."""
OUTER = 0.01
"""Share of the rows that axes leave out, if they are far away."""


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kolmogorov-Smirnov distances ``[D]`` of the columns of ``[n, D]`` and ``[m, D]``."""
    return np.array([_distance(*pair) for pair in zip(first.T, second.T, strict=True)])


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference of the distribution functions of ``[n]`` and ``[m]``."""
    steps = np.concatenate([first, second])
    shares = [
        np.searchsorted(np.sort(values), steps, side="right") / len(values)
        for values in (first, second)
    ]
    return float(np.abs(shares[0] - shares[1]).max())


def chance(first: int, second: int, columns: int = 1) -> float:
    """Distance that the largest of so many columns passes by chance with probability 5 % or less.

    Args:
        first: Rows of one set.
        second: Rows of the other.
        columns: Independent or not (Bonferroni).
    """
    critical = math.sqrt(math.log(2 * columns / LEVEL) / 2)
    return min(critical * math.sqrt(1 / first + 1 / second), 1.0)


def rank_correlations(rows: np.ndarray) -> np.ndarray:
    """Spearman's correlations ``[D, D]`` of the columns of ``[n, D]``; 0 with constant ones."""
    from scipy.stats import rankdata  # takes a second to import, which pairs alone need

    ranks = rankdata(rows, axis=0)
    ranks -= ranks.mean(axis=0)
    length = np.sqrt(np.square(ranks).sum(axis=0))
    ranks /= np.where(length > 0, length, 1)
    return np.asarray(ranks.T @ ranks)


def limits(*columns: np.ndarray) -> tuple[float, float]:
    """Where axes begin and end that show all but strays of several sets of numbers ``[n]``.

    The first set decides how wide axes can be, so that the others cannot shrink it to a line.
    """
    # Of few rows none is left out.
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
