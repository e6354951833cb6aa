"""An https server on this machine that does what it should, and on demand what it should not."""

import os
import random
import re
import socket
import ssl
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Self-signed for localhost and 127.0.0.1, valid from 2020 to 2120; the key protects nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBeDCCAR2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEjUQWsY/T8MhqPv
DbyNcq5z9v+TDQEMt05oIrfSWb7eVSObyJE/5XXiE/XEnVjq/f/+wBSsTTX6Mf4r
1RlUNZOjXjBcMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAPBgNVHRMBAf8E
BTADAQH/MA4GA1UdDwEB/wQEAwIChDAdBgNVHQ4EFgQU+PfsaQNM4i1TXOfev2m3
m8CGO7AwCgYIKoZIzj0EAwIDSQAwRgIhALdxJmh3qN2hcTPZCPTbtwOTK0zTNNhd
wRrlJuJOQNEzAiEA02OkpjLK392YAzCzQ7/iXAZiPgx7SJyqZdWlt19hgY0=
-----END CERTIFICATE-----
"""
PRIVATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQggLohMZOTXpD0rNix
EhWxRvCQ+V9TwEiLy4ywTyVFmgehRANCAARI1EFrGP0/DIaj7w28jXKuc/b/kw0B
DLdOaCK30lm+3lUjm8iRP+V14hP1xJ1Y6v3//sAUrE01+jH+K9UZVDWT
-----END PRIVATE KEY-----
"""
BODY = random.Random(0).randbytes(2_500_000)  # many chunks, and not a whole number
DIGEST = sha256(BODY).hexdigest()
WRONG_DIGEST = sha256(b"something else").hexdigest()
ETAG = '"first-version"'


@dataclass(frozen=True)
class Asked:
    """What one request asked for, and how many bytes of body it got."""

    range: str | None
    if_range: str | None
    sent: list[int]

    @property
    def bytes_sent(self) -> int:
        return sum(self.sent)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hits: Counter[str]
    # What answers the next requests for /planned, one after the other; then it behaves.
    plan: "deque[Callable[[Handler], None]]"
    asked: list[Asked]
    stop: threading.Event
    origin: str

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up, or refuse the certificate, are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def head(self, status: int, *headers: tuple[str, str]) -> None:
        # The base class would add a Date of its own.
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.head(status, *headers.items())
        self.wfile.write(body)

    def end_properly(self) -> None:
        """Tells the client that the connection ends here on purpose, which TLS can do."""
        with suppress(OSError):
            self.connection.unwrap()

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())

    def serve(
        self,
        body: bytes = BODY,
        *,
        validators: dict[str, str] | None = None,
        cut: int | None = None,
        ranges: bool = True,
    ) -> None:
        """Answers as RFC 9110 wants it; the body breaks off at byte ``cut`` of the file."""
        validators = {"ETag": ETAG} if validators is None else validators
        asked = self.server.asked[-1]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked.range)[1]) if asked.range else 0
        same = asked.if_range is None or asked.if_range in validators.values()
        if start >= len(body) and start and ranges and same:
            self.reply(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
            return
        continued = bool(start) and ranges and same
        start = start if continued else 0
        headers = {"Content-Length": str(len(body) - start), **validators}
        if continued:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.reply(206 if continued else 200, headers)
        rest = body[start : len(body) if cut is None else cut]
        for place in range(0, len(rest), 50_000):
            self.wfile.write(rest[place : place + 50_000])
            asked.sent.append(len(rest[place : place + 50_000]))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.hits[path] += 1
        length = {"Content-Length": str(len(BODY))}
        if path == "/planned":
            self.server.asked.append(
                Asked(self.headers.get("Range"), self.headers.get("If-Range"), [])
            )
            plan = self.server.plan
            (plan.popleft() if plan else Handler.serve)(self)
        elif path.startswith("/file"):
            self.reply(200, length, BODY)
        elif path == "/unsized":
            self.reply(200, {}, BODY)
            self.end_properly()
        elif path == "/truncated":
            self.reply(200, length, BODY[:-1])
        elif path == "/huge":
            self.reply(200, {"Content-Length": str(1 << 60)})
        elif path == "/truncated-chunk":
            self.reply(200, {"Transfer-Encoding": "chunked"}, b"ff\r\nabc")
        elif path == "/stall":
            self.reply(200, length, BODY[:1000])
            self.server.stop.wait(10)
        elif path == "/redirect":
            self.reply(302, {"Location": self.path.partition("?")[2]})
        elif path == "/redirect-endless":
            self.reply(302, {"Location": "/file"})
            while not self.server.stop.is_set():
                self.wfile.write(BODY)
        elif path == "/loop":
            self.reply(302, {"Location": "/loop"})
        else:
            self.reply(int(path[1:]), {"Content-Length": "0"})


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """A server on a free port; ``folder`` is for its certificate."""
    pem = folder / "server.pem"
    pem.write_text(CERTIFICATE + PRIVATE_KEY)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    server = Server(("127.0.0.1", 0), Handler)
    # The handshake happens in the request's own thread, so that a failed one stops no other.
    server.socket = tls.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
    )
    server.hits, server.plan, server.asked = Counter(), deque(), []
    server.stop = threading.Event()
    server.origin = f"https://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
