"""Batches of the rows of a table: shuffled epochs, a function of (seed, step) alone."""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch


class TableBatches:
    """Rows in flow space, every row once an epoch, in an order of the epoch's own.

    Args:
        rows: ``[N, D]`` of data space.
        in_flow: Puts rows into flow space, on the device of the training; draws of its generator
            spread discrete columns over their steps.
        dithers: Whether it draws any: then each epoch has draws of its own.
        batch: Batch size over all ranks.
        seed: Seed of the orders and of the draws.
    """

    def __init__(
        self,
        rows: Tensor,
        in_flow: Callable[[Tensor, torch.Generator], Tensor],
        dithers: bool,
        batch: int,
        seed: int,
    ):
        self._rows, self._in_flow, self._dithers = rows, in_flow, dithers
        self._batch, self._seed = batch, seed
        self._epoch, self._shuffled, self._points = -1, rows, rows

    def batches(self, first_step: int) -> Iterator[Batch]:
        for step in count(first_step):
            yield Batch(self._at(step)[distributed.shard(self._batch)])

    def _at(self, step: int) -> Tensor:
        """The whole batch ``[batch, D]`` of a step, which may reach over several epochs."""
        size, parts = len(self._rows), []
        start, stop = step * self._batch, (step + 1) * self._batch
        while start < stop:
            epoch, place = divmod(start, size)
            length = min(stop - start, size - place)
            parts.append(self._of_epoch(epoch)[place : place + length])
            start += length
        return torch.cat(parts)

    def _of_epoch(self, epoch: int) -> Tensor:
        """All rows in the order of an epoch, in flow space."""
        if epoch != self._epoch:
            if self._dithers or self._epoch < 0:
                # Draws of an epoch do not depend on where the stream was started.
                drawn = epoch if self._dithers else 0
                generator = seeded_generator("cpu", self._seed, Stream.DEQUANTIZATION, drawn)
                self._points = self._in_flow(self._rows, generator)
            generator = seeded_generator("cpu", self._seed, Stream.DATA, epoch)
            order = torch.randperm(len(self._rows), generator=generator)
            self._epoch, self._shuffled = epoch, self._points[order.to(self._points.device)]
        return self._shuffled
