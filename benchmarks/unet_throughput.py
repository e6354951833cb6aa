"""Seconds an image that DDPM++ takes at 32 x 32, forward and in training, in float32 and bfloat16.

    python benchmarks/unet_throughput.py [--batch=8] [--channels=128] [--steps=0]

The precisions take turns, so that what else the machine does slows both, and medians are quoted.
With --steps, both also train that long on the same synthetic images, noise and initial weights, and
their losses are compared: 1 is the best linear denoiser (--channels=32 makes this affordable).
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.flow.preconditioning import per_dimension
from training.networks.unet import DDPMpp

SHAPE = (3, 32, 32)
PRECISIONS = ("fp32", "bf16")
LEARNING_RATE = 1e-3
LOG_NOISE_STD = (-4.0, 2.0)  # range, uniform


def precision(name: str) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if name == "bf16" else nullcontext()


def processor() -> str:
    """What of this processor speeds up bfloat16, as far as this torch can tell."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: "unknown")()
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "unknown")()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {capability}, "
        f"AMX: {amx}, AVX-512 bf16: {bf16}"
    )


def new_network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    return DDPMpp(image_shape=SHAPE, augment_dim=9, model_channels=channels)


def structured_images(count: int, generator: torch.Generator) -> Tensor:
    """Flat images of about unit variance: two colors divided by a smooth random contour."""
    coarse = torch.randn(count, 1, 5, 5, generator=generator)
    field = F.interpolate(coarse, size=SHAPE[1:], mode="bicubic", align_corners=True)
    inside = (8 * field).sigmoid()
    colors = torch.randn(2, count, SHAPE[0], 1, 1, generator=generator)
    return (inside * colors[0] + (1 - inside) * colors[1]).flatten(1)


def regression(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, noise conditions and targets of a network under isotropic noise."""
    low, high = LOG_NOISE_STD
    log_std = low + (high - low) * torch.rand(count, 1, generator=generator)
    clean = structured_images(count, generator)
    c = per_dimension(torch.ones(1), (2 * log_std).exp())
    noisy = clean + log_std.exp() * torch.randn(clean.shape, generator=generator)
    return c.c_in * noisy, log_std[:, 0] / 4, (clean - c.c_skip * noisy) / c.c_out


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    name: str,
    examples: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """One step; the loss."""
    z, c_noise, target = examples
    optimizer.zero_grad()
    with precision(name):
        output = network(z, c_noise)
    loss = F.mse_loss(output, target)
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()


def medians(actions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each action; they take turns, after one run each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repeats + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def throughput(channels: int, batch: int, repeats: int) -> None:
    network = new_network(channels)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-6, fused=True)
    examples = regression(batch, torch.Generator().manual_seed(0))
    z, c_noise, _ = examples

    @torch.inference_mode()
    def forward(name: str) -> None:
        with precision(name):
            network.eval()(z, c_noise)

    def training(name: str) -> None:
        train_step(network.train(), optimizer, name, examples)

    print(f"| DDPM++, batch {batch} | fp32 s/image | bf16 s/image | fp32/bf16 |")
    print("| --- | ---: | ---: | ---: |")
    for title, work in (("forward", forward), ("training step", training)):
        fp32, bf16 = medians({name: partial(work, name) for name in PRECISIONS}, repeats).values()
        row = f"| {title} | {fp32 / batch:.3f} | {bf16 / batch:.3f} | {fp32 / bf16:.2f} |"
        print(row, flush=True)


def final_loss(name: str, channels: int, batch: int, steps: int) -> float:
    """Mean loss of the last fifth of the steps."""
    network = new_network(channels)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=True)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100)
        loss = train_step(network, optimizer, name, regression(batch, generator))
        losses.append(loss.item())
    return statistics.mean(losses[-max(1, steps // 5) :])


@click.command(help=__doc__)
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--channels", type=click.IntRange(min=4), default=128, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--steps", type=click.IntRange(min=0), default=0, help="0: do not compare losses.")
def main(batch: int, channels: int, repeats: int, steps: int) -> None:
    print(processor() + "\n")
    throughput(channels, batch, repeats)
    if steps:
        losses = {name: final_loss(name, channels, batch, steps) for name in PRECISIONS}
        print(f"\nLoss after {steps} steps: fp32 {losses['fp32']:.4f}, bf16 {losses['bf16']:.4f}")


if __name__ == "__main__":
    main()
