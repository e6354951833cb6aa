"""Claim 4: posteriors that are reported as converged are right.

    python benchmarks/posteriors.py

Priors are known mixtures of four Gaussians with one covariance, by the exact denoiser or by a
trained network. Exact posteriors are in closed form for linear observations, and by importance
sampling of prior draws for nonlinear ones. Posteriors of the exact denoiser contain the noise of
the first time, like their references.
"""

import sys
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.evidence import SEEDS, Claim, Figures, Results, figure, select, table
from benchmarks.mixtures import FUNCTIONS, Mixture, Nonlinear, exact_flow
from training import Table
from training.flow.pfode import ProbabilityFlow
from training.inference.likelihoods import Gaussian, Likelihood
from training.inference.prior import Prior, integrations_of
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target
from training.measure.posterior.importance import effective_size

COLUMNS, ROWS, BLOCK = (2, 5), 5000, 256
LINEAR_NOISE, NONLINEAR_NOISE, NETWORK_NOISE = (0.3, 0.03, 0.003), (0.3, 0.1), 0.1
LINEAR_COUNT, NONLINEAR_COUNT = 10, 8
PRIOR_DRAWS, LEAST_ESS = 1_000_000, 5000
MEAN_OFF, LOW, HIGH = 0.25, 0.85, 1.15
KINDS = {
    "linear": "linear, exact denoiser",
    "nonlinear": "nonlinear, exact denoiser",
    "network": "linear, network",
}


def observed_of(likelihood: Likelihood, mixture: Mixture, count: int, seed: int) -> Tensor:
    """Simulate observations of new points."""
    generator = torch.Generator().manual_seed(seed + 2000)
    return likelihood.simulate(mixture.sample(count, seed + 1000), generator)


def sampled(flow: ProbabilityFlow, likelihood: Likelihood, observed: Tensor, seed: int) -> Summary:
    """Sample posteriors of the exact denoiser, like ``Posterior.sample``."""
    fine = Prior(flow, *flow.integration("points"), integrations=integrations_of(flow))
    target = Target(fine, likelihood, observed, BLOCK)
    problem = Problem(target, Prior(flow, *flow.integration("look")), list(range(len(observed))))
    plan = SamplingPlan(seed=seed)
    return Summary.from_draws(sample_posteriors(problem, plan), plan.pool)


def compared(mean: Tensor, std: Tensor, right: Tensor, known: tuple[Tensor, Tensor]) -> Figures:
    """Return errors ``[M, D]`` of means, ratios of standard deviations, and what has converged."""
    return {"off": (mean - known[0]) / known[1], "ratio": std / known[1], "converged": right}


def seen_columns(dim: int) -> dict[str, Tensor]:
    """Return the observed columns: one, and all but one (both of two)."""
    return {"one": torch.arange(1), "most": torch.arange(max(2, dim - 1))}


def exact_prior(dim: int, seed: int) -> tuple[Mixture, ProbabilityFlow, Mixture]:
    """Return a mixture, its flow, and the mixture with the noise of the first time."""
    mixture = Mixture.of(dim, seed)
    flow = exact_flow(mixture)
    return mixture, flow, mixture.blurred(float(flow.schedule.noise_variance(flow.times()[0])[0]))


def linear(dim: int, seed: int) -> Figures:
    mixture, flow, prior = exact_prior(dim, seed)
    figures = {}
    for name, columns in seen_columns(dim).items():
        for noise in LINEAR_NOISE:
            likelihood = Gaussian(torch.tensor(noise).double(), columns)
            observed = observed_of(likelihood, mixture, LINEAR_COUNT, seed)
            found = sampled(flow, likelihood, observed, seed)
            known = prior.posterior(likelihood, observed)
            figures[f"{name} {noise}"] = compared(found.mean, found.std, found.converged, known)
    return figures


def nonlinear(dim: int, seed: int) -> Figures:
    mixture, flow, prior = exact_prior(dim, seed)
    points, figures = prior.sample(PRIOR_DRAWS, seed + 3000), {}
    for name, function in FUNCTIONS.items():
        for noise in NONLINEAR_NOISE:
            likelihood = Nonlinear(function, noise)
            observed = observed_of(likelihood, mixture, NONLINEAR_COUNT, seed)
            found = sampled(flow, likelihood, observed, seed)
            moments, enough = [], []
            for one in observed:
                log_weights = likelihood.log_prob(points, one[None])
                weights = log_weights.softmax(0)
                mean = weights @ points
                moments.append((mean, (weights @ (points - mean).square()).sqrt()))
                enough.append(float(effective_size(log_weights)) >= LEAST_ESS)
            means, stds = (torch.stack(each)[enough] for each in zip(*moments, strict=True))
            mean, std, right = found.mean[enough], found.std[enough], found.converged[enough]
            left_out = {"left_out": len(enough) - sum(enough)}
            figures[f"{name} {noise}"] = compared(mean, std, right, (means, stds)) | left_out
    return figures


