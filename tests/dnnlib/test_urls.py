"""Paths and URLs become local files: against a real https server on this machine."""

import hashlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from misbehaving_server import BODY, DIGEST, WRONG_DIGEST, Server

from dnnlib import https
from dnnlib.errors import DataError, InflationError, UsageError
from dnnlib.urls import default_cache_dir, local_file

Fetch = Callable[..., Path]
Names = Callable[[], list[str]]


def assert_one_line(error: InflationError) -> None:
    assert "\n" not in str(error)
    assert str(error).strip()


def test_path_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "net #1.pkl"
    file.write_bytes(b"x")
    assert local_file(str(file)) == file
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_file("~/net #1.pkl") == file


@pytest.mark.parametrize("name", ["missing.pkl", "file/below", "nul\0.pkl", "x" * 5000])
def test_missing_path_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    location = str(tmp_path / name)
    with pytest.raises(DataError, match=re.escape(repr(location))) as caught:
        local_file(location)
    assert_one_line(caught.value)


@pytest.mark.parametrize("name", ["", "."])
def test_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="is a folder"):
        local_file(name)
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        local_file(str(tmp_path))


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "data", "s3", "HTTP", "git+ssh"])
def test_only_https_is_accepted(scheme: str, cache: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(f"{scheme}://") + ".*https://"):
        local_file(f"{scheme}://localhost/net.pkl", cache)
    assert not cache.exists()


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/net.pkl",
        "user:password@localhost/net.pkl",
        "localhost/a b",
        "localhost/ä",
        "localhost/a\nb",
        "localhost/net.pkl#sha256=",
        "localhost/net.pkl#sha256=" + "0" * 63,
        "localhost/net.pkl#sha256=" + "g" * 64,
        "localhost/net.pkl#md5=" + "0" * 32,
    ],
)
def test_malformed_url_is_a_usage_error(rest: str, cache: Path) -> None:
    with pytest.raises(UsageError, match="https://host/path") as caught:
        local_file(f"https://{rest}", cache)
    assert_one_line(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize("location", ["/file.pkl", "/file.pkl#", f"/file.pkl#sha256={DIGEST}"])
def test_download_happens_once(
    fetch: Fetch, server: Server, location: str, cached_names: Names
) -> None:
    path = fetch(location)
    assert path.read_bytes() == BODY
    assert fetch(location) == path
    assert server.hits["/file.pkl"] == 1
    assert cached_names() == [path.name]


def test_scheme_and_digest_may_be_in_capitals(
    server: Server, cache: Path, trust: ssl.SSLContext
) -> None:
    location = f"HTTPS{server.origin[5:]}/file#sha256={DIGEST.upper()}"
    assert local_file(location, cache, ssl_context=trust).read_bytes() == BODY


def test_body_of_unknown_length(fetch: Fetch) -> None:
    assert fetch("/unsized").read_bytes() == BODY
    assert fetch(f"/unsized#sha256={DIGEST}").read_bytes() == BODY


def test_cache_names_are_safe_and_distinct(fetch: Fetch, cache: Path) -> None:
    locations = [
        "/file/net.pkl",
        "/file/other/net.pkl",
        "/file/net.pkl?version=2",
        f"/file/net.pkl#sha256={DIGEST}",
        "/file/%2e%2e%2f%2e%2e%2fnet.pkl",
        "/file/" + "long" * 200 + ".pkl",
        "/file/",
    ]
    paths = [fetch(location) for location in locations]
    assert len(set(paths)) == len(paths)
    assert all(path.parent == cache for path in paths)
    assert all(re.fullmatch(r"[0-9a-f]{64}-[\w.-]{0,80}", path.name) for path in paths)
    assert all(path.name.endswith(".pkl") for path in paths[:-1])


def test_wrong_digest_states_both_and_keeps_nothing(fetch: Fetch, cached_names: Names) -> None:
    with pytest.raises(DataError) as caught:
        fetch(f"/file#sha256={WRONG_DIGEST}")
    assert DIGEST in str(caught.value)
    assert WRONG_DIGEST in str(caught.value)
    assert cached_names() == []


def test_wrong_digest_leaves_the_right_file_alone(fetch: Fetch, cached_names: Names) -> None:
    path = fetch("/file")
    with pytest.raises(DataError):
        fetch(f"/file#sha256={WRONG_DIGEST}")
    assert cached_names() == [path.name]


def test_corrupt_cached_file_is_downloaded_again(
    fetch: Fetch, server: Server, cached_names: Names
) -> None:
    path = fetch(f"/file#sha256={DIGEST}")
    path.write_bytes(BODY[:-1] + b"?")
    assert fetch(f"/file#sha256={DIGEST}").read_bytes() == BODY
    assert server.hits["/file"] == 2
    assert cached_names() == [path.name]


@pytest.mark.parametrize("page", ["/file", "/404", "/truncated"])
def test_corrupt_cached_file_is_removed_when_it_cannot_be_replaced(
    fetch: Fetch, server: Server, cache: Path, page: str, cached_names: Names
) -> None:
    location = f"{page}#sha256={WRONG_DIGEST}"
    cache.mkdir(parents=True)
    key = hashlib.sha256((server.origin + location.replace("sha256=", "")).encode()).hexdigest()
    name = f"{key}-{page[1:]}"
    (cache / name).write_bytes(b"corrupt")
    with pytest.raises(DataError):
        fetch(location)
    assert server.hits[page]
    # Of a body that broke off, what came stays, as any that a digest can tell.
    assert cached_names() == ([f"{name}.part", f"{name}.part.json"] * (page == "/truncated"))


def test_redirect_to_https_is_followed(fetch: Fetch, server: Server) -> None:
    assert fetch("/redirect?/file").read_bytes() == BODY
    assert fetch(f"/redirect?{server.origin}/redirect?/file").read_bytes() == BODY


def test_body_of_a_redirect_is_not_read(fetch: Fetch) -> None:
    assert fetch("/redirect-endless").read_bytes() == BODY


@pytest.mark.parametrize(
    "target", ["http://localhost/file", "file:///etc/passwd", "ftp://localhost/a", "data:,a"]
)
def test_redirect_elsewhere_is_refused(fetch: Fetch, target: str, cached_names: Names) -> None:
    refusal = f"(?i)redirect(ion)? to (url ')?{re.escape(target)}"
    with pytest.raises(DataError, match=refusal) as caught:
        fetch(f"/redirect?{target}")
    assert_one_line(caught.value)
    assert cached_names() == []


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("/404", "404"),
        ("/500", "500"),
        ("/redirect?/404", "404"),
        ("/loop", "infinite loop"),
        ("/truncated", f"broke off at {len(BODY) - 1} of {len(BODY)} bytes"),
        ("/truncated-chunk", "broke off at 3 of an unknown"),
        ("/stall", "timed out"),
    ],
)
def test_failed_download_says_why_and_leaves_nothing(
    fetch: Fetch,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    reason: str,
    cached_names: Names,
) -> None:
    if page == "/stall":
        monkeypatch.setattr(https, "TIMEOUT", 0.2)
    with pytest.raises(DataError, match=f"{re.escape(server.origin + page)}.*({reason})") as caught:
        fetch(page)
    assert_one_line(caught.value)
    assert cached_names() == []


