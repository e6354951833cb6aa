"""Images: flows whose points are the pixels of an image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.warned import warn
from torch_utils import distributed
from torch_utils.seeds import seeded_generator, uniform_numbers
from torch_utils.streams import Stream
from training.data.images.dataset import ImageDataset
from training.data.images.stacks import GRAY_RANGE, MOST_CHANNELS, checked_range, holds_stack
from training.data.row_hashes import row_numbers
from training.data.tables.formats import ForeignTable, TableSource, is_table
from training.data.tables.table import DataSource
from training.files.observations import read_columns, read_observations
from training.files.roundtrip import roundtrip_paths
from training.flow.denoisers import BLOCK_ROWS, RecomputedDenoiser
from training.flow.pfode import ProbabilityFlow, Trajectory
from training.measure.image_quantities import class_log_odds, image_quantities
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors, in_range
from training.names import IMAGE_POOL, IMAGES, TOY_NAMES, script
from training.subjects.subject import (
    Draw,
    Facts,
    ImageReturns,
    Quantities,
    Returns,
    Samples,
    Source,
    Subject,
    required,
    variances_line,
)
from training.trained.network import TrainedNetwork

BLOCK = 16
"""Number of images in a block."""
MOST_TAUGHT = 10_000
"""Largest number of images for learning the log odds of classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFlow(Subject):
    """A flow of images.

    Attributes:
        network: Trained network.
        shape: Shape of an image ``(C, H, W)``.
        classes: Number of classes, or length of the condition vectors; 0 for an unconditional
            network.
        vectors: Whether conditions are vectors of numbers instead of classes.
        ends: Values that the points -1 and 1 stand for.
    """

    network: TrainedNetwork
    shape: tuple[int, int, int]
    classes: int
    vectors: bool = False
    ends: tuple[float, float] = GRAY_RANGE

    kind = IMAGES
    pool = IMAGE_POOL
    block = BLOCK
    even_block = None
    # 256 CIFAR images at 27 times take 0.7 GB in float32.
    dtype = "float32"
    is_readable = False

    @classmethod
    def of(
        cls, network: TrainedNetwork, expected: Mapping[str, Any], data_name: str | None = None
    ) -> "ImageFlow":
        """Return the flow of a network file of images, with the arguments of ``open_subject``."""
        about = network.about
        shape = _image_shape(network.path, network)
        label_dim = about.get("label_dim", 0)
        if not (type(label_dim) is int and label_dim >= 0):
            raise DataError(f"{network.path} has an invalid number of classes, '{label_dim}'")
        channels, height, _ = shape
        known = {
            "data_dim": network.denoiser.basis.dim,
            "dims_to_keep": about["dims_to_keep"],
            "img_size": height,
            "img_ch": channels,
        }
        return cls(
            **network.as_subject(expected, data_name, "images", known),
            shape=shape,
            classes=label_dim,
            vectors=about.get("vectors") is True,
            ends=checked_range(about.get("value_range", GRAY_RANGE), network.path),
        )

    @property
    def names(self) -> list[str]:
        """Names of the pixels: their indices, from 0."""
        return [f"pixel{index}" for index in range(self.dim)]

    @property
    def words(self) -> list[str]:
        """Names of the pixels for messages: row and column from 0, as in ``--operator=crop:``."""
        channels, *sides = map(range, self.shape)
        of = [f" of channel {number}" if len(channels) > 1 else "" for number in channels]
        return [f"the pixel in row {y}, column {x}{c}" for c, y, x in product(of, *sides)]

    @property
    def label_dim(self) -> int:
        """Number of classes, or length of the condition vectors; 0 for none."""
        return self.classes

    @property
    def value_range(self) -> tuple[float, float]:
        """Values that the points -1 and 1 stand for."""
        return self.ends

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image ``(C, H, W)``."""
        return self.shape

    @property
    def arrays(self) -> dict[str, Tensor]:
        """Arrays for every results file, by name: the shape of the images."""
        return {"image_shape": torch.tensor(self.shape)}

    def on(self, device: torch.device, rows: int | None = None) -> ProbabilityFlow:
        """Return the flow on a device, whose network evaluates ``rows`` images at a time.

        Gradients, too, need only the memory of one evaluation.
        """
        model = self.network
        flow = model.flow.with_denoiser(RecomputedDenoiser(model.denoiser.to(device)))
        return flow.in_blocks(rows or BLOCK_ROWS[device.type])

    def amortized_block(self, device: torch.device) -> int:
        """Return the default number of images per evaluation, the same on all devices."""
        return self.block

    def dataset(self, path: DataSource, count: int | None, seed: int) -> ImageDataset:
        """Return images of a data set, drawn at random, with labels if the network has them.

        Args:
            path: Data set.
            count: Number of images; None for all.
            seed: Random seed of the draw.

        Raises:
            DataError: There are too few images, or their shape or their labels' length differs.
        """
        taken, classes = self.label_dim > 0, self.label_dim
        if not isinstance(path, Path):
            raise UsageError("images are read from a zip or a folder: give its path")
        dataset = ImageDataset(path, taken, max_size=count, seed=seed, classes=classes)
        if tuple(dataset.image_shape) != self.image_shape:
            raise DataError(
                f"{path} has images of {_shape(dataset.image_shape)}, but the network "
                f"{self.network.path.name} was trained on {_shape(self.image_shape)}"
            )
        if dataset.value_range != self.ends:
            raise DataError(
                f"{path} has values from {dataset.value_range[0]:g} to {dataset.value_range[1]:g}, "
                f"but the network was trained on {self.ends[0]:g} to {self.ends[1]:g}: give both "
                "data sets the same --value_range"
            )
        if count is not None and len(dataset) < count:
            raise DataError(f"{path} has {len(dataset)} images, but {count} were requested")
        if dataset.label_dim != self.label_dim:
            raise DataError(
                f"{path} has class labels of length {dataset.label_dim}, but the network "
                f"{self.network.path.name} has {self.label_dim}"
            )
        return dataset

    def one_hot(self, classes: Tensor) -> Tensor | None:
        """Return one-hot labels ``[N, label_dim]`` of classes ``[N]``; None without classes."""
        if not self.classes:
            return None
        return torch.nn.functional.one_hot(classes, self.label_dim).float()

    def samples(self, path: DataSource | None, count: int | None, seed: int) -> Samples:
        """Return random images of a data set as samples: points in float64, and 8-bit pixels."""
        source = self.source(path, count, seed)
        samples = source.read(range(len(source)))
        return replace(samples, points=samples.points.double())

    def source(self, path: DataSource | None, count: int | None, seed: int) -> Source:
        """Return a source that reads the images of ``samples`` on demand, in float32."""
        dataset = self.dataset(required(path), count, seed)

        def read(rows: range) -> Samples:
            if not rows:
                return Samples(torch.empty(0, dataset.dim))
            pixels, labels = dataset.read(rows)
            points = dataset.normalized(pixels)
            given = labels if self.classes else None
            places = dataset.places[rows.start : rows.stop]
            return Samples(points, given, {"image_index": places}, pixels)

        return Source(len(dataset), read)

    def testable(self, path: DataSource | None) -> int:
        """Return the number of images of a data set."""
        return len(self.dataset(required(path), None, 0))

    def truths(self, path: DataSource | None, count: int, seed: int) -> Tensor:
        """Return test images ``[count, D]`` in the units of the images.

        A warning reports how many of the images the network was trained on.
        """
        dataset = self.dataset(required(path), count, seed)
        pixels = dataset.read(range(len(dataset)))[0].flatten(1)
        if seen := self.repeated(row_numbers(pixels.double().numpy())):
            warn(
                "images-of-training",
                f"{self.data_name} was trained on at least {seen} of "
                f"{len(pixels)} images of {path}: posteriors of new images may be worse",
            )
        return pixels.double()

    def truth_labels(self, path: DataSource | None, count: int, seed: int) -> Tensor | None:
        """Return the labels of the true images, or random classes without a data set.

        Raises:
            UsageError: Conditions are vectors, and there is no data set.
        """
        if path is None and self.vectors:
            raise UsageError("condition vectors cannot be drawn at random: give --truth=data")
        if path is None:
            return self.drawn_labels(count, seed, None)
        return self.samples(path, count, seed).labels

    def quantities(self, path: DataSource | None, count: int, seed: int) -> Quantities:
        """Return functions of images to rank in checks: means, powers, and log odds of classes.

        Log odds need a data set with classes. They are fitted to other images than those drawn as
        true images.
        """
        of_any = image_quantities(self.shape)
        if path is None:
            return of_any
        whole = self.dataset(path, None, 0)
        classes = whole.classes()
        if classes is None:
            return of_any
        others = torch.ones(len(whole), dtype=torch.bool)
        others[self.dataset(path, count, seed).places] = False
        places = others.nonzero()[:, 0][:MOST_TAUGHT]
        pixels = whole.read(places.tolist())[0].flatten(1)
        return {**of_any, **class_log_odds(pixels, classes[places])}

    def fresh(self, path: DataSource | None, count: int, seed: int) -> Draw:
        """Return a function that draws images of a data set."""
        points = self.samples(path, count, seed).points
        return lambda generator: points

    def points(self, path: TableSource, seen: Tensor | None = None) -> Tensor:
        """Read images ``[M, D]`` in their units, from image files, a stack or a table of pixels."""
        stacked = isinstance(path, Path) and holds_stack(path)
        if stacked or not is_table(path if isinstance(path, ForeignTable) else str(path)):
            points = read_observations(path, self.shape)
            return points if seen is None else points[:, seen]
        rows = read_columns(path, self.observed_names(seen), self.names, [])
        # In 8 bits, only a black image has such values; networks use pixels from -1 to 1.
        if (
            self.ends == GRAY_RANGE
            and rows.abs().amax() <= 1
            and (rows % 1 != 0).any()
            and distributed.is_main()
        ):
            warn(
                "units",
                f"{path} has no value outside -1 to 1: observations and their "
                "noise are in gray levels, 0 to 255",
            )
        return rows

    def labels(self, given: TableSource | None) -> Tensor | None:
        """Read classes or condition vectors from a table, as labels ``[M, L]``."""
        if not self.classes:
            return super().labels(given)
        if given is None:
            some = "condition values per image" if self.vectors else "classes"
            raise UsageError(f"the network has {self.classes} {some}: give --condition")
        numbers = read_observations(given)
        if self.vectors:
            if numbers.shape[1] != self.classes:
                raise UsageError(f"{given} must have {self.classes} columns: conditions of images")
            return numbers.float()
        if numbers.shape[1] != 1 or not (numbers == numbers.round()).all():
            raise UsageError(f"{given} must have one column of whole numbers, the classes")
        classes = numbers.long().flatten()
        if not ((classes >= 0) & (classes < self.classes)).all():
            raise UsageError(f"--condition has classes beyond 0 to {self.classes - 1}")
        return self.one_hot(classes)

    def labels_of(self, given: ArrayLike | None) -> Tensor | None:
        """Return class numbers or condition vectors as labels ``[N, L]`` of the network.

        Raises:
            UsageError: Conditions are missing, not needed, or of the wrong kind.
        """
        if not self.classes:
            return super().labels_of(given)
        numbers = np.asarray(np.nan if given is None else given)
        if self.vectors:
            wanted = f"vectors of {self.classes} numbers, one for all images or one per image"
            right = numbers.dtype.kind in "biuf" and numbers.ndim in (1, 2)
            if not (right and numbers.shape[-1] == self.classes and np.isfinite(numbers).all()):
                raise UsageError(f"the network is conditional: give {wanted} instead of {given!r}")
            return torch.from_numpy(np.atleast_2d(numbers).astype(np.float32))
        if numbers.ndim > 1 or not np.isin(numbers, np.arange(self.classes)).all():
            last = self.classes - 1
            raise UsageError(
                f"the condition {given!r} is not a class of the network: give classes 0 to {last}"
            )
        return self.one_hot(torch.from_numpy(np.atleast_1d(numbers).astype(np.int64)))

    def drawn_labels(self, count: int, seed: int, given: int | None) -> Tensor | None:
        """Return labels ``[N, L]`` of one class or of random classes; None without classes."""
        self.check_class(given)
        return self.one_hot(draw_classes(count, self.classes, seed, given))

    def check_class(self, number: int | None, drawn: bool = True) -> None:
        """Check a class number, and whether conditions can be drawn at random if necessary.

        Raises:
            UsageError: The network does not have the class, or conditions to draw are vectors.
        """
        if self.vectors and drawn:
            raise UsageError(
                f"the conditions of {self.network.path.name} are vectors of {self.classes} "
                "numbers, which cannot be drawn: give them from Python (given), or "
                f"inflate images with conditions, {script('pfODE_int')} --sim_type=melt"
            )
        name, classes = self.network.path.name, self.classes
        if number is not None and not classes:
            raise UsageError(f"--class is {number}, but {name} has no classes")
        if number is not None and number >= classes:
            raise UsageError(f"--class is {number}, but {name} has classes 0 to {classes - 1}")

    def density_points(self, samples: Samples, seed: int) -> Tensor:
        """Return the images of samples with uniform noise within the bin of each gray level.

        Images with values that are not whole numbers have no bins, and are returned unchanged.
        """
        if samples.pixels is not None and bool((samples.pixels % 1 != 0).any()):
            return samples.points.double()
        return dequantized(samples.points, seed, self.units["unit"])

    def melt_facts(self, flow: ProbabilityFlow, melt: Trajectory) -> Facts:
        """Return latent variances after an inflation (melt), divided by their closed form."""
        return {"kept_variance_ratio": self.kept_variances(flow, melt)}

    def return_facts(self, flow: ProbabilityFlow, back: Trajectory, start: Tensor) -> Facts:
        """Return roundtrip errors relative to the inflated images, including their noise if any."""
        first = back.times[-1]
        before, after = flow.to_data(start, first), flow.to_data(back.end, first)
        levels = in_range(before, self.ends)
        return RoundtripErrors.from_images(levels, after, self.ends).summary()

    def returns(self, folder: Path, seed: int) -> Returns:
        """Return an accumulator of roundtrip errors in gray levels that keeps the worst images."""
        return ImageReturns(roundtrip_paths(folder, self.stem, seed), self.shape, self.ends)

    def lines(self, kind: str, facts: Mapping[str, Any]) -> list[str]:
        """Describe variances of kept dimensions, bits per dimension, or roundtrip errors."""
        lines = [variances_line(facts, self.dims_to_keep)] if kind == "melt" else []
        if kind == "melt" and "likelihood" in facts:
            bits = facts["likelihood"]["bits_per_dim"]["mean"]
            lines.append(f"Bits per dimension of the dequantized images: {bits:.3f}")
        if kind == "roundtrip":
            units = "gray levels" if self.ends == GRAY_RANGE else "units of the images"
            lines.append(
                f"Round trip: {facts['exact_pixels']:.4%} of the pixels exact, largest "
                f"error {facts['max_abs_error']:.2g} {units}"
            )
        return lines


def draw_classes(count: int, classes: int, seed: int, given: int | None) -> Tensor:
    """Return class numbers ``[count]``: a given class, or uniformly random classes."""
    if given is not None:
        return torch.full((count,), given)
    generator = seeded_generator("cpu", seed, Stream.LABEL)
    return torch.randint(max(classes, 1), (count,), generator=generator)


def _image_shape(path: DataSource, model: TrainedNetwork) -> tuple[int, int, int]:
    """Return the shape ``(C, H, W)`` from the file, after checking that it fits the network."""
    shape = model.about.get("image_shape")
    if shape is None:
        name = model.about.get("data_name")
        toys = f": use it with {script('toy_pfODE_int')}" if name in TOY_NAMES else ""
        raise DataError(f"{path} was trained on '{name}', not on images{toys}")
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    plain = len(sizes) == 3 and all(type(size) is int and size > 0 for size in sizes)
    if not plain or math.prod(sizes) != model.denoiser.basis.dim:
        dim = model.denoiser.basis.dim
        raise DataError(f"{path} declares images of {shape}, but its basis has {dim} dimensions")
    channels, height, width = sizes
    if channels > MOST_CHANNELS:
        raise DataError(
            f"{path} has images of {shape}: images have at most {MOST_CHANNELS} channels"
        )
    return channels, height, width


def _shape(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} pixels with {channels} channel(s)"


def dequantized(data: Tensor, seed: int, step: float = 1 / LEVELS_PER_UNIT) -> Tensor:
    """Return images ``[N, D]`` with uniform noise within the bin of each gray level, float64.

    A gray level is the center of its bin, so the noise is uniform over ``[-1/2, 1/2)``. The noise
    of an image depends only on the seed and the index of the image.
    """
    noise = uniform_numbers(data.shape, seed, Stream.DEQUANTIZATION) - 0.5
    return data.double() + noise.to(data.device) * step
