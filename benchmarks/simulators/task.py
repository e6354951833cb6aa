"""What a task is: a prior, a simulator, and the likelihood that its reference posterior has.

Inference sees draws of prior and simulator alone. The likelihood is here to check the simulators
against the reference posteriors.
"""

from abc import ABC, abstractmethod

import numpy as np

from benchmarks.simulators.priors import Prior


class Task(ABC):
    """Parameters theta ``[N, D]`` and data ``[N, C]``.

    Attributes:
        name: Of the task.
        prior: Of the parameters.
        data_dim: C.
        files: The task whose files the package has it among; None for its own name.
        observed: Name of the file of an observation.
        trials: Of how many trials, one after the other, data are.
        covariates: Of each trial, ``[trials, V]``, the same in all simulations; None for none.
    """

    name: str
    prior: Prior
    data_dim: int
    files: str | None = None
    observed: str = "observation"
    trials: int = 1
    covariates: np.ndarray | None = None

    @property
    def dim(self) -> int:
        """D."""
        return self.prior.dim

    @abstractmethod
    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Data ``[N, C]`` of parameters ``[N, D]``."""

    @abstractmethod
    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        """Logs ``[N]`` of p(data | theta), up to a constant that no parameter enters.

        Args:
            theta: ``[N, D]``, all possible under the prior.
            data: ``[N, C]``, or ``[1, C]`` for the same data everywhere.
        """

    def ranked(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        """A number for each row ``[N]``, by which an observation is ranked among simulations."""
        return self.log_likelihood(theta, data)

    def log_posterior(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        """Logs ``[N]`` of p(theta | data), up to a constant; data as ``log_likelihood`` takes it.

        Minus infinity where the prior is 0.
        """
        found = self.prior.log_density(theta)
        possible = np.isfinite(found)
        data = np.broadcast_to(data, (len(theta), data.shape[1]))
        found[possible] += self.log_likelihood(theta[possible], data[possible])
        return found
