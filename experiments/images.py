"""Images: quality of samples and round trips by the dimensions that a flow keeps, and by its gap.

Data are the digits of scikit-learn, and patches of its two photographs. Networks are small and
their trainings short. Samples are compared with the training images by the energy distance of
pixels, and by the Fréchet distance of the features of a small classifier, which stands for that of
Inception. Classes are the digits; those of patches are the direction of their edges, in eighths of
half a turn, and their photograph.
"""

from dataclasses import dataclass
from functools import cache
from math import pi
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.lab import energy, generator, trained
from training import Images, InflationSchedule, Model
from training.data.images.dataset import normalize_pixels
from training.data.sources.formats import Source, open_source
from training.flow.eigenbasis import EigenBasis
from training.measure.feature_distances import FeatureStatistics, frechet_distance
from training.measure.roundtrip import RoundtripErrors

GAP, GAPS = 1.02, (1.10, 1.25, 1.35, 1.50)
"""Inflation gap of the paper's main experiments, and larger ones."""
EDM = "edm"
"""Name of the isotropic model that is trained with the same network and budget."""
FEATURES, CHANNELS, BATCH, RATE, STEPS = 32, (16, 32, 32), 128, 2e-3, 1500
SECTORS, MOST_COMPARED, BLOCK = 8, 2000, 64
GENERATION = (24, "exp_ab2")
"""Steps and solver of generation; a step is one network evaluation."""
SMALL: dict[str, Any] = {
    **{"cbase": 16, "augment": 0, "batch": 64, "calibrate": False, "precision": "fp32"},
    **{"cache": True, "workers": 0},
}


@dataclass(frozen=True)
class Plan:
    """A data set and the sizes of its experiments.

    Attributes:
        train, held_out: Arguments of ``open_source``.
        kept: Numbers of kept dimensions, of which the last is all.
        options: Options of ``train.py``.
        generated: Number of generated images per network.
        returned: Number of images, and of steps of ``exp_rk5``, of a round trip.
    """

    train: tuple[str, int | None]
    held_out: tuple[str, int | None]
    kept: tuple[int, ...]
    options: dict[str, Any]
    generated: int
    returned: tuple[int, int]


PLANS = {
    "digits": Plan(
        ("digits", 1500), ("digits", None), (1, 2, 10, 32, 64),
        {**SMALL, "cres": "1,2", "duration": 0.012}, 400, (48, 20),
    ),
    "patches": Plan(
        ("patches", 6000), ("patches:held-out", 2000), (2, 768),
        {**SMALL, "cres": "1,2,2", "duration": 0.002}, 144, (16, 80),
    ),
}  # fmt: skip


