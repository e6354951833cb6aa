"""Conversion of rows between data frames, arrays, tensors and tables."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from training.data.tables.formats import ForeignTable, NotNumbers, listed, numbered, widened
from training.data.tables.table import DataTable
from training.subjects import Subject


class RowModel(Protocol):
    """A model of rows; see ``training.models.model.Model`` for its attributes and methods."""

    about: dict[str, Any]

    @property
    def kind(self) -> str | None:
        """Package of the rows that the model returns; None for pandas."""

    @property
    def subject(self) -> Subject:
        """Flow of the model and the meaning of its points."""

    @property
    def conditions(self) -> list[str]:
        """Names of the conditions."""

    @property
    def covariates(self) -> list[str]:
        """Names of a trial's covariates."""

    def rows_of(self, names: Sequence[str], values: np.ndarray) -> Any:
        """Return numbers as rows of the model's kind."""

    def flat(self, rows: Any) -> Any:
        """Return images as rows."""

    def points_of(self, rows: Any) -> Tensor:
        """Return the points of rows."""

    def conditions_of(self, rows: Any, given: Any) -> np.ndarray:
        """Return conditions."""


@contextmanager
def left_alone() -> Iterator[None]:
    """Restore the random state of PyTorch and the handlers of the log after a computation.

    The random state of CUDA devices is kept if CUDA is in use; work on the CPU does not start it.
    """
    handlers = list(logger.handlers)
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count() * started)):
        try:
            yield
        finally:
            for handler in logger.handlers[:]:
                if handler not in handlers:
                    logger.removeHandler(handler)
                    handler.close()


def data_set_of(data: Any) -> Path | DataTable:
    """Return a data set: the rows of a table of numbers in memory, or a path.

    Raises:
        UsageError: The data are neither.
    """
    if isinstance(data, str | Path):
        return Path(data)
    rows = getattr(data, "rows", None)
    if not isinstance(rows, DataTable) or rows.typed:
        what = "a typed table" if isinstance(rows, DataTable) else type(data).__name__
        raise UsageError(f"data is {what}: give a Table of numbers, or a path")
    return rows


