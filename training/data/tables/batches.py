"""Batches of the rows of a table: shuffled epochs, a function of (seed, step) alone."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.flow.coordinates.coordinates import Coordinates


class TableBatches:
    """Rows in flow space, every row once an epoch, in an order of the epoch's own.

    Discrete columns are dithered anew in each epoch.

    Args:
        rows: ``[N, D]`` of data space.
        coordinates: Between data space and flow space.
        batch: Batch size over all ranks.
        seed: Seed of the orders and of the dither.
        device: Where batches go.
    """

    def __init__(
        self, rows: Tensor, coordinates: Coordinates, batch: int, seed: int, device: torch.device
    ):
        self._rows, self._coordinates, self._batch = rows, coordinates, batch
        self._seed, self._device = seed, device
        self._dithers = bool((coordinates.steps > 0).any())
        self._epoch, self._shuffled = -1, torch.empty(0)

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
        """All rows in the order of an epoch, in flow space, on the device."""
        if epoch != self._epoch:
            generator = seeded_generator("cpu", self._seed, Stream.DATA, epoch)
            order = torch.randperm(len(self._rows), generator=generator)
            if self._dithers or self._epoch < 0:
                rows = self._coordinates.dithered(self._rows, generator)
                self._in_flow = self._coordinates.to_flow(rows).to(self._device)
            self._epoch, self._shuffled = epoch, self._in_flow[order.to(self._device)]
        return self._shuffled
