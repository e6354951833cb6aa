"""Draws from posteriors: ``{data}_{schedule}_posterior.nc``, netCDF for ArviZ.

It has ArviZ's groups, in float64. Names of variables of coordinates are theirs, but a / becomes _,
and a name that already exists gets a _ appended. Attributes are format and about, JSON of the
options. If draws were resampled by weights, posterior has effective_size, the smallest over
observations: without it, readers would take repeated draws for independent ones. With --condition
alone there is no likelihood; then sample_stats has lp, and observed_data has the conditions.
Recalibrated draws are the same draws, moved so that ranks in each coordinate agree with those of
held-out true values.

The description has format, coordinates, samplers, toy, image_shape (channels, height, width) and
conditions. Statistics of samplers, NaN where one has none, are effective_size and pareto_k of
weights, acceptance, step_size, stages; leaked, the fraction of draws beyond bounds; and fine_k of
the weights of the fine flow.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import h5netcdf
import h5py
import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path, require_room
from training.data.images.stacks import checked_range
from training.files.declared import BYTE, WHOLE, Arrays, Format, Key, ResultFile
from training.files.netcdf import SavedNumbers, open_netcdf
from training.inference.draws import AMORTIZED, Draws
from training.inference.likelihoods import Gaussian, Likelihood, MatrixMap
from training.names import script

DESCRIPTION, LIKELIHOOD = "constant_data/description", "sample_stats/log_likelihood"
DRAWS = ResultFile(
    kind="posterior",
    name="`{data}_{schedule}_posterior.nc`",
    sizes="M observations of K numbers, C chains of S draws, N of the prior, D or L coordinates",
    keys={
        "posterior/x": Key("C S M D", "points in the data's units, images in gray levels"),
        "posterior/{name}": Key("C S M", "the same for one coordinate of a toy or table"),
        "posterior/z": Key("C S M L", "their latents"),
        LIKELIHOOD: Key("C S M", "log likelihood in nats", optional=True),
        "sample_stats/lp": Key("C S M", "log density of the flow's posterior", optional=True),
        "observed_data/y": Key(
            "M K", "observations, or conditions; NaN where absent", optional=True, missing=True
        ),
        "held_out/x": Key("C S M D", "by a calibrated network: recalibrated", optional=True),
        "prior/x": Key("1 N D", "draws of the prior; not for images", optional=True),
        "constant_data/truth": Key("M D", "true points, if they are known", optional=True),
        "constant_data/network_calls": Key("M", "divided evenly among those of a group"),
        "constant_data/noise_std": Key("K", "of a Gaussian likelihood", optional=True),
        "constant_data/noise_covariance": Key("K K", "of a Gaussian likelihood", optional=True),
        "constant_data/seen": Key("K", "indices of observed coordinates", WHOLE, optional=True),
        "constant_data/operator": Key("K D", "linear map of observations", optional=True),
        "constant_data/operator_shape": Key("3", "of images it produces", WHOLE, optional=True),
        DESCRIPTION: Key("*", "JSON, see above", BYTE, optional=True),
        "constant_data/{statistic}": Key("M", "see above", optional=True, missing=True),
    },
)
FORMATS = {"posterior": Format("draws of posteriors", "posteriors.content_of")}
DIMENSIONS = {
    **{"C": "chain", "S": "draw", "M": "observation", "D": "coordinate", "L": "latent"},
    **{"K": "number", "1": "chain", "N": "draw", "3": "axis", "*": "letter"},
}
"""Names of dimensions in the file by symbol."""
DRAWN = ("chain", "draw", "observation")
"""Names of the axes of arrays with one value per draw."""
HELD_OUT = "held_out"
"""Group of the recalibrated draws."""
DESCRIBED = ("samplers", "toy", "image_shape", "conditions")
"""Keys of ``AboutDraws.run`` that the description in the file contains."""
WORTH = (
    "Draws were chosen by weights and may repeat. effective_size is the smallest "
    "effective sample size of an observation (constant_data has all); diagnostics of the "
    "draws alone are too optimistic."
)
STRUCTURE = 2**16
"""Upper estimate of the size in bytes of everything in a file except its draws."""
MOST_READ = 2**24
"""Maximum number of values read from the draws; larger files are thinned evenly."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AboutDraws:
    """Contents of a file of posterior draws, for M posteriors, besides the draws.

    Attributes:
        names: Names of the D coordinates.
        run: Plain values about the run, such as the options.
        observed: Observations ``[M, K]``; None if they are part of the likelihood.
        likelihood: Likelihood of the observations.
        prior: N draws of the prior ``[N, D]``; None for none.
        truth: True points ``[M, D]``; None if they are unknown.
        worth: Effective sample sizes ``[M]`` of draws that were resampled by weights, NaN for other
            observations; None if no draws were resampled.
        recalibrated: Function that recalibrates draws ``[S, D]`` of one posterior; None for none.
    """

    names: Sequence[str]
    run: Mapping[str, Any]
    observed: Tensor | None = None
    likelihood: Likelihood | None = None
    prior: Tensor | None = None
    truth: Tensor | None = None
    worth: Tensor | None = None
    recalibrated: Callable[[Tensor], Tensor] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """Names of the coordinates, by name of the netCDF variable that contains each of them.

        The mapping is empty for images, whose pixels have no variables of their own.
        """
        own = [] if self.run.get("image_shape") else self.names
        return dict(zip(variable_names(own), own, strict=True))

    def size(self, draws: int) -> int:
        """Return the size of the file in bytes, given the total number of draws."""
        each = len(self.names) * (2 + (self.recalibrated is not None)) + len(self.variables) + 1
        prior = 0 if self.prior is None else self.prior.numel()
        return 8 * (draws * each + prior) + STRUCTURE


