"""The Bernoulli generalized linear model (T.5), and its raw data (T.6).

    theta = (b, f), b ~ N(0, 2) and f ~ N(0, (F'F)^-1) of nine dimensions, with F[i, i-2] = 1,
    F[i, i-1] = -2, F[i, i] = 1 + sqrt((i - 1) / 9) and 0 elsewhere;
    z_i ~ Bernoulli(sigmoid(v_i' f + b)) in 100 bins, v_i the last nine values of a white stimulus.

Data are the sufficient statistics V'z, V having a column of ones first, or z itself. V is data of
the wheel.
"""

import numpy as np
from scipy.special import expit

from benchmarks.simulators.priors import Normal
from benchmarks.simulators.task import Task
from benchmarks.simulators.wheel import Wheel

LAGS, BIAS_VARIANCE = 9, 2.0


def filter_precision() -> np.ndarray:
    """F'F ``[9, 9]``: second differences of the filter are small."""
    root = np.diag(1 + np.sqrt(np.arange(LAGS) / 9))
    root += np.diag(np.full(LAGS - 1, -2.0), -1) + np.diag(np.ones(LAGS - 2), -2)
    return root.T @ root


class BernoulliGlm(Task):
    """Data are sufficient statistics.

    Args:
        design: V, ``[100, 10]``.
    """

    name = "bernoulli_glm"
    data_dim = 1 + LAGS

    def __init__(self, design: np.ndarray):
        self.design = design
        precision = np.zeros((1 + LAGS, 1 + LAGS))
        precision[0, 0], precision[1:, 1:] = 1 / BIAS_VARIANCE, filter_precision()
        self.prior = Normal(precision)

    @classmethod
    def of_wheel(cls, wheel: Wheel) -> "BernoulliGlm":
        """With the design in ``design_matrix.pt``."""
        return cls(wheel.tensor("bernoulli_glm", "design_matrix.pt").astype(np.float64))

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return self._spikes(theta, draw) @ self.design

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        return (data * theta).sum(axis=1) - np.logaddexp(0, theta @ self.design.T).sum(axis=1)

    def _spikes(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        chance = expit(theta @ self.design.T)
        return (draw.uniform(size=chance.shape) < chance).astype(np.float64)


class BernoulliGlmRaw(BernoulliGlm):
    """Data are the spikes."""

    name, files, observed = "bernoulli_glm_raw", "bernoulli_glm", "observation_raw"
    data_dim = trials = 100

    def __init__(self, design: np.ndarray):
        super().__init__(design)
        self.covariates = design[:, 1:]

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return self._spikes(theta, draw)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        return super().log_likelihood(theta, data @ self.design)
