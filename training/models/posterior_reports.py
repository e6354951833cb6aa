"""Results of ``posterior.py``: files of numbers, and lines of the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dnnlib.logs import logger
from dnnlib.numbers import beside, rounded
from dnnlib.warned import warn
from torch_utils.results import provenance, save_json
from training.flow.coordinates.conditions import MOST_CONDITIONS, Surprise
from training.inference.draws import AMORTIZED, GAUSSIAN
from training.inference.samplers.twisted import NAME as TWISTED
from training.inference.summary import FEWEST_OF_MANY, LEVELS, Summary
from training.measure.posterior.calibration import CalibrationCheck, RunValues

FAR = 6.0
"""Standard deviations from the prior beyond which an observation causes a warning."""
LARGEST_ERROR = 0.005
"""Largest error of weights caused by the pool of draws without a warning."""
MOST_LEAKED = 0.5
"""Share of an observation's draws outside bounds above which there is a warning."""
SHOWN = (0.5, 0.8, 0.9, 0.95)
MOST_SHOWN, MOST_COLUMNS = 5, 8
"""Number of posteriors and of columns whose means and intervals are printed."""
MOST_BLUR = 0.3
"""Noise of the first time, relative to a posterior's width, above which it is reported.

The posterior is then 5 % wider.
"""
NARROW = 2.0
"""Width of sharpened draws, relative to noise of the first time, below which there is a warning.

Both widths are standard deviations. The limit was measured with a parameter from N(0, 1) and its
noise as a condition (10,000 simulations, two trainings, six observations each). Posteriors with
ratios of 1.1 to 1.8 were up to 46 % too wide. Those with 2.4 or more were off by 4 % at most in the
mean over observations.
"""
WRONG_WIDTH = 1.5
"""Factor by which posteriors are too wide or too narrow from which there is a warning."""
BOUNDS = "bounds"
MOST_LINES = 20
"""Largest number of lines of one kind about observations."""
LARGER = {"--particles": {TWISTED}}
"""Options that increase the effective sample size of some samplers, besides the number of draws."""


def warn_of_far(deviations: Tensor, names: Sequence[str]) -> None:
    """Log a warning about the observed number that is farthest from the prior's expectation.

    Args:
        deviations: Deviations ``[M, K]`` in standard deviations.
        names: Names of the numbers; empty if they have none.
    """
    farthest = int(deviations.argmax())
    observation, number = divmod(farthest, deviations.shape[1])
    name = names[number] if names else f"number {number + 1}"
    if deviations.flatten()[farthest] > FAR:
        warn(
            "far-from-prior",
            f"in observation {observation + 1}, {name} is "
            f"{deviations.flatten()[farthest]:.3g} standard deviations from its prior "
            "mean: check that its unit is that of the data. (Correct values can be so "
            "far off where the data hardly vary.)",
            observation=observation + 1,
            name=name,
            deviation=float(deviations.flatten()[farthest]),
        )


def warn_of_outliers(distribution: Surprise | None, conditions: Tensor) -> Tensor | None:
    """Warn of out-of-distribution observations, relative to the simulations that trained a flow.

    Args:
        distribution: Distribution of the conditions in the simulations, or None.
        conditions: Observations ``[M, C]``.

    Returns:
        Surprise ``[M]`` in nats; None if it is unknown.
    """
    if distribution is None:
        logger.info(
            "It is unknown whether observations are in distribution: the network has "
            f"more than {MOST_CONDITIONS} conditions"
        )
        return None
    nats: Tensor = distribution(conditions).cpu()
    unlike = (nats > distribution.limit).nonzero()[:, 0].tolist()
    for place in unlike[:MOST_LINES]:
        warn(
            "out-of-distribution",
            f"observation {place + 1} is out of distribution: its surprise is "
            f"{float(nats[place]):.3g} nats above that of a typical simulation, and 99.9 "
            f"% of simulations have at most {distribution.limit:.3g}",
            observation=place + 1,
            surprise=float(nats[place]),
            limit=distribution.limit,
        )
    if len(unlike) > MOST_LINES:
        warn(
            "out-of-distribution",
            f"{len(unlike) - MOST_LINES} more of {len(nats)} observations are out of distribution",
            observations=[place + 1 for place in unlike[MOST_LINES:]],
        )
    return nats


