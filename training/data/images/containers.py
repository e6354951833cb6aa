"""Zips and folders of image files, and their labels.

Zips and folders of image files behind one interface, and labels in their ``dataset.json``.

Zips are untrusted: names that would leave a folder, links, and entries of huge declared size are
rejected, and nothing is ever extracted to disk.
"""

import json
import lzma
import os
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils.snapshots import first_line
from training.names import script

MAX_PIXELS = 1 << 26
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def decode_exact(data: bytes, where: str) -> np.ndarray:
    """Return the unchanged pixels ``[H, W, C]`` of an 8-bit gray or RGB image file, uint8.

    Args:
        data: Content of the file.
        where: Name of the file in error messages.

    Raises:
        DataError: The file is damaged, too large, or not 8-bit gray or RGB.
    """
    image = _decode(data, where)
    depth = _png_depth(data)
    if image.mode not in ("L", "RGB") or depth not in (None, 8):
        kind = f"{depth} bits per channel" if image.mode in ("L", "RGB") else f"mode {image.mode}"
        raise DataError(
            f"{where} is not 8-bit gray or RGB but {kind}: convert the data set with "
            f"{script('dataset_tool')}"
        )
    return _pixels(image)


def decode_tiff(data: bytes, where: str) -> np.ndarray:
    """Return the pixels ``[H, W, C]`` of a TIFF, by tifffile; pages and planes become channels.

    Raises:
        UsageError: tifffile is not installed.
        DataError: The file is broken, too large or no image.
    """
    try:
        import tifffile
    except ImportError as error:
        raise UsageError(
            f"{where} is a TIFF: install tifffile (pip install 'inflationary-flows[images]')"
        ) from error
    shape: tuple[int, ...] = ()
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            shape = file.series[0].shape
            pixels = np.asarray(file.asarray()) if prod(shape) <= 4 * MAX_PIXELS else np.empty(0)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors for broken files
        raise DataError(
            f"{where} is not a readable image: {first_line(error)}. Restore the image from a copy"
        ) from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3:
        raise DataError(f"{where} has the shape {list(shape)}: give images of [H, W] or [H, W, C]")
    if pixels.shape[0] < min(pixels.shape[1:]):
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels


