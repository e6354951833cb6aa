"""Results of the library: one family of classes with the same five methods.

Each result has a ``summary`` as a data frame, the ``warnings`` of the call that made it, and the
methods ``save``, ``plot`` and ``to_arviz``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import UsageError
from dnnlib.files import atomic_path
from dnnlib.warned import InflationWarning
from torch_utils.results import save_json
from training.files.population import QUANTILES, SavedPopulation
from training.measure.posterior.convergence import convergence
from training.models.conversion import whole_frame
from training.models.library import library_class
from training.trained.network import TrainedNetwork


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result(ABC):
    """Result of a call of the library.

    Attributes:
        warnings: Warnings of the call, each with a code, a text and numbers.
    """

    warnings: Sequence[InflationWarning] = field(default=())

    @abstractmethod
    def summary(self) -> Any:
        """Return the most important numbers as a data frame."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write the result to a file."""

    @abstractmethod
    def plot(self) -> Any:
        """Return a Matplotlib figure of the result."""

    @abstractmethod
    def to_arviz(self) -> Any:
        """Return the result as ``InferenceData`` of ArviZ."""

    def _repr_html_(self) -> Any:
        return self.summary()._repr_html_()


def figure_of(figure: Any) -> Any:
    """Draw the description of a figure with Matplotlib."""
    return import_module("training.pictures.drawing").draw(figure)


def path_with_suffix(path: str | Path, suffix: str) -> Path:
    """Return a path of a file to write.

    Raises:
        UsageError: The path has another suffix.
    """
    path = Path(path)
    if path.suffix != suffix:
        raise UsageError(f"{path}: give a path that ends in {suffix}")
    return path


@library_class
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PopulationDraws(Result):
    """Posterior of a hierarchical model: of the population, a new member, and all members.

    Each parameter is normal across members, in coordinates that bounds determine: itself, a log of
    the distance from one bound, or a probit between two.

    Attributes:
        arrays: Draws of all quantities, as they are in files.
        facts: Plain values, as in the JSON of ``posterior.py population``.
        prior: Network of a prior for new members, 1.5 times as wide as a new member.
    """

    arrays: SavedPopulation
    facts: Mapping[str, Any]
    prior: TrainedNetwork

    def __repr__(self) -> str:
        count = self.arrays.members.shape[2]
        return f"PopulationDraws({count} members, of {', '.join(self.arrays.names)})"

    @property
    def names(self) -> list[str]:
        """Names of the D parameters."""
        return list(self.arrays.names)

    @property
    def converged(self) -> bool:
        """Whether the draws have converged."""
        return bool(self.facts["converged"])

    @property
    def members(self) -> np.ndarray:
        """Draws ``[M, S, D]`` from the posterior of each member, given the data of all members."""
        drawn = np.moveaxis(self.arrays.members, 2, 0)
        return drawn.reshape(len(drawn), -1, drawn.shape[-1])

    def summary(self) -> Any:
        """Return a data frame with three rows for each parameter.

        The rows are of the population mean, the population standard deviation, and a new member.
        The first two are in the coordinates in which members are normal, a new member is in units
        of the parameter. Columns are the mean, standard deviation, quantiles and effective sample
        size, and whether the draws have converged.
        """
        quantities = {
            "population mean": self.arrays.mean,
            "population standard deviation": self.arrays.spread,
            "new member": self.arrays.further,
        }
        rows = []
        for place, name in enumerate(self.names):
            for quantity, values in quantities.items():
                own = values[..., place]
                ess = convergence(torch.from_numpy(own)[..., None]).ess_bulk
                levels = np.quantile(own, QUANTILES)
                rows.append(
                    {
                        "parameter": name,
                        "quantity": quantity,
                        "mean": own.mean(),
                        "std": own.std(),
                        **{f"q{level}": end for level, end in zip(QUANTILES, levels, strict=True)},
                        "ess": float(ess[0]),
                        "converged": self.converged,
                    }
                )
        return whole_frame({key: [row[key] for row in rows] for key in rows[0]}, None)

    def save(self, path: str | Path) -> None:
        """Write the draws as ``.npz``, and the facts beside them as JSON."""
        path = path_with_suffix(path, ".npz")
        self.arrays.save(path)
        save_json(path.with_suffix(".json"), dict(self.facts))

    def plot(self) -> Any:
        """Return a Matplotlib figure of the members' intervals, alone and in the population."""
        posteriors = import_module("training.pictures.posteriors")
        return figure_of(posteriors.members(self.arrays, "posterior draws"))

    def to_arviz(self) -> Any:
        """Return the draws as ``InferenceData`` of ArviZ, with chains of equal length."""
        arrays = {
            "population_mean": self.arrays.mean,
            "population_std": self.arrays.spread,
            "new_member": self.arrays.further,
            "member": self.arrays.members,
        }
        dims = {key: ["parameter"] for key in arrays} | {"member": ["index", "parameter"]}
        return import_module("arviz").from_dict(
            posterior=arrays, dims=dims, coords={"parameter": self.names}
        )


