"""Arrays too large for memory, written row by row into their final ``.npz``.

The members of an uncompressed zip are stored unchanged, one after the other, so the position of
every row is known in advance. The header of a member contains its checksum, and is rewritten once
all rows are present.
"""

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.files import atomic_path
from torch_utils.results import write_members

_CHUNK = 1 << 16


class ArrayStream:
    """Writer of large arrays of known shapes to an ``.npz`` file, row by row.

    Args:
        path: The file.
        shapes: Shape of each array by name.
        dtype: Data type of all arrays.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]):
        self._path, self._dtype = path, dtype
        self._members: list[zipfile.ZipInfo] = []
        self._starts: dict[str, int] = {}
        with path.open("wb") as file:
            for name, shape in shapes.items():
                about = io.BytesIO()
                described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(about, described)
                size = math.prod(shape) * dtype.itemsize
                member = zipfile.ZipInfo(f"{name}.npy")
                member.header_offset, member.CRC = file.tell(), 0
                member.file_size = member.compress_size = about.tell() + size
                file.write(member.FileHeader(zip64=True) + about.getvalue())
                self._members.append(member)
                self._starts[name] = file.tell()
                file.truncate(file.seek(size, io.SEEK_CUR))

    def put(self, name: str, index: int, row: np.ndarray) -> None:
        """Write one row of an array, ``array[index] = row``, into the file."""
        self.put_rows(name, index * len(row), row)

    def put_rows(self, name: str, first: int, rows: np.ndarray) -> None:
        """Write rows ``[n, D]`` of an array, beginning with row ``first``.

        An array with more than two axes counts as a matrix whose leading axes are flattened.
        """
        width = math.prod(rows.shape[1:])
        with self._path.open("rb+") as file:
            file.seek(self._starts[name] + first * width * self._dtype.itemsize)
            file.write(np.ascontiguousarray(rows, self._dtype).data)

    def finish(self, small: Mapping[str, np.ndarray]) -> None:
        """Add small arrays, by name, that are already in memory, and complete the ``.npz`` file."""
        with self._path.open("rb+") as file:
            for member in self._members:
                file.seek(member.header_offset + len(member.FileHeader(zip64=True)))
                size = member.file_size
                checksum = 0
                while size:
                    content = file.read(min(size, _CHUNK))
                    if not content:
                        raise EOFError(
                            "the file became shorter while it was written: write it again"
                        )
                    checksum = zlib.crc32(content, checksum)
                    size -= len(content)
                member.CRC = checksum
                file.seek(member.header_offset)
                file.write(member.FileHeader(zip64=True))
            file.seek(0, io.SEEK_END)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                archive.filelist.extend(self._members)
                write_members(archive, small)


@contextmanager
def stream_arrays(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any],
    small: Mapping[str, np.ndarray],
) -> Iterator[ArrayStream]:
    """Return a context that creates an ``.npz`` file and yields a writer of its large arrays.

    Large arrays are written row by row, so that memory holds one row at a time. The file appears
    when the block ends; after an error it does not appear. No further disk space is needed, and the
    file is closed between writes.

    Args:
        path: The file.
        shapes: Shapes of the large arrays by name.
        dtype: Data type of the large arrays.
        small: Arrays that are already in memory.
    """
    with atomic_path(path) as temporary:
        stream = ArrayStream(temporary, shapes, dtype)
        yield stream
        stream.finish(small)
