"""Numbers of netCDF files, read without trust.

A netCDF-4 file is HDF5, which can point to other files, unpack to any size, and hold any type. What
is read here lies in the file itself, as plain numbers in one uncompressed piece: so a file cannot
be larger in memory than it is on the disk. Attributes and texts of HDF5 are not read at all: where
some are broken, the library takes for ever.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dnnlib.errors import DataError

# What h5py raises on bytes that it did not write; caught around its calls alone.
_FOREIGN_ERRORS = (
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
MOST_AXES = 8


@contextmanager
def open_netcdf(path: Path) -> Iterator["SavedNumbers"]:
    """The variables of a netCDF-4 file, each read when it is asked for. Raises DataError if it is
    missing or broken, or no netCDF-4 file."""
    unreadable = DataError(f"{path} is not a readable netCDF-4 file")
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():  # opening a pipe would wait for ever
        raise unreadable
    try:
        file = h5py.File(path, "r", locking=False)
    except _FOREIGN_ERRORS as error:
        raise unreadable from error
    with file:
        yield SavedNumbers(path, file)


class SavedNumbers:
    """An open netCDF-4 file."""

    def __init__(self, path: Path, file: h5py.File):
        self.path, self._file = path, file
        self._bytes = path.stat().st_size

    def has(self, place: str) -> bool:
        """Whether there is a variable at a place, such as ``posterior/x``."""
        group: Any = self._file
        for part in place.split("/"):
            with self._reading(place):
                if not isinstance(group, h5py.Group) or part not in group:
                    return False
                # Other links lead to other files, or round in circles.
                if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                    raise self._broken(place)
                group = group[part]
        return isinstance(group, h5py.Dataset)

    def shape(self, place: str) -> tuple[int, ...]:
        """Of a variable. Raises DataError if it is missing, or not plain."""
        return self._plain(place).shape

    def numbers(self, place: str, *slices: slice) -> np.ndarray:
        """Finite numbers of a variable, or of a part of it. Raises DataError if it is missing,
        broken, of anything else, or not finite."""
        variable = self._plain(place)
        with self._reading(place):
            values: np.ndarray = variable[slices or ...]
        if not np.isfinite(values).all():
            raise DataError(f"{self.path}: '{place}' has values that are not finite")
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def text(self, place: str) -> str:
        """A text that a variable holds as bytes of UTF-8. Raises DataError as ``numbers`` does."""
        letters = self.numbers(place)
        try:
            return letters.astype(np.uint8).tobytes().decode()
        except UnicodeDecodeError as error:
            raise self._broken(place) from error

    def _plain(self, place: str) -> h5py.Dataset:
        """A variable in one piece of the file, all of which is there."""
        if not self.has(place):
            raise DataError(f"{self.path} has no variable '{place}'")
        with self._reading(place):
            variable = self._file[place]
            layout = variable.id.get_create_plist()
            shape, dtype = variable.shape, variable.dtype
            size = 0 if shape is None else math.prod(shape) * variable.id.get_type().get_size()
            first = variable.id.get_offset()
            plain = (
                shape is not None
                and len(shape) <= MOST_AXES
                and dtype.kind in "fiu"
                and layout.get_layout() == h5py.h5d.CONTIGUOUS
                and layout.get_external_count() == 0
                and layout.get_nfilters() == 0
            )
            if not plain or (size > 0 and (first is None or first + size > self._bytes)):
                raise self._broken(place)
        return variable

    @contextmanager
    def _reading(self, place: str) -> Iterator[None]:
        """Around calls of h5py: what they raise of broken bytes becomes DataError."""
        try:
            yield
        except _FOREIGN_ERRORS as error:
            raise self._broken(place) from error

    def _broken(self, place: str) -> DataError:
        return DataError(f"{self.path} is broken in '{place}', or it is not plain: make it again")