def save_netcdf(
    path: Path,
    parts: Iterator[tuple[Draws, Tensor]],
    shape: tuple[int, int, int],
    about: AboutDraws,
) -> None:
    """Write a netCDF file of posterior draws atomically, one group of observations at a time.

    Args:
        path: Path of the file.
        parts: For each group of m observations in order, the draws and their latents
            ``[m, C, S, D]``, for C chains of S draws.
        shape: Number of chains, number of draws per chain, and number of observations.
        about: Contents besides the draws.
    """
    with atomic_path(path) as temporary:
        # HDF5 crashes if the disk becomes full.
        require_room(temporary, about.size(prod(shape)))
        _write(temporary, parts, shape, about)


def netcdf_bytes(
    parts: Iterator[tuple[Draws, Tensor]], shape: tuple[int, int, int], about: AboutDraws
) -> bytes:
    """Return the content of the file that ``save_netcdf`` would write."""
    content = BytesIO()
    _write(content, parts, shape, about)
    return content.getvalue()


def _write(
    target: Path | BytesIO,
    parts: Iterator[tuple[Draws, Tensor]],
    shape: tuple[int, int, int],
    about: AboutDraws,
) -> None:
    dim = len(about.names)
    sizes = dict(zip((*DRAWN, "coordinate"), (*shape, dim), strict=True))
    named = {"coordinate": about.names, "latent": [f"z{index + 1}" for index in range(dim)]}
    with h5netcdf.File(target, "w") as file:
        file.attrs["format"] = DRAWS.format
        file.attrs["about"] = json.dumps(about.run, default=str)
        posterior = _group(file, "posterior", {**sizes, "latent": dim}, named)
        if about.worth is not None:
            posterior.attrs["effective_size"] = float(about.worth[~about.worth.isnan()].min())
            posterior.attrs["comment"] = WORTH
        _group(file, "sample_stats", {name: sizes[name] for name in DRAWN})
        of_truth = {key: sizes[key] for key in ("observation", "coordinate")}
        _group(file, "constant_data", of_truth, named)
        described = {name: about.run.get(name) for name in DESCRIBED}
        described |= {name: about.run[name] for name in ("range",) if name in about.run}
        _save_text(file, {"format": DRAWS.format, "coordinates": list(about.names), **described})
        if about.recalibrated is not None:
            _group(file, HELD_OUT, sizes, {"coordinate": about.names})
        _save_draws(file, parts, about)
        if about.observed is not None:
            seen = dict(zip(("observation", "number"), about.observed.shape, strict=True))
            _group(file, "observed_data", seen)
            _save(file, "observed_data/y", about.observed)
            if isinstance(about.likelihood, Gaussian):
                _save_likelihood(file, about.likelihood, seen["number"])
        if about.truth is not None:
            _save(file, "constant_data/truth", about.truth)
        if about.prior is not None:
            of_prior = {"chain": 1, "draw": len(about.prior), "coordinate": dim}
            _group(file, "prior", of_prior, named)
            _save(file, "prior/x", about.prior[None])


