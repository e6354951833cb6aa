"""Numbers of posteriors: the JSON of ``posterior.py``, and the runs of its checks.

``{data}_{schedule}_posterior.json`` has the options, points (clean, or with the noise of the first
time), solvers (solver and n_iters for points, for chains, and for densities if theirs differ), rule
(the convergence criterion), converged (the number of converged posteriors), samplers by the number
of observations, network_calls, seconds, r_hat (the largest, and the 90 % quantile), the smallest
ess_bulk and ess_tail, leaked if draws were rejected, and with ``--truth`` truths_held, the coverage
of central intervals by their probability. If there are at most 2,000 means, it has posteriors, for
each observation

    sampler, converged, not_converged_since   of worth, chains, test, tail, steps, unlike, time
    mean, std, r_hat, ess_bulk, ess_tail, mcse_mean, mcse_std   by the names of coordinates
    quantiles                by their level and these names
    statistics               statistics of the sampler
    surprise, blur           distance from the training simulations in nats; by names, the standard
                             deviation of the noise of the first time

Values that are not numbers are null. ``{data}_{schedule}_posterior_check.json`` has the question
(sampler for ``--truth=flow``, model for ``--truth=data``), solvers, verdict, detectable (the error
of coverage that this number of runs detects in 90 % of cases, in points), p_values and
adjusted_p_values (Holm) by test, central_intervals and regions with their coverage at each
probability, crps, and log_density with its mean over true values and its error, unless it is known
only up to a constant.

``..._posterior_calibration.json`` has everything in the JSON of a check, and held_out: truths, the
number of held-out cases; statement, the guarantee, and its assumption; holding, for each nominal
coverage the actual coverage on average over calibrations, and the range that 90 % of calibrations
reach, low to high; levels, adjusted probabilities, by nominal coverage and names; near, the number
of held-out cases near an observation, and near_statement, the guarantee based on these; curves,
adjusted probabilities at many nominal coverages; normal_log_volume, by nominal coverage, the change
in the sum of the log interval lengths of all coordinates relative to the flow's own intervals,
assuming normal marginals.

The JSON of draws by a calibrated network has the same held_out, with log_volume, that change on
average over observations by kind and nominal coverage. Each posterior has it too, with flow,
held_out and near, the ends of intervals by nominal coverage and name, and the log_density threshold
of the region (null for everything); distance, from the farthest held-out case near it; p_value, of
the test for an out-of-distribution observation, and the oddest of its scores.

``..._posterior_predictive.json`` has verdict, passed, detectable (in standard deviations of
simulated data), adjusted_p_values, and for each observation by the names of numbers observed, rank,
p_value, and quantiles of simulated data at 5, 50 and 95 %.

``comparison.json`` has models by name, with network, prior, prior_probability and samplers, and for
each observation by these names log_evidence, error (nats, sampling error only), probability,
probability_error, log_bayes_factor (relative to the best), converged, and mean_errors, the minimum
number of standard deviations by which errors of the learned likelihood shift posterior means;
errors states in words which errors are not included.

All commands that sample keep finished groups in ``..._posterior.part/``, or a similar folder, until
the results are written. The same command resumes from groups with its own options and inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.files.arrays import parameter, title_of
from training.files.declared import (
    FLAG,
    STORED,
    STORED_FLOAT,
    TEXT,
    Format,
    Key,
    ResultFile,
    names,
    text,
)
from training.inference.draws import Draws
from training.inference.summary import CONTENTS, LEVELS, REASONS, Summary
from training.measure.posterior.calibration import (
    FEWEST_IN_BIN,
    CalibrationCheck,
    RunValues,
    calibrate,
)

COMPARISON_FORMAT = "inflationary-flows model comparison 1"
MIXTURE_FORMAT = "inflationary-flows mixture 1"
"""Format of the JSON of a mixture."""
MIXTURE = ResultFile(
    name="`{data}_{schedule}_mixture.npz`",
    sizes="R runs of N observations, C chains of S draws, and K components in D dimensions",
    keys={
        "weights": Key("R C S K", "draws of the weights", STORED),
        "observed": Key("R N ...", "observations", STORED),
        "log_evidence": Key("R N K", "of each component for each point, in nats", STORED),
        "mean": Key("K D", "means of the components in whitened latents", STORED),
        "std": Key("K", "standard deviations of the components", STORED),
        "truth": Key("R K", "true weights; only for simulated data", STORED, optional=True),
    },
)


STAT, SUMMARY = "stat_", "summary_"
"""Prefixes of the names of arrays with sampler statistics, and with summaries of the draws."""
DENSITY = "log_density"
"""Name of the array of log densities of draws, for posteriors whose density is known."""
OWN = ("w", "points", "log_likelihood", "calls")


def _of_summary(name: str) -> Key:
    axes = {"quantiles": f"M D {len(LEVELS)}", "failed": f"M {len(REASONS)}"}.get(name, "M D")
    kind = FLAG if name == "failed" else STORED_FLOAT
    return Key(axes, f"{name} of the draws", kind, wild=True)


PART = ResultFile(
    name="a finished group, `group-{index}.npz`",
    sizes="M observations, C chains of S draws, L latents and D coordinates",
    keys={
        "fingerprint": text("hash of the options and inputs of the run"),
        "sampler": Key("M", "sampler of each observation", TEXT),
        "w": Key("M C S L", "latents", STORED_FLOAT, wild=True),
        "points": Key("M C S D", "draws", STORED_FLOAT, wild=True),
        "log_likelihood": Key("M C S", "in nats", STORED_FLOAT, wild=True),
        "calls": Key("M", "network evaluations", STORED_FLOAT, wild=True),
        DENSITY: Key("M C S", "log densities, if they are known", STORED_FLOAT, True, wild=True),
        f"{STAT}{{name}}": Key("M", "statistics of the sampler", STORED_FLOAT, True, wild=True),
        **{f"{SUMMARY}{item.name}": _of_summary(item.name) for item in fields(Summary)},
    },
    least={"M": 0, "C": 0, "S": 0, "D": 0, "L": 0},
    advice="remove it, and run again",
)


def save_part(path: Path, draws: Draws, summary: Summary, fingerprint: str) -> None:
    """Write the draws of one group of observations, so that an interrupted run can resume.

    Args:
        path: The file.
        draws: The draws.
        summary: Summary of the draws.
        fingerprint: Text that identifies the run: a hash of its options and inputs.
    """
    density = {} if draws.log_density is None else {DENSITY: draws.log_density}
    arrays = {
        **{name: getattr(draws, name) for name in OWN},
        **density,
        **{f"{STAT}{name}": values for name, values in draws.stats.items()},
        **{f"{SUMMARY}{item.name}": getattr(summary, item.name) for item in fields(Summary)},
    }
    PART.save(path, {**arrays, "sampler": draws.sampler, "fingerprint": fingerprint})


def load_part(path: Path, fingerprint: str) -> tuple[Draws, Summary] | None:
    """Load the draws that ``save_part`` wrote for one group of observations.

    The result is None if the file is missing, or its fingerprint differs: then it was written by a
    run with other options or inputs.

    Raises:
        DataError: The file is broken.
    """
    if not path.exists():
        return None
    with PART.open(path) as part:
        if str(part.read("fingerprint")) != fingerprint:
            return None
        arrays = part.all()
    sampler = [str(name) for name in arrays.pop("sampler")]
    del arrays["fingerprint"]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    w, points, log_likelihood, calls = (tensors[name] for name in OWN)
    stats = {
        name.removeprefix(STAT): values for name, values in tensors.items() if name.startswith(STAT)
    }
    summary = Summary(*(tensors[f"{SUMMARY}{item.name}"] for item in fields(Summary)))
    return Draws(w, points, log_likelihood, sampler, calls, stats, tensors.get(DENSITY)), summary


_SHARE: dict[str, Any] = {"low": 0, "high": 1}
CHECK = ResultFile(
    kind="posterior check",
    name="`..._posterior_check.npz`",
    sizes="R runs and Q quantities, those of V coordinates first, and F families of regions",
    keys={
        "fingerprint": text("hash of the options and inputs of the run"),
        "names": names("Q", "coordinates, log likelihood (or log density), radius"),
        "region_names": names("F", "names of the families of regions"),
        "ranks": Key("R Q", "fractional ranks of true values among draws", **_SHARE),
        "regions": Key("F R", "content of the smallest region with a true value", **_SHARE),
        "crps": Key("R V", "continuous ranked probability scores, in the data's units"),
        "leaked": Key("R", "fraction of draws beyond bounds", optional=True, **_SHARE),
        "log_density": Key("R", "of true values, where it is known", optional=True),
        "beyond": Key(
            "R Q",
            "distance of true values from the outermost draws, in standard deviations",
            optional=True,
            low=0,
            wild=True,
        ),
    },
)
CALIBRATION = replace(
    CHECK,
    kind="posterior calibration",
    name="`..._posterior_calibration.npz`, with held-out cases instead of runs",
    sizes=f"{CHECK.sizes}; C conditions, if there are two or more",
    keys={
        **CHECK.keys,
        "conditions": Key("R C", "conditions of the held-out cases", STORED, optional=True),
        "condition_names": names("C", "names of the conditions", optional=True),
        "near": Key("R", "adjusted probability for 90 % coverage near a case", STORED, True),
    },
)
PREDICTIVE = ResultFile(
    kind="posterior predictive",
    name="`..._posterior_predictive.npz`",
    sizes="Q numbers or statistics, M observations and S simulations of each",
    keys={
        "names": names("Q", "names of the numbers that are compared"),
        "simulated": Key("M S Q", "simulated numbers"),
        "observed": Key("M Q", "observed numbers"),
    },
)
FORMATS = {
    CHECK.kind: Format("runs of a check", "checks.content_of_check"),
    CALIBRATION.kind: Format("ranks of calibration cases", "checks.content_of_calibration"),
    PREDICTIVE.kind: Format("data simulated from posteriors", "checks.content_of_predictive"),
}
MOST_LISTED = 2000
"""Maximum number of posterior means up to which the JSON lists each observation."""


def overview(
    draws: Draws,
    summary: Summary,
    names: Sequence[str],
    surprise: Tensor | None = None,
    truth: Tensor | None = None,
    blur: Tensor | None = None,
    errors: Tensor | None = None,
) -> dict[str, Any]:
    """Return JSON entries that summarize the posteriors of M observations.

    If there are few observations, each one has its own entry as well.

    Args:
        draws: Draws; only their samplers, numbers of evaluations and statistics are used.
        summary: Moments, quantiles and diagnostics of the posterior of each observation.
        names: Names of the coordinates.
        surprise: Distance of each observation from the training simulations ``[M]``, in nats; None
            without conditions, or if it is unknown.
        truth: True points ``[M, D]``; None if they are unknown.
        blur: Standard deviations ``[M, D]`` of the noise that the first time adds to points, in the
            data's units; None for clean points, and if they were not computed.
        errors: Standard deviations ``[M, D]`` that standardize errors; None if they are unknown.
    """
    r_hat, bulk = summary.r_hat, summary.ess_bulk
    known = r_hat[~r_hat.isnan()]
    samplers = {name: draws.sampler.count(name) for name in sorted(set(draws.sampler))}
    content: dict[str, Any] = {
        "observations": draws.count,
        "coordinates": list(names),
        "samplers": samplers,
        "network_calls": float(draws.calls.sum()),
        "converged": int(summary.converged.sum()),
        "r_hat": None
        if not len(known)
        else {
            "largest": _number(known.max()),
            "quantile_90": _number(known.sort().values[ceil(0.9 * len(known)) - 1]),
        },
        "ess_bulk": {"smallest": _number(bulk.min()), "median": _number(bulk.median())},
        "ess_tail": {"smallest": _number(summary.ess_tail.min())},
    }
    if "leaked" in draws.stats:
        leaked = draws.stats["leaked"]
        content["leaked"] = {"mean": _number(leaked.mean()), "largest": _number(leaked.max())}
    if truth is not None:
        held = summary.held(truth).double().mean(dim=(1, 2)).tolist()
        content["truths_held"] = dict(zip(map(str, CONTENTS), held, strict=True))
    if summary.mean.numel() <= MOST_LISTED:
        entries = [_listed(draws, summary, names, index) for index in range(draws.count)]
        content["posteriors"] = entries
        for entry, nats in zip(entries, () if surprise is None else surprise, strict=False):
            entry["surprise"] = _number(nats)
        for key, rows in (("blur", blur), ("error_over_std", errors)):
            for entry, row in zip(entries, () if rows is None else rows.tolist(), strict=False):
                entry[key] = dict(zip(names, row, strict=True))
    return content


def _listed(draws: Draws, summary: Summary, names: Sequence[str], index: int) -> dict[str, Any]:
    def by_name(values: Tensor) -> dict[str, float | None]:
        return dict(zip(names, map(_number, values[index]), strict=True))

    kinds = ("mean", "std", "r_hat", "ess_bulk", "ess_tail", "mcse_mean", "mcse_std")
    quantiles = {
        f"{level:g}": by_name(summary.quantiles[:, :, place]) for place, level in enumerate(LEVELS)
    }
    stats = {
        name: _number(values[index]) if values.ndim == 1 else by_name(values)
        for name, values in draws.stats.items()
    }
    return {
        "sampler": draws.sampler[index],
        "converged": bool(summary.converged[index]),
        "not_converged_since": summary.reasons(index),
        **{kind: by_name(getattr(summary, kind)) for kind in kinds},
        "quantiles": quantiles,
        "statistics": stats,
    }


def _number(value: Tensor) -> float | None:
    """Convert to a float; None for NaN and infinities, which JSON cannot represent."""
    return float(value) if value.isfinite() else None


def save_values(
    path: Path,
    values: RunValues,
    fingerprint: str,
    file: ResultFile = CHECK,
    beside: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the results of the runs of a check, or of the held-out cases of a calibration.

    Args:
        path: Path of the ``.npz``.
        values: Results of the runs or cases.
        fingerprint: Text that identifies the run: a hash of its options and inputs.
        file: Declaration of the file, ``CHECK`` or ``CALIBRATION``.
        beside: Further arrays of the file.
    """
    arrays = {
        **beside,
        "format": file.format,
        "names": values.names,
        "ranks": values.ranks,
        "crps": values.scores,
        "region_names": list(values.regions),
        "regions": torch.stack(list(values.regions.values())),
        "fingerprint": fingerprint,
        "leaked": values.leaked,
        "log_density": values.density,
        "beyond": values.beyond,
    }
    file.save(path, arrays)


