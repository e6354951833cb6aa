"""Settings of ``posterior.py``."""

from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from training.names import FEWEST_RUNS, UNIFORM, command_line, script
from training.settings import inference, shared
from training.settings.declared import Declared, option, options_of
from training.settings.types import AMOUNT, FILE, NETWORK, Real, TextOrObject, Whole, choice


class CorrectedSettings(inference.CommonSettings):
    """Options of the commands that can correct the draws of a conditional network."""

    correct: str | None = option(
        type=TextOrObject(),
        help="For a conditional network and no likelihood: weight the draws by FILE.py:function, "
        "which returns log densities [N] of points [N, D] given conditions [N, C]; or, with "
        "--prior, by the network file of a learned likelihood",
    )

    @property
    def of_trials(self) -> bool:
        """Whether the likelihood is a network, rather than a correction of a posterior's draws."""
        return super().of_trials and self.correct is None


class SampleSettings(
    CorrectedSettings,
    example=f"{command_line('posterior')} sample --network=circles.pkl "
    "--observation=observed.csv --likelihood=mask --mask=x1 --noise_std=0.1 "
    "--save_dir=out",
    common="network save_dir observation condition likelihood noise_std mask operator "
    "prior sampler draws minutes truth strict seed device_name overwrite",
):
    """Draw from the posterior of each observation.

    The flow in --network is the prior, and --likelihood selects the likelihood. With --condition
    and no likelihood, a conditional network is the posterior (neural posterior estimation).

    \b
    Files: {data}_{schedule}_posterior.nc      draws, for ArviZ
           {data}_{schedule}_posterior.json    summaries, options, convergence
    """

    observation: Path | None = option(
        help="Observations: a table with one observation per row (CSV, TSV, npy, npz, Parquet), "
        "an image, or a zip or folder of images",
    )
    condition: Path | None = option(
        help="Table with the conditions of a conditional network, one observation per row. For "
        "sets of trials: one trial per row, with a column named dataset that numbers the "
        "sets",
    )
    log_prob: bool = option(
        default=True,
        help="With --condition and no likelihood: write the log density of each draw (nats). "
        "Not for images.",
    )
    truth: Path | None = option(
        help="True values for the observations, if known. The results then report the coverage "
        "of the intervals",
    )
    strict: bool = shared.strict("a posterior has not converged")
    held_out: bool = option(
        idle=True,
        default=True,
        help=f"Use the calibration that {script('posterior')} calibrate wrote to the network "
        "file, if there is one.",
    )
    refuse: float | None = option(
        type=Real(0, 1, min_open=True, max_open=True),
        help="With a calibrated network: exit with code 3 if the out-of-distribution p-value of "
        "an observation is at most this number",
    )

    @property
    def learned(self) -> bool:
        """Whether a conditional network is the posterior: there is no likelihood."""
        alone = self.condition is not None and self.observation is None
        return alone and not self.likelihood.typed and not self.of_trials

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.observation, self.condition, self.truth)
        if not self.held_out and self.refuse is not None:
            raise UsageError(
                "--refuse needs the calibration in the network file: leave --no-held_out out"
            )
        if self.learned:
            self.require_alone()
            if self.correct and not self.log_prob:
                raise UsageError("--correct needs log densities: leave --no-log_prob out")
            return
        for name in sorted(self.given & {"log_prob", "correct"}):
            raise UsageError(
                f"--{name} is for --condition without a likelihood: leave --{name} out"
            )
        if self.of_trials and (self.observation is None or self.condition is not None):
            raise UsageError(
                "--prior needs --observation with one trial per row, and no --condition"
            )
        own = self.likelihood.likelihood not in inference.LIKELIHOODS
        if own != (self.observation is None):
            raise UsageError(
                "--observation is required with gaussian, mask and linear, and only valid there"
            )


