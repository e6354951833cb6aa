"""Arrays in an ``.npz`` read in batches of rows, for files that do not fit in memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import Header, SavedArrays, open_arrays


@contextmanager
def open_rows(path: Path, name: str) -> Iterator["ArrayRows"]:
    """Open an array of an ``.npz`` file, to be read in batches of rows.

    Raises:
        DataError: The file is missing or broken, or the array is missing, not numeric, or not
            stored row by row.
    """
    with open_arrays(path) as saved, saved.open(name) as (header, file):
        yield ArrayRows(path, name, saved, header, file)


class ArrayRows:
    """An open array of an ``.npz`` file, whose rows are read once, from the first to the last.

    Attributes:
        shape: Shape of the whole array.
        dtype: Data type of the array, in this machine's byte order.
    """

    def __init__(self, path: Path, name: str, saved: SavedArrays, header: Header, file: IO[bytes]):
        self._path, self._name, self._saved, self._file = path, name, saved, file
        self._stored, self.shape = header.dtype, header.shape
        self.dtype = self._stored.newbyteorder("=")
        if self.dtype.kind not in "fiu":
            raise DataError(
                f"{path}: the array '{name}' contains {self.dtype}, expected numbers: give a file "
                "of numbers"
            )
        if header.by_columns or not self.shape:
            raise DataError(
                f"{path}: the array '{name}' of shape {list(self.shape)} is not stored row by "
                "row: save it with at least one axis and in C order"
            )

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield all rows in batches of ``size`` rows; the last batch can be smaller.

        Raises:
            DataError: The file ends early, or a row has values that are not finite.
        """
        for start in range(0, self.shape[0], size):
            yield self._read(min(size, self.shape[0] - start))

    def _read(self, count: int) -> np.ndarray:
        shape = (count, *self.shape[1:])
        size = math.prod(shape) * self._stored.itemsize
        with self._saved.reading(self._name):
            content = self._file.read(size)
        if len(content) != size:
            raise self._saved.broken(self._name)
        rows: np.ndarray[Any, Any] = np.frombuffer(content, self._stored).reshape(shape)
        if not np.isfinite(rows).all():
            raise DataError(
                f"{self._path}: the array '{self._name}' has values that are not finite: remove "
                "the rows with these values"
            )
        return rows.astype(self.dtype, copy=False)
