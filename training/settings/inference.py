"""Options shared by the commands of ``posterior.py``: prior, likelihood and sampler."""

from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from dnnlib.lists import positive_numbers
from training import names
from training.names import script
from training.settings import shared
from training.settings.declared import Declared, option, options_of
from training.settings.types import NETWORK, TextOrObject, Whole, choice

LIKELIHOODS = ("gaussian", "mask", "linear")
DRAWS, CHECK_DRAWS, CALIBRATION_DRAWS = 1000, 10, 50
"""Default numbers of draws per chain. A check without a likelihood needs few, because it ranks a
true value among all draws; a calibration needs levels as fine as its number of cases."""
SOLVER = "exp_ab2"
"""Solver of draws, with one evaluation per step: errors only need to be small compared with the
spread of the many draws."""
STEPS, CHAIN_STEPS = 24, 10


class PriorOptions(Declared, section="Prior"):
    """Options for the prior distribution of points."""

    network: Any = option(idle=True, type=NETWORK, help="Network file: a path or an https URL")
    data_name: str | None = option(
        type=choice(names.TOY_NAMES),
        help="Toy whose exact denoiser is used, instead of --network",
    )
    prior: str | None = option(
        type=TextOrObject(),
        help=f"Prior of the parameters for a learned likelihood ({script('train')} "
        f"--likelihood): '{names.UNIFORM}' (between the bounds in the data set), "
        f"'{names.STORED_PRIOR}' (that of the simulations, if they state it), the network file of "
        "a flow, or FILE.py:NAME of a distribution of torch or SciPy or a dictionary of them",
    )
    calibration: bool = shared.calibration()
    eps: str | None = option(
        type=choice(["learned", "auto"]),
        unset="learned if the network file has one, else auto",
        help="Distribution of the latents. learned: from the network file; auto: Gaussian in "
        "closed form.",
    )
    deblur: bool = option(
        is_flag=True,
        help="Draw points without the noise that the flow adds at its first time. Up to 16 "
        "dimensions; not with --sampler=hmc.",
    )
    n_iters: int | None = option(
        unset=f"the number stored in the network file; {STEPS} with --data_name",
        help=f"Number of solver steps for the final draws. The solver is {SOLVER}, or "
        f"{names.LEARNED_SOLVER} without a likelihood",
    )
    chain_n_iters: int | None = option(
        unset=f"the number stored in the network file; {CHAIN_STEPS} with --data_name",
        help=f"Number of solver steps for points inside Markov chains. The solver is {SOLVER}",
    )
    batch_gpu: int | None = option(
        "--batch-gpu",
        unset=f"256, or 16 for images; without a likelihood: {names.AMORTIZED_ROWS} on the CPU, "
        f"{names.AMORTIZED_CUDA_ROWS} on CUDA",
        help="Number of points per network evaluation",
    )

    def __post_init__(self) -> None:
        if (self.network is None) == (self.data_name is None):
            raise UsageError("give either --network, or --data_name for a toy's exact denoiser")


class LikelihoodOptions(Declared, section="Likelihood"):
    """Options for the likelihood of the observation."""

    likelihood: str = option(
        default="gaussian",
        help="gaussian (all coordinates are observed), mask (some coordinates are observed) or "
        "linear (a linear map is observed), each with Gaussian noise; or FILE.py:function, "
        "which returns log likelihoods [N] of points [N, D].",
    )
    noise_std: str | None = option(
        type=TextOrObject(),
        help="Standard deviation of the observation noise, in data units (gray levels for "
        "images): one number, one number per observed value (comma-separated), or a .npy "
        "file of standard deviations or of a covariance matrix",
    )
    mask: str | None = option(
        type=TextOrObject(),
        help="Observed coordinates for --likelihood=mask: names or numbers from 0, for example "
        f"x1,x3; for images {', '.join(names.HALVES)} or random:0.5 (a fixed random "
        "fraction); or a .npy file of booleans",
    )
    operator: str | None = option(
        type=TextOrObject(),
        help="Linear map for --likelihood=linear: a .npy file with the matrix [K, D]; for "
        f"images {', '.join(names.OPERATORS)} (in pixels)",
    )

    @property
    def files(self) -> list[str | Path | None]:
        """Values of the options that may name files on which the draws depend."""
        program = self.likelihood.rpartition(":")[0]
        return [program, *self._arrays]

    def require(self) -> None:
        """Check that the options define a likelihood; raise UsageError if not."""
        wanted = {"mask": "mask", "operator": "linear"}
        for name, kind in wanted.items():
            if (getattr(self, name) is not None) != (self.likelihood == kind):
                raise UsageError(
                    f"--{name} is required with --likelihood={kind}, and only valid there"
                )
        known = self.likelihood in LIKELIHOODS
        if not known and ":" not in self.likelihood:
            raise UsageError(
                f"--likelihood is '{self.likelihood}': give {', '.join(LIKELIHOODS)}, or "
                "FILE.py:function"
            )
        if known != (self.noise_std is not None):
            raise UsageError(
                f"--noise_std is required with {', '.join(LIKELIHOODS)}, and only valid there"
            )
        if isinstance(self.noise_std, str):
            positive_numbers(self.noise_std)
        require_there(*map(Path, self._arrays))

    @property
    def _arrays(self) -> list[str]:
        """Option values that are array files."""
        values = (self.noise_std, self.mask, self.operator)
        return [text for text in values if isinstance(text, str) and text.endswith(".npy")]


