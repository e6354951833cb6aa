"""Settings of ``posterior.py mixture``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib.errors import UsageError
from training import files, inference
from training import runs as _runs
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
        said = [name for name in SIMULATED if getattr(self, name) is not None]
        if self.observation is not None and said:
            raise UsageError(f"--{said[0]} is for simulated data: leave out --observation, or it")

    def mixture(self, dim: int) -> inference.Components:
        """The components, of points of D dimensions.

        Raises:
            UsageError: Options do not fit each other.
            DataError: The file is broken.
        """
        if self.means is None:
            found = inference.Components.spread(self.components or 3, dim)
            mean, std = found.mean, found.std
        else:
            mean = files.read_observations(self.means)
            std = mean.new_full((len(mean),), 0.5)
        if mean.shape[1] != dim:
            raise UsageError(f"{self.means} has {mean.shape[1]} columns for {dim} dimensions")
        if self.component_std is not None:
            std = mean.new_tensor(numbers_of("component_std", self.component_std))
            std = std.expand(len(mean)) if len(std) == 1 else std
        return inference.Components(mean, std)

    def true_weights(self, count: int) -> list[float] | None:
        """Those of K components; None to draw them. Raises UsageError if they are no weights."""
        if self.weights is None:
            return None
        found = numbers_of("weights", self.weights)
        if len(found) != count or not min(found) >= 0 or abs(sum(found) - 1) > 1e-6:
            raise UsageError(
                f"--weights is '{self.weights}': give {count} numbers that sum to 1, one for each "
                "component"
            )
        return [weight / sum(found) for weight in found]

    def plan(self, components: inference.Components) -> _runs.MixturePlan:
        weights = self.true_weights(components.count)
        return _runs.MixturePlan(
            components,
            self.concentration,
            None if weights is None else components.mean.new_tensor(weights),
            self.points or POINTS,
            self.runs or RUNS,
            self.chains,
            self.draws,
            self.warmup,
            self.pool,
            self.seed,
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

    def plan(self, subject: _runs.PosteriorSubject) -> _runs.MixturePlan:
        """Raises as ``MixtureOptions.mixture`` does, and for networks with classes."""
        if subject.label_dim:
            raise UsageError("mixture is for networks without classes or conditions")
        return self.mixture.plan(self.mixture.mixture(subject.dim))


def numbers_of(name: str, text: str) -> list[float]:
    """Numbers with commas. Raises UsageError if they are not."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--{name} is '{text}': give a number, or several with commas") from None
