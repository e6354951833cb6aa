"""Mixtures of Gaussians in six dimensions, of which every conditional law is known.

Flows start from a mixture of up to 16 normal laws, which may be the whole truth of four Gaussians.
Of forty it is not, and the network has something to learn.

nats lost     mean log density of asked cells under the truth, less that of the flow: of all cells,
              and over splits into known and asked cells
of steps      mean absolute change of log densities when 80 steps of the default solver are taken in
              place of the course that the network has
of the chain  mean absolute difference between a joint log density and the sum of those of its
              cells in turn, each given those before it
mean, std     mean absolute difference of posterior means of single cells given some others, in the
              cell's units (whose standard deviations are about 2), and of their standard
              deviations, as parts of these; in brackets also the root mean square of means'
"""

from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from training.subjects.records import RecordFlow

DIM, FEW, MANY, ROWS, TESTED, SPLITS, RANGES = 6, 4, 40, 10_000, 2000, 20, 16
NODES = torch.linspace(-5, 5, 201, dtype=torch.float64)
"""Standard normal numbers, by which means and standard deviations of laws are taken."""


class Mixture:
    """The law, of random means and covariances."""

    def __init__(self, count: int = FEW, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.means = 2 * torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        factor = torch.randn(count, DIM, DIM, generator=generator, dtype=torch.float64) / 2
        self.covariances = factor @ factor.mT + 0.1 * torch.eye(DIM, dtype=torch.float64)
        weights = torch.arange(1, count + 1, dtype=torch.float64)
        self.weights = weights / weights.sum()

    def draws(self, count: int, seed: int) -> Tensor:
        """``[count, D]``."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, True, generator=generator)
        normal = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
        factors = torch.linalg.cholesky(self.covariances)[which]
        return self.means[which] + (factors @ normal[..., None])[..., 0]

    def _joint(self, rows: Tensor, cells: Tensor) -> Tensor:
        """Logarithms ``[n, M]`` of weights times densities of some cells ``[k]``."""
        if not len(cells):
            return self.weights.log().expand(len(rows), -1)
        covariances = self.covariances[:, cells][:, :, cells]
        distribution = torch.distributions.MultivariateNormal(self.means[:, cells], covariances)
        found: Tensor = distribution.log_prob(rows[:, None, cells])  # type: ignore[no-untyped-call]
        return self.weights.log() + found

    def log_prob(self, rows: Tensor, asked: Tensor) -> Tensor:
        """Log densities ``[n]`` of cells that are asked ``[D]``, given all others."""
        every, known = torch.arange(DIM), (~asked).nonzero()[:, 0]
        return self._joint(rows, every).logsumexp(1) - self._joint(rows, known).logsumexp(1)

    def moments(self, rows: Tensor, known: Tensor, cell: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[n]`` of a cell, given some ``[k]``."""
        shares = self._joint(rows, known).softmax(dim=1)
        across = self.covariances[:, known, cell]  # [M, k]
        inner = self.covariances[:, known][:, :, known]
        slopes = torch.linalg.solve(inner, across[..., None])[..., 0]
        off = rows[:, None, known] - self.means[:, known]
        means = self.means[:, cell] + (off * slopes).sum(dim=2)
        variances = self.covariances[:, cell, cell] - (slopes * across).sum(dim=1)
        mean = (shares * means).sum(dim=1)
        second = (shares * (means.square() + variances)).sum(dim=1)
        return mean, (second - mean.square()).sqrt()


def frame_of(rows: Tensor, missing: float, seed: int) -> pd.DataFrame:
    holes = np.random.default_rng(seed).random(rows.shape) < missing
    frame = pd.DataFrame(rows.numpy(), columns=[f"x{place}" for place in range(DIM)])
    return frame.mask(holes)


def compare(flow: RecordFlow, truth: Mixture, seed: int) -> dict[str, float]:
    """All figures of a flow."""
    rows = truth.draws(TESTED, seed + 1000)
    values, every = rows.numpy(), np.ones((TESTED, DIM), dtype=bool)
    of_all = torch.from_numpy(flow.log_prob(values, every)[0])
    figures = {"all": lost(truth.log_prob(rows, torch.ones(DIM, dtype=torch.bool)), of_all)}
    random = np.random.default_rng(seed)
    splits = random.random((SPLITS, DIM)) >= random.random((SPLITS, 1))
    splits[~splits.any(axis=1), 0] = True
    asked = splits[np.arange(TESTED) % SPLITS]
    exact = torch.zeros(TESTED, dtype=torch.float64)
    for place, split in enumerate(splits):
        exact[place::SPLITS] = truth.log_prob(rows[place::SPLITS], torch.from_numpy(split))
    of_splits = torch.from_numpy(flow.log_prob(values, asked)[0])
    figures["splits"] = lost(exact, of_splits)
    figures["asked"] = float(asked.sum(axis=1).mean())
    figures["steps"] = float((of_all - by_many_steps(flow, values, every)).abs().mean())
    figures["steps_splits"] = float((of_splits - by_many_steps(flow, values, asked)).abs().mean())
    chain = torch.zeros(TESTED, dtype=torch.float64)
    for cell in range(DIM):
        seen = np.where(np.arange(DIM) <= cell, values, np.nan)
        one = np.zeros_like(every)
        one[:, cell] = True
        chain += torch.from_numpy(flow.log_prob(seen, one)[0])
    figures["chain"] = float((chain - of_all).abs().mean())
    return figures | posteriors(flow, truth, rows, splits)


def lost(exact: Tensor, found: Tensor) -> float:
    return float((exact - found).mean())


def by_many_steps(flow: RecordFlow, values: np.ndarray, asked: np.ndarray) -> Tensor:
    """Log densities ``[n]`` by many more network evaluations."""
    copy = replace(flow)
    # A cached property keeps its value there, which a frozen object cannot be given otherwise.
    copy.__dict__["questions"] = replace(flow.questions, ranges=RANGES)
    return torch.from_numpy(copy.log_prob(values, asked)[0])


def posteriors(
    flow: RecordFlow, truth: Mixture, rows: Tensor, splits: np.ndarray
) -> dict[str, float]:
    """Errors of means and standard deviations, and the mean absolute error of medians."""
    weights = (-NODES.square() / 2).exp()
    weights = weights / weights.sum()
    levels = torch.special.ndtr(NODES).tolist()
    means, stds = [], []
    for place, split in enumerate(splits):
        cell = int(np.flatnonzero(split)[0])
        known = torch.from_numpy(np.flatnonzero(~split))
        if not len(known):
            continue
        some = rows[place::SPLITS]
        is_known = np.tile(~split, (len(some), 1))
        quantiles = torch.from_numpy(
            flow.distributions(some.numpy(), is_known, cell, levels).quantiles
        )
        mean = quantiles @ weights
        std = (quantiles.square() @ weights - mean.square()).clamp(min=0).sqrt()
        exact_mean, exact_std = truth.moments(some, known, cell)
        means.append(mean - exact_mean)
        stds.append((std / exact_std).log().expm1())
    of_means = torch.cat(means)
    return {
        "mean": float(of_means.abs().mean()),
        "mean_rms": sqrt(float(of_means.square().mean())),
        "std": float(torch.cat(stds).abs().mean()),
    }
