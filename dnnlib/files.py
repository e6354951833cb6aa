"""Files that appear whole or not at all."""

import hashlib
import itertools
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from dnnlib.errors import DataError, UsageError

ABANDONED = 86400.0
"""Seconds since the last byte, after which no living process can be at work on a file."""
_numbers = itertools.count()


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``destination`` that replaces it if the block succeeds.

    The contents are on disk before the name is, so that a crash leaves the old file or the new
    one. If the block raises, the temporary file is removed and ``destination`` left as it was. A
    process that is killed leaves its temporary file, ``.stem-partial-….suffix``, which the next
    writer of ``destination`` on the same machine removes, or any writer a day later.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(destination)
    number = f"{os.getpid()}-{next(_numbers)}"
    # The suffix stays, since some writers choose a format by it.
    temporary = destination.with_name(f"{_prefix(destination)}{number}{destination.suffix}")
    temporary.open("xb").close()
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(destination)
    except BaseException as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        # torch's writer hides the error of a full disk behind one of its own.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            cause.filename = cause.filename or str(destination)
            raise cause from None
        raise
    # Makes the rename itself durable. Windows cannot open folders, and needs no such step.
    if os.name == "posix":
        descriptor = os.open(destination.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _prefix(destination: Path, machine: bool = True) -> str:
    """How the names of temporary files begin, up to the process's number."""
    return f".{destination.stem}-partial-" + (f"{_machine()}-" if machine else "")


def _machine() -> str:
    """Some digits for this machine, or for the container that numbers processes on its own."""
    processes = ""
    with suppress(OSError):  # only Linux has such
        processes = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:6]


def _remove_abandoned(destination: Path) -> None:
    """Removes the temporary files of processes that have ended."""
    everybody, ours = _prefix(destination, machine=False), _prefix(destination)
    with os.scandir(destination.parent) as entries:
        temporary = [Path(entry) for entry in entries if entry.name.startswith(everybody)]
    for path in temporary:
        with suppress(OSError):  # another removed it, or may and this process may not
            old = time.time() - path.lstat().st_mtime > ABANDONED
            process = path.name.removeprefix(ours).partition("-")[0]
            ended = process.isdigit() and not psutil.pid_exists(int(process))
            if old or (path.name.startswith(ours) and ended):
                path.unlink()


def require_new(paths: list[Path], overwrite: bool, option: str = "--save_dir") -> None:
    """Raises UsageError if a result exists already and may not be replaced.

    Args:
        paths: The paths of the results.
        overwrite: Whether they may be replaced.
        option: The option that changes them.
    """
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise UsageError(
            f"{existing[0]} exists: give another {option}, or --overwrite to replace it"
        )


def require_there(*paths: Path | None) -> None:
    """Raises DataError unless all files that are named exist: before what reads them is loaded."""
    for path in paths:
        if path is not None and not path.exists():
            raise DataError(f"{path} does not exist")


def require_folder(path: Path) -> None:
    """Makes a folder, or raises DataError if something else has its name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be a folder: a file has that name") from error


def require_room(path: Path, size: int) -> None:
    """Raises OSError unless an empty file could have so many bytes now, where this can be known."""
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(0)


def require_writable(folder: Path) -> None:
    """Raises DataError unless a folder could be made and written, of which nothing is left."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with TemporaryDirectory(dir=place):
            pass
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {place}: {error.strerror}") from error
