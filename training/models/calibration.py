"""Conformal calibration of a network's posteriors, and the use of a calibration."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import exp, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_new
from dnnlib.logs import logger
from dnnlib.numbers import beside
from torch_utils import distributed
from training.data.tables.table import Rows
from training.flow.coordinates.conditions import MOST_CONDITIONS
from training.flow.held_out import HeldOut
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.checking import DENSITY, LIKELIHOOD, RADIUS, simulated
from training.inference.draws import Draws
from training.inference.guarantee import SHARES, HeldOutTruths, Levels, intervals, thresholds
from training.inference.likelihoods import Gaussian
from training.measure.clouds import Cloud
from training.measure.conformal import Holding
from training.measure.posterior.calibration import DENSEST, LEVELS, CalibrationCheck, RunValues
from training.measure.posterior.calibration import calibrate as tested
from training.models.check_runs import Check, LearnedCheck, LearnedRuns
from training.models.checkpoint import Checkpoint, Parts
from training.models.group_sampling import PosteriorPart
from training.models.inference import InferenceTask
from training.models.posterior_reports import report_check
from training.names import (
    FEWEST_RUNS,
    LARGEST_EXACT,
    LEARNED_SOLVER,
    LEARNED_STEPS,
    PROBES,
    script,
)
from training.settings.posterior import CalibrateSettings, SampleSettings
from training.subjects import Subject
from training.trained.network import TrainedNetwork

FLOW, AVERAGE, NEAR = "flow", "held_out", "near"
"""Kinds of levels: the flow's own, and calibrated on all held-out cases or on nearby ones."""
SHOWN, MOST_SHOWN, MOST_COLUMNS = 0.9, 5, 8
MOST_LINES = 20
"""Largest number of rejected observations that are listed."""


def calibrated_quantities(values: RunValues) -> list[int]:
    """Return the indices of coordinates among the quantities."""
    other = {DENSITY, LIKELIHOOD, RADIUS}
    return [k for k, name in enumerate(values.names) if name not in other]


def summary_of(guarantee: HeldOutTruths) -> dict[str, Any]:
    """Return a summary of a calibration: calibrated levels, their coverage, and assumptions.

    Levels of intervals that end beyond all draws are 1.
    """
    held_out, levels = guarantee.held_out, guarantee.levels()
    curve = guarantee.levels(LEVELS)
    return {
        "truths": held_out.truths,
        "statement": statement(held_out.truths),
        "assumption": "new truths are exchangeable with those held out: they come of the same "
        "prior and simulator, or of the same source of data",
        "holding": {
            f"{share:g}": {key: getattr(held, key) for key in ("mean", "low", "high")}
            for share in SHARES
            for held in [Holding.by(held_out.truths, share)]
        },
        "levels": {
            f"{share:g}": {
                **dict(zip(held_out.quantities, row.tolist(), strict=True)),
                DENSEST: float(levels.regions[place]),
            }
            for place, (share, row) in enumerate(
                zip(SHARES, levels.intervals.clamp(max=1), strict=True)
            )
        },
        "normal_log_volume": {
            f"{share:g}": _number(value)
            for share, value in zip(SHARES, normal_log_volumes(guarantee), strict=True)
        },
        "near": guarantee.near_count or None,
        "near_statement": near_statement(guarantee),
        "curves": {
            "levels": list(LEVELS),
            DENSEST: curve.regions.tolist(),
            **dict(zip(held_out.quantities, curve.intervals.clamp(max=1).T.tolist(), strict=True)),
        },
    }


