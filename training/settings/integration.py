"""Options of the scripts that integrate a flow."""

from collections.abc import Iterable
from typing import Any

import click

from training.settings.options import Decorator, calibration_option, option_group
from training.settings.types import COUNT, NOT_NEGATIVE, POSITIVE, STEPS, choice

DISCRETIZATIONS = {
    "ifs": "evenly over [0, T]",
    "vp_ode": "evenly over [eps, T]",
    "adapted": "so that steps make equal errors",
}


def solver_options(solvers: Iterable[str], default: str) -> Decorator[Any]:
    """How to integrate between given times."""
    return option_group(
        click.option(
            "--solver", type=choice(solvers), default=default, help="Method of integration."
        ),
        click.option(
            "--rtol", type=POSITIVE, default=1e-6, help="Relative tolerance of a step of dopri5."
        ),
        click.option(
            "--atol",
            type=POSITIVE,
            default=1e-6,
            help="Absolute tolerance of a step of dopri5, in standard deviations.",
        ),
    )


accuracy_options = option_group(
    click.option(
        "--tol",
        type=POSITIVE,
        default=1e-4,
        help="Error allowed with 'auto' steps: root mean square at the end, scaled variable.",
    ),
    click.option(
        "--store_grid", is_flag=True, help="Keep the times of --disc=adapted in the network file."
    ),
)


def toy_step_options(default: int) -> Decorator[Any]:
    """The times of a toy's simulation."""
    return option_group(
        click.option(
            "--steps",
            type=STEPS,
            help=f"Steps of the solver, or auto, by --tol  [default: {default}, or T/h]",
        ),
        click.option(
            "--h", type=POSITIVE, help="Step size; T is steps times h  [default: T/steps]"
        ),
        click.option(
            "--disc",
            type=choice(("ifs", "adapted")),
            default="ifs",
            help="Times: evenly over [0, T] (ifs), or so that steps make equal errors (adapted).",
        ),
        accuracy_options,
    )


def time_options(*discretizations: str) -> Decorator[Any]:
    """Where the times of images lie, by the names of ``DISCRETIZATIONS``."""
    meanings = ", ".join(f"{DISCRETIZATIONS[name]} ({name})" for name in discretizations)
    return option_group(
        click.option(
            "--disc",
            type=choice(discretizations),
            default="ifs",
            help=f"Times: {meanings}.",
        ),
        click.option(
            "--vpode_disc_eps", type=NOT_NEGATIVE, default=1e-2, help="First time of vp_ode."
        ),
        click.option("--end_time", type=POSITIVE, help="T  [default: the network's tmax]"),
    )


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


def integration_options(
    solvers: Iterable[str], default: str, precisions: Iterable[str], steps: int
) -> Decorator[Any]:
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
        solver_options(solvers, default),
        click.option(
            "--n_iters",
            type=STEPS,
            default=steps,
            help="Steps of the solver each way, or auto, by --tol.",
        ),
        time_options(*DISCRETIZATIONS),
        accuracy_options,
        calibration_option,
        click.option("--end_vars", type=POSITIVE, default=1.0, help="A0, the std of kept latents."),
        call_options(precisions),
    )
