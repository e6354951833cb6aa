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

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.simulators.dynamics import LotkaVolterra
from benchmarks.simulators.glm import BernoulliGlm
from benchmarks.simulators.moons import TwoMoons
from benchmarks.simulators.slcp import Slcp
from benchmarks.simulators.task import Task
from dnnlib.logs import logger
from training import Simulations

SIMULATIONS, FRESH, WORSE = 1000, 500, 0.5
RECORDED = {"two_moons": 3.52, "slcp": -6.47, "bernoulli_glm": -2.87, "lotka_volterra": 11.76}
"""Nats, by this script."""


def log_prob_of_truth(task: Task) -> np.ndarray:
    """Log densities ``[FRESH]`` of the true parameters of new simulations."""
    draw = np.random.default_rng(0)
    theta = task.prior.sample(SIMULATIONS + FRESH, draw)
    data = task.simulate(theta, draw)
    low, high = task.prior.low, task.prior.high
    bounded = np.isfinite([low, high]).any()
    names = [f"theta{place + 1}" for place in range(theta.shape[1])]
    simulations = Simulations(
        theta[:SIMULATIONS],
        data[:SIMULATIONS],
        bounds=dict.fromkeys(names, (low, high)) if bounded else None,
    )
    model = simulations.train(seed=0, device_name="cpu")
    return model.log_prob(theta[SIMULATIONS:], given=data[SIMULATIONS:])


def main() -> int:
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)
    design = np.random.default_rng(0).normal(size=(100, 10))
    tasks: list[Task] = [TwoMoons(), Slcp(), BernoulliGlm(design), LotkaVolterra()]
    print("| task | nats | standard error | recorded | CPU s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    worse = False
    for task in tasks:
        began, recorded = time.process_time(), RECORDED[task.name]
        nats = log_prob_of_truth(task)
        mean, error = nats.mean(), nats.std() / len(nats) ** 0.5
        seconds = time.process_time() - began
        print(
            f"| {task.name} | {mean:.2f} | {error:.2f} | {recorded:.2f} | {seconds:.0f} |",
            flush=True,
        )
        worse |= bool(mean < recorded - WORSE)
    if worse:
        print(f"A task is worse than recorded by more than {WORSE} nats: see the table")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
