"""Settings of ``posterior.py``: how to infer, and what each of its commands is about."""

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from dnnlib.lists import positive_numbers
from training.names import (
    AMORTIZED_CUDA_ROWS,
    AMORTIZED_ROWS,
    FEWEST_NEIGHBORS,
    FEWEST_RUNS,
    HALVES,
    IMAGE_POOL,
    MOST_TESTED,
    NEIGHBORS,
    PARTICLES,
    SAMPLERS,
    TOY_NAMES,
    TOY_POOL,
    WARMUP,
)
from training.options.declared import Declared, option, options_of
from training.options.shared import DeviceOptions, InflationOptions, calibration, save_dir, seed
from training.options.types import COUNT, FILE, NETWORK, POSITIVE, choice

LIKELIHOODS = ("gaussian", "mask", "linear")
DRAWS, CHECK_DRAWS = 1000, 25
"""Of each chain: a check without a likelihood ranks a truth among all of them, and needs few."""
SOLVER = "exp_ab2"
"""One call a step: draws are many, and their errors need only be small beside their spread."""
STEPS = 24
LEARNED_SOLVER, LEARNED_STEPS = "exp_rk5", 5
"""Without a likelihood, which leaves time for a third of the error: 31 calls in place of 26."""


@dataclass(frozen=True, kw_only=True)
class PriorOptions(Declared):
    """The prior."""

    section = "Prior"
    network: str | None = option(
        idle=True, type=NETWORK, unset="none", help="Network file: a path or an https URL"
    )
    data_name: str | None = option(
        type=choice(TOY_NAMES), unset="none", help="A toy with its own denoiser, without a network"
    )
    calibration: bool = calibration()
    eps: str | None = option(
        type=choice(["learned", "auto"]),
        unset="learned, if the network has such a law; otherwise auto",
        help="Law of the latents: that of the network file, or the Gaussian of the closed form.",
    )
    deblur: bool = option(
        is_flag=True,
        help="Posterior of the clean points, not of those with the noise of the first time; up to "
        "16 dimensions, by all samplers but hmc.",
    )
    n_iters: int | None = option(
        type=COUNT,
        unset=f"{STEPS} of {SOLVER}; without a likelihood {LEARNED_STEPS} of {LEARNED_SOLVER}",
        help="Steps of final draws",
    )
    chain_n_iters: int = option(type=COUNT, default=10, help="Steps inside chains.")
    batch_gpu: int | None = option(
        "--batch-gpu",
        type=COUNT,
        unset=f"256; of images 16; without a likelihood {AMORTIZED_ROWS}, on CUDA "
        f"{AMORTIZED_CUDA_ROWS}",
        help="Points of one network call",
    )

    def __post_init__(self) -> None:
        if (self.network is None) == (self.data_name is None):
            raise UsageError("give either --network, or --data_name for a toy's own denoiser")


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions(Declared):
    """What was observed."""

    section = "Likelihood"
    likelihood: str = option(
        default="gaussian",
        help="gaussian (the whole point is observed), mask (some coordinates, by --mask), linear "
        "(a linear map, by --operator), each with Gaussian noise; or FILE.py:function, log "
        "likelihoods [N] of points [N, D].",
    )
    noise_std: str | None = option(
        unset="none",
        help="Standard deviation of the noise in the data's units (gray levels of images): one "
        "number, one for each observed number with commas, or a .npy of them or of a covariance",
    )
    mask: str | None = option(
        unset="none",
        help="What is observed: coordinates by name or number from 0 on, with commas; "
        f"{', '.join(HALVES)} of images; or a .npy of booleans, true where observed",
    )
    operator: Path | None = option(
        type=FILE, unset="none", help="The matrix A [K, D] of linear, a .npy"
    )

    @property
    def typed(self) -> frozenset[str]:
        """Which of these options were typed."""
        return self.given & {"likelihood", "noise_std", "mask", "operator"}

    @property
    def files(self) -> list[str | Path | None]:
        """What may be files among the options' values, on which draws depend."""
        program = self.likelihood.rpartition(":")[0]
        arrays = [text for text in (self.noise_std, self.mask) if text and text.endswith(".npy")]
        return [program, *arrays, self.operator]

    def require(self) -> None:
        """Raises UsageError unless the options make a likelihood."""
        wanted = {"mask": "mask", "operator": "linear"}
        for name, kind in wanted.items():
            if (getattr(self, name) is not None) != (self.likelihood == kind):
                raise UsageError(f"--{name} goes with --likelihood={kind}, and is needed there")
        known = self.likelihood in LIKELIHOODS
        if not known and ":" not in self.likelihood:
            raise UsageError(
                f"--likelihood is '{self.likelihood}': give {', '.join(LIKELIHOODS)}, or "
                "FILE.py:function"
            )
        if known != (self.noise_std is not None):
            raise UsageError(f"--noise_std goes with {', '.join(LIKELIHOODS)}, and is needed there")
        if self.noise_std is not None:
            positive_numbers(self.noise_std)
        arrays = [text for text in (self.noise_std, self.mask) if text and text.endswith(".npy")]
        require_there(*map(Path, arrays), self.operator)


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(Declared):
    """How to sample."""

    section = "Sampler"
    sampler: str = option(
        type=choice(SAMPLERS),
        default="auto",
        help="auto takes a pool of prior draws where that is enough; in up to "
        f"{MOST_TESTED} dimensions it refines the pool where it is not, and anneals populations "
        "where posteriors are narrower; in more it goes on to twisted if the noise is Gaussian, "
        "else to hmc, or to elliptical without gradients.",
    )
    chains: int = option(type=COUNT, default=4, help="Chains of each observation.")
    draws: int | None = option(
        type=COUNT,
        unset=f"{DRAWS}; {CHECK_DRAWS} of check without a likelihood",
        help="Draws of each chain",
    )
    warmup: int | None = option(
        type=click.IntRange(min=0),
        unset=", ".join(f"{steps} of {name}" for name, steps in WARMUP.items()),
        help="Steps of a chain before its first draw",
    )
    thin: int = option(type=COUNT, default=1, help="Steps of a chain for each draw.")
    pool: int | None = option(
        type=click.IntRange(min=100),
        unset=f"{TOY_POOL}; {IMAGE_POOL} of images",
        help="Prior draws in the pool",
    )
    particles: int | None = option(
        type=click.IntRange(min=2),
        unset=f"{PARTICLES}, or --draws if these are more",
        help="Particles of a chain of twisted",
    )
    seed: int = seed("all draws")


