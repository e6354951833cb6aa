"""The two ranks of the tests are ranks, and a rank that fails is told of and replaced."""

import os

import pytest
import torch

from tests.support.rank_pool import RankPool, RanksFailedError
from torch_utils import distributed
from torch_utils.distributed import process_group, sum_over_ranks


def double(value: int) -> tuple[int, int, int, int]:
    with process_group("cpu"):
        total = sum_over_ranks(torch.tensor([value]))
        return distributed.rank(), distributed.world_size(), int(total), os.getpid()


def fail_alone(rank: str) -> None:
    with process_group("cpu"):
        if os.environ["RANK"] == rank:
            raise ZeroDivisionError
        sum_over_ranks(torch.ones(1))  # waits for the other


def test_ranks_work_together_and_stay(two_ranks: RankPool) -> None:
    first, again = two_ranks.call(double, 3), two_ranks.call(double, 4)
    assert [found[:3] for found in first] == [(0, 2, 6), (1, 2, 6)]
    assert [found[2:] for found in again] == [(8, found[3]) for found in first]


@pytest.mark.hostile
def test_a_rank_that_fails_is_told_of_and_replaced(two_ranks: RankPool) -> None:
    with pytest.raises(RanksFailedError, match=r"rank 1: (.|\n)*ZeroDivisionError"):
        two_ranks.call(fail_alone, "1")
    with pytest.raises(RanksFailedError, match=r"rank .: it ended"):
        two_ranks.call(os._exit, 3)
    assert [found[2] for found in two_ranks.call(double, 1)] == [2, 2]
