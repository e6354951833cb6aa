"""Laws of parameters: a box, a Gaussian, and independent log-normal laws."""

from abc import ABC, abstractmethod

import numpy as np
from scipy.special import ndtri


class Prior(ABC):
    """A law of parameters ``[N, D]``.

    Attributes:
        dim: D.
        low: What no parameter is below.
        high: What no parameter is above.
    """

    dim: int
    low: float = -np.inf
    high: float = np.inf

    @abstractmethod
    def sample(self, count: int, draw: np.random.Generator) -> np.ndarray:
        """Parameters ``[count, D]``."""

    @abstractmethod
    def log_density(self, theta: np.ndarray) -> np.ndarray:
        """Logs ``[N]`` of the density, in nats; minus infinity where it is 0."""


class Uniform(Prior):
    """Uniform between the same bounds in every dimension."""

    def __init__(self, low: float, high: float, dim: int):
        self.low, self.high, self.dim = low, high, dim

    def sample(self, count: int, draw: np.random.Generator) -> np.ndarray:
        return draw.uniform(self.low, self.high, (count, self.dim))

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        inside = np.all((theta >= self.low) & (theta <= self.high), axis=1)
        return np.where(inside, -self.dim * np.log(self.high - self.low), -np.inf)


class Normal(Prior):
    """A Gaussian with mean 0.

    Args:
        precision: The inverse of its covariance, ``[D, D]``.
    """

    def __init__(self, precision: np.ndarray):
        self.dim, self.precision = len(precision), precision
        self._root = np.linalg.cholesky(precision)

    def sample(self, count: int, draw: np.random.Generator) -> np.ndarray:
        noise = draw.normal(size=(self.dim, count))
        return np.linalg.solve(self._root.T, noise).T

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        white = theta @ self._root
        normalization = np.log(np.diag(self._root)).sum() - self.dim * np.log(2 * np.pi) / 2
        return normalization - (white**2).sum(axis=1) / 2


class LogNormal(Prior):
    """Parameters whose logarithms are independent and normal.

    Args:
        location: Means of the logarithms, ``[D]``.
        scale: Their standard deviations, ``[D]``.
    """

    low = 0.0

    def __init__(self, location: list[float], scale: list[float]):
        self.dim, self.location, self.scale = len(location), np.array(location), np.array(scale)

    def sample(self, count: int, draw: np.random.Generator) -> np.ndarray:
        return np.exp(self.location + self.scale * draw.normal(size=(count, self.dim)))

    def of_quantiles(self, shares: np.ndarray) -> np.ndarray:
        """Parameters ``[N, D]`` below which each has such shares ``[N, D]`` of its law."""
        return np.exp(self.location + self.scale * ndtri(shares))

    def log_density(self, theta: np.ndarray) -> np.ndarray:
        possible = np.all(theta > 0, axis=1)
        logs = np.log(np.where(possible[:, None], theta, 1.0))
        white = (logs - self.location) / self.scale
        each = -(white**2) / 2 - np.log(self.scale * np.sqrt(2 * np.pi)) - logs
        return np.where(possible, each.sum(axis=1), -np.inf)
