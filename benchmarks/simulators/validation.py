"""Whether simulators, likelihoods, and the observations and reference posteriors agree.

Three questions, each answered by numbers that are standard normal, or ranks that are uniform, if
there is agreement:

* Reference and likelihood. For a posterior p and functions g that vanish where p does not,
  ``E[g d log p / d theta_i + dg / d theta_i] = 0`` (Stein's identity), here with g = w and
  g = w (theta_i - mean_i) / std_i: the first sees a wrong place, the second a wrong width. w is 1,
  or theta_i where parameters are positive, or (theta_i - low)(high - theta_i) between bounds. In
  Gaussian tasks these are the exact moments. The crescents of two moons have edges; its reference
  is compared with exact draws instead, in first and second moments.
* Simulator and likelihood. ``E[d log p(data | theta) / d theta] = 0`` over simulations at theta;
  for two moons, moments of the radius and angle that data have.
* Observation and simulator. The log likelihood of the observation at its true parameters has a
  uniform rank among those of simulations there. (With distractors: how likely these are, each
  for itself.)
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import kstest

from benchmarks.simulators.moons import TwoMoons
from benchmarks.simulators.task import Task
from benchmarks.simulators.wheel import Wheel

STEP = 1e-4
"""Of central differences, in standard deviations of a parameter."""
DISCRETE = 0.5
"""Part of equal log likelihoods that count as smaller: data may be whole numbers."""


@dataclass(frozen=True)
class Agreement:
    """Of a task, over its observations.

    Attributes:
        reference: Standard normal numbers of the reference posteriors, ``[M, 2 D]``.
        simulator: Those of simulations, ``[M, D]``; of two moons ``[M, 4]``.
        ranks: Of the observations, ``[M]``, from 0 to 1.
    """

    reference: np.ndarray
    simulator: np.ndarray
    ranks: np.ndarray

    @property
    def rank_p(self) -> float:
        """p-value of uniform ranks."""
        return float(kstest(self.ranks, "uniform").pvalue)


def agreement(
    task: Task, wheel: Wheel, numbers: list[int], simulations: int, draws: int, seed: int
) -> Agreement:
    """Compares a task with the files of the package.

    Args:
        numbers: Of the observations.
        simulations: At the true parameters of each.
        draws: Of each reference posterior that are looked at.
        seed: Of simulations.
    """
    reference, simulator, ranks = [], [], []
    for number in numbers:
        draw = np.random.default_rng([seed, number])
        seen, truth = wheel.observation(task, number), wheel.true_parameters(task, number)
        reference.append(reference_scores(task, wheel.reference(task, number)[:draws], seen, draw))
        theta = np.repeat(truth[None], simulations, axis=0)
        data = task.simulate(theta, draw)
        simulator.append(simulator_scores(task, theta, data))
        found = task.ranked(theta[:1], seen[None])
        ranks.append(rank(found, task.ranked(theta, data)))
    return Agreement(np.array(reference), np.array(simulator), np.array(ranks))


def reference_scores(
    task: Task, theta: np.ndarray, seen: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    """Standard normal numbers ``[2 D]``, if draws ``[N, D]`` are of the posterior given ``[C]``."""
    if isinstance(task, TwoMoons):
        exact = task.posterior(seen, len(theta), draw)
        return difference(np.hstack([exact, exact**2]), np.hstack([theta, theta**2]))
    low, high = task.prior.low, task.prior.high
    weight, slope = np.ones_like(theta), np.zeros_like(theta)
    if np.isfinite(low) and np.isfinite(high):
        weight, slope = (theta - low) * (high - theta), low + high - 2 * theta
    elif np.isfinite(low):
        weight, slope = theta - low, np.ones_like(theta)
    mean, std = theta.mean(axis=0), theta.std(axis=0)
    first = weight * gradients(task, theta, seen[None], std) + slope
    second = first * (theta - mean) / std + weight / std
    return from_zero(np.hstack([first, second]))


def simulator_scores(task: Task, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Standard normal numbers, if data ``[N, C]`` are simulated with one theta, ``[N, D]``."""
    if isinstance(task, TwoMoons):
        return from_zero(task.noises(theta, data))
    return from_zero(gradients(task, theta, data, np.abs(theta[0]) + 0.1, of_prior=False))


def gradients(
    task: Task, theta: np.ndarray, data: np.ndarray, scale: np.ndarray, of_prior: bool = True
) -> np.ndarray:
    """Derivatives ``[N, D]`` of the log of the posterior, or of the likelihood alone.

    Both sides of a difference are one call: in ODEs they take the same steps, whose errors cancel.
    """
    data = np.broadcast_to(data, (len(theta), data.shape[1]))
    found = np.empty_like(theta)
    for index in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[index] = STEP * scale[index]
        # Side by side, so that both are in the same block of systems.
        sides = np.stack([theta + step, theta - step], axis=1).reshape(-1, theta.shape[1])
        both = np.repeat(data, 2, axis=0)
        values = task.log_likelihood(sides, both)
        if of_prior:
            # A step may leave the prior's box, where only the density itself has an edge.
            inside = np.clip(sides, task.prior.low, task.prior.high)
            values = values + task.prior.log_density(inside)
        ahead, behind = values.reshape(-1, 2).T
        found[:, index] = (ahead - behind) / (2 * step[index])
    return found


def from_zero(values: np.ndarray) -> np.ndarray:
    """How many standard errors means ``[K]`` of ``[N, K]`` are from 0."""
    return values.mean(axis=0) / (values.std(axis=0) / np.sqrt(len(values)))


def difference(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many standard errors means ``[K]`` of ``[N, K]`` and ``[M, K]`` are apart."""
    error = values.var(axis=0) / len(values) + others.var(axis=0) / len(others)
    return (values.mean(axis=0) - others.mean(axis=0)) / np.sqrt(error)


def rank(value: np.ndarray, others: np.ndarray) -> float:
    """Part of others ``[N]`` below a value ``[1]``."""
    return float(((others < value) + DISCRETE * (others == value)).mean())
