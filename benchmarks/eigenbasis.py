"""Time and memory of fitting an eigenbasis to as many images as CIFAR-10 has.

    python benchmarks/eigenbasis.py

Streams synthetic uint8 images, normalized as a data set's are, through ``EigenBasis.fit``, and
prints the seconds of the sums and of the eigendecomposition, and the process's peak memory.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

from training.data.images.dataset import normalize_pixels
from training.flow.eigenbasis import EigenBasis


class Stream:
    """Correlated random images ``[batch, dim]``, made as they are asked for.

    Attributes:
        making: Seconds spent on making them, which a fit is not charged for.
        ended: When the last was handed out.
    """

    def __init__(self, images: int, dim: int, batch: int):
        self._images, self._dim, self._batch = images, dim, batch
        self.making = self.ended = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self._images, self._batch):
            began = time.perf_counter()
            shape = (min(self._batch, self._images - start), self._dim)
            brightness = torch.randint(0, 128, (shape[0], 1), generator=generator)
            noise = torch.randint(0, 128, shape, generator=generator)
            points = normalize_pixels((brightness + noise).to(torch.uint8))
            self.making += time.perf_counter() - began
            yield points
        self.ended = time.perf_counter()


@click.command(help=__doc__)
@click.option("--images", default=50_000)
@click.option("--dim", default=3072)
@click.option("--batch", default=1000)
def main(images: int, dim: int, batch: int) -> None:
    stream = Stream(images, dim, batch)
    began = time.perf_counter()
    basis = EigenBasis.fit(stream)
    sums, decomposition = stream.ended - began - stream.making, time.perf_counter() - stream.ended
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # of Linux
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    print(f"participation ratio {basis.participation_ratio:.4g}")
    print("| images | dim | threads | sums, s | eigh, s | peak GiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    threads = torch.get_num_threads()
    print(f"| {images} | {dim} | {threads} | {sums:.1f} | {decomposition:.1f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
