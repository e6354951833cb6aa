"""Strength of association between columns of a table, for numbers and categories.

Numbers enter by their ranks, so that skewed ones need no special treatment:

    number, number      Spearman's correlation, in [-1, 1]
    number, category    the correlation ratio eta: eta^2 is the fraction of the ranks' variance
                        between categories, corrected for chance (Kelley 1935)
    category, category  Cramer's V of the contingency table, corrected likewise (Bergsma 2013, "A
                        bias-correction for Cramer's V and Tschuprow's T")

Both are in [0, 1]. Without the corrections, a small set would show more association than a large
one with the same distribution.

Distance correlation tests whether numbers depend on each other in any way. For pairs (x_i, y_i),
i = 1..n, let ``A`` be the U-centered distances ``a_ij = |x_i - x_j|``,

    A_ij = a_ij - (a_i. + a_.j) / (n - 2) + a_.. / ((n - 1)(n - 2))  for i != j,  A_ii = 0,

where dots denote sums, and B the same for y. The bias-corrected distance correlation
``R = <A, B> / sqrt(<A, A> <B, B>)`` has mean 0 if x and y are independent, and tends to a positive
value otherwise (Székely and Rizzo 2013, "The distance correlation t-test of independence in high
dimension"). Under independence, the upper tail of ``n R + 1`` is at most about that of a chi-square
distribution with one degree of freedom (Shen, Panda and Vogelstein 2022, "The chi-square test of
distance correlation").
"""

import importlib

import numpy as np
import torch
from torch import Tensor

FEWEST = 10
"""Smallest number of rows that have both values."""


def associations(values: np.ndarray, is_level: np.ndarray) -> np.ndarray:
    """Return the association ``[D, D]`` between each pair of columns.

    The association is NaN where too few rows have both values, or where one column is constant.

    Args:
        values: Values ``[n, D]``, NaN for missing values; categories are indices.
        is_level: Mask ``[D]`` of the columns that contain categories.
    """
    dim = values.shape[1]
    made = np.full((dim, dim), np.nan)
    for one in range(dim):
        for other in range(one):
            pair = [one, other]
            made[one, other] = made[other, one] = association(values[:, pair], is_level[pair])
    return made


def association(values: np.ndarray, is_level: np.ndarray) -> float:
    """Return the association between two columns, NaN if undefined.

    Args:
        values: Values ``[n, 2]``, NaN for missing values; categories are indices.
        is_level: Mask ``[2]`` of the columns that contain categories.
    """
    both = values[~np.isnan(values).any(axis=1)]
    x, y = both[:, np.argsort(is_level, kind="stable")].T  # numbers before levels
    if len(both) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    return (_correlation, _correlation_ratio, _cramers_v)[int(np.sum(is_level))](x, y)


def with_indicators(values: np.ndarray, is_level: bool, indicators: np.ndarray) -> np.ndarray:
    """Return the associations ``[K]`` of a column with K columns of two values each.

    They are those of ``association``, in one pass for all indicators of a number.

    Args:
        values: Values ``[n]``, NaN for missing values.
        is_level: Whether the column contains categories.
        indicators: Indicators ``[n, K]``, bool.
    """
    present = ~np.isnan(values)
    values, indicators = values[present], indicators[present]
    if is_level:
        both = np.array([True, True])
        pairs = (np.column_stack([values, each]) for each in indicators.T)
        return np.array([association(pair, both) for pair in pairs])
    count = len(values)
    if count < FEWEST or np.ptp(values) == 0:
        return np.full(indicators.shape[1], np.nan)
    ranks, of_ones = _ranks(values) - (count + 1) / 2, indicators.sum(axis=0)
    sums = ranks @ indicators  # their negatives are those of the other rows, since all add to 0
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.square(sums) * (1 / of_ones + 1 / (count - of_ones)) / (count * ranks.var())
    return np.asarray(np.sqrt(np.clip(1 - (1 - between) * (count - 1) / (count - 2), 0, 1)))


def _ranks(x: np.ndarray) -> np.ndarray:
    # Scipy takes a while to import, and most uses do not need it.
    return importlib.import_module("scipy.stats").rankdata(x)


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


def independence_p_values(columns: Tensor, conditions: Tensor) -> Tensor:
    """Test the independence of each condition and each column by distance correlation.

    P-values above about 0.05 are not exact. A constant is independent of everything. The test needs
    memory for ``n² (D + 2)`` numbers.

    Args:
        columns: Values ``[n, D]`` of the columns.
        conditions: Values ``[n, C]`` of the conditions in the same rows.

    Returns:
        P-values ``[C, D]``, float64.
    """
    n = len(columns)
    centered = torch.stack([_centered(column) for column in columns.double().T]).flatten(1)
    lengths = centered.square().sum(dim=1)
    p_values = []
    for condition in conditions.double().T:
        distances = _distances(condition)
        # Centering is a projection: only one factor of a product needs to be centered.
        products = centered @ distances.flatten()
        lengths_of_both = (lengths * _length(distances)).clamp_min(0).sqrt()
        p_values.append(torch.where(lengths_of_both > 0, n * products / lengths_of_both, -1.0))
    statistic = (torch.stack(p_values) + 1).clamp_min(0)
    # Upper tail of a chi-square with one degree of freedom, the square of a normal variable.
    return torch.special.erfc((statistic / 2).sqrt())


def _distances(numbers: Tensor) -> Tensor:
    return (numbers[:, None] - numbers).abs_()


def _centered(numbers: Tensor) -> Tensor:
    distances, n = _distances(numbers), len(numbers)
    rows = distances.sum(dim=1) / (n - 2)
    distances -= rows[:, None] + rows - rows.sum() / (n - 1)
    return distances.fill_diagonal_(0)


def _length(distances: Tensor) -> Tensor:
    """Return ``<A, A>`` of distances ``[n, n]`` that are not centered."""
    n = len(distances)
    rows = distances.sum(dim=1)
    of_rows = 2 / (n - 2) * rows.square().sum()
    return distances.square().sum() - of_rows + rows.sum().square() / ((n - 1) * (n - 2))