class Decoder:
    """Reader of image files, which logs each kind of conversion once.

    Photographs are rotated as their EXIF entry specifies, palettes become RGB, transparent images
    are placed on white, and the first frame of an animation is used.

    Args:
        deep: Whether images may have more than 8 bits per channel.
    """

    def __init__(self, deep: bool = False) -> None:
        self._said: set[str] = set()
        self._deep = deep

    def __call__(self, data: bytes, where: str) -> np.ndarray:
        """Return the pixels ``[H, W, C]`` of an image file, with C = 1 for gray, else 3.

        Pixels are uint8, or for deep images uint16 or float32. A TIFF may have any C.

        Args:
            data: Content of the file.
            where: Name of the file in error messages.

        Raises:
            DataError: The file is broken, too large, or has more than 8 bits per channel without
                being permitted to.
        """
        if data.startswith(_TIFF_SIGNATURES):
            pixels = decode_tiff(data, where)
            if pixels.dtype != np.uint8 and not self._deep:
                raise _too_deep(where)
            return pixels
        image = _decode(data, where)
        if image.mode.startswith(("I", "F")) or _png_depth(data) == 16:
            if not (self._deep and image.mode.startswith("I")):
                raise _too_deep(where)
            return np.asarray(image, np.uint16)[:, :, None]
        # In place, since a copy of a large image takes hundreds of MiB.
        with _converting(where):
            ImageOps.exif_transpose(image, in_place=True)
        return _pixels(self._plain(image, where))

    def _plain(self, image: Image.Image, where: str) -> Image.Image:
        """Return the image in mode L or RGB."""
        if image.mode == "1":
            self._say("black-and-white images are converted to gray", where)
            image = _converted(image, "L", where)
        if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
            self._say("transparent images are drawn on a white background", where)
            gray = image.mode in ("L", "LA")
            image = _converted(image, "RGBA", where)
            with _converting(where):
                laid = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return _converted(laid, "L" if gray else "RGB", where)
        if image.mode in ("P", "CMYK"):
            self._say(f"images of mode {image.mode} are converted to RGB", where)
            return _converted(image, "RGB", where)
        if image.mode not in ("L", "RGB"):
            raise DataError(
                f"{where} cannot be converted: mode {image.mode} is unknown. Convert the image to "
                "RGB"
            )
        return image

    def _say(self, what: str, where: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.info(f"Note: {what} (first: {where})")


def _too_deep(where: str) -> DataError:
    return DataError(
        f"{where} has more than 8 bits per channel: give a --dest that ends in .npz, with color as "
        "TIFF, or convert the file to 8 bits first"
    )


def _converted(image: Image.Image, mode: str, where: str) -> Image.Image:
    if image.mode == mode:
        return image
    with _converting(where):
        return image.convert(mode)


@contextmanager
def _converting(where: str) -> Iterator[None]:
    """Convert Pillow's errors about broken metadata to DataError, in this block.

    Warnings about odd palettes and metadata are suppressed, since they do not affect pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Exception as error:  # broken metadata can raise any error
        raise DataError(
            f"{where} cannot be converted: {first_line(error)}. Convert the image to RGB"
        ) from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels ``[H, W, C]``, uint8, as an uncompressed PNG; equal pixels give equal bytes."""
    file = BytesIO()
    _to_image(pixels).save(file, format="PNG", compress_level=0)
    return file.getvalue()


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resample pixels ``[H, W, C]`` to another size by an antialiased Lanczos filter."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return _pixels(_to_image(pixels).resize((width, height), Image.Resampling.LANCZOS))


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Convert RGB pixels ``[H, W, 3]`` to gray ``[H, W, 1]``, by their luma (ITU-R 601)."""
    return _pixels(_to_image(pixels).convert("L"))


def _decode(data: bytes, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pillow only warns up to twice its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=_FORMATS)
            small = image.width * image.height <= MAX_PIXELS
            if small:
                image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{where} is not an image of a known format: convert the image to PNG"
        ) from error
    except Exception as error:  # decoders raise many kinds of errors for broken files
        raise DataError(
            f"{where} is not a readable image: {first_line(error)}. Restore the image from a copy"
        ) from error
    if not small:
        size = f"{image.width}x{image.height}"
        raise DataError(
            f"{where} declares {size} pixels, more than the limit of {MAX_PIXELS}: reduce the image"
        )
    return image


def _png_depth(data: bytes) -> int | None:
    """Return the bits per channel of a PNG, which Pillow silently cuts to 8; None otherwise."""
    return data[24] if data.startswith(_PNG_SIGNATURE) else None


def _pixels(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


@dataclass(frozen=True)
class Transform:
    """Transformation of images ``[H, W, C]`` by cropping and resizing; only 8 bits are resized.

    ``center-crop`` cuts out the largest square in the middle. ``center-crop-wide`` cuts out the
    largest rectangle with the aspect ratio of the resolution, and adds black rows above and below
    to make the image square.

    Attributes:
        name: A name in ``TRANSFORMS``; None for no crop.
        resolution: Width and height to resize to after the crop; None keeps the size.

    Raises:
        UsageError: The resolution does not fit the transform.
    """

    name: str | None = None
    resolution: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        wide = self.name == "center-crop-wide"
        if self.resolution is None:
            if wide:
                raise UsageError(
                    "center-crop-wide needs --resolution: give a resolution, such as 256x192"
                )
            return
        width, height = self.resolution
        if min(width, height) < 1 or max(width, height) ** 2 > MAX_PIXELS:
            raise UsageError(
                f"resolution is {width}x{height}: give sides from 1 to {int(MAX_PIXELS**0.5)}"
            )
        if wide and width < height:
            raise UsageError(
                f"resolution is {width}x{height}: for center-crop-wide, give a width that is not "
                "below the height"
            )
        if self.name == "center-crop" and width != height:
            raise UsageError(
                f"resolution is {width}x{height}: give equal sides, since center-crop makes "
                "squares, or --transform=center-crop-wide"
            )

    def __call__(self, pixels: np.ndarray, where: str) -> np.ndarray:
        """Return the transformed image ``[H', W', C]``.

        Args:
            pixels: Image ``[H, W, C]``.
            where: Name of the image in error messages.

        Raises:
            DataError: The image is to be resized, but is not 8-bit gray or RGB.
        """
        height, width, channels = pixels.shape
        if self.resolution and not is_plain(pixels):
            raise DataError(
                f"{where} has {channels} channels of {pixels.dtype}: only 8-bit gray and RGB are "
                "resized, so leave --resolution out"
            )
        if self.name is None:
            return resize(pixels, *self.resolution) if self.resolution else pixels
        if self.name == "center-crop-wide" and self.resolution:
            aspect_width, aspect_height = self.resolution
        else:
            aspect_width = aspect_height = 1
        if width * aspect_height > height * aspect_width:
            width = max(1, round(height * aspect_width / aspect_height))
        else:
            height = max(1, round(width * aspect_height / aspect_width))
        pixels = _center(pixels, height, width)
        if self.resolution:
            pixels = resize(pixels, *self.resolution)
        height, width = pixels.shape[:2]
        if height == width:
            return np.ascontiguousarray(pixels)
        square = np.zeros((width, width, channels), np.uint8)
        top = (width - height) // 2
        square[top : top + height] = pixels
        return square


def _center(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
SOURCE_SUFFIXES = (*IMAGE_SUFFIXES, ".tif", ".tiff")
"""Suffixes of images that become data sets; data sets themselves have no TIFF."""
LABEL_FILE = "dataset.json"
MAX_FILE_BYTES = 256 << 20
MAX_LABEL_BYTES, MOST_LABEL_LISTS = 64 << 20, 4_000_000
"""Limits for ``dataset.json``.

It is kept in memory, where an empty list takes twenty times its length in the file.
"""
LONGEST_QUOTED = 200
MAX_CLASSES = 100_000
"""Maximum number of classes, one more than the largest label: labels become one-hot vectors."""

Label = int | list[float]

_DRIVE_OR_CONTROL = re.compile(r"^[A-Za-z]:|[\x00-\x1f\x7f]")


class Container(Protocol):
    """Interface of zips and folders, as collections of files with relative names.

    Attributes:
        path: The zip or folder.
        names: Names of all files, sorted, with ``/`` between folders.
    """

    path: Path
    names: list[str]

    def where(self, name: str) -> str:
        """Return the description of a file for error messages."""

    def read(self, name: str) -> bytes:
        """Return the content of a file in bytes.

        Raises:
            DataError: The file is too large or cannot be read completely.
        """

    def close(self) -> None:
        """Close all open files of the container."""
        ...


def open_container(path: Path) -> Container:
    """Open a folder or a zip as a container.

    Raises:
        DataError: The path does not exist, is neither a folder nor a zip, or the zip has an unsafe
            entry.
    """
    if path.is_dir():
        return FolderContainer(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder or zip of images")
    return ZipContainer(path)


class FolderContainer:
    """Container with all files below a folder.

    Links to files are followed, links to folders are not.
    """

    def __init__(self, path: Path):
        self.path = path
        self.names: list[str] = []
        # A folder that cannot be listed is an error: otherwise it would appear empty.
        for folder, _, files in os.walk(path, onerror=_reraise):
            below = Path(folder).relative_to(path)
            self.names.extend((below / file).as_posix() for file in files)
        self.names.sort()

    def where(self, name: str) -> str:
        """Return the path of a file; if not printable, its quoted name and the folder."""
        whole = str(self.path / name)
        return whole if name.isprintable() else f"{quoted(name)} in {self.path}"

    def read(self, name: str) -> bytes:
        """Return the content of a file in bytes.

        Raises:
            DataError: The file is not an ordinary file, is too large, or cannot be read.
        """
        file = self.path / name
        try:
            # Opening a pipe or a device could block forever.
            if not stat.S_ISREG(file.stat().st_mode):
                raise DataError(f"{self.where(name)} is not an ordinary file: remove it")
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise DataError(
                f"{self.where(name)} cannot be read: {reason}. Check the file and its permissions"
            ) from error
        if len(data) > MAX_FILE_BYTES:
            raise DataError(
                f"{self.where(name)} is larger than the limit of {MAX_FILE_BYTES >> 20} MiB: "
                "reduce its size"
            )
        return data

    def close(self) -> None:
        """Do nothing: no file is held open."""


class ZipContainer:
    """Container with the entries of a zip."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise DataError(
                f"{path} is neither a folder nor an ordinary file: give a folder or zip of images"
            )
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}. Check the file and its "
                "permissions"
            ) from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise DataError(
                f"{path} is not a readable zip: {first_line(error)}. Give a folder or zip of images"
            ) from error
        try:
            self._entries = self._checked_entries()
        except DataError:
            self._archive.close()
            raise
        self.names = sorted(self._entries)

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            # zipfile sanitizes its filename attribute; the check is on the original name.
            name = info.orig_filename
            if (
                not name
                or name.startswith("/")
                or "\\" in name
                or ".." in name.split("/")
                or _DRIVE_OR_CONTROL.search(name)
            ):
                raise DataError(
                    f"{self.path} has an entry with an unsafe name, {quoted(name)}: rename it"
                )
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(
                    f"the entry {quoted(name)} of {self.path} is a symbolic link, which is not "
                    "supported: replace the link by its file"
                )
            if name in entries:
                raise DataError(
                    f"{self.path} has the entry {quoted(name)} twice: make the zip again"
                )
            if not info.is_dir():
                entries[name] = info
        return entries

    def where(self, name: str) -> str:
        """Return the quoted name of an entry and the path of the zip, for error messages."""
        return f"{quoted(name)} in {self.path}"

    def read(self, name: str) -> bytes:
        """Return the content of an entry in bytes, after a check of its checksum.

        Raises:
            DataError: The entry declares too large a size, or cannot be read.
        """
        info = self._entries[name]
        if info.file_size > MAX_FILE_BYTES:
            raise DataError(
                f"{self.where(name)} declares {info.file_size} bytes, more than the limit of "
                f"{MAX_FILE_BYTES >> 20} MiB: reduce its size"
            )
        try:
            # zipfile enforces the declared size, and verifies the checksum.
            return self._archive.read(info)
        except (
            OSError,
            EOFError,
            ValueError,
            RuntimeError,  # encrypted; NotImplementedError (an unknown compression) is a subclass
            struct.error,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
        ) as error:
            raise DataError(
                f"{self.where(name)} cannot be read: {first_line(error)}. Make the zip again"
            ) from error

    def close(self) -> None:
        """Close the zip."""
        self._archive.close()


