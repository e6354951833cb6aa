"""Cost of integrating an image flow beside that of its network calls, in time and in memory.

    python benchmarks/image_integration.py [--steps=2] [--repeats=9] [--precision=fp32]

The network is DDPM++ at 32 x 32 with random weights, in batches of 8. The time of a melt with RK4
is set against as many bare calls of the network on the same batch, in turns, and medians are
quoted. Peak memory is that of a process of its own for each: one bare call, and a whole melt with
states written to disk (Linux only).
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.models.simulations import Simulator
from training.networks import NETWORKS

SHAPE, BATCH, T_MAX = (3, 32, 32), 8, 15.01
DIM = SHAPE[0] * SHAPE[1] * SHAPE[2]
SOLVER = SOLVERS["rk4"]


def made_up_basis() -> EigenBasis:
    """Random axes with a spectrum that falls like that of images."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))
    spectrum = 100 / torch.arange(1, DIM + 1, dtype=torch.float64) ** 1.5
    return EigenBasis(torch.zeros(DIM), spectrum, axes)


def made_up_flow(precision: str) -> ProbabilityFlow:
    torch.manual_seed(0)
    basis = made_up_basis()
    schedule = InflationSchedule.to_dimension(DIM, DIM, top_variance=basis.top_variance)
    network = NETWORKS["ddpmpp"](image_shape=SHAPE).eval().requires_grad_(False)
    denoiser = NetworkDenoiser(network, basis, schedule, space="IS")
    denoiser.precision = precision
    return ProbabilityFlow(denoiser, schedule, basis)


def batch() -> Tensor:
    return torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(1))


def call_bare(flow: ProbabilityFlow, z: Tensor) -> None:
    """The network as the denoiser calls it, and nothing around it."""
    denoiser = flow.denoiser
    assert isinstance(denoiser, NetworkDenoiser)
    with torch.no_grad(), denoiser.autocast(z.device.type):
        denoiser.network(z, torch.tensor(0.0))


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def compare_times(precision: str, steps: int, repeats: int) -> None:
    flow, z = made_up_flow(precision), batch()
    data = z.double()
    times = flow.schedule.times(steps, T_MAX)
    calls = 4 * steps
    blocks = flow.in_blocks(BATCH)

    def bare() -> None:
        for _ in range(calls):
            call_bare(flow, z)

    def simulate() -> None:
        blocks.melt(data, times, SOLVER)

    bare()
    simulate()
    pairs = [(seconds(simulate), seconds(bare)) for _ in range(repeats)]
    ratio = statistics.median(simulated / called for simulated, called in pairs)
    simulated, called = (statistics.median(column) / calls for column in zip(*pairs, strict=True))
    print(
        f"{precision}: a melt takes {simulated:.3f} s a call of {BATCH} images, the bare network "
        f"{called:.3f} s: {ratio:.3f} times as long (medians of {repeats} pairs)."
    )


def peak_mib(what: str, precision: str) -> float:
    """Peak memory of a process that does one thing."""
    command = [sys.executable, __file__, f"--measure={what}", f"--precision={precision}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(what: str, precision: str) -> None:
    """Does one thing in this process, and prints its peak memory meanwhile in MiB."""
    flow, data = made_up_flow(precision), batch()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak of the setting up
    if what == "call":
        call_bare(flow, data)
    elif what == "melt":
        times = flow.schedule.times(4, T_MAX)
        with tempfile.TemporaryDirectory() as folder:
            simulator = Simulator(flow.in_blocks(BATCH), times, SOLVER, save_every=1)
            simulator.melt(data.double(), path=Path(folder) / "melt.npz", dtype="float32")
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


@click.command(help=__doc__)
@click.option("--steps", default=2, help="Of RK4.")
@click.option("--repeats", default=9)
@click.option("--precision", default="fp32")
@click.option("--measure", "what", hidden=True)
def main(steps: int, repeats: int, precision: str, what: str | None) -> None:
    if what:
        measure(what, precision)
        return
    compare_times(precision, steps, repeats)
    nothing, call, melt = (peak_mib(what, precision) for what in ("nothing", "call", "melt"))
    basis = DIM * DIM * 8 / 2**20
    print(
        f"Peak memory: {nothing:.0f} MiB with the network and a basis of {basis:.0f} MiB, "
        f"{call:.0f} after one call, {melt:.0f} after a melt: {melt / call:.2f} times one call."
    )


if __name__ == "__main__":
    main()
