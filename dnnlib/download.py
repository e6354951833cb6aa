"""The transfer of one file, resumed where it broke off.

What came before a connection broke, or the process was killed, stays in a partial file, and beside
it a note of the entity that it is a part of. The next attempt asks for the missing bytes alone
(RFC 9110, section 14: Range, Content-Range), and only of the same entity (section 13.1.5:
If-Range), which a strong ETag or Last-Modified tells. Without such a validator a partial file is
resumed only if a digest will show what came out. Bytes that do not continue it replace it.

What may pass (a reset, a timeout, a body too short, the statuses 408, 429 and 5xx) is tried again
after each of ``_DELAYS``, which start anew when the partial file has outgrown all before by
``_PROGRESS`` bytes. How long an attempt can take, ``dnnlib.https`` says.
"""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.request import Request

from tqdm import tqdm

from dnnlib.errors import DataError
from dnnlib.https import (
    UnusableAnswer,
    body_length,
    content_range,
    https_opener,
    may_pass,
    reason,
    strong_validator,
)
from dnnlib.logs import logger

_DELAYS = (1.0, 3.0, 9.0)  # seconds
_PROGRESS = 1 << 20  # bytes
_CHUNK = 1 << 16  # bytes
_BAR_DELAY = 2.0  # seconds; what takes less needs no progress bar


def download(
    url: str, part: Path, *, digest: str | None, max_bytes: int, ssl_context: ssl.SSLContext | None
) -> None:
    """Leaves the whole file at ``part``, where an earlier call may have left the beginning of it.

    The caller sees to it that nobody else writes there. If the download fails, what came stays if
    it can be resumed; bytes known to be wrong do not. A resumed file with the wrong digest is
    downloaded from the start, once.

    Arguments:
        digest: SHA-256 in lower case, which the file must have; None for any.
        max_bytes: the largest file that is accepted.
        ssl_context: which certificates to trust; the system's if None.

    Raises:
        DataError: the answer cannot be used, the file is larger than ``max_bytes`` or has another
            digest, or all attempts broke off.
        OSError, http.client.HTTPException, ValueError: no connection, or none that is secure, no
            such file there, or no room here.
    """
    transfer = _Transfer(url, part, digest, max_bytes, ssl_context)
    delays, attempts, furthest = list(_DELAYS), 0, _size(part)
    try:
        while True:
            try:
                attempts += 1
                return transfer.attempt()
            except _Broken as error:
                if _size(part) >= furthest + _PROGRESS:
                    delays, furthest = list(_DELAYS), _size(part)
                if not delays:
                    kept = _resumable(part, digest)[0]
                    rest = f"; {kept} bytes are kept to go on from next time" if kept else ""
                    raise DataError(
                        f"cannot download {url}: {error}, at the last of {attempts} attempts{rest}"
                    ) from error
                logger.warning(f"download of {url}: {error}; trying again in {delays[0]:g} s")
                time.sleep(delays.pop(0))
    except BaseException:
        if _resumable(part, digest)[0] == 0:
            discard(part)
        raise


def part_files(part: Path) -> tuple[Path, Path]:
    """The files that stand for an unfinished download: its bytes, and the note of their entity."""
    return part, part.with_name(f"{part.name}.json")


def discard(part: Path) -> None:
    """Removes both."""
    for path in part_files(part):
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal digits."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest()


def progress_bar(title: str, total: int | None, initial: int) -> "tqdm[Any]":
    """Counts bytes on the first rank's terminal, if it takes long."""
    # Files are fetched before ranks form a group too, so that only the environment tells.
    first = os.environ.get("RANK", "0") == "0"
    return tqdm(
        desc=title,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        delay=_BAR_DELAY,
        disable=None if first else True,
    )


class _Broken(Exception):
    """An attempt ended for a reason that may pass."""


@dataclass(frozen=True)
class _Entity:
    """What a partial file is a part of.

    Attributes:
        validator: what If-Range takes; None if nothing tells these bytes from others.
        total: bytes of the whole; None if the server did not say.
    """

    validator: str | None
    total: int | None


def _resumable(part: Path, digest: str | None) -> tuple[int, _Entity]:
    """How many bytes are here that may be kept, and of what."""
    try:
        note = json.loads(part_files(part)[1].read_text(encoding="utf-8"))
        validator, total = note["validator"], note["total"]
    except (OSError, ValueError, TypeError, KeyError):
        validator, total = None, None
    if not (isinstance(validator, str) and re.fullmatch("[ -~]+", validator)):
        validator = None
    if not isinstance(total, int):
        total = None
    size = _size(part)
    trusted = validator is not None or digest is not None
    if not trusted or (total is not None and size > total):
        size = 0
    return size, _Entity(validator, total)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