def normal_log_volumes(guarantee: HeldOutTruths) -> list[float]:
    """Return the change of log volume by calibration, for each of ``SHARES``.

    The log volume is the sum of the log lengths of the intervals of all coordinates. Normal
    marginals are assumed, because only the ranks of true values among draws are known.
    """
    contents = guarantee.levels().intervals[:, : len(guarantee.held_out.names)]
    beyond, stated = contents > 1, torch.tensor(SHARES, dtype=torch.float64)[:, None]
    within = contents.masked_fill(beyond, 1 - 1 / guarantee.held_out.draws)
    lengths, own = (torch.special.ndtri((1 + each) / 2) for each in (within, stated))
    lengths = torch.where(beyond, lengths + contents - 1, lengths)
    return (lengths / own).log().sum(dim=1).tolist()


def statement(truths: int) -> str:
    """Describe the guarantee by a number of calibration cases, and its sampling error."""
    holding = Holding.by(truths, SHOWN)
    if holding.mean >= 1:
        return f"{truths} calibration cases are too few for regions of {SHOWN:.0%}"
    return (
        f"With {truths} calibration cases, regions of {SHOWN:.0%} cover at least "
        f"{SHOWN:.0%} of new cases, and at most {1 / (truths + 1):.2%} more, on average "
        f"over calibrations; the coverage of this calibration is {100 * holding.low:.1f} "
        f"to {100 * holding.high:.1f} % with probability 90 %"
    )


def near_statement(guarantee: HeldOutTruths) -> str | None:
    """Describe the guarantee of levels near an observation; None without conditions."""
    if not guarantee.near_count:
        return None
    return (
        f"Near an observation, the {guarantee.near_count} nearest calibration cases are "
        "used; their coverage is guaranteed on average over observations and "
        "calibrations, not at each observation"
    )


def report_calibration(guarantee: HeldOutTruths) -> None:
    """Log the guarantee and the calibrated levels."""
    held_out, levels = guarantee.held_out, guarantee.levels()
    logger.info(statement(held_out.truths))
    shares = "/".join(f"{100 * share:g}" for share in SHARES)
    columns = {DENSEST: levels.regions} | dict(
        zip(held_out.quantities, levels.intervals.T, strict=True)
    )
    for name, contents in list(columns.items())[:MOST_COLUMNS]:
        own = "/".join(f"{100 * min(float(content), 1):.1f}" for content in contents)
        what = name.capitalize() if name == DENSEST else f"Intervals of {name}"
        logger.info(f"{what}: levels {own} % of the flow cover {shares} %")
    if len(columns) > MOST_COLUMNS:
        logger.info(f"{len(columns) - MOST_COLUMNS} more are in the JSON")
    count, change = len(held_out.names), normal_log_volumes(guarantee)[SHARES.index(SHOWN)]
    logger.info(volume_line({"calibrated": change}, count, "if marginals are normal"))
    near = near_statement(guarantee)
    if near is not None:
        logger.info(near)


def volume_line(changes: Mapping[str, float], count: int, how: str) -> str:
    """Describe the cost of calibration: the change of the sum of the log lengths of intervals.

    Args:
        changes: Change by kind of intervals.
        count: Number of coordinates.
        how: Words for the circumstances of the change, or for the average that it is.
    """
    kinds = ", ".join(
        f"{name} {change:+.2f} ({exp(change / count):.2f} times per coordinate)"
        if isfinite(change)
        else f"{name} infinite, because there are too few calibration cases or draws"
        for name, change in changes.items()
    )
    return (
        f"Change of the summed log lengths of the {SHOWN:.0%} intervals compared with the "
        f"flow, {how}: {kinds}"
    )


