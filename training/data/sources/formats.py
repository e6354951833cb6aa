"""Readers of the formats in which image data sets are published.

Each reader yields images one by one, in an order that depends on the source alone, so that memory
does not grow with the data set. An unreadable image raises an error when it is read, and the reader
can continue with the next one. A source that is broken as a whole raises DataError.

Pickles, such as the batches of CIFAR-10, are parsed as data: see ``torch_utils.inert_pickle``.
Dicts, lists, tuples, strings, bytes, integers, and NumPy's encoding of uint8 arrays are allowed;
everything else is rejected.
"""

import gzip
import importlib
import re
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils.inert_arrays import ARRAY_NAMES, dtype_of
from torch_utils.inert_pickle import Names, PickleError, PickleReader
from torch_utils.snapshots import first_line
from training.data.images.containers import (
    LABEL_FILE,
    MAX_CLASSES,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    SOURCE_SUFFIXES,
    Container,
    Decoder,
    Label,
    image_names,
    labels_of,
    open_container,
    quoted,
)
from training.data.images.stacks import ImageStack, holds_stack
from training.data.sources.lmdb_store import DATA_FILE, count_entries, read_entries
from training.names import HELD_OUT_PATCHES, PATCH, PATCHES


class SourceImage(NamedTuple):
    """One image of a source, whose pixels are read on demand.

    Attributes:
        where: Name of the image in error messages.
        read: Function that returns the pixels ``[H, W, C]``, uint8 with C = 1 or 3 unless other
            images were permitted, or raises DataError.
        label: Label of the image, a class or a vector; None if the source has no labels.
    """

    where: str
    read: Callable[[], np.ndarray]
    label: Label | None


Images = Generator[SourceImage, None, None]


class Source(NamedTuple):
    """A source of images.

    Attributes:
        images: Generator of the images, which must be closed after use.
        total: Number of images; None if unknown in advance.
        value_range: Range of values that the source states; None for none.
    """

    images: Images
    total: int | None
    value_range: tuple[float, float] | None = None


def given(pixels: np.ndarray) -> np.ndarray:
    """Return pixels unchanged; serves as the reader of a ``SourceImage`` that is in memory."""
    return pixels


_NAMES: Names = {**ARRAY_NAMES, "numpy.dtype": dtype_of("u1")}
_REFUSED = ("BINFLOAT", "EMPTY_SET", "ADDITEMS", "NEWOBJ")


def read_plain_pickle(data: bytes, where: str) -> Any:
    """Return the value of a pickle of plain values and uint8 arrays, without executing code.

    Strings of Python 2 are decoded as latin-1.

    Args:
        data: Content of the pickle.
        where: Name of the pickle in error messages.

    Raises:
        DataError: The pickle is damaged, or contains objects other than plain values and uint8
            arrays.
    """
    try:
        return PickleReader(data, _NAMES, without=_REFUSED).read()
    except PickleError as error:
        raise DataError(
            f"{where} is refused: not a pickle of plain values ({error}). Download the file again"
        ) from error


DIGITS = "digits"
NAMES = (DIGITS, PATCHES, HELD_OUT_PATCHES)
PATCHES_MADE = 20_000
"""Default number of patches."""
TILE = 4
"""Side of the tiles into which photographs are cut, in sides of a patch."""
HELD_OUT = 5
"""One tile in this many is held out; the pattern moves by two tiles from row to row."""


def digits() -> Source:
    """Open the 1797 digits of 8x8 pixels from scikit-learn, with gray levels scaled to 0-255."""
    datasets: Any = importlib.import_module("sklearn.datasets")
    levels, labels = datasets.load_digits(return_X_y=True)
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)

    def images() -> Images:
        for index, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            yield SourceImage(f"digit {index}", partial(given, image), label)

    return Source(images(), len(pixels))


