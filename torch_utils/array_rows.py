"""Arrays of an ``.npz`` read a batch of rows at a time, for files that do not fit in memory."""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import BROKEN_FILE_ERRORS

HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextmanager
def open_rows(path: Path, name: str) -> Iterator["ArrayRows"]:
    """An array of an ``.npz``, of which no more than its header has been read.

    Raises:
        DataError: The file is missing or broken, or the array is missing, not one of numbers, or
            not stored row by row.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: give the path of an .npz of results")
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN_FILE_ERRORS as error:
        raise DataError(f"{path} is not a readable .npz of plain arrays") from error
    with archive:
        names = [member.removesuffix(".npy") for member in archive.namelist()]
        if name not in names:
            has = ", ".join(names) or "none"
            raise DataError(f"{path} has no array '{name}': it has {has}")
        try:
            member = archive.open(f"{name}.npy")
        except BROKEN_FILE_ERRORS as error:
            raise _broken(path, name) from error
        with member:
            yield ArrayRows(path, name, member)


class ArrayRows:
    """An open array of at least one axis, read once from its first row to its last.

    Attributes:
        shape: Of the whole array.
        dtype: Of its numbers.
    """

    def __init__(self, path: Path, name: str, file: IO[bytes]):
        self._path, self._name, self._file = path, name, file
        try:
            read_header = HEADER_READERS[np.lib.format.read_magic(file)]
            self.shape, by_columns, self.dtype = read_header(file)
        except BROKEN_FILE_ERRORS as error:
            raise _broken(path, name) from error
        if self.dtype.kind not in "fiu":
            raise DataError(f"{path}: '{name}' holds {self.dtype}, where numbers should be")
        if by_columns or not self.shape or min(self.shape) < 0:
            raise DataError(
                f"{path}: '{name}' of shape {list(self.shape)} is not stored row by row"
            )

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """All rows, ``size`` at a time. Raises DataError for any that is missing or not finite."""
        for start in range(0, self.shape[0], size):
            yield self._read(min(size, self.shape[0] - start))

    def _read(self, count: int) -> np.ndarray:
        shape = (count, *self.shape[1:])
        size = math.prod(shape) * self.dtype.itemsize
        try:
            content = self._file.read(size)
        except BROKEN_FILE_ERRORS as error:
            raise _broken(self._path, self._name) from error
        if len(content) != size:
            raise _broken(self._path, self._name)
        rows: np.ndarray[Any, Any] = np.frombuffer(content, self.dtype).reshape(shape)
        if not np.isfinite(rows).all():
            raise DataError(f"{self._path}: '{self._name}' has values that are not finite")
        return rows


def _broken(path: Path, name: str) -> DataError:
    return DataError(f"{path} is broken in the array '{name}', or it is not plain: make it again")
