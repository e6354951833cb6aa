"""Settings of ``posterior.py mixture``."""

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib.errors import UsageError
from training.options.common import seed
from training.options.declared import Declared, option, options_of
from training.options.inference import LIKELIHOODS
from training.options.posterior import InferenceSettings
from training.options.types import COUNT, FILE, POSITIVE

RUNS, POINTS = 100, 200
SIMULATED = ("weights", "points", "runs")


@dataclass(frozen=True, kw_only=True)
class MixtureOptions(Declared):
    """The mixture, and the data."""

    section = "Mixture"
    components: int | None = option(
        type=click.IntRange(min=2),
        unset="3",
        help="Components K, evenly on the circle of radius 1.5 in the first two dimensions of "
        "whitened latents, as wide as a third of their distance and 0.5 at most",
    )
    means: Path | None = option(
        type=FILE,
        unset="none",
        help="Means of components in whitened latents, one in each row of a table",
    )
    component_std: str | None = option(
        unset="0.5 for --means",
        help="Standard deviation of the components, or one for each with commas",
    )
    concentration: float = option(
        type=POSITIVE, default=1.0, help="Of the weights' Dirichlet prior; 1 is uniform."
    )
    weights: str | None = option(
        unset="drawn from the prior in each run", help="True weights, with commas"
    )
    points: int | None = option(
        type=COUNT, unset=str(POINTS), help="Points observed in each run, when data are simulated"
    )
    runs: int | None = option(type=COUNT, unset=str(RUNS), help="Data sets that are simulated")
    observation: Path | None = option(
        type=FILE, unset="simulated", help="Your own observations, one in each row of a table"
    )
    chains: int = option(type=COUNT, default=4, help="Chains of each run.")
    draws: int = option(type=click.IntRange(min=4), default=1000, help="Draws of each chain.")
    warmup: int = option(
        type=click.IntRange(min=0), default=200, help="Steps of a chain before its first draw."
    )
    pool: int = option(
        type=click.IntRange(min=100), default=2**14, help="Latents drawn of each component."
    )
    level: float = option(
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.01,
        help="p-value, the number of comparisons accounted for, below which calibration fails.",
    )
    seed: int = seed("all draws")

    def __post_init__(self) -> None:
        if self.components is not None and self.means is not None:
            raise UsageError("--means has the components: leave out --components")
        simulated = [name for name in SIMULATED if getattr(self, name) is not None]
        if self.observation is not None and simulated:
            raise UsageError(
                f"--{simulated[0]} is for simulated data: leave out --observation, or it"
            )


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(InferenceSettings):
    """Options of ``mixture``."""

    mixture: MixtureOptions = options_of(MixtureOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "chain_n_iters" in self.given:
            raise UsageError("--chain_n_iters is for sample and check: no flow is in these chains")
        if self.likelihood.likelihood not in LIKELIHOODS:
            raise UsageError(f"mixture takes --likelihood={', '.join(LIKELIHOODS)}")
