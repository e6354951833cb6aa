"""Result files: ``.npz`` arrays and ``.json`` files of their parameters."""

import json
import lzma
import math
import platform
import subprocess
import sys
import tokenize
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch

import dnnlib
from dnnlib.errors import DataError
from dnnlib.files import atomic_path, open_file
from torch_utils.distributed import TF32
from torch_utils.inert_pickle import shown
from torch_utils.tensor_files import FOREIGN_ERRORS

_FOREIGN_ERRORS = (*FOREIGN_ERRORS, OSError, SyntaxError, lzma.LZMAError, tokenize.TokenError)
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
MAX_INFLATED_BYTES = 256 << 20
"""Maximum size of the arrays of a compressed file.

A file whose arrays are larger must be as large as they are.
"""
MAX_JSON_BYTES = 8 << 20
MOST_AXES, MOST_TOLD = 8, 20


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to an ``.npz`` file atomically."""
    # Without savez: before NumPy 2.1 it treats allow_pickle as the name of an array, and on a full
    # disk it leaves an archive that fails again when it is garbage-collected.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        write_members(archive, arrays)


def write_members(archive: zipfile.ZipFile, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays, by name, as ``.npy`` members to a zip archive that becomes an ``.npz``."""
    for name, array in arrays.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


@contextmanager
def open_arrays(path: Path) -> Iterator["SavedArrays"]:
    """Open an ``.npz`` file, and yield a reader of its arrays; object arrays are rejected.

    Raises:
        DataError: The file is missing or damaged, or declares far more bytes than it contains.
    """
    with open_file(path, "an .npz of results") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise DataError(f"{path} is a single array: give an .npz of results")
        try:
            archive = zipfile.ZipFile(file)
        except _FOREIGN_ERRORS as error:
            raise DataError(f"{path} is not a readable .npz of plain arrays") from error
        with archive:
            promised = sum(member.file_size for member in archive.infolist())
            if promised > max(path.stat().st_size, MAX_INFLATED_BYTES):
                raise DataError(
                    f"{path} declares {promised} bytes of arrays, more than it contains: the "
                    f"limit for compressed arrays is {MAX_INFLATED_BYTES >> 20} MiB, so save "
                    "larger arrays uncompressed"
                )
            yield SavedArrays(path, archive)


class Header(NamedTuple):
    """Header of an array in a file.

    Attributes:
        shape: Shape of the array.
        by_columns: Whether values are stored column by column (Fortran order).
        dtype: Data type of the array.
    """

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype[Any]


class SavedArrays:
    """Reader of the arrays in an open ``.npz`` file.

    Attributes:
        path: Path of the file.
        names: Names of the arrays in the file.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path, self._archive = path, archive
        self._members = {
            member.filename.removesuffix(".npy"): member
            for member in archive.infolist()
            if member.filename.endswith(".npy")
        }
        self.names: list[str] = list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[Header, IO[bytes]]]:
        """Open an array, and yield its header and a file that is positioned after the header.

        Raises:
            DataError: The array is missing or damaged, contains objects, or does not have the size
                in its header.
        """
        if name not in self._members:
            names = ", ".join(shown(known) for known in self.names[:MOST_TOLD]) or "none"
            more = ", ..." if len(self.names) > MOST_TOLD else ""
            raise DataError(
                f"{self.path} has no array '{name}': give a file with this array. Its arrays are "
                f"{names}{more}"
            )
        member = self._members[name]
        with self.reading(name):
            file = self._archive.open(member)
        with file:
            yield _read_header(file, member.file_size, self._broken(name)), file

    def header(self, name: str) -> Header:
        """Return the header of an array, for the same errors as ``open``."""
        with self.open(name) as (header, _):
            return header

    def read(self, name: str, *part: slice) -> np.ndarray:
        """Return an array by its name, or a part of it.

        Raises:
            DataError: The array is missing or damaged, contains objects, or does not have the size
                in its header.
        """
        broken = self._broken(name)
        with self.open(name), _reading(broken), self._archive.open(self._members[name]) as file:
            array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        array = of_characters(array, broken)
        return array[part] if part else array

    def numbers(self, name: str) -> np.ndarray:
        """Return an array after a check that it contains finite numbers, in native byte order.

        Raises:
            DataError: The array contains values that are not finite, or that are not numbers.
        """
        return self._finite(name, self.read(name))

    def rows(self, name: str, size: int) -> Iterator[np.ndarray]:
        """Yield the rows of an array of finite numbers, in batches for files larger than memory.

        Args:
            name: Name of the array.
            size: Number of rows of a batch; the last batch can be smaller.

        Raises:
            DataError: The array is missing or damaged, is not stored row by row, or contains values
                that are not finite, or that are not numbers.
        """
        with self.open(name) as (header, file):
            if header.by_columns or not header.shape:
                raise DataError(
                    f"{self.path}: the array '{name}' of shape {list(header.shape)} is not stored "
                    "row by row: save it with at least one axis and in C order"
                )
            for start in range(0, header.shape[0], size):
                shape = (min(size, header.shape[0] - start), *header.shape[1:])
                count = math.prod(shape) * header.dtype.itemsize
                with self.reading(name):
                    content = file.read(count)
                if len(content) != count:
                    raise self._broken(name)
                yield self._finite(name, np.frombuffer(content, header.dtype).reshape(shape))

    def reading(self, name: str) -> AbstractContextManager[None]:
        """Return a context that converts errors about damaged bytes of an array to DataError."""
        return _reading(self._broken(name))

    def _finite(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in "fiu":
            raise DataError(
                f"{self.path}: the array '{name}' contains {array.dtype}, expected numbers: make "
                "the file again"
            )
        if not np.isfinite(array).all():
            raise DataError(
                f"{self.path}: the array '{name}' has values that are not finite: make the file "
                "again"
            )
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _broken(self, name: str) -> DataError:
        return DataError(
            f"{self.path}: the array '{shown(name)}' is damaged or not plain: make the file again"
        )


@contextmanager
def _reading(broken: DataError) -> Iterator[None]:
    """Convert errors of NumPy or zipfile about broken bytes to this error, in this block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for files written by Python 2, which are supported
            yield
    except _FOREIGN_ERRORS as error:
        raise broken from error


