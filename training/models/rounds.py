"""Truncated sequential posterior estimation (TSNPE) for one observation, in rounds.

Each round draws parameters from the prior within the region that the previous round's posterior
covers (``training.inference.region``), simulates their data with the user's program, and trains a
posterior on all simulations in the region, like ``train.py --cond``. A likelihood that is learned
from the simulations of the last round weights the draws, if held-out simulations gain by it.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path, plain_name, require_folder, require_new
from dnnlib.logs import logger
from dnnlib.warned import collecting, warn
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from torch_utils.seeds import hash_seed
from training.data.tables.formats import ForeignTable, TableChoices, numbered, open_table
from training.data.tables.making import make_table
from training.data.tables.table import DataTable, Rows
from training.files.observations import read_observations
from training.files.posterior import CHECK, save_values
from training.files.rounds import RoundFacts, load_round, save_round
from training.files.simulator_runs import RUNS
from training.files.table import load_table, save_table
from training.inference.amortized import Amortized
from training.inference.likelihoods import UserFunction
from training.inference.region import DRAWS, EXACT, HERE, Bounds, Region, Restricted, restricted
from training.measure.posterior.calibration import undetected_narrowness
from training.models import model as models
from training.models import training
from training.models.checkpoint import fingerprint
from training.models.conversion import ROW, left_alone, numbers_of, ranges_of, table_of
from training.models.draws import PosteriorDraws
from training.models.inference import InferenceTask
from training.models.library import library_call
from training.models.model import weights_help
from training.models.posterior_checking import cases_of, check
from training.models.posterior_reports import CheckReport, report_files, write_numbers
from training.models.posterior_sampling import Observed, SampledPosteriors, sample
from training.models.simulating import run_simulator
from training.names import FEWEST_RUNS, LIKELIHOOD, script
from training.settings.declared import from_values
from training.settings.posterior import CheckSettings, RoundsSettings, SampleSettings
from training.settings.train import TrainSettings
from training.subjects.parameter_priors import ParameterPrior

SHRINKS = 0.8
"""Largest fraction of the previous region for which a new region gets its own training."""
LOST = 0.5
"""Largest fraction of a posterior's draws that may lie outside the region of its training.

