"""Sections of images: their stages in the flow, roundtrip errors, and the worst roundtrips."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.files.roundtrip import SavedRoundtrips
from training.files.trajectory import SavedTrajectory
from training.pictures.content import Choice, Images, Result, Sheet, affordable
from training.pictures.images.grids import (
    HALF_RANGE,
    ROUNDED_AWAY,
    data_cells,
    gray_levels,
    magnified,
    pixel_cells,
    state_divisors,
)
from training.pictures.images.simulations import (
    error_bins,
    images_of,
    melts_and_roundtrips,
    most_informative,
    state_columns,
)
from training.pictures.theme import BLUE, MUTED, brief, joined
from training.pictures.trajectories.clouds import latent_law, name_and_details
from training.report import charts
from training.report.content import Chart, Charts, Key, Section
from training.report.flows import section_of_run

READING = (
    "Choose an image and follow it along the flow; below, the same images are points "
    "that can be selected."
)
COLUMNS = 8
"""Number of times in a strip."""
STATES = "Unscaled states; ÷ n: divided by n, because they exceed the range of pixels."


def section_of(paths: Mapping[str, Path], choice: Choice) -> Section:
    """Return the report section about the simulations of images in one run.

    Args:
        paths: Files by kind: ``melt`` (inflation), ``roundtrip``, ``gen`` (generation).
        choice: Number of points that are shown.

    Raises:
        DataError: A file is broken.
    """
    saved = {
        kind: SavedTrajectory.load(path, choose=choice.samples) for kind, path in paths.items()
    }
    backs = {melt.path: back for melt, back in melts_and_roundtrips(list(saved.values()))}
    used = {back.path for back in backs.values()}
    parts = [
        images_part(item, backs.get(item.path)) for item in saved.values() if item.path not in used
    ]
    return section_of_run(saved, "images in the flow", READING, "docs/tutorials/images.md", parts)


def images_part(item: SavedTrajectory, back: SavedTrajectory | None) -> Images:
    """Return the images of a simulation, each with its states at informative times.

    With a roundtrip, the returned image and its difference from the original are added.
    """
    states = images_of(item)
    count = affordable(states.shape[1], states.shape[2:], COLUMNS + 2 * (back is not None))
    states = states[:, :count]
    columns = state_columns(states, item.times, state_divisors(states, item.times))
    times = most_informative(columns, COLUMNS)
    sheets = [Sheet.of_cells(columns[k].cells, _at(item, k), columns[k].note) for k in times]
    if back is not None:
        returned = images_of(back)[-1, :count]
        sheets.append(Sheet.of_cells(data_cells(returned), "return"))
        sheets.append(_difference((returned.astype(float) - states[0]) * HALF_RANGE))
    what = "sample" if item.kind == "gen" else "image"
    name = name_and_details(item)[0]
    part = f"first {count} of {item.count:,}" if count < item.count else f"all {count}"
    verb = {"melt": "Melting", "roundtrip": "Returning", "gen": "Generating"}[item.kind]
    return Images(
        joined(f"{verb} {name}", latent_law(item), f"{part} images"),
        [f"{what} {number}" for number in item.numbers[:count]],
        sheets,
        0 if item.kind == "melt" else len(times) - 1,
        (states.shape[-2], states.shape[-1]),
        STATES,
        item.kind,
    )


def _at(item: SavedTrajectory, index: int) -> str:
    """Return the heading of a time."""
    if item.times[index] == item.times.min():
        return {"melt": "original", "roundtrip": "return", "gen": "sample"}[item.kind]
    latent = "latent, " if item.times[index] == item.times.max() else ""
    return f"{latent}t = {item.times[index]:.2f}"


def _difference(values: np.ndarray) -> Sheet:
    """Return a sheet of magnified differences in gray levels."""
    column, scale = magnified(values)
    return Sheet.of_cells(column.cells, column.title, f"{column.note}; {scale.range}")


READING_OF_ROUNDTRIPS = (
    "Images were inflated and generated back; errors below half a gray level vanish after rounding."
)


def section_of_roundtrips(path: Path, choice: Choice) -> Section:
    """Return the report section about a file with the largest roundtrip errors of images.

    Raises:
        DataError: The file is broken.
    """
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
    return Section(
        title, READING_OF_ROUNDTRIPS, "docs/tutorials/images.md", str(path.parent), parts, results
    )


def _worst(saved: SavedRoundtrips) -> Images:
    count = affordable(len(saved.originals), saved.originals.shape[1:], 3)
    return Images(
        f"The worst {count} of {len(saved.all_mse):,} images",
        [
            f"image {index:.0f}, largest error {brief(largest)}"
            for index, largest in zip(saved.indices[:count], saved.max_abs_error, strict=False)
        ],
        [
            Sheet.of_cells(pixel_cells(saved.originals[:count]), "original"),
            Sheet.of_cells(gray_levels(saved.returned[:count]), "return", "8 bits"),
            _difference((saved.returned - saved.originals)[:count]),
        ],
        0,
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
    return Chart(plot, title, f"Histogram: {note}.", keys, note)
