"""Posteriors that are too wide at some observations: which of them get a warning?

    OMP_NUM_THREADS=1 python benchmarks/posterior_widths.py [--seeds=3,4,5]

A damped oscillator, ``y_k = a exp(-c t_k) cos(w t_k) + 0.1 noise`` at 12 times from 0 to 6. The
prior is uniform: amplitude a in [0.5, 2], frequency w in [1, 5], damping c in [0, 0.6]. There are
5,000 simulations, trained on by the defaults of ``train.py --cond``, and 50 new observations. Exact
posteriors are sums over grids.

ratio      standard deviation of the draws over the exact one, of the frequency: median, 90th
           percentile, largest
too wide   observations with a ratio above 2 in some parameter
missed     of these, those without a warning
false      other observations with a warning, in percent of all; in brackets those whose ratio is
           below 1.5 in all parameters
"""

import sys
import time
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import Simulations
from training.models.posterior_reports import WRONG_WIDTH

LOW, HIGH = np.array([0.5, 1.0, 0.0]), np.array([2.0, 5.0, 0.6])
TIMES, NOISE = np.linspace(0.0, 6.0, 12), 0.1
NAMES = ("amplitude", "frequency", "damping")
GRID, REFINEMENTS, TEMPERATURE = 40, 3, 9.0


def signal(theta: np.ndarray) -> np.ndarray:
    """The oscillation ``[N, 12]`` of parameters ``[N, 3]``, without noise."""
    amplitude, frequency, damping = (theta[:, place, None] for place in range(3))
    return amplitude * np.exp(-damping * TIMES) * np.cos(frequency * TIMES)


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters ``[N, 3]`` and data ``[N, 12]``."""
    draw = np.random.default_rng(seed)
    theta = draw.uniform(LOW, HIGH, (count, 3))
    return theta, signal(theta) + NOISE * draw.normal(size=(count, len(TIMES)))


def exact_std(data: np.ndarray) -> np.ndarray:
    """Standard deviations ``[3]`` of the exact posterior of data ``[12]``.

    Tempered draws of the prior say where it is, and grids around it narrow down.
    """

    def weights(theta: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        fit = -0.5 * np.square(signal(theta) - data).sum(axis=1) / NOISE**2
        share = np.exp((fit - fit.max()) / temperature)
        return share / share.sum()

    def moments(theta: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = share @ theta
        return mean, np.sqrt(share @ np.square(theta - mean))

    theta = np.random.default_rng(0).uniform(LOW, HIGH, (100_000, 3))
    mean, std = moments(theta, weights(theta, TEMPERATURE))
    margin = 0.02 * (HIGH - LOW)
    for _ in range(REFINEMENTS):
        low, high = (
            np.maximum(mean - 6 * (std + margin), LOW),
            np.minimum(mean + 6 * (std + margin), HIGH),
        )
        step = (high - low) / GRID
        axes = [
            start + width * (np.arange(GRID) + 0.5) for start, width in zip(low, step, strict=True)
        ]
        theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        mean, std = moments(theta, weights(theta))
        margin = 0.5 * step
    return std


@click.command(help=__doc__)
@click.option("--seeds", default="3,4,5", show_default=True)
@click.option("--simulations", type=int, default=5000, show_default=True)
@click.option("--observations", type=int, default=50, show_default=True)
def main(seeds: str, simulations: int, observations: int) -> None:
    torch.set_num_threads(1)
    print("| seed | ratio | too wide | missed | false, % | CPU s |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for seed in map(int, seeds.split(",")):
        began = time.process_time()
        theta, data = simulated(simulations, seed)
        bounds = dict(zip(NAMES, zip(LOW, HIGH, strict=True), strict=True))
        parameters = dict(zip(NAMES, theta.T, strict=True))
        model = Simulations(parameters, data, bounds=bounds, seed=seed).train(seed=seed)
        _, seen = simulated(observations, 1000 + seed)
        exact = np.stack([exact_std(each) for each in seen])
        draws = model.posterior(log_prob=False).sample(seen, draws=500)
        scale = np.array(
            [list(each["error_over_std"].values()) for each in draws.facts["posteriors"]]
        )
        warned = ((scale < 1 / WRONG_WIDTH) | (scale > WRONG_WIDTH)).any(axis=1)
        ratio = draws.points.std(axis=1) / exact
        wide, right = (ratio > 2).any(axis=1), (ratio < 1.5).all(axis=1)
        shown = " ".join(f"{each:.2f}" for each in np.quantile(ratio[:, 1], [0.5, 0.9, 1]))
        false = [100 * (warned & each).mean() for each in (~wide, right)]
        cells = [f"{wide.sum()}", f"{(wide & ~warned).sum()}", f"{false[0]:.0f} ({false[1]:.0f})"]
        seconds = time.process_time() - began
        print(f"| {seed} | {shown} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
