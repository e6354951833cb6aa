"""What several ranks compute equals what one computes, up to the order of summation."""

import math
import os
import signal
import time
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.draws import seeded
from tests.support.rank_pool import RankPool
from tests.support.trainers import circles_trainer
from torch_utils import distributed
from torch_utils.stats import RunningMeans
from training.data.batches import Batch, ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.learning.loss import DenoisingLoss
from training.learning.melting import standardized_latents
from training.learning.stopping import StopRequest
from training.runs.simulator import Simulator

CPU = torch.device("cpu")


def work() -> dict[str, Tensor]:
    """Everything whose result should not depend on the number of ranks; odd sizes throughout."""
    toy = Toy("s_curve")
    points = 1000 + toy.sample(501, seeded())
    mine = points[distributed.shard(len(points))]
    basis = EigenBasis.fit(mine.split(100))
    schedule = InflationSchedule.to_dimension(2, 3, top_variance=basis.top_variance)
    flow = ProbabilityFlow(lambda x, t: x.tanh(), schedule, basis)
    simulator = Simulator(flow, schedule.times(6, 5.0), SOLVERS["rk4"], save_every=2)
    melt = simulator.melt(points[:7]).trajectory
    batch = next(ToyBatches(toy, 9, 0, CPU, others=5, antithetic=True).batches(3))
    assert batch.others is not None
    return {
        **basis.state_dict(),
        "second_moments": basis.second_moments((2 * mine).split(100)),
        "states": melt.states,
        "updates": melt.updates,
        "batch": distributed.gather_rows(batch.points, 9),
        "others": batch.others,
        "latents": standardized_latents(flow, Batch(points[:33]), seed=0),
    }


def joined_work() -> dict[str, Tensor]:
    with distributed.process_group("cpu"):
        return work()


def test_two_ranks_get_what_one_gets(two_ranks: RankPool) -> None:
    alone = work()
    for rank in two_ranks.call(joined_work):
        assert set(rank) == set(alone)
        for name, expected in alone.items():
            torch.testing.assert_close(rank[name], expected, rtol=1e-9, atol=1e-9)


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
