"""What only a CUDA device can show, all in one run: a report to send back.

    python benchmarks/gpu.py [--batch=512] [--device_name=cuda:0] > report.md

Right: results of the card are those of the CPU, at full and at lower precision, and twice the same
if that is asked for. Quick: nobody waits for the card more often than docs/howto/gpu.md says. How
fast:
images a second of DDPM++ at 32 x 32 in training. An item that fails says so, and the next one runs.
"""

import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.distributed import process_group
from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.flow.eigenbasis import EigenBasis
from training.flow.solvers import SOLVERS
from training.learning.building import ModelConfig
from training.learning.trainer import Trainer
from training.recipes import Recipe
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SHAPE = (3, 32, 32)
DIM = 3 * 32 * 32
SMALL = {"model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1}
NETWORKS = ("ddpmpp", "ncsnpp", "adm")
PRECISIONS = ("fp32", "bf16", "fp16")
LOSS_SCALE = {"fp16": 2.0**-6}
"""On top of the one that adapts."""
STEPS = 5


def trainer_on(
    device: torch.device,
    network: str = "ddpmpp",
    precision: str = "fp32",
    batch: int = 8,
    sizes: dict[str, object] = SMALL,
) -> tuple[Trainer, Batch]:
    """A trainer of random images, equal on all devices, and the batch that it sees at each step."""
    generator = torch.Generator().manual_seed(0)
    basis = EigenBasis(torch.zeros(DIM), torch.linspace(2, 0.01, DIM), torch.eye(DIM))
    arguments = {"image_shape": SHAPE, "dropout": 0.0, **sizes}
    choices = ModelConfig("ifs", {"dims_to_keep": DIM}, network, arguments, "IS", "log")
    model, loss = choices.build(basis)
    for weights in model.denoiser.parameters():
        nn.init.normal_(weights, std=0.02, generator=generator)
    model.denoiser.to(device)
    model.denoiser.precision = precision
    ls = LOSS_SCALE.get(precision, 1.0)
    recipe = Recipe(duration=(1 << 20) / 1e6, batch=batch, ls=ls)
    points = torch.randn(batch, DIM, generator=generator)
    return Trainer(model, loss, recipe), Batch(points.to(device))


def step_of(trainer: Trainer, batch: Batch) -> tuple[float, float]:
    """The loss and the norm of its gradient, at the draws of the CPU on all devices."""
    draws = trainer.loss.draw(len(batch.points), torch.Generator().manual_seed(0))
    there = type(draws)(*(values.to(trainer.device) for values in draws))
    means = RunningMeans(trainer.device)
    trainer.accumulate(batch, there, means)
    return means.collect()["Loss/loss"]["mean"], float(trainer.gradient_norm())


def toy_model(device: torch.device) -> TrainedNetwork:
    """An MLP with random weights."""
    basis = EigenBasis(torch.zeros(2), torch.tensor([1.0, 0.5]), torch.eye(2))
    model, _ = ModelConfig("ifs", {"dims_to_keep": 1}, "mlp", {}, "ES", "log").build(basis)
    weights = dict(model.denoiser.network.named_parameters())["output.weight"]
    nn.init.normal_(weights, std=0.1, generator=torch.Generator().manual_seed(0))
    model.denoiser.eval().requires_grad_(False).to(device)
    return model


def machine(device: torch.device, batch: int) -> None:
    properties = torch.cuda.get_device_properties(device)
    print(f"* {properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    print(f"* torch {torch.__version__}, CUDA {torch.version.cuda}")
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    print(f"* cuDNN {cudnn}, {torch.cuda.device_count()} devices")
    print(f"* {platform.platform()}, Python {platform.python_version()}")


def steps_like_those_of_the_cpu(device: torch.device, batch: int) -> None:
    print("| network | precision | loss, CPU fp32 | loss | gradient norm, CPU fp32 | norm |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for network in NETWORKS:
        loss, norm = step_of(*trainer_on(CPU, network))
        for precision in PRECISIONS:
            found = step_of(*trainer_on(device, network, precision))
            print(
                f"| {network} | {precision} | {loss:.6f} | {found[0]:.6f} "
                f"| {norm:.6f} | {found[1]:.6f} |"
            )


def flows_like_those_of_the_cpu(device: torch.device, batch: int) -> None:
    points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flows = [toy_model(place).flow for place in (CPU, device)]
    print("| solver | largest difference of latents | of log densities | round trip's error |")
    print("| --- | ---: | ---: | ---: |")
    for name in SOLVERS:
        found = []
        for flow in flows:
            latents = flow.encode(points, solver=name)
            back = flow.decode(latents, solver=name).cpu() - points
            found.append((latents.cpu(), flow.log_prob(points, solver=name).cpu(), back))
        differences = [float((one - other).abs().max()) for one, other in zip(*found, strict=True)]
        error = float(found[1][2].abs().max())
        print(f"| {name} | {differences[0]:.1e} | {differences[1]:.1e} | {error:.1e} |")


def waits(device: torch.device, action: Callable[[], object]) -> int:
    """How often the host waited for the card, by PyTorch's own count."""
    action()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            action()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def waits_for_the_card(device: torch.device, batch: int) -> None:
    trainer, images = trainer_on(device)
    means = RunningMeans(device)
    found = waits(device, lambda: trainer.train_step(images, means))
    print(f"* A training step waits {found} times.")
    flow = toy_model(device).flow
    x, times = torch.randn(100, 2, dtype=torch.float64, device=device), flow.times(20)
    for name, solver in SOLVERS.items():
        if solver.calls_per_step is not None:
            found = waits(device, partial(flow.simulate, x, times, name))
            print(f"* Twenty steps of {name} and what follows them wait {found} times.")


def the_same_twice(device: torch.device, batch: int) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            trainer, images = trainer_on(device, precision="bf16")
            for _ in range(STEPS):
                trainer.train_step(images, RunningMeans(device))
            runs.append([weights.detach().cpu() for weights in trainer.denoiser.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    same = all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    print(f"* Two deterministic runs of {STEPS} steps are {'' if same else 'NOT '}the same.")


def speed(device: torch.device, batch: int) -> None:
    print(f"DDPM++ 32 x 32 as published, batch {batch}:\n")
    print("| precision | images/s | TFLOP/s | peak memory, GiB |")
    print("| --- | ---: | ---: | ---: |")
    for precision in PRECISIONS:
        trainer, images = trainer_on(device, precision=precision, batch=batch, sizes={})
        means = RunningMeans(device)
        with FlopCounterMode(display=False) as flops:
            trainer.train_step(images, means)
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(STEPS):
            trainer.train_step(images, means)
        torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - began) / STEPS
        rate = flops.get_total_flops() / seconds / 1e12
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        print(f"| {precision} | {batch / seconds:.0f} | {rate:.1f} | {peak:.2f} |", flush=True)
        del trainer, images
        torch.cuda.empty_cache()


def layouts(device: torch.device, batch: int) -> None:
    """Whether normalization keeps channels-last, and which way through a block is fastest."""
    norm, conv = nn.GroupNorm(32, 128).to(device), nn.Conv2d(128, 128, 3, padding=1).to(device)

    def by_parts(x: Tensor) -> Tensor:
        groups = x.float().view(len(x), norm.num_groups, -1, *x.shape[2:])
        variance, mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0, keepdim=True)
        unit = ((groups - mean) * (variance + norm.eps).rsqrt()).flatten(1, 2)
        return torch.addcmul(norm.bias[:, None, None], unit, norm.weight[:, None, None])

    print("| normalization | layout | after it | ms, forward and backward |")
    print("| --- | --- | --- | ---: |")
    ways: dict[str, Callable[[Tensor], Tensor]] = {"PyTorch's": norm, "by parts": by_parts}
    for layout in (torch.channels_last, torch.contiguous_format):
        conv.to(memory_format=layout)  # type: ignore[call-overload]
        x = torch.randn(batch, 128, 32, 32, device=device).to(torch.bfloat16, memory_format=layout)
        x.requires_grad_()
        for name, way in ways.items():
            with torch.autocast(device.type, torch.bfloat16):
                kept = "the same" if way(x).is_contiguous(memory_format=layout) else "another"
            seconds = []
            for _ in range(STEPS):
                began = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16):
                    out = conv(F.silu(way(x)))
                torch.autograd.backward(out, torch.ones_like(out))
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - began)
            print(f"| {name} | {layout} | {kept} | {1000 * min(seconds):.2f} |")


def ranks(device: torch.device, batch: int) -> None:
    """One rank, and two over NCCL if there are two cards: the losses must agree."""
    for count in (1, 2)[: torch.cuda.device_count()]:
        with tempfile.TemporaryDirectory() as folder:
            command = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}")
            script = ("toy_train.py", "--data_name=circles", "--duration=0.1", "--no-calibrate")
            subprocess.run(
                [sys.executable, *command, *script, f"--outdir={folder}", "--nosubdir"],
                cwd=ROOT,
                check=True,
                capture_output=True,
            )
            last = (Path(folder) / "stats.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        print(f"* {count} rank(s), last report: `{last}`")
    if torch.cuda.device_count() < 2:
        print("* One card only: NCCL with two ranks was not tried.")


ITEMS = (
    machine,
    steps_like_those_of_the_cpu,
    flows_like_those_of_the_cpu,
    waits_for_the_card,
    the_same_twice,
    speed,
    layouts,
    ranks,
)


@click.command(help=__doc__)
@click.option("--batch", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--device_name", default="cuda", show_default=True, help="cuda or cuda:N")
def main(batch: int, device_name: str) -> None:
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so there is nothing to report.")
        return
    with process_group(device_name) as device:
        for item in ITEMS:
            print(f"\n## {item.__name__.replace('_', ' ').capitalize()}\n", flush=True)
            try:
                item(device, batch)
            except Exception:  # whatever it is, the report has it
                print(f"FAILED\n\n```\n{traceback.format_exc()}```")


if __name__ == "__main__":
    main()
