"""Transfers go on where they broke off, end in time, and take nothing for what it is not."""

import io
import json
import re
import shutil
import socket
import socketserver
import ssl
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from itertools import chain, repeat
from pathlib import Path

import pytest
from misbehaving_server import BODY, DIGEST, ETAG, WRONG_DIGEST, Handler, Server

from dnnlib import download, https
from dnnlib.errors import DataError
from dnnlib.urls import local_file

Fetch = Callable[..., Path]
Names = Callable[[], list[str]]
Behaviour = Callable[[Handler], None]

CUT = 1_000_000
PINNED = f"/planned#sha256={DIGEST}"
LAST_MODIFIED = "Mon, 01 Jan 2024 12:00:00 GMT"
OLD = {"Last-Modified": LAST_MODIFIED, "Date": "Mon, 01 Jan 2024 12:00:01 GMT"}
OTHER_BODY = bytes(reversed(BODY))


def cut(at: int = CUT, **options: object) -> Behaviour:
    """Serves as it should, but breaks off at a byte of the file."""
    return lambda handler: handler.serve(cut=at, **options)


def serve(*arguments: object, **options: object) -> Behaviour:
    return lambda handler: handler.serve(*arguments, **options)


def answer(status: int, headers: dict[str, str], body: bytes = b"") -> Behaviour:
    return lambda handler: handler.reply(status, headers, body)


def ranges(server: Server) -> list[str | None]:
    return [asked.range for asked in server.asked]


def test_what_is_missing_is_asked_for_and_no_more(
    fetch: Fetch, server: Server, cached_names: Names
) -> None:
    server.plan.append(cut())
    path = fetch("/planned")
    assert path.read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={CUT}-"]
    assert server.asked[1].if_range == ETAG
    assert server.asked[1].bytes_sent == len(BODY) - CUT
    assert cached_names() == [path.name]


def test_a_later_call_goes_on(fetch: Fetch, server: Server, cached_names: Names) -> None:
    attempts = len(download._DELAYS) + 1
    server.plan.extend([cut(100), *[answer(503, {})] * (attempts - 1)])
    with pytest.raises(DataError, match=f"{attempts} attempts; 100 bytes are kept"):
        fetch("/planned")
    assert [Path(name).suffix for name in cached_names()] == [".part", ".json"]
    path = fetch("/planned")
    assert path.read_bytes() == BODY
    assert ranges(server)[attempts:] == ["bytes=100-"]
    assert cached_names() == [path.name]


@pytest.mark.parametrize(
    ("validators", "expected"),
    [
        ({"ETag": ETAG}, ETAG),
        (OLD, LAST_MODIFIED),
        ({**OLD, "ETag": ETAG}, ETAG),
        ({**OLD, "ETag": 'W/"weak"'}, LAST_MODIFIED),
    ],
)
def test_strong_validators_make_a_partial_file_resumable(
    fetch: Fetch, server: Server, validators: dict[str, str], expected: str
) -> None:
    server.plan.extend([cut(validators=validators), serve(validators=validators)])
    assert fetch("/planned").read_bytes() == BODY
    assert [(a.range, a.if_range) for a in server.asked[1:]] == [(f"bytes={CUT}-", expected)]


WEAK = [
    {},
    {"ETag": 'W/"weak"'},
    {"ETag": "unquoted"},
    {"ETag": '"no spaces here"'},
    {"ETag": ""},
    {"Last-Modified": LAST_MODIFIED},  # no Date
    {"Last-Modified": LAST_MODIFIED, "Date": LAST_MODIFIED},  # in the same second
    {"Last-Modified": "yesterday", "Date": LAST_MODIFIED},
    {"Last-Modified": LAST_MODIFIED, "Date": formatdate(0)},
]


@pytest.mark.parametrize("validators", WEAK)
def test_without_a_strong_validator_the_partial_file_is_not_trusted(
    fetch: Fetch, server: Server, cached_names: Names, validators: dict[str, str]
) -> None:
    server.plan.extend([cut(validators=validators), serve(OTHER_BODY, validators=validators)])
    assert fetch("/planned").read_bytes() == OTHER_BODY
    assert ranges(server) == [None, None]
    server.plan.extend([cut(5, validators=validators)] * 4)
    with pytest.raises(DataError, match="broke off at 5"):
        fetch("/planned?again")
    assert not [name for name in cached_names() if ".part" in name]


