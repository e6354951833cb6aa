"""Pickles are read without running a thing in them, alone and in tensor files."""

import io
import os
import pickle
import pickletools
import sys
import tempfile
import zipfile
from collections import OrderedDict
from contextlib import suppress
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.fuzz import hostile_pickles as pickles
from tests.fuzz.hostile import packed_zeros, zip_of
from tests.fuzz.hostile_pickles import Call, legacy, program, saved, storage, tensor, torch_file
from torch_utils.inert_pickle import Name, PickleError, PickleReader, Unfinished, expect, shown
from torch_utils.tensor_files import BrokenFileError, ChecksumError, load_tensors

PLAIN = {
    "text": ["", "ä" * 300, "\ud800", b"", b"\xff" * 300],
    "numbers": [0, -1, 255, 256, 65536, -(2**31), 2**40, 1.5, float("inf"), True, False, None],
    "nested": [[], {}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {"a": [{"b": ()}]}],
    "sets": [set(), {"a", "b"}],
    "many": list(range(3000)),
}


def read(data, names=(), **options):
    return PickleReader(data, dict(names), **options).read()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_values_are_read_as_they_were(protocol):
    shared = ["x"]
    value = {**PLAIN, "shared": [shared, shared]}
    if protocol < 4:
        del value["sets"]  # which are made by a call there
    if protocol == 5:
        value["bytes"] = bytearray(b"abc")
    got = read(pickle.dumps(value, protocol=protocol))
    assert got == value
    assert got["shared"][0] is got["shared"][1]
    shared.append(shared)  # a list may hold itself
    got = read(pickle.dumps(shared, protocol=protocol))
    assert got[1] is got
    # Pickles are read one after the other.
    reader = PickleReader(pickle.dumps(["a", "a"]) + pickle.dumps("b") + b"more", {})
    assert [reader.read(), reader.read()] == [["a", "a"], "b"]
    assert reader.rest() == b"more"


def test_names_and_persistent_ids_are_looked_up():
    data = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ab\x85R."
    assert read(data, {"os.system": str.upper}) == "AB"
    assert read(b"\x80\x02cos\nsystem\n.", {"os.system": None}) == Name("os.system", None)
    with pytest.raises(PickleError, match=r"calls os\.system"):
        read(data, {"os.system": None})
    assert read(b"\x80\x02X\x01\x00\x00\x00aQ.", persistent=lambda key: [key]) == ["a"]


class Box(Unfinished):
    """Becomes a list when it is filled."""

    def build(self, state):
        return list(expect(state, tuple))


def test_an_object_that_is_filled_is_the_same_everywhere():
    # A box, put in the memo, filled, and looked up again.
    data = b"\x80\x02cbox\nBox\n)Rq\x01K\x01K\x02\x86bh\x01\x86."
    first, second = read(data, {"box.Box": Box})
    assert first == [1, 2]
    assert second is first


def test_nothing_is_run_and_what_would_have_been_is_named(tmp_path):
    marker = tmp_path / "marker"
    data = pickle.dumps([Call(os.system, f"touch {marker}")])
    with pytest.raises(PickleError, match=r"refers to posix\.system"):
        read(data)
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the pickle was not hostile"


def test_no_opcode_is_known_beyond_those_of_data():
    others = {"INT", "LONG", "STRING", "UNICODE", "FLOAT", "INST", "OBJ", "EXT1", "DUP", "POP"}
    others |= {"NEWOBJ_EX", "NEXT_BUFFER", "PERSID"}
    for info in pickletools.opcodes:
        if info.name in others:
            with pytest.raises(PickleError, match=f"has the opcode {info.name},"):
                read(info.code.encode("latin-1") + b"1\n.")


def test_broken_and_cut_pickles_are_errors():
    data = pickle.dumps({**PLAIN, "many": list(range(40))})
    for end in range(len(data)):
        with pytest.raises(PickleError):
            read(data[:end])
    for data in (
        *(b"", b".", b"\x80\x02", b"\x80\x02(.", b"\x80\x02]].", b"\xff."),
        *(b"\x80\x02h\x05.", b"\x80\x02]e.", b"\x80\x02K\x01b.", b"\x80\x02K\x01K\x02R."),
        *(b"}K\x01K\x01s.", b"})K\x01s.", b"}(X\x01\x00\x00\x00au.", b"\x8f(K\x01\x90."),
        *(b"(\x94h\x00.", b"\x93.", b"K\x01K\x02\x93.", b"]K\x01b.", b"K\x01Q."),
    ):
        with pytest.raises(PickleError, match=r"^the pickle "):
            read(data)


@given(place=st.integers(min_value=0), byte=st.binary(min_size=1, max_size=1))
@settings(max_examples=300)
def test_a_changed_byte_is_an_error_or_another_value(place, byte):
    data = pickle.dumps({"a": [1.5, (2, "bc"), {"d": {"e"}}], "f": b"ghi"}, protocol=4)
    place %= len(data)
    with suppress(PickleError):
        read(data[:place] + byte + data[place + 1 :])


