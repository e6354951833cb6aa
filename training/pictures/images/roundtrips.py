"""Pictures of roundtrip errors: how they are spread over the images, and the worst of these."""

import math
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from training.files.roundtrip import SavedRoundtrips
from training.pictures import look
from training.pictures.images.grids import ROUNDED_AWAY, Column, draw_rows, magnified, pixel_cells
from training.pictures.look import BLUE, MUTED, Picture, brief, figures, joined

LEAST_BINS, MOST_BINS = 8, 40
LEAST_RANGE = 4  # highest over lowest error on the axis
MOST_WORST, ROWS_OF_BLOCK = 16, 4


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
