"""Correlation matrices between the first time and later ones, as heat maps at a few telling times.

Of a toy's file the other times are skipped, and of the files of images, one a time, the others are
not opened. Where a matrix is larger than its picture, each block is read as the entry of largest
magnitude in it: a mean would drown a diagonal.
"""

import math
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dnnlib.errors import DataError
from torch_utils.array_rows import open_rows
from torch_utils.results import open_arrays
from training.files.arrays import CheckedArrays
from training.files.residuals import QUANTITIES
from training.measure.correlation_times import LOWER, UPPER, CorrelationTime
from training.pictures.correlations.lags import (
    NAMES,
    SavedLags,
    name_and_details,
    require_correlations,
    summary_of,
)
from training.pictures.style import look
from training.pictures.style.colors import DIVERGING, INK
from training.pictures.style.picture import Picture, figures
from training.pictures.style.words import joined

SUFFIX = "_acs"
FILE = re.compile(r"(?P<stem>.+)_times0_(?P<index>\d{1,9})")
NOTES = {
    None: "≈ the correlation time",
    LOWER: "≈ the correlation time",
    UPPER: "after the correlation time",
}
MOST_CELLS = 256  # along a side
SIDE, SMALL_SIDE = 2.1, 1.5  # inches
LEFT, RIGHT, GAP, BAR_GAP, BAR = 1.05, 1.04, 0.2, 0.25, 0.14
TITLE_HEIGHT, BOTTOM = 0.45, 0.5
FEW = 3  # dimensions up to which numbers are written into the cells
LEAST_WIDTH = 8.0  # that the headline has room
DARK = 0.45  # magnitude from which numbers are written in white


@dataclass(frozen=True)
class SavedMatrices:
    """Correlations between the first time and L later ones in D dimensions.

    Attributes:
        times: ``[L]``.
        notes: On the choice of each time; may be empty.
        dim: D.
        matrices: By quantity, rows for the first time ``[L, d, d]``, where d is D over ``block``,
            rounded up.
        block: How many rows and columns were made one.
    """

    times: np.ndarray
    notes: list[str]
    dim: int
    matrices: dict[str, np.ndarray]
    block: int

    @classmethod
    def of_toy(cls, path: Path) -> "SavedMatrices":
        """Reads some of the matrices in a file of all times.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            times = CheckedArrays(saved, path).read("times", "T")
            names = _required(path, saved.names)
        if (np.diff(times) <= 0).any():
            raise DataError(f"{path}: 'times' should increase")
        summary = _summary(path.with_name(path.stem))
        if summary is not None and not np.array_equal(summary.times, times):
            raise DataError(f"{path} was not made together with its summary: make it again")
        chosen = telling_lags(times - times[0], _lasting(summary))
        found = (
            (path, name, matrix)
            for name in names
            for matrix in _matrices_of_toy(path, name, len(times), chosen.keys())
        )
        return cls._condensed(times[list(chosen)], list(chosen.values()), found)

    @classmethod
    def of_images(cls, paths: Iterable[Path]) -> "SavedMatrices":
        """Reads some of the files of one time each, which share a folder and a stem.

        Raises:
            DataError: As for toys, or files that do not belong together.
        """
        paths = sorted(paths, key=index_of)
        lags = np.array([index_of(path) for path in paths], dtype=np.float64)
        summary = _summary(paths[0].with_name(stem_of_times(paths[0])))
        if summary is not None and not np.array_equal(lags, np.arange(len(summary.times))):
            summary = None  # it tells of other times as well
        chosen = telling_lags(lags if summary is None else summary.lags, _lasting(summary))
        shown = [paths[index] for index in chosen]
        times = np.array([_time_of(path) for path in shown])
        if (np.diff(times) <= 0).any():
            raise DataError(f"{shown[0]} and those after it have times that do not increase")
        if summary is not None and not np.array_equal(times, summary.times[list(chosen)]):
            raise DataError(f"{shown[0]} and those after it have other times than their summary")
        return cls._condensed(times, list(chosen.values()), _matrices_of_images(shown))

    @classmethod
    def _condensed(
        cls, times: np.ndarray, notes: list[str], found: Iterable[tuple[Path, str, np.ndarray]]
    ) -> "SavedMatrices":
        """Of matrices with their files and quantities, those of a quantity in order of time."""
        dim, cells = 0, dict[str, list[np.ndarray]]()
        for path, name, matrix in found:
            dim = dim or len(matrix)
            if matrix.shape != (dim, dim) or not dim:
                raise DataError(
                    f"{path}: '{name}{SUFFIX}' is {list(matrix.shape)} at a time, but should be "
                    f"[{dim or 'D'}, {dim or 'D'}]"
                )
            require_correlations(path, f"{name}{SUFFIX}", matrix)
            block = math.ceil(dim / MOST_CELLS)
            cells.setdefault(name, []).append(condensed(matrix, block))
        if any(len(made) != len(times) for made in cells.values()):
            raise DataError(f"{path} and the files before it are not of the same quantities")
        together = {name: np.stack(made) for name, made in cells.items()}
        return cls(times, notes, dim, together, block)


def holds_toy_matrices(names: list[str]) -> bool:
    """Whether an ``.npz`` with arrays of these names holds correlations of all times."""
    return bool(_quantities(names)) and not holds_image_matrices(names)


def holds_image_matrices(names: list[str]) -> bool:
    """Whether an ``.npz`` with arrays of these names holds correlations of one time."""
    return "time" in names and bool(_quantities(names))


def holds_residuals(names: list[str]) -> bool:
    """Whether an ``.npz`` with arrays of these names holds what matrices are made of."""
    return any(name in names for name in QUANTITIES)


def stem_of_times(path: Path) -> str:
    """What the files of one time each have in common in their names."""
    match = FILE.fullmatch(path.stem)
    return match["stem"] if match else path.stem


def index_of(path: Path) -> int:
    """The number of the time in the name of such a file; 0 where there is none."""
    match = FILE.fullmatch(path.stem)
    return int(match["index"]) if match else 0


def pictures_of_toy_matrices(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a toy's correlation matrices. Raises DataError if its file is broken."""
    return _figures(SavedMatrices.of_toy(path), path.with_name(path.stem), folder)


