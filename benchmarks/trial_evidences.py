"""Errors of posteriors and evidences by a learned likelihood of trials, against closed forms.

    OMP_NUM_THREADS=1 python benchmarks/trial_evidences.py [--dim=2] [--simulations=5000]

Parameters are uniform between -3 and 3, and trials are N(theta, I). The likelihood of one trial is
learned from datasets of 1 to 8 trials. Posteriors are normal distributions cut at the bounds.

mean       root mean square error of posterior means, in exact standard deviations
std        root mean square relative error of standard deviations
evidence   root mean square error of log evidences, in nats; then the largest one
"""

import sys
from pathlib import Path

import click
import numpy as np
import pandas
import torch
from scipy.stats import norm, truncnorm

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import Simulations

EDGE, MOST, COUNTS, OBSERVATIONS = 3.0, 8, (1, 4, 16, 64), 5


def exact(trials: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return posterior means and deviations ``[D]``, and the log evidence, of ``[n, D]``."""
    count, mean = len(trials), trials.mean(axis=0)
    low, high = (EDGE * sign - mean for sign in (-1, 1))
    std = count**-0.5
    posterior = truncnorm(low / std, high / std, mean, std)
    # p(trials | theta) is N(mean; theta, 1 / n) times a factor without theta.
    factor = norm.logpdf(trials - mean).sum() + trials.shape[1] * np.log(2 * np.pi / count) / 2
    inside = norm.cdf(high / std) - norm.cdf(low / std)
    evidence = factor + np.log(inside / (2 * EDGE)).sum()
    return posterior.mean(), posterior.std(), float(evidence)


def frame(trials: list[np.ndarray]) -> pandas.DataFrame:
    """Return one row per trial, with the number of its dataset."""
    rows = pandas.DataFrame(np.concatenate(trials))
    rows.columns = [f"y{place + 1}" for place in rows.columns]
    rows["dataset"] = np.repeat(np.arange(len(trials)), [len(each) for each in trials])
    return rows


@click.command()
@click.option("--dim", default=2, help="Number of parameters.")
@click.option("--simulations", default=5000, help="Number of datasets.")
def main(dim: int, simulations: int) -> None:
    torch.set_num_threads(1)
    draw = np.random.default_rng(dim)
    theta = draw.uniform(-EDGE, EDGE, (simulations, dim))
    counts = draw.integers(1, MOST + 1, simulations)
    rows = frame([one + draw.normal(size=(n, dim)) for one, n in zip(theta, counts, strict=True)])
    bounds = {f"theta{place + 1}": (-EDGE, EDGE) for place in range(dim)}
    parameters, data = np.repeat(theta, counts, axis=0), rows.drop(columns="dataset")
    dataset = rows["dataset"].to_numpy()
    model = Simulations(parameters, data, bounds=bounds, dataset=dataset).train(likelihood=True)
    print("| trials | mean | std | evidence | largest | converged |\n| ---: " + "| ---: " * 5 + "|")
    for count in COUNTS:
        seen = draw.uniform(-EDGE, EDGE, (OBSERVATIONS, 1, dim))
        trials = list(seen + draw.normal(size=(OBSERVATIONS, count, dim)))
        draws = model.posterior(prior="uniform").sample(frame(trials))
        means, stds, evidences = map(np.array, zip(*map(exact, trials), strict=True))
        found = [each["statistics"]["evidence"] for each in draws.facts["posteriors"]]
        points = draws.points
        off = (points.mean(axis=1) - means) / stds, points.std(axis=1) / stds - 1, found - evidences
        errors = " | ".join(f"{np.sqrt(np.square(each).mean()):.3f}" for each in off)
        largest, good = np.abs(off[2]).max(), draws.converged.sum()
        print(f"| {count} | {errors} | {largest:.3f} | {good} of {len(trials)} |", flush=True)


if __name__ == "__main__":
    main()
