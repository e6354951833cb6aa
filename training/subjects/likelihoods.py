"""Learned likelihoods: flows of one trial's data, given parameters and covariates.

A posterior by one has a prior of its own: uniform between the bounds of the parameters, or a flow
of them. A uniform prior is a flow too, of a network that was never trained: of ``N(0, 1)`` in
coordinates where such columns are uniform.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import DataError, UsageError
from training.data.tables.table import Dropped
from training.files.observations import read_trials
from training.flow.coordinates.coordinates import Coordinates
from training.flow.coordinates.maps import Bounded
from training.flow.courses import courses_at_rest
from training.flow.eigenbasis import EigenBasis
from training.inference.trials import TrialLikelihood, Trials
from training.learning.building import Choices
from training.model.model import Model
from training.names import LIKELIHOOD, TABLE, TABLE_NETWORK, UNIFORM
from training.subjects.networks import NetworkFile
from training.subjects.tables import TableFlow

LEAST_NOISE = 1e-10
"""Variance of the first time, of what is uniform: its draws are not to be blurred."""


@dataclass(frozen=True)
class LearnedLikelihood:
    """What a network file of a likelihood is of.

    Attributes:
        file: The network.
        table: Its flow: points are data, conditions are parameters and covariates.
        bounds: Of the parameters, by name, infinite where there is none.
    """

    file: NetworkFile
    table: TableFlow
    bounds: dict[str, tuple[float, float]]

    @classmethod
    def of(cls, file: NetworkFile) -> "LearnedLikelihood | None":
        """That of a network file; None if it is of something else.

        Raises:
            DataError: What the file says of its parameters makes no sense.
        """
        stored = file.model.about.get(LIKELIHOOD)
        if stored is None:
            return None
        table, bounds = TableFlow.of(file, {}), _bounds(stored)
        if bounds is None or list(bounds) != list(table.conditions[: len(bounds)]):
            raise DataError(f"{file.path} does not say which of its conditions are parameters")
        return cls(file, table, bounds)

    @property
    def parameters(self) -> list[str]:
        """Their names."""
        return list(self.bounds)

    @property
    def covariates(self) -> Sequence[str]:
        """Names of what else is known of a trial."""
        return self.table.conditions[len(self.bounds) :]

    def trials(self, path: Path) -> Trials:
        """The trials of a file of observations, one in each row; raises as ``read_trials``."""
        return read_trials(path, self.table.names, self.covariates)

    def likelihood(self, trials: Trials, prior: TableFlow) -> TrialLikelihood:
        """Of points of a prior."""
        names = prior.names
        places = [names.index(name) for name in self.parameters]
        return TrialLikelihood(self.table.flow, trials, places)

    def prior(self, name: str) -> TableFlow:
        """The prior of the parameters.

        Args:
            name: ``uniform``, or a network file, path or URL.

        Raises:
            UsageError: A parameter has no bounds, or the network is of other columns.
            DataError: The network file is missing or broken.
        """
        if name == UNIFORM:
            return self._uniform()
        file = NetworkFile.open(name)
        if file.kind != TABLE:
            raise UsageError(f"--prior={name} is of no table: give a flow of the parameters")
        prior = TableFlow.of(file, {}).require_unconditional()
        if sorted(prior.names) != sorted(self.parameters):
            raise UsageError(
                f"--prior={name} is a flow of {', '.join(prior.names)}, but the parameters are "
                f"{', '.join(self.parameters)}"
            )
        return prior

    def _uniform(self) -> TableFlow:
        names, ends = self.parameters, torch.tensor(list(self.bounds.values())).double()
        if not ends.isfinite().all():
            name = names[int((~ends.isfinite()).any(dim=1).int().argmax())]
            raise UsageError(
                f"--prior=uniform is between bounds, which '{name}' has not: make the data set "
                f"with dataset_tool.py --bounds={name}:LOW:HIGH, or give a flow of the parameters"
            )
        model = uniform_model(names, ends)
        about = {**model.about, "data_name": self.table.data_name}
        return TableFlow.of(NetworkFile(self.file.path, replace(model, about=about)), {})


def uniform_model(names: Sequence[str], ends: torch.Tensor) -> Model:
    """A flow that is uniform between bounds ``[D, 2]`` of columns."""
    dim = len(names)
    unit = torch.ones(dim, dtype=torch.float64)
    # What the noise of the first time adds is taken off before: draws are uniform, not nearly so.
    basis = EigenBasis(0 * unit, (1 - LEAST_NOISE) * unit, torch.diag(unit))
    inflation = {"gamma0": LEAST_NOISE}
    choices = Choices("ifs", inflation, TABLE_NETWORK, {"width": 1, "depth": 1}, "IS", "log")
    with torch.random.fork_rng(devices=[]):
        model, _ = choices.build(basis)
    coordinates = Coordinates(dim, ["bounded"])
    (bounded,) = coordinates.maps
    assert isinstance(bounded, Bounded)
    bounded.set_bounds(ends[:, 0], ends[:, 1])
    about: dict[str, Any] = {"kind": TABLE, "columns": list(names), "condition_names": []}
    dropped = Dropped.none(names)
    about["dropped"] = {"names": [], "offsets": [], "slopes": [], "order": list(dropped.order)}
    courses = courses_at_rest(model.about["tmin"], model.about["tmax"], dim)
    model.denoiser.eval().requires_grad_(False)
    return replace(model, about={**model.about, **about}, coordinates=coordinates, courses=courses)


def _bounds(stored: object) -> dict[str, tuple[float, float]] | None:
    """Bounds by name, as ``about_likelihood`` wrote them; None if they are others."""
    if not isinstance(stored, dict) or not stored:
        return None
    bounds = {}
    for name, ends in stored.items():
        if not (isinstance(name, str) and isinstance(ends, list) and len(ends) == 2):
            return None
        low, high = ends
        if any(not isinstance(end, float | int | None) for end in ends):
            return None
        bounds[name] = (-inf if low is None else float(low), inf if high is None else float(high))
        if bounds[name][0] >= bounds[name][1]:
            return None
    return bounds
