"""Correlations of residuals between times: against the lag, and as matrices."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.files.arrays import parameter, title_of
from training.files.correlations import (
    LagCurve,
    SavedLags,
    SavedMatrices,
    stem_and_index,
    summary_of,
)
from training.paper.residuals import scatter_of
from training.pictures import theme
from training.pictures.theme import BLUE, DIVERGING, FAINT, INK, MUTED, ORANGE

HEIGHT = 3.2  # inches
FEW = 3  # dimensions up to which each is drawn
MANY = 200  # number of lags from which lines are thin
QUANTILES = (0.1, 0.9)
COLORS = {"net_outputs": BLUE, "net_residuals": ORANGE, "exact_residuals": INK}
NAMES = {
    "net_outputs": "network output D",
    "net_residuals": "residual D − e",
    "exact_residuals": "error D − exact D",
}
NOISES = {"independent": "fresh noise at each time", "path": "along paths of the flow"}


def name_and_details(stem: Path) -> tuple[str, str]:
    """Return the name of the data, and how correlations of residuals were computed, in words.

    Args:
        stem: Common stem of the files of correlations.

    Raises:
        DataError: The file of parameters cannot be read.
    """
    name, details = title_of(stem.name.removesuffix("_autocorrelations").removesuffix("_toy"))
    noise = parameter(summary_of(stem).with_suffix(".json"), "noise")
    return name, theme.joined(details, theme.words_for(noise, NOISES))


def pictures_of_lags(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the picture of a summary of autocorrelations.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedLags.load(path)
    stem = path.with_name(path.stem.removesuffix("_summary"))
    draw = partial(draw_lags, saved, *name_and_details(stem))
    return theme.figures((folder or path.parent) / stem.name, {"lags": draw})


def draw_lags(saved: SavedLags, name: str, details: str) -> Figure:
    """Draw autocorrelations by lag: the mean over dimensions of each quantity, and the spread."""
    figure, (axes,) = theme.stacked(
        f"Autocorrelations of {name}",
        theme.joined(details, spread_words(saved.dim)),
        [HEIGHT],
        "lag in t from the first time",
        legend_lines=len(saved.curves),
    )
    axes.axhline(0, color=MUTED, lw=0.8)
    chance = scatter_of(saved.count)
    axes.axhspan(-chance, chance, color=FAINT, alpha=0.6, lw=0)
    theme.note_above(axes, f"gray: ±2/√N, expected by chance, N = {saved.count:,}")
    lowest = [
        _draw(axes, saved.lags, curve, NAMES[name], COLORS[name])
        for name, curve in saved.curves.items()
    ]
    last = float(saved.lags[-1])
    axes.set(xlim=(-0.008 * last, 1.008 * last), ylim=(min(0, *lowest) - 0.08, 1.04))
    theme.label(axes, y="correlation with the first time")
    theme.legend(axes)
    return figure


def spread_words(dim: int) -> str:
    """Describe in words how a picture shows the spread of values over ``dim`` dimensions."""
    if dim == 1:
        return ""
    if dim <= FEW:
        return f"thick: mean over {dim} dimensions, thin: each dimension"
    low, high = QUANTILES
    return f"line: mean over {dim} dimensions, band: {low:.0%} to {high:.0%} of them"


def quantile_band(diagonal: np.ndarray) -> np.ndarray:
    """Return two quantiles ``[2, T]`` over dimensions of autocorrelations ``[T, D]``.

    Constant dimensions (NaN) are left out. The quantiles are 0 if all dimensions are constant.
    """
    varies = np.isfinite(diagonal).any(axis=1, keepdims=True)
    return np.asarray(np.nanquantile(np.where(varies, diagonal, 0), QUANTILES, axis=1))


def _draw(axes: Axes, lags: np.ndarray, curve: LagCurve, name: str, color: str) -> float:
    """Draw a quantity and return the lowest value drawn."""
    spread = curve.diagonal if curve.diagonal.shape[1] <= FEW else quantile_band(curve.diagonal).T
    if spread is curve.diagonal:
        axes.plot(lags, spread, color=color, lw=0.7, alpha=0.5)
    else:
        axes.fill_between(lags, *spread.T, color=color, alpha=0.15, lw=0)
    style: dict[str, Any] = {"color": color, "marker": "^", "markersize": 7, "markeredgewidth": 0}
    axes.plot(curve.lasting.integral, 0, ls="none", clip_on=False, zorder=4, **style)
    style |= {"lw": 1.8 if len(lags) < MANY else 1.2, "markevery": []}  # in the legend alone
    axes.plot(lags, curve.mean, label=f"{name}, correlation time {curve.lasting}", **style)
    return float(np.nanmin(spread, initial=curve.mean.min()))


SIDE, SMALL_SIDE = 2.1, 1.5  # inches
LEFT, RIGHT, GAP, BAR_GAP, BAR = 1.05, 1.04, 0.2, 0.25, 0.14
TITLE_HEIGHT, BOTTOM = 0.45, 0.5
FEW_CELLS = 3  # dimensions up to which numbers are written into the cells
LEAST_WIDTH = 8.0  # wide enough for the headline
DARK = 0.45  # magnitude from which numbers are written in white
MATRIX_COLORS = LinearSegmentedColormap.from_list("correlation", DIVERGING)


def pictures_of_toy_matrices(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the picture of correlation matrices of toy data.

    Raises:
        DataError: The file is broken.
    """
    return _figures(SavedMatrices.of_toy(path), path.with_suffix(""), folder)


