"""Frechet and kernel Inception distances between sets of images.

ref measures a data set once and writes a reference; calc compares other images with it. Distances
are comparable only between equally many images, of one size, by one detector.
"""

import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import load_arrays, provenance, save_arrays, save_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.batches import ImageDataset, pixel_batches
from training.measure.detector import InceptionDetector, find_detector
from training.measure.frechet import FeatureStatistics, Moments, frechet_distance, require_moments
from training.measure.kernel_distance import kernel_distance, subset_distances
from training.settings.options import device_option, option_group, overwrite_option
from training.settings.script import group, run_script
from training.settings.types import COUNT, FILE, SEED

Arrays = dict[str, np.ndarray]
# Of a reference: kind of numbers and number of dimensions.
REFERENCE_ARRAYS = {
    "mu": ("f", 1),
    "sigma": ("f", 2),
    "features": ("f", 2),
    "count": ("iu", 0),
    "image_shape": ("iu", 1),
    "detector": ("U", 0),
}

AT_LEAST_TWO, NOT_NEGATIVE = click.IntRange(min=2), click.IntRange(min=0)

measuring_options = option_group(
    click.option(
        "--num",
        "--num_images",
        "num",
        type=AT_LEAST_TWO,
        help="Use so many random images. Some versions of torchrun stumble over --num, but not "
        "over --num_images  [default: all]",
    ),
    click.option("--seed", type=SEED, default=0, help="Seed of all that is drawn at random."),
    click.option("--batch", type=COUNT, default=64, help="Images of a rank at a time."),
    click.option(
        "--detector",
        help="Weights of the Inception-v3: a path or an https URL  [default: those of "
        "torch-fidelity, downloaded once]",
    ),
    click.option(
        "--kid_features",
        type=NOT_NEGATIVE,
        default=5000,
        help="Random images whose features the KID is taken of; 0: no KID.",
    ),
    click.option(
        "--workers", type=NOT_NEGATIVE, default=1, help="Processes of a rank that read ahead."
    ),
    device_option,
    overwrite_option,
)


@group(help=__doc__)
def main() -> None:
    pass


@main.command(short_help="Measure a data set and write a reference.")
@click.option("--data", type=FILE, required=True, help="Zip or folder of images.")
@click.option("--dest", type=FILE, required=True, help="The .npz to write.")
@measuring_options
def ref(**options: Any) -> None:
    """Measure a data set and write the reference that other images are compared with."""
    began = time.perf_counter()
    dest: Path = options["dest"]
    parameters = dest.with_suffix(".json")
    require_dest([dest, parameters], ".npz", options["overwrite"])
    dataset = ImageDataset(options["data"])
    items = choose_items(dataset, options["num"], options["seed"])
    with distributed.process_group(options["device_name"]) as device:
        detector = InceptionDetector(find_detector(options["detector"]), device)
        require_folder(dest.parent)
        moments, features = measure(dataset, items, detector, options, device)
        if not distributed.is_main():
            return
        arrays = {
            "mu": moments.mean.cpu().numpy(),
            "sigma": moments.covariance.cpu().numpy(),
            "features": features.cpu().numpy(),
            "count": np.array(moments.count),
            "image_shape": np.array(dataset.image_shape),
            "detector": np.array(detector.identity),
        }
        save_arrays(dest, arrays)
        result = {"count": moments.count, "features": len(features)}
        save_json(parameters, {**result, **described(options, device, detector, dataset, began)})
        logger.info(f"Wrote {dest} of {moments.count} images")


@main.command(short_help="Compare images with a reference.")
@click.option("--images", type=FILE, required=True, help="Zip or folder of images.")
@click.option("--ref", "reference", type=FILE, required=True, help="An .npz that ref wrote.")
@click.option("--dest", type=FILE, help="A .json for the result  [default: print only]")
@measuring_options
def calc(**options: Any) -> None:
    """Compare images with a reference: print the FID, and the KID if the reference has features."""
    began = time.perf_counter()
    dest: Path | None = options["dest"]
    if dest is not None:
        require_dest([dest], ".json", options["overwrite"])
    path: Path = options["reference"]
    reference = load_reference(path)
    dataset = ImageDataset(options["images"])
    require_shape(reference, path, dataset)
    items = choose_items(dataset, options["num"], options["seed"])
    with distributed.process_group(options["device_name"]) as device:
        detector = InceptionDetector(find_detector(options["detector"]), device)
        require_detector(reference, path, detector)
        if dest is not None:
            require_folder(dest.parent)
        moments, features = measure(dataset, items, detector, options, device)
        if not distributed.is_main():
            return
        result = compare(moments, features, reference, options["seed"])
        if dest is not None:
            save_json(dest, {**result, **described(options, device, detector, dataset, began)})
        report(result)


def require_dest(paths: list[Path], suffix: str, overwrite: bool) -> None:
    """Raises UsageError if results cannot be written there, or only by losing others."""
    if paths[0].suffix != suffix:
        raise UsageError(f"--dest is {paths[0]}: its name should end in {suffix}")
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a folder: give another --dest")
    require_new(paths, overwrite, "--dest")


