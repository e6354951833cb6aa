"""Conversion between pixels and numbers, and endless shuffled batches of an image data set.

A stream is a function of (seed, position) alone. With n images, position k belongs to epoch ``k //
n`` and shows image ``k % n`` of a permutation seeded by (seed, epoch). So every image occurs
exactly once per epoch, a stream can start anywhere, and ranks need no communication: batch s
consists of the positions from ``s * batch``, and each rank reads its shard of them.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

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
from training.data.images.dataset import ImageDataset

__all__ = [
    "ImageBatches",
    "ImageDataset",
    "basis_batches",
    "normalize_pixels",
    "pixel_batches",
    "to_pixels",
]


def normalize_pixels(pixels: Tensor) -> Tensor:
    """Convert uint8 pixels p of any shape to float32 data ``p / 127.5 - 1``, on their device."""
    return pixels.to(torch.float32) / 127.5 - 1


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
                    points = normalize_pixels(pixels).flatten(1)
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
        yield normalize_pixels(pixels).flatten(1)


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
