"""How images of any shape become square ones of one size."""

from dataclasses import dataclass

import numpy as np

from dnnlib.errors import DataError, UsageError
from training.data.images.codec import MAX_PIXELS, resize


@dataclass(frozen=True)
class Transform:
    """Crops and resizes ``[H, W, C]`` uint8 pixels to a square.

    ``center-crop`` cuts out the largest square in the middle; ``center-crop-wide`` the largest
    rectangle of the resolution's aspect, and adds black rows above and below to make a square of
    its width. Without a name, an image has to be square already.

    Attributes:
        name: One of ``TRANSFORMS``, or None.
        resolution: Width and height to resize to after the crop; None leaves the size.

    Raises:
        UsageError: The resolution does not fit the transform.
    """

    name: str | None = None
    resolution: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.resolution is None:
            if self.name == "center-crop-wide":
                raise UsageError("center-crop-wide needs --resolution, such as 256x192")
            return
        width, height = self.resolution
        if min(width, height) < 1 or max(width, height) ** 2 > MAX_PIXELS:
            raise UsageError(
                f"resolution is {width}x{height}: sides can be from 1 to {int(MAX_PIXELS**0.5)}"
            )
        if self.name == "center-crop-wide":
            if width < height:
                raise UsageError(
                    f"resolution is {width}x{height}, but center-crop-wide needs a width of at "
                    "least the height"
                )
        elif width != height:
            raise UsageError(
                f"resolution is {width}x{height}, but images have to be square: give equal sides, "
                "or --transform=center-crop-wide"
            )

    def __call__(self, pixels: np.ndarray, where: str) -> np.ndarray:
        """The square image ``[S, S, C]``.

        Raises:
            DataError: The image is not square, and no transform says what to cut off.
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
