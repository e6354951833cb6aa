"""Connections by https and nothing else, which cannot be kept waiting, and what headers mean.

A connection is given up after ``TIMEOUT`` seconds without a byte, or with fewer than ``SLOWEST``
bytes per second on average over ``TIMEOUT`` seconds of waiting. This holds for headers as for
bodies, and so does a limit on all that an answer may send: an answer takes at most the time of that
limit at that rate.

Headers are read by RFC 9110: section 8.8 (validators), 13.1.5 (If-Range) and 14.4 (Content-Range).
"""

import http.client
import io
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.parse import urlsplit

TIMEOUT = 30.0  # seconds
SLOWEST = 10 << 10  # bytes per second
_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)")


class UnusableAnswer(Exception):
    """The server sent what no later attempt will mend."""


def https_opener(
    ssl_context: ssl.SSLContext | None, limit: int
) -> Callable[[urllib.request.Request], http.client.HTTPResponse]:
    """A function that sends a request, follows redirects to https, and returns the answer.

    Arguments:
        ssl_context: which certificates to trust; the system's if None.
        limit: the most bytes that an answer may have, with headers and framing. One that has more
            raises UnusableAnswer, be it while its body is read.
    """
    # Put together by hand: build_opener would add handlers for http, ftp, file and data.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", "inflationary-flows")]
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _HttpsHandler(ssl_context or ssl.create_default_context(), limit),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _HttpsRedirects(),
    ):
        opener.add_handler(handler)
    return lambda request: opener.open(request, timeout=TIMEOUT)


def body_length(headers: Message) -> int | None:
    """The bytes that the body is announced to have, or None.

    Raises:
        UnusableAnswer: it is not a number, or the body is in a coding, which nobody asked for.
    """
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        coding = headers.get(name, plain)
        if coding.strip().lower() != plain:
            raise UnusableAnswer(f"the server sent {name}: {coding}, which was not asked for")
    lengths = set(headers.get_all("Content-Length", ()))
    if not lengths or "Transfer-Encoding" in headers:
        return None
    length = lengths.pop()
    if lengths or not re.fullmatch("[0-9]+", length):
        raise UnusableAnswer(f"the server sent a Content-Length of {length!r}")
    return int(length)


def strong_validator(headers: Message) -> str | None:
    """What If-Range takes: a strong ETag or a Last-Modified that tells equal bytes, or None."""
    etag = headers.get("ETag", "")
    if re.fullmatch(r'"[!#-~]*"', etag):
        return etag
    modified = headers.get("Last-Modified", "")
    try:
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return None
    # A file can change twice in the second that it was sent in.
    return modified if age >= timedelta(seconds=1) else None


def content_range(headers: Message) -> tuple[int, int, int] | None:
    """First and last byte and the total that Content-Range tells; None if it tells no such."""
    told = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if told is None:
        return None
    first, last, total = map(int, told.groups())
    return (first, last, total) if first <= last < total else None


def may_pass(error: Exception) -> bool:
    """Whether another attempt may go better: after a reset, a timeout, or a server's own error."""
    cause = _cause(error)
    if isinstance(cause, urllib.error.HTTPError):
        return cause.code >= 500 or cause.code in (408, 429)
    passing = (TimeoutError, ConnectionError, ssl.SSLEOFError)
    return isinstance(cause, passing) and not isinstance(cause, ConnectionRefusedError)


def reason(error: Exception) -> str:
    """What an error says, on one line."""
    if isinstance(_cause(error), ssl.SSLEOFError):
        return "the connection was closed"
    return " ".join(str(_cause(error)).split()) or type(error).__name__


def _cause(error: Exception) -> object:
    # A URLError wraps what happened; its subclass HTTPError says it itself.
    return error.reason if type(error) is urllib.error.URLError else error


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


class _HttpsHandler(urllib.request.HTTPSHandler):
    def __init__(self, context: ssl.SSLContext, limit: int) -> None:
        super().__init__(context=context)
        self._arguments: dict[str, Any] = {"context": context, "limit": limit}

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req, **self._arguments)


class _Connection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, limit: int = 0, **options: Any) -> None:
        super().__init__(host, **options)
        self._limit = limit

    def connect(self) -> None:
        super().connect()
        # A body of unannounced length ends with the connection, and TLS tells an end from a break.
        sock: Any = self.sock
        sock.suppress_ragged_eofs = False
        self.sock = _Socket(sock, self._limit)


class _Socket:
    """What http.client uses of a socket, with what it receives watched over."""

    def __init__(self, sock: ssl.SSLSocket, limit: int) -> None:
        self._sock, self._limit = sock, limit
        self.sendall, self.close = sock.sendall, sock.close

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Watched(self._sock.makefile("rb", buffering=0), self._limit))


class _Watched(io.RawIOBase):
    """Another's bytes, as long as they come fast enough and are not too many."""

    def __init__(self, source: io.RawIOBase, limit: int) -> None:
        self._source, self._left = source, limit
        self._waited, self._came = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        # Only time spent here counts: a slow disk is not the server's fault.
        start = time.monotonic()
        count = self._source.readinto(buffer)
        self._waited += time.monotonic() - start
        self._came += count or 0
        self._left -= count or 0
        if self._left < 0:
            raise UnusableAnswer("the server sends far more than a file may have")
        if self._waited >= TIMEOUT:
            if self._came < SLOWEST * self._waited:
                raise TimeoutError(
                    f"timed out: {self._came} bytes came in {self._waited:.3g} seconds"
                )
            self._waited, self._came = 0.0, 0
        return count

    def close(self) -> None:
        self._source.close()
        super().close()
