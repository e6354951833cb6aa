"""A network of images, made ready to be integrated."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.batches import ImageDataset
from training.flow.calls import BLOCK_ROWS, RecomputedDenoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.model.model import Model
from training.names import TOY_NAMES
from training.runs.networks import NetworkChoice, NetworkFile, TrainedFlow
from training.runs.times import PILOTS, TimeChoice


@dataclass(frozen=True)
class ImageFlow(TrainedFlow):
    """A network of images, which is to be integrated.

    Attributes:
        image_shape: ``(C, H, W)``.
        label_dim: Number of classes; 0 for a network without.
    """

    image_shape: tuple[int, int, int]
    label_dim: int

    @classmethod
    def open(cls, choice: NetworkChoice, data_name: str | None = None) -> "ImageFlow":
        """Opens a network of images.

        Args:
            choice: Which network; what was said of it may be ``data_dim``, ``dims_to_keep``,
                ``img_size`` and ``img_ch``.
            data_name: How results are to be named; None for the network's data set.

        Raises:
            UsageError: What was said contradicts the file; the message states both values.
            DataError: The file is missing or broken, or its network is not one of images.
        """
        return cls.of(NetworkFile.open(choice), choice.said, data_name)

    @classmethod
    def of(
        cls, file: NetworkFile, said: Mapping[str, Any], data_name: str | None = None
    ) -> "ImageFlow":
        """The flow of a network file that is open; raises as ``open`` does."""
        about = file.model.about
        shape = _image_shape(file.path, file.model)
        label_dim = about.get("label_dim", 0)
        if not (type(label_dim) is int and label_dim >= 0):
            raise DataError(f"{file.path} says that it has '{label_dim}' classes")
        found = cls(
            file,
            plain_name(data_name or str(about.get("data_name", "images"))),
            shape,
            label_dim,
        )
        file.agreed(said, found.known)
        return found

    @property
    def known(self) -> dict[str, Any]:
        """What the file knows, by the names of options."""
        channels, height, _ = self.image_shape
        return {
            "data_dim": self.model.denoiser.basis.dim,
            "dims_to_keep": self.dims_to_keep,
            "img_size": height,
            "img_ch": channels,
            "data_name": self.data_name,
        }

    def on(self, device: torch.device, rows: int | None) -> ProbabilityFlow:
        """The flow on a device, its network called with so many rows at a time.

        Gradients take the memory of one call too.
        """
        denoiser = self.model.denoiser.to(device)
        flow = self.model.flow.with_denoiser(RecomputedDenoiser(denoiser))
        return flow.in_blocks(rows or BLOCK_ROWS[device.type])

    def times(self, flow: ProbabilityFlow, solver: Solver, choice: TimeChoice) -> Tensor:
        """Times of a simulation, increasing ``[steps + 1]``, of the flow that ``on`` gave."""
        labels = self.labels(draw_classes(PILOTS, self.label_dim, 0, None))
        flow = flow if labels is None else flow.given(labels=labels.to(flow.device))
        return choice.settle(flow, solver, self.file)

    def dataset(self, path: Path, count: int | None, seed: int) -> ImageDataset:
        """So many images of a data set, drawn at random, with labels if the network has them.

        Raises:
            DataError: They are too few, of another shape, or with labels of another length.
        """
        dataset = ImageDataset(path, use_labels=self.label_dim > 0, max_size=count, seed=seed)
        if tuple(dataset.image_shape) != self.image_shape:
            raise DataError(
                f"{path} has images of {_shape(dataset.image_shape)}, but the network "
                f"{self.file.path.name} was trained on {_shape(self.image_shape)}"
            )
        if count is not None and len(dataset) < count:
            raise DataError(f"{path} has {len(dataset)} images, but {count} were asked for")
        if dataset.label_dim != self.label_dim:
            raise DataError(
                f"{path} has labels of length {dataset.label_dim}, but the network "
                f"{self.file.path.name} takes {self.label_dim}"
            )
        return dataset

    def labels(self, classes: Tensor) -> Tensor | None:
        """Labels ``[N, label_dim]`` of classes ``[N]``; None for a network without."""
        if not self.label_dim:
            return None
        return torch.nn.functional.one_hot(classes, self.label_dim).float()

    def check_class(self, number: int | None) -> None:
        """Raises UsageError for a class that the network does not have."""
        if number is None:
            return
        if not self.label_dim:
            raise UsageError(f"--class is {number}, but {self.file.path.name} has no classes")
        if number >= self.label_dim:
            raise UsageError(
                f"--class is {number}, but {self.file.path.name} has classes 0 to "
                f"{self.label_dim - 1}"
            )


def draw_classes(count: int, classes: int, seed: int, given: int | None) -> Tensor:
    """A class for each of N images ``[N]``: the given one, or uniform at random."""
    if given is not None:
        return torch.full((count,), given)
    generator = seeded_generator("cpu", seed, Stream.LABEL)
    return torch.randint(max(classes, 1), (count,), generator=generator)


def plain_name(name: str) -> str:
    """A name that may be part of a file's. Raises UsageError for any other."""
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
        raise UsageError(f"--data_name is '{name}': use letters, digits and . _ + - only")
    return name


def _image_shape(path: Path, model: Model) -> tuple[int, int, int]:
    """``(C, H, W)`` as the file has it, if it is one of this network."""
    shape = model.about.get("image_shape")
    if shape is None:
        name = model.about.get("data_name")
        toys = ": give it to toy_pfODE_int.py" if name in TOY_NAMES else ""
        raise DataError(f"{path} was not trained on images, but on '{name}'{toys}")
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    plain = len(sizes) == 3 and all(type(size) is int and size > 0 for size in sizes)
    if not plain or math.prod(sizes) != model.denoiser.basis.dim:
        dim = model.denoiser.basis.dim
        raise DataError(f"{path} says that its images are {shape}, but its basis has {dim} numbers")
    channels, height, width = sizes
    if channels not in (1, 3) or height != width:
        raise DataError(f"{path} has images of {shape}: they should be square, and gray or RGB")
    return channels, height, width


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels in {channels} channel(s)"
