"""Images and data sets made by hand to do harm: those of files, and MNIST, CIFAR-10 and LSUN."""

import gzip
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

from tests.fuzz import hostile, samples
from tests.fuzz.harness import written
from tests.fuzz.hostile import MIB, UP, anything, inside, named, packed_zeros, png, zip_of

GOOD = samples.png(8)
_ROWS = zlib.compress(bytes(8 * 25))
BATCH = "cifar-10-batches-py/data_batch_1"


def head(width, height, depth=8, color=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)


def png_of(width, height, *chunks, color=2):
    return png([head(width, height, color=color), *chunks, (b"IEND", b"")])


def zeros(count):
    """So many zeros, and some more to a full MiB, as a stream of zlib."""
    mib = -(-count // MIB)
    checksum = (mib * MIB % 65521) << 16 | 1  # Adler's, of zeros
    return b"\x78\xda" + packed_zeros(mib) + struct.pack(">I", checksum)


def _with(kind, content):
    return png_of(8, 8, (kind, content), (b"IDAT", _ROWS))


PNGS = {
    "2^31 pixels a side": png_of(2**31 - 1, 2**31 - 1, (b"IDAT", _ROWS)),
    "8192 pixels a side": lambda: png_of(8192, 8192, (b"IDAT", zeros(8192 * (8192 * 3 + 1)))),
    "8192 pixels a side, transparent": lambda: png_of(
        8192, 8192, (b"IDAT", zeros(8192 * (8192 * 4 + 1))), color=6
    ),
    "pixels for more": lambda: png_of(8, 8, (b"IDAT", zeros(100 * MIB))),
    "a long text": lambda: _with(b"zTXt", b"a\0\0" + zeros(100 * MIB)),
    "a long profile": lambda: _with(b"iCCP", b"a\0\0" + zeros(100 * MIB)),
    "texts that are long together": lambda: png_of(
        8, 8, *[(b"zTXt", b"a%d\0\0" % n + zeros(MIB)) for n in range(100)], (b"IDAT", _ROWS)
    ),
    "many pieces": png_of(8, 8, *[(b"IDAT", _ROWS[n : n + 1]) for n in range(len(_ROWS))] * 500),
    "an odd EXIF": _with(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 200),
    "an EXIF in a circle": _with(
        b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\x08"
    ),
    "16 bits": png([head(8, 8, 16), (b"IDAT", zlib.compress(bytes(8 * 49))), (b"IEND", b"")]),
    "an animation of 2^31 frames": _with(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
    "no end": png([head(8, 8), (b"IDAT", _ROWS)]),
    "a length of 2^31": GOOD[:33] + b"\xff\xff\xff\xff" + GOOD[37:],
    "text in the place of a kind": png([head(8, 8), (b"\x1b[2J", b""), (b"IDAT", _ROWS)]),
    "a file of PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(RAN) (w) file\n",
    "a TIFF": b"II*\0\x08\0\0\0" + b"\xff" * 100,
    "a GIF of 65,535 pixels a side": (
        b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;"
    ),
    "a BMP of 2^31 pixels a side": b"BM"
    + struct.pack("<IIIIiiHHIIiiII", 100, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, *[0] * 6),
    "a JPEG of 65,500 pixels a side": (
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\3\1\x22\0\2\x11\1\3\x11\1"
        + b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0"
        + bytes(100)
    ),
    "a WEBP that is short": b"RIFF\xff\xff\xff\xffWEBPVP8X\x0a\0\0\0" + b"\xff" * 10,
}


def images():
    return named("i.png", {**PNGS, "empty": b"", "text": b"hello", "zeros": bytes(MIB)})


LABELS = {
    "of everything": b"[" * 100_000,
    # To write a value can take more of the stack than to read it.
    **{
        f"{depth} deep": b'{"labels": [["i.png", ' + b"[" * depth + b"]" * depth + b"]]}"
        for depth in range(900, 1000, 4)
    },
    "deep in labels": b'{"labels": ' + b"[" * 990 + b"]" * 990 + b"}",
    "of a million digits": b'{"labels": [["i.png", ' + b"9" * 1_000_000 + b"]]}",
    "of 2^62 classes": b'{"labels": [["i.png", 4611686018427387904]]}',
    "of the last class": b'{"labels": [["i.png", 99999]]}',
    "that are long": b'{"labels": [["i.png", [' + b"1," * 500_000 + b"1]]]}",
    "that are many": lambda: b'{"labels": [' + b"[]," * 21_000_000 + b"[]]}",
    "of no image": b'{"labels": [["\\u001b[2J", 1]]}',
    "with a long name": b'{"labels": [["' + b"x" * MIB + b'", "y"]]}',
}
"""What ``dataset.json`` says."""


def image_sets():
    def with_labels(content):
        return zip_of({"i.png": GOOD, "dataset.json": content}, zipfile.ZIP_DEFLATED)

    files = {
        **inside(with_labels, {f"labels: {name}": content for name, content in LABELS.items()}),
        **hostile.strange_zips("i.png", GOOD),
        "a bomb of 255 MiB": lambda: hostile.zip_bomb("i.png", 255),
        "a bomb that is a PNG": lambda: hostile.zip_bomb("i.png", 255, GOOD[:33]),
        "labels that are a bomb": lambda: hostile.zip_bomb("dataset.json", 255),
        "no labels": zip_of({"i.png": GOOD}),
        "many images": lambda: zip_of({f"{n}.png": GOOD for n in range(3000)}),
    }
    return {**hostile.anything("set.zip"), **named("set.zip", files), **_folders()}


def _folders():
    def folder_with(make):
        def make_in(place):
            place.mkdir()
            (place / "a.png").write_bytes(GOOD)
            make(place)

        return written("set", make_in)

    def link(name, target):
        return lambda place: (place / name).symlink_to(target)

    contents = {
        "a pipe": lambda place: os.mkfifo(place / "b.png"),
        "labels from a pipe": lambda place: os.mkfifo(place / "dataset.json"),
        "labels from zeros": link("dataset.json", "/dev/zero"),
        "zeros": link("b.png", "/dev/zero"),
        "the system": link("b.png", "/etc/passwd"),
        "a link to itself": link("b.png", "b.png"),
        "a link up": link("b", ".."),
        "a folder": lambda place: (place / "b.png").mkdir(),
        "a strange name": lambda place: (place / "\x1b[2J\n.png").write_bytes(b"x"),
        "no letters": lambda place: (place / os.fsdecode(b"\xff.png")).touch(),
        "deep": lambda place: (place / "/".join("b" * 100)).mkdir(parents=True),
    }
    return {f"folder: {name}": folder_with(make) for name, make in contents.items()}


def gzip_of_zeros(mib, start=b""):
    """Some bytes and many zeros, whose checksum is wrong: that shows at the end."""
    return b"\x1f\x8b\x08" + bytes(7) + packed_zeros(mib, start) + bytes(8)


def idx_head(*sizes, kind=8):
    return bytes([0, 0, kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


def idx_files():
    images, labels = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
    top = 2**32 - 1
    good = gzip.compress(idx_head(1, 8, 8) + bytes(64))
    files = {
        "2^32 images": gzip.compress(idx_head(top, 8, 8) + bytes(64)),
        "one row of 2^26": gzip.compress(idx_head(1, 1, 1 << 26) + bytes(64)),
        "no pixels": gzip.compress(idx_head(top, 0, 8)),
        "8192 pixels a side": lambda: gzip_of_zeros(64, idx_head(1, 8192, 8192)),
        "more than it says": lambda: gzip_of_zeros(1024, idx_head(1, 8, 8)),
        "floats": gzip.compress(idx_head(1, 8, 8, kind=13) + bytes(256)),
        "wrong checksum": good[:-8] + bytes(8),
        "a long name": b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * MIB,
    }

    def labels_are(make):
        def write(folder):
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
        "labels: a folder": labels_are(Path.mkdir),
    }


def _header(name, size, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _entry(name, data, kind=tarfile.REGTYPE, size=None):
    header = _header(name, len(data) if size is None else size, kind)
    return header + data + bytes(-len(data) % 512)


def _sparse():
    """A member of 2^60 bytes, of which none are there."""
    header = bytearray(_header(BATCH, 0, tarfile.GNUTYPE_SPARSE))
    header[483:495] = b"\x80" + (2**60).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _tar(*members):
    return gzip.compress(b"".join(members) + bytes(1024), 1, mtime=0)


def _endless(start, mib):
    """A start of a tar, then so many MiB of zeros."""
    return lambda: gzip.compress(start, 1, mtime=0) + gzip_of_zeros(mib)


def tars():
    batch = samples.cifar_batch(2)
    passwords = f"{UP}etc/passwd"
    text = b"\x80\x02}U\x04dataT" + struct.pack("<i", 62 * MIB)
    files = {
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
    }
    return {**anything("cifar-10-python.tar.gz"), **named("cifar-10-python.tar.gz", files)}
