"""Result files: ``.npz`` arrays and the ``.json`` of parameters beside them."""

import json
import math
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dnnlib
from dnnlib.errors import DataError
from dnnlib.files import atomic_path

# What numpy raises on bytes that it did not write.
BROKEN_FILE_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an ``.npz``, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


class ArrayStream:
    """Arrays of a known shape that are written to disk row by row.

    Args:
        folder: Where their files are made.
        shapes: Of each array by name.
        dtype: Of all.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]):
        self._folder, self._dtype = folder, dtype
        self._starts: dict[str, int] = {}
        for name, shape in shapes.items():
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            with self.path(name).open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                self._starts[name] = file.tell()
                file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)

    def put(self, name: str, index: int, row: np.ndarray) -> None:
        """Writes ``array[index] = row``."""
        self.put_rows(name, index * len(row), row)

    def put_rows(self, name: str, first: int, rows: np.ndarray) -> None:
        """Writes rows ``[n, D]`` from ``first`` on; leading axes of the array count as one."""
        width = math.prod(rows.shape[1:])
        with self.path(name).open("rb+") as file:
            file.seek(self._starts[name] + first * width * self._dtype.itemsize)
            file.write(np.ascontiguousarray(rows, self._dtype).data)

    def path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"


@contextmanager
def stream_arrays(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: np.dtype[Any],
    small: Mapping[str, np.ndarray],
) -> Iterator[ArrayStream]:
    """An ``.npz`` whose large arrays are written row by row; memory holds a row.

    The file appears when the block ends; if it raises, nothing does. Needs twice its size on disk.

    Args:
        path: The file.
        shapes: Of the large arrays.
        dtype: Of the large arrays.
        small: Arrays that are there already.
    """
    with atomic_path(path) as temporary:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
        try:
            stream = ArrayStream(folder, shapes, dtype)
            yield stream
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                for name in shapes:
                    archive.write(stream.path(name), f"{name}.npy")
                for name, array in small.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_arrays(path: Path) -> Iterator["SavedArrays"]:
    """The arrays of an ``.npz``, each read when it is asked for; object arrays are refused.

    Raises:
        DataError: Missing or broken file.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give the path of an .npz of results") from error
    except OSError as error:
        raise DataError(f"{path} is not a readable .npz of plain arrays") from error
    with file:
        try:
            # Opened here, since numpy leaves the file open when it finds no archive in it.
            archive = np.load(file, allow_pickle=False)
        except BROKEN_FILE_ERRORS as error:
            raise DataError(f"{path} is not a readable .npz of plain arrays") from error
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is one array, not an .npz of results")
        with archive:
            yield SavedArrays(path, archive)


class SavedArrays:
    """An open ``.npz``. Attributes: ``names`` of its arrays."""

    def __init__(self, path: Path, archive: Any):
        self._path, self._archive = path, archive
        self.names: list[str] = list(archive.files)

    def read(self, name: str) -> np.ndarray:
        """An array. Raises DataError if it is missing, broken or of objects."""
        if name not in self.names:
            has = ", ".join(self.names) or "none"
            raise DataError(f"{self._path} has no array '{name}': it has {has}")
        try:
            array: np.ndarray = self._archive[name]
        except BROKEN_FILE_ERRORS as error:
            raise DataError(
                f"{self._path} is broken in the array '{name}', or it is not plain: make it again"
            ) from error
        return array

    def numbers(self, name: str) -> np.ndarray:
        """An array of finite numbers; raises DataError if it holds anything else."""
        array = self.read(name)
        if array.dtype.kind not in "fiu":
            raise DataError(f"{self._path}: '{name}' holds {array.dtype}, where numbers should be")
        if not np.isfinite(array).all():
            raise DataError(f"{self._path}: '{name}' has values that are not finite")
        return array


def load_arrays(path: Path, required: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``; object arrays, which would need pickle, are refused.

    Raises:
        DataError: Missing or broken file, missing key, or object array.
    """
    with open_arrays(path) as saved:
        return {name: saved.read(name) for name in dict.fromkeys([*required, *saved.names])}


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError if it is missing or is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is JSON, but not an object of names and values")
    return content


def provenance() -> dict[str, Any]:
    """What a result was made with: versions of code and libraries, machine, time, command."""
    return {
        "code_version": dnnlib.__version__,
        "code_revision": _git_revision(),
        "libraries": {name: _version(name) for name in ("torch", "numpy", "click")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The commit of this clone, ``-dirty`` if files were changed; None outside one."""
    root = Path(dnnlib.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
