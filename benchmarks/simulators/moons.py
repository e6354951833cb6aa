"""Two moons (T.8): a crescent that the parameters move, from one of two sides.

a ~ U(-pi/2, pi/2),  r ~ N(0.1, 0.01²),
data = (r cos a + 0.25, r sin a) + (-|theta1 + theta2|, -theta1 + theta2) / sqrt(2).
"""

import numpy as np

from benchmarks.simulators.priors import Uniform
from benchmarks.simulators.task import Task

RADIUS, THICKNESS, OFFSET = 0.1, 0.01, 0.25


class TwoMoons(Task):
    """theta ~ U(-1, 1), two dimensions; the posterior has two crescents."""

    name = "two_moons"
    data_dim = 2

    def __init__(self) -> None:
        self.prior = Uniform(-1, 1, 2)

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return self._crescent(len(theta), draw) + self._moved(theta)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        x, y = (data - self._moved(theta)).T
        x = x - OFFSET
        radius = np.hypot(x, y)
        # A radius below 0, ten standard deviations away, is left out of account.
        found = -(((radius - RADIUS) / THICKNESS) ** 2) / 2 - np.log(radius)
        return np.where(x > 0, found - np.log(THICKNESS * np.sqrt(2 * np.pi) * np.pi), -np.inf)

    def noises(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        """Of data ``[N, 2]``: standardized r, what its square is beyond 1, a, and what its square
        is beyond its mean: numbers ``[N, 4]`` with mean 0."""
        x, y = (data - self._moved(theta)).T
        radius, angle = (np.hypot(x - OFFSET, y) - RADIUS) / THICKNESS, np.arctan2(y, x - OFFSET)
        return np.stack([radius, radius**2 - 1, angle, angle**2 - np.pi**2 / 12], axis=1)

    def posterior(self, data: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
        """Exact draws ``[count, 2]`` given data ``[2]``.

        The map from theta to what it moves the crescent by has the same Jacobian everywhere, so
        that crescents drawn backwards, and kept where the prior allows, are draws of the posterior.
        """
        kept: list[np.ndarray] = []
        while sum(map(len, kept)) < count:
            moved = data - self._crescent(count, draw)
            total = -np.sqrt(2) * moved[:, 0] * draw.choice([-1, 1], count)
            difference = np.sqrt(2) * moved[:, 1]
            theta = np.stack([total - difference, total + difference], axis=1) / 2
            inside = np.isfinite(self.prior.log_density(theta)) & (moved[:, 0] <= 0)
            kept.append(theta[inside])
        return np.concatenate(kept)[:count]

    @staticmethod
    def _crescent(count: int, draw: np.random.Generator) -> np.ndarray:
        angle = draw.uniform(-np.pi / 2, np.pi / 2, count)
        radius = draw.normal(RADIUS, THICKNESS, count)
        return np.stack([radius * np.cos(angle) + OFFSET, radius * np.sin(angle)], axis=1)

    @staticmethod
    def _moved(theta: np.ndarray) -> np.ndarray:
        first, second = theta.T
        return np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)
