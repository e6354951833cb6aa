"""Files that appear whole or not at all."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dnnlib.errors import DataError, UsageError

_umask_lock = threading.Lock()


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``destination`` that replaces it if the block succeeds.

    The contents are on disk before the name is, so that a crash leaves the old file or the new
    one. If the block raises, the temporary file is removed and ``destination`` left as it was.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since some writers choose a format by it.
    handle, name = tempfile.mkstemp(
        dir=destination.parent, prefix=f".{destination.stem}-", suffix=destination.suffix
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(destination)
        _sync_folder(destination.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def require_new(paths: list[Path], overwrite: bool, option: str = "--save_dir") -> None:
    """Raises UsageError if a result exists already and may not be replaced.

    Args:
        paths: Of the results.
        overwrite: Whether they may be replaced.
        option: What to change to get others.
    """
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise UsageError(
            f"{existing[0]} exists: give another {option}, or --overwrite to replace it"
        )


def require_folder(path: Path) -> None:
    """Makes a folder, or raises DataError if something else has its name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be a folder: a file has that name") from error


def _umask() -> int:
    # The mask can only be read by setting it, for all threads.
    with _umask_lock:
        mask = os.umask(0)
        os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # Makes the rename itself durable. Windows cannot open folders, and needs no such step.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