def _read_header(file: IO[bytes], size: int, broken: DataError) -> Header:
    """Return the header of an array of ``size`` bytes; raise ``broken`` if it does not match."""
    with _reading(broken):
        version = np.lib.format.read_magic(file)
    if version not in HEADER_READERS:
        raise broken
    with _reading(broken):
        header = Header(*HEADER_READERS[version](file))
    count = math.prod(header.shape)
    plain = header.dtype.kind not in "OV" and len(header.shape) <= MOST_AXES
    sound = min(header.shape, default=0) >= 0 and count <= size
    if not (plain and sound) or file.tell() + count * header.dtype.itemsize != size:
        raise broken
    return header


@contextmanager
def open_array(path: Path) -> Iterator[tuple[Header, IO[bytes]]]:
    """Open an ``.npy`` file, and yield its header and the file, positioned after the header.

    Raises:
        DataError: The file is missing or damaged, contains objects, or does not have the size in
            its header.
    """
    broken = DataError(f"{path} is not a readable .npy of plain numbers")
    with open_file(path, "a .npy of numbers") as file:
        yield _read_header(file, path.stat().st_size, broken), file


def load_array(path: Path) -> np.ndarray:
    """Return the array in an ``.npy`` file.

    Raises:
        DataError: The file is missing or damaged, contains objects, or does not have the size in
            its header.
    """
    broken = DataError(f"{path} is not a readable .npy of plain numbers")
    with open_array(path) as (_, file), _reading(broken):
        file.seek(0)
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return of_characters(array, broken)


def of_characters(array: np.ndarray, broken: DataError) -> np.ndarray:
    """Return an array, after a check that its texts have valid Unicode code points.

    Arrays of numbers are returned unchanged. For invalid code points, which Python cannot
    represent, the error ``broken`` is raised.
    """
    if array.dtype.kind == "U" and array.nbytes:
        codes = np.dtype("u4").newbyteorder(array.dtype.byteorder)
        if np.ascontiguousarray(array).view(codes).max() > sys.maxunicode:
            raise broken
    return array


def load_arrays(path: Path, required: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Return the arrays in an ``.npz`` file by name; object arrays are rejected.

    Raises:
        DataError: The file is missing or damaged, lacks one of the ``required`` arrays, or has an
            object array.
    """
    with open_arrays(path) as saved:
        return {name: saved.read(name) for name in dict.fromkeys([*required, *saved.names])}


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping as an indented JSON file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Raises:
        DataError: The file is missing, too large, or not a JSON object.
    """
    with open_file(path, "a JSON file of this project", MAX_JSON_BYTES) as file:
        try:
            content = json.loads(file.read().decode("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"{path} is not readable JSON: restore it from a copy, or make it again"
            ) from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} is JSON, but not an object of names and values: restore it from a copy"
        )
    return content


def last_line(path: Path) -> dict[str, Any] | None:
    """Return the last line of a ``.jsonl`` file, a JSON object; None if there is none.

    Raises:
        DataError: The file cannot be read, or its last line is not JSON.
    """
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        value = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: the last line is not readable JSON: remove this line") from error
    return value if isinstance(value, dict) else None


def provenance(moment: str = "finished") -> dict[str, Any]:
    """Return the provenance of a result: versions of code and libraries, machine, time, command.

    Args:
        moment: Key of the present time in the result, for example ``finished``.
    """
    return {
        "code_version": dnnlib.__version__,
        "code_revision": _git_revision(),
        "libraries": {name: _version(name) for name in ("torch", "numpy", "click")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "tf32": TF32,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        moment: datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the commit of this clone, with ``-dirty`` if files were changed; None outside one."""
    root = Path(dnnlib.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode().strip() or None