class CheckSettings(
    CorrectedSettings,
    example=f"{command_line('posterior')} check --network=moons.pkl --truth=data "
    "--data_root=moons.npz --save_dir=out",
    common="network save_dir truth data_root runs likelihood noise_std mask operator "
    "sampler draws level strict seed device_name overwrite",
):
    """Test calibration by simulation-based calibration (SBC).

    Ranks of true values among posterior draws must be uniform. The verdict states the smallest
    error that this number of runs detects. For a conditional network, true values are rows of
    --data_root and observations are their conditions.

    \b
    Files: {data}_{schedule}_posterior_check.json    p-values, coverage, verdict
           {data}_{schedule}_posterior_check.npz     ranks and scores of each run
    """

    truth: str = option(
        type=choice(["flow", "data"]),
        default="flow",
        help="Source of the true values. flow: prior draws of the flow, which tests the "
        "sampler; data: data points, which also tests the model.",
    )
    data_root: Any = option(
        type=FILE, help="With --truth=data: data set of test points that were not used in training"
    )
    runs: int = option(
        type=Whole(min=FEWEST_RUNS),
        default=1000,
        help="Number of true values to test, at most the size of the test set.",
    )
    level: float = shared.level("the tests", idle=True)
    strict: bool = shared.strict("a test fails")

    @property
    def learned(self) -> bool:
        """Whether a conditional network is the posterior: there is no likelihood."""
        return bool(self.prior.network) and not self.likelihood.typed and not self.of_trials

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.data_root)
        if self.data_root is not None and self.truth != "data":
            raise UsageError("--data_root is only for --truth=data")


class CalibrateSettings(
    inference.CommonSettings,
    example=f"{command_line('posterior')} calibrate --network=moons.pkl --data_root=moons.npz",
    common="network save_dir data_root runs dest seed device_name overwrite",
):
    """Calibrate intervals and regions by conformal prediction.

    The calibration is written to the network file. The command sample then uses it: its intervals
    have guaranteed coverage, and it reports out-of-distribution observations.

    \b
    Files: the network file, or --dest
           {data}_{schedule}_posterior_calibration.json    guarantee, levels, tests as in check
           {data}_{schedule}_posterior_calibration.npz     ranks of each true value, as in check
    """

    save_dir: Path = option(
        idle=True, unset="folder of the network file", help="Folder of the results"
    )
    data_root: Path | None = option(
        help="Calibration set: the data set of the training if it was made with dataset_tool "
        "--kept, or new rows in a data set made with --held-out=0. Not needed for toys",
    )
    runs: int = option(
        type=Whole(min=FEWEST_RUNS),
        default=1000,
        help="Largest number of calibration cases.",
    )
    dest: Path | None = option(
        idle=True, unset="the file in --network", help="Network file to write"
    )

    @property
    def learned(self) -> bool:
        """Whether a conditional network is the posterior: there is no likelihood."""
        return self.prior.network is not None and not self.likelihood.typed

    def __post_init__(self) -> None:
        super().__post_init__()
        require_there(self.data_root)
        network = self.prior.network
        if not isinstance(network, str):  # a model in memory
            return
        if "://" in network and self.dest is None:
            raise UsageError(
                "calibrate cannot write to a URL: give --dest, the network file to write"
            )
        if "save_dir" not in self.given:
            object.__setattr__(self, "save_dir", (self.dest or Path(network)).parent)


class SimulatorOptions(Declared, section="Simulator"):
    """Options for running a simulator."""

    workers: int = option(
        type=Whole(min=-1),
        default=1,
        idle=True,
        help="Number of processes that run the simulator; -1: one per core.",
    )
    block: int = option(
        type=Whole(min=1),
        default=1000,
        help="Number of rows of parameters per call of the simulator. Each call has its own random "
        "generator.",
    )


class PredictSettings(
    Declared,
    example=f"{command_line('posterior')} predict --draws=out/circles_PRP_posterior.nc "
    "--save_dir=out",
):
    """Run posterior predictive checks.

    Simulate data from posterior draws and compare them with the observations. A failed check means
    that the prior or the simulator is wrong, which tests of calibration cannot detect.

    \b
    Files: {draws}_predictive.json    ranks and p-values of each observed number, verdict
           {draws}_predictive.npz     simulated data
    """

    save_dir: Path = shared.save_dir()
    draws: Path = option(required=True, help="Posterior draws: the .nc file written by sample.")
    simulator: str | None = option(
        unset="likelihood of the draws, if it is gaussian, mask or linear",
        help="FILE.py:function that simulates data [N, K], given points [N, D] and a NumPy "
        "generator",
    )
    function: tuple[str, ...] | None = option(
        help="Additional test statistics: FILE.py:name, comma-separated. A function maps data "
        "[N, K] to values [N]",
    )
    simulations: int | None = option(
        unset="1000 to 20,000, depending on the number of tests",
        help="Number of simulated data sets per observation",
    )
    level: float = shared.level("the tests")
    strict: bool = shared.strict("a test fails")
    seed: int = shared.seed()
    overwrite: bool = shared.overwrite()
    simulating: SimulatorOptions = options_of(SimulatorOptions)

    def __post_init__(self) -> None:
        require_there(self.draws)


