"""Atomic creation of files, and checks of paths."""

import hashlib
import itertools
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import psutil

from dnnlib.errors import DataError, UsageError

ABANDONED = 86400.0
"""Seconds since the last write after which no living process can be using a temporary file."""
_numbers = itertools.count()


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yield a temporary path, whose file replaces ``destination`` if the block succeeds.

    The contents are on disk before the file is renamed, so that a crash leaves the old file or the
    complete new file. If the block raises an error, the temporary file is removed and
    ``destination`` is unchanged. A killed process leaves its temporary file,
    ``.stem-partial-….suffix``. The next call for the same ``destination`` removes that file: at
    once on the same machine, after a day on other machines.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(destination)
    number = f"{os.getpid()}-{next(_numbers)}"
    # The suffix stays, since some writers choose the format by it.
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
        # torch's writer replaces the error of a full disk by its own.
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            cause.filename = cause.filename or str(destination)
            raise cause from None
        raise
    # Makes the rename durable. Windows cannot open folders, and does not need this step.
    if os.name == "posix":
        descriptor = os.open(destination.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _prefix(destination: Path, machine: bool = True) -> str:
    """Return the prefix of temporary file names, up to the process number."""
    return f".{destination.stem}-partial-" + (f"{_machine()}-" if machine else "")


def _machine() -> str:
    """Return some digits for this machine, or for the container with its own process numbers."""
    processes = ""
    with suppress(OSError):  # this file exists on Linux only
        processes = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {processes}".encode()).hexdigest()[:6]


def _remove_abandoned(destination: Path) -> None:
    """Remove the temporary files of processes that have ended."""
    everybody, ours = _prefix(destination, machine=False), _prefix(destination)
    with os.scandir(destination.parent) as entries:
        temporary = [Path(entry) for entry in entries if entry.name.startswith(everybody)]
    for path in temporary:
        with suppress(OSError):  # removed by another process, or not permitted
            old = time.time() - path.lstat().st_mtime > ABANDONED
            process = path.name.removeprefix(ours).partition("-")[0]
            ended = process.isdigit() and not psutil.pid_exists(int(process))
            if old or (path.name.startswith(ours) and ended):
                path.unlink()


def require_new(paths: list[Path], overwrite: bool, option: str = "--save_dir") -> None:
    """Raise UsageError if a result already exists and must not be replaced.

    Args:
        paths: The paths of the results.
        overwrite: Whether existing results may be replaced.
        option: Name of the option that changes the paths, for the error message.
    """
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise UsageError(
            f"{existing[0]} exists: give another {option}, or --overwrite to replace it"
        )


def require_there(*sources: object) -> None:
    """Raise DataError unless all given files exist.

    The check is fast, so that it can precede slow imports. Sources that are not paths, such as
    tables in memory, are ignored.
    """
    for path in sources:
        if isinstance(path, Path) and not path.exists():
            raise DataError(f"{path} does not exist: give an existing path")


def open_file(path: Path, what: str, most: int | None = None) -> BinaryIO:
    """Open an ordinary file for reading; a pipe, which would block forever, is rejected.

    Args:
        path: The file.
        what: Name of the kind of file with its article, for messages.
        most: Maximum size in bytes; None for any.

    Raises:
        DataError: The file is missing, is not an ordinary file, cannot be read, or is too large.
    """
    give = f"give the path of {what}"
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "device or pipe"
        raise DataError(f"{path} is a {kind}: {give}")
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: {give}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}: {give}") from error
    if most is not None and os.fstat(file.fileno()).st_size > most:
        file.close()
        raise DataError(f"{path} is larger than {most >> 20} MiB: {give}")
    return file


def require_folder(path: Path) -> None:
    """Create a folder and its parents, unless they exist.

    Raises:
        DataError: The path of the folder, or of a parent, is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(
            f"{path} cannot be a folder: a file has that name, so give another folder"
        ) from error


def require_room(path: Path, size: int) -> None:
    """Raise OSError unless an existing file can grow to ``size`` bytes; leave it empty.

    Without ``posix_fallocate``, for example on macOS, nothing is checked or changed.
    """
    if hasattr(os, "posix_fallocate"):  # not available on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(0)


def require_writable(folder: Path) -> None:
    """Raise DataError unless files can be written to a folder, which may have to be created.

    The check creates no lasting files or folders.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with TemporaryDirectory(dir=place):
            pass
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {place}: {error.strerror}. Give another folder"
        ) from error


LONGEST_NAME = 80
"""Largest number of letters in a name for results."""


def plain_name(name: object, option: str = "--data_name") -> str:
    """Return a name unchanged, after a check that it can be part of a file name.

    Raises:
        UsageError: The name has characters that are not allowed, or is too long.
    """
    if not (isinstance(name, str) and name == made_plain(name) != ""):
        raise UsageError(
            f"{option} is {name!r}: use up to {LONGEST_NAME} letters, digits and . _ + -"
        )
    return name


def made_plain(name: object, otherwise: str = "") -> str:
    """Convert a text to a name that can be part of a file name.

    The result is ``otherwise`` if no character is left.

    Example:
        >>> made_plain("my data"), made_plain("..", "table")
        ('my_data', 'table')
    """
    plain = re.sub(r"[^\w.+-]+", "_", str(name or ""))[:LONGEST_NAME]
    return plain if re.search(r"[^\W_]", plain) else otherwise