def choose_items(dataset: ImageDataset, num: int | None, seed: int) -> Tensor:
    """Which images are measured: all, or ``num`` at random, in the order of the data set."""
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
    options: dict[str, Any],
    device: torch.device,
) -> tuple[Moments, Tensor]:
    """Moments of the features of all ranks' images, and features kept for the KID, ``[k, d]``."""
    count = len(items)
    generator = seeded_generator("cpu", options["seed"], Stream.KEPT_FEATURES)
    chosen = torch.randperm(count, generator=generator)[: options["kid_features"]].sort().values
    row_of_place = torch.full((count,), -1)
    row_of_place[chosen] = torch.arange(len(chosen))
    kept = torch.zeros(len(chosen), detector.dim, device=device)
    statistics = FeatureStatistics(detector.dim, device)
    share = distributed.shard(count)
    place = share.start
    hidden = None if distributed.is_main() else True
    with tqdm(total=share.stop - place, desc="features", unit="image", disable=hidden) as bar:
        for pixels in pixel_batches(dataset, items, options["batch"], device, options["workers"]):
            features = detector(pixels)
            statistics.add(features)
            rows = row_of_place[place : place + len(features)].to(device)
            kept[rows[rows >= 0]] = features[rows >= 0]
            place += len(features)
            bar.update(len(features))
    if count <= detector.dim:
        logger.info(
            f"Note: {count} images leave the covariance of {detector.dim} features singular. FID "
            "is biased upward by few images: compare it between equal numbers of images only"
        )
    # The rows of other ranks' images are zero here.
    return statistics.moments(), distributed.sum_over_ranks(kept)


def load_reference(path: Path) -> Arrays:
    """The arrays of a reference, checked; all but ``mu`` and ``sigma`` may be missing.

    Raises:
        DataError: The file is missing or broken, or an array is not what it should be.
    """
    arrays = load_arrays(path, ("mu", "sigma"))
    known = {}
    for name, (kinds, ndim) in REFERENCE_ARRAYS.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != ndim:
            kind = f"{array.dtype} {list(array.shape)}"
            raise DataError(f"{path} is not a reference of fid.py: its '{name}' is {kind}")
        known[name] = array.astype(np.float64) if kinds == "f" else array
    require_moments(torch.from_numpy(known["mu"]), torch.from_numpy(known["sigma"]), str(path))
    features, dim = known.get("features", np.empty((0, 0))), len(known["mu"])
    if len(features) and not (features.shape[1] == dim and np.isfinite(features).all()):
        raise DataError(f"{path} has 'features' that are not finite [k, {dim}]: make it again")
    return known


def require_shape(reference: Arrays, path: Path, dataset: ImageDataset) -> None:
    """Raises DataError if images differ in size or channels from those of a reference."""
    if "image_shape" not in reference:
        logger.info(f"{path} does not say of what images it is: taken on trust")
    elif tuple(reference["image_shape"].tolist()) != dataset.image_shape:
        shapes = (dataset.image_shape, reference["image_shape"])
        ours, theirs = ("x".join(str(size) for size in shape) for shape in shapes)
        raise DataError(
            f"{dataset.path} has images of {ours} (channels, height, width), but {path} is of "
            f"{theirs}: compare images of one shape"
        )


def require_detector(reference: Arrays, path: Path, detector: InceptionDetector) -> None:
    """Raises DataError if a reference was made with another detector."""
    dim, made_with = len(reference["mu"]), str(reference.get("detector", ""))
    if dim != detector.dim:
        raise DataError(f"{path} is of {dim} features, but the detector has {detector.dim}")
    if not made_with:
        logger.info(f"{path} does not say which detector made it: taken on trust")
    elif made_with != detector.identity:
        raise DataError(
            f"{path} was made with the detector {made_with[:12]}..., but this is "
            f"{detector.identity[:12]}... (SHA-256): give the same --detector to both"
        )


def compare(moments: Moments, features: Tensor, reference: Arrays, seed: int) -> dict[str, Any]:
    """The distances, and between how many images they are."""
    others = torch.from_numpy(reference.get("features", np.empty((0, 0)))).to(features.device)
    kid = None
    if min(len(features), len(others)) >= 2:
        generator = seeded_generator("cpu", seed, Stream.KID_SUBSETS)
        kid = {
            "value": kernel_distance(features, others),
            "features": len(features),
            "reference_features": len(others),
            "over_subsets": asdict(subset_distances(features, others, generator)),
        }
    return {
        "fid": frechet_distance(
            moments.mean.cpu(),
            moments.covariance.cpu(),
            torch.from_numpy(reference["mu"]),
            torch.from_numpy(reference["sigma"]),
        ),
        "kid": kid,
        "count": moments.count,
        "reference_count": int(reference["count"]) if "count" in reference else None,
    }


def report(result: dict[str, Any]) -> None:
    against = result["reference_count"] or "an unknown number"
    logger.info(f"FID {result['fid']:.6g} ({result['count']} images against {against})")
    if result["kid"] is not None:
        kid, parts = result["kid"], result["kid"]["over_subsets"]
        logger.info(
            f"KID x 1000 {1000 * kid['value']:.6g} (features of {kid['features']} images against "
            f"{kid['reference_features']}); {1000 * parts['mean']:.6g} with standard deviation "
            f"{1000 * parts['std']:.6g} over {parts['subsets']} random subsets of {parts['size']}"
        )


def described(
    options: dict[str, Any],
    device: torch.device,
    detector: InceptionDetector,
    dataset: ImageDataset,
    began: float,
) -> dict[str, Any]:
    """What the parameters of either command have in common."""
    return {
        "options": {**options, "device_name": str(device)},
        "detector": detector.identity,
        "image_shape": list(dataset.image_shape),
        "seconds": round(time.perf_counter() - began, 3),
        "torch_fidelity": version("torch-fidelity"),
        **provenance(),
    }


if __name__ == "__main__":
    run_script(main)
