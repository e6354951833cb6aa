"""Test of draws with proposals that are wider than the draws.

A region that a sampler missed has no draws, so no weight can reveal it. The test therefore fits a
mixture to the draws of each chain, in the states of ``samplers.annealing``, and widens it. Fresh
draws of the mixture are weighted by the likelihood and the flow's own density, from a finer
integration. If sampler and integration are right, the draws have the means and standard deviations
of the weighted ones. The test detects wrong widths and tails, and missing modes near those that
were found. It cannot detect modes far from all draws; disagreement between chains can.
"""

from dataclasses import replace

import torch
from torch import Tensor

from torch_utils.seeds import hash_seed
from torch_utils.streams import Stream
from training.flow.solvers import SOLVERS
from training.inference.draws import Draws
from training.inference.proposals import Proposal
from training.inference.samplers.annealing import FITTED, Populations
from training.inference.target import Target
from training.measure.posterior.importance import effective_size, smoothed_weights

SOLVER, FINE_STEPS = "exp_rk5", 8
"""Solver and steps of an integration that is finer than those of the samplers."""
PROPOSED = 320
"""Number of fresh draws per chain."""
WIDENING = 1.4
"""Relative widening, times the square root of the dimension, so that the effective sample size
stays large in many dimensions.
"""
MEAN_OFF, STD_OFF, ERRORS = 0.1, 0.05, 2.0
"""Tolerances on means, in standard deviations, and on log standard deviations, and number of
standard errors of the test that are added to them.
"""
FEWEST_DRAWS = 100
"""Smallest number of draws, over all chains, that mixtures are fitted to; with fewer the test is
inconclusive.
"""
FEWEST_WORTH = 50
"""Smallest effective sample size of the test's weights; below it the test is inconclusive."""


def tested(target: Target, draws: Draws, seeds: Tensor) -> Draws:
    """Test the draws of each observation with wider proposals, and add the statistics of the test.

    ``test_mean`` is the largest difference of means over coordinates, in standard deviations.
    ``test_std`` is the ratio of standard deviations, test to draws, that is farthest from 1.
    ``test_worth`` is the effective sample size of the test's weights. ``test`` is the largest
    difference relative to its tolerance, so that the test fails above 1; the value is infinite if
    the test is inconclusive.

    Args:
        target: The posteriors.
        draws: Draws to test.
        seeds: Random seed of each observation ``[M]``.
    """
    if draws.log_likelihood[0].numel() < FEWEST_DRAWS:
        unknown = torch.full((draws.count,), torch.inf, dtype=torch.float64)
        return replace(draws, stats={**draws.stats, "test": unknown})
    each = torch.split(torch.arange(draws.count), 1)
    parts = [_tested(target.of(at), draws.of(at), seeds[at]) for at in each]
    stats = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    calls = stats.pop("calls")
    return replace(draws, calls=draws.calls + calls, stats={**draws.stats, **stats})


def _tested(target: Target, draws: Draws, seeds: Tensor) -> dict[str, Tensor]:
    chains, size = draws.points.shape[1:3]
    prior = target.prior
    finer = replace(
        prior, times=prior.flow.times(FINE_STEPS), solver=SOLVERS[SOLVER], integrations={}
    )
    target = replace(target, prior=finer, calls=0)
    own = torch.tensor([hash_seed(int(seed), Stream.REFINING) for seed in seeds])
    swarm = Populations(target, own, chains)
    rows = torch.arange(min(FITTED, size), device=target.device) * size // min(FITTED, size)
    states = swarm.states_of(draws.points[:, :, rows].flatten(0, 1).to(target.device))
    worth = torch.full_like(states[:, 0, 0], len(rows))
    if "effective_size" in draws.stats:
        of_chain = draws.stats["effective_size"].to(worth) / chains
        worth = of_chain.repeat_interleave(chains).clamp(1, len(rows))
    fitted = Proposal.fit(swarm.blurred(states), worth, swarm.uniform(0)[:, 1:])
    swarm.add(fitted.wider(1 + WIDENING / len(swarm.width) ** 0.5), PROPOSED, 0)
    log_weights = swarm.log_weights(torch.ones_like(worth)).view(draws.count, -1)
    smoothed = smoothed_weights(log_weights)
    weights, worth = smoothed.log_weights.exp()[..., None], effective_size(smoothed.log_weights)
    points = swarm.placed.points.view(draws.count, -1, draws.points.shape[3])
    mean = (weights * points).sum(dim=1)
    square = (points - mean[:, None]).square()
    variance = (weights * square).sum(dim=1)
    peaked = (weights * square.square()).sum(dim=1) / variance.square()
    flat = draws.points.flatten(1, 2).to(mean)
    std = flat.std(dim=1)
    varies = std > 0
    scale = torch.where(varies, std, 1.0)
    off = torch.where(varies, (mean - flat.mean(dim=1)) / scale, 0.0)
    ratio = torch.where(varies, variance.sqrt() / scale, 1.0)
    error = worth.clamp_min(1).rsqrt()[:, None]
    spread = error * ((peaked - 1) / 4).clamp_min(0.25).sqrt()
    of_mean = off.abs() / (MEAN_OFF + ERRORS * error)
    of_std = ratio.log().abs() / (STD_OFF + ERRORS * spread)
    worst = torch.maximum(of_mean, of_std).amax(dim=1)
    known = (worth >= FEWEST_WORTH) & worst.isfinite()
    at = ratio.log().abs().argmax(dim=1, keepdim=True)
    stats = {
        "test": torch.where(known, worst, torch.inf),
        "test_mean": off.abs().amax(dim=1),
        "test_std": ratio.gather(1, at)[:, 0],
        "test_worth": worth,
        "calls": torch.full_like(worth, target.calls / draws.count),
    }
    return {name: values.double().cpu() for name, values in stats.items()}
