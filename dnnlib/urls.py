"""Files given by a local path or an https URL, with a cache of downloads.

``https://host/name#sha256=<64 hex digits>`` pins the content: the digest is checked after a
download and again each time the cached file is used. Files appear in the cache atomically (pooch
writes them under a temporary name). If several processes request the same URL, one downloads and
the others wait. An interrupted download restarts the next time.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from filelock import FileLock
from tqdm import tqdm

from dnnlib.errors import DataError, UsageError

_TIMEOUT = 30.0  # seconds without a byte
_REDIRECTS = 10
_CHUNK = 1 << 16  # bytes
_BAR_DELAY = 2.0  # seconds; shorter downloads need no progress bar
_URL = re.compile(
    r"(https://[a-z0-9._:\[\]-]+(?:[/?][!-\"$-~]*)?)(?:#(?:sha256=([0-9a-f]{64}))?)?", re.IGNORECASE
)


def default_cache_dir() -> Path:
    """Return the folder of downloads: $INFLATIONARY_FLOWS_CACHE, or a part of the user's cache."""
    if folder := os.environ.get("INFLATIONARY_FLOWS_CACHE"):
        return Path(folder)
    # The XDG specification requires that a relative path is ignored.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    parent = xdg if os.path.isabs(xdg) else os.path.expanduser("~/.cache")
    return Path(parent, "inflationary-flows")


def local_file(location: str, cache_dir: Path | None = None, *, max_bytes: int = 8 << 30) -> Path:
    """Return the path of a local file, or of the downloaded copy of an https URL.

    A URL may end in ``#sha256=…``, the required SHA-256 of the file.

    Args:
        location: A path, where ``~`` is the home folder, or an https URL.
        cache_dir: Folder for downloads; ``default_cache_dir()`` if None.
        max_bytes: Maximum size of a download.

    Raises:
        UsageError: The URL is not https, or is malformed.
        DataError: The path is missing or a folder, or the file cannot be downloaded completely, is
            larger than ``max_bytes``, or does not have the required SHA-256.
    """
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", location, re.IGNORECASE)
    if scheme is None:
        path = Path(os.path.expanduser(location))
        try:
            path.stat()
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot open the file {location!r}: {_reason(error)}. Give the path of a "
                "readable file"
            ) from error
        if path.is_dir():
            raise DataError(f"{location!r} is a folder: give the path of a file")
        return path
    if scheme[1].lower() != "https":
        raise UsageError(
            f"{scheme[1]}:// is not supported ({location!r}): give a local path or an https:// URL"
        )
    parts = _URL.fullmatch(location)
    if parts is None:
        raise UsageError(
            f"{location!r} is not a valid URL: give https://host/path or "
            "https://host/path#sha256=<64 hex digits>, percent-encoded and without a "
            "user name"
        )
    digest = parts[2] and parts[2].lower()
    return _cached_download(parts[1], digest, cache_dir or default_cache_dir(), max_bytes)


def _cached_download(url: str, digest: str | None, cache: Path, max_bytes: int) -> Path:
    # Imported here, since most runs download nothing and these imports take a tenth of a second.
    import pooch

    # pooch logs its steps to stderr, in more detail than needed.
    pooch.get_logger().setLevel("WARNING")
    # The digest is part of the key: two users who pin different contents never share a file.
    key = hashlib.sha256(f"{url}#{digest}".encode()).hexdigest()
    basename = url.partition("?")[0].rpartition("/")[2]
    path = cache / f"{key}-{re.sub(r'[^A-Za-z0-9._-]', '_', basename)[-80:]}"
    try:
        # Try without a lock first, since a lock requires write permission.
        if path.is_file() and digest in (None, pooch.file_hash(str(path))):
            return path
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{path.name}.lock"):
            pooch.retrieve(
                url,
                known_hash=digest and f"sha256:{digest}",
                fname=path.name,
                path=cache,
                downloader=_Downloader(digest, max_bytes),
            )
    except OSError as error:  # errors of requests are OSErrors
        raise DataError(
            f"cannot download {url} ({_reason(error)}): check the URL and the connection"
        ) from error
    return path


