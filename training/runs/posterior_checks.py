"""Checks of many posteriors, group by group: truths that samplers, or flows that have learned
posteriors, are to find again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.data.tables.table import Rows
from training.files.posterior import load_values, save_values
from training.flow.coordinates.surprise import Surprise
from training.inference import checking
from training.inference.amortized import Amortized
from training.inference.samplers.pool import Pool
from training.inference.sampling import Problem, SamplingPlan
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues
from training.names import FEWEST_NEIGHBORS, NEIGHBORS
from training.runs.posteriors import Groups, Progress, planned, shared_pool
from training.subjects.tables import TableFlow


def values_of_groups(groups: Groups, make: Callable[[Tensor, Progress], RunValues]) -> RunValues:
    """The values of all runs, made for the runs at some places and kept in each group's file."""

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
        problem: The posterior; its observations are replaced, if they are simulated.
        plan: How to sample.
        names: Of the coordinates.
        data: Truths ``[R, D]`` that the prior was not trained on; None for draws of the prior.
        simulates: Whether what is observed is simulated of truths, or is the problem's.
        blurs: Whether data get the noise of the first time, which draws have.
        functions: Whose values are ranked, too.
        labels: What the network is given with each truth, ``[R, L]``; None for nothing.
    """

    problem: Problem
    plan: SamplingPlan
    names: list[str]
    data: Tensor | None
    simulates: bool = True
    blurs: bool = False
    functions: checking.Functions = field(default_factory=dict)
    labels: Tensor | None = None

    def run(self, groups: Groups) -> RunValues:
        """The values of all runs, which share the whole pool, unless they have labels."""
        whole = replace(self, plan=replace(self.plan, first=self.plan.pool))
        # What moves take is measured on the first run's observation, and the look-ahead on the
        # first of each label.
        first, _ = whole._problem(self._firsts(groups.places[0][:1]))
        planned_one, plan = planned(first, whole.plan, groups.count)
        problem = replace(self.problem, ahead=planned_one.ahead)
        whole = replace(whole, plan=plan, problem=problem)
        shares = self.labels is None
        pool = shared_pool(self.problem.target, plan, plan.pool) if shares else None
        return values_of_groups(groups, lambda places, on: whole._values(places, pool, on))

    def _firsts(self, one: Tensor) -> Tensor:
        """The first run of each label; this one without labels."""
        if self.labels is None:
            return one
        groups = replace(self.problem.target, labels=self.labels).alike()
        return torch.stack([places[0] for places in groups]).sort().values

    def _values(self, places: Tensor, pool: Pool | None, progress: Progress) -> RunValues:
        problem, truths = self._problem(places)
        of_group = pool.of(torch.zeros(len(places), dtype=torch.int64)) if pool else None
        beside = (of_group, self.functions, progress)
        return checking.check_runs(problem, self.plan, truths, self.names, *beside)[0]

    def _problem(self, places: Tensor) -> tuple[Problem, checking.Truths]:
        """The posteriors of the runs at some places, and what they are to find again."""
        numbers, seed, target = places.tolist(), self.plan.seed, self.problem.target
        if self.labels is not None:
            target = replace(target, labels=self.labels[places].to(target.device))
        if self.data is None:
            truths = checking.truths_of_prior(target, numbers, seed)
        else:
            rows = self.data[places].to(target.device)
            truths = checking.truths_of_data(target, rows, numbers, seed, self.blurs)
        observed = (
            target.observed[places.to(target.device)]
            if not self.simulates
            else checking.simulated(target.likelihood, truths.points, numbers, seed)
        )
        own = Target(target.prior, target.likelihood, observed, target.rows, target.labels)
        return replace(self.problem, target=own, numbers=numbers), truths


SHARE = 10
"""Simulations that are tested near an observation are at most one of so many: more would not be
near it."""
MOST_OTHERS = 10_000
"""Simulations among which TARP's points are looked for."""


