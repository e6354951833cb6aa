"""Tests of accuracy with random points (TARP): coverage of balls about points that know no truth.

For a reference point in space, the ball about it that reaches to the truth holds a share of the
posterior, which is uniform on [0, 1] if the posterior is right. If it is uniform for all reference
points, which may depend on the data, then the posterior is right (Lemos, Coogan, Hezaveh and
Perreault-Levasseur 2023, theorem 3): no density is needed. Reference points must not depend on the
truth otherwise than through the data.
"""

import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.measure.posterior.ranks import fractional_ranks, require_runs


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
