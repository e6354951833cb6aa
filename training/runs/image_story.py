"""Simulations of images: where they start, and which facts their parameters hold."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.batches import ImageDataset, normalize_pixels
from training.files.trajectory import SavedEnd
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors
from training.runs.images import ImageFlow, draw_classes
from training.runs.simulator import Simulation, Simulator
from training.runs.story import Samples, Story


@dataclass(frozen=True, kw_only=True)
class ImageStory(Story):
    """Simulations of images.

    Attributes:
        image_flow: The network.
        data: The images to melt; None where none are.
        start_noise: Whether they are melted with the noise of the first time.
        class_number: Class to generate; None draws one for each image.
        dtype: Of the states in the files: 256 CIFAR images at 27 times are 0.7 GB in float32.
    """

    image_flow: ImageFlow
    data: ImageDataset | None
    start_noise: bool = False
    class_number: int | None = None
    dtype: str = "float32"

    def samples(self) -> Samples:
        assert self.data is not None
        pixels, labels = self.data.read(range(len(self.data)))
        points = normalize_pixels(pixels).flatten(1).double()
        given = labels if self.image_flow.label_dim else None
        return Samples(points, given, {"image_index": self.data.places})

    def start_of(self, points: Tensor) -> Tensor:
        """The images themselves, or with noise."""
        if not self.start_noise:
            return points
        generator = seeded_generator("cpu", self.seed, Stream.MELT_NOISE)
        first = self.times[0].to(self.flow.device)
        noise = self.flow.schedule.sample_noise(len(points), first, generator)
        return points + self.flow.basis.rotate_back(noise).cpu()

    def densities(self, samples: Samples) -> Simulation | None:
        """Those of dequantized images."""
        if self.likelihood is None:
            return None
        flow = self.given(samples.labels)
        simulator = Simulator(flow, self.times, self.solver, len(self.times), self.likelihood)
        return simulator.melt(dequantized(samples.points, self.seed), "log_prob")

    def drawn_labels(self) -> Tensor | None:
        classes = self.image_flow.label_dim
        drawn = draw_classes(self.count, classes, self.seed, self.class_number)
        return self.image_flow.labels(drawn)

    def arrays(self) -> dict[str, Tensor]:
        return {"image_shape": torch.tensor(self.image_flow.image_shape)}

    def melt_facts(self, melt: Simulation) -> dict[str, Any]:
        """Variances over their closed form."""
        return {"kept_variance_ratio": self.kept_variances(melt)}

    def roundtrip_facts(self, back: Simulation, start: Tensor) -> dict[str, Any]:
        """Errors against the images that were melted, noise included if there was some."""
        first = back.trajectory.times[-1]
        before = self.flow.to_data(start, first)
        after = self.flow.to_data(back.trajectory.end, first)
        return RoundtripErrors.of((before + 1) * LEVELS_PER_UNIT, after).summary()

    def check_labels(self, melted: SavedEnd) -> None:
        """Raises DataError if a melt has other labels than the network takes."""
        length = 0 if melted.labels is None else melted.labels.shape[1]
        if length != self.image_flow.label_dim:
            raise DataError(
                f"{melted.path} has labels of length {length}, but {self.image_flow.file.name} "
                f"takes {self.image_flow.label_dim}"
            )


def dequantized(data: Tensor, seed: int) -> Tensor:
    """Images ``[N, D]`` of 8 bits, each level spread evenly over its bin, in float64.

    A level is the center of its bin, so the noise is uniform over ``[-1/2, 1/2)`` gray levels. That
    of an image is a function of the seed and of its number alone.
    """
    generator = seeded_generator("cpu", seed, Stream.DEQUANTIZATION)
    noise = torch.rand(data.shape, generator=generator, dtype=torch.float64) - 0.5
    return data.double() + noise.to(data.device) / LEVELS_PER_UNIT
