"""Streams of batches: functions of seed and step."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from training.data.batches import ToyBatches
from training.data.toys import Toy

CPU = torch.device("cpu")


def stream(seed: int, first_step: int, count: int) -> list[Tensor]:
    batches = ToyBatches(Toy("s_curve"), 6, seed, CPU).batches(first_step)
    return [batch.points for batch in islice(batches, count)]


@pytest.mark.parametrize("step", [1, 3])
def test_a_stream_that_starts_later_gives_the_same_batches(step: int) -> None:
    for one, other in zip(stream(0, 0, 6)[step:], stream(0, step, 6 - step), strict=True):
        assert torch.equal(one, other)


def test_batches_of_one_stream_differ_and_so_do_seeds() -> None:
    first, second = stream(0, 0, 2)
    assert not torch.equal(first, second)
    assert not torch.equal(first, stream(1, 0, 1)[0])


def test_one_rank_gets_the_whole_batch_and_toys_have_no_labels() -> None:
    batch = next(ToyBatches(Toy("s_curve"), 6, 0, CPU).batches(0))
    assert batch.points.shape == (6, 3)
    assert batch.labels is None
