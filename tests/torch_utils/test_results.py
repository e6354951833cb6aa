"""Result files: arrays and JSON come back or are refused, and arrays are written bit by bit."""

import json
import os
import pickle
import re
import sys
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import dnnlib
from dnnlib.errors import DataError
from tests.fuzz.hostile import made, npy, zip_bomb, zip_of
from tests.fuzz.hostile_arrays import ARRAYS as HOSTILE_ARRAYS
from tests.fuzz.hostile_arrays import saved
from tests.fuzz.hostile_pickles import Call
from tests.support.running import full_disk, refusal
from torch_utils import results
from torch_utils.array_stream import stream_arrays
from torch_utils.results import load_arrays, load_json, open_arrays, save_arrays, save_json

ARRAYS = {
    "times": np.linspace(0, 1, 4),
    "xs": np.random.default_rng(0).normal(size=(4, 3, 2)),
    "labels": np.arange(3),
    "empty": np.zeros((0, 2)),
    "single": np.float32(7),
    "names": np.array(["a", "größer"]),
}


def test_arrays_come_back_as_they_were_from_us_and_from_numpy(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, ARRAYS)
    back = load_arrays(path, required=["times", "xs"])
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == np.asarray(array).dtype
    assert os.listdir(tmp_path) == ["a.npz"]
    with np.load(path) as archive:
        assert archive.files == list(ARRAYS)
    np.savez_compressed(path, a=np.zeros(10**6))
    assert not load_arrays(path)["a"].any()
    np.savez(path, a=np.arange(6, dtype=">f8"))
    with open_arrays(path) as opened:
        assert torch.equal(torch.from_numpy(opened.numbers("a")), torch.arange(6.0).double())
    # Those that Python 2 wrote are read without a warning.
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2L,), }"
    path.write_bytes(zip_of({"a.npy": npy(header, np.array([1.0, 2.0]).tobytes())}))
    for read in (load_arrays, rows_of):
        np.testing.assert_array_equal(read(path)["a"], [1, 2])


