"""Drawn rows whose columns have the same marginal distributions as the data.

A flow smooths narrow features, above all repeated values of a column, so its draws have fewer of
them. More rows than wanted are therefore drawn, and weighted by *raking* (Deming and Stephan 1940).
Of all weights for which the bins of each column have the same shares as in the data, raking finds
those nearest to equal weights. Rows are sampled in proportion to their weights, each at most once.
Dependences between columns in a row stay as drawn.

A column with missing cells is left as drawn, because its observed cells may have another
distribution than all cells.
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
"""Number of rows drawn for each row to be kept."""
ROWS_PER_BIN, FEWEST_BINS = 100, 10
"""Least number of rows of the data in a bin, and number of bins below which bins are smaller.

A value that this many rows have is a bin of its own.
"""
ROUNDS = 50
"""Number of raking rounds over all columns."""


@dataclass(frozen=True, eq=False)
class Margins:
    """Binned marginal distributions of P columns.

    Attributes:
        ends: Boundaries between the bins of each column, increasing, ``[bins - 1]``.
        shares: Probabilities of the bins of each column, ``[bins]``, which add to 1.
    """

    ends: Sequence[np.ndarray]
    shares: Sequence[np.ndarray]

    @classmethod
    def of(cls, rows: np.ndarray) -> "Margins":
        """Compute the margins of rows ``[n, P]``; a column with NaN has a single bin."""
        return cls(*zip(*map(_margin, rows.T), strict=True))

    @classmethod
    def read(cls, listed: object, columns: int, broken: Exception) -> "Margins | None":
        """Return the margins from the JSON value that ``listed`` returns; None for None.

        Raises:
            Exception: The value does not describe margins of this number of columns; the error is
                ``broken``.
        """
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
        """Margins as a JSON value, for a network file."""
        pairs = zip(self.ends, self.shares, strict=True)
        return [[ends.tolist(), shares.tolist()] for ends, shares in pairs]

    def kept(self, drawn: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Choose drawn rows that together have these margins; return their indices ``[count]``.

        Margins of columns with NaN are ignored.

        Args:
            drawn: Rows ``[N, P]`` to choose from, at least ``count``.
            count: Number of rows to keep.
            seed: Random seed.
        """
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
        # Shuffle, so that a row's chance depends only on its weight.
        generator = seeded_generator("cpu", seed, Stream.RESAMPLING)
        order = torch.randperm(len(drawn), generator=generator)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        log_weights = torch.from_numpy(weights).log()[order]
        taken = np.unique(order[systematic(log_weights[None], uniform, count)[0]])
        # If margins need more rows of some kind than there are, others take their place.
        left = np.setdiff1d(order.numpy(), taken)
        more = left[np.argsort(-weights[left], kind="stable")[: count - len(taken)]]
        return np.sort(np.concatenate([taken, more]))


def by_column(listed: object, count: int, broken: Exception) -> list[Any]:
    """Check that a JSON value is a list with one entry per column, and return it.

    Raises:
        Exception: The value is not a list of this length; the error is ``broken``.
    """
    if not (isinstance(listed, list) and len(listed) == count):
        raise broken
    return listed


def _margin(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boundaries between bins, and the shares of bins, of values ``[n]``."""
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
