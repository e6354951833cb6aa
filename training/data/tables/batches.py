"""Batches of the rows of a table: shuffled epochs, a function of (seed, step) alone."""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.tables.table import Rows


class TableBatches:
    """Rows in flow space, every row once an epoch, in an order of the epoch's own.

    Args:
        rows: Of data space.
        in_flow: Puts them into flow space, with the network's labels of their conditions, on
            the device of the training; draws of its generator spread discrete columns over their
            steps.
        dithers: Whether it draws any: then each epoch has draws of its own.
        batch: Batch size over all ranks.
        seed: Seed of the orders and of the draws.
    """

    def __init__(
        self,
        rows: Rows,
        in_flow: Callable[[Rows, torch.Generator], Batch],
        dithers: bool,
        batch: int,
        seed: int,
    ):
        self._rows, self._in_flow, self._dithers = rows, in_flow, dithers
        self._batch, self._seed = batch, seed
        self._epoch, self._placed, self._shuffled = -1, Batch(rows.points), Batch(rows.points)

    def batches(self, first_step: int) -> Iterator[Batch]:
        for step in count(first_step):
            mine = distributed.shard(self._batch)
            points, labels = self._at(step)
            yield Batch(points[mine], None if labels is None else labels[mine])

    def _at(self, step: int) -> tuple[Tensor, Tensor | None]:
        """The points and labels of a step's whole batch, which may reach over several epochs."""
        size, parts = len(self._rows), []
        start, stop = step * self._batch, (step + 1) * self._batch
        while start < stop:
            epoch, place = divmod(start, size)
            length = min(stop - start, size - place)
            whole, part = self._of_epoch(epoch), slice(place, place + length)
            parts.append((whole.points[part], None if whole.labels is None else whole.labels[part]))
            start += length
        points = torch.cat([points for points, _ in parts])
        labels = [labels for _, labels in parts if labels is not None]
        return points, torch.cat(labels) if labels else None

    def _of_epoch(self, epoch: int) -> Batch:
        """All rows in the order of an epoch, in flow space."""
        if epoch != self._epoch:
            if self._dithers or self._epoch < 0:
                # Draws of an epoch do not depend on where the stream was started.
                drawn = epoch if self._dithers else 0
                generator = seeded_generator("cpu", self._seed, Stream.DEQUANTIZATION, drawn)
                self._placed = self._in_flow(self._rows, generator)
            generator = seeded_generator("cpu", self._seed, Stream.DATA, epoch)
            order = torch.randperm(len(self._rows), generator=generator)
            points, labels, *_ = self._placed
            order = order.to(points.device)
            self._epoch = epoch
            self._shuffled = Batch(points[order], None if labels is None else labels[order])
        return self._shuffled
