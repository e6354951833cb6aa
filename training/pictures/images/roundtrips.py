"""Pictures of roundtrip errors: how they are spread over the images, and the worst of these."""

import math
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.files.arrays import CheckedArrays
from training.files.names import title_of
from training.pictures.images.grids import Column, draw_rows, magnified
from training.pictures.images.pixels import ROUNDED_AWAY, pixel_cells
from training.pictures.style import look
from training.pictures.style.colors import BLUE, MUTED
from training.pictures.style.picture import Picture, figures
from training.pictures.style.words import brief, joined

ERRORS = {
    "indices": "K",
    "mse": "K",
    "mse_float": "K",
    "max_abs_error": "K",
    "all_mse": "N",
    "all_mse_float": "N",
    "all_max_abs_error": "N",
    "all_exact": "N",
}
LEAST_BINS, MOST_BINS = 8, 40
LEAST_RANGE = 4  # highest over lowest error on the axis
MOST_WORST, ROWS_OF_BLOCK = 16, 4
STEM = re.compile(r"(?P<stem>.+?)(_roundtrip_mse)?(_seed\d+)?_worst")


@dataclass(frozen=True)
class SavedRoundtrips:
    """Errors of N images that were melted and came back, and K of these images, maybe none.

    Attributes:
        path: Their file.
        originals: Pixels ``[K, C, H, W]`` uint8.
        returned: Gray levels before rounding ``[K, C, H, W]``.
        indices: Of the K images in their data set.
        mse: In squared gray levels, of 8-bit images, ``[K]``.
        mse_float: The same before rounding ``[K]``.
        max_abs_error: In gray levels, before rounding, ``[K]``.
        all_mse, all_mse_float, all_max_abs_error: The same of all, ``[N]``.
        all_exact: The share of each image's pixels that came back exactly ``[N]``.
    """

    path: Path
    originals: np.ndarray
    returned: np.ndarray
    indices: np.ndarray
    mse: np.ndarray
    mse_float: np.ndarray
    max_abs_error: np.ndarray
    all_mse: np.ndarray
    all_mse_float: np.ndarray
    all_max_abs_error: np.ndarray
    all_exact: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "SavedRoundtrips":
        """Reads and checks such a file.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            originals, arrays = saved.numbers("originals"), CheckedArrays(saved, path)
            if originals.dtype != np.uint8:
                raise DataError(f"{path}: 'originals' holds {originals.dtype}, not uint8")
            for name in ("originals", "returned"):
                pixels = arrays.read(name, "KCHW", least=0)
            if pixels.shape[1] not in (1, 3) or min(pixels.shape[2:]) < 1:
                raise DataError(
                    f"{path}: 'originals' is {list(pixels.shape)}, but should be [images, 1 or 3, "
                    "height, width]"
                )
            errors = {
                name: arrays.read(name, axes, least=0, largest=math.inf)
                for name, axes in ERRORS.items()
            }
        for name, values in errors.items():
            if (values < 0).any():
                raise DataError(f"{path}: '{name}' has negative values, which no error is")
        kept, count = len(originals), len(errors["all_mse"])
        if count < max(kept, 1):
            raise DataError(f"{path} has errors of {count} images in 'all_mse', but {kept} images")
        return cls(path, originals, pixels, **errors)

    @property
    def name(self) -> str:
        """The data's name, and how it was melted, by the name of the file."""
        match = STEM.fullmatch(self.path.stem)
        return joined(*title_of(match["stem"] if match else self.path.stem), by=": ")


def pictures_of_roundtrips(path: Path, folder: Path | None) -> list[Picture]:
    """The pictures of a file of worst roundtrips. Raises DataError if it is broken."""
    saved = SavedRoundtrips.load(path)
    draw = {"errors": partial(draw_errors, saved)}
    if len(saved.originals):
        draw["worst"] = partial(draw_worst, saved)
    return figures((folder or path.parent) / path.stem.removesuffix("_worst"), draw)


