"""Whether numbers depend on each other, in whatever way: distance correlation, and its test.

For pairs (x_i, y_i), i = 1..n, let ``A`` be the U-centered distances ``a_ij = |x_i - x_j|``,

    A_ij = a_ij - (a_i. + a_.j) / (n - 2) + a_.. / ((n - 1)(n - 2))  for i != j,  A_ii = 0,

with sums over the dots, and B the same of y. The bias-corrected distance correlation
``R = <A, B> / sqrt(<A, A> <B, B>)`` is 0 in the mean if x and y are independent, and tends to more
otherwise (Székely and Rizzo 2013, "The distance correlation t-test of independence in high
dimension"). Then ``n R + 1`` is about a chi-square with one degree of freedom or less, in its upper
tail (Shen, Panda and Vogelstein 2022, "The chi-square test of distance correlation").
"""

import torch
from torch import Tensor


def independence_p_values(columns: Tensor, conditions: Tensor) -> Tensor:
    """Of each condition, that it is independent of each column: ``[C, D]``, float64.

    Values above about 0.05 are not exact. A number that does not vary depends on nothing.

    Args:
        columns: ``[n, D]``, in any units.
        conditions: ``[n, C]``; memory is that of ``n² (D + 2)`` numbers.
    """
    n = len(columns)
    centered = torch.stack([_centered(column) for column in columns.double().T]).flatten(1)
    lengths = centered.square().sum(dim=1)
    p_values = []
    for condition in conditions.double().T:
        distances = _distances(condition)
        # Centering is a projection: of a product one factor is to be centered.
        products = centered @ distances.flatten()
        lengths_of_both = (lengths * _length(distances)).clamp_min(0).sqrt()
        p_values.append(torch.where(lengths_of_both > 0, n * products / lengths_of_both, -1.0))
    statistic = (torch.stack(p_values) + 1).clamp_min(0)
    # Of a chi-square with one degree of freedom, which is the square of a normal number.
    return torch.special.erfc((statistic / 2).sqrt())


def _distances(numbers: Tensor) -> Tensor:
    return (numbers[:, None] - numbers).abs_()


def _centered(numbers: Tensor) -> Tensor:
    distances, n = _distances(numbers), len(numbers)
    rows = distances.sum(dim=1) / (n - 2)
    distances -= rows[:, None] + rows - rows.sum() / (n - 1)
    return distances.fill_diagonal_(0)


def _length(distances: Tensor) -> Tensor:
    """``<A, A>`` of distances ``[n, n]`` that are not centered."""
    n = len(distances)
    rows = distances.sum(dim=1)
    of_rows = 2 / (n - 2) * rows.square().sum()
    return distances.square().sum() - of_rows + rows.sum().square() / ((n - 1) * (n - 2))