@dataclass(frozen=True, eq=False)
class Observations:
    """Facts about M observations before their posteriors are drawn.

    Attributes:
        whitened: Conditions ``[M, C]``, whitened like those of held-out cases; None without
            conditions.
        p_values: p-values ``[M]`` of the hypothesis that an observation is distributed like the
            calibration cases; None if unknown.
        oddest: Name, for each observation, of its most unusual score.
    """

    whitened: Tensor | None = None
    p_values: Tensor | None = None
    oddest: Sequence[str] = ()

    def refuses(self, level: float | None) -> bool:
        """Return whether an observation is rejected at a level, and print which.

        No observation is rejected if the level is None.
        """
        if level is None:
            return False
        refusal = self.refused(level)
        if refusal:
            logger.warning(refusal)
            return True
        assert self.p_values is not None
        place = int(self.p_values.argmin())
        line = (
            f"No observation is rejected at level {level:g} (smallest: p = "
            f"{float(self.p_values[place]):.2g}, observation {place + 1})."
        )
        if self.whitened is not None:
            line += (
                " Rejection finds gross errors only: an observation with one wrong value of "
                "twelve, off by 4 standard deviations, is accepted in about half of the cases."
            )
        logger.info(line)
        return False

    @property
    def listed(self) -> list[float]:
        """The p-values as plain numbers."""
        assert self.p_values is not None
        return self.p_values.tolist()

    def below(self, level: float) -> tuple[int, str]:
        """Return the number of observations with a p-value below a level, and their names."""
        assert self.p_values is not None
        odd = (self.p_values < level).nonzero()[:, 0].tolist()
        listed = ", ".join(
            (
                f"observation {place + 1} (p = {float(self.p_values[place]):.2g}, because of "
                f"its {self.oddest[place]})"
            )
            for place in odd[:MOST_LINES]
        )
        more = f" and {len(odd) - MOST_LINES} more" if len(odd) > MOST_LINES else ""
        return len(odd), listed + more

    def refused(self, level: float) -> str | None:
        """Describe the observations that are rejected at a level, in one line; None if none is."""
        count, listed = self.below(level)
        if not count:
            return None
        return (
            f"Rejected {count} of {len(self.listed)} observations as out of "
            f"distribution: {listed}. --refuse={level:g} rejects at most {level:.2g} "
            "of in-distribution observations"
        )

    def warn(self, level: float, others: str) -> None:
        """Print the smallest p-value among others, and which observations are below a level."""
        count, listed = self.below(level)
        total = len(self.listed)
        logger.info(
            f"{total - count} of {total} observations are like {others} at level {level:g}; "
            f"smallest p = {min(self.listed):.2g}"
        )
        if count:
            logger.warning(f"Warning: out of distribution: {listed}")


