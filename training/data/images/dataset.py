"""Image data sets: images of one shape in a zip, a folder or a stack, and their batches.

Conversion between pixels and numbers, and endless shuffled batches of an image data set.

A stream is a function of (seed, position) alone. With n images, position k belongs to epoch ``k //
n`` and shows image ``k % n`` of a permutation seeded by (seed, epoch). So every image occurs
exactly once per epoch, a stream can start anywhere, and ranks need no communication: batch s
consists of the positions from ``s * batch``, and each rank reads its shard of them.
"""

import copy
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import first_line
from torch_utils.streams import Stream
from training.data.batches import Batch, parts_of_epochs
from training.data.images.containers import (
    LABEL_FILE,
    Container,
    Label,
    decode_exact,
    image_names,
    labels_of,
    open_container,
)
from training.data.images.stacks import GRAY_RANGE, ImageStack, holds_stack, normalize_pixels
from training.names import script

CACHE_CHUNK = 1000
MOST_LISTED = 20
"""Maximum number of classes whose image counts are listed."""


class ImageDataset:
    """Images of one shape: 8-bit, gray or RGB, in a zip or folder, or any in a stack.

    The first image defines the shape; the shapes of all other images are checked on reading. A
    stack (``training.data.images.stacks``) is in memory.

    Args:
        path: The zip, folder or ``.npz``, as written by ``dataset_tool.py``; the name of a stack.
        use_labels: Whether to read the labels in ``dataset.json``; otherwise labels have length 0.
        max_size: Number of images of a random subset, in the order of the data set; None for all.
        seed: Random seed of the subset.
        xflip: Whether to add the mirror images of the n images, with indices n to 2n - 1.
        classes: Minimum number of classes, since a subset may lack the last classes.
        stack: Images in memory; None to read the path.

    Attributes:
        image_shape: Shape ``(C, H, W)`` of the images.
        value_range: Values that networks see as -1 and 1.
        places: Indices ``[n]`` of the used images in the whole data set.

    Raises:
        DataError: The path is not a data set, or has no images, unsafe names, or missing or
            malformed labels. When images are read, an image is damaged or differs in shape.
    """

    def __init__(
        self,
        path: Path,
        use_labels: bool = False,
        max_size: int | None = None,
        seed: int = 0,
        xflip: bool = False,
        classes: int = 0,
        stack: ImageStack | None = None,
    ):
        self.path, self._xflip = path, xflip
        self._container: Container | None = None
        self._owner = 0  # process that opened the container
        stack = ImageStack.load(path) if stack is None and holds_stack(path) else stack
        self._stack = stack
        self.value_range = GRAY_RANGE if stack is None else stack.value_range
        names = image_names(self._files()) if stack is None else list(map(str, range(len(stack))))
        if not names:
            raise DataError(
                f"{path} contains no images: make a data set with {script('dataset_tool')}"
            )
        labels: Tensor | None = None
        self._classes: int | None = None
        if use_labels:
            listed = self._listed_labels(names)
            if listed is None:
                raise DataError(
                    f"{path} has no labels: train without labels, or "
                    f"make a data set with labels by {script('dataset_tool')}"
                )
            are_classes = isinstance(listed[0], int)  # [n], else vectors [n, k]
            labels = torch.tensor(listed, dtype=torch.int64 if are_classes else torch.float32)
            self._classes = max(int(labels.max()) + 1, classes) if are_classes else None
        self._cache: Tensor | None = None if stack is None else stack.images
        self.image_shape = self._first_shape(names[0]) if stack is None else stack.image_shape
        self.places = torch.arange(len(names))
        if max_size is not None and max_size < len(names):
            generator = seeded_generator("cpu", seed)
            chosen = torch.randperm(len(names), generator=generator)[:max_size].sort().values
            self.places = chosen
            names = [names[index] for index in chosen.tolist()]
            labels = None if labels is None else labels[chosen]
            self._cache = None if self._cache is None else self._cache[chosen]
        self._names, self._labels = names, labels

    @property
    def name(self) -> str:
        """Name of the zip or folder, without its suffix."""
        path = self.path.resolve()
        return path.name if path.is_dir() else path.stem

    @property
    def dim(self) -> int:
        """Dimension of an image as a point, ``C * H * W``."""
        channels, height, width = self.image_shape
        return channels * height * width

    @property
    def label_dim(self) -> int:
        """Length of a label: the number of classes, the length of vectors, or 0 without labels."""
        if self._labels is None:
            return 0
        return self._classes or self._labels.shape[1]

    @property
    def has_vectors(self) -> bool:
        """Whether labels are vectors rather than classes."""
        return self._labels is not None and self._classes is None

    def _listed_labels(self, names: list[str]) -> list[Label] | None:
        """Return the labels of the images with these names; None if there are none."""
        if self._stack is None:
            return labels_of(self._files(), names)
        labels = self._stack.labels
        return None if labels is None else labels[list(map(int, names))].tolist()

    def _labels_if_any(self) -> list[Label] | None:
        there = self._stack is not None or LABEL_FILE in self._files().names
        return self._listed_labels(self._names) if there else None

    def classes(self) -> Tensor | None:
        """Return the classes ``[n]`` of the images, even if unused; None if there are none."""
        labels = self._labels_if_any()
        return torch.tensor(labels) if labels and isinstance(labels[0], int) else None

    def labels_in_words(self) -> str:
        """Return a text with the kind of labels and the number of images per class.

        The labels of the data set are described even if they are unused.
        """
        labels = self._labels_if_any()
        if not labels:
            return "none"
        if not isinstance(labels[0], int):
            return f"vectors of {len(labels[0])} numbers"
        counts = sorted(Counter(labels).items())
        listed = ", ".join(f"{name}: {count:,}" for name, count in counts[:MOST_LISTED])
        more = ", ..." * (len(counts) > MOST_LISTED)
        return f"{len(counts)} classes, images per class {listed}{more}"

    def normalized(self, pixels: Tensor) -> Tensor:
        """Return images ``[n, C, H, W]`` as points ``[n, D]``, float32, from -1 to 1."""
        return normalize_pixels(pixels, self.value_range).flatten(1)

    @property
    def has_labels(self) -> bool:
        """Whether the data set has labels that are used."""
        return self.label_dim > 0

    def __len__(self) -> int:
        return len(self._names) * (2 if self._xflip else 1)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read images ``[n, C, H, W]`` with their labels ``[n, label_dim]``, float32.

        Images are uint8, or float32 in the data's units. Classes become one-hot vectors.

        Args:
            indices: Indices of the n images.
        """
        index = torch.tensor(indices, dtype=torch.int64)
        files = index % len(self._names)
        if self._cache is not None:
            pixels = self._cache[files]
        else:
            rows = [self._read_file(self._names[file]) for file in files.tolist()]
            pixels = torch.from_numpy(np.stack(rows))
        mirrored = (index >= len(self._names)).view(-1, 1, 1, 1)
        if mirrored.any():
            pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        labels = torch.zeros(len(files), 0) if self._labels is None else self._labels[files]
        if self._classes is not None:
            labels = torch.nn.functional.one_hot(labels, self._classes).to(torch.float32)
        return pixels, labels

    def keep_in_memory(self) -> None:
        """Read, check and cache all images; later reads use the cache."""
        if self._cache is not None:
            return
        total = len(self._names)
        try:
            cache = torch.empty(total, *self.image_shape, dtype=torch.uint8)
        except RuntimeError as error:
            raise DataError(
                f"{self.path} does not fit in memory: give --no-cache to read images from disk"
            ) from error
        with distributed.progress_bar(total=total, desc="Caching images", unit="image") as bar:
            for start in range(0, total, CACHE_CHUNK):
                names = self._names[start : start + CACHE_CHUNK]
                rows = np.stack([self._read_file(name) for name in names])
                cache[start : start + len(names)] = torch.from_numpy(rows)
                bar.update(len(names))
        self._cache = cache

    def split(self, fraction: float, seed: int) -> tuple["ImageDataset", "ImageDataset"]:
        """Split the data set at random into a part for training and a held-out part.

        Args:
            fraction: Fraction of the images to hold out, at least one image.
            seed: Random seed of the split.

        Raises:
            DataError: Too few images are left for training.
        """
        images = len(self._names)
        count = max(1, round(fraction * images))
        if images - count < 2:
            raise DataError(
                f"{self.path} has {images} images: {count} of them cannot be held out, so give a "
                "smaller fraction"
            )
        order = torch.randperm(images, generator=seeded_generator("cpu", seed, Stream.SPLIT))
        return self._part(order[count:].sort().values), self._part(order[:count].sort().values)

    def _part(self, files: Tensor) -> "ImageDataset":
        part = copy.copy(self)
        part._container = None  # it opens its own
        part._names = [self._names[file] for file in files.tolist()]
        part.places = self.places[files]
        part._labels = None if self._labels is None else self._labels[files]
        part._cache = None if self._cache is None else self._cache[files]
        return part

    def close(self) -> None:
        """Close the zip, which is reopened on the next read."""
        if self._container is not None and self._owner == os.getpid():
            self._container.close()
        self._container = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_container": None}

    def _files(self) -> Container:
        # A forked process shares the position in an open file with its parent.
        if self._container is None or self._owner != os.getpid():
            self._container, self._owner = open_container(self.path), os.getpid()
        return self._container

    def _first_shape(self, name: str) -> tuple[int, int, int]:
        files = self._files()
        height, width, channels = decode_exact(files.read(name), files.where(name)).shape
        return channels, height, width

    def _read_file(self, name: str) -> np.ndarray:
        files = self._files()
        pixels = decode_exact(files.read(name), files.where(name)).transpose(2, 0, 1)
        if pixels.shape != self.image_shape:
            channels, height, width = self.image_shape
            raise DataError(
                f"{files.where(name)} is {pixels.shape[2]}x{pixels.shape[1]} with "
                f"{pixels.shape[0]} channel(s), but the first image is {width}x{height} "
                f"with {channels}: make a data set with {script('dataset_tool')}"
            )
        return pixels


__all__ = [
    "ImageBatches",
    "ImageDataset",
    "basis_batches",
    "normalize_pixels",
    "pixel_batches",
    "to_pixels",
]


def to_pixels(points: Tensor) -> Tensor:
    """Convert data of any shape to uint8 pixels, rounded and clamped to the range 0 to 255.

    Raises:
        DataError: A value is not finite.
    """
    if not points.isfinite().all():
        raise DataError("some values are not finite and cannot be pixels: check the network")
    return ((points + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Endless shuffled batches of an image data set, which depend on seed and position only.

    Images are sent to the device as uint8, and flattened and normalized to float32 there.

    Attributes:
        dataset: The images.
        batch: Batch size over all ranks.
        seed: Random seed of the order of the images.
        device: Device of the points.
        workers: Number of processes of this rank that read images in advance; 0 to read in this
            process.
    """

    dataset: ImageDataset
    batch: int
    seed: int
    device: torch.device
    workers: int = 1

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's part of each batch, endlessly: points ``[b, D]`` and labels ``[b, k]``.

        If a reading process dies, all are restarted, and the stream continues at the same batch.

        Args:
            first_step: Index of the training step to start from.

        Raises:
            DataError: An image cannot be read, or a reading process died twice at the same batch.
        """
        step, died_at = first_step, -1
        while True:
            order = self._shuffled_order(step)
            try:
                for pixels, labels in _load(self.dataset, order, self.workers, self.device):
                    points = self.dataset.normalized(pixels)
                    yield Batch(points, labels if self.dataset.has_labels else None)
                    step += 1
            except _WorkerDied as error:
                if died_at == step:
                    raise
                died_at = step
                logger.warning(f"Warning: {error}; restarting the process")

    def _shuffled_order(self, first_step: int) -> Iterator[list[int]]:
        """Yield the indices of this rank's shard of each batch, from a step on, endlessly."""
        images, share = len(self.dataset), distributed.shard(self.batch)
        drawn, permutation = -1, torch.empty(0)
        for step in count(first_step):
            items: list[int] = []
            first = step * self.batch
            for epoch, rows in parts_of_epochs(first + share.start, first + share.stop, images):
                if epoch != drawn:
                    generator = seeded_generator("cpu", self.seed, Stream.DATA, epoch)
                    drawn, permutation = epoch, torch.randperm(images, generator=generator)
                items += permutation[rows].tolist()
            yield items


