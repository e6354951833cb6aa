"""Ranks of truths among the draws of their posteriors, and whether they are uniform.

If a truth ``x`` comes from the prior, data ``y`` from ``p(y | x)`` and L draws from ``p(x | y)``,
then x is one more draw: the number r of draws below it is uniform on 0 .. L, for any function of x
and y in place of x (Cook, Gelman and Rubin 2006; Talts et al. 2018; of y too: Modrak et al. 2023).
A *fractional* rank is ``(r + U) / (L + 1)`` with U uniform on [0, 1): it is exactly uniform on
[0, 1) whatever L is, so that runs of different L can be tested together, and tests of continuous
laws are exact.

Simultaneous bands of a distribution function hold all K points of it at once: at each they are
binomial intervals, of a pointwise level so low that only 1 - level of all uniform samples leave
them anywhere (Saeilynoja, Buerkner and Vehtari 2022, algorithm 1, by simulation).
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
"""Of a simultaneous band."""


def require_runs(draws: Tensor, truth: Tensor) -> None:
    """Raises DataError unless these are ``[R, S, ...]`` and ``[R, ...]`` without NaN."""
    if draws.ndim < 2 or truth.shape != draws.shape[:1] + draws.shape[2:] or 0 in draws.shape[:2]:
        raise DataError(
            f"draws have shape {list(draws.shape)} and truths {list(truth.shape)}: they must be "
            "[runs, draws, ...] and [runs, ...]"
        )
    if draws.isnan().any() or truth.isnan().any():
        raise DataError("draws or truths are NaN, and have no ranks")


def kept_by_thinning(effective: Tensor, draws: int) -> Tensor:
    """Which draws to keep so that they are nearly independent: evenly spaced ones.

    Args:
        effective: ``[...]``, the effective number of draws of each run, or of each of its
            variables; the whole part of it is kept, 1 at least and all at most.
        draws: S.

    Returns:
        Booleans: ``[R, S]`` of ``[R]``, or ``[R, S, V]`` of ``[R, V]``.

    Raises:
        DataError: Some are NaN.
    """
    if effective.isnan().any():
        raise DataError("effective sizes are NaN: they must be numbers of draws")
    number = effective.double().floor().clamp(1, draws).long().unsqueeze(1)
    index = torch.arange(draws, device=effective.device).view(-1, *[1] * (effective.ndim - 1))
    return (index + 1) * number // draws > index * number // draws


def fractional_ranks(
    draws: Tensor, truth: Tensor, generator: torch.Generator, kept: Tensor | None = None
) -> Tensor:
    """Where truths lie among draws, ``[R, ...]`` in [0, 1), float64.

    A truth that equals some draws has a random place among them.

    Args:
        draws: ``[R, S, ...]``.
        truth: ``[R, ...]``.
        generator: On the CPU.
        kept: Which draws count, ``[R, S]`` or ``[R, S, ...]``; all by default.

    Raises:
        DataError: Of other shapes, or NaN.
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
    """Tests of whether values are uniform on [0, 1], for each of V variables.

    Attributes:
        ks_p: ``[V]``, p-values of the Kolmogorov-Smirnov test: sees shifts best.
        chi_squared_p: ``[V]``, of the chi-squared test on bins of equal width: sees any shape.
        mean: ``[V]``, of the values: 1/2 if they are uniform.
    """

    ks_p: Tensor
    chi_squared_p: Tensor
    mean: Tensor


def uniformity(values: Tensor) -> Uniformity:
    """Tests values ``[R, V]`` of independent runs.

    There are 20 bins, or fewer so that each expects ten runs. Raises DataError if there are fewer
    than 20 runs, or values outside [0, 1]."""
    runs = len(values)
    if runs < 2 * FEWEST_IN_BIN:
        raise DataError(f"{runs} runs are too few to test: it needs {2 * FEWEST_IN_BIN} at least")
    if not ((values >= 0) & (values <= 1)).all():
        raise DataError("values are outside of [0, 1], or NaN, and so cannot be uniform there")
    bins = min(MOST_BINS, runs // FEWEST_IN_BIN)
    place = (values * bins).long().clamp(max=bins - 1)
    empty = torch.zeros(bins, values.shape[1], dtype=torch.float64, device=values.device)
    counts = empty.scatter_add(0, place, torch.ones_like(values, dtype=torch.float64))
    statistic = (counts - runs / bins).square().sum(dim=0) / (runs / bins)
    from scipy.stats import chi2  # takes most of a second to import

    p = torch.from_numpy(np.asarray(chi2.sf(statistic.cpu().numpy(), bins - 1)))
    return Uniformity(ks_p_values(values), p, values.mean(dim=0).cpu())


def ks_p_values(values: Tensor) -> Tensor:
    """Exact p-values ``[V]`` of the two-sided Kolmogorov-Smirnov test of ``[R, V]``."""
    runs = len(values)
    ordered = values.double().sort(dim=0).values
    step = torch.arange(1, runs + 1, dtype=torch.float64, device=values.device)[:, None] / runs
    distance = torch.maximum(step - ordered, ordered - step + 1 / runs).amax(dim=0)
    from scipy.stats import kstwo

    return torch.from_numpy(np.asarray(kstwo.sf(distance.cpu().numpy(), runs)))


@dataclass(frozen=True)
class Band:
    """Where all of a distribution function of uniform values is expected.

    Attributes:
        points: ``[K]`` in (0, 1).
        lower: ``[K]``, fractions of the values that are at most the points.
        upper: ``[K]``.
    """

    points: Tensor
    lower: Tensor
    upper: Tensor

    def holds(self, values: Tensor) -> Tensor:
        """Whether the distribution functions of ``[R, V]`` stay within, ``[V]``."""
        shares = distribution_function(values, self.points)
        return ((shares >= self.lower[:, None]) & (shares <= self.upper[:, None])).all(dim=0)


def distribution_function(values: Tensor, points: Tensor) -> Tensor:
    """The fractions ``[K, V]`` of values ``[R, V]`` that are at most each of the points ``[K]``."""
    columns = values.double().T.sort(dim=1).values.contiguous()
    wanted = points.expand(len(columns), -1).contiguous()
    return torch.searchsorted(columns, wanted, right=True).T.double() / len(values)


@lru_cache
def simultaneous_band(runs: int) -> Band:
    """The band that holds the share ``HELD`` of all samples of so many uniform values, at the ends
    of ``PARTS`` equal parts of [0, 1]. It is simulated with a fixed seed, and so the same each
    time."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(runs, np.full(PARTS, 1 / PARTS), size=SIMULATIONS)
    at_most = counts.cumsum(axis=1)[:, :-1]
    place = np.arange(1, PARTS) / PARTS
    from scipy.stats import binom

    law = binom(runs, place)
    tails = np.minimum(law.cdf(at_most), law.sf(at_most - 1))
    pointwise = np.quantile(2 * tails.min(axis=1), 1 - HELD)
    lower, upper = law.ppf(pointwise / 2) / runs, law.ppf(1 - pointwise / 2) / runs
    return Band(torch.from_numpy(place), torch.from_numpy(lower), torch.from_numpy(upper))
