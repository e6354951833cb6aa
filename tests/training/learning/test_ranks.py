"""What several ranks compute equals what one computes, up to the order of summation."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from torch_utils import distributed
from torch_utils.snapshots import read_network
from training.data.batches import ToyBatches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.simulation.simulator import Simulator

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def work() -> dict[str, Tensor]:
    """Everything whose result should not depend on the number of ranks; odd sizes throughout."""
    toy = Toy("s_curve")
    points = 1000 + toy.sample(501, torch.Generator().manual_seed(0))
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
    }


def rank_main(rank: int, folder: Path) -> None:
    """One of two ranks: joins the other, does the work, writes what it got."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(work(), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(rank_main, (folder,), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(
    "name",
    ["mean", "eigenvalues", "eigenvectors", "second_moments", "states", "updates", "batch"],
)
def test_two_ranks_get_what_one_gets(name: str, by_two: list[dict[str, Tensor]]) -> None:
    alone = work()[name]
    for rank in by_two:
        torch.testing.assert_close(rank[name], alone, rtol=1e-9, atol=1e-9)


@pytest.fixture
def train_circles(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """Runs the training script under a launcher, and gives the averaged weights it wrote."""

    def run(name: str, *launcher: str) -> dict[str, Tensor]:
        folder = tmp_path / name
        command = [
            *(sys.executable, *launcher, "toy_train.py", f"--outdir={folder}", "--nosubdir"),
            *("--data_name=circles", "--dims_to_keep=1", "--device_name=cpu"),
            *("--duration=0.005", "--batch=501", "--batch_gpu=150", "--lr=0.1"),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        (path,) = folder.glob("network-snapshot-*.pkl")
        parts, _ = read_network(path)
        return parts["network"].state

    return run


def test_training_on_two_ranks_gives_the_network_of_one(
    train_circles: Callable[..., dict[str, Tensor]],
) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    one, two = train_circles("one"), train_circles("two", *torchrun)
    assert one["output.weight"].abs().max() > 1e-3  # it starts at zero
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=0, atol=2e-6)
