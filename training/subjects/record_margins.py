"""Drawn rows among which each column is distributed as it is in the data.

A flow smooths what is narrow, heaps of a column above all, and so all its draws have less of it. So
more rows are drawn than are wanted, and weighed by *raking* (Deming and Stephan 1940): of all
weights under which the bins of each column have the shares that they have in the data, these are
nearest to equal ones. Rows are taken in proportion to them, each once at most. What columns have to
do with each other in a row stays as it was drawn.

A column with missing cells is left as it is drawn: of the cells that are there it may have another
distribution than of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.inference.weights import systematic

TIMES = 4
"""Rows that are drawn for each that is wanted."""
ROWS_PER_BIN, FEWEST_BINS = 100, 10
"""Rows of the data in each bin, at least, unless bins were fewer; a value that as many have is a
bin of its own."""
ROUNDS = 50
"""Of raking, over all columns."""


@dataclass(frozen=True, eq=False)
class Margins:
    """The distributions of P columns.

    Attributes:
        ends: Between the bins of each column, rising, ``[bins - 1]``.
        shares: Of these bins, ``[bins]``, which add to 1.
    """

    ends: Sequence[np.ndarray]
    shares: Sequence[np.ndarray]

    @classmethod
    def of(cls, rows: np.ndarray) -> "Margins":
        """Those of rows ``[n, P]``; of a column with NaN, one bin for all."""
        return cls(*zip(*map(_margin, rows.T), strict=True))

    @classmethod
    def read(cls, listed: object, columns: int, broken: Exception) -> "Margins | None":
        """What ``listed`` gave; None of None. Raises an error if it is no list of so many."""
        if listed is None:
            return None
        ends, shares = [], []
        for pair in by_column(listed, columns, broken):
            try:
                between, parts = (np.array(part, dtype=np.float64) for part in pair)
            except (TypeError, ValueError):
                raise broken from None
            rising = between.ndim == parts.ndim == 1 and bool((np.diff(between) > 0).all())
            if not (rising and len(parts) == len(between) + 1 and bool((parts >= 0).all())):
                raise broken
            ends.append(between)
            shares.append(parts)
        return cls(ends, shares)

    @property
    def listed(self) -> list[list[list[float]]]:
        """As JSON has them."""
        pairs = zip(self.ends, self.shares, strict=True)
        return [[ends.tolist(), shares.tolist()] for ends, shares in pairs]

    def kept(self, drawn: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Places ``[count]`` of rows, in their order, that together have these margins, of at least
        so many rows ``[N, P]``, chosen by a seed; of a column with NaN the margin is let go."""
        parts = [
            (np.searchsorted(ends, column), shares)
            for ends, shares, column in zip(self.ends, self.shares, drawn.T, strict=True)
            if not np.isnan(column).any()
        ]
        weights = np.full(len(drawn), count / len(drawn))
        for _ in range(ROUNDS):
            for bins, shares in parts:
                have = np.bincount(bins, weights=weights, minlength=len(shares))
                ratio = np.where(have > 0, count * shares / np.where(have > 0, have, 1.0), 1.0)
                weights = (weights * ratio[bins]).clip(max=1.0)
        # In an order that says nothing: a row's chance is its weight.
        generator = seeded_generator("cpu", seed, Stream.RESAMPLING)
        order = torch.randperm(len(drawn), generator=generator)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        log_weights = torch.from_numpy(weights).log()[order]
        taken = np.unique(order[systematic(log_weights[None], uniform, count)[0]])
        # Where margins ask for more of some rows than there are, others are taken in their place.
        left = np.setdiff1d(order.numpy(), taken)
        more = left[np.argsort(-weights[left], kind="stable")[: count - len(taken)]]
        return np.sort(np.concatenate([taken, more]))


def by_column(listed: object, count: int, broken: Exception) -> list[Any]:
    """What a file lists of so many columns. Raises an error if it does not."""
    if not (isinstance(listed, list) and len(listed) == count):
        raise broken
    return listed


def _margin(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends between bins, and shares of these, of values ``[n]``."""
    if np.isnan(column).any():
        return np.zeros(0), np.ones(1)
    values, counts = np.unique(column, return_counts=True)
    least = min(ROWS_PER_BIN, len(column) / FEWEST_BINS)
    firsts, filled = [0], 0
    for at, count in enumerate(counts.tolist()):
        if filled and (filled >= least or count >= least):
            firsts.append(at)
            filled = 0
        filled += count
    shares = np.add.reduceat(counts, firsts) / len(column)
    first = np.array(firsts[1:], dtype=np.int64)
    return (values[first - 1] + values[first]) / 2, shares
