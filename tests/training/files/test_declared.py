"""Declared arrays: what fits is read and written, and what does not is named with what would."""

import numpy as np
import pytest
import torch

from tests.support.running import refusal
from torch_utils.results import load_arrays, save_arrays
from training.files.declared import (
    BYTE,
    FLAG,
    FLOAT,
    STORED,
    WHOLE,
    Key,
    ResultFile,
    names,
    text,
)

FILE = ResultFile(
    kind="example",
    name="`example.npz`",
    sizes="N rows and D columns",
    keys={
        "points": Key("N D", "points"),
        "names": names("D", "names"),
        "times": Key("T", "times", increasing=True),
        "shares": Key("N", "fractions", low=0, high=1),
        "holes": Key("N", "with missing values", missing=True),
        "wild": Key("N", "anything", FLOAT, wild=True),
        "chosen": Key("N", "chosen rows", FLAG),
        "count": Key("", "a number", WHOLE, low=1),
        "pixels": Key("3 *", "pixels", BYTE),
        "label": text("a text"),
        "stored": Key("N ...", "as in the file", STORED, by_rows=True),
        "extra": Key("N 2", "not in all files", optional=True),
        "{quantity}_mean": Key("T", "means"),
    },
    least={"T": 2, "D": 0},
    advice="ask again",
)
GOOD = {
    "points": np.arange(6, dtype=np.float32).reshape(3, 2),
    "names": np.array(["a", "b"]),
    "times": np.array([0, 1, 3, 4], dtype=np.uint8),
    "shares": np.array([0, 0.5, 1]),
    "holes": np.array([1, np.nan, 2]),
    "wild": np.array([np.inf, np.nan, 1]),
    "chosen": np.array([True, False, True]),
    "count": np.array(3),
    "pixels": np.zeros((3, 7), np.uint8),
    "label": np.array("x"),
    "stored": np.ones((3, 1, 2), ">f4"),
    "x_mean": np.zeros(4),
    "y_mean": np.zeros(4),
}


def test_what_fits_is_written_and_read_in_the_types_of_its_kinds(tmp_path):
    path = tmp_path / "a.npz"
    given = {**GOOD, "points": torch.from_numpy(GOOD["points"]), "names": ["a", "b"], "extra": None}
    FILE.save(path, {**given, "label": "x", "count": 3})
    saved = load_arrays(path)
    assert list(saved) == [*GOOD, "format"]
    assert str(saved["format"]) == "inflationary-flows example 1"
    read = FILE.load(path)
    assert set(read) == set(GOOD)
    for name, array in GOOD.items():
        np.testing.assert_array_equal(saved[name], array, strict=True)
        np.testing.assert_array_equal(read[name], array)
    kinds = {name: array.dtype for name, array in read.items() if array.dtype.kind != "U"}
    assert {name for name, kind in kinds.items() if kind != np.float64} == {
        *("chosen", "count", "pixels", "stored")
    }
    assert kinds["stored"] == np.dtype("=f4")
    with FILE.open(path) as arrays:
        batches = list(arrays.rows("stored", 2))
        assert [batch.shape for batch in batches] == [(2, 1, 2), (1, 1, 2)]
        assert arrays.get("extra") is None
        assert "points" in arrays
        with pytest.raises(KeyError):
            arrays.read("format")
    # Where there are no columns, NumPy makes a list of names one of floats.
    none = {"points": np.zeros((3, 0)), "names": np.array([])}
    save_arrays(path, {**GOOD, **none})
    assert FILE.load(path)["names"].tolist() == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("points", np.zeros((3, 2, 1)), "has shape [3, 2, 1], expected [N, D]"),
        ("points", np.zeros((0, 2)), "has shape [0, 2], expected [N, D] with N at least 1"),
        ("points", np.full((3, 2), np.inf), "has values that are not finite"),
        ("points", np.zeros((3, 2), complex), "contains complex128, expected numbers"),
        ("points", np.full((3, 2), "x"), "contains <U1, expected numbers"),
        ("names", np.array(["a"]), "has shape [1], expected [2]"),
        ("names", np.array(["a", "a"]), "has two equal entries"),
        ("names", np.arange(2), "contains int64, expected text"),
        ("times", np.zeros(1), "expected [T] with T at least 2"),
        ("times", np.array([2, 1], np.uint8), "must be increasing"),
        ("times", np.array([1.0, 1.0]), "must be increasing"),
        ("shares", np.array([0, 0.5, 1.01]), "has values outside 0 to 1"),
        ("shares", np.array([0, -0.1, 1]), "has values outside 0 to 1"),
        ("holes", np.array([1, np.inf, 2]), "not finite"),
        ("chosen", np.ones(3), "contains float64, expected booleans"),
        ("count", np.ones(1, int), "has shape [1], expected a single value"),
        ("count", np.array(0), "has values outside 1 to inf"),
        ("count", np.array(1.0), "contains float64, expected integers"),
        ("pixels", np.zeros((4, 7), np.uint8), "has shape [4, 7], expected [3, *]"),
        ("pixels", np.zeros((3, 7), np.uint16), "contains uint16, expected uint8"),
        ("label", np.array(1.0), "contains float64, expected text"),
        ("stored", np.ones((2, 1)), "has shape [2, 1], expected [3, *]"),
        ("stored", np.asfortranarray(np.ones((3, 2))), "is not stored row by row"),
        ("extra", np.ones((3, 3)), "has shape [3, 3], expected [3, 2]"),
        ("x_mean", np.zeros(3), "has shape [3], expected [4]"),
    ],
)
def test_what_does_not_fit_is_named_with_what_would(tmp_path, name, value, message):
    path = tmp_path / "a.npz"
    save_arrays(path, {**GOOD, name: value})
    told = refusal(FILE.load, path)
    assert f"'{name}' " in told
    assert message in told
    assert told.endswith(": ask again")
    if "shape" in message or "contains" in message:
        with pytest.raises(ValueError, match=f"'{name}' .*: correct the array, or its declaration"):
            FILE.save(path, {**GOOD, name: value})


@pytest.mark.parametrize("name", [name for name in GOOD if not name.endswith("_mean")])
def test_what_is_missing_is_named(tmp_path, name):
    save_arrays(tmp_path / "a.npz", {key: array for key, array in GOOD.items() if key != name})
    assert f"no array '{name}'" in refusal(FILE.load, tmp_path / "a.npz")


def test_names_of_a_file_are_printable_in_messages(tmp_path):
    save_arrays(tmp_path / "a.npz", {**GOOD, "\x1b[2J_mean": np.zeros(3)})
    assert "_mean' has shape [3]" in refusal(FILE.load, tmp_path / "a.npz")


def test_an_undeclared_array_is_not_written(tmp_path):
    with pytest.raises(KeyError):
        FILE.save(tmp_path / "a.npz", {**GOOD, "another": 1})
    assert not list(tmp_path.iterdir())
