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
    """One rank's share of a batch.

    Attributes:
        points: ``[b, D]`` in image space; losses are computed in their precision.
        labels: Conditions or class labels ``[b, L]``, or None.
        augment_labels: Augmentation labels ``[b, 9]``, or None.
        others: Further points of the same distribution ``[R, D]``, equal on all ranks, for
            averaging targets; or None.
    """

    points: Tensor
    labels: Tensor | None = None
    augment_labels: Tensor | None = None
    others: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> "Batch":
        """Concatenate the points, and labels if present, of several batches."""
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(
            torch.cat([part.points for part in parts]), torch.cat(labels) if labels else None
        )

    def at(self, rows: Tensor | slice) -> "Batch":
        """Return the points and labels of some rows."""
        return Batch(self.points[rows], None if self.labels is None else self.labels[rows])

    def conditions(self, device: torch.device) -> dict[str, Tensor]:
        """Return the network's inputs besides points and times, by argument name."""
        named = {"labels": self.labels, "augment_labels": self.augment_labels}
        return {name: value.to(device) for name, value in named.items() if value is not None}


class BatchSource(Protocol):
    """Source of batches. A stream can start at any step, as a resumed run requires."""

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's share of each batch from a step on, endlessly."""
        ...


def parts_of_epochs(start: int, stop: int, size: int) -> Iterator[tuple[int, slice]]:
    """Yield epochs and their row slices that cover rows ``start`` to ``stop`` of an endless stream.

    Each epoch has ``size`` rows.
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
    """New samples of a toy at every step, as a function of (seed, step) alone.

    Attributes:
        toy: Distribution to draw from.
        batch: Batch size over all ranks.
        seed: Random seed of all batches.
        device: Device on which batches are drawn.
        others: Number of further points for averaging targets; 0 for none. One set serves the steps
            that have ``others / OTHERS_PER_SAMPLE`` samples together.
        antithetic: Whether each point occurs twice in a row.
    """

    toy: Toy
    batch: int
    seed: int
    device: torch.device
    others: int = 0
    antithetic: bool = False

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's share of new samples from a step on, endlessly."""
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
