"""Files of torch.save give back what was saved; from others nothing is imported, made or filled."""

import io
import os
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fuzz.hostile import packed_zeros, zip_of
from tests.fuzz.hostile_pickles import VALUES, legacy, program, saved, storage, tensor, torch_file
from tests.fuzz.pickles import call, mapping, name, number, sequence, text
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
def test_tensors_come_back_as_they_were(zipped: bool) -> None:
    for dtype in DTYPES:
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
def test_what_is_no_data_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    form_of: dict[str, Callable[[bytes], bytes]] = {"zip": torch_file, "legacy": legacy}
    passed = set()
    import_module("torch.utils.serialization.config")  # as torch does at its first load
    modules = set(sys.modules)
    for kind, value in VALUES.items():
        try:
            load(form_of.get(form, bytes)(program(value)), legacy=form == "legacy")
        except REFUSED:
            continue
        passed.add(kind)
    # One value seen often, or values in each other: data, but of no use.
    assert passed <= {
        *("one value seen 2^60 times", "one value seen 2^30 times", "many numbers"),
        *("2^60 lists", "a list in itself", "a dict in itself", "lists in lists"),
        *("tuples in tuples", "a storage of a GPU", "a place of 2^32"),
    }
    assert set(sys.modules) == modules
    assert os.listdir(tmp_path) == []


HOOKS = call("collections OrderedDict", b"]" + sequence(text("a"), number(1)) + b"a")
FALSE_VALUES = {
    "a longer storage": tensor(storage(5), [5], [1]),
    "a shorter storage": tensor(storage(3), [3], [1]),
    "a storage of another kind": tensor(storage(4, "LongStorage"), [4], [1]),
    "a storage that is not there": tensor(storage(4, key="1"), [4], [1]),
    "attributes": call("collections OrderedDict") + mapping(items=number(1)) + b"b",
    "hooks": tensor(storage(4), [4], [1], hooks=HOOKS),
    "another function": name("torch.nn.parameter Parameter"),
}
LIES = {
    **{kind: torch_file(program(value)) for kind, value in FALSE_VALUES.items()},
    "two pickles": torch_file(program(b"}") + program(b"}")),
    "a storage of no kind": torch_file(program(tensor(storage(4, "OddStorage"), [4], [1]))),
    "packed members": zip_of({"a/data.pkl": program(b"}")}, zipfile.ZIP_DEFLATED),
    "two folders": zip_of({"a/data.pkl": program(b"}"), "b/data.pkl": program(b"}")}),
    "no folder": zip_of({"data.pkl": program(b"}")}),
    "nothing": zip_of({}),
}


def test_a_file_that_is_not_as_torch_writes_it_is_refused() -> None:
    assert torch.equal(load(torch_file(program(tensor(storage(4), [4], [1])))), torch.zeros(4))
    for lie in LIES.values():
        with pytest.raises(REFUSED):
            load(lie)


def test_a_changed_byte_is_named_by_its_member_or_changes_no_value() -> None:
    data = saved({"a": torch.full((4,), 7.0)})
    place = data.index(torch.tensor(7.0).numpy().tobytes())
    errors: dict[int, Exception] = {}
    for start in (place, *range(0, len(data), 17)):
        changed = bytearray(data)
        changed[start] ^= 0x41
        try:
            found = load(bytes(changed))
        except REFUSED as error:
            errors[start] = error
            continue
        assert torch.equal(found["a"], torch.full((4,), 7.0))
    assert isinstance(errors[place], ChecksumError)
    assert "data/0" in str(errors[place])


def test_torch_is_given_what_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of zips in torch finds another member where the directory is not the truth."""
    given: list[bytes] = []

    def take(file: Any, **options: Any) -> None:
        with zipfile.ZipFile(file) as archive:
            given.append(archive.read("a/data.pkl"))

    monkeypatch.setattr(torch, "load", take)
    load(b"something before it" + torch_file(program(b"}")))
    assert given == [program(b"}")]


def test_the_old_form_has_one_length_and_takes_no_memory_for_a_promise() -> None:
    data = saved({"a": torch.zeros(3)}, zipped=False)
    assert torch.equal(load(data, legacy=True)["a"], torch.zeros(3))
    with pytest.raises(PickleError):
        load(data)
    huge = legacy(program(tensor(storage(1 << 31), [1], [1])), keys=b"]" + text("0") + b"a")
    for wrong in (data[:-1], data + b"x", huge + (1 << 31).to_bytes(8, "little"), packed_zeros(1)):
        with pytest.raises(REFUSED):
            load(wrong, legacy=True)
