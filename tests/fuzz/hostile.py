"""Files made by hand to do harm: what any kind of file can be, and archives.

All that would run a command makes files called ``RAN`` in the folder of the process, which is
watched.
"""

import io
import os
import stat
import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path

from tests.fuzz.harness import written

COMMAND = "touch RAN"
MIB = 1 << 20
UP = "../" * 30


def made(content):
    return content if isinstance(content, bytes) else content()


def named(name, contents):
    def writer(content):
        return written(name, lambda path: path.write_bytes(made(content)))

    return {case: writer(content) for case, content in contents.items()}


def inside(file_with, contents):
    def later(content):
        return lambda: file_with(made(content))

    return {case: later(content) for case, content in contents.items()}


def anything(name):
    """What can be in the place of any file."""

    def link_to(target):
        return written(name, lambda path: path.symlink_to(target))

    def huge(path):
        with path.open("wb") as file:
            file.truncate(3 << 30)  # takes no room on disk

    contents = {
        "empty": b"",
        "text": b"<html>404</html>\n" * 100,
        "a megabyte of nothing": bytes(MIB),
        "terminal codes": b"\x1b[2J\x1b]0;owned\x07\r\n" * 100,
        "end of a zip that promises": b"PK\x05\x06" + b"\xff" * 16 + bytes(2),
    }
    return {
        **named(name, contents),
        "pipe": written(name, os.mkfifo),
        "folder": written(name, Path.mkdir),
        "link to nothing": link_to("nothing"),
        "link to itself": link_to(name),
        "link to zeros": link_to("/dev/zero"),
        "three gigabytes": written(name, huge),
    }


def zip_of(members, kind=zipfile.ZIP_STORED, mode=0, comment=b""):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.comment = comment
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content, kind)
    return file.getvalue()


def zip_bomb(name, mib, start=b""):
    """A zip of a kB per MiB of zeros after a start, whose checksum, at the end, is wrong."""
    return deflated(name, packed_zeros(mib, start), len(start) + mib * MIB, crc=0)


@cache
def packed_zeros(mib, start=b""):
    """Some bytes and many zeros, as a stream of deflate made without having them in memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed + block * mib + packer.flush()


def deflated(name, packed, size, crc, copies=1):
    """A zip of one deflated member, told of in its directory so many times."""
    encoded = name.encode()
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed), size, len(encoded), 0)
    local = b"PK\x03\x04" + fields + encoded
    entry = b"PK\x01\x02\x14\x00" + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + encoded
    directory = entry * copies
    end = struct.pack("<HHHHIIH", 0, 0, copies, copies, len(directory), len(local + packed), 0)
    return local + packed + directory + b"PK\x05\x06" + end


def encrypted(data):
    changed = bytearray(data)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            changed[place + offset] |= 1
    return bytes(changed)


def strange_zips(name, content):
    """Zips that are wrong as zips, with a good member of this name, by their names."""
    good = zip_of({name: content})
    link, crc = stat.S_IFLNK | 0o777, zlib.crc32(bytes(MIB))
    zips = {
        "member outside": zip_of({name: content, f"{UP}tmp/RAN": b"x", "/tmp/RAN": b"x"}),
        "links": zip_of({name: f"{UP}etc/passwd".encode(), "a": b"/dev/zero"}, mode=link),
        "member with a newline": zip_of({name: content, "a\nb\x1b[2J": b"x"}),
        "long names": zip_of({name: content, **{"x" * 60_000 + str(n): b"" for n in range(5)}}),
        "encrypted": encrypted(good),
        "a comment that is an archive": zip_of({name: content}, comment=zip_of({"b": b"x"})),
        "told of 50 times": deflated(name, packed_zeros(1), MIB, crc, copies=50),
        "wrong checksum": deflated(name, packed_zeros(1), MIB, crc=1),
        "more than it says": deflated(name, packed_zeros(4), MIB, crc),
        "gigabytes in a megabyte": lambda: zip_bomb(name, 1200),
        "the good one and a bomb": lambda: good + zip_bomb(name, 300),
    }
    return {f"zip: {case}": content for case, content in zips.items()}


def npy(header, content, version=b"\x01\x00"):
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + content


def png(chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
