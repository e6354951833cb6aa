"""Neural likelihoods (NLE): flows of one trial's data, given parameters and covariates.

A posterior with such a likelihood has its own prior: uniform between the bounds of the parameters,
or a flow of the parameters. A uniform prior is also represented as a flow. Its network is
untrained, and its points are ``N(0, 1)`` in coordinates in which the columns are uniform.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import norm
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from dnnlib.warned import warn
from torch_utils import distributed
from training.data.tables.formats import TableSource, listed
from training.data.tables.making import EXACT
from training.data.tables.repeated_trials import first_rows, one_of_each
from training.data.tables.table import DataSource
from training.files.observations import read_trials
from training.flow.coordinates.categories import LevelPrediction
from training.flow.coordinates.conditions import are_there
from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.maps import Bounded, Standardize, WhitenPCA
from training.flow.eigenbasis import EigenBasis
from training.flow.integrations import trivial_integrations
from training.inference.amortized import LogPosterior
from training.inference.trial_likelihoods import (
    FlowTrialDistribution,
    MixedTrialDistribution,
    TrialDistribution,
    TrialLikelihood,
    Trials,
)
from training.learning.building import ModelConfig
from training.names import (
    DISCRETE,
    LIKELIHOOD,
    PRIOR,
    STORED_PRIOR,
    TABLE,
    TABLE_NETWORK,
    TRIALS,
    UNIFORM,
    script,
)
from training.subjects.parameter_priors import ParameterPrior, Part, prior_in_file
from training.subjects.tables import TableFlow, drawn_rows, testable_rows
from training.trained.network import TrainedNetwork

CLOSE = 0.05
"""Largest error of posterior means without a warning, in standard deviations."""
LEAST_NOISE = 1e-10
"""Noise variance at the first time of a uniform flow, small to keep its draws sharp."""


@dataclass(frozen=True)
class LearnedLikelihood:
    """A neural likelihood in a network file.

    Attributes:
        network: Trained network.
        table: Flow of data, with parameters and covariates as conditions.
        distribution: Distribution of one trial.
        bounds: Bounds of the parameters, by name; infinite where there is no bound.
        discrete: Names of discrete parameters.
        trained_on: Number of training trials; None if unknown.
    """

    network: TrainedNetwork
    table: TableFlow
    distribution: TrialDistribution
    bounds: dict[str, tuple[float, float]]
    discrete: list[str] = field(default_factory=list)
    trained_on: int | None = None

    @classmethod
    def of(cls, network: TrainedNetwork) -> "LearnedLikelihood | None":
        """Return the likelihood of a network file, or None if the file has no likelihood.

        Raises:
            DataError: The file's description of its parameters is inconsistent.
        """
        about = network.about
        if about.get(LIKELIHOOD) is None:
            return None
        table, bounds = TableFlow.of(network, {}), _bounds(about[LIKELIHOOD])
        first = _first_level(table)
        if bounds is None or list(bounds) != list(table.condition_names[:first][: len(bounds)]):
            raise DataError(
                f"{network.path} does not declare which of its conditions are parameters"
            )
        discrete = [name for name in bounds if name in about.get(DISCRETE, ())]
        distribution: TrialDistribution = FlowTrialDistribution(table.flow)
        if first < len(table.condition_names):
            distribution = MixedTrialDistribution(distribution, table.coordinates)
        return cls(network, table, distribution, bounds, discrete, about.get(TRIALS))

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters."""
        return list(self.bounds)

    @property
    def data(self) -> list[str]:
        """Names of the data of a trial; category columns are last."""
        return [*self.table.names, *self.table.condition_names[_first_level(self.table) :]]

    @property
    def covariates(self) -> Sequence[str]:
        """Names of the covariates of a trial."""
        return self.table.condition_names[len(self.bounds) : _first_level(self.table)]

    @property
    def given(self) -> list[str]:
        """Names of the data of a trial, followed by the names of its covariates."""
        return [*self.data, *self.covariates]

    @property
    def most_trials(self) -> float:
        """Largest number of trials per observation for which the simulations can suffice.

        The mean of K data, linear in D parameters and V covariates, has ``p = K (D + V + 1)``
        coefficients. Learned from N trials, it has an error of ``p / (2 N)`` nats per trial. In the
        posterior of n trials this shifts the means of D parameters by ``sqrt(n p / (N D))``
        standard deviations. The largest n is the one at which the shift is ``CLOSE``.
        """
        dim = len(self.bounds)
        numbers = len(self.data) * (dim + len(self.covariates) + 1)
        return CLOSE**2 * (self.trained_on or inf) * dim / numbers

    def shifts(self, trials: Trials) -> Tensor:
        """Return a lower bound on the errors of posterior means due to errors of the likelihood.

        Returns:
            Errors for M observations, ``[M]``, in posterior standard deviations, as derived in
            ``most_trials``; 0 if the number of training trials is unknown.
        """
        return CLOSE * (trials.counts.double() / self.most_trials).sqrt()

    def warn_of_many(self, trials: Trials) -> None:
        """Warn of observations that have too many trials for the accuracy of the likelihood."""
        shifts = self.shifts(trials)
        most = int(shifts.argmax())
        if shifts[most] <= CLOSE or not distributed.is_main():
            return
        count, others = int(trials.counts[most]), int((shifts > CLOSE).sum()) - 1
        more = f" {others} more observation(s) are affected." if others else ""
        warn(
            "likelihood-error",
            f"the posterior means of observation {most + 1} ({count} trials) have errors "
            f"of {float(shifts[most]):.2g} standard deviations or more, because the likelihood "
            f"{self.table.data_name} was learned from only {self.trained_on:,} simulated trials: "
            "simulate more trials, and check with as many trials per observation "
            f"({script('posterior')} check).{more}",
        )

    def trials(self, path: TableSource) -> Trials:
        """Read the trials of observations from a file with one trial per row.

        Raises:
            DataError: The file is invalid, see ``read_trials``, or has a category that was not
                simulated.
        """
        trials = read_trials(path, self.data, self.covariates)
        self._require_levels(trials.data, str(path))
        self.table.warn_of_dropped(path, self.table.names, [*self.data, *self.covariates])
        return trials

    def _require_levels(self, data: Tensor, where: str) -> None:
        """Check that the category columns of data ``[T, K]`` have known values.

        Raises:
            DataError: A value is unknown.
        """
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
                f"{where} has a trial with '{names[column]}' = "
                f"{float(data[row, column]):g}: values are from {float(first[column]):g} "
                f"to {last:g} in steps of {float(step[column]):g}"
            )

    def testable(self, path: DataSource) -> int:
        """Return the number of datasets of trials available for testing.

        Raises:
            DataError: The data set is broken.
        """
        return len(testable_rows(one_of_each(self.table.table(path))))

    def simulations(
        self, path: DataSource, count: int, seed: int, names: Sequence[str]
    ) -> tuple[Tensor, Trials]:
        """Return the parameters and trials of simulated datasets, to test calibration.

        Held-out datasets are used if there are any.

        Args:
            path: Data set of trials.
            count: Number of datasets R.
            seed: Random seed for the choice of datasets.
            names: Names of the parameters, in the order of the result.

        Returns:
            Parameters ``[R, D]``, and the trials of each dataset.

        Raises:
            DataError: The data set is broken, has other columns, or too few datasets.
        """
        table = self.table.table(path)
        columns = (table.names, names), (table.condition_names, self.given)
        for there, wanted in columns:
            for name in wanted:
                if name not in there:
                    raise DataError(
                        f"{path} has the columns {listed(there)}, but {self.network.name} "
                        f"expects {listed(wanted)}"
                    )
        given = table.rows.conditions
        assert given is not None
        first = torch.from_numpy(first_rows(table))
        chosen = first[drawn_rows(path, one_of_each(table), count, seed)]
        datasets = torch.arange(len(table))
        if table.datasets is not None:
            datasets = torch.from_numpy(table.datasets)
        number = datasets.new_full((int(datasets.max()) + 1,), -1)
        number[datasets[chosen]] = torch.arange(len(chosen))
        which = number[datasets]
        rows = given[which >= 0]
        places = [table.condition_names.index(name) for name in self.given]
        data, covariates = rows[:, places].tensor_split([len(self.data)], dim=1)
        self._require_levels(data, str(path))
        points = table.points[chosen][:, [table.names.index(name) for name in names]]
        return points, Trials.sorted(data, covariates, which[which >= 0])

    def likelihood(self, trials: Trials, names: Sequence[str]) -> TrialLikelihood:
        """Return the likelihood of trials as a function of points with the named coordinates."""
        places = [names.index(name) for name in self.parameters]
        ends = torch.tensor(list(self.bounds.values()), dtype=torch.float64)
        return TrialLikelihood(self.distribution, trials, places, ends)

    def log_posterior(self, prior: TableFlow, names: Sequence[str], places: Tensor) -> LogPosterior:
        """Return a function for the log posterior density given a trial or a set of trials.

        Args:
            prior: Prior of the parameters.
            names: Names of the D coordinates of points.
            places: Indices ``[K + V]``, among the conditions of a trial, of its K data and then its
                V covariates.
        """
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
                distribution = prior.flow.to(points.device).log_prob(rows[:, order])
                density[inside] = distribution + likelihood.log_prob(
                    rows, rows.new_zeros(len(rows), 1)
                )
            return density

        return log_density

    def prior(self, name: Any) -> TableFlow:
        """Return the prior of the parameters.

        Args:
            name: ``uniform``; ``stored``, for the prior of the simulations; a network file, path
                or URL; or a prior that ``ParameterPrior.of`` takes, also as ``FILE.py:NAME``.

        Raises:
            UsageError: A parameter has no bounds or is discrete, or the prior has other parameters
                or cannot be represented.
            DataError: The file is missing or broken.
        """
        for each in self.discrete:
            raise UsageError(
                f"'{each}' has few values in the simulations, but posteriors are for "
                "continuous parameters: train a likelihood for each of its values, and "
                f"compare them with {script('posterior')} compare"
            )
        name = prior_in_file(name)
        if not isinstance(name, str | TrainedNetwork) or name == STORED_PRIOR:
            if name == STORED_PRIOR:
                name = ParameterPrior.from_text(self.network.about.get(PRIOR), self.network.name)
            own = ParameterPrior.of(name, self.parameters)
            return self._as_prior(distribution_model(own))
        if name != UNIFORM:
            return prior_of(name, self.parameters)
        names, ends = self.parameters, torch.tensor(list(self.bounds.values())).double()
        if not ends.isfinite().all():
            name = names[int((~ends.isfinite()).any(dim=1).int().argmax())]
            raise UsageError(
                f"--prior=uniform needs two bounds, which '{name}' does not have: make "
                f"the data set with {script('dataset_tool')} --bounds={name}:LOW:HIGH, or "
                "give a flow of the parameters"
            )
        return self._as_prior(uniform_model(names, ends))

    def _as_prior(self, model: TrainedNetwork) -> TableFlow:
        about = {**model.about, "data_name": self.table.data_name}
        return TableFlow.of(replace(model, about=about, path=self.network.path), {})


