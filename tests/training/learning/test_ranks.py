"""What several ranks compute equals what one computes, up to the order of summation."""

import math
import os
import signal
import time
from unittest import mock

import torch
import torch.distributed as dist

from tests.support.rank_pool import RankPool
from tests.support.trainers import circles_trainer
from torch_utils import distributed
from torch_utils.stats import RunningMeans
from training.learning.loss import DenoisingLoss
from training.learning.stopping import StopRequest

CPU = torch.device("cpu")


def work_in_which_one_loss_overflows() -> tuple[int, bool]:
    """The number of skipped steps, and whether the weights are what they were."""
    with distributed.process_group("cpu"):
        trainer, source = circles_trainer()
        before = [weights.clone() for weights in trainer.denoiser.parameters()]
        per_sample = DenoisingLoss.per_sample
        more = math.inf if distributed.rank() == 1 else 0.0
        overflowing = lambda *given: per_sample(*given) + more  # noqa: E731
        with mock.patch.object(DenoisingLoss, "per_sample", overflowing):
            trainer.train_step(next(source.batches(0)), RunningMeans(CPU))
        same = map(torch.equal, trainer.denoiser.parameters(), before)
        return trainer.skipped, all(same)


def test_a_loss_that_overflows_on_one_rank_is_skipped_by_all(two_ranks: RankPool) -> None:
    assert list(two_ranks.call(work_in_which_one_loss_overflows)) == [(1, True), (1, True)]


def work_until_a_signal() -> tuple[int | None, int, int]:
    """The signal, the step after which it is known, and how often ranks asked each other."""
    with distributed.process_group("cpu"), StopRequest() as stop:
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as asked:
            for step in range(1, 100_000):
                if step == 50 and distributed.rank() == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1e-4)
                number = stop.agreed(CPU)
                if number:
                    break
        return number, step, asked.call_count


def test_ranks_that_rarely_ask_each_other_stop_at_the_same_step(two_ranks: RankPool) -> None:
    one, other = two_ranks.call(work_until_a_signal)
    assert one == other
    number, step, asked = one
    assert number == signal.SIGTERM
    assert 50 <= step < 100_000
    assert asked < step / 4
