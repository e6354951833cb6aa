"""Options of the scripts that write log densities along with their simulations."""

from dataclasses import dataclass

import click

from dnnlib.errors import UsageError
from training.names import LARGEST_EXACT, PROBES, TRACES
from training.options.declared import Declared, option
from training.options.types import choice


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions(Declared):
    """Whether to write log densities, and how the traces in them are computed."""

    section = "Log densities"
    log_prob: bool = option(
        "--log_prob/--no-log_prob",
        default=False,
        help="Write the log density of the points at the first time, which takes one or more "
        "backward passes for each network call.",
    )
    trace: str = option(
        type=choice(TRACES),
        default="auto",
        help="How to compute traces of Jacobians: exactly (exact), by random directions "
        f"(hutchinson), or exactly in up to {LARGEST_EXACT} dimensions that are not pixels (auto).",
    )
    probes: int = option(
        type=click.IntRange(min=2),
        default=PROBES,
        help="Random directions of hutchinson, whose spread tells the error.",
    )

    def __post_init__(self) -> None:
        for name in ("trace", "probes"):
            if name in self.given and not self.log_prob:
                raise UsageError(f"--{name} goes with --log_prob")
        if "probes" in self.given and self.trace == "exact":
            raise UsageError("--probes goes with --trace=hutchinson: an exact trace has none")