def pictures_of_image_matrices(
    paths: Iterable[Path], folder: Path | None, animation: str | None
) -> list[theme.Picture]:
    """Return the pictures of correlation matrices of images, from files with one time each.

    Files that share a folder and a stem are drawn together. There are no animations.

    Raises:
        DataError: A file is broken, or files of one stem are from different runs.
    """
    together: dict[Path, list[Path]] = {}
    for path in paths:
        together.setdefault(stem_and_index(path)[0], []).append(path)
    pictures = []
    for stem, files in together.items():
        pictures += _figures(SavedMatrices.of_images(files), stem, folder)
    return pictures


def _figures(saved: SavedMatrices, stem: Path, folder: Path | None) -> list[theme.Picture]:
    draw = partial(draw_matrices, saved, *name_and_details(stem))
    return theme.figures((folder or stem.parent) / stem.name, {"matrices": draw})


def draw_matrices(saved: SavedMatrices, name: str, details: str) -> Figure:
    """Draw correlation matrices as heat maps, with a row per quantity and a column per time."""
    side = SMALL_SIDE if saved.dim <= FEW_CELLS else SIDE
    each = (
        f"each cell: the largest value of {saved.block} × {saved.block} cells"
        if saved.block > 1
        else ""
    )
    figure, places = theme.panel_page(
        len(saved.matrices),
        len(saved.times),
        (side, side),
        f"Correlations with the first time: {name}",
        theme.joined(details, f"{saved.dim} eigen-dimensions", each),
        left=LEFT,
        right=RIGHT,
        gap=GAP,
        top=theme.TOP + TITLE_HEIGHT + BOTTOM - GAP,
        above=0,
        below=GAP,
        least_width=LEAST_WIDTH,
    )
    # Only the last row has ticks and a label below it, so there is more room below that row.
    places[..., 1] += BOTTOM - GAP
    for line, (quantity, matrices) in zip(places, saved.matrices.items(), strict=True):
        panels = [theme.axes_at(figure, place) for place in line]
        for axes, matrix in zip(panels, matrices, strict=True):
            image = _heat_map(axes, matrix, saved.dim)
            axes.tick_params(left=axes is panels[0], labelleft=axes is panels[0])
        theme.label(panels[0], y="dimension, first time", size=theme.SMALL_SIZE)
        style: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center"}
        style |= {"size": theme.TEXT_SIZE, "color": INK}
        theme.write(panels[0], NAMES[quantity], (0, 0.5), (-56, 0), **style)
    for axes, time, note in zip(figure.axes, saved.times, saved.notes, strict=False):
        theme.name_panel(axes, f"t = {time:.2f}", note)
    for axes in panels:
        axes.tick_params(bottom=True, labelbottom=True)
    theme.label(panels[0], x="dimension, time t", size=theme.SMALL_SIZE)
    bottom = places[-1, 0, 1]
    place = (places[0, -1, 0] + side + BAR_GAP, bottom, BAR, places[0, 0, 1] + side - bottom)
    bar = theme.color_bar(figure, image, place, ticks=[-1, -0.5, 0, 0.5, 1])
    theme.label(bar, y="correlation", size=theme.SMALL_SIZE)
    return figure


def _heat_map(axes: Any, matrix: np.ndarray, dim: int) -> Any:
    """Draw a matrix as a heat map, with the values written in if the matrix is small.

    Args:
        axes: Axes to draw on.
        matrix: Correlations; each cell may cover a block of dimensions.
        dim: Number of dimensions that a side of the matrix covers.
    """
    ends = (0.5, dim + 0.5)
    image = axes.imshow(matrix, MATRIX_COLORS, Normalize(-1, 1), extent=(*ends, *ends[::-1]))
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    style: dict[str, Any] = {"size": theme.TEXT_SIZE, "ha": "center", "va": "center"}
    for (row, column), value in np.ndenumerate(matrix) if dim <= FEW_CELLS else ():
        rounded = round(float(value), 2) + 0.0  # no minus zero
        text = f"{rounded:.2f}".replace("-", "−")
        axes.text(column + 1, row + 1, text, color="white" if abs(value) > DARK else INK, **style)
    return image
