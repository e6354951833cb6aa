"""Conformal calibration of posteriors: intervals of the flow next to calibrated ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from typing import Any

import torch
from torch import Tensor

from dnnlib.logs import logger
from dnnlib.numbers import beside
from training.inference.checking import DENSITY, LIKELIHOOD, RADIUS, Functions
from training.inference.draws import Draws
from training.inference.guarantee import SHARES, HeldOutTruths, Levels, intervals, thresholds
from training.measure.conformal import Holding
from training.measure.posterior.calibration import DENSEST, RunValues
from training.measure.posterior.coverage import LEVELS

FLOW, AVERAGE, NEAR = "flow", "held_out", "near"
"""Kinds of levels: the flow's own, and calibrated on all held-out cases or on nearby ones."""
SHOWN, MOST_SHOWN, MOST_COLUMNS = 0.9, 5, 8
MOST_LINES = 20
"""Largest number of rejected observations that are listed."""


def ranks_of(values: RunValues, functions: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Return ranks ``[n, Q]`` of true values in coordinates and functions, and their names."""
    other = {DENSITY, LIKELIHOOD, RADIUS} - set(functions)
    wanted = [k for k, name in enumerate(values.names) if name not in other]
    return values.ranks[:, wanted].cpu(), [values.names[place] for place in wanted]


def summary_of(guarantee: HeldOutTruths) -> dict[str, Any]:
    """Return a summary of a calibration: calibrated levels, their coverage, and assumptions."""
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
            for place, (share, row) in enumerate(zip(SHARES, levels.intervals, strict=True))
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
            **dict(zip(held_out.quantities, curve.intervals.T.tolist(), strict=True)),
        },
    }


def normal_log_volumes(guarantee: HeldOutTruths) -> list[float]:
    """Return the change of log volume by calibration, for each of ``SHARES``.

    The log volume is the sum of the log lengths of the intervals of all coordinates. Normal
    marginals are assumed, because only the ranks of true values among draws are known.
    """
    contents = guarantee.levels().intervals[:, : len(guarantee.held_out.names)]
    stated = torch.tensor(SHARES, dtype=torch.float64)[:, None]
    lengths, own = (torch.special.ndtri((1 + each) / 2) for each in (contents, stated))
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
        own = "/".join(f"{100 * float(content):.1f}" for content in contents)
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
        else f"{name} infinite, because there are too few calibration cases"
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

    def accepted(self, level: float) -> str:
        """Return a line of text for the case that no observation is rejected at a level."""
        assert self.p_values is not None
        place = int(self.p_values.argmin())
        return (
            f"No observation is rejected at level {level:g} (smallest: p = "
            f"{float(self.p_values[place]):.2g}, observation {place + 1}). Rejection "
            "finds gross errors only: an observation with one wrong value of twelve, off "
            "by 4 standard deviations, is accepted in about half of the cases."
        )

    def refused(self, level: float) -> str | None:
        """Describe the observations that are rejected at a level, in one line; None if none is."""
        assert self.p_values is not None
        odd = (self.p_values < level).nonzero()[:, 0].tolist()
        if not odd:
            return None
        listed = ", ".join(
            (
                f"observation {place + 1} (p = {float(self.p_values[place]):.2g}, because of "
                f"its {self.oddest[place]})"
            )
            for place in odd[:MOST_LINES]
        )
        more = f" and {len(odd) - MOST_LINES} more" if len(odd) > MOST_LINES else ""
        return (
            f"Rejected {len(odd)} of {len(self.p_values)} observations as out of "
            f"distribution: {listed}{more}. --refuse={level:g} rejects at most {level:.2g} "
            "of in-distribution observations"
        )


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
        functions: Functions,
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
                of_functions = [function(points)[:, None] for function in functions.values()]
                values, density = torch.cat([points, *of_functions], dim=1), densities(draws, index)
                ends.append(torch.stack([intervals(values, way.intervals) for way in ways]))
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
