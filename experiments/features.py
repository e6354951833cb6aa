"""A small classifier, whose features images are compared by where there are no Inception weights.

It tells the classes of a data set apart: digits the ten of them, others those of their labels. The
classes of patches are which way their edges run, in eighths of half a turn, times the photograph
that they are from. The features are what its last hidden layer has, 32 numbers.
"""

from math import pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.two_sample import mean_distance
from torch_utils.results import open_arrays, save_arrays
from training.data.images.dataset import ImageDataset, normalize_pixels
from training.measure.feature_distances import FeatureStatistics, Moments, frechet_distance

FEATURES, CHANNELS, BATCH, RATE = 32, (16, 32, 32), 128, 2e-3
SECTORS = 8
CHUNK = 1000


class Classifier(nn.Module):
    """Convolutions, a layer of features, and one of classes.

    Args:
        shape: ``(C, H, W)`` of images.
        classes: Number of classes.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int):
        super().__init__()
        first, *others = CHANNELS
        layers: list[nn.Module] = [nn.Conv2d(shape[0], first, 3, padding=1), nn.ReLU()]
        before, side = first, shape[1]
        for channels in others:
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.ReLU()]
            before, side = channels, (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(before * side**2, FEATURES), nn.ReLU()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of images ``[n, C, H, W]`` from -1 to 1."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @torch.no_grad()
    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Features ``[n, 32]`` of pixels ``[n, C, H, W]`` uint8."""
        parts = torch.split(pixels, CHUNK)
        return torch.cat([self.features(normalize_pixels(part)) for part in parts])

    @torch.no_grad()
    def accuracy(self, pixels: Tensor, labels: Tensor) -> float:
        """The share of pixels ``[n, C, H, W]`` whose classes ``[n]`` it finds."""
        parts = torch.split(pixels, CHUNK)
        told = torch.cat([self(normalize_pixels(part)).argmax(dim=1) for part in parts])
        return float((told == labels).double().mean())

    def save(self, path: Path) -> None:
        """Writes its weights, as an ``.npz``."""
        save_arrays(path, {name: value.numpy() for name, value in self.state_dict().items()})

    @classmethod
    def load(cls, path: Path, shape: tuple[int, int, int]) -> "Classifier":
        """Opens such a file. Raises DataError if it is broken."""
        with open_arrays(path) as saved:
            arrays = {name: torch.from_numpy(np.array(saved.read(name))) for name in saved.names}
        classifier = cls(shape, len(arrays["head.bias"]))
        classifier.load_state_dict(arrays)
        return classifier.eval()

    @classmethod
    def trained(cls, pixels: Tensor, labels: Tensor, steps: int) -> "Classifier":
        """One that has seen pixels ``[n, C, H, W]`` of classes ``[n]``, always the same way."""
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            classifier = cls(shape_of(pixels), int(labels.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=RATE)
        for _ in range(steps):
            chosen = torch.randint(len(pixels), (BATCH,), generator=generator)
            logits = classifier(normalize_pixels(pixels[chosen]))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return classifier.eval().requires_grad_(False)


def shape_of(pixels: Tensor) -> tuple[int, int, int]:
    """``(C, H, W)`` of images ``[n, C, H, W]``."""
    _, channels, height, width = pixels.shape
    return channels, height, width


def pixels_and_classes(path: Path, patches: bool) -> tuple[Tensor, Tensor]:
    """All pixels ``[n, C, H, W]`` uint8 of a data set, and their classes ``[n]``.

    Args:
        path: The zip or folder.
        patches: Whether they are patches of photographs.

    Raises:
        DataError: It has no labels, or cannot be read.
    """
    data = ImageDataset(path, use_labels=True)
    pixels, labels = data.read(range(len(data)))
    classes = labels.argmax(dim=1)
    return pixels, classes * SECTORS + orientations(pixels) if patches else classes


def orientations(pixels: Tensor) -> Tensor:
    """Which way edges run in pixels ``[n, C, H, W]``: eighths ``[n]`` of half a turn.

    By the structure tensor: ``angle = atan2(2 E[gx gy], E[gx^2 - gy^2]) / 2`` is where the
    gradients ``g`` point, up to their sign.
    """
    gray = pixels.double().mean(dim=1)
    across, down = gray[:, :-1, 1:] - gray[:, :-1, :-1], gray[:, 1:, :-1] - gray[:, :-1, :-1]
    mixed = 2 * (across * down).sum(dim=(1, 2))
    angle = torch.atan2(mixed, (across.square() - down.square()).sum(dim=(1, 2))) / 2
    return ((angle / pi + 0.5) * SECTORS).long().clamp(0, SECTORS - 1)


def frechet(first: Tensor, data: Tensor) -> float:
    """The squared Frechet distance of features ``[n, d]`` from those of data ``[m, d]``.

    In shares of the variance of the data's features, so that it is 1 of what has the right variance
    around a mean that is one standard deviation off.
    """
    one, other = _moments(first), _moments(data)
    apart = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    return apart / float(other.covariance.trace())


def _moments(features: Tensor) -> Moments:
    statistics = FeatureStatistics(features.shape[1])
    statistics.add(features)
    return statistics.moments()


def energy(first: Tensor, second: Tensor) -> float:
    """The energy distance of two samples ``[n, D]`` and ``[m, D]``, right on average.

    Without the distance of a point from itself: 0 on average for samples of one law, however few
    they are, and so negative at times.
    """
    inner = sum(mean_distance(x, x) * len(x) / (len(x) - 1) for x in (first, second))
    return 2 * mean_distance(first, second) - inner
