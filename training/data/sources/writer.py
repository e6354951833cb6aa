"""Data sets of images: PNGs in the StyleGAN format or a stack, by ``dataset_tool.py``.

A data set of 8-bit gray or RGB images is a zip or a folder of uncompressed PNGs, all of one shape.
Images are named ``00000/img00000000.png`` and so on, a thousand per folder. ``dataset.json``
contains labels: ``{"labels": [["00000/img00000000.png", 6], ...]}`` with an integer (a class) or a
list of numbers (a vector) for each image, or null instead of the whole list. Nothing is compressed,
so that reading is fast, and equal images give equal bytes. An ``.npz`` is a stack of any images
(``training.data.images.stacks``). Beside the data set, ``{name}_params.json`` has
the options, the number of images written and skipped, and the versions.
"""

import json
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path
from dnnlib.logs import logger
from training.data.images.containers import (
    LABEL_FILE,
    Label,
    Transform,
    encode_png,
    is_plain,
    to_gray,
)
from training.data.images.stacks import ImageStack
from training.data.sources.formats import Source, SourceImage

IMAGES_A_FOLDER = 1000
OTHER_ARCHIVES = {".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}


class ImageWriter:
    """Writer of an image data set, which numbers images and collects their labels.

    Args:
        put: Function that stores a file, given its name and its content in bytes.

    Attributes:
        count: Number of images written so far.
    """

    def __init__(self, put: Callable[[str, bytes], None]):
        self._put = put
        self._labels: list[tuple[str, Label]] = []
        self.count = 0

    @property
    def has_labels(self) -> bool:
        """Whether the images written so far have labels."""
        return bool(self._labels)

    def add(self, pixels: np.ndarray, label: Label | None) -> None:
        """Write one image.

        Args:
            pixels: Image ``[H, W, C]``, uint8, with C = 1 or 3.
            label: Label of the image; None if the data set has no labels.

        Raises:
            DataError: Some images have labels and others do not, or the image is no 8-bit gray or
                RGB image.
        """
        self._store(pixels, label)
        self.count += 1

    def _store(self, pixels: np.ndarray, label: Label | None) -> None:
        if not is_plain(pixels):
            raise DataError(
                f"image {self.count + 1} has {pixels.shape[2]} channels of {pixels.dtype}: give a "
                "--dest that ends in .npz"
            )
        self._require_labels(label)
        name = f"{self.count // IMAGES_A_FOLDER:05d}/img{self.count:08d}.png"
        self._put(name, encode_png(pixels))
        if label is not None:
            self._labels.append((name, label))

    def _require_labels(self, label: Label | None) -> None:
        if self.count and (label is None) == self.has_labels:
            raise DataError(
                f"only some of the first {self.count + 1} images have labels: label all images "
                "or none"
            )

    def finish(self) -> None:
        """Write the labels of all images, as the last file of the data set.

        Raises:
            DataError: No image was written.
        """
        if self.count == 0:
            raise DataError("the source has no readable images: give another source")
        content = {"labels": self._labels or None}
        self._put(LABEL_FILE, json.dumps(content).encode())


class StackWriter(ImageWriter):
    """Writer of a stack, in memory until its end.

    Args:
        path: File to write.
        value_range: Range of values; None for that of the integers.
    """

    def __init__(self, path: Path, value_range: tuple[float, float] | None):
        super().__init__(lambda name, data: None)
        self._path, self._range = path, value_range
        self._images: list[np.ndarray] = []

    def _store(self, pixels: np.ndarray, label: Label | None) -> None:
        self._require_labels(label)
        if label is not None and not isinstance(label, int):
            raise DataError("a stack has no labels that are vectors: give a --dest that is a .zip")
        if label is not None:
            self._labels.append(("", label))
        self._images.append(pixels)

    def finish(self) -> None:
        """Write the stack.

        Raises:
            DataError: No image was written, or values are beyond the range.
        """
        if not self._images:
            raise DataError("the source has no readable images: give another source")
        labels = [label for _, label in self._labels] or None
        images = np.stack(self._images)
        ImageStack.of_array(images, self._range, labels, "the source").save(self._path)


@contextmanager
def image_writer(
    destination: Path, value_range: tuple[float, float] | None = None
) -> Iterator[ImageWriter]:
    """Return a context that yields a writer of images to a zip, a folder or a stack.

    A destination that ends in ``.zip`` is a zip, in ``.npz`` a stack, any other a folder. The
    destination is created or replaced at the end of the context; after an error nothing changes.

    Raises:
        DataError: No image was written.
    """
    if destination.suffix.lower() == ".npz":
        stack = StackWriter(destination, value_range)
        yield stack
        destination.parent.mkdir(parents=True, exist_ok=True)
        stack.finish()
    elif is_one_file(destination):
        with (
            atomic_path(destination) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            writer = ImageWriter(lambda name, data: archive.writestr(_entry(name), data))
            yield writer
            writer.finish()
    else:
        with _atomic_folder(destination) as folder:

            def put(name: str, data: bytes) -> None:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(data)

            writer = ImageWriter(put)
            yield writer
            writer.finish()


def is_one_file(destination: Path) -> bool:
    """Return whether a data set is one file, because its name ends in ``.zip`` or ``.npz``."""
    return destination.suffix.lower() in (".zip", ".npz")


def require_writable(destination: Path, source: Path | None, overwrite: bool) -> None:
    """Raise UsageError if writing a data set to a destination would lose data.

    Only a data set or an empty folder is ever replaced, and only if permitted. A typing error thus
    cannot remove a home folder, or the source of the data set.

    Args:
        destination: Zip or folder to write.
        source: File or folder of the source; None for a built-in source.
        overwrite: Whether an existing data set may be replaced.
    """
    if destination.suffix.lower() in OTHER_ARCHIVES and not destination.is_dir():
        raise UsageError(
            f"--dest is {destination}, but a data set is a .zip, an .npz or a folder: give a name "
            f"that ends in .zip, or one that does not end in {destination.suffix}"
        )
    if source is not None:
        target, origin = destination.resolve(), source.resolve()
        if target == origin or origin in target.parents or target in origin.parents:
            raise UsageError(
                f"--dest is {destination}, but the source {source} is the same, lies inside "
                "the destination, or contains the destination: give another --dest"
            )
    if not destination.exists():
        return
    if not overwrite:
        raise UsageError(
            f"{destination} exists: give another --dest, or --overwrite to replace the data set"
        )
    if destination.is_dir() == is_one_file(destination):
        kinds = ("folder", "zip") if destination.is_dir() else ("file", "folder")
        raise UsageError(
            f"{destination} is a {kinds[0]} and would be replaced by a {kinds[1]}: give another "
            "--dest"
        )
    if (
        destination.is_dir()
        and any(destination.iterdir())
        and not (destination / LABEL_FILE).exists()
    ):
        raise UsageError(
            f"{destination} is not a data set (no {LABEL_FILE}) and is not replaced: give another "
            "--dest"
        )


def _entry(name: str) -> zipfile.ZipInfo:
    # All fields that vary between days or machines are fixed.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry


@contextmanager
def _atomic_folder(destination: Path) -> Iterator[Path]:
    """Yield a new folder that becomes ``destination`` if the block succeeds."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    # The inner folder has ordinary permissions, unlike one from tempfile.
    temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}-"))
    new, old = temporary / "new", temporary / "old"
    new.mkdir()
    try:
        yield new
        if destination.exists():
            destination.rename(old)
        try:
            new.rename(destination)
        except OSError:
            if old.exists():
                old.rename(destination)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


MAX_NAMED_SKIPS = 20


@dataclass
class Conversion:
    """Conversion of all images of a source to a data set of images of one shape.

    Args:
        transform: Crop and resize transformation.
        channels: Number of channels: 1 makes all images gray, 3 makes all images RGB. None for the
            number of channels of the first image; then gray images become RGB if the first is RGB,
            but color images after a gray image are errors.
        first_image: Number of images to leave out at the start, so that a data set can be split.
        max_images: Maximum number of images to use; None for all.
        skip_bad: Whether to skip and count images that cannot be read or have the wrong shape.
    """

    transform: Transform
    channels: int | None = None
    max_images: int | None = None
    skip_bad: bool = False
    first_image: int = 0

    def run(self, source: Source, writer: ImageWriter) -> tuple[tuple[int, ...], int]:
        """Convert and write all images of a source.

        Returns:
            The shape ``(H, W, C)`` of the written images, and the number of skipped images.

        Raises:
            DataError: An image cannot be read and must not be skipped, a color image follows gray
                images, the whole source is damaged, or no image can be read.
        """
        shape: tuple[int, ...] | None = None
        skipped = seen = 0
        total = None if source.total is None else max(0, source.total - self.first_image)
        if self.max_images is not None and total is not None:
            total = min(total, self.max_images)
        with closing(source.images), tqdm(total=total, unit="image", disable=None) as bar:
            for seen, image in enumerate(source.images, 1):
                if seen <= self.first_image:
                    continue
                try:
                    pixels = self._transformed(image, shape)
                except DataError as error:
                    if not self.skip_bad:
                        raise
                    skipped += 1
                    if skipped <= MAX_NAMED_SKIPS:
                        logger.info(f"Skipped: {error}")
                    continue
                pixels = self._with_channels(pixels, shape, image.where)
                shape = pixels.shape
                writer.add(pixels, image.label)
                bar.update()
                if writer.count == self.max_images:
                    break
        if 0 < seen <= self.first_image:
            raise DataError(
                f"the source has {seen} images, but --first-image skips {self.first_image}: give a "
                "smaller number"
            )
        if shape is None:
            reason = f": all {skipped} were skipped" if skipped else ""
            raise DataError(f"the source has no readable images{reason}")
        return shape, skipped

    def _transformed(self, image: SourceImage, shape: tuple[int, ...] | None) -> np.ndarray:
        pixels = self.transform(image.read(), image.where)
        if shape is not None and pixels.shape[:2] != shape[:2]:
            raise DataError(
                f"{image.where} is {pixels.shape[1]}x{pixels.shape[0]}, but the first image is "
                f"{shape[1]}x{shape[0]}: give --resolution to resize all images"
            )
        return pixels

    def _with_channels(
        self, pixels: np.ndarray, shape: tuple[int, ...] | None, where: str
    ) -> np.ndarray:
        wanted = self.channels or (pixels.shape[2] if shape is None else shape[2])
        if pixels.shape[2] == wanted:
            return pixels
        if not is_plain(pixels) or wanted not in (1, 3):
            raise DataError(
                f"{where} has {pixels.shape[2]} channels of {pixels.dtype}, not {wanted}: give "
                "images with the same channels"
            )
        if wanted == 3:
            return np.repeat(pixels, 3, axis=2)
        if self.channels is None:
            raise DataError(
                f"{where} is in color, but the first image is gray: give --channels=3, or "
                "--channels=1 to convert all to gray"
            )
        return to_gray(pixels)
