"""Result files: ``.npz`` arrays and the ``.json`` of parameters beside them."""

import json
import platform
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping
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


def load_arrays(path: Path, required: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``; object arrays, which would need pickle, are refused.

    Raises:
        DataError: Missing or broken file, missing key, or object array.
    """
    try:
        # Opened here, since numpy leaves the file open when it finds no archive in it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give the path of an .npz of results") from error
    except BROKEN_FILE_ERRORS as error:
        raise DataError(f"{path} is not a readable .npz of plain arrays") from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array '{missing[0]}': it has {', '.join(arrays) or 'none'}")
    return arrays


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