def _variable(file: h5netcdf.File, place: str) -> h5netcdf.Variable:
    """Create a variable with the dimensions and the type of its declaration."""
    (group, _, name), key = place.rpartition("/"), DRAWS.key(place)
    dimensions = [DIMENSIONS[axis] for axis in key.axes.split()]
    if len(set(dimensions)) < len(dimensions):
        dimensions[-1] = f"other_{dimensions[-1]}"
    dtype = {WHOLE: "i8", BYTE: "u1"}.get(key.kind, "f8")
    return file[group].create_variable(name, dimensions, dtype)


def _save(file: h5netcdf.File, place: str, values: Tensor) -> None:
    _variable(file, place)[:] = values.cpu().numpy()


def _save_draws(
    file: h5netcdf.File, parts: Iterator[tuple[Draws, Tensor]], about: AboutDraws
) -> None:
    """Add draws, their densities and statistics of samplers, group by group.

    Recalibrated draws are added if there are some.
    """
    posterior, stats, constant = file["posterior"], file["sample_stats"], file["constant_data"]
    for variable, name in about.variables.items():
        _variable(file, f"posterior/{variable}").attrs["long_name"] = name
    points, latents = _variable(file, "posterior/x"), _variable(file, "posterior/z")
    calls = _variable(file, "constant_data/network_calls")
    if about.recalibrated is not None:
        held_out = _variable(file, f"{HELD_OUT}/x")
    first = 0
    for draws, z in parts:
        rows = slice(first, first + draws.count)
        rows_drawn = chains_first(draws.points)
        points[:, :, rows] = rows_drawn
        for place, variable in enumerate(about.variables):
            posterior.variables[variable][:, :, rows] = rows_drawn[..., place]
        latents[:, :, rows] = chains_first(z)
        if about.recalibrated is not None:
            moved = [about.recalibrated(x.flatten(0, 1)).view_as(x) for x in draws.points]
            held_out[:, :, rows] = chains_first(torch.stack(moved))
        densities = {"log_likelihood": draws.log_likelihood}
        if draws.log_density is not None:
            densities = {"lp": draws.log_density}
        elif AMORTIZED in draws.sampler:  # no density is known
            densities = {}
        for name, each in densities.items():
            if name not in stats.variables:
                _variable(file, f"sample_stats/{name}")
            stats.variables[name][:, :, rows] = chains_first(each)
        calls[rows] = draws.calls.numpy()
        for name, values in draws.stats.items():
            if values.ndim > 1:  # those of each coordinate are in the JSON alone
                continue
            if name not in constant.variables:
                _variable(file, f"constant_data/{name}")[:] = np.full(len(calls), np.nan)
            constant.variables[name][rows] = values.cpu().numpy()
        first += draws.count


def variable_names(names: Sequence[str]) -> list[str]:
    """Convert names of coordinates to valid and different names of netCDF variables.

    A name is changed only if netCDF does not allow it, or if another variable has it.
    """
    taken, variables = {*DRAWN, "coordinate", "latent", "x", "z"}, []
    for name in names:
        own = name.replace("/", "_").strip(". ") or "_"
        while own in taken:
            own += "_"
        taken.add(own)
        variables.append(own)
    return variables


def _save_text(file: h5netcdf.File, content: dict[str, Any]) -> None:
    """Add the description."""
    letters = np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)
    file["constant_data"].dimensions["letter"] = len(letters)
    _variable(file, DESCRIPTION)[:] = letters


