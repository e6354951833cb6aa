"""Subject of a flow: the meaning, units and sources of its points, and facts about simulations."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.warned import warn
from torch_utils import distributed
from torch_utils.results import save_json
from training.data.images.stacks import GRAY_RANGE
from training.data.row_hashes import RowHashes, row_numbers
from training.data.tables.formats import TableSource
from training.data.tables.raw_shape import RawShape
from training.data.tables.table import DataSource, Rows
from training.files.roundtrip import ROWS_FORMAT, roundtrip_paths, save_errors, save_worst
from training.flow.coordinates.conditions import Surprise
from training.flow.pfode import ProbabilityFlow, Trajectory
from training.flow.solvers import Solver, get_solver
from training.inference.prior import Prior, integrations_of
from training.measure.roundtrip import RoundtripErrors, in_range
from training.names import (
    ALL_AT_ONCE,
    AMORTIZED_CUDA_ROWS,
    AMORTIZED_ROWS,
    LEARNED_SOLVER,
    LEARNED_STEPS,
    MOST_SHARPENED,
    TOY_POOL,
)
from training.trained.network import TrainedNetwork


@dataclass(frozen=True, eq=False)
class Samples:
    """Points of a data set, the same on every rank.

    Attributes:
        points: Points ``[N, D]`` in image space.
        labels: Labels ``[N, L]``; None for a network without classes.
        arrays: Further arrays for the results file, by name.
        pixels: Images ``[N, C, H, W]`` uint8; None for other data.
    """

    points: Tensor
    labels: Tensor | None = None
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    pixels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Points of a data set, read when they are needed.

    Attributes:
        count: Number of points.
        read: Function that reads the points whose indices are in a range.
    """

    count: int
    read: Callable[[range], Samples]

    def __len__(self) -> int:
        return self.count


class Returns(ABC):
    """Roundtrip errors accumulated over batches of points, on the CPU of every rank.

    Attributes:
        paths: Files of the results.
    """

    paths: list[Path]

    @abstractmethod
    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """Add points with their latents and the points generated back, ``[n, D]``."""

    @abstractmethod
    def save(self, about: Mapping[str, Any]) -> None:
        """Write the files, with a description of how the errors were computed."""

    @abstractmethod
    def line(self) -> str:
        """Return the most important numbers in one line."""


@dataclass
class WorstImages:
    """Collection of the images with the largest errors, sorted by decreasing error.

    Images with equal errors are in the order of addition.

    Attributes:
        count: Largest number of images.
        errors: Errors of the images ``[k]``.
        rows: Tensors ``[k, ...]`` about these images, by name.
    """

    count: int
    errors: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    rows: dict[str, Tensor] = field(default_factory=dict)

    def add(self, errors: Tensor, **rows: Tensor) -> None:
        """Add images with their errors ``[n]``, and tensors ``[n, ...]`` to keep by name."""
        kept = self.rows or {name: more[:0] for name, more in rows.items()}
        together = torch.cat([self.errors, errors])
        order = together.argsort(descending=True, stable=True)[: self.count]
        self.errors = together[order]
        self.rows = {name: torch.cat([kept[name], more])[order] for name, more in rows.items()}


KEPT_WORST = 16
"""Number of images with the largest round-trip errors that are kept, a page of pictures."""


