"""Images that come with scikit-learn, so that they need no download."""

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from dnnlib.errors import UsageError
from training.data.sources.source import Images, Source, SourceImage, given
from training.names import HELD_OUT_PATCHES, PATCHES, SIDES

DIGITS = "digits"
NAMES = (DIGITS, PATCHES, HELD_OUT_PATCHES)
PATCHES_MADE = 20_000
"""How many patches there are, unless a number is given."""
TILE = 4
"""Side of the tiles that photographs are cut into, in sides of a patch."""
HELD_OUT = 5
"""One of so many tiles is held out, those in a row moved by two in the next."""


def digits() -> Source:
    """The 1797 digits of 8x8 pixels that come with scikit-learn, gray levels 0-16 as 0-255."""
    datasets: Any = importlib.import_module("sklearn.datasets")
    levels, labels = datasets.load_digits(return_X_y=True)
    pixels = np.rint(levels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)

    def images() -> Images:
        for index, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
            yield SourceImage(f"digit {index}", partial(given, image), label)

    return Source(images(), len(pixels))


def patches(held_out: bool, side: int, count: int) -> Source:
    """Square patches of the two photographs of scikit-learn; their classes say of which.

    Photographs are cut into tiles, and a patch lies within one: so those of the tiles that are held
    out share no pixel with the others.

    Args:
        held_out: Whether to take them from the tiles that are held out, or from the others.
        side: Of a patch, in pixels.
        count: How many, at places drawn at random, which are the first of a larger number too.

    Raises:
        UsageError: Patches are too small or large, or there are not so many.
    """
    if not SIDES[0] <= side <= SIDES[1]:
        raise UsageError(f"--patch is {side}: patches are from {SIDES[0]} to {SIDES[1]} pixels")
    datasets: Any = importlib.import_module("sklearn.datasets")
    photographs = datasets.load_sample_images().images
    corners = np.concatenate(list(_corners(photographs, held_out, side)))
    if count > len(corners):
        raise UsageError(f"there are {len(corners):,} patches of {side} pixels, not {count:,}")
    chosen = corners[np.random.default_rng(0).permutation(len(corners))[:count]]

    def images() -> Images:
        for number, row, column in chosen.tolist():
            pixels = photographs[number][row : row + side, column : column + side]
            where = f"the patch at {column}, {row} of photograph {number}"
            yield SourceImage(where, partial(given, pixels), number)

    return Source(images(), count)


def _corners(photographs: list[np.ndarray], held_out: bool, side: int) -> Iterator[np.ndarray]:
    """Upper left corners of patches ``[n, 3]``, tile by tile: photograph, row and column."""
    tile, within = TILE * side, (TILE - 1) * side + 1
    for number, photograph in enumerate(photographs):
        down, across = (size // tile for size in photograph.shape[:2])
        for row, column in np.ndindex(down, across):
            if ((2 * row + column) % HELD_OUT == 0) == held_out:
                inside = np.indices((within, within)).reshape(2, -1).T
                corner = inside + tile * np.array([row, column])
                yield np.insert(corner, 0, number, axis=1)
