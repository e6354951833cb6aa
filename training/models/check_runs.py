"""Simulation-based calibration (SBC) of samplers and amortized posteriors, group by group."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.data.tables.table import DataSource, Rows
from training.files.posterior import load_values, save_values
from training.flow.coordinates.conditions import Surprise
from training.inference import checking
from training.inference.amortized import Amortized
from training.inference.samplers.populations import Pool
from training.inference.sampling import Problem, SamplingPlan
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues
from training.models.checkpoint import Checkpoint, PartFormat, Progress
from training.models.group_sampling import planned, shared_pool
from training.subjects.tables import TableFlow

VALUES = PartFormat[RunValues](save_values, load_values)


def values_of_groups(
    checkpoint: Checkpoint, make: Callable[[Tensor, Progress], RunValues]
) -> RunValues:
    """Compute the ranks and scores of all runs, group by group.

    Args:
        checkpoint: Groups of runs.
        make: Function that computes the values of the runs with some indices.
    """
    return RunValues.joined(
        list(checkpoint.compute(lambda places, on: make(places, on).cpu(), VALUES))
    )


@dataclass(frozen=True)
class Check:
    """Settings of a calibration check of posteriors with a likelihood.

    Attributes:
        problem: Inference problem. Its observations are replaced if they are simulated.
        plan: Settings of the sampler.
        names: Names of the coordinates.
        data: True parameters ``[R, D]`` that the prior was not trained on; None for draws of the
            prior.
        simulates: Whether observations are simulated from true parameters; otherwise the problem's
            observations are used.
        blurs: Whether true values get the noise of the first time, as draws have it.
        functions: Functions whose values are ranked, too.
        labels: Conditions of the network for each run, ``[R, L]``; None for none.
    """

    problem: Problem
    plan: SamplingPlan
    names: list[str]
    data: Tensor | None
    simulates: bool = True
    blurs: bool = False
    functions: checking.Functions = field(default_factory=dict)
    labels: Tensor | None = None

    def run(self, checkpoint: Checkpoint) -> RunValues:
        """Return ranks and scores of all runs; runs without labels share a pool of draws."""
        whole = replace(self, plan=replace(self.plan, first=self.plan.pool))
        # Costs of moves are measured on the first run's observation, and the look-ahead on the
        # first run of each label.
        first, _ = whole._problem(self._firsts(checkpoint.places[0][:1]))
        planned_one, plan = planned(first, whole.plan, checkpoint.count)
        problem = replace(self.problem, ahead=planned_one.ahead)
        whole = replace(whole, plan=plan, problem=problem)
        shares = self.labels is None
        pool = shared_pool(self.problem.target, plan, plan.pool) if shares else None
        return values_of_groups(checkpoint, lambda places, on: whole._values(places, pool, on))

    def _firsts(self, one: Tensor) -> Tensor:
        """Return the first run of each label; without labels, the given one."""
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
        """Return the posteriors of the runs at some places, and their true parameters."""
        numbers, seed, target = places.tolist(), self.plan.seed, self.problem.target
        if self.labels is not None:
            target = replace(target, labels=self.labels[places].to(target.device))
        if self.data is None:
            truths = checking.true_points_of_prior(target, numbers, seed)
        else:
            rows = self.data[places].to(target.device)
            truths = checking.true_points_of_data(target, rows, numbers, seed, self.blurs)
        observed = (
            target.observed[places.to(target.device)]
            if not self.simulates
            else checking.simulated(target.likelihood, truths.points, numbers, seed)
        )
        own = Target(target.prior, target.likelihood, observed, target.rows, target.labels)
        return replace(self.problem, target=own, numbers=numbers), truths


MOST_OTHERS = 10_000
"""Largest number of simulations among which reference points for TARP are searched."""


@dataclass(frozen=True, eq=False)
class LearnedRuns:
    """Simulations for checking the calibration of an amortized posterior.

    Attributes:
        rows: Parameters and conditions of n runs.
        references: Reference points for TARP ``[n, D]``: the parameters of the simulation with the
            nearest conditions that is not a run. They reveal a posterior that is right on average
            but ignores the conditions. None if there are no other simulations.
    """

    rows: Rows
    references: Tensor | None

    @classmethod
    def draw(cls, table: TableFlow, path: DataSource, count: int, seed: int) -> "LearnedRuns":
        """Return runs drawn from a data set.

        Args:
            table: Flow.
            path: Data set.
            count: Number of random runs, R.
            seed: Random seed.

        Raises:
            DataError: The data set is broken, has other columns, or too few rows.
        """
        every, places = table.simulations(path, count, seed)
        coordinates = table.coordinates
        conditions = coordinates.straight(_conditions(every))
        distribution = Surprise(conditions.shape[1]).fit(conditions, coordinates.relevant)
        chosen = every.at(places)
        points = table.dequantized(chosen.points, seed)
        references = _nearest_others(every.points, conditions, places, distribution)
        return cls(Rows(points, chosen.conditions), references)

    @property
    def conditions(self) -> Tensor:
        """Conditions of the runs ``[n, C]``."""
        return _conditions(self.rows)

    @property
    def tensors(self) -> list[Tensor | None]:
        """Tensors that determine the results, for a fingerprint."""
        return [self.rows.points, self.conditions, self.references]

    def __len__(self) -> int:
        return len(self.rows)


def nearest(
    distribution: Surprise, conditions: Tensor, observed: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Find the K simulations whose conditions are nearest to each of M observations.

    Args:
        distribution: Distribution of the conditions, for Mahalanobis distances.
        conditions: Conditions of the simulations ``[N, C]``.
        observed: Conditions of the observations ``[M, C]``.
        count: Number of neighbors, K.

    Returns:
        Indices of the simulations and their increasing distances, both ``[M, K]``.
    """
    rows, wanted = distribution.whitened(conditions), distribution.whitened(observed)
    closest = [(rows - each).norm(dim=1).topk(count, largest=False) for each in wanted]
    return torch.stack([each.indices for each in closest]), torch.stack([e.values for e in closest])


def _nearest_others(
    points: Tensor, conditions: Tensor, places: Tensor, distribution: Surprise
) -> Tensor | None:
    """Return points ``[n, D]`` of other rows with conditions nearest to those at some places."""
    others = torch.ones(len(points), dtype=torch.bool)
    others[places] = False
    if not others.any():
        return None
    rest = others.nonzero()[:, 0][:: -(-int(others.sum()) // MOST_OTHERS)]
    closest, _ = nearest(distribution, conditions[rest], conditions[places], 1)
    return points[rest[closest[:, 0]]]


def _conditions(rows: Rows) -> Tensor:
    assert rows.conditions is not None
    return rows.conditions


@dataclass(frozen=True)
class LearnedCheck:
    """Settings of a calibration check of an amortized posterior.

    Attributes:
        amortized: Amortized posterior, with the conditions of the runs.
        runs: Simulations.
        names: Names of the coordinates.
    """

    amortized: Amortized
    runs: LearnedRuns
    names: Sequence[str]

    def run(self, checkpoint: Checkpoint) -> RunValues:
        """Return ranks and scores of all runs."""
        return values_of_groups(checkpoint, self._values)

    def _values(self, places: Tensor, progress: Progress) -> RunValues:
        points, references = self.runs.rows.points[places], self.runs.references
        return checking.check_learned(
            self.amortized,
            points,
            places,
            self.names,
            None if references is None else references[places],
            progress,
        )
