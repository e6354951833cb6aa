"""Draws from the posteriors of many observations, and what all of them share.

All observations share a pool of prior draws, the look-ahead regression of the prior, and a time
budget. They are drawn group by group (``training.models.checkpoint``).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, inf, log2
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.logs import logger
from dnnlib.warned import warn
from torch_utils import distributed
from training.files.lookahead import load_lookahead, lookahead_file, save_lookahead
from training.files.posterior import load_part, save_part
from training.inference.draws import GAUSSIAN, WEIGHTED, Draws
from training.inference.lookahead import (
    PRIOR_DRAWS,
    LookAhead,
    Measured,
    MoveBudget,
    calls_to_look,
    require_lookahead,
)
from training.inference.prior import Prior
from training.inference.samplers.populations import Pool
from training.inference.samplers.twisted import calls_of, measure_moves
from training.inference.sampling import (
    Problem,
    SamplingPlan,
    first_pool,
    needs_whole_pool,
    sample_posteriors,
    settled,
)
from training.inference.summary import Summary
from training.inference.target import Target
from training.models.checkpoint import (
    EVERY,
    GROUP,
    Checkpoint,
    PartFormat,
    Parts,
    Progress,
    duration,
    progress,
)
from training.names import PARTICLES

LEARNED_DRAWS = 2**14
"""Number of draws in a group without a likelihood, in which all observations share evaluations."""
GROUP_NUMBERS = 2**26
"""Largest amount of numbers in the draws of a group.

