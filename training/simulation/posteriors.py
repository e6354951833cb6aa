"""Posteriors of many observations, or of many runs of a check, group by group.

Ranks share the groups. Each finished group is kept in a folder beside the results until all are
done, so that a run that was killed goes on where it was; what a group gives depends on its own
numbers and the seed alone.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.files import require_folder
from dnnlib.logs import logger
from torch_utils import distributed
from training.files.posterior import load_values, save_values
from training.files.posterior_parts import load_part, save_part
from training.inference.amortized import Amortized
from training.inference.checking import (
    check_runs,
    simulated,
    truths_of_data,
    truths_of_prior,
)
from training.inference.draws import POOLED, Draws
from training.inference.prior import Prior
from training.inference.samplers.pool import Pool
from training.inference.samplers.twisted import FEWEST
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues

GROUP = 64
"""Observations that are sampled side by side: enough to fill the calls of small networks."""
GROUP_NUMBERS = 2**26
"""Numbers up to which the draws of a group take memory, several times over: 512 MiB."""


def group_size(prior: Prior, plan: SamplingPlan) -> int:
    """How many observations to sample side by side."""
    dim, draws = prior.dim, max(plan.draws, plan.particles or FEWEST)
    numbers = max(draws * (dim + prior.flow.basis.dim), dim**2) * plan.chains
    return max(1, min(GROUP, GROUP_NUMBERS // numbers))


@dataclass(frozen=True)
class Groups:
    """Where the groups of a run are kept.

    Attributes:
        folder: Of the unfinished run.
        fingerprint: Says which run it is, so that the parts of another are not taken for its own.
        count: Observations, or runs.
        size: Of a group.
    """

    folder: Path
    fingerprint: str
    count: int
    size: int = GROUP

    @property
    def places(self) -> list[Tensor]:
        """The observations of each group."""
        return list(torch.split(torch.arange(self.count), self.size))

    def path(self, index: int) -> Path:
        """The file of one group."""
        return self.folder / f"group-{index:05d}.npz"

    def run(self, work: Callable[[int, Tensor, Path, "Progress"], bool]) -> None:
        """Does what is left to do, on all ranks.

        Args:
            work: Makes the file of a group, of this number and these places; says whether it was
                there already.
        """
        require_folder(self.folder)
        groups = list(enumerate(self.places))
        mine = groups[distributed.rank() :: distributed.world_size()]
        hidden = None if distributed.is_main() else True
        found = 0
        with tqdm(total=len(mine), desc="posteriors", unit="group", disable=hidden) as bar:
            for index, places in mine:
                found += work(index, places, self.path(index), Progress(bar))
        distributed.barrier()
        if found and distributed.is_main():
            logger.info(f"{found} group(s) of {self.size} were there from a run that was cut short")

    def remove(self) -> None:
        """Removes the folder, once the results are written."""
        distributed.barrier()
        if distributed.is_main():
            shutil.rmtree(self.folder, ignore_errors=True)


class Progress:
    """Moves a bar on by parts of a group, and to its end.

    Args:
        bar: Of all groups.
    """

    def __init__(self, bar: Any):
        self._bar, self._part = bar, 0.0

    def __call__(self, part: float) -> None:
        part = min(part, 1 - self._part)
        self._part += part
        self._bar.update(part)

    def finish(self) -> None:
        self(1 - self._part)


def sample_groups(problem: Problem, plan: SamplingPlan, groups: Groups) -> None:
    """Samples all posteriors into the files of their groups."""
    pool = shared_pool(problem.target, plan)

    def draw(places: Tensor, progress: Progress) -> Draws:
        of_group = pool.of(places) if pool else None
        return sample_posteriors(problem.of(places), plan, of_group, progress)

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


def shared_pool(target: Target, plan: SamplingPlan) -> Pool | None:
    """The pool of all observations, made by all ranks together; None for a sampler without."""
    if plan.sampler not in ("auto", *POOLED):
        return None
    hidden = None if distributed.is_main() else True
    with tqdm(total=plan.pool, desc="prior draws", unit="draw", disable=hidden) as bar:
        return Pool.draw(
            target, plan.pool, plan.seed, True, lambda part: bar.update(part * plan.pool)
        )


@dataclass(frozen=True)
class Check:
    """Runs of a calibration check.

    Attributes:
        problem: The posterior; its observations are replaced.
        plan: How to sample.
        names: Of the coordinates.
        data: Truths ``[R, D]`` that the prior was not trained on; None for draws of the prior.
    """

    problem: Problem
    plan: SamplingPlan
    names: list[str]
    data: Tensor | None

    def run(self, groups: Groups) -> RunValues:
        """The values of all runs."""
        pool = shared_pool(self.problem.target, self.plan)

        def work(index: int, places: Tensor, path: Path, progress: Progress) -> bool:
            there = load_values(path, groups.fingerprint) is not None
            if not there:
                save_values(path, self._values(places, pool), groups.fingerprint)
            progress.finish()
            return there

        groups.run(work)
        parts = [load_values(groups.path(k), groups.fingerprint) for k in range(len(groups.places))]
        return RunValues.joined([part for part in parts if part is not None])

    def _values(self, places: Tensor, pool: Pool | None) -> RunValues:
        numbers, seed, target = places.tolist(), self.plan.seed, self.problem.target
        if self.data is None:
            truths = truths_of_prior(target, numbers, seed)
        else:
            rows = self.data[places].to(target.device)
            truths = truths_of_data(target, rows, numbers, seed)
        observed = simulated(target.likelihood, truths.points, numbers, seed)
        own = Target(target.prior, target.likelihood, observed, target.rows)
        problem = replace(self.problem, target=own, numbers=numbers)
        of_group = pool.of(torch.zeros(len(places), dtype=torch.int64)) if pool else None
        return check_runs(problem, self.plan, truths, self.names, of_group)[0]
