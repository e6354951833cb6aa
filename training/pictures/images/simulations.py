"""Pictures of simulated images: paths through time, samples, roundtrips and their errors."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from training.files.arrays import stem_of
from training.files.roundtrip import SavedRoundtrips
from training.files.trajectory import SavedTrajectory
from training.pictures import theme
from training.pictures.images.grids import (
    HALF_RANGE,
    ROUNDED_AWAY,
    Column,
    data_cells,
    draw_grid,
    draw_rows,
    gray_levels,
    magnified,
    pixel_cells,
    state_divisors,
)
from training.pictures.theme import BLUE, MUTED
from training.pictures.trajectories.album import overviews, pictures_of_latents
from training.pictures.trajectories.clouds import (
    TITLES,
    latent_law,
    name_and_details,
    telling_times,
)
from training.pictures.trajectories.latents import draw_spectrum

ROWS, PATH_COLUMNS, WAY_COLUMNS = 8, 9, 3
APART = 22  # pixels before the column of differences
STATES_CAPTION = "Unscaled states. ÷ n: divided by n, because they exceed the range of pixels."
DIFFERENCE_CAPTION = "Difference: returned minus original image, before rounding."
SAME = 1e-4  # of the largest value: more than the float32 error of a melt's end


def pictures_of_images(
    paths: Sequence[Path], folder: Path | None, animation: str | None
) -> list[theme.Picture]:
    """Return all pictures of simulations of images, in a folder or next to their files.

    A roundtrip is drawn together with the inflation (melt) from whose final state it starts, if
    that file is in the list. There are no animations.

    Raises:
        DataError: A file is broken.
    """
    trajectories = [SavedTrajectory.load(path) for path in paths]
    pictures = []
    pairs = {melt.path: back for melt, back in melts_and_roundtrips(trajectories)}
    paired = {back.path for back in pairs.values()}
    for item in trajectories:
        place = folder or item.path.parent
        stem, own = place / stem_of(item.path), place / item.path.stem.removesuffix("_results")
        draw = {}
        if item.path in pairs:
            draw["roundtrip"] = partial(draw_roundtrip, item, pairs[item.path])
        elif item.path not in paired:
            draw[f"{item.kind}_path"] = partial(draw_path, item)
        if item.kind == "melt":
            draw["spectrum"] = partial(draw_spectrum, item)
        if item.kind == "gen":
            draw["samples"] = partial(draw_samples, item)
        pictures += theme.figures(stem, draw) + pictures_of_latents(item, own)
    return pictures + overviews(trajectories, folder)


def images_of(trajectory: SavedTrajectory) -> np.ndarray:
    """Return the states ``[S, N, C, H, W]`` of a trajectory of images."""
    assert trajectory.images is not None
    return trajectory.images


def draw_path(trajectory: SavedTrajectory) -> Figure:
    """Draw some images at informative times, from the first state to the last."""
    states, times = images_of(trajectory)[:, :ROWS], trajectory.times
    columns = state_columns(states, times, state_divisors(states, times))
    name, details = name_and_details(trajectory)
    title = TITLES[trajectory.kind].format(name)
    shown = f"{states.shape[1]} of {trajectory.count} images"
    subtitle = theme.joined(details, latent_law(trajectory), shown)
    telling = [columns[number] for number in most_informative(columns, PATH_COLUMNS)]
    return draw_rows(telling, title, subtitle, STATES_CAPTION)


def draw_roundtrip(melt: SavedTrajectory, back: SavedTrajectory) -> Figure:
    """Draw some images from data to latents and back, with the remaining differences."""
    melting, returning = images_of(melt)[:, :ROWS], images_of(back)[:, :ROWS]
    divisors = state_divisors(melting, melt.times)
    there = state_columns(melting, melt.times, divisors)
    # Both directions use the same divisors, so that states at the same time can be compared.
    divisors = divisors[[_nearest(melt.times, time) for time in back.times]]
    again = state_columns(returning, back.times, divisors)
    first, *ways, last = most_informative(there, WAY_COLUMNS + 2)
    ways_back = [_nearest(back.times, melt.times[number]) for number in reversed(ways)]
    difference = (returning[-1].astype(float) - melting[0]) * HALF_RANGE
    last_column, scale = magnified(difference, APART)
    columns = [
        _headed(there[first], "original"),
        *(_headed(there[number], "melting") for number in ways),
        _headed(there[last], "latent"),
        *(_headed(again[number], "returning") for number in ways_back),
        _headed(again[-1], "return"),
        last_column,
    ]
    name, details = name_and_details(melt)
    return draw_rows(
        columns,
        title=f"{name}, inflated and generated back",
        subtitle=theme.joined(details, f"{melting.shape[1]} of {melt.count} images"),
        caption=f"{STATES_CAPTION}\n{DIFFERENCE_CAPTION}",
        scale=scale,
    )


def draw_samples(trajectory: SavedTrajectory) -> Figure:
    """Draw a grid of the final states of a generation, as 8-bit images."""
    name, details = name_and_details(trajectory)
    cells = data_cells(images_of(trajectory)[-1])
    words = theme.joined(details, latent_law(trajectory))
    return draw_grid(cells, trajectory.count, f"Samples of {name}", words)


def _cells(states: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """Return states ``[S, N, C, H, W]``, each time divided by its divisor, as 8-bit RGB."""
    return data_cells(states / divisors[:, None, None, None, None])


def state_columns(states: np.ndarray, times: np.ndarray, divisors: np.ndarray) -> list[Column]:
    """Return a column of images per time, for states ``[S, N, C, H, W]`` divided by divisors."""
    return [
        Column(cells, f"t = {time:.2f}", "" if divisor == 1 else f"÷ {divisor:.3g}")
        for cells, time, divisor in zip(_cells(states, divisors), times, divisors, strict=True)
    ]


def _headed(column: Column, title: str) -> Column:
    """Return a column with a new title; its previous title moves into the note."""
    return replace(column, title=title, note=f"{column.title}\n{column.note}")


def most_informative(columns: Sequence[Column], count: int) -> list[int]:
    """Choose ``count`` columns, one per time, between which images change about equally.

    The indices of the columns are returned.
    """
    cells = np.stack([column.cells for column in columns])
    points = cells.reshape(*cells.shape[:2], -1).astype(np.float32)
    return telling_times(points, count).tolist()


def _nearest(times: np.ndarray, time: float) -> int:
    return int(np.abs(times - time).argmin())


def melts_and_roundtrips(
    trajectories: Sequence[SavedTrajectory],
) -> Iterator[tuple[SavedTrajectory, SavedTrajectory]]:
    """Yield each inflation (melt) together with the roundtrip that starts from its final state."""
    melts = [item for item in trajectories if item.kind == "melt"]
    for back in trajectories:
        for melt in melts if back.kind == "roundtrip" else ():
            names = [(item.path.parent, stem_of(item.path)) for item in (melt, back)]
            end, start = images_of(melt)[-1], images_of(back)[0]
            if names[0] != names[1] or end.shape != start.shape:
                continue
            if np.abs(end - start).max() <= SAME * np.abs(end).max():
                yield melt, back


LEAST_BINS, MOST_BINS = 8, 40
LEAST_RANGE = 4  # least ratio of the axis ends
MOST_WORST, ROWS_OF_BLOCK = 16, 4


def pictures_of_roundtrips(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the pictures of a file with the largest roundtrip errors (data to latents and back).

    Raises:
        DataError: The file is broken.
    """
    saved = SavedRoundtrips.load(path)
    draw = {"errors": partial(draw_errors, saved)}
    if len(saved.originals):
        draw["worst"] = partial(draw_worst, saved)
    return theme.figures((folder or path.parent) / path.stem.removesuffix("_worst"), draw)


