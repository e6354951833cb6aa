"""Truncated sequential posterior estimation (TSNPE) for one observation: ``posterior.py rounds``.

Each round draws parameters from the prior within the region that the previous round's posterior
covers (``training.inference.region``), simulates their data with the user's program, and trains a
posterior on all simulations in the region, like ``train.py --cond``.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path, require_folder, require_new
from dnnlib.logs import logger
from torch_utils.distributed import first_rank_only, process_group
from torch_utils.results import load_json, provenance
from torch_utils.seeds import hash_seed
from training.cli import train
from training.data.tables.foreign import ForeignTable, TableChoices, numbered
from training.data.tables.formats import open_table
from training.data.tables.making import make_table
from training.data.tables.table import DataTable
from training.files.observations import read_observations
from training.files.rounds import RoundFacts, load_round, save_round
from training.files.rows import save_csv
from training.files.table import load_table, save_table
from training.inference.amortized import Amortized
from training.inference.likelihoods import UserFunction
from training.inference.region import DRAWS, HERE, Bounds, Region, Restricted, restricted
from training.measure.posterior.verdicts import undetected_narrowness
from training.models.conversion import ROW, left_alone, numbers_of, own_folder, ranges_of
from training.models.inference import InferenceTask
from training.models.model import Model, PosteriorDraws
from training.names import FEWEST_RUNS, UNIFORM, script
from training.runs.posteriors import fingerprint
from training.settings.declared import from_values
from training.settings.inference import PriorOptions, SamplerOptions
from training.settings.posterior import CheckSettings, RoundsSettings, SampleSettings
from training.settings.train import TrainSettings
from training.subjects.networks import plain_name

SHRINKS = 0.8
"""Largest fraction of the previous region for which a new region gets its own training."""
LOST = 0.5
"""Largest fraction of a posterior's draws that may lie outside the region of its training.