def is_plain(pixels: np.ndarray) -> bool:
    """Return whether an image ``[H, W, C]`` is 8-bit gray or RGB, as zips and folders hold."""
    return pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3)


def image_names(container: Container, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Return the sorted names of the image files, without hidden files and macOS shadow folders."""
    return [
        name
        for name in container.names
        if name.lower().endswith(suffixes)
        and not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    ]


def read_labels(container: Container) -> dict[str, Label] | None:
    """Return the labels in ``dataset.json`` by image name; None if the file contains null.

    Raises:
        DataError: The file is missing or malformed, or mixes classes and vectors.
    """
    where = container.where(LABEL_FILE)
    if LABEL_FILE not in container.names:
        raise DataError(
            f"{container.path} has no {LABEL_FILE}: there are no class labels, so train without "
            "labels"
        )
    data = container.read(LABEL_FILE)
    if len(data) > MAX_LABEL_BYTES or data.count(b"[") + data.count(b"{") > MOST_LABEL_LISTS:
        raise DataError(f"{where} has too many labels: use a smaller data set")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not readable JSON: make the data set again") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise DataError(f'{where} is not an object with "labels": make the data set again')
    if content["labels"] is None:
        return None
    if not isinstance(content["labels"], list):
        raise DataError(
            f'"labels" of {where} is neither null nor a list of [name, class]: make the data set '
            "again"
        )
    labels: dict[str, Label] = {}
    for index, pair in enumerate(content["labels"]):
        match pair:
            case [str(name), label] if name not in labels and _is_label(label):
                labels[name] = label
            case _:
                raise DataError(
                    f"label {index} of {where} is {_brief(pair)}: expected [name, class "
                    f"from 0 to {MAX_CLASSES - 1}] or [name, [numbers]], with each name "
                    "once"
                )
    kinds = {len(label) if isinstance(label, list) else 0 for label in labels.values()}
    if len(kinds) > 1:
        raise DataError(
            f"{where} mixes classes and vectors, or vectors of different lengths: give all labels "
            "the same form"
        )
    return labels


def labels_of(container: Container, names: list[str]) -> list[Label] | None:
    """Return the labels of images in the order of ``names``; None if ``dataset.json`` has none.

    Raises:
        DataError: ``dataset.json`` is missing or malformed, mixes classes and vectors, has no label
            for an image, or a label for an image that does not exist.
    """
    labels = read_labels(container)
    if labels is None:
        return None
    there = set(container.names)
    for name in labels:
        if name not in there:
            raise DataError(
                f"{container.where(LABEL_FILE)} has a label for {quoted(name)}, which does not "
                "exist: remove this label"
            )
    for name in names:
        if name not in labels:
            raise DataError(
                f"{container.where(LABEL_FILE)} has no label for {quoted(name)}: add this label"
            )
    return [labels[name] for name in names]


def quoted(name: str) -> str:
    """Return the quoted name of a file for an error message, with special characters escaped.

    Long names are shortened.
    """
    text = repr(name)
    return text if len(text) <= LONGEST_QUOTED else f"{text[:LONGEST_QUOTED]}...'"


def _brief(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deep"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _is_label(value: object) -> bool:
    if type(value) is int:
        return 0 <= value < MAX_CLASSES
    # The comparison is false for NaN, and exact for integers of any size.
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(number) in (int, float) and abs(number) <= 3.4e38 for number in value)
    )


def _reraise(error: OSError) -> None:
    raise error
