"""An epidemic (T.9) and predators and prey (T.10): ordinary differential equations with noise.

    S' = -b S I / N,  I' = b S I / N - g I,  R' = g I,  N = 10⁶, from one infected person;
    data ~ Binomial(1000, I / N) at days 0, 17, ..., 153.

    X' = a X - b X Y,  Y' = -g Y + d X Y,  from X = 30 and Y = 1;
    data ~ LogNormal(log X, 0.1), then LogNormal(log Y, 0.1), at times 0, 2.1, ..., 18.9.

The paper says that there are ten evenly spaced times; which ones is seen in the observations.
Populations are integrated as logarithms, which keeps them positive.
"""

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from benchmarks.simulators.priors import LogNormal
from benchmarks.simulators.task import Task

TIMES = 10
TOLERANCE = 1e-9
ROWS = 1000
"""Systems that are integrated as one, with steps that suit them all."""


def integrated(
    slope: Callable[[np.ndarray, np.ndarray], np.ndarray],
    start: np.ndarray,
    theta: np.ndarray,
    times: np.ndarray,
) -> np.ndarray:
    """States ``[N, K, T]`` at times ``[T]``, of which the first is 0.

    Args:
        slope: Gives the derivatives ``[K, n]`` of states ``[K, n]`` with parameters ``[D, n]``.
        start: States at time 0, ``[K]``.
        theta: ``[N, D]``.
    """
    parts = []
    for first in range(0, len(theta), ROWS):
        some = theta[first : first + ROWS].T
        shape = (len(start), some.shape[1])

        def flat(t: float, y: np.ndarray, some: np.ndarray = some) -> np.ndarray:
            return slope(y.reshape(len(start), -1), some).ravel()

        found = solve_ivp(
            flat,
            (0, times[-1]),
            np.repeat(start, shape[1]),
            "DOP853",
            times,
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )
        parts.append(np.moveaxis(found.y.reshape(*shape, len(times)), 1, 0))
    return np.concatenate(parts)


class Sir(Task):
    """theta = (b, g): rates of contact and recovery. Data: infected among 1,000 people."""

    name = "sir"
    data_dim = TIMES
    population, tested, days = 1e6, 1000, 17.0 * np.arange(TIMES)

    def __init__(self) -> None:
        self.prior = LogNormal([np.log(0.4), np.log(1 / 8)], [0.5, 0.2])

    def log_infected(self, theta: np.ndarray) -> np.ndarray:
        """log(I / N), ``[N, 10]``."""

        def slope(state: np.ndarray, rates: np.ndarray) -> np.ndarray:
            susceptible, log_infected = state
            contact = rates[0] * susceptible
            return np.stack([-contact * np.exp(log_infected), contact - rates[1]])

        infected = 1 / self.population
        start = np.array([1 - infected, np.log(infected)])
        return integrated(slope, start, theta, self.days)[:, 1]

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        chance = np.exp(self.log_infected(theta))
        return draw.binomial(self.tested, np.minimum(chance, 1)).astype(np.float64)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        logs = self.log_infected(theta)
        return (data * logs + (self.tested - data) * np.log1p(-np.exp(logs))).sum(axis=1)


class LotkaVolterra(Task):
    """theta = (a, b, g, d): growth of prey, predation, death of predators, their growth."""

    name = "lotka_volterra"
    data_dim = 2 * TIMES
    start, times, noise = np.log([30.0, 1.0]), 2.1 * np.arange(TIMES), 0.1

    def __init__(self) -> None:
        self.prior = LogNormal([-0.125, -3, -0.125, -3], [0.5] * 4)

    def log_populations(self, theta: np.ndarray) -> np.ndarray:
        """Of prey at all times, then of predators, ``[N, 20]``."""

        def slope(logs: np.ndarray, rates: np.ndarray) -> np.ndarray:
            (prey, predators), (a, b, g, d) = np.exp(logs), rates
            return np.stack([a - b * predators, d * prey - g])

        return integrated(slope, self.start, theta, self.times).reshape(len(theta), -1)

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        logs = self.log_populations(theta)
        return np.exp(logs + self.noise * draw.normal(size=logs.shape))

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        error = (np.log(data) - self.log_populations(theta)) / self.noise
        return -(error**2).sum(axis=1) / 2
