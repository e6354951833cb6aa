"""Images side by side: a grid of one kind, or rows of an image and what became of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.pictures.images.pixels import (
    HALF_RANGE,
    difference_cells,
    fitted,
    magnification,
    tiled,
)
from training.pictures.style import look
from training.pictures.style.colors import INK, MUTED
from training.pictures.style.page import Page
from training.pictures.style.words import brief, joined, power_of_ten

# All in pixels.
MARGIN, TOP = 45, 15
HEADLINE = round(look.HEADLINE_HEIGHT * look.DPI)
GRID_CELL, GRID_GAP, GRID_MOST_WIDTH = 96, 6, 1600
LEAST_WIDTH = 900  # has room for a headline
ROW_CELL, COLUMN_GAP, ROW_GAP, BLOCK_GAP = 128, 8, 8, 30
LINE, NOTE_WIDTH, FOOT = 22, 260, 66
MOST_COLUMNS = 10
NOTE: dict[str, Any] = {"size": look.SMALL_SIZE, "color": MUTED, "linespacing": 1.3}


@dataclass(frozen=True)
class Column:
    """Images under one another.

    Attributes:
        cells: RGB of 8 bits, ``[R, h, w, 3]``.
        title: What they are.
        note: How they are shown, in lines; may be empty.
        space: Pixels between this column and the one before, beyond the usual.
    """

    cells: np.ndarray
    title: str
    note: str = ""
    space: int = 0


@dataclass(frozen=True)
class Scale:
    """What the colors of the last column mean.

    Attributes:
        colors: From the lowest to the highest value, RGB of 8 bits ``[n, 3]``.
        range: These values.
    """

    colors: np.ndarray
    range: str


def grid_columns(count: int, shape: Sequence[int]) -> int:
    """How many of N images of ``(height, width)`` a grid has side by side: as if square, or less
    if that would be too wide a page."""
    longest = max(shape)
    pitch = longest * max(GRID_CELL // longest, 1) + GRID_GAP
    fitting = max(GRID_MOST_WIDTH // pitch, 1)
    return min(math.ceil(math.sqrt(count)), fitting, MOST_COLUMNS)


def draw_grid(cells: np.ndarray, count: int, title: str, details: str = "") -> Figure:
    """Images in rows, enlarged by whole numbers and never reduced.

    Args:
        cells: RGB of 8 bits, ``[N, h, w, 3]``; as many as fill a square are shown.
        count: How many images there are in all.
        title: What is seen.
        details: How they were made; may be empty.
    """
    height, width = cells.shape[1:3]
    columns = grid_columns(len(cells), (height, width))
    cells = cells[: columns**2]
    part = f"first {len(cells)} of {count} images" if len(cells) < count else f"{count} images"
    image = tiled(fitted(cells, max(GRID_CELL, height, width)), columns, GRID_GAP)
    page = Page(
        max(image.shape[1] + 2 * MARGIN, LEAST_WIDTH), TOP + HEADLINE + image.shape[0] + MARGIN
    )
    page.headline(title, joined(details, part, f"{width} × {height} pixels"), MARGIN, TOP)
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
    """Rows of images, each telling of one.

    Args:
        columns: Each with R images of one size.
        title: What is seen.
        subtitle: Of what it is.
        caption: How to read it, in lines; may be empty.
        notes: Written beside the rows, R, or none.
        blocks: Into how many blocks side by side the rows are dealt.
        scale: Explains the last column, below it.
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
    page = Page(
        max(2 * MARGIN + blocks * block + (blocks - 1) * BLOCK_GAP, LEAST_WIDTH),
        bottom + FOOT + TOP,
    )
    page.headline(title, subtitle, MARGIN, TOP)
    for number in range(blocks):
        start = MARGIN + number * (block + BLOCK_GAP)
        share = slice(number * rows, (number + 1) * rows)
        for column, images, left in zip(columns, cells, lefts, strict=True):
            _heading(page, column, start + left + width / 2, first - lines * LINE - 10)
            page.image(tiled(images[share], 1, ROW_GAP), start + left, first)
        for row, note in enumerate(notes[share]):
            middle = first + row * (height + ROW_GAP) + height / 2
            page.text(note, start + lefts[-1] + width + 14, middle, va="center", **NOTE)
    page.text(caption, MARGIN, bottom + 12, va="top", **NOTE)
    if scale:
        _scale(page, scale, MARGIN + lefts[-1], bottom + 14, width)
    return page.figure


def magnified(difference: np.ndarray, space: int = 0) -> tuple[Column, Scale]:
    """Differences ``[N, C, H, W]`` in gray levels, magnified as suits them, and their colors."""
    factor = magnification(float(np.abs(difference).max()))
    reach = HALF_RANGE / factor
    values = np.linspace(-reach, reach, 101)[:, None, None, None]
    channels = difference.shape[1]
    colors = difference_cells(values.repeat(channels, axis=1), factor)[:, 0, 0]
    column = Column(difference_cells(difference, factor), "difference", _times(factor), space)
    return column, Scale(colors, f"up to ±{brief(reach)} gray levels")


def _heading(page: Page, column: Column, middle: float, top: int) -> None:
    place: dict[str, Any] = {"ha": "center", "va": "baseline"}
    page.text(column.title, middle, top, size=look.TEXT_SIZE, color=INK, **place)
    for number, line in enumerate(column.note.splitlines(), start=1):
        page.text(line, middle, top + number * LINE, **place, **NOTE)


def _scale(page: Page, scale: Scale, left: int, top: int, width: int) -> None:
    places = np.arange(width) * len(scale.colors) // width
    page.image(np.broadcast_to(scale.colors[places], (9, width, 3)), left, top)
    page.text("−", left, top + 26, ha="left", va="baseline", **NOTE)
    page.text("+", left + width, top + 26, ha="right", va="baseline", **NOTE)
    page.text(scale.range, left + width, top + 48, ha="right", va="baseline", **NOTE)


def _times(factor: int) -> str:
    if factor < 1000:
        return f"× {factor}"
    first, power = str(factor)[0], power_of_ten(len(str(factor)) - 1)
    return f"× {power}" if first == "1" else f"× {first}·{power}"
