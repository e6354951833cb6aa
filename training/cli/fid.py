"""Distances between sets of images: the functions behind ``fid.py``."""

import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance, save_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.dataset import ImageDataset, pixel_batches
from training.data.images.stacks import require_gray_or_rgb
from training.files.fid_reference import DISTANCES_FORMAT, REFERENCE, FIDReference
from training.measure import feature_distances as distances
from training.measure.detector import InceptionDetector, find_detector
from training.settings.samples import CalcSettings, MeasuringOptions, RefSettings


def ref(settings: RefSettings) -> None:
    """Measure the features of a data set of images, and write them as an FID reference."""
    began = time.perf_counter()
    dest = settings.dest
    parameters = dest.with_suffix(".json")
    require_dest([dest, parameters], ".npz", settings.run.overwrite)
    dataset = _images(settings.data)
    items = choose_items(dataset, settings.measuring.num, settings.measuring.seed)
    with distributed.process_group(settings.run.device_name) as device:
        detector = InceptionDetector(find_detector(settings.measuring.detector), device)
        require_folder(dest.parent)
        moments, features = measure(dataset, items, detector, settings.measuring, device)
        if not distributed.is_main():
            return
        reference = FIDReference(
            moments.mean.cpu().numpy(),
            moments.covariance.cpu().numpy(),
            features.cpu().numpy(),
            moments.count,
            dataset.image_shape,
            detector.identity,
        )
        reference.save(dest)
        result = {"count": moments.count, "features": len(features)}
        facts = {**result, **described(settings, device, detector, dataset, began)}
        save_json(parameters, {"format": REFERENCE.format, **facts})
        logger.info(f"Wrote {dest} from {moments.count} images")


def _images(path: Path) -> ImageDataset:
    dataset = ImageDataset(path)
    require_gray_or_rgb(dataset.image_shape[0], dataset.value_range, path)
    return dataset


def calc(settings: CalcSettings) -> None:
    """Measure FID and KID of images against a reference, and print them.

    The distances are also written to a JSON file if its path is given.
    """
    began = time.perf_counter()
    dest = settings.dest
    if dest is not None:
        require_dest([dest], ".json", settings.run.overwrite)
    path = settings.reference
    reference = FIDReference.load(path)
    dataset = _images(settings.images)
    reference.require_shape(path, dataset.path, dataset.image_shape)
    items = choose_items(dataset, settings.measuring.num, settings.measuring.seed)
    with distributed.process_group(settings.run.device_name) as device:
        detector = InceptionDetector(find_detector(settings.measuring.detector), device)
        reference.require_detector(path, detector.identity, detector.dim)
        if dest is not None:
            require_folder(dest.parent)
        moments, features = measure(dataset, items, detector, settings.measuring, device)
        if not distributed.is_main():
            return
        result = compare(moments, features, reference, settings.measuring.seed)
        if dest is not None:
            facts = {**result, **described(settings, device, detector, dataset, began)}
            save_json(dest, {"format": DISTANCES_FORMAT, **facts})
        report(result)


def require_dest(paths: list[Path], suffix: str, overwrite: bool) -> None:
    """Check that results can be written to some paths.

    Raises:
        UsageError: A path is not valid, or other results would be lost.
    """
    if paths[0].suffix != suffix:
        raise UsageError(f"--dest is {paths[0]}: give a name that ends in {suffix}")
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: give another --dest")
    require_new(paths, overwrite, "--dest")


def choose_items(dataset: ImageDataset, num: int | None, seed: int) -> Tensor:
    """Choose the images to measure: all, or ``num`` at random, in the order of the data set."""
    available = len(dataset)
    if available < 2:
        raise DataError(f"{dataset.path} has 1 image, but a covariance needs at least two")
    if num is None:
        return torch.arange(available)
    if num > available:
        raise DataError(f"{dataset.path} has {available} images, but --num is {num}: give fewer")
    generator = seeded_generator("cpu", seed, Stream.SCORED_IMAGES)
    return torch.randperm(available, generator=generator)[:num].sort().values