class SamplerOptions(Declared, section="Sampler"):
    """Options for the sampler of posterior draws."""

    sampler: str = option(
        type=choice(names.SAMPLERS),
        default="auto",
        help="Sampler. auto: weight a pool of prior draws. If that is not enough, go on to "
        f"refined or annealed in up to {names.MOST_TESTED} dimensions, and to twisted "
        "(Gaussian noise), hmc or elliptical in more dimensions.",
    )
    chains: int = option(default=4, help="Number of chains per observation.")
    draws: int | None = option(
        unset=f"{DRAWS}; without a likelihood: {CHECK_DRAWS} for check, {CALIBRATION_DRAWS} for "
        "calibrate",
        help="Number of draws per chain",
    )
    warmup: int | None = option(
        type=Whole(min=0),
        unset=", ".join(f"{steps} for {name}" for name, steps in names.WARMUP.items()),
        help="Number of warmup steps of a chain, for elliptical and hmc",
    )
    thin: int = option(default=1, help="Number of chain steps per draw.")
    pool: int | None = option(
        type=Whole(min=100),
        unset=f"{names.TOY_POOL}; for images: {names.IMAGE_POOL}; with --prior: "
        f"{names.LEARNED_POOL}",
        help="Number of prior draws that samplers start from",
    )
    particles: int | None = option(
        type=Whole(min=2),
        unset=f"{names.PARTICLES}, or --draws if that is larger",
        help="With the sampler twisted: number of particles per chain",
    )
    minutes: float | None = option(
        unset="none; --particles applies",
        help="With the sampler twisted: approximate time budget in minutes, instead of --particles",
    )
    particle_steps: int = option(
        type=Whole(min=4),
        default=names.PARTICLE_STEPS,
        help="With the sampler twisted: number of time steps. More steps reduce the error of "
        "posterior widths.",
    )
    seed: int = shared.seed()

    def __post_init__(self) -> None:
        if self.minutes is not None and self.particles is not None:
            raise UsageError("give either --particles or --minutes")


class InferenceSettings(Declared):
    """Options of all commands of ``posterior.py``: output, prior and likelihood."""

    save_dir: Path = shared.save_dir()
    prior: PriorOptions = options_of(PriorOptions)
    inflation: shared.InflationOptions = options_of(
        shared.InflationOptions, unset="{}; used only with --data_name"
    )
    likelihood: LikelihoodOptions = options_of(LikelihoodOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    @property
    def learned(self) -> bool:
        """Whether a conditional network is the posterior, so that there is no likelihood."""
        return False

    @property
    def of_trials(self) -> bool:
        """Whether the likelihood is a network trained on simulated trials."""
        return self.prior.prior is not None

    def __post_init__(self) -> None:
        if self.of_trials:
            for name in sorted(self.likelihood.typed):
                raise UsageError(
                    f"--{name} is not for --prior, with a network as likelihood: leave --{name} out"
                )
        elif not self.learned:
            self.likelihood.require()


class CommonSettings(InferenceSettings):
    """Options of the commands that sample posteriors of points."""

    sampler: SamplerOptions = options_of(SamplerOptions)
    sharpen: bool = option(
        default=True,
        help="Without a likelihood: remove the noise of the first time from the draws, to first "
        "order in its variance. Only for tables of up to 16 columns.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior.deblur and self.sampler.sampler == "hmc":
            raise UsageError(
                "--deblur has no gradients, but --sampler=hmc needs them: choose another sampler"
            )
        if "sharpen" in self.given and not self.learned:
            raise UsageError("--sharpen is for draws without a likelihood: leave --sharpen out")

    def require_alone(self) -> None:
        """Raise UsageError if the user gave an option that needs a likelihood."""
        of_samplers = self.sampler.typed - {"chains", "draws", "seed"}
        for name in sorted(of_samplers | (self.given & {"chain_n_iters"})):
            raise UsageError(
                f"--{name} needs a likelihood, but --likelihood is not given: leave --{name} out"
            )


class HeldOutOptions(Declared, section="Calibration"):
    """Options for further quantities to be calibrated."""

    function: tuple[str, ...] | None = option(
        help="Functions of the parameters whose intervals are calibrated too: FILE.py:name, "
        "comma-separated. A function maps points [N, D] to values [N]",
    )
    conditions_network: str | None = option(
        idle=True,
        type=NETWORK,
        help="Network file with a flow of the condition columns (trained with or without "
        "--any), which detects out-of-distribution observations",
    )

    @property
    def wanted(self) -> bool:
        """Whether the user gave any option of this group."""
        return bool(self.function or self.conditions_network)
