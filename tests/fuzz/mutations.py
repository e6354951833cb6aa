"""Mutants of a valid file that know nothing of its format.

A mutation takes the bytes of a valid file, those of another one of the kind, and a generator that
makes it repeatable, and gives new bytes.
"""

import struct
from collections.abc import Callable
from random import Random

Mutate = Callable[[bytes, bytes, Random], bytes]

MOST_AT_ONCE = 3
LONGEST_INSERTION = 4096
WIDTHS = {1: "b", 2: "h", 4: "i", 8: "q"}
INTEGERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 65536, -32768)
LARGE_INTEGERS = (
    *(2**31 - 1, 2**31, 2**32 - 1, -(2**31), 2**40, 2**53 + 1, 2**60, 2**62),
    *(2**63 - 1, -(2**63), 2**64 - 1),
)
BYTES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b"\r\n", b" ", b'"', b"\\", b"/", b"'", b"{")
GARBAGE = (
    *(b"\x00" * 64, b"\xff" * 64, b"../../etc/passwd", b"%s%n%x", b"PK\x03\x04", b"PK\x05\x06"),
    *(b"\x1f\x8b\x08\x00", b"\x89PNG\r\n\x1a\n", b"\x80\x04.", b"cposix\nsystem\n", b"NaN"),
    *(b"1e999", "\u202e\u0007".encode(), b"\x1b[2J\x1b]0;x\x07", b"\xed\xa0\x80", b"\r\n\r\n"),
)


def mutate_bytes(data: bytes, other: bytes, random: Random) -> bytes:
    """One to three of the mutations below."""
    for _ in range(random.randint(1, MOST_AT_ONCE)):
        data = random.choice(BYTE_MUTATIONS)(data, other, random)
    return data


def flip_bits(data: bytes, other: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            changed[place(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, other: bytes, random: Random) -> bytes:
    start = place(data, random)
    piece = random.choice((*BYTES, *GARBAGE, random.randbytes(random.randint(1, 16))))
    return data[:start] + piece + data[start + len(piece) :]


def truncate(data: bytes, other: bytes, random: Random) -> bytes:
    near = random.choice((0, 1, 4, 16, len(data)))
    return data[: max(0, len(data) - random.randint(0, near))] if near else b""


def insert(data: bytes, other: bytes, random: Random) -> bytes:
    start = place(data, random)
    piece = random.choice((*GARBAGE, random.randbytes(random.choice((1, 4, 100)))))
    if random.random() < 0.1:
        piece *= LONGEST_INSERTION // len(piece)
    return data[:start] + piece + data[start:]


def delete(data: bytes, other: bytes, random: Random) -> bytes:
    start = place(data, random)
    return data[:start] + data[start + random.choice((1, 1, 2, 4, 8, 64, 512)) :]


def splice(data: bytes, other: bytes, random: Random) -> bytes:
    """The start of one file and the end of another, cut anywhere or at the same place."""
    start = place(data, random)
    return data[:start] + other[start if random.random() < 0.5 else place(other, random) :]


def change_number(data: bytes, other: bytes, random: Random) -> bytes:
    """Another value in a field of 1, 2, 4 or 8 bytes, which may be a length or an offset."""
    width = random.choice(tuple(WIDTHS))
    if len(data) < width:
        return data
    start = min(place(data, random), len(data) - width)
    if random.random() < 0.7:
        start -= start % width
    code = random.choice("<>") + WIDTHS[width]
    (value,) = struct.unpack_from(code, data, start)
    value = random.choice((*INTEGERS, *LARGE_INTEGERS, value + 1, value - 1, value * 2, -value))
    value = (value + (1 << (8 * width - 1))) % (1 << (8 * width)) - (1 << (8 * width - 1))
    return data[:start] + struct.pack(code, value) + data[start + width :]


def append(data: bytes, other: bytes, random: Random) -> bytes:
    return data + random.choice((*GARBAGE, other, data, random.randbytes(100)))


def place(data: bytes, random: Random) -> int:
    """An offset: anywhere, near an end, or at a byte that is not zero."""
    if not data:
        return 0
    near_end = min(len(data), 100)
    match random.randrange(4):
        case 0:
            return random.randrange(near_end)
        case 1:
            return len(data) - 1 - random.randrange(near_end)
        case 2:
            start = random.randrange(len(data))
            rest = data[start:].lstrip(b"\x00")
            return len(data) - len(rest) if rest else start
    return random.randrange(len(data))


def one_of(*choices: tuple[float, Mutate]) -> Mutate:
    """One of several ways to mutate, each as often as its weight says."""
    weights, ways = zip(*choices, strict=True)
    return lambda data, other, random: random.choices(ways, weights)[0](data, other, random)


BYTE_MUTATIONS: tuple[Mutate, ...] = (
    *(flip_bits, flip_bits, overwrite, truncate, insert, delete, splice),
    *(change_number, change_number, append),
)
