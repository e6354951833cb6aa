"""What a posterior is of: a network of a toy, a table or images, or a toy with its own denoiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.formats import is_table
from training.data.toys import Toy
from training.files.observations import read_columns, read_observations
from training.flow.coordinates.surprise import Surprise
from training.flow.pfode import ProbabilityFlow
from training.inference.prior import Prior
from training.measure.roundtrip import LEVELS_PER_UNIT
from training.names import IMAGE_POOL, TOY_POOL
from training.runs.images import ImageFlow
from training.runs.networks import NetworkFile
from training.runs.tables import TableFlow
from training.runs.toys import ToyChoice, ToyFlow

ROWS = {"mlp": 256, "images": 16}
"""Points of a block: with blocks of one size, results do not depend on what is sampled beside."""


@dataclass(frozen=True)
class PosteriorSubject:
    """A prior, and what its points are.

    Attributes:
        flow: The flow, on the CPU.
        stem: How results are named.
        names: Of the D coordinates.
        known: What is recorded of the subject.
        t_max: The last time of the training.
        dims_to_keep: Dimensions that are not compressed.
        digest: Of the network; None for a toy's own denoiser.
        file: The network; None for a toy's own denoiser.
        image_shape: ``(C, H, W)`` of images; None for other data.
        label_dim: The number of classes, or of conditions of a table; 0 for none.
        toy: The toy, if it is one.
        table: The table's flow, if it is one.
        images: The flow of images, if it is one.
    """

    flow: ProbabilityFlow
    stem: str
    names: Sequence[str]
    known: dict[str, Any]
    t_max: float
    dims_to_keep: int
    digest: str | None = None
    file: NetworkFile | None = None
    image_shape: tuple[int, int, int] | None = None
    label_dim: int = 0
    toy: Toy | None = None
    table: TableFlow | None = None
    images: ImageFlow | None = None

    @classmethod
    def of_network(cls, file: NetworkFile) -> "PosteriorSubject":
        """Raises DataError if the file is broken."""
        model = file.model
        common: dict[str, Any] = {
            "flow": model.flow,
            "t_max": file.t_max,
            "digest": model.digest(),
            "file": file,
        }
        if file.is_table:
            table = TableFlow.of(file, {})
            return cls(
                stem=table.stem,
                names=list(table.columns),
                label_dim=len(table.conditions),
                known=table.known,
                dims_to_keep=table.dims_to_keep,
                table=table,
                **common,
            )
        if file.is_toy:
            toy = ToyFlow.of(file, {})
            return cls._of_toy(toy, common)
        images = ImageFlow.of(file, {})
        return cls(
            stem=images.stem,
            names=[f"pixel{index}" for index in range(model.denoiser.basis.dim)],
            known=images.known,
            dims_to_keep=images.dims_to_keep,
            image_shape=images.image_shape,
            label_dim=images.label_dim,
            images=images,
            **common,
        )

    @classmethod
    def exact(cls, choice: ToyChoice) -> "PosteriorSubject":
        """A toy with its own denoiser."""
        toy = ToyFlow.exact(choice)
        return cls._of_toy(toy, {"flow": toy.flow, "t_max": toy.t_max})

    @classmethod
    def _of_toy(cls, toy: ToyFlow, common: dict[str, Any]) -> "PosteriorSubject":
        return cls(
            stem=toy.stem,
            names=[f"x{index + 1}" for index in range(toy.toy.dim)],
            known=dict(toy.known),
            dims_to_keep=toy.dims_to_keep,
            toy=toy.toy,
            **common,
        )

    @property
    def dim(self) -> int:
        """D."""
        return self.flow.basis.dim

    @property
    def rows(self) -> int:
        """Points of a block, unless a number is given."""
        return ROWS["mlp" if self.images is None else "images"]

    @property
    def pool(self) -> int:
        """Draws of a pool, unless a number is given."""
        return TOY_POOL if self.images is None else IMAGE_POOL

    @property
    def units(self) -> dict[str, float]:
        """Of the data, as a prior takes them."""
        if self.images is None:
            return {"unit": 1.0, "origin": 0.0}
        return {"unit": 1 / LEVELS_PER_UNIT, "origin": LEVELS_PER_UNIT}

    @property
    def condition_names(self) -> Sequence[str]:
        """What the points of a table are given with."""
        return [] if self.table is None else self.table.conditions

    @property
    def words(self) -> list[str]:
        """What a sentence calls the coordinates: columns by name, pixels by their place from 1."""
        if self.image_shape is None:
            return list(self.names)
        channels, *sides = (range(1, size + 1) for size in self.image_shape)
        of = [f" of channel {number}" if len(channels) > 1 else "" for number in channels]
        return [f"the pixel in row {y}, column {x}{c}" for c, y, x in product(of, *sides)]

    @property
    def about(self) -> dict[str, Any]:
        """What files of draws say of the flow and its data."""
        return {
            "network_sha256": self.digest,
            "toy": self.toy.name if self.toy else None,
            "image_shape": self.image_shape,
            "conditions": list(self.condition_names),
        }

    def points(self, path: Path, seen: Tensor | None = None) -> Tensor:
        """Points ``[M, D]`` of a file, columns by their names, or images in gray levels.

        Args:
            path: A table, or images.
            seen: Places ``[K]`` of the coordinates to take, ``[M, K]``; None for all. Others need
                not be there.

        Raises:
            DataError: It is missing or broken, has other columns or images, or values that are not
                finite.
        """
        if self.image_shape is not None and not is_table(str(path)):
            found = read_observations(path, self.image_shape)
            return found if seen is None else found[:, seen]
        names = list(self.names)
        wanted = names if seen is None else [names[place] for place in seen.tolist()]
        others = [] if self.table is None else [*self.table.dropped.order, *self.condition_names]
        return read_columns(path, wanted, names, others)

    def labels(self, given: Path | None) -> Tensor | None:
        """What the network is given with each observation, ``[M, L]``; None for nothing.

        Args:
            given: A table of conditions, or of the class of each observation.

        Raises:
            UsageError: It is missing, or goes with no network like this, or has other classes.
            DataError: The table is broken, or has other columns.
        """
        if not self.label_dim:
            if given is not None:
                raise UsageError(
                    "--condition is for networks with classes or conditions, which this has not"
                )
            return None
        if self.condition_names:
            if given is None:
                told = ", ".join(self.condition_names)
                raise UsageError(f"this network is conditional on {told}: say what by --condition")
            return read_columns(given, self.condition_names)
        if given is None:
            raise UsageError(f"this network has {self.label_dim} classes: say which by --condition")
        numbers = read_observations(given)
        if numbers.shape[1] != 1 or not (numbers == numbers.round()).all():
            raise UsageError(f"{given} must have one column, of whole numbers: classes")
        classes = numbers.long().flatten()
        if not ((classes >= 0) & (classes < self.label_dim)).all():
            raise UsageError(f"--condition has classes beyond 0 to {self.label_dim - 1}")
        return torch.nn.functional.one_hot(classes, self.label_dim).float()

    @property
    def surprise(self) -> Surprise | None:
        """How unlike the simulations conditions are; None where there are none, or it is not known
        of a network file of an earlier version."""
        return None if self.table is None else self.table.coordinates.surprise

    def testable(self, data_root: Path | None) -> int | None:
        """How many points a data set has that ``truths`` may draw; None of a toy, which has any.

        Raises:
            UsageError: The data set is missing.
            DataError: It is broken.
        """
        if self.toy is not None:
            return None
        if self.table is not None:
            return self.table.testable(required(data_root))
        assert self.images is not None
        return len(self.images.dataset(required(data_root), None, 0))

    def truths(self, data_root: Path | None, count: int, seed: int) -> Tensor:
        """Points ``[count, D]`` that the prior was not trained on, in the data's own units.

        Raises:
            UsageError: A data set is missing, or is given for a toy.
            DataError: It is broken, or has too few rows.
        """
        if self.toy is not None:
            if data_root is not None:
                raise UsageError("--data_root is for tables and images: a toy has its own points")
            return self.toy.sample(count, seeded_generator("cpu", seed, Stream.TRUTHS))
        data_root = required(data_root)
        if self.table is not None:
            points, _ = self.table.rows(data_root, count, seed)
            return self.table.dithered(points, seed)
        assert self.images is not None
        dataset = self.images.dataset(data_root, count, seed)
        pixels, _ = dataset.read(range(len(dataset)))
        return pixels.flatten(1).double()

    def prior(self, times: Tensor, solver: Any, deblurred: bool = False) -> Prior:
        """The prior on the flow's device."""
        units = self.units
        return Prior(self.flow, times, solver, deblurred, units["unit"], units["origin"])


def required(data_root: Path | None) -> Path:
    """Where truths of data come from. Raises UsageError if it was not said."""
    if data_root is None:
        raise UsageError("--truth=data needs points that were not trained on: give --data_root")
    return data_root
