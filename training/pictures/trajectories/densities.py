"""Log densities of the data under a flow: points in their colors, and a histogram."""

import math

import numpy as np
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from training.files.arrays import evenly
from training.files.trajectory import SavedTrajectory
from training.pictures.style import look
from training.pictures.style.colors import BLUE, INK, sequential_colors
from training.pictures.style.words import joined
from training.pictures.trajectories.clouds import (
    axis_names,
    cloud_axes,
    common_box,
    points_of,
    scatter,
)
from training.pictures.trajectories.words import name_and_details

SIDE, BAR = 3.3, 0.12  # inches
BINS = 48
FAR = 5e-3  # share of the lowest densities that share a color, and that the histogram leaves out


def draw_densities(trajectory: SavedTrajectory) -> Figure:
    """Where the data are likely, and how their log density is spread.

    Args:
        trajectory: With ``log_prob``. Images have no map, and bits per dimension in place of nats.
    """
    assert trajectory.log_prob is not None
    values, unit = trajectory.log_prob, "log density in nats"
    if trajectory.bits_per_dim is not None:
        values, unit = trajectory.bits_per_dim, "bits per dimension"
    mapped = trajectory.images is None
    name, details = name_and_details(trajectory)
    source = "generated " if trajectory.kind == "gen" else ""
    figure, places = look.panel_page(
        1,
        1 + mapped,
        (SIDE, SIDE if mapped else 2.2),
        f"Log density of {source}{name}",
        joined(details, f"{len(values)} {'points' if mapped else 'images'}"),
        gap=1.4,
        least_width=5.5,
    )
    axes = look.axes_at(figure, places[0, -1])
    cut = np.quantile(values, FAR) if mapped else values.min()
    axes.hist(values[values >= cut], BINS, color=BLUE, alpha=0.55, lw=0)
    axes.axvline(values.mean(), color=INK, lw=1.2)
    look.label(axes, unit, "points" if mapped else "images")
    error = values.std(ddof=1) / math.sqrt(len(values))
    mean = f"mean {values.mean():.4g} ± {error:.2g} (standard error)"
    lower = int((values < cut).sum())
    cut_off = f"{lower} lower than {cut:.3g} left out" if lower else ""
    look.name_panel(axes, mean.replace("-", "−"), cut_off.replace("-", "−"))
    if mapped:
        _map(figure, places[0, 0], trajectory, values, cut)
    return figure


def _map(
    figure: Figure, place: np.ndarray, trajectory: SavedTrajectory, values: np.ndarray, cut: float
) -> None:
    points = points_of(trajectory)[trajectory.times.argmin()]
    values = values[evenly(len(values), len(points))]
    order = values.argsort()  # the likely ones are seen best
    axes = cloud_axes(figure, place, common_box([points]), axis_names(trajectory))
    colors, norm = ListedColormap(sequential_colors(256)), Normalize(cut, values.max())
    dots = scatter(axes, points[order], colors(norm(values[order]))[:, :3], size=6)
    dots.set(cmap=colors, norm=norm)
    look.name_panel(axes, "colors: log density in nats")
    left, bottom, width, height = place
    off = 0.1 if points.shape[1] == 2 else 0.3
    bar = look.axes_at(figure, (left + width + off, bottom, BAR, height))
    figure.colorbar(dots, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=look.SMALL_SIZE)
