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

Ranks of true values among the draws of their posteriors, and tests of their uniformity.

If a true value ``x`` comes from the prior, data ``y`` from ``p(y | x)`` and L draws from
``p(x | y)``, then x is one more draw: the number r of draws below it is uniform on 0 .. L, for any
function of x and y in place of x (Cook, Gelman and Rubin 2006; Talts et al. 2018; with y too:
Modrak et al. 2023). A *fractional* rank is ``(r + U) / (L + 1)`` with U uniform on [0, 1). It is
exactly uniform on [0, 1) for any L, so that runs with different L can be tested together, and tests
for continuous distributions are exact.

A simultaneous band of a distribution function contains it at all K points at once. At each point it
is a binomial interval, with a pointwise level so low that only a fraction ``level`` of uniform
samples leave the band anywhere (Saeilynoja, Buerkner and Vehtari 2022, algorithm 1, by simulation).

Coverage of regions of posteriors: do they contain the true values as often as they should?

Each true value has a *coverage value* c in [0, 1]: the level of the smallest region of a family
that contains it. The true value is in the region of level l where ``c <= l``. If the posterior is
right, c is uniform on [0, 1], and so the fraction of runs with ``c <= l`` is l (expected coverage;
Hermans et al. 2022). With a fractional rank u (``ranks``), these are exact for any number of draws:

    central intervals          c = |2 u - 1|            of one dimension
    highest-density regions    c = 1 - u(log density)   of all dimensions
    distance to a point        c = u(distance)          TARP

Coverage values themselves are tested for uniformity. A test between two *curves*, as in some
packages, treats levels as if they were runs, and is not a test of coverage.

Tests of accuracy with random points (TARP) use balls about reference points that do not depend on
the true values. The ball about a reference point whose surface passes through the true value
contains a fraction of the posterior that is uniform on [0, 1] if the posterior is right. If it is
uniform for all reference points, which may depend on the data, then the posterior is right (Lemos,
Coogan, Hezaveh and Perreault-Levasseur 2023, theorem 3): no density is needed. Reference points
must not depend on the true value except through the data.

A single verdict from many tests, adjusted for their number, and the errors that they can detect.

A Kolmogorov-Smirnov test fails at level a where an empirical distribution function of R values is
more than c from the uniform one, ``P(D > c) = a``; of K tests, the first that fails by Holm's
method has ``a = level / K``. If the true one is off by d anywhere, the empirical one there has a
standard deviation of at most ``1 / (2 sqrt(R))``, and so the test fails with a probability of at
least ``Phi(2 sqrt(R) (d - c))`` (Massey 1950, "A note on the power of a non-parametric test").

Calibration near given observations: calibration on average does not imply calibration here.

The tests use only ranks of true values whose conditions are near an observation. If posteriors are
right wherever these conditions lie, the ranks are uniform among them too (Zhao, Dalmasso, Izbicki
and Lee 2021, "Diagnostics for conditional density models and Bayesian inference algorithms": local
coverage tests, there by a regression over conditions, here from the nearest ones alone). For each
coordinate, the tests are of the ranks and of the levels of central intervals, which are most
sensitive to shifts and widths. For other quantities, such as the log density, the ranks are tested.
All tests are Kolmogorov-Smirnov tests, adjusted over all observations together by Holm's method.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError

MOST_BINS = 20
FEWEST_IN_BIN = 10
SIMULATIONS, PARTS, HELD = 4000, 100, 0.95
"""Settings of a simultaneous band: number of simulations, number of parts of [0, 1], and
coverage.
"""


