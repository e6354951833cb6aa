"""How much columns of a table have to do with each other, whatever their types.

Numbers count by their ranks, so that skewed ones need no care:

    number, number   Spearman's correlation, in [-1, 1]
    number, level    the correlation ratio eta: eta^2 is the share of the ranks' variance that is
                     between levels, less what chance makes of it (Kelley 1935)
    level, level     Cramer's V of the table of counts, likewise (Bergsma 2013, "A bias-correction
                     for Cramer's V and Tschuprow's T")

Both are in [0, 1]. Without their corrections a small set would look more associated than a large
one with the same law.
"""

import importlib

import numpy as np

FEWEST = 10
"""Rows that have both cells."""


def associations(values: np.ndarray, is_level: np.ndarray) -> np.ndarray:
    """Of all pairs of columns, ``[D, D]``; NaN where too few rows have both, or one is constant.

    Args:
        values: ``[n, D]``, places of levels among them; NaN where they are missing.
        is_level: ``[D]``.
    """
    dim = values.shape[1]
    made = np.full((dim, dim), np.nan)
    for one in range(dim):
        for other in range(one):
            pair = [one, other]
            made[one, other] = made[other, one] = association(values[:, pair], is_level[pair])
    return made


def association(values: np.ndarray, is_level: np.ndarray) -> float:
    """Of two columns ``[n, 2]``; see ``associations``."""
    both = values[~np.isnan(values).any(axis=1)]
    x, y = both[:, np.argsort(is_level, kind="stable")].T  # numbers before levels
    if len(both) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return (_correlation, _correlation_ratio, _cramers_v)[int(np.sum(is_level))](x, y)


def _ranks(x: np.ndarray) -> np.ndarray:
    # Scipy takes a while to import, and most tables have no use for it.
    ranks: np.ndarray = importlib.import_module("scipy.stats").rankdata(x)
    return ranks


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _correlation_ratio(number: np.ndarray, level: np.ndarray) -> float:
    ranks, count = _ranks(number), len(number)
    _, which = np.unique(level, return_inverse=True)
    sizes = np.bincount(which)
    means = np.bincount(which, ranks) / sizes
    between = (sizes * np.square(means - ranks.mean())).sum() / (count * ranks.var())
    free = count - len(sizes)
    left = (1 - between) * (count - 1) / free if free > 0 else 1.0
    return float(np.sqrt(np.clip(1 - left, 0, 1)))


def _cramers_v(x: np.ndarray, y: np.ndarray) -> float:
    count = len(x)
    (names, rows), (others, columns) = (np.unique(each, return_inverse=True) for each in (x, y))
    height, width = len(names), len(others)
    table = np.bincount(rows * width + columns, minlength=height * width).reshape(height, width)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / count
    phi = (np.square(table - expected) / expected).sum() / count
    phi -= (height - 1) * (width - 1) / (count - 1)
    least = min(size - (size - 1) ** 2 / (count - 1) for size in (height, width)) - 1
    return float(np.sqrt(np.clip(phi / least, 0, 1))) if least > 0 else 0.0
