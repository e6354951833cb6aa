"""Do regions of a posterior hold as many truths as they say?

Each truth has a *coverage value* c in [0, 1]: the content of the smallest region of a family that
holds it. The truth is in the region of content l where ``c <= l``. If the posterior is right, c is
uniform on [0, 1], and so the fraction of runs with ``c <= l`` is l (expected coverage; Hermans et
al. 2022). With a fractional rank u (``ranks``), which makes these exact for any number of draws,

    central intervals          c = |2 u - 1|            of one dimension
    highest-density regions    c = 1 - u(log density)   of all dimensions
    distance to a point        c = u(distance)          TARP

Coverage values themselves are tested for uniformity. A test between two *curves*, as some packages
have, takes levels for runs, and is no test of coverage.

Tests of accuracy with random points (TARP) take balls about points that know no truth. For a
reference point in space, the ball about it that reaches to the truth holds a share of the
posterior, which is uniform on [0, 1] if the posterior is right. If it is uniform for all reference
points, which may depend on the data, then the posterior is right (Lemos, Coogan, Hezaveh and
Perreault-Levasseur 2023, theorem 3): no density is needed. Reference points must not depend on the
truth otherwise than through the data.
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
    """Contents ``[...]`` of the smallest central intervals with the truth, of fractional ranks."""
    return (2 * ranks - 1).abs()


@dataclass(frozen=True)
class CoverageCurve:
    """How many truths regions hold, for each of V variables; fractions of 1, float64.

    Attributes:
        levels: ``[L]``, what regions say.
        held: ``[L, V]``, what they hold.
        lower: ``[L]``, the binomial band of each level by itself, for the runs there are.
        upper: ``[L]``.
        pooled: ``[L]``, the mean of ``held`` over variables.
        pooled_error: ``[L]``, its standard error. Runs are independent, variables of a run need
            not be.
    """

    levels: Tensor
    held: Tensor
    lower: Tensor
    upper: Tensor
    pooled: Tensor
    pooled_error: Tensor

    @property
    def deviation(self) -> Tensor:
        """The largest of each variable over levels, ``[V]``, in percentage points; has a sign.

        Negative where regions hold too few: the posterior is overconfident.
        """
        return _largest(self.held - self.levels[:, None])

    @property
    def pooled_deviation(self) -> float:
        """The largest of the mean over variables, in percentage points; has a sign."""
        return float(_largest((self.pooled - self.levels)[:, None]))

    def summary(self) -> dict[str, Any]:
        """The numbers as plain lists."""
        lists = {"levels": self.levels.tolist(), "found": self.held.tolist()}
        for name in ("lower", "upper", "pooled", "pooled_error", "deviation"):
            lists[name] = getattr(self, name).tolist()
        return {**lists, "pooled_deviation": self.pooled_deviation}


def coverage_curve(values: Tensor, levels: Sequence[float] = LEVELS) -> CoverageCurve:
    """What regions of these contents, between 0 and 1, hold, of coverage values ``[R, V]``; the
    binomial bands hold ``HELD`` of all, each for itself."""
    from scipy.stats import binom  # takes most of a second to import

    runs = len(values)
    contents = torch.tensor(levels, dtype=torch.float64)
    values = values.cpu()
    # One level at a time: of all at once there would be L copies of the values.
    shares = torch.stack([(values <= level).double().mean(dim=1) for level in levels])
    ends = [(1 - HELD) / 2, (1 + HELD) / 2]
    # Laws with fixed parameters, binom(...), would compile code of their own each time.
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
    """Of ``[L, V]`` the one of the largest size, ``[V]``, times 100."""
    place = deviation.abs().argmax(dim=0, keepdim=True)
    return 100 * deviation.gather(0, place)[0]


def reference_points(draws: Tensor, generator: torch.Generator) -> Tensor:
    """Points ``[R, V]`` from a Gaussian with the means and variances of all draws ``[R, S, V]``."""
    rows = draws.flatten(0, 1).double()
    shape = (len(draws), draws.shape[2])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64).to(draws.device)
    return rows.mean(dim=0) + rows.std(dim=0, correction=0) * noise


def tarp_values(
    draws: Tensor,
    truth: Tensor,
    references: Tensor,
    generator: torch.Generator,
    kept: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """The coverage values ``[R]``: shares of draws closer to a reference point than the truth is.

    Args:
        draws: ``[R, S, V]``.
        truth: ``[R, V]``.
        references: ``[R, V]``.
        generator: On the CPU.
        kept: As in ``fractional_ranks``, ``[R, S]``.
        scale: The unit of distance in each dimension, ``[V]``; 1 by default.

    Raises:
        DataError: Of other shapes, or NaN.
    """
    require_runs(draws, truth)
    if draws.ndim != 3 or references.shape != truth.shape:
        raise DataError(
            f"draws have shape {list(draws.shape)} and reference points {list(references.shape)}: "
            "they must be [R, S, V] and [R, V]"
        )
    unit = torch.ones_like(references[0]) if scale is None else scale.double()
    points = torch.cat([truth[:, None], draws], dim=1).double() / unit
    # Differences rather than a matrix product: close distances would change their order.
    exactly = "donot_use_mm_for_euclid_dist"
    distance = torch.cdist((references / unit)[:, None], points, compute_mode=exactly)[:, 0]
    return fractional_ranks(distance[:, 1:], distance[:, 0], generator, kept)
