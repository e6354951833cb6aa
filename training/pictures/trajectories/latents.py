"""Pictures of a melt's latents against the closed-form Gaussian, and of log densities."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FixedLocator, NullLocator

from training.files.arrays import evenly
from training.files.trajectory import SavedTrajectory
from training.paper.containment import gaussian_content
from training.pictures import theme
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE
from training.pictures.trajectories.clouds import (
    axis_names,
    cloud_axes,
    common_box,
    name_and_details,
    points_of,
    scatter,
)

MOST_PANELS, COLUMNS = 6, 3
SIZE, SIDE, LEFT, GAP = (3.4, 1.75), 3.6, 0.3, 0.3  # inches
LEAST_WIDTH = 6.5  # of a page of one dimension
RANGE = 4.0  # standard deviations of the Gaussian on either side
FEW_POINTS = 20
"""Number of points from which a histogram is drawn; fewer are drawn as points."""
LEAST_BINS, MOST_BINS = 16, 48
TALLEST = 1.7  # bars are cut at this many times the Gaussian's peak
RADII = np.array([1.0, 2.0, 3.0])
MOST_POINTS, MOST_QUANTILES = 3000, 400


def draw_latents(melt: SavedTrajectory) -> Figure:
    """Draw histograms of the latents of an inflation in its first dimensions."""
    latents, variance, compressed = melt.last, melt.latent_variance(), melt.compressed()
    count = min(latents.shape[1], MOST_PANELS)
    error = f"curve: closed form · standard error of a variance: {math.sqrt(2 / melt.count):.1%}"
    figure, panels = theme.panels(
        count,
        min(count, COLUMNS),
        SIZE,
        *_headline(melt, error),
        left=LEFT,
        right=LEFT,
        gap=GAP,
        below=0.55,
        least_width=LEAST_WIDTH,
    )
    for number, axes in enumerate(panels):
        values, exact = latents[:, number], float(variance[number])
        _histogram(axes, values, exact, ORANGE if compressed[number] else BLUE)
        name = f"eigen-dimension {number + 1}"
        if compressed[number]:
            name += f", variance compressed to {_share(exact / variance.max())}"
        measured = float(np.square(values).mean())
        theme.name_panel(
            axes, name, f"variance {measured:#.3g} = {measured / exact:.3f} × the closed form"
        )
        theme.label(axes, f"latent $e_{number + 1}$, scaled")
    return figure


def draw_joint(melt: SavedTrajectory) -> Figure:
    """Draw latents of an inflation: the first two dimensions, and quantiles of the first six."""
    words = _headline(melt, "in units of the closed form's σ")
    figure, (left, right) = theme.panels(2, 2, (SIDE, SIDE), *words, gap=0.8)
    units = melt.last / np.sqrt(melt.latent_variance()[: melt.last.shape[1]])
    _joint(left, units[:, :2])
    _quantiles(right, units, melt.compressed()[: units.shape[1]])
    return figure


def gaussian(values: np.ndarray, variance: float) -> np.ndarray:
    """Return the density of ``N(0, variance)`` at some values."""
    return np.exp(-0.5 * values**2 / variance) / math.sqrt(2 * math.pi * variance)


def _headline(melt: SavedTrajectory, note: str) -> tuple[str, str]:
    name, details = name_and_details(melt)
    title = theme.joined(f"Latents of {name}", details, by=": ")
    return title, theme.joined(f"{melt.count} points at t = {melt.times[-1]:.2f}", note)


def _histogram(axes: Axes, values: np.ndarray, variance: float, color: str) -> None:
    reach = RANGE * math.sqrt(variance)
    # Few points in many bins would give only spikes.
    bins = int(np.clip(4 * len(values) ** (1 / 3), LEAST_BINS, MOST_BINS))
    edges = np.linspace(-reach, reach, bins + 1)
    # Relative to all points, not only those in range, so that bars and curve are comparable.
    density = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
    grid = np.linspace(-reach, reach, 201)
    axes.plot(grid, gaussian(grid, variance), color=color, lw=1.8)
    peak = float(gaussian(np.zeros(1), variance)[0])
    if len(values) < FEW_POINTS:
        density = np.zeros(1)
        axes.plot(
            values, np.full(len(values), 0.1 * peak), "o", ms=5, mew=0, alpha=0.7, color=color
        )
    else:
        axes.bar(edges[:-1], density, np.diff(edges), align="edge", color=color, alpha=0.35, lw=0)
    top = min(max(1.12 * peak, 1.05 * float(density.max())), TALLEST * peak)
    axes.set(xlim=(-reach, reach), ylim=(0, top), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=7)
    notes = []
    if density.max() > top:
        notes.append(f"tallest bar cut:\n{density.max() / peak:.1f} × the curve")
    beyond = float((np.abs(values) > reach).mean())
    if beyond > 1e-3:
        notes.append(f"{beyond:.1%} of points\nare outside")
    theme.note_inside(axes, "\n".join(notes))


def _joint(axes: Axes, units: np.ndarray) -> None:
    shown = units[evenly(len(units), MOST_POINTS)]
    axes.plot(*shown.T, "o", ms=2, mew=0, color=BLUE, alpha=0.5)
    for radius in RADII:
        axes.add_patch(Circle((0, 0), radius, fill=False, ec=INK, lw=1))
    axes.set(xlim=(-RANGE, RANGE), ylim=(-RANGE, RANGE), aspect="equal")
    theme.label(axes, r"$e_1\,/\,\sigma_1$", r"$e_2\,/\,\sigma_2$")
    distance = np.linalg.norm(units, axis=1)
    held = ", ".join(f"{(distance < radius).mean():.1%}" for radius in RADII)
    exact = ", ".join(f"{part:.1%}" for part in gaussian_content(RADII, 2))
    theme.name_panel(axes, f"1, 2, 3 σ hold {held}", f"closed form: {exact}")


def _quantiles(axes: Axes, units: np.ndarray, compressed: np.ndarray) -> None:
    """Draw quantiles of the dimensions against normal ones, with a band of ±2 standard errors."""
    count = len(units)
    ranks = evenly(count, MOST_QUANTILES)
    shares = (ranks + 0.5) / count
    normal = np.array([NormalDist().inv_cdf(share) for share in shares])
    error = np.sqrt(shares * (1 - shares) / count) / gaussian(normal, 1.0)
    axes.fill_between(normal, normal - 2 * error, normal + 2 * error, color=FAINT, lw=0)
    ends = np.array([-RANGE, RANGE])
    axes.plot(ends, ends, color=MUTED, lw=0.8)
    named: set[str] = set()
    for values, small in zip(units.T, compressed, strict=True):
        color, name = (ORANGE, "compressed") if small else (BLUE, "kept")
        there = np.sort(values)[ranks]
        axes.plot(normal, there, color=color, lw=1.2, label="" if name in named else name)
        named.add(name)
    axes.set(xlim=(-RANGE, RANGE), ylim=(-RANGE, RANGE), aspect="equal")
    theme.label(axes, "normal quantile", "quantile of the latent / σ")
    theme.legend(axes, 2, loc="upper left", bbox_to_anchor=(0.02, 0.98))
    which = "both dimensions" if units.shape[1] == 2 else f"the first {units.shape[1]} dimensions"
    theme.name_panel(axes, f"Quantiles of {which}", "band: ±2 standard errors of a quantile")


def _share(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio >= 0.01 else f"{ratio:.1e}"


HEIGHTS = (2.8, 1.3)  # inches
MANY = 200  # number of dimensions from which their axis is logarithmic, to separate the first ones
RATIOS = (0.1, 10.0)  # farthest limits of the lower panel
# Ticks by the largest ratio of the limits at which they are used.
RATIO_TICKS = {
    1.8: (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4),
    4: (0.4, 0.6, 0.8, 1, 1.25, 1.6, 2),
    math.inf: (0.1, 0.2, 0.5, 1, 2, 5, 10),
}
FAR = 100.0  # reach of the upper panel below the closed form


def draw_spectrum(melt: SavedTrajectory) -> Figure:
    """Draw the variances of latents by eigen-dimension, and their ratios to the closed form."""
    measured, exact, compressed = melt.last_variance, melt.latent_variance(), melt.compressed()
    ratios = measured / exact
    name, details = name_and_details(melt)
    figure, (axes, below) = theme.stacked(
        theme.joined(f"Spectrum of the latents of {name}", details, by=": "),
        theme.joined(f"{melt.count} latents", mean_ratio(ratios[~compressed], melt.count)),
        HEIGHTS,
        "eigen-dimension",
    )
    index = np.arange(1, len(exact) + 1)
    axes.plot(index, exact, color=INK, lw=1.2, label="closed form", zorder=3)
    lowest = max(float(measured.min()) / 1.5, float(exact.min()) / FAR)
    axes.set_ylim(lowest, 1.5 * max(float(measured.max()), float(exact.max())))
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    _dots(axes, index, measured, compressed)
    theme.label(axes, y="variance of the latent")
    theme.legend(axes, 3, markerscale=1 if len(index) <= MANY else 2)
    _ratios(below, index, ratios, compressed, 2 * math.sqrt(2 / melt.count))
    for panel in (axes, below):
        if len(index) > MANY:
            panel.set_xscale("log")
            panel.set_xlim(0.9, 1.1 * len(index))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter("{x:g}")
        else:
            panel.set_xlim(0.5 - 0.01 * len(index), len(index) * 1.01 + 0.5)
    return figure


def mean_ratio(ratios: np.ndarray, count: int) -> str:
    """Describe in words the mean of ratios ``[d]`` of sample variances to the closed form.

    Args:
        ratios: Ratios.
        count: Number of samples.
    """
    error = math.sqrt(2 / count * float(np.square(ratios).mean()) / len(ratios))
    mean = f"mean ratio {float(ratios.mean()):#.3g} ± {error:.2g} (standard error)"
    return f"kept dimensions: {mean}, {int((ratios < 1).sum())} of {len(ratios)} below 1"


def _ratios(
    axes: Axes, index: np.ndarray, ratios: np.ndarray, compressed: np.ndarray, error: float
) -> None:
    low = max(min(float(ratios.min()) / 1.15, 0.9 - error), RATIOS[0])
    high = min(max(float(ratios.max()) * 1.15, 1.1 + error), RATIOS[1])
    axes.set_ylim(low, high)
    axes.set_yscale("log")
    ticks = next(ticks for most, ticks in RATIO_TICKS.items() if high / low <= most)
    # A band that reaches zero ends at the axis.
    axes.axhspan(max(1 - error, low), 1 + error, color=FAINT, alpha=0.6, lw=0)
    axes.axhline(1, color=INK, lw=1.2, zorder=3)
    _dots(axes, index, ratios, compressed)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    theme.label(axes, y="measured /\nclosed form")
    theme.note_above(axes, "band: ±2 standard errors of one variance")


def _dots(axes: Axes, index: np.ndarray, values: np.ndarray, compressed: np.ndarray) -> None:
    """Draw dots in the colors of their dimensions, and arrow heads for those beyond the limits."""
    low, high = axes.get_ylim()
    small = len(index) > MANY
    for chosen, color, name in (
        (~compressed, BLUE, "measured, kept dimensions"),
        (compressed, ORANGE, "measured, compressed dimensions"),
    ):
        if not chosen.any():
            continue
        style: dict[str, Any] = {"color": color, "ls": "none", "markeredgewidth": 0, "label": name}
        for there, marker, size in (
            ((values >= low) & (values <= high), "o", 4),
            (values < low, "v", 5.5),
            (values > high, "^", 5.5),
        ):
            shown = chosen & there
            style |= {"markersize": size / 2 if small else size, "alpha": 0.6 if small else 0.9}
            axes.plot(index[shown], values[shown].clip(low, high), marker, clip_on=False, **style)
            style["label"] = None


MAP_SIDE, BAR = 3.3, 0.12  # inches
BINS = 48
LOWEST_SHARE = 5e-3  # share of lowest densities: one color, left out of the histogram


def draw_densities(trajectory: SavedTrajectory) -> Figure:
    """Draw a map and a histogram of the log densities of the points of a simulation.

    Images have no map, and their histogram is in bits per dimension instead of nats.
    """
    assert trajectory.log_prob is not None
    values, unit = trajectory.log_prob, "log density in nats"
    if trajectory.bits_per_dim is not None:
        values, unit = trajectory.bits_per_dim, "bits per dimension"
    mapped = trajectory.images is None
    name, details = name_and_details(trajectory)
    source = "generated " if trajectory.kind == "gen" else ""
    figure, places = theme.panel_page(
        1,
        1 + mapped,
        (MAP_SIDE, MAP_SIDE if mapped else 2.2),
        f"Log density of {source}{name}",
        theme.joined(details, f"{len(values)} {'points' if mapped else 'images'}"),
        gap=1.4,
        least_width=5.5,
    )
    axes = theme.axes_at(figure, places[0, -1])
    many = len(values) >= FEW_POINTS
    cut = np.quantile(values, LOWEST_SHARE) if mapped and many else values.min()
    if not many:
        axes.plot(values, np.ones(len(values)), "o", ms=5, mew=0, alpha=0.7, color=BLUE)
        axes.set(ylim=(0, 2), yticks=[])
        theme.label(axes, unit)
    else:
        axes.hist(values[values >= cut], BINS, color=BLUE, alpha=0.55, lw=0)
        theme.label(axes, unit, "points" if mapped else "images")
    axes.axvline(values.mean(), color=INK, lw=1.2)
    error = values.std(ddof=1) / math.sqrt(len(values))
    mean = f"mean {values.mean():.4g} ± {error:.2g} (standard error)"
    lower = int((values < cut).sum())
    cut_off = f"{lower} below {cut:.3g} not drawn" if lower else ""
    theme.name_panel(axes, mean.replace("-", "−"), cut_off.replace("-", "−"))
    if mapped:
        _map(figure, places[0, 0], trajectory, values, cut)
    return figure


def _map(
    figure: Figure, place: np.ndarray, trajectory: SavedTrajectory, values: np.ndarray, cut: float
) -> None:
    points = points_of(trajectory)[trajectory.times.argmin()]
    values = values[trajectory.chosen]
    order = values.argsort()  # draw the likely points on top
    axes = cloud_axes(figure, place, common_box([points]), axis_names(trajectory))
    colors, norm = ListedColormap(theme.sequential_colors(256)), Normalize(cut, values.max())
    dots = scatter(axes, points[order], colors(norm(values[order]))[:, :3], size=6)
    dots.set(cmap=colors, norm=norm)
    theme.name_panel(axes, "colors: log density in nats")
    left, bottom, width, height = place
    off = 0.1 if points.shape[1] == 2 else 0.3
    bar = theme.color_bar(figure, dots, (left + width + off, bottom, BAR, height))
    bar.tick_params(labelsize=theme.SMALL_SIZE)