@pytest.mark.parametrize("validators", WEAK)
def test_a_pinned_digest_is_as_good_as_a_validator(
    fetch: Fetch, server: Server, validators: dict[str, str]
) -> None:
    server.plan.extend([cut(validators=validators), serve(validators=validators)])
    assert fetch(PINNED).read_bytes() == BODY
    assert [(a.range, a.if_range) for a in server.asked[1:]] == [(f"bytes={CUT}-", None)]


@pytest.mark.parametrize("location", ["/planned", PINNED])
def test_a_server_without_ranges_starts_anew(fetch: Fetch, server: Server, location: str) -> None:
    server.plan.extend([cut(), serve(ranges=False)])
    assert fetch(location).read_bytes() == BODY
    assert len(server.asked) == 2


NEW = {"ETag": '"second-version"'}


def lie(changes: dict[str, str | None], body: bytes = BODY) -> Behaviour:
    """An answer of status 206 that would be right but for some headers."""

    def answer(handler: Handler) -> None:
        told = {
            "Content-Range": f"bytes {CUT}-{len(body) - 1}/{len(body)}",
            "Content-Length": str(len(body) - CUT),
            "ETag": ETAG,
            **changes,
        }
        headers = {name: value for name, value in told.items() if value is not None}
        handler.reply(206, headers, body[CUT:])

    return answer


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [
        pytest.param(serve(OTHER_BODY, validators=NEW), 2, id="whole"),
        pytest.param(lie(NEW, OTHER_BODY), 3, id="If-Range ignored"),
        pytest.param(lie({}, OTHER_BODY[:-1]), 3, id="another total"),
    ],
)
def test_a_changed_entity_is_never_mixed_with_the_old(
    fetch: Fetch, server: Server, behaviour: Behaviour, requests: int
) -> None:
    server.plan.extend([cut(), behaviour, serve(OTHER_BODY, validators=NEW)])
    assert fetch("/planned").read_bytes() == OTHER_BODY
    assert len(server.asked) == requests


@pytest.mark.parametrize(
    "changes",
    [
        {"Content-Range": f"bytes {CUT - 1}-{len(BODY) - 1}/{len(BODY)}"},
        {"Content-Range": f"bytes {CUT + 1}-{len(BODY) - 1}/{len(BODY)}"},
        {"Content-Range": f"bytes 0-{len(BODY) - CUT - 1}/{len(BODY)}"},
        {"Content-Range": f"bytes 9-{len(BODY) - 1}/{len(BODY)}", "Content-Length": None},
        {"Content-Range": f"bytes {CUT}-{len(BODY) - 1}/{len(BODY) + 1}"},
        {"Content-Range": f"bytes {CUT}-{len(BODY)}/{len(BODY)}"},
        {"Content-Range": f"bytes {CUT}-{CUT - 1}/{len(BODY)}"},
        {"Content-Range": f"bytes {CUT}-{len(BODY) - 1}/*"},
        {"Content-Range": f"bytes */{len(BODY)}"},
        {"Content-Range": "bytes some"},
        {"Content-Range": None, "Content-Type": "multipart/byteranges; boundary=x"},
        {"Content-Length": str(len(BODY) - CUT - 1)},
        {"Content-Length": str(len(BODY))},
    ],
)
def test_an_answer_that_lies_about_its_range_is_not_used(
    fetch: Fetch, server: Server, changes: dict[str, str | None]
) -> None:
    server.plan.extend([cut(), lie(changes)])
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={CUT}-", None]


def test_a_server_may_give_less_than_was_asked_for(fetch: Fetch, server: Server) -> None:
    def some(handler: Handler) -> None:
        headers = {"Content-Range": f"bytes {CUT}-{CUT + 9}/{len(BODY)}", "Content-Length": "10"}
        handler.reply(206, headers, BODY[CUT : CUT + 10])

    server.plan.extend([cut(), some])
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={CUT}-", f"bytes={CUT + 10}-"]