If there are more, the observation is out of distribution for the simulations in the region, and the
region has lost its parameters.
"""
MOST_COMPARED, COMPARED_DRAWS = 200, 2000
"""Largest number of held-out simulations that decide whether draws are weighted, and number of
draws for each.
"""
POSTERIOR = "network"
FOLDERS = {POSTERIOR: "training", LIKELIHOOD: LIKELIHOOD}
"""Run directories of the networks of a round, by the names of the networks and their files."""


@dataclass(frozen=True)
class RoundsTask:
    """An inference task for rounds: simulator, prior and one observation.

    Attributes:
        settings: Settings; the observation in them is a file or a table.
        simulator: The user's simulator.
        prior: Prior of the parameters.
        observed: The observation ``[1, K]``.
        data_names: Names of the observed numbers.
        fingerprint: Digest of everything that the rounds depend on.
    """

    settings: RoundsSettings
    simulator: UserFunction
    prior: ParameterPrior
    observed: Tensor
    data_names: Sequence[str]
    fingerprint: str

    @classmethod
    def of(cls, settings: RoundsSettings, simulator: UserFunction, prior: Any) -> "RoundsTask":
        """Read the observation and the prior.

        Args:
            settings: Settings.
            simulator: Simulator.
            prior: Prior, see ``ParameterPrior.of``; None if it is uniform between the bounds.

        Raises:
            UsageError: There are several observations, or one of the numbers has the name of a
                parameter; or the prior is no distribution, or has other parameters than the bounds.
            DataError: The file is broken.
        """
        observed = read_observations(settings.observation)
        if len(observed) != 1:
            raise UsageError(
                f"{settings.observation} has {len(observed)} observations: rounds are for "
                "a single one. Run the command for each, with its own --save_dir, or "
                f"train on the whole prior ({script('train')} --cond)"
            )
        table = open_table(settings.observation, None, known=())
        names = list(table.names) if table.named else numbered(observed.shape[1], "y")
        bounds = {name: (low, high) for name, low, high in settings.bounds or ()}
        if prior is None:
            own = ParameterPrior.uniform(bounds)
        else:
            own = ParameterPrior.of(prior, list(bounds) or None).within(bounds)
        for name in names:
            if name in own.names:
                raise UsageError(
                    f"'{name}' is the name of a parameter and of a column of "
                    f"{settings.observation}: rename one"
                )
        # The fingerprint depends on the contents of files, not on their paths.
        idle = {"draws", "observation", "simulator", "prior"}
        idle |= type(settings).names_that_are("idle")
        options = {key: value for key, value in settings.recorded().items() if key not in idle}
        programs = [simulator, *([prior] if isinstance(prior, UserFunction) else [])]
        options |= {"data": names, "functions": [(each.name, each.token) for each in programs]}
        files = [each.path for each in programs if each.token is None]
        identity = fingerprint({**options, "prior": own.text}, None, [observed], files)
        return cls(settings, simulator, own, observed, names, identity)

    @property
    def name(self) -> str:
        """Common name of the files."""
        return plain_name(self.simulator.path.stem)

    def table(self, points: Tensor, data: Tensor, seed: int) -> tuple[DataTable, list[str]]:
        """Return the data set of simulations, with lines about its columns.

        Raises:
            DataError: There are too few simulations, or they are beyond the bounds, or parameters
                depend on each other.
        """
        names, bounds = self.prior.names, self.prior.bounds
        rows = torch.cat([points, data], dim=1).numpy()
        source = ForeignTable(str(self.simulator), [*names, *self.data_names], lambda: iter([rows]))
        table, lines = make_table(
            source, TableChoices(conditions=self.data_names, bounds=bounds, seed=seed)
        )
        if table.dim < len(names):
            raise DataError(
                f"parameter '{table.dropped.names[0]}' is constant or a function of the "
                "others: leave it out of the prior"
            )
        return table, lines


@dataclass
class StoredRound:
    """Simulations of one round, and the model that was trained on them.

    Attributes:
        facts: Facts about the simulations.
        bounds: Bounds of the region of the round; None if the region equals that of its base.
        table: Simulations in the region.
        networks: Trained networks by name: the posterior and, of the last round, the likelihood.
    """

    facts: RoundFacts
    bounds: Bounds | None
    table: DataTable
    networks: dict[str, models.Model] = field(default_factory=dict)

    @property
    def model(self) -> models.Model:
        """The trained posterior."""
        return self.networks[POSTERIOR]


class RoundsInMemory:
    """Rounds that are kept in memory."""

    def __init__(self) -> None:
        self._rounds: dict[int, StoredRound] = {}

    def get(self, number: int) -> StoredRound | None:
        """Return a round, from 1 on; None if it was not simulated yet."""
        return self._rounds.get(number)

    def add(self, number: int, made: StoredRound) -> None:
        """Keep the simulations of a round."""
        self._rounds[number] = made

    def partial(self, number: int) -> Path | None:
        """Return the path of a round's unfinished simulations; None for no file."""
        return None

    def train(self, number: int, network: str, name: str, values: Mapping[str, Any]) -> None:
        """Train a network of a round, unless it is trained.

        Args:
            number: Number of the round.
            network: Name of the network.
            name: Name of the data.
            values: Options of the training, by name.
        """
        made = self._rounds[number]
        if network not in made.networks:
            settings = from_values(TrainSettings, {**values, "data": made.table})
            with left_alone():
                trained = training.train(settings, training.training_of(settings, made.table, name))
            assert trained.model is not None
            made.networks[network] = models.Model.from_trained(trained.model)

    def save_draws(self, sampled: SampledPosteriors, schedule: str) -> None:
        """Write nothing."""

    def save_check(self, report: CheckReport, began: float) -> None:
        """Write nothing."""