def draw_worst(saved: SavedRoundtrips) -> Figure:
    """Draw the images with the largest roundtrip errors: originals, results and differences."""
    shown = slice(MOST_WORST)
    difference, scale = magnified((saved.returned - saved.originals)[shown])
    columns = [
        Column(pixel_cells(saved.originals[shown]), "original"),
        Column(gray_levels(saved.returned[shown]), "return", "8 bits"),
        difference,
    ]
    notes = [
        f"image {index}\nlargest error {theme.brief(largest)}\n"
        f"MSE {theme.brief(mse)}, unrounded {theme.brief(mse_float)}"
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
        title=f"Largest round-trip errors of {saved.name}",
        subtitle=f"{len(notes)} of {len(saved.all_mse)} images · differences before rounding",
        caption="",
        notes=notes,
        blocks=1 if len(notes) <= ROWS_OF_BLOCK else 2,
        scale=scale,
    )


def draw_errors(saved: SavedRoundtrips) -> Figure:
    """Draw histograms of the roundtrip errors of all images, in gray levels on a log axis."""
    words = (
        f"{len(saved.all_mse)} images",
        f"MSE {theme.brief(saved.all_mse.mean())} after rounding, "
        f"{theme.brief(saved.all_mse_float.mean())} before",
        f"{saved.all_exact.mean():.4%} of the pixels exact after rounding",
    )
    title = f"Round-trip errors of {saved.name}"
    figure, panels = theme.panels(2, 2, (4.2, 2.2), title, theme.joined(*words), left=0.65, gap=0.7)
    shown = {
        "root-mean-square error of an image": np.sqrt(saved.all_mse_float),
        "largest error of a pixel": saved.all_max_abs_error,
    }
    for axes, (name, errors) in zip(panels, shown.items(), strict=True):
        middle, high = theme.brief(float(np.median(errors))), theme.brief(float(errors.max()))
        theme.name_panel(axes, name, f"median {middle}, highest {high}")
        edges = error_bins(errors)
        counts = np.histogram(errors, edges)[0]
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, alpha=0.55, lw=0)
        axes.set_xscale("log")
        theme.label(axes, "gray levels of 255, before rounding")
        none = int((errors == 0).sum())
        if none:
            text = f"{none} more without\nerror"
            theme.note_inside(axes, text, "left")
        spread = edges[-1] / edges[0]
        steps = (1, 2, 5) if spread < 10 else (1, 3) if spread < 1000 else (1,)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_major_formatter(lambda value, position: theme.brief(value))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    _mark_rounding(axes)
    theme.label(figure.axes[0], y="images")
    return figure


def error_bins(errors: np.ndarray) -> np.ndarray:
    """Return logarithmically spaced bin edges that contain all positive errors ``[N]``."""
    positive = errors[errors > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1e-3, 1e-3)
    # If errors are nearly equal, widen the axis so that it has ticks.
    widen = max(math.sqrt(LEAST_RANGE * low / high), 1.02)
    low, high = low / widen, high * widen
    bins = int(np.clip(3 * len(positive) ** (1 / 3), LEAST_BINS, MOST_BINS))
    return np.geomspace(low, high, bins + 1)


def _mark_rounding(axes: Axes) -> None:
    """Mark the error below which rounding to 8 bits restores an image, if it is within the axis."""
    low, high = axes.get_xlim()
    if not low < ROUNDED_AWAY < high:
        return
    axes.axvline(ROUNDED_AWAY, color=MUTED, lw=1, ls=theme.DASHED)
    near = math.log(ROUNDED_AWAY / low) > 0.5 * math.log(high / low)
    theme.write(
        axes,
        "below ½: exact\nafter rounding",
        (ROUNDED_AWAY, 1),
        (-5 if near else 5, -2),
        ("data", "axes fraction"),
        ha="right" if near else "left",
        va="top",
    )
