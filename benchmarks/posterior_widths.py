"""How wrong are posteriors of a flow, with and without weights by a learned likelihood?

    OMP_NUM_THREADS=1 python benchmarks/posterior_widths.py [--seeds=3,4,5]

A damped oscillator, ``y_k = a exp(-c t_k) cos(w t_k) + 0.1 noise`` at 12 times from 0 to 6. The
prior is uniform: amplitude a in [0.5, 2], frequency w in [1, 5], damping c in [0, 0.6]. There are
5,000 simulations, trained on by the defaults of ``Simulations.posterior``, and 50 new observations.
Exact posteriors are sums over grids.

flow       draws of the posterior flow alone (``fast=True``)
weighted   the same, weighted by a learned likelihood where held-out simulations gain
off        distance of means from exact ones, in exact standard deviations: 90th percentile of each
           parameter
sd         standard deviation over the exact one: 90th percentile of each parameter; the largest
covered    true parameters of 500 other simulations within central intervals of 90 %, in percent
too wide   observations with a ratio above 2 in some parameter
missed     of these, those without a warning
false      other observations with a warning, in percent of all; in brackets those whose ratio is
           below 1.5 in all parameters
shift      rank correlation of how far weights move a mean with how far that mean is off
"""

import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import Simulations
from training.models.draws import PosteriorDraws
from training.models.posterior import Posterior
from training.models.posterior_reports import WRONG_WIDTH

LOW, HIGH = np.array([0.5, 1.0, 0.0]), np.array([2.0, 5.0, 0.6])
TIMES, NOISE = np.linspace(0.0, 6.0, 12), 0.1
NAMES = ("amplitude", "frequency", "damping")
GRID, REFINEMENTS, TEMPERATURE = 40, 3, 9.0
COVERED = 500


def signal(theta: np.ndarray) -> np.ndarray:
    """The oscillation ``[N, 12]`` of parameters ``[N, 3]``, without noise."""
    amplitude, frequency, damping = (theta[:, place, None] for place in range(3))
    return amplitude * np.exp(-damping * TIMES) * np.cos(frequency * TIMES)


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters ``[N, 3]`` and data ``[N, 12]``."""
    draw = np.random.default_rng(seed)
    theta = draw.uniform(LOW, HIGH, (count, 3))
    return theta, signal(theta) + NOISE * draw.normal(size=(count, len(TIMES)))


def exact_moments(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations ``[3]`` of the exact posterior of data ``[12]``.

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
    return mean, std


@click.command(help=__doc__)
@click.option("--seeds", default="3,4,5", show_default=True)
@click.option("--simulations", type=int, default=5000, show_default=True)
@click.option("--observations", type=int, default=50, show_default=True)
def main(seeds: str, simulations: int, observations: int) -> None:
    torch.set_num_threads(1)
    print("| seed | draws | off | sd | covered | too wide | missed | false, % | shift | CPU s |")
    print("| ---: | --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: |")
    for seed in map(int, seeds.split(",")):
        began = time.process_time()
        theta, data = simulated(simulations, seed)
        bounds = dict(zip(NAMES, zip(LOW, HIGH, strict=True), strict=True))
        parameters = dict(zip(NAMES, theta.T, strict=True))
        posterior = Simulations(parameters, data, bounds=bounds, seed=seed).posterior(seed=seed)
        print(f"trained in {time.process_time() - began:.0f} CPU s", file=sys.stderr)
        _, seen = simulated(observations, 1000 + seed)
        mean, std = map(np.stack, zip(*map(exact_moments, seen), strict=True))
        theta, data = simulated(COVERED, 2000 + seed)
        parameters = dict(zip(NAMES, theta.T, strict=True))
        others = Simulations(parameters, data, bounds=bounds, held_out=0)
        for name, each in (("flow", Posterior(posterior.model)), ("weighted", posterior)):
            began = time.process_time()
            draws = each.sample(seen)
            seconds = time.process_time() - began
            cells = _compared(draws, mean, std)
            curve = each.check(others, runs=COVERED)["central_intervals"]
            cells.insert(2, f"{100 * curve['pooled'][curve['levels'].index(0.9)]:.1f}")
            print(f"| {seed} | {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def _compared(draws: PosteriorDraws, mean: np.ndarray, std: np.ndarray) -> list[str]:
    """Return the cells of draws, given exact means and standard deviations ``[M, 3]``."""
    off = np.abs(draws.points.mean(axis=1) - mean) / std
    ratio = draws.points.std(axis=1) / std
    facts = draws.facts["posteriors"]
    scale = np.array([list(one.get("error_over_std", {}).values()) for one in facts])
    warned = ((scale < 1 / WRONG_WIDTH) | (scale > WRONG_WIDTH)).any(axis=1)
    shifts = ""
    if "shift" in facts[0]["statistics"]:
        moved = np.abs([list(one["statistics"]["shift"].values()) for one in facts])
        pairs = zip(moved.T, off.T, strict=True)
        shifts = " ".join(f"{spearmanr(*pair).statistic:.2f}" for pair in pairs)
    wide, right = (ratio > 2).any(axis=1), (ratio < 1.5).all(axis=1)
    false = [100 * (warned & each).mean() for each in (~wide, right)]
    return [
        _listed(np.quantile(off, 0.9, axis=0)),
        f"{_listed(np.quantile(ratio, 0.9, axis=0))}; {_listed(ratio.max(axis=0))}",
        f"{wide.sum()}",
        f"{(wide & ~warned).sum()}",
        f"{false[0]:.0f} ({false[1]:.0f})",
        shifts,
    ]


def _listed(values: np.ndarray) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
