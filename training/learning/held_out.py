"""The loss on points that are not trained on: always the same points, times and noise.

So what it moves by from one report to the next is the network's doing alone. Where it rises while
the training's own loss falls, the network memorizes.
"""

from dataclasses import dataclass

import torch

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch
from training.data.images.batches import ImageDataset, normalize_pixels
from training.learning.loss import DenoisingLoss, DenoisingRegression, Draws
from training.model.model import Model

MOST = 1000
"""Points whose loss is taken: its standard error is then some 2 %."""
BLOCK = 250
"""Points of one network call."""


@dataclass(frozen=True)
class HeldOut:
    """Points that are not trained on.

    Attributes:
        batch: This rank's share of them, in image space.
        total: Their number over all ranks.
        loss: The loss of the training.
        seed: Seed of the times and the noise.
    """

    batch: Batch
    total: int
    loss: DenoisingLoss
    seed: int

    @classmethod
    def of_images(cls, dataset: ImageDataset, loss: DenoisingLoss, seed: int) -> "HeldOut":
        """The first images of a data set, as they are, with their labels."""
        total = min(len(dataset), MOST)
        pixels, labels = dataset.read(range(total)[distributed.shard(total)])
        points = normalize_pixels(pixels).flatten(1)
        return cls(Batch(points, labels if dataset.has_labels else None), total, loss, seed)

    @torch.no_grad()
    def mean_loss(self, model: Model) -> float:
        """The mean loss of a model over all ranks' points. All ranks must call it together."""
        denoiser = model.denoiser
        device = denoiser.basis.mean.device
        generator = seeded_generator(device, self.seed, Stream.HELD_OUT)
        draws = self.loss.draw(self.total, generator)
        mine = distributed.shard(self.total)
        t, noise = draws.t[mine], draws.noise[mine]
        clean = denoiser.basis.to_eigen(self.batch.points.to(device))
        conditions = self.batch.conditions(device)
        regression = DenoisingRegression(denoiser)
        total = torch.zeros((), device=device)
        for start in range(0, len(clean), BLOCK):
            part = slice(start, start + BLOCK)
            total += self.loss.per_sample(
                regression,
                clean[part],
                Draws(t[part], noise[part]),
                {name: values[part] for name, values in conditions.items()},
            ).sum()
        return float(distributed.sum_over_ranks(total)) / self.total