def pictures_of_image_matrices(paths: Iterable[Path], folder: Path | None) -> list[Picture]:
    """The pictures of correlation matrices of images, in files of one time each.

    Files that have a folder and a stem in common are drawn together.

    Raises:
        DataError: A file that is to be drawn is broken, or does not belong to the others.
    """
    together: dict[Path, list[Path]] = {}
    for path in paths:
        together.setdefault(path.with_name(stem_of_times(path)), []).append(path)
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
    dim, rows, columns = saved.dim, len(saved.matrices), len(saved.times)
    side = SMALL_SIDE if dim <= FEW else SIDE
    each = f"each cell: the largest of {saved.block} × {saved.block}" if saved.block > 1 else ""
    figure, places = look.panel_page(
        rows,
        columns,
        (side, side),
        f"Correlations with the first time: {name}",
        joined(details, f"{dim} eigen-dimensions", each),
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
    colors = LinearSegmentedColormap.from_list("correlation", DIVERGING)
    ends = (0.5, dim + 0.5)
    for row, (quantity, matrices) in enumerate(saved.matrices.items()):
        for column, matrix in enumerate(matrices):
            axes = look.axes_at(figure, places[row, column])
            extent = (*ends, *ends[::-1])
            image = axes.imshow(matrix, colors, Normalize(-1, 1), extent=extent)
            axes.spines[:].set_visible(False)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            left, low = column == 0, row == rows - 1
            axes.tick_params(left=left, labelleft=left, bottom=low, labelbottom=low)
            if dim <= FEW:
                _numbers(axes, matrix)
            if row == 0:
                look.name_panel(axes, f"t = {saved.times[column]:.2f}", saved.notes[column])
            if left:
                look.label(
                    axes,
                    "dimension, time t" if low else "",
                    "dimension, first time",
                    look.SMALL_SIZE,
                )
                style = {"rotation": 90, "ha": "center", "va": "center"}
                look.write(
                    axes,
                    NAMES[quantity],
                    (0, 0.5),
                    (-56, 0),
                    size=look.TEXT_SIZE,
                    color=INK,
                    **style,
                )
    right = places[0, -1, 0] + side + BAR_GAP
    low, high = places[-1, 0, 1], places[0, 0, 1] + side
    bar_axes = look.axes_at(figure, (right, low, BAR, high - low))
    bar = figure.colorbar(image, cax=bar_axes, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.outline.set_visible(False)
    look.label(bar_axes, y="correlation", size=look.SMALL_SIZE)
    return figure


def telling_lags(lags: np.ndarray, lasting: CorrelationTime | None) -> dict[int, str]:
    """Up to four lags to show, with notes on their choice.

    They are the first, that nearest to the correlation time but not the first, one halfway, and the
    last; where the correlation time is unknown, four that are evenly spaced.

    Args:
        lags: Increasing ``[T]``.
        lasting: The correlation time.

    Returns:
        Notes by index, in the order of the indices.
    """
    first, last = float(lags[0]), float(lags[-1])
    if lasting is None:
        places = [(share, "") for share in (0.0, 1 / 3, 2 / 3, 1.0)]
        wanted = [(first + share * (last - first), note) for share, note in places]
    else:
        after = lags[min(1, len(lags) - 1)]
        wanted = [
            (first, "first time"),
            (last, "last time"),
            (max(first + lasting.integral, float(after)), NOTES[lasting.bound]),
            ((first + last) / 2, "halfway"),
        ]
    chosen: dict[int, str] = {}
    for lag, note in wanted:
        chosen.setdefault(int(np.abs(lags - lag).argmin()), note)
    return dict(sorted(chosen.items()))


def condensed(matrix: np.ndarray, block: int) -> np.ndarray:
    """The entry of largest magnitude in each block of so many rows and columns of ``[D, D]``."""
    cells = math.ceil(len(matrix) / block)
    room = cells * block - len(matrix)
    blocks = np.pad(matrix, (0, room)).reshape(cells, block, cells, block)
    high, low = blocks.max(axis=(1, 3)), blocks.min(axis=(1, 3))
    return np.where(high >= -low, high, low)


def _quantities(names: Sequence[str]) -> list[str]:
    return [name for name in QUANTITIES if f"{name}{SUFFIX}" in names]


def _required(path: Path, names: Sequence[str]) -> list[str]:
    found = _quantities(names)
    if not found:
        raise DataError(f"{path} has no correlations: it has {', '.join(names) or 'nothing'}")
    return found


def _lasting(summary: SavedLags | None) -> CorrelationTime | None:
    return None if summary is None else summary.lasting


def _summary(stem: Path) -> SavedLags | None:
    path = summary_of(stem)
    return SavedLags.load(path) if path.exists() else None


def _time_of(path: Path) -> float:
    with open_arrays(path) as saved:
        return float(CheckedArrays(saved, path).read("time", ""))


def _matrices_of_toy(
    path: Path, name: str, count: int, chosen: Container[int]
) -> Iterator[np.ndarray]:
    with open_rows(path, f"{name}{SUFFIX}") as rows:
        if len(rows.shape) != 3 or rows.shape[0] != count:
            raise DataError(
                f"{path}: '{name}{SUFFIX}' is {list(rows.shape)}, but should be [{count}, D, D]"
            )
        for index, slab in enumerate(rows.batches(1)):
            if index in chosen:
                yield slab[0]


def _matrices_of_images(paths: Iterable[Path]) -> Iterator[tuple[Path, str, np.ndarray]]:
    for path in paths:
        with open_arrays(path) as saved:
            arrays = CheckedArrays(saved, path)
            for name in _required(path, saved.names):
                yield path, name, arrays.read(f"{name}{SUFFIX}", "DD")


def _numbers(axes: Axes, matrix: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > DARK else INK
        rounded = round(float(value), 2) + 0.0  # no minus zero
        text = f"{rounded:.2f}".replace("-", "−")
        axes.text(
            column + 1, row + 1, text, size=look.TEXT_SIZE, color=color, ha="center", va="center"
        )
