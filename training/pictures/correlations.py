"""Correlations of a network's residuals between times: against the lag, and as matrices."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.files.arrays import evenly, parameter, title_of
from training.files.correlations import (
    LagCurve,
    SavedLags,
    SavedMatrices,
    stem_and_index,
    summary_of,
)
from training.paper.residuals import scatter_of
from training.pictures.content import Choice, Content
from training.pictures.figure import (
    Band,
    Figure,
    Image,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
    Span,
    Words,
)
from training.pictures.theme import (
    BLUE,
    INK,
    ORANGE,
    diverging_colors,
    joined,
    words_for,
)

FEW = (
    3  # largest number of dimensions that are drawn each; also, numbers are written into the cells
)
MANY = 200  # number of lags from which lines are thin
MOST_LAGS = 1000
QUANTILES = (0.1, 0.9)
DARK = 0.45  # magnitude from which numbers are written in white
COLORS = {"net_outputs": BLUE, "net_residuals": ORANGE, "exact_residuals": INK}
NAMES = {
    "net_outputs": "network output D",
    "net_residuals": "residual D − e",
    "exact_residuals": "error D − exact D",
}
NOISES = {"independent": "fresh noise at each time", "path": "along paths of the flow"}
READING = (
    "Errors of a network that decorrelate quickly along a path average out; errors that stay "
    "correlated accumulate."
)
PAGE = "docs/evidence/paper.md"


def name_and_details(stem: Path) -> tuple[str, str]:
    """Return the name of the data, and how correlations of residuals were computed, in words.

    Args:
        stem: Common stem of the files of correlations.

    Raises:
        DataError: The file of parameters cannot be read.
    """
    name, details = title_of(stem.name.removesuffix("_autocorrelations").removesuffix("_toy"))
    noise = parameter(summary_of(stem).with_suffix(".json"), "noise")
    return name, joined(details, words_for(noise, NOISES))


def content_of_lags(path: Path, choice: Choice | None) -> Content:
    """Return the content of a summary of autocorrelations.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedLags.load(path)
    stem = path.with_name(path.stem.removesuffix("_summary"))
    name, details = name_and_details(stem)
    title = joined(name, "correlations of residuals", by=": ")
    return Content(
        title, READING, PAGE, {f"{stem.name}_lags": partial(by_lag, saved, name, details)}
    )


def content_of_toy_matrices(path: Path, choice: Choice | None) -> Content:
    """Return the content of correlation matrices of toy data.

    Raises:
        DataError: The file is broken.
    """
    return _content_of_matrices(SavedMatrices.of_toy(path), path.with_suffix(""))


def content_of_image_matrices(paths: Sequence[Path], choice: Choice | None) -> Content:
    """Return the content of correlation matrices of images: files of one time each, of one stem.

    Raises:
        DataError: A file is broken, or the files are from different runs.
    """
    return _content_of_matrices(SavedMatrices.of_images(paths), stem_and_index(paths[0])[0])


def _content_of_matrices(saved: SavedMatrices, stem: Path) -> Content:
    name, details = name_and_details(stem)
    title = joined(name, "correlation matrices of residuals", by=": ")
    figures = {f"{stem.name}_matrices": partial(matrices, saved, name, details)}
    return Content(title, READING, PAGE, figures)


def by_lag(saved: SavedLags, name: str, details: str) -> Figure:
    """Return autocorrelations by lag: the mean over dimensions of each quantity, and the spread."""
    chance, last = scatter_of(saved.count), float(saved.lags[-1])
    label = f"±2/√N, expected by chance, N = {saved.count:,}"
    shown = evenly(len(saved.lags), MOST_LAGS)
    marks: list[Mark] = [Span(-chance, chance, label=label), Rule(0)]
    lowest = [0.0]
    for quantity, curve in saved.curves.items():
        spread = _spread(curve)
        lowest.append(float(np.nanmin(spread, initial=curve.mean.min())))
        marks += _curve(saved.lags[shown], curve, spread[:, shown], quantity, shown)
    panel = Panel(
        marks,
        x="lag in t from the first time",
        y="correlation with the first time",
        x_limits=(-0.008 * last, 1.008 * last),
        y_limits=(min(lowest) - 0.08, 1.04),
    )
    words = joined(details, spread_words(saved.dim), "triangle: correlation time")
    return Figure(f"Autocorrelations of {name}", words, [panel], size=(7.0, 3.2))