@dataclass(frozen=True, kw_only=True)
class InferenceSettings(Declared):
    """Options of all commands: where results go, the prior and the likelihood."""

    save_dir: Path = save_dir()
    prior: PriorOptions = options_of(PriorOptions)
    inflation: InflationOptions = options_of(InflationOptions, unset="{}; only with --data_name")
    likelihood: LikelihoodOptions = options_of(LikelihoodOptions)
    run: DeviceOptions = options_of(DeviceOptions)

    @property
    def learned(self) -> bool:
        """Whether the flow has learned the posterior itself, so that there is no likelihood."""
        return False

    def __post_init__(self) -> None:
        if not self.learned:
            self.likelihood.require()


@dataclass(frozen=True, kw_only=True)
class CommonSettings(InferenceSettings):
    """Options of the commands that sample posteriors of points."""

    sampler: SamplerOptions = options_of(SamplerOptions)
    sharpen: bool = option(
        "--sharpen/--no-sharpen",
        default=True,
        help="Without a likelihood: take the noise of the first time off draws, to first order in "
        "its variance, by one more step of the ODE; of tables of up to 16 columns, without "
        "--deblur or --correct.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior.deblur and self.sampler.sampler == "hmc":
            raise UsageError("--deblur has no gradients: take another --sampler than hmc")
        if "sharpen" in self.given and not self.learned:
            raise UsageError("--sharpen is for draws without a likelihood: leave it out")

    def require_alone(self) -> None:
        """Raises UsageError if an option was typed that is for a likelihood."""
        of_samplers = {"sampler", "warmup", "thin", "pool", "particles", "chain_n_iters"}
        for name in sorted(self.given & of_samplers):
            raise UsageError(f"--{name} is for a likelihood, and there is none: leave it out")


@dataclass(frozen=True, kw_only=True)
class SampleSettings(CommonSettings):
    """Options of ``sample``."""

    observation: Path | None = option(
        type=FILE,
        unset="none",
        help="Observations, one in each row of a table (CSV, TSV, npy, npz, Parquet), or images in "
        "a zip or folder; a likelihood of your own needs none",
    )
    condition: Path | None = option(
        type=FILE,
        unset="none",
        help="What a conditional network is given, one observation in each row of a table: its "
        "conditions by name, or its class. Alone, without --observation, it is all that was "
        "observed, and the flow's own draws are the posterior's",
    )
    log_prob: bool = option(
        "--log_prob/--no-log_prob",
        default=True,
        help="With --condition alone: the log density of each draw too, by exact traces; not of "
        "images, and not with --deblur.",
    )
    correct: str | None = option(
        unset="none",
        help="With --condition alone: weight draws by the posterior itself, FILE.py:function, log "
        "densities up to a constant [N] of points [N, D] given conditions [N, C]",
    )
    truth: Path | None = option(
        type=FILE,
        unset="none",
        help="What observations are of, where it is known: a point in each row of a table, or "
        "images. Pictures show it, and results say how often intervals hold it",
    )
    strict: bool = option(
        idle=True, is_flag=True, help="Exit with code 3 if a posterior has not converged."
    )

    @property
    def learned(self) -> bool:
        alone = self.condition is not None and self.observation is None
        return alone and not self.likelihood.typed

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.observation, self.condition, self.truth)
        if self.learned:
            self.require_alone()
            if self.correct and (self.prior.deblur or not self.log_prob):
                other = "--deblur" if self.prior.deblur else "--no-log_prob"
                raise UsageError(f"--correct needs log densities: leave {other} out")
            return
        for name in sorted(self.given & {"log_prob", "correct"}):
            raise UsageError(f"--{name} goes with --condition alone: leave it out")
        own = self.likelihood.likelihood not in LIKELIHOODS
        if own != (self.observation is None):
            raise UsageError(
                "--observation goes with gaussian, mask and linear, and is needed there"
            )