def prior_of(name: str | TrainedNetwork, parameters: Sequence[str]) -> TableFlow:
    """Return the flow of the parameters that ``--prior`` names: a model, a network file or its URL.

    Raises:
        UsageError: The flow has other columns.
        DataError: The file is missing or broken.
    """
    network = TrainedNetwork.open(name)
    if network.data_kind != TABLE:
        raise UsageError(
            f"--prior={network.name} is not a flow of a table: give a flow of the parameters"
        )
    prior = TableFlow.of(network, {}).require_unconditional()
    if sorted(prior.names) != sorted(parameters):
        raise UsageError(
            f"--prior: {network.name} is a flow of {', '.join(prior.names)}, but the "
            f"parameters are {', '.join(parameters)}"
        )
    return prior


def uniform_model(names: Sequence[str], ends: Tensor) -> TrainedNetwork:
    """Return a model of columns that are uniform between bounds ``[D, 2]``."""
    zeros = torch.zeros(len(names), dtype=torch.float64)
    return normal_model(names, ends, zeros, zeros + 1)


def normal_model(
    names: Sequence[str], ends: Tensor, mean: Tensor, spread: Tensor
) -> TrainedNetwork:
    """Return a model of columns that are normal in unbounded coordinates.

    Args:
        names: Names of the columns.
        ends: Bounds ``[D, 2]``.
        mean: Means ``[D]`` in the coordinates mapped by ``Bounded``.
        spread: Standard deviations ``[D]`` or covariance ``[D, D]`` in the mapped coordinates.
    """
    dim = len(names)
    # Subtract the noise variance of the first time, so that draws are exactly uniform.
    basis = EigenBasis.standard(dim, 1 - LEAST_NOISE)
    inflation = {"gamma0": LEAST_NOISE}
    choices = ModelConfig("ifs", inflation, TABLE_NETWORK, {"width": 1, "depth": 1}, "IS", "log")
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
    integrations = trivial_integrations(model.about["tmin"], model.about["tmax"], dim)
    model.denoiser.eval().requires_grad_(False)
    return replace(
        model, about={**model.about, **about}, coordinates=coordinates, integrations=integrations
    )


