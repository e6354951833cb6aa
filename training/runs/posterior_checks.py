"""Checks of many posteriors, group by group: truths that are to be found again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training.files.posterior import load_values, save_values
from training.inference.checking import (
    check_runs,
    simulated,
    truths_of_data,
    truths_of_prior,
)
from training.inference.samplers.pool import Pool
from training.inference.sampling import Problem, SamplingPlan
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues
from training.runs.groups import Groups, Progress
from training.runs.posteriors import shared_pool


def values_of_groups(groups: Groups, make: Callable[[Tensor, Progress], RunValues]) -> RunValues:
    """The values of all runs, each group's kept in its file.

    Args:
        groups: Where they are kept.
        make: The values of the runs at some places.
    """

    def work(index: int, places: Tensor, path: Path, progress: Progress) -> bool:
        there = load_values(path, groups.fingerprint) is not None
        if not there:
            save_values(path, make(places, progress), groups.fingerprint)
        progress.finish()
        return there

    groups.run(work)
    parts = [load_values(groups.path(k), groups.fingerprint) for k in range(len(groups.places))]
    return RunValues.joined([part for part in parts if part is not None])


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
        pool = shared_pool(self.problem.target, self.plan, self.plan.pool)
        return values_of_groups(groups, lambda places, _: self._values(places, pool))

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