def basis_batches(
    dataset: ImageDataset,
    max_images: int | None = None,
    batch: int = 1000,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[Tensor]:
    """Yield this rank's part of the points for an eigenbasis, in batches ``[n, D]``, float32.

    Each chosen image occurs once.

    Args:
        dataset: The images.
        max_images: Number of images over all ranks, chosen at random with a fixed seed; None for
            all.
        batch: Number of images at a time.
        device: Device of the points.
        workers: Number of processes of this rank that read images in advance.

    Raises:
        DataError: An image cannot be read, or there are fewer images than ranks.
    """
    total = min(len(dataset), max_images or len(dataset))
    if total < distributed.world_size():
        raise DataError(
            f"{total} images cannot be split over {distributed.world_size()} ranks: use fewer "
            "ranks or more images"
        )
    chosen = torch.randperm(len(dataset), generator=seeded_generator("cpu", 0))[:total]
    for pixels in pixel_batches(dataset, chosen.sort().values, batch, device, workers):
        yield dataset.normalized(pixels)


def pixel_batches(
    dataset: ImageDataset,
    items: Tensor,
    batch: int,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[Tensor]:
    """Yield this rank's part of the images in the given order, in batches ``[n, C, H, W]``, uint8.

    Args:
        dataset: The images.
        items: Indices ``[N]`` of the images over all ranks. A rank with an empty shard yields
            nothing.
        batch: Number of images per batch.
        device: Device of the pixels.
        workers: Number of processes that read images in advance; 0 to read in this process.

    Raises:
        DataError: An image cannot be read.
    """
    mine = items[distributed.shard(len(items))].tolist()
    parts = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    for pixels, _ in _load(dataset, parts, workers, torch.device(device)):
        yield pixels


class _Reader(Dataset[tuple[Tensor, Tensor] | DataError]):
    """Whole batches by lists of indices, so that a cached data set is indexed once per batch."""

    def __init__(self, dataset: ImageDataset):
        self._dataset = dataset

    def __getitem__(self, items: list[int]) -> tuple[Tensor, Tensor] | DataError:
        # An exception in a worker would arrive with its traceback as the message.
        try:
            return self._dataset.read(items)
        except DataError as error:
            return error


def _leave_signals_to_parent(worker: int) -> None:
    """Ignore signals in a worker: Ctrl-C reaches all processes, but the training handles it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _WorkerDied(DataError):
    """Error of a killed reader process, for example for lack of memory."""


def _load(
    dataset: ImageDataset, order: Iterable[list[int]], workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pixels and labels for lists of indices, in their order, on the device.

    Raises:
        DataError: An image cannot be read, or a worker died.
    """
    pin = device.type == "cuda"
    loader: DataLoader[tuple[Tensor, Tensor] | DataError] = DataLoader(
        _Reader(dataset),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_parent,
        # Without its own generator, the loader would draw from the process's generator.
        generator=torch.Generator().manual_seed(0),
    )
    with _worker_errors_only_when_waiting():
        results = iter(loader)
    try:
        while True:
            try:
                result = next(results, None)
            except (RuntimeError, OSError, EOFError) as error:
                # A killed worker is found dead, or its results can no longer be fetched; exceptions
                # raised in a worker start with "Caught ...".
                dead = isinstance(error, RuntimeError) and str(error).startswith(
                    "DataLoader worker"
                )
                lost = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
                if not (dead or (lost and not str(error).startswith("Caught "))):
                    raise
                raise _WorkerDied(
                    f"a process that reads {dataset.path} died, possibly because memory ran out: "
                    f"{first_line(error)}. Give fewer --workers"
                ) from error
            if result is None:
                return
            if isinstance(result, DataError):
                raise result
            pixels, labels = result
            yield pixels.to(device, non_blocking=pin), labels.to(device, non_blocking=pin)
    finally:
        del results  # a stored traceback would keep the workers alive


@contextmanager
def _worker_errors_only_when_waiting() -> Iterator[None]:
    """Prevent torch from raising errors of dead workers in a signal handler, in this block.

    Such an error could interrupt a step of Adam. Code that waits for data gets the error anyway.
    """
    number = getattr(signal, "SIGCHLD", None)  # Windows has none
    handler = None if number is None else signal.getsignal(number)
    try:
        yield
    finally:
        if number is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
