"""Processes that want one URL at the same time, and processes that die over it."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from misbehaving_server import BODY, CERTIFICATE, DIGEST, WRONG_DIGEST, Handler, Server

from dnnlib import urls
from dnnlib.errors import DataError

Fetch = Callable[..., Path]
Names = Callable[[], list[str]]
Process = subprocess.Popen[str]
Start = Callable[..., Process]
ROOT = Path(urls.__file__).parent.parent

# Prints the digest of what it got, or the error.
SCRIPT = """
import hashlib, ssl, sys
from pathlib import Path
from dnnlib.errors import DataError
from dnnlib.urls import local_file
location, cache, certificate = sys.argv[1:]
trust = ssl.create_default_context(cafile=certificate)
try:
    path = local_file(location, Path(cache), ssl_context=trust)
    print(hashlib.sha256(path.read_bytes()).hexdigest())
except DataError as error:
    print(error)
"""


@pytest.fixture
def start(server: Server, cache: Path, tmp_path: Path) -> Iterator[Start]:
    """``start(location)``: another process that fetches it into the same cache."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    processes: list[Process] = []

    def start(location: str, **environment: str) -> Process:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, server.origin + location, cache, certificate],
            env={**os.environ, "no_proxy": "*", "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def printed(process: Process) -> str:
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert not err  # no progress bar in a pipe
    return out.strip()


@pytest.fixture
def held_back(server: Server) -> Callable[[int], threading.Event]:
    """``held_back(n)``: the next answer pauses at byte n of the file, until the event is set."""

    def hold(size: int) -> threading.Event:
        go_on = threading.Event()

        def answer(handler: Handler) -> None:
            handler.serve(cut=size)
            go_on.wait(20)
            handler.wfile.write(BODY[size:])

        server.plan.append(answer)
        return go_on

    return hold


def partial_size(cache: Path) -> int:
    return max((path.stat().st_size for path in cache.glob("*.part")), default=-1)


def test_processes_share_one_download(
    start: Start,
    server: Server,
    cache: Path,
    cached_names: Names,
    held_back: Callable[[int], threading.Event],
) -> None:
    go_on = held_back(1000)
    processes = [start("/planned", RANK=str(rank), WORLD_SIZE="4") for rank in range(4)]
    wait_until(lambda: partial_size(cache) == 1000)
    time.sleep(0.3)  # for the others to come and wait
    go_on.set()
    assert [printed(process) for process in processes] == [DIGEST] * 4
    assert len(server.asked) == 1
    assert len(cached_names()) == 1


def test_a_killed_download_is_resumed(
    start: Start,
    fetch: Fetch,
    server: Server,
    cache: Path,
    cached_names: Names,
    held_back: Callable[[int], threading.Event],
) -> None:
    held_back(1_234_567)
    process = start("/planned")
    wait_until(lambda: partial_size(cache) == 1_234_567)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    path = fetch("/planned")
    assert path.read_bytes() == BODY
    assert [asked.range for asked in server.asked] == [None, "bytes=1234567-"]
    assert server.asked[1].bytes_sent == len(BODY) - 1_234_567
    assert cached_names() == [path.name]


def test_who_waits_takes_over_from_who_is_killed(
    start: Start,
    fetch: Fetch,
    server: Server,
    cache: Path,
    held_back: Callable[[int], threading.Event],
) -> None:
    held_back(1_000_000)
    process = start("/planned")
    wait_until(lambda: partial_size(cache) == 1_000_000)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(fetch, "/planned") for _ in range(3)]
        time.sleep(0.3)
        assert len(server.asked) == 1
        assert not any(future.done() for future in waiting)
        process.kill()
        assert all(future.result(20).read_bytes() == BODY for future in waiting)
    assert [asked.range for asked in server.asked] == [None, "bytes=1000000-"]


def test_who_waits_takes_over_from_who_fails(fetch: Fetch, server: Server) -> None:
    answering, fail = threading.Event(), threading.Event()

    def refuse(handler: Handler) -> None:
        answering.set()
        fail.wait(20)
        handler.reply(403, {})

    server.plan.append(refuse)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, "/planned")
        assert answering.wait(20)
        second = pool.submit(fetch, "/planned")
        time.sleep(0.2)
        fail.set()
        with pytest.raises(DataError, match="403"):
            first.result(20)
        assert second.result(20).read_bytes() == BODY


