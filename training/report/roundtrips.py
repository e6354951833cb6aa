"""Round-trip errors of images: how they are spread, and the worst of them."""

import math
from pathlib import Path

import numpy as np

from training.files.roundtrip import SavedRoundtrips
from training.pictures.images.grids import ROUNDED_AWAY, magnified, pixel_cells
from training.pictures.images.roundtrips import error_bins
from training.pictures.look import BLUE, MUTED, brief
from training.report import charts
from training.report.content import Chart, Charts, Choice, Images, Key, Result, Section
from training.report.sheets import affordable, sheet, sheet_columns

READING = (
    "Images were melted and brought back; errors below half a gray level are gone after rounding."
)


def section_of(path: Path, choice: Choice) -> Section:
    """The section of a file of worst roundtrips. Raises DataError if it is broken."""
    saved = SavedRoundtrips.load(path)
    largest = float(saved.all_max_abs_error.max())
    exact = float(saved.all_exact.mean())
    results = [
        Result(
            saved.name,
            f"round trip of {len(saved.all_mse):,} images",
            f"{exact:.4%} of pixels exact, largest error {brief(largest)} gray levels",
            "largest error below ½",
            largest < ROUNDED_AWAY,
        )
    ]
    drawn = Charts(
        [
            _histogram("Root-mean-square error of an image", np.sqrt(saved.all_mse_float)),
            _histogram("Largest error of a pixel", saved.all_max_abs_error),
        ]
    )
    parts = [drawn, *([_worst(saved)] if len(saved.originals) else [])]
    title = f"Round trips of {saved.name}"
    return Section(title, READING, "docs/images.md", str(path.parent), parts, results)


def _worst(saved: SavedRoundtrips) -> Images:
    count = affordable(len(saved.originals), saved.originals.shape[1:], 3)
    difference, scale = magnified((saved.returned - saved.originals)[:count])
    returned = np.rint(saved.returned[:count]).clip(0, 255).astype(np.uint8)
    return Images(
        f"The worst {count} of {len(saved.all_mse):,} images",
        [
            f"image {index:.0f}, largest error {brief(largest)}"
            for index, largest in zip(saved.indices[:count], saved.max_abs_error, strict=False)
        ],
        [
            sheet(pixel_cells(saved.originals[:count]), "original"),
            sheet(pixel_cells(returned), "return", "8 bits"),
            sheet(difference.cells, difference.title, f"{difference.note}; {scale.range}"),
        ],
        0,
        sheet_columns(count),
        saved.originals.shape[2:],
    )


def _histogram(title: str, errors: np.ndarray) -> Chart:
    edges = error_bins(errors)
    counts = np.histogram(errors, edges)[0]
    plot = charts.plot("gray levels of 255", "images", x_axis_type="log")
    charts.few_digits(plot.xaxis)
    plot.quad(
        left=edges[:-1], right=edges[1:], top=counts, bottom=0, fill_color=BLUE, line_color=None
    )
    keys = []
    if edges[0] < ROUNDED_AWAY < edges[-1]:
        charts.level(plot, ROUNDED_AWAY, vertical=True)
        keys.append(Key("½: exact after rounding below it", MUTED, "dashed"))
    none = int((errors == 0).sum())
    middle, high = brief(float(np.median(errors))), brief(float(errors.max()))
    note = f"median {middle}, highest {high}" + (f"; {none} without error" if none else "")
    assert math.isfinite(edges[0])
    return Chart(plot, title, f"Histogram: {note}.", keys, note)
