"""Conditional distributions of cells of records, and log densities of rows."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from training.subjects.record_spaces import level_of


class CategoryDistribution(NamedTuple):
    """Probabilities of the L categories or distinct values of a column, in each of n rows.

    Attributes:
        values: Categories (as indices) or distinct values ``[L]``, increasing.
        probabilities: Probabilities ``[n, L]`` of these values.
    """

    values: np.ndarray
    probabilities: np.ndarray

    @property
    def likeliest(self) -> np.ndarray:
        """Most probable value in each row, ``[n]``."""
        return np.asarray(self.values[self.probabilities.argmax(axis=1)])

    def at(self, truth: np.ndarray) -> np.ndarray:
        """Return the probability of one value ``[n]`` per row; 0 for unknown values."""
        at = level_of(truth, self.values)
        return np.where(at < 0, 0.0, self.probabilities[np.arange(len(at)), at])

    def around(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``P(x < value)`` and ``P(x <= value)``, both ``[n]``, for one value per row."""
        below = np.where(self.values < truth[:, None], self.probabilities, 0.0).sum(axis=1)
        return below, below + self.at(truth)

    def ranks(self, truth: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Return the randomized probability integral transform ``[n]`` of one value per row."""
        below, upto = self.around(truth)
        drawn = torch.rand(len(truth), generator=generator, dtype=torch.float64).numpy()
        return np.asarray(below + (upto - below) * drawn)


class CellDistribution(NamedTuple):
    """Conditional distribution of one column in each of n rows.

    Attributes:
        quantiles: Quantiles ``[n, Q]`` at Q quantile levels; not meaningful for unordered
            categories.
        levels: Probabilities of the categories of a column; None for a number.
        atoms: Probabilities of the frequently repeated values (atoms) of a number; None for other
            columns.
    """

    quantiles: np.ndarray
    levels: CategoryDistribution | None = None
    atoms: CategoryDistribution | None = None


@dataclass(frozen=True)
class RowScores:
    """Log densities of n rows, and tail probabilities of their cells in P columns.

    Attributes:
        log_prob: Log density ``[n]`` in nats of the observed cells: densities of continuous numbers
            in their units, probabilities of other values.
        error: Standard error of the log density ``[n]``, or a bound on the error.
        tails: Tail probability ``[n, P]`` of each cell, given the other cells of the row. For a
            category, it is the probability of a category at most as probable; for a number, of a
            value at least as far out on either side. NaN for missing cells.
    """

    log_prob: np.ndarray
    error: np.ndarray
    tails: np.ndarray
