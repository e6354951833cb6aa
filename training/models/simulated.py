"""Simulations of a prior by a function of the user, as a data set to train on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch

from dnnlib.errors import UsageError
from dnnlib.numbers import natural
from training.data.tables.formats import numbered
from training.inference.likelihoods import UserFunction
from training.models.datasets import Simulations
from training.models.library import library_call, library_class
from training.models.model import Model
from training.models.posterior import Posterior
from training.models.simulating import run_simulator
from training.subjects.parameter_priors import ParameterPrior


@library_class
@dataclass(frozen=True, eq=False)
class SimulatedData:
    """Simulations of a prior.

    Attributes:
        parameters: Data frame of the parameters, one row per simulation.
        data: Data frame of the simulated numbers y1, y2, and so on; NaN in failed simulations.
        failures: Exceptions by row number, from 0.
        prior: Prior that the parameters were drawn from.
    """

    parameters: Any
    data: Any
    failures: Mapping[int, str]
    prior: ParameterPrior

    def simulations(self, **choices: Any) -> Simulations:
        """Return the data set for a training; failed simulations are left out.

        Args:
            choices: Arguments of ``Simulations``, by name, besides parameters, data and prior.
        """
        done = [row for row in range(len(self.data)) if row not in self.failures]
        rows = (self.parameters.iloc[done], self.data.iloc[done])
        return Simulations(*rows, **{"prior": self.prior, **choices})

    def train(self, *arguments: Any, **options: Any) -> Model:
        """Train a posterior on the simulations; see ``Simulations.train``."""
        return self.simulations().train(*arguments, **options)

    def posterior(self, **options: Any) -> Posterior:
        """Train a posterior weighted by a likelihood; see ``Simulations.posterior``."""
        return self.simulations().posterior(**options)


@library_call
def simulate(
    simulator: Callable[..., Any],
    prior: Any,
    count: int,
    workers: int = 1,
    seed: int = 0,
    block: int = 1,
    path: str | Path | None = None,
    token: str | None = None,
) -> SimulatedData:
    """Draw parameters from a prior and simulate their data.

    Args:
        simulator: Function from parameters ``[block, D]``, a tensor, and a NumPy generator to data
            ``[block, K]``. It can be a closure, a method or a lambda. A simulator of one row
            returns ``[1, K]`` or ``[K]``.
        prior: See ``ParameterPrior.of``; or a function from a number n and a NumPy generator to
            parameters ``[n, D]``.
        count: Number of simulations.
        workers: Number of processes; -1 for one per core.
        seed: Random seed.
        block: Number of rows per call of the simulator. Results depend on it if it is not 1.
        path: File that gets the simulations. If it has some of them, the others are run.
        token: A text that identifies the simulator and everything it uses, such as a version. A
            file is only continued with an equal token, since functions cannot be compared.

    Returns:
        The simulations. A simulation fails if the simulator raises an exception.

    Raises:
        UsageError: The prior is no distribution, or the file has other simulations.
        DataError: Data have an unexpected shape, or all simulations failed.
    """
    if path is not None and token is None:
        raise UsageError(
            f"path is {path}: give token= too, a text that identifies the simulator, so that an "
            "interrupted run can continue"
        )
    count, seed = natural("count", count), natural("seed", seed)
    own = ParameterPrior.of(prior)
    points = torch.from_numpy(own.sample(count, np.random.default_rng([seed, 0])))
    program = UserFunction.of_object(simulator, token)
    place = None if path is None else Path(path)
    data, failures = run_simulator(program, points, seed, workers, block, path=place)
    return SimulatedData(
        pandas.DataFrame(points.numpy(), columns=own.names),
        pandas.DataFrame(data, columns=numbered(data.shape[1], "y")),
        failures,
        own,
    )
