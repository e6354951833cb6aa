"""A misbehaving server and an empty cache, for the tests of downloads."""

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from misbehaving_server import CERTIFICATE, Server, running_server

from dnnlib import download
from dnnlib.urls import local_file


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("certificate")) as server:
        yield server


@pytest.fixture
def server(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "_DELAYS", (0.0, 0.0, 0.0))
    one_server.hits.clear()
    one_server.plan.clear()
    one_server.asked.clear()
    return one_server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "not yet there" / "cache"


@pytest.fixture(scope="session")
def trust() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CERTIFICATE)


@pytest.fixture
def fetch(server: Server, cache: Path, trust: ssl.SSLContext) -> Callable[..., Path]:
    """``fetch(location, **options)``: ``local_file`` of what the server has there."""

    def fetch(location: str, **options: int) -> Path:
        return local_file(server.origin + location, cache, ssl_context=trust, **options)

    return fetch


@pytest.fixture
def cached_names(cache: Path) -> Callable[[], list[str]]:
    """The names of all that lies in the cache."""
    return lambda: sorted(os.listdir(cache)) if cache.exists() else []
