"""Settings of ``posterior.py``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from training.names import FEWEST_NEIGHBORS, FEWEST_RUNS, NEIGHBORS, TEACHER, UNIFORM
from training.options.declared import Declared, option, options_of
from training.options.inference import LIKELIHOODS, LikelihoodOptions, PriorOptions, SamplerOptions
from training.options.shared import DeviceOptions, InflationOptions, overwrite, save_dir, seed
from training.options.types import COUNT, FILE, NETWORK, POSITIVE, Names, Numbers, Ranges, choice


def level(fails: str, **how: Any) -> Any:
    """Declares the level of the tests by which something fails."""
    return option(
        **how,
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.01,
        help=f"p-value, the number of comparisons accounted for, below which {fails} fails.",
    )


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
        of_samplers = {"sampler", "warmup", "thin", "pool", "particles", "minutes", "chain_n_iters"}
        for name in sorted(self.given & of_samplers):
            raise UsageError(f"--{name} is for a likelihood, and there is none: leave it out")


@dataclass(frozen=True, kw_only=True)
class HeldOutOptions(Declared):
    """What held-out truths are to be looked at for, beside the parameters themselves."""

    section = "Held-out truths"
    function: tuple[str, ...] | None = option(
        type=Names(),
        unset="none",
        help="Functions of the parameters, FILE.py:name with commas, numbers [N] of points [N, D]: "
        "intervals of their values are held out too",
    )
    conditions_network: str | None = option(
        idle=True,
        type=NETWORK,
        unset="none",
        help="A flow of the conditions alone (train.py of their columns), or of any question about "
        "them and others (train.py --any), whose density and latent radius tell observations that "
        "no data resemble",
    )

    @property
    def wanted(self) -> bool:
        """Whether one of these was asked for."""
        return bool(self.function or self.conditions_network)


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
        "conditions by name, or its class; of sets, one trial in each row, whose column dataset "
        "says of which observation. Alone, without --observation, it is all that was "
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
        f"densities up to a constant [N] of points [N, D] given conditions [N, C]; {TEACHER}: "
        "draws of a student (distill.py) by its teacher's density; or, with --prior, a network "
        "that has learned the likelihood of a trial (train.py --likelihood)",
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
    held_out: bool = option(
        "--held_out/--no-held_out",
        idle=True,
        default=True,
        help="If the network was calibrated (posterior.py calibrate): intervals and regions as "
        "held-out truths have them too, and draws that are recalibrated by these.",
    )
    refuse: float | None = option(
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        unset="none",
        help="Of a calibrated network: draw nothing, and exit with code 3, if an observation is so "
        "odd that at most this share of those held out would be",
    )
    beside: HeldOutOptions = options_of(HeldOutOptions)

    @property
    def learned(self) -> bool:
        alone = self.condition is not None and self.observation is None
        return alone and not self.likelihood.typed and not self.of_trials

    @property
    def of_trials(self) -> bool:
        return super().of_trials and self.correct is None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.observation, self.condition, self.truth)
        if not self.held_out and (self.refuse is not None or self.beside.wanted):
            raise UsageError("--no-held_out leaves nothing for --refuse, or what goes with it")
        if self.learned:
            self.require_alone()
            if self.correct and (self.prior.deblur or not self.log_prob):
                other = "--deblur" if self.prior.deblur else "--no-log_prob"
                raise UsageError(f"--correct needs log densities: leave {other} out")
            return
        for name in sorted(self.given & {"log_prob", "correct"}):
            raise UsageError(f"--{name} goes with --condition alone: leave it out")
        if self.of_trials and (self.observation is None or self.condition is not None):
            raise UsageError("--prior goes with --observation, a row for each trial, alone")
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
    level: float = level("a check", idle=True)
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
        return bool(self.prior.network) and not self.likelihood.typed and not self.of_trials

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.data_root, self.condition)
        if self.data_root is not None and self.truth != "data":
            raise UsageError("--data_root goes with --truth=data")
        if self.condition is not None and not self.learned:
            raise UsageError("--condition is for a check without a likelihood: leave that out")
        if self.neighbors is not None and self.condition is None:
            raise UsageError("--neighbors goes with --condition")


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(CommonSettings):
    """Options of ``calibrate``."""

    save_dir: Path = option(
        idle=True, type=FILE, unset="that of the network file", help="Folder of the results"
    )
    truth: str = option(
        type=choice(["data"]), default="data", help="Where truths come from: a data set."
    )
    data_root: Path | None = option(
        type=FILE,
        unset="none",
        help="Data set of truths: that of the training, if it was made with --kept, or one of new "
        "rows, made with --held-out=0; of a toy's network none",
    )
    runs: int = option(
        type=click.IntRange(min=FEWEST_RUNS), default=1000, help="Truths to use at most."
    )
    dest: Path | None = option(
        idle=True, type=FILE, unset="the network file itself", help="Network file to write"
    )
    beside: HeldOutOptions = options_of(HeldOutOptions)

    @property
    def learned(self) -> bool:
        return self.prior.network is not None and not self.likelihood.typed

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.data_root)
        network = self.prior.network
        if network is None:
            raise UsageError("calibrate adds to a network file: give --network, not --data_name")
        if "://" in network and self.dest is None:
            raise UsageError("a network of a URL stays as it is: give --dest")
        if "save_dir" not in self.given:
            object.__setattr__(self, "save_dir", (self.dest or Path(network)).parent)


@dataclass(frozen=True, kw_only=True)
class PredictSettings(Declared):
    """Options of ``predict``."""

    save_dir: Path = save_dir()
    draws: Path = option(
        type=FILE, required=True, help="Draws of posteriors, the .nc that sample wrote."
    )
    simulator: str | None = option(
        unset="the likelihood of the draws, if it was gaussian, mask or linear",
        help="FILE.py:function, data [N, K] of points [N, D] and a NumPy generator to draw by, in "
        "the order of what was observed",
    )
    function: tuple[str, ...] | None = option(
        type=Names(),
        unset="none",
        help="Functions of data, FILE.py:name with commas, numbers [N] of data [N, K], that are "
        "compared too",
    )
    simulations: int | None = option(
        type=COUNT,
        unset="as many as p-values of so many numbers need, from 1000 to 20,000",
        help="Data simulated of each observation's draws",
    )
    level: float = level("the model")
    strict: bool = option(idle=True, is_flag=True, help="Exit with code 3 if it fails.")
    seed: int = seed("all draws")
    overwrite: bool = overwrite()

    def __post_init__(self) -> None:
        require_there(self.draws)


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Declared):
    """Options of ``compare``."""

    save_dir: Path = save_dir()
    networks: tuple[str, ...] = option(
        "--network",
        type=NETWORK,
        multiple=True,
        required=True,
        help="Likelihoods that networks have learned (train.py --likelihood), a model each.",
    )
    priors: tuple[str, ...] = option(
        "--prior",
        multiple=True,
        required=True,
        help="Priors of their parameters, as sample takes them: one for each, or one for all.",
    )
    observation: Path = option(
        type=FILE, required=True, help="Observations, as sample takes them: a row for each trial."
    )
    weights: list[float] | None = option(
        type=Numbers(),
        unset="all alike",
        help="Probabilities of the models before any observation, with commas",
    )
    sampler: SamplerOptions = options_of(SamplerOptions)
    strict: bool = option(
        idle=True, is_flag=True, help="Exit with code 3 if a posterior has not converged."
    )
    run: DeviceOptions = options_of(DeviceOptions)

    def __post_init__(self) -> None:
        require_there(self.observation)
        if len(self.networks) < 2:
            raise UsageError("compare takes two models or more: give --network again")
        for name in ("priors", "weights"):
            values = getattr(self, name)
            alone = name == "priors" and len(values) == 1
            if values is not None and len(values) != len(self.networks) and not alone:
                raise UsageError(
                    f"--{name.removesuffix('s')} is given {len(values)} times for "
                    f"{len(self.networks)} networks"
                )


@dataclass(frozen=True, kw_only=True)
class PopulationSettings(Declared):
    """Options of ``population``."""

    save_dir: Path = save_dir()
    draws: Path = option(
        type=FILE,
        required=True,
        help="Draws of posteriors, the .nc that sample wrote: each observation is a member.",
    )
    prior: str = option(
        required=True,
        help=f"What parameters were before any observation: {UNIFORM}, in the units of the draws, "
        "or a network file of a flow of them.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        type=Ranges(),
        unset="none: the population is normal in parameters as they are",
        help="Parameters in whose logs it is normal, of the distance from one bound, such as "
        "speed:0:, or in probits between two",
    )
    chains: int = option(type=click.IntRange(min=2), default=4, help="Chains.")
    steps: int = option(
        type=click.IntRange(min=100), default=1000, help="Draws of each chain, after half as many."
    )
    strict: bool = option(idle=True, is_flag=True, help="Exit with code 3 if it has not converged.")
    seed: int = seed("all draws")
    overwrite: bool = overwrite()

    def __post_init__(self) -> None:
        require_there(self.draws)


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
    level: float = level("calibration")
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