class CompareSettings(
    Declared,
    example=f"{command_line('posterior')} compare --network=a.pkl --network=b.pkl "
    "--prior=uniform --observation=trials.csv --save_dir=out",
    common="networks priors observation save_dir weights draws strict seed device_name overwrite",
):
    """Compute the evidence of a model, or compare several models by their evidence.

    Each model consists of a learned likelihood and a prior of its parameters.

    \b
    Files: comparison.json    log evidences with their errors, Bayes factors, probabilities
    """

    save_dir: Path = shared.save_dir()
    networks: tuple[str, ...] = option(
        "--network",
        type=NETWORK,
        multiple=True,
        required=True,
        help=f"Network file of a learned likelihood ({script('train')} --likelihood). Give the "
        "option once per model.",
    )
    priors: tuple[str, ...] = option(
        "--prior",
        type=TextOrObject(),
        multiple=True,
        required=True,
        help="Prior of the parameters, as for sample --prior. Give the option once per model, "
        "or once for all models.",
    )
    observation: Path = option(required=True, help="Table of the observations, one trial per row.")
    weights: list[float] | None = option(
        unset="equal", help="Prior probabilities of the models, comma-separated"
    )
    sampler: inference.SamplerOptions = options_of(inference.SamplerOptions)
    strict: bool = shared.strict("a posterior has not converged")
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        require_there(self.observation)
        for name in ("priors", "weights"):
            values = getattr(self, name)
            alone = name == "priors" and len(values) == 1
            if values is not None and len(values) != len(self.networks) and not alone:
                raise UsageError(
                    f"--{name.removesuffix('s')} is given {len(values)} times for "
                    f"{len(self.networks)} networks"
                )


class PopulationSettings(
    Declared,
    example=f"{command_line('posterior')} population --draws=out/subjects_posterior.nc "
    "--prior=uniform --save_dir=out",
):
    """Infer a hierarchical model from the posteriors of its members.

    Each parameter is normal across members, with a population mean and standard deviation that are
    inferred. Members inform each other (partial pooling).

    \b
    Files: {draws}_population.json    summaries of the population, the members and a new member
           {draws}_population.npz     draws of all quantities
           {draws}_population.pkl     prior for new members
    """

    save_dir: Path = shared.save_dir()
    draws: Path = option(
        required=True,
        help="Posterior draws: the .nc file written by sample. Each observation is one member.",
    )
    prior: Any = option(
        type=TextOrObject(),
        required=True,
        help=f"Prior that the draws were made with: {UNIFORM} (in the units of the draws), or "
        "the network file of a flow, or FILE.py:NAME of a distribution, as for sample --prior.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        help="Bounds of parameters. A parameter with one bound (speed:0:) is normal after a log "
        "transform, with two bounds (p:0:1) after a probit transform",
    )
    n_draws: int = option(
        type=Whole(min=400),
        default=4000,
        help="Number of draws in total; fewer for hundreds of members or more.",
    )
    strict: bool = shared.strict("the chains have not converged")
    seed: int = shared.seed()
    overwrite: bool = shared.overwrite()

    def __post_init__(self) -> None:
        require_there(self.draws)


RUNS, POINTS = 100, 200
SIMULATED = ("weights", "points", "runs")


class MixtureOptions(Declared, section="Mixture"):
    """Options for the mixture and for simulated data."""

    components: int | None = option(
        type=Whole(min=2),
        unset="3",
        help="Number of components. Their means are placed evenly on a circle of radius 1.5 in "
        "the first two whitened latent dimensions",
    )
    means: Path | None = option(
        help="Table of component means in whitened latents, one mean per row, instead of "
        "--components"
    )
    component_std: str | None = option(
        unset="0.5 with --means, else at most 0.5",
        help="Standard deviation of the components: one number, or one number per component "
        "(comma-separated)",
    )
    concentration: float = option(
        default=1.0, help="Concentration of the Dirichlet prior of the weights. 1: uniform prior."
    )
    weights: str | None = option(
        unset="drawn from the prior in each run",
        help="True weights in simulated data, comma-separated",
    )
    points: int | None = option(
        unset=str(POINTS), help="Number of observed points per simulated data set"
    )
    runs: int | None = option(unset=str(RUNS), help="Number of simulated data sets")
    observation: Path | None = option(
        unset="simulated data", help="Table of your own observations, one per row"
    )
    draws: int = option(
        type=Whole(min=16),
        default=4000,
        help="Number of draws per data set, in total. Chains divide them equally, rounded up.",
    )
    level: float = shared.level("the tests")
    seed: int = shared.seed()

    def __post_init__(self) -> None:
        if self.components is not None and self.means is not None:
            raise UsageError("--means defines the components: leave --components out")
        simulated = [name for name in SIMULATED if getattr(self, name) is not None]
        if self.observation is not None and simulated:
            raise UsageError(
                f"--{simulated[0]} is for simulated data: leave --{simulated[0]} or --observation "
                "out"
            )


