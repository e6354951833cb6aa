"""A test of draws that may fail: proposals that are wider than they are.

What a sampler has left out has no draw, and so no weight that could tell. So a mixture is fitted to
the draws of each chain, in the flat states of ``samplers.annealing``, and made wider; fresh draws
of it are weighted by the flow's own density, by a finer integration, and the likelihood. Where
sampler and steps are right, they have its means and standard deviations. It sees widths and tails,
and modes near those that were found; of modes that are far from all draws it knows nothing: chains
that do not agree tell of these.
"""

from dataclasses import replace

import torch
from torch import Tensor

from torch_utils.seeds import hash_seed
from torch_utils.streams import Stream
from training.flow.solvers import SOLVERS
from training.inference.draws import Draws
from training.inference.proposals import Proposal
from training.inference.samplers.annealing import FITTED, Swarm
from training.inference.target import Target
from training.measure.posterior.importance import effective_size, smoothed_weights

SOLVER, STEPS = "exp_rk5", 8
"""Finer than what samplers go by."""
PROPOSED = 320
"""Of each chain."""
WIDENING = 1.4
"""Over the root of the dimensions: how much wider, so that weights keep their worth in many."""
MEAN_OFF, STD_OFF, ERRORS = 0.1, 0.05, 2.0
"""By how much means, in standard deviations, and logarithms of standard deviations may be off, and
how many standard errors of the test beyond this."""
FEWEST_DRAWS = 100
"""Of all chains, to fit mixtures to: of fewer it says nothing."""
FEWEST_WORTH = 50
"""Draws that the test's weights are worth at least: else it says nothing."""


def tested(target: Target, draws: Draws, seeds: Tensor) -> Draws:
    """The draws, with what the test says of each observation:

    ``test_mean``: how far its means are off, in standard deviations, the most of all coordinates;
    ``test_std``: its standard deviations over those of the draws, farthest from 1; ``test_worth``:
    what its weights are worth; and ``test``: how far both are off, where 1 is what they may be;
    infinite if it says nothing. They follow from a number for each ``[M]``."""
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
    finer = replace(prior, times=prior.flow.times(STEPS), solver=SOLVERS[SOLVER], ways={})
    target = replace(target, prior=finer, calls=0)
    own = torch.tensor([hash_seed(int(seed), Stream.REFINING) for seed in seeds])
    swarm = Swarm(target, own, chains)
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
