"""Reads images into the arrays that are drawn: those of a folder or zip, and worst roundtrips."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import SavedArrays, open_arrays
from training.data.images.containers import image_names, open_container
from training.data.images.dataset import ImageDataset

ERRORS = {
    "indices": "K",
    "mse": "K",
    "mse_float": "K",
    "max_abs_error": "K",
    "all_mse": "N",
    "all_mse_float": "N",
    "all_max_abs_error": "N",
    "all_exact": "N",
}


@dataclass(frozen=True)
class SavedRoundtrips:
    """Errors of N images that were melted and came back, and K of these images, maybe none.

    Attributes:
        path: Their file.
        originals: Pixels ``[K, C, H, W]`` uint8.
        returned: Gray levels before rounding ``[K, C, H, W]``.
        indices: Of the K images in their data set.
        mse: In squared gray levels, of 8-bit images, ``[K]``.
        mse_float: The same before rounding ``[K]``.
        max_abs_error: In gray levels, before rounding, ``[K]``.
        all_mse, all_mse_float, all_max_abs_error: The same of all, ``[N]``.
        all_exact: The share of each image's pixels that came back exactly ``[N]``.
    """

    path: Path
    originals: np.ndarray
    returned: np.ndarray
    indices: np.ndarray
    mse: np.ndarray
    mse_float: np.ndarray
    max_abs_error: np.ndarray
    all_mse: np.ndarray
    all_mse_float: np.ndarray
    all_max_abs_error: np.ndarray
    all_exact: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "SavedRoundtrips":
        """Reads and checks such a file.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            originals, returned = _both(saved, path)
            arrays = {name: saved.numbers(name) for name in ERRORS}
        sizes = {"K": len(originals), "N": arrays["all_mse"].size}
        for name, letter in ERRORS.items():
            if arrays[name].shape != (sizes[letter],):
                raise DataError(
                    f"{path}: '{name}' is {list(arrays[name].shape)}, but should be "
                    f"[{sizes[letter]}]"
                )
            if (arrays[name] < 0).any():
                raise DataError(f"{path}: '{name}' has negative values, which no error is")
        if sizes["N"] < max(sizes["K"], 1):
            raise DataError(
                f"{path} has errors of {sizes['N']} images in 'all_mse', but {sizes['K']} images"
            )
        return cls(path, originals, returned, **arrays)


def holds_roundtrips(names: list[str]) -> bool:
    """Whether an ``.npz`` with arrays of these names holds images that came back."""
    return {"originals", "returned"} <= set(names)


def holds_images(path: Path) -> bool:
    """Whether a zip or folder has images in it, or in folders that are called by numbers.

    Raises:
        DataError: A zip that cannot be read, or with unsafe names.
    """
    container = open_container(path)
    try:
        names = image_names(container)
    finally:
        container.close()
    return any(all(part.isdigit() for part in name.split("/")[:-1]) for name in names)


def first_images(path: Path, count: int) -> tuple[np.ndarray, int]:
    """The first images of a zip or folder, by name, and how many it has in all.

    Returns:
        Pixels ``[n, C, H, W]`` uint8, with n no more than the count; and the number of all.

    Raises:
        DataError: No images, or one that is broken, not square, or of another shape than the first.
    """
    dataset = ImageDataset(path)
    try:
        pixels, _ = dataset.read(range(min(count, len(dataset))))
    finally:
        dataset.close()
    return pixels.numpy(), len(dataset)


def checked_shape(shape: np.ndarray, dim: int, path: Path) -> tuple[int, int, int]:
    """The ``image_shape`` of a results file of D dimensions, ``(C, H, W)``.

    Raises:
        DataError: It is no shape of so many numbers in one or three channels.
    """
    if shape.shape == (3,) and shape.dtype.kind in "iu" and shape.min() > 0:
        channels, height, width = (int(size) for size in shape)
        if channels in (1, 3) and channels * height * width == dim:
            return channels, height, width
    raise DataError(
        f"{path}: 'image_shape' is {shape.tolist()}, but should be [C, H, W] with C 1 or 3, and "
        f"{dim} numbers in all"
    )


def _both(saved: SavedArrays, path: Path) -> tuple[np.ndarray, np.ndarray]:
    originals, returned = saved.numbers("originals"), saved.numbers("returned")
    if originals.ndim != 4 or originals.shape[1] not in (1, 3) or min(originals.shape[2:]) < 1:
        raise DataError(
            f"{path}: 'originals' is {list(originals.shape)}, but should be [images, 1 or 3, "
            "height, width]"
        )
    if originals.dtype != np.uint8:
        raise DataError(f"{path}: 'originals' holds {originals.dtype}, but should hold uint8")
    if returned.shape != originals.shape:
        raise DataError(
            f"{path}: 'returned' is {list(returned.shape)}, but 'originals' "
            f"{list(originals.shape)}: they should be alike"
        )
    return originals, returned.astype(np.float64)