@pytest.mark.parametrize("page", ["/file", "/unsized"])
def test_size_limit(fetch: Fetch, page: str, cached_names: Names) -> None:
    with pytest.raises(DataError, match=f"{page}.*larger than {len(BODY) - 1} bytes"):
        fetch(page, max_bytes=len(BODY) - 1)
    assert cached_names() == []
    assert fetch(page, max_bytes=len(BODY)).read_bytes() == BODY


def test_announced_size_is_refused_before_the_body(fetch: Fetch, cached_names: Names) -> None:
    with pytest.raises(DataError, match=f"larger than {8 << 30} bytes"):
        fetch("/huge")
    assert cached_names() == []


def test_interrupted_download_leaves_nothing(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch, cached_names: Names
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("/file")
    assert cached_names() == []


def test_certificate_is_checked(server: Server, cache: Path, cached_names: Names) -> None:
    with pytest.raises(DataError, match=f"{server.origin}.*(?i:certificate)") as caught:
        local_file(f"{server.origin}/file", cache)
    assert_one_line(caught.value)
    assert server.hits["/file"] == 0
    assert cached_names() == []


def test_refused_connection_and_unknown_host(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, cached_names: Names
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        closed = f"https://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(DataError, match=f"{closed}.*refused") as caught:
            local_file(closed, cache)
        assert "attempts" not in str(caught.value)  # nobody is there: it is told at once

    def unknown(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DataError, match=r"https://nowhere\.invalid/file.*not known"):
        local_file("https://nowhere.invalid/file", cache)
    assert cached_names() == []


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "[bad", "localhost:port"])
def test_impossible_host(server: Server, cache: Path, host: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"https://{host}/file")) as caught:
        local_file(f"https://{host}/file", cache)
    assert_one_line(caught.value)


def test_cache_folder_that_cannot_be_made(fetch: Fetch, cache: Path) -> None:
    cache.parent.mkdir()
    cache.touch()
    with pytest.raises(DataError, match=re.escape(str(cache))):
        fetch("/file")


def test_many_at_once_all_get_the_whole_file(fetch: Fetch, cached_names: Names) -> None:
    barrier = threading.Barrier(6)

    def contents(location: str) -> bytes:
        barrier.wait(10)
        return fetch(location).read_bytes()

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(contents, ["/file", f"/file#sha256={DIGEST}"] * 3))
    assert all(result == BODY for result in results)
    assert len(cached_names()) == 2


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, xdg, own = (str(tmp_path / name) for name in ("home", "xdg", "own"))
    monkeypatch.delenv("INFLATIONARY_FLOWS_CACHE", raising=False)
    monkeypatch.setenv("HOME", home)
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache_dir() == Path(home, ".cache", "inflationary-flows")
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert default_cache_dir() == Path(xdg, "inflationary-flows")
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", own)
    assert default_cache_dir() == Path(own)


def test_default_cache_dir_is_used(
    server: Server, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "own"))
    path = local_file(f"{server.origin}/file", ssl_context=trust)
    assert path.parent == tmp_path / "own"
    assert path.read_bytes() == BODY
