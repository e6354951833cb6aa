"""Options that the commands of ``posterior.py`` share: the prior, the likelihood, the sampler, and
what these are options of."""

from pathlib import Path

import click

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from dnnlib.lists import positive_numbers
from training import names
from training.names import script
from training.options import shared
from training.options.declared import Declared, option, options_of
from training.options.types import NETWORK, choice

LIKELIHOODS = ("gaussian", "mask", "linear")
DRAWS, CHECK_DRAWS, CALIBRATION_DRAWS = 1000, 10, 50
"""Of each chain: a check without a likelihood ranks a truth among all of them, and needs few; a
calibration needs levels as fine as the truths are many."""
SOLVER = "exp_ab2"
"""One call a step: draws are many, and their errors need only be small beside their spread."""
STEPS, CHAIN_STEPS = 24, 10


class PriorOptions(Declared, section="Prior"):
    """The prior."""

    network: str | None = option(
        idle=True, type=NETWORK, unset="none", help="Network file: a path or an https URL"
    )
    data_name: str | None = option(
        type=choice(names.TOY_NAMES),
        unset="none",
        help="A toy with its own denoiser, without a network",
    )
    prior: str | None = option(
        unset="none",
        help=f"Of a network that has learned a likelihood ({script('train')} --likelihood): what "
        "its "
        f"parameters are before any trial, {names.UNIFORM} between their bounds, or a network file "
        "of a flow of them; with sample --correct=NETWORK, of that one",
    )
    calibration: bool = shared.calibration()
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
        unset="as few as the network file found enough; of a toy's own denoiser "
        f"{STEPS} of {SOLVER}",
        help=f"Steps of {SOLVER} for final draws, without a likelihood of {names.LEARNED_SOLVER}",
    )
    chain_n_iters: int | None = option(
        unset=f"as the network file found for a first look; of a toy's own denoiser {CHAIN_STEPS}",
        help=f"Steps of {SOLVER} inside chains",
    )
    batch_gpu: int | None = option(
        "--batch-gpu",
        unset=f"256; of images 16; without a likelihood {names.AMORTIZED_ROWS}, on CUDA "
        f"{names.AMORTIZED_CUDA_ROWS}",
        help="Points of one network call",
    )

    def __post_init__(self) -> None:
        if (self.network is None) == (self.data_name is None):
            raise UsageError("give either --network, or --data_name for a toy's own denoiser")


class LikelihoodOptions(Declared, section="Likelihood"):
    """What was observed."""

    likelihood: str = option(
        default="gaussian",
        help="gaussian (the whole point is observed), mask (some coordinates, by --mask), linear "
        "(a linear map, by --operator), each with Gaussian noise; or FILE.py:function, log "
        "likelihoods [N] of points [N, D].",
    )
    noise_std: str | None = option(
        unset="none",
        help="Standard deviation of the noise in the data's units (gray levels of images): one "
        "number, one for each observed number with commas, or a .npy of them or of a covariance; "
        "in the order of the flow's columns, or in which --mask names them",
    )
    mask: str | None = option(
        unset="none",
        help="What is observed: coordinates by name or number from 0 on, with commas; "
        f"{', '.join(names.HALVES)} of images; random:0.5, so many of all at random, always the "
        "same; or a .npy of booleans, true where observed",
    )
    operator: str | None = option(
        unset="none",
        help="The map A of linear: the matrix [K, D], a .npy; of images also "
        f"{', '.join(names.OPERATORS[:-1])}: a Gaussian kernel, means over squares, a cutting, all "
        f"in pixels; {names.OPERATORS[-1]}, so many random sums",
    )

    @property
    def files(self) -> list[str | Path | None]:
        """What may be files among the options' values, on which draws depend."""
        program = self.likelihood.rpartition(":")[0]
        return [program, *self._arrays]

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
        require_there(*map(Path, self._arrays))

    @property
    def _arrays(self) -> list[str]:
        """Values that are files of arrays."""
        values = (self.noise_std, self.mask, self.operator)
        return [text for text in values if text and text.endswith(".npy")]


