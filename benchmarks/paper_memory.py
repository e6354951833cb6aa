"""By how much a process grows in training steps on the CPU, beside what is counted on paper.

    python benchmarks/paper_memory.py [--arch=ddpmpp] [--channels=32] [--batch=128]

On images of 16 x 16. The process holds the code of kernels, copies in the layouts that its
convolutions want, and gaps, none of which ``training/learning/cost.py`` counts.
"""

import sys
import threading
from pathlib import Path

import click
import psutil
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.flow.eigenbasis import EigenBasis
from training.learning.building import ModelConfig
from training.learning.cost import PaperStep
from training.learning.trainer import Trainer, TrainingConfig
from training.names import IMAGE_NETWORK_NAMES

SHAPE, DIM = [3, 16, 16], 768
STEPS = 2
SECONDS = 0.002
"""Between two looks at the process."""


class Validation(threading.Thread):
    """Looks at the memory of this process.

    Attributes:
        most: Bytes, at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._over = threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while not self._over.wait(SECONDS):
            self.most = max(self.most, process.memory_info().rss)

    def end(self) -> int:
        self._over.set()
        self.join()
        return self.most


@click.command(help=__doc__)
@click.option("--arch", type=click.Choice(IMAGE_NETWORK_NAMES), default="ddpmpp")
@click.option("--channels", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True)
def main(arch: str, channels: int, batch: int) -> None:
    sizes = {"image_shape": SHAPE, "model_channels": channels, "channel_mult": [1, 2]}
    choices = ModelConfig("ifs", {"dims_to_keep": DIM}, arch, sizes, "IS", "log")
    variances = torch.linspace(1, 0.1, DIM, dtype=torch.float64)
    model, loss = choices.build(EigenBasis(torch.zeros_like(variances), variances, torch.eye(DIM)))
    config = TrainingConfig(total=10**6, batch=batch)
    paper = PaperStep(model, loss, config).peak(batch)
    own = [*model.denoiser.parameters(), *model.denoiser.buffers()]
    held = sum(tensor.nbytes for tensor in own)
    before, watch = psutil.Process().memory_info().rss, Validation()
    watch.start()
    trainer, means = Trainer(model, loss, config), RunningMeans(torch.device("cpu"))
    for _ in range(STEPS):
        trainer.train_step(Batch(torch.randn(batch, DIM)), means)
    grown = watch.end() - before + held
    print(
        f"{arch}, {channels} channels, batch {batch}: {paper / 2**20:.0f} MiB on paper, "
        f"{grown / 2**20:.0f} taken, {grown / paper:.2f} times as much"
    )


if __name__ == "__main__":
    main()
