"""Options that scripts share. Choices that a library defines are passed in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from dnnlib.errors import UsageError, agree
from training.settings.types import COUNT, POSITIVE, choice

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


def option_group(*options: Callable[[Any], Any]) -> Decorator[Any]:
    """Several options as one decorator, shown in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def flow_options(g_types: Sequence[str]) -> Decorator[Any]:
    """The data's dimensions and the schedule. Unset ones are None: defaults are the caller's."""
    return option_group(
        click.option(
            "--data_dim", type=COUNT, help="Dimensions of the data  [default: the data's]"
        ),
        click.option(
            "--dims_to_keep",
            type=COUNT,
            help="Dimensions that keep inflating; as many as the data has is PR-preserving, "
            "fewer is PR-reducing  [default: all]",
        ),
        click.option("--rho", type=POSITIVE, help="Inflation rate, 1/time  [default: 1]"),
        click.option(
            "--gamma0", type=POSITIVE, help="Noise variance at time 0, data units  [default: 5e-4]"
        ),
        click.option(
            "--g_type",
            type=choice(g_types),
            help="How the compressed dimensions fare  [default: orig]",
        ),
        click.option(
            "--inflation_gap",
            type=POSITIVE,
            help="Gap of constant_inflation_gap, in units of rho  [default: 1.02]",
        ),
    )


device_option = click.option(
    "--device_name", help="cpu, cuda or cuda:N  [default: cuda where there is one]"
)
calibration_option = click.option(
    "--calibration/--no-calibration",
    default=True,
    help="Use the calibration in the network file, if it has one.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing results.")


def given_options() -> set[str]:
    """Names of the current command's options that were typed, not left at their defaults.

    There are none outside of a command.
    """
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return set()
    typed = click.core.ParameterSource.COMMANDLINE
    return {name for name in ctx.params if ctx.get_parameter_source(name) is typed}


def require_options(options: Mapping[str, Any], *names: str) -> None:
    """Raises click's error for the first of the options that is missing."""
    for name in names:
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")


def inflation_arguments(options: Mapping[str, Any], data_dim: int) -> dict[str, Any]:
    """The options of an inflationary schedule that were given.

    Raises:
        UsageError: One was given for an isotropic model, which has none, or a gap for the ``orig``
            type, whose gap follows from the dimensions.
    """
    names = ("dims_to_keep", "g_type", "inflation_gap", "g_rescaling", "rho", "gamma0")
    given = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("precond", "ifs") != "ifs":
        for name, value in given.items():
            known = data_dim if name == "dims_to_keep" else None
            agree(name, value, known, f"precond={options['precond']}")
        return {}
    if "inflation_gap" in given and given.get("g_type") != "constant_inflation_gap":
        raise UsageError("--inflation_gap goes with --g_type=constant_inflation_gap only")
    return given
