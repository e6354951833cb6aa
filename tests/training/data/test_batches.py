"""Streams of batches: functions of seed and step."""

from itertools import islice

import torch
from torch import Tensor

from training.data.batches import ToyBatches
from training.data.toys import Toy

CPU = torch.device("cpu")


def stream(seed: int, first_step: int, count: int) -> list[Tensor]:
    batches = ToyBatches(Toy("circles"), 6, seed, CPU).batches(first_step)
    return [batch.points for batch in islice(batches, count)]


def test_batches_follow_from_seed_and_step() -> None:
    whole = stream(0, 0, 6)
    for step in (1, 3):
        for one, other in zip(whole[step:], stream(0, step, 6 - step), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole[0], stream(1, 0, 1)[0])
    batch = next(ToyBatches(Toy("circles"), 6, 0, CPU).batches(0))
    assert (batch.points.shape, batch.labels) == ((6, 2), None)
