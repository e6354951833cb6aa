"""Round-trip errors: the files of ``calc_roundtrip_mse.py``.

``{data}_{schedule}_roundtrip_mse_seed{seed}.json`` has all options and, for images,

    mse, mse_float        in squared gray levels, after rounding to 8 bits and before
    max_abs_error         in gray levels
    exact_pixels          a fraction
    rms_error_histogram   over the images

and for tables rms_error and max_abs_error in the coordinates of the flow, where columns have unit
variance, and columns, rms and max_abs of each in its own units. ``..._worst.npz`` has the K worst
of N images:

    originals             [K, C, H, W], uint8
    returned              [K, C, H, W], float32, gray levels before rounding
    latents               [K, D]
    indices               [K], of the images in their data set
    mse, mse_float, max_abs_error, exact   [K], errors of these
    all_mse, ...          [N], errors of all images
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.results import open_arrays, save_arrays, save_json
from training.files.arrays import CheckedArrays, title_of
from training.measure.roundtrip import RoundtripErrors

FORMAT = "inflationary-flows roundtrip errors 1"
ROWS_FORMAT = "inflationary-flows roundtrip errors of rows 1"
WORST_FORMAT = "inflationary-flows worst roundtrips 1"
ERROR_NAMES = ("mse", "mse_float", "max_abs_error", "exact")
"""Names of the columns of ``RoundtripErrors``."""
BIN_EDGES = torch.logspace(-6, 3, 46, dtype=torch.float64)
"""Edges of the histogram of errors, in gray levels: five per decade, the same for every run."""


SHAPES = {
    "indices": "K",
    "mse": "K",
    "mse_float": "K",
    "max_abs_error": "K",
    "all_mse": "N",
    "all_mse_float": "N",
    "all_max_abs_error": "N",
    "all_exact": "N",
}
"""Shapes of the arrays of errors, one letter per axis: K stored images, N images in total."""
STEM = re.compile(r"(?P<stem>.+?)(_roundtrip_mse)?(_seed\d+)?_worst")


def roundtrip_paths(folder: Path, stem: str, seed: int) -> tuple[Path, Path]:
    """Return the paths of the JSON and the ``.npz`` of round-trip errors.

    Args:
        folder: Folder of the files.
        stem: Name of the data and the schedule.
        seed: Random seed for the choice of images.
    """
    name = f"{stem}_roundtrip_mse_seed{seed}"
    return folder / f"{name}.json", folder / f"{name}_worst.npz"


def save_worst(
    path: Path,
    errors: RoundtripErrors,
    worst: Mapping[str, Tensor],
    image_shape: tuple[int, int, int],
) -> None:
    """Write the images with the largest round-trip errors, and the errors of all images.

    Args:
        path: Path of the ``.npz``.
        errors: Errors of all images.
        worst: Arrays ``[k, ...]`` of the k images with the largest errors: ``indices``,
            ``originals``, ``returned``, ``latents``, ``columns`` (their errors) and optionally
            ``labels``.
        image_shape: Shape ``(C, H, W)`` of the images.
    """
    arrays = {**worst, "image_shape": torch.tensor(image_shape)}
    columns = zip(arrays.pop("columns").unbind(1), errors.columns().unbind(1), strict=True)
    for name, (kept, column) in zip(ERROR_NAMES, columns, strict=True):
        arrays |= {name: kept, f"all_{name}": column}
    plain = {name: tensor.numpy() for name, tensor in arrays.items()}
    save_arrays(path, {**plain, "format": np.array(WORST_FORMAT)})


def save_errors(path: Path, errors: RoundtripErrors, about: Mapping[str, Any]) -> None:
    """Write the JSON of round-trip errors: means, histogram and metadata."""
    summary = {**errors.summary(), "rms_error_histogram": histogram(errors.mse_float.sqrt())}
    save_json(path, {"format": FORMAT, **summary, **about})


def histogram(values: Tensor) -> dict[str, Any]:
    """Count the values ``[N]`` in each bin between ``BIN_EDGES``, below all bins, and above.

    A value on an edge belongs to the bin above that edge; zeros are below all bins.
    """
    places = torch.bucketize(values, BIN_EDGES, right=True)
    below, *counts, above = places.bincount(minlength=len(BIN_EDGES) + 1).tolist()
    edges = BIN_EDGES.tolist()
    return {"unit": "gray levels", "edges": edges, "counts": counts, "below": below, "above": above}


@dataclass(frozen=True)
class SavedRoundtrips:
    """Saved round-trip errors of N images, with the K images that have the largest errors.

    Attributes:
        path: Path of the file.
        originals: The K images before the round trip ``[K, C, H, W]``, uint8.
        returned: The K images after the round trip ``[K, C, H, W]``, in gray levels, unrounded.
        indices: Indices of the K images in their data set.
        mse: Mean squared errors ``[K]`` after rounding to 8 bits, in squared gray levels.
        mse_float: Mean squared errors ``[K]`` before rounding.
        max_abs_error: Largest absolute errors ``[K]``, in gray levels.
        all_mse: As ``mse``, of all images ``[N]``.
        all_mse_float: As ``mse_float``, of all images ``[N]``.
        all_max_abs_error: As ``max_abs_error``, of all images ``[N]``.
        all_exact: Fractions of pixels that are recovered exactly ``[N]``.
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
        """Read and check a file of round-trip errors.

        Raises:
            DataError: The file is missing or broken, an array is missing or has a wrong shape, or a
                value is out of range.
        """
        with open_arrays(path) as saved:
            originals, arrays = saved.numbers("originals"), CheckedArrays(saved, path)
            if originals.dtype != np.uint8:
                raise DataError(
                    f"{path}: 'originals' contains {originals.dtype}, expected uint8: make the "
                    "file again"
                )
            for name in ("originals", "returned"):
                pixels = arrays.read(name, "KCHW", least=0)
            if pixels.shape[1] not in (1, 3) or min(pixels.shape[2:]) < 1:
                raise DataError(
                    f"{path}: 'originals' has shape {list(pixels.shape)}, expected "
                    "[images, 1 or 3, height, width]: make the file again"
                )
            errors = {
                name: arrays.read(name, axes, least=0, largest=math.inf)
                for name, axes in SHAPES.items()
            }
        for name, values in errors.items():
            if (values < 0).any():
                raise DataError(
                    f"{path}: '{name}' has negative values, but errors cannot be negative: make "
                    "the file again"
                )
        kept, count = len(originals), len(errors["all_mse"])
        if count < max(kept, 1):
            raise DataError(
                f"{path} contains {kept} images, but 'all_mse' has errors of only {count}: make "
                "the file again"
            )
        return cls(path, originals, pixels, **errors)

    @property
    def name(self) -> str:
        """Name of the data and the simulation, from the file name."""
        match = STEM.fullmatch(self.path.stem)
        stem = match["stem"] if match else self.path.stem
        return ": ".join(word for word in title_of(stem) if word)