@dataclass(frozen=True, eq=False)
class CalibratedPosteriors:
    """Intervals and regions of M posteriors, with W kinds of levels.

    The kinds are the flow's own levels, those calibrated on all held-out cases, and, with
    conditions, those calibrated on nearby cases.

    Attributes:
        guarantee: Calibration.
        observations: Facts about the observations.
        ends: Ends of central intervals, ``[M, W, L, Q, 2]``.
        thresholds: Log densities ``[M, W, L]`` above which regions lie; NaN if draws have none.
        near: Levels calibrated near each observation; None without conditions.
        distances: Distance of the farthest nearby case ``[M]``; None without conditions.
    """

    guarantee: HeldOutTruths
    observations: Observations
    ends: Tensor
    thresholds: Tensor
    near: Levels | None
    distances: Tensor | None

    @classmethod
    def of(
        cls,
        guarantee: HeldOutTruths,
        observations: Observations,
        groups: Iterator[Draws],
    ) -> "CalibratedPosteriors":
        """Return the intervals and regions of all draws, group by group."""
        near = distances = None
        if observations.whitened is not None and guarantee.near_count:
            near, distances = guarantee.levels_near(observations.whitened)
        average = guarantee.levels()
        stated = torch.tensor(SHARES, dtype=torch.float64)
        own = Levels(stated[:, None].expand_as(average.intervals), stated)
        ends: list[Tensor] = []
        lows: list[Tensor] = []
        for draws in groups:
            for index in range(draws.count):
                ways = [own, average]
                if near is not None:
                    ways.append(Levels(near.intervals[len(ends)], near.regions[len(ends)]))
                points = draws.points[index].flatten(0, 1).cpu().double()
                density = densities(draws, index)
                ends.append(torch.stack([intervals(points, way.intervals) for way in ways]))
                lows.append(torch.stack([thresholds(density, way.regions) for way in ways]))
        return cls(guarantee, observations, torch.stack(ends), torch.stack(lows), near, distances)

    @property
    def ways(self) -> tuple[str, ...]:
        """Names of the W kinds of levels."""
        return (FLOW, AVERAGE, NEAR)[: self.ends.shape[1]]

    def listed(self, index: int) -> dict[str, Any]:
        """Return the entry of one posterior for the JSON file."""
        names = self.guarantee.held_out.quantities
        content: dict[str, Any] = {
            way: {
                f"{share:g}": {
                    **{
                        name: [_number(end) for end in ends]
                        for name, ends in zip(
                            names, self.ends[index, place, at].tolist(), strict=True
                        )
                    },
                    "log_density": _number(float(self.thresholds[index, place, at])),
                }
                for at, share in enumerate(SHARES)
            }
            for place, way in enumerate(self.ways)
        }
        if self.distances is not None:
            content["distance"] = float(self.distances[index])
        if self.observations.p_values is not None:
            content["p_value"] = float(self.observations.p_values[index])
            content["oddest"] = self.observations.oddest[index]
        return content

    def log_volumes(self) -> dict[str, list[float]]:
        """Return the change of log volume by calibration, by kind of levels, for ``SHARES``.

        This is the change of the sum of the log lengths of the intervals of all coordinates. It is
        averaged over observations whose intervals are finite and not empty; NaN if there are none.
        """
        lengths = self.ends.diff(dim=-1)[..., : len(self.guarantee.held_out.names), 0]
        change = (lengths[:, 1:] / lengths[:, :1]).log().sum(dim=-1)
        change = torch.where(change.isfinite(), change, torch.nan).nanmean(dim=0)
        return dict(zip(self.ways[1:], change.tolist(), strict=True))

    def volumes_listed(self) -> dict[str, dict[str, float | None]]:
        """Return ``log_volumes`` by kind and share, for a JSON file."""
        return {
            way: {f"{share:g}": _number(each) for share, each in zip(SHARES, changes, strict=True)}
            for way, changes in self.log_volumes().items()
        }

    def report(self) -> None:
        """Log the calibrated intervals of the first posteriors next to the flow's own."""
        held_out = self.guarantee.held_out
        logger.info(statement(held_out.truths))
        at = SHARES.index(SHOWN)
        words = {FLOW: "flow", AVERAGE: "held out", NEAR: "near it"}
        for index in range(min(len(self.ends), MOST_SHOWN)):
            parts = []
            for place, name in list(enumerate(held_out.quantities))[:MOST_COLUMNS]:
                each = []
                for way, (low, high) in zip(
                    self.ways, self.ends[index, :, at, place].tolist(), strict=True
                ):
                    ends = f"{beside(low, high - low)} to {beside(high, high - low)}"
                    each.append(f"{words[way]} {ends}")
                parts.append(f"{name} {', '.join(each)}")
            p_values = self.observations.p_values
            if p_values is not None:
                parts.append(f"{float(p_values[index]):.2%} of the calibration set are as extreme")
            logger.info(f"Observation {index + 1}, {SHOWN:.0%}: {'; '.join(parts)}")
        changes = {words[way]: each[at] for way, each in self.log_volumes().items()}
        logger.info(volume_line(changes, len(held_out.names), "on average over observations"))


def densities(draws: Draws, index: int) -> Tensor:
    """Return log densities ``[S]`` of draws of one posterior up to a constant; NaN if unknown."""
    if draws.log_density is not None:
        return draws.log_density[index].flatten().cpu().double()
    likelihood = draws.log_likelihood[index].flatten().cpu().double()
    return likelihood - draws.w[index].flatten(0, 1).cpu().double().square().sum(dim=1) / 2


def _number(value: float) -> float | None:
    """Return a number, or None for infinities and NaN, which JSON does not have."""
    return value if isfinite(value) else None


