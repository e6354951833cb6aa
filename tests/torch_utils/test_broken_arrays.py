"""Files of arrays, and JSON, that are not what they seem: refused in a line, at once."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.contents import npy
from fuzz.hostile import zip_bomb, zip_of
from fuzz.hostile_arrays import ARRAYS

from dnnlib.errors import DataError
from torch_utils.array_rows import open_rows
from torch_utils.results import load_arrays, load_json, open_arrays


def npz_of(path: Path, **members: bytes) -> Path:
    path.write_bytes(zip_of({f"{name}.npy": content for name, content in members.items()}))
    return path


def refusal(path: Path, read: Callable[[Path], Any] = load_arrays) -> str:
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert len(message) < 600
    return message


def rows_of(path: Path) -> list[np.ndarray]:
    with open_rows(path, "a") as rows:
        return list(rows.batches(2))


@pytest.mark.parametrize("read", [load_arrays, rows_of])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_not_as_they_say_are_refused(
    tmp_path: Path, kind: str, read: Callable[[Path], Any]
) -> None:
    content = ARRAYS[kind]
    path = npz_of(tmp_path / "a.npz", a=content if isinstance(content, bytes) else content())
    # Some are plain arrays after all, but of another type or not finite, which is others' business.
    plain = {"a header of old", "dates", "letters beyond all", "not finite", "columns"}
    plain |= {"no numbers, 2^62 times", "axes that are true"}
    if kind not in plain:
        assert "broken in the array 'a'" in refusal(path, read)
        return
    with suppress(DataError):
        read(path)


def test_arrays_that_python_2_wrote_are_read_without_a_word(tmp_path: Path) -> None:
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (2L,), }"
    path = npz_of(tmp_path / "a.npz", a=npy(header, np.array([1.0, 2.0]).tobytes()))
    np.testing.assert_array_equal(load_arrays(path)["a"], [1, 2])
    np.testing.assert_array_equal(rows_of(path)[0], [1, 2])


def test_numbers_come_in_the_byte_order_of_the_machine(tmp_path: Path) -> None:
    given = np.arange(6, dtype=">f8").reshape(3, 2)
    np.savez(tmp_path / "a.npz", a=given)
    with open_arrays(tmp_path / "a.npz") as saved:
        values = saved.numbers("a")
    rows = np.concatenate(rows_of(tmp_path / "a.npz"))
    for read in (values, rows):
        assert torch.equal(torch.from_numpy(read), torch.arange(6.0).double().reshape(3, 2))


@pytest.mark.parametrize("read", [load_arrays, rows_of])
def test_what_is_far_larger_than_it_looks_is_refused(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    path = tmp_path / "a.npz"
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (39321600,), }"
    path.write_bytes(zip_bomb("a.npy", 300, npy(header, b"")))
    assert path.stat().st_size < 1 << 20
    assert "promises" in refusal(path, read)


def test_compressed_arrays_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**6))
    assert not load_arrays(tmp_path / "a.npz")["a"].any()


def test_names_from_a_file_are_printable_in_errors(tmp_path: Path) -> None:
    path = npz_of(tmp_path / "a.npz", **{"a\n\x1b[2J" * 100: b"", "b" * 5000: b""})
    assert "it has" in refusal(path, rows_of)
    refusal(path)


@pytest.mark.parametrize("read", [load_arrays, rows_of, load_json])
def test_pipes_and_devices_are_not_read(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        refusal(tmp_path / name, read)


def test_huge_json_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no room on disk
    assert "larger than 8 MiB" in refusal(tmp_path / "a.json", load_json)
