"""Observations, noise, operators and masks that users provide in files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import open_file
from dnnlib.lists import parts_of, positive_numbers
from torch_utils.inert_pickle import shown
from torch_utils.results import load_array
from torch_utils.seeds import hash_seed, uniform_numbers
from torch_utils.streams import Stream
from training.data.images.containers import IMAGE_SUFFIXES, MAX_FILE_BYTES, Decoder
from training.data.images.dataset import ImageDataset
from training.data.images.stacks import holds_stack, read_images
from training.data.tables.formats import (
    SUFFIXES,
    ForeignTable,
    TableSource,
    listed,
    open_table,
    table_suffix,
)
from training.inference.likelihoods import LinearMap, MatrixMap, Separable
from training.inference.trial_likelihoods import Trials
from training.names import HALVES, OPERATORS

RANDOM = "random:"
"""Prefix of a mask that observes a random fraction of the coordinates."""


def _is_table(source: TableSource) -> bool:
    return isinstance(source, ForeignTable) or table_suffix(source) in SUFFIXES


def _no_table(source: TableSource) -> DataError:
    return DataError(f"{source} is not a table: give a {', '.join(SUFFIXES)} file")


def read_observations(path: TableSource, image_shape: Sequence[int] | None = None) -> Tensor:
    """Read M observations of K numbers as float64: rows of a table, or images as gray levels.

    Args:
        path: A table (CSV, TSV, npy, npz or Parquet), an image, or a zip, folder or
            stack of images.
        image_shape: Shape ``(C, H, W)`` of the images; None if observations are not images.

    Raises:
        DataError: The file is missing or broken, or contains values that are not finite.
    """
    stacked = image_shape is not None and isinstance(path, Path) and holds_stack(path)
    if _is_table(path) and not stacked:
        return _finite(open_table(path, None, known=()))
    if image_shape is None or not isinstance(path, Path):
        raise _no_table(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        what = "an image, or of a zip or folder of images"
        with open_file(path, what, MAX_FILE_BYTES) as file:
            pixels = torch.tensor(Decoder()(file.read(), str(path))).movedim(2, 0)[None]
        _require_shape(path, pixels.shape[1:], image_shape)
    elif stacked:
        pixels = read_images(path)  # with noise, values may be beyond the range of the images
        _require_shape(path, pixels.shape[1:], image_shape)
    else:
        dataset = ImageDataset(path)
        _require_shape(path, dataset.image_shape, image_shape)
        pixels, _ = dataset.read(range(len(dataset)))
    return pixels.flatten(1).double()


def _require_shape(path: Path, shape: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(shape) != tuple(expected):
        raise DataError(
            f"{path} has images of {list(shape)}, expected {list(expected)} (channels, height, "
            "width): resize them"
        )


def read_columns(
    path: TableSource,
    names: Sequence[str],
    row: Sequence[str] | None = None,
    others: Sequence[str] | None = None,
    may: Sequence[str] = (),
    hint: str = "",
) -> Tensor:
    """Read the named columns of a table with M rows as float64, ``[M, len(names)]``.

    Args:
        path: A table. Without column names, its columns must be ``names`` or ``row``, in this
            order.
        names: Names of the columns to read.
        row: Names of all columns of a complete row, including ``names``; None if ``names`` are all
            columns.
        others: Names of further columns that the table may have; None for any.
        may: Names of columns that may have missing values, but not all of them in one row.
        hint: Advice in the error message if a value is missing where it must not be.

    Raises:
        DataError: The file is missing or broken, lacks a column, has an unknown column, or
            contains values that are not finite.
    """
    if not _is_table(path):
        raise _no_table(path)
    row = names if row is None else row
    known = [*row, *(others or ())]
    table = open_table(path, None, known=known)
    own = list(table.names)
    if not table.named:
        if len(own) not in (len(names), len(row)):
            wanted = f"{len(names)}" if len(row) == len(names) else f"{len(names)} or {len(row)}"
            raise DataError(
                f"{path} has {len(own)} columns without names, expected {wanted}: give the columns "
                f"{listed(names)}"
            )
        order = row if len(own) == len(row) else names
        places = [order.index(name) for name in names]
        return _finite(table, [order.index(name) for name in may], hint)[:, places]
    unknown = [] if others is None else [name for name in own if name not in known]
    missing = [name for name in names if name not in own]
    if unknown:
        raise DataError(
            f"{path} has a column '{shown(unknown[0])}', which is not among {listed(row)}: "
            "leave it out, or rename it"
        )
    if missing:
        raise DataError(f"{path} has no column '{missing[0]}': give the columns {listed(names)}")
    table = open_table(path, names, known=known)
    return _finite(table, [names.index(name) for name in may], hint)


def read_others(path: TableSource, names: Sequence[str], known: Sequence[str]) -> dict[str, Tensor]:
    """Read optional columns of a table with M rows as float64 ``[M]``, by name.

    The result has only the columns that the table has. Missing values are NaN.

    Args:
        path: A table.
        names: Names of the columns to read if they exist.
        known: Names of all columns that the table may have.

    Raises:
        DataError: The file is missing or broken.
    """
    own = open_table(path, None, known=known)
    wanted = [name for name in names if own.named and name in own.names]
    if not wanted:
        return {}
    rows = np.concatenate(list(open_table(path, wanted, known=known).blocks()))
    return dict(zip(wanted, torch.from_numpy(rows).T, strict=True))


DATASET = "dataset"
"""Column of a file of trials that assigns each trial to an observation."""


def read_trials(path: TableSource, names: Sequence[str], covariates: Sequence[str]) -> Trials:
    """Read trials of observations, one per row.

    If the table has a column ``dataset``, rows with the same value belong to one observation;
    otherwise all rows do. Observations are in the order of their first rows.

    Args:
        path: A table.
        names: Names of the data (the random outcomes) of a trial.
        covariates: Names of the covariates of a trial.

    Raises:
        DataError: The file is missing or broken, lacks a column, or contains values that are not
            finite.
    """
    columns = [*names, *covariates]
    several = _is_table(path) and DATASET in open_table(path, None).names
    columns = [*columns, DATASET] if several else columns
    rows = read_columns(path, columns)
    numbers = np.zeros(len(rows), dtype=np.int64)
    if several:
        _, first, which = np.unique(rows[:, -1].numpy(), return_index=True, return_inverse=True)
        numbers = first.argsort().argsort()[which]
    sizes = [len(names), len(names) + len(covariates)]
    data, given, _ = rows.tensor_split(sizes, dim=1)
    return Trials.sorted(data, given, torch.from_numpy(numbers))


def _finite(table: ForeignTable, may: Sequence[int] = (), hint: str = "") -> Tensor:
    """Return all rows ``[M, K]`` of a table.

    Args:
        table: The table.
        may: Indices of columns that may be NaN, but not all in one row.
        hint: Advice on missing values, for the error message.

    Raises:
        DataError: There are no rows, or a value is infinite, or missing where it must not be.
    """
    blocks = list(table.blocks())
    if not blocks:
        raise DataError(f"{table.name} has no rows: give one observation per row")
    rows = np.concatenate(blocks)
    bad = ~np.isfinite(rows)
    bad[:, may] &= ~np.isnan(rows[:, may])
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{table.name}, {table.place_of(int(row))}, column '{table.names[column]}': the value "
            f"is missing or not finite: {hint or 'correct it, or leave out this row'}"
        )
    empty = np.isnan(rows[:, may]).all(axis=1)
    if may and empty.any():
        raise DataError(
            f"{table.name}, {table.place_of(int(empty.argmax()))}: all data of this trial are "
            "missing: leave the trial out"
        )
    return torch.from_numpy(rows)


def array_of(
    given: str | Path | ArrayLike, what: str, dims: Sequence[int], kinds: str = "fiu"
) -> Tensor:
    """Check and convert an array in memory, or in a ``.npy`` that is given by its path.

    Args:
        given: The array, or the path.
        what: Name of the array in error messages.
        dims: Allowed numbers of axes.
        kinds: Allowed kinds of numbers, as codes of NumPy's ``dtype.kind``.

    Raises:
        DataError: The file is broken, or the array has another type or number of axes.
    """
    if isinstance(given, str | Path):
        source, array = str(given), load_array(Path(given))
    else:
        source, array = what, np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if array.dtype.kind not in kinds or array.ndim not in dims:
        raise DataError(
            f"{source} contains an array of type {array.dtype} and shape {list(array.shape)}: "
            f"{what} must be {'booleans' if kinds == 'b' else 'numbers'} with "
            f"{' or '.join(map(str, dims))} axes"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{source} has values that are not finite: {what} must be finite")
    wide = np.bool_ if array.dtype.kind == "b" else np.float64
    return torch.from_numpy(np.ascontiguousarray(array.astype(wide)))


def read_noise(text: str | ArrayLike) -> Tensor:
    """Parse noise: standard deviations (one number or a comma-separated list), or a ``.npy``.

    The ``.npy`` contains standard deviations or a covariance matrix.

    Raises:
        UsageError: A number is not positive and finite.
        DataError: The file is broken.
    """
    values = positive_numbers(text) if isinstance(text, str) else None
    if values is None:
        return array_of(text, "the noise", (1, 2))
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def read_mask(
    text: str | ArrayLike, names: Sequence[str], image_shape: Sequence[int] | None
) -> Tensor:
    """Parse a mask; return the indices ``[K]`` of the observed coordinates, in the mask's order.

    Args:
        text: Comma-separated names or indices (from 0) of coordinates; for images a region such as
            ``upper-half``; ``random:0.5``, a random fraction of all coordinates; or the path of a
            ``.npy`` of D booleans.
        names: Names of the D coordinates.
        image_shape: ``(C, H, W)`` of images; None for other data.

    Raises:
        UsageError: The text is not a mask, or the mask selects no coordinate or all coordinates.
        DataError: The file is broken.
    """
    dim = len(names)
    named: list[int] = []
    if not isinstance(text, str) or text.endswith(".npy"):
        seen = array_of(text, "a mask", (1, 2, 3), "b")
        text = text if isinstance(text, str) else "the mask"
        if image_shape is not None and seen.ndim == 3 and seen.shape != tuple(image_shape):
            raise UsageError(
                f"{text} has shape {list(seen.shape)}, but images have {list(image_shape)} "
                "(channels, height, width): give a mask of this shape"
            )
        seen = seen.flatten()
        if len(seen) != dim:
            raise UsageError(
                f"{text} has {len(seen)} booleans for {dim} coordinates: give one per coordinate"
            )
    elif text in HALVES and image_shape is not None:
        seen = _half(text, image_shape)
    elif text.startswith(RANDOM) and text not in names:
        numbers = _numbers(text.removeprefix(RANDOM))
        if len(numbers) != 1 or not 0 < numbers[0] <= 1:
            raise UsageError(
                f"--mask={text}: give a fraction between 0 and 1, for example random:0.5"
            )
        [share] = numbers
        seen = uniform_numbers((dim,), 0, Stream.SEEN) < share
    else:
        halves = HALVES if image_shape is not None else ()
        named = list(dict.fromkeys(_place(part, names, halves) for part in parts_of(text)))
        seen = torch.zeros(dim, dtype=torch.bool)
        seen[named] = True
    if seen.all() or not seen.any():
        raise UsageError(
            f"--mask={text} observes all coordinates: use --likelihood=gaussian"
            if seen.all()
            else f"--mask={text} observes no coordinate: give at least one"
        )
    return torch.tensor(named) if named else seen.nonzero()[:, 0]


def read_operator(
    text: str | ArrayLike, dim: int, image_shape: tuple[int, int, int] | None
) -> LinearMap:
    """Return the linear observation map of points ``[D]`` that an option names, or loads.

    A ``.npy`` contains a matrix ``[K, D]``. Names are the keys of ``OPERATORS``; most of them are
    maps of images ``(C, H, W)``.

    Raises:
        UsageError: The name is unknown, or the map does not fit these points.
        DataError: The file is broken.
    """
    if not isinstance(text, str) or text.endswith(".npy"):
        matrix = array_of(text, "an operator", (2,))
        text = text if isinstance(text, str) else "the operator"
        if matrix.shape[1] != dim:
            raise UsageError(
                f"{text} has {matrix.shape[1]} columns, but points have {dim} coordinates: give "
                "one column per coordinate"
            )
        return MatrixMap(matrix)
    known = OPERATORS if image_shape is not None else OPERATORS[-1:]
    name, _, given = text.partition(":")
    numbers = _numbers(given)
    wanted = {form.partition(":")[0]: form.count(",") + 1 for form in known}.get(name)
    whole = name == "blur" or all(number == int(number) for number in numbers)
    if len(numbers) != wanted or not whole or (name != "crop" and numbers[0] <= 0):
        raise UsageError(
            f"--operator is '{text}': give {', '.join(known)}, or a .npy with a matrix"
        )
    if image_shape is None or name == "random":
        return MatrixMap.random(int(numbers[0]), dim, hash_seed(0, Stream.SEEN))
    if name == "blur":
        return Separable.blur(numbers[0], image_shape)
    height, width = image_shape[1:]
    if name == "downsample":
        factor = int(numbers[0])
        if height % factor or width % factor:
            raise UsageError(
                f"--operator={text} does not divide images of {width}x{height} pixels: give a "
                "divisor of both sides"
            )
        return Separable.downsampling(factor, image_shape)
    row, column, rows, columns = map(int, numbers)
    if not (0 < rows <= height - row and 0 < columns <= width - column):
        raise UsageError(
            f"--operator={text} extends beyond images of {width}x{height} pixels: give a smaller "
            "rectangle"
        )
    return Separable.crop((row, column), (rows, columns), image_shape)


def _numbers(text: str) -> list[float]:
    """Parse nonnegative finite numbers separated by commas; return none if any is invalid."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(0 <= number < torch.inf for number in numbers) else []


def _place(part: str, names: Sequence[str], halves: Sequence[str]) -> int:
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(names):
        return int(part)
    of_images = f"{', '.join(halves)}, or " if halves else ""
    raise UsageError(
        f"--mask has '{part}': give {of_images}names of coordinates ({listed(names)}), "
        f"indices of coordinates from 0 to {len(names) - 1}, or a .npy of booleans"
    )


def _half(text: str, shape: Sequence[int]) -> Tensor:
    """Return booleans ``[D]`` that select half of an image."""
    axis = 1 if text in ("upper-half", "lower-half") else 2
    first = text in ("upper-half", "left-half")
    places = torch.arange(shape[axis]) < shape[axis] // 2
    side = places if first else ~places
    return side.view(-1, *[1] * (2 - axis)).expand(*shape).flatten()
