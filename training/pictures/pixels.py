"""Images as pixels of figures: colors, magnified differences, grids, and rows of stages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import to_rgb
from PIL import Image as Pillow

from training.data.images.dataset import to_pixels
from training.pictures.content import tiled
from training.pictures.figure import Figure, Image, Mark, Panel, Scale, Words
from training.pictures.theme import BLUE, MUTED, ORANGE, brief, joined, power_of_ten

HALF_RANGE = 127.5  # gray levels per data unit, and from the middle gray to black or white
# The size of a state is this quantile of its absolute values, but at least LEAST_REACH.
TELLING_SHARE, LEAST_REACH = 0.95, 0.5
USUAL_MAGNIFICATION = 20
ROUNDED_AWAY = 0.5  # gray levels: smaller differences vanish in 8-bit images
NO_DIFFERENCE = np.array([242.0, 243.0, 246.0])  # off-white, to differ from the page
GRID_CELL, ROW_CELL, GRID_GAP, ROW_GAP = 96, 128, 6, 8  # pixels
MOST_COLUMNS, MOST_WIDTH = 10, 1600
INCH = 150
"""Pixels of an image that are drawn on an inch."""


def state_divisors(states: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return a divisor per time for displaying unscaled states with the contrast of the data.

    The data is represented by the states at the smallest time. No divisor is below 1.

    Args:
        states: Unscaled states ``[S, N, C, H, W]``.
        times: Their times ``[S]``.
    """
    reach = np.quantile(np.abs(states).reshape(len(states), -1), TELLING_SHARE, axis=1)
    return np.maximum(reach / max(float(reach[times.argmin()]), LEAST_REACH), 1.0)


def data_cells(data: np.ndarray) -> np.ndarray:
    """Return images in data units ``[..., C, H, W]`` as 8-bit RGB ``[..., H, W, 3]``.

    Values are rounded and clamped.
    """
    return pixel_cells(to_pixels(torch.from_numpy(np.ascontiguousarray(data))).numpy())


def pixel_cells(pixels: np.ndarray) -> np.ndarray:
    """Return gray (C = 1) or RGB (C = 3) pixels ``[..., C, H, W]`` as RGB ``[..., H, W, 3]``.

    Images with other numbers of channels are shown as the mean of their channels.
    """
    if pixels.shape[-3] not in (1, 3):
        pixels = pixels.mean(axis=-3, keepdims=True).astype(pixels.dtype)
    cells = np.moveaxis(pixels, -3, -1)
    return np.broadcast_to(cells, (*cells.shape[:-1], 3))


