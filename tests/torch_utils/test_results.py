"""Result files: what is written comes back, and what cannot be trusted does not."""

import json
import os
import pickle
import re
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dnnlib
from dnnlib.errors import DataError
from torch_utils.results import (
    load_arrays,
    load_json,
    open_arrays,
    provenance,
    save_arrays,
    save_json,
)

ARRAYS = {
    "times": np.linspace(0, 1, 4),
    "xs": np.random.default_rng(0).normal(size=(4, 3, 2)),
    "labels": np.arange(3),
    "empty": np.zeros((0, 2)),
    "single": np.float32(7),
    "names": np.array(["a", "größer"]),
}


def refusal(path: Path, opener: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        opener(path, *arguments)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", ARRAYS)
    back = load_arrays(tmp_path / "a.npz", required=["times", "xs"])
    assert list(back) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == np.asarray(array).dtype
    assert os.listdir(tmp_path) == ["a.npz"]


def test_numpy_alone_opens_the_file(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", ARRAYS)
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == list(ARRAYS)


def test_object_arrays_are_not_written(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", {"x": np.zeros(2)})
    old = (tmp_path / "a.npz").read_bytes()
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        save_arrays(tmp_path / "a.npz", {"x": np.array([{}, None], dtype=object)})
    assert os.listdir(tmp_path) == ["a.npz"]
    assert (tmp_path / "a.npz").read_bytes() == old


def test_object_arrays_are_not_read_and_their_code_does_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "marker"),)

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object))
    refusal(tmp_path / "a.npz", load_arrays)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    refusal(tmp_path / "b.npz", load_arrays)
    assert not (tmp_path / "marker").exists()


def test_a_missing_array_is_named_with_those_there_are(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", {"xs": np.zeros(2), "times": np.zeros(2)})
    message = refusal(tmp_path / "a.npz", load_arrays, ["xs", "net_outs"])
    assert "'net_outs'" in message
    assert "xs, times" in message


@pytest.mark.parametrize("content", [b"", b"PK", b"garbage", b"\x93NUMPY", bytes(1000), b"\x80\2"])
def test_other_bytes_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    refusal(tmp_path / "a.npz", load_arrays)


def test_a_single_array_is_no_archive_of_arrays(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.arange(3))
    refusal(tmp_path / "a.npz", load_arrays)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_an_archive_that_was_cut_short_is_refused(
    tmp_path: Path, save: Callable[..., None], kept: float
) -> None:
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refusal(path, load_arrays)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_with_wrong_bytes_is_refused_or_read_whole(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "a.npz"
    save(path, xs=ARRAYS["xs"], labels=ARRAYS["labels"])
    whole = path.read_bytes()
    for start in range(len(whole)):
        changed = bytearray(whole)
        changed[start] ^= 0x41
        path.write_bytes(changed)
        try:
            back = load_arrays(path)
        except DataError:
            continue
        for name in set(back) & set(ARRAYS):
            np.testing.assert_array_equal(back[name], ARRAYS[name])


def test_a_broken_compressed_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    noise = zlib.compress(bytes(1000))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(1000) + noise)
    data = bytearray(path.read_bytes())
    data[35:45] = b"\xff" * 10
    path.write_bytes(data)
    refusal(path, load_arrays)


@pytest.mark.parametrize(
    ("opener", "suffix"), [(load_arrays, ".npz"), (load_json, ".json")], ids=["npz", "json"]
)
def test_missing_files_and_folders_are_refused(
    tmp_path: Path, opener: Callable[..., Any], suffix: str
) -> None:
    assert "does not exist" in refusal(tmp_path / f"none{suffix}", opener)
    refusal(tmp_path, opener)


def test_json_comes_back_and_is_readable_to_people(tmp_path: Path) -> None:
    content = {"a": 1, "b": [1.5, None, "größer"], "c": {"d": True}, "path": Path("x/y")}
    save_json(tmp_path / "a.json", content)
    assert load_json(tmp_path / "a.json") == content | {"path": "x/y"}
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert len(text.splitlines()) > len(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1', b"[1]", b"3", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000],
    ids=lambda content: repr(content[:8]),
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    refusal(tmp_path / "a.json", load_json)


@pytest.mark.parametrize(
    ("save", "small", "large"),
    [
        (save_arrays, {"x": np.zeros(2)}, {"x": np.ones(9000)}),
        (save_json, {"x": 1}, {"x": list(range(9000))}),
    ],
    ids=["npz", "json"],
)
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path,
    full_disk: Callable[[int], AbstractContextManager[None]],
    save: Callable[[Path, Any], None],
    small: Any,
    large: Any,
) -> None:
    path = tmp_path / "a"
    save(path, small)
    old = path.read_bytes()
    with pytest.raises(OSError, match="too large"), full_disk(1000):
        save(path, large)
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_bytes() == old


def test_provenance_tells_what_a_result_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/script.py", "--seed=3", "--x"])
    facts = provenance()
    assert facts["code_version"] == dnnlib.__version__
    assert facts["libraries"]["torch"] == torch.__version__
    assert facts["libraries"]["numpy"] == np.__version__
    assert re.fullmatch(r"\d+\.\d+.*", facts["libraries"]["click"])
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["command"] == ["script.py", "--seed=3", "--x"]
    assert facts["threads"] == torch.get_num_threads()
    assert facts["tf32"] is False
    assert {"code_revision", "machine", "finished"} <= set(facts)
    assert json.loads(json.dumps(facts)) == facts


def test_an_open_file_reads_only_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_arrays(path, {"large": np.zeros(1 << 20), "small": np.arange(3), "names": np.array("x")})
    with open_arrays(path) as saved:
        assert saved.names == ["large", "small", "names"]
        tracemalloc.start()
        np.testing.assert_array_equal(saved.read("small"), np.arange(3))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 1 << 20
        np.testing.assert_array_equal(saved.read("large"), np.zeros(1 << 20))
        np.testing.assert_array_equal(saved.read("small"), np.arange(3))


def test_one_broken_array_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save_arrays(path, {"first": np.arange(100.0), "second": np.arange(50.0)})
    content = path.read_bytes()
    place = content.index(np.float64(49).tobytes(), content.index(b"second"))
    path.write_bytes(content[:place] + b"?" + content[place + 1 :])
    with open_arrays(path) as saved:
        np.testing.assert_array_equal(saved.read("first"), np.arange(100.0))
        assert "'second'" in refusal(path, lambda path: saved.read("second"))


@pytest.mark.parametrize("content", [None, b"", b"garbage", bytes(1000)])
def test_what_is_no_archive_is_not_opened(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)

    def open_and_close(path: Path) -> None:
        with open_arrays(path):
            pytest.fail("opened")

    message = refusal(path, open_and_close)
    assert ("does not exist" in message) == (content is None)


def test_numbers_are_finite_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    good = {"f": np.ones(2), "i": np.arange(3), "u": np.zeros(2, np.uint8), "none": np.zeros(0)}
    bad = {
        "text": np.array(["a"]),
        "flags": np.array([True]),
        "complex": np.ones(2, complex),
        "nan": np.array([1, np.nan]),
        "inf": np.array([1, -np.inf], np.float32),
    }
    save_arrays(path, {**good, **bad})
    with open_arrays(path) as saved:
        for name, array in good.items():
            np.testing.assert_array_equal(saved.numbers(name), array, strict=True)
        for name in bad:
            message = refusal(path, lambda path, name: saved.numbers(name), name)
            assert f"'{name}'" in message
        assert "it has f, i, u" in refusal(path, lambda path: saved.numbers("x"))