def draw_worst(saved: SavedRoundtrips) -> Figure:
    """Originals, returns and their differences side by side."""
    shown = slice(MOST_WORST)
    difference, scale = magnified((saved.returned - saved.originals)[shown])
    returned = np.rint(saved.returned[shown]).clip(0, 255).astype(np.uint8)
    columns = [
        Column(pixel_cells(saved.originals[shown]), "original"),
        Column(pixel_cells(returned), "return", "8 bits"),
        difference,
    ]
    notes = [
        f"image {index}\nlargest error {brief(largest)}\n"
        f"MSE {brief(mse)}, unrounded {brief(mse_float)}"
        for index, largest, mse, mse_float in zip(
            saved.indices[shown].astype(int),
            saved.max_abs_error,
            saved.mse,
            saved.mse_float,
            strict=False,
        )
    ]
    return draw_rows(
        columns,
        title=f"Worst roundtrips of {saved.name}",
        subtitle=f"{len(notes)} of {len(saved.all_mse)} images · differences before rounding",
        caption="",
        notes=notes,
        blocks=1 if len(notes) <= ROWS_OF_BLOCK else 2,
        scale=scale,
    )


def draw_errors(saved: SavedRoundtrips) -> Figure:
    """Histograms of the errors of all images, in gray levels on a logarithmic axis."""
    words = (
        f"{len(saved.all_mse)} images",
        f"MSE {brief(saved.all_mse.mean())} after rounding, "
        f"{brief(saved.all_mse_float.mean())} before",
        f"{saved.all_exact.mean():.4%} of the pixels exact after rounding",
    )
    title = f"Roundtrip errors of {saved.name}"
    figure, places = look.panel_page(1, 2, (4.2, 2.2), title, joined(*words), left=0.65, gap=0.7)
    shown = {
        "root-mean-square error of an image": np.sqrt(saved.all_mse_float),
        "largest error of a pixel": saved.all_max_abs_error,
    }
    for place, (name, errors) in zip(places[0], shown.items(), strict=True):
        axes = look.axes_at(figure, place)
        middle, high = brief(float(np.median(errors))), brief(float(errors.max()))
        look.name_panel(axes, name, f"median {middle}, highest {high}")
        _bars(axes, errors)
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    _mark_rounding(axes)
    look.label(figure.axes[0], y="images")
    return figure


def error_bins(errors: np.ndarray) -> np.ndarray:
    """Edges of bins, evenly spaced in the logarithm, that hold all positive errors ``[N]``."""
    positive = errors[errors > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1e-3)
    # Errors that are nearly equal have a wider axis than theirs, on which there are ticks.
    widen = max(math.sqrt(LEAST_RANGE * low / high), 1.02)
    low, high = low / widen, high * widen
    bins = int(np.clip(3 * len(positive) ** (1 / 3), LEAST_BINS, MOST_BINS))
    return np.geomspace(low, high, bins + 1)


def _bars(axes: Axes, errors: np.ndarray) -> None:
    edges = error_bins(errors)
    counts = np.histogram(errors, edges)[0]
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, alpha=0.55, lw=0)
    axes.set_xscale("log")
    look.label(axes, "gray levels of 255, before rounding")
    none = int((errors == 0).sum())
    if none:
        text = f"{none} more without\nany error"
        look.note_inside(axes, text, "left")
    spread = edges[-1] / edges[0]
    steps = (1, 2, 5) if spread < 10 else (1, 3) if spread < 1000 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(lambda value, position: brief(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _mark_rounding(axes: Axes) -> None:
    """Marks the error below which rounding to 8 bits restores an image, if it is in sight."""
    low, high = axes.get_xlim()
    if not low < ROUNDED_AWAY < high:
        return
    axes.axvline(ROUNDED_AWAY, color=MUTED, lw=1, ls=look.DASHED)
    near = math.log(ROUNDED_AWAY / low) > 0.5 * math.log(high / low)
    look.write(
        axes,
        "below ½: exact\nafter rounding",
        (ROUNDED_AWAY, 1),
        (-5 if near else 5, -2),
        ("data", "axes fraction"),
        ha="right" if near else "left",
        va="top",
    )
