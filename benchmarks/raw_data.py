"""Posteriors given raw data, against exact posteriors on a grid.

    OMP_NUM_THREADS=1 python benchmarks/raw_data.py [--tasks=series,images,sets,varying]
        [--simulations=1000] [--observations=10] [--seed=0] [--method=ours] [--seconds=60]
        [--option=NAME=VALUE]

Simulators of two parameters, uniform within bounds:

series     150 points of a damped oscillator, cos(frequency t) exp(-decay t), with noise of 0.3
varying    the same, observed up to a random point from 30 to 150
images     32 x 32 pixels of a Gaussian random field with periodic boundaries and the power spectrum
           amplitude^2 exp(-(k length)^2 / 2), normalized to the variance amplitude^2, with noise of
           0.1: the likelihood is that of independent Fourier modes
sets       1 to 50 draws of a gamma distribution with a shape and a scale

The exact posterior is the likelihood on a grid, which is refined once around its mass. C2ST is the
accuracy of a classifier between 2,000 draws of each; 0.5 is perfect. ``width`` is the ratio of
standard deviations to the exact ones: geometric mean over observations and parameters.

``--method=sbi`` trains NPE of the package sbi with its own embedding networks, on the same
simulations, until its early stopping or for ``--seconds`` at most:

    pip install sbi
    OMP_NUM_THREADS=1 python benchmarks/raw_data.py --method=sbi --seconds=60
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

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.two_sample import c2st

GRID, DRAWS = 160, 2000
TIMES = np.linspace(0, 10, 150)
SIDE, NOISE = 32, 0.3
FREQUENCY = np.sqrt(
    np.square(np.fft.fftfreq(SIDE))[:, None] + np.square(np.fft.fftfreq(SIDE))[None]
) * (2 * np.pi)
FEWEST, MOST = 30, 50


@dataclass(frozen=True)
class Task:
    """A simulator with an exact likelihood.

    Attributes:
        low: Lower bounds of the two parameters.
        high: Upper bounds.
        data_as: Kind of the data.
        simulate: Function of parameters ``[N, 2]`` and a generator to N arrays.
        log_likelihood: Function of parameters ``[N, 2]`` and an array to log likelihoods ``[N]``.
    """

    low: tuple[float, float]
    high: tuple[float, float]
    data_as: str
    simulate: Callable[[np.ndarray, np.random.Generator], Any]
    log_likelihood: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def prior(self, count: int, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.low, self.high, (count, 2))

    def exact(self, data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws ``[DRAWS, 2]`` of the exact posterior."""
        low, high = np.array(self.low), np.array(self.high)
        for _ in range(3):
            steps = (high - low) / GRID
            lines = [
                start + step * (np.arange(GRID) + 0.5)
                for start, step in zip(low, steps, strict=True)
            ]
            grid = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)
            parts = np.array_split(grid, 64)
            log_prob = np.concatenate([self.log_likelihood(part, data) for part in parts])
            near = grid[log_prob > log_prob.max() - 25]
            weights = np.exp(log_prob - log_prob.max())
            low = np.maximum(near.min(axis=0) - steps, self.low)
            high = np.minimum(near.max(axis=0) + steps, self.high)
        places = rng.choice(len(grid), DRAWS, p=weights / weights.sum())
        return grid[places] + steps * (rng.random((DRAWS, 2)) - 0.5)


def wave(theta: np.ndarray) -> np.ndarray:
    frequency, decay = theta.T[:, :, None]
    return np.cos(frequency * TIMES) * np.exp(-decay * TIMES)


