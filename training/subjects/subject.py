"""A flow and what its points are: names, units, where points come from, what is told of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from training.data.sketches import Sketch, row_numbers
from training.data.tables.foreign import listed
from training.data.tables.table import Rows
from training.files.roundtrip import roundtrip_paths
from training.flow.coordinates.surprise import Surprise
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver, get_solver
from training.flow.trajectory import Trajectory
from training.inference.prior import Prior, ways_of
from training.learning.melting import LawPlan
from training.names import (
    ALL_AT_ONCE,
    AMORTIZED_CUDA_ROWS,
    AMORTIZED_ROWS,
    LEARNED_SOLVER,
    LEARNED_STEPS,
    TOY_POOL,
)
from training.subjects.networks import NetworkFile
from training.subjects.samples import Returns, RowReturns, Samples, Source

Draw = Callable[[torch.Generator], Tensor]
"""Draws points ``[M, D]`` of the data by a generator on the CPU."""
Quantities = Mapping[str, Callable[[Tensor], Tensor]]
"""Functions of points ``[..., D]``, by their names."""
Facts = dict[str, Any]
"""What parameters say of a simulation, by name."""
BLOCK = 256
"""Points of a block: with blocks of one size, results do not depend on what is sampled beside."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject(ABC):
    """A flow, and what its points are.

    Attributes:
        flow: The flow, on the CPU until it is put elsewhere.
        data_name: Name of the data.
        t_max: The last time of the training, or that which the schedule proposes.
        known: The data and the schedule, by the names of options.
        file: The network; None for a flow without one.
    """

    flow: ProbabilityFlow
    data_name: str
    t_max: float
    known: Mapping[str, Any]
    file: NetworkFile | None = None

    kind: ClassVar[str]
    pool: ClassVar[int] = TOY_POOL
    """Draws of a pool, unless a number is given."""
    block: ClassVar[int] = BLOCK
    """Points of a block, unless a number is given."""
    even_block: ClassVar[int | None] = ALL_AT_ONCE
    """Points of one call where results must not depend on how many there are beside; None for as
    many as a device takes of images."""
    dtype: ClassVar[str] = "float64"
    """Of the states in files."""
    is_readable: ClassVar[bool] = True
    """Whether people read coordinates one by one, as they do columns, not pixels."""
    levels_per_unit: ClassVar[float | None] = None
    """Gray levels to a unit of data."""
    units: ClassVar[Mapping[str, float]] = {"unit": 1.0, "origin": 0.0}
    """Of the data, as a prior takes them."""

    @classmethod
    @abstractmethod
    def of(
        cls, file: NetworkFile, expected: Mapping[str, Any], data_name: str | None = None
    ) -> Self:
        """That of a network file; see ``open_subject``."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of the D coordinates."""

    @property
    def words(self) -> list[str]:
        """What a sentence calls the coordinates."""
        return self.names

    def quantities(self, path: Path | None, count: int, seed: int) -> Quantities:
        """Functions of points ``[..., D]`` that a check of posteriors ranks beside coordinates;
        of a data set also those that its points teach which are no ``truths``."""
        return {}

    @property
    def columns(self) -> list[str] | None:
        """Names that files have of columns; None where there are no columns."""
        return None

    @property
    def dim(self) -> int:
        """D."""
        return self.flow.basis.dim

    @property
    def dims_to_keep(self) -> int:
        """Dimensions that are not compressed."""
        return int(self.known["dims_to_keep"])

    @property
    def stem(self) -> str:
        """How results are named."""
        return f"{self.data_name}_{self.flow.schedule.name}"

    @cached_property
    def digest(self) -> str | None:
        """Of the network; None without one."""
        return None if self.file is None else self.file.model.digest()

    @property
    def label_dim(self) -> int:
        """The number of classes, or of conditions; 0 for none."""
        return 0

    @property
    def condition_names(self) -> Sequence[str]:
        """What points are given with by name."""
        return []

    @property
    def of_sets(self) -> bool:
        """Whether points are given with sets of trials."""
        return False

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of images; None for other data."""
        return None

    @property
    def point_shape(self) -> tuple[int, ...]:
        """Axes of a point: one, or those of an image."""
        return self.image_shape or (self.dim,)

    def labels_of(self, given: ArrayLike | None) -> Tensor | None:
        """Return labels ``[N, L]`` as the network takes them.

        Args:
            given: Labels as a user has them: of images, numbers of classes or condition vectors.

        Raises:
            UsageError: Labels are missing, not needed, or not of this kind.
        """
        if given is not None:
            raise UsageError("given is for conditional models, which this is not")
        return None

    @property
    def surprise(self) -> Surprise | None:
        """How unlike the simulations conditions are; None where there are none, or too many."""
        return None

    def straight(self, conditions: Tensor) -> Tensor:
        """Conditions ``[M, C]`` in coordinates whose distances mean something."""
        return conditions

    @property
    def about(self) -> dict[str, Any]:
        """What files of draws say of the flow and its data."""
        return {
            "network_sha256": self.digest,
            "toy": self.data_name if self.kind == "toy" else None,
            "image_shape": self.image_shape,
            "conditions": list(self.condition_names),
        }

    @property
    def arrays(self) -> dict[str, Tensor]:
        """What every file of states has beside these."""
        return {}

    def require_unconditional(self) -> Self:
        """Itself. Raises UsageError if its points are given with conditions."""
        return self

    # How it is integrated.

    def on(self, device: torch.device, rows: int | None = None) -> ProbabilityFlow:
        """The flow on a device; its network is called with so many rows at a time, or with all."""
        flow = self.flow.to(device)
        return flow.in_blocks(rows) if rows else flow

    def pilots(self, flow: ProbabilityFlow, count: int) -> ProbabilityFlow:
        """The flow for so many latents that times are tried on."""
        return flow

    def amortized_block(self, device: torch.device) -> int:
        """Points of one call where there is no likelihood, unless a number is given."""
        return AMORTIZED_CUDA_ROWS if device.type == "cuda" else AMORTIZED_ROWS

    def prior(self, times: Tensor, solver: Solver, deblurred: bool = False) -> Prior:
        """The prior on the flow's device."""
        units = self.units
        return Prior(self.flow, times, solver, deblurred, units["unit"], units["origin"])

    def neural_posterior(self, steps: int | None = None, deblurred: bool = False) -> Prior:
        """Points of a flow with conditions, as posteriors without a likelihood draw them.

        Args:
            steps: Steps of ``LEARNED_SOLVER``; None for the schedule that the network file has.
            deblurred: Whether to draw clean points.
        """
        flow = self.flow
        if steps is None and "points" in flow.courses:
            return replace(self.prior(*flow.course("points"), deblurred), ways=ways_of(flow))
        times = flow.times(steps or LEARNED_STEPS)
        return self.prior(times, get_solver(LEARNED_SOLVER), deblurred)

    @property
    def exact(self) -> ProbabilityFlow | None:
        """The flow of the data's own denoiser, with the same schedule and basis; None where it is
        not known."""
        return None

    # Where points come from.

    def contradicted(self, points: Tensor, beside: Mapping[str, Tensor]) -> Iterable[str]:
        """Where rows ``[N, D]`` have other values ``[N]`` of columns that the training left out, by
        name, than followed from them there: a sentence for each column."""
        return ()

    def warn_of_others(self, contradicted: Iterable[str], where: str) -> None:
        """Warns of what is wrong with columns that the training left out."""
        for line in contradicted if distributed.is_main() else ():
            logger.warning(f"Warning: {where}: {line}; the flow is of the other columns alone")

    @abstractmethod
    def samples(self, path: Path | None, count: int | None, seed: int) -> Samples:
        """Points of a data set to melt, chosen by a seed: so many, or all that a table has held
        out. Raises DataError if the data set is broken, of another kind, or has too few."""

    def source(self, path: Path | None, count: int | None, seed: int) -> Source:
        """The same, read as they are needed."""
        points = self.samples(path, count, seed).points
        return Source(len(points), lambda rows: Samples(points[rows.start : rows.stop]))

    @abstractmethod
    def truths(self, path: Path | None, count: int, seed: int) -> Tensor:
        """Points ``[count, D]`` that the prior was not trained on, in the data's own units. Raises
        UsageError if a data set is missing, or is given for a toy, DataError if it is broken, or
        has too few rows."""

    def truth_labels(self, path: Path | None, count: int, seed: int) -> Tensor | None:
        """What the network is given with each of these truths, or with draws of it without a data
        set, ``[count, L]``; None for nothing. Raises UsageError if there are none to be drawn."""
        return None

    def unseen(self, path: Path | None, count: int, seed: int) -> Rows:
        """Points, with their conditions, that neither trained the network nor chose anything of it:
        so many at most, drawn at random. Raises UsageError if a data set is missing, or is given
        for a toy, DataError if it is broken, has too few such points, or the network has seen them.
        """
        there = self.testable(path)
        points = self.truths(path, count if there is None else min(there, count), seed)
        if path is not None:
            self.require_new(path, row_numbers(points.numpy()))
        return Rows(points, self.truth_labels(path, len(points), seed))

    def require_new(self, path: Path, numbers: np.ndarray, alike: bool = False) -> None:
        """Raises DataError if the training of the network has seen rows of these numbers; whether
        different ones may well be alike is said as ``Sketch.repeated_by_chance`` takes it."""
        if seen := self.repeated(numbers, alike):
            raise DataError(
                f"{path}: {self.data_name} was trained on at least {seen} of its {len(numbers)} "
                "fresh truths: calibrate on others"
            )

    def repeated(self, numbers: np.ndarray, alike: bool = False) -> int:
        """How many rows of these numbers the training has seen, but for what chance repeats."""
        if self.file is None:
            return 0
        sketch = Sketch.read(self.file.path, self.file.model.about)
        return sketch.repeated_beyond_chance(numbers, alike)

    def counted(self, number: int | None, otherwise: int, path: Path | None) -> int | None:
        """How many points of a data set to take where a number is given or not, which is then no
        more than there are; None for all that are held out."""
        there = None if number or path is None else self.testable(path)
        return number or min(otherwise, there or otherwise)

    def testable(self, path: Path | None) -> int | None:
        """How many points a data set has that ``truths`` may draw; None of a toy, which has any.
        Raises UsageError if the data set is missing, DataError if it is broken."""
        return None

    @abstractmethod
    def fresh(self, path: Path | None, count: int, seed: int) -> Draw:
        """What draws: so many of a toy, or of the data set of others, where a seed chooses rows if
        there are too many."""

    @abstractmethod
    def points(self, path: Path, seen: Tensor | None = None) -> Tensor:
        """Points ``[M, D]`` of a table, columns by their names, or of images in gray levels; of
        places ``[K]`` that are seen only these, and others need not be there. Raises DataError if
        the file is missing or broken, has other columns or images, or values that are not finite.
        """

    def seen_names(self, seen: Tensor | None) -> list[str]:
        """Names of the coordinates at places ``[K]``; None for all."""
        names = self.names
        return names if seen is None else [names[place] for place in seen.tolist()]

    def dithered(self, points: Tensor, seed: int) -> Tensor:
        """Points ``[n, D]`` with discrete coordinates spread evenly over their steps."""
        return points

    def labels(self, given: Path | None) -> Tensor | None:
        """What the network is given with each observation, ``[M, L]``, by a table of conditions, or
        of classes; None for nothing. Raises UsageError if it is missing, or goes with no network
        like this, or has other classes, DataError if the table is broken, or has other columns."""
        if given is not None:
            raise UsageError(
                "--condition is for networks with classes or conditions, which this has not"
            )
        return None

    def of_columns(self, names: Sequence[str], rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Points ``[M, D]`` that rows ``[M, C]`` of some columns are, and what the network is given
        with each, ``[1, L]`` by name, so that their density is that of these columns up to a
        constant. Raises UsageError if the flow has others, or is conditional."""
        if set(self.names) - set(names) or self.label_dim:
            raise UsageError(
                f"{self.data_name} is a flow of {listed(self.names)}: give one of "
                f"{listed(names)}, without conditions"
            )
        return rows[:, [list(names).index(name) for name in self.names]], {}

    def questions(self, path: Path) -> Tensor | None:
        """What the network is given with each observation of a file beside its numbers, as it takes
        it, ``[M, L]``: levels that are known exactly. None for nothing. Raises DataError if the
        file is missing or broken, or has a level that is unknown."""
        return None

    def as_source(
        self, points: Tensor, rounded: bool = True, drawn: bool = False
    ) -> tuple[list[str], Tensor]:
        """Points ``[n, D]`` as the source had its rows: all columns by name, and ``[n, D + K]``.
        Discrete columns may be put at the nearest of their steps; what the flow has drawn may leave
        the range of the data, and is put back where it is rounded."""
        return self.names, points

    def drawn_labels(self, count: int, seed: int, given: int | None) -> Tensor | None:
        """Labels ``[N, L]`` of what is generated, of one class or of random ones; None for a
        network without classes."""
        return None

    def check_class(self, number: int | None, drawn: bool = True) -> None:
        """Raises UsageError for a class that the network does not have, or where labels are to be
        drawn that are no classes."""
        if number is not None:
            raise UsageError(f"--class is {number}, but {self.data_name} has no classes")

    @abstractmethod
    def law_plan(self, path: Path | None, seed: int, device: torch.device) -> LawPlan:
        """How to learn the law of its latents again, from a data set if it is no toy."""

    # What is told of simulations.

    def density_points(self, samples: Samples, seed: int) -> Tensor | None:
        """Other points ``[N, D]`` than the samples whose densities are theirs; None for none."""
        return None

    def kept_variances(self, flow: ProbabilityFlow, melt: Trajectory) -> dict[str, float]:
        """Variances of kept dimensions at a melt's end over their closed form."""
        exact = flow.gaussian_law(melt.times[-1]).variance
        return summarize_variances(melt.end.square().mean(dim=0), exact, self.dims_to_keep)

    def melt_facts(self, flow: ProbabilityFlow, melt: Trajectory) -> Facts:
        """What else the parameters say of a melt."""
        return {}

    def density_facts(self, melted: Tensor, generated: Tensor) -> Facts:
        """What log densities ``[N]`` of melted points say beside those of generated ones."""
        return {}

    def return_facts(self, flow: ProbabilityFlow, back: Trajectory, start: Tensor) -> Facts:
        """How well points came back to where their melt started ``[N, D]``, scaled eigenspace:
        errors in the coordinates of the flow."""
        error = (back.end - start) / flow.schedule.scale(back.times[-1])
        return {
            "rms_error": float(error.square().mean().sqrt()),
            "max_abs_error": float(error.abs().max()),
        }

    def returns(self, folder: Path, seed: int, keep_worst: int) -> Returns:
        """What is measured of points that come back, for a folder of results: a seed chooses
        points, and so many images are kept of those that come back worst."""
        return RowReturns(roundtrip_paths(folder, self.stem, seed)[0], self.names)

    def lines(self, kind: str, facts: Mapping[str, Any]) -> list[str]:
        """The most important numbers of a simulation of this kind, in words."""
        return []


def summarize_variances(measured: Tensor, exact: Tensor, dims_to_keep: int) -> dict[str, float]:
    """Variances ``[D]`` of kept dimensions over their closed form: mean, and farthest from 1."""
    ratios = (measured / exact)[:dims_to_keep]
    farthest = ratios[(ratios - 1).abs().argmax()]
    return {"mean": float(ratios.mean()), "worst": float(farthest)}


def variances_line(facts: Mapping[str, Any], dims_to_keep: int) -> str:
    """What a melt says of the variances of kept dimensions."""
    ratios = facts["kept_variance_ratio"]
    return (
        f"Variances of {dims_to_keep} kept dimensions over their closed form: mean "
        f"{ratios['mean']:.3f}, farthest from 1 {ratios['worst']:.3f}"
    )


def required(path: Path | None) -> Path:
    """Where truths of data come from. Raises UsageError if it was not said."""
    if path is None:
        raise UsageError("--truth=data needs points that were not trained on: give --data_root")
    return path
