"""Pickles put together opcode by opcode, and mutants of them that are still programs."""

import pickle
import pickletools
import struct
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from tests.fuzz.mutations import INTEGERS, LARGE_INTEGERS, mutate_bytes

START, STOP = b"\x80\x02", b"."
FLOATS = (0.0, -0.0, 1.0, float("nan"), float("inf"), -1e308, 1e308, 5e-324, 1e-3, 1000.5)
TEXTS = (
    *("", "class", "arguments", "state", "mlp", "ddpmpp", "data", "../../evil", "\x00", "a\nb"),
    *("x" * 3000, "\u202e\x1b[2J", "cuda:0", "meta", "__class__", "hex", "storage", "0", "17"),
)
GLOBALS = (
    *("posix system", "builtins eval", "builtins exec", "builtins getattr", "builtins __import__"),
    *("subprocess Popen", "os execv", "socket create_connection", "builtins open", "io open"),
    *("builtins bytearray", "_codecs encode", "collections OrderedDict", "collections Counter"),
    *("torch Size", "torch Tensor", "torch device", "torch FloatStorage", "torch LongStorage"),
    *("torch HalfStorage", "torch BoolStorage", "torch FloatTensor"),
    "torch.storage UntypedStorage",
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch float32"),
    *("torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_nested_tensor", "torch meta"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "torch._tensor _rebuild_from_type_v2"),
    *("torch._utils _rebuild_wrapper_subclass", "torch.nn.parameter Parameter", "builtins set"),
    *("torch.storage _load_from_bytes", "numpy ndarray", "numpy dtype", "functools partial"),
    *("numpy.core.multiarray _reconstruct", "numpy.core.multiarray scalar", "builtins complex"),
    *("torch_utils.persistence _reconstruct_persistent_obj", "torch.hub load", "pickle loads"),
)


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
    """An integer or a float."""
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
    """A tuple."""
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


def mutate_pickle(data: bytes, other: bytes, random: Random) -> bytes:
    """Another program: opcodes that are missing, doubled, or have other arguments."""
    if random.random() < 0.25:
        return mutate_bytes(data, other, random)
    try:
        pieces = _pieces(data)
    except (ValueError, struct.error, IndexError):
        return mutate_bytes(data, other, random)
    for _ in range(random.choice((1, 1, 2, 4))):
        index = random.randrange(len(pieces))
        match random.randrange(6):
            case 0 if len(pieces) > 1:
                del pieces[index]
            case 1:
                pieces.insert(index, random.choice(pieces))
            case 2:
                second = random.randrange(len(pieces))
                pieces[index], pieces[second] = pieces[second], pieces[index]
            case _:
                pieces[index] = _other(pieces[index], random)
    return b"".join(pieces)


def _pieces(data: bytes) -> list[bytes]:
    """The opcodes with their arguments, and what follows them."""
    starts = [place for _, _, place in pickletools.genops(data)] + [len(data)]
    stop = starts[-2] + 1
    pieces = [data[first:last] for first, last in pairwise(starts)]
    return [*pieces[:-1], data[stop - 1 : stop], data[stop:]]


def _other(piece: bytes, random: Random) -> bytes:
    """An opcode of like kind."""
    match piece[:1]:
        case b"K" | b"M" | b"J" | b"\x8a" | b"G" | b"N" | b"\x88" | b"\x89":
            value = number(random.choice((*INTEGERS, *LARGE_INTEGERS, *FLOATS)))
            return random.choice((value, b"N", b"\x88", b"\x89", b")", b"]", b"}"))
        case b"X" | b"U" | b"T" | b"\x8c" | b"C" | b"B":
            return random.choice((text(random.choice(TEXTS)), number(random.choice(INTEGERS))))
        case b"c":
            return name(random.choice(GLOBALS))
        case b"h" | b"q":
            return piece[:1] + bytes([random.randrange(256)])
    return random.choice((name(random.choice(GLOBALS)), bytes([random.randrange(256)]), piece * 2))
