"""Round-trip errors: the files of ``calc_roundtrip_mse.py``.

``{data}_{schedule}_roundtrip_mse_seed{seed}.json`` has all options and, for images,

    mse, mse_float        in squared gray levels, after rounding to 8 bits and before
    max_abs_error         in gray levels
    exact_pixels          a fraction
    rms_error_histogram   over the images

and for tables rms_error and max_abs_error in the coordinates of the flow, where columns have unit
variance, and columns, rms and max_abs of each in its own units.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.results import save_json
from training.files.arrays import title_of
from training.files.declared import BYTE, LARGEST, STORED, WHOLE, Format, Key, ResultFile
from training.measure.roundtrip import RoundtripErrors

FORMAT = "inflationary-flows roundtrip errors 1"
ROWS_FORMAT = "inflationary-flows roundtrip errors of rows 1"
ERRORS = {
    "mse": "mean squared errors after rounding to 8 bits, in squared gray levels",
    "mse_float": "mean squared errors before rounding",
    "max_abs_error": "largest absolute errors, in gray levels",
    "exact": "fractions of pixels that are recovered exactly",
}
"""Meaning of the columns of ``RoundtripErrors`` by name."""
BIN_EDGES = torch.logspace(-6, 3, 46, dtype=torch.float64)
"""Edges of the histogram of errors, in gray levels: five per decade, the same for every run."""
WORST = ResultFile(
    kind="worst roundtrips",
    name="{stem}_roundtrip_mse_seed{seed}_worst.npz",
    sizes="the K images with the largest errors, of N images with D pixels",
    keys={
        "originals": Key("K C H W", "images before the round trip", BYTE),
        "returned": Key("K C H W", "images after it, in gray levels, unrounded", high=LARGEST),
        "latents": Key("K D", "latents of these images", STORED, optional=True),
        "indices": Key("K", "indices of the images in their data set", low=0),
        "labels": Key("K ...", "labels of the images", STORED, optional=True),
        "image_shape": Key("3", "channels, height, width", WHOLE, optional=True),
        **{name: Key("K", f"{meaning} of these images", low=0) for name, meaning in ERRORS.items()},
        **{
            f"all_{name}": Key("N", f"{meaning} of all images", low=0)
            for name, meaning in ERRORS.items()
        },
    },
    least={"K": 0},
)
FORMATS = {"worst roundtrips": Format("errors of roundtrips", "images.content_of_roundtrips")}
STEM = re.compile(r"(?P<stem>.+?)(_roundtrip_mse)?(_seed\d+)?_worst")


def roundtrip_paths(folder: Path, stem: str, seed: int) -> tuple[Path, Path]:
    """Return the paths of the JSON and the ``.npz`` of round-trip errors.

    Args:
        folder: Folder of the files.
        stem: Name of the data and the schedule.
        seed: Random seed for the choice of images.
    """
    worst = WORST.path(folder, stem=stem, seed=seed)
    return worst.with_name(f"{worst.stem.removesuffix('_worst')}.json"), worst


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
    for name, (kept, column) in zip(ERRORS, columns, strict=True):
        arrays |= {name: kept, f"all_{name}": column}
    WORST.save(path, arrays)


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

    The attributes are ``path``, the path of the file, and arrays of ``WORST``.
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
        arrays = WORST.load(path)
        shape, count = arrays["originals"].shape, len(arrays["all_mse"])
        if shape[1] not in (1, 3):
            raise DataError(
                f"{path}: 'originals' has shape {list(shape)}, expected [images, 1 or 3, height, "
                "width]: make the file again"
            )
        if count < shape[0]:
            raise DataError(
                f"{path} contains {shape[0]} images, but 'all_mse' has errors of only {count}: "
                "make the file again"
            )
        return cls(path, **{each.name: arrays[each.name] for each in fields(cls)[1:]})

    @property
    def name(self) -> str:
        """Name of the data and the simulation, from the file name."""
        match = STEM.fullmatch(self.path.stem)
        stem = match["stem"] if match else self.path.stem
        return ": ".join(word for word in title_of(stem) if word)
