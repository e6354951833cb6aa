"""Claim 9: calibrated regions cover at least the stated share on average.

    python benchmarks/guarantees.py

Gaussian: the posterior of one number observed with noise, half as wide as it should be, calibrated
on 50, 200 or 1,000 cases. Networks: two simulators with bounds as priors, 2,000 simulations of
which 500 calibrate and the others train (or 200 of the others), 1,000 new simulations test.
"""

import sys
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.evidence import Claim, Figures, Results, figure, select, table
from training import Guarantee, Simulations, calibrate
from training.models.guarantees import DRAWS
from training.settings.inference import CALIBRATION_DRAWS

GUARANTEE_SEEDS = (100, 101, 102, 103, 104)
SHARE, REJECTED = 0.9, 0.05
LEAST_COVERAGE, MOST_REJECTED = 0.89, 0.07
CASES, REPETITIONS = (50, 200, 1000), 100
TRAINED, FEW, CALIBRATING, TESTED = 1500, 200, 500, 1000
BOUNDS = {
    "decay": {"size": (0.5, 3.0), "rate": (0.1, 2.0), "noise": (0.05, 0.5)},
    "queue": {"arrivals": (0.5, 3.0), "services": (0.5, 3.0)},
}
"""Bounds of the uniform priors of each simulator's parameters."""
TIMES = {"decay": np.arange(8) / 2, "queue": 2.0 * np.arange(1, 9)}
"""The eight times at which data are observed."""