class Marginals(Bounded):
    """Map of independent columns to standard normal scores, ``y = Phi^-1(F(x))``.

    Distribution functions F are those of SciPy, so that log determinants have no gradients.

    Args:
        parts: Distribution of each column.
    """

    def __init__(self, parts: Sequence[Part]):
        super().__init__(len(parts))
        self.distributions = [part.marginal for part in parts]
        self.set_bounds(*torch.tensor([[part.low, part.high] for part in parts]).double().T)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""
        values = x.detach().cpu().double().numpy()
        scores, slopes = np.empty_like(values), np.empty_like(values)
        for place, own in enumerate(self.distributions):
            column = values[..., place]
            below, above = own.cdf(column), own.sf(column)  # the smaller one has more digits
            scores[..., place] = np.where(below < above, ndtri(below), -ndtri(above))
            slopes[..., place] = own.logpdf(column) - norm.logpdf(scores[..., place])
        y, log_slopes = (torch.from_numpy(each).to(x.device) for each in (scores, slopes))
        return y, log_slopes.sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the points ``[..., D]`` whose images are ``y [..., D]``, with gradients."""
        scores = y.detach().cpu().double().numpy()
        values, slopes = np.empty_like(scores), np.empty_like(scores)
        for place, own in enumerate(self.distributions):
            score = scores[..., place]
            column = np.where(score < 0, own.ppf(ndtr(score)), own.isf(ndtr(-score)))
            slopes[..., place] = np.exp(norm.logpdf(score) - own.logpdf(column))
            values[..., place] = column
        x, slope = (torch.from_numpy(each).to(y.device) for each in (values, slopes))
        return x + slope * (y - y.detach())  # the gradient of F^-1(Phi(y))


def distribution_model(prior: ParameterPrior) -> TrainedNetwork:
    """Return a model of a prior whose parameters are independent or normal.

    Raises:
        UsageError: The prior is another one, or has discrete parameters.
    """
    names, ends = prior.names, torch.from_numpy(prior.ends)
    [part, *others] = prior.parts
    if part.plain is not None and part.dim > 1 and not others:
        mean, covariance = (torch.tensor(part.plain["parameters"][key]) for key in ("mean", "cov"))
        return normal_model(names, ends, mean.double(), covariance.double())
    if prior.discrete or any(each.marginal is None for each in prior.parts):
        raise UsageError(
            f"prior: {prior} has parameters that are neither independent and continuous nor "
            "normal: train a flow of draws, Table.open(draws).train(), and give this model"
        )
    model = uniform_model(names, ends)
    assert model.coordinates is not None
    model.coordinates.maps[0] = Marginals(prior.parts)
    return model


def _first_level(table: TableFlow) -> int:
    """Return the place of the first category column among the conditions; those come last."""
    beside = table.coordinates.beside
    return len(table.condition_names) - (0 if beside is None else len(beside.counts))


def _bounds(stored: object) -> dict[str, tuple[float, float]] | None:
    """Return bounds by name, as written by ``about_likelihood``; None for anything else."""
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
