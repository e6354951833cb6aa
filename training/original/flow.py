"""Basis and schedule of the paper's original code, as its files state them.

``data_eigs`` are the variances ``xi``, and the columns of ``W`` the axes: in float32 as the network
uses them, and in float64 as it was constructed from them. Images had no mean subtracted: their
eigenspace is ``e = W^T u``. Toys went through a PCA of scikit-learn, which subtracts its mean. The
schedule is given by ``rho``, ``gamma0`` and the exponents ``g`` themselves.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import INFLATION_DEFAULTS, InflationSchedule
from training.original.file import Fields

# Largest errors of what is in float32.
NOT_ORTHONORMAL, NOT_EQUAL = 1e-3, 1e-5


def read_basis(fields: Fields, principal_axes: Fields | None = None) -> EigenBasis:
    """The eigenbasis of the data, its axes orthonormal in float64.

    Args:
        fields: Attributes of the network between its preconditioning.
        principal_axes: Attributes of the PCA that gave the network its points; None if there was
            none, and no mean was subtracted.

    Raises:
        DataError: Its variances or axes are missing or are none, or the PCA has others.
    """
    variances = torch.from_numpy(fields.numbers("data_eigs", -1))
    dim = len(variances)
    top = float(variances.max()) if dim else 0.0
    if top <= 0 or (variances < -NOT_EQUAL * top).any() or (variances.diff() > 0).any():
        raise DataError(f"{fields.where}: its 'data_eigs' are no variances sorted downward")
    axes = _axes(fields, dim)
    gram = axes.T @ axes
    identity = torch.eye(dim, dtype=torch.float64)
    if (gram - identity).abs().max() > NOT_ORTHONORMAL:
        raise DataError(f"{fields.where}: the columns of its 'W' are not orthonormal")
    # The orthonormal matrix next to W, by a step of Newton's method (Schulz iteration): an error
    # of 1e-6 becomes one of 1e-12.
    axes = axes @ (3 * identity - gram) / 2
    mean = torch.zeros(dim, dtype=torch.float64)
    if principal_axes is not None:
        mean = _mean(principal_axes, variances, axes)
    return EigenBasis(mean, variances.clamp(min=0), axes)


def _mean(principal_axes: Fields, variances: Tensor, axes: Tensor) -> Tensor:
    """The mean that a PCA subtracts; its variances and axes must be those of the network."""
    dim = len(variances)
    known = {"explained_variance_": variances, "components_": axes.T}
    for name, value in known.items():
        found = principal_axes.numbers(name, *value.shape)
        if np.abs(found - value.numpy()).max() > NOT_EQUAL * float(value.abs().max()):
            raise DataError(f"{principal_axes.where}: its '{name}' is not that of the network")
    principal_axes.require("whiten", False)
    return torch.from_numpy(principal_axes.numbers("mean_", dim))


def _axes(fields: Fields, dim: int) -> Tensor:
    axes = fields.numbers("W", dim, dim)
    constructed_from = fields.mapping("_init_kwargs")
    if isinstance(constructed_from.values.get("W"), np.ndarray):
        precise = constructed_from.numbers("W", dim, dim)
        if np.abs(precise - axes).max() > NOT_EQUAL:
            raise DataError(f"{fields.where} was constructed with another 'W' than it has")
        axes = precise
    return torch.from_numpy(axes)


def read_schedule(fields: Fields, basis: EigenBasis) -> tuple[dict[str, Any], InflationSchedule]:
    """The inflationary schedule, and its arguments but for those that the basis gives.

    Raises:
        DataError: It is none of ours, or its numbers are missing or out of range.
    """
    exponents = fields.numbers("g", basis.dim)
    rho, gamma0 = float(fields.number("rho")), float(fields.number("gamma0"))
    arguments: dict[str, Any] = {**INFLATION_DEFAULTS, "rho": rho, "gamma0": gamma0}
    arguments |= _exponent_arguments(exponents)
    try:
        schedule = InflationSchedule.to_dimension(
            data_dim=basis.dim, top_variance=basis.top_variance, **arguments
        )
    except UsageError as error:
        raise DataError(f"{fields.where} has no schedule of ours: {error}") from error
    rates = rho * (1 + exponents)
    if not np.allclose(schedule.growth_rates, rates, rtol=0, atol=NOT_EQUAL * np.abs(rates).max()):
        raise DataError(
            f"{fields.where}: its 'g' does not keep the first dimensions and compress the others "
            "alike"
        )
    return arguments, schedule


def _exponent_arguments(exponents: np.ndarray) -> dict[str, Any]:
    """What makes these exponents, if anything does."""
    dim, top = len(exponents), exponents.max()
    kept = int(np.isclose(exponents, top, rtol=0, atol=NOT_EQUAL).sum())
    if kept == dim:
        return {"dims_to_keep": dim}
    compressed, rescaling = _shortest(exponents[-1]), _shortest(top)
    known = {"dims_to_keep": kept, "g_rescaling": rescaling}
    if rescaling <= 0 or compressed >= rescaling:
        return {"dims_to_keep": kept}  # which the comparison of rates will refuse
    if np.isclose(compressed, -rescaling * kept / (dim - kept), rtol=0, atol=NOT_EQUAL):
        return {**known, "g_type": "orig"}
    gap = round(1 - compressed / rescaling, 9)
    return {**known, "g_type": "constant_inflation_gap", "inflation_gap": gap}


def _shortest(number: float) -> float:
    """The shortest decimal that is this number in float32: what was meant before rounding."""
    return float(str(np.float32(number)))
