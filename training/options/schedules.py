"""Options of toys and of the inflationary schedule."""

from dataclasses import dataclass
from typing import Any

import click

from dnnlib.errors import UsageError, agree
from training.names import G_TYPES, INFLATION, TOY_NAMES
from training.options.declared import Declared, option
from training.options.types import COUNT, POSITIVE, choice


@dataclass(frozen=True, kw_only=True)
class InflationOptions(Declared):
    """The data's dimensions and the inflationary schedule."""

    section = "Flow"
    data_dim: int | None = option(
        type=COUNT, unset="the data's", help="Dimensions of the data, as a check."
    )
    dims_to_keep: int | str | None = option(
        type=COUNT,
        unset="all",
        help="Dimensions that keep inflating: as many as the data has is PR-preserving, fewer is "
        "PR-reducing.",
    )
    rho: float | None = option(type=POSITIVE, unset="1", help="Inflation rate, 1/time.")
    gamma0: float | None = option(
        type=POSITIVE, unset="5e-4", help="Noise variance at time 0, in squared data units."
    )
    g_type: str | None = option(
        type=choice(G_TYPES),
        unset="orig",
        help="Exponents of the compressed dimensions: all exponents sum to zero (orig), or each is "
        "less by --inflation_gap than those of the kept ones.",
    )
    inflation_gap: float | None = option(
        type=POSITIVE, unset="1.02", help="Gap of constant_inflation_gap, in units of rho."
    )
    g_rescaling: float | None = option(
        type=POSITIVE, unset="1", help="Factor on every exponent g: less than 1 compresses less."
    )

    def expected(self) -> dict[str, Any]:
        """All of them by name, for a network to agree with."""
        return {name: getattr(self, name) for name in ("data_dim", *INFLATION)}

    def arguments(self, precond: str = "ifs", data_dim: int = 0) -> dict[str, Any]:
        """The arguments of the inflationary schedule that were given.

        Args:
            precond: Kind of the model.
            data_dim: Dimensions of the data, which an isotropic model keeps.

        Raises:
            UsageError: One was given for an isotropic model, which has none, or a gap for the
                ``orig`` type, whose gap follows from the dimensions.
        """
        given = {name: getattr(self, name) for name in INFLATION}
        given = {name: value for name, value in given.items() if value is not None}
        if precond != "ifs":
            for name, value in given.items():
                known = data_dim if name == "dims_to_keep" else None
                agree(name, value, known, f"precond={precond}")
            return {}
        if "inflation_gap" in given and given.get("g_type") != "constant_inflation_gap":
            raise UsageError("--inflation_gap goes with --g_type=constant_inflation_gap only")
        return given


def toy_name(required: bool = False, unset: str | None = None) -> Any:
    """The option ``--data_name`` of a toy."""
    return option(type=choice(TOY_NAMES), required=required, unset=unset, help="The toy")


def augment_to(unset: str = "0, not at all") -> Any:
    """The option ``--augment_to``."""
    return option(
        type=click.IntRange(min=0, max=2**31 - 1),
        unset=unset,
        help="Dimensions the toy is embedded in",
    )
