"""Pickles of plain values and byte arrays, read as data: nothing that they name is ever called.

``pickle.load`` runs what a file asks for. Here ``pickletools`` lists a pickle's opcodes, which runs
none of them, and a small stack machine follows those that build dicts, lists, tuples, strings,
bytes and integers. What NumPy writes for an array of uint8 refers to a handful of functions: they
are names in a table here, and what they would do is done by hand. Any other opcode or name is
refused.
"""

import pickletools
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from dnnlib.errors import DataError


class _Name(NamedTuple):
    """A function or class that the pickle refers to; only its name."""

    name: str


class _UnfilledArray:
    """An array whose shape and bytes are still to come."""


_UINT8 = object()
_MARK = object()

_KNOWN_NAMES = {
    "_codecs encode": "bytes",
    "__builtin__ bytes": "bytes",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy.core.numeric _frombuffer": "frombuffer",
    "numpy._core.numeric _frombuffer": "frombuffer",
}
_PUSH_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "LONG1"),
    *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = {"PROTO", "FRAME", "STOP"}


def read_plain_pickle(data: bytes, where: str) -> Any:
    """The value of a pickle; arrays of uint8 are NumPy arrays, Python 2 strings are latin-1.

    Raises:
        DataError: It holds anything else, or is broken; ``where`` is its name in the error.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        (value,) = machine.pop(1)
        if machine.stack:
            raise ValueError("it has values left over")
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DataError(f"{where} is refused: not a pickle of plain values ({error})") from error
    return value


class _Machine:
    """The stack and the memo of a pickle, changed one opcode at a time."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in _PUSH_ARGUMENT:
            stack.append(argument)
        elif opcode in _PUSH_NEW:
            stack.append(_PUSH_NEW[opcode]())
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif opcode in _TUPLE_LENGTHS:
            stack.append(self.pop(_TUPLE_LENGTHS[opcode]))
        elif opcode == "TUPLE":
            stack.append(self._pop_to_mark())
        elif opcode in ("APPEND", "APPENDS"):
            items = self.pop(1) if opcode == "APPEND" else self._pop_to_mark()
            _expect(stack[-1], list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.pop(2) if opcode == "SETITEM" else self._pop_to_mark()
            for key, value in zip(items[::2], items[1::2], strict=True):
                _expect(stack[-1], dict)[_expect(key, str, bytes)] = value
        elif opcode == "GLOBAL":
            stack.append(_known_name(argument))
        elif opcode == "STACK_GLOBAL":
            module, name = self.pop(2)
            stack.append(_known_name(f"{module} {name}"))
        elif opcode == "REDUCE":
            function, arguments = self.pop(2)
            stack.append(_call(_expect(function, _Name).name, _expect(arguments, tuple)))
        elif opcode == "BUILD":
            target, state = self.pop(2)
            stack.append(_fill(target, _expect(state, tuple)))
        elif opcode not in _IGNORED:
            raise ValueError(f"it has the opcode {opcode}")

    def pop(self, count: int) -> tuple[Any, ...]:
        """The last values, taken off the stack; a mark is none."""
        items = tuple(self.stack[-count:])
        if len(items) < count or any(item is _MARK for item in items):
            raise ValueError("its stack is too short")
        del self.stack[-count:]
        return items

    def _pop_to_mark(self) -> tuple[Any, ...]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return tuple(reversed(items))


def _known_name(name: str) -> _Name:
    if name not in _KNOWN_NAMES:
        raise ValueError(f"it refers to {name.replace(' ', '.')!r}")
    return _Name(_KNOWN_NAMES[name])


def _call(function: str, arguments: tuple[Any, ...]) -> Any:
    """What the function would return, for the arguments that plain values and arrays need."""
    match function, arguments:
        case "bytes", (str(text), "latin1"):
            return text.encode("latin-1")
        case "bytes", ():
            return b""
        case "dtype", ("u1" | b"u1", *_):
            return _UINT8
        case "reconstruct", (_Name("ndarray"), *_):
            return _UnfilledArray()
        case "frombuffer", (buffer, dtype, shape, order) if dtype is _UINT8:
            return _array(buffer, shape, order == "F")
    raise ValueError(f"it calls {function!r} in an unknown way")


def _fill(target: Any, state: tuple[Any, ...]) -> Any:
    if target is _UINT8:
        return target  # its state is byte order and alignment, which single bytes do not have
    match target, state:
        case _UnfilledArray(), (_, shape, dtype, fortran_order, raw) if dtype is _UINT8:
            return _array(raw, shape, bool(fortran_order))
    raise ValueError("it sets the state of something else than an array of uint8")


def _array(raw: Any, shape: Any, fortran_order: bool) -> np.ndarray:
    data = raw.encode("latin-1") if isinstance(raw, str) else _expect(raw, bytes, bytearray)
    sizes = [_expect(size, int) for size in _expect(shape, tuple)]
    if any(size < 0 for size in sizes) or prod(sizes) != len(data):
        raise ValueError(f"an array of shape {sizes} has {len(data)} bytes")
    return np.frombuffer(data, np.uint8).reshape(sizes, order="F" if fortran_order else "C")


def _expect(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise TypeError(f"{type(value).__name__} in the place of {types[0].__name__}")
    return value
