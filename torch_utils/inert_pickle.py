"""Pickles read as data: nothing that they name is ever run, imported or compiled.

A pickle is a program for a stack machine, and ``pickle.load`` runs it: it imports what the program
names and calls it. A subclass of ``Unpickler`` can reject names, but its machine is still Python's
own, with all of its opcodes. In this module the machine is implemented here. It supports only the
opcodes that build plain values, so its limits are easy to verify. It is far slower than C. However,
the pickles of a network have ten thousand opcodes per hundred layers, read in a fraction of a
second; weights are single opcodes, whatever their size. ``pickletools`` decodes the arguments, and
only those of supported opcodes.

Names in a pickle are looked up in a table that is passed to the reader. The table contains
functions of this project, which map plain values to plain values; every other name is rejected.
Work and memory are bounded by the size of the pickle. Opcodes and the bytes passed to functions are
counted, and keys are strings, so that a short pickle cannot grow.
"""

import inspect
import io
import pickletools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Names = Mapping[str, Callable[..., Any] | None]
"""Permitted names in a pickle: substitute functions, or None for a name that is not called."""

MOST_OPCODES = 2_000_000
# Shorter values are not counted: for example, the name of a dtype is passed with every array.
LONG_VALUE = 64
# The bytes of an array are passed once, or twice if they were text first.
HANDED_OVER = 3
LONGEST_SHOWN = 80


class PickleError(ValueError):
    """Error for a pickle that is damaged, or contains objects other than plain data."""


@dataclass(frozen=True)
class Name:
    """Name of a function or class in a pickle, as ``module.name``, and its substitute function."""

    text: str
    function: Callable[..., Any] | None


class Unfinished(ABC):
    """An object that a pickle creates first and fills later."""

    @abstractmethod
    def build(self, state: Any) -> Any:
        """Return the finished object that replaces this object.

        Raises:
            ValueError: The state is invalid.
        """


