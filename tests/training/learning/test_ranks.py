"""What several ranks compute equals what one computes, up to the order of summation."""

import torch
from torch import Tensor

from tests.support.draws import seeded
from tests.support.rank_pool import RankPool
from torch_utils import distributed
from training.data.batches import Batch, ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.learning.melting import standardized_latents
from training.simulation.simulator import Simulator

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
    batch = next(ToyBatches(toy, 9, 0, CPU).batches(3)).points
    return {
        **basis.state_dict(),
        "second_moments": basis.second_moments((2 * mine).split(100)),
        "states": melt.states,
        "updates": melt.updates,
        "batch": distributed.gather_rows(batch, 9),
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
