"""Is an image that a network was not trained on where its flow says? Latents of images, by axis.

    OMP_NUM_THREADS=1 python benchmarks/latent_radii.py --network=NET.pkl
        --data=HELD_OUT.zip [--data=TRAINED.zip] [--images=1500]

Images get the noise of the first time and are melted. If the flow had their law, whitened latents
would be standard normal, and so sums of k of their squares chi-square. Posteriors of a sampler
that is right cover what the truths' latents let them: of each group of axes, largest variance of
the data first, and of all,

square     mean square of the latents, with its standard error over images; 1 is right
interval   share of latents between the ends of central intervals of 50, 80, 90 and 95 %, percent
sum        share of images whose sum of squares is below the 50, 80, 90 and 95 % quantiles
KS         largest difference of the sums' distribution function from chi-square, and what it
           exceeds by chance once in twenty times
"""

import sys
from itertools import pairwise
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.inference.checking import true_points_of_data
from training.inference.likelihoods import Gaussian
from training.inference.target import Target
from training.subjects import open_prior
from training.trained.network import TrainedNetwork

LEVELS = torch.tensor([0.5, 0.8, 0.9, 0.95], dtype=torch.float64)
ROWS, BY_CHANCE = 64, 1.358
"""Images of a call; of the statistic of Kolmogorov and Smirnov, over the root of their number."""


def groups(dim: int, kept: int) -> list[slice]:
    """Axes by powers of two, cut where those that are kept end, and all."""
    edges = {0, dim, kept} | {4 * 2**k for k in range(dim.bit_length()) if 4 * 2**k < dim}
    ordered = sorted(edges)
    parts = [slice(*ends) for ends in pairwise(ordered)]
    return [*parts, slice(0, dim)]


def cells(w: Tensor) -> list[str]:
    """Of latents ``[N, k]``."""
    count, squares = len(w), w.square().mean(dim=1)
    levels, half = torch.special.erf(w.abs() / 2**0.5), w.new_tensor(w.shape[1] / 2)
    below = torch.special.gammainc(half, half * squares).sort().values
    steps = torch.arange(count + 1).double() / count
    apart = torch.maximum((steps[1:] - below).max(), (below - steps[:-1]).max())
    return [
        f"{float(squares.mean()):.3f} ± {float(squares.std() / count**0.5):.3f}",
        " ".join(f"{100 * float((levels <= level).double().mean()):.1f}" for level in LEVELS),
        " ".join(f"{100 * float((below <= level).double().mean()):.1f}" for level in LEVELS),
        f"{float(apart):.3f}, {BY_CHANCE / count**0.5:.3f}",
    ]


@click.command(help=__doc__)
@click.option("--network", required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), multiple=True, required=True)
@click.option("--images", type=int, default=1500, show_default=True)
def main(network: str, data: tuple[Path, ...], images: int) -> None:
    torch.set_num_threads(1)
    subject = open_prior(TrainedNetwork.open(network))
    flow, seen = subject.flow, Gaussian(torch.ones(()).double(), dim=subject.dim)
    prior = subject.prior(*flow.integration("latents"), False)
    target = Target(prior, seen, torch.zeros(1, subject.dim).double(), ROWS)
    print("| images | axes | square | interval | sum | KS |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for source in data:
        points = subject.truths(source, min(images, subject.testable(source) or images), 0)
        w = true_points_of_data(target, points, range(len(points)), 0).w
        assert w is not None
        for axes in groups(subject.dim, subject.dims_to_keep):
            name = f"{axes.start + 1} to {axes.stop}"
            print(f"| {source.stem} | {name} | {' | '.join(cells(w[:, axes]))} |", flush=True)


if __name__ == "__main__":
    main()
