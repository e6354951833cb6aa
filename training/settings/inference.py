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
DRAWS, CHECK_DRAWS, CALIBRATION_DRAWS = 4000, 40, 200
"""Default numbers of draws per observation. A check without a likelihood needs few, because it
ranks a true value among all draws; a calibration needs levels as fine as its number of cases."""
SOLVER = "exp_ab2"
"""Solver of draws, with one evaluation per step: errors only need to be small compared with the
spread of the many draws."""
STEPS, CHAIN_STEPS = 24, 10


class PriorOptions(Declared, section="Prior"):
    """Options for the prior distribution of points."""

    network: Any = option(
        idle=True, type=NETWORK, required=True, help="Network file: a path or an https URL."
    )
    prior: str | None = option(
        type=TextOrObject(),
        help=f"Prior of the parameters for a learned likelihood ({script('train')} "
        f"--likelihood): '{names.UNIFORM}' (between the bounds in the data set), "
        f"'{names.STORED_PRIOR}' (that of the simulations, if they state it), the network file of "
        "a flow, or FILE.py:NAME of a distribution of torch or SciPy or a dictionary of them",
    )
    n_iters: int | None = option(
        unset="the number stored in the network file",
        help=f"Number of solver steps for the final draws. The solver is {SOLVER}, or "
        f"{names.LEARNED_SOLVER} without a likelihood",
    )


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
    draws: int | None = option(
        unset=f"{DRAWS}; without a likelihood: {CHECK_DRAWS} for check, {CALIBRATION_DRAWS} for "
        "calibrate",
        help="Number of draws per observation, in total. Chains divide them equally, rounded up",
    )
    particles: int | None = option(
        type=Whole(min=2),
        unset=f"{names.PARTICLES}, or the draws per chain if these are more",
        help="With the sampler twisted: number of particles per chain",
    )
    minutes: float | None = option(
        unset="none; --particles applies",
        help="With the sampler twisted: approximate time budget in minutes, instead of --particles",
    )
    seed: int = shared.seed()

    def __post_init__(self) -> None:
        if self.minutes is not None and self.particles is not None:
            raise UsageError("give either --particles or --minutes")


class InferenceSettings(Declared):
    """Options of all commands of ``posterior.py``: output, prior and likelihood."""

    save_dir: Path = shared.save_dir()
    prior: PriorOptions = options_of(PriorOptions)
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

    def require_alone(self) -> None:
        """Raise UsageError if the user gave an option that needs a likelihood."""
        for name in sorted(self.sampler.typed - {"draws", "seed"}):
            raise UsageError(
                f"--{name} needs a likelihood, but --likelihood is not given: leave --{name} out"
            )
