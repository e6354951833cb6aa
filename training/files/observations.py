"""Observations, noise, operators and masks, as a user gives them in files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils.results import load_array
from training.data.images.dataset import ImageDataset
from training.data.tables.foreign import numbered
from training.data.tables.formats import SUFFIXES, open_table
from training.files.noise import noise_numbers
from training.names import HALVES


def read_observations(path: Path, image_shape: Sequence[int] | None = None) -> Tensor:
    """Observations ``[M, K]``, float64: rows of a table, or images as gray levels.

    Args:
        path: A table (CSV, TSV, npy, npz or Parquet), or a zip or folder of images.
        image_shape: ``(C, H, W)`` of the network's images; None where there are none.

    Raises:
        DataError: It is missing or broken, or holds values that are not finite.
    """
    if path.suffix.lower() not in SUFFIXES and image_shape is not None:
        dataset = ImageDataset(path)
        if tuple(dataset.image_shape) != tuple(image_shape):
            raise DataError(
                f"{path} has images of {list(dataset.image_shape)}, but the network's are "
                f"{list(image_shape)} (channels, height, width)"
            )
        pixels, _ = dataset.read(range(len(dataset)))
        return pixels.flatten(1).double()
    blocks = list(open_table(str(path), None).blocks())
    if not blocks:
        raise DataError(f"{path} has no rows: give one observation in each")
    rows = np.concatenate(blocks)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise DataError(f"{path}: row {row + 1}, column {column + 1} is missing or not finite")
    return torch.from_numpy(rows)


def read_conditions(path: Path, names: Sequence[str]) -> Tensor:
    """What a conditional flow is given, ``[M, C]``, float64: columns of a table, found by name.

    Args:
        path: A table; an npy, or an npz without names, has these columns alone, in their order.
        names: Of the conditions.

    Raises:
        DataError: It is missing or broken, lacks a column, or holds values that are not finite.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} is no table of conditions: give one of {', '.join(SUFFIXES)}")
    own = list(open_table(str(path), None).names)
    nameless = path.suffix.lower() in (".npy", ".npz") and own == numbered(len(own))
    if nameless and len(own) != len(names):
        raise DataError(
            f"{path} has {len(own)} columns, but the flow's conditions are {len(names)}"
        )
    missing = [] if nameless else [name for name in names if name not in own]
    if missing:
        raise DataError(
            f"{path} has no column '{missing[0]}': the flow's conditions are {', '.join(names)}"
        )
    found = read_observations(path)
    return found if nameless else found[:, [own.index(name) for name in names]]


def read_array(path: Path, what: str, dims: Sequence[int], kinds: str = "fiu") -> Tensor:
    """An array of a ``.npy``.

    Args:
        path: The file.
        what: What messages call it.
        dims: How many dimensions it may have.
        kinds: Kinds of numbers, as NumPy names them.

    Raises:
        DataError: It is broken, or of other numbers.
    """
    array = load_array(path)
    if array.dtype.kind not in kinds or array.ndim not in dims:
        raise DataError(
            f"{path} holds {array.dtype} of shape {list(array.shape)}: {what} has "
            f"{' or '.join(map(str, dims))} dimensions"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{path} has values that are not finite: {what} has none")
    wide = np.bool_ if array.dtype.kind == "b" else np.float64
    return torch.from_numpy(np.ascontiguousarray(array.astype(wide)))


def read_noise(text: str) -> Tensor:
    """Standard deviations or a covariance: a number, several with commas, or a ``.npy``.

    Raises:
        UsageError: As ``noise_numbers``.
        DataError: The file is broken.
    """
    values = noise_numbers(text)
    if values is None:
        return read_array(Path(text), "the noise", (1, 2))
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def read_mask(text: str, names: Sequence[str], image_shape: Sequence[int] | None) -> Tensor:
    """The coordinates that are observed ``[K]``.

    Args:
        text: Names of columns or numbers from 0 on, with commas; ``upper-half`` and so on, of
            images; or a ``.npy`` of D booleans.
        names: Of the D coordinates.
        image_shape: ``(C, H, W)`` of images; None for other data.

    Raises:
        UsageError: It says something else, or observes nothing or everything.
        DataError: The file is broken.
    """
    dim = len(names)
    if text.endswith(".npy"):
        seen = read_array(Path(text), "a mask", (1, 2, 3), "b").flatten()
        if len(seen) != dim:
            raise UsageError(f"{text} has {len(seen)} booleans, but there are {dim} coordinates")
    elif text in HALVES and image_shape is not None:
        seen = _half(text, image_shape)
    else:
        seen = torch.zeros(dim, dtype=torch.bool)
        for part in text.split(","):
            seen[_place(part.strip(), names)] = True
    if seen.all() or not seen.any():
        raise UsageError(
            f"--mask={text} observes {'everything: use gaussian' if seen.all() else 'nothing'}"
        )
    return seen.nonzero()[:, 0]


def _place(part: str, names: Sequence[str]) -> int:
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(names):
        return int(part)
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    raise UsageError(
        f"--mask names '{part}': give coordinates by name ({shown}) or by number from 0 to "
        f"{len(names) - 1}, or a .npy of booleans"
    )


def _half(text: str, shape: Sequence[int]) -> Tensor:
    """Booleans ``[D]`` of half of an image."""
    _, height, width = shape
    seen = torch.zeros(*shape, dtype=torch.bool)
    rows, columns = slice(None), slice(None)
    if text == "upper-half":
        rows = slice(0, height // 2)
    elif text == "lower-half":
        rows = slice(height // 2, None)
    elif text == "left-half":
        columns = slice(0, width // 2)
    else:
        columns = slice(width // 2, None)
    seen[:, rows, columns] = True
    return seen.flatten()
