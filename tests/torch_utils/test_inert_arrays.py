"""Arrays, tensors and arguments of files: the values that NumPy and torch give, and no others."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.fuzz.hostile_pickles import Call
from torch_utils.arguments import check_arguments, fits
from torch_utils.inert_arrays import ARRAY_NAMES, SCALAR_NAMES, TENSOR_NAMES
from torch_utils.inert_pickle import PickleError, PickleReader

NAMES = {**ARRAY_NAMES, **SCALAR_NAMES, **TENSOR_NAMES}
# Not dict itself, which does not tell how many arguments it takes.
NAMES["collections.OrderedDict"] = lambda: {}
DTYPES = ("bool", "i1", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i2")
PROTOCOLS = (2, 3, 4, 5)


def read(value, protocol=4):
    return PickleReader(pickle.dumps(value, protocol=protocol), NAMES).read()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_numbers_of_numpy_are_read_as_they_were(protocol):
    for dtype, shape in product(DTYPES, [(), (0,), (5,), (2, 3, 4)]):
        array = np.asarray(7 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
        for given in (array, np.asfortranarray(array)):
            got = read({"x": given, "y": given}, protocol)
            np.testing.assert_array_equal(got["x"], given, strict=True)
            assert got["y"] is got["x"]
            assert got["x"].base is not None, "it is not copied"
            assert not got["x"].flags.writeable
        number = np.asarray([1.5]).astype(dtype)[0]
        got = read(number, protocol)
        assert got == number
        assert type(got) in (bool, int, float)


TENSORS = {
    "whole": torch.arange(24.0).reshape(2, 3, 4),
    "transposed": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
    "a view": torch.arange(24.0)[3:20:2],
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "a number": torch.tensor(3.0),
    "empty": torch.zeros(2, 0),
    "empty view": torch.arange(4.0)[4:],
    "a row": torch.arange(24.0).reshape(4, 6)[1:2],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_are_read_as_they_were(protocol):
    kinds = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float64")
    typed = [torch.tensor([0, 1, 100]).to(getattr(torch, kind)) for kind in kinds]
    for tensor in (*TENSORS.values(), *typed):
        given = [tensor, nn.Parameter(tensor, requires_grad=tensor.is_floating_point())]
        for array in read(given, protocol):
            np.testing.assert_array_equal(array, tensor.numpy(), strict=True)
            assert array.base is not None
            assert not array.flags.writeable


@pytest.mark.filterwarnings("ignore")
def test_other_types_are_refused_by_name():
    for value, what in (
        (torch.zeros(2, dtype=torch.bfloat16), "torch.BFloat16Storage"),
        (torch.zeros(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (np.zeros(2, complex), "the dtype c16"),
        (np.zeros(2, object), "the dtype O8"),
        (np.zeros(2, "U3"), "the dtype U3"),
        (np.zeros(2, "M8[s]"), "the dtype M8"),
        (np.zeros(2, [("a", "f4")]), "the dtype V4"),
        (np.ma.masked_array([1.0]), "numpy.ma"),
        (torch.eye(2).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (torch.device("cpu"), "torch.device"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.random.default_rng(0), "numpy.random"),
    ):
        with pytest.raises(PickleError, match=re.escape(what)):
            read(value)


# What pickles of tensors name, by which old files must be read: where PyTorch no longer has it,
# pickle a tensor of the oldest version we read, and take the names that ``pickletools`` shows.
STORAGE = torch.arange(4.0)._typed_storage()
RAW = STORAGE.__reduce__()[1][0]
rebuild = torch._utils._rebuild_tensor_v2
load = torch.storage._load_from_bytes
reconstruct = np.zeros(1).__reduce__()[0]
scalar = np.float64(1).__reduce__()[0]


def tensor(offset, size, stride, storage=STORAGE):
    return Call(rebuild, storage, offset, size, stride, False, OrderedDict())


def changed(old, new):
    assert old in RAW
    return Call(load, RAW.replace(old, new))


def array(*state):
    return Call(reconstruct, np.ndarray, (0,), b"b", state=state)


F8 = np.dtype("f8")
FALSE = {
    "expanded": tensor(0, (5,), (0,)),
    "too long": tensor(1, (4,), (1,)),
    "before its values": tensor(-1, (2,), (1,)),
    "backwards": tensor(3, (4,), (-1,)),
    "of two sizes": tensor(0, (2, 2), (1,)),
    "of a fraction": tensor(0, (1.5,), (1,)),
    "of no storage": tensor(0, (2,), (1,), storage=[1.0, 2.0]),
    "of a matrix": tensor(0, (2,), (1,), storage=np.ones((2, 2))),
    "parameter of a list": Call(torch._utils._rebuild_parameter, [1.0], False, OrderedDict()),
    "storage cut short": Call(load, RAW[:-1]),
    "storage without magic": changed(b"\x8a\nl\xfc", b"\x8a\nl\xfd"),
    "storage of big-endian numbers": changed(b"endianq\x02\x88", b"endianq\x02\x89"),
    "storage of another length": changed(b"K\x04N", b"K\x03N"),
    "storage of a negative length": changed(b"K\x04N", b"J\xff\xff\xff\xffN"),
    "storage that is a view": changed(b"K\x04N", b"K\x04)"),
    "storage that calls": changed(b"torch\nFloatStorage", b"os\nsystem"),
    "storage in a zip": Call(load, b"PK\x03\x04" + RAW),
    "storage of text": Call(load, "text"),
    "array of too few bytes": array(1, (2,), F8, False, b"\0" * 15),
    "array of objects": array(1, (1,), np.dtype("O"), False, [print]),
    "array of a list": array(1, (1,), F8, False, [1.0]),
    "array of no dtype": array(1, (1,), "f8", False, b"\0" * 8),
    "array without a state": Call(reconstruct, np.ndarray, (0,), b"b", state={"shape": (1,)}),
    "number of too few bytes": Call(scalar, F8, b"\0" * 7),
    "number of a pickle": Call(scalar, np.dtype("O"), pickle.dumps(1)),
    "dtype of a list": Call(np.dtype, [("a", "f4")]),
}


@pytest.mark.parametrize("kind", FALSE)
def test_what_does_not_fit_together_is_refused(kind):
    with pytest.raises(PickleError, match=r"^the pickle ") as caught:
        read(FALSE[kind])
    assert kind != "storage that calls" or "refers to os.system" in str(caught.value)


def test_the_same_bytes_make_no_end_of_storages():
    raw = bytes(4096)
    assert len(read([raw] * 100)) == 100
    with pytest.raises(PickleError):
        read([Call(load, RAW + raw) for _ in range(2)])


class Base:
    def __init__(self, size: int, scale: float = 1.0, shape: Sequence[int] = (1, 2)):
        pass


class Passes(Base):
    def __init__(self, name: str, ends: tuple[float, float] | None = None, **others: Any):
        pass


class Holds:
    sizes_of = Base

    def __init__(self, flag: bool, **others: Any):
        pass


def test_fitting_arguments_pass_and_others_are_named():
    for kind, arguments, wrong in (
        (Base, {"scale": 2, "shape": [4]}, [("size", 3.0), ("size", True), ("size", None)]),
        (Base, {}, [("scale", "1"), ("odd", 1), ("shape", 3), ("shape", [1, "2"])]),
        (Passes, {"name": "a", "ends": [0, 1.5]}, [("ends", [0.0]), ("ends", [0.0, "1"])]),
        (Passes, {"name": "a", "ends": None, "scale": 0.5}, [("others", 1)]),
        (Holds, {"flag": True}, [("flag", 1), ("scale", [])]),
    ):
        check_arguments(kind, {**arguments, "size": 3})
        check_arguments(kind, arguments, beside=["size"])
        with pytest.raises(ValueError, match="lacks the argument 'size'"):
            check_arguments(kind, arguments)
        for name, value in wrong:
            with pytest.raises(ValueError, match=f"argument,? '{name}'"):
                check_arguments(kind, {**arguments, "size": 1, name: value})


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (float, [1, 0.5], [True, "1", None]),
        (int, [1], [1.0, False]),
        (str | None, ["a", None], [1, ["a"]]),
        (dict[str, float], [{}, {"a": 1}], [{"a": "1"}, {"a": None}, [1.0]]),
        (list[dict[str, Any]], [[], [{"a": print}]], [[1], {"a": 1}]),
        (list[list[float]] | None, [[[1, 2.5], []], None], [[1.0], [[None]]]),
        (tuple[str, ...], [["a"], ("a", "b"), []], [["a", 1], "ab"]),
    ],
)
def test_values_fit_annotations(annotation, good, bad):
    assert all(fits(value, annotation) for value in good)
    assert not any(fits(value, annotation) for value in bad)
