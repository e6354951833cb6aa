"""Files that appear whole or not at all."""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dnnlib.errors import DataError, UsageError

try:
    import fcntl
    import resource
except ModuleNotFoundError:  # on Windows
    fcntl = None  # type: ignore[assignment]
    resource = None  # type: ignore[assignment]

# Writers that claim a name at the same time can be in each other's way; they rarely are twice.
_CLAIMS = 5
SPARE_FILES = 64
"""That a process may have open beside the results that it writes."""
_umask_lock = threading.Lock()


@contextmanager
def atomic_path(destination: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``destination`` that replaces it if the block succeeds.

    The contents are on disk before the name is, so that a crash leaves the old file or the new
    one. If the block raises, the temporary file is removed and ``destination`` left as it was. A
    process that is killed leaves its temporary file, ``.stem-partial.suffix``, which the next
    writer of ``destination`` takes the place of.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _claim_temporary(destination)
    try:
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~umask())
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
    finally:
        os.close(handle)
    _sync_folder(destination.parent)


def _claim_temporary(destination: Path) -> tuple[int, Path]:
    """An empty file beside ``destination``, and a descriptor whose lock says that it is in use.

    The lock ends with the process, however that ends.
    """
    # The suffix stays, since some writers choose a format by it.
    name = f".{destination.stem}-partial{destination.suffix}"
    path = destination.with_name(name)
    for _ in range(_CLAIMS):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if not _remove_abandoned(path):
                break
            continue
        locked = _lock(handle, wait=True)
        if locked and _is_at(handle, path):
            return handle, path
        os.close(handle)
        if not locked:
            path.unlink(missing_ok=True)
            break
        # Another writer took it for abandoned, and removed it before it was locked.
    # Another writer of the same destination is at work, or nothing can be locked here.
    handle, random_name = tempfile.mkstemp(
        dir=destination.parent, prefix=f".{destination.stem}-", suffix=destination.suffix
    )
    return handle, Path(random_name)


def _remove_abandoned(path: Path) -> bool:
    """Removes a temporary file unless a living process uses it; whether the name is free now."""
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock(handle, wait=False):
            return False
        if _is_at(handle, path):
            path.unlink()
        return True
    finally:
        os.close(handle)


def _lock(handle: int, wait: bool) -> bool:
    """Whether the lock on an open file is now this descriptor's."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


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


def require_open_files(count: int, option: str) -> None:
    """Sees to it that so many results can be written at once; each keeps a file open.

    Args:
        count: Of the results.
        option: What to change to have fewer.

    Raises:
        UsageError: More files than a process may have open here; the message states both numbers.
    """
    if resource is None:
        return
    needed = count + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError):  # beyond the hard limit, or what the system bears
        raise UsageError(
            f"{count} files are to be written at once, but a process may have {soft} open here, "
            f"and {SPARE_FILES} are kept for others: lower {option}, or allow more with "
            f"'ulimit -n {needed}'"
        ) from None


def require_folder(path: Path) -> None:
    """Makes a folder, or raises DataError if something else has its name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{path} cannot be a folder: a file has that name") from error


def umask() -> int:
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