def test_a_range_that_is_gone_is_a_reason_to_start_anew(fetch: Fetch, server: Server) -> None:
    server.plan.extend([cut(), answer(416, {"Content-Range": "bytes */10"})])
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={CUT}-", None]


@pytest.mark.parametrize("status", [201, 202, 203, 204, 205, 206, 207, 226, 304, 400, 403, 416])
def test_other_answers_to_a_plain_request_are_refused_at_once(
    fetch: Fetch, server: Server, cached_names: Names, status: int
) -> None:
    headers = {"Content-Range": f"bytes 0-{len(BODY) - 1}/{len(BODY)}"} if status == 206 else {}
    server.plan.append(answer(status, headers, BODY if status < 300 else b""))
    with pytest.raises(DataError, match=f"/planned: .*{status}"):
        fetch("/planned")
    assert len(server.asked) == 1
    assert cached_names() == []


def spoil(part: Path) -> None:
    part.write_bytes(bytes(part.stat().st_size))


def leave_partial(fetch: Fetch, server: Server, cache: Path, location: str = "/planned") -> Path:
    """The partial file of a download that broke off with CUT bytes."""
    server.plan.extend([cut(), *[answer(500, {})] * 3])
    with pytest.raises(DataError, match=f"{CUT} bytes are kept"):
        fetch(location)
    server.asked.clear()
    (part,) = cache.glob("*.part")
    assert part.stat().st_size == CUT
    return part


def test_wrong_digest_of_a_resumed_file_is_tried_from_scratch(
    fetch: Fetch, server: Server, cache: Path
) -> None:
    spoil(leave_partial(fetch, server, cache, PINNED))
    assert fetch(PINNED).read_bytes() == BODY
    assert ranges(server) == [f"bytes={CUT}-", None]


def test_but_only_once(fetch: Fetch, server: Server, cache: Path, cached_names: Names) -> None:
    location = f"/planned#sha256={WRONG_DIGEST}"
    leave_partial(fetch, server, cache, location)
    with pytest.raises(DataError, match=f"{DIGEST}, but {WRONG_DIGEST}"):
        fetch(location)
    assert ranges(server) == [f"bytes={CUT}-", None]
    leave_partial(fetch, server, cache, location)
    server.plan.extend([serve(), cut()])  # the one from scratch is itself resumed
    with pytest.raises(DataError, match=f"{DIGEST}, but {WRONG_DIGEST}"):
        fetch(location)
    assert ranges(server) == [f"bytes={CUT}-", None, f"bytes={CUT}-"]
    leave_partial(fetch, server, cache, location)
    server.plan.append(serve(ranges=False))  # this is one from scratch already
    with pytest.raises(DataError, match=f"{DIGEST}, but {WRONG_DIGEST}"):
        fetch(location)
    assert ranges(server) == [f"bytes={CUT}-"]
    assert cached_names() == []


@pytest.mark.parametrize(
    "note",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"validator": "a"}',
        b'{"validator": null, "total": null}',
        b'{"validator": 3, "total": 2500000}',
        json.dumps({"validator": "a\r\nHost: elsewhere", "total": len(BODY)}).encode(),
        json.dumps({"validator": ETAG, "total": CUT - 1}).encode(),
    ],
)
def test_an_unusable_note_is_a_reason_to_start_anew(
    fetch: Fetch, server: Server, cache: Path, note: bytes | None
) -> None:
    part = leave_partial(fetch, server, cache)
    path = download.part_files(part)[1]
    path.unlink() if note is None else path.write_bytes(note)
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == [None]


def test_a_whole_partial_file_needs_no_request(fetch: Fetch, server: Server, cache: Path) -> None:
    part = leave_partial(fetch, server, cache)
    part.write_bytes(BODY)
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == []
    fetch("/planned").unlink()
    leave_partial(fetch, server, cache).write_bytes(BODY)
    with pytest.raises(DataError, match=f"larger than {len(BODY) - 1}"):
        fetch("/planned", max_bytes=len(BODY) - 1)


