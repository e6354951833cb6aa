"""Endless streams of batches, of which each rank takes its share."""

from collections.abc import Iterator
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

    def conditions(self, device: torch.device) -> dict[str, Tensor]:
        """What a network takes beside points and times, by the names of its arguments."""
        named = {"labels": self.labels, "augment_labels": self.augment_labels}
        return {name: value.to(device) for name, value in named.items() if value is not None}


class BatchSource(Protocol):
    """Where batches come from. A stream can start at any step, as a resumed run needs."""

    def batches(self, first_step: int) -> Iterator[Batch]: ...


OTHERS_PER_SAMPLE = 8
"""Further points that are drawn for each sample: fewer would leave targets noisy, more would take
longer than they save. So a set of them serves several steps."""


class ToyBatches:
    """Fresh samples of a toy at every step, a function of (seed, step) alone.

    Args:
        toy: Distribution to draw from.
        batch: Batch size over all ranks.
        seed: Seed of all batches.
        device: Device to draw the batches on.
        others: Number of further points, to average targets over; 0 for none. They are the same
            tensor in as many steps as have ``others / OTHERS_PER_SAMPLE`` samples, then fresh ones.
        antithetic: Whether each point comes twice, one after the other.
    """

    def __init__(
        self,
        toy: Toy,
        batch: int,
        seed: int,
        device: torch.device,
        others: int = 0,
        antithetic: bool = False,
    ):
        self._toy, self._batch, self._seed, self._device = toy, batch, seed, device
        self._others, self._antithetic = others, antithetic

    def batches(self, first_step: int) -> Iterator[Batch]:
        mine = distributed.shard(self._batch)
        steps, others, drawn = max(1, self._others // (OTHERS_PER_SAMPLE * self._batch)), None, -1
        for step in count(first_step):
            generator = seeded_generator(self._device, self._seed, Stream.DATA, step)
            if self._antithetic:
                points = self._toy.sample((self._batch + 1) // 2, generator).repeat_interleave(2, 0)
            else:
                points = self._toy.sample(self._batch, generator)
            if self._others and step // steps != drawn:
                drawn = step // steps
                generator = seeded_generator(self._device, self._seed, Stream.OTHERS, drawn)
                others = self._toy.sample(self._others, generator)
            yield Batch(points[mine], others=others)
