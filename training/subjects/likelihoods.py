"""Learned likelihoods: flows of one trial's data, given parameters and covariates.

A posterior by one has a prior of its own: uniform between the bounds of the parameters, or a flow
of them. A uniform prior is a flow too, of a network that was never trained: of ``N(0, 1)`` in
coordinates where such columns are uniform.

Of trials with holes, ``trial_training`` has trained a flow of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf, log, pi
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from training.data.tables.foreign import listed
from training.data.tables.marginals import EXACT
from training.data.tables.trials import first_rows, one_of_each
from training.files.observations import WITH_HOLES, read_trials
from training.flow.coordinates.conditions import are_there
from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.levels import LevelPrediction
from training.flow.coordinates.maps import Bounded, Standardize, WhitenPCA
from training.flow.courses import courses_at_rest
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.inference.amortized import LogPosterior
from training.inference.trials import (
    FlowLaw,
    TrialLaw,
    TrialLikelihood,
    Trials,
    WithLevels,
    cell_shifts,
)
from training.learning.building import Choices
from training.model.model import Model
from training.names import DISCRETE, LIKELIHOOD, TABLE, TABLE_NETWORK, TRIALS, UNIFORM, script
from training.networks.mixture import ABSENT, ASKED
from training.networks.questions import TrialNetwork
from training.subjects.networks import NetworkFile
from training.subjects.tables import TableFlow, drawn_rows, testable_rows
from training.subjects.trial_training import residuals


class HolesLaw(TrialLaw):
    """The law of the data that are there of a trial, NaN being those that are not.

    Roughly it is that of the mixture which the flow starts from. Values of discrete columns stand
    for their steps, as in ``FlowLaw``.

    Args:
        flow: Of data given parameters and covariates.
        network: Its network.
    """

    def __init__(self, flow: ProbabilityFlow, network: TrialNetwork):
        assert flow.coordinates is not None
        self._flow, self._network = flow, network
        self._cells = cell_shifts(flow.coordinates.steps)
        self.is_rough = network.is_start

    def to(self, device: torch.device) -> "HolesLaw":
        return HolesLaw(self._flow.to(device), self._network)

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        return self._over_cells(trials, torch.cat([parameters, covariates], dim=1), self._of_flow)

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        return self._over_cells(trials, torch.cat([parameters, covariates], dim=1), self._of_start)

    def _over_cells(
        self, trials: Tensor, given: Tensor, log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        assert self._flow.coordinates is not None
        coordinates = self._flow.coordinates.given(given)
        labels, states = coordinates.labels, torch.where(trials.isnan(), ABSENT, ASKED)
        assert labels is not None
        centers, of_cell = coordinates.rounded(trials), []
        for shift in self._cells:
            u, log_slopes = residuals(coordinates, centers + shift)
            of_numbers = log_prob(u, labels, states)
            of_cell.append(of_numbers + log_slopes.masked_fill(states == ABSENT, 0.0).sum(dim=1))
        return torch.stack(of_cell).logsumexp(dim=0) - log(len(of_cell))

    def _of_start(self, u: Tensor, labels: Tensor, states: Tensor) -> Tensor:
        gamma = self._flow.schedule.noise_variance(self._flow.times(1)[0])[:1]
        return self._network.mixture.log_prob(u, states, gamma)

    def _of_flow(self, u: Tensor, labels: Tensor, states: Tensor) -> Tensor:
        given = {"labels": torch.cat([labels, states.to(labels)], dim=1).float()}
        flow = self._flow.under(given)
        flow.coordinates = None
        asked = states == ASKED
        times, _ = self._flow.course("densities")
        joint = flow.log_prob(torch.where(asked, u, 0.0))
        # What is absent is a standard normal number at 0, with the noise of the first time.
        variance = 1 + float(self._flow.schedule.noise_variance(times[0])[0])
        return joint + (~asked).sum(dim=1) * log(2 * pi * variance) / 2


CLOSE = 0.05
"""Largest error of posterior means without a warning, in standard deviations."""
LEAST_NOISE = 1e-10
"""Variance of the first time, of what is uniform: its draws are not to be blurred."""


@dataclass(frozen=True)
class LearnedLikelihood:
    """What a network file of a likelihood is of.

    Attributes:
        file: The network.
        table: Its flow: points are data, conditions are parameters and covariates.
        law: Of one trial.
        bounds: Of the parameters, by name, infinite where there is none.
        discrete: Parameters of few values.
        trained_on: Trials; None where that is not known.
    """

    file: NetworkFile
    table: TableFlow
    law: TrialLaw
    bounds: dict[str, tuple[float, float]]
    discrete: list[str] = field(default_factory=list)
    trained_on: int | None = None

    @classmethod
    def of(cls, file: NetworkFile) -> "LearnedLikelihood | None":
        """That of a network file; None if it is of something else. Raises DataError if what the
        file says of its parameters makes no sense."""
        about, network = file.model.about, file.model.denoiser.network
        if about.get(LIKELIHOOD) is None:
            return None
        table, bounds = TableFlow.of(file, {}), _bounds(about[LIKELIHOOD])
        first = _first_level(table)
        if bounds is None or list(bounds) != list(table.conditions[:first][: len(bounds)]):
            raise DataError(f"{file.path} does not say which of its conditions are parameters")
        discrete = [name for name in bounds if name in about.get(DISCRETE, ())]
        law: TrialLaw = FlowLaw(table.flow)
        if isinstance(network, TrialNetwork):
            law = HolesLaw(table.flow, network)
        if first < len(table.conditions):
            law = WithLevels(law, table.coordinates)
        return cls(file, table, law, bounds, discrete, about.get(TRIALS))

    @property
    def takes_holes(self) -> bool:
        """Whether data of trials may be missing, as in the simulations."""
        return isinstance(self.law, HolesLaw)

    @property
    def parameters(self) -> list[str]:
        """Their names."""
        return list(self.bounds)

    @property
    def data(self) -> list[str]:
        """Names of the data of a trial, levels beside numbers last."""
        return [*self.table.names, *self.table.conditions[_first_level(self.table) :]]

    @property
    def covariates(self) -> Sequence[str]:
        """Names of what else is known of a trial."""
        return self.table.conditions[len(self.bounds) : _first_level(self.table)]

    @property
    def given(self) -> list[str]:
        """Names of the data of a trial and of its covariates."""
        return [*self.data, *self.covariates]

    @property
    def most_trials(self) -> float:
        """Largest number of trials of an observation for which the simulations can be enough.

        The mean of K data, linear in D parameters and V covariates, has ``p = K (D + V + 1)``
        numbers to learn, which N trials leave ``p / (2 N)`` nats of a trial off. In the posterior
        of n trials that moves the means of D parameters by ``sqrt(n p / (N D))`` standard
        deviations: here until that is ``CLOSE``.
        """
        dim = len(self.bounds)
        numbers = len(self.data) * (dim + len(self.covariates) + 1)
        return CLOSE**2 * (self.trained_on or inf) * dim / numbers

    def shifts(self, trials: Trials) -> Tensor:
        """Return how far errors of the likelihood shift posterior means of observations ``[M]``, at
        least, in standard deviations: see ``most_trials``; 0 where that is not known."""
        return CLOSE * (trials.counts.double() / self.most_trials).sqrt()

    def warn_of_many(self, trials: Trials) -> None:
        """Warn of observations of more trials than the likelihood was learned well enough for."""
        shifts = self.shifts(trials)
        most = int(shifts.argmax())
        if shifts[most] <= CLOSE or not distributed.is_main():
            return
        count, others = int(trials.counts[most]), int((shifts > CLOSE).sum()) - 1
        more = f" So do those of {others} other observation(s)." if others else ""
        logger.warning(
            f"Warning: the posterior means of observation {most + 1} ({count} trials) have errors "
            f"of {float(shifts[most]):.2g} standard deviations or more, because the likelihood "
            f"{self.table.data_name} was learned from only {self.trained_on:,} simulated trials: "
            "simulate more trials, and check with as many trials per observation "
            f"({script('posterior')} check).{more}"
        )

    def trials(self, path: Path) -> Trials:
        """The trials of a file of observations, one in each row. Raises DataError as
        ``read_trials``, or a level is none that was simulated."""
        trials = read_trials(path, self.data, self.covariates, self.takes_holes)
        self._require_levels(trials.data, str(path))
        self.table.warn_of_dropped(path, self.table.names, [*self.data, *self.covariates])
        return trials

    def _require_levels(self, data: Tensor, where: str) -> None:
        """Raises DataError if data ``[T, K]`` that are levels have another value."""
        coordinates = self.table.coordinates
        levels: nn.Module | None = coordinates.beside
        if coordinates.levels:
            [levels] = coordinates.maps
        if levels is None:
            return
        assert isinstance(levels, LevelPrediction)
        names = self.data[-len(levels.counts) :]
        first, step = levels.first, levels.step
        data = data[:, -len(names) :]
        nearest = first + step * levels.numbers(data)
        wrong = (data - nearest).abs() > EXACT * (1 + nearest.abs())
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            last = float(first[column] + step[column] * (levels.counts[column] - 1))
            raise DataError(
                f"{where} has a trial whose '{names[column]}' is "
                f"{float(data[row, column]):g}: its levels are from {float(first[column]):g} to "
                f"{last:g} in steps of {float(step[column]):g}"
            )

    def testable(self, path: Path) -> int:
        """How many datasets a data set has to test. Raises DataError if it is broken."""
        return len(testable_rows(one_of_each(self.table.table(path))))

    def simulations(
        self, path: Path, count: int, seed: int, names: Sequence[str]
    ) -> tuple[Tensor, Trials]:
        """Parameters ``[R, D]``, in the order of names that is wanted, of datasets that are to be
        found again, held out if there are such, and the trials of each. Raises DataError if the
        data set of trials is broken, has other columns, or fewer datasets."""
        table = self.table.table(path)
        columns = (table.columns.names, names), (table.condition_names, self.given)
        for there, wanted in columns:
            for name in wanted:
                if name not in there:
                    raise DataError(
                        f"{path} has {listed(there)}, but {self.file.name} is of {listed(wanted)}"
                    )
        assert table.conditions is not None
        chosen = first_rows(table)[drawn_rows(path, one_of_each(table), count, seed)]
        datasets = torch.arange(len(table)) if table.datasets is None else table.datasets
        number = datasets.new_full((int(datasets.max()) + 1,), -1)
        number[datasets[chosen]] = torch.arange(len(chosen))
        which = number[datasets]
        rows = table.conditions[which >= 0]
        places = [table.condition_names.index(name) for name in self.given]
        data, covariates = rows[:, places].tensor_split([len(self.data)], dim=1)
        self._require_levels(data, str(path))
        if data.isnan().any() and not self.takes_holes:
            raise DataError(f"{path} has trials with missing data: {WITH_HOLES}")
        points = table.points[chosen][:, [table.columns.names.index(name) for name in names]]
        return points, Trials.sorted(data, covariates, which[which >= 0])

    def likelihood(self, trials: Trials, names: Sequence[str]) -> TrialLikelihood:
        """Of points whose coordinates are so named."""
        places = [names.index(name) for name in self.parameters]
        ends = torch.tensor(list(self.bounds.values()), dtype=torch.float64)
        return TrialLikelihood(self.law, trials, places, ends)

    def log_posterior(self, prior: TableFlow, names: Sequence[str], places: Tensor) -> LogPosterior:
        """Log densities of points, whose coordinates ``[D]`` are so named, under a prior and given
        a trial or a set of them. Places ``[K + V]`` of its data, and then its covariates, are among
        the conditions of a trial."""
        order = [list(names).index(name) for name in prior.names]
        size = len(self.data)

        def log_density(points: Tensor, conditions: Tensor) -> Tensor:
            rows = conditions[0].view(-1, len(places))[:, places.to(points.device)]
            data, covariates = rows[are_there(rows)].tensor_split([size], dim=1)
            self._require_levels(data, "--condition")
            one = Trials(data, covariates, torch.tensor([len(data)], device=points.device))
            likelihood = self.likelihood(one, names).to(points.device)
            inside = likelihood.inside(points) & prior.coordinates.inside(points[:, order])
            density = points.new_full((len(points),), -inf)
            if inside.any():
                rows = points[inside]
                law = prior.flow.to(points.device).log_prob(rows[:, order])
                density[inside] = law + likelihood.log_prob(rows, rows.new_zeros(len(rows), 1))
            return density

        return log_density

    def prior(self, name: str) -> TableFlow:
        """The prior of the parameters: ``uniform``, or a network file, path or URL. Raises
        UsageError if a parameter has no bounds, or is discrete, or the network is of other columns,
        DataError if its file is missing or broken."""
        for each in self.discrete:
            raise UsageError(
                f"'{each}' has few values in the simulations, and posteriors are of continuous "
                "parameters: train a likelihood for each of its values, and "
                f"{script('posterior')} compare "
                "says how probable each is"
            )
        if name != UNIFORM:
            return prior_of(name, self.parameters)
        names, ends = self.parameters, torch.tensor(list(self.bounds.values())).double()
        if not ends.isfinite().all():
            name = names[int((~ends.isfinite()).any(dim=1).int().argmax())]
            raise UsageError(
                f"--prior=uniform is between bounds, which '{name}' has not: make the data set "
                f"with {script('dataset_tool')} --bounds={name}:LOW:HIGH, or give a flow of the "
                "parameters"
            )
        model = uniform_model(names, ends)
        about = {**model.about, "data_name": self.table.data_name}
        return TableFlow.of(NetworkFile(self.file.path, replace(model, about=about)), {})


def prior_of(name: str, parameters: Sequence[str]) -> TableFlow:
    """The flow of parameters that ``--prior`` names, a network file, path or URL. Raises UsageError
    if it is of others, DataError if the file is missing or broken."""
    file = NetworkFile.open(name)
    if file.kind != TABLE:
        raise UsageError(f"--prior={name} is of no table: give a flow of the parameters")
    prior = TableFlow.of(file, {}).require_unconditional()
    if sorted(prior.names) != sorted(parameters):
        raise UsageError(
            f"--prior={name} is a flow of {', '.join(prior.names)}, but the parameters are "
            f"{', '.join(parameters)}"
        )
    return prior


def uniform_model(names: Sequence[str], ends: Tensor) -> Model:
    """A flow that is uniform between bounds ``[D, 2]`` of columns."""
    zeros = torch.zeros(len(names), dtype=torch.float64)
    return normal_model(names, ends, zeros, zeros + 1)


def normal_model(names: Sequence[str], ends: Tensor, mean: Tensor, spread: Tensor) -> Model:
    """A flow of columns that are normal where bounds ``[D, 2]`` are mapped away (``Bounded``), with
    means ``[D]`` and standard deviations ``[D]``, or a covariance ``[D, D]``, there."""
    dim = len(names)
    # What the noise of the first time adds is taken off before: draws are uniform, not nearly so.
    basis = EigenBasis.standard(dim, 1 - LEAST_NOISE)
    inflation = {"gamma0": LEAST_NOISE}
    choices = Choices("ifs", inflation, TABLE_NETWORK, {"width": 1, "depth": 1}, "IS", "log")
    with torch.random.fork_rng(devices=[]):
        model, _ = choices.build(basis)
    coordinates = Coordinates(dim, ["bounded", "pca" if spread.ndim > 1 else "standardize"])
    bounded, linear = coordinates.maps
    assert isinstance(bounded, Bounded)
    bounded.set_bounds(ends[:, 0], ends[:, 1])
    if isinstance(linear, WhitenPCA):
        variances, axes = torch.linalg.eigh(spread)
        linear.hold(mean=mean, axes=axes, std=variances.sqrt())
    else:
        assert isinstance(linear, Standardize)
        linear.hold(mean=mean, std=spread)
    about: dict[str, Any] = {"kind": TABLE, "columns": list(names), "condition_names": []}
    about["dropped"] = {"names": [], "offsets": [], "slopes": [], "order": list(names)}
    courses = courses_at_rest(model.about["tmin"], model.about["tmax"], dim)
    model.denoiser.eval().requires_grad_(False)
    return replace(model, about={**model.about, **about}, coordinates=coordinates, courses=courses)


def _first_level(table: TableFlow) -> int:
    """Where levels that stand beside numbers begin among the conditions: they are the last."""
    beside = table.coordinates.beside
    return len(table.conditions) - (0 if beside is None else len(beside.counts))


def _bounds(stored: object) -> dict[str, tuple[float, float]] | None:
    """Bounds by name, as ``about_likelihood`` wrote them; None if they are others."""
    if not isinstance(stored, dict) or not stored:
        return None
    bounds = {}
    for name, ends in stored.items():
        match ends:
            case [float() | int() | None as low, float() | int() | None as high]:
                low, high = -inf if low is None else low, inf if high is None else high
                bounds[name] = float(low), float(high)
            case _:
                return None
        if not isinstance(name, str) or low >= high:
            return None
    return bounds