@pytest.mark.parametrize("status", [404, 410])
def test_a_partial_file_of_what_is_gone_is_removed(
    fetch: Fetch, server: Server, cache: Path, cached_names: Names, status: int
) -> None:
    leave_partial(fetch, server, cache)
    server.plan.append(answer(status, {}))
    with pytest.raises(DataError, match=str(status)):
        fetch("/planned")
    assert cached_names() == []


def test_an_interruption_keeps_what_came(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", interrupt)
        server.plan.append(cut())
        with pytest.raises(KeyboardInterrupt):
            fetch("/planned")
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == [None, f"bytes={CUT}-"]


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


CHUNKED = {"Transfer-Encoding": "chunked", "ETag": ETAG}


def test_chunks(fetch: Fetch, server: Server) -> None:
    whole = chunks(BODY[:CUT], BODY[CUT:])
    server.plan.append(answer(200, CHUNKED, whole + b"0\r\nTrailer: x\r\n\r\n"))
    assert fetch("/planned").read_bytes() == BODY
    # RFC 9112, section 6.3: a length beside chunks does not count.
    server.plan.append(answer(200, {**CHUNKED, "Content-Length": "3"}, whole + b"0\r\n\r\n"))
    assert fetch("/planned?two-lengths").read_bytes() == BODY
    server.asked.clear()
    server.plan.append(answer(200, CHUNKED, chunks(BODY[:CUT], BODY[CUT:])[:-3]))
    assert fetch("/planned?broken").read_bytes() == BODY
    assert len(server.asked) == 2


# What may pass, and what does not.


@pytest.mark.parametrize(
    "behaviour",
    [
        *(pytest.param(answer(code, {}), id=str(code)) for code in (408, 429, 500, 502, 503, 504)),
        pytest.param(lambda handler: handler.reset(), id="reset"),
        pytest.param(lambda handler: None, id="no answer"),
        pytest.param(cut(0), id="no body"),
        pytest.param(cut(len(BODY) - 1), id="short"),
        pytest.param(answer(200, {"ETag": ETAG}, BODY[:-1]), id="broken without a length"),
        pytest.param(answer(200, CHUNKED, b"5\r\n" + BODY[:3]), id="broken chunk"),
    ],
)
def test_what_may_pass_is_tried_again(
    fetch: Fetch,
    server: Server,
    behaviour: Behaviour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download, "_DELAYS", (0.5, 1.5, 4.5))
    monkeypatch.setattr(time, "sleep", waits.append)
    server.plan.extend([behaviour] * 3)
    assert fetch("/planned").read_bytes() == BODY
    assert waits == [0.5, 1.5, 4.5]
    server.asked.clear()
    server.plan.extend([behaviour] * 9)
    with pytest.raises(DataError, match=r"/planned\?.* at the last of 4 attempts"):
        fetch("/planned?hopeless")
    assert len(server.asked) == 4
    assert waits == [0.5, 1.5, 4.5] * 2


def test_the_delays_are_bounded() -> None:
    assert 2 <= len(download._DELAYS) <= 5
    assert sum(download._DELAYS) < 60


def test_each_progress_is_worth_all_attempts_again(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PROGRESS", 100_000)
    server.plan.extend(cut(at) for at in range(200_000, len(BODY), 200_000))
    assert fetch("/planned").read_bytes() == BODY
    assert len(server.asked) == 13
    # Without ranges there is no progress, however much comes each time.
    server.asked.clear()
    server.plan.extend([cut(validators={})] * 20)
    with pytest.raises(DataError, match="at the last of 4 attempts"):
        fetch("/planned?hopeless")


# Time.


def dripping(drops: Iterator[bytes]) -> Behaviour:
    def drip(handler: Handler) -> None:
        for drop in drops:
            handler.wfile.write(drop)
            if handler.server.stop.wait(0.02):
                return

    return drip


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED_HEAD = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "status": repeat(b"H"),
    "headers": chain([HEAD], (b"X-%d: y\r\n" % n for n in range(10**6))),
    "one header": chain([HEAD], repeat(b"X")),
    "body": chain([HEAD + b"Content-Length: 1000000\r\n\r\n"], repeat(b"x")),
    "body after a good start": chain(
        [HEAD + b"Content-Length: 3000000\r\n\r\n", BODY], repeat(b"x")
    ),
    "chunk size": chain([CHUNKED_HEAD], repeat(b"0")),
    "trailers": chain([CHUNKED_HEAD + b"0\r\n"], repeat(b"X: y\r\n")),
    "continue": repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_server_that_drips_is_given_up(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(https, "TIMEOUT", 0.2)
    monkeypatch.setattr(download, "_DELAYS", ())
    server.plan.append(dripping(DRIPS[where]))
    start = time.monotonic()
    with pytest.raises(DataError, match=r"/planned.*timed out: \d+ bytes came in 0\.2"):
        fetch("/planned")
    assert time.monotonic() - start < 2


def test_a_slow_server_that_keeps_the_rate_is_not(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "TIMEOUT", 0.1)
    head = HEAD + b"Content-Length: 20000\r\n\r\n"
    server.plan.append(dripping(chain([head], [BODY[n : n + 1000] for n in range(0, 20000, 1000)])))
    assert fetch("/planned").read_bytes() == BODY[:20000]
    assert len(server.asked) == 1


# Size.


def flooding(head: bytes, drop: bytes) -> Behaviour:
    def flood(handler: Handler) -> None:
        handler.wfile.write(head)
        while not handler.server.stop.is_set():
            handler.wfile.write(drop * (50_000 // len(drop)))

    return flood


FLOODS = {
    "body": (HEAD + b"\r\n", b"x", "it is larger than 99999 bytes"),
    "chunks": (CHUNKED_HEAD, chunks(b"x" * 1000), "it is larger than 99999 bytes"),
    "small chunks": (CHUNKED_HEAD, chunks(b"x"), "it is larger than 99999 bytes"),
    "chunk extensions": (CHUNKED_HEAD, b"1;%b\r\nx\r\n" % (b"x" * 60), "sends far more"),
    "trailers": (CHUNKED_HEAD + b"0\r\n", b"X: y\r\n", "sends far more"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "sends far more"),
    "headers": (HEAD, b"X: y\r\n", "got more than 100 headers"),
    "status": (b"", b"x", "got more than 65536 bytes"),
}


@pytest.mark.parametrize("where", FLOODS)
def test_an_endless_answer_is_given_up(
    fetch: Fetch, server: Server, cached_names: Names, where: str
) -> None:
    head, drop, why = FLOODS[where]
    server.plan.append(flooding(head, drop))
    with pytest.raises(DataError, match=f"/planned: .*{why}"):
        fetch("/planned", max_bytes=99_999)
    assert len(server.asked) == 1
    assert cached_names() == []


def test_the_size_limit_holds_for_what_is_resumed(
    fetch: Fetch, server: Server, cache: Path, cached_names: Names
) -> None:
    for limit in (CUT - 1, CUT + 1):
        leave_partial(fetch, server, cache)
        with pytest.raises(DataError, match=f"larger than {limit} bytes"):
            fetch("/planned", max_bytes=limit)
        assert cached_names() == []
    leave_partial(fetch, server, cache)
    assert fetch("/planned", max_bytes=len(BODY)).read_bytes() == BODY


Usage = namedtuple("Usage", "total used free")


def test_a_file_that_does_not_fit_on_the_disk_is_not_begun(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch, cache: Path, cached_names: Names
) -> None:
    free = len(BODY) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    with pytest.raises(DataError, match=f"{len(BODY)} bytes .*{free} .*{re.escape(str(cache))}"):
        fetch("/planned")
    assert cached_names() == []
    # What is here already needs no room, and is not lost for the lack of it.
    leave = len(BODY) - CUT
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, len(BODY)))
    leave_partial(fetch, server, cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, leave - 1))
    with pytest.raises(DataError, match=f"{leave} bytes .*{leave - 1}"):
        fetch("/planned")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, leave))
    assert fetch("/planned").read_bytes() == BODY
    assert ranges(server) == [f"bytes={CUT}-"] * 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "br"},
        {"Transfer-Encoding": "gzip, chunked"},
        {"Content-Length": "-1"},
        {"Content-Length": "many"},
        {"Content-Length": "1, 2"},
        {"content-length": "3", "Content-Length": "4"},
    ],
)
def test_bodies_that_cannot_be_taken_as_they_are(
    fetch: Fetch, server: Server, cached_names: Names, headers: dict[str, str]
) -> None:
    server.plan.append(answer(200, {"ETag": ETAG, **headers}, BODY))
    name = next(iter(headers)).title()
    with pytest.raises(DataError, match=f"/planned: the server sent .*{name}.*"):
        fetch("/planned")
    assert len(server.asked) == 1
    assert cached_names() == []


