"""Stores that LMDB wrote are read as they were; others are an error, and never a crash."""

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from dnnlib.errors import DataError
from tests.support.refusals import refusal
from training.data.sources import lmdb_process, lmdb_store
from training.data.sources.formats import open_source
from training.data.sources.lmdb_store import DATA_FILE, count_entries, read_entries

lmdb = pytest.importorskip("lmdb", reason="stores are read by the package of LMDB")

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


def refused(folder: Path) -> str:
    return refusal(lambda path: list(read_entries(path)), folder)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_store(tmp_path, [random_batch(60, Random(1))], [])


@pytest.mark.parametrize("count", [0, 700])
def test_entries_come_as_they_were_written(tmp_path: Path, count: int) -> None:
    random = Random(count)
    batches = [random_batch(count, random) for _ in range(3)]
    whole: Mapping[bytes, bytes] = {k: v for batch in batches for k, v in batch.items()}
    removed = list(whole)[::5]
    write_store(tmp_path, batches, removed)
    before = sorted(os.listdir(tmp_path))
    expected = sorted((key, value) for key, value in whole.items() if key not in removed)
    assert list(read_entries(tmp_path)) == expected
    assert count_entries(tmp_path) == len(expected)
    assert sorted(os.listdir(tmp_path)) == before


def test_images_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    files = [io.BytesIO() for _ in range(3)]
    for image, file in zip(pixels, files, strict=True):
        Image.fromarray(image).save(file, "webp", lossless=True)
    write_store(tmp_path, [{b"%d" % key: files[key].getvalue() for key in (2, 0, 1)}], [])
    images, _ = open_source(str(tmp_path))
    for found, expected in zip(images, pixels, strict=True):
        np.testing.assert_array_equal(found.read(), expected)
        assert found.label is None


def test_a_reader_may_stop_before_the_end(store: Path) -> None:
    entries = read_entries(store)
    next(entries)
    entries.close()  # a process that stays would be a ResourceWarning, which is an error


def test_a_store_that_is_cut_short_missing_or_a_pipe_is_refused(store: Path) -> None:
    whole = (store / DATA_FILE).read_bytes()
    for length in (0, 1, 100, 5000, len(whole) // 2):
        (store / DATA_FILE).write_bytes(whole[:length])
        refused(store)
    (store / DATA_FILE).unlink()
    refused(store)
    os.mkfifo(store / DATA_FILE)
    refused(store)


def test_without_the_package_an_error_says_so(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install lmdb" in refused(store)


class Sent:
    """Stands for the output of a process: its bytes can be read again."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()


@pytest.mark.parametrize("most", [LENGTHS[-1], 10], ids=["all", "too long"])
def test_the_process_sends_what_the_reader_reads(
    store: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its function is called here, where it can be watched; else it runs where nobody sees it."""
    expected, sent = list(read_entries(store)), Sent()
    monkeypatch.setattr(sys, "stdout", sent)
    for name in ("dump_traceback_later", "cancel_dump_traceback_later"):
        monkeypatch.setattr(lmdb_process.faulthandler, name, lambda *args, **kwargs: None)
    lmdb_process.main(str(store), most)
    sent.buffer.seek(0)
    found = lmdb_store._Store(store, sent.buffer)
    assert found.count == len(expected)
    if most == LENGTHS[-1]:
        assert [found.next_entry() for _ in expected] == expected
        assert found.next_entry() is None
    else:
        with pytest.raises(DataError, match="more than any image"):
            [found.next_entry() for _ in expected]
