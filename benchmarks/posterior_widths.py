"""How wrong are posteriors of a flow, with and without weights by a learned likelihood?

    OMP_NUM_THREADS=1 python benchmarks/posterior_widths.py [--seeds=3,4,5] [--only=oscillator]

Priors are uniform within bounds, and exact posteriors are sums over grids. Flows are trained by the
defaults of ``Simulations.posterior`` on 5,000 simulations, and asked about 50 new observations.

oscillator  ``a exp(-c t_k) cos(w t_k) + 0.1 noise`` at 12 times from 0 to 6; amplitude a in
            [0.5, 2], frequency w in [1, 5], damping c in [0, 0.6]
counts      six Poisson counts with means ``r s_k + b``, where s_k = 1, 0.8, ..., 0; rate r in
            [0, 20], background b in [0.5, 10]
two_modes   six readings ``x^2 + s noise``; x in [-2, 2], s in [0.2, 1]: x has two signs
narrow      ``a + e_1`` and ``b + a^2 / 2 + e_2``; errors have standard deviations 1 / 150 and
            correlation 0.5; a and b in [0, 1]. Three rounds of 500 simulations for one observation
            of each seed

npe        draws of NPE of sbi by its defaults, on the same simulations, if sbi is installed
flow       draws of the posterior flow alone (``fast=True``)
weighted   the same, weighted by a learned likelihood where held-out simulations gain
off        distance of means from exact ones, in exact standard deviations: 90th percentile of each
           parameter (narrow: the mean off, with its sign)
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
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import poisson, spearmanr

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import Simulations, rounds
from training.models.draws import PosteriorDraws
from training.models.posterior import Posterior
from training.models.posterior_reports import WRONG_WIDTH

GRID, REFINEMENTS, TEMPERATURE = 64_000, 3, 9.0
COVERED, DRAWS = 500, 4000
TIMES, NOISE = np.linspace(0.0, 6.0, 12), 0.1
SIGNAL, READINGS = np.linspace(1.0, 0.0, 6), 6
COVARIANCE = np.array([[1.0, 0.5], [0.5, 1.0]]) / 150**2


@dataclass(frozen=True)
class Simulator:
    """A simulator with a uniform prior.

    Attributes:
        bounds: Lowest and highest value of each parameter, by name.
        simulate: Function from parameters ``[N, D]`` and a generator to data ``[N, C]``.
        log_likelihood: Function from parameters ``[N, D]`` and data ``[C]`` to ``[N]``, up to a
            constant.
    """

    bounds: dict[str, tuple[float, float]]
    simulate: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    log_likelihood: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def drawn(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Parameters ``[N, D]`` of the prior and data ``[N, C]``."""
        draw = np.random.default_rng(seed)
        low, high = np.array([*self.bounds.values()]).T
        theta = draw.uniform(low, high, (count, len(low)))
        return theta, self.simulate(theta, draw)

    def simulations(self, count: int, seed: int, **options: Any) -> Simulations:
        """Simulations of the prior."""
        theta, data = self.drawn(count, seed)
        parameters = dict(zip(self.bounds, theta.T, strict=True))
        return Simulations(parameters, data, bounds=self.bounds, seed=seed, **options)

    def exact_moments(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations ``[D]`` of the exact posterior of data ``[C]``.

        Tempered draws of the prior say where it is, and grids around it narrow down.
        """

        def moments(theta: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
            fit = self.log_likelihood(theta, data)
            share = np.exp((fit - fit.max()) / temperature)
            share /= share.sum()
            mean = share @ theta
            return mean, np.sqrt(share @ np.square(theta - mean))

        ends = np.array([*self.bounds.values()]).T
        prior = np.random.default_rng(0).uniform(ends[0], ends[1], (100_000, ends.shape[1]))
        mean, std = moments(prior, TEMPERATURE)
        margin, count = 0.02 * (ends[1] - ends[0]), round(GRID ** (1 / ends.shape[1]))
        for _ in range(REFINEMENTS):
            reach = 6 * (std + margin)
            low, high = np.maximum(mean - reach, ends[0]), np.minimum(mean + reach, ends[1])
            step = (high - low) / count
            axes = low[:, None] + step[:, None] * (np.arange(count) + 0.5)
            theta = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(low))
            mean, std = moments(theta, 1.0)
            margin = 0.5 * step
        return mean, std


def oscillation(theta: np.ndarray) -> np.ndarray:
    """The oscillation ``[N, 12]`` of parameters ``[N, 3]``, without noise."""
    amplitude, frequency, damping = theta.T[..., None]
    return amplitude * np.exp(-damping * TIMES) * np.cos(frequency * TIMES)


def expected(theta: np.ndarray) -> np.ndarray:
    """Expected counts ``[N, 6]`` of parameters ``[N, 2]``."""
    rate, background = theta.T[..., None]
    return rate * SIGNAL + background


def curved(theta: np.ndarray) -> np.ndarray:
    """Data ``[N, 2]`` of the narrow posterior's parameters ``[N, 2]``, without noise."""
    return np.stack([theta[:, 0], theta[:, 1] + theta[:, 0] ** 2 / 2], axis=1)


def of_readings(theta: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Log likelihood ``[N]`` of readings ``[6]``."""
    off = np.square(data - theta[:, :1] ** 2).sum(axis=1)
    return -off / (2 * theta[:, 1] ** 2) - READINGS * np.log(theta[:, 1])


def of_narrow(theta: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Log likelihood ``[N]`` of the two numbers of the narrow posterior."""
    off = data - curved(theta)
    return -0.5 * (off @ np.linalg.inv(COVARIANCE) * off).sum(axis=1)


SIMULATORS = {
    "oscillator": Simulator(
        {"amplitude": (0.5, 2.0), "frequency": (1.0, 5.0), "damping": (0.0, 0.6)},
        lambda theta, draw: oscillation(theta) + NOISE * draw.normal(size=(len(theta), len(TIMES))),
        lambda theta, y: -0.5 * np.square(oscillation(theta) - y).sum(axis=1) / NOISE**2,
    ),
    "counts": Simulator(
        {"rate": (0.0, 20.0), "background": (0.5, 10.0)},
        lambda theta, draw: draw.poisson(expected(theta)).astype(float),
        lambda theta, y: poisson.logpmf(y, expected(theta)).sum(axis=1),
    ),
    "two_modes": Simulator(
        {"x": (-2.0, 2.0), "s": (0.2, 1.0)},
        lambda theta, draw: (
            theta[:, :1] ** 2 + theta[:, 1:] * draw.normal(size=(len(theta), READINGS))
        ),
        of_readings,
    ),
}
NARROW = Simulator(
    {"a": (0.0, 1.0), "b": (0.0, 1.0)},
    lambda theta, draw: (
        curved(theta) + draw.normal(size=(len(theta), 2)) @ np.linalg.cholesky(COVARIANCE).T
    ),
    of_narrow,
)


@click.command(help=__doc__)
@click.option("--seeds", default="3,4,5", show_default=True)
@click.option("--only", type=click.Choice([*SIMULATORS, "narrow"]), help="Default: all of them.")
@click.option("--simulations", type=int, default=5000, show_default=True)
@click.option("--observations", type=int, default=50, show_default=True)
def main(seeds: str, only: str | None, simulations: int, observations: int) -> None:
    torch.set_num_threads(1)
    columns = "off | sd | covered | too wide | missed | false, % | shift | CPU s"
    print(f"| simulator | seed | draws | {columns} |")
    print("| --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: |")
    for name in [only] if only else [*SIMULATORS, "narrow"]:
        for seed in map(int, seeds.split(",")):
            rows = (
                by_rounds(seed)
                if name == "narrow"
                else compared(SIMULATORS[name], seed, simulations, observations)
            )
            for draws, cells in rows.items():
                print(f"| {name} | {seed} | {draws} | {' | '.join(cells)} |", flush=True)


def compared(
    simulator: Simulator, seed: int, count: int, observations: int
) -> dict[str, list[str]]:
    """Return the cells of each method on one simulator, by method."""
    began = time.process_time()
    posterior = simulator.simulations(count, seed).posterior(seed=seed)
    print(f"trained in {time.process_time() - began:.0f} CPU s", file=sys.stderr)
    _, seen = simulator.drawn(observations, 1000 + seed)
    exact = np.stack([simulator.exact_moments(each) for each in seen], axis=1)
    others, rows = simulator.simulations(COVERED, 2000 + seed, held_out=0), {}
    if (found := of_npe(simulator, seed, count, seen)) is not None:
        points, inside, seconds = found
        cells = [*_errors(points, *exact), f"{100 * inside:.1f}", "", "", "", ""]
        rows["npe"] = [*cells, f"{seconds:.0f}"]
    for name, each in (("flow", Posterior(posterior.model)), ("weighted", posterior)):
        began = time.process_time()
        draws = each.sample(seen)
        seconds = time.process_time() - began
        curve = each.check(others, runs=COVERED)["central_intervals"]
        inside = curve["pooled"][curve["levels"].index(0.9)]
        cells = [*_errors(draws.points, *exact), f"{100 * inside:.1f}", *_warnings(draws, *exact)]
        rows[name] = [*cells, f"{seconds:.0f}"]
    return rows


def of_npe(
    simulator: Simulator, seed: int, count: int, seen: np.ndarray
) -> tuple[np.ndarray, float, float] | None:
    """Return draws ``[M, S, D]`` of sbi, the share of covered parameters and seconds of drawing."""
    try:
        npe = import_module("sbi.inference").NPE
        box = import_module("sbi.utils").BoxUniform
    except ImportError:
        return None
    torch.manual_seed(seed)
    prior = box(*torch.tensor([*simulator.bounds.values()]).float().T)
    theta, data = (torch.from_numpy(each).float() for each in simulator.drawn(count, seed))
    inference = npe(prior, show_progress_bars=False)
    inference.append_simulations(theta, data).train()
    posterior = inference.build_posterior()

    def draws(data: np.ndarray, count: int) -> np.ndarray:
        x = torch.from_numpy(data).float()
        points = posterior.sample_batched((count,), x, show_progress_bars=False)
        return points.transpose(0, 1).double().numpy()

    began = time.process_time()
    points = draws(seen, DRAWS)
    seconds = time.process_time() - began
    true, others = simulator.drawn(COVERED, 2000 + seed)
    low, high = np.quantile(draws(others, 1000), [0.05, 0.95], axis=1)
    return points, float(((true >= low) & (true <= high)).mean()), seconds


def by_rounds(seed: int) -> dict[str, list[str]]:
    """Return the cells of rounds on the narrow posterior, with and without weights."""
    draw = np.random.default_rng(seed)
    seen = NARROW.simulate(draw.uniform(0.1, 0.9, (1, 2)), draw)
    mean, std = NARROW.exact_moments(seen[0])
    rows = {}
    for name, fast in (("flow", True), ("weighted", False)):
        began = time.process_time()
        given: dict[str, Any] = {"rounds": 3, "simulations": 1500, "seed": seed, "fast": fast}
        draws = rounds(NARROW.simulate, seen, bounds=NARROW.bounds, **given)
        seconds = time.process_time() - began
        off, ratio = (draws.points[0].mean(axis=0) - mean) / std, draws.points[0].std(axis=0) / std
        rows[name] = [_listed(off), _listed(ratio), "", "", "", "", "", f"{seconds:.0f}"]
    return rows


def _errors(points: np.ndarray, mean: np.ndarray, std: np.ndarray) -> list[str]:
    """Return errors of draws ``[M, S, D]``, given exact means and deviations ``[M, D]``."""
    off = np.abs(points.mean(axis=1) - mean) / std
    ratio = points.std(axis=1) / std
    widths = f"{_listed(np.quantile(ratio, 0.9, axis=0))}; {_listed(ratio.max(axis=0))}"
    return [_listed(np.quantile(off, 0.9, axis=0)), widths]


def _warnings(draws: PosteriorDraws, mean: np.ndarray, std: np.ndarray) -> list[str]:
    """Return how warnings agree with the widths of draws, and shifts with their means."""
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
        f"{wide.sum()}",
        f"{(wide & ~warned).sum()}",
        f"{false[0]:.0f} ({false[1]:.0f})",
        shifts,
    ]


def _listed(values: np.ndarray) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
