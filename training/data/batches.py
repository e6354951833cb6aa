"""Endless streams of batches, sharded over ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.toys import Toy


class Batch(NamedTuple):
    """One rank's part of a training batch.

    Attributes:
        points: Points ``[b, D]`` in image space; losses are computed in the dtype of the points.
        labels: Conditions or class labels ``[b, L]``; None if there are none.
        augment_labels: Augmentation labels ``[b, 9]``; None without augmentation.
        others: Further points ``[R, D]`` of the same distribution, equal on all ranks, for
            averaging targets; None for none.
    """

    points: Tensor
    labels: Tensor | None = None
    augment_labels: Tensor | None = None
    others: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> "Batch":
        """Concatenate the points of several batches, and their labels if present."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            torch.cat([part.points for part in parts]), torch.cat(labels) if labels else None
        )

    def at(self, rows: Tensor | slice) -> "Batch":
        """Return the points and labels of the rows with the given indices or in a slice."""
        return Batch(self.points[rows], None if self.labels is None else self.labels[rows])

    def conditions(self, device: torch.device) -> dict[str, Tensor]:
        """Return the network's inputs besides points and times, by argument name."""
        named = {"labels": self.labels, "augment_labels": self.augment_labels}
        return {name: value.to(device) for name, value in named.items() if value is not None}


class BatchSource(Protocol):
    """Interface of an endless stream of batches, which can start at any training step."""

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's part of each batch from step ``first_step`` on, endlessly."""
        ...


def parts_of_epochs(start: int, stop: int, size: int) -> Iterator[tuple[int, slice]]:
    """Yield the index of each epoch in a part of an endless stream, with its slice of rows.

    Args:
        start: First position in the endless stream.
        stop: Position after the last row.
        size: Number of rows per epoch.
    """
    while start < stop:
        epoch, place = divmod(start, size)
        length = min(stop - start, size - place)
        yield epoch, slice(place, place + length)
        start += length


OTHERS_PER_SAMPLE = 8
"""Further points drawn per sample.

Fewer would leave targets noisy, more would take longer than they save. A set of points is therefore
reused in several steps.
"""


@dataclass(frozen=True, eq=False)
class ToyBatches:
    """Training batches of new draws from a toy distribution, which depend on seed and step only.

    Attributes:
        toy: Distribution to draw from.
        batch: Batch size over all ranks.
        seed: Random seed of all batches.
        device: Device on which batches are drawn.
        others: Number of further points for averaging targets; 0 for none. The same further points
            are used for ``others / OTHERS_PER_SAMPLE`` samples.
        antithetic: Whether each point occurs twice, in consecutive rows.
    """

    toy: Toy
    batch: int
    seed: int
    device: torch.device
    others: int = 0
    antithetic: bool = False

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's part of each batch of new samples, from step ``first_step`` on."""
        mine = distributed.shard(self.batch)
        steps, others, drawn = max(1, self.others // (OTHERS_PER_SAMPLE * self.batch)), None, -1
        for step in count(first_step):
            generator = seeded_generator(self.device, self.seed, Stream.DATA, step)
            if self.antithetic:
                points = self.toy.sample((self.batch + 1) // 2, generator).repeat_interleave(2, 0)
            else:
                points = self.toy.sample(self.batch, generator)
            if self.others and step // steps != drawn:
                drawn = step // steps
                generator = seeded_generator(self.device, self.seed, Stream.OTHERS, drawn)
                others = self.toy.sample(self.others, generator)
            yield Batch(points[mine], others=others)