def test_dead_downloads_do_not_pile_up(
    start: Start,
    cache: Path,
    server: Server,
    cached_names: Names,
    held_back: Callable[[int], threading.Event],
) -> None:
    for size in (500_000, 900_000):
        held_back(size)
        process = start("/planned")
        wait_until(lambda size=size: partial_size(cache) == size)
        process.kill()
        process.wait()
        suffixes = sorted(Path(name).suffix for name in cached_names())
        assert suffixes == [".json", ".lock", ".part"]
    assert [asked.range for asked in server.asked] == [None, "bytes=500000-"]


def test_other_urls_are_not_waited_for(
    fetch: Fetch, server: Server, held_back: Callable[[int], threading.Event]
) -> None:
    go_on = held_back(1000)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(fetch, "/planned")
        wait_until(lambda: bool(server.asked))
        assert fetch("/file").read_bytes() == BODY
        assert fetch(f"/planned#sha256={DIGEST}").read_bytes() == BODY
        assert not slow.done()
        go_on.set()
        assert slow.result(20).read_bytes() == BODY


def test_many_rounds_with_failures_between(fetch: Fetch, server: Server, cache: Path) -> None:
    """Locks are made and removed all the time, and still nobody downloads what another has."""
    barrier = threading.Barrier(8)

    def one(location: str) -> bytes:
        barrier.wait(20)
        return fetch(location).read_bytes()

    for turn in range(5):
        server.plan.append(lambda handler: handler.serve(cut=1000))
        with ThreadPoolExecutor(8) as pool:
            assert all(body == BODY for body in pool.map(one, [f"/planned?{turn}"] * 8))
        assert len(server.asked) == 2 * (turn + 1)
    assert len(list(cache.iterdir())) == 5


