"""Coverage of regions of posteriors: do they contain the true values as often as they should?

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
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.measure.posterior.ranks import (
    HELD,
    distribution_function,
    fractional_ranks,
    require_runs,
)

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
