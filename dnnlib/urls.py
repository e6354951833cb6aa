"""Files named by a local path or an https URL; what a URL names is downloaded once and cached.

``https://host/name#sha256=<64 hex digits>`` pins the content: the digest is checked after a
download and again each time the cached file is used. A file appears in the cache whole or not at
all. Of the processes that ask for a URL at the same time, one downloads and the others wait for it;
where files cannot be locked, each downloads for itself. ``dnnlib.download`` tells what becomes of a
download that breaks off.
"""

import hashlib
import http.client
import os
import re
import secrets
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dnnlib.download import discard, download, part_files, progress_bar, sha256_of
from dnnlib.errors import DataError, UsageError
from dnnlib.https import reason

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

_POLL = 0.1  # seconds
_DEAD = 86400.0  # seconds without a byte; a living download has had its timeouts by then
_URL = re.compile(
    r"(https://[a-z0-9._:\[\]-]+(?:[/?][!-\"$-~]*)?)(?:#(?:sha256=([0-9a-f]{64}))?)?", re.IGNORECASE
)


def default_cache_dir() -> Path:
    """The cache folder: $INFLATIONARY_FLOWS_CACHE, or one in the user's cache folder."""
    if folder := os.environ.get("INFLATIONARY_FLOWS_CACHE"):
        return Path(folder)
    # The XDG specification says that a relative path there is to be ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    parent = xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")
    return Path(parent, "inflationary-flows")


def local_file(
    location: str,
    cache_dir: Path | None = None,
    *,
    max_bytes: int = 8 << 30,
    ssl_context: ssl.SSLContext | None = None,
) -> Path:
    """The local file that a path or an https URL (with or without ``#sha256=…``) stands for.

    Arguments:
        location: a path, where ``~`` is the home folder, or an https URL.
        cache_dir: where downloads are kept; ``default_cache_dir()`` if None.
        max_bytes: the largest download that is accepted.
        ssl_context: which certificates to trust; the system's if None.

    Raises:
        UsageError: the URL is not https, or is malformed.
        DataError: the path is missing or a folder, or the file cannot be downloaded whole, is
            larger than ``max_bytes`` or than the free space, comes slower than 10 KiB/s, or has
            another digest.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", location, re.IGNORECASE)
    if scheme is None:
        return _existing_file(location)
    if scheme[1].lower() != "https":
        raise UsageError(
            f"{scheme[1]}:// is not supported ({location!r}): give a local path or an https:// URL"
        )
    parts = _URL.fullmatch(location)
    if parts is None:
        raise UsageError(
            f"{location!r} is not of the form https://host/path or "
            "https://host/path#sha256=<64 hex digits>, percent-encoded and without a user name"
        )
    url, digest = parts[1], parts[2] and parts[2].lower()
    # The digest is part of the key: two users who pin different contents never share a file.
    key = hashlib.sha256(f"{url}#{digest}".encode()).hexdigest()
    basename = url.partition("?")[0].rpartition("/")[2]
    name = f"{key}-{re.sub(r'[^A-Za-z0-9._-]', '_', basename)[-80:]}"
    cached = (cache_dir or default_cache_dir()) / name
    try:
        if not _is_good(cached, digest):
            with _claim(cached) as part:
                # Another process may have downloaded it in the meantime.
                if not _is_good(cached, digest):
                    cached.unlink(missing_ok=True)
                    download(url, part, digest=digest, max_bytes=max_bytes, ssl_context=ssl_context)
                    os.replace(part, cached)
                    discard(part)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url}: {reason(error)}") from error
    return cached


def _existing_file(location: str) -> Path:
    path = Path(os.path.expanduser(location))
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot open the file {location!r}: {reason(error)}") from error
    if path.is_dir():
        raise DataError(f"{location!r} is a folder: give the path of a file")
    return path


def _is_good(cached: Path, digest: str | None) -> bool:
    try:
        return cached.is_file() and (digest is None or sha256_of(cached) == digest)
    except FileNotFoundError:  # another process has just removed it, since it is corrupt
        return False


@contextmanager
def _claim(cached: Path) -> Iterator[Path]:
    """The partial file of a download, of which this process is the only one to write there.

    With a lock it is the one that is left for a later download to go on from; without, it is this
    process's own and is removed. A process that dies loses its lock.
    """
    cached.parent.mkdir(parents=True, exist_ok=True)
    shared = cached.with_name(f"{cached.name}.part")
    lock = cached.with_name(f"{cached.name}.lock")
    held = _acquire(lock, shared)
    # In a shared cache, another user may have left files that only that user can write.
    usable = all(os.access(path, os.R_OK | os.W_OK) for path in part_files(shared) if path.exists())
    try:
        if held is not None and usable:
            yield shared
        else:
            with _own_part(cached) as part:
                yield part
    finally:
        if held is not None:
            # While it is held, so that whoever opens it later makes a new one.
            with suppress(OSError):
                lock.unlink()
            os.close(held)


def _acquire(lock: Path, part: Path) -> int | None:
    """The descriptor that holds the lock, for which it waits; None if there can be no lock."""
    if fcntl is None:
        return None
    with progress_bar("waiting for another process's download", None, 0) as bar:
        while True:
            try:
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError:
                return None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed it between these two steps.
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    return descriptor
            except (BlockingIOError, FileNotFoundError):
                pass
            except OSError:
                os.close(descriptor)
                return None
            os.close(descriptor)
            time.sleep(_POLL)
            with suppress(FileNotFoundError):
                bar.update(part.stat().st_size - bar.n)


@contextmanager
def _own_part(cached: Path) -> Iterator[Path]:
    for old in cached.parent.glob(f"{cached.name}.*.part*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _DEAD:
                old.unlink()
    # Not tempfile, whose files only their owner may read: caches are shared.
    part = cached.with_name(f"{cached.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
    finally:
        discard(part)