It takes memory several times over, 512 MiB each time.
"""


def group_size(prior: Prior, plan: SamplingPlan, learned: bool) -> int:
    """Return the number of observations to sample together."""
    dim, draws = prior.dim, max(plan.draws, plan.particles or PARTICLES)
    numbers = max(draws * (dim + prior.flow.basis.dim), dim**2) * plan.chains
    together = max(GROUP, LEARNED_DRAWS // (plan.chains * plan.draws)) if learned else GROUP
    return max(1, min(together, GROUP_NUMBERS // numbers))


PosteriorPart = tuple[Draws, Summary]
"""Draws of a group of observations, and their summary."""
DRAWN = PartFormat[PosteriorPart](
    lambda path, part, fingerprint: save_part(path, *part, fingerprint), load_part
)


KEPT_FROM = 5.0
"""Seconds of computation from which a look-ahead regression is kept."""
FEWEST_PARTICLES, MOST_DOUBLINGS = 32, 10
"""Least number of particles if they are to fit into a time, and how often it may double."""
SMALLER = ((PRIOR_DRAWS, FEWEST_PARTICLES), (64, FEWEST_PARTICLES), (32, 8))
"""Numbers of prior draws of the look-ahead and of particles, from which the first is used that fits
into a time. Each takes half the steps of the one before.
"""
RELIABLE = 256
"""Number of particles from which populations mostly agree on images of 16 x 16 pixels."""
OF_PILOT = 0.2
"""Largest fraction of the time left for the pilot run, which predicts the number of moves."""
FOR_FILES, FOR_A_NUMBER = 2.0, 1.5e-6
"""Seconds for summaries and files, in all and for each number of the draws."""
SHARE_OF_CALLS = 0.8
"""Share of the time for network evaluations; weights and files take the rest."""
LATENTS = 2**16
"""Number of draws whose latents are computed at once."""


def sample_groups(
    problem: Problem, plan: SamplingPlan, checkpoint: Checkpoint
) -> Parts[PosteriorPart]:
    """Sample the posteriors of all observations."""
    problem, plan = planned(problem, plan, problem.target.count)
    pool = first = shared_pool(problem.target, plan, first_pool(problem.target, plan))
    if first and len(first.w) < plan.pool and needs_whole_pool(problem.target, first, plan).any():
        pool = shared_pool(problem.target, plan, plan.pool, first)

    def draw(places: Tensor, progress: Progress) -> Draws:
        of_group = pool.of(places) if pool else None
        draws = sample_posteriors(problem.of(places), plan, of_group, progress)
        return replace(draws, points=problem.target.prior.plausible(draws.points))

    return draw_groups(checkpoint, draw, plan.pool)


def seconds_of_a_call(target: Target) -> float:
    """Return the seconds per point of a network evaluation, measured after a warmup."""
    states = torch.zeros(target.many, target.prior.flow.basis.dim, device=target.device)
    which = torch.zeros(target.many, dtype=torch.int64, device=target.device)
    alone = target.of(torch.arange(1))
    for _ in range(2):
        began = monotonic()
        # Move to the CPU, since devices compute asynchronously.
        alone.denoised(states, alone.prior.times[-1], which).cpu()
        seconds = monotonic() - began
    return seconds / target.many


def _warn_of_idle(plan: SamplingPlan) -> None:
    """Warn of options that the chosen sampler does not use."""
    idle = "particles" in plan.typed and plan.sampler not in ("auto", "twisted")
    if idle and distributed.is_main():
        warn("idle-option", f"--particles has no effect on {plan.sampler}: it belongs to twisted")


def planned(problem: Problem, plan: SamplingPlan, count: int) -> tuple[Problem, SamplingPlan]:
    """Return the problem and the plan with all shared preparations made.

    With twisted particles, the cost is logged, and as many particles are used as fit into the time.

    Args:
        problem: Problem.
        plan: Plan as the user requested it.
        count: Number of observations.

    Raises:
        UsageError: There is no look-ahead regression.
    """
    plan, target = settled(problem, plan), problem.target
    drawn = count * plan.chains * plan.draws * target.prior.dim
    until = plan.until - FOR_FILES - FOR_A_NUMBER * drawn
    _warn_of_idle(plan)
    if plan.sampler != "twisted":
        if plan.minutes is not None:
            raise UsageError(
                f"--minutes is for the sampler twisted, but the sampler is {plan.sampler}"
            )
        return problem.looking_ahead(plan, count), plan
    require_lookahead(target)
    name = target.prior.flow.schedule.name
    if name.startswith("PRR") and distributed.is_main():
        warn(
            "compressed-flow",
            "populations of twisted particles seldom agree for networks that "
            f"compress dimensions, such as {name}: use a network that keeps all dimensions",
        )
    # Ranks share the work.
    each = _mean_of_ranks(seconds_of_a_call(target), target) / distributed.world_size()
    alone = [target.of(places[:1]) for places in target.alike()]
    fewest = FEWEST_PARTICLES
    for halvings, (draws, fewest) in enumerate(SMALLER):
        problem = problem.looking_ahead(
            replace(plan, steps=max(2, plan.steps >> halvings)), count, draws
        )
        ahead = problem.ahead
        assert ahead is not None
        paths = [recall(one, problem, ahead, each) for one in alone]
        shape = (target, count, ahead, plan.chains, plan.draws)
        if plan.minutes is None:
            break
        least, left = calls_of(*shape, fewest), _mean_of_ranks(until - monotonic(), target)
        if not halvings:
            _report_time(plan, count, least, calls_of(*shape, RELIABLE), each, left)
        if least * each <= SHARE_OF_CALLS * left:
            break
    else:
        return problem, replace(plan, sampler=GAUSSIAN)
    for one, path in zip(alone, paths, strict=True):
        if one.label not in ahead.known:
            look_ahead(one, ahead, path, problem.in_file)
    if ahead.draws == PRIOR_DRAWS:
        _warn_of_few_steps([ahead.measured(one) for one in alone])
        _measure_moves(problem, ahead, plan, until)
    if plan.minutes is not None:
        plan = _as_fits(plan, target, count, ahead, each, until, fewest)
    calls = calls_of(*shape, plan.particles)
    if calls * each >= EVERY and distributed.is_main():
        beyond = (
            "more where populations disagree; --minutes chooses the number of particles"
            if plan.minutes is None
            else "as many more as --minutes allows where populations disagree"
        )
        logger.info(
            f"The sampler twisted needs about {calls:,.0f} network evaluations, about "
            f"{duration(calls * each)}, and {beyond}"
        )
    return problem, plan


def _mean_of_ranks(number: float, target: Target) -> float:
    """Return the mean of a measured number over the ranks, which have to plan alike."""
    mine = torch.tensor([number], dtype=torch.float64, device=target.device)
    return float(distributed.sum_over_ranks(mine)) / distributed.world_size()


def _report_time(
    plan: SamplingPlan, count: int, least: float, reliable: float, each: float, left: float
) -> None:
    """Log how many network evaluations fit into the time, and warn if results need more.

    Args:
        plan: Plan, with a time.
        count: Number of observations.
        least: Network evaluations of ``FEWEST_PARTICLES``, without moves.
        reliable: Network evaluations of ``RELIABLE`` particles, without moves.
        each: Seconds per network evaluation of all ranks together.
        left: Seconds that are left for all draws.
    """
    assert plan.minutes is not None
    if not distributed.is_main():
        return
    seconds = SHARE_OF_CALLS * max(0.0, left)
    logger.info(
        f"{count:,} observation(s), about {seconds / each:,.0f} network evaluations at "
        f"{1000 * each:.2g} ms: {duration(seconds)} of --minutes={plan.minutes:g}"
    )
    if reliable * each > seconds:
        rough = "approximate" if least * each > seconds else "of few particles"
        taken = 60 * plan.minutes - left
        minutes = ceil((reliable * each / SHARE_OF_CALLS + taken) / 60)
        warn(
            "little-time",
            f"results will be {rough}, and may not converge: {RELIABLE} particles need "
            f"--minutes={minutes} or more, or a faster network",
        )


def _measure_moves(problem: Problem, ahead: LookAhead, plan: SamplingPlan, until: float) -> None:
    """Estimate the number of moves by a pilot run, in a part of the time until ``until``."""
    target, now = problem.target, monotonic()
    budget = None if until == inf else MoveBudget(now + OF_PILOT * (until - now), 1)
    numbers = (plan.seed, problem.numbers, plan.chains, FEWEST_PARTICLES)
    with progress("Trying a few particles", "pilot", 100, "%") as move:
        measure_moves(target, ahead, *numbers, budget, lambda part: move(100 * part))
    ahead.again = _mean_of_ranks(ahead.again, target)


def _as_fits(
    plan: SamplingPlan,
    target: Target,
    count: int,
    ahead: LookAhead,
    each: float,
    until: float,
    fewest: int,
) -> SamplingPlan:
    """Return the plan with as many particles as the time allows, and budget the rest of it.

    The number is right within a factor of 1.5. The remaining time is available for the particles'
    moves.

    Args:
        plan: Plan.
        target: Target.
        count: Number of observations.
        ahead: Look-ahead estimates, which are known; they take the budget.
        each: Seconds per network evaluation of all ranks together.
        until: Time of ``time.monotonic`` at which all observations are to be drawn.
        fewest: Least number of particles.
    """
    most_calls = SHARE_OF_CALLS * _mean_of_ranks(until - monotonic(), target) / each
    looked = (ahead.share * count - ahead.kept) * calls_to_look(
        target.prior, ahead.steps, ahead.draws
    )

    def calls(particles: int) -> float:
        return calls_of(target, count, ahead, plan.chains, plan.draws, particles) - looked

    least, more = (calls(fewest * n) for n in (1, 2))
    times = 1 + (most_calls - least) / (more - least)
    particles = fewest * 2 ** min(int(log2(max(1, times))), MOST_DOUBLINGS)
    if 1.5 * particles <= fewest * times:
        particles += particles // 2
    left = max(0, most_calls - calls(particles))
    ahead.most = ahead.again + left / (count * plan.chains * particles)
    ranks = distributed.world_size()
    seconds, own = each * ranks * plan.chains, ceil(count / ranks)
    arrival = seconds * particles * (ahead.steps + 1)
    latents = seconds * min(particles, plan.draws) * target.prior.calls("latents")
    ahead.budget = MoveBudget(until, own, own, arrival, latents)
    if distributed.is_main():
        logger.info(f"{particles:,} particles per chain fit into --minutes={plan.minutes:g}")
    return replace(plan, particles=particles)


def recall(target: Target, problem: Problem, ahead: LookAhead, each: float) -> Path | None:
    """Load the look-ahead regression of an earlier run with this network and label, if expensive.

    Args:
        target: Target.
        problem: Problem, with the identity of the network.
        ahead: Look-ahead regression, which is replaced by the loaded regression.
        each: Seconds per network evaluation.

    Returns:
        File in which a new look-ahead should be kept, or None.
    """
    seconds = calls_to_look(target.prior, ahead.steps) * each
    if problem.network is None or seconds < KEPT_FROM or ahead.draws != PRIOR_DRAWS:
        return None
    path = lookahead_file(problem.network, target.prior, ahead, target.label)
    if problem.in_file:
        known = load_lookahead(path, target.prior.flow.basis.dim, ahead.steps, target.device)
    else:
        known = MEASURED.get(path)
    # All ranks load it or none, since they plan alike; and none saves it before all have checked.
    there = torch.tensor([float(known is not None)], device=target.device)
    if int(distributed.sum_over_ranks(there)) < distributed.world_size() or known is None:
        return path
    ahead.known[target.label] = known
    ahead.kept += 1
    if distributed.is_main():
        logger.info(f"Using the look-ahead regression in {path if problem.in_file else 'memory'}")
    return None


MEASURED: dict[Path, Measured] = {}
"""Look-ahead regressions of models that are in no file, the latest ``MOST_MEASURED``."""
MOST_MEASURED = 8


def look_ahead(target: Target, ahead: LookAhead, path: Path | None, in_file: bool) -> None:
    """Measure the look-ahead regression, and keep it if a path is given: in memory or in a file."""
    total = 2 * ahead.steps + 1
    begun = "Fitting the look-ahead regression"
    with progress(begun, "look-ahead", total, "time") as move:
        measured = ahead.measured(target, lambda part: move(part * total))
    if path is None:
        return
    if not in_file:
        for old in list(MEASURED)[: len(MEASURED) + 1 - MOST_MEASURED]:
            del MEASURED[old]
        MEASURED[path] = measured
    elif distributed.is_main() and save_lookahead(path, measured):
        logger.info(f"Saved the look-ahead regression to {path}")


def _warn_of_few_steps(measured: list[Measured]) -> None:
    advised = max(each.advised or 0 for each in measured)
    if advised and distributed.is_main():
        warn(
            "few-steps",
            f"{len(measured[0].times) - 1} particle steps are few for this "
            f"prior, which needs {advised}: posterior widths may be off by 5 % or more",
        )


def draw_groups(
    checkpoint: Checkpoint, draw: Callable[[Tensor, Progress], Draws], weighted: int
) -> Parts[PosteriorPart]:
    """Return the draws of all observations, and their summaries.

    Args:
        checkpoint: Groups of observations.
        draw: Function that draws for the observations with some indices.
        weighted: Number of draws among which weights choose, for samplers that use weights.
    """

    def make(places: Tensor, progress: Progress) -> PosteriorPart:
        draws = draw(places, progress)
        return draws.cpu(), Summary.from_draws(draws, weighted)

    return checkpoint.compute(make, DRAWN)


def with_latents(parts: Parts[PosteriorPart], prior: Prior) -> Iterator[tuple[Draws, Tensor]]:
    """Yield the draws of each group of m observations, in order, and latents ``[m, C, S, D]``."""
    flow = prior.flow
    distribution = flow.latent_law(prior.times[-1])
    for draws, _ in parts:
        w = draws.w[..., : flow.basis.dim]
        blocks = torch.split(w.flatten(0, 2), LATENTS)
        z = torch.cat([distribution.unwhiten(block.to(flow.device)).cpu() for block in blocks])
        yield draws, z.view(w.shape)


def without_points(parts: Parts[PosteriorPart]) -> PosteriorPart:
    """Return all groups' results without the draws themselves, and their summary."""
    each = [(draws.without_draws(), summary) for draws, summary in parts]
    return Draws.joined([draws for draws, _ in each]), Summary.joined([one for _, one in each])


def shared_pool(
    target: Target, plan: SamplingPlan, size: int, begun: Pool | None = None
) -> Pool | None:
    """Return prior draws for all observations, made by all ranks together.

    Args:
        target: Target.
        plan: Plan.
        size: Number of draws.
        begun: Pool with the first of these draws, or None.

    Returns:
        Pool, or None for a sampler that does not use one.
    """
    if plan.sampler not in ("auto", *WEIGHTED):
        return None
    more = size - (len(begun.w) if begun else 0)
    with progress(f"Drawing {more:,} more prior samples", "prior draws", more, "draw") as move:
        return Pool.draw(target, size, plan.seed, True, lambda part: move(part * more), begun)