def test_object_arrays_are_not_written_or_read_and_their_code_does_not_run(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, {"x": np.zeros(2)})
    old = path.read_bytes()
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        save_arrays(path, {"x": np.array([{}, None], dtype=object)})
    assert os.listdir(tmp_path) == ["a.npz"]
    assert path.read_bytes() == old
    bomb = Call(os.mkdir, str(tmp_path / "marker"))
    np.savez(path, x=np.array([bomb], dtype=object))
    refusal(load_arrays, path)
    path.write_bytes(pickle.dumps(bomb))
    refusal(load_arrays, path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("order", "<>")
def test_texts_with_numbers_that_are_no_characters_are_refused(tmp_path, order):
    for code, fits in ((sys.maxunicode, True), (sys.maxunicode + 1, False)):
        texts = np.array([0x61, code], dtype=f"{order}u4").view(f"{order}U2")
        np.savez(tmp_path / "texts.npz", texts=texts)
        if fits:
            assert str(load_arrays(tmp_path / "texts.npz")["texts"][0]) == "a" + chr(code)
        else:
            assert "the array 'texts' is damaged" in refusal(load_arrays, tmp_path / "texts.npz")


def test_a_missing_array_is_named_with_those_there_are(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, {"xs": np.zeros(2), "times": np.zeros(2)})
    message = refusal(load_arrays, path, ["xs", "net_outs"])
    assert "'net_outs'" in message
    assert "xs, times" in message
    names = ("a\n\x1b[2J" * 100, "b" * 5000)
    path.write_bytes(zip_of({f"{name}.npy": b"" for name in names}))
    assert "Its arrays are" in refusal(rows_of, path)
    refusal(load_arrays, path)


def rows_of(path):
    """The array ``a``, read row by row."""
    with open_arrays(path) as saved:
        got = list(saved.rows("a", 2))
    return {"a": np.concatenate(got) if got else np.zeros(0)}


@pytest.mark.parametrize("read", [load_arrays, rows_of, load_json])
def test_other_files_are_refused(tmp_path, read):
    assert "does not exist" in refusal(read, tmp_path / "none")
    refusal(read, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    refusal(read, tmp_path / "pipe")
    path = tmp_path / "a.npz"
    np.savez(path, a=ARRAYS["xs"])
    whole = path.read_bytes()
    contents = (b"", b"PK", b"garbage", b"\x93NUMPY", bytes(1000), whole[:-9], b"[1]", b"{")
    for content in (*contents, saved(np.arange(3))):
        path.write_bytes(content)
        refusal(read, path)


@pytest.mark.parametrize("read", [load_arrays, rows_of])
def test_arrays_not_as_they_say_are_refused(tmp_path, read):
    path = tmp_path / "a.npz"
    # Some are plain arrays after all, but of another type or not finite, which is others' business.
    plain = {"a header of old", "dates", "letters beyond all", "not finite", "columns"}
    plain |= {"no numbers, 2^62 times", "axes that are true"}
    for kind, content in HOSTILE_ARRAYS.items():
        path.write_bytes(zip_of({"a.npy": made(content)}))
        if kind not in plain:
            assert "the array 'a' is damaged" in refusal(read, path), kind
            continue
        with suppress(DataError):
            read(path)
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (39321600,), }"
    path.write_bytes(zip_bomb("a.npy", 300, npy(header, b"")))
    assert path.stat().st_size < 1 << 20
    assert "declares" in refusal(read, path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_wrong_byte_is_refused_or_read_whole(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, xs=ARRAYS["xs"], labels=ARRAYS["labels"])
    whole = path.read_bytes()
    for start in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[start] ^= 0x41
        path.write_bytes(changed)
        try:
            back = load_arrays(path)
        except DataError:
            continue
        for name in set(back) & set(ARRAYS):
            np.testing.assert_array_equal(back[name], ARRAYS[name])


def test_json_comes_back_is_readable_to_people_and_an_object(tmp_path):
    content = {"a": 1, "b": [1.5, None, "größer"], "c": {"d": True}, "path": Path("x/y")}
    save_json(tmp_path / "a.json", content)
    assert load_json(tmp_path / "a.json") == content | {"path": "x/y"}
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) > len(content)
    path = tmp_path / "a.json"
    for content in (b'{"a": 1', b"3", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        refusal(load_json, path)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    assert "larger than 8 MiB" in refusal(load_json, path)


def test_provenance_names_what_a_result_was_made_with(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", "--seed=3", "--x"])
    facts = results.provenance()
    assert facts["code_version"] == dnnlib.__version__
    assert facts["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert facts["libraries"]["numpy"] == np.__version__
    assert re.fullmatch(r"\d+\.\d+.*", facts["libraries"]["click"])
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["command"] == ["script.py", "--seed=3", "--x"]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["tf32"] is False
    assert {"code_revision", "machine", "finished"} <= set(facts)
    assert json.loads(json.dumps(facts)) == facts


def test_an_open_file_reads_one_array_at_a_time_whatever_the_others_are(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, {"large": np.zeros(1 << 20), "small": np.arange(3), "names": np.array("x")})
    with open_arrays(path) as opened:
        assert opened.names == ["large", "small", "names"]
        tracemalloc.start()
        np.testing.assert_array_equal(opened.read("small"), np.arange(3))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1 << 20
        np.testing.assert_array_equal(opened.read("large"), np.zeros(1 << 20))
        np.testing.assert_array_equal(opened.read("small"), np.arange(3))
    save_arrays(path, {"first": np.arange(100.0), "second": np.arange(50.0)})
    content = path.read_bytes()
    place = content.index(np.float64(49).tobytes(), content.index(b"second"))
    path.write_bytes(content[:place] + b"?" + content[place + 1 :])
    with open_arrays(path) as opened:
        np.testing.assert_array_equal(opened.read("first"), np.arange(100.0))
        assert "'second'" in refusal(lambda path: opened.read("second"), path)


def test_numbers_are_finite_numbers(tmp_path):
    path = tmp_path / "a.npz"
    good = {"f": np.ones(2), "i": np.arange(3), "u": np.zeros(2, np.uint8), "none": np.zeros(0)}
    bad = {"text": np.array(["a"]), "flags": np.array([True]), "complex": np.ones(2, complex)}
    bad |= {"nan": np.array([1, np.nan]), "inf": np.array([1, -np.inf], np.float32)}
    save_arrays(path, good | bad)
    with open_arrays(path) as opened:
        for name, array in good.items():
            np.testing.assert_array_equal(opened.numbers(name), array, strict=True)
        for name in bad:
            message = refusal(lambda path, name: opened.numbers(name), path, name)
            assert f"'{name}'" in message
        assert "Its arrays are f, i, u" in refusal(lambda path: opened.numbers("x"), path)


CUBES = {
    "xs": np.random.default_rng(1).normal(size=(5, 3, 2)),
    "dxs": np.random.default_rng(2).normal(size=(4, 7)),
    "none": np.zeros((0, 2)),
}
SMALL = {"times": np.linspace(0, 1, 4), "labels": np.arange(3), "single": np.float32(7)}


def stream(path, dtype="float64", stop_at=None):
    """Writes ``CUBES`` from the last row to the first; raises ValueError at an array."""
    shapes = {name: array.shape for name, array in CUBES.items()}
    with stream_arrays(path, shapes, np.dtype(dtype), SMALL) as file:
        for name, array in CUBES.items():
            if name == stop_at:
                raise ValueError("something went wrong")
            for index in reversed(range(len(array))):
                file.put(name, index, array[index])


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_streamed_arrays_are_those_that_numpy_would_write(tmp_path):
    stream(tmp_path / "streamed.npz")
    np.savez(tmp_path / "saved.npz", **CUBES, **SMALL)
    assert members(tmp_path / "streamed.npz") == members(tmp_path / "saved.npz")
    with zipfile.ZipFile(tmp_path / "streamed.npz") as archive:
        assert archive.testzip() is None
    assert sorted(os.listdir(tmp_path)) == ["saved.npz", "streamed.npz"]
    for dtype in ("float32", "float16", "int32", ">f4"):
        stream(tmp_path / "a.npz", dtype)
        back = load_arrays(tmp_path / "a.npz")
        for name, array in CUBES.items():
            assert_array_equal(back[name], array.astype(dtype), strict=True)
        for name, small in SMALL.items():
            assert_array_equal(back[name], small, strict=True)
    # Rows may lie anyhow in memory, and come again.
    cube = CUBES["xs"]
    with stream_arrays(tmp_path / "a.npz", {"xs": (5, 2, 3)}, np.dtype("float64"), {}) as file:
        for index, row in enumerate(cube):
            file.put("xs", index, np.full((2, 3), np.nan))
            file.put("xs", index, row.T)
    assert_array_equal(load_arrays(tmp_path / "a.npz")["xs"], cube.transpose(0, 2, 1), strict=True)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_stream_that_stops_leaves_what_was_there(tmp_path, before):
    path = tmp_path / "a.npz"
    if before:
        path.write_bytes(before)

    def assert_nothing_changed():
        assert os.listdir(tmp_path) == ["a.npz"] * bool(before)
        assert not before or path.read_bytes() == before

    for stop_at in ("xs", "dxs"):
        with pytest.raises(ValueError, match="something went wrong"):
            stream(path, stop_at=stop_at)
        assert_nothing_changed()
    # An array alone is larger, then only all of them together.
    for limit in (100, 600):
        with pytest.raises(OSError, match="too large"), full_disk(limit):
            stream(path)
        assert_nothing_changed()


def test_streaming_needs_no_memory_for_more_rows_and_no_more_disk_than_its_file(tmp_path):
    row = np.zeros(1 << 14)

    def peak(rows):
        tracemalloc.start()
        shapes = {"xs": (rows, len(row))}
        with stream_arrays(tmp_path / "a.npz", shapes, np.dtype("float32"), {}) as file:
            for index in range(rows):
                file.put("xs", index, row)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(100) < peak(4) + row.nbytes / 2
    # Nor is more on the disk on the way than in the end.
    path, most = tmp_path / "a.npz", 0
    path.unlink()
    with stream_arrays(path, {"xs": (50, 1000)}, np.dtype("float64"), {}) as file:
        for index in range(50):
            file.put("xs", index, np.arange(1000.0))
            most = max(most, sum(got.stat().st_size for got in tmp_path.rglob("*")))
    assert most <= path.stat().st_size < 50 * 1000 * 8 + 1000