def patches(held_out: bool, side: int, count: int) -> Source:
    """Open random square patches of the two photographs in scikit-learn, labeled by photograph.

    Photographs are cut into tiles, and each patch lies within one tile. Patches of held-out tiles
    therefore share no pixel with the other patches.

    Args:
        held_out: Whether to use the held-out tiles rather than the other tiles.
        side: Side of a patch, in pixels.
        count: Number of patches. The patches are the first ``count`` patches of a fixed random
            sequence.

    Raises:
        UsageError: The photographs have fewer patches.
    """
    datasets: Any = importlib.import_module("sklearn.datasets")
    photographs = datasets.load_sample_images().images
    corners = np.concatenate(list(_corners(photographs, held_out, side)))
    if count > len(corners):
        raise UsageError(
            f"there are only {len(corners):,} patches of {side} pixels, not {count:,}: give a "
            "smaller number of patches"
        )
    chosen = corners[np.random.default_rng(0).permutation(len(corners))[:count]]

    def images() -> Images:
        for number, row, column in chosen.tolist():
            pixels = photographs[number][row : row + side, column : column + side]
            where = f"the patch at {column}, {row} of photograph {number}"
            yield SourceImage(where, partial(given, pixels), number)

    return Source(images(), count)


def _corners(photographs: list[np.ndarray], held_out: bool, side: int) -> Iterator[np.ndarray]:
    """Yield upper left corners of patches ``[n, 3]``, tile by tile: photograph, row and column."""
    tile, within = TILE * side, (TILE - 1) * side + 1
    for number, photograph in enumerate(photographs):
        down, across = (size // tile for size in photograph.shape[:2])
        for row, column in np.ndindex(down, across):
            if ((2 * row + column) % HELD_OUT == 0) == held_out:
                inside = np.indices((within, within)).reshape(2, -1).T
                corner = inside + tile * np.array([row, column])
                yield np.insert(corner, 0, number, axis=1)


_KNOWN = (
    "a folder, a .zip of images, a .npy or .npz of them, cifar-10-python.tar.gz, an "
    f"MNIST images-idx3-ubyte.gz, an LMDB folder, '{DIGITS}', '{PATCHES}' or '{HELD_OUT_PATCHES}'"
)
_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError)
MAX_BATCH_BYTES = 64 << 20
"""Maximum size of a batch of CIFAR-10; real ones have 31 MB."""
MAX_ARCHIVE_BYTES = 1 << 30
"""Maximum size of CIFAR-10's unpacked archive; the real one has 186 MB."""


def open_source(
    name: str,
    count: int | None = None,
    in_part: bool = False,
    deep: bool = False,
    value_range: tuple[float, float] | None = None,
) -> Source:
    """Open the source at a path, or a built-in source by name.

    Args:
        name: The path or the name.
        count: Number of patches; None for the default.
        in_part: Whether only a part of the images will be used. Folders and zips then alternate
            their classes, in a fixed random order, so that a part is balanced.
        deep: Whether images may have more than 8 bits and up to 16 channels.
        value_range: Range of the values of a stack; None for the range that it states.

    Raises:
        DataError: The source does not exist, or is broken.
        UsageError: The kind of source is unknown, or there are too few patches.
    """
    path = Path(name)
    if name == DIGITS:
        return digits()
    if name in (PATCHES, HELD_OUT_PATCHES):
        return patches(name == HELD_OUT_PATCHES, PATCH, count or PATCHES_MADE)
    if not path.exists():
        raise DataError(f"{name} does not exist: give {_KNOWN}")
    if path.is_dir():
        is_lmdb = (path / DATA_FILE).exists()
        return _lmdb(path) if is_lmdb else _files(open_container(path), in_part, deep)
    if path.suffix.lower() == ".zip":
        return _files(open_container(path), in_part, deep)
    if holds_stack(path):
        return _stack(ImageStack.load(path, value_range), path, in_part)
    if path.name.lower().endswith((".tar.gz", ".tgz")):
        return Source(_cifar10(path), None)
    if path.suffix.lower() == ".gz":
        return _idx(path)
    raise UsageError(f"{name} has an unknown format: give {_KNOWN}")


def _stack(stack: ImageStack, path: Path, in_part: bool) -> Source:
    """Return the images of a stack in its order; with classes and in part, see ``_files``."""
    pixels = stack.images.permute(0, 2, 3, 1).numpy()
    labels = None if stack.labels is None else stack.labels.tolist()
    images = (
        SourceImage(
            f"image {place} of {path}",
            partial(given, pixels[place]),
            None if labels is None else labels[place],
        )
        for place in (mixed(labels) if in_part and labels else range(len(stack)))
    )
    return Source(images, len(stack), stack.value_range)


