"""Files named by a local path or an https URL; what a URL names is downloaded once and cached.

``https://host/name#sha256=<64 hex digits>`` pins the content: the digest is checked after a
download and again each time the cached file is used. A file appears in the cache whole or not at
all, so any number of processes may ask for the same URL at the same time.
"""

import hashlib
import http.client
import os
import re
import secrets
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from dnnlib.errors import DataError, UsageError

_TIMEOUT = 30.0  # seconds without a byte, not for the whole file
_CHUNK = 1 << 20  # bytes
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
            larger than ``max_bytes``, or has another digest.
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
    corrupt = False
    try:
        if cached.is_file():
            corrupt = digest is not None and _sha256(cached) != digest
            if not corrupt:
                return cached
        _download(url, digest, cached, max_bytes, ssl_context)
        corrupt = False
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url}: {_reason(error)}") from error
    finally:
        if corrupt:
            cached.unlink(missing_ok=True)
    return cached


def _existing_file(location: str) -> Path:
    path = Path(os.path.expanduser(location))
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot open the file {location!r}: {_reason(error)}") from error
    if path.is_dir():
        raise DataError(f"{location!r} is a folder: give the path of a file")
    return path


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        # The base class would read the body to its end, which a hostile server never sends.
        fp.close()
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirect to {newurl} refused, only https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(ssl_context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    # Put together by hand: build_opener would add handlers for http, ftp, file and data.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", "inflationary-flows")]
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPSHandler(context=ssl_context or ssl.create_default_context()),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _HttpsRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _download(
    url: str, digest: str | None, target: Path, max_bytes: int, ssl_context: ssl.SSLContext | None
) -> None:
    too_large = DataError(f"cannot download {url}: it is larger than {max_bytes} bytes")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose files only their owner may read: caches are shared.
    partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
    size, sha256 = 0, hashlib.sha256()
    try:
        with _opener(ssl_context).open(url, timeout=_TIMEOUT) as response, open(partial, "xb") as f:
            expected: int | None = response.length  # None where the server does not say
            if expected is not None and expected > max_bytes:
                raise too_large
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                sha256.update(chunk)
                f.write(chunk)
            f.flush()
            os.fsync(f.fileno())
        if expected is not None and size != expected:
            raise DataError(f"cannot download {url}: it broke off at {size} of {expected} bytes")
        if digest is not None and sha256.hexdigest() != digest:
            raise DataError(f"{url} has sha256 {sha256.hexdigest()}, but {digest} was asked for")
        os.replace(partial, target)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    finally:
        partial.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def _reason(error: Exception) -> str:
    # A URLError wraps what happened; its subclass HTTPError says it itself.
    cause = error.reason if type(error) is urllib.error.URLError else error
    return " ".join(str(cause).split()) or type(error).__name__