class MixtureSettings(
    inference.InferenceSettings,
    example=f"{command_line('posterior')} mixture --network=circles.pkl "
    "--likelihood=gaussian --noise_std=0.1 --save_dir=out",
    common="network save_dir components means component_std observation runs points "
    "likelihood noise_std mask operator draws seed device_name overwrite",
):
    """Infer the weights of a Gaussian mixture of latents.

    The data are noisy observations of points that the flow generates from the latents.

    \b
    Files: {data}_{schedule}_mixture.json    posteriors of the weights, calibration, verdict
           {data}_{schedule}_mixture.npz     draws, true weights, observations
    """

    mixture: MixtureOptions = options_of(MixtureOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood.likelihood not in inference.LIKELIHOODS:
            raise UsageError(
                f"mixture needs --likelihood, one of {', '.join(inference.LIKELIHOODS)}"
            )


FEWEST = 50
"""Smallest number of simulations per round."""


class RoundsSettings(
    Declared,
    example=f"{command_line('posterior')} rounds --simulator=model.py:simulate "
    "--bounds=rate:0:1,delay:0:5 --observation=observed.csv --save_dir=out",
    common="save_dir simulator prior bounds observation rounds simulations draws seed "
    "device_name overwrite",
):
    """Infer the parameters of one observation in rounds of simulations.

    The method is truncated sequential neural posterior estimation (TSNPE). Each round draws
    parameters from the prior, within the region with 99.99 % of the previous posterior's mass,
    simulates data and trains on all simulations in the region. Draws of the last posterior are
    weighted by a likelihood learned from the same simulations, if held-out simulations gain by it.
    Run the same command again to continue.

    \b
    Files: round1/, round2/, ...               simulations, their records, and networks
           {data}_{schedule}_posterior.nc      draws of the last posterior, as in sample
           {data}_{schedule}_posterior.json    summaries, options, rounds
           check/                              a check within the last region, as in check
    """

    save_dir: Path = shared.save_dir()
    simulator: str = option(
        required=True,
        help="FILE.py:function that simulates data [N, K], given parameters [N, D] and a NumPy "
        "generator. Rows with values that are not finite count as failed simulations.",
    )
    prior: str = option(
        default=UNIFORM,
        help="Prior of the parameters: uniform between --bounds, or FILE.py:NAME of a distribution "
        "of torch or SciPy, of a dictionary of one distribution per parameter name, or of a "
        "function that draws parameters [N, D], given N and a NumPy generator.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        unset="support of the prior; parameters without names are called theta1, theta2, ...",
        help="Names and bounds of the parameters, in the order of the simulator, for example "
        "rate:0:1,delay:0:5. Required for a uniform prior; not for a distribution",
    )
    observation: Path = option(
        required=True, help="Table with the observation: one row of K numbers."
    )
    rounds: int = option(default=4, help="Largest number of rounds.")
    simulations: int = option(
        type=Whole(min=FEWEST),
        default=10_000,
        help="Total number of simulations, split equally between the rounds.",
    )
    fast: bool = option(
        is_flag=True,
        idle=True,
        help="Leave out the likelihood, which is learned from the last simulations and weights the "
        "draws. It takes about half of the training time, and makes widths more accurate.",
    )
    draws: int = option(default=inference.DRAWS, help="Number of draws, in total.")
    duration: float | None = option(
        type=AMOUNT,
        unset="chosen by the number of simulations",
        help="Length of the training of each round, in million samples",
    )
    seed: int = shared.seed()
    simulating: SimulatorOptions = options_of(SimulatorOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

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