class ImageReturns(Returns):
    """Roundtrip errors of images in gray levels, and the worst images.

    Args:
        paths: Files of the results.
        shape: Shape of an image ``(C, H, W)``.
        value_range: Values that the points -1 and 1 stand for.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        shape: tuple[int, int, int],
        value_range: tuple[float, float] = GRAY_RANGE,
    ):
        self.paths, self._range = list(paths), value_range
        self.worst, self._shape = WorstImages(KEPT_WORST), shape
        self._columns: list[Tensor] = []

    @property
    def errors(self) -> RoundtripErrors:
        """Errors of all images."""
        return RoundtripErrors(*torch.cat(self._columns).unbind(dim=1))

    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """Add errors of images, and keep the worst images with their latents."""
        pixels = samples.pixels
        assert pixels is not None
        errors = RoundtripErrors.from_images(pixels.flatten(1), back, self._range)
        self._columns.append(errors.columns())
        levels = in_range(back, self._range)
        labels = {} if samples.labels is None else {"labels": samples.labels}
        self.worst.add(
            errors.mse_float,
            indices=samples.arrays["image_index"],
            columns=errors.columns(),
            originals=pixels,
            returned=levels.float().view(pixels.shape),
            latents=latents.float(),
            **labels,
        )

    def save(self, about: Mapping[str, Any]) -> None:
        """Write the errors as JSON, and the worst images as ``.npz``."""
        errors = self.errors
        save_worst(self.paths[1], errors, self.worst.rows, self._shape)
        known = {
            "images": len(errors.mse),
            "image_shape": list(self._shape),
            "worst": self.paths[1].name,
        }
        save_errors(self.paths[0], errors, {**known, **about})

    def line(self) -> str:
        """Return the errors of all images in one line."""
        summary, gray = self.errors.summary(), self._range == GRAY_RANGE
        units, bits = ("gray levels", " to 8 bits") if gray else ("units of the images", "")
        return (
            f"Round trip of {len(self.errors.mse)} images: mean squared error "
            f"{summary['mse']:.6g} squared {units} after rounding{bits}, "
            f"{summary['mse_float']:.6g} before; largest error "
            f"{summary['max_abs_error']:.4g} {units}; {summary['exact_pixels']:.4%} "
            "of the pixels exact"
        )


class RowReturns(Returns):
    """Roundtrip errors of the rows of a table with named columns.

    Args:
        path: File of the results.
        names: Names of the columns.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.paths, self._names = [path], names
        self._errors: list[Tensor] = []

    def add(self, flow: ProbabilityFlow, samples: Samples, latents: Tensor, back: Tensor) -> None:
        """Add errors of rows, in coordinates of unit variance and in the units of the columns."""
        data, device = samples.points, flow.device
        error = flow.to_eigen(back.to(device)) - flow.to_eigen(data.to(device))
        self._errors.append(torch.stack([error.cpu(), back - data]))

    def summary(self) -> dict[str, Any]:
        """Return root-mean-square and largest errors.

        Errors of all columns together are in the coordinates of the flow, with unit variance.
        Errors of each column are in its units, by name.
        """
        errors, of_columns = torch.cat(self._errors, dim=1)
        columns = zip(
            self._names,
            of_columns.square().mean(dim=0).sqrt().tolist(),
            of_columns.abs().amax(dim=0).tolist(),
            strict=True,
        )
        return {
            "rows": len(errors),
            "rms_error": float(errors.square().mean().sqrt()),
            "max_abs_error": float(errors.abs().max()),
            "columns": {name: {"rms": rms, "max_abs": most} for name, rms, most in columns},
        }

    def save(self, about: Mapping[str, Any]) -> None:
        """Write root-mean-square and largest errors as JSON."""
        save_json(self.paths[0], {"format": ROWS_FORMAT, **self.summary(), **about})

    def line(self) -> str:
        """Return the errors of all rows in one line."""
        summary = self.summary()
        return (
            f"Round trip of {summary['rows']} rows: root mean square error "
            f"{summary['rms_error']:.2g}, largest {summary['max_abs_error']:.2g}, in "
            "coordinates of unit variance"
        )


