"""Images that change all at once, as a moving grid."""

import math

import numpy as np

from training.pictures.images.pixels import fitted, tiled
from training.pictures.trajectories.animation import DPI, LEFT, SIDE, Animation

SIDE_PIXELS = round(SIDE * DPI)
BELOW, GAP = 0.1, 2  # inches; pixels
MOST_COLUMNS, MOST_PIXELS = 8, 1 << 16


class GridAnimation(Animation):
    """A grid of images that change.

    Args:
        cells: RGB of 8 bits, ``[S, N, h, w, 3]``; as many as make a square grid are shown.
        times: ``[S]``.
        title: What is seen.
        subtitle: How to read it.

    Attributes:
        image: The grid as it is now, ``[H, W, 3]``.
    """

    def __init__(self, cells: np.ndarray, times: np.ndarray, title: str, subtitle: str):
        super().__init__(times, title, subtitle, BELOW)
        self._columns = moving_columns(*cells.shape[1:4])
        self._cells = cells[:, : self._columns**2]
        self.image = self._tiled(0)
        bottom = round(self._bottom * DPI) + (SIDE_PIXELS - len(self.image)) // 2
        left = round(LEFT * DPI)
        self._shown = self.figure.figimage(self.image, left, bottom, origin="upper")

    def _show(self, number: int) -> None:
        self.image = self._tiled(number)
        self._shown.set_data(self.image)

    def _tiled(self, number: int) -> np.ndarray:
        cells = fitted(self._cells[number], _cell_side(self._columns))
        return tiled(cells, self._columns, GAP)


def moving_columns(count: int, height: int, width: int) -> int:
    """How many of N images a side of a moving grid has: the most that fill the frame well.

    Noise does not compress, so there are not more pixels than a small file can hold.
    """
    side = max(height, width)
    most = min(MOST_COLUMNS, math.isqrt(count), math.isqrt(MOST_PIXELS // (height * width)))

    def filled(columns: int) -> tuple[int, int]:
        grid = columns * (_cell_side(columns) // side * side + GAP)
        return round(10 * grid / SIDE_PIXELS), columns

    return max(range(1, max(most, 1) + 1), key=filled)


def _cell_side(columns: int) -> int:
    return (SIDE_PIXELS - GAP * (columns - 1)) // columns