def network(dim: int, seed: int) -> Figures:
    mixture, names = Mixture.of(dim, seed), [f"c{index + 1}" for index in range(dim)]
    rows = mixture.sample(ROWS, seed).numpy()
    model = Table.open(rows, columns=names, seed=seed).train(seed=seed)
    columns = seen_columns(dim)["most"]
    likelihood = Gaussian(torch.tensor(NETWORK_NOISE).double(), columns)
    observed = observed_of(likelihood, mixture, LINEAR_COUNT, seed)
    frame = pd.DataFrame(observed.numpy(), columns=names[: len(columns)])
    draws = model.posterior(noise_std=NETWORK_NOISE).sample(frame, seed=seed)
    points, right = torch.from_numpy(draws.points), torch.from_numpy(draws.converged)
    known = mixture.posterior(likelihood, observed)
    return {"most": compared(points.mean(dim=1), points.std(dim=1), right, known)}


class Pooled:
    """Posteriors of several cells.

    Attributes:
        right: Which are reported as converged ``[n]``.
        wrong: Which are wrong in a column ``[n]``.
        off: Absolute errors of means of those that are reported as converged, in all columns.
        ratio: Their ratios of standard deviations.
    """

    def __init__(self, cells: list[Figures]):
        parts = [part for cell in cells for part in cell.values() if part["converged"]]
        self.right = np.concatenate([np.array(part["converged"]) for part in parts])
        off, ratio = ([np.array(part[key]) for part in parts] for key in ("off", "ratio"))
        bad = [
            (abs(errors) > MEAN_OFF) | (ratios < LOW) | (ratios > HIGH)
            for errors, ratios in zip(off, ratio, strict=True)
        ]
        self.wrong = np.concatenate([each.any(axis=1) for each in bad])
        self.off, self.ratio = (
            np.concatenate(
                [each[part["converged"]].ravel() for each, part in zip(values, parts, strict=True)]
            )
            for values in ([abs(each) for each in off], ratio)
        )


def judge(results: Results) -> tuple[bool, str]:
    exact = {key: cell for key, cell in results.items() if not key.startswith("network")}
    every = Pooled(list(exact.values()))
    places = {key: Pooled([cell]) for key, cell in exact.items()}
    counts = {key: int((own.wrong & own.right).sum()) for key, own in places.items()}
    listed = ", ".join(f"{count} in the cell {key}" for key, count in counts.items() if count)
    return not listed, (
        f"with the exact denoiser, {sum(counts.values())} of {every.right.sum()} posteriors that "
        f"are reported as converged are wrong{f': {listed}' if listed else ''}. Wrong is a mean "
        "off by more than 0.25 standard deviations, or a standard deviation off by more than 15 %."
    )


def body(results: Results) -> str:
    lines = []
    for kind, dim in product(KINDS, COLUMNS):
        if not (cells := select(results, kind, str(dim))):
            continue
        every, medians = Pooled(cells), [np.median(Pooled([cell]).off) for cell in cells]
        left_out = sum(part.get("left_out", 0) for cell in cells for part in cell.values())
        line = [KINDS[kind], str(dim), str(len(every.right)), f"{(~every.right).sum()}"]
        line += [f"{(every.wrong & each).sum()}" for each in (every.right, ~every.right)]
        line += [figure(medians, ".4f"), f"{np.quantile(every.off, 0.99):.3f}"]
        spread = " ".join(f"{each:.3f}" for each in np.quantile(every.ratio, [0, 0.5, 1]))
        lines.append([*line, spread, str(left_out)])
    head = ["observed", "columns", "posteriors", "not converged", "wrong: converged"]
    head += ["wrong: others", "mean: median", "99 %", "std: smallest, median, largest", "left out"]
    return f"""
## Posteriors

{table(head, lines)}

*Mean*: absolute error of posterior means in exact standard deviations, over columns and
posteriors that are reported as converged: the median (standard error over three seeds) and the 99th
percentile. *Std*: ratios to the exact standard deviations. *Linear*: one column, or all but one
(both of two), with noise of 0.3, 0.03 and 0.003 standard deviations; the references are closed
forms. *Nonlinear*: the root mean square of the columns, and the product of the first two, with
noise of 0.3 and 0.1; the references are importance sampling of a million prior draws, and an
observation is *left out* if their effective sample size is below 5,000. *Network*: the default
training on 5,000 rows, all columns but one (both of two) with noise of 0.1, compared with the
mixture itself, which adds the error of the network.

## Not shown

More columns and priors of another shape. [Accuracy](../howto/likelihoods.md#accuracy) states the
causes of errors.
"""


CELLS = {
    f"{name} {dim} {seed}": partial(cell, dim, seed)
    for name, cell in (("linear", linear), ("nonlinear", nonlinear), ("network", network))
    for dim in COLUMNS
    for seed in SEEDS
}
CLAIM = Claim(
    "posteriors",
    "Posteriors with a likelihood",
    "Posteriors reported as converged are right.",
    CELLS,
    judge,
    body,
)

if __name__ == "__main__":
    CLAIM.main()
