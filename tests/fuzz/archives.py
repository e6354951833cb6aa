"""Mutants of archives, which come past their checksums: zip, gzip and tar.

An archive is taken apart, a member is mutated by what knows its format, and it is put together
again with right checksums. Now and then it is left to ``mutate_bytes``.
"""

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatch
from random import Random

from tests.fuzz.mutations import INTEGERS, LARGE_INTEGERS, Mutate, mutate_bytes, one_of

Entries = list[tuple[str, bytes]]
NAMES = ("", "../../evil", "/evil", "C:\\evil", "a\x00b", "\n", "x" * 300, "__MACOSX/a.png", ".")
CENTRAL_FIELDS = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I")}
CENTRAL_FIELDS |= {"size": (24, "<I"), "attributes": (38, "<I"), "offset": (42, "<I")}


def in_zip(members: Mapping[str, Mutate]) -> Mutate:
    """A zip whose members are mutated as their names, patterns of ``fnmatch``, tell."""

    def mutate_member(data: bytes, other: bytes, random: Random) -> bytes:
        entries = _entries(data)
        index = random.randrange(len(entries))
        name, content = entries[index]
        how = next((how for end, how in members.items() if fnmatch(name, end)), mutate_bytes)
        twins = [found for kind, found in _entries(other) if fnmatch(kind, f"*{name[-4:]}")]
        entries[index] = (name, how(content, random.choice(twins or [content]), random))
        return _zip(entries, random)

    return one_of((1, mutate_bytes), (3, mutate_member), (0.5, shuffle_zip), (0.5, lie_in_zip))


def shuffle_zip(data: bytes, other: bytes, random: Random) -> bytes:
    """Members that are renamed, missing, doubled, or have the contents of others."""
    entries = _entries(data)
    index = random.randrange(len(entries))
    name, content = entries[index]
    match random.randrange(5):
        case 0:
            entries[index] = (random.choice((*NAMES, name + "x", name.upper())), content)
        case 1:
            del entries[index]
        case 2:
            entries.append((name, random.choice((content, b"", content[::-1]))))
        case 3:
            entries[index] = (name, random.choice(entries)[1])
        case _:
            entries += random.sample(_entries(other), 1)
            random.shuffle(entries)
    return _zip(entries, random)


def lie_in_zip(data: bytes, other: bytes, random: Random) -> bytes:
    """A central directory that does not tell the truth about a member."""
    starts = [place for place in range(len(data)) if data.startswith(b"PK\x01\x02", place)]
    if not starts:
        return data
    changed = bytearray(data)
    for _ in range(random.randint(1, 2)):
        offset, code = CENTRAL_FIELDS[random.choice(list(CENTRAL_FIELDS))]
        start = random.choice(starts) + offset
        (value,) = struct.unpack_from(code, changed, start)
        value = random.choice((*INTEGERS, *LARGE_INTEGERS, value + 1, value - 1, value * 1000))
        struct.pack_into(code, changed, start, value % (1 << 8 * struct.calcsize(code)))
    return bytes(changed)


def in_gzip(inner: Mutate) -> Mutate:
    """A file of gzip whose content is mutated."""

    def mutate_content(data: bytes, other: bytes, random: Random) -> bytes:
        content = inner(gzip.decompress(data), gzip.decompress(other), random)
        packed = gzip.compress(content, compresslevel=1, mtime=0)
        return packed if random.random() < 0.9 else packed + random.choice((packed, b"x", b"\0"))

    return one_of((1, mutate_bytes), (4, mutate_content))


def in_tar(inner: Mutate) -> Mutate:
    """A tar of which a member's content or header is mutated, with its checksum."""

    def mutate(data: bytes, other: bytes, random: Random) -> bytes:
        if random.random() < 0.2:
            return mutate_bytes(data, other, random)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(member.name, archive.extractfile(member).read()) for member in archive]
        with tarfile.open(fileobj=io.BytesIO(other)) as archive:
            twins = [archive.extractfile(member).read() for member in archive]
        chosen = random.randrange(len(members))
        blocks = b""
        for index, (name, content) in enumerate(members):
            mutated = index == chosen and random.random() < 0.7
            content = inner(content, random.choice(twins), random) if mutated else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            header = info.tobuf()
            if index == chosen and not mutated:
                header = _other_header(header, random)
            blocks += header + content + bytes(-len(content) % 512)
        return blocks + bytes(1024)

    return mutate


def _entries(data: bytes) -> Entries:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, ValueError):
        return [("", data)]


def _zip(entries: Entries, random: Random) -> bytes:
    file = io.BytesIO()
    kinds = (zipfile.ZIP_STORED,) * 8 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    kind = random.choice(kinds)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", kind) as archive:
        warnings.simplefilter("ignore")  # that a name is there twice
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return file.getvalue()


def _other_header(header: bytes, random: Random) -> bytes:
    """A tar header with another name, size, kind or target, and its checksum."""
    fields = {
        0: (b"../../evil", b"/evil", b"\xff" * 100, b"data_batch_" + b"9" * 80, b""),
        124: (
            *(b"77777777777\0", b"-0000000001\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12),
            b"00000000x\0",
        ),
        156: (*(bytes([kind]) for kind in b"0123456LKSxgXZ"), b"\0", b"\xff"),
        157: (b"../../../etc/passwd\0", b"/dev/zero\0"),
        257: (b"ustar  \0", b"xxxxxxxx"),
    }
    start = random.choice(list(fields))
    value = random.choice(fields[start])
    changed = bytearray(header)
    changed[start : start + len(value)] = value
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)
