"""Data sets as they are published, made by hand to do harm: MNIST, CIFAR-10, LSUN."""

import gzip
import os
import struct
import tarfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

from tests.fuzz import samples
from tests.fuzz.cases import Write
from tests.fuzz.hostile import MIB, UP, Contents, anything, named, packed_zeros
from tests.fuzz.hostile_pickles import VALUES, program
from tests.fuzz.pickles import mapping


def gzip_of_zeros(mib: int, start: bytes = b"") -> bytes:
    """Some bytes and many zeros, whose checksum is wrong: that shows at the end."""
    return b"\x1f\x8b\x08" + bytes(7) + packed_zeros(mib, start) + bytes(8)


def idx_head(*sizes: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


def idx_files() -> dict[str, Write]:
    images, labels = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
    top = 2**32 - 1
    good = gzip.compress(idx_head(1, 8, 8) + bytes(64))
    files: Contents = {
        "2^32 images": gzip.compress(idx_head(top, 8, 8) + bytes(64)),
        "one row of 2^26": gzip.compress(idx_head(1, 1, 1 << 26) + bytes(64)),
        "no pixels": gzip.compress(idx_head(top, 0, 8)),
        "8192 pixels a side": lambda: gzip_of_zeros(64, idx_head(1, 8192, 8192)),
        "more than it says": lambda: gzip_of_zeros(1024, idx_head(1, 8, 8)),
        "floats": gzip.compress(idx_head(1, 8, 8, kind=13) + bytes(256)),
        "wrong checksum": good[:-8] + bytes(8),
        "a long name": b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * MIB,
    }

    def labels_are(make: Callable[[Path], object]) -> Write:
        def write(folder: Path) -> Path:
            samples.mnist(8)(folder)
            (folder / labels).unlink()
            make(folder / labels)
            return folder / images

        return write

    bomb = idx_head(top)
    return {
        **anything(images),
        **named(images, files),
        "labels: 2^32": labels_are(lambda path: path.write_bytes(gzip.compress(bomb + bytes(9)))),
        "labels: a bomb": labels_are(lambda path: path.write_bytes(gzip_of_zeros(1024, bomb))),
        "labels: a pipe": labels_are(os.mkfifo),
        "labels: a folder": labels_are(Path.mkdir),
    }


BATCH = "cifar-10-batches-py/data_batch_1"


def _header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _entry(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A member that may say that it has another size."""
    header = _header(name, len(data) if size is None else size, kind)
    return header + data + bytes(-len(data) % 512)


def _sparse() -> bytes:
    """A member of 2^60 bytes, of which none are there."""
    header = bytearray(_header(BATCH, 0, tarfile.GNUTYPE_SPARSE))
    header[483:495] = b"\x80" + (2**60).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _tar(*members: bytes) -> bytes:
    return gzip.compress(b"".join(members) + bytes(1024), 1, mtime=0)


def _endless(start: bytes, mib: int) -> Callable[[], bytes]:
    """A start of a tar, then so many MiB of zeros."""
    return lambda: gzip.compress(start, 1, mtime=0) + gzip_of_zeros(mib)


def tars() -> dict[str, Write]:
    """Archives in the place of CIFAR-10."""
    batch = samples.cifar_batch(2)
    passwords = f"{UP}etc/passwd"
    text = b"\x80\x02}U\x04dataT" + struct.pack("<i", 62 * MIB)
    programs = {name: program(mapping(data=value, labels=b"]")) for name, value in VALUES.items()}
    files: Contents = {
        "no members": _tar(),
        "a link in the place of a batch": _tar(_header(BATCH, 0, tarfile.SYMTYPE, passwords)),
        "a pipe in it": _tar(_header(BATCH, 0, tarfile.FIFOTYPE)),
        "a member outside": _tar(_entry(f"{UP}tmp/RAN", b"x"), _entry(f"/{BATCH}", batch)),
        "a batch of 2^60 bytes": _tar(_header(BATCH, 2**60), batch),
        "holes of 2^60 bytes": _tar(_sparse()),
        "a name of two gigabytes": _endless(_header("x", 2 << 30, tarfile.GNUTYPE_LONGNAME), 256),
        "facts of two gigabytes": _endless(_header("x", 2 << 30, tarfile.XHDTYPE), 256),
        "facts that are odd": _tar(
            _entry("x", b"99999999999999999 path=a\n", tarfile.XHDTYPE, size=30)
        ),
        "a size that is negative": _tar(
            _entry("x", b"16 size=-2000000\n", tarfile.XHDTYPE, size=24), _header(BATCH, 0)
        ),
        "a member of 2^40 bytes first": lambda: gzip_of_zeros(256, _header("x", 1 << 40)),
        "three gigabytes first": lambda: gzip_of_zeros(3 << 10, _header("x", 3 << 30)),
        "a batch of 63 MiB": lambda: gzip_of_zeros(64, _header(BATCH, 63 * MIB)),
        "a string of 63 MiB": _endless(_header(BATCH, 63 * MIB) + text, 64),
        "a strange name": _tar(_entry("\x1b[2J/data_batch_1", batch[:-9] + bytes(9))),
        "a loop of links": _tar(_header(BATCH, 0, tarfile.LNKTYPE, BATCH)),
        **{
            f"pickle: {name}": _tar(_entry(BATCH, content))
            for name, content in programs.items()
            if len(content) < 1000
        },
    }
    return {**anything("cifar-10-python.tar.gz"), **named("cifar-10-python.tar.gz", files)}


def stores() -> dict[str, Write]:
    """Stores of LMDB, whose numbers are not what they should be."""
    fields = {"root": 40, "entries": 32, "depth": 6, "flags": 4}
    values = (0, 1, 2, 3, 2**15, 2**16 - 1, 2**32, 2**60, 2**64 - 1)

    def changed(offset: int, value: int) -> Write:
        def write(folder: Path) -> Path:
            samples.lsun(60)(folder)
            data = bytearray((folder / "data.mdb").read_bytes())
            width = 8 if offset >= 32 else 2
            for start in (16, 4096 + 16):
                place = start + 24 + 48 + offset
                data[place : place + width] = value.to_bytes(8, "little")[:width]
            (folder / "data.mdb").write_bytes(data)
            return folder

        return write

    def as_data(write: Write) -> Write:
        return lambda folder: write(folder).parent

    places = product(fields.items(), values)
    cases = {f"{key} {value}": (offset, value) for (key, offset), value in places}
    others = anything("data.mdb")
    del others["link to nothing"], others["link to itself"]
    return {
        **{name: changed(*case) for name, case in cases.items()},
        **{name: as_data(write) for name, write in others.items()},
    }
