"""Posteriors of many observations, group by group."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from training.files.posterior_parts import load_part, save_part
from training.inference.amortized import Amortized
from training.inference.draws import WEIGHTED, Draws
from training.inference.prior import Prior
from training.inference.samplers.pool import Pool
from training.inference.sampling import (
    Problem,
    SamplingPlan,
    first_pool,
    sample_posteriors,
    wants_more,
)
from training.inference.summary import Summary
from training.inference.target import Target
from training.runs.groups import Groups, Progress
from training.runs.waiting import progress

LATENTS = 2**16
"""Draws whose latents are made at once."""


def sample_groups(problem: Problem, plan: SamplingPlan, groups: Groups) -> None:
    """Samples all posteriors into the files of their groups."""
    pool = first = shared_pool(problem.target, plan, first_pool(problem.target, plan))
    if first and len(first.w) < plan.pool and wants_more(problem.target, first, plan).any():
        pool = shared_pool(problem.target, plan, plan.pool, first)

    def draw(places: Tensor, progress: Progress) -> Draws:
        of_group = pool.of(places) if pool else None
        draws = sample_posteriors(problem.of(places), plan, of_group, progress)
        return replace(draws, points=problem.target.prior.plausible(draws.points))

    _into_parts(groups, draw, plan.pool)


def sample_learned(amortized: Amortized, groups: Groups) -> None:
    """Samples the posteriors that a conditional flow has learned, likewise."""
    _into_parts(groups, amortized.sample, amortized.chains * amortized.draws)


def _into_parts(groups: Groups, draw: Callable[[Tensor, Progress], Draws], weighted: int) -> None:
    """Draws for the observations of each group, which are kept in its file.

    Args:
        groups: Where they are kept.
        draw: Draws for observations at some places.
        weighted: The number of draws of which weights choose, where some do.
    """

    def work(index: int, places: Tensor, path: Path, progress: Progress) -> bool:
        there = load_part(path, groups.fingerprint) is not None
        if not there:
            draws = draw(places, progress)
            save_part(path, draws, Summary.of(draws, weighted), groups.fingerprint)
        progress.finish()
        return there

    groups.run(work)


def sampled(groups: Groups) -> Iterator[tuple[Draws, Summary]]:
    """The draws and summary of each group, in order."""
    for index in range(len(groups.places)):
        part = load_part(groups.path(index), groups.fingerprint)
        assert part is not None
        yield part


def shared_pool(
    target: Target, plan: SamplingPlan, size: int, begun: Pool | None = None
) -> Pool | None:
    """So many prior draws for all observations, made by all ranks together; None for a sampler
    without. The first of them may be there already."""
    if plan.sampler not in ("auto", *WEIGHTED):
        return None
    more = size - (len(begun.w) if begun else 0)
    with progress(f"Making {more:,} prior draws", "prior draws", more, "draw") as move:
        return Pool.draw(target, size, plan.seed, True, lambda part: move(part * more), begun)


def latents_of(draws: Draws, prior: Prior) -> Tensor:
    """Latents ``[m, C, S, D]`` of draws."""
    flow = prior.flow
    w = draws.w[..., : flow.basis.dim]
    law = flow.latent_law(prior.times[-1])
    blocks = torch.split(w.flatten(0, 2), LATENTS)
    return torch.cat([law.unwhiten(block.to(flow.device)).cpu() for block in blocks]).view(w.shape)
