"""The accuracy of posteriors by today's defaults, beside what it was when it was last recorded.

    OMP_NUM_THREADS=1 python benchmarks/default_accuracy.py

Four tasks of the benchmark of simulation-based inference, 1,000 simulations of each with a fixed
seed, trained by the defaults of ``train.py --cond``. The figure is the mean log density, in nats,
of the true parameters of 500 new simulations, under the distribution of the draws. The exit code is
1 if one is lower than recorded by more than ``WORSE``, so that no default loses accuracy unseen.
Other rounding (another processor or version of PyTorch) moves a figure by about 0.1.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributions import LogNormal, MultivariateNormal

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.sbibm_tasks import Task, bernoulli_glm, lotka_volterra, slcp, two_moons
from dnnlib.logs import logger
from training import Simulations

SIMULATIONS, FRESH, WORSE = 1000, 500, 0.5
RECORDED = {"two_moons": 3.52, "slcp": -6.47, "bernoulli_glm": -2.87, "lotka_volterra": 11.76}
"""Nats, by this script."""


def parameters(prior: Any, count: int, draw: np.random.Generator) -> np.ndarray:
    """Return parameters ``[count, D]`` of a prior, by the generator of the recorded figures."""
    shape = (count, prior.event_shape[0])
    if isinstance(prior, MultivariateNormal):
        root = np.linalg.cholesky(prior.precision_matrix.double().numpy())
        return np.linalg.solve(root.T, draw.normal(size=shape[::-1])).T
    base = prior.base_dist
    if isinstance(base, LogNormal):
        center, spread = (each.double().numpy() for each in (base.loc, base.scale))
        return np.exp(center + spread * draw.normal(size=shape))
    return draw.uniform(base.low, base.high, shape)


def log_prob_of_truth(task: Task) -> np.ndarray:
    """Log densities ``[FRESH]`` of the true parameters of new simulations."""
    draw = np.random.default_rng(0)
    theta = parameters(task.prior, SIMULATIONS + FRESH, draw)
    data = task.simulate(theta, draw)
    simulations = Simulations(theta[:SIMULATIONS], data[:SIMULATIONS], prior=task.prior)
    model = simulations.train(seed=0, device_name="cpu")
    return model.log_prob(theta[SIMULATIONS:], given=data[SIMULATIONS:])


def main() -> int:
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)
    design = np.random.default_rng(0).normal(size=(100, 10))
    tasks = {
        "two_moons": two_moons(),
        "slcp": slcp(),
        "bernoulli_glm": bernoulli_glm(design=design),
        "lotka_volterra": lotka_volterra(),
    }
    print("| task | nats | standard error | recorded | CPU s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    worse = False
    for name, task in tasks.items():
        began, recorded = time.process_time(), RECORDED[name]
        nats = log_prob_of_truth(task)
        mean, error = nats.mean(), nats.std() / len(nats) ** 0.5
        seconds = time.process_time() - began
        print(
            f"| {name} | {mean:.2f} | {error:.2f} | {recorded:.2f} | {seconds:.0f} |",
            flush=True,
        )
        worse |= bool(mean < recorded - WORSE)
    if worse:
        print(f"A task is worse than recorded by more than {WORSE} nats: see the table")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
