"""Images arranged in grids, or in rows that show an image and its versions."""

import math
import os
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from training.data.images.batches import to_pixels
from training.data.images.containers import image_names, open_container
from training.data.images.dataset import ImageDataset
from training.pictures import theme
from training.pictures.content import tiled
from training.pictures.theme import BLUE, INK, MUTED, ORANGE

HALF_RANGE = 127.5  # gray levels per data unit, and from the middle gray to black or white
# The size of a state is this quantile of its absolute values, but at least LEAST_REACH.
TELLING_SHARE, LEAST_REACH = 0.95, 0.5
USUAL_MAGNIFICATION = 20
ROUNDED_AWAY = 0.5  # gray levels: smaller differences vanish in 8-bit images
NO_DIFFERENCE = np.array([242.0, 243.0, 246.0])  # off-white, to differ from the page


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
    """Return gray (C = 1) or RGB (C = 3) pixels ``[..., C, H, W]`` as RGB ``[..., H, W, 3]``."""
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
    return np.stack([np.asarray(Image.fromarray(cell).reduce(factor)) for cell in cells])


# All in pixels.
MARGIN, TOP = 45, 15
HEADLINE = round(theme.HEADLINE_HEIGHT * theme.DPI)
GRID_CELL, GRID_GAP, GRID_MOST_WIDTH = 96, 6, 1600
LEAST_WIDTH = 900  # wide enough for a headline
ROW_CELL, COLUMN_GAP, ROW_GAP, BLOCK_GAP = 128, 8, 8, 30
LINE, NOTE_WIDTH, FOOT = 22, 260, 66
MOST_COLUMNS = 10
NOTE: dict[str, Any] = {"size": theme.SMALL_SIZE, "color": MUTED, "linespacing": 1.3}
HEADING: dict[str, Any] = {"ha": "center", "va": "baseline"}


@dataclass(frozen=True)
class Column:
    """A column of images.

    Attributes:
        cells: Images, 8-bit RGB ``[R, h, w, 3]``.
        title: Title of the column.
        note: How the images are shown, possibly in several lines; may be empty.
        space: Extra pixels between this column and the previous one.
    """

    cells: np.ndarray
    title: str
    note: str = ""
    space: int = 0


@dataclass(frozen=True)
class Scale:
    """A color scale that explains the last column.

    Attributes:
        colors: Colors from the lowest to the highest value, 8-bit RGB ``[n, 3]``.
        range: Text that states the range of values.
    """

    colors: np.ndarray
    range: str


