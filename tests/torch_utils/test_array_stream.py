"""Arrays written row by row: what NumPy would write, whole or not at all, and no scratch data."""

import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tests.support.running import full_disk
from torch_utils.array_stream import stream_arrays
from torch_utils.results import load_arrays

CUBES = {
    "xs": np.random.default_rng(1).normal(size=(5, 3, 2)),
    "dxs": np.random.default_rng(2).normal(size=(4, 7)),
    "none": np.zeros((0, 2)),
}
SMALL = {"times": np.linspace(0, 1, 4), "labels": np.arange(3), "single": np.float32(7)}


def stream(path: Path, dtype: str = "float64", stop_at: str | None = None) -> None:
    """Writes ``CUBES`` from the last row to the first; raises ValueError at an array."""
    shapes = {name: array.shape for name, array in CUBES.items()}
    with stream_arrays(path, shapes, np.dtype(dtype), SMALL) as file:
        for name, array in CUBES.items():
            if name == stop_at:
                raise ValueError("something went wrong")
            for index in reversed(range(len(array))):
                file.put(name, index, array[index])


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_streamed_arrays_are_those_that_numpy_would_write(tmp_path: Path) -> None:
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


def test_rows_may_lie_anyhow_in_memory_and_come_again(tmp_path: Path) -> None:
    cube = CUBES["xs"]
    with stream_arrays(tmp_path / "a.npz", {"xs": (5, 2, 3)}, np.dtype("float64"), {}) as file:
        for index, row in enumerate(cube):
            file.put("xs", index, np.full((2, 3), np.nan))
            file.put("xs", index, row.T)
    assert_array_equal(load_arrays(tmp_path / "a.npz")["xs"], cube.transpose(0, 2, 1), strict=True)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_stream_that_stops_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "a.npz"
    if before:
        path.write_bytes(before)

    def assert_nothing_changed() -> None:
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


def test_streaming_needs_no_memory_for_more_rows(tmp_path: Path) -> None:
    row = np.zeros(1 << 14)

    def peak(rows: int) -> int:
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


def test_no_more_is_on_the_disk_on_the_way_than_in_the_end(tmp_path: Path) -> None:
    path, most = tmp_path / "a.npz", 0
    with stream_arrays(path, {"xs": (50, 1000)}, np.dtype("float64"), {}) as file:
        for index in range(50):
            file.put("xs", index, np.arange(1000.0))
            most = max(most, sum(found.stat().st_size for found in tmp_path.rglob("*")))
    assert most <= path.stat().st_size < 50 * 1000 * 8 + 1000
