"""Ranks of true values among the draws of their posteriors, and tests of their uniformity.

If a true value ``x`` comes from the prior, data ``y`` from ``p(y | x)`` and L draws from
``p(x | y)``, then x is one more draw: the number r of draws below it is uniform on 0 .. L, for any
function of x and y in place of x (Cook, Gelman and Rubin 2006; Talts et al. 2018; with y too:
Modrak et al. 2023). A *fractional* rank is ``(r + U) / (L + 1)`` with U uniform on [0, 1). It is
exactly uniform on [0, 1) for any L, so that runs with different L can be tested together, and tests
for continuous distributions are exact.

A simultaneous band of a distribution function contains it at all K points at once. At each point it
is a binomial interval, with a pointwise level so low that only a fraction ``level`` of uniform
samples leave the band anywhere (Saeilynoja, Buerkner and Vehtari 2022, algorithm 1, by simulation).
"""

from dataclasses import dataclass
from functools import lru_cache

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