def _spread(curve: LagCurve) -> np.ndarray:
    """Return the lines of few dimensions, or a band of many, ``[K, T]``."""
    few = curve.diagonal.shape[1] <= FEW
    return curve.diagonal.T if few else quantile_band(curve.diagonal)


def _curve(
    lags: np.ndarray, curve: LagCurve, spread: np.ndarray, quantity: str, shown: np.ndarray
) -> Iterable[Mark]:
    color, width = COLORS[quantity], 1.8 if len(lags) < MANY else 1.2
    if curve.diagonal.shape[1] <= FEW:
        yield from (Line(lags, each, color, width=0.7, alpha=0.5) for each in spread)
    else:
        yield Band(lags, spread[0], spread[1], color, alpha=0.15)
    label = f"{NAMES[quantity]}, correlation time {curve.lasting}"
    yield Line(lags, np.asarray(curve.mean)[shown], color, label, width)
    yield Points([curve.lasting.integral], [0.0], color, size=7, marker="^")


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


def heat_map(matrix: np.ndarray, dim: int, written: bool, size: float = 9.5) -> list[Mark]:
    """Return a matrix of correlations as an image, the first row on top.

    Args:
        matrix: Correlations ``[n, n]``; NaN is white.
        dim: Number of dimensions that a side of the matrix covers, numbered from 1.
        written: Whether the values are written into the cells.
        size: Size of these texts in points.
    """
    colors = np.where(np.isnan(matrix)[..., None], 1.0, diverging_colors(np.nan_to_num(matrix)))
    cells = np.rint(255 * colors).astype(np.uint8)
    marks: list[Mark] = [Image(cells, (0.5, dim + 0.5, dim + 0.5, 0.5))]
    known = np.argwhere(~np.isnan(matrix)) if written else np.empty((0, 2), dtype=int)
    if len(known):
        values = matrix[known[:, 0], known[:, 1]].round(2) + 0.0  # no minus zero
        texts = [f"{value:.2f}".replace("-", "−") for value in values]
        dark = np.where(np.abs(values) > DARK, 1.0, 0.14)[:, None].repeat(3, axis=1)
        marks.append(Words(known[:, 1] + 1.0, known[:, 0] + 1.0, texts, dark, size))
    return marks


def matrices(saved: SavedMatrices, name: str, details: str) -> Figure:
    """Return correlation matrices as heat maps, with a row per quantity and a column per time."""
    few = saved.dim <= FEW
    each = f"each cell: the largest value of {saved.block} × {saved.block} cells"
    ends = (0.5, saved.dim + 0.5)
    panels = [
        Panel(
            heat_map(matrix, saved.dim, few),
            NAMES[quantity],
            joined(f"t = {time:.2f}", note, by=", "),
            "dimension, time t",
            "dimension, first time",
            ends,
            ends[::-1],
            x_ticks={1: "1", saved.dim: str(saved.dim)},
            y_ticks={1: "1", saved.dim: str(saved.dim)},
            equal=True,
        )
        for quantity, own in saved.matrices.items()
        for matrix, time, note in zip(own, saved.times, saved.notes, strict=True)
    ]
    return Figure(
        f"Correlations with the first time: {name}",
        joined(details, f"{saved.dim} eigen-dimensions", each * (saved.block > 1)),
        panels,
        columns=len(saved.times),
        size=(1.7, 1.7) if few else (2.1, 2.1),
        shared=True,
        scale=Scale("−1", "1", diverging_colors(np.linspace(-1, 1, 101)), "correlation"),
    )
