"""Options of the scripts that integrate the flow of an image network."""

from collections.abc import Iterable
from typing import Any

import click

from dnnlib.options import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    Decorator,
    calibration_option,
    choice,
    option_group,
)

DISCRETIZATIONS = ("ifs", "vp_ode")


time_options = option_group(
    click.option(
        "--disc",
        type=choice(DISCRETIZATIONS),
        default="ifs",
        help="Times: ifs spreads them evenly over [0, T], vp_ode over [eps, T].",
    ),
    click.option("--vpode_disc_eps", type=NOT_NEGATIVE, default=1e-2, help="First time of vp_ode."),
    click.option("--end_time", type=POSITIVE, help="T  [default: the network's tmax]"),
)
"""Where the times of an integration lie."""


def call_options(precisions: Iterable[str]) -> Decorator[Any]:
    """How the network is called."""
    return option_group(
        click.option(
            "--precision",
            type=choice(precisions),
            default="fp32",
            help="Of the network; states are float64.",
        ),
        click.option(
            "--batch-gpu",
            type=COUNT,
            help="Images of one network call  [default: 16 on a CPU, 128 on CUDA]",
        ),
    )


def integration_options(solvers: Iterable[str], precisions: Iterable[str]) -> Decorator[Any]:
    """The network, what it is known to be, and how to integrate with it."""
    return option_group(
        click.option("--network", required=True, help="Network file: a path or an https URL."),
        click.option(
            "--data_dim", type=COUNT, help="Numbers of an image  [default: the network's]"
        ),
        click.option(
            "--dims_to_keep", type=COUNT, help="Dimensions kept  [default: the network's]"
        ),
        click.option("--img_size", type=COUNT, help="Side in pixels  [default: the network's]"),
        click.option("--img_ch", type=COUNT, help="Channels  [default: the network's]"),
        click.option(
            "--solver", type=choice(solvers), default="rk4", help="Method of integration."
        ),
        click.option("--n_iters", type=COUNT, default=50, help="Steps of the solver each way."),
        time_options,
        calibration_option,
        click.option("--end_vars", type=POSITIVE, default=1.0, help="A0, the std of kept latents."),
        call_options(precisions),
    )
