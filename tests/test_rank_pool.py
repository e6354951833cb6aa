"""The two ranks of the tests are ranks, and a rank that fails is told of and replaced."""

import os

import pytest
import torch

from tests.support.rank_pool import RankPool, RanksFailedError
from torch_utils import distributed
from torch_utils.distributed import process_group, sum_over_ranks


def double(value: int, fails: int = -1) -> tuple[int, int, int]:
    with process_group("cpu"):
        if distributed.rank() == fails:
            raise ZeroDivisionError
        total = sum_over_ranks(torch.tensor([value]))  # waits for the other
        return distributed.rank(), distributed.world_size(), int(total)


def test_ranks_work_together_and_one_that_fails_is_told_of_and_replaced(
    two_ranks: RankPool,
) -> None:
    assert two_ranks.call(double, 3) == [(0, 2, 6), (1, 2, 6)]
    with pytest.raises(RanksFailedError, match=r"rank 1: (.|\n)*ZeroDivisionError"):
        two_ranks.call(double, 3, 1)
    with pytest.raises(RanksFailedError, match=r"rank .: it ended"):
        two_ranks.call(os._exit, 3)
    assert two_ranks.call(double, 4) == [(0, 2, 8), (1, 2, 8)]