SURPRISE, ALONE = "surprise", "number that the others foretell worst"
SPARSE, DENSE, LATENT_RADIUS = "low density", "high density", "latent radius"
MOST_NUMBERS = 4096
"""Maximum number of observed values whose covariance is computed: 128 MB."""


@dataclass(frozen=True, eq=False)
class OutlierScores:
    """Outlier scores of M observations or conditions, large for out-of-distribution ones.

    Attributes:
        whitened: Observed numbers ``[M, C]`` in whitened coordinates, for distances; None if there
            are too many numbers.
        values: Scores ``[M, K]``.
        names: Names of the K scores.
    """

    whitened: Tensor | None
    values: Tensor
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, task: InferenceTask, observed: Tensor) -> "OutlierScores":
        """Compute the scores of observed numbers ``[M, C]``."""
        if task.settings.learned:
            return cls.of_conditions(task.subject, observed)
        likelihood, count = task.likelihood(), observed.shape[1]
        if not isinstance(likelihood, Gaussian) or count > MOST_NUMBERS:
            return cls(None, torch.zeros(1, 0, dtype=torch.float64))
        # A Gaussian approximation of the prior is valid, since the calibration set sets thresholds.
        mean, covariance = (part.cpu() for part in task.fine.moments())
        of_points = likelihood.observe(likelihood.observe(covariance).T)
        noise = likelihood.covariance(count)
        middle = likelihood.observe(mean[None])[0]
        cloud = Cloud.from_moments(middle, of_points + noise, noise.diagonal().sqrt())
        subject, partial = task.subject, (likelihood.operator, likelihood.coordinates)
        # Scores of fully observed points use the prior's flow. Images use latents only, since
        # densities take too long.
        seen = partial == (None, None) and not subject.label_dim
        more = of_flow(subject, observed, subject.is_readable) if seen else {}
        return cls.of_cloud(cloud, observed.cpu().double(), more)

    @classmethod
    def of_conditions(cls, subject: Subject, conditions: Tensor) -> "OutlierScores":
        """Compute the scores of conditions ``[M, C]`` of a network."""
        distribution = subject.surprise
        if distribution is None:
            return cls(None, torch.zeros(1, 0, dtype=torch.float64))
        cloud = Cloud.from_moments(distribution.mean.cpu(), distribution.covariance.cpu())
        straight = subject.straight(conditions.to(distribution.mean.device)).cpu().double()
        return cls.of_cloud(cloud, straight, {})

    @classmethod
    def of_cloud(cls, cloud: Cloud, rows: Tensor, more: dict[str, Tensor]) -> "OutlierScores":
        """Compute the scores of rows ``[M, C]`` from a mean and covariance.

        Further scores ``[M]``, by name, are added.
        """
        odd = {SURPRISE: cloud.surprise(rows), ALONE: cloud.alone(rows), **more}
        return cls(cloud.places(rows), torch.stack(list(odd.values()), dim=1), list(odd))