def report_draws(
    numbers: dict[str, Any],
    summary: Summary,
    names: Sequence[str],
    blur: Tensor | None = None,
    within: str = BOUNDS,
    errors: Tensor | None = None,
    sharpened: bool = False,
) -> None:
    """Log means and intervals of the first posteriors, and why posteriors have not converged.

    Args:
        numbers: Content of the JSON file.
        summary: Summary of all posteriors.
        names: Names of the coordinates; empty for coordinates such as pixels, which mean little by
            themselves.
        blur: See ``overview``.
        within: Words for the region outside of which draws were rejected.
        errors: See ``overview``.
        sharpened: Whether the noise of the first time was removed from draws, to first order.
    """
    count = numbers["observations"]
    for index in range(min(count, MOST_SHOWN) if names else 0):
        logger.info(f"Observation {index + 1}: {_moments(summary, names, index)}")
    if names and count > MOST_SHOWN:
        logger.info(f"{count - MOST_SHOWN} more are in the JSON")
    samplers = ", ".join(f"{number} by {name}" for name, number in numbers["samplers"].items())
    calls, units = numbers["network_calls"], {1e9: "billion", 1e6: "million"}
    words = [f"{calls / size:.3g} {unit}" for size, unit in units.items() if calls >= size]
    spent = [*words, f"{calls:,.0f}"][0]
    logger.info(f"{count} posterior(s): {samplers}; {spent} network evaluations")
    known = summary.r_hat[~summary.r_hat.isnan()]
    mixed = f"largest R-hat {float(known.max()):.3f}, " if len(known) else ""
    if numbers["samplers"].keys() != {GAUSSIAN}:  # a size says nothing of them
        logger.info(f"{mixed}smallest effective sample size {float(summary.ess_bulk.min()):.0f}")
    leaked = numbers.get("leaked")
    if leaked is not None:
        _report_leaked(leaked["mean"], leaked["largest"], within)
        if within != BOUNDS and leaked["largest"] > MOST_LEAKED:
            warn(
                "region-misses-posterior",
                f"most of the posterior lies beyond {within}, which misses it: "
                "give more --simulations, or fewer --rounds",
                leaked=leaked["largest"],
            )
    held = numbers.get("truths_held")
    if held is not None:
        contents = "/".join(f"{100 * float(content):g}" for content in held)
        shares = " ".join(f"{100 * share:.1f}" for share in held.values())
        logger.info(f"Central intervals of {contents} % cover {shares} % of the true values")
    if sharpened:
        _warn_of_narrow(summary, names, blur)
    else:
        _report_blur(summary, names, blur)
    _warn_of_widths(errors, names)
    if numbers["converged"] < count:
        _warn_of_unconverged(numbers, summary)


def _warn_of_unconverged(numbers: Mapping[str, Any], summary: Summary) -> None:
    """Warn of posteriors that have not converged, with the reasons and remedies."""
    missed = (~summary.converged).nonzero()[:, 0].tolist()
    alike: dict[tuple[str, ...], list[int]] = {}
    for place in missed[:MOST_LINES]:
        alike.setdefault(tuple(summary.reasons(place)), []).append(place)
    lines = [f"{len(missed)} of {numbers['observations']} have not converged:"]
    for places in alike.values():
        listed = ", ".join(f"{place + 1}" for place in places)
        lines.append(f"  observation(s) {listed}: {_why(numbers, summary, places)}")
    if len(missed) > MOST_LINES:
        lines.append(f"  and {len(missed) - MOST_LINES} more: see the JSON")
    observations = [place + 1 for place in missed]
    warn("not-converged", "\n".join(lines), observations=observations)


def _why(numbers: Mapping[str, Any], summary: Summary, places: Sequence[int]) -> str:
    """Explain why posteriors have not converged for the same reasons, and what to do."""
    names, samplers = summary.reasons(places[0]), numbers["samplers"]
    if AMORTIZED in samplers and "unlike" not in names:
        return (
            f"The flow and its correction disagree: effective sample size"
            f"{summary.small_ess(places, FEWEST_OF_MANY) or ' rests on a few draws'}. "
            "Train both longer, and check each."
        )
    if set(samplers) == {TWISTED} and {"worth", "chains"}.issuperset(names):
        return (
            f"Populations of particles disagree{summary.large_r_hat(places)}. Give more --minutes "
            "or --particles."
        )
    statistics = [each["statistics"] for each in numbers.get("posteriors", [])]
    more = [f" or {option}" for option, users in LARGER.items() if not users.isdisjoint(samplers)]
    return summary.explained(places, statistics, "".join(more))


