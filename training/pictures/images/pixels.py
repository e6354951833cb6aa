"""Images as 8-bit cells of a picture: states of any size, and differences, magnified.

A unit of data is 127.5 gray levels, and data runs from -1 (black) to 1 (white). A state ``x̃`` of a
flow outgrows that range, so it is shown as ``x̃ / d(t)``, with one divisor for all images of a time.
A difference of ``q`` gray levels is shown as one of ``k q``, with one magnification k for all.
"""

import math

import numpy as np
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from training.data.images.batches import to_pixels
from training.pictures.style.colors import BLUE, ORANGE

HALF_RANGE = 127.5  # gray levels from the middle to black or white, and to a unit of data
# The share of its values by which the size of a state is told, and the least that it counts.
TELLING_SHARE, LEAST_REACH = 0.95, 0.5
USUAL_MAGNIFICATION = 20
ROUNDED_AWAY = 0.5  # gray levels: smaller differences are none between 8-bit images
NO_DIFFERENCE = np.array([242.0, 243.0, 246.0])  # not white, as the page is


def state_divisors(states: np.ndarray, times: np.ndarray) -> np.ndarray:
    """What to divide the states of each time by, so that their contrast stays that of the data.

    Args:
        states: Unscaled, ``[S, N, C, H, W]``.
        times: ``[S]``. At the least of them the states are data, and are left as they are.

    Returns:
        ``[S]``, none below 1.
    """
    reach = np.quantile(np.abs(states).reshape(len(states), -1), TELLING_SHARE, axis=1)
    return np.maximum(reach / max(float(reach[times.argmin()]), LEAST_REACH), 1.0)


def data_cells(data: np.ndarray) -> np.ndarray:
    """Images of data ``[..., C, H, W]`` as 8-bit RGB ``[..., H, W, 3]``, rounded and clamped."""
    return pixel_cells(to_pixels(torch.from_numpy(np.ascontiguousarray(data))).numpy())


def pixel_cells(pixels: np.ndarray) -> np.ndarray:
    """Gray (C = 1) or RGB (C = 3) pixels ``[..., C, H, W]`` as RGB ``[..., H, W, 3]``."""
    cells = np.moveaxis(pixels, -3, -1)
    return np.broadcast_to(cells, (*cells.shape[:-1], 3))


def magnification(largest: float) -> int:
    """By how much to magnify differences of which the largest has so many gray levels.

    20 if they then fit into the range of pixels and make a difference between 8-bit images, else
    the largest of 1, 2, 5, 10, 20, ... with which they fit.
    """
    if ROUNDED_AWAY <= largest <= HALF_RANGE / USUAL_MAGNIFICATION or largest <= 0:
        return USUAL_MAGNIFICATION
    room = HALF_RANGE / largest
    power = 10 ** max(math.floor(math.log10(room)), 0)
    return max(power * step for step in (1, 2, 5) if power * step <= max(room, 1))


def difference_cells(difference: np.ndarray, factor: float) -> np.ndarray:
    """Magnified differences ``[..., C, H, W]``, in gray levels, as 8-bit RGB ``[..., H, W, 3]``.

    In color images each channel is brighter or darker than the middle gray; of gray images, what
    became brighter is orange and what became darker is blue.
    """
    share = np.moveaxis(np.clip(difference * (factor / HALF_RANGE), -1, 1), -3, -1)
    if share.shape[-1] == 3:
        return np.rint(HALF_RANGE * (1 + share)).astype(np.uint8)
    end = np.where(share > 0, to_rgb(ORANGE), to_rgb(BLUE)) * 255
    return np.rint(NO_DIFFERENCE + np.abs(share) * (end - NO_DIFFERENCE)).astype(np.uint8)


def fitted(cells: np.ndarray, side: int) -> np.ndarray:
    """Images ``[N, H, W, 3]`` in whole-numbered size: the largest that fits a square of pixels.

    Each pixel becomes a square of equal ones; images that are too large are averaged down.
    """
    longest = max(cells.shape[1:3])
    if longest <= side:
        return cells.repeat(side // longest, axis=1).repeat(side // longest, axis=2)
    factor = math.ceil(longest / side)
    return np.stack([np.asarray(Image.fromarray(cell).reduce(factor)) for cell in cells])


def tiled(cells: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Images ``[N, h, w, 3]`` in rows on white, so many pixels apart: one image ``[H, W, 3]``."""
    count, height, width, _ = cells.shape
    rows = math.ceil(count / columns)
    page = np.full((rows * columns, height + gap, width + gap, 3), 255, np.uint8)
    page[:count, :height, :width] = cells
    page = page.reshape(rows, columns, height + gap, width + gap, 3).swapaxes(1, 2)
    whole = page.reshape(rows * (height + gap), columns * (width + gap), 3)
    return whole[: -gap or None, : -gap or None]