def require_runs(draws: Tensor, truth: Tensor) -> None:
    """Check the shapes of draws ``[R, S, ...]`` and true values ``[R, ...]``, and that none is NaN.

    Raises:
        DataError: Shapes are wrong, or a value is NaN.
    """
    if draws.ndim < 2 or truth.shape != draws.shape[:1] + draws.shape[2:] or 0 in draws.shape[:2]:
        raise DataError(
            f"draws have shape {list(draws.shape)} and true values {list(truth.shape)}: "
            "expected [runs, draws, ...] and [runs, ...]"
        )
    if draws.isnan().any() or truth.isnan().any():
        raise DataError("some draws or true values are NaN: check the sampler or the data")


def kept_by_thinning(effective: Tensor, draws: int) -> Tensor:
    """Return a mask of evenly spaced draws to keep, so that kept draws are nearly independent.

    Args:
        effective: Effective sample size of each run ``[R]``, or of each of its variables ``[R,
            V]``: the number of draws to keep, limited to the range from 1 to S.
        draws: Number of draws, S.

    Returns:
        Mask ``[R, S]`` for sizes ``[R]``, or ``[R, S, V]`` for sizes ``[R, V]``.

    Raises:
        DataError: An effective sample size is NaN.
    """
    if effective.isnan().any():
        raise DataError("some effective sample sizes are NaN: check the draws")
    number = effective.double().floor().clamp(1, draws).long().unsqueeze(1)
    index = torch.arange(draws, device=effective.device).view(-1, *[1] * (effective.ndim - 1))
    return (index + 1) * number // draws > index * number // draws


def fractional_ranks(
    draws: Tensor, truth: Tensor, generator: torch.Generator, kept: Tensor | None = None
) -> Tensor:
    """Return the fractional ranks ``[R, ...]`` of true values among draws, in [0, 1), float64.

    A true value that equals some draws has a random rank among them.

    Args:
        draws: Draws ``[R, S, ...]``.
        truth: True values ``[R, ...]``.
        generator: Random generator on the CPU.
        kept: Mask ``[R, S]`` or ``[R, S, ...]`` of the draws to use; None for all.

    Raises:
        DataError: Shapes are wrong, or a value is NaN.
    """
    require_runs(draws, truth)
    below, equal = draws < truth[:, None], draws == truth[:, None]
    total: Tensor | int = draws.shape[1]
    if kept is not None:
        kept = kept.view(kept.shape + (1,) * (draws.ndim - kept.ndim))
        below, equal = below & kept, equal & kept
        total = kept.sum(dim=1)
    uniform = torch.rand(truth.shape, generator=generator, dtype=torch.float64).to(truth.device)
    return (below.sum(dim=1) + uniform * (equal.sum(dim=1) + 1)) / (total + 1)


@dataclass(frozen=True)
class Uniformity:
    """Results of tests of uniformity on [0, 1], for each of V variables.

    Attributes:
        ks_p: P-values of the Kolmogorov-Smirnov test ``[V]``, most sensitive to shifts.
        chi_squared_p: P-values of the chi-squared test on bins of equal width ``[V]``, sensitive to
            any shape.
        mean: Means of the values ``[V]``, 1/2 for uniform values.
    """

    ks_p: Tensor
    chi_squared_p: Tensor
    mean: Tensor


