"""Paths and URLs become local files: against a real https server on this machine."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import pytest

from dnnlib import urls
from dnnlib.errors import DataError, UsageError
from dnnlib.urls import default_cache_dir, local_file

# Self-signed for localhost and 127.0.0.1, valid from 2020 to 2120; the key protects nothing.
SERVER = """\
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
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQggLohMZOTXpD0rNix
EhWxRvCQ+V9TwEiLy4ywTyVFmgehRANCAARI1EFrGP0/DIaj7w28jXKuc/b/kw0B
DLdOaCK30lm+3lUjm8iRP+V14hP1xJ1Y6v3//sAUrE01+jH+K9UZVDWT
-----END PRIVATE KEY-----
"""
BODY = Random(0).randbytes(300_001)  # several chunks, and not a whole number
DIGEST = sha256(BODY).hexdigest()
HITS = Counter()
NO_PLACES = (
    *("", "/net.pkl", "user:password@host/net.pkl", "host/a b", "host/ä", "host/a\nb"),
    *("host/n#sha256=" + "0" * 63, "host/n#sha256=" + "g" * 64, "host/n#md5=" + "0" * 32),
)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def reply(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        HITS[path] += 1
        length = {"Content-Length": str(len(BODY))}
        if path.startswith("/file"):
            self.reply(200, length, BODY)
        elif path == "/unsized":
            self.reply(200, {}, BODY)
        elif path == "/truncated":
            self.reply(200, length, BODY[:-1])
        elif path == "/stall":
            self.reply(200, length, BODY[:1000])
            threading.Event().wait(2)
        elif path == "/redirect":
            self.reply(302, {"Location": query})
            for _ in range(100 if query == "/file" else 0):
                self.wfile.write(BODY)  # whoever reads this reads for ever
        else:
            self.reply(404, {"Content-Length": "0"})


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The server's address; requests trusts its certificate."""
    pem = tmp_path_factory.mktemp("certificate") / "server.pem"
    pem.write_text(SERVER)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # The handshake happens in the request's own thread, so that a failed one stops no other.
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        patch.setenv("no_proxy", "*")
        patch.setattr(server, "handle_error", lambda *_: None)
        yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path):
    HITS.clear()
    return tmp_path / "not yet there" / "cache"


def names(cache):
    return [path.name for path in cache.glob("*") if path.suffix != ".lock"]


def refusal(location, cache=None, **options):
    with pytest.raises(DataError) as caught:
        local_file(location, cache, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_returned_as_it_is(tmp_path, monkeypatch):
    file = tmp_path / "net #1.pkl"
    file.write_bytes(b"x")
    assert local_file(str(file)) == file
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert local_file("~/net #1.pkl") == file
    for missing in ("missing.pkl", "net #1.pkl/below", "nul\0.pkl", "x" * 5000):
        location = str(tmp_path / missing)
        assert repr(location) in refusal(location)
    assert "is a folder" in refusal(str(tmp_path))


def test_only_well_formed_https_urls_are_accepted(cache):
    for location, reason in (
        *((f"{scheme}://localhost/net.pkl", scheme) for scheme in ("http", "file", "HTTP", "s3")),
        *((f"https://{rest}", "https://host/path") for rest in NO_PLACES),
    ):
        with pytest.raises(UsageError, match=reason):
            local_file(location, cache)
    assert not cache.exists()


@pytest.mark.parametrize("page", ["/file.pkl", f"/file.pkl#sha256={DIGEST.upper()}", "/unsized"])
def test_a_download_happens_once(origin, cache, page):
    path = local_file(origin + page, cache)
    assert path.read_bytes() == BODY
    assert local_file(origin + page, cache) == path
    assert sum(HITS.values()) == 1
    assert names(cache) == [path.name]
    assert re.fullmatch(r"[0-9a-f]{64}-[\w.-]{0,80}", path.name)


def test_contents_that_differ_are_kept_apart_and_corrupt_ones_downloaded_again(origin, cache):
    locations = ["/file/a.pkl", "/file/b/a.pkl", "/file/a.pkl?v=2", f"/file/a.pkl#sha256={DIGEST}"]
    assert len({local_file(origin + location, cache) for location in locations}) == 4
    path = local_file(f"{origin}/file#sha256={DIGEST}", cache)
    path.write_bytes(BODY[:-1] + b"?")
    assert local_file(f"{origin}/file#sha256={DIGEST}", cache).read_bytes() == BODY


def test_downloads_follow_redirects_or_say_why_not_and_leave_nothing(origin, cache, monkeypatch):
    monkeypatch.setattr(urls, "_TIMEOUT", 0.3)
    wrong = sha256(b"something else").hexdigest()
    for page, reason in (
        (f"/file#sha256={wrong}", f"{DIGEST}.*{wrong}"),
        ("/404", "404"),
        ("/truncated", "(?i)incomplete|broke off"),
        ("/stall", "timed out"),
        ("/redirect?/404", "404"),
        ("/redirect?http://localhost/file", "redirects to http://localhost/file, but only h"),
        ("/redirect?file:///etc/passwd", "redirects to file:///etc/passwd, but only https is"),
    ):
        message = refusal(origin + page, cache)
        assert origin + page.partition("#")[0] in message
        assert re.search(reason, message)
        assert names(cache) == []
    # Redirects to https are followed, and their bodies unread.
    assert local_file(f"{origin}/redirect?/file", cache).read_bytes() == BODY
    assert "more than 10 redirects" in refusal(f"{origin}/redirect?/redirect", cache)


@pytest.mark.parametrize("page", ["/file", "/unsized"])
def test_the_size_is_limited(origin, cache, page):
    limit = len(BODY)
    assert "larger than" in refusal(origin + page, cache, max_bytes=limit - 1)
    assert names(cache) == []
    assert local_file(origin + page, cache, max_bytes=limit).read_bytes() == BODY


def test_bad_hosts_and_folders_and_refused_connections_are_one_line(origin, cache, monkeypatch):
    for host in ("a..b", "x" * 64, "[bad", "localhost:port"):
        assert f"https://{host}/file" in refusal(f"https://{host}/file", cache)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening
        closed = f"https://127.0.0.1:{unused.getsockname()[1]}/file"
        assert re.search(f"{closed}.*refused", refusal(closed, cache))
    (cache.parent / "file").touch()
    assert "file" in refusal(f"{origin}/file", cache.parent / "file")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    HITS.clear()
    assert "certificate" in refusal(f"{origin}/file", cache)
    assert not HITS


PROCESS = """
import json, sys
from pathlib import Path
from dnnlib.urls import local_file
sys.stdin.readline()
print(json.dumps([len(local_file(url, Path(sys.argv[1])).read_bytes()) for url in sys.argv[2:]]))
"""


def test_processes_share_one_download_and_show_no_bar_in_a_pipe(origin, cache):
    locations = [f"{origin}/file", f"{origin}/file#sha256={DIGEST}"]
    command = [sys.executable, "-c", PROCESS, str(cache), *locations]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    for process in processes:
        out, err = process.communicate("\n", timeout=60)
        assert json.loads(out) == [len(BODY)] * 2
        assert err == ""
    assert HITS["/file"] == 2


def test_the_default_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("INFLATIONARY_FLOWS_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache_dir() == tmp_path / ".cache" / "inflationary-flows"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "inflationary-flows"
    monkeypatch.setenv("INFLATIONARY_FLOWS_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    assert os.listdir(tmp_path) == []