def _moments(summary: Summary, names: Sequence[str], index: int) -> str:
    """Describe means and 90 % intervals of a posterior's first columns, or a single draw."""
    low, high = (summary.quantiles[index, :, LEVELS.index(level)] for level in (0.05, 0.95))
    numbers = (each.tolist() for each in (summary.mean[index], summary.std[index], low, high))
    columns = list(zip(names, *numbers, strict=True))
    shown = [
        f"{name} {beside(mean, std)}"
        if isnan(std)
        else f"{name} {beside(mean, std)} ± {rounded(std, 2)} (90 %: {beside(below, std)} to "
        f"{beside(above, std)})"
        for name, mean, std, below, above in columns[:MOST_COLUMNS]
    ]
    more = len(columns) - MOST_COLUMNS
    return "; ".join(shown) + (f"; {more} more columns" if more > 0 else "")


def _report_blur(summary: Summary, names: Sequence[str], blur: Tensor | None) -> None:
    """Log where the noise of the first time is not small compared with posteriors."""
    if blur is None or not names:
        return
    share = torch.where(summary.std > 0, blur / summary.std, 0.0)
    wide = (share > MOST_BLUR).nonzero().tolist()
    if not wide:
        return
    row, column = divmod(int(share.argmax()), len(names))
    logger.info(
        "Draws include the noise of the first time, which is not small compared with the "
        f"posterior in {len(wide)} value(s), most of all in {names[column]} of "
        f"observation {row + 1}: noise {float(blur[row, column]):.2g}, posterior standard "
        f"deviation {float(summary.std[row, column]):.2g}"
    )


def _warn_of_narrow(summary: Summary, names: Sequence[str], blur: Tensor | None) -> None:
    """Warn of sharpened posteriors that are nearly as narrow as the noise of the first time."""
    if blur is None or not names:
        return
    ratio = torch.where(blur > 0, summary.std / blur, torch.inf).nan_to_num(nan=torch.inf)
    rows = (ratio < NARROW).any(dim=1).nonzero()[:, 0].tolist()
    for row in rows[:MOST_LINES]:
        column = int(ratio[row].argmin())
        warn(
            "narrow",
            f"the posterior of observation {row + 1} is nearly as narrow as the noise of "
            f"the first time in {names[column]} (standard deviation "
            f"{float(summary.std[row, column]):.2g}, noise {float(blur[row, column]):.2g}): its "
            "width is not reliable, and probably too large. Train with a smaller --gamma0.",
            observation=row + 1,
            name=names[column],
            std=float(summary.std[row, column]),
            noise=float(blur[row, column]),
        )
    if len(rows) > MOST_LINES:
        warn("narrow", f"so are the posteriors of {len(rows) - MOST_LINES} more observations")


def _warn_of_widths(errors: Tensor | None, names: Sequence[str]) -> None:
    """Warn of posteriors that are locally too wide or too narrow.

    Args:
        errors: Scale of errors over standard deviations ``[M, D]``.
        names: Names of the coordinates.
    """
    if errors is None or not names:
        return
    for kind, factor in (("wide", 1 / errors), ("narrow", errors)):
        worst, columns = factor.max(dim=1)
        rows = (worst > WRONG_WIDTH).nonzero()[:, 0].tolist()
        for row in rows[:MOST_LINES]:
            column = int(columns[row])
            warn(
                "width",
                f"the posterior of observation {row + 1} may be too {kind} in "
                f"{names[column]}: at simulations with similar posteriors, errors are "
                f"{float(errors[row, column]):.2g} times the posterior standard "
                "deviation. Train on more simulations, or weight the draws with a "
                "learned likelihood: --correct",
                observation=row + 1,
                name=names[column],
                error_over_std=float(errors[row, column]),
            )
        if len(rows) > MOST_LINES:
            warn("width", f"so may be the posteriors of {len(rows) - MOST_LINES} more observations")


