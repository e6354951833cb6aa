"""A figure laid out in its own pixels, from its top left corner, so that images stay crisp."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.pictures.style.look import DPI, headline, new_figure


class Page:
    """An empty page.

    Args:
        width: In pixels.
        height: In pixels.
    """

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.figure: Figure = new_figure(width / DPI, height / DPI)

    def headline(self, title: str, subtitle: str, left: int, top: int) -> None:
        headline(self.figure, title, subtitle, left / DPI, (self.height - top) / DPI)

    def image(self, pixels: np.ndarray, left: int, top: int) -> None:
        """Lays an image ``[h, w, 3]`` of 8 bits on the page, pixel by pixel."""
        self.figure.figimage(pixels, left, self.height - top - pixels.shape[0], origin="upper")

    def text(self, text: str, x: float, y: float, **style: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)
