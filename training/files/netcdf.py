"""Safe reading of numbers from untrusted netCDF files.

A netCDF-4 file is HDF5, which can point to other files, unpack to any size, and contain any type.
This module reads only plain numbers that lie in the file itself, in one uncompressed piece, so that
a file cannot take more memory than disk space. It does not read attributes and texts of HDF5 at
all, since the library may hang on broken ones.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dnnlib.errors import DataError
from dnnlib.files import open_file
from torch_utils.results import MOST_AXES, Header

# Errors that h5py raises on foreign bytes; caught only around its calls.
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


@contextmanager
def open_netcdf(path: Path) -> Iterator["SavedNumbers"]:
    """Open a netCDF-4 file for reading single variables.

    Raises:
        DataError: The file is missing or broken, or not a netCDF-4 file.
    """
    open_file(path, "a netCDF-4 file").close()
    try:
        file = h5py.File(path, "r", locking=False)
    except _FOREIGN_ERRORS as error:
        raise DataError(f"{path} is not a readable netCDF-4 file: make the file again") from error
    with file:
        yield SavedNumbers(path, file)


class SavedNumbers:
    """A reader of plain numeric variables in an open netCDF-4 file."""

    def __init__(self, path: Path, file: h5py.File):
        self.path, self._file = path, file
        self._bytes = path.stat().st_size

    def __contains__(self, place: str) -> bool:
        """Return whether the file has a variable at a path, such as ``posterior/x``."""
        group: Any = self._file
        for part in place.split("/"):
            with self._reading(place):
                if not isinstance(group, h5py.Group) or part not in group:
                    return False
                # Other links may lead to other files, or form a cycle.
                if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                    raise self._broken(place)
                group = group[part]
        return isinstance(group, h5py.Dataset)

    def header(self, place: str) -> Header:
        """Return the shape and type of the variable at a path.

        Raises:
            DataError: The variable is missing, or is not plain numbers in one uncompressed piece.
        """
        variable = self._plain(place)
        return Header(variable.shape, False, variable.dtype)

    def read(self, place: str, *part: slice) -> np.ndarray:
        """Return the numbers of a variable, or of a part of the variable.

        Raises:
            DataError: The variable is missing or broken, or is not plain numbers in one
                uncompressed piece.
        """
        variable = self._plain(place)
        with self._reading(place):
            values: np.ndarray = variable[part or ...]
        return values

    def _plain(self, place: str) -> h5py.Dataset:
        """Return a variable that lies completely in the file, in one piece."""
        if place not in self:
            raise DataError(f"{self.path} has no variable '{place}': make the file again")
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
        """Convert errors that h5py raises on broken bytes to DataError."""
        try:
            yield
        except _FOREIGN_ERRORS as error:
            raise self._broken(place) from error

    def _broken(self, place: str) -> DataError:
        return DataError(
            f"{self.path}: variable '{place}' is damaged, or is not an uncompressed array of "
            "numbers: make the file again"
        )