def _save_likelihood(file: h5netcdf.File, likelihood: Gaussian, count: int) -> None:
    """Add the noise and the observed coordinates or the linear map of a likelihood.

    Observations have ``count`` numbers.
    """
    dimensions, root = file["constant_data"].dimensions, likelihood.root.cpu()
    dimensions["number"] = count
    if root.ndim == 2:
        dimensions["other_number"] = count
        _save(file, "constant_data/noise_covariance", root @ root.T)
    else:
        _save(file, "constant_data/noise_std", root.expand(count))
    if likelihood.coordinates is not None:
        _save(file, "constant_data/seen", likelihood.coordinates)
    elif likelihood.operator is not None:
        _save(file, "constant_data/operator", likelihood.operator.matrix)
        if likelihood.operator.shape is not None:
            dimensions["axis"] = 3
            _save(file, "constant_data/operator_shape", torch.tensor(likelihood.operator.shape))


@dataclass(frozen=True)
class SavedPosteriors:
    """Saved draws of the first m of the M posteriors in a file.

    Attributes:
        path: The file.
        names: Names of the D coordinates.
        points: Draws ``[C, S, m, D]``, from C chains of S draws.
        log_likelihood: Log likelihoods ``[C, S, m]``, in nats; None for amortized posteriors, which
            a flow draws without a likelihood.
        every: Thinning interval: one of this number of successive draws was read.
        count: Number of observations in the file, M.
        sampler: Name of the sampler for each observation.
        observed: Observations ``[m, K]``; None if they are part of the likelihood.
        likelihood: The likelihood, if it is linear with Gaussian noise; None otherwise.
        prior: N draws of the prior ``[N, D]``; None if there are none.
        toy: Name of the toy; None for other data.
        image_shape: Shape ``(C, H, W)`` of images; None for other data.
        truth: True points ``[m, D]``; None if they are unknown.
        value_range: Ends of the range of values of images; None for gray levels and other data.
        conditions: Names of the K observed numbers, for amortized posteriors; otherwise empty.
    """

    path: Path
    names: list[str]
    points: np.ndarray
    log_likelihood: np.ndarray | None
    every: int
    count: int
    sampler: list[str]
    observed: np.ndarray | None
    likelihood: Gaussian | None
    prior: np.ndarray | None
    toy: str | None
    image_shape: tuple[int, int, int] | None
    truth: np.ndarray | None = None
    conditions: Sequence[str] = ()
    value_range: tuple[float, float] | None = None

    def number_names(self, count: int) -> list[str]:
        """Return names of the ``count`` numbers that an observation consists of."""
        likelihood = self.likelihood
        if likelihood is None and len(self.conditions) == count:
            return list(self.conditions)
        if likelihood is None or likelihood.operator is not None:
            return [f"y{index + 1}" for index in range(count)]
        places = range(count) if likelihood.coordinates is None else likelihood.coordinates.tolist()
        return [self.names[place] for place in places]


def is_posterior(path: Path) -> bool:
    """Return whether a netCDF file contains draws of posteriors.

    Raises:
        DataError: The file is broken.
    """
    with open_netcdf(path) as saved:
        return _description(saved) is not None