@library_class
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ModelEvidence(Result):
    """Evidences of one or several models for M observations.

    Attributes:
        names: Names of the K models.
        log_evidence: Log evidences ``[M, K]``, in nats.
        error: Sampling errors of the log evidences ``[M, K]``, in nats.
        probability: Probabilities of the models ``[M, K]``.
        converged: Whether the posterior of each model has converged, ``[M, K]``.
        shifts: Smallest number of standard deviations by which errors of the learned likelihoods
            shift posterior means, ``[M, K]``.
        facts: Plain values, as in ``comparison.json``.
    """

    names: Sequence[str]
    log_evidence: np.ndarray
    error: np.ndarray
    probability: np.ndarray
    converged: np.ndarray
    shifts: np.ndarray
    facts: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"ModelEvidence({len(self.log_evidence)} observations, of {', '.join(self.names)})"

    def summary(self) -> Any:
        """Return a data frame with a row for each observation and model."""
        arrays = {
            "log_evidence": self.log_evidence,
            "error": self.error,
            "probability": self.probability,
            "converged": self.converged,
        }
        count, models = self.log_evidence.shape
        columns: dict[str, list[Any]] = {
            "observation": np.repeat(np.arange(count), models).tolist(),
            "model": [*self.names] * count,
            **{name: values.ravel().tolist() for name, values in arrays.items()},
        }
        return whole_frame(columns, None)

    def save(self, path: str | Path) -> None:
        """Write the plain values as JSON."""
        save_json(path_with_suffix(path, ".json"), dict(self.facts))

    def plot(self) -> Any:
        """Return a Matplotlib figure of the log evidences with their errors."""
        figure = import_module("training.pictures.figure")
        theme = import_module("training.pictures.theme")
        rows = np.arange(len(self.log_evidence))
        marks = []
        for place, name in enumerate(self.names):
            value, error = self.log_evidence[:, place], 2 * self.error[:, place]
            x, color = rows + 0.1 * place, (theme.BLUE, theme.ORANGE, theme.MUTED)[place % 3]
            marks.append(figure.Segments(x, x, value - error, value + error, color))
            marks.append(figure.Points(x, value, color, name))
        panel = figure.Panel(
            marks,
            x="observation",
            y="log evidence, nats",
            x_ticks={float(row): str(row + 1) for row in rows[:20]},
        )
        return figure_of(figure.Figure("Evidence of models", "bars: two standard errors", [panel]))

    def to_arviz(self) -> Any:
        """Return the evidences as a group ``evidence`` of ``InferenceData`` of ArviZ."""
        xarray = import_module("xarray")
        dims = ("observation", "model")
        arrays = {
            "log_evidence": (dims, self.log_evidence),
            "error": (dims, self.error),
            "probability": (dims, self.probability),
        }
        dataset = xarray.Dataset(arrays, coords={"model": [*self.names]})
        return import_module("arviz").InferenceData(evidence=dataset)


@library_class
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class QueryDraws(Result):
    """Draws of D numeric columns of a table, given the other observed cells of M rows.

    Attributes:
        names: Names of the D columns.
        points: Draws ``[M, S, D]``: S independent draws for each of M rows.
    """

    names: Sequence[str]
    points: np.ndarray

    def __repr__(self) -> str:
        rows, draws, _ = self.points.shape
        return f"QueryDraws({rows} rows, {draws} draws each, of {', '.join(self.names)})"

    def summary(self) -> Any:
        """Return a data frame with a row for each observed row and column."""
        rows = [
            {
                "row": row,
                "name": name,
                "mean": own.mean(),
                "std": own.std(),
                **{f"q{level}": np.quantile(own, level) for level in QUANTILES},
            }
            for row, drawn in enumerate(self.points)
            for name, own in zip(self.names, drawn.T, strict=True)
        ]
        return whole_frame({key: [row[key] for row in rows] for key in rows[0]}, None)

    @property
    def dataset(self) -> Any:
        """The draws as a dataset of xarray, ``[row, draw]`` for each column."""
        columns = {
            name: (("row", "draw"), self.points[..., k]) for k, name in enumerate(self.names)
        }
        return import_module("xarray").Dataset(columns)

    def save(self, path: str | Path) -> None:
        """Write the draws as netCDF-4."""
        with atomic_path(path_with_suffix(path, ".nc")) as new:
            self.dataset.to_netcdf(new, engine="h5netcdf")

    def plot(self) -> Any:
        """Return a Matplotlib figure with the histograms of the first rows, for each column."""
        posteriors = import_module("training.pictures.posteriors")
        figure = import_module("training.pictures.figure")
        theme = import_module("training.pictures.theme")
        shown = min(len(self.points), posteriors.MOST_OBSERVATIONS)
        colors = list(theme.sequential_colors(max(shown, 2))[:shown, None])
        panels = []
        for place, name in enumerate(self.names):
            values = {f"row {row + 1}": self.points[row, :, place] for row in range(shown)}
            panel = posteriors.histograms(None, values, colors)
            panels.append(replace(panel, title=name))
        return figure_of(figure.Figure("Draws given the other cells", "", panels, len(panels)))

    def to_arviz(self) -> Any:
        """Return the draws as ``InferenceData`` of ArviZ, in one chain."""
        posterior = self.dataset.expand_dims("chain").transpose("chain", "draw", "row")
        return import_module("arviz").InferenceData(posterior=posterior)
