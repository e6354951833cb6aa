"""A source of images: what it is, whatever the format."""

from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from training.data.images.containers import Label


class SourceImage(NamedTuple):
    """One image of a source, not read yet.

    Attributes:
        where: Name of the image in errors.
        read: Returns the pixels ``[H, W, C]`` uint8, C = 1 or 3, or raises DataError.
        label: Class of the image, a vector, or None if the source has no labels.
    """

    where: str
    read: Callable[[], np.ndarray]
    label: Label | None


Images = Generator[SourceImage, None, None]


class Source(NamedTuple):
    """The images, to be closed after use, and their number where it is known beforehand."""

    images: Images
    total: int | None


def given(pixels: np.ndarray) -> np.ndarray:
    """What reads an image whose pixels are there already."""
    return pixels