def load_values(path: Path, fingerprint: str | None = None) -> RunValues | None:
    """Load the results that ``save_values`` wrote.

    The result is None if the file is missing, or its fingerprint differs: then it was written by a
    run with other options or inputs. ``fingerprint`` is None to accept any file.

    Raises:
        DataError: The file is broken.
    """
    if not path.exists():
        return None
    with CHECK.open(path) as saved:
        if fingerprint is not None and str(saved.read("fingerprint")) != fingerprint:
            return None
        arrays = saved.all()
    quantities = tuple(arrays["names"].tolist())
    if arrays["crps"].shape[1] > len(quantities):
        raise DataError(
            f"{path}: 'crps' has {arrays['crps'].shape[1]} quantities, but 'names' has "
            f"{len(quantities)}: make the file again"
        )
    kept = ("ranks", "regions", "crps", "leaked", "log_density", "beyond")
    tensors = {name: torch.from_numpy(arrays[name]) for name in kept if name in arrays}
    regions = dict(zip(arrays["region_names"].tolist(), tensors["regions"], strict=True))
    others = (tensors.get(name) for name in kept[3:])
    return RunValues(quantities, tensors["ranks"], regions, tensors["crps"], *others)


@dataclass(frozen=True)
class SavedCheck:
    """A saved check of the calibration of posteriors, with the results of all its runs.

    Attributes:
        values: Ranks, regions and scores of all runs.
        calibration: Calibration tests of these ranks and regions.
        name: Name of the data.
        schedule: Schedule in words; empty if the file name does not contain a schedule.
        question: Subject of the check, ``sampler`` or ``model``; None if it is unknown.
    """

    values: RunValues
    calibration: CalibrationCheck
    name: str
    schedule: str
    question: Any

    @classmethod
    def load(cls, path: Path) -> "SavedCheck":
        """Read the ``.npz`` of a check, and the JSON beside it.

        Raises:
            DataError: A file is broken, or there are too few runs.
        """
        values = load_values(path)
        if values is None or len(values.ranks) < 2 * FEWEST_IN_BIN:
            raise DataError(
                f"{path} has too few runs to test calibration: repeat the check with at least "
                f"{2 * FEWEST_IN_BIN}"
            )
        numbers = path.with_suffix(".json")
        level = parameter(numbers, "level")
        known = isinstance(level, float) and 0 < level < 1
        calibration = calibrate(values, level) if known else calibrate(values)
        name, schedule = title_of(path.stem.rpartition("_posterior_")[0])
        return cls(values, calibration, name, schedule, parameter(numbers, "question"))


@dataclass(frozen=True)
class SavedPredictive:
    """A saved posterior predictive check: its ``path``, and the arrays of ``PREDICTIVE``."""

    path: Path
    names: tuple[str, ...]
    simulated: np.ndarray
    observed: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "SavedPredictive":
        """Read the ``.npz`` of a posterior predictive check.

        Raises:
            DataError: The file is broken.
        """
        arrays = PREDICTIVE.load(path)
        return cls(path, tuple(arrays.pop("names").tolist()), **arrays)