class _Redirect(Exception):
    """Redirect by a server to another URL."""

    def __init__(self, url: str):
        self.url = url


@dataclass(frozen=True)
class _Downloader:
    """Downloader for pooch: https only, with a size limit.

    Attributes:
        digest: Required SHA-256 of the file, in lower case; None for any.
        max_bytes: Maximum size of the file.
    """

    digest: str | None
    max_bytes: int

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        import requests

        with requests.Session() as session:
            session.adapters.clear()
            session.mount("https://", requests.adapters.HTTPAdapter())
            with _answer(session, url) as answer:
                answer.raise_for_status()
                digest = self._copy(answer, url, Path(output_file))
        if self.digest not in (None, digest):
            raise DataError(
                f"{url} has sha256 {digest}, expected {self.digest}: download it again, or "
                "correct the digest"
            )

    def _copy(self, answer: Any, url: str, path: Path) -> str:
        """Write the body to a file, and return its SHA-256."""
        length = answer.headers.get("Content-Length", "")
        total = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        sha256, size = hashlib.sha256(), 0
        self._check_size(url, total or 0)
        title = url.partition("?")[0].rpartition("/")[2]
        # pooch creates a file that only its owner can read, but a cache can be shared.
        path.unlink()
        with path.open("xb") as file, _progress_bar(title, total) as bar:
            for chunk in answer.iter_content(_CHUNK):
                size += len(chunk)
                self._check_size(url, size)
                sha256.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
            if total not in (None, size):  # not all versions of urllib3 check this
                raise DataError(
                    f"cannot download {url}: the connection ended after {size} of {total} bytes, "
                    "so try again"
                )
            file.flush()
            os.fsync(file.fileno())
        return sha256.hexdigest()

    def _check_size(self, url: str, size: int) -> None:
        if size > self.max_bytes:
            raise DataError(
                f"cannot download {url}: the file is larger than {self.max_bytes} bytes, so give "
                "a smaller file"
            )


def _answer(session: Any, url: str) -> Any:
    """Return the response after all redirects, with its body still unread."""

    # requests would read the body of a redirect to its end, which a hostile server never sends.
    def stop_at_redirect(answer: Any, **options: Any) -> None:
        if answer.is_redirect:
            answer.close()
            raise _Redirect(urljoin(answer.url, answer.headers["Location"]))

    target = url
    for _ in range(_REDIRECTS):
        try:
            answer = session.get(
                target,
                stream=True,
                timeout=_TIMEOUT,
                # The digest and the size limit apply to the file, not to a compressed form.
                headers={"Accept-Encoding": "identity"},
                hooks={"response": stop_at_redirect},
            )
        except _Redirect as redirect:
            target = redirect.url
            if not target.lower().startswith("https://"):
                raise DataError(
                    f"cannot download {url}: the server redirects to {target}, but only https is "
                    "allowed. Give an https URL of the file itself"
                ) from redirect
            continue
        except ValueError as error:  # raised by urllib3 for an impossible host
            raise DataError(
                f"cannot download {url} ({_reason(error)}): check the URL and the connection"
            ) from error
        return answer
    raise DataError(
        f"cannot download {url}: more than {_REDIRECTS} redirects. Give the URL of the file itself"
    )


def _progress_bar(title: str, total: int | None) -> "tqdm[Any]":
    # Files are also fetched before ranks form a group, so only the environment has the rank.
    first = os.environ.get("RANK", "0") == "0"
    return tqdm(
        desc=title,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        delay=_BAR_DELAY,
        disable=None if first else True,
    )


def _reason(error: BaseException) -> str:
    """Return the message of the original error in a chain of errors, in one line."""
    # requests wraps urllib3's errors, which wrap the system's, in long sentences.
    while cause := error.__cause__ or error.__context__:
        error = cause
    return " ".join(str(error).split()) or type(error).__name__
