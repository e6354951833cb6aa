"""Seconds of the CPU of a DDPM++'s gradient at 32 x 32, by precision and way of weight gradients.

    OMP_NUM_THREADS=1 python benchmarks/weight_gradients.py [--channels=32] [--batch=8]

fp32        single precision
bf16        bfloat16, as PyTorch has it
im2col      bfloat16, where weight gradients of 3 x 3 convolutions of up to 16 x 16 pixels are
            products with unfolded inputs

They take turns; the least seconds of a forward and a backward pass, and how far the gradient is
from that of fp32.
"""

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.networks.unet import DDPMpp

SHAPE = (3, 32, 32)
LARGEST, LEAST_CHANNELS = 16, 32
"""Side in pixels and input channels of a convolution whose weight gradient is a product."""
WAYS = ("fp32", "bf16", "im2col")


class UnfoldedGradient(torch.autograd.Function):
    """A convolution whose weight gradient is a product with its unfolded input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        of_input = conv2d_input(  # type: ignore[no-untyped-call]
            x.shape, weight, gradient, padding=1
        )
        columns = F.unfold(x, 3, padding=1).transpose(0, 1).flatten(1)
        of_weight = gradient.flatten(2).transpose(0, 1).flatten(1) @ columns.T
        return of_input, of_weight.view_as(weight), gradient.sum(dim=(0, 2, 3))


def unfolded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """The layer's output."""
    assert layer.bias is not None
    small = x.shape[-1] <= LARGEST and x.shape[1] >= LEAST_CHANNELS
    if layer.kernel_size != (3, 3) or not small:
        return layer._conv_forward(x, layer.weight, layer.bias)
    half = (tensor.bfloat16() for tensor in (x, layer.weight, layer.bias))
    out: Tensor = UnfoldedGradient.apply(*half)  # type: ignore[no-untyped-call]
    return out


def gradient(network: nn.Module, way: str, given: tuple[Tensor, ...]) -> tuple[float, Tensor]:
    """Seconds of the CPU that it takes, and all of it in one."""
    patch = mock.patch.object(nn.Conv2d, "forward", unfolded) if way == "im2col" else nullcontext()
    low = nullcontext() if way == "fp32" else torch.autocast("cpu", torch.bfloat16)
    x, c_noise, labels = given
    began = time.process_time()
    with patch:
        with low:
            out = network(x, c_noise, augment_labels=labels)
        out.float().square().mean().backward()
    seconds = time.process_time() - began
    parts = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    return seconds, torch.cat(parts)


@click.command(help=__doc__)
@click.option("--channels", default=32, show_default=True, help="Of the finest level.")
@click.option("--batch", default=8, show_default=True)
@click.option("--rounds", default=4, show_default=True, help="The first is not counted.")
def main(channels: int, batch: int, rounds: int) -> None:
    torch.manual_seed(0)
    network = DDPMpp(image_shape=SHAPE, augment_dim=9, model_channels=channels)
    for parameter in network.parameters():  # the output starts at zero
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    given = torch.randn(batch, 3072), torch.randn(batch), torch.zeros(batch, 9)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    found = {}
    for _ in range(rounds):
        for way in WAYS:
            taken, found[way] = gradient(network, way, given)
            seconds[way].append(taken)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| way | seconds | gradient off |")
    print("| --- | ---: | ---: |")
    for way in WAYS:
        off = (found[way] - found["fp32"]).norm() / found["fp32"].norm()
        print(f"| {way} | {min(seconds[way][1:]):.2f} | {float(off):.3f} |")


if __name__ == "__main__":
    main()