def test_long_values_are_not_handed_over_again_and_again():
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000
    data = b"\x80\x02" + text + b"q\x01"
    names = {"x.y": str.upper}
    assert read(data + b"cx\ny\nh\x01\x85R\x86.", names) == ("a" * 1000, "A" * 1000)
    calls = b"".join(b"cx\ny\nh\x01\x85R" for _ in range(4))
    with pytest.raises(PickleError, match="the same bytes to functions too often"):
        read(data + calls + b".", names)


def test_opcodes_are_counted_over_all_pickles_and_can_be_refused():
    reader = PickleReader(b"]." * 3, {}, most_opcodes=5)
    reader.read()
    reader.read()
    with pytest.raises(PickleError, match="more opcodes than the limit"):
        reader.read()
    assert read(pickle.dumps(1.5)) == 1.5
    with pytest.raises(PickleError, match="has the opcode BINFLOAT"):
        read(pickle.dumps(1.5), without=("BINFLOAT",))


def test_text_of_a_file_is_shown_in_one_short_line():
    assert shown("os.system") == "os.system"
    assert shown("a\nb\x1b[31m") == r"a\nb\x1b[31m"
    assert shown("\ud800") == r"\ud800"
    assert shown("x" * 1000) == "x" * 80 + "..."


REFUSED = (PickleError, BrokenFileError)
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.bool),
)


def load(data, **options):
    return load_tensors(io.BytesIO(data), **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_states_come_back_as_they_were(zipped):
    for dtype in DTYPES:
        values = (torch.arange(24) % 2).to(dtype).reshape(2, 3, 4)
        given = {"a": values, "b": values[1, :, ::2], "c": values.permute(2, 0, 1), "d": values[:0]}
        back = load(saved(given, zipped), legacy=True)
        for key, value in given.items():
            assert back[key].dtype == dtype
            assert torch.equal(back[key], value)
        assert back["a"].untyped_storage().data_ptr() == back["b"].untyped_storage().data_ptr()
    # So do states of modules and optimizers.
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
def test_what_is_no_data_fails(tmp_path, monkeypatch, form):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    form_of = {"zip": torch_file, "legacy": legacy}
    passed = set()
    import_module("torch.utils.serialization.config")  # as torch does at its first load
    modules = set(sys.modules)
    for kind, value in pickles.VALUES.items():
        try:
            load(form_of.get(form, bytes)(program(value)), legacy=form == "legacy")
        except REFUSED:
            continue
        passed.add(kind)
    # One value seen often, or values in each other: data, but of no use.
    assert passed <= {
        *("one value seen 2^60 times", "one value seen 2^30 times", "many numbers"),
        *("2^60 tuples", "a list in itself", "lists in lists", "a storage of a GPU"),
        "a place of 2^32",
    }
    assert set(sys.modules) == modules
    assert os.listdir(tmp_path) == []


HOOKS = pickles.call("collections OrderedDict", b"](" + pickles.text("a") + b"Nta")
FALSE_VALUES = {
    "a longer storage": tensor(storage(5), [5], [1]),
    "a shorter storage": tensor(storage(3), [3], [1]),
    "a storage of another kind": tensor(storage(4, "LongStorage"), [4], [1]),
    "a storage that is not there": tensor(storage(4, key="1"), [4], [1]),
    "hooks": tensor(storage(4), [4], [1], hooks=HOOKS),
    "another function": pickles.name("torch.nn.parameter Parameter"),
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


def test_a_file_that_is_not_as_torch_writes_it_is_refused():
    assert torch.equal(load(torch_file(program(tensor(storage(4), [4], [1])))), torch.zeros(4))
    for lie in LIES.values():
        with pytest.raises(REFUSED):
            load(lie)


def test_a_changed_byte_is_named_by_its_member_or_changes_no_value():
    data = saved({"a": torch.full((4,), 7.0)})
    place = data.index(torch.tensor(7.0).numpy().tobytes())
    errors = {}
    for start in (place, *range(0, len(data), 17)):
        changed = bytearray(data)
        changed[start] ^= 0x41
        try:
            got = load(bytes(changed))
        except REFUSED as error:
            errors[start] = error
            continue
        assert torch.equal(got["a"], torch.full((4,), 7.0))
    assert isinstance(errors[place], ChecksumError)
    assert "data/0" in str(errors[place])


def test_torch_is_given_what_was_looked_at(monkeypatch):
    """The reader of zips in torch finds another member where the directory is not the truth."""
    given = []

    def take(file, **options):
        with zipfile.ZipFile(file) as archive:
            given.append(archive.read("a/data.pkl"))

    monkeypatch.setattr(torch, "load", take)
    load(b"something before it" + torch_file(program(b"}")))
    assert given == [program(b"}")]


def test_the_old_form_has_one_length_and_takes_no_memory_for_a_promise():
    data = saved({"a": torch.zeros(3)}, zipped=False)
    assert torch.equal(load(data, legacy=True)["a"], torch.zeros(3))
    with pytest.raises(PickleError):
        load(data)
    huge = legacy(program(tensor(storage(1 << 31), [1], [1])), keys=b"]" + pickles.text("0") + b"a")
    for wrong in (data[:-1], data + b"x", huge + (1 << 31).to_bytes(8, "little"), packed_zeros(1)):
        with pytest.raises(REFUSED):
            load(wrong, legacy=True)
