"""Conditional distributions of cells of records, and log densities of rows."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from training.subjects.record_spaces import level_of


class CategoryDistribution(NamedTuple):
    """Probabilities of categories or of distinct values.

    Attributes:
        values: Values ``[L]``.
        probabilities: Probabilities ``[n, L]``.
    """

    values: np.ndarray
    probabilities: np.ndarray

    @property
    def likeliest(self) -> np.ndarray:
        """Most probable values ``[n]``."""
        return np.asarray(self.values[self.probabilities.argmax(axis=1)])

    def at(self, truth: np.ndarray) -> np.ndarray:
        """Return the probabilities ``[n]`` of values; 0 for unknown values."""
        at = level_of(truth, self.values)
        return np.where(at < 0, 0.0, self.probabilities[np.arange(len(at)), at])

    def around(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities ``[n]`` of less than values ``[n]``, and of at most these values."""
        below = np.where(self.values < truth[:, None], self.probabilities, 0.0).sum(axis=1)
        return below, below + self.at(truth)

    def ranks(self, truth: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Return randomized probability integral transforms of values ``[n]``."""
        below, upto = self.around(truth)
        drawn = torch.rand(len(truth), generator=generator, dtype=torch.float64).numpy()
        return np.asarray(below + (upto - below) * drawn)


class CellDistribution(NamedTuple):
    """Conditional distribution of one column in each of n rows.

    Attributes:
        quantiles: Quantiles ``[n, Q]``; not meaningful for unordered categories.
        levels: Probabilities of a column with categories; None for a number.
        atoms: Probabilities of the atoms of a number; None for other columns.
    """

    quantiles: np.ndarray
    levels: CategoryDistribution | None = None
    atoms: CategoryDistribution | None = None


@dataclass(frozen=True)
class RowScores:
    """Log densities of rows, and tail probabilities of cells.

    Attributes:
        log_prob: Log density ``[n]`` in nats of the observed cells: densities of continuous numbers
            in their units, probabilities of other values.
        error: Error of the log density ``[n]``.
        tails: Tail probability ``[n, P]`` of each cell given the others of its row: the probability
            of a value as unlikely, or as far out on either side; NaN for missing cells.
    """

    log_prob: np.ndarray
    error: np.ndarray
    tails: np.ndarray
