"""From a source of images to a data set: the loop that reads, crops, checks and writes."""

from contextlib import closing
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from dnnlib.errors import DataError
from dnnlib.logs import logger
from training.data.images.codec import to_gray
from training.data.images.transforms import Transform
from training.data.sources.source import Source, SourceImage
from training.data.sources.writer import ImageWriter

MAX_NAMED_SKIPS = 20


@dataclass
class Conversion:
    """Makes all images of a source square and of one shape, and writes them.

    Args:
        transform: How to crop and resize.
        channels: 1 makes all images gray and 3 makes all RGB; None takes the first image's. Then a
            later gray image is repeated in three channels, but color is never thrown away.
        first_image: Number of images to leave out at the start, so that a data set can be split.
        max_images: Largest number of images to take.
        skip_bad: Whether to leave out, and count, images that cannot be read or have the wrong
            shape.
    """

    transform: Transform
    channels: int | None = None
    max_images: int | None = None
    skip_bad: bool = False
    first_image: int = 0

    def run(self, source: Source, writer: ImageWriter) -> tuple[tuple[int, ...], int]:
        """Shape ``(S, S, C)`` of the images that were written, and how many were skipped.

        Raises:
            DataError: A bad image that is not to be skipped, a color image among gray ones, a
                source that is broken as a whole, or no image.
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
                    pixels = self._square(image, shape)
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
                f"the source has {seen} images, but {self.first_image} are to be left out"
            )
        if shape is None:
            reason = f": all {skipped} were skipped" if skipped else ""
            raise DataError(f"the source has no images that can be read{reason}")
        return shape, skipped

    def _square(self, image: SourceImage, shape: tuple[int, ...] | None) -> np.ndarray:
        pixels = self.transform(image.read(), image.where)
        if shape is not None and pixels.shape[:2] != shape[:2]:
            raise DataError(
                f"{image.where} is {pixels.shape[1]}x{pixels.shape[0]}, but the first image "
                f"{shape[1]}x{shape[0]}: give --resolution"
            )
        return pixels

    def _with_channels(
        self, pixels: np.ndarray, shape: tuple[int, ...] | None, where: str
    ) -> np.ndarray:
        wanted = self.channels or (pixels.shape[2] if shape is None else shape[2])
        if pixels.shape[2] == wanted:
            return pixels
        if wanted == 3:
            return np.repeat(pixels, 3, axis=2)
        if self.channels is None:
            raise DataError(
                f"{where} is in color, but the first image is gray: give --channels=3, or "
                "--channels=1 to make all gray"
            )
        return to_gray(pixels)
