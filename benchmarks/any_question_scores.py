"""Scores of cells that are hidden, by draws, quantiles or probabilities of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.any_question_rivals import pinball
from torch_utils.seeds import seeded_generator
from training.subjects.records import CategoryDistribution

INTERVALS = (50, 80, 90, 95)
"""In percent."""
FINE = (np.arange(100) + 0.5) / 100
"""Levels of quantiles by which a law of a number is scored."""
Figures = dict[str, Any]


@dataclass
class CellScores:
    """Scores of hidden cells, gathered over columns."""

    errors: list[float] = field(default_factory=list)
    crps: list[float] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)
    hold: list[list[bool]] = field(default_factory=list)
    calibrated: list[list[bool]] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)

    def of_draws(self, draws: np.ndarray, truth: np.ndarray, unit: float, seed: int) -> None:
        """Takes draws ``[n, m]`` of a number; a single one is a guess without ranks."""
        count, ordered = draws.shape[1], np.sort(draws, axis=1)
        self.errors += (np.abs(np.median(draws, axis=1) - truth) / unit).tolist()
        apart = (ordered * (2 * np.arange(count) - count + 1)).sum(axis=1)
        spread = apart / max(1, count * (count - 1))
        self.crps += ((np.abs(draws - truth[:, None]).mean(axis=1) - spread) / unit).tolist()
        if count > 1:
            uniform = np.random.default_rng(seed).random(len(truth))
            below = (draws < truth[:, None]).sum(axis=1)
            ties = (draws == truth[:, None]).sum(axis=1)
            self.ranks += ((below + uniform * (1 + ties)) / (count + 1)).tolist()

    def of_quantiles(
        self, quantiles: np.ndarray, ranks: np.ndarray, truth: np.ndarray, unit: float
    ) -> None:
        """Takes those ``[n, 100]`` of a number, and its ranks ``[n]``."""
        middle = quantiles[:, 49:51].mean(axis=1)
        self.errors += (np.abs(middle - truth) / unit).tolist()
        self.crps += (pinball(quantiles, truth, FINE) / unit).tolist()
        self.ranks += ranks.tolist()

    def of_values(
        self, distribution: CategoryDistribution, truth: np.ndarray, unit: float, seed: int
    ) -> None:
        """Takes probabilities of the values of a number that has few."""
        shares, values = (
            distribution.probabilities / distribution.probabilities.sum(1, keepdims=True),
            distribution.values,
        )
        middle = values[(shares.cumsum(axis=1) < 0.5).sum(axis=1).clip(max=len(values) - 1)]
        self.errors += (np.abs(middle - truth) / unit).tolist()
        off = (shares * np.abs(values - truth[:, None])).sum(axis=1)
        apart = np.einsum("ni,ij,nj->n", shares, np.abs(values[:, None] - values), shares)
        self.crps += ((off - apart / 2) / unit).tolist()
        self.ranks += distribution.ranks(truth, seeded_generator("cpu", seed)).tolist()

    def of_levels(self, probabilities: np.ndarray, truth: np.ndarray) -> None:
        """Takes probabilities ``[n, L]`` of a category's levels."""
        own = probabilities[np.arange(len(truth)), truth.astype(int)]
        self.hits += (probabilities.argmax(axis=1) == truth).tolist()
        self.nats += (-np.log(own.clip(min=1e-6))).tolist()

    @property
    def figures(self) -> Figures:
        off = np.abs(np.array(self.ranks) - 0.5)
        own = [float((off < each / 200).mean()) for each in INTERVALS] if len(off) else None
        return {
            "mae": float(np.mean(self.errors)) if self.errors else None,
            "crps": float(np.mean(self.crps)) if self.crps else None,
            "hold": np.mean(self.hold, 0).tolist() if self.hold else own,
            "own": own if self.hold else None,
            "calibrated": np.mean(self.calibrated, 0).tolist() if self.calibrated else None,
            "accuracy": float(np.mean(self.hits)) if self.hits else None,
            "log_loss": float(np.mean(self.nats)) if self.nats else None,
        }
