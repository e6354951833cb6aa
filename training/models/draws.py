"""Draws from posteriors: arrays, summaries, files, and conversion for ArviZ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path
from dnnlib.warned import InflationWarning, collecting
from torch_utils.results import load_json, save_json
from training.files.posterior_draws import SavedPosteriors, load_netcdf
from training.models import conversion, hierarchical
from training.models.conversion import RowModel
from training.models.library import library_class
from training.models.posterior_sampling import SampledPosteriors
from training.models.results import PopulationDraws, Result, figure_of
from training.names import UNIFORM
from training.settings.declared import from_values
from training.settings.posterior import PopulationSettings


@library_class
@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PosteriorDraws(Result):
    """Draws from the posteriors of M observations, as datasets of xarray (``groups``).

    Attributes:
        arrays: Draws, observations and prior draws, as they are in files.
        facts: Contents of the JSON of ``posterior.py sample``; see ``training.files.posterior``.
        model: RowModel that the draws are from.
        content: Function that returns the netCDF-4 file of the draws, as bytes.
    """

    arrays: SavedPosteriors
    facts: Mapping[str, Any]
    model: RowModel
    content: Callable[[], bytes]

    @classmethod
    def from_sampled(
        cls,
        sampled: SampledPosteriors,
        model: RowModel,
        warnings: Sequence[InflationWarning] = (),
    ) -> "PosteriorDraws":
        """Return the draws of a model that were just sampled, with the warnings about them."""
        return cls(
            arrays=sampled.arrays(),
            facts=sampled.facts,
            model=model,
            content=sampled.content,
            warnings=warnings,
        )

    @classmethod
    def load(cls, path: str | Path, model: RowModel) -> "PosteriorDraws":
        """Load draws that ``save`` or ``posterior.py sample`` wrote.

        Args:
            path: The netCDF-4 file; the JSON of the same name is beside it.
            model: RowModel that the draws are from.

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
        arrays, content = load_netcdf(path, count, every_draw=True), path.read_bytes()
        return cls(arrays=arrays, facts=facts, model=model, content=lambda: content)

    @property
    def names(self) -> list[str]:
        """Names of the D coordinates."""
        return self.arrays.names

    @cached_property
    def points(self) -> np.ndarray:
        """Draws ``[M, S, D]``: S draws for each of M observations, all chains concatenated."""
        points = np.moveaxis(self.arrays.points, 2, 0)
        return points.reshape(len(points), -1, points.shape[-1])

    def __repr__(self) -> str:
        from training.pictures.posteriors import distinct_words  # slow to import

        count, draws, _ = self.points.shape
        return (
            f"PosteriorDraws({count} observations, {draws} draws each"
            f"{distinct_words(self.points)}, of "
            f"{', '.join(self.names[:9])}{', ...' * (len(self.names) > 9)}; "
            f"{int(self.converged.sum())} converged)"
        )

    @property
    def converged(self) -> np.ndarray:
        """Whether the draws of each observation have converged, bool ``[M]``."""
        return np.array([each["converged"] for each in self._listed])

    def population(
        self,
        prior: Any = UNIFORM,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        **options: Any,
    ) -> PopulationDraws:
        """Infer the population of which each observation is a member (hierarchical model).

        Args:
            prior: Prior of the parameters that the draws were made with: ``uniform``, a
                distribution or a dictionary of one per name (``ParameterPrior.of``), a model, or a
                network file. The support of distributions gives the bounds.
            bounds: Parameters that are bounded, by name, such as ``{"speed": (0, inf)}``. The
                population is normal in the log of the distance from one bound, or in the probit
                between two.
            options: Further options of ``posterior.py population``, by name.

        Raises:
            DataError: There are too few observations.
        """
        ranges = tuple((name, *ends) for name, ends in conversion.ranges_of(bounds).items())
        given = {"prior": prior, **options} | ({"bounds": ranges} if ranges else {})
        settings = from_values(PopulationSettings, given)
        stem = f"{self.model.subject.stem}_posterior_population"
        with conversion.left_alone(), collecting() as warnings:
            result = hierarchical.population(settings, self.arrays, stem)
        return replace(result, warnings=tuple(warnings))

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

    @cached_property
    def groups(self) -> dict[str, Any]:
        """Datasets of xarray by the groups of ArviZ's schema, such as ``posterior`` and ``prior``.

        ``posterior`` has a variable for each coordinate, ``[chain, draw, observation]``.
        """
        import xarray  # slow to import

        # xarray changes the filters of warnings when it opens a file.
        source = BytesIO(self.content())
        with catch_warnings(), xarray.open_datatree(source, engine="h5netcdf") as tree:
            return {name: group.to_dataset().load() for name, group in tree.children.items()}

    @property
    def dataset(self) -> Any:
        """The draws as a dataset of xarray, see ``groups``.

        Draws that are independent have no dimension ``chain``.
        """
        posterior = self.groups["posterior"]
        return posterior if posterior.sizes["chain"] > 1 else posterior.squeeze("chain", drop=True)

    def to_arviz(self) -> Any:
        """Return the draws for ArviZ, with log likelihoods, draws of the prior and observations."""
        return import_module("arviz").InferenceData(**self.groups)

    def save(self, path: str | Path) -> None:
        """Write the netCDF-4 file that ArviZ and ``visualize.py`` read, and its facts.

        The facts are written beside it as JSON, each file atomically.

        Raises:
            UsageError: The path does not end in ``.nc``.
        """
        path = Path(path)
        if path.suffix != ".nc":
            raise UsageError(f"{path}: draws are saved as netCDF: give a path that ends in .nc")
        save_json(path.with_suffix(".json"), {**self.facts})
        with atomic_path(path) as new:
            new.write_bytes(self.content())

    def plot(self) -> Any:
        """Return a Matplotlib figure of the draws: images, points of a toy, pairs or marginals."""
        posteriors = import_module("training.pictures.posteriors")
        toy = posteriors.toy_of(self.arrays.toy, len(self.names))
        if toy is not None:
            return figure_of(posteriors.toy_points(self.arrays, toy))
        if self.arrays.image_shape is not None:
            return figure_of(posteriors.images(self.arrays))
        several = len(self.names) > 1
        return figure_of((posteriors.pairs if several else posteriors.marginals)(self.arrays))

    @property
    def _listed(self) -> list[dict[str, Any]]:
        listed = self.facts.get("posteriors")
        if not isinstance(listed, list):
            raise DataError(
                "there are too many posteriors for a summary: use the attributes facts and points"
            )
        return listed
