"""The figures of images as the scripts saved them: paths, roundtrips, samples, spectra, errors."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.pictures.images.grids import Column, Scale, draw_grid, draw_rows, grid_columns
from training.pictures.images.pixels import (
    HALF_RANGE,
    data_cells,
    difference_cells,
    magnification,
    pixel_cells,
    state_divisors,
)
from training.pictures.images.roundtrips import draw_errors
from training.pictures.images.saved import SavedRoundtrips
from training.pictures.style.look import brief, joined, power_of_ten
from training.pictures.trajectories.animation import GridAnimation, frame_times, moving_columns
from training.pictures.trajectories.clouds import telling_times
from training.pictures.trajectories.saved import TITLES, SavedTrajectory, title_of
from training.pictures.trajectories.spectra import draw_spectrum, share_within

ROWS, PATH_COLUMNS, WAY_COLUMNS = 8, 9, 3
MOST_IN_GRID, MOST_WORST, ROWS_OF_BLOCK = 100, 16, 4
APART = 22  # pixels before the column of differences
STATES_CAPTION = "Unscaled states. ÷ n: divided by n, since they outgrow the range of pixels."
DIFFERENCE_CAPTION = "Difference: return less original, before rounding."
WORST = re.compile(r"(?P<stem>.+?)(_roundtrip_mse)?(_seed\d+)?_worst")


def images_of(trajectory: SavedTrajectory) -> np.ndarray:
    """The states of images ``[S, N, C, H, W]``, which the trajectory must have."""
    assert trajectory.images is not None
    return trajectory.images


def animate_grid(trajectory: SavedTrajectory, title: str, subtitle: str) -> GridAnimation:
    """The images of a trajectory, changing all at once."""
    frames = frame_times(len(trajectory.times))
    states, times = images_of(trajectory), trajectory.times[frames]
    _, count, _, height, width = states.shape
    states = states[frames, : moving_columns(count, height, width) ** 2]
    return GridAnimation(_cells(states, state_divisors(states, times)), times, title, subtitle)


def draw_path(trajectory: SavedTrajectory) -> Figure:
    """Some images at telling times, from the first state to the last."""
    states, times = images_of(trajectory)[:, :ROWS], trajectory.times
    columns = _columns(states, times, state_divisors(states, times))
    telling = _telling(np.stack([column.cells for column in columns]), PATH_COLUMNS)
    name, details = title_of(trajectory.path)
    title = TITLES[trajectory.kind].format(name)
    subtitle = joined(details, f"{states.shape[1]} of {trajectory.count} images")
    return draw_rows([columns[number] for number in telling], title, subtitle, STATES_CAPTION)


def draw_roundtrip(melt: SavedTrajectory, back: SavedTrajectory) -> Figure:
    """Some images on their way to the latent and back, and what the way has changed.

    Args:
        melt: From images to latents.
        back: From these latents to images.
    """
    melting, returning = images_of(melt)[:, :ROWS], images_of(back)[:, :ROWS]
    divisors = state_divisors(melting, melt.times)
    there = _columns(melting, melt.times, divisors)
    # The same divisors on both ways, so that states of one time compare.
    divisors = divisors[[_nearest(melt.times, time) for time in back.times]]
    again = _columns(returning, back.times, divisors)
    first, *ways, last = _telling(np.stack([column.cells for column in there]), WAY_COLUMNS + 2)
    ways_back = [_nearest(back.times, melt.times[number]) for number in reversed(ways)]
    difference = (returning[-1].astype(float) - melting[0]) * HALF_RANGE
    last_column, scale = _difference(difference, APART)
    columns = [
        _headed(there[first], "original"),
        *(_headed(there[number], "melting") for number in ways),
        _headed(there[last], "latent"),
        *(_headed(again[number], "returning") for number in ways_back),
        _headed(again[-1], "return"),
        last_column,
    ]
    name, details = title_of(melt.path)
    return draw_rows(
        columns,
        title=f"Melting {name}, and back",
        subtitle=joined(details, f"{melting.shape[1]} of {melt.count} images"),
        caption=f"{STATES_CAPTION}\n{DIFFERENCE_CAPTION}",
        scale=scale,
    )


def draw_samples(trajectory: SavedTrajectory) -> Figure:
    """A grid of the last states of a generation, as 8-bit images."""
    name, details = title_of(trajectory.path)
    cells = data_cells(images_of(trajectory)[-1])
    return grid_figure(cells, trajectory.count, f"Samples of {name}", details)


def grid_figure(cells: np.ndarray, count: int, title: str, details: str = "") -> Figure:
    """The first of so many images, as many as fill a square ``[N, h, w, 3]``."""
    shape = cells.shape[1:3]
    shown = min(len(cells), grid_columns(len(cells), shape) ** 2)
    part = f"first {shown} of {count} images" if shown < count else f"{count} images"
    size = f"{shape[1]} × {shape[0]} pixels"
    return draw_grid(cells[:shown], title, joined(details, part, size))


def draw_spectrum_of(melt: SavedTrajectory) -> Figure:
    """The variances of all latents of a melt against their closed form."""
    exact, compressed = melt.closed_form_variance(), melt.compressed()
    ratios = (melt.last_variance / exact)[~compressed]
    name, details = title_of(melt.path)
    kept = "all" if not compressed.any() else f"the {len(ratios)} kept"
    words = [
        f"{melt.count} latents at t = {melt.times[-1]:.2f}",
        f"{share_within(ratios, melt.count):.0%} of {kept} dimensions in the band",
    ]
    return draw_spectrum(
        melt.last_variance,
        exact,
        compressed,
        melt.count,
        title=f"Spectrum of melted {name}" + (f": {details}" if details else ""),
        subtitle=joined(*words),
    )


def draw_worst(saved: SavedRoundtrips) -> Figure:
    """Originals, returns and their differences side by side."""
    shown = slice(MOST_WORST)
    difference, scale = _difference((saved.returned - saved.originals)[shown])
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
        title=f"Worst roundtrips of {_name_of_worst(saved.path)}",
        subtitle=f"{len(notes)} of {len(saved.all_mse)} images · differences before rounding",
        caption="",
        notes=notes,
        blocks=1 if len(notes) <= ROWS_OF_BLOCK else 2,
        scale=scale,
    )


def draw_roundtrip_errors(saved: SavedRoundtrips) -> Figure:
    """Histograms of the errors of all images."""
    words = [
        f"{len(saved.all_mse)} images",
        f"MSE {brief(saved.all_mse.mean())} after rounding, "
        f"{brief(saved.all_mse_float.mean())} before",
        f"{saved.all_exact.mean():.4%} of the pixels exact after rounding",
    ]
    return draw_errors(
        np.sqrt(saved.all_mse_float),
        saved.all_max_abs_error,
        title=f"Roundtrip errors of {_name_of_worst(saved.path)}",
        subtitle=joined(*words),
    )


def _cells(states: np.ndarray, divisors: np.ndarray) -> np.ndarray:
    """States ``[S, N, C, H, W]`` over a divisor each, as 8-bit RGB ``[S, N, H, W, 3]``."""
    return data_cells(states / divisors[:, None, None, None, None])


def _columns(states: np.ndarray, times: np.ndarray, divisors: np.ndarray) -> list[Column]:
    """A column for each time, headed by it."""
    return [
        Column(cells, f"t = {time:.2f}", "" if divisor == 1 else f"÷ {divisor:.3g}")
        for cells, time, divisor in zip(_cells(states, divisors), times, divisors, strict=True)
    ]


def _headed(column: Column, title: str) -> Column:
    """A column whose title so far moves below another."""
    return replace(column, title=title, note=f"{column.title}\n{column.note}")


def _difference(difference: np.ndarray, space: int = 0) -> tuple[Column, Scale]:
    """Differences ``[N, C, H, W]`` in gray levels, magnified as suits them, and their colors."""
    factor = magnification(float(np.abs(difference).max()))
    reach = HALF_RANGE / factor
    values = np.linspace(-reach, reach, 101)[:, None, None, None]
    channels = difference.shape[1]
    colors = difference_cells(values.repeat(channels, axis=1), factor)[:, 0, 0]
    column = Column(difference_cells(difference, factor), "difference", _times(factor), space)
    return column, Scale(colors, f"up to ±{brief(reach)} gray levels")


def _telling(cells: np.ndarray, count: int) -> list[int]:
    """Indices of so many telling times of what is seen, ``[S, N, H, W, 3]``."""
    points = cells.reshape(*cells.shape[:2], -1).astype(np.float32)
    return telling_times(points, count).tolist()


def _nearest(times: np.ndarray, time: float) -> int:
    return int(np.abs(times - time).argmin())


def _name_of_worst(path: Path) -> str:
    """The data's name, and how it was melted, by the name of the file."""
    match = WORST.fullmatch(path.stem)
    name, details = title_of(Path(f"{match['stem'] if match else path.stem}.npz"))
    return f"{name}: {details}" if details else name


def _times(factor: int) -> str:
    if factor < 1000:
        return f"× {factor}"
    first, power = str(factor)[0], power_of_ten(len(str(factor)) - 1)
    return f"× {power}" if first == "1" else f"× {first}·{power}"
