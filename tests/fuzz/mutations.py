"""Mutants of valid files, which come past checksums: of archives, a member is mutated.

A mutation takes the bytes of a valid file, those of another one of the kind, and a generator that
makes it repeatable, and gives new bytes. What is wrong in a way that only a format knows is among
the files made by hand.
"""

import gzip
import io
import re
import struct
import tarfile
import zipfile
import zlib

from tests.support.image_files import tar

WIDTHS = {1: "b", 2: "h", 4: "i", 8: "q"}
INTEGERS = (
    *(0, 1, -1, 2, 127, 128, 255, 256, 4095, 32767, 32768, 65535, 65536, -32768, 2**31 - 1, 2**31),
    *(2**32 - 1, -(2**31), 2**40, 2**53 + 1, 2**60, 2**63 - 1, -(2**63), 2**64 - 1),
)
GARBAGE = (
    *(b"\x00" * 64, b"\xff" * 64, b"../../etc/passwd", b"%s%n%x", b"PK\x03\x04", b"PK\x05\x06"),
    *(b"\x1f\x8b\x08\x00", b"\x89PNG\r\n\x1a\n", b"\x80\x04.", b"cposix\nsystem\n", b"NaN"),
    *(b"1e999", "\u202e\u0007".encode(), b"\x1b[2J\x1b]0;x\x07", b"\xed\xa0\x80", b"\r\n\r\n"),
)
NUMBERS = tuple(struct.pack("<d", x) for x in (float("nan"), float("inf"), -1.0, 1e300, 5e-324, 0))
WORDS = (
    *("1e999", "NaN", "-Infinity", "0", "-1", "0.5", "1e308", "null", "true", '""', '"x"', "[]"),
    *("{}", "[[]]", '"\\u202e\\u001b[2J"', '"../.."', "9" * 5000, '"' + "x" * 5000 + '"', "0x10"),
)


def mutate_bytes(data, other, random):
    for _ in range(random.randint(1, 3)):
        data = random.choice(BYTE_MUTATIONS)(data, other, random)
    return data


def flip_bits(data, other, random):
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8)) if data else 0):
        changed[place(data, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(data, other, random):
    start = place(data, random)
    piece = random.choice((*NUMBERS, *GARBAGE, random.randbytes(random.randint(1, 16))))
    return data[:start] + piece + data[start + len(piece) :]


def cut(data, other, random):
    start = place(data, random)
    return data[:start] + data[start + random.choice((1, 2, 4, 8, 64, 512, len(data))) :]


def insert(data, other, random):
    start = place(data, random)
    piece = random.choice((*GARBAGE, other, random.randbytes(random.choice((1, 4, 100)))))
    return data[:start] + piece + data[start:]


def splice(data, other, random):
    """The start of one file and the end of another, cut anywhere or at the same place."""
    start = place(data, random)
    return data[:start] + other[start if random.random() < 0.5 else place(other, random) :]


def change_number(data, other, random):
    """Another value in a field of 1, 2, 4 or 8 bytes, which may be a length or an offset."""
    width = random.choice([width for width in WIDTHS if width <= len(data)] or [0])
    if not width:
        return data
    start = min(place(data, random), len(data) - width)
    start -= start % width
    code = random.choice("<>") + WIDTHS[width]
    (value,) = struct.unpack_from(code, data, start)
    value = random.choice((*INTEGERS, value + 1, value - 1, value * 2, -value))
    value = (value + (1 << (8 * width - 1))) % (1 << (8 * width)) - (1 << (8 * width - 1))
    return data[:start] + struct.pack(code, value) + data[start + width :]


BYTE_MUTATIONS = (flip_bits, overwrite, cut, insert, splice, change_number)


def place(data, random):
    near = min(len(data), random.choice((100, len(data))))
    return random.choice((0, len(data) - near)) + random.randrange(near) if data else 0


def mutate_text(data, other, random):
    """JSON, or other text, in which a value, not a name, becomes something else."""
    names_and_values = re.finditer(rb'"[^"]*"\s*:|("[^"]*"|-?\d[\d.e+-]*)', data)
    got = [match for match in names_and_values if match[1]]
    if random.random() < 0.3 or not got:
        return mutate_bytes(data, other, random)
    chosen = random.choice(got)
    word = random.choice((*WORDS, str(random.choice(INTEGERS)))).encode()
    return data[: chosen.start()] + word + data[chosen.end() :]


def mutate_png(data, other, random):
    kinds = [b"IHDR", b"IDAT"] if data.startswith(b"\x89PNG") else []
    if random.random() < 0.3 or not kinds:
        return mutate_bytes(data, other, random)
    start = data.index(random.choice(kinds))
    (size,) = struct.unpack_from(">I", data, start - 4)
    body = mutate_bytes(data[start + 4 : start + 4 + size], b"", random)
    whole = data[start : start + 4] + body
    packed = struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))
    return data[: start - 4] + packed + data[start + 8 + size :]


def in_zip(data, other, random):
    if random.random() < 0.2:
        return mutate_bytes(data, other, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name, twin = random.choices(list(members), k=2)
    how = {".png": mutate_png, "json": mutate_text}.get(name[-4:], mutate_bytes)
    members[name] = how(members[name], members[twin], random)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return file.getvalue()


def in_gzip(data, other, random):
    return gzip.compress(mutate_bytes(*map(gzip.decompress, (data, other)), random), 1, mtime=0)


def in_tar(data, other, random):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    name = random.choice(list(members))
    members[name] = mutate_bytes(members[name], members[name], random)
    return gzip.compress(tar(members), compresslevel=1, mtime=0)


OF_TEXT = dict.fromkeys((".json", ".jsonl", ".csv"), mutate_text)
OF_ZIPS = dict.fromkeys((".npz", ".zip", ".pt", ".pth", ".pkl"), in_zip)
BY_END = {**OF_TEXT, **OF_ZIPS, ".png": mutate_png, ".gz": in_gzip}
BY_END[""] = mutate_bytes
"""By the last part of a file's name."""