def gray_levels(values: np.ndarray) -> np.ndarray:
    """Return images in gray levels ``[N, C, H, W]`` as 8-bit RGB ``[N, H, W, 3]``.

    Values are rounded and clamped.
    """
    return pixel_cells(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def magnification(largest: float) -> int:
    """Return the factor for magnifying differences, given the largest one in gray levels.

    The factor is 20 if magnified differences then fit into the range of pixels and are visible in
    8-bit images. Otherwise it is the largest of 1, 2, 5, 10, 20, ... with which they fit.
    """
    if ROUNDED_AWAY <= largest <= HALF_RANGE / USUAL_MAGNIFICATION or largest <= 0:
        return USUAL_MAGNIFICATION
    room = HALF_RANGE / largest
    power = 10 ** max(math.floor(math.log10(room)), 0)
    return max(power * step for step in (1, 2, 5) if power * step <= max(room, 1))


def difference_cells(difference: np.ndarray, factor: float) -> np.ndarray:
    """Show differences ``[..., C, H, W]`` of images, in gray levels, as magnified 8-bit RGB.

    In color images each channel is brighter or darker than the middle gray. In gray images, orange
    marks pixels that became brighter, and blue marks pixels that became darker.

    Returns:
        Colors ``[..., H, W, 3]``.
    """
    share = np.moveaxis(np.clip(difference * (factor / HALF_RANGE), -1, 1), -3, -1)
    if share.shape[-1] == 3:
        return np.rint(HALF_RANGE * (1 + share)).astype(np.uint8)
    end = np.where(share > 0, to_rgb(ORANGE), to_rgb(BLUE)) * 255
    return np.rint(NO_DIFFERENCE + np.abs(share) * (end - NO_DIFFERENCE)).astype(np.uint8)


def fitted(cells: np.ndarray, side: int) -> np.ndarray:
    """Resize images ``[N, H, W, 3]`` by an integer factor to fit a square of side ``side``.

    An enlarged pixel becomes a square of equal pixels. Images that are too large are reduced by
    averages over squares of pixels.
    """
    longest = max(cells.shape[1:3])
    if longest <= side:
        return cells.repeat(side // longest, axis=1).repeat(side // longest, axis=2)
    factor = math.ceil(longest / side)
    return np.stack([np.asarray(Pillow.fromarray(cell).reduce(factor)) for cell in cells])


@dataclass(frozen=True, eq=False)
class Column:
    """A column of images.

    Attributes:
        cells: Images, 8-bit RGB ``[R, h, w, 3]``.
        title: Title of the column.
        note: How the images are shown, possibly in several lines; may be empty.
    """

    cells: np.ndarray
    title: str
    note: str = ""


def grid_columns(count: int, shape: Sequence[int]) -> int:
    """Return the number of columns of a grid of images.

    The grid is nearly square, or narrower if the page would be too wide.

    Args:
        count: Number of images.
        shape: Height and width of an image.
    """
    longest = max(shape)
    pitch = longest * max(GRID_CELL // longest, 1) + GRID_GAP
    fitting = max(MOST_WIDTH // pitch, 1)
    return min(math.ceil(math.sqrt(count)), fitting, MOST_COLUMNS)


def image_grid(cells: np.ndarray, count: int, title: str, details: str = "") -> Figure:
    """Return a figure of images in rows, enlarged by an integer factor and never reduced.

    Args:
        cells: Images, 8-bit RGB ``[N, h, w, 3]``; only the first images that fit are shown.
        count: Number of all images, which the subtitle states.
        title: Title of the figure.
        details: Further words for the subtitle.
    """
    height, width = cells.shape[1:3]
    columns = grid_columns(len(cells), (height, width))
    cells = cells[: columns**2]
    part = f"first {len(cells)} of {count} images" if len(cells) < count else f"{count} images"
    page = tiled(fitted(cells, max(GRID_CELL, height, width)), columns, GRID_GAP)
    subtitle = joined(details, part, f"{width} × {height} pixels")
    return Figure(title, subtitle, [image_panel([Image(page)])], size=_inches(page))


def image_panel(marks: Sequence[Mark], title: str = "", note: str = "") -> Panel:
    """Return a panel without axes for an image and marks in the units of its pixels."""
    return Panel(marks, title, note, equal=True, axes=False)


def _inches(page: np.ndarray) -> tuple[float, float]:
    """Return the width and height in inches of the panel of an image."""
    return page.shape[1] / INCH, page.shape[0] / INCH


def image_rows(
    columns: Sequence[Column],
    title: str,
    subtitle: str,
    caption: str,
    notes: Sequence[str] = (),
    blocks: int = 1,
    scale: Scale | None = None,
) -> Figure:
    """Return a figure of rows of images, one row per case.

    Args:
        columns: Columns of R images of one size.
        title: Title of the figure.
        subtitle: Line below the title.
        caption: How to read the figure; may be empty.
        notes: R notes to the right of the rows, or none.
        blocks: Number of blocks side by side among which the rows are divided.
        scale: Color scale that explains the last column.
    """
    rows = math.ceil(len(columns[0].cells) / blocks)
    panels = list[Panel | None]()
    for start in range(0, rows * blocks, rows):
        part = slice(start, start + rows)
        for column in columns:
            cells = fitted(column.cells[part], ROW_CELL)
            page = tiled(cells, 1, ROW_GAP)
            panels.append(image_panel([Image(page)], column.title, column.note))
        if notes:
            pitch = cells.shape[1] + ROW_GAP
            blank = np.full_like(page, 255)
            y = len(page) - pitch * np.arange(len(notes[part])) - cells.shape[1] / 2
            words = Words(np.zeros(len(y)), y, notes[part], MUTED, align="left")
            panels += [image_panel([Image(blank), words]), None]  # the words need two places
    size = _inches(tiled(fitted(columns[0].cells[:rows], ROW_CELL), 1, ROW_GAP))
    return Figure(title, subtitle, panels, len(panels), size, sentence=caption, scale=scale)


def magnified(difference: np.ndarray) -> tuple[Column, Scale]:
    """Return a column of suitably magnified differences ``[N, C, H, W]``, and their color scale.

    Args:
        difference: Differences in gray levels.
    """
    factor = magnification(float(np.abs(difference).max()))
    reach = HALF_RANGE / factor
    values = np.linspace(-reach, reach, 101)[:, None, None, None]
    channels = difference.shape[1]
    colors = difference_cells(values.repeat(channels, axis=1), factor)[:, 0, 0]
    column = Column(difference_cells(difference, factor), "difference", _times(factor))
    words = (f"−{brief(reach)}", brief(reach), colors / 255, "difference in gray levels")
    return column, Scale(*words)


def _times(factor: int) -> str:
    if factor < 1000:
        return f"× {factor}"
    first, power = str(factor)[0], power_of_ten(len(str(factor)) - 1)
    return f"× {power}" if first == "1" else f"× {first}·{power}"
