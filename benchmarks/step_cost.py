"""What a step costs beside its network calls: time, operations, waits for the device.

    python benchmarks/step_cost.py --network=network-snapshot-....pkl     (a toy's)

The time of a simulation is set against as many bare calls of the network on the same batch, in
turns, and medians are quoted. Operations are those that PyTorch dispatches; a wait is one that
brings a number or a truth value to the host, of which an explicit solver makes none.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.data.toys import Toy
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver
from training.trained.network import TrainedNetwork

SAMPLES, STEPS, REPEATS = 2000, 20, 9
WAITS = ("_local_scalar_dense", "item", "is_nonzero")


class OperationCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations made within it, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def operations(action: Callable[[], object]) -> Counter[str]:
    with OperationCount() as count:
        action()
    return count.counts


@torch.inference_mode()
def cost(flow: ProbabilityFlow, network: Any, data: Tensor, t_max: float, solver: Solver) -> str:
    """A row of the table: calls, time over that of bare calls, operations and waits a call."""
    denoiser: Any = flow.denoiser
    z = flow.basis.to_eigen(data).float()
    times = [flow.schedule.times(steps, t_max) for steps in (STEPS, 2 * STEPS)]
    c_noise = denoiser.noise_condition(times[0][STEPS // 2]).float()
    # The difference of two lengths leaves out what is done once.
    counted = [operations(partial(flow.melt, data, some, solver)) for some in times]
    calls = [flow.melt(data, t, solver).calls for t in times]
    bare_operations = operations(lambda: network(z, c_noise)).total()
    more = counted[1] - counted[0]
    beside = more.total() / (calls[1] - calls[0]) - bare_operations
    waits = sum(more[name] for name in WAITS) / STEPS

    def bare() -> None:
        for _ in range(calls[0]):
            network(z, c_noise)

    pairs = [(seconds(lambda: flow.melt(data, times[0], solver)), seconds(bare))]
    pairs += [
        (seconds(lambda: flow.melt(data, times[0], solver)), seconds(bare)) for _ in range(REPEATS)
    ]
    ratio = statistics.median(simulated / called for simulated, called in pairs[1:])
    return f"| {solver.name} | {calls[0]} | {ratio:.3f} | {beside:.0f} | {waits:.1f} |"


@click.command(help=__doc__)
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True)
def main(network: Path) -> None:
    model = TrainedNetwork.load(network)
    toy = Toy(model.about["data_name"], model.about["augment_to"])
    data = toy.sample(SAMPLES, torch.Generator().manual_seed(0))
    print(f"{SAMPLES} points, {STEPS} steps, medians of {REPEATS} pairs\n")
    print("| solver | calls | time over bare calls | other operations a call | waits a step |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for solver in SOLVERS.values():
        if not solver.adaptive:
            row = cost(model.flow, model.denoiser.network, data, model.about["tmax"], solver)
            print(row, flush=True)


if __name__ == "__main__":
    main()
