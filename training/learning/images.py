"""What a training on images needs of its data set before it starts, and when it ends."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from training.data.augment import GeometricAugmentation, augmented_points
from training.data.batches import Batch
from training.data.images.batches import ImageDataset, basis_batches, normalize_pixels
from training.flow.eigenbasis import EigenBasis
from training.names import IMAGES

DRY_RUN_IMAGES = 1000
VARIANCE_IMAGES = 10_000
# Each costs 33 network calls, together about as much as training on 11,000; the error of a slope
# is about one over their square root.
CALIBRATION_POINTS = 1000
MOST_MELTED = 10_000


def about_images(dataset: ImageDataset) -> dict[str, Any]:
    """What a network says of the images that it was trained on."""
    return {
        "kind": IMAGES,
        "data_name": dataset.name,
        "image_shape": list(dataset.image_shape),
        "label_dim": dataset.label_dim,
    }


def fit_basis(
    dataset: ImageDataset,
    limit: int,
    augmentation: GeometricAugmentation | None,
    seed: int,
    device: torch.device,
) -> tuple[EigenBasis, Tensor | None]:
    """The eigenbasis of the images.

    Args:
        dataset: The images.
        limit: How many of them to take at most.
        augmentation: The augmentation of the training, if there is one.
        seed: Seed of the augmentation.
        device: Where to compute.

    Returns:
        The basis, and along its axes the variance of augmented images, if any are.
    """
    limit = min(limit, len(dataset))
    logger.info(f"Fitting the eigenbasis of {limit} images")
    basis = EigenBasis.fit(basis_batches(dataset, limit, device=device))
    if augmentation is None:
        return basis.cpu(), None
    total = min(limit, VARIANCE_IMAGES)
    images = basis_batches(dataset, total, device=device)
    shape = dataset.image_shape
    variance = basis.second_moments(augmented_points(images, augmentation, shape, total, seed))
    return basis.cpu(), variance.cpu()


def open_alike(path: Path, dataset: ImageDataset, use_labels: bool) -> ImageDataset:
    """Other images of the kind of a data set.

    Raises:
        DataError: They differ in shape or labels.
    """
    other = ImageDataset(path, use_labels=use_labels)
    for what in ("image_shape", "label_dim"):
        mine, theirs = getattr(dataset, what), getattr(other, what)
        if mine != theirs:
            raise DataError(
                f"{other.path} has {what} {theirs}, but {dataset.path} has {mine}: give images of "
                "the same kind"
            )
    return other


def calibration_points(dataset: ImageDataset) -> Batch:
    """This rank's share of some images, always the same, as they are, with their labels."""
    chosen = _some(dataset, CALIBRATION_POINTS)
    return _read(dataset, chosen[distributed.shard(len(chosen))])


def melted_images(dataset: ImageDataset, count: int) -> Batch:
    """So many images to melt, or all if they are fewer, the same on all ranks."""
    return _read(dataset, _some(dataset, min(count, MOST_MELTED)))


def _some(dataset: ImageDataset, count: int) -> Tensor:
    """The numbers of so many images, always the same."""
    return torch.randperm(len(dataset), generator=seeded_generator("cpu", 0))[:count]


def _read(dataset: ImageDataset, chosen: Tensor) -> Batch:
    pixels, labels = dataset.read(chosen.tolist())
    points = normalize_pixels(pixels).flatten(1)
    return Batch(points, labels if dataset.has_labels else None)