def _files(container: Container, in_part: bool, deep: bool) -> Source:
    """Return the image files of a folder or zip in the order of their names.

    If only a part will be used and there are classes, the images alternate between classes, and
    those of a class come in a fixed random order.
    """
    names = image_names(container, SOURCE_SUFFIXES)
    if not names:
        kinds = ", ".join(SOURCE_SUFFIXES)
        raise DataError(
            f"{container.path} contains no images in a known format: give images as {kinds}"
        )
    labels: list[Label] | None = None
    if LABEL_FILE in container.names:
        labels = labels_of(container, names)
    elif classes := _class_folders(names):
        first = ", ".join(quoted(name) for name in classes[:10])
        logger.info(f"{len(classes)} folders become classes, numbered from 0: {first}")
        labels = [classes.index(name.partition("/")[0]) for name in names]
    if in_part and labels and all(isinstance(label, int) for label in labels):
        order = mixed(labels)
        names, labels = [names[index] for index in order], [labels[index] for index in order]
    decode = Decoder(deep)

    def images() -> Images:
        with closing(container):
            for index, name in enumerate(names):
                read = partial(_read_file, container, name, decode)
                yield SourceImage(container.where(name), read, labels[index] if labels else None)

    return Source(images(), len(names))


def mixed(labels: Sequence[Label]) -> list[int]:
    """Return the indices of images in a fixed random order that alternates between classes."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    return shuffled[in_turns([labels[place] for place in shuffled])].tolist()


def in_turns(labels: Sequence[Label]) -> list[int]:
    """Return the indices of images in an order that alternates between classes.

    The first image of each class comes first, then the second image of each class, and so on.

    Example:
        >>> in_turns([0, 0, 0, 1, 2])
        [0, 3, 4, 1, 2]
    """
    seen: Counter[Any] = Counter()
    turns = []
    for place, label in enumerate(labels):
        turns.append((seen[label], label, place))
        seen[label] += 1
    return [place for _, _, place in sorted(turns)]


def _class_folders(names: list[str]) -> list[str]:
    """Return the top folders of all images as class names, numeric names in numeric order.

    The list is empty if there are fewer than two folders, or if some are the folders of a thousand
    images in data sets of this project.
    """
    folders = sorted({name.rpartition("/")[0].partition("/")[0] for name in names})
    if all(re.fullmatch("[0-9]{1,9}", folder) for folder in folders):
        folders.sort(key=int)
    plain = "" not in folders and not any(re.fullmatch(r"\d{5}", folder) for folder in folders)
    return folders if plain and 2 <= len(folders) <= MAX_CLASSES else []


def _read_file(container: Container, name: str, decode: Decoder) -> np.ndarray:
    return decode(container.read(name), container.where(name))


def _cifar10(path: Path) -> Images:
    """Yield the 50,000 training images of CIFAR-10's Python version, batch by batch."""
    try:
        with _gunzip(path, _Archive) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            batches = {
                int(match[1]): member
                for member in archive
                if member.isreg() and (match := re.search(r"(?:^|/)data_batch_(\d+)$", member.name))
            }
            if not batches:
                raise DataError(f"{path} has no data_batch_1: give the Python version of CIFAR-10")
            for _, member in sorted(batches.items()):
                where = f"{quoted(member.name)} in {path}"
                if member.size > MAX_BATCH_BYTES:
                    raise DataError(
                        f"{where} is larger than the limit of {MAX_BATCH_BYTES >> 20} MiB: give "
                        "the Python version of CIFAR-10"
                    )
                batch = archive.extractfile(member)
                assert batch is not None, "isreg() was checked"
                yield from _cifar10_batch(batch.read(), where)
    except _UNREADABLE as error:
        raise DataError(
            f"{path} is not a readable .tar.gz: {first_line(error)}. Download the file again"
        ) from error


def _cifar10_batch(data: bytes, where: str) -> Images:
    content = read_plain_pickle(data, where)
    if not isinstance(content, dict):
        raise DataError(
            f"{where} is not a dict of data and labels: give the Python version of CIFAR-10"
        )
    # Python 2 wrote the keys as bytes; files saved again may have text keys.
    pixels, labels = (content.get(key, content.get(key.encode())) for key in ("data", "labels"))
    if not (isinstance(pixels, np.ndarray) and pixels.ndim == 2 and pixels.shape[1] == 3072):
        raise DataError(
            f"{where} has no 'data' of shape [n, 3072] uint8: give the Python version of CIFAR-10"
        )
    if not (
        isinstance(labels, list)
        and len(labels) == len(pixels)
        and all(type(label) is int and 0 <= label < 10 for label in labels)
    ):
        raise DataError(
            f"{where} has no 'labels' from 0 to 9, one for each of its images: give the Python "
            "version of CIFAR-10"
        )
    rows = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for index, (image, label) in enumerate(zip(rows, labels, strict=True)):
        yield SourceImage(f"image {index} of {where}", partial(given, image), label)


