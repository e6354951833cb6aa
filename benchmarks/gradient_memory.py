"""Peak memory of a gradient through a whole generation beside that of one network call.

    python benchmarks/gradient_memory.py [--solver=exp_rk5] [--steps=50] [--batch=64]

A function of generated data is differentiated by the latents, through ``simulate`` with
``differentiable=True``. The networks have 64 dimensions: the U-Net of the digits
(docs/tutorials/images.md),
and the MLP of the toys, with random weights that need no gradients. What is set against it is the
gradient of one bare network call by its input. A call of the denoiser keeps its inputs only,
``batch x 64`` numbers in float64; everything else that it computes lives for one call at a time.

On a CPU, every new storage that an operation gives is counted until it is freed, by a dispatch
mode: exact to the byte, but for the scratch space within an operation, and without the allocator's
and the interpreter's own use of memory, which hide tens of MiB. On CUDA it is what the allocator
says. Both leave out what was there before: the weights.
"""

import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.names import DEFAULT_SOLVER
from training.networks import NETWORKS

SHAPE, DIM, T_MAX = (1, 8, 8), 64, 15.01
NETWORK_ARGUMENTS: dict[str, dict[str, Any]] = {
    "mlp": {"dim": DIM, "noise_range": (-1.0, 2.0)},
    "ddpmpp": {"image_shape": SHAPE, "model_channels": 32, "channel_mult": (1, 2)},
}


class StorageCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages that operations make within it, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.live = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        known = {storage.data_ptr() for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage.data_ptr() not in known:
                known.add(storage.data_ptr())
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, count: int) -> None:
        self.live += count
        self.peak = max(self.peak, self.live)


def _storages(tree: object) -> Iterable[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """Of memory in use during an action, beyond what was in use before."""
    if device.type == "cuda":
        action()  # what libraries set up at a first time is no part of it
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return torch.cuda.max_memory_allocated(device) - before
    with StorageCount() as count:
        action()
    return count.peak


def made_up_flow(network: nn.Module) -> ProbabilityFlow:
    """Random axes with a spectrum that falls like that of images."""
    generator = torch.Generator().manual_seed(0)
    axes, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))
    spectrum = 10 / torch.arange(1, DIM + 1, dtype=torch.float64) ** 1.5
    basis = EigenBasis(torch.zeros(DIM), spectrum, axes)
    schedule = InflationSchedule.to_dimension(DIM, DIM, top_variance=basis.top_variance)
    denoiser = NetworkDenoiser(network, basis, schedule, space="IS")
    return ProbabilityFlow(denoiser, schedule, basis)


def compare(name: str, solver: str, steps: int, batch: int, device: torch.device) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    network = NETWORKS[name](**NETWORK_ARGUMENTS[name]).eval().requires_grad_(False)
    flow = made_up_flow(network).to(device)
    times = flow.schedule.times(steps, T_MAX).to(device)
    rows = torch.randn(batch, DIM, device=device)
    latents = rows.double() * flow.latent_std(times[-1])

    def one_call() -> None:
        z = rows.clone().requires_grad_()
        torch.autograd.backward(network(z, torch.zeros((), device=device)).square().sum())

    calls = []

    def generation() -> None:
        z = latents.clone().requires_grad_()
        end = flow.generate(z, times, SOLVERS[solver], differentiable=True)
        torch.autograd.backward(flow.to_data(end.end, times[0]).square().sum())
        calls.append(end.calls)

    whole, one = (peak_bytes(action, device) / 2**20 for action in (generation, one_call))
    return f"| {name} | {solver} | {calls[0]} | {one:.2f} | {whole:.2f} | {whole / one:.2f} |"


@click.command(help=__doc__)
@click.option("--solver", type=click.Choice(list(SOLVERS)), default=DEFAULT_SOLVER)
@click.option("--steps", default=50)
@click.option("--batch", default=64)
@click.option("--device_name", default="cpu")
def main(solver: str, steps: int, batch: int, device_name: str) -> None:
    print("| network | solver | calls | MiB of one call | MiB of the generation | ratio |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in NETWORK_ARGUMENTS:
        print(compare(name, solver, steps, batch, torch.device(device_name)), flush=True)


if __name__ == "__main__":
    main()
