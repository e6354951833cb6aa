"""What answers about cells of records are."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from training.subjects.record_spaces import level_of


class LevelLaw(NamedTuple):
    """Probabilities of levels.

    Attributes:
        values: Of the levels ``[L]``.
        probabilities: ``[n, L]``.
    """

    values: np.ndarray
    probabilities: np.ndarray

    @property
    def likeliest(self) -> np.ndarray:
        """Values ``[n]``."""
        return np.asarray(self.values[self.probabilities.argmax(axis=1)])

    def at(self, truth: np.ndarray) -> np.ndarray:
        """Probabilities ``[n]`` of values that are there, 0 of those that are no level."""
        at = level_of(truth, self.values)
        return np.where(at < 0, 0.0, self.probabilities[np.arange(len(at)), at])

    def around(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities ``[n]`` of less than values ``[n]``, and of these or less."""
        below = np.where(self.values < truth[:, None], self.probabilities, 0.0).sum(axis=1)
        return below, below + self.at(truth)

    def ranks(self, truth: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """What distribution functions have at values ``[n]``, each spread over its probability."""
        below, upto = self.around(truth)
        drawn = torch.rand(len(truth), generator=generator, dtype=torch.float64).numpy()
        return np.asarray(below + (upto - below) * drawn)


class CellLaw(NamedTuple):
    """What one column may be in each of n rows, given others.

    Attributes:
        quantiles: ``[n, Q]``; of levels of a category they mean little.
        levels: Of a column that is seen as levels; None of a number.
        atoms: Of a number with atoms; None of others.
    """

    quantiles: np.ndarray
    levels: LevelLaw | None = None
    atoms: LevelLaw | None = None


@dataclass(frozen=True)
class RowScores:
    """How likely rows are.

    Attributes:
        log_prob: Log density ``[n]`` in nats of the source's cells that are there: of continuous
            numbers in their units, of others the probability of their value.
        error: Of this ``[n]``.
        tails: Of each cell ``[n, P]``, given the others of its row: the probability of a value as
            unlikely, or as far out on its side or the other; NaN where it is missing.
    """

    log_prob: np.ndarray
    error: np.ndarray
    tails: np.ndarray