def measure(
    dataset: ImageDataset,
    items: Tensor,
    detector: InceptionDetector,
    how: MeasuringOptions,
    device: torch.device,
) -> tuple[distances.Moments, Tensor]:
    """Compute the mean and covariance of the features of images, over all ranks.

    Returns:
        The moments, and the features that are kept for the KID ``[k, d]``.
    """
    count = len(items)
    generator = seeded_generator("cpu", how.seed, Stream.KEPT_FEATURES)
    chosen = torch.randperm(count, generator=generator)[: how.kid_features].sort().values
    row_of_place = torch.full((count,), -1)
    row_of_place[chosen] = torch.arange(len(chosen))
    kept = torch.zeros(len(chosen), detector.dim, device=device)
    statistics = distances.FeatureStatistics(detector.dim, device)
    share = distributed.shard(count)
    place = share.start
    with distributed.progress_bar(total=share.stop - place, desc="features", unit="image") as bar:
        for pixels in pixel_batches(dataset, items, how.batch, device, how.workers):
            features = detector(pixels)
            statistics.add(features)
            rows = row_of_place[place : place + len(features)].to(device)
            kept[rows[rows >= 0]] = features[rows >= 0]
            place += len(features)
            bar.update(len(features))
    if count <= detector.dim:
        logger.info(
            f"Note: the covariance of {detector.dim} features is singular for {count} "
            "images. FID is biased upward for few images: compare only equal numbers of "
            "images"
        )
    # The rows of other ranks' images are zero here.
    return statistics.moments(), distributed.sum_over_ranks(kept)


def compare(
    moments: distances.Moments, features: Tensor, reference: FIDReference, seed: int
) -> dict[str, Any]:
    """Compute FID and KID relative to a reference, with the numbers of images.

    Subsets measure the variability of the KID, unless each of them is the whole set.
    """
    others = torch.from_numpy(reference.features).to(features.device)
    kid = None
    if min(len(features), len(others)) >= 2:
        varies = max(len(features), len(others)) > min(
            distances.SUBSET_SIZE, len(features), len(others)
        )
        generator = seeded_generator("cpu", seed, Stream.KID_SUBSETS)
        kid = {
            "value": distances.kernel_distance(features, others),
            "features": len(features),
            "reference_features": len(others),
            "over_subsets": asdict(distances.subset_distances(features, others, generator))
            if varies
            else None,
        }
    return {
        "fid": distances.frechet_distance(
            moments.mean.cpu(),
            moments.covariance.cpu(),
            torch.from_numpy(reference.mu),
            torch.from_numpy(reference.sigma),
        ),
        "kid": kid,
        "count": moments.count,
        "reference_count": reference.count,
    }


def report(result: dict[str, Any]) -> None:
    """Print FID, and KID if it was computed."""
    against = result["reference_count"] or "an unknown number"
    logger.info(f"FID {result['fid']:.6g} ({result['count']} images against {against})")
    if result["kid"] is None:
        return
    kid, parts = result["kid"], result["kid"]["over_subsets"]
    text = (
        f"KID x 1000 {1000 * kid['value']:.6g} (features of {kid['features']} images against "
        f"{kid['reference_features']})"
    )
    if parts is not None:
        text += (
            f"; {1000 * parts['mean']:.6g} with standard deviation {1000 * parts['std']:.6g} over "
            f"{parts['subsets']} random subsets of {parts['size']}"
        )
    logger.info(text)


def described(
    settings: RefSettings | CalcSettings,
    device: torch.device,
    detector: InceptionDetector,
    dataset: ImageDataset,
    began: float,
) -> dict[str, Any]:
    """Return the entries that the parameters of both commands share."""
    return {
        "options": settings.recorded(device_name=str(device)),
        "detector": detector.identity,
        "image_shape": list(dataset.image_shape),
        "seconds": round(time.perf_counter() - began, 3),
        "torch_fidelity": version("torch-fidelity"),
        **provenance(),
    }
