"""Settings of ``posterior.py``."""

from pathlib import Path

import click

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from training.names import FEWEST_NEIGHBORS, FEWEST_RUNS, NEIGHBORS, UNIFORM, script
from training.options import inference, shared
from training.options.declared import Declared, option, options_of
from training.options.train import TableOptions
from training.options.training import TrainingOptions
from training.options.types import NETWORK, choice


class SampleSettings(inference.CommonSettings):
    """Draw from the posterior of each observation.

    \b
    Files: {data}_{schedule}_posterior.nc      draws, for ArviZ
           {data}_{schedule}_posterior.json    summaries, options, whether they converged
    """

    observation: Path | None = option(
        unset="none",
        help="Observations, one in each row of a table (CSV, TSV, npy, npz, Parquet), an image, or "
        "images in a zip or folder; a likelihood of your own needs none",
    )
    condition: Path | None = option(
        unset="none",
        help="What a conditional network is given, one observation in each row of a table: its "
        "conditions by name, or its class; of sets, one trial in each row, whose column dataset "
        "says of which observation. Alone, without --observation, it is all that was "
        "observed, and the flow's own draws are the posterior's",
    )
    log_prob: bool = option(
        default=True,
        help="With --condition alone: the log density of each draw too, by exact traces; not of "
        "images, and not with --deblur.",
    )
    correct: str | None = option(
        unset="none",
        help="With --condition alone: weight draws by the posterior itself, FILE.py:function, log "
        "densities up to a constant [N] of points [N, D] given conditions [N, C]; or, with "
        f"--prior, by a network that has learned the likelihood of a trial ({script('train')} "
        "--likelihood)",
    )
    truth: Path | None = option(
        unset="none",
        help="What observations are of, where it is known: a point in each row of a table, or "
        "images. Pictures show it, and results say how often intervals hold it",
    )
    strict: bool = shared.strict("a posterior has not converged")
    held_out: bool = option(
        idle=True,
        default=True,
        help=f"If the network was calibrated ({script('posterior')} calibrate): intervals and "
        "regions as "
        "held-out truths have them too, and draws that are recalibrated by these.",
    )
    refuse: float | None = option(
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        unset="none",
        help="Of a calibrated network: draw nothing, and exit with code 3, if an observation is so "
        "odd that at most this share of those held out would be. This finds gross errors only",
    )
    beside: inference.HeldOutOptions = options_of(inference.HeldOutOptions)

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
        own = self.likelihood.likelihood not in inference.LIKELIHOODS
        if own != (self.observation is None):
            raise UsageError(
                "--observation goes with gaussian, mask and linear, and is needed there"
            )


class CheckSettings(inference.CommonSettings):
    """Test whether sampler (--truth=flow) or model (--truth=data) are calibrated.

    Truths are found again; the verdict says how large an error so many runs would have seen.

    For a conditional network of a table, without a likelihood, truths are rows of --data_root, and
    observations are their conditions.

    \b
    Files: {data}_{schedule}_posterior_check.json    p-values, coverage, verdict
           {data}_{schedule}_posterior_check.npz     ranks and scores of each run
    """

    truth: str = option(
        type=choice(["flow", "data"]),
        default="flow",
        help="Where truths come from: flow asks whether the sampler is right, data whether the "
        "model is.",
    )
    data_root: Path | None = option(
        unset="none", help="Data set that the network was not trained on, for data"
    )
    runs: int = option(
        type=click.IntRange(min=FEWEST_RUNS),
        default=1000,
        help="Truths to find again; if it is left out, all that the data set has to test, where "
        "these are fewer.",
    )
    level: float = shared.level("a check", idle=True)
    condition: Path | None = option(
        unset="none",
        help="Without a likelihood: observations, as sample takes them, near each of which a "
        "conditional network is checked too",
    )
    neighbors: int | None = option(
        type=click.IntRange(min=FEWEST_NEIGHBORS),
        unset=f"{NEIGHBORS}, or a tenth of the rows to test if that is less",
        help="Simulations nearest to an observation that are tested, at most a tenth",
    )
    strict: bool = shared.strict("a test fails")

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


class CalibrateSettings(inference.CommonSettings):
    """Learn from truths that no training saw what intervals and regions to ask for.

    The network file gets a part, by which sample gives intervals that hold what they say for
    finitely many truths, on average and near the observation, and tells observations that no data
    resemble.

    \b
    Files: the network file, or --dest
           {data}_{schedule}_posterior_calibration.json    guarantee, levels, tests as of check
           {data}_{schedule}_posterior_calibration.npz     ranks of each truth, as of check
    """

    save_dir: Path = option(
        idle=True, unset="that of the network file", help="Folder of the results"
    )
    truth: str = option(
        type=choice(["data"]), default="data", help="Where truths come from: a data set."
    )
    data_root: Path | None = option(
        unset="none",
        help="Data set of truths: that of the training, if it was made with --kept, or one of new "
        "rows, made with --held-out=0; of a toy's network none",
    )
    runs: int = option(
        type=click.IntRange(min=FEWEST_RUNS), default=1000, help="Truths to use at most."
    )
    dest: Path | None = option(
        idle=True, unset="the network file itself", help="Network file to write"
    )
    beside: inference.HeldOutOptions = options_of(inference.HeldOutOptions)

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


