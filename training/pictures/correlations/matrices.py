"""Correlation matrices between the first time and later ones, as heat maps."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.files.correlations import SavedMatrices, stem_and_index
from training.pictures.correlations.lags import NAMES, name_and_details
from training.pictures.style import look
from training.pictures.style.colors import DIVERGING, INK
from training.pictures.style.picture import Picture, figures
from training.pictures.style.words import joined

SIDE, SMALL_SIDE = 2.1, 1.5  # inches
LEFT, RIGHT, GAP, BAR_GAP, BAR = 1.05, 1.04, 0.2, 0.25, 0.14
TITLE_HEIGHT, BOTTOM = 0.45, 0.5
FEW = 3  # dimensions up to which numbers are written into the cells
LEAST_WIDTH = 8.0  # that the headline has room
DARK = 0.45  # magnitude from which numbers are written in white
COLORS = LinearSegmentedColormap.from_list("correlation", DIVERGING)


def pictures_of_toy_matrices(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a toy's correlation matrices. Raises DataError if its file is broken."""
    return _figures(SavedMatrices.of_toy(path), path.with_suffix(""), folder)


def pictures_of_image_matrices(
    paths: Iterable[Path], folder: Path | None, animation: str | None
) -> list[Picture]:
    """The pictures of correlation matrices of images, in files of one time each.

    Files that have a folder and a stem in common are drawn together; there are no animations.

    Raises:
        DataError: A file that is to be drawn is broken, or does not belong to the others.
    """
    together: dict[Path, list[Path]] = {}
    for path in paths:
        together.setdefault(stem_and_index(path)[0], []).append(path)
    pictures = []
    for stem, files in together.items():
        pictures += _figures(SavedMatrices.of_images(files), stem, folder)
    return pictures


def _figures(saved: SavedMatrices, stem: Path, folder: Path | None) -> list[Picture]:
    draw = partial(draw_matrices, saved, *name_and_details(stem))
    return figures((folder or stem.parent) / stem.name, {"matrices": draw})


def draw_matrices(saved: SavedMatrices, name: str, details: str) -> Figure:
    """A row of heat maps for each quantity, a column for each time, all in the same colors.

    Args:
        saved: What to draw.
        name: The data's.
        details: How the files were made.
    """
    side = SMALL_SIDE if saved.dim <= FEW else SIDE
    each = f"each cell: the largest of {saved.block} × {saved.block}" if saved.block > 1 else ""
    figure, places = look.panel_page(
        len(saved.matrices),
        len(saved.times),
        (side, side),
        f"Correlations with the first time: {name}",
        joined(details, f"{saved.dim} eigen-dimensions", each),
        left=LEFT,
        right=RIGHT,
        gap=GAP,
        top=look.TOP + TITLE_HEIGHT + BOTTOM - GAP,
        above=0,
        below=GAP,
        least_width=LEAST_WIDTH,
    )
    # Ticks and a label are below the last row alone, so there is more room below it.
    places[..., 1] += BOTTOM - GAP
    for line, (quantity, matrices) in zip(places, saved.matrices.items(), strict=True):
        panels = [look.axes_at(figure, place) for place in line]
        for axes, matrix in zip(panels, matrices, strict=True):
            image = _heat_map(axes, matrix, saved.dim)
            axes.tick_params(left=axes is panels[0], labelleft=axes is panels[0])
        look.label(panels[0], y="dimension, first time", size=look.SMALL_SIZE)
        style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center"}
        style |= {"size": look.TEXT_SIZE, "color": INK}
        look.write(panels[0], NAMES[quantity], (0, 0.5), (-56, 0), **style)
    for axes, time, note in zip(figure.axes, saved.times, saved.notes, strict=False):
        look.name_panel(axes, f"t = {time:.2f}", note)
    for axes in panels:
        axes.tick_params(bottom=True, labelbottom=True)
    look.label(panels[0], x="dimension, time t", size=look.SMALL_SIZE)
    bottom = places[-1, 0, 1]
    place = (places[0, -1, 0] + side + BAR_GAP, bottom, BAR, places[0, 0, 1] + side - bottom)
    bar = figure.colorbar(image, cax=look.axes_at(figure, place), ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    look.label(bar.ax, y="correlation", size=look.SMALL_SIZE)
    return figure


def _heat_map(axes: Any, matrix: np.ndarray, dim: int) -> Any:
    """A matrix whose cells stand for so many dimensions a side, and the numbers of a small one."""
    ends = (0.5, dim + 0.5)
    image = axes.imshow(matrix, COLORS, Normalize(-1, 1), extent=(*ends, *ends[::-1]))
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    if dim <= FEW:
        _numbers(axes, matrix)
    return image


def _numbers(axes: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > DARK else INK
        rounded = round(float(value), 2) + 0.0  # no minus zero
        text = f"{rounded:.2f}".replace("-", "−")
        axes.text(
            column + 1, row + 1, text, size=look.TEXT_SIZE, color=color, ha="center", va="center"
        )
