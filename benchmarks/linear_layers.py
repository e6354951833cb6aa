"""What linear layers take by PyTorch's own products, and by those of ``torch_utils.linear``.

    OMP_NUM_THREADS=1 python benchmarks/linear_layers.py [--repeats=41]

Both take turns in one process, in milliseconds of CPU, medians. Of layers: rows without gradients,
and with those of rows, weights and bias. Of the network of tables: a call, a call with its trace,
and a step of training without its optimizer, of so many columns.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch_utils.linear as products
from dnnlib.memory import keep_freed_memory
from training.networks.mlp import ToyMLP

LAYERS = ((64, 128, 128), (256, 128, 128), (1024, 128, 128), (1024, 557, 128), (2048, 256, 256))
"""Rows, and units before and after the layer."""
COLUMNS, ROWS = (2, 10, 30, 61), 1024


def in_turns(action: Callable[[], object], repeats: int) -> str:
    """Milliseconds by PyTorch and by ``linear``, and their ratio."""
    ours, integrations = products.onednn, vars(products)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for way, taken in zip((nothing, ours), times, strict=True):
            integrations["onednn"] = way
            began = time.process_time()
            action()
            taken.append(1000 * (time.process_time() - began))
    before, now = (median(taken[1:]) for taken in times)
    return f"{before:.3f} | {now:.3f} | {before / now:.2f}"


def nothing() -> None:
    """In place of oneDNN's layer."""


def without_gradients(action: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(action)


@click.command(help=__doc__)
@click.option("--repeats", type=int, default=41, show_default=True)
def main(repeats: int) -> None:
    keep_freed_memory()
    if products.onednn() is None:
        raise click.ClickException("here both are the same: no vectors of 512 bits, or no oneDNN")
    print("| what | PyTorch, ms | ours, ms | ratio |\n| --- | ---: | ---: | ---: |")
    for rows, inputs, outputs in LAYERS:
        layer, x = products.Linear(inputs, outputs), torch.randn(rows, inputs, requires_grad=True)

        def through(layer: products.Linear = layer, x: Tensor = x) -> object:
            return layer(x)

        def back(layer: products.Linear = layer, x: Tensor = x) -> object:
            return torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])

        name = f"{rows} x {inputs} to {outputs}"
        print(f"| {name} | {in_turns(without_gradients(through), repeats)} |")
        print(f"| {name}, with gradients | {in_turns(back, repeats)} |")
    for columns in COLUMNS:
        network, z = ToyMLP(columns, (-2.0, 2.0)), torch.randn(ROWS, columns)
        matrix, t = torch.eye(columns), torch.tensor(0.3)

        def call(network: ToyMLP = network, z: Tensor = z, t: Tensor = t) -> object:
            return network(z, t)

        def trace(
            network: ToyMLP = network, z: Tensor = z, t: Tensor = t, matrix: Tensor = matrix
        ) -> object:
            return network.with_trace(z, t, matrix)

        def step(network: ToyMLP = network, z: Tensor = z, t: Tensor = t) -> object:
            loss = network(z, t).square().mean()
            return torch.autograd.grad(loss, list(network.parameters()))

        for what, action in (("call", call), ("call with its trace", trace)):
            print(f"| {columns} columns, {what} | {in_turns(without_gradients(action), repeats)} |")
        print(f"| {columns} columns, step | {in_turns(step, repeats)} |")


if __name__ == "__main__":
    main()
