"""What posteriors say as the flow has them, beside what held-out truths make of it."""

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
"""As the flow says, by all held-out truths, and by those near the observation."""
SHOWN, MOST_SHOWN, MOST_COLUMNS = 0.9, 5, 8
MOST_LINES = 20
"""Of observations that are refused."""


def ranks_of(values: RunValues, functions: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Ranks ``[n, Q]`` of coordinates and functions alone, and their names."""
    other = {DENSITY, LIKELIHOOD, RADIUS} - set(functions)
    wanted = [k for k, name in enumerate(values.names) if name not in other]
    return values.ranks[:, wanted].cpu(), [values.names[place] for place in wanted]


def summary_of(guarantee: HeldOutTruths) -> dict[str, Any]:
    """What a calibration says: levels to ask for, what holds them, and what it assumes."""
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
    """Return by how much calibrated intervals are larger than the flow's own, for each of
    ``SHARES``: the change of the sum of the log lengths of the intervals of all coordinates, if
    marginals are normal. Draws are not known here, only where true values lie among them."""
    contents = guarantee.levels().intervals[:, : len(guarantee.held_out.names)]
    stated = torch.tensor(SHARES, dtype=torch.float64)[:, None]
    lengths, own = (torch.special.ndtri((1 + each) / 2) for each in (contents, stated))
    return (lengths / own).log().sum(dim=1).tolist()


def statement(truths: int) -> str:
    """The guarantee of so many truths, and how far a single calibration may be off."""
    holding = Holding.by(truths, SHOWN)
    if holding.mean >= 1:
        return f"{truths} held-out truths are too few for regions of {SHOWN:.0%}"
    return (
        f"With {truths} held-out truths, regions of {SHOWN:.0%} hold {SHOWN:.0%} of new ones or "
        f"more, at most {1 / (truths + 1):.2%} more, on average over calibrations; this one holds "
        f"{100 * holding.low:.1f} to {100 * holding.high:.1f} %, with a probability of 90 %"
    )


def near_statement(guarantee: HeldOutTruths) -> str | None:
    """What is guaranteed of levels near an observation; None without conditions."""
    if not guarantee.near_count:
        return None
    return (
        f"Near an observation: by the {guarantee.near_count} truths nearest to it, which hold what "
        "is stated or more on average over observations and calibrations, not at each observation"
    )


def report_calibration(guarantee: HeldOutTruths) -> None:
    """Tells the guarantee, and what was asked for."""
    held_out, levels = guarantee.held_out, guarantee.levels()
    logger.info(statement(held_out.truths))
    shares = "/".join(f"{100 * share:g}" for share in SHARES)
    columns = {DENSEST: levels.regions} | dict(
        zip(held_out.quantities, levels.intervals.T, strict=True)
    )
    for name, contents in list(columns.items())[:MOST_COLUMNS]:
        own = "/".join(f"{100 * float(content):.1f}" for content in contents)
        what = name.capitalize() if name == DENSEST else f"Intervals of {name}"
        logger.info(f"{what}: {own} % by the flow hold {shares} %")
    if len(columns) > MOST_COLUMNS:
        logger.info(f"The JSON has {len(columns) - MOST_COLUMNS} more")
    count, change = len(held_out.names), normal_log_volumes(guarantee)[SHARES.index(SHOWN)]
    logger.info(volume_line({"calibrated": change}, count, "if marginals are normal"))
    near = near_statement(guarantee)
    if near is not None:
        logger.info(near)


def volume_line(changes: Mapping[str, float], count: int, how: str) -> str:
    """Return the cost of calibration: how the sum of the log lengths of intervals changes.

    Args:
        changes: The change by kind of intervals.
        count: Number of coordinates.
        how: A condition, or what the change is an average over.
    """
    kinds = ", ".join(
        f"{name} {change:+.2f} ({exp(change / count):.2f} times as long in each coordinate)"
        if isfinite(change)
        else f"{name} infinite, since there are too few held-out cases"
        for name, change in changes.items()
    )
    return (
        f"Change of the sum of log lengths of the {SHOWN:.0%} intervals against the flow's own, "
        f"{how}: {kinds}"
    )


@dataclass(frozen=True, eq=False)
class Observations:
    """What is known of M observations before their posteriors are drawn.

    Attributes:
        whitened: Conditions ``[M, C]`` as held-out truths have them; None where there are none.
        p_values: ``[M]``, that they are like the held-out ones; None where it is not known.
        oddest: The name of the oddest number of each.
    """

    whitened: Tensor | None = None
    p_values: Tensor | None = None
    oddest: Sequence[str] = ()

    def accepted(self, level: float) -> str:
        """Return what it means that no observation is refused at a level, in a line."""
        assert self.p_values is not None
        place = int(self.p_values.argmin())
        return (
            f"No observation is refused at {level:g} (smallest: p = "
            f"{float(self.p_values[place]):.2g}, observation {place + 1}). A refusal finds gross "
            "errors only: an observation with one wrong number of twelve, off by 4 standard "
            "deviations, is accepted in about half of the cases."
        )

    def refused(self, level: float) -> str | None:
        """Which are refused at a level, in a line; None if none is."""
        assert self.p_values is not None
        odd = (self.p_values < level).nonzero()[:, 0].tolist()
        if not odd:
            return None
        listed = ", ".join(
            f"observation {place + 1} (p = {float(self.p_values[place]):.2g}, by its "
            f"{self.oddest[place]})"
            for place in odd[:MOST_LINES]
        )
        more = f" and {len(odd) - MOST_LINES} more" if len(odd) > MOST_LINES else ""
        return (
            f"Refused: {len(odd)} of {len(self.p_values)} observations are like no data that were "
            f"held out: {listed}{more}; --refuse={level:g} refuses at most {level:.2g} of those "
            "that are"
        )


@dataclass(frozen=True, eq=False)
class HeldPosteriors:
    """Intervals and regions of M posteriors, in each of W ways: as the flow says, by all held-out
    truths, and by those near, where there are conditions.

    Attributes:
        guarantee: What they rest on.
        observations: What is known of these.
        ends: ``[M, W, L, Q, 2]``, of central intervals.
        thresholds: Log densities ``[M, W, L]`` above which regions lie; NaN where draws have none.
        near: Levels by the truths near each; None without conditions.
        distances: Of the farthest of these ``[M]``; likewise.
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
    ) -> "HeldPosteriors":
        """Those of all draws, group by group."""
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
        """Names of the W ways."""
        return (FLOW, AVERAGE, NEAR)[: self.ends.shape[1]]

    def listed(self, index: int) -> dict[str, Any]:
        """What the JSON says of one posterior."""
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
        """Return by how much calibrated intervals are larger than the flow's own, by the kind of
        intervals, for each of ``SHARES``.

        This is the change of the sum of the log lengths of the intervals of all coordinates, in the
        mean over observations whose intervals are finite and not empty; NaN where there are none.
        """
        lengths = self.ends.diff(dim=-1)[..., : len(self.guarantee.held_out.names), 0]
        change = (lengths[:, 1:] / lengths[:, :1]).log().sum(dim=-1)
        change = torch.where(change.isfinite(), change, torch.nan).nanmean(dim=0)
        return dict(zip(self.ways[1:], change.tolist(), strict=True))

    def volumes_listed(self) -> dict[str, dict[str, float | None]]:
        """Return ``log_volumes`` by kind and share, as a JSON file takes them."""
        return {
            way: {f"{share:g}": _number(each) for share, each in zip(SHARES, changes, strict=True)}
            for way, changes in self.log_volumes().items()
        }

    def report(self) -> None:
        """Print the intervals of the first posteriors as held out, beside the flow's own."""
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
                parts.append(f"{float(p_values[index]):.2%} of held-out data are as odd")
            logger.info(f"Observation {index + 1}, {SHOWN:.0%}: {'; '.join(parts)}")
        changes = {words[way]: each[at] for way, each in self.log_volumes().items()}
        logger.info(volume_line(changes, len(held_out.names), "in the mean over observations"))


def densities(draws: Draws, index: int) -> Tensor:
    """Log densities ``[S]`` of draws of one posterior, up to a constant; NaN where they are not
    known."""
    if draws.log_density is not None:
        return draws.log_density[index].flatten().cpu().double()
    likelihood = draws.log_likelihood[index].flatten().cpu().double()
    return likelihood - draws.w[index].flatten(0, 1).cpu().double().square().sum(dim=1) / 2


def _number(value: float) -> float | None:
    """None for infinities, which JSON does not have."""
    return value if isfinite(value) else None