If there are more, the observation is out of distribution for the simulations in the region, and the
region has lost its parameters.
"""


@dataclass(frozen=True)
class Question:
    """The inference task of ``posterior.py rounds``: simulator, prior and one observation.

    Attributes:
        settings: Settings of the command.
        simulator: The user's simulator.
        prior: The user's prior; None for uniform between bounds.
        observed: The observation ``[1, K]``.
        data_names: Names of the observed numbers.
        fingerprint: Digest of everything that the rounds depend on.
    """

    settings: RoundsSettings
    simulator: UserFunction
    prior: UserFunction | None
    observed: Tensor
    data_names: Sequence[str]
    fingerprint: str

    @classmethod
    def of(
        cls, settings: RoundsSettings, simulator: UserFunction, prior: UserFunction | None
    ) -> "Question":
        """Read the observation.

        Raises:
            UsageError: There are several observations, or one of the numbers has the name of a
                parameter.
            DataError: The file is broken.
        """
        observed = read_observations(settings.observation)
        if len(observed) != 1:
            raise UsageError(
                f"{settings.observation} has {len(observed)} observations: rounds are for "
                "a single one. Run the command for each, with its own --save_dir, or "
                f"train on the whole prior ({script('train')} --cond)"
            )
        table = open_table(str(settings.observation), None, known=())
        names = list(table.names) if table.named else numbered(observed.shape[1], "y")
        bounded = None if settings.bounds is None else [name for name, _, _ in settings.bounds]
        for name in names:
            usual = name.startswith("theta") and name[5:].isdecimal()
            if usual if bounded is None else name in bounded:
                raise UsageError(
                    f"'{name}' is the name of a parameter and of a column of "
                    f"{settings.observation}: rename one"
                )
        # The fingerprint depends on the contents of files, not on their paths.
        idle = {"chains", "draws", "observation", "simulator", "prior"}
        idle |= type(settings).names_that_are("idle")
        options = {key: value for key, value in settings.recorded().items() if key not in idle}
        programs = [simulator, *([] if prior is None else [prior])]
        options |= {"data": names, "functions": [(each.name, each.token) for each in programs]}
        files = [each.path for each in programs if each.token is None]
        identity = fingerprint(options, None, [observed], files)
        return cls(settings, simulator, prior, observed, names, identity)

    @property
    def name(self) -> str:
        """Common name of the files."""
        return plain_name(self.simulator.path.stem)

    def places(self) -> Iterator["Place"]:
        """Yield all rounds with the paths of their files."""
        return (Place(self, number) for number in range(1, self.settings.rounds + 1))

    def require_own_rounds(self) -> None:
        """Remove rounds that an earlier run with other options left, if --overwrite permits it.

        Raises:
            UsageError: Rounds with other options exist, and must not be replaced.
            DataError: A round is broken, and must not be replaced.
        """
        overwrite = self.settings.run.overwrite
        paths = self.settings.save_dir.glob("round*/*_params.json")
        own = {place.facts for place in self.places()}
        for path in sorted(path for path in paths if path.parent.name[5:].isdecimal()):
            try:
                if path in own and load_round(path)[0].fingerprint == self.fingerprint:
                    continue
            except DataError:
                if not overwrite:
                    raise
            if not overwrite:
                others = "options or files: give the same, another --save_dir, or --overwrite"
                if self.simulator.token is not None:
                    others = (
                        "options or functions (different token): give the same token, "
                        "another outdir, or overwrite=True"
                    )
                raise UsageError(
                    f"{path.parent} belongs to a run with other {others} to replace it"
                )
            shutil.rmtree(path.parent)

    def table(self, points: Tensor, data: Tensor, seed: int) -> tuple[DataTable, list[str]]:
        """Return the data set of simulations, with lines about its columns.

        Raises:
            UsageError: The number of bounds differs from that of the parameters.
            DataError: There are too few simulations, or they are beyond the bounds, or parameters
                depend on each other.
        """
        count, bounds = points.shape[1], {}
        names = numbered(count, "theta")
        if self.settings.bounds is not None:
            bounds = {name: (low, high) for name, low, high in self.settings.bounds}
            names = list(bounds)
        if len(names) != count:
            raise UsageError(
                f"--bounds names {len(names)} parameters, but {self.prior} returns {count}"
            )
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


@dataclass(frozen=True)
class Place:
    """A round of sequential inference and the paths of its files.

    Attributes:
        question: Task of the command.
        number: Number of the round, from 1 on.
    """

    question: Question
    number: int

    @property
    def folder(self) -> Path:
        """Folder of the round's files."""
        return self.question.settings.save_dir / f"round{self.number}"

    @property
    def data(self) -> Path:
        """Path of the data set of the round's simulations."""
        return self.folder / f"{self.question.name}.npz"

    @property
    def facts(self) -> Path:
        """Path of the JSON of facts about the round's simulations."""
        return self.folder / f"{self.question.name}_params.json"

    @property
    def network(self) -> Path:
        """Path of the network file of the round's posterior."""
        return self.folder / "network.pkl"

    @property
    def before(self) -> "Place":
        """The previous round."""
        return Place(self.question, self.number - 1)

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
            if self.data.exists():
                logger.info(f"{title}: simulations exist already")
                facts, bounds = load_round(self.facts)
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
                logger.warning(
                    f"Warning: {beyond:.0%} of the posterior lies beyond the region of "
                    "the last round, which therefore misses it: this round uses the "
                    "region before, without the simulations of the discarded one"
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
                f"{question.prior or 'the prior'} has hardly any draws in the region of "
                "the posterior: give fewer --rounds, or a uniform prior between --bounds"
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
            old = load_table(replace(self, number=base).data)
            assert old.conditions is not None
            inside = region(old.points)
            points = torch.cat([old.points[inside], points])
            data = torch.cat([old.conditions[inside], data])
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
        require_folder(self.folder)
        save_round(self.facts, facts, bounds, provenance())
        save_table(self.data, table)
        return region, facts

    def _simulated(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return parameters ``[n, D]`` whose simulations succeeded, and their data ``[n, K]``."""
        draw, width = np.random.default_rng([self.seed, 1]), self.question.observed.shape[1]
        data = self.question.simulator.simulated(points, draw, width)
        sound = data.isfinite().all(dim=1)
        failed = int((~sound).sum())
        if failed:
            logger.warning(
                f"Warning: {failed:,} of {len(sound):,} simulations failed "
                f"({failed / len(sound):.2%}) "
                "and are left out: if failures depend on the parameters, the posterior "
                "is biased"
            )
        return points[sound], data[sound]

    def _restricted(
        self, region: Region, count: int, enough: Callable[[float], int] | None = None
    ) -> Restricted | None:
        """Return draws of the prior in a region; see ``restricted``.

        With bounds, candidates are drawn only from the part of the prior's range that contains the
        region.
        """
        draw, prior = np.random.default_rng([self.seed, 0]), self.question.prior
        if prior is not None:
            return restricted(partial(prior.drawn, draw=draw), region, count, enough, 1.0)
        bounds = self.question.settings.bounds
        assert bounds is not None
        ends = torch.tensor([ends for _, *ends in bounds], dtype=torch.float64)
        low, high = region.within(*ends.T)
        part = float(((high - low) / (ends[:, 1] - ends[:, 0])).prod())

        def uniform(count: int) -> Tensor:
            return torch.from_numpy(draw.uniform(low.numpy(), high.numpy(), (count, len(low))))

        return restricted(uniform, region, count, enough, part)

    def train(self) -> None:
        """Train the posterior, unless it exists."""
        if self.network.exists():
            return
        settings, training = self.question.settings, self.folder / "training"
        shutil.rmtree(training, ignore_errors=True)  # remains of an interrupted run
        values = {
            **settings.training.named(*settings.training.typed),
            **settings.table.named(*settings.table.typed),
            "data": self.data,
            "cond": True,
            "outdir": training,
            "nosubdir": True,
            "seed": settings.seed,
            "device_name": settings.run.device_name,
        }
        with left_alone():
            path = train.run(from_values(TrainSettings, values))
        assert path is not None
        with atomic_path(self.network) as temporary:
            shutil.copyfile(path, temporary)

    def opened(
        self, region: Region, chains: int, draws: int
    ) -> tuple[SampleSettings, InferenceTask]:
        """Return settings and prior for drawing from the round's posterior in a region."""
        settings = self.question.settings
        sampling = SampleSettings(
            save_dir=settings.save_dir,
            prior=PriorOptions(network=str(self.network)),
            condition=settings.observation,
            sampler=SamplerOptions(chains=chains, draws=draws, seed=settings.seed),
            run=settings.run,
        )
        return sampling, replace(InferenceTask.open(sampling), region=region)

    def posterior(self, region: Region, device: torch.device) -> Amortized:
        """Return the round's posterior of the observation within its region.

        It serves to determine the next bounds.
        """
        _, task = self.opened(region, 1, DRAWS)
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


@first_rank_only
def run(settings: RoundsSettings) -> int:
    """Draw from the posterior of one observation by rounds of simulations.

    Returns:
        The exit code of ``in_rounds``.
    """
    simulator = UserFunction.load(settings.simulator, "simulator")
    own = settings.prior != UNIFORM
    return in_rounds(
        settings, simulator, UserFunction.load(settings.prior, "prior") if own else None
    )


def rounds(
    simulator: Callable[..., Any],
    observation: Any,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    prior: Callable[..., Any] | None = None,
    outdir: str | Path | None = None,
    token: str | None = None,
    **options: Any,
) -> PosteriorDraws:
    """Draw from the posterior of one observation, by sequential rounds of simulations (TSNPE).

    Args:
        simulator: Function from parameters ``[N, D]`` and a NumPy generator to simulated data ``[N,
            K]``.
        observation: The K observed numbers: a mapping, a data frame of one row, or an array.
        bounds: Lowest and highest value of each parameter, by name in the order of the simulator.
        prior: Function from a number N and a NumPy generator to parameters ``[N, D]``; None for
            uniform between bounds.
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
    own_prior = None if prior is None else UserFunction.of_object(prior, token)
    with own_folder() as folder:
        path, place = folder / "observation.csv", Path(outdir or folder)
        names = names or numbered(numbers.shape[1], "y")
        save_csv(path, names, torch.from_numpy(np.asarray(numbers, dtype=np.float64)))
        given = {"observation": path, "save_dir": place, "simulator": str(program)}
        if own_prior is not None:
            given["prior"] = str(own_prior)
        if bounds is not None:
            given["bounds"] = tuple((name, *ends) for name, ends in ranges_of(bounds).items())
        settings = from_values(RoundsSettings, {**given, **options})
        in_rounds(settings, program, own_prior)
        last = max(place.glob("round*/network.pkl"), key=lambda path: int(path.parent.name[5:]))
        return PosteriorDraws.from_folder(place, Model.load(last))


def in_rounds(settings: RoundsSettings, simulator: UserFunction, prior: UserFunction | None) -> int:
    """Simulate and train in rounds, draw from the last posterior, and check it.

    Returns:
        The exit code.
    """
    began = perf_counter()
    with process_group(settings.run.device_name):  # an unavailable device raises an error first
        task = Question.of(settings, simulator, prior)
    there = sorted(settings.save_dir.glob(f"{task.name}_*_posterior.*"))
    require_new(there, settings.run.overwrite)
    require_folder(settings.save_dir)
    task.require_own_rounds()
    region, facts = Region(), list[RoundFacts]()
    for place in task.places():
        region, made = place.simulations(region, facts)
        facts.append(made)
        place.train()
        if made.last:
            break
    listed = [asdict(each) for each in facts]
    for each in listed:
        del each["fingerprint"]
    sampling, last = place.opened(region, settings.chains, settings.draws)
    code = draw(sampling, last, began, {"options": settings.recorded(), "rounds": listed})
    held_out = int(load_table(place.data).held_out.sum())
    if held_out < FEWEST_RUNS:
        logger.warning(
            f"Warning: the posterior was not checked: {held_out} simulations of the last "
            f"round are held out, and a check needs {FEWEST_RUNS}. {TOO_NARROW}"
        )
        return code
    logger.info(f"Check within the region, on {held_out} held-out simulations:")
    checking = CheckSettings(
        save_dir=settings.save_dir / "check",
        prior=PriorOptions(network=str(place.network)),
        truth="data",
        data_root=place.data,
        runs=min(held_out, MOST_CHECKED),
        sampler=SamplerOptions(seed=settings.seed),
        run=replace(settings.run, overwrite=True),
    )
    asked_again = replace(InferenceTask.open(checking), region=region)
    if check_learned(checking, asked_again, perf_counter()):
        _, numbers = asked_again.files("posterior_check", ".npz")
        warn_of_weak_check(checking.runs, load_json(numbers)["detectable"] / 100)
    return code


def warn_of_weak_check(runs: int, detectable: float) -> None:
    """Warn if a check that passed could not have detected posteriors that are much too narrow.

    Args:
        runs: Number of held-out simulations that the check used.
        detectable: Error of coverage that such a check detects in 90 % of cases.
    """
    share = undetected_narrowness(detectable)
    if share > NARROW:
        logger.warning(
            f"Warning: the check used {runs} held-out simulations, which may not detect "
            f"posteriors less than {100 * share:.0f} % too narrow (larger errors are "
            f"detected in 90 % of cases). {TOO_NARROW}"
        )