_MARK = object()
_PUSH_ARGUMENT = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KNOWN = {
    *("PROTO", "FRAME", "STOP", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("TUPLE", "APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
    *(*_PUSH_ARGUMENT, *_PUSH_NEW, *_TUPLE_LENGTHS),
}
_OPCODES = {info.code.encode("latin-1"): info for info in pickletools.opcodes}


class PickleReader:
    """Reader of pickles as data, which runs no code of the pickles.

    Args:
        data: One or more pickles, one after another.
        names: Substitute functions of the permitted names, ``module.name``.
        without: Opcodes to reject in addition to unknown ones.
        persistent: Function from a persistent id, which refers to data outside of the pickle, to
            its object; None to reject persistent ids.
        most_opcodes: Maximum number of opcodes of all pickles together.

    Attributes:
        key_types: Permitted types of the keys of dictionaries.
    """

    key_types: tuple[type, ...] = (str, bytes)

    def __init__(
        self,
        data: bytes,
        names: Names,
        *,
        without: Collection[str] = (),
        persistent: Callable[[Any], Any] | None = None,
        most_opcodes: int = MOST_OPCODES,
    ):
        self._file, self._size = io.BytesIO(data), len(data)
        self._names, self._persistent = names, persistent
        self._known = _KNOWN - set(without)
        self._opcodes_left, self._handed_over = most_opcodes, 0
        self._start()

    def read(self) -> Any:
        """Return the value of the next pickle.

        Raises:
            PickleError: The pickle is damaged, contains objects other than plain data, or exceeds
                the limits on its work.
        """
        self._start()
        try:
            while (opcode := self._next_opcode()).name != "STOP":
                self._step(opcode.name, self._argument(opcode))
            (value,) = self._pop(1)
            if self._stack:
                raise _damaged("values are left at its end")
        except PickleError:
            raise
        except ValueError as error:
            raise PickleError(
                "the pickle is damaged, or contains objects other than plain data "
                f"({shown(error)}): restore the file from a copy"
            ) from error
        return value

    def rest(self) -> bytes:
        """Return the bytes after the pickles that were read."""
        return self._file.read()

    def _start(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._places: dict[int, list[int]] = {}  # of unfinished objects in the memo

    def _next_opcode(self) -> pickletools.OpcodeInfo:
        code = self._file.read(1)
        if not code:
            raise PickleError("the pickle is incomplete: restore the file from a copy")
        if code not in _OPCODES:
            raise _damaged(f"the byte {code!r} is no opcode")
        opcode = _OPCODES[code]
        if opcode.name not in self._known:
            raise PickleError(
                f"the pickle has the opcode {opcode.name}, which plain data does not need"
            )
        self._opcodes_left -= 1
        if self._opcodes_left < 0:
            raise PickleError("the pickle has more opcodes than the limit for plain data")
        return opcode

    def _argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        try:
            return opcode.arg.reader(self._file) if opcode.arg else None
        except (ValueError, LookupError, OverflowError, struct.error) as error:  # by pickletools
            raise PickleError(
                f"the pickle is damaged ({shown(error)}): restore the file from a copy"
            ) from error

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case _ if opcode in _PUSH_ARGUMENT:
                stack.append(argument)
            case _ if opcode in _PUSH_NEW:
                stack.append(_PUSH_NEW[opcode]())
            case _ if opcode in _TUPLE_LENGTHS:
                stack.append(self._pop(_TUPLE_LENGTHS[opcode]))
            case "TUPLE":
                stack.append(self._pop_to_mark())
            case "MEMOIZE":
                self._memorize(len(self._memo))
            case "BINPUT" | "LONG_BINPUT":
                self._memorize(argument)
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise _damaged("it reads a value that it has not stored")
                stack.append(self._memo[argument])
            case "APPEND" | "APPENDS" | "ADDITEMS" | "SETITEM" | "SETITEMS":
                self._extend(opcode)
            case "GLOBAL":
                stack.append(self._name(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self._name(*self._pop(2)))
            case "BINPERSID":
                if self._persistent is None:
                    raise PickleError(
                        "the pickle refers to an object outside of itself, which is not permitted"
                    )
                stack.append(self._persistent(*self._pop(1)))
            case "REDUCE" | "NEWOBJ":
                stack.append(self._call(*self._pop(2)))
            case "BUILD":
                self._build(*self._pop(2))
            case _:
                raise PickleError(
                    f"the pickle has the opcode {opcode}, which plain data does not need"
                )

    def _pop(self, count: int) -> tuple[Any, ...]:
        """Pop the last values from the stack; a mark is not a value."""
        items = tuple(self._stack[-count:])
        if len(items) < count or any(item is _MARK for item in items):
            raise _damaged("it takes more values than its stack contains")
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> tuple[Any, ...]:
        if not any(item is _MARK for item in self._stack):
            raise _damaged("a mark is missing on its stack")
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return tuple(reversed(items))

    def _top(self) -> Any:
        if not self._stack:
            raise _damaged("it takes more values than its stack contains")
        return self._stack[-1]

    def _memorize(self, place: int) -> None:
        item = self._memo[place] = self._top()
        if isinstance(item, Unfinished):
            self._places.setdefault(id(item), []).append(place)

    def _extend(self, opcode: str) -> None:
        counts = {"APPEND": 1, "SETITEM": 2}
        items = self._pop(counts[opcode]) if opcode in counts else self._pop_to_mark()
        target = self._top()
        if opcode in ("SETITEM", "SETITEMS"):
            if len(items) % 2:
                raise _damaged("a key has no value")
            for key, value in zip(items[::2], items[1::2], strict=True):
                # No tuples: the hash of a nested one can take time exponential in its size.
                expect(target, dict)[expect(key, *self.key_types)] = value
        elif opcode == "ADDITEMS":
            expect(target, set).update(expect(item, str, bytes) for item in items)
        else:
            expect(target, list).extend(items)

    def _name(self, module: Any, name: Any) -> Name:
        text = f"{expect(module, str)}.{expect(name, str)}"
        if text not in self._names:
            raise PickleError(
                f"the pickle refers to {shown(text)}, which is not permitted in plain data"
            )
        return Name(text, self._names[text])

    def _call(self, name: Any, arguments: Any) -> Any:
        function = expect(name, Name).function
        if function is None:
            raise PickleError(f"the pickle calls {name.text}, which is not permitted")
        self._count_long(expect(arguments, tuple))
        if not _takes(function, len(arguments)):
            raise PickleError(
                f"the pickle calls {name.text} with {len(arguments)} arguments, which is not "
                "permitted"
            )
        try:
            return function(*arguments)
        except PickleError:
            raise
        except ValueError as error:
            raise PickleError(
                f"the pickle calls {name.text} with arguments that are not permitted "
                f"({shown(error)})"
            ) from error

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(state, tuple):
            self._count_long(state)
        built = expect(target, Unfinished).build(state)
        self._stack.append(built)
        for place in self._places.pop(id(target), ()):
            if self._memo[place] is target:
                self._memo[place] = built

    def _count_long(self, values: tuple[Any, ...]) -> None:
        lengths = [len(value) for value in values if isinstance(value, str | bytes | bytearray)]
        self._handed_over += sum(length for length in lengths if length > LONG_VALUE)
        if self._handed_over > HANDED_OVER * self._size:
            raise PickleError(
                "the pickle passes the same bytes to functions too often for plain data"
            )


@lru_cache(maxsize=256)
def _takes(function: Callable[..., Any], count: int) -> bool:
    """Return whether a function can be called with ``count`` values."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:  # raised by bind, which does not call the function
        return False
    return True


def _damaged(why: str) -> PickleError:
    """Return the error for a damaged pickle: its problem, and the advice to restore the file."""
    return PickleError(f"the pickle is damaged, since {why}: restore the file from a copy")


def expect(value: Any, *types: type) -> Any:
    """Return a value, after a check that it is an instance of one of the given types.

    Raises:
        ValueError: The value is an instance of none of the types.
    """
    if not isinstance(value, types):
        raise ValueError(
            f"a value has the type {type(value).__name__}, expected {types[0].__name__}"
        )
    return value


def shown(text: object) -> str:
    """Return a shortened text for an error message, with nonprintable characters escaped."""
    line = str(text)[: LONGEST_SHOWN + 1]
    plain = line if line.isascii() and line.isprintable() else ascii(line)[1:-1]
    return plain if len(plain) <= LONGEST_SHOWN else plain[:LONGEST_SHOWN] + "..."
