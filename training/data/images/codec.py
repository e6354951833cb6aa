"""Image files to pixels and back: uint8 arrays ``[H, W, C]``, gray (C = 1) or RGB (C = 3)."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dnnlib.errors import DataError, UsageError
from dnnlib.logs import logger
from torch_utils.snapshots import first_line
from training.names import script

MAX_PIXELS = 1 << 26
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
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


class Decoder:
    """Reader of 8-bit image files, which logs each kind of conversion once.

    Photographs are rotated as their EXIF entry specifies, palettes become RGB, transparent images
    are placed on white, and the first frame of an animation is used.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, data: bytes, where: str) -> np.ndarray:
        """Return the pixels ``[H, W, C]`` of an image file, uint8, with C = 1 for gray, else 3.

        Args:
            data: Content of the file.
            where: Name of the file in error messages.

        Raises:
            DataError: The file is broken, too large, or has more than 8 bits per channel.
        """
        image = _decode(data, where)
        if image.mode.startswith(("I", "F")) or _png_depth(data) == 16:
            raise DataError(
                f"{where} has more than 8 bits per channel: convert the file to 8 bits first"
            )
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
    """Transformation of images ``[H, W, C]``, uint8, to squares by cropping and resizing.

    ``center-crop`` cuts out the largest square in the middle. ``center-crop-wide`` cuts out the
    largest rectangle with the aspect ratio of the resolution, and adds black rows above and below
    to make the image square.

    Attributes:
        name: A name in ``TRANSFORMS``; None for images that are already square.
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
        if not wide and width != height:
            raise UsageError(
                f"resolution is {width}x{height}: give equal sides, since images must be square, "
                "or --transform=center-crop-wide"
            )

    def __call__(self, pixels: np.ndarray, where: str) -> np.ndarray:
        """Return the transformed image ``[S, S, C]``.

        Args:
            pixels: Image ``[H, W, C]``, uint8.
            where: Name of the image in error messages.

        Raises:
            DataError: The image is not square, and there is no transform.
        """
        height, width, channels = pixels.shape
        if self.name is None and width != height:
            raise DataError(
                f"{where} is {width}x{height}, not square: give --transform=center-crop"
            )
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
