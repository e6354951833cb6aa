"""Gaussian linear, the same with a uniform prior, and the Gaussian mixture (T.1, T.2, T.7)."""

import numpy as np

from benchmarks.simulators.priors import Normal, Uniform
from benchmarks.simulators.task import Task

VARIANCE = 0.1
"""Of the prior of T.1, and of the noise of T.1 and T.2."""


class GaussianLinear(Task):
    """theta ~ N(0, 0.1 I), data ~ N(theta, 0.1 I), ten dimensions."""

    name = "gaussian_linear"
    data_dim = 10

    def __init__(self) -> None:
        self.prior = Normal(np.eye(10) / VARIANCE)

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return theta + VARIANCE**0.5 * draw.normal(size=theta.shape)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        return -((data - theta) ** 2).sum(axis=1) / (2 * VARIANCE)


class GaussianLinearUniform(GaussianLinear):
    """The same noise, and theta ~ U(-1, 1)."""

    name = "gaussian_linear_uniform"

    def __init__(self) -> None:
        self.prior = Uniform(-1, 1, 10)


class GaussianMixture(Task):
    """theta ~ U(-10, 10)², data ~ N(theta, I) or N(theta, 0.01 I), equally likely."""

    name = "gaussian_mixture"
    data_dim = 2
    stds = (1.0, 0.1)

    def __init__(self) -> None:
        self.prior = Uniform(-10, 10, 2)

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        std = draw.choice(self.stds, (len(theta), 1))
        return theta + std * draw.normal(size=theta.shape)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        square = ((data - theta) ** 2).sum(axis=1)
        wide, narrow = (-square / (2 * std**2) - 2 * np.log(std) for std in self.stds)
        return np.logaddexp(wide, narrow)