class Classifier(nn.Module):
    """Convolutions, a layer of features, and one of classes.

    Args:
        shape: ``(C, H, W)`` of images.
        classes: Number of classes.
    """

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        first, *others = CHANNELS
        layers: list[nn.Module] = [nn.Conv2d(shape[0], first, 3, padding=1), nn.ReLU()]
        before, side = first, shape[1]
        for channels in others:
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.ReLU()]
            before, side = channels, (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(before * side**2, FEATURES), nn.ReLU()]
        self.features, self.head = nn.Sequential(*layers), nn.Linear(FEATURES, classes)

    @classmethod
    def trained(cls, pixels: Tensor, classes: Tensor, steps: int = STEPS) -> "Classifier":
        """Train on pixels ``[n, C, H, W]`` uint8 of classes ``[n]``, with fixed seeds."""
        draw = generator(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            classifier = cls(tuple(pixels.shape[1:]), int(classes.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=RATE)
        for _ in range(steps):
            chosen = torch.randint(len(pixels), (BATCH,), generator=draw)
            features = classifier.features(normalize_pixels(pixels[chosen]))
            loss = F.cross_entropy(classifier.head(features), classes[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return classifier.eval().requires_grad_(False)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Return the features ``[n, 32]`` of pixels ``[n, C, H, W]`` uint8."""
        return torch.cat(
            [self.features(normalize_pixels(part)) for part in torch.split(pixels, 1000)]
        )

    def accuracy(self, pixels: Tensor, classes: Tensor) -> float:
        """Return the share of pixels whose classes ``[n]`` it finds."""
        found = self.head(self.of_pixels(pixels)).argmax(dim=1)
        return float((found == classes).double().mean())


def read(source: Source, first: int, last: int | None) -> tuple[Tensor, Tensor]:
    """Return pixels ``[n, C, H, W]`` uint8 and classes ``[n]`` of a part of a source."""
    images = list(source.images)[first:last]
    pixels = torch.from_numpy(np.stack([each.read() for each in images])).permute(0, 3, 1, 2)
    classes = torch.tensor([int(np.asarray(each.label)) for each in images])
    colors = pixels.shape[1] > 1
    return pixels, classes * SECTORS + orientations(pixels) if colors else classes


def orientations(pixels: Tensor) -> Tensor:
    """Return the directions of edges in pixels ``[n, C, H, W]``: eighths ``[n]`` of half a turn.

    By the structure tensor: ``angle = atan2(2 E[gx gy], E[gx^2 - gy^2]) / 2`` is the direction of
    the gradients ``g``, up to their sign.
    """
    gray = pixels.double().mean(dim=1)
    across, down = gray[:, :-1, 1:] - gray[:, :-1, :-1], gray[:, 1:, :-1] - gray[:, :-1, :-1]
    mixed = 2 * (across * down).sum(dim=(1, 2))
    angle = torch.atan2(mixed, (across.square() - down.square()).sum(dim=(1, 2))) / 2
    return ((angle / pi + 0.5) * SECTORS).long().clamp(0, SECTORS - 1)


def frechet(first: Tensor, data: Tensor) -> float:
    """Return the squared Fréchet distance of features ``[n, d]`` from those of data ``[m, d]``.

    It is a fraction of the variance of the data's features.
    """
    moments = []
    for features in (first, data):
        statistics = FeatureStatistics(features.shape[1])
        statistics.add(features)
        moments.append(statistics.moments())
    one, other = moments
    apart = frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
    return apart / float(other.covariance.trace())


class Judge:
    """Images of a data set, and what samples are compared by.

    Attributes:
        plan: The data set.
        pixels: Training images ``[n, C, H, W]`` uint8.
        others: Held-out images.
        accuracy: Accuracy of the classifier on held-out images.
        basis: Eigenbasis of the training images.
    """

    def __init__(self, name: str):
        self.plan = plan = PLANS[name]
        (source, count), (other, most) = plan.train, plan.held_out
        self.pixels, classes = read(open_source(source, count=count), 0, count)
        first = count if other == source else 0
        self.others, known = read(open_source(other, count=most), first or 0, most)
        self._classifier = Classifier.trained(self.pixels, classes)
        self._features = self._classifier.of_pixels(self.pixels)
        self.accuracy = self._classifier.accuracy(self.others, known)
        points = normalize_pixels(self.pixels).flatten(1).double()
        self.basis = EigenBasis.from_moments(points.mean(dim=0), torch.cov(points.T, correction=0))

    def distances(self, pixels: Tensor) -> dict[str, float]:
        """Return the distances of images ``[n, C, H, W]`` uint8 from the training images."""
        both = (each[:MOST_COMPARED] for each in (pixels, self.pixels))
        first, data = (normalize_pixels(each).flatten(1) for each in both)
        features = self._classifier.of_pixels(pixels)
        return {"energy": energy(first, data), "frechet": frechet(features, self._features)}

    def train(self, kept: int | str, gap: float, seed: int) -> Model:
        """Train a flow that keeps some dimensions, or an isotropic model."""
        options = {**self.plan.options, "seed": seed}
        if kept == EDM:
            options["precond"] = EDM
        else:
            dim = self.basis.dim
            whole = InflationSchedule.to_dimension(dim, dim, top_variance=self.basis.top_variance)
            # A tenth of the variance of the top dimension is data if it is compressed at GAP.
            options |= {"dims_to_keep": kept, "tmax": round(whole.default_t_max() / (2 - GAP), 2)}
        if kept not in (EDM, self.basis.dim):
            options |= {"g_type": "constant_inflation_gap", "inflation_gap": gap}
        model = Images(self.pixels.permute(0, 2, 3, 1).numpy()).train(**options)
        model.learned = None  # the paper's latents are Gaussian
        return model


judge_of = cache(Judge)


def network(name: str, kept: int | str, gap: float, seed: int) -> Model:
    """Return the network of a data set."""
    key = f"{name}-{kept}-{gap:g}-{seed}"
    return trained(key, lambda: judge_of(name).train(kept, gap, seed))


def held_out(name: str) -> dict[str, float]:
    """Return the distances of held-out images, the best that samples can reach."""
    judge = judge_of(name)
    order = torch.randperm(len(judge.others), generator=generator(0))
    chosen = judge.others[order[: judge.plan.generated]]
    return {**judge.distances(chosen), "accuracy": judge.accuracy}


def quality(name: str, kept: int | str, gap: float, seed: int) -> dict[str, float]:
    """Return the distances of generated images, and the errors of a round trip of held-out ones.

    Errors are mean squared errors in squared gray levels: ``mse`` after rounding.
    """
    judge = judge_of(name)
    flow = network(name, kept, gap, seed).flow.in_blocks(BLOCK)
    steps, solver = GENERATION
    latents = flow.latent.sample(judge.plan.generated, generator(seed, 1))
    points = flow.decode(latents, flow.times(steps), solver)
    pixels = (127.5 * (points + 1)).round().clamp(0, 255).to(torch.uint8)
    count, steps = judge.plan.returned
    images = judge.others[:count]
    points, times = normalize_pixels(images).flatten(1).double(), flow.times(steps)
    back = flow.decode(flow.encode(points, times, "exp_rk5"), times, "exp_rk5")
    errors = RoundtripErrors.from_images(images.flatten(1), back).summary()
    figures = judge.distances(pixels.reshape(-1, *images.shape[1:]))
    return {**figures, "mse": errors["mse"], "mse_float": errors["mse_float"]}
