"""Mutants of arrays, numbers, JSON, text and images that parsers take for what they were."""

import io
import json
import struct
import zlib
from copy import deepcopy
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.mutations import INTEGERS, LARGE_INTEGERS, mutate_bytes

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"), float("inf")),
    *(2**31, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400, "", "x", "nan", "1", "../..", "\x00"),
    *("\ud800", "\u202e\x1b[2J", "a\nb", "x" * 5000, [], {}, [[]], {"": None}, [None], [0] * 1000),
)
TEXTS = (
    *("1e999", "-1e999", "NaN", "-Infinity", "0x10", "1_0", "٣", "1" * 5000, "null", "[", "}"),
    '"',
)
EXTRA_CHUNKS = (b"tRNS", b"PLTE", b"eXIf", b"iCCP", b"zTXt", b"gAMA", b"acTL")


def mutate_npy(data: bytes, other: bytes, random: Random) -> bytes:
    """An array of NumPy with other numbers or another shape; headers are mutated as bytes."""
    array = np.load(io.BytesIO(data))
    match random.randrange(3):
        case 0:
            return mutate_bytes(data, other, random)
        case 1:
            sizes = [max(0, size + random.choice((-1, 0, 0, 1))) for size in array.shape]
            array = np.resize(array, sizes)
        case _:
            array = np.frombuffer(mutate_numbers(array, random), array.dtype).reshape(array.shape)
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy(header: str, content: bytes, version: bytes = b"\x01\x00") -> bytes:
    """The file of an array with this header."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def mutate_numbers(array: np.ndarray, random: Random) -> bytes:
    """Some of its numbers become special ones, or all are scaled."""
    flat = array.flatten()
    if not flat.size or flat.dtype.kind not in "fiu":
        return array.tobytes()
    special: tuple[float, ...] = (0, 1, 2, 100)
    if flat.dtype.kind == "f":
        special += (-1, np.nan, np.inf, 1e30, -1e38, 1e-40, 0.5)
        if flat.dtype.itemsize == 8:
            special += (1e300, -1e308, 5e-324)
    else:
        limits = np.iinfo(flat.dtype)
        special += (limits.min, limits.max)
    with np.errstate(all="ignore"):
        if random.random() < 0.2:
            flat = (flat * random.choice(special)).astype(flat.dtype)
        else:
            for _ in range(random.choice((1, 1, 3))):
                flat[random.randrange(flat.size)] = random.choice(special)
    return flat.tobytes()


def mutate_floats(data: bytes, other: bytes, random: Random) -> bytes:
    """The bytes of float32 or float64 numbers, some of which become others."""
    width = random.choice((4, 8))
    if random.random() < 0.2 or not data or len(data) % width:
        return mutate_bytes(data, other, random)
    return mutate_numbers(np.frombuffer(data, f"<f{width}"), random)


def mutate_json(data: bytes, other: bytes, random: Random) -> bytes:
    """A tree in which a value is another, is missing, or is somewhere else."""
    if random.random() < 0.3:
        return mutate_text(data, other, random)
    tree = json.loads(data)
    if not _places(tree):
        return mutate_text(data, other, random)
    for _ in range(random.choice((1, 1, 2, 3))):
        places = _places(tree)
        parent, key = random.choice(places)
        match random.randrange(4):
            case 0:
                del parent[key]
            case 1:
                source, name = random.choice(places)
                parent[key] = deepcopy(source.get(name) if type(source) is dict else 0)
            case _:
                parent[key] = deepcopy(random.choice(VALUES))
        if not _places(tree):
            break
    return json.dumps(tree).encode()


def mutate_lines(data: bytes, other: bytes, random: Random) -> bytes:
    """Lines, each of JSON."""
    lines = data.splitlines()
    index = random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            return mutate_bytes(data, other, random)
        case 1:
            random.shuffle(lines)
        case 2:
            lines[index:index] = [random.choice(lines)] * random.choice((1, 1, 50))
        case _:
            lines[index] = mutate_json(lines[index], random.choice(lines), random)
    return b"\n".join(lines) + b"\n"


def mutate_text(data: bytes, other: bytes, random: Random) -> bytes:
    """Text whose words, numbers and lines change."""
    if random.random() < 0.3:
        return mutate_bytes(data, other, random)
    words = data.split(b" ")
    for _ in range(random.choice((1, 1, 3))):
        index = random.randrange(len(words))
        match random.randrange(5):
            case 0:
                words[index] = random.choice(TEXTS).encode()
            case 1:
                words[index] = str(random.choice((*INTEGERS, *LARGE_INTEGERS))).encode()
            case 2:
                words.insert(index, random.choice(words))
            case 3 if len(words) > 1:
                del words[index]
            case _:
                words[index] = random.choice(words)
    return b" ".join(words)


def mutate_png(data: bytes, other: bytes, random: Random) -> bytes:
    """A chunk that is changed, missing or doubled, with right checksums."""
    if random.random() < 0.2 or not data.startswith(b"\x89PNG"):
        return mutate_bytes(data, other, random)
    chunks = _chunks(data)
    index = random.randrange(len(chunks))
    kind, content = chunks[index]
    match random.randrange(5):
        case 0 if len(chunks) > 1:
            del chunks[index]
        case 1:
            chunks.insert(index, random.choice(chunks))
        case 2 if kind == b"IDAT":
            pixels = mutate_bytes(zlib.decompress(content), b"", random)
            chunks[index] = (kind, zlib.compress(pixels))
        case 3:
            extra = random.choice(EXTRA_CHUNKS)
            chunks.insert(index, (extra, random.randbytes(random.choice((0, 2, 6, 30, 768)))))
        case _:
            chunks[index] = (kind, mutate_bytes(content, content, random))
    return png(chunks)


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks, each a kind and its content."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container of a tree, with every key in it."""
    if not isinstance(tree, dict | list):
        return []
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    return [(tree, key) for key in keys] + [
        place for key in keys if tree[key] is not tree for place in _places(tree[key])
    ]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, start = [], 8
    while start + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, start)
        chunks.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + size]))
        start += 12 + size
    return chunks or [(b"IEND", b"")]