def names_in(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return names of columns as a tuple; a single name need not be in a list."""
    return (given,) if isinstance(given, str) else tuple(given)


def table_of(name: str, names: Sequence[str] | None, numbers: np.ndarray) -> ForeignTable:
    """Return rows ``[N, D]`` in memory as a table; None for columns without names."""
    columns = numbered(numbers.shape[1]) if names is None else list(names)
    return ForeignTable(name, columns, lambda: iter([numbers]), named=names is not None)


def ranges_of(bounds: Mapping[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]]:
    """Return lowest and highest values by name.

    Raises:
        UsageError: Values are not numbers, or not a range.
    """
    ranges = dict[str, tuple[float, float]]()
    for name, ends in (bounds or {}).items():
        try:
            low, high = map(float, ends)
        except (TypeError, ValueError):
            low = high = nan
        if not low < high:
            raise UsageError(f"bounds of '{name}' are {ends!r}: give (lowest, highest)")
        ranges[name] = low, high
    return ranges


ROW, COLUMN = (1, -1), (-1, 1)
FRAMES = "pandas"
"""Package of the data frames made from files."""
LINE = 100
"""Maximum length of a line of a printed summary, in characters."""
FRAME_PACKAGES = (FRAMES, "polars")
"""Packages of data frames that are imported if a model was trained on their rows."""


def kind_of(source: Any) -> str:
    """Return the name of the package that rows come from, such as ``pandas``."""
    return type(source).__module__.partition(".")[0]


def numbers_of(
    source: Any, what: str, flat: tuple[int, int] | None = None
) -> tuple[list[str] | None, np.ndarray]:
    """Return names of columns, None where there are none, and numbers ``[N, D]``, float64.

    Args:
        source: A data frame, or a row of a data frame of pandas; an array or a tensor; or a mapping
            of names to numbers or to columns.
        what: Name of the rows in error messages.
        flat: Meaning of one-dimensional input, ``ROW`` or ``COLUMN``; None if it is an error.

    Raises:
        NotNumbers: Values are not numbers.
        DataError: There are no rows.
    """
    names: list[str] | None
    if flat == ROW and kind_of(source) == FRAMES and np.ndim(source) == 1:  # a row of a frame
        labels = list(source.index)
        source = source.to_dict() if all(isinstance(label, str) for label in labels) else source
    if isinstance(source, Mapping):
        columns = [np.atleast_1d(np.asarray(column)) for column in source.values()]
        lengths = sorted({len(column) for column in columns})
        if len(lengths) != 1:
            raise DataError(
                f"{what} has columns of different lengths, {lengths}: give equally long columns"
            )
        names, values = [str(name) for name in source], np.stack(columns, axis=1)
    else:
        own = getattr(source, "columns", None)
        names, values = None if own is None else [str(name) for name in own], source
    try:
        numbers = _as_numbers(values)
    except (TypeError, ValueError) as error:
        raise NotNumbers(f"{what}: {error}: give only numbers") from error
    if numbers.ndim == 1 and flat is not None:
        numbers = numbers.reshape(flat)
    if numbers.ndim != 2:
        raise DataError(f"{what} has shape {list(numbers.shape)}: give rows [N, D]")
    return names, numbers


def columns_of(source: Any, wanted: Sequence[str], what: str) -> np.ndarray:
    """Return the numbers ``[N, len(wanted)]`` of columns by name.

    If columns have no names, all of them are returned in order.

    Raises:
        DataError: A column is missing, the number of columns differs, or values are not numbers.
    """
    names, numbers = numbers_of(source, what, COLUMN if len(wanted) == 1 else ROW)
    if names is None:
        if numbers.shape[1] != len(wanted):
            raise DataError(
                f"{what} has {numbers.shape[1]} columns: give {listed(wanted)} in this order"
            )
        return numbers
    for name in wanted:
        if name not in names:
            raise DataError(f"{what} has no column '{name}': give {listed(wanted)}")
        if names.count(name) > 1:
            raise DataError(f"{what} has two columns '{name}': rename one")
    return numbers[:, [names.index(name) for name in wanted]]


def require_finite(values: torch.Tensor, names: Sequence[str], what: str) -> None:
    """Check that values ``[N, D]`` are finite.

    Raises:
        DataError: A value is not finite; the message states the position of the first one.
    """
    for row, column in (~values.isfinite()).nonzero()[:1].tolist():
        raise DataError(
            f"{what}, row {row + 1}, column '{names[column]}': the value is missing or not finite"
        )


def rows_as(kind: str, names: Sequence[str], values: np.ndarray) -> Any:
    """Return rows ``[N, D]`` in the kind of a package: a tensor, a data frame or an array.

    Packages without data frames, such as NumPy, JAX and xarray, get a NumPy array.
    """
    if kind == "torch":
        return torch.from_numpy(values)
    frame = frame_class(kind)
    return values if frame is None else frame(dict(zip(names, values.T, strict=True)))


def frame_class(kind: str) -> Any:
    """Return the class of data frames of a package, or None if the package has none.

    The name may come from a file, so that only known packages are imported. Other packages are
    looked up among those that the program has imported itself.
    """
    package = sys.modules.get(kind)
    if kind in FRAME_PACKAGES:
        package = import_module(kind if find_spec(kind) else FRAMES)
    return getattr(package, "DataFrame", None)


def whole_frame(columns: Mapping[str, Sequence[Any]], kind: str | None) -> Any:
    """Return a data frame of the package ``kind``, or of pandas if it has none.

    Printing a frame of pandas shows all of its columns, whatever the options of pandas are.
    """
    frame = frame_class(kind or FRAMES)
    if frame is None or frame.__module__.partition(".")[0] == FRAMES:
        return _whole_frame_class()(columns)
    return frame(columns)


@cache
def _whole_frame_class() -> Any:
    pandas = import_module(FRAMES)

    class Summary(pandas.DataFrame):  # type: ignore[misc, name-defined]
        """A data frame that prints all of its columns, in blocks that fit a line."""

        def __repr__(self) -> str:
            with pandas.option_context("display.max_columns", None, "display.width", LINE):
                return super().__repr__()

    return Summary


def _as_numbers(values: Any) -> np.ndarray:
    """Return the numbers of an array, a tensor, or a data frame.

    Missing and masked numbers are NaN.

    Raises:
        TypeError: Values are not numbers.
        ValueError: Values are not numbers.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    elif hasattr(values, "columns") and kind_of(values) == FRAMES and values.shape[1] > 1:
        # Columns are converted separately, since each has its own precision.
        columns = range(values.shape[1])
        return np.concatenate([_as_numbers(values.iloc[:, [at]]) for at in columns], axis=1)
    elif hasattr(values, "columns"):
        # Without this, pandas represents missing numbers as its own objects. Where none is missing,
        # pandas 2 refuses the value for integers.
        some = kind_of(values) == FRAMES and bool(values.isna().to_numpy().any())
        missing = {"na_value": np.nan} if some else {}
        values = values.to_numpy(**missing)
    array = np.ma.asarray(values) if np.ma.isMaskedArray(values) else np.asarray(values)
    if array.dtype.kind in "cmM":  # NumPy would drop parts of numbers, or count seconds
        raise TypeError(f"values are {array.dtype}")
    return np.where(np.ma.getmaskarray(array), np.nan, widened(np.ma.getdata(array)))