def _report_leaked(mean: float, largest: float, within: str) -> None:
    logger.info(
        f"Beyond {within}, and redrawn: {mean:.2%} of draws on average, up to "
        f"{largest:.2%} of one observation"
    )
    if largest > MOST_LEAKED and within == BOUNDS:
        warn(
            "outside-bounds",
            "for that observation most of the flow's mass is outside the "
            "bounds, and draws come from the small rest: train with --bounded=map, which "
            "respects bounds",
            leaked=largest,
        )


def report_mixture(numbers: dict[str, Any]) -> None:
    """Log the accuracy of the weights, and the weights of the first run."""
    off, pool = numbers["largest_difference"], numbers["pool"]
    size = pool["effective_size"]
    error = pool["largest_error_of_a_mean"]
    logger.info(
        f"Largest R-hat {numbers['r_hat']['largest']:.3f}, smallest effective sample size "
        f"{numbers['ess_bulk']['smallest']:.0f}; difference from "
        f"{numbers['compared_with']}: up to {off['mean']:.4f} in means and "
        f"{off['std']:.4f} in standard deviations"
    )
    logger.info(
        f"The evidence of each point uses at least {size['smallest']:.0f} draws per "
        f"component, {size['median']:.0f} in the median: weights have an error of about "
        f"{error:.4f}"
    )
    if error > LARGEST_ERROR:
        warn(
            "few-draws",
            "the evidence of some points rests on few draws: weights are approximate",
            error=error,
        )
    first = numbers["posteriors"][0]
    pairs = zip(first["mean"], first["std"], strict=True)
    shown = ", ".join(f"{mean:.3f} ± {std:.3f}" for mean, std in pairs)
    truth = first.get("truth")
    true = f"; true {', '.join(f'{weight:.3f}' for weight in truth)}" if truth else ""
    logger.info(f"Weights of the first data set: {shown}{true}")


def report_check(calibration: CalibrationCheck, within: str = BOUNDS) -> None:
    """Log the verdict and the coverage of regions; for ``within`` see ``report_draws``."""
    logger.info(calibration.verdict)
    if calibration.leaked is not None:
        _report_leaked(*calibration.leaked, within)
    if calibration.density is not None:
        mean, error = calibration.density
        logger.info(f"Mean log density of true values: {mean:.3f} ± {error:.2g} nats")
    for name, curve in {"central intervals": calibration.intervals, **calibration.regions}.items():
        places = [int((curve.levels - level).abs().argmin()) for level in SHOWN]
        held = "/".join(f"{100 * float(curve.pooled[place]):.1f}" for place in places)
        levels = "/".join(f"{100 * level:.0f}" for level in SHOWN)
        worst = curve.deviation.abs().argmax()
        where = f" ({calibration.names[int(worst)]})" if len(curve.deviation) > 1 else ""
        logger.info(
            f"{name[0].upper()}{name[1:]} with {levels} % cover {held} % of true values; "
            f"largest deviation {float(curve.deviation[worst]):+.1f} points{where}"
        )


def write_numbers(path: Path, form: str, began: float, content: dict[str, Any]) -> None:
    """Write the JSON file of a command that began at the time ``began``."""
    seconds = perf_counter() - began
    save_json(path, {"format": form, **content, "seconds": seconds, **provenance()})


def report_files(numbers: Path, arrays: Path, began: float) -> None:
    """Log the paths of a command's results, and its duration."""
    seconds = perf_counter() - began
    logger.info(f"Wrote {numbers} and {arrays.name} after {seconds:.1f} s")


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Result of a test of calibration.

    Attributes:
        values: Ranks and scores of the runs.
        calibration: Tests of the runs.
        content: Plain values about the check, such as its options.
        fingerprint: Digest of everything that the runs depend on.
        within: See ``report_draws``.
    """

    values: RunValues
    calibration: CalibrationCheck
    content: Mapping[str, Any]
    fingerprint: str
    within: str = BOUNDS

    @property
    def passed(self) -> bool:
        """Whether no test fails."""
        return self.calibration.passed

    @property
    def facts(self) -> dict[str, Any]:
        """The result as plain numbers and lists, as in the JSON file of ``posterior.py check``."""
        return {**self.content, **self.calibration.summary()}

    def log(self) -> None:
        """Log the verdict and the tests that fail."""
        report_check(self.calibration, self.within)
