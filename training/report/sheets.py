"""Sheets: many small images in one picture, from which the page cuts single images."""

import base64
import io
import math

import numpy as np
from PIL import Image

from training.pictures.images.grids import tiled
from training.report.content import Sheet, sheet_columns

BUDGET = 5_000_000
"""Bytes of pixels that one set of images may take on the page."""


def affordable(count: int, shape: tuple[int, ...], columns: int) -> int:
    """Return the number of images of shape ``(C, H, W)`` that a report can show, at most ``count``.

    Args:
        count: Number of available images.
        shape: Shape of an image.
        columns: Number of versions of each image that are shown.
    """
    return max(1, min(count, BUDGET // (math.prod(shape) * columns)))


def sheet(cells: np.ndarray, title: str, note: str = "") -> Sheet:
    """Arrange 8-bit images ``[N, H, W, 3]`` in one picture, in gray if all images are gray."""
    page = tiled(cells, sheet_columns(len(cells)), 0)
    gray = bool((page == page[..., :1]).all())
    file = io.BytesIO()
    Image.fromarray(page[..., 0] if gray else page).save(file, "PNG", optimize=True)
    return Sheet(title, note, "data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
