"""A conditional flow for one observation, in rounds of simulations where its posterior may be.

Truncated proposals (Deistler, Goncalves and Macke 2022, "Truncated proposals for scalable and
hassle-free simulation-based inference"): the first round draws parameters from the prior. Each
further one draws them from the prior too, but only where the flow's density, given the observation,
is above that of all but one of ``1 / BEYOND`` of its draws; and all earlier simulations from there
are used again. Inside of that region parameters have the law of the prior, so that what is learned
needs no correction.
"""

import shutil
import time
from dataclasses import replace

import numpy as np
import torch

from benchmarks.estimators.estimate import Estimate, Simulations
from benchmarks.estimators.flow import posteriors, trained
from training.flow.likelihood import Trace
from training.inference.amortized import Amortized

ROUNDS = 4
"""The simulations are shared out evenly."""
BEYOND = 1e-3
"""Of the flow's draws, those of least density, where the region ends."""
CANDIDATES = 10_000
"""Draws of the flow that stand for the region: parameters are taken of these, weighted by the
density of the prior over the flow's."""


def of_rounds(given: Simulations) -> Estimate:
    """Posteriors of the observations, a training of its own for each in each round but the first,
    which they share."""
    size = len(given.theta) // ROUNDS
    first = replace(
        given,
        theta=given.theta[:size],
        data=given.data[:size],
        folder=given.folder / "round1",
    )
    network, _, seconds = trained(first)
    start, draws, draw_seconds = network, [], 0.0
    for place, seen in enumerate(given.observed):
        network, theta, data = start, first.theta, first.data
        for turn in range(2, ROUNDS + 1):
            began = time.process_time()
            one = replace(
                given,
                theta=theta,
                data=data,
                observed=seen[None],
                draws=CANDIDATES,
                folder=given.folder / f"round{turn}-{place + 1}",
            )
            theta, data = further(one, posteriors(network, one, Trace("exact")), size)
            seconds += time.process_time() - began
            network, _, more = trained(replace(one, theta=theta, data=data))
            seconds += more
        began = time.process_time()
        last = posteriors(network, replace(given, observed=seen[None]))
        draws.append(last.sample(torch.arange(1)).points[0, 0].double().numpy())
        draw_seconds += time.process_time() - began
    for folder in given.folder.glob("round*-*"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    return Estimate(np.stack(draws), seconds, draw_seconds, {"rounds": ROUNDS})


def further(given: Simulations, learned: Amortized, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of the simulations that are in the region of an observation, and new ones.

    Args:
        given: All simulations up to here, and the observation.
        learned: The posterior.
        size: How many new ones.
    """
    prior, draw = given.task.prior, np.random.default_rng([given.seed, len(given.theta)])
    drawn = learned.sample(torch.arange(1))
    assert drawn.log_density is not None
    candidates, density = (
        rows[0, 0].double().numpy() for rows in (drawn.points, drawn.log_density)
    )
    least = np.quantile(density, BEYOND)
    of_old = learned.log_density(
        torch.from_numpy(given.theta)[None], torch.arange(1), Trace("exact")
    )
    old = (of_old[0] >= least).numpy()
    weight = np.where(density < least, -np.inf, prior.log_density(candidates) - density)
    share = np.exp(weight - weight.max())
    chosen = draw.choice(len(share), size, replace=False, p=share / share.sum())
    theta = candidates[chosen]
    data = given.task.simulate(theta, draw)
    return np.concatenate([given.theta[old], theta]), np.concatenate([given.data[old], data])