def test_identity_is_no_coding(fetch: Fetch, server: Server) -> None:
    headers = {"Content-Encoding": "identity", "Content-Length": "3"}
    server.plan.append(answer(200, headers, b"abc"))
    assert fetch("/planned").read_bytes() == b"abc"


def test_a_length_that_is_too_small_is_told_by_the_digest_only(
    fetch: Fetch, server: Server
) -> None:
    server.plan.extend([answer(200, {"Content-Length": "10"}, BODY)] * 2)
    with pytest.raises(DataError, match=DIGEST):
        fetch(PINNED)
    # Those bytes are what HTTP calls the body.
    assert fetch("/planned").read_bytes() == BODY[:10]


def test_an_empty_file(fetch: Fetch, server: Server) -> None:
    server.plan.append(serve(b""))
    assert fetch("/planned").read_bytes() == b""


def test_a_body_without_a_length_is_whole_if_tls_or_the_digest_says_so(
    fetch: Fetch, server: Server
) -> None:
    server.plan.append(answer(200, {}, BODY))
    assert fetch(PINNED).read_bytes() == BODY
    assert len(server.asked) == 1
    assert fetch("/unsized").read_bytes() == BODY


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy: connects to where CONNECT says, and passes bytes on."""

    def handle(self) -> None:
        target = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.server.targets.append(target)
        host, port = target.split(":")
        with socket.create_connection((host, int(port))) as far:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.pass_on, args=(far, self.connection))
            back.start()
            self.pass_on(self.connection, far)
            back.join()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_proxy_of_the_environment_is_used_and_watched_over_too(
    fetch: Fetch, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.targets = []
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        server.plan.append(cut())
        assert fetch("/planned").read_bytes() == BODY
        assert ranges(server) == [None, f"bytes={CUT}-"]
        assert proxy.targets == [server.origin.removeprefix("https://")] * 2
        monkeypatch.setattr(https, "TIMEOUT", 0.2)
        server.plan.extend([dripping(repeat(b"H"))] * 4)
        with pytest.raises(DataError, match="timed out"):
            fetch("/planned?drips")
        proxy.shutdown()


# The progress bar.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "rank", "delay", "shown"),
    [
        (Terminal, None, 0.0, True),
        (Terminal, "0", 0.0, True),
        (Terminal, "1", 0.0, False),
        (Terminal, None, 60.0, False),
        (io.StringIO, None, 0.0, False),
    ],
)
def test_long_downloads_have_a_progress_bar(
    fetch: Fetch,
    monkeypatch: pytest.MonkeyPatch,
    stderr: type[io.StringIO],
    rank: str | None,
    delay: float,
    shown: bool,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(download, "_BAR_DELAY", delay)
    stream = stderr()
    monkeypatch.setattr(sys, "stderr", stream)
    fetch("/file/net.pkl")
    assert ("net.pkl" in stream.getvalue()) == shown
    assert ("2.38M" in stream.getvalue()) == shown
    assert shown or not stream.getvalue()


def test_the_system_certificates_hold_for_a_resumed_file_too(
    fetch: Fetch, server: Server, cache: Path, trust: ssl.SSLContext
) -> None:
    leave_partial(fetch, server, cache)
    with pytest.raises(DataError, match=r"(?i)certificate"):
        local_file(f"{server.origin}/planned", cache)
    assert ranges(server) == []
    assert fetch("/planned").read_bytes() == BODY