def of_flow(subject: Subject, points: Tensor, dense: bool = True) -> dict[str, Tensor]:
    """Compute the scores ``[M]`` of points ``[M, D]`` under a flow, by name.

    Args:
        subject: The flow.
        points: Points in the user's units.
        dense: Whether to include the log density among the scores.
    """
    flow = subject.flow
    prior = subject.prior(flow.times(LEARNED_STEPS), get_solver(LEARNED_SOLVER))
    trace = Trace("exact") if subject.dim <= LARGEST_EXACT else Trace(probes=PROBES)
    radius, density = [], []
    for block in torch.split(points.double().to(flow.device), subject.block):
        radius.append(prior.whitened(block).norm(dim=1).cpu().double())
        if dense:
            density.append(prior.log_density(block, {}, trace).cpu().double())
    odd = {LATENT_RADIUS: torch.cat(radius)}
    if dense:
        odd |= {SPARSE: -torch.cat(density), DENSE: torch.cat(density)}
    return odd


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Result of calibrating a network.

    Attributes:
        model: TrainedNetwork with the calibration.
        guarantee: Guarantee of the calibration.
        values: Ranks and scores of the calibration cases.
        check: Tests of the calibration of the posteriors themselves.
        rows: Calibration cases.
        content: Plain values about the calibration.
        fingerprint: Digest of everything that the cases depend on.
    """

    model: TrainedNetwork
    guarantee: HeldOutTruths
    values: RunValues
    check: CalibrationCheck
    rows: Rows
    content: dict[str, Any]
    fingerprint: str

    def log(self) -> None:
        """Log the tests, and the guarantee and its cost."""
        report_check(self.check)
        report_calibration(self.guarantee)


def opened(settings: CalibrateSettings, dest: Path | None) -> tuple[InferenceTask, Rows]:
    """Open the task of a calibration and its calibration cases.

    Args:
        settings: Settings.
        dest: Network file to write; None for none.

    Raises:
        UsageError: Settings do not match the network, or ``dest`` exists and must not be replaced.
        DataError: The calibration set is broken or too small, or the network was trained on it.
    """
    task = InferenceTask.open(settings)
    network = task.subject.network
    assert network is not None
    if settings.learned and not task.subject.condition_names:
        settings.likelihood.require()
    if dest is not None and (settings.dest is not None or network.held_out is not None):
        require_new([dest], settings.run.overwrite, "--dest")
    rows = task.subject.unseen(settings.data_root, settings.runs, settings.sampler.seed)
    if len(rows) < FEWEST_RUNS:
        raise DataError(
            f"{settings.data_root} has {len(rows)} calibration cases: need at least {FEWEST_RUNS}"
        )
    return task, rows


def calibrate(task: InferenceTask, rows: Rows, folder: Path | None = None) -> Calibrated | None:
    """Calibrate a network on a calibration set.

    Args:
        task: Inference task, on its device.
        rows: Calibration cases.
        folder: Folder that keeps finished groups; None keeps them in memory.

    Returns:
        The result; None on all ranks but the first.

    Raises:
        UsageError: Settings do not match the network.
    """
    settings, subject, network = task.settings, task.subject, task.subject.network
    assert isinstance(settings, CalibrateSettings)
    assert network is not None
    # Their conditions, or the observations simulated from each true value.
    seen = rows.conditions
    if not settings.learned:
        numbers = list(range(len(rows)))
        seen = simulated(task.likelihood(), rows.points, numbers, task.plan.seed)
    assert seen is not None
    odd, sources = OutlierScores.of(task, seen), settings.likelihood.files
    checkpoint = task.checkpoint(len(rows), [rows.points, rows.conditions], sources, folder)
    with checkpoint.report_interruption():
        values = drawn(task, rows, checkpoint)
    if not distributed.is_main():
        return None
    model = network.stored()
    truths = held_out_of(task, rows, values, odd, model.digest())
    guarantee, check = HeldOutTruths(truths), tested(values)
    content = {
        **check.summary(),
        "question": "model",
        "solvers": task.solvers,
        "options": task.recorded,
        "network_sha256": subject.digest,
        "held_out": summary_of(guarantee),
    }
    calibrated = replace(model, held_out=truths)
    return Calibrated(calibrated, guarantee, values, check, rows, content, checkpoint.fingerprint)


def over_conditions(guarantee: HeldOutTruths, rows: Rows, names: Sequence[str]) -> dict[str, Any]:
    """Return the conditions of each case, and the adjusted probability for 90 % coverage near it.

    The result is empty for fewer than two conditions.
    """
    if rows.conditions is None or len(names) < 2 or not guarantee.near_count:
        return {}
    near, _ = guarantee.levels_near(guarantee.held_out.whitened, (SHOWN,))
    return {
        "conditions": rows.conditions.numpy(),
        "condition_names": np.array(names),
        "near": near.regions[:, 0].numpy(),
    }


def drawn(task: InferenceTask, rows: Rows, checkpoint: Checkpoint) -> RunValues:
    """Compute the ranks of true values in posteriors.

    The posteriors are given the conditions of the true values, or observations that are simulated
    from the true values.
    """
    settings, subject, device = task.settings, task.subject, task.fine.flow.device
    if settings.learned:
        assert rows.conditions is not None
        runs = LearnedRuns(rows, None)
        amortized = task.amortized(task.fine, rows.conditions.to(device))
        return LearnedCheck(amortized, runs, subject.names).run(checkpoint)
    likelihood = task.likelihood()
    nothing = torch.zeros(1, subject.dim, dtype=torch.float64)
    problem = task.problem(likelihood, likelihood.simulate(nothing, torch.Generator()))
    truths = (subject.names, rows.points)
    return Check(problem, task.plan, *truths, labels=rows.conditions).run(checkpoint)


def held_out_of(
    task: InferenceTask,
    rows: Rows,
    values: RunValues,
    odd: OutlierScores,
    digest: str,
) -> HeldOut:
    """Build the part of the network file that contains calibration results.

    The ``digest`` identifies the other parts.
    """
    wanted = calibrated_quantities(values)
    ranks, names = values.ranks[:, wanted], [values.names[place] for place in wanted]
    whitened = ranks[:, :0] if odd.whitened is None else odd.whitened
    truths = HeldOut(
        len(rows),
        names,
        0,
        whitened.shape[1],
        odd.names,
        task.total,
        digest,
        json.dumps(way_of(task), sort_keys=True),
        values.beyond is not None,
    )
    truths.ranks.copy_(ranks)
    if truths.beyond is not None and values.beyond is not None:
        truths.beyond.copy_(values.beyond[:, wanted])
    truths.contents.copy_(values.regions[DENSEST])
    truths.whitened.copy_(whitened)
    truths.odd.copy_(odd.values)
    return truths


FORMER = {"calibration": True, "deblur": False}
"""Settings that files of earlier versions name, with the value that all draws have now."""


def way_of(task: InferenceTask) -> dict[str, Any]:
    """Return the settings that determine draws besides the network, by the names of options."""
    settings, fine = task.settings, task.fine
    assert isinstance(settings, SampleSettings | CalibrateSettings)
    prior = task.sharpened(fine) if settings.learned else fine
    way: dict[str, Any] = {
        "sharpen": prior.sharpened,
        "n_iters": len(fine.times) - 1,
        "likelihood": None if settings.learned else settings.likelihood.likelihood,
    }
    if isinstance(settings, SampleSettings) and settings.correct:
        way["correct"] = settings.correct
    if settings.learned:
        return way
    likelihood = settings.likelihood
    files = [Path(name) for name in likelihood.files if name and Path(name).is_file()]
    arrays: tuple[object, ...] = (likelihood.noise_std, likelihood.mask, likelihood.operator)
    contents = [file.read_bytes() for file in files]
    contents += [
        np.asarray(given).tobytes()
        for given in arrays
        if given is not None and not isinstance(given, str)
    ]
    return {
        **way,
        "sampler": settings.sampler.sampler,
        **{
            name: value if value is None or isinstance(value, str) else "an array"
            for name, value in likelihood.named("noise_std", "mask").items()
        },
        "contents of files": sha256(b"".join(contents)).hexdigest() if contents else None,
    }


def guarantee_of(task: InferenceTask, settings: SampleSettings) -> HeldOutTruths | None:
    """Return the guarantee of a calibrated network for draws with these settings.

    The result is None if the network was not calibrated, or no guarantee is requested.

    Raises:
        UsageError: The network was calibrated by another version, or for other draws; or it was not
            calibrated, but observations are to be rejected.
    """
    network = task.subject.network
    truths = None if network is None or not settings.held_out else network.held_out
    if truths is None:
        if settings.refuse is not None:
            raise UsageError(
                f"--refuse needs a calibrated network: run {script('posterior')} calibrate"
            )
        return None
    require_known(truths)
    own, known = way_of(task), truths.made_with
    own |= {name: value for name, value in FORMER.items() if name in known}
    other = {name: known.get(name) for name in own}
    for name in sorted(other):
        if own.get(name) != other[name]:
            raise UsageError(
                f"the network was calibrated with {name} = {other[name]}, not "
                f"{own.get(name)}: use the same value, calibrate again, or give "
                "--no-held_out"
            )
    if truths.quantities != task.subject.names:
        raise UsageError(
            f"the network was calibrated for {', '.join(truths.quantities)}: calibrate again, or "
            "give --no-held_out"
        )
    return HeldOutTruths(truths)


def require_known(truths: HeldOut) -> None:
    """Check that the calibration set is in the coordinates of this version.

    Raises:
        UsageError: Another version made it, with conditions in other coordinates.
    """
    if truths.oddities[:2] != [SURPRISE, ALONE][: len(truths.oddities)]:
        raise UsageError(
            "the network was calibrated by another version of this program: calibrate "
            "again, or give --no-held_out"
        )


def observations_of(
    task: InferenceTask, settings: SampleSettings, guarantee: HeldOutTruths, observed: Tensor
) -> Observations:
    """Return distances and p-values of observations relative to the calibration set.

    Observations ``[M, K]`` may be conditions.

    Raises:
        UsageError: Observations are to be rejected, but p-values are unknown.
    """
    refuse, truths = settings.refuse, guarantee.held_out
    finest = 1 / (truths.truths + 1)
    if not truths.whitened.shape[1]:
        if refuse is not None:
            raise UsageError(
                f"--refuse supports at most {MOST_CONDITIONS} conditions, or "
                f"{MOST_NUMBERS} observed values with Gaussian noise: leave it out"
            )
        return Observations()
    if refuse is not None and refuse < finest:
        raise UsageError(
            f"--refuse={refuse:g} cannot reject anything with {truths.truths} calibration "
            f"cases: give at least {finest:.2g}, or calibrate on more cases"
        )
    odd = OutlierScores.of(task, observed)
    assert odd.whitened is not None
    if odd.names != truths.oddities:
        if refuse is not None:
            raise UsageError(
                "--refuse needs a calibration by this version, which computes other scores: "
                f"run {script('posterior')} calibrate again"
            )
        return Observations(odd.whitened)
    return Observations(odd.whitened, *guarantee.p_values(odd.whitened, odd.values))


@dataclass(frozen=True, eq=False)
class AppliedCalibration:
    """A calibration set applied to observations.

    Attributes:
        truths: Calibration results of the network.
        observations: Distances and p-values of the observations.
    """

    truths: HeldOutTruths
    observations: Observations

    @classmethod
    def of(
        cls, task: InferenceTask, settings: SampleSettings, observed: Tensor
    ) -> "AppliedCalibration | None":
        """Apply the calibration of a network to observations ``[M, K]``, or conditions.

        The result is None if the network was not calibrated, or no guarantee is wanted.

        Raises:
            UsageError: As in ``guarantee_of`` and ``observations_of``.
        """
        truths = guarantee_of(task, settings)
        if truths is None:
            return None
        return cls(truths, observations_of(task, settings, truths, observed))

    def posteriors(
        self, parts: Parts[PosteriorPart], numbers: dict[str, Any]
    ) -> CalibratedPosteriors:
        """Recalibrate the draws of all groups, and add the results to the JSON entries."""
        every = (draws for draws, _ in parts)
        held = CalibratedPosteriors.of(self.truths, self.observations, every)
        numbers["held_out"] = {
            **summary_of(self.truths),
            "log_volume": held.volumes_listed(),
        }
        for place, one in enumerate(numbers.get("posteriors", [])):
            one["held_out"] = held.listed(place)
        return held
