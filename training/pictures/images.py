"""Simulated images: paths through time, samples, roundtrips and their errors; and image files."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from training.data.images.containers import image_names, open_container
from training.data.images.dataset import ImageDataset
from training.files.arrays import stem_of
from training.files.roundtrip import SavedRoundtrips
from training.files.trajectory import SavedTrajectory
from training.pictures.content import (
    Choice,
    Content,
    Images,
    Part,
    Result,
    Sheet,
    affordable,
)
from training.pictures.figure import FEW, Figure, Mark, Panel, Rule, histogram
from training.pictures.pixels import (
    HALF_RANGE,
    ROUNDED_AWAY,
    Column,
    data_cells,
    gray_levels,
    image_grid,
    image_rows,
    magnified,
    pixel_cells,
    state_divisors,
)
from training.pictures.simulations import (
    TITLES,
    content_of_run,
    latent_figures,
    latent_law,
    load,
    name_and_details,
    overview,
    spectrum,
    telling_times,
)
from training.pictures.theme import BLUE, brief, joined

ROWS, PATH_COLUMNS, WAY_COLUMNS, STRIP_COLUMNS = 8, 9, 3, 8
STATES = "Unscaled states; ÷ n: divided by n, because they exceed the range of pixels."
DIFFERENCE = "Difference: returned minus original image, before rounding."
SAME = 1e-4  # of the largest value: more than the float32 error of a melt's end
READING = (
    "Choose an image and follow it along the flow; below, the same images are points that can be "
    "selected."
)
READING_OF_ROUNDTRIPS = (
    "Images were inflated and generated back; errors below half a gray level vanish after rounding."
)
PAGE = "docs/tutorials/images.md"
LEAST_BINS, MOST_BINS = 8, 40
LEAST_RANGE = 4  # least ratio of the axis ends
MOST_WORST, ROWS_OF_BLOCK = 16, 4
MOST_IN_GRID = 100
PART = re.compile(r"\d{5,6}")  # name of a subfolder that holds a thousand of the images


def content_of(paths: Mapping[str, Path], choice: Choice | None) -> Content:
    """Return the content of the simulations of images in one run.

    A roundtrip is drawn together with the inflation from whose final state it starts.

    Args:
        paths: Files by kind: ``melt`` (inflation), ``roundtrip``, ``gen`` (generation).
        choice: Number of images that are shown; None for all.

    Raises:
        DataError: A file is broken.
    """
    saved = load(paths, choice)
    melt, back = saved.get("melt"), saved.get("roundtrip")
    pair = melt is not None and back is not None and continues(melt, back)
    grids, others = (dict[str, Callable[[], Figure]]() for _ in range(2))
    for kind, item in saved.items():
        stem = stem_of(item.path)
        if kind == "melt" and pair:
            grids[f"{stem}_roundtrip"] = partial(roundtrip, item, saved["roundtrip"])
        elif not (kind == "roundtrip" and pair):
            grids[f"{stem}_{kind}_path"] = partial(path_of, item)
        if kind == "gen":
            grids[f"{stem}_samples"] = partial(samples, item)
        if kind == "melt":
            others[f"{stem}_spectrum"] = partial(spectrum, item)
        others |= latent_figures(item, item.path.stem.removesuffix("_results"))
    grids |= overview(saved)

    def parts(choice: Choice) -> Sequence[Part]:
        shown = [item for kind, item in saved.items() if not (pair and kind == "roundtrip")]
        return [strip(item, back if pair and item is melt else None) for item in shown]

    words = ("images in the flow", READING, PAGE)
    return content_of_run(saved, *words, grids | others, parts, replaced=grids.keys())


def images_of(trajectory: SavedTrajectory) -> np.ndarray:
    """Return the states ``[S, N, C, H, W]`` of a trajectory of images."""
    assert trajectory.images is not None
    return trajectory.images


def continues(melt: SavedTrajectory, back: SavedTrajectory) -> bool:
    """Return whether a roundtrip starts from the final state of an inflation (melt)."""
    end, start = images_of(melt)[-1], images_of(back)[0]
    same = end.shape == start.shape
    return same and bool(np.abs(end - start).max() <= SAME * np.abs(end).max())


def state_columns(states: np.ndarray, times: np.ndarray, divisors: np.ndarray) -> list[Column]:
    """Return a column of images per time, for states ``[S, N, C, H, W]`` divided by divisors."""
    cells = data_cells(states / divisors[:, None, None, None, None])
    return [
        Column(own, f"t = {time:.2f}", "" if divisor == 1 else f"÷ {divisor:.3g}")
        for own, time, divisor in zip(cells, times, divisors, strict=True)
    ]


def most_informative(columns: Sequence[Column], count: int) -> list[int]:
    """Choose ``count`` columns, one per time, between which images change about equally.

    The indices of the columns are returned.
    """
    cells = np.stack([column.cells for column in columns])
    points = cells.reshape(*cells.shape[:2], -1).astype(np.float32)
    return telling_times(points, count).tolist()


def path_of(trajectory: SavedTrajectory) -> Figure:
    """Return some images at informative times, from the first state to the last."""
    states, times = images_of(trajectory)[:, :ROWS], trajectory.times
    columns = state_columns(states, times, state_divisors(states, times))
    name, details = name_and_details(trajectory)
    shown = f"{states.shape[1]} of {trajectory.count} images"
    subtitle = joined(details, latent_law(trajectory), shown)
    telling = [columns[index] for index in most_informative(columns, PATH_COLUMNS)]
    return image_rows(telling, TITLES[trajectory.kind].format(name), subtitle, STATES)


def roundtrip(melt: SavedTrajectory, back: SavedTrajectory) -> Figure:
    """Return some images from data to latents and back, with the remaining differences."""
    melting, returning = images_of(melt)[:, :ROWS], images_of(back)[:, :ROWS]
    divisors = state_divisors(melting, melt.times)
    there = state_columns(melting, melt.times, divisors)
    # Both directions use the same divisors, so that states at the same time can be compared.
    divisors = divisors[[_nearest(melt.times, time) for time in back.times]]
    again = state_columns(returning, back.times, divisors)
    first, *ways, last = most_informative(there, WAY_COLUMNS + 2)
    ways_back = [_nearest(back.times, melt.times[index]) for index in reversed(ways)]
    last_column, scale = magnified((returning[-1].astype(float) - melting[0]) * HALF_RANGE)
    columns = [
        _headed(there[first], "original"),
        *(_headed(there[index], "melting") for index in ways),
        _headed(there[last], "latent"),
        *(_headed(again[index], "returning") for index in ways_back),
        _headed(again[-1], "return"),
        last_column,
    ]
    name, details = name_and_details(melt)
    words = joined(details, f"{melting.shape[1]} of {melt.count} images")
    title = f"{name}, inflated and generated back"
    return image_rows(columns, title, words, f"{STATES} {DIFFERENCE}", scale=scale)


def _headed(column: Column, title: str) -> Column:
    """Return a column with a new title; its previous title moves into the note."""
    return replace(column, title=title, note=f"{column.title}\n{column.note}")


def _nearest(times: np.ndarray, time: float) -> int:
    return int(np.abs(times - time).argmin())


def samples(trajectory: SavedTrajectory) -> Figure:
    """Return a grid of the final states of a generation, as 8-bit images."""
    name, details = name_and_details(trajectory)
    cells = data_cells(images_of(trajectory)[-1])
    words = joined(details, latent_law(trajectory))
    return image_grid(cells, trajectory.count, f"Samples of {name}", words)


def strip(item: SavedTrajectory, back: SavedTrajectory | None) -> Images:
    """Return the images of a simulation, each with its states at informative times.

    With a roundtrip, the returned image and its difference from the original are added.
    """
    states = images_of(item)
    count = affordable(states.shape[1], states.shape[2:], STRIP_COLUMNS + 2 * (back is not None))
    states = states[:, :count]
    columns = state_columns(states, item.times, state_divisors(states, item.times))
    times = most_informative(columns, STRIP_COLUMNS)
    sheets = [Sheet.of_cells(columns[k].cells, _at(item, k), columns[k].note) for k in times]
    if back is not None:
        returned = images_of(back)[-1, :count]
        sheets.append(Sheet.of_cells(data_cells(returned), "return"))
        sheets.append(_difference((returned.astype(float) - states[0]) * HALF_RANGE))
    what = "sample" if item.kind == "gen" else "image"
    part = f"first {count} of {item.count:,}" if count < item.count else f"all {count}"
    verb = {"melt": "Melting", "roundtrip": "Returning", "gen": "Generating"}[item.kind]
    return Images(
        joined(f"{verb} {name_and_details(item)[0]}", latent_law(item), f"{part} images"),
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
    return Sheet.of_cells(column.cells, column.title, f"{column.note}; up to ±{scale.high} levels")


def content_of_roundtrips(path: Path, choice: Choice | None) -> Content:
    """Return the content of a file with the largest roundtrip errors of images.

    Raises:
        DataError: The file is broken.
    """
    saved, stem = SavedRoundtrips.load(path), path.stem.removesuffix("_worst")
    figures = {f"{stem}_errors": partial(errors, saved)}
    kept = len(saved.originals) > 0
    if kept:
        figures[f"{stem}_worst"] = partial(worst, saved)
    return Content(
        f"Round trips of {saved.name}",
        READING_OF_ROUNDTRIPS,
        PAGE,
        figures,
        parts=lambda choice: [worst_strip(saved)] if kept else [],
        replaced={f"{stem}_worst"},
        results=partial(_roundtrip_results, saved),
    )


def _roundtrip_results(saved: SavedRoundtrips) -> list[Result]:
    largest, exact = float(saved.all_max_abs_error.max()), float(saved.all_exact.mean())
    name = f"round trip of {len(saved.all_mse):,} images"
    value = f"{exact:.4%} of pixels exact, largest error {brief(largest)} gray levels"
    return [Result(saved.name, name, value, "largest error below ½", largest < ROUNDED_AWAY)]


def worst(saved: SavedRoundtrips) -> Figure:
    """Return the images with the largest roundtrip errors: originals, results and differences."""
    shown = slice(MOST_WORST)
    difference, scale = magnified((saved.returned - saved.originals)[shown])
    columns = [
        Column(pixel_cells(saved.originals[shown]), "original"),
        Column(gray_levels(saved.returned[shown]), "return", "8 bits"),
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
    words = f"{len(notes)} of {len(saved.all_mse)} images · differences before rounding"
    title, blocks = f"Largest round-trip errors of {saved.name}", 1 + (len(notes) > ROWS_OF_BLOCK)
    return image_rows(columns, title, words, "", notes, blocks, scale)


def worst_strip(saved: SavedRoundtrips) -> Images:
    """Return the images with the largest roundtrip errors for a report."""
    count = affordable(len(saved.originals), saved.originals.shape[1:], 3)
    labels = zip(saved.indices[:count], saved.max_abs_error, strict=False)
    return Images(
        f"The worst {count} of {len(saved.all_mse):,} images",
        [f"image {index:.0f}, largest error {brief(largest)}" for index, largest in labels],
        [
            Sheet.of_cells(pixel_cells(saved.originals[:count]), "original"),
            Sheet.of_cells(gray_levels(saved.returned[:count]), "return", "8 bits"),
            _difference((saved.returned - saved.originals)[:count]),
        ],
        0,
        saved.originals.shape[2:],
    )


def errors(saved: SavedRoundtrips) -> Figure:
    """Return histograms of the roundtrip errors of all images, in gray levels on a log axis."""
    shown = {
        "root-mean-square error of an image": np.sqrt(saved.all_mse_float),
        "largest error of a pixel": saved.all_max_abs_error,
    }
    return Figure(
        f"Round-trip errors of {saved.name}",
        joined(
            f"{len(saved.all_mse)} images",
            f"MSE {brief(saved.all_mse.mean())} after rounding, "
            f"{brief(saved.all_mse_float.mean())} before",
            f"{saved.all_exact.mean():.4%} of the pixels exact after rounding",
        ),
        [_errors(name, values) for name, values in shown.items()],
        columns=2,
        size=(4.2, 2.2),
    )


def _errors(name: str, values: np.ndarray) -> Panel:
    edges, positive = error_bins(values), values[values > 0]
    marks: list[Mark] = [histogram(positive, edges, BLUE, height=1.0, alpha=0.55, filled=True)]
    if edges[0] < ROUNDED_AWAY < edges[-1]:
        marks.append(Rule(ROUNDED_AWAY, True, label="below ½: exact after rounding", dashed=True))
    none = f"{len(values) - len(positive)} more without error" * (len(positive) < len(values))
    note = f"median {brief(float(np.median(values)))}, highest {brief(float(values.max()))}"
    return Panel(
        marks,
        name,
        joined(note, none),
        "gray levels of 255, before rounding",
        "images" * (len(positive) >= FEW),
        (float(edges[0]), float(edges[-1])),
        x_log=True,
        y_ticks=None if len(positive) >= FEW else {},
    )


def error_bins(values: np.ndarray) -> np.ndarray:
    """Return logarithmically spaced bin edges that contain all positive errors ``[N]``."""
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1e-3)
    # If errors are nearly equal, widen the axis so that it has ticks.
    widen = max(math.sqrt(LEAST_RANGE * low / high), 1.02)
    low, high = low / widen, high * widen
    bins = int(np.clip(3 * len(positive) ** (1 / 3), LEAST_BINS, MOST_BINS))
    return np.geomspace(low, high, bins + 1)


def content_of_files(path: Path, choice: Choice | None) -> Content:
    """Return the content of a zip or folder of images. Only the first images are read.

    The picture is written next to the zip or folder: inside the folder, it would be mistaken for
    one of the images.

    Raises:
        DataError: There are no images, or one is broken.
    """
    pixels, count = first_images(path, MOST_IN_GRID)
    place = Path(os.path.abspath(path))  # resolves "." to a name and keeps links
    name = place.name if place.is_dir() else place.stem
    while PART.fullmatch(place.name):
        place = place.parent
        name = f"{place.name}_{name}"
    title = f"Images of {name}"
    draw = partial(image_grid, pixel_cells(pixels), count, title)
    return Content(title, "", PAGE, {f"{name}_images": draw}, place=place.parent)


def holds_images(path: Path) -> bool:
    """Return whether a zip or folder contains images, directly or in folders with numbers as names.

    Raises:
        DataError: The zip cannot be read, or contains unsafe names.
    """
    with closing(open_container(path)) as container:
        names = image_names(container)
    return any(all(part.isdigit() for part in name.split("/")[:-1]) for name in names)


def first_images(path: Path, count: int) -> tuple[np.ndarray, int]:
    """Return the first images of a zip or folder, by name, and the number of all its images.

    Returns:
        Pixels ``[n, C, H, W]`` uint8, with n at most ``count``; and the number of all images.

    Raises:
        DataError: There are no images, or one is broken, not square, or of another shape than the
            first.
    """
    with closing(ImageDataset(path)) as dataset:
        pixels, _ = dataset.read(range(min(count, len(dataset))))
    return pixels.numpy(), len(dataset)