class _Transfer:
    def __init__(
        self,
        url: str,
        part: Path,
        digest: str | None,
        max_bytes: int,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._url, self._part, self._digest, self._max_bytes = url, part, digest, max_bytes
        # Honest headers and framing take far less than the file itself.
        self._open = https_opener(ssl_context, limit=2 * max_bytes + (1 << 20))
        self._resumed = self._afresh = False

    def attempt(self) -> None:
        """Goes on from the bytes that are here until the file is whole, or raises."""
        try:
            start, entity = _resumable(self._part, self._digest)
            self._resumed = start > 0
            self._check_size(start)
            if start == 0 or start != entity.total:
                self._transfer(start, entity)
            self._check_digest()
        except UnusableAnswer as error:
            discard(self._part)
            raise DataError(f"cannot download {self._url}: {error}") from error

    def _transfer(self, start: int, known: _Entity) -> None:
        with self._answer(start, known) as response:
            length = body_length(response.headers)
            if start and response.status == 206:
                entity = self._continued(response, start, known, length)
            elif response.status == 200:
                start, self._resumed = 0, False
                entity = _Entity(strong_validator(response.headers), length)
            else:
                raise UnusableAnswer(f"the server answered {response.status}, not with the file")
            self._check_size(entity.total or 0)
            self._check_room((entity.total or 0) - start)
            with open(self._part, "ab" if start else "wb") as file:
                # After the file is emptied: a note never stands beside bytes of another entity.
                note = json.dumps(asdict(entity))
                part_files(self._part)[1].write_text(note, encoding="utf-8")
                self._copy(response, file, start, entity.total)

    def _answer(self, start: int, known: _Entity) -> http.client.HTTPResponse:
        request = Request(self._url)
        if start:
            request.add_header("Range", f"bytes={start}-")
            if known.validator is not None:
                request.add_header("If-Range", known.validator)
        try:
            return self._open(request)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            if error.code in (404, 410, 416):
                discard(self._part)
            if may_pass(error) or (start and error.code == 416):
                raise _Broken(reason(error)) from error
            raise
        except (OSError, http.client.HTTPException) as error:
            if may_pass(error):
                raise _Broken(reason(error)) from error
            raise

    def _continued(
        self, response: http.client.HTTPResponse, start: int, known: _Entity, length: int | None
    ) -> _Entity:
        """The entity that an answer of status 206 continues, if it is the known one."""
        first, last, total = content_range(response.headers) or (-1, -1, -1)
        validator = strong_validator(response.headers)
        if (
            first != start
            or known.total not in (None, total)
            or length not in (None, last - first + 1)
            or (known.validator and validator and known.validator != validator)
        ):
            discard(self._part)
            raise _Broken("the server went on with other bytes than were asked for")
        return _Entity(known.validator, total)

    def _copy(
        self, response: http.client.HTTPResponse, file: IO[bytes], size: int, total: int | None
    ) -> None:
        title = self._url.partition("?")[0].rpartition("/")[2]
        with progress_bar(title, total, size) as bar:
            while size != total:
                try:
                    # Not read, which keeps what came to itself until it has all.
                    chunk = response.read1(_CHUNK if total is None else min(_CHUNK, total - size))
                except (OSError, http.client.HTTPException) as error:
                    if total is None and self._digest and sha256_of(self._part) == self._digest:
                        break  # the server only failed to say that this was all
                    raise self._broken_off(size, total, reason(error)) from error
                if not chunk:
                    if total is None:
                        break
                    raise self._broken_off(size, total, "the connection was closed")
                size += len(chunk)
                self._check_size(size)
                file.write(chunk)
                file.flush()  # what is in a buffer is lost to a process that is killed
                bar.update(len(chunk))
        os.fsync(file.fileno())

    def _broken_off(self, size: int, total: int | None, why: str) -> _Broken:
        whole = "an unknown number of" if total is None else total
        return _Broken(f"it broke off at {size} of {whole} bytes ({why})")

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise UnusableAnswer(f"it is larger than {self._max_bytes} bytes")

    def _check_room(self, missing: int) -> None:
        folder = self._part.parent
        free = shutil.disk_usage(folder).free
        if missing > free:
            what = f"{missing} bytes are to come, but {free} are free on the disk of"
            raise OSError(errno.ENOSPC, what, str(folder))

    def _check_digest(self) -> None:
        if self._digest is None or (found := sha256_of(self._part)) == self._digest:
            return
        discard(self._part)
        if self._resumed and not self._afresh:
            self._afresh = True
            raise _Broken("the resumed file has the wrong sha256")
        raise DataError(f"{self._url} has sha256 {found}, but {self._digest} was asked for")