@dataclass(frozen=True, eq=False)
class LearnedRuns:
    """Simulations whose parameters are to be found again from their conditions.

    Attributes:
        rows: Of n runs.
        count: The first R of them are drawn at random; the others are near observations alone.
        references: TARP's points ``[n, D]``: the parameters of the simulation that is nearest to
            each run in its conditions, but none of the runs. What a posterior that knows nothing of
            conditions is right about, on average, is then seen. None if there are no others.
        neighbors: Numbers ``[M, K]`` of the runs that are nearest to each of M observations,
            nearest first, and their distances in standard deviations ``[M, K]``; None without.
    """

    rows: Rows
    count: int
    references: Tensor | None
    neighbors: tuple[Tensor, Tensor] | None = None

    @classmethod
    def draw(
        cls,
        table: TableFlow,
        path: Path,
        count: int,
        seed: int,
        observed: Tensor | None = None,
        neighbors: int | None = None,
    ) -> "LearnedRuns":
        """Runs of a data set.

        Args:
            table: The flow.
            path: The data set.
            count: R.
            seed: Seed of the choice.
            observed: Conditions ``[M, C]`` of observations; None for none.
            neighbors: K; None for 100, or a tenth of the rows if that is less.

        Raises:
            UsageError: So many rows are not near an observation.
            DataError: The data set is broken, has other columns, or too few rows.
        """
        every, testable, places = table.simulations(path, count, seed)
        coordinates, near = table.coordinates, None
        conditions = coordinates.straight(_conditions(every))
        law = Surprise(conditions.shape[1]).fit(conditions, coordinates.relevant)
        if observed is not None:
            rows = len(testable)
            most = max(FEWEST_NEIGHBORS, rows // SHARE)
            if neighbors is not None and neighbors > most:
                raise UsageError(
                    f"--neighbors is {neighbors}, but only one in {SHARE} of the {rows} rows to "
                    f"test of {path} is near an observation: give at most {most}"
                )
            size = min(neighbors or NEIGHBORS, most)
            wanted = coordinates.straight(observed)
            nearby, distances = nearest(law, conditions[testable], wanted, size)
            nearby = testable[nearby]
            more = sorted(set(nearby.flatten().tolist()) - set(places.tolist()))
            places = torch.cat([places, torch.tensor(more, dtype=torch.int64)])
            number = torch.zeros(len(conditions), dtype=torch.int64)
            number[places] = torch.arange(len(places))
            near = number[nearby], distances
        chosen = every.at(places)
        points = table.dithered(chosen.points, seed)
        references = _nearest_others(every.points, conditions, places, law)
        return cls(Rows(points, chosen.conditions), count, references, near)

    @property
    def conditions(self) -> Tensor:
        """``[n, C]``."""
        return _conditions(self.rows)

    @property
    def tensors(self) -> list[Tensor | None]:
        """All that values follow from."""
        return [self.rows.points, self.conditions, self.references]

    def __len__(self) -> int:
        return len(self.rows)


def nearest(
    law: Surprise, conditions: Tensor, observed: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The places ``[M, K]`` of the K conditions ``[N, C]`` nearest to each observed ``[M, C]``.

    Their Mahalanobis distances ``[M, K]`` rise.
    """
    rows, wanted = law.whitened(conditions), law.whitened(observed)
    closest = [(rows - each).norm(dim=1).topk(count, largest=False) for each in wanted]
    return torch.stack([each.indices for each in closest]), torch.stack([e.values for e in closest])


def _nearest_others(
    points: Tensor, conditions: Tensor, places: Tensor, law: Surprise
) -> Tensor | None:
    """Points ``[n, D]`` of the rows that are nearest in their conditions to those at some places,
    but none of them."""
    others = torch.ones(len(points), dtype=torch.bool)
    others[places] = False
    if not others.any():
        return None
    rest = others.nonzero()[:, 0][:: -(-int(others.sum()) // MOST_OTHERS)]
    closest, _ = nearest(law, conditions[rest], conditions[places], 1)
    return points[rest[closest[:, 0]]]


def _conditions(rows: Rows) -> Tensor:
    assert rows.conditions is not None
    return rows.conditions


@dataclass(frozen=True)
class LearnedCheck:
    """Runs of a calibration check of a flow that has learned posteriors itself.

    Attributes:
        amortized: How to draw; its conditions are those of the runs.
        runs: What is to be found again.
        names: Of the coordinates.
        functions: Whose values are ranked, too.
    """

    amortized: Amortized
    runs: LearnedRuns
    names: Sequence[str]
    functions: checking.Functions = field(default_factory=dict)

    def run(self, groups: Groups) -> RunValues:
        """The values of all runs."""
        return values_of_groups(groups, self._values)

    def _values(self, places: Tensor, progress: Progress) -> RunValues:
        points, references = self.runs.rows.points[places], self.runs.references
        return checking.check_learned(
            self.amortized,
            points,
            places,
            self.names,
            None if references is None else references[places],
            progress,
            self.functions,
        )
