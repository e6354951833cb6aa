"""Trained models from Python: sampling and densities of rows, and posteriors given observations.

    >>> from training import Table
    >>> model = Table.open(frame).train(seed=0)                            # doctest: +SKIP
    >>> rows = model.sample(1000)                                          # doctest: +SKIP
    >>> draws = model.posterior(noise_std=0.1).sample({"price": 240.0})    # doctest: +SKIP
    >>> draws.summary()                                                    # doctest: +SKIP

Posteriors and checks are those of ``posterior.py``, with options of the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from math import log, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path
from dnnlib.lists import joined
from dnnlib.numbers import natural
from torch_utils.results import load_json, save_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.posterior_draws import load_netcdf
from training.flow.bin_averages import cell_log_prob, has_cells
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.inference.amortized import Amortized
from training.model import model
from training.models import conversion
from training.models.latent_density import LatentDensity
from training.names import LIKELIHOOD, UNIFORM
from training.settings.declared import from_values
from training.settings.inference import LIKELIHOODS
from training.settings.posterior import (
    CheckSettings,
    CompareSettings,
    PopulationSettings,
    SampleSettings,
)
from training.subjects import NetworkFile, Subject, open_prior

UNNORMALIZED = {"noise_std", "likelihood", "prior", "correct", "deblur"}
"""Options that make the density of a posterior unknown, or known only up to a constant."""
ROW_PACKAGE = "row_package"
"""Key of ``about``: package of the rows that the model returns; None for pandas."""


@dataclass(repr=False)
class Model(model.Model):
    """A trained model; see ``training.model.model.Model`` for its contents.

    Rows of a table are a data frame, whose columns are found by their names, or an array or a
    tensor in the order of ``columns``; results are of the kind of the training rows. Images ``[N,
    C, H, W]`` are in gray levels, as in files, from 0 to 255 for images of the data; points of
    ``flow`` itself are flat, and from -1 to 1.

    Attributes:
        kind: Package of the training rows, in whose kind rows are returned; None for pandas, or
            NumPy if there are no columns. Network files store it in ``about``.
    """

    @property
    def kind(self) -> str | None:
        """Package of the rows that the model returns; None for pandas."""
        kind = self.about.get(ROW_PACKAGE)
        return kind if isinstance(kind, str) else None

    @kind.setter
    def kind(self, kind: str) -> None:
        if kind == conversion.FRAMES:
            self.about.pop(ROW_PACKAGE, None)
        else:
            self.about[ROW_PACKAGE] = kind

    @cached_property
    def subject(self) -> Subject:
        """Subject of the model: the flow and the meaning of its points."""
        return open_prior(NetworkFile(Path("model"), self))

    def rows_of(self, names: Sequence[str], values: np.ndarray) -> Any:
        """Return numbers ``[N, D]`` as rows of the model's kind, or as images ``[N, C, H, W]``."""
        if self.subject.columns is None:
            return values.reshape(-1, *self.subject.point_shape)
        return conversion.rows_as(self.kind or conversion.FRAMES, names, values)

    def flat(self, rows: Any) -> Any:
        """Return images ``[..., C, H, W]``, or observations of them, as rows.

        Other rows are returned unchanged.
        """
        axes = len(self.subject.point_shape)
        if axes == 1 or np.ndim(rows) < axes:
            return rows
        return np.reshape(rows, (-1, prod(np.shape(rows)[-axes:])))

    @property
    def columns(self) -> list[str]:
        """Names of the columns of rows."""
        return self._named(np.zeros((0, self.subject.dim)))[0]

    @property
    def covariates(self) -> list[str]:
        """Names of a trial's covariates, for a likelihood."""
        parameters = self.about.get(LIKELIHOOD, self.conditions)
        return self.conditions[len(parameters) :]

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions."""
        return list(self.subject.condition_names)

    def sample(self, count: int, seed: int = 0, given: Any = None) -> Any:
        """Draw new rows or images.

        Args:
            count: Number of draws.
            seed: Random seed.
            given: Conditions of a conditional model: one row, or for sets all trials of one set.
                For images with class labels: one class, the class of each image, or None for any.
                For images with condition vectors ``[K]``: one vector, or one per image.

        Raises:
            UsageError: Conditions are missing, or not needed, or there is no such class; or the
                count or the seed is negative or not a whole number.
            DataError: Conditions are broken.
        """
        count, seed = natural("count", count), natural("seed", seed)
        # Draws of a likelihood are not rejected beyond bounds, unlike those of a posterior.
        if self.conditions and LIKELIHOOD not in self.about:
            row = self._conditions_of(None, given).reshape(-1, len(self.conditions))
            draws = self.posterior().sample(row, chains=1, draws=max(count, 1), seed=seed)
            if len(draws.points) != 1:
                raise DataError("the condition has several rows: use posterior().sample()")
            points = torch.from_numpy(draws.points[0, :count])
        else:
            drawn = self.subject.drawn_labels(count, seed, None) if given is None else None
            flow = self.subject.flow.given(labels=drawn) if drawn is not None else None
            generator = seeded_generator("cpu", seed, Stream.LATENT)
            points = (flow or self._flow_given(None, given)).sample(count, generator)
        return self.rows_of(*self._named(points.cpu().numpy(), drawn=True))

    def log_prob(self, rows: Any, given: Any = None) -> np.ndarray:
        """Return the log densities ``[N]`` of rows, in nats.

        The density is that of the draws of ``sample``: minus infinity beyond the bounds of columns,
        and for a conditional model that of its posterior (see ``Posterior.log_prob``). For a
        discrete column it is the mean density over the quantization bin around a value
        (``training.flow.bin_averages``), and for images the density per gray level of each pixel.

        Args:
            rows: The rows, which for a conditional model may have its conditions as further
                columns.
            given: Conditions of a conditional model: a row for each, or one for all; for images
                with class labels, their classes.
        """
        if self.conditions and LIKELIHOOD not in self.about:
            return self.posterior().log_prob(rows, given)
        flow, points = self._flow_given(rows, given), self._points(rows)
        labels = torch.from_numpy(self._conditions_of(rows, given)) if self.conditions else None
        if flow.coordinates is None or LIKELIHOOD in self.about:
            return self._densities(flow, points, labels)
        inside = flow.coordinates.inside(points.to(flow.device)).cpu()
        density = np.full(len(points), -np.inf)
        if inside.any():
            density[inside.numpy()] = self._densities(flow, points[inside], labels)
        return density

    def _densities(
        self, flow: ProbabilityFlow, points: torch.Tensor, labels: torch.Tensor | None
    ) -> np.ndarray:
        """Return the log densities ``[N]`` of points ``[N, D]`` within bounds, in nats.

        Points are given conditions ``[N, C]`` if the model has some.
        """
        if not has_cells(flow):
            density = flow.log_prob(points) + self.subject.dim * log(self.subject.units["unit"])
            return density.cpu().numpy()
        way = self.subject.flow.integration("densities")
        cells = cell_log_prob(self.subject.flow, points, *way, labels=labels)
        return cells.density.log_prob.cpu().numpy()

    def encode(self, rows: Any, given: Any = None, seed: int = 0) -> np.ndarray:
        """Return the latents ``[N, D]`` of rows; see ``log_prob``.

        Discrete columns are dequantized with a random seed.
        """
        points = self.subject.dequantized(self._points(rows), seed)
        return self._flow_given(rows, given).encode(points).cpu().numpy()

    def decode(self, latents: Any, given: Any = None) -> Any:
        """Return the rows of latents ``[N, D]``, the inverse of ``encode``."""
        flow = self._flow_given(None, given)
        return self.rows_of(*self._named(flow.decode(latents).cpu().numpy()))

    def posterior(
        self,
        noise_std: float | Sequence[float] | None = None,
        mask: Sequence[str | int] | None = None,
        **options: Any,
    ) -> "Posterior":
        """Return the posterior of rows, given noisy or partial observations.

        Args:
            noise_std: Standard deviation of the observation noise, in the units of the
                observations: one number, or one for each. For a conditional model None, since its
                conditions are observed. For a likelihood, give ``prior="uniform"`` or a model
                instead; observations are then trials.
            mask: Observed columns, or booleans, an array of the shape of a point; None for the
                columns that an observation names.
            options: Further options of ``posterior.py sample``, by name, such as ``correct``,
                ``likelihood``, or ``operator``, which may also be a matrix ``[K, D]``. With a
                likelihood of your own, such as ``likelihood="mine.py:density"``, ``sample()`` takes
                no observation.
        """
        noise = {} if noise_std is None else {"noise_std": conversion.listed_of(noise_std)}
        seen = {} if mask is None else {"likelihood": "mask", "mask": conversion.listed_of(mask)}
        return Posterior(self, {**noise, **seen, **options})

    def check(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """Test a conditional model on fresh rows; see ``Posterior.check``."""
        return self.posterior().check(data, **options)

    def _flow_given(self, rows: Any, given: Any) -> ProbabilityFlow:
        if self.conditions:
            return self.subject.flow.given(labels=self._conditions_of(rows, given))
        labels = self.subject.labels_of(given)
        return self.subject.flow if labels is None else self.subject.flow.given(labels=labels)

    def _conditions_of(self, rows: Any, given: Any) -> np.ndarray:
        """Return conditions ``[N, C]``, or ``[1, C]`` for all rows.

        They may be further columns of rows. For sets, return all trials of one set, ``[1, n C]``.
        """
        source = rows if given is None else given
        if source is None:
            raise UsageError(f"the model is conditional: give {', '.join(self.conditions)}")
        if given is None and self.subject.of_sets:
            raise UsageError("the model is conditional on sets of trials: give them as given")
        values = conversion.columns_of(source, self.conditions, "given")
        return values.reshape(1, -1) if self.subject.of_sets else values

    def _points(self, rows: Any) -> torch.Tensor:
        """Return the points ``[N, D]`` of rows."""
        rows, own, whole = self.flat(rows), self.subject.names, self.columns
        names, numbers = conversion.numbers_of(
            rows, "rows", conversion.COLUMN if len(own) == 1 else conversion.ROW
        )
        if names is None and numbers.shape[1] == len(whole) != len(own):
            names, rows = whole, dict(zip(whole, numbers.T, strict=True))
        points = torch.from_numpy(conversion.columns_of(rows, own, "rows").copy())
        conversion.require_finite(points, own, "rows")
        if names is not None:
            beside = dict(zip(names, torch.from_numpy(numbers).T, strict=True))
            self.subject.warn_of_others(self.subject.contradicted(points, beside), "rows")
        units = self.subject.units
        return (points - units["origin"]) * units["unit"]

    def _named(self, points: np.ndarray, drawn: bool = False) -> tuple[list[str], np.ndarray]:
        units = self.subject.units
        own = units["origin"] + torch.from_numpy(points) / units["unit"]
        names, values = self.subject.as_source(own, drawn=drawn)
        return names, values.cpu().numpy()


@dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """Posteriors of the points of a model, given observations.

    Attributes:
        model: The prior; for a conditional model, the posterior itself.
        options: Options of ``posterior.py sample`` that differ from the defaults, by name.
    """

    model: Model
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Posterior({', '.join(f'{name}={value}' for name, value in self.options.items())})"

    def sample(self, observed: Any = None, **options: Any) -> "PosteriorDraws":
        """Draw from the posterior of each observation.

        Args:
            observed: One row for each observation: a mapping, a data frame, or an array in the
                order of columns. None for a likelihood of your own, such as
                ``likelihood="mine.py:density"``, which contains its observation.
            options: Options of ``posterior.py sample``, by name, such as ``draws`` or ``seed``.

        Raises:
            UsageError: Options contradict each other, or there is no such option, or an observation
                is missing, or one is given to a likelihood of your own.
            DataError: Observations are broken.
        """
        from training.cli import posterior  # here, so that importing Model is fast

        with conversion.own_folder() as folder:
            posterior.sample(self._settings(observed, folder, options))
            return PosteriorDraws.from_folder(folder, self.model)

    def log_prob(self, points: Any, observed: Any = None) -> np.ndarray:
        """Return the log densities ``[N]`` of rows, in nats.

        The densities are those of the distribution that ``sample`` draws from.

        Draws of a conditional model are sharpened (unless ``sharpen=False``) and lie within the
        bounds of columns. This density agrees with the draws: it is divided by the probability that
        the flow assigns to the region within the bounds, and is minus infinity beyond them.

        Args:
            points: Rows ``[N, D]``, which may have the observed numbers as further columns.
            observed: One observation for all rows, or one for each.

        Raises:
            UsageError: The posterior has a likelihood, so that its density is known only up to a
                constant (``latent_density``), or is corrected by one, or its draws are deblurred
                and have no density.
            DataError: Rows or observations are broken.
        """
        model, subject = self.model, self.model.subject
        if not model.conditions or LIKELIHOOD in model.about or self.options.keys() & UNNORMALIZED:
            raise UsageError(
                "log_prob is for posteriors of conditional models without a likelihood; "
                "with a likelihood, latent_density gives the density up to a constant"
            )
        conditions = torch.from_numpy(model._conditions_of(points, observed))
        rows = model._points(points).to(subject.flow.device)
        if len(conditions) not in (1, len(rows)):
            raise DataError(
                f"there are {len(conditions)} observations for {len(rows)} rows: give one "
                "observation, or one per row"
            )
        conditions, which = torch.unique(conditions, dim=0, return_inverse=True)
        prior = subject.neural_posterior(self.options.get("n_iters"))
        posterior = Amortized(
            subject.sharpened(prior, self.options.get("sharpen", True)),
            conditions.to(subject.flow.device),
            subject.amortized_block(subject.flow.device),
            chains=1,
            draws=1,
            seed=0,
        )
        places, trace = torch.arange(len(conditions)), Trace("exact")
        if len(conditions) == 1:
            return posterior.log_prob(rows[None], places, trace).log_prob[0].cpu().numpy()
        mass = posterior.log_mass(places)
        density = posterior.log_prob(rows[:, None], which, trace, mass.at(which))
        return density.log_prob[:, 0].cpu().numpy()

    def latent_density(self, observed: Any = None, **options: Any) -> LatentDensity:
        """Return the log density of one posterior in the latents of the flow, for other samplers.

        Args:
            observed: One observation, or None; see ``sample``.
            options: Options; see ``sample``.

        Raises:
            UsageError: There are several observations, or there is no likelihood.
            DataError: The observation is broken.
        """
        from training.cli import posterior  # likewise
        from training.cli.inference import InferenceTask

        with conversion.own_folder() as folder:
            settings = self._settings(observed, folder, options)
            if settings.learned:
                raise UsageError("latent_density needs a likelihood: give noise_std")
            task = InferenceTask.open(settings)
            likelihood = task.likelihood()
            seen, labels = posterior.observations(task, settings, likelihood)
        if len(seen) != 1:
            raise UsageError(
                f"there are {len(seen)} observations: latent_density needs exactly one"
            )
        return LatentDensity(task.problem(likelihood, seen, labels).target)

    def _settings(self, observed: Any, folder: Path, options: Mapping[str, Any]) -> SampleSettings:
        """Return settings of the command, with its files in a folder."""
        given, own = (
            conversion.with_files({**self.options, **options}, folder),
            self.model.subject.names,
        )
        if given.get("likelihood", LIKELIHOODS[0]) not in LIKELIHOODS and not self.model.conditions:
            if observed is not None:
                raise UsageError(
                    "a user-defined likelihood contains its observation: leave the observation out"
                )
            return from_values(SampleSettings, {**self._files(folder), **given})
        if observed is None:
            raise UsageError("no observation is given: give one row per observation")
        observed = self.model.flat(observed)
        names, numbers = conversion.numbers_of(observed, "the observation", conversion.ROW)
        place = "observation"
        if "prior" in given and "correct" not in given:
            if names is None and self.model.covariates:  # whose positions are unknown
                by_name = ", ".join([*own, *self.model.covariates])
                raise DataError(f"the observation has no column names: give {by_name} by name")
            names = names or own
        elif self.model.conditions and "noise_std" not in given:
            place = "condition"
            if self.model.subject.of_sets:  # rows are trials, perhaps of several observations
                names = names or self.model.conditions
            else:
                names = self.model.conditions
                numbers = conversion.columns_of(observed, names, "the observation")
        elif names is not None and "likelihood" not in given and set(names) < {*own}:
            given |= {"likelihood": "mask", "mask": joined(names)}
        path = folder / f"{place}.csv"
        conversion.save_rows(path, names, numbers)
        return from_values(SampleSettings, {**self._files(folder), **given, place: path})

    def compare(
        self, others: Sequence["Posterior"], observed: Any, **options: Any
    ) -> list[dict[str, Any]]:
        """Compute evidences and probabilities of several likelihoods.

        This likelihood is the first of them.

        Args:
            others: Posteriors of further likelihoods, each with its prior.
            observed: Trials; see ``sample``.
            options: Options of ``posterior.py compare``, by name, besides those of this posterior.

        Returns:
            For each observation ``log_evidence``, its sampling ``error`` and ``probability``, by
            the names of models.
        """
        from training.cli import comparing  # likewise

        several = [self, *others]
        with conversion.own_folder() as folder:
            settings = self._settings(observed, folder, {})
            paths = [folder / f"network{place}.pkl" for place in range(len(several))]
            priors = list[str]()
            for path, each in zip(paths, several, strict=True):
                each.model.save(path)
                prior = {f"prior{len(priors)}": each.options.get("prior")}
                priors += map(str, conversion.with_files(prior, folder).values())
            given: dict[str, Any] = {
                **{name: value for name, value in self.options.items() if name != "prior"},
                "networks": list(map(str, paths)),
                "priors": priors,
                "observation": settings.observation,
                "save_dir": folder,
            }
            comparing.compare(from_values(CompareSettings, {**given, **options}))
            facts = conversion.facts_of(folder, "comparison")
        observations: list[dict[str, Any]] = facts["observations"]
        return observations

    def check(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """Test whether posteriors are calibrated, like ``posterior.py check``.

        Args:
            data: Rows that the model was not trained on, as ``Table`` or a path, to test the model.
                None uses draws of the flow as true values, to test the sampler.
            options: Options of ``posterior.py check``, by name.

        Returns:
            The ``verdict``, which states how large a detectable error is, ``p_values``, and the
            coverage of ``central_intervals`` and ``regions``.
        """
        from training.cli import posterior  # likewise

        with conversion.own_folder() as folder:
            given = self._files(folder) | conversion.with_files({**self.options, **options}, folder)
            if data is not None:
                given |= {"truth": "data", "data_root": conversion.data_set_of(data, folder)}
            posterior.check(from_values(CheckSettings, given))
            return conversion.facts_of(folder, "_posterior_check")

    def _files(self, folder: Path) -> dict[str, Any]:
        self.model.save(folder / "network.pkl")
        return {"network": folder / "network.pkl", "save_dir": folder}


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorDraws:
    """Draws from the posteriors of M observations.

    Attributes:
        names: Names of the D coordinates.
        points: Draws ``[M, S, D]``: S draws for each of M observations, all chains concatenated.
        facts: Contents of the JSON of ``posterior.py sample``; see ``training.files.posterior``.
        content: The netCDF-4 file of the draws, as bytes.
        model: Model that the draws are from.
    """

    names: list[str]
    points: np.ndarray
    facts: Mapping[str, Any]
    content: bytes
    model: Model

    @classmethod
    def from_folder(cls, folder: Path, model: Model) -> "PosteriorDraws":
        """Load the draws that ``posterior.py sample`` wrote to a folder.

        Raises:
            DataError: The folder has no draws, because an observation was rejected.
        """
        path = next(folder.glob("*_posterior.nc"), None)
        if path is None:
            raise DataError("an observation was rejected as out of distribution")
        return cls.load(path, model)

    @classmethod
    def load(cls, path: str | Path, model: Model) -> "PosteriorDraws":
        """Load draws that ``save`` or ``posterior.py sample`` wrote.

        Args:
            path: The netCDF-4 file; the JSON of the same name is beside it.
            model: Model that the draws are from.

        Raises:
            DataError: A file is missing or broken.
        """
        path = Path(path)
        facts = load_json(path.with_suffix(".json"))
        count = facts.get("observations")
        if type(count) is not int or count < 1:
            raise DataError(
                f"{path}: the .json beside it does not contain the number of observations"
            )
        saved = load_netcdf(path, count, every_draw=True)
        points = np.moveaxis(saved.points, 2, 0)
        points = points.reshape(len(points), -1, points.shape[-1])
        return cls(saved.names, points, facts, path.read_bytes(), model)

    def __repr__(self) -> str:
        from training.pictures.posteriors.words import distinct_words  # slow to import

        count, draws, _ = self.points.shape
        return (
            f"PosteriorDraws({count} observations, {draws} draws each"
            f"{distinct_words(self.points)}, of "
            f"{', '.join(self.names[:9])}{', ...' * (len(self.names) > 9)}; "
            f"{int(self.converged.sum())} converged)"
        )

    def _repr_html_(self) -> Any:
        return self.summary()._repr_html_()

    @property
    def converged(self) -> np.ndarray:
        """Whether the draws of each observation have converged, bool ``[M]``."""
        return np.array([each["converged"] for each in self._listed])

    def population(
        self,
        prior: str | Model = UNIFORM,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Infer the population of which each observation is a member (hierarchical model).

        Args:
            prior: Prior of the parameters that the draws were made with: ``uniform``, a model, or a
                network file.
            bounds: Parameters that are bounded, by name, such as ``{"speed": (0, inf)}``. The
                population is normal in the log of the distance from one bound, or in the probit
                between two.
            options: Further options of ``posterior.py population``, by name.

        Returns:
            ``population``, by names the population mean (``mean``), the population standard
            deviation (``spread``) and a new member (``further``), and ``posteriors`` of the
            members; see ``training.files.population``.

        Raises:
            DataError: There are too few observations.
        """
        from training.cli import population  # here, so that importing Model is fast

        with conversion.own_folder() as folder:
            draws = folder / f"{self.model.subject.stem}_posterior.nc"
            draws.write_bytes(self.content)
            ranges = tuple((name, *ends) for name, ends in conversion.ranges_of(bounds).items())
            given = {"draws": draws, "save_dir": folder, "prior": prior, **options}
            given = conversion.with_files(given, folder)
            given |= {"bounds": ranges} if ranges else {}
            population.population(from_values(PopulationSettings, given))
            return conversion.facts_of(folder, "_population")

    def rows(self, observation: int = 0) -> Any:
        """Return the draws of one observation, in the kind of the training rows."""
        return self.model.rows_of(self.names, self.points[observation])

    def summary(self) -> Any:
        """Return a data frame with a row for each observation and coordinate.

        Its columns are mean, std, quantiles, R-hat, effective sample sizes, and whether the draws
        of the observation have converged.
        """
        kinds = ("mean", "std", "r_hat", "ess_bulk", "ess_tail")
        rows = [
            {
                "observation": number,
                "name": name,
                **{kind: each[kind][name] for kind in kinds},
                **{f"q{level}": values[name] for level, values in each["quantiles"].items()},
                "converged": each["converged"],
            }
            for number, each in enumerate(self._listed)
            for name in self.names
        ]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return conversion.whole_frame(columns, self.model.kind)

    def to_arviz(self) -> Any:
        """Return the draws for ArviZ, with log likelihoods, draws of the prior and observations."""
        with conversion.own_folder() as folder:
            self.save(folder / "draws.nc")
            return import_module("arviz").from_netcdf(folder / "draws.nc").load()

    def save(self, path: str | Path) -> None:
        """Write the netCDF-4 file that ArviZ and ``visualize.py`` read, and its facts.

        The facts are written beside it as JSON, each file atomically.

        Raises:
            UsageError: The path does not end in ``.nc``.
        """
        path = Path(path)
        if path.suffix != ".nc":
            raise UsageError(f"{path}: draws are saved as netCDF: give a path that ends in .nc")
        save_json(path.with_suffix(".json"), self.facts)
        with atomic_path(path) as new:
            new.write_bytes(self.content)

    @property
    def _listed(self) -> list[dict[str, Any]]:
        listed = self.facts.get("posteriors")
        if not isinstance(listed, list):
            raise DataError("there are too many posteriors for a summary: use facts and points")
        return listed