class SamplerOptions(Declared, section="Sampler"):
    """How to sample."""

    sampler: str = option(
        type=choice(names.SAMPLERS),
        default="auto",
        help="auto takes a pool of prior draws where that is enough; in up to "
        f"{names.MOST_TESTED} dimensions it refines the pool where it is not, and anneals "
        "populations where posteriors are narrower; in more it goes on to twisted if the noise is "
        "Gaussian, else to hmc, or to elliptical without gradients.",
    )
    chains: int = option(default=4, help="Chains of each observation.")
    draws: int | None = option(
        unset=f"{DRAWS}; without a likelihood {CHECK_DRAWS} of check, {CALIBRATION_DRAWS} of "
        "calibrate",
        help="Draws of each chain",
    )
    warmup: int | None = option(
        type=click.IntRange(min=0),
        unset=", ".join(f"{steps} of {name}" for name, steps in names.WARMUP.items()),
        help="Steps of a chain before its first draw",
    )
    thin: int = option(default=1, help="Steps of a chain for each draw.")
    pool: int | None = option(
        type=click.IntRange(min=100),
        unset=f"{names.TOY_POOL}; {names.IMAGE_POOL} of images; {names.LEARNED_POOL} with --prior",
        help="Prior draws in the pool",
    )
    particles: int | None = option(
        type=click.IntRange(min=2),
        unset=f"{names.PARTICLES}, or --draws if these are more",
        help="Particles of a chain of twisted",
    )
    minutes: float | None = option(
        unset="as long as --particles take",
        help="In place of --particles: as many as fit into about so many minutes, as a block of "
        "network calls takes at the start; they are moved no more than there is time for",
    )
    particle_steps: int = option(
        type=click.IntRange(min=4),
        default=names.PARTICLE_STEPS,
        help="Steps of particles of twisted: the more, the less widths are off.",
    )
    seed: int = shared.seed("all draws")

    def __post_init__(self) -> None:
        if self.minutes is not None and self.particles is not None:
            raise UsageError("give either --particles or --minutes, in which as many fit")


class InferenceSettings(Declared):
    """Options of all commands: where results go, the prior and the likelihood."""

    save_dir: Path = shared.save_dir()
    prior: PriorOptions = options_of(PriorOptions)
    inflation: shared.InflationOptions = options_of(
        shared.InflationOptions, unset="{}; only with --data_name"
    )
    likelihood: LikelihoodOptions = options_of(LikelihoodOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    @property
    def learned(self) -> bool:
        """Whether the flow has learned the posterior itself, so that there is no likelihood."""
        return False

    @property
    def of_trials(self) -> bool:
        """Whether a network has learned the likelihood."""
        return self.prior.prior is not None

    def __post_init__(self) -> None:
        if self.of_trials:
            for name in sorted(self.likelihood.typed):
                raise UsageError(f"--{name} goes without --prior, whose network is the likelihood")
        elif not self.learned:
            self.likelihood.require()


class CommonSettings(InferenceSettings):
    """Options of the commands that sample posteriors of points."""

    sampler: SamplerOptions = options_of(SamplerOptions)
    sharpen: bool = option(
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
        of_samplers = self.sampler.typed - {"chains", "draws", "seed"}
        for name in sorted(of_samplers | (self.given & {"chain_n_iters"})):
            raise UsageError(f"--{name} is for a likelihood, and there is none: leave it out")


class HeldOutOptions(Declared, section="Held-out truths"):
    """What held-out truths are to be looked at for, beside the parameters themselves."""

    function: tuple[str, ...] | None = option(
        unset="none",
        help="Functions of the parameters, FILE.py:name with commas, numbers [N] of points [N, D]: "
        "intervals of their values are held out too",
    )
    conditions_network: str | None = option(
        idle=True,
        type=NETWORK,
        unset="none",
        help=f"A flow of the conditions alone ({script('train')} of their columns), or of any "
        "question about "
        f"them and others ({script('train')} --any), whose density and latent radius tell "
        "observations that "
        "no data resemble",
    )

    @property
    def wanted(self) -> bool:
        """Whether one of these was asked for."""
        return bool(self.function or self.conditions_network)