def oscillator(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return wave(theta) + NOISE * rng.normal(size=(len(theta), len(TIMES)))


def short_oscillator(theta: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    whole = oscillator(theta, rng)
    ends = rng.integers(FEWEST, len(TIMES) + 1, len(theta))
    return [row[:end] for row, end in zip(whole, ends, strict=True)]


def oscillator_log_likelihood(theta: np.ndarray, data: np.ndarray) -> np.ndarray:
    return -np.square(wave(theta)[:, : len(data)] - data).sum(axis=1) / (2 * NOISE**2)


def spectrum(theta: np.ndarray) -> np.ndarray:
    """Variance of each Fourier mode ``[N, 32, 32]``, with unitary transforms."""
    amplitude, length = theta.T[:, :, None, None]
    shape = np.exp(-np.square(FREQUENCY * length) / 2)
    return amplitude**2 * shape / shape.mean(axis=(1, 2), keepdims=True) + 0.1**2


def field(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    white = np.fft.fft2(rng.normal(size=(len(theta), SIDE, SIDE)), norm="ortho")
    return np.fft.ifft2(white * np.sqrt(spectrum(theta)), norm="ortho").real


def field_log_likelihood(theta: np.ndarray, data: np.ndarray) -> np.ndarray:
    power, variance = np.square(np.abs(np.fft.fft2(data, norm="ortho"))), spectrum(theta)
    return -(power / variance + np.log(variance)).sum(axis=(1, 2)) / 2


def gammas(theta: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    counts = rng.integers(1, MOST + 1, len(theta))
    return [
        rng.gamma(shape, scale, (count, 1))
        for (shape, scale), count in zip(theta, counts, strict=True)
    ]


def gamma_log_likelihood(theta: np.ndarray, data: np.ndarray) -> np.ndarray:
    from scipy.stats import gamma

    return gamma.logpdf(data.ravel(), theta[:, :1], scale=theta[:, 1:]).sum(axis=1)


waves = (1.0, 0.1), (5.0, 1.0)
TASKS = {
    "series": Task(*waves, "series", oscillator, oscillator_log_likelihood),
    "varying": Task(*waves, "series", short_oscillator, oscillator_log_likelihood),
    "images": Task((0.5, 1.0), (2.0, 6.0), "images", field, field_log_likelihood),
    "sets": Task((0.5, 0.5), (5.0, 3.0), "sets", gammas, gamma_log_likelihood),
}


def padded(data: list[np.ndarray]) -> np.ndarray:
    """Arrays of different lengths as one, with NaN at the end."""
    most = max(map(len, data))
    rows = np.full((len(data), most, *data[0].shape[1:]), np.nan)
    for row, values in zip(rows, data, strict=True):
        row[: len(values)] = values
    return rows


def by_ours(
    task: Task, theta: np.ndarray, data: Any, observed: Any, seed: int, options: dict[str, Any]
) -> tuple[np.ndarray, float]:
    """Draws ``[M, DRAWS, 2]`` of posteriors, and seconds of the training."""
    from training import Simulations

    names = [f"theta{at}" for at in (1, 2)]
    bounds = dict(zip(names, zip(task.low, task.high, strict=True), strict=True))
    began = time.perf_counter()
    simulations = Simulations(theta, data, bounds=bounds, data_as=task.data_as, seed=seed)
    model = simulations.train(seed=seed, **options)
    seconds = time.perf_counter() - began
    return model.posterior().sample(observed, draws=DRAWS // 4, seed=seed).points, seconds


def by_sbi(
    task: Task, theta: np.ndarray, data: Any, observed: Any, seed: int, most: float
) -> tuple[np.ndarray, float]:
    """The same by NPE of sbi, with the training ended after ``most`` seconds."""
    embedding_nets = import_module("sbi.neural_nets.embedding_nets")
    torch.manual_seed(seed)
    both = torch.from_numpy(padded([*data, *observed])).float()
    if task.data_as == "sets":
        each = embedding_nets.FCEmbedding(1, num_hiddens=40, num_layers=2, output_dim=20)
        network = embedding_nets.PermutationInvariantEmbedding(each, trial_net_output_dim=20)
    else:
        channels = 1 + bool(both.isnan().any())
        network = embedding_nets.CNNEmbedding(tuple(both.shape[1:]), in_channels=channels)
        if channels > 1:
            both = torch.stack([both.nan_to_num(0.0), (~both.isnan()).float()], dim=1)
    prior = import_module("sbi.utils").BoxUniform(torch.tensor(task.low), torch.tensor(task.high))
    estimator = import_module("sbi.neural_nets").posterior_nn(
        "nsf", z_score_x="none", embedding_net=network
    )
    inference = import_module("sbi.inference").NPE(
        prior, density_estimator=estimator, show_progress_bars=False
    )
    inference.append_simulations(
        torch.from_numpy(theta).float(),
        both[: len(theta)],
        exclude_invalid_x=task.data_as != "sets",
    )
    began, epochs = time.perf_counter(), 0
    while time.perf_counter() - began < most:
        epochs += 10
        trained = inference.train(max_num_epochs=epochs, resume_training=epochs > 10)
        if inference.summary["epochs_trained"][-1] < epochs - 1:
            break
    seconds = time.perf_counter() - began
    draws = []
    for row in both[len(theta) :]:  # sbi's posteriors, which refuse NaN, reject draws likewise
        points = torch.zeros(0, 2)
        while len(points) < DRAWS:
            new = trained.sample((DRAWS,), condition=row[None])[:, 0].detach()
            points = torch.cat([points, new[prior.support.check(new)]])
        draws.append(points[:DRAWS])
    return torch.stack(draws).double().numpy(), seconds


@click.command()
@click.option("--tasks", default=",".join(TASKS))
@click.option("--simulations", default=1000)
@click.option("--observations", default=10)
@click.option("--seed", default=0)
@click.option("--method", default="ours")
@click.option("--seconds", default=60.0)
@click.option("--option", multiple=True)
def main(
    tasks: str,
    simulations: int,
    observations: int,
    seed: int,
    method: str,
    seconds: float,
    option: tuple[str, ...],
) -> None:
    print("| task | simulations | method | training, s | C2ST | width |\n" + "| --- " * 6 + "|")
    for name in tasks.split(","):
        task, rng = TASKS[name], np.random.default_rng([seed, simulations])
        theta = task.prior(simulations, rng)
        data = task.simulate(theta, rng)
        rng = np.random.default_rng(12345)
        observed = task.simulate(task.prior(observations, rng), rng)
        exact = np.stack([task.exact(row, rng) for row in observed])
        if method == "sbi":
            draws, spent = by_sbi(task, theta, data, observed, seed, seconds)
        else:
            typed = dict(each.split("=") for each in option)
            options = {key: float(value) for key, value in typed.items()}
            draws, spent = by_ours(task, theta, data, observed, seed, options)
        scores = c2st(exact, draws)
        ratio = np.exp(np.log(draws.std(axis=1) / exact.std(axis=1)).mean())
        print(
            f"| {name} | {simulations} | {method} | {spent:.0f} | {np.mean(scores):.3f} "
            f"({min(scores):.2f}-{max(scores):.2f}) | {ratio:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