@dataclass(frozen=True, kw_only=True)
class CheckSettings(CommonSettings):
    """Options of ``check``."""

    truth: str = option(
        type=choice(["flow", "data"]),
        default="flow",
        help="Where truths come from: flow asks whether the sampler is right, data whether the "
        "model is.",
    )
    data_root: Path | None = option(
        type=FILE, unset="none", help="Data set that the network was not trained on, for data"
    )
    runs: int = option(
        type=click.IntRange(min=FEWEST_RUNS),
        default=1000,
        help="Truths to find again; if it is left out, all that the data set has to test, where "
        "these are fewer.",
    )
    level: float = option(
        idle=True,
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.01,
        help="p-value, the number of comparisons accounted for, below which a check fails.",
    )
    condition: Path | None = option(
        type=FILE,
        unset="none",
        help="Without a likelihood: observations, as sample takes them, near each of which a "
        "conditional network is checked too",
    )
    neighbors: int | None = option(
        type=click.IntRange(min=FEWEST_NEIGHBORS),
        unset=f"{NEIGHBORS}, or a tenth of the rows to test if that is less",
        help="Simulations nearest to an observation that are tested, at most a tenth",
    )
    strict: bool = option(idle=True, is_flag=True, help="Exit with code 3 if a test fails.")

    @property
    def learned(self) -> bool:
        return self.prior.network is not None and not self.likelihood.typed

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.data_root, self.condition)
        if self.data_root is not None and self.truth != "data":
            raise UsageError("--data_root goes with --truth=data")
        if self.condition is not None and not self.learned:
            raise UsageError("--condition is for a check without a likelihood: leave that out")
        if self.neighbors is not None and self.condition is None:
            raise UsageError("--neighbors goes with --condition")


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
