"""An image network made ready to be integrated: what the image scripts share.

Opens the network file, and settles every option that the file knows.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.urls import local_file
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.batches import ImageDataset
from training.flow.calls import BLOCK_ROWS, RecomputedDenoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.measure.roundtrip import LEVELS_PER_UNIT
from training.model.model import Model
from training.simulation.integration import (
    PILOTS,
    NetworkFile,
    chosen_solver,
    first_time,
    settle_times,
)


@dataclass(frozen=True)
class ImageFlow:
    """A network of images, and how it is to be integrated.

    Attributes:
        path: The network file.
        model: What is in it.
        data_name: How files made with it are called.
        image_shape: ``(C, H, W)``.
        label_dim: Number of classes; 0 for a network without.
        solver: How to integrate.
        options: Those it was opened with, settled.
    """

    path: Path
    model: Model
    data_name: str
    image_shape: tuple[int, int, int]
    label_dim: int
    solver: Solver
    options: Mapping[str, Any]

    @classmethod
    def open(cls, options: dict[str, Any]) -> "ImageFlow":
        """Opens the network of ``integration_options``, and fills in those that were left out.

        Raises:
            UsageError: An option contradicts the file; the message states both values.
            DataError: The file is missing or broken, or its network is not one of images.
        """
        path = local_file(options["network"])
        model = Model.load(path, end_std=options["end_vars"], calibrated=options["calibration"])
        channels, height, width = _image_shape(path, model)
        label_dim = model.about.get("label_dim", 0)
        if not (type(label_dim) is int and label_dim >= 0):
            raise DataError(f"{path} says that it has '{label_dim}' classes")
        known = {**model.about, "img_size": height, "img_ch": channels}
        source = f"the network {path.name}"
        for name in ("data_dim", "dims_to_keep", "img_size", "img_ch"):
            options[name] = agree(name, options[name], known[name], source)
        model.denoiser.precision = options["precision"]
        data_name = options.get("data_name") or str(known.get("data_name", "images"))
        options["data_name"] = plain_name(data_name)
        options["end_time"] = _end_time(options["end_time"], known["tmax"], source)
        first_time(model.denoiser.schedule, options, options["end_time"])
        return cls(
            path,
            model,
            data_name,
            (channels, height, width),
            label_dim,
            chosen_solver(options),
            options,
        )

    @property
    def schedule_name(self) -> str:
        return self.model.denoiser.schedule.name

    def on(self, device: torch.device, rows: int | None) -> ProbabilityFlow:
        """The flow on a device, its network called with so many rows at a time.

        Gradients take the memory of one call too.
        """
        denoiser = self.model.denoiser.to(device)
        flow = self.model.flow.with_denoiser(RecomputedDenoiser(denoiser))
        return flow.in_blocks(rows or BLOCK_ROWS[device.type])

    def times(self, flow: ProbabilityFlow) -> Tensor:
        """Times of a simulation, increasing ``[steps + 1]``, of the flow that ``on`` gave."""
        labels = self.labels(draw_classes(PILOTS, self.label_dim, 0, None))
        flow = flow if labels is None else flow.given(labels=labels.to(flow.device))
        file = NetworkFile(self.path, self.model)
        steps, end = self.options["n_iters"], self.options["end_time"]
        return settle_times(flow, self.solver, steps, end, self.options, file)

    def dataset(self, path: Path, count: int, seed: int) -> ImageDataset:
        """So many images of a data set, drawn at random, with labels if the network has them.

        Raises:
            DataError: They are too few, of another shape, or with labels of another length.
        """
        dataset = ImageDataset(path, use_labels=self.label_dim > 0, max_size=count, seed=seed)
        if tuple(dataset.image_shape) != self.image_shape:
            raise DataError(
                f"{path} has images of {_shape(dataset.image_shape)}, but the network "
                f"{self.path.name} was trained on {_shape(self.image_shape)}"
            )
        if len(dataset) < count:
            raise DataError(f"{path} has {len(dataset)} images, but {count} were asked for")
        if dataset.label_dim != self.label_dim:
            raise DataError(
                f"{path} has labels of length {dataset.label_dim}, but the network "
                f"{self.path.name} takes {self.label_dim}"
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
            raise UsageError(f"--class is {number}, but {self.path.name} has no classes")
        if number >= self.label_dim:
            raise UsageError(
                f"--class is {number}, but {self.path.name} has classes 0 to {self.label_dim - 1}"
            )


def dequantized(data: Tensor, seed: int) -> Tensor:
    """Images ``[N, D]`` of 8 bits, each level spread evenly over its bin, in float64.

    A level is the center of its bin, so the noise is uniform over ``[-1/2, 1/2)`` gray levels. That
    of an image is a function of the seed and of its number alone.
    """
    generator = seeded_generator("cpu", seed, Stream.DEQUANTIZATION)
    noise = torch.rand(data.shape, generator=generator, dtype=torch.float64) - 0.5
    return data.double() + noise.to(data.device) / LEVELS_PER_UNIT


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


def summarize_variances(measured: Tensor, exact: Tensor, dims_to_keep: int) -> dict[str, float]:
    """Variances ``[D]`` of kept dimensions over their closed form: mean, and farthest from 1."""
    ratios = (measured / exact)[:dims_to_keep]
    farthest = ratios[(ratios - 1).abs().argmax()]
    return {"mean": float(ratios.mean()), "worst": float(farthest)}


def _image_shape(path: Path, model: Model) -> tuple[int, int, int]:
    """``(C, H, W)`` as the file has it, if it is one of this network."""
    shape = model.about.get("image_shape")
    if shape is None:
        name = model.about.get("data_name")
        raise DataError(f"{path} was not trained on images, but on '{name}'")
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    plain = len(sizes) == 3 and all(type(size) is int and size > 0 for size in sizes)
    if not plain or math.prod(sizes) != model.denoiser.basis.dim:
        dim = model.denoiser.basis.dim
        raise DataError(f"{path} says that its images are {shape}, but its basis has {dim} numbers")
    channels, height, width = sizes
    if channels not in (1, 3) or height != width:
        raise DataError(f"{path} has images of {shape}: they should be square, and gray or RGB")
    return channels, height, width


def _end_time(given: float | None, t_max: float, source: str) -> float:
    if given is not None and given > t_max * (1 + 1e-9):
        raise UsageError(
            f"--end_time is {given:g}, but {source} was trained up to T = {t_max:g}: give less"
        )
    return min(given or t_max, t_max)


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels in {channels} channel(s)"