@dataclass(frozen=True)
class Round:
    """A round of sequential inference.

    Attributes:
        question: Task.
        number: Number of the round, from 1 on.
        store: Rounds that are done.
    """

    question: RoundsTask
    number: int
    store: RoundsInMemory

    @property
    def made(self) -> StoredRound:
        """Simulations and model of the round, which must be complete."""
        made = self.store.get(self.number)
        assert made is not None
        return made

    @property
    def before(self) -> "Round":
        """The previous round."""
        return replace(self, number=self.number - 1)

    @property
    def seed(self) -> int:
        """Random seed of the round."""
        return hash_seed(self.question.settings.seed, self.number)

    def simulations(
        self, region: Region, before: Sequence[RoundFacts]
    ) -> tuple[Region, RoundFacts]:
        """Return the region of this round, and the facts about its simulations.

        Simulations are run unless they exist.

        Args:
            region: Region of the previous round.
            before: Facts about all previous rounds.
        """
        settings = self.question.settings
        title = f"Round {self.number} of {settings.rounds}"
        with process_group(settings.run.device_name) as device:
            made = self.store.get(self.number)
            if made is not None:
                logger.info(f"{title}: simulations exist already")
                facts, bounds = made.facts, made.bounds
                if bounds is not None:
                    part = (bounds, self.before.posterior(region, device))
                    region = Region([*region.parts, part])
                elif facts.base < self.number - 1:
                    region = Region(region.parts[:-1])
                return region, facts
            base, bounds = self.number - 1, None
            beyond = 0.0
            if region.parts:
                whole = self.before.posterior(Region(), device).sample(HERE)
                beyond = 1 - float(region(whole.points.flatten(0, 2)).double().mean())
            if beyond > LOST:
                owner, region = before[-1], Region(region.parts[:-1])
                while owner.base < owner.round - 1:  # such a round has the region of its base
                    owner = before[owner.base - 1]
                base = owner.base
                warn(
                    "region-misses-posterior",
                    f"{beyond:.0%} of the posterior lies beyond the region of "
                    "the last round, which therefore misses it: this round uses the "
                    "region before, without the simulations of the discarded one",
                )
            elif base:
                posterior = self.before.posterior(region, device)
                bounds = Bounds.from_posterior(posterior)
                region = Region([*region.parts, (bounds, posterior)])
            return self._simulate(title, region, bounds, before, base)

    def _simulate(
        self,
        title: str,
        region: Region,
        bounds: Bounds | None,
        before: Sequence[RoundFacts],
        base: int,
    ) -> tuple[Region, RoundFacts]:
        question, settings = self.question, self.question.settings
        left = settings.simulations - sum(each.simulated for each in before)
        turns = settings.rounds - self.number + 1
        size = left // turns

        def enough(share: float) -> int:
            return left if share > SHRINKS * before[-1].share else size

        drawn = self._restricted(region, size, enough if bounds else None)
        if drawn is None:
            logger.info(
                f"{title}: the remaining part of the prior is too small for rejection sampling"
            )
            region, bounds, turns = Region(region.parts[:-1]), None, 1
            drawn = self._restricted(region, left)
        if drawn is None:
            raise DataError(
                f"the prior, {question.prior}, has hardly any draws in the region of the "
                "posterior: give fewer --rounds, or a prior of independent parameters"
            )
        last = turns == 1 or len(drawn.points) > size
        remains = ""
        if region.parts:
            share, error = f"{100 * drawn.share:.3g}", f"{100 * drawn.error:.1g}"
            remains = f"{share} ± {error} % of the prior remains; "
        logger.info(f"{title}: {remains}{len(drawn.points):,} simulations")
        if last and self.number < settings.rounds:
            logger.info("The region no longer shrinks: all remaining simulations are used")
        points, data = self._simulated(drawn.points)
        failed = len(drawn.points) - len(points)
        if base:  # appended to simulations of an earlier round within the region
            old = replace(self, number=base).made.table.rows
            old = old.at(region(old.points))
            assert old.conditions is not None
            points, data = torch.cat([old.points, points]), torch.cat([old.conditions, data])
        table, lines = question.table(points, data, self.seed)
        for line in lines:
            logger.info(line)
        facts = RoundFacts(
            fingerprint=question.fingerprint,
            round=self.number,
            share=drawn.share,
            error=drawn.error,
            simulated=len(drawn.points),
            failed=failed,
            rows=len(table),
            last=last,
            base=base,
        )
        self.store.add(self.number, StoredRound(facts, bounds, table))
        return region, facts

    def _simulated(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return parameters ``[n, D]`` whose simulations succeeded, and their data ``[n, K]``."""
        question, settings = self.question, self.question.settings
        simulated, _ = run_simulator(
            question.simulator,
            points,
            self.seed,
            settings.simulating.workers,
            settings.simulating.block,
            question.observed.shape[1],
            self.store.partial(self.number),
            settings.run.overwrite,
        )
        data = torch.from_numpy(simulated)
        sound = data.isfinite().all(dim=1)
        failed = int((~sound).sum())
        if failed:
            warn(
                "failed-simulations",
                f"{failed:,} of {len(sound):,} simulations failed "
                f"({failed / len(sound):.2%}) "
                "and are left out: if failures depend on the parameters, the posterior "
                "is biased",
            )
        return points[sound], data[sound]

    def _restricted(
        self, region: Region, count: int, enough: Callable[[float], int] | None = None
    ) -> Restricted | None:
        """Return draws of the prior in a region; see ``restricted``.

        Independent parameters are drawn only from the part of their ranges that contains the
        region.
        """
        rng, prior = np.random.default_rng([self.seed, 0]), self.question.prior
        low, high = region.within(*torch.from_numpy(prior.ends).T)
        share, draw = prior.between(low.numpy(), high.numpy())

        def candidates(count: int) -> Tensor:
            return torch.from_numpy(draw(count, rng))

        return restricted(candidates, region, count, enough, share)

    def train(self, network: str = POSTERIOR) -> models.Model:
        """Train a network of the round unless it exists, and return it."""
        settings = self.question.settings
        values = {
            **({} if settings.duration is None else {"duration": settings.duration}),
            "cond": True,
            "seed": settings.seed,
            "device_name": settings.run.device_name,
        }
        if network == LIKELIHOOD:
            values |= {"cond": False, "likelihood": True}
        self.store.train(self.number, network, self.question.name, values)
        return self.made.networks[network]

    def weights(self, region: Region) -> Mapping[str, Any]:
        """Return the options that weight draws by a likelihood; empty if that is not better.

        The likelihood is learned from the simulations of the round. Weights are used if they
        increase the mean log density of its held-out simulations, within the region.
        """
        rows = self.made.table.held_out_rows
        if not len(rows):
            logger.info("Draws are not weighted by a likelihood: no simulation is held out")
            return {}
        rows = rows.at(slice(MOST_COMPARED))
        try:
            given = {"correct": self.train(LIKELIHOOD), "prior": self.question.prior}
            own, weighted = (
                self._densities(self.opened(region, COMPARED_DRAWS, each), rows)
                for each in ({}, given)
            )
        except (DataError, UsageError) as error:
            logger.info(f"Draws are not weighted by a likelihood: {error}")
            return {}
        return given if weights_help(own, weighted) else {}

    def _densities(self, task: InferenceTask, rows: Rows) -> np.ndarray:
        """Return log densities ``[N]`` of parameters given their data, within the region."""
        assert rows.conditions is not None
        with process_group(self.question.settings.run.device_name) as device:
            posterior = task.on(device).amortized(task.on(device).fine, rows.conditions.to(device))
            points, places = rows.points[:, None].to(device), torch.arange(len(rows.points))
            return posterior.log_prob(points, places, EXACT).log_prob[:, 0].cpu().numpy()

    def opened(
        self, region: Region, draws: int, weights: Mapping[str, Any] | None = None
    ) -> InferenceTask:
        """Return the task of drawing from the round's posterior in a region.

        Args:
            region: The region.
            draws: Number of draws.
            weights: See ``weights``; None for none.
        """
        settings = self.question.settings
        values = {
            "save_dir": settings.save_dir,
            "network": self.made.model,
            "condition": settings.observation,
            "draws": draws,
            "seed": settings.seed,
            **(weights or {}),
        }
        sampling = replace(from_values(SampleSettings, values), run=settings.run)
        return replace(InferenceTask.open(sampling), region=region)

    def posterior(self, region: Region, device: torch.device) -> Amortized:
        """Return the round's posterior of the observation within its region.

        It serves to determine the next bounds.
        """
        task = self.opened(region, DRAWS)
        task = replace(task, subject=replace(task.subject, flow=task.subject.flow.to(device)))
        conditions = task.subject.labels(self.question.settings.observation)
        assert conditions is not None
        amortized = task.amortized(task.fine, conditions.to(device))
        plain = replace(amortized.prior, sharpened=False)
        return replace(amortized, prior=plain, trace=None, plausible=False)


MOST_CHECKED = 1000
"""Largest number of held-out simulations in the check."""
NARROW = 0.2
"""Relative narrowness of posteriors that a check should detect; a warning is logged if it
cannot.
"""
TOO_NARROW = (
    "With a few hundred simulations per round, widths may be 10 to 20 % too small: give more "
    "--simulations, or fewer --rounds."
)


@dataclass(frozen=True, eq=False)
class RoundsResult:
    """Result of rounds.

    Attributes:
        sampled: Draws of the last posterior.
        model: Model of the last posterior.
        check: Check on held-out simulations of the last round; None if there are too few.
    """

    sampled: SampledPosteriors
    model: models.Model
    check: CheckReport | None


class RoundsInFolder(RoundsInMemory):
    """Rounds whose simulations and models are in files, from which an interrupted run resumes.

    Args:
        task: Inference task for rounds.
    """

    def __init__(self, task: RoundsTask):
        super().__init__()
        self._task, self._folder = task, task.settings.save_dir

    @classmethod
    def of(cls, task: RoundsTask) -> "RoundsInFolder":
        """Open the folder of a task, after a check that results may be written.

        Rounds that an earlier run with other options left are removed if ``overwrite`` permits it.

        Raises:
            UsageError: Results or rounds with other options exist, and must not be replaced.
            DataError: A round is broken, and must not be replaced.
        """
        folder, overwrite = task.settings.save_dir, task.settings.run.overwrite
        require_new(sorted(folder.glob(f"{task.name}_*_posterior.*")), overwrite)
        require_folder(folder)
        store = cls(task)
        store._require_own_rounds(overwrite)
        return store

    def round(self, number: int) -> Path:
        """Return the folder of a round's files."""
        return self._folder / f"round{number}"

    def data(self, number: int) -> Path:
        """Return the path of the data set of a round's simulations."""
        return self.round(number) / f"{self._task.name}.npz"

    def facts(self, number: int) -> Path:
        """Return the path of the JSON of facts about a round's simulations."""
        return self.round(number) / f"{self._task.name}_params.json"

    def network(self, number: int, network: str) -> Path:
        """Return the path of a network file of a round."""
        return self.round(number) / f"{network}.pkl"

    def get(self, number: int) -> StoredRound | None:
        """Return a round, from 1 on; None if it was not simulated yet."""
        made = super().get(number)
        if made is None and self.data(number).exists():
            made = StoredRound(*load_round(self.facts(number)), load_table(self.data(number)))
            for network in FOLDERS:
                if (path := self.network(number, network)).exists():
                    made.networks[network] = models.Model.load(path)
            super().add(number, made)
        return made

    def partial(self, number: int) -> Path:
        """Return the path of a round's unfinished simulations."""
        return RUNS.path(self.round(number))

    def add(self, number: int, made: StoredRound) -> None:
        """Write the simulations of a round."""
        super().add(number, made)
        require_folder(self.round(number))
        save_round(self.facts(number), made.facts, made.bounds, provenance())
        save_table(self.data(number), made.table)
        self.partial(number).unlink()

    def train(self, number: int, network: str, name: str, values: Mapping[str, Any]) -> None:
        """Train a network of a round in its own run directory, unless it is trained."""
        made = self.get(number)
        assert made is not None
        if network in made.networks:
            return
        folder = self.round(number) / FOLDERS[network]
        shutil.rmtree(folder, ignore_errors=True)  # remains of an interrupted run
        given = {**values, "data": self.data(number), "outdir": folder, "nosubdir": True}
        settings, _ = training.settled(from_values(TrainSettings, given), "data")
        with left_alone():
            start = training.training_of(settings, self.data(number), name)
            path = training.train(settings, start).path
        assert path is not None
        with atomic_path(self.network(number, network)) as temporary:
            shutil.copyfile(path, temporary)
        made.networks[network] = models.Model.load(self.network(number, network))

    def save_draws(self, sampled: SampledPosteriors, schedule: str) -> None:
        """Write the draws of the last posterior."""
        self._stem = f"{self._task.name}_{schedule}_posterior"
        sampled.save(self._folder / f"{self._stem}.nc")
        logger.info(f"Wrote {self._folder / self._stem}.nc and .json")

    def save_check(self, report: CheckReport, began: float) -> None:
        """Write a check of the last posterior, which began at a time."""
        folder = self._folder / "check"
        require_folder(folder)
        arrays, numbers = (folder / f"{self._stem}_check{suffix}" for suffix in (".npz", ".json"))
        save_values(arrays, report.values, report.fingerprint)
        write_numbers(numbers, CHECK.format, began, report.facts)
        report_files(numbers, arrays, began)

    def _require_own_rounds(self, overwrite: bool) -> None:
        own = {self.facts(number) for number in range(1, self._task.settings.rounds + 1)}
        paths = self._folder.glob("round*/*_params.json")
        for path in sorted(path for path in paths if path.parent.name[5:].isdecimal()):
            try:
                if path in own and load_round(path)[0].fingerprint == self._task.fingerprint:
                    continue
            except DataError:
                if not overwrite:
                    raise
            if not overwrite:
                others = "options or files: give the same, another --save_dir, or --overwrite"
                if self._task.simulator.token is not None:
                    others = (
                        "options or functions (different token): give the same token, "
                        "another outdir, or overwrite=True"
                    )
                raise UsageError(
                    f"{path.parent} belongs to a run with other {others} to replace it"
                )
            shutil.rmtree(path.parent)


@library_call
def rounds(
    simulator: Callable[..., Any],
    observation: Any,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior: Any = None,
    outdir: str | Path | None = None,
    token: str | None = None,
    **options: Any,
) -> PosteriorDraws:
    """Draw from the posterior of one observation, by sequential rounds of simulations (TSNPE).

    Args:
        simulator: Function from parameters ``[N, D]`` and a NumPy generator to simulated data ``[N,
            K]``.
        observation: The K observed numbers: a mapping, a data frame of one row, or an array.
        bounds: Lowest and highest value of each parameter, by name in the order of the simulator;
            None for those of the prior's support.
        prior: Prior of the parameters: a distribution, a dictionary of them, a model, or a
            function, see ``ParameterPrior.of``; None for a uniform prior between the bounds.
        outdir: Output directory; None keeps no files.
        token: A text that identifies the simulator, the prior and everything they use, such as a
            version. With it, an interrupted run resumes in the same ``outdir``. Without it,
            existing rounds are never reused, since functions cannot be compared.
        options: Options of ``posterior.py rounds``, by name, such as ``simulations`` or ``seed``.

    Raises:
        UsageError: Options contradict each other, or there is no such option.
        DataError: The observation is broken, or a function returned invalid numbers.
    """
    names, numbers = numbers_of(observation, "the observation", ROW)
    program = UserFunction.of_object(simulator, token)
    columns = names or numbered(numbers.shape[1], "y")
    table = table_of("the observation", columns, np.asarray(numbers, dtype=np.float64))
    given = {"observation": table, "simulator": str(program), **options}
    if outdir is not None:
        given["save_dir"] = outdir
    if prior is not None:
        given["prior"] = str(ParameterPrior.of(prior))
    if bounds is not None:
        given["bounds"] = tuple((name, *ends) for name, ends in ranges_of(bounds).items())
    settings = from_values(RoundsSettings, given)
    task = RoundsTask.of(settings, program, prior)
    store = RoundsInMemory() if outdir is None else RoundsInFolder.of(task)
    with left_alone(), collecting() as warnings:
        result = in_rounds(task, store)
    return PosteriorDraws.from_sampled(result.sampled, result.model, tuple(warnings))


def in_rounds(task: RoundsTask, store: RoundsInMemory) -> RoundsResult:
    """Simulate and train in rounds, draw from the last posterior, and check it."""
    settings = task.settings
    region, facts = Region(), list[RoundFacts]()
    for number in range(1, settings.rounds + 1):
        last = Round(task, number, store)
        region, made = last.simulations(region, facts)
        facts.append(made)
        last.train()
        if made.last:
            break
    listed = [asdict(each) for each in facts]
    for each in listed:
        del each["fingerprint"]
    more = {"options": settings.recorded(), "rounds": listed}
    weights = {} if settings.fast else last.weights(region)
    opened = last.opened(region, settings.draws, weights)
    seen = Observed.of(opened)
    with process_group(settings.run.device_name) as device:
        sampled = sample(opened.on(device), seen, more=more)
    held_out, model = int(last.made.table.held_out.sum()), last.made.model
    assert sampled is not None
    store.save_draws(sampled, model.denoiser.schedule.name)
    if held_out < FEWEST_RUNS:
        warn(
            "not-checked",
            f"the posterior was not checked: {held_out} simulations of the last "
            f"round are held out, and a check needs {FEWEST_RUNS}. {TOO_NARROW}",
        )
        return RoundsResult(sampled, model, None)
    logger.info(f"Check within the region, on {held_out} held-out simulations:")
    values = {
        "save_dir": settings.save_dir,
        "network": model,
        "truth": "data",
        "data_root": last.made.table,
        "runs": min(held_out, MOST_CHECKED),
        "seed": settings.seed,
        **weights,
    }
    checking = from_values(CheckSettings, values)
    checking = replace(checking, run=replace(settings.run, overwrite=True))
    task_of_check = replace(InferenceTask.open(checking), region=region)
    began, cases = perf_counter(), cases_of(task_of_check)
    with process_group(settings.run.device_name) as device:
        report = check(task_of_check.on(device), cases)
    report.log()
    store.save_check(report, began)
    if report.passed:
        warn_of_weak_check(checking.runs, report.facts["detectable"] / 100)
    return RoundsResult(sampled, model, report)


def warn_of_weak_check(runs: int, detectable: float) -> None:
    """Warn if a check that passed could not have detected posteriors that are much too narrow.

    Args:
        runs: Number of held-out simulations that the check used.
        detectable: Error of coverage that such a check detects in 90 % of cases.
    """
    share = undetected_narrowness(detectable)
    if share > NARROW:
        warn(
            "weak-check",
            f"the check used {runs} held-out simulations, which may not detect "
            f"posteriors less than {100 * share:.0f} % too narrow (larger errors are "
            f"detected in 90 % of cases). {TOO_NARROW}",
        )