Draw = Callable[[torch.Generator], Tensor]
"""Function that draws points ``[M, D]`` of the data with a generator on the CPU."""
Quantities = Mapping[str, Callable[[Tensor], Tensor]]
"""Functions of points ``[..., D]``, by name."""
Facts = dict[str, Any]
"""Facts about a simulation for its parameters file, by name."""
BLOCK = 256
"""Number of points in a block.

With blocks of one size, results do not depend on the number of points sampled together.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject(ABC):
    """A flow and the meaning of its points: names, units, conditions and data sets.

    Attributes:
        flow: Flow, on the CPU at first.
        data_name: Name of the data.
        t_max: Last time of the training; for a flow without a network, the default of the schedule.
        known: Settings of the data and the schedule, by the names of options.
        network: Trained network; None for a flow without a network.
    """

    flow: ProbabilityFlow
    data_name: str
    t_max: float
    known: Mapping[str, Any]
    network: TrainedNetwork | None = None

    kind: ClassVar[str]
    pool: ClassVar[int] = TOY_POOL
    """Default number of prior draws in a sampler's pool."""
    block: ClassVar[int] = BLOCK
    """Default number of points in a block."""
    even_block: ClassVar[int | None] = ALL_AT_ONCE
    """Number of points per evaluation if results must not depend on the total number of points.

    None stands for the largest number that fits into the memory of the device.
    """
    dtype: ClassVar[str] = "float64"
    """Data type of the states in files."""
    is_readable: ClassVar[bool] = True
    """Whether coordinates are meaningful one by one, as columns are and pixels are not."""

    @classmethod
    @abstractmethod
    def of(
        cls, network: TrainedNetwork, expected: Mapping[str, Any], data_name: str | None = None
    ) -> Self:
        """Return the subject of a network file; see ``open_subject``."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the D coordinates."""

    @property
    def words(self) -> list[str]:
        """Names of the coordinates, for sentences in messages."""
        return self.names

    def quantities(self, path: DataSource | None, count: int, seed: int) -> Quantities:
        """Return further functions of points ``[..., D]`` whose values checks of posteriors rank.

        With a data set, they include functions learned from points of the data set that are not
        used as true values.
        """
        return {}

    @property
    def columns(self) -> list[str] | None:
        """Names of the columns in files; None for data without columns."""
        return None

    @property
    def dim(self) -> int:
        """Dimension of the data, D."""
        return self.flow.basis.dim

    @property
    def dims_to_keep(self) -> int:
        """Number of kept (not compressed) dimensions."""
        return int(self.known["dims_to_keep"])

    @property
    def stem(self) -> str:
        """First part of the names of results files: data, schedule and denoiser."""
        return f"{self.data_name}_{self.flow.schedule.name}"

    @cached_property
    def digest(self) -> str | None:
        """Digest of the network; None for a flow without a network."""
        return None if self.network is None else self.network.digest()

    @property
    def label_dim(self) -> int:
        """Number of classes or conditions; 0 for none."""
        return 0

    @property
    def raw(self) -> RawShape | None:
        """Shape of raw data as conditions; None for other conditions."""
        return None

    @property
    def condition_names(self) -> Sequence[str]:
        """Names of the conditions."""
        return []

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Values that the points -1 and 1 stand for, for images; None for other data."""
        return None

    @property
    def levels_per_unit(self) -> float | None:
        """Number of gray levels per unit of the flow's points, for images; None for other data."""
        return None if self.value_range is None else self.units["origin"] - self.value_range[0]

    @property
    def units(self) -> Mapping[str, float]:
        """Units of the data, as arguments of a prior."""
        if self.value_range is None:
            return {"unit": 1.0, "origin": 0.0}
        low, high = self.value_range
        half = (high - low) / 2
        return {"unit": 1 / half, "origin": low + half}

    @property
    def of_sets(self) -> bool:
        """Whether the conditions are sets of trials."""
        return False

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Shape ``(C, H, W)`` of images; None for other data."""
        return None

    @property
    def point_shape(self) -> tuple[int, ...]:
        """Shape of a point: its dimension, or the shape of an image."""
        return self.image_shape or (self.dim,)

    def labels_of(self, given: ArrayLike | None) -> Tensor | None:
        """Convert conditions given by a user to labels ``[N, L]``, the input of the network.

        Args:
            given: Conditions, for images class numbers or condition vectors; None for none.

        Raises:
            UsageError: Conditions are missing, not needed, or of the wrong kind.
        """
        if given is not None:
            raise UsageError("the model is not conditional: leave the conditions (given) out")
        return None

    @property
    def surprise(self) -> Surprise | None:
        """Out-of-distribution test of conditions; None without conditions, or with too many."""
        return None

    def straight(self, conditions: Tensor) -> Tensor:
        """Map conditions ``[M, C]`` to coordinates in which distances are meaningful."""
        return conditions

    @property
    def about(self) -> dict[str, Any]:
        """Description of the flow and its data for files of draws."""
        return {
            "network_sha256": self.digest,
            "toy": self.data_name if self.kind == "toy" else None,
            "image_shape": self.image_shape,
            **({} if self.value_range in (None, GRAY_RANGE) else {"range": self.value_range}),
            "conditions": list(self.condition_names),
        }

    @property
    def arrays(self) -> dict[str, Tensor]:
        """Further arrays for every file of states."""
        return {}

    def require_unconditional(self) -> Self:
        """Return this subject after checking that it has no conditions.

        Raises:
            UsageError: The flow has conditions.
        """
        return self

    # Integration.

    def on(self, device: torch.device, rows: int | None = None) -> ProbabilityFlow:
        """Return the flow on a device, whose network evaluates ``rows`` points at a time.

        None evaluates all points at once.
        """
        flow = self.flow.to(device)
        return flow.in_blocks(rows) if rows else flow

    def amortized_block(self, device: torch.device) -> int:
        """Return the default number of points per network evaluation without a likelihood."""
        return AMORTIZED_CUDA_ROWS if device.type == "cuda" else AMORTIZED_ROWS

    def prior(self, times: Tensor, solver: Solver) -> Prior:
        """Return the flow as a prior of points, on the flow's device."""
        units = self.units
        return Prior(self.flow, times, solver, units["unit"], units["origin"])

    def neural_posterior(self, steps: int | None = None) -> Prior:
        """Return the flow as an amortized posterior: points given conditions, without a likelihood.

        Args:
            steps: Steps of ``LEARNED_SOLVER``; None for the integration schedule in the network
                file.
        """
        flow = self.flow
        if steps is None and "points" in flow.integrations:
            return replace(
                self.prior(*flow.integration("points")),
                integrations=integrations_of(flow),
            )
        times = flow.times(steps or LEARNED_STEPS)
        return self.prior(times, get_solver(LEARNED_SOLVER))

    def sharpened(self, prior: Prior) -> Prior:
        """Return a prior that removes the noise of the first time from points, to first order.

        Points are not sharpened if they are images, or of many dimensions.
        """
        return replace(prior, sharpened=self.is_readable and self.dim <= MOST_SHARPENED)

    @property
    def exact(self) -> ProbabilityFlow | None:
        """Flow of the data's exact denoiser, with the same schedule and basis; None if unknown."""
        return None

    # Sources of points.

    def contradicted(self, points: Tensor, beside: Mapping[str, Tensor]) -> Iterable[str]:
        """Return a sentence for each dropped column whose values contradict the other columns.

        Dropped columns were left out of the training because they are functions of other columns.

        Args:
            points: Rows ``[N, D]``.
            beside: Values ``[N]`` of dropped columns, by name.
        """
        return ()

    def warn_of_others(self, contradicted: Iterable[str], where: str) -> None:
        """Log warnings about columns left out of the training that contradict the other columns."""
        for line in contradicted if distributed.is_main() else ():
            warn("dropped-columns", f"{where}: {line}; the flow models the other columns")

    @abstractmethod
    def samples(self, path: DataSource | None, count: int | None, seed: int) -> Samples:
        """Return points of a data set to inflate, chosen by a seed.

        Args:
            path: Data set.
            count: Number of points; None for all held-out rows of a table.
            seed: Random seed.

        Raises:
            DataError: The data set is broken, of another kind, or has too few points.
        """

    def source(self, path: DataSource | None, count: int | None, seed: int) -> Source:
        """Return a source that reads the points of ``samples`` on demand."""
        points = self.samples(path, count, seed).points
        return Source(len(points), lambda rows: Samples(points[rows.start : rows.stop]))

    @abstractmethod
    def truths(self, path: DataSource | None, count: int, seed: int) -> Tensor:
        """Return test points ``[count, D]`` in the units of the data; they did not train the prior.

        Raises:
            UsageError: A data set is missing, or is given for a toy.
            DataError: The data set is broken, or has too few rows.
        """

    def truth_labels(self, path: DataSource | None, count: int, seed: int) -> Tensor | None:
        """Return conditions ``[count, L]`` of test points; without a data set, random conditions.

        Returns:
            Conditions, or None for a network without conditions.

        Raises:
            UsageError: Conditions cannot be drawn.
        """
        return None

    def unseen(self, path: DataSource | None, count: int, seed: int) -> Rows:
        """Return points and their conditions that neither trained the network nor selected it.

        At most ``count`` points are drawn at random.

        Raises:
            UsageError: A data set is missing, or is given for a toy.
            DataError: The data set is broken, has too few such points, or trained the network.
        """
        there = self.testable(path)
        points = self.truths(path, count if there is None else min(there, count), seed)
        if path is not None:
            self.require_new(path, row_numbers(points.numpy()))
        return Rows(points, self.truth_labels(path, len(points), seed))

    def require_new(self, path: DataSource, numbers: np.ndarray, alike: bool = False) -> None:
        """Check that the network was not trained on some rows.

        Args:
            path: Data set, for the message.
            numbers: Hashes of the rows.
            alike: Whether different rows may be equal, see ``RowHashes.repeated_beyond_chance``.

        Raises:
            DataError: The network was trained on some of the rows.
        """
        if seen := self.repeated(numbers, alike):
            raise DataError(
                f"{path}: the network of {self.data_name} was trained on at least {seen} of its "
                f"{len(numbers)} calibration cases: use other data"
            )

    def repeated(self, numbers: np.ndarray, alike: bool = False) -> int:
        """Return the number of rows (hashes) that are in the training data, beyond chance."""
        if self.network is None:
            return 0
        sketch = RowHashes.read(self.network.path, self.network.about)
        return sketch.repeated_beyond_chance(numbers, alike)

    def counted(self, number: int | None, otherwise: int, path: DataSource | None) -> int | None:
        """Return the number of points to take from a data set; None for all held-out points.

        Args:
            number: Number that the user gave, or None.
            otherwise: Default, which is reduced to the number of available points.
            path: Data set, or None.
        """
        there = None if number or path is None else self.testable(path)
        return number or min(otherwise, there or otherwise)

    def testable(self, path: DataSource | None) -> int | None:
        """Return the number of available test points of a data set; None for a toy (no limit).

        Raises:
            UsageError: The data set is missing.
            DataError: The data set is broken.
        """
        return None

    @abstractmethod
    def fresh(self, path: DataSource | None, count: int, seed: int) -> Draw:
        """Return a function that draws fresh points.

        Args:
            path: Data set; None for a toy.
            count: Number of points of a toy, or maximum number of rows of a data set.
            seed: Random seed for the choice of rows, if the data set has more.
        """

    @abstractmethod
    def points(self, path: TableSource, seen: Tensor | None = None) -> Tensor:
        """Read points ``[M, D]`` from a table with named columns, or from images in gray levels.

        Args:
            path: Table or images.
            seen: Indices ``[K]`` of the observed coordinates; only these coordinates are returned,
                and other coordinates may be missing. None for all.

        Raises:
            DataError: The file is missing or broken, has other columns or images, or values that
                are not finite.
        """

    def observed_names(self, seen: Tensor | None) -> list[str]:
        """Return the names of the coordinates with indices ``[K]``; None for all coordinates."""
        names = self.names
        return names if seen is None else [names[place] for place in seen.tolist()]

    def dequantized(self, points: Tensor, seed: int) -> Tensor:
        """Return points ``[n, D]`` with discrete coordinates dequantized over their bins."""
        return points

    def labels(self, given: TableSource | None) -> Tensor | None:
        """Read the conditions ``[M, L]`` of observations from a table of conditions or classes.

        Returns:
            Conditions, or None for a network without conditions.

        Raises:
            UsageError: The table is missing, is given for a network without conditions, or has
                unknown classes.
            DataError: The table is broken or has other columns.
        """
        if given is not None:
            raise UsageError("--condition is for conditional networks: leave --condition out")
        return None

    def questions(self, path: TableSource) -> Tensor | None:
        """Return the network's input ``[M, L]`` with the exactly known categories of observations.

        Returns:
            Input; None if the file has no columns of categories.

        Raises:
            DataError: The file is missing or broken, or has an unknown category.
        """
        return None

    def as_source(self, points: Tensor, drawn: bool = False) -> tuple[list[str], Tensor]:
        """Convert points ``[n, D]`` to rows of the source: column names, and values ``[n, D + K]``.

        The K additional columns were left out of the training.

        Args:
            points: Points of the flow.
            drawn: Whether points are draws of the flow, which are moved into the range of the data.
        """
        return self.names, points

    def drawn_labels(self, count: int, seed: int, given: int | None) -> Tensor | None:
        """Return labels ``[N, L]`` for generation, of one class or of random classes.

        Returns:
            Labels, or None for a network without classes.
        """
        return None

    def check_class(self, number: int | None, drawn: bool = True) -> None:
        """Check a class number.

        Raises:
            UsageError: The network does not have the class, or conditions to draw are not classes.
        """
        if number is not None:
            raise UsageError(f"--class is {number}, but {self.data_name} has no classes")

    # Facts about simulations.

    def density_points(self, samples: Samples, seed: int) -> Tensor | None:
        """Return the points ``[N, D]`` at which to compute densities; None for the samples."""
        return None

    def kept_variances(self, flow: ProbabilityFlow, melt: Trajectory) -> dict[str, float]:
        """Return variances of kept dimensions after an inflation, divided by their closed form."""
        exact = flow.gaussian_latents(melt.times[-1]).variance
        return summarize_variances(melt.end.square().mean(dim=0), exact, self.dims_to_keep)

    def melt_facts(self, flow: ProbabilityFlow, melt: Trajectory) -> Facts:
        """Return further facts about an inflation (melt)."""
        return {}

    def density_facts(self, melted: Tensor, generated: Tensor) -> Facts:
        """Compare the log densities ``[N]`` of inflated points with those of generated points."""
        return {}

    def return_facts(self, flow: ProbabilityFlow, back: Trajectory, start: Tensor) -> Facts:
        """Return the roundtrip errors, in the coordinates of the flow.

        Args:
            flow: Flow.
            back: Trajectory back to the data.
            start: Points ``[N, D]`` before the inflation, in scaled eigenspace.
        """
        error = (back.end - start) / flow.schedule.scale(back.times[-1])
        return {
            "rms_error": float(error.square().mean().sqrt()),
            "max_abs_error": float(error.abs().max()),
        }

    def returns(self, folder: Path, seed: int) -> Returns:
        """Return an accumulator of roundtrip errors for a folder of results.

        Args:
            folder: Folder of results.
            seed: Random seed that chose the points, for the names of files.
        """
        return RowReturns(roundtrip_paths(folder, self.stem, seed)[0], self.names)

    def lines(self, kind: str, facts: Mapping[str, Any]) -> list[str]:
        """Describe the most important facts about a simulation in words."""
        return []


def summarize_variances(measured: Tensor, exact: Tensor, dims_to_keep: int) -> dict[str, float]:
    """Return the mean and worst ratio of variances of kept dimensions to their closed form."""
    ratios = (measured / exact)[:dims_to_keep]
    farthest = ratios[(ratios - 1).abs().argmax()]
    return {"mean": float(ratios.mean()), "worst": float(farthest)}


def variances_line(facts: Mapping[str, Any], dims_to_keep: int) -> str:
    """Describe in words the variances of kept (not compressed) dimensions after an inflation."""
    ratios = facts["kept_variance_ratio"]
    return (
        f"Variances of {dims_to_keep} kept dimensions relative to the closed form: mean "
        f"{ratios['mean']:.3f}, farthest from 1 {ratios['worst']:.3f}"
    )


def required(path: DataSource | None) -> DataSource:
    """Return the path of a data set, after a check that the user gave one.

    Raises:
        UsageError: The path is missing.
    """
    if path is None:
        raise UsageError("--truth=data needs a test set: give --data_root")
    return path
