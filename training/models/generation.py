"""Images by random seed: each depends only on its seed, the network, and the integration.

The latent of seed k is the image under the base distribution at time T
(``LatentDistribution.unwhiten``) of ``z``, which is standard normal from a generator seeded by k
alone. The class is drawn in the same way. The flow carries the latent back to data ``u``, and the
pixels are ``(u + 1) 127.5``, rounded.

Neither the batch nor the number of ranks affects an image, up to a few units of rounding. Sums over
dimensions are computed in blocks of one shape (see ``flow.denoisers``), and all other operations
are elementwise. The place of an image in its block, the processor, its number of threads, and the
version of PyTorch affect the last bits of a sum. This rarely changes a pixel by one gray level.
"""

import math
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.dataset import to_pixels
from training.data.images.stacks import require_gray_or_rgb
from training.files.image_folder import ImageFolder, write_image
from training.flow.denoisers import BlockwiseDenoiser
from training.flow.solvers import Solver
from training.models.integration_settings import LatentChoice, TimeChoice
from training.subjects.images import ImageFlow, draw_classes

MAX_SEED, MAX_IMAGES = 10**9 - 1, 10**7
WRITERS = 4
# Like tqdm's default, except that the count also grows within a batch.
BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


def parse_seeds(text: str) -> Tensor:
    """Return the increasing, distinct seeds ``[N]`` of a list of numbers and ranges: ``1,2,5-10``.

    Raises:
        UsageError: The text is no such list, a number is too large, or there are too many.
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, MAX_SEED + 1)
        if last > MAX_SEED:
            raise UsageError(
                f"--seeds has '{part}': give numbers and ranges up to {MAX_SEED}, for "
                "example 0-49999 or 1,2,5-10"
            )
        if last < first:
            raise UsageError(f"--seeds has the decreasing range '{part}': give {last}-{first}")
        ranges.append((first, last))
    count = sum(last - first + 1 for first, last in ranges)
    if count > MAX_IMAGES:
        raise UsageError(f"--seeds has {count} images: give at most {MAX_IMAGES} at a time")
    seeds = np.concatenate([np.arange(first, last + 1) for first, last in ranges])
    return torch.from_numpy(np.unique(seeds))


class SeedSampler:
    """Generator of the images of seeds.

    Args:
        image_flow: Network.
        solver: Solver.
        times: Choice of the times.
        device: Device of this rank.
        rows: Number of images per network evaluation.
        latent: Choice of the base distribution.
        class_number: Class of all images; None to draw one for each seed.
        melt: File of inflated data (a melt), whose variances empirical latents have.

    Attributes:
        image_flow: Network.
        latent_law: Base distribution.
        network_calls: Number of network evaluations so far.

    Raises:
        DataError: The melt was made with another network, or up to another time, or images are not
            8-bit gray or RGB.
        UsageError: The times do not increase, or the base distribution at T is not finite.
    """

    def __init__(
        self,
        image_flow: ImageFlow,
        solver: Solver,
        times: TimeChoice,
        device: torch.device,
        rows: int,
        latent: LatentChoice,
        class_number: int | None,
    ):
        require_gray_or_rgb(image_flow.shape[0], image_flow.ends, image_flow.network.path)
        self.rows, self.device = rows, device
        self.image_flow, self._class_number = image_flow, class_number
        self._flow, self._solver = latent.on(image_flow.on(device, rows)), solver
        kept, end = image_flow.dims_to_keep, times.end
        if not LatentChoice().distribution(self._flow, end, kept).variance.isfinite().all():
            raise UsageError(f"T is {end:g}: the noise or its scale overflows; give a smaller T")
        self._times = times.times(self._flow.schedule)
        self.latent_law = latent.distribution(self._flow, end, kept)
        self.network_calls = 0

    @property
    def steps(self) -> int:
        """Number of steps between the times, for one image."""
        return len(self._times) - 1

    def __call__(self, seeds: Tensor, on_step: Callable[[], object] | None = None) -> np.ndarray:
        """Return images ``[N, H, W, C]`` uint8 of seeds ``[N]``; call ``on_step`` after each step.

        Raises:
            DataError: An image is not finite.
        """
        flow, numbers = self._flow, seeds.tolist()
        if self.image_flow.label_dim:
            flow = flow.given(labels=self._labels(numbers))
        trajectory = flow.generate(
            self._latents(numbers), self._times, self._solver, on_step=on_step
        )
        self.network_calls += trajectory.calls * math.ceil(len(seeds) / self.rows)
        # The rotation is also a matrix product, whose rounding depends on its number of rows.
        to_data = BlockwiseDenoiser(self._flow.to_data, self.rows)
        pixels = to_pixels(to_data(trajectory.end, trajectory.times[-1]))
        images = pixels.view(-1, *self.image_flow.image_shape).permute(0, 2, 3, 1)
        return images.contiguous().cpu().numpy()

    def _latents(self, seeds: list[int]) -> Tensor:
        # A common generator would make an image depend on the seeds before it.
        dim, kind = self.latent_law.dim, torch.float64
        draws = [
            torch.randn(1, dim, generator=seeded_generator("cpu", k, Stream.LATENT), dtype=kind)
            for k in seeds
        ]
        # A learned distribution also has a network, whose rounding depends on its number of rows.
        unwhiten = BlockwiseDenoiser(lambda w, _: self.latent_law.unwhiten(w), self.rows)
        return unwhiten(torch.cat(draws).to(self.device), self._times[-1])

    def _labels(self, seeds: list[int]) -> Tensor:
        classes = self.image_flow.label_dim
        drawn = [draw_classes(1, classes, seed, self._class_number) for seed in seeds]
        labels = self.image_flow.one_hot(torch.cat(drawn))
        assert labels is not None
        return labels.to(self.device)


def generate_images(sampler: SeedSampler, folder: ImageFolder, seeds: Tensor, batch: int) -> int:
    """Write the images of seeds ``[N]``, the same on every rank, into a folder.

    The ranks share the seeds. Each batch is written while the next is generated, and only one batch
    waits. Memory is thus bounded, and a full disk ends the run soon. A batch is spread over all
    ranks, each of which fills whole network evaluations, because partial ones cost the same.

    Returns:
        Number of network evaluations.

    Raises:
        DataError: An image is not finite or cannot be written.
    """
    mine = seeds[distributed.shard(len(seeds))]
    size = sampler.rows * math.ceil(batch / (sampler.rows * distributed.world_size()))
    writing: list[Future[None]] = []
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        distributed.progress_bar(total=len(mine), desc="gen", unit="image", bar_format=BAR) as bar,
    ):
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            images = sampler(part, partial(bar.update, len(part) / sampler.steps))
            _wait_for(writing)
            paths = map(folder.path_of, part.tolist())
            writing = [pool.submit(write_image, *job) for job in zip(paths, images, strict=True)]
        _wait_for(writing)
    calls = torch.tensor(sampler.network_calls, device=sampler.device)
    return int(distributed.sum_over_ranks(calls))


def _wait_for(jobs: list[Future[None]]) -> None:
    for job in jobs:
        job.result()