def _idx(path: Path) -> Source:
    """Return the images of an MNIST idx file; 28x28 images are padded by two zeros on each side."""
    labels = _idx_labels(path)
    with _gunzip(path) as file:
        count, height, width = _idx_header(file, path, "images")
    if labels is not None and len(labels) != count:
        raise DataError(
            f"{path} has {count} images, but the label file has {len(labels)} labels: download "
            "both files again"
        )
    if not 1 <= height * width <= MAX_PIXELS:
        raise DataError(
            f"{path} declares images of {width}x{height}, but images must have from 1 to "
            f"{MAX_PIXELS} pixels: download the file again"
        )

    def images() -> Images:
        margin = 2 if (height, width) == (28, 28) else 0
        with _gunzip(path) as file:
            _idx_header(file, path, "images")
            for index in range(count):
                data = _read(file, height * width, path)
                if len(data) < height * width:
                    raise DataError(
                        f"{path} ends after {index} of {count} images: download the file again"
                    )
                image = np.frombuffer(data, np.uint8).reshape(height, width)
                image = np.pad(image, margin)[:, :, None]
                label = None if labels is None else labels[index]
                yield SourceImage(f"image {index} of {path}", partial(given, image), label)
            if _read(file, 1, path):
                raise DataError(
                    f"{path} has more data than its {count} declared images: download the file "
                    "again"
                )

    return Source(images(), count)


def _idx_labels(path: Path) -> bytes | None:
    """Return the labels next to a file of images, by the naming scheme of MNIST."""
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path or not beside.exists():
        logger.info(f"Note: no labels, because there is no {beside.name} beside {path}")
        return None
    with _gunzip(beside) as file:
        (count,) = _idx_header(file, beside, "labels")
        labels = _read(file, min(count, MAX_FILE_BYTES), beside)
    if len(labels) < count:
        raise DataError(
            f"{beside} ends after {len(labels)} of {count} labels: download the file again"
        )
    return labels


def _idx_header(file: gzip.GzipFile, path: Path, what: str) -> tuple[int, ...]:
    dims = 3 if what == "images" else 1
    header = _read(file, 4 + 4 * dims, path)
    if len(header) < 4 + 4 * dims or header[:4] != bytes([0, 0, 8, dims]):
        raise DataError(
            f"{path} is not an idx file of {what} (bytes in {dims} dimensions): give a file of "
            "MNIST's format"
        )
    return struct.unpack(f">{dims}I", header[4:])


class _Archive(gzip.GzipFile):
    """An unpacked archive that rejects reads and skips larger than those of CIFAR-10's archive."""

    def read(self, size: int | None = -1) -> bytes:
        # Names of members can have any length, and are read at once.
        if size is None or not 0 <= size <= MAX_BATCH_BYTES:
            raise tarfile.ReadError(f"the file requests {size} bytes at once")
        return super().read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        # Skipping unpacks the data, which can be a thousand times as long.
        if offset > MAX_ARCHIVE_BYTES:
            raise tarfile.ReadError(f"the file is longer than {MAX_ARCHIVE_BYTES >> 20} MiB")
        return super().seek(offset, whence)


def _gunzip(path: Path, kind: type[gzip.GzipFile] = gzip.GzipFile) -> gzip.GzipFile:
    try:
        if not path.is_file():  # opening a pipe would block forever
            raise DataError(f"{path} is not an ordinary file: give the path of a file")
        return kind(path, "rb")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}. Check the file and its permissions"
        ) from error


def _read(file: gzip.GzipFile, size: int, path: Path) -> bytes:
    try:
        return file.read(size)
    except _UNREADABLE as error:
        raise DataError(
            f"{path} is not a readable .gz: {first_line(error)}. Download the file again"
        ) from error


def _lmdb(path: Path) -> Source:
    """Return the images of an LSUN store: image files as values, in the order of their keys."""

    def images() -> Images:
        decode = Decoder()
        for key, value in read_entries(path):
            where = f"{quoted(key.decode('latin-1'))} in {path}"
            yield SourceImage(where, partial(decode, value, where), None)

    return Source(images(), count_entries(path))
