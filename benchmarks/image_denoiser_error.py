"""The loss of a trained image network on held-out images, beside that of the best linear denoiser.

    python benchmarks/image_denoiser_error.py --network=network-snapshot-....pkl --data=held-out.zip

The loss is that of training, averaged over t uniform on [0, T] and over the noise; the best linear
denoiser is F = 0 by construction, and is measured on the same draws. By thirds of the time range.
"""

import sys
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.data.images.dataset import ImageDataset, basis_batches
from training.learning.loss import DenoisingLoss, DenoisingRegression
from training.trained.network import TrainedNetwork

REPEATS = 8
BATCH = 256


@torch.no_grad()
def errors(
    model: TrainedNetwork, images: Tensor, repeats: int = REPEATS
) -> tuple[Tensor, Tensor, Tensor]:
    """Times ``[N]``, the loss of F and of F = 0 ``[N]`` at them, of images ``[n, D]``."""
    clean = model.denoiser.basis.to_eigen(images.repeat(repeats, 1))
    loss = DenoisingLoss(model.denoiser.schedule, model.about["tmin"], model.about["tmax"])
    draws = loss.draw(len(clean), torch.Generator().manual_seed(0))
    # Times come in order, and so would the images.
    order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(1))
    regression = DenoisingRegression(model.denoiser)
    columns: list[tuple[Tensor, Tensor]] = []
    for part in torch.split(torch.arange(len(clean)), BATCH):
        mine = draws.of_rows(part)
        residual, target = regression(clean[order[part]], *mine)
        columns.append(((residual - target).square().mean(1), target.square().mean(1)))
    trained, linear = (torch.cat(column) for column in zip(*columns, strict=True))
    return draws.t, trained, linear


@click.command(help=__doc__)
@click.option("--network", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
def main(network: Path, data: Path) -> None:
    images = torch.cat(list(basis_batches(ImageDataset(data))))
    t, trained, linear = errors(TrainedNetwork.load(network), images)
    last = float(t.max())
    print("| t | trained network | best linear |\n| --- | ---: | ---: |")
    for low, high in ((0, 1), (0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)):
        chosen = (t >= low * last) & (t <= high * last)
        print(
            f"| {low * last:.1f} to {high * last:.1f} | {float(trained[chosen].mean()):.4f} "
            f"| {float(linear[chosen].mean()):.4f} |"
        )


if __name__ == "__main__":
    main()
