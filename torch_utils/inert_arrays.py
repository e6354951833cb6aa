"""Substitutes for the NumPy and torch functions in pickles that are read as data.

A pickle constructs an array by calling a few functions of NumPy or torch. This module has functions
with the same arguments. They check a dtype, a shape and some bytes, and return a read-only array
that shares those bytes. A tensor becomes an array too, since only its values are needed.

torch pickles the storage of a tensor as the bytes of a separate file, in the format of
``torch.save`` before version 1.6. It begins with five pickles: a magic number, a version,
properties of the machine, the storage by a persistent id (kind, key, device, number of values), and
a list of keys. The number of values, 8 bytes, and the values follow.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from torch_utils.inert_pickle import Name, Names, PickleReader, Unfinished, expect

STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "b1",
}
_NUMBERS = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}
STORAGE_MAGIC, STORAGE_VERSION = 0x1950A86A20F9469CFC6C, 1001
_STORAGE_OPCODES = 200  # a valid storage has about 60


class Dtype(Unfinished):
    """Substitute for a NumPy dtype in a pickle; the byte order is set after its creation."""

    def __init__(self, code: str):
        self.numpy = np.dtype(code)

    def build(self, state: Any) -> "Dtype":
        """Set the byte order from a pickled state, and return the same object.

        Raises:
            ValueError: The state is not that of a plain numeric type.
        """
        match state:
            case (int(), "<" | ">" | "|" as order, None, None, None, *_):
                self.numpy = self.numpy.newbyteorder(order)
                return self
        raise ValueError("an array has a dtype other than plain numbers")


class UnfilledArray(Unfinished):
    """Substitute for a NumPy array in a pickle, before its dtype, shape and bytes are set."""

    def build(self, state: Any) -> np.ndarray:
        """Return the array of a pickled state, which contains its shape, dtype, order and bytes.

        Raises:
            ValueError: The state does not have this content.
        """
        match state:
            case (int(), tuple(shape), Dtype() as dtype, bool() | int() as fortran_order, raw):
                return _array(raw, dtype, shape, "F" if fortran_order else "C")
        raise ValueError("the state of an array has an unknown format")


def dtype_of(*codes: str) -> Callable[..., Dtype]:
    """Return a substitute for ``numpy.dtype`` that accepts only types with the given codes."""

    def make(code: Any, *flags: Any) -> Dtype:
        name = code.decode("ascii") if isinstance(code, bytes) else expect(code, str)
        if name not in codes:
            raise ValueError(f"the dtype {name} is not permitted")
        return Dtype(name)

    return make


def _unfilled(kind: Any, *arguments: Any) -> UnfilledArray:
    if expect(kind, Name).text != "numpy.ndarray":
        raise ValueError(f"an array has the type {kind.text}, expected numpy.ndarray")
    return UnfilledArray()


def _scalar(dtype: Any, raw: Any) -> float | int | bool:
    value: float | int | bool = _array(raw, expect(dtype, Dtype), (), "C").item()
    return value


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(raw, expect(dtype, Dtype), expect(shape, tuple), "F" if order == "F" else "C")


def _array(raw: Any, dtype: Dtype, shape: tuple[Any, ...], order: Any) -> np.ndarray:
    # Python 2 wrote bytes as strings, which are read as latin-1.
    data = raw.encode("latin-1") if isinstance(raw, str) else expect(raw, bytes, bytearray)
    sizes = _sizes(shape)
    if prod(sizes) * dtype.numpy.itemsize != len(data):
        raise ValueError(f"an array of shape {sizes} cannot have {len(data)} bytes")
    return _view(sizes, dtype.numpy, buffer=memoryview(data).toreadonly(), order=order)


def _view(sizes: list[int], dtype: np.dtype[Any], **layout: Any) -> np.ndarray:
    """Return an array over the bytes of another object.

    Raises:
        ValueError: The array does not fit these bytes.
    """
    try:
        return np.ndarray(sizes, dtype, **layout)
    except (TypeError, ValueError, OverflowError) as error:  # raised by NumPy for these arguments
        raise ValueError(f"an array of shape {sizes} does not fit its bytes: {error}") from error


def _sizes(values: Any) -> list[int]:
    sizes = [expect(value, int) for value in expect(values, tuple)]
    if any(size < 0 for size in sizes):
        raise ValueError("a size of an array is negative")
    return sizes


def _latin1(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"a text has the encoding {encoding}, expected latin1")
    return bytes(expect(text, str).encode("latin-1"))


def _storage(raw: Any) -> np.ndarray:
    """Return the values ``[N]`` of a storage that torch pickled."""
    reader = PickleReader(
        expect(raw, bytes),
        dict.fromkeys(STORAGES),
        persistent=lambda description: description,
        most_opcodes=_STORAGE_OPCODES,
    )
    magic, version, machine, storage, keys = (reader.read() for _ in range(5))
    if (magic, version) != (STORAGE_MAGIC, STORAGE_VERSION):
        raise ValueError("the bytes of a tensor are not a valid PyTorch storage")
    if expect(machine, dict).get("little_endian") is not True:
        raise ValueError("a tensor is from a big-endian machine, which is not supported")
    match storage:
        case ("storage", Name(text=kind), str(key), str(), int(count), None) if keys == [key]:
            dtype = np.dtype(STORAGES[kind])
        case _:
            raise ValueError("the storage of a tensor has an unknown format")
    rest = reader.rest()
    if int.from_bytes(rest[:8], "little") != count or len(rest) != 8 + count * dtype.itemsize:
        raise ValueError(f"the storage of a tensor has {count} values, but {len(rest)} bytes")
    return _view([count], dtype, buffer=rest, offset=8)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> np.ndarray:
    values, start = expect(storage, np.ndarray), expect(offset, int)
    sizes, strides = _sizes(size), _sizes(stride)
    if len(sizes) != len(strides):
        raise ValueError(f"a tensor has {len(strides)} strides, but {len(sizes)} axes")
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    count = prod(sizes)
    if values.ndim != 1 or start < 0 or (count and last >= len(values)) or count > len(values):
        raise ValueError(f"a tensor of shape {sizes} does not fit its {values.size} stored values")
    width = values.itemsize
    steps = [step * width for step in strides]
    offset = start * width if count else 0
    return _view(sizes, values.dtype, buffer=values, offset=offset, strides=steps)


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> np.ndarray:
    values: np.ndarray = expect(tensor, np.ndarray)
    return values


ARRAY_NAMES: Names = {
    "_codecs.encode": _latin1,
    "__builtin__.bytes": lambda: b"",
    "numpy.ndarray": None,
    "numpy.dtype": dtype_of(*_NUMBERS),
    "numpy.core.multiarray._reconstruct": _unfilled,
    "numpy._core.multiarray._reconstruct": _unfilled,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
}
"""Substitutes for NumPy arrays: read-only arrays."""

SCALAR_NAMES: Names = {
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}
"""Substitutes for NumPy numbers: Python numbers."""

TENSOR_NAMES: Names = {
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
"""Substitutes for torch tensors and parameters on any device: read-only arrays."""
