"""Stacks of images as arrays ``[N, H, W, C]``, with a range of values in the data's own units.

A stack holds images of any height and width, with 1 to 16 channels, as 8-bit or 16-bit integers or
floats. In an ``.npz`` it has the arrays

    images    images [N, H, W, C], or [N, H, W] for one channel
    range     the two values that networks see as -1 and 1, such as 0 and 65535
    labels    classes [N], whole numbers from 0; optional

The range of 8-bit and 16-bit integers is all of their values unless it is given. Floats need one.
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.results import load_array, load_arrays, open_array, open_arrays, save_arrays

MOST_CHANNELS = 16
GRAY_RANGE = (0.0, 255.0)
"""Range of 8-bit images."""
RANGES = {"uint8": GRAY_RANGE, "uint16": (0.0, 65535.0)}
"""Ranges of integers."""
STACKED = "images"
"""Name of the array of images in a file."""


@dataclass(frozen=True, eq=False)
class ImageStack:
    """Images in memory.

    Attributes:
        images: Images ``[N, C, H, W]``: uint8, or float32 in the data's units.
        value_range: Values that networks see as -1 and 1.
        labels: Classes ``[N]``; None for none.
    """

    images: Tensor
    value_range: tuple[float, float] = GRAY_RANGE
    labels: Tensor | None = None

    @classmethod
    def of_array(
        cls, array: Any, value_range: Any = None, labels: Any = None, where: str = "images"
    ) -> "ImageStack":
        """Return a stack of an array or a tensor ``[N, H, W]`` or ``[N, H, W, C]``.

        Args:
            array: Images of 8-bit or 16-bit integers or floats.
            value_range: Lower and upper end of the values; None for all values of the integers.
            labels: Classes ``[N]``; None for none.
            where: Name of the images in error messages.

        Raises:
            DataError: The array is no stack of images, has values that are not finite or beyond the
                range, or the range or the labels do not fit.
        """
        values = _image_array(array.detach().cpu() if isinstance(array, Tensor) else array, where)
        ends = RANGES.get(values.dtype.name) if value_range is None else value_range
        if ends is None:
            raise DataError(f"{where} has values of {values.dtype}: give their range (value_range)")
        low, high = checked_range(np.asarray(ends).tolist(), where)
        # The comparison is false for NaN.
        if not (low <= values.min() and values.max() <= high):
            raise DataError(
                f"{where} has values from {values.min():g} to {values.max():g}, beyond the range "
                f"from {low:g} to {high:g}: give a larger range (value_range), or repair them"
            )
        if values.dtype.name != "uint8" or (low, high) != GRAY_RANGE:
            values = values.astype(np.float32)
        return cls(_channels_first(values), (low, high), _classes(labels, len(values), where))

    def __str__(self) -> str:
        return "images in memory"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @classmethod
    def load(cls, path: Path, value_range: Any = None) -> "ImageStack":
        """Load a stack from ``.npy``, or from ``.npz`` with the arrays of this module.

        Raises:
            DataError: The file is broken or holds no stack.
        """
        if path.suffix.lower() == ".npy":
            return cls.of_array(load_array(path), value_range, None, str(path))
        arrays = load_arrays(path, [STACKED])
        ends = arrays.get("range") if value_range is None else value_range
        return cls.of_array(arrays[STACKED], ends, arrays.get("labels"), str(path))

    def save(self, path: Path) -> None:
        """Write the stack to an ``.npz``, atomically."""
        arrays = {
            STACKED: self.images.permute(0, 2, 3, 1).contiguous().numpy(),
            "range": np.array(self.value_range),
        }
        labels = {} if self.labels is None else {"labels": self.labels.numpy()}
        save_arrays(path, arrays | labels)


def checked_range(ends: object, where: object) -> tuple[float, float]:
    """Return the two ends of a range of values after a check.

    Raises:
        DataError: The ends are not two increasing numbers.
    """
    numbers = ends if isinstance(ends, list | tuple) else ()
    plain = len(numbers) == 2 and all(type(end) in (int, float) for end in numbers)
    if not plain or not -inf < numbers[0] < numbers[1] < inf:
        raise DataError(f"the range of {where} is {ends}: give two increasing numbers")
    return float(numbers[0]), float(numbers[1])


def require_gray_or_rgb(channels: int, value_range: tuple[float, float], where: object) -> None:
    """Check that images can be PNGs of 8 bits, as features and FID need.

    Raises:
        DataError: The images have other channels or another range.
    """
    if channels not in (1, 3) or value_range != GRAY_RANGE:
        low, high = value_range
        raise DataError(
            f"{where} has images with {channels} channel(s) and values from {low:g} to {high:g}, "
            "but this needs 8-bit gray or RGB images: for others use pfODE_int.py gen or "
            "Model.sample"
        )


def read_images(path: Path) -> Tensor:
    """Read images ``[N, C, H, W]`` from a stack or an ``.npy``, whatever their range.

    Raises:
        DataError: The file is broken, or has values that are not finite.
    """
    is_bare = path.suffix.lower() == ".npy"
    array = load_array(path) if is_bare else load_arrays(path, [STACKED])[STACKED]
    values = _image_array(array, str(path))
    if not np.isfinite(values).all():
        raise DataError(f"{path} has values that are not finite: repair them")
    return _channels_first(values)


def _image_array(array: Any, where: str) -> np.ndarray:
    """Return images ``[N, H, W, C]`` after a check of their shape and type."""
    values = np.asarray(array)
    values = values[..., None] if values.ndim == 3 else values
    if values.ndim != 4 or values.dtype.kind not in "fu" or not values.size:
        raise DataError(
            f"{where} is an array of {values.dtype} of shape {list(values.shape)}: give "
            "[N, H, W] or [N, H, W, C] of uint8, uint16 or floats"
        )
    if values.shape[3] > MOST_CHANNELS:
        raise DataError(
            f"{where} has {values.shape[3]} channels, the last axis: give at most {MOST_CHANNELS}"
        )
    return values


def _channels_first(values: np.ndarray) -> Tensor:
    # Tensors of 16-bit integers lack most operations.
    values = values.astype(np.float32) if values.dtype != np.uint8 else values
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def _classes(labels: Any, count: int, where: str) -> Tensor | None:
    """Return class labels as int64 ``[N]`` after a check."""
    if labels is None:
        return None
    values = np.asarray(labels)
    whole = values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and (values == np.round(values)).all()
    )
    if values.shape != (count,) or not whole or values.min() < 0 or values.max() >= 100_000:
        raise DataError(f"the labels of {where} are not {count} whole numbers from 0: repair them")
    return torch.from_numpy(values.astype(np.int64))


def holds_stack(path: Path) -> bool:
    """Return whether a file is a stack of images: ``.npz`` with images, or ``.npy`` with 3 axes."""
    if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
        return False
    if path.suffix.lower() == ".npy":
        with open_array(path) as (header, _):
            return len(header.shape) >= 3
    with open_arrays(path) as saved:
        return STACKED in saved.names and "points" not in saved.names


def normalize_pixels(pixels: Tensor, value_range: tuple[float, float] = GRAY_RANGE) -> Tensor:
    """Convert pixels of any shape to float32 data, on their device.

    The ends of the range become -1 and 1: p becomes ``p / 127.5 - 1`` for 8-bit pixels.
    """
    low, high = value_range
    return (pixels.to(torch.float32) - low) / ((high - low) / 2) - 1