def uniformity(values: Tensor) -> Uniformity:
    """Test whether values ``[R, V]`` of R independent runs are uniform on [0, 1].

    The chi-squared test has 20 bins, or fewer so that the expected number of runs per bin is at
    least ten.

    Raises:
        DataError: There are fewer than 20 runs, or a value is outside [0, 1].
    """
    runs = len(values)
    if runs < 2 * FEWEST_IN_BIN:
        raise DataError(
            f"{runs} runs are too few to test uniformity: give at least {2 * FEWEST_IN_BIN}"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError(
            "values that are tested for uniformity must be within [0, 1]: give fractional ranks"
        )
    bins = min(MOST_BINS, runs // FEWEST_IN_BIN)
    place = (values * bins).long().clamp(max=bins - 1)
    empty = torch.zeros(bins, values.shape[1], dtype=torch.float64, device=values.device)
    counts = empty.scatter_add(0, place, torch.ones_like(values, dtype=torch.float64))
    statistic = (counts - runs / bins).square().sum(dim=0) / (runs / bins)
    from scipy.stats import chi2  # takes most of a second to import

    p = torch.from_numpy(np.asarray(chi2.sf(statistic.cpu().numpy(), bins - 1)))
    return Uniformity(ks_p_values(values), p, values.mean(dim=0).cpu())


def ks_p_values(values: Tensor) -> Tensor:
    """Return the exact p-values ``[V]`` of two-sided Kolmogorov-Smirnov tests of uniformity.

    Args:
        values: Values ``[R, V]`` of R independent runs.
    """
    runs = len(values)
    ordered = values.double().sort(dim=0).values
    step = torch.arange(1, runs + 1, dtype=torch.float64, device=values.device)[:, None] / runs
    distance = torch.maximum(step - ordered, ordered - step + 1 / runs).amax(dim=0)
    from scipy.stats import kstwo

    return torch.from_numpy(np.asarray(kstwo.sf(distance.cpu().numpy(), runs)))


@dataclass(frozen=True)
class Band:
    """Simultaneous confidence band for the empirical distribution function of uniform values.

    Attributes:
        points: Points ``[K]`` in (0, 1).
        lower: Lower ends ``[K]``, as fractions of the values that are at most the points.
        upper: Upper ends ``[K]``.
    """

    points: Tensor
    lower: Tensor
    upper: Tensor

    def holds(self, values: Tensor) -> Tensor:
        """Return a mask ``[V]`` of the variables whose distribution functions stay in the band.

        Args:
            values: Values ``[R, V]`` of V variables.
        """
        shares = distribution_function(values, self.points)
        return ((shares >= self.lower[:, None]) & (shares <= self.upper[:, None])).all(dim=0)


def distribution_function(values: Tensor, points: Tensor) -> Tensor:
    """Return the empirical distribution functions ``[K, V]`` of values ``[R, V]`` at K points."""
    columns = values.double().T.sort(dim=1).values.contiguous()
    wanted = points.expand(len(columns), -1).contiguous()
    return torch.searchsorted(columns, wanted, right=True).T.double() / len(values)


@lru_cache
def simultaneous_band(runs: int) -> Band:
    """Return the simultaneous band that contains a fraction ``HELD`` of uniform samples.

    The band is computed at the ends of ``PARTS`` equal parts of [0, 1], from simulations with a
    fixed random seed.

    Args:
        runs: Number of values of a sample.
    """
    generator = np.random.default_rng(0)
    counts = generator.multinomial(runs, np.full(PARTS, 1 / PARTS), size=SIMULATIONS)
    at_most = counts.cumsum(axis=1)[:, :-1]
    place = np.arange(1, PARTS) / PARTS
    from scipy.stats import binom

    distribution = binom(runs, place)
    tails = np.minimum(distribution.cdf(at_most), distribution.sf(at_most - 1))
    pointwise = np.quantile(2 * tails.min(axis=1), 1 - HELD)
    lower, upper = (
        distribution.ppf(pointwise / 2) / runs,
        distribution.ppf(1 - pointwise / 2) / runs,
    )
    return Band(torch.from_numpy(place), torch.from_numpy(lower), torch.from_numpy(upper))


LEVELS = tuple(percent / 100 for percent in (*range(5, 100, 5), 99))


def central_values(ranks: Tensor) -> Tensor:
    """Return the levels ``[...]`` of the smallest central intervals that contain true values.

    Args:
        ranks: Fractional ranks ``[...]`` of the true values.
    """
    return (2 * ranks - 1).abs()


@dataclass(frozen=True)
class CoverageCurve:
    """Observed coverage of regions at L nominal levels, for V variables.

    Attributes:
        levels: Nominal levels ``[L]``.
        held: Observed coverage ``[L, V]``.
        lower: Lower ends ``[L]`` of the pointwise binomial bands for the number of runs.
        upper: Upper ends ``[L]`` of the bands.
        pooled: Mean of ``held`` over variables ``[L]``.
        pooled_error: Standard error of ``pooled`` ``[L]``. Runs are independent; variables of a run
            need not be.
    """

    levels: Tensor
    held: Tensor
    lower: Tensor
    upper: Tensor
    pooled: Tensor
    pooled_error: Tensor

    @property
    def deviation(self) -> Tensor:
        """Largest signed deviation ``[V]`` from the nominal level, in percentage points.

        The deviation is negative where coverage is too low: the posterior is overconfident.
        """
        return _largest(self.held - self.levels[:, None])

    @property
    def pooled_deviation(self) -> float:
        """Largest signed deviation of the variables' mean coverage, in percentage points."""
        return float(_largest((self.pooled - self.levels)[:, None]))

    def summary(self) -> dict[str, Any]:
        """Return the results as plain lists."""
        lists = {"levels": self.levels.tolist(), "found": self.held.tolist()}
        for name in ("lower", "upper", "pooled", "pooled_error", "deviation"):
            lists[name] = getattr(self, name).tolist()
        return {**lists, "pooled_deviation": self.pooled_deviation}


def coverage_curve(values: Tensor, levels: Sequence[float] = LEVELS) -> CoverageCurve:
    """Compute the observed coverage of regions at nominal levels, with binomial bands.

    If the nominal levels are right, a fraction ``HELD`` of outcomes is in the band at each level.

    Args:
        values: Probability contents ``[R, V]`` of the smallest region that contains the true value,
            for R runs and V variables.
        levels: Nominal levels between 0 and 1.
    """
    from scipy.stats import binom  # takes most of a second to import

    runs = len(values)
    contents = torch.tensor(levels, dtype=torch.float64)
    values = values.cpu()
    # One level at a time, to avoid L copies of the values.
    shares = torch.stack([(values <= level).double().mean(dim=1) for level in levels])
    ends = [(1 - HELD) / 2, (1 + HELD) / 2]
    # Frozen distributions, binom(...), would compile code of their own each time.
    lower, upper = (binom.ppf(end, runs, np.asarray(levels)) / runs for end in ends)
    return CoverageCurve(
        levels=contents,
        held=distribution_function(values, contents),
        lower=torch.from_numpy(lower),
        upper=torch.from_numpy(upper),
        pooled=shares.mean(dim=1),
        pooled_error=shares.std(dim=1) / runs**0.5,
    )


def _largest(deviation: Tensor) -> Tensor:
    """Return the deviation of the largest size ``[V]`` among deviations ``[L, V]``, times 100."""
    place = deviation.abs().argmax(dim=0, keepdim=True)
    return 100 * deviation.gather(0, place)[0]


def reference_points(draws: Tensor, generator: torch.Generator) -> Tensor:
    """Draw reference points ``[R, V]`` of the TARP test, one for each run.

    The points come from a Gaussian with the means and variances of all draws.

    Args:
        draws: Posterior draws ``[R, S, V]``.
        generator: Random generator on the CPU.
    """
    rows = draws.flatten(0, 1).double()
    shape = (len(draws), draws.shape[2])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(draws.device)
    return rows.mean(dim=0) + rows.std(dim=0, correction=0) * noise


def tarp_values(
    draws: Tensor,
    truth: Tensor,
    references: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    kept: Tensor | None = None,
) -> Tensor:
    """Return the fraction ``[R]`` of draws closer to the reference point than the true value is.

    The TARP test of calibration is that these fractions are uniform over the runs.

    Args:
        draws: Posterior draws ``[R, S, V]``.
        truth: True values ``[R, V]``.
        references: Reference points ``[R, V]``.
        scale: Unit of distance in each dimension, ``[V]``.
        generator: Random generator on the CPU.
        kept: Mask ``[R, S]`` of the draws to use; None for all.

    Raises:
        DataError: Shapes are wrong, or a value is NaN.
    """
    require_runs(draws, truth)
    if draws.ndim != 3 or references.shape != truth.shape:
        raise DataError(
            f"draws have shape {list(draws.shape)} and reference points "
            f"{list(references.shape)}: expected [runs, draws, variables] and [runs, variables]"
        )
    unit = scale.double()
    points = torch.cat([truth[:, None], draws], dim=1).double() / unit
    # Differences rather than a matrix product, whose rounding would change the order of close
    # distances.
    exactly = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist((references / unit)[:, None], points, compute_mode=exactly)[:, 0]
    return fractional_ranks(distance[:, 1:], distance[:, 0], generator, kept)


NAMED_FAILURES = 3
SEEN = 0.9
"""Probability of detection used to report detectable errors."""
LARGE = 0.1
"""Error of coverage that a check must be able to detect: that of a Gaussian posterior which is a
fifth too narrow.
"""


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for the number of tests by Holm's method (1979), keeping their order.

    The i-th smallest of K p-values is multiplied by ``K - i + 1``, and then raised to the largest
    adjusted value before it. If all K hypotheses are true, the smallest adjusted value is at most p
    with a probability of at most p, whatever the dependence of the tests.

    Raises:
        DataError: A p-value is not between 0 and 1.
    """
    wrong = [name for name, p in p_values.items() if not 0 <= p <= 1]
    if wrong:
        raise DataError(
            f"the p-value of {wrong[0]} is {p_values[wrong[0]]:g}, which is not in [0, 1]: correct "
            "it"
        )
    names = sorted(p_values, key=p_values.__getitem__)
    factors = torch.arange(len(names), 0, -1, dtype=torch.float64)
    ordered = torch.tensor([p_values[name] for name in names], dtype=torch.float64)
    adjusted = (ordered * factors).cummax(dim=0).values.clamp(max=1).tolist() if names else []
    by_name = dict(zip(names, adjusted, strict=True))
    return {name: by_name[name] for name in p_values}


def detectable(level: float, tests: int, runs: int) -> float:
    """Return the smallest error of coverage that is detected with probability ``SEEN``.

    Args:
        level: Level of all tests together.
        tests: Number of tests.
        runs: Smallest number of runs behind a test, R.

    Returns:
        The error, a fraction of 1.
    """
    from scipy.stats import kstwo  # takes most of a second to import

    farthest = float(kstwo.isf(level / tests, runs))
    return min(1.0, farthest + NormalDist().inv_cdf(SEEN) / (2 * runs**0.5))


def undetected_narrowness(error: float) -> float:
    """Return the relative narrowness of a Gaussian posterior that has a given error of coverage.

    A result of 0.2 means that the posterior is narrower by a fifth. The coverage of its central
    intervals has at most the given error.

    If the standard deviation of a posterior is s times the true one, its intervals of nominal
    coverage ``2 Phi(z) - 1`` have the coverage ``2 Phi(s z) - 1``. The difference is largest at
    ``z^2 = 2 log(1 / s) / (1 - s^2)``.

    Args:
        error: The error of coverage, a fraction of 1, such as ``detectable`` returns.

    Example:
        >>> round(undetected_narrowness(0.107), 2)
        0.2
    """
    normal = NormalDist()

    def off(scale: float) -> float:
        z = (2 * log(1 / scale) / (1 - scale**2)) ** 0.5
        return 2 * (normal.cdf(z) - normal.cdf(scale * z))

    low, high = 1e-6, 1 - 1e-6
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) > error else (low, middle)
    return 1 - high


def verdict(adjusted: Mapping[str, float], level: float, runs: int, of: str = "runs") -> str:
    """Summarize tests as text: the tests that fail, or how large an error they would detect.

    The failure with the smallest p-value comes first.

    Args:
        adjusted: Adjusted p-values by name of the test, such as "ranks of x1".
        level: Tests with adjusted p-values below this fail.
        runs: Number of runs behind the tests.
        of: Noun for the runs in the text, such as "runs".

    Raises:
        DataError: There are no p-values.
    """
    if not adjusted:
        raise DataError("there are no p-values: test at least one quantity")
    many = f"{len(adjusted)} tests" if len(adjusted) > 1 else "one test"
    names = sorted(adjusted, key=adjusted.__getitem__)
    failures = [name for name in names if adjusted[name] < level]
    if not failures:
        least = adjusted[names[0]]
        # Where all are 1, none is the smallest.
        smallest = f" (smallest: {names[0]}, p = {least:.2g})" if least < 1 else ""
        return (
            f"No miscalibration found in {many} of {runs} {of} at level {level:g}, "
            f"corrected for multiple comparisons{smallest}. "
            f"{_seen(detectable(level, len(adjusted), runs))}"
        )
    shown = [f"{name} (p = {adjusted[name]:.2g})" for name in failures[:NAMED_FAILURES]]
    more = len(failures) - len(shown)
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return (
        f"Not calibrated: {listed} failed, of {many} of {runs} {of} at level {level:g}, "
        "corrected for multiple comparisons; an error of "
        f"{100 * detectable(level, len(adjusted), runs):.0f} points of coverage or more "
        "is detected in 90 % of cases."
    )


def _seen(error: float) -> str:
    """State in words how large an error would have been detected."""
    large = f"an error of {100 * error:.0f} points of coverage or more"
    often = f"is detected in {SEEN:.0%} of cases".replace("%", " %")
    if error <= LARGE:
        return f"{large[0].upper()}{large[1:]} {often}."
    return f"Too few runs to test: only {large} {often}."


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
        beyond: Distances ``[R, Q]`` of the true values from the outermost draws, in standard
            deviations of the draws, 0 between these; None in files of earlier versions.
    """

    names: tuple[str, ...]
    ranks: Tensor
    regions: Mapping[str, Tensor]
    scores: Tensor
    leaked: Tensor | None = None
    density: Tensor | None = None
    beyond: Tensor | None = None

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
            None if self.beyond is None else part(self.beyond),
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
        beyond = [part.beyond for part in parts if part.beyond is not None]
        return cls(
            parts[0].names,
            ranks,
            regions,
            scores,
            torch.cat(leaked) if leaked else None,
            torch.cat(density) if len(density) == len(parts) else None,
            torch.cat(beyond) if len(beyond) == len(parts) else None,
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
    further = [_beyond(draws, truth)]
    for of_draws, of_truth in others.values():
        ranks.append(fractional_ranks(of_draws, of_truth, generator, kept)[:, None])
        further.append(_beyond(of_draws, of_truth)[:, None])
    if references is None:
        references = reference_points(draws, generator)
    if scale is None:
        scale = draws.flatten(0, 1).double().std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)  # for example, for pixels that are always the same
    regions = {BALLS: tarp_values(draws, truth, references, scale, generator, kept)}
    if log_density is not None:
        regions[DENSEST] = 1 - fractional_ranks(*log_density, generator, kept)
    return RunValues(
        (*names, *others),
        torch.cat(ranks, dim=1),
        regions,
        crps(draws, truth),
        beyond=torch.cat(further, dim=1),
    )


def _beyond(draws: Tensor, truth: Tensor) -> Tensor:
    """Return how far true values ``[R, ...]`` are from the outermost draws ``[R, S, ...]``.

    The unit is the standard deviation of the draws. The distance is infinite if it is 0.
    """
    draws, truth = draws.double(), truth.double()
    gap = torch.maximum(draws.amin(dim=1) - truth, truth - draws.amax(dim=1))
    return torch.where(gap > 0, gap / draws.std(dim=1, correction=0), 0.0).nan_to_num(
        0.0, torch.inf
    )


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
