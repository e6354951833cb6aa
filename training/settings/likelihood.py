"""Options of the scripts that write log densities along with their simulations."""

from collections.abc import Iterable
from typing import Any

import click

from training.settings.options import Decorator, option_group
from training.settings.types import COUNT, choice


def likelihood_options(traces: Iterable[str], largest_exact: int) -> Decorator[Any]:
    """Whether to write log densities, and how the traces in them are taken.

    Args:
        traces: Their kinds.
        largest_exact: Dimensions up to which ``auto`` is exact.
    """
    return option_group(
        click.option(
            "--log_prob/--no-log_prob",
            default=False,
            help="Write the log density of the points at the first time, which takes one or more "
            "backward passes for each network call.",
        ),
        click.option(
            "--trace",
            type=choice(traces),
            default="auto",
            help="Of Jacobians: exact, a random estimate (hutchinson), or exact in up to "
            f"{largest_exact} dimensions (auto).",
        ),
        click.option("--probes", type=COUNT, default=1, help="Random directions of hutchinson."),
    )