def test_a_lock_that_was_just_removed_is_no_lock(
    fetch: Fetch, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = urls.fcntl
    removals = iter(["once"])
    seen: list[bool] = []

    def flock(descriptor: int, operation: int) -> None:
        fcntl.flock(descriptor, operation)
        # As if its holder had removed it after it was opened here.
        if next(removals, None):
            next(cache.glob("*.lock")).unlink()

    def answer(handler: Handler) -> None:
        (lock,) = cache.glob("*.lock")
        with lock.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append(True)
        handler.serve()

    fake = SimpleNamespace(flock=flock, LOCK_EX=fcntl.LOCK_EX, LOCK_NB=fcntl.LOCK_NB)
    monkeypatch.setattr(urls, "fcntl", fake)
    server.plan.append(answer)
    assert fetch("/planned").read_bytes() == BODY
    assert seen == [True]


# Where files cannot be locked.


def refuse_locks(code: int) -> Callable[[int, int], None]:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    return flock


@pytest.fixture(params=["no fcntl", errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no fcntl":
        monkeypatch.setattr(urls, "fcntl", None)
    else:
        fake = SimpleNamespace(flock=refuse_locks(request.param), LOCK_EX=2, LOCK_NB=4)
        monkeypatch.setattr(urls, "fcntl", fake)


def parts(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir() if ".part" in path.name]


@pytest.mark.usefixtures("no_locks")
def test_without_locks_each_downloads_for_itself(fetch: Fetch, server: Server, cache: Path) -> None:
    together = threading.Barrier(3)

    def answer(handler: Handler) -> None:
        together.wait(20)  # proves that all three are at it
        handler.serve()

    server.plan.extend([answer] * 3)
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(fetch, ["/planned"] * 3))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert len(set(paths)) == 1
    assert len(server.asked) == 3
    assert not parts(cache)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_only_this_process_resumes(fetch: Fetch, server: Server, cache: Path) -> None:
    server.plan.append(lambda handler: handler.serve(cut=1000))
    assert fetch("/planned").read_bytes() == BODY
    assert server.asked[1].range == "bytes=1000-"
    server.plan.extend([lambda handler: handler.serve(cut=2000)] * 4)
    with pytest.raises(DataError, match="broke off"):
        fetch("/planned?again")
    assert not parts(cache)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_dead_downloads_are_swept(fetch: Fetch, cache: Path) -> None:
    path = fetch("/planned")
    path.unlink()
    ages = {"dead": 2 * urls._DEAD, "living": urls._DEAD / 2}
    for name, age in ages.items():
        for suffix in ("part", "part.json"):
            file = cache / f"{path.name}.{name}.{suffix}"
            file.touch()
            os.utime(file, (time.time() - age,) * 2)
    (cache / "other.dead.part").touch()
    os.utime(cache / "other.dead.part", (0, 0))
    fetch("/planned")
    assert sorted(parts(cache)) == [
        *(f"{path.name}.living.{suffix}" for suffix in ("part", "part.json")),
        "other.dead.part",
    ]


def test_files_of_another_user_are_left_alone(
    fetch: Fetch, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan.extend([lambda handler: handler.serve(cut=1000)] * 4)
    with pytest.raises(DataError, match="1000 bytes are kept"):
        fetch("/planned")
    foreign = {path: path.read_bytes() for path in cache.iterdir()}
    assert len(foreign) == 2
    monkeypatch.setattr(os, "access", lambda path, mode: path not in foreign)
    server.asked.clear()
    path = fetch("/planned")
    assert path.read_bytes() == BODY
    assert [asked.range for asked in server.asked] == [None]
    assert {path: path.read_bytes() for path in foreign} == foreign


def test_a_lock_of_another_user_is_not_waited_for(
    fetch: Fetch, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: object, *arguments: int, **options: int) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    assert fetch("/planned").read_bytes() == BODY
    assert not parts(cache)


# A cached file that has gone bad.


def test_a_corrupt_cached_file_is_replaced_once_by_many(fetch: Fetch, server: Server) -> None:
    location = f"/planned#sha256={DIGEST}"
    fetch(location).write_bytes(b"corrupt")
    server.asked.clear()
    with ThreadPoolExecutor(4) as pool:
        assert all(path.read_bytes() == BODY for path in pool.map(fetch, [location] * 4))
    assert len(server.asked) == 1


def test_a_corrupt_cached_file_may_vanish_while_it_is_looked_at(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = f"/planned#sha256={DIGEST}"
    corrupt = fetch(location)
    corrupt.write_bytes(b"corrupt")
    digest_of = urls.sha256_of

    def remove_first(path: Path) -> str:
        if path.read_bytes() == b"corrupt":
            path.unlink()
        return digest_of(path)

    monkeypatch.setattr(urls, "sha256_of", remove_first)
    assert fetch(location).read_bytes() == BODY


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    written: list[str] = []
    stream = SimpleNamespace(
        write=written.append, flush=lambda: None, isatty=lambda: True, encoding="utf-8"
    )
    monkeypatch.setattr(sys, "stderr", stream)
    yield written


def test_waiting_shows_the_progress_of_another(
    start: Start,
    fetch: Fetch,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    held_back: Callable[[int], threading.Event],
) -> None:
    monkeypatch.setattr("dnnlib.download._BAR_DELAY", 0.0)
    monkeypatch.delenv("RANK", raising=False)
    go_on = held_back(1 << 20)
    process = start("/planned")
    wait_until(lambda: partial_size(cache) == 1 << 20)
    with terminal(monkeypatch) as written, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetch, "/planned")
        wait_until(lambda: "1.00M" in "".join(written))
        go_on.set()
        assert waiting.result(20).read_bytes() == BODY
    assert "waiting for another process's download" in "".join(written)
    assert printed(process) == DIGEST


def test_names_of_what_is_kept_say_what_they_belong_to(
    fetch: Fetch, server: Server, cached_names: Names
) -> None:
    server.plan.extend([lambda handler: handler.serve(cut=1000)] * 4)
    location = f"/planned#sha256={WRONG_DIGEST}"
    with pytest.raises(DataError, match="1000 bytes are kept"):
        fetch(location)
    key = hashlib.sha256(f"{server.origin}/planned#{WRONG_DIGEST}".encode()).hexdigest()
    assert cached_names() == [f"{key}-planned.part", f"{key}-planned.part.json"]
