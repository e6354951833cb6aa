"""Stores that LMDB wrote are read as they were; others are an error, and never a crash."""

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest

from dnnlib.errors import DataError
from training.data.sources import lmdb_pages
from training.data.sources.lmdb_pages import DATA_FILE, LmdbStore

lmdb = pytest.importorskip("lmdb", reason="stores are written by the package of LMDB")

LENGTHS = (0, 1, 50, 2000, 2050, 4096, 30_000)


def write_store(folder: Path, batches: list[dict[bytes, bytes]], removed: list[bytes]) -> Path:
    with lmdb.open(str(folder), map_size=1 << 28, lock=False) as store:
        for batch in batches:
            with store.begin(write=True) as transaction:
                for key, value in batch.items():
                    transaction.put(key, value)
        with store.begin(write=True) as transaction:
            for key in removed:
                transaction.delete(key)
    return folder


def random_batch(count: int, random: Random) -> dict[bytes, bytes]:
    return {
        random.randbytes(random.choice((1, 8, 40, 400))): random.randbytes(random.choice(LENGTHS))
        for _ in range(count)
    }


def read(folder: Path) -> list[tuple[bytes, bytes]]:
    store = LmdbStore(folder)
    try:
        return list(store.items())
    finally:
        store.close()


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder} ")
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("count", [0, 1, 5, 60, 700])
def test_entries_come_as_the_library_gives_them(tmp_path: Path, count: int) -> None:
    random = Random(count)
    batches = [random_batch(count, random) for _ in range(3)]
    whole: Mapping[bytes, bytes] = {k: v for batch in batches for k, v in batch.items()}
    removed = list(whole)[::5]
    write_store(tmp_path, batches, removed)
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as store, store.begin() as transaction:
        expected = list(transaction.cursor())
    assert expected == sorted((k, v) for k, v in whole.items() if k not in removed)
    assert read(tmp_path) == expected
    store = LmdbStore(tmp_path)
    assert store.entries == len(expected)
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path, [random_batch(60, Random(1))], [])


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 0.5, 0.99])
def test_a_store_that_was_cut_short_is_refused(store: Path, kept: float) -> None:
    whole = (store / DATA_FILE).read_bytes()
    length = int(kept * len(whole)) if isinstance(kept, float) else kept
    (store / DATA_FILE).write_bytes(whole[:length])
    refusal(store)


def heads(data: bytes) -> list[int]:
    """Offsets of the two copies of the head."""
    page = 4096
    assert struct.unpack_from("<I", data, 16)[0] == lmdb_pages.MAGIC
    return [16, page + 16]


@pytest.mark.parametrize(
    ("offset", "code", "value", "message"),
    [
        (0, "<I", 7, "no head"),
        (4, "<I", 2, "no head"),
        (24, "<I", 4095, "no head"),
        (24 + 48 + 4, "<H", 4, "not read here"),  # keys with several values
        (24 + 48 + 32, "<Q", 2**60, "of 1152921504606846976 entries"),
        (24 + 48 + 32, "<Q", 3, "more entries than it says"),
        (24 + 48 + 40, "<Q", 2**62, "a page that it does not have"),
        (24 + 48 + 40, "<Q", 0, "not one of a tree"),
    ],
)
def test_a_head_that_lies_is_refused(
    store: Path, offset: int, code: str, value: int, message: str
) -> None:
    changed = bytearray((store / DATA_FILE).read_bytes())
    for start in heads(bytes(changed)):
        struct.pack_into(code, changed, start + offset, value)
    (store / DATA_FILE).write_bytes(changed)
    assert message in refusal(store)


def test_pages_in_a_circle_are_refused(store: Path) -> None:
    data = bytearray((store / DATA_FILE).read_bytes())
    for start in range(0, len(data), 4096):
        number, _, kind, end, _ = struct.unpack_from("<QHHHH", data, start)
        if kind == lmdb_pages.BRANCH:
            for place in struct.unpack_from(f"<{(end - 16) // 2}H", data, start + 16):
                struct.pack_into("<HHH", data, start + place, number, 0, 0)
    (store / DATA_FILE).write_bytes(data)
    assert "not a tree" in refusal(store)


def test_values_that_share_pages_are_refused(tmp_path: Path) -> None:
    """Else a small store could be read for ever."""
    write_store(tmp_path, [{bytes([n]): bytes(30_000) for n in range(60)}], [])
    data = bytearray((tmp_path / DATA_FILE).read_bytes())
    for start in range(0, len(data), 4096):
        _, _, kind, end, _ = struct.unpack_from("<QHHHH", data, start)
        if kind == lmdb_pages.LEAF:
            places = struct.unpack_from(f"<{(end - 16) // 2}H", data, start + 16)
            target = data[start + places[0] + 9 : start + places[0] + 17]
            for place in places:
                data[start + place + 9 : start + place + 17] = target
    (tmp_path / DATA_FILE).write_bytes(data[: 20 * 4096])
    refusal(tmp_path)


def test_changed_bytes_are_refused_or_read(store: Path) -> None:
    whole = (store / DATA_FILE).read_bytes()
    random = Random(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[random.randrange(len(whole))] ^= 1 << random.randrange(8)
        (store / DATA_FILE).write_bytes(changed)
        try:
            # Of two heads the later counts: a bit can make that the one from before all writing.
            assert len(read(store)) in (0, 60)
        except DataError:
            continue


def test_a_missing_store_and_a_pipe_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path)
    os.mkfifo(tmp_path / DATA_FILE)
    refusal(tmp_path)