def grid_columns(count: int, shape: Sequence[int]) -> int:
    """Return the number of columns of a grid of images.

    The grid is nearly square, or narrower if the page would be too wide.

    Args:
        count: Number of images.
        shape: Height and width of an image.
    """
    longest = max(shape)
    pitch = longest * max(GRID_CELL // longest, 1) + GRID_GAP
    fitting = max(GRID_MOST_WIDTH // pitch, 1)
    return min(math.ceil(math.sqrt(count)), fitting, MOST_COLUMNS)


def draw_grid(cells: np.ndarray, count: int, title: str, details: str = "") -> Figure:
    """Draw images in rows, enlarged by an integer factor and never reduced.

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
    image = tiled(fitted(cells, max(GRID_CELL, height, width)), columns, GRID_GAP)
    page = theme.Page(
        max(image.shape[1] + 2 * MARGIN, LEAST_WIDTH), TOP + HEADLINE + image.shape[0] + MARGIN
    )
    page.headline(title, theme.joined(details, part, f"{width} × {height} pixels"), MARGIN, TOP)
    page.image(image, MARGIN, TOP + HEADLINE)
    return page.figure


def draw_rows(
    columns: Sequence[Column],
    title: str,
    subtitle: str,
    caption: str,
    notes: Sequence[str] = (),
    blocks: int = 1,
    scale: Scale | None = None,
) -> Figure:
    """Draw rows of images, one row per case.

    Args:
        columns: Columns of R images of one size.
        title: Title of the figure.
        subtitle: Line below the title.
        caption: How to read the figure, possibly in several lines; may be empty.
        notes: R notes to the right of the rows, or none.
        blocks: Number of blocks side by side among which the rows are divided.
        scale: Color scale that explains the last column, drawn below it.
    """
    rows = math.ceil(len(columns[0].cells) / blocks)
    cells = [fitted(column.cells, ROW_CELL) for column in columns]
    height, width = cells[0].shape[1:3]
    lefts = [
        number * (width + COLUMN_GAP) + sum(column.space for column in columns[: number + 1])
        for number in range(len(columns))
    ]
    block = lefts[-1] + width + (NOTE_WIDTH if notes else 0)
    lines = max(len(column.note.splitlines()) for column in columns)
    first = TOP + HEADLINE + (lines + 1) * LINE + 8
    bottom = first + rows * (height + ROW_GAP) - ROW_GAP
    page = theme.Page(
        max(2 * MARGIN + blocks * block + (blocks - 1) * BLOCK_GAP, LEAST_WIDTH),
        bottom + FOOT + TOP,
    )
    page.headline(title, subtitle, MARGIN, TOP)
    for number in range(blocks):
        start = MARGIN + number * (block + BLOCK_GAP)
        share = slice(number * rows, (number + 1) * rows)
        for column, images, left in zip(columns, cells, lefts, strict=True):
            x, top = start + left + width / 2, first - lines * LINE - 10
            page.text(column.title, x, top, size=theme.TEXT_SIZE, color=INK, **HEADING)
            for row, line in enumerate(column.note.splitlines(), start=1):
                page.text(line, x, top + row * LINE, **HEADING, **NOTE)
            page.image(tiled(images[share], 1, ROW_GAP), start + left, first)
        for row, note in enumerate(notes[share]):
            middle = first + row * (height + ROW_GAP) + height / 2
            page.text(note, start + lefts[-1] + width + 14, middle, va="center", **NOTE)
    page.text(caption, MARGIN, bottom + 12, va="top", **NOTE)
    if scale:
        _scale(page, scale, MARGIN + lefts[-1], bottom + 14, width)
    return page.figure


def magnified(difference: np.ndarray, space: int = 0) -> tuple[Column, Scale]:
    """Return a column of suitably magnified differences ``[N, C, H, W]``, and their color scale.

    Args:
        difference: Differences in gray levels.
        space: Extra pixels before the column.
    """
    factor = magnification(float(np.abs(difference).max()))
    reach = HALF_RANGE / factor
    values = np.linspace(-reach, reach, 101)[:, None, None, None]
    channels = difference.shape[1]
    colors = difference_cells(values.repeat(channels, axis=1), factor)[:, 0, 0]
    column = Column(difference_cells(difference, factor), "difference", _times(factor), space)
    return column, Scale(colors, f"up to ±{theme.brief(reach)} gray levels")


def _scale(page: theme.Page, scale: Scale, left: int, top: int, width: int) -> None:
    places = np.arange(width) * len(scale.colors) // width
    page.image(np.broadcast_to(scale.colors[places], (9, width, 3)), left, top)
    page.text("−", left, top + 26, ha="left", va="baseline", **NOTE)
    page.text("+", left + width, top + 26, ha="right", va="baseline", **NOTE)
    page.text(scale.range, left + width, top + 48, ha="right", va="baseline", **NOTE)


def _times(factor: int) -> str:
    if factor < 1000:
        return f"× {factor}"
    first, power = str(factor)[0], theme.power_of_ten(len(str(factor)) - 1)
    return f"× {power}" if first == "1" else f"× {first}·{power}"


MOST_IN_GRID = 100
PART = re.compile(r"\d{5,6}")  # name of a subfolder that holds a thousand of the images


def pictures_of_image_files(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the picture of a zip or folder of images, reading only the images that are drawn.

    The picture is written next to the zip or folder: inside the folder, it would be mistaken for
    one of the images.
    """
    pixels, count = first_images(path, MOST_IN_GRID)
    place = Path(os.path.abspath(path))  # resolves "." to a name and keeps links
    name = place.name if place.is_dir() else place.stem
    while PART.fullmatch(place.name):
        place = place.parent
        name = f"{place.name}_{name}"
    draw = partial(draw_grid, pixel_cells(pixels), count, f"Images of {name}")
    return theme.figures((folder or place.parent) / name, {"images": draw})


def holds_images(path: Path) -> bool:
    """Return whether a zip or folder contains images, directly or in folders with numbers as names.

    Raises:
        DataError: The zip cannot be read, or contains unsafe names.
    """
    with closing(open_container(path)) as container:
        names = image_names(container)
    return any(all(part.isdigit() for part in name.split("/")[:-1]) for name in names)


def first_images(path: Path, count: int) -> tuple[np.ndarray, int]:
    """Return the first images of a zip or folder, by name, and the number of all its images.

    Returns:
        Pixels ``[n, C, H, W]`` uint8, with n at most ``count``; and the number of all images.

    Raises:
        DataError: There are no images, or one is broken, not square, or of another shape than the
            first.
    """
    with closing(ImageDataset(path)) as dataset:
        pixels, _ = dataset.read(range(min(count, len(dataset))))
    return pixels.numpy(), len(dataset)
