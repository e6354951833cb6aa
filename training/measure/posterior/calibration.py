"""Simulation-based calibration (SBC) of many posteriors: statistics per run, and tests of all runs.

A run consists of true values, and draws from the posterior given data simulated from them.
``run_values`` reduces runs to a few numbers each, in batches of any size; ``calibrate`` tests the
numbers of all runs.

For each dimension and each other quantity, the tests are: uniformity of ranks by
Kolmogorov-Smirnov, of their histogram by chi-squared, and of the levels of central intervals by
Kolmogorov-Smirnov. *Always* include the log-likelihood among the quantities: ranks of dimensions
alone can miss a wrong one. The levels of highest-density regions and of TARP's balls are tested
too. Holm's correction accounts for the number of all these tests.

The distance of draws from true values, in their own units, is measured by the continuous ranked
probability score

    CRPS = E|X - x| - E|X - X'| / 2

for independent draws X, X' and the true value x (Gneiting and Raftery 2007). Small is good, and the
right posterior minimizes its mean. For S sorted draws, the mean difference is

    E|X - X'| = 2 / (S (S - 1)) sum_i (2 i - S - 1) x_(i)

without the pairs of a draw with itself, so that the expected score does not depend on the number of
draws (the *fair* score; Ferro 2014).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.measure.posterior.coverage import (
    CoverageCurve,
    central_values,
    coverage_curve,
    reference_points,
    tarp_values,
)
from training.measure.posterior.ranks import (
    Uniformity,
    fractional_ranks,
    kept_by_thinning,
    ks_p_values,
    require_runs,
    uniformity,
)
from training.measure.posterior.verdicts import LARGE, detectable, holm, verdict

BALLS, DENSEST = "TARP", "highest-density regions"

Scalar = tuple[Tensor, Tensor]
"""Values of a quantity at each draw ``[R, S]``, and at the true values ``[R]``."""


@dataclass(frozen=True)
class RunValues:
    """Calibration statistics of R simulation-based calibration runs, float64.

    Attributes:
        names: Names of the Q quantities; the V dimensions come first.
        ranks: Fractional ranks ``[R, Q]``.
        regions: Probability content ``[R]`` of the smallest region that contains the true value, by
            name of the family of regions.
        scores: Continuous ranked probability score (CRPS) ``[R, V]`` of each dimension.
        leaked: Fraction ``[R]`` of a flow's draws that were out of bounds and redrawn; None without
            bounds.
        density: Log densities ``[R]`` of the true values under their posteriors; None if known only
            up to a constant.
    """

    names: tuple[str, ...]
    ranks: Tensor
    regions: Mapping[str, Tensor]
    scores: Tensor
    leaked: Tensor | None = None
    density: Tensor | None = None

    def at(self, places: Tensor | slice) -> "RunValues":
        """Return the statistics of the runs with the given indices or in a slice."""
        return self._each(lambda values: values[places])

    def cpu(self) -> "RunValues":
        """Return the statistics on the CPU."""
        return self._each(Tensor.cpu)

    def _each(self, part: Callable[[Tensor], Tensor]) -> "RunValues":
        """Return the statistics with a function applied to every tensor."""
        return RunValues(
            self.names,
            part(self.ranks),
            {name: part(held) for name, held in self.regions.items()},
            part(self.scores),
            None if self.leaked is None else part(self.leaked),
            None if self.density is None else part(self.density),
        )

    @classmethod
    def joined(cls, parts: Sequence["RunValues"]) -> "RunValues":
        """Join the statistics of several batches of runs.

        Raises:
            DataError: There is no batch, or batches have different quantities.
        """
        if not parts or any(
            part.names != parts[0].names
            or part.regions.keys() != parts[0].regions.keys()
            or (part.leaked is None) != (parts[0].leaked is None)
            for part in parts
        ):
            raise DataError(
                "batches of runs have different quantities: join only runs of one check"
            )
        regions = {name: torch.cat([p.regions[name] for p in parts]) for name in parts[0].regions}
        ranks, scores = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("ranks", "scores")
        )
        leaked = [part.leaked for part in parts if part.leaked is not None]
        density = [part.density for part in parts if part.density is not None]
        return cls(
            parts[0].names,
            ranks,
            regions,
            scores,
            torch.cat(leaked) if leaked else None,
            torch.cat(density) if len(density) == len(parts) else None,
        )


def run_values(
    draws: Tensor,
    truth: Tensor,
    generator: torch.Generator,
    *,
    names: Sequence[str] | None = None,
    others: Mapping[str, Scalar] | None = None,
    log_density: Scalar | None = None,
    references: Tensor | None = None,
    scale: Tensor | None = None,
    effective: Tensor | None = None,
) -> RunValues:
    """Compute the calibration statistics of runs: ranks, contents of regions, and scores.

    Args:
        draws: Posterior draws ``[R, S, V]``.
        truth: True values ``[R, V]``.
        generator: Random generator on the CPU. For results that do not depend on batches, give each
            run its own generator and reference point.
        names: Names of the V dimensions; x1, x2, ... by default.
        others: Other quantities to rank, by name, such as the log-likelihood and the radius.
        log_density: Log densities under the posterior at the draws and at the true values, for
            highest-density regions.
        references: Reference points of the TARP test ``[R, V]``; those of ``reference_points`` by
            default.
        scale: Units of TARP's distances ``[V]``; standard deviations of all draws by default.
        effective: Effective sample size of each run ``[R]``. Draws are thinned to these sizes,
            except for the CRPS. None for independent draws.

    Raises:
        DataError: Shapes are wrong, or a value is NaN.
    """
    if draws.ndim != 3 or truth.shape != (len(draws), draws.shape[2]):
        raise DataError(
            f"draws have shape {list(draws.shape)} and true values {list(truth.shape)}: "
            "expected [runs, draws, variables] and [runs, variables]"
        )
    names = tuple(names or (f"x{index + 1}" for index in range(truth.shape[1])))
    others = others or {}
    if len(names) != truth.shape[1] or len({*names, *others}) != len(names) + len(others):
        raise DataError(
            f"{truth.shape[1]} dimensions need {truth.shape[1]} different names: correct the names"
        )
    kept = None if effective is None else kept_by_thinning(effective, draws.shape[1])
    # One quantity after the other, to avoid a copy of all draws.
    ranks = [fractional_ranks(draws, truth, generator, kept)]
    for of_draws, of_truth in others.values():
        ranks.append(fractional_ranks(of_draws, of_truth, generator, kept)[:, None])
    if references is None:
        references = reference_points(draws, generator)
    if scale is None:
        scale = draws.flatten(0, 1).double().std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)  # for example, for pixels that are always the same
    regions = {BALLS: tarp_values(draws, truth, references, scale, generator, kept)}
    if log_density is not None:
        regions[DENSEST] = 1 - fractional_ranks(*log_density, generator, kept)
    return RunValues((*names, *others), torch.cat(ranks, dim=1), regions, crps(draws, truth))


@dataclass(frozen=True)
class CalibrationCheck:
    """Result of simulation-based calibration tests with R runs.

    Attributes:
        names: Names of the Q quantities; the first V are dimensions.
        runs: Number of runs, R.
        ranks: Tests of the ranks of quantities.
        intervals: Coverage of central intervals of the V dimensions, and of all together.
        regions: Coverage of other regions by name of their family, each with one variable.
        crps: Mean CRPS over runs ``[V]``.
        leaked: Mean and largest fraction of draws out of bounds; None without bounds.
        density: Mean log density of the true values under their posteriors and its standard error,
            in nats; None if unknown. A larger value is a better approximation of the same
            posteriors.
        p_values: Unadjusted p-values, by test.
        adjusted: P-values adjusted for the number of tests.
        level: Tests with adjusted p-values below this fail.
    """

    names: tuple[str, ...]
    runs: int
    ranks: Uniformity
    intervals: CoverageCurve
    regions: Mapping[str, CoverageCurve]
    crps: Tensor
    leaked: tuple[float, float] | None
    density: tuple[float, float] | None
    p_values: Mapping[str, float]
    adjusted: Mapping[str, float]
    level: float

    @property
    def passed(self) -> bool:
        """Whether no test fails."""
        return min(self.adjusted.values()) >= self.level

    @property
    def detectable(self) -> float:
        """Error of coverage, in percentage points, that is detected in 90 % of cases."""
        return 100 * detectable(self.level, len(self.adjusted), self.runs)

    @property
    def conclusive(self) -> bool:
        """Whether the number of runs is large enough to detect a large error of coverage."""
        return self.detectable <= 100 * LARGE

    @property
    def verdict(self) -> str:
        """Summary as text: the tests that fail, or how large an error would have been detected."""
        return verdict(self.adjusted, self.level, self.runs)

    def summary(self) -> dict[str, Any]:
        """Return the results as plain numbers and lists for a JSON file."""
        leaked = {}
        if self.leaked is not None:
            leaked["leaked"] = dict(zip(("mean", "largest"), self.leaked, strict=True))
        if self.density is not None:
            leaked["log_density"] = dict(zip(("mean", "error"), self.density, strict=True))
        return leaked | {
            "verdict": self.verdict,
            "passed": self.passed,
            "detectable": self.detectable,
            "level": self.level,
            "runs": self.runs,
            "quantities": list(self.names),
            "mean_rank": self.ranks.mean.tolist(),
            "p_values": dict(self.p_values),
            "adjusted_p_values": dict(self.adjusted),
            "central_intervals": self.intervals.summary(),
            "regions": {name: curve.summary() for name, curve in self.regions.items()},
            "crps": self.crps.tolist(),
        }


def calibrate(values: RunValues, level: float = 0.01) -> CalibrationCheck:
    """Test the calibration statistics of all runs.

    Args:
        values: Calibration statistics of the runs.
        level: Tests with adjusted p-values below this level fail.

    Raises:
        DataError: There are fewer than 20 runs.
    """
    ranks = uniformity(values.ranks)
    central = central_values(values.ranks)
    tests = {
        "ranks": ranks.ks_p.tolist(),
        "rank histogram": ranks.chi_squared_p.tolist(),
        "central intervals": ks_p_values(central).tolist(),
    }
    p_values = {
        f"{test} of {name}": p
        for test, p_of_all in tests.items()
        for name, p in zip(values.names, p_of_all, strict=True)
    }
    for name, contents in values.regions.items():
        p_values[name] = float(ks_p_values(contents[:, None]))
    dims = values.scores.shape[1]
    return CalibrationCheck(
        values.names,
        len(values.ranks),
        ranks,
        coverage_curve(central[:, :dims]),
        {name: coverage_curve(held[:, None]) for name, held in values.regions.items()},
        values.scores.mean(dim=0).cpu(),
        None
        if values.leaked is None
        else (float(values.leaked.mean()), float(values.leaked.max())),
        None if values.density is None else _mean_and_error(values.density),
        p_values,
        holm(p_values),
        level,
    )


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """Return the mean of values ``[R]``, and its standard error."""
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    """Return the continuous ranked probability score (CRPS) ``[R, ...]`` of R runs, float64.

    A run has S posterior draws ``[R, S, ...]`` and one true value ``[R, ...]``.

    Raises:
        DataError: Shapes are wrong, a value is NaN, or a run has only one draw.
    """
    require_runs(draws, truth)
    count = draws.shape[1]
    if count < 2:
        raise DataError("a score (CRPS) needs at least two draws per run: give more draws")
    ordered = draws.double().sort(dim=1).values
    index = torch.arange(1, count + 1, dtype=torch.float64, device=draws.device)
    weight = (2 * index - count - 1) / (count * (count - 1))
    half_spread = torch.einsum("s,rs...->r...", weight, ordered)
    return (ordered - truth[:, None]).abs().mean(dim=1) - half_spread
