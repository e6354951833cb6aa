"""Files of torch.save give back what was saved; from others nothing is imported, made or filled."""

import io
import os
import sys
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz.hostile import packed_zeros, zip_of
from fuzz.hostile_pickles import VALUES, legacy, program, saved, storage, tensor, torch_file
from fuzz.pickles import call, mapping, name, number, sequence, text
from torch import nn

from torch_utils.inert_pickle import PickleError
from torch_utils.tensor_files import BrokenFileError, ChecksumError, load_tensors

REFUSED = (PickleError, BrokenFileError)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool),
)


def load(data: bytes, **options: Any) -> Any:
    return load_tensors(io.BytesIO(data), **options)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_come_back_as_they_were(dtype: torch.dtype, zipped: bool) -> None:
    values = (torch.arange(24) % 2).to(dtype).reshape(2, 3, 4)
    given = {"a": values, "b": values[1, :, ::2], "c": values.permute(2, 0, 1), "d": values[:0]}
    back = load(saved(given, zipped), legacy=True)
    for key, value in given.items():
        assert back[key].dtype == dtype
        assert torch.equal(back[key], value)
    assert back["a"].untyped_storage().data_ptr() == back["b"].untyped_storage().data_ptr()


@pytest.mark.parametrize("zipped", [True, False])
def test_states_of_modules_and_optimizers_come_back(zipped: bool) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    module(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    given = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "plain": (1, 2.5)}
    back = load(saved(given, zipped), legacy=True)
    assert isinstance(back["module"], OrderedDict)
    assert back["module"]._metadata == module.state_dict()._metadata
    assert back["plain"] == (1, 2.5)
    assert back["optimizer"]["param_groups"] == given["optimizer"]["param_groups"]
    for key, moments in given["optimizer"]["state"].items():
        for kind, value in moments.items():
            assert torch.equal(back["optimizer"]["state"][key][kind], value)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("kind", VALUES)
def test_what_is_no_data_is_refused(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pickled = program(VALUES[kind])
    form_of: dict[str, Callable[[bytes], bytes]] = {"zip": torch_file, "legacy": legacy}
    data = form_of.get(form, bytes)(pickled)
    modules = set(sys.modules)
    began = time.process_time()
    try:
        load(data, legacy=form == "legacy")
    except REFUSED:
        pass
    else:  # one value seen often, or values in each other: data, but of no use
        assert kind in {
            *("one value seen 2^60 times", "one value seen 2^30 times", "many numbers"),
            *("2^60 lists", "a list in itself", "a dict in itself", "lists in lists"),
            *("tuples in tuples", "a storage of a GPU", "a place of 2^32"),
        }
    assert time.process_time() - began < 5
    assert set(sys.modules) == modules
    assert os.listdir(tmp_path) == []


LIES = {
    "a longer storage": torch_file(program(tensor(storage(5), [5], [1]))),
    "a shorter storage": torch_file(program(tensor(storage(3), [3], [1]))),
    "a storage of another kind": torch_file(program(tensor(storage(4, "LongStorage"), [4], [1]))),
    "a storage that is not there": torch_file(program(tensor(storage(4, key="1"), [4], [1]))),
    "attributes": torch_file(
        program(call("collections OrderedDict") + mapping(items=number(1)) + b"b")
    ),
    "hooks": torch_file(
        program(
            call(
                "torch._utils _rebuild_tensor_v2",
                *(storage(4), number(0), sequence(number(4)), sequence(number(1)), b"\x89"),
                call("collections OrderedDict", b"]" + sequence(text("a"), number(1)) + b"a"),
            )
        )
    ),
    "another function": torch_file(program(name("torch.nn.parameter Parameter"))),
    "two pickles": torch_file(program(b"}") + program(b"}")),
    "packed members": zip_of({"a/data.pkl": program(b"}")}, zipfile.ZIP_DEFLATED),
    "two folders": zip_of({"a/data.pkl": program(b"}"), "b/data.pkl": program(b"}")}),
    "no folder": zip_of({"data.pkl": program(b"}")}),
    "nothing": zip_of({}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_is_not_as_torch_writes_it_is_refused(lie: str) -> None:
    with pytest.raises(REFUSED):
        load(LIES[lie])


def test_the_good_file_of_these_tests_is_read() -> None:
    assert torch.equal(load(torch_file(program(tensor(storage(4), [4], [1])))), torch.zeros(4))


def test_a_changed_byte_is_told_by_its_member() -> None:
    data = bytearray(saved({"a": torch.full((4,), 7.0)}))
    data[data.index(torch.tensor(7.0).numpy().tobytes())] ^= 1
    with pytest.raises(ChecksumError, match="data/0"):
        load(bytes(data))


def test_torch_is_given_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of zips in torch finds another member where the directory is not the truth."""
    given: list[bytes] = []

    def take(file: Any, **options: Any) -> None:
        with zipfile.ZipFile(file) as archive:
            given.append(archive.read("a/data.pkl"))

    monkeypatch.setattr(torch, "load", take)
    load(b"something before it" + torch_file(program(b"}")))
    assert given == [program(b"}")]


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_the_old_form_is_as_long_as_it_says(change: Callable[[bytes], bytes]) -> None:
    data = saved({"a": torch.zeros(3)}, zipped=False)
    assert torch.equal(load(data, legacy=True)["a"], torch.zeros(3))
    with pytest.raises(REFUSED):
        load(change(data), legacy=True)
    with pytest.raises(PickleError):
        load(data)


def test_the_old_form_takes_no_memory_for_what_it_promises() -> None:
    data = legacy(program(tensor(storage(1 << 31), [1], [1])), keys=b"]" + text("0") + b"a")
    with pytest.raises(REFUSED):
        load(data + (1 << 31).to_bytes(8, "little"), legacy=True)
    with pytest.raises(REFUSED):
        load(packed_zeros(1), legacy=True)
