"""Endless streams of batches, of which each rank takes its share."""

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
    """One rank's share of a batch.

    Attributes:
        points: ``[b, D]`` in image space; a training computes losses in their precision.
        labels: Class labels ``[b, L]``, or None.
        augment_labels: What augmentation did, ``[b, 9]``, or None.
        others: Further points of the same law ``[R, D]``, the same on all ranks, to average targets
            over; or None.
    """

    points: Tensor
    labels: Tensor | None = None
    augment_labels: Tensor | None = None
    others: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> "Batch":
        """Points, and labels if there are any, of several parts."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            torch.cat([part.points for part in parts]), torch.cat(labels) if labels else None
        )

    def at(self, rows: Tensor | slice) -> "Batch":
        """Points and labels of some rows."""
        return Batch(self.points[rows], None if self.labels is None else self.labels[rows])

    def conditions(self, device: torch.device) -> dict[str, Tensor]:
        """What a network takes beside points and times, by the names of its arguments."""
        named = {"labels": self.labels, "augment_labels": self.augment_labels}
        return {name: value.to(device) for name, value in named.items() if value is not None}


class BatchSource(Protocol):
    """Where batches come from. A stream can start at any step, as a resumed run needs."""

    def batches(self, first_step: int) -> Iterator[Batch]: ...


def parts_of_epochs(start: int, stop: int, size: int) -> Iterator[tuple[int, slice]]:
    """Numbers of epochs, of so many rows each, and the rows of these that have the numbers from
    ``start`` to ``stop`` in an endless stream of epochs."""
    while start < stop:
        epoch, place = divmod(start, size)
        length = min(stop - start, size - place)
        yield epoch, slice(place, place + length)
        start += length


OTHERS_PER_SAMPLE = 8
"""Further points that are drawn for each sample: fewer would leave targets noisy, more would take
longer than they save. So a set of them serves several steps."""


@dataclass(frozen=True, eq=False)
class ToyBatches:
    """Fresh samples of a toy at every step, a function of (seed, step) alone.

    Attributes:
        toy: Distribution to draw from.
        batch: Batch size over all ranks.
        seed: Seed of all batches.
        device: Device to draw the batches on.
        others: Number of further points, to average targets over; 0 for none. They are the same
            tensor in as many steps as have ``others / OTHERS_PER_SAMPLE`` samples, then fresh ones.
        antithetic: Whether each point comes twice, one after the other.
    """

    toy: Toy
    batch: int
    seed: int
    device: torch.device
    others: int = 0
    antithetic: bool = False

    def batches(self, first_step: int) -> Iterator[Batch]:
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