def decay(parameters: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Simulate a decaying signal with Gaussian noise."""
    size, rate, noise = parameters.T[:, :, None]
    signal = size * np.exp(-rate * TIMES["decay"])
    return np.asarray(signal + noise * draw.normal(size=signal.shape))


def queue(parameters: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Simulate the number in a queue with one server that starts empty, event by event."""
    arrivals, services = parameters.T
    clock, length = np.zeros(len(parameters)), np.zeros(len(parameters))
    observed = np.full((len(parameters), len(TIMES["queue"])), np.nan)
    while np.isnan(observed).any():
        total = arrivals + services * (length > 0)
        clock = clock + draw.exponential(size=len(clock)) / total
        passed = np.isnan(observed) & (TIMES["queue"] < clock[:, None])
        observed = np.where(passed, length[:, None], observed)
        length = length + np.where(draw.uniform(size=len(clock)) * total < arrivals, 1, -1)
    return observed


SIMULATORS = {"decay": decay, "queue": queue}


def simulated(name: str, count: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return parameters ``[count, D]`` from the prior, and their data ``[count, 8]``."""
    low, high = np.array(list(BOUNDS[name].values())).T
    parameters = draw.uniform(low, high, size=(count, len(low)))
    return parameters, SIMULATORS[name](parameters, draw)


class TooNarrow:
    """The posterior N(y / 2, 1 / 2) of a standard normal number, half as wide as it should be."""

    def sample(self, observed: np.ndarray, draws: int, seed: int) -> np.ndarray:
        normal = np.random.default_rng(seed).normal(size=(len(observed), draws, 1))
        return np.asarray(observed[:, None] / 2 + normal * 0.5**0.5 / 2)


def of_gaussian(cases: int, seed: int, repetitions: int = REPETITIONS) -> Figures:
    """Return coverage before and after calibration, and widths, of repeated calibrations."""
    draw, posterior = np.random.default_rng([seed, cases]), TooNarrow()
    found = []
    for _ in range(repetitions):
        truth = draw.normal(size=(cases + TESTED, 1))
        observed = truth + draw.normal(size=truth.shape)
        first, second = (int(each) for each in draw.integers(2**31, size=2))
        calibrated = calibrate(posterior, truth[:cases], observed[:cases], seed=first)
        points = posterior.sample(observed[cases:], DRAWS, second)
        after = calibrated.intervals(observed[cases:], SHARE, seed=second)
        found.append(compared(points, after, truth[cases:]))
    return {key: mean(each[key] for each in found) for key in found[0]}


def of_network(name: str, trained: int, seed: int) -> Figures:
    """Return coverage and widths of a trained network, and the shares that it rejects."""
    draw = np.random.default_rng([seed, sum(map(ord, name))])
    parameters, data = simulated(name, TRAINED + CALIBRATING, draw)
    truth, observed = simulated(name, TESTED, draw)
    names = list(BOUNDS[name])

    def some(rows: slice, **choices: Any) -> Simulations:
        columns = dict(zip(names, parameters[rows].T, strict=True))
        return Simulations(columns, data[rows], bounds=BOUNDS[name], **choices)

    model = some(slice(trained), seed=seed).train(seed=seed)
    guarantee = Guarantee.calibrate(model, some(slice(TRAINED, None), held_out=0), seed=seed)
    # As many draws of each new posterior as calibration makes of each of its cases.
    draws = model.posterior().sample(observed, draws=CALIBRATION_DRAWS, seed=seed).points
    after = np.stack([guarantee.intervals(points, SHARE) for points in draws])
    shares = {
        key: (guarantee.p_values(values) <= REJECTED).mean()
        for key, values in {"good": observed, "moved": moved(observed, draw)}.items()
    }
    return {**compared(draws, after, truth), "rejected": shares}


def moved(data: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Move one value of each observation by three standard deviations, in whole steps of counts."""
    places = draw.integers(data.shape[1], size=len(data))
    shift = 3 * data.std(axis=0)[places] * draw.choice([-1, 1], size=len(data))
    shift = shift.round() if (data == data.round()).all() else shift
    result = data.copy()
    result[np.arange(len(data)), places] += shift
    return result


def compared(points: np.ndarray, after: np.ndarray, truth: np.ndarray) -> Figures:
    """Return mean coverage and width, over parameters, of 90 % intervals before and after.

    Widths are in standard deviations of the true values.
    """
    ends = np.quantile(points, [(1 - SHARE) / 2, (1 + SHARE) / 2], axis=1)
    figures = {}
    for key, (low, high) in {"before": ends, "after": np.moveaxis(after, 2, 0)}.items():
        figures[key] = ((low <= truth) & (truth <= high)).mean()
        figures[f"width_{key}"] = ((high - low) / truth.std(axis=0)).mean()
    return figures


def settings(results: Results) -> dict[str, list[Figures]]:
    """Return the figures of all seeds, by the words of the key before the seed."""
    names = dict.fromkeys(key.rpartition(" ")[0] for key in CELLS if key in results)
    return {name: select(results, *name.split()) for name in names}


def judge(results: Results) -> tuple[bool, str]:
    every = settings(results)
    coverage = {name: mean(each["after"] for each in cells) for name, cells in every.items()}
    rejected = {
        name: mean(each["rejected"]["good"] for each in cells)
        for name, cells in every.items()
        if "rejected" in cells[0]
    }
    lowest = min(coverage, key=coverage.__getitem__)
    reason = f"the lowest mean coverage of 90 % intervals is {coverage[lowest]:.3f} ({lowest}), "
    most = max(rejected, key=rejected.__getitem__)
    reason += f"and at most {100 * rejected[most]:.1f} % of good observations are rejected ({most})"
    holds = coverage[lowest] >= LEAST_COVERAGE and rejected[most] <= MOST_REJECTED
    return holds, f"{reason}. The limits are 0.89 and 7 %."


def body(results: Results) -> str:
    intervals, rejected = [], []
    for name, cells in settings(results).items():
        keys = ("before", "after", "width_before", "width_after")
        intervals.append([name, *(figure(each[key] for each in cells) for key in keys)])
        if "rejected" in cells[0]:
            kinds = ("good", "moved")
            shares = [[100 * each["rejected"][kind] for each in cells] for kind in kinds]
            rejected.append([name, *(figure(each, ".1f") for each in shares)])
    head = ["posterior", "coverage before", "after", "width before", "after"]
    return f"""
## Intervals

{table(head, intervals)}

Central 90 % intervals: mean over parameters, 1,000 new cases and five seeds, with the standard
error over seeds. Widths are in standard deviations of the true values. *gaussian*: a Gaussian
posterior that is half as wide as it should be, with 50, 200 or 1,000 calibration cases (500
repetitions). *decay*: a decaying signal at eight times, three parameters. *queue*: the length of a
queue at eight times, two parameters. Both have 500 calibration cases; networks train on 1,500 or
200 simulations. Calibrated intervals end at the outermost draws. More than a tenth of the true
values of *gaussian* lie beyond all 200 default draws, so that no level is wide enough.

## Rejected observations

{table(["network", "new simulations, %", "one value moved, %"], rejected)}

Share of observations with a conformal p-value of at most 0.05. *Moved*: one of the eight values by
three of its standard deviations, up or down.

## Not shown

Coverage at single observations, which calibration does not guarantee, and other simulators. Where
the posterior is poor, calibrated intervals are wide.
"""


CELLS = {
    f"gaussian {cases} {seed}": partial(of_gaussian, cases, seed)
    for cases in CASES
    for seed in GUARANTEE_SEEDS
}
CELLS |= {
    f"{name} {trained} {seed}": partial(of_network, name, trained, seed)
    for name in SIMULATORS
    for trained in (TRAINED, FEW)
    for seed in GUARANTEE_SEEDS
}
CLAIM = Claim(
    "guarantees",
    "Guaranteed coverage",
    "Calibrated regions cover at least the stated share on average.",
    CELLS,
    judge,
    body,
)

if __name__ == "__main__":
    CLAIM.main()
