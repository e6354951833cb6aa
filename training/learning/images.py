"""What a training on images needs of its data set before it starts, and when it ends."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from training.data.augment import GeometricAugmentation, augmented_points
from training.data.batches import Batch
from training.data.images.batches import ImageDataset, basis_batches, normalize_pixels
from training.flow.eigenbasis import EigenBasis

DRY_RUN_IMAGES = 1000
VARIANCE_IMAGES = 10_000
# Each costs 33 network calls, together about as much as training on 11,000; the error of a slope
# is about one over their square root.
CALIBRATION_POINTS = 1000


def fit_basis(
    dataset: ImageDataset,
    options: dict[str, Any],
    augmentation: GeometricAugmentation | None,
    device: torch.device,
) -> tuple[EigenBasis, Tensor | None]:
    """The eigenbasis of the images (of a few, if the options are only looked at).

    Returns:
        The basis, and along its axes the variance of augmented images, if any are.
    """
    limit = options["batch_pca"] or len(dataset)
    limit = min(limit, DRY_RUN_IMAGES if options["dry_run"] else len(dataset))
    logger.info(f"Fitting the eigenbasis of {limit} images")
    basis = EigenBasis.fit(basis_batches(dataset, limit, device=device))
    if augmentation is None:
        return basis.cpu(), None
    total = min(limit, VARIANCE_IMAGES)
    images = basis_batches(dataset, total, device=device)
    shape, seed = dataset.image_shape, options["seed"]
    variance = basis.second_moments(augmented_points(images, augmentation, shape, total, seed))
    return basis.cpu(), variance.cpu()


def open_calibration_data(dataset: ImageDataset, options: dict[str, Any]) -> ImageDataset:
    """What the calibration is fitted to: other images of the kind of the data set, or itself.

    Raises:
        UsageError: Images are given, but no calibration is to be made.
        DataError: They differ in shape or labels.
    """
    if options["calibration_data"] is None:
        return dataset
    if not options["calibrate"]:
        raise UsageError("--calibration_data is given, but there is no calibration: leave it out")
    other = ImageDataset(Path(options["calibration_data"]), use_labels=options["cond"])
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
    generator = seeded_generator("cpu", 0)
    chosen = torch.randperm(len(dataset), generator=generator)[:CALIBRATION_POINTS]
    pixels, labels = dataset.read(chosen[distributed.shard(len(chosen))].tolist())
    points = normalize_pixels(pixels).flatten(1)
    return Batch(points, labels if dataset.has_labels else None)