class PredictSettings(Declared):
    """Simulate data from draws of posteriors, and see where the observations lie among them.

    An observation that the model does not make of its own posterior says that prior or simulator
    are wrong, which no calibration sees.

    \b
    Files: {draws}_predictive.json    ranks and p-values of each number, verdict
           {draws}_predictive.npz     simulated data
    """

    save_dir: Path = shared.save_dir()
    draws: Path = option(required=True, help="Draws of posteriors, the .nc that sample wrote.")
    simulator: str | None = option(
        unset="the likelihood of the draws, if it was gaussian, mask or linear",
        help="FILE.py:function, data [N, K] of points [N, D] and a NumPy generator to draw by, in "
        "the order of what was observed",
    )
    function: tuple[str, ...] | None = option(
        unset="none",
        help="Functions of data, FILE.py:name with commas, numbers [N] of data [N, K], that are "
        "compared too",
    )
    simulations: int | None = option(
        unset="as many as p-values of so many numbers need, from 1000 to 20,000",
        help="Data simulated of each observation's draws",
    )
    level: float = shared.level("the model")
    strict: bool = shared.strict("it fails")
    seed: int = shared.seed("all draws")
    overwrite: bool = shared.overwrite()

    def __post_init__(self) -> None:
        require_there(self.draws)


class CompareSettings(Declared):
    """Compare models by their evidence, given the trials of each observation.

    A model is a likelihood that a network has learned, and a prior of its parameters.

    \b
    Files: comparison.json    log evidences with their errors, Bayes factors, probabilities
    """

    save_dir: Path = shared.save_dir()
    networks: tuple[str, ...] = option(
        "--network",
        type=NETWORK,
        multiple=True,
        required=True,
        help=f"Likelihoods that networks have learned ({script('train')} --likelihood), a model "
        "each.",
    )
    priors: tuple[str, ...] = option(
        "--prior",
        multiple=True,
        required=True,
        help="Priors of their parameters, as sample takes them: one for each, or one for all.",
    )
    observation: Path = option(
        required=True, help="Observations, as sample takes them: a row for each trial."
    )
    weights: list[float] | None = option(
        unset="all alike", help="Probabilities of the models before any observation, with commas"
    )
    sampler: inference.SamplerOptions = options_of(inference.SamplerOptions)
    strict: bool = shared.strict("a posterior has not converged")
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

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


class PopulationSettings(Declared):
    """Infer a population, of which each posterior is of one member.

    Parameters of members are normal, with a population mean and a population standard deviation
    that are inferred, for each parameter separately. The data of each member narrow the posteriors
    of all the others.

    \b
    Files: {draws}_population.json    population mean and standard deviation, a new member, members
           {draws}_population.npz     draws of all of these
           {draws}_population.pkl     a prior for new members, or to sample these again
    """

    save_dir: Path = shared.save_dir()
    draws: Path = option(
        required=True,
        help="Draws of posteriors, the .nc that sample wrote: each observation is a member.",
    )
    prior: str = option(
        required=True,
        help=f"What parameters were before any observation: {UNIFORM}, in the units of the draws, "
        "or a network file of a flow of them.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        unset="none: the population is normal in parameters as they are",
        help="Parameters in whose logs it is normal, of the distance from one bound, such as "
        "speed:0:, or in probits between two",
    )
    chains: int = option(type=click.IntRange(min=2), default=4, help="Chains.")
    steps: int = option(
        type=click.IntRange(min=100), default=1000, help="Draws of each chain, after half as many."
    )
    strict: bool = shared.strict("it has not converged")
    seed: int = shared.seed("all draws")
    overwrite: bool = shared.overwrite()

    def __post_init__(self) -> None:
        require_there(self.draws)


RUNS, POINTS = 100, 200
SIMULATED = ("weights", "points", "runs")