def load_netcdf(path: Path, most: int, every_draw: bool = False) -> SavedPosteriors:
    """Load the first observations of a file that ``save_netcdf`` wrote.

    Args:
        path: The file.
        most: Maximum number of observations.
        every_draw: Whether to load all draws, instead of thinning them to the number that pictures
            need.

    Raises:
        DataError: The file is broken, or does not contain posterior draws.
    """
    with open_netcdf(path) as source:
        about, saved = _description(source), Arrays(source, DRAWS)
        if about is None:
            raise DataError(
                f"{path} is a netCDF file, but not from {script('posterior')}: give a file of its "
                "draws"
            )
        shape = chains, draws, count, dim = saved.check("posterior/x")
        shown = min(most, count)
        most_read = chains * draws * count * dim if every_draw else MOST_READ
        every = max(1, -(-chains * draws * shown * dim // most_read))
        part = (slice(None), slice(None, None, every), slice(shown))
        observed = saved.get("observed_data/y", slice(shown))
        prior = saved.get("prior/x")
        sampler, toy, image_shape, conditions = (about.get(key) for key in DESCRIBED)
        names = about.get("coordinates")
        if not (_are_texts(names, dim) and _are_texts(sampler, count)):
            raise DataError(
                f"{path}: the number of coordinate names or of samplers does not match "
                f"'posterior/x' of shape {list(shape)}: make the file again"
            )
        if image_shape is not None and not _is_image(image_shape, dim):
            raise DataError(
                f"{path}: the image shape {image_shape} does not match draws of {dim} coordinates: "
                "make the file again"
            )
        return SavedPosteriors(
            path,
            names,
            saved.read("posterior/x", *part),
            saved.get(LIKELIHOOD, *part),
            every,
            count,
            sampler[:shown],
            observed,
            None if observed is None else _load_likelihood(saved),
            None if prior is None else prior[0],
            toy if isinstance(toy, str) else None,
            None if image_shape is None else tuple(image_shape),
            saved.get("constant_data/truth", slice(shown)),
            conditions if _are_texts(conditions, len(conditions or "")) else [],
            None if about.get("range") is None else checked_range(about["range"], path),
        )


def _description(saved: SavedNumbers) -> dict[str, Any] | None:
    """Return the description that ``_save_text`` wrote.

    It is None if there is none, or it is of another format.

    Raises:
        DataError: The description is not readable JSON.
    """
    if DESCRIPTION not in saved:
        return None
    try:
        content = json.loads(saved.read(DESCRIPTION).astype(np.uint8).tobytes())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{saved.path}: '{DESCRIPTION}' is not readable JSON: make the file again"
        ) from error
    return content if isinstance(content, dict) and content.get("format") == DRAWS.format else None


def _are_texts(values: Any, count: int) -> TypeGuard[list[str]]:
    """Return whether a value is a list of ``count`` texts."""
    is_list = isinstance(values, list) and len(values) == count
    return is_list and all(isinstance(value, str) for value in values)


def _is_image(shape: Any, dim: int) -> bool:
    """Return whether a value is a shape ``(C, H, W)`` of ``dim`` numbers."""
    whole = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int for n in shape)
    return whole and shape[0] in (1, 3) and min(shape) > 0 and np.prod(shape) == dim


def _load_likelihood(saved: Arrays) -> Gaussian | None:
    """Load the likelihood that ``_save_likelihood`` wrote; None if there is none.

    Raises:
        DataError: Arrays do not match.
    """

    def tensor(name: str) -> Tensor | None:
        values = saved.get(f"constant_data/{name}")
        return None if values is None else torch.from_numpy(values)

    noise, seen, operator = tensor("noise_std"), tensor("seen"), None
    noise = tensor("noise_covariance") if noise is None else noise
    if noise is None:
        return None
    count, dim = saved.sizes["K"], saved.sizes["D"]
    matrix = tensor("operator") if seen is None else None
    if matrix is not None:
        operator, sides = MatrixMap(matrix), tensor("operator_shape")
        if sides is not None and _is_image(sides.tolist(), count):
            operator.shape = tuple(sides.tolist())
    places = torch.arange(count) if seen is None else seen.long()
    if operator is None and (count == 0 or places.min() < 0 or places.max() >= dim):
        raise DataError(
            f"{saved.source.path}: the observations in 'observed_data/y' do not match points with "
            f"{dim} coordinates: make the file again"
        )
    try:
        return Gaussian(noise, None if seen is None else places, operator)
    except UsageError as error:
        raise DataError(f"{saved.source.path}: {error}") from error


def _group(
    file: h5netcdf.File,
    name: str,
    sizes: Mapping[str, int],
    named: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> h5netcdf.Group:
    """Create a group with its dimensions.

    Positions along each dimension are numbered, or named if they have names.
    """
    group = file.create_group(name)
    group.dimensions = sizes
    for dimension, size in sizes.items():
        if dimension in named:
            variable = group.create_variable(dimension, (dimension,), h5py.string_dtype())
            variable[:] = np.array(list(named[dimension]), dtype=object)
        else:
            variable = group.create_variable(dimension, (dimension,), "i8")
            variable[:] = np.arange(size)
    return group


def chains_first(values: Tensor) -> np.ndarray:
    """Reorder ``[m, C, S, ...]`` to ``[C, S, m, ...]``."""
    return values.cpu().movedim(0, 2).numpy()
