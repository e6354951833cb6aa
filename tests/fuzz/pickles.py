"""Pickles put together opcode by opcode."""

import pickle
import struct
from collections.abc import Callable
from typing import Any

START, STOP = b"\x80\x02", b"."


class Call:
    """Pickled as a call of a function; with a state, as an object that is given it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: float) -> bytes:
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    if len(encoded) < 256:
        return b"\x8a" + bytes([len(encoded)]) + encoded
    return b"\x8b" + struct.pack("<I", len(encoded)) + encoded


def name(module_and_name: str) -> bytes:
    """A function or class, by module and name with a space between."""
    return b"c" + module_and_name.replace(" ", "\n").encode() + b"\n"


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(function: str, *arguments: bytes) -> bytes:
    return name(function) + sequence(*arguments) + b"R"


def nested(depth: int, start: bytes = b"]", end: bytes = b"a") -> bytes:
    """A list in a list, and so on."""
    return start * (depth + 1) + end * depth


def doubled(depth: int, start: bytes = b")", pair: bytes = b"\x86", place: int = 200) -> bytes:
    """A tuple of a thing and itself, of which a tuple is made likewise: 2^depth leaves."""
    put = bytes([place])
    return start + (b"q" + put + b"h" + put + pair) * depth