class MixtureOptions(Declared, section="Mixture"):
    """The mixture, and the data."""

    components: int | None = option(
        type=click.IntRange(min=2),
        unset="3",
        help="Components K, evenly on the circle of radius 1.5 in the first two dimensions of "
        "whitened latents, as wide as a third of their distance and 0.5 at most",
    )
    means: Path | None = option(
        unset="none", help="Means of components in whitened latents, one in each row of a table"
    )
    component_std: str | None = option(
        unset="0.5 for --means",
        help="Standard deviation of the components, or one for each with commas",
    )
    concentration: float = option(
        default=1.0, help="Of the weights' Dirichlet prior; 1 is uniform."
    )
    weights: str | None = option(
        unset="drawn from the prior in each run", help="True weights, with commas"
    )
    points: int | None = option(
        unset=str(POINTS), help="Points observed in each run, when data are simulated"
    )
    runs: int | None = option(unset=str(RUNS), help="Data sets that are simulated")
    observation: Path | None = option(
        unset="simulated", help="Your own observations, one in each row of a table"
    )
    chains: int = option(default=4, help="Chains of each run.")
    draws: int = option(type=click.IntRange(min=4), default=1000, help="Draws of each chain.")
    warmup: int = option(
        type=click.IntRange(min=0), default=200, help="Steps of a chain before its first draw."
    )
    pool: int = option(
        type=click.IntRange(min=100), default=2**14, help="Latents drawn of each component."
    )
    level: float = shared.level("calibration")
    seed: int = shared.seed("all draws")

    def __post_init__(self) -> None:
        if self.components is not None and self.means is not None:
            raise UsageError("--means has the components: leave out --components")
        simulated = [name for name in SIMULATED if getattr(self, name) is not None]
        if self.observation is not None and simulated:
            raise UsageError(
                f"--{simulated[0]} is for simulated data: leave out --observation, or it"
            )


class MixtureSettings(inference.InferenceSettings):
    """Infer the weights of a Gaussian mixture over latents from noisy data.

    \b
    Files: {data}_{schedule}_mixture.json    posteriors of the weights, calibration, verdict
           {data}_{schedule}_mixture.npz     draws, true weights, what was observed
    """

    mixture: MixtureOptions = options_of(MixtureOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "chain_n_iters" in self.given:
            raise UsageError("--chain_n_iters is for sample and check: no flow is in these chains")
        if self.likelihood.likelihood not in inference.LIKELIHOODS:
            raise UsageError(f"mixture takes --likelihood={', '.join(inference.LIKELIHOODS)}")


FEWEST = 50
"""Simulations of a round."""


class RoundsSettings(Declared):
    """Simulate in rounds, where the posterior of one observation may be.

    Each round draws parameters from the prior where the posterior of the round before has all but
    0.01 % of its mass, and trains on all simulations from there. The same command goes on where a
    run was cut short, and repeats no simulations.

    \b
    Files: round1/, round2/, ...               simulations, what is known of them, and networks
           {data}_{schedule}_posterior.nc      draws of the last posterior, as of sample
           {data}_{schedule}_posterior.json    summaries, options, rounds
           check/                              a check within the last region, as of check
    """

    save_dir: Path = shared.save_dir()
    simulator: str = option(
        required=True,
        help="FILE.py:function, data [N, K] of parameters [N, D] and a NumPy generator to draw by; "
        "rows of numbers that are not finite are simulations that failed.",
    )
    prior: str = option(
        default=UNIFORM,
        help="Of the parameters: uniform between --bounds, or FILE.py:function, parameters [N, D] "
        "of a number N and a NumPy generator.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        unset="none: with a prior of your own, parameters are called theta1, theta2, ...",
        help="Names of the parameters, in the order of the simulator, with what they cannot leave",
    )
    observation: Path = option(
        required=True, help="What was observed: a table of one row, K numbers."
    )
    rounds: int = option(default=4, help="Rounds at most.")
    simulations: int = option(
        type=click.IntRange(min=FEWEST),
        default=10_000,
        help="Simulations of all rounds together, which have equal shares.",
    )
    chains: int = option(default=4, help="Chains that draws are written as.")
    draws: int = option(default=inference.DRAWS, help="Of each chain.")
    seed: int = shared.seed("all random numbers")
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)
    training: TrainingOptions = options_of(TrainingOptions)
    table: TableOptions = options_of(TableOptions)

    def __post_init__(self) -> None:
        require_there(self.observation)
        if self.simulations < FEWEST * self.rounds:
            raise UsageError(
                f"--simulations={self.simulations} are {self.simulations // self.rounds} for each "
                f"of {self.rounds} rounds: give {FEWEST} for each, or fewer --rounds"
            )
        if self.prior != UNIFORM:
            return
        for name, low, high in self.bounds or ():
            if not high - low < float("inf"):
                raise UsageError(
                    f"--prior={UNIFORM} is between two bounds, and '{name}' has one: give "
                    f"{name}:LOW:HIGH, or a prior of your own, FILE.py:function"
                )
        if not self.bounds:
            raise UsageError(
                f"--prior={UNIFORM} goes with --bounds=NAME:LOW:HIGH, a range for each parameter"
            )
