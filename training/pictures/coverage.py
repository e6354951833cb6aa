"""Pictures of coverage: fractions inside boundaries by radius, and boundaries carried by a flow."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.files.arrays import evenly, parameter, title_of
from training.files.coverage import SavedCoverage
from training.paper.containment import Boundary, gaussian_content
from training.paper.coverage import STAGES, contents_within, mean_and_two_std
from training.pictures import theme
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE

LEFT, RIGHT, GAP = 0.6, 0.1, 0.5  # inches around and between the panels
SIDE = (theme.WIDE - LEFT - RIGHT - GAP * (len(STAGES) - 1)) / len(STAGES)
POINT_COLOR, POINT_SIZE, MOST_POINTS = "#c9ced8", 1.8, 2500
MOST_IN_LEGEND = 7
STRAYS = 2e-3  # share of the points that may lie outside the limits
STAGE_TITLES = {"latent": "latent, at the start", "data": "data", "end": "latent, at the end"}
CUTS = (1, 0)  # axes normal to the cut planes: across them, sheets appear in profile
NEAR = 0.2  # points within this many standard deviations of a plane are drawn with its cut


def draw_boundaries(saved: SavedCoverage, name: str, details: str) -> Figure:
    """Draw boundaries and points: one column per stage and, in 3-D, one row per cutting plane.

    The stages are latent space, generated data, and latents after inflation of the data. A boundary
    has the same color in all panels.
    """
    cuts = (None,) if saved.dim == 2 else CUTS
    shape = "Circles" if saved.dim == 2 else "Spheres"
    fate = "refitted at each stage" if saved.refitted else "carried to the data and back"
    figure, places = theme.panel_page(
        len(cuts),
        len(STAGES),
        (SIDE, SIDE),
        f"{shape} of Mahalanobis radius r, {fate}: {name}",
        theme.joined(details, "percent: probability of the sphere under the Gaussian (χ²)"),
        left=LEFT,
        right=RIGHT,
        gap=GAP,
        top=theme.TOP + 1.2 * theme.LINE_HEIGHT,
    )
    for normal, line in zip(cuts, places, strict=True):
        for stage, place in zip(STAGES, line, strict=True):
            _panel(theme.axes_at(figure, place), saved, stage, normal)
    bottom = figure.get_size_inches()[1] - theme.TOP - theme.LINE_HEIGHT
    axes = theme.axes_at(figure, (LEFT, bottom, SIDE, 0.01))
    axes.set_axis_off()
    count = len(saved.radii)
    shown, colors = evenly(count, MOST_IN_LEGEND), theme.sequential_colors(count)
    contents = gaussian_content(saved.radii, saved.dim)
    theme.legend(
        axes,
        len(shown),
        handles=[Line2D([], [], color=colors[index], lw=2) for index in shown],
        labels=[f"r = {saved.radii[index]:.3g}: {contents[index]:.1%}" for index in shown],
        handlelength=1.2,
        columnspacing=1.4,
    )
    return figure


def edges(boundary: Boundary) -> np.ndarray:
    """Return the end points ``[F, 2, 2]`` of the sides of a polygon."""
    return boundary.vertices[boundary.faces]


def cut(boundary: Boundary, axis: int) -> np.ndarray:
    """Return the section of a mesh by the plane where the coordinate with index ``axis`` is 0.

    Returns:
        End points ``[M, 2, 2]`` of M segments, in the remaining two coordinates.
    """
    start = boundary.vertices[boundary.faces]
    end = np.roll(start, -1, axis=1)
    above, next_above = start[..., axis], end[..., axis]
    # A point in the plane counts as above it, so a triangle has either two crossing edges or none.
    crossed = (above < 0) != (next_above < 0)
    share = (above / np.where(crossed, above - next_above, 1))[..., None]
    ends = (start + share * (end - start))[crossed].reshape(-1, 2, 3)
    return np.delete(ends, axis, axis=2)


def limits_of(points: np.ndarray, boundaries: Sequence[Boundary]) -> np.ndarray:
    """Return axis limits ``[D, 2]``, a square or cube that contains boundaries and most points."""
    within = np.quantile(points, [STRAYS / 2, 1 - STRAYS / 2], axis=0)
    corners = np.concatenate([within, *(boundary.vertices for boundary in boundaries)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9) * 1.05
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def _panel(axes: Axes, saved: SavedCoverage, stage: str, normal: int | None) -> None:
    """Draw the boundaries of a stage; in 3-D, their section by the plane with this normal axis."""
    points, boundaries = saved.points[stage], saved.boundaries[stage]
    limits = limits_of(points, boundaries)
    of_data = stage == "data"
    letter, shown = ("x", "fresh data") if of_data else ("e", "test points")
    kept = [axis for axis in range(saved.dim) if axis != normal]
    if normal is None:
        outlines, words = [edges(boundary) for boundary in boundaries], [f"gray: {shown}"]
    else:
        outlines = [cut(boundary, normal) for boundary in boundaries]
        near = np.abs(points[:, normal]) < NEAR * points[:, normal].std()
        points, limits = points[near][:, kept], limits[kept]
        words = [f"cut by ${letter}_{normal + 1} = 0$", f"gray: {shown} near it"]
    if not of_data:
        words.append("σ = " + ", ".join(f"{std:.2g}" for std in saved.latent_std))
    points = points[evenly(len(points), MOST_POINTS)]
    axes.plot(*points.T, "o", ms=POINT_SIZE, mew=0, color=POINT_COLOR, zorder=1)
    colors = theme.sequential_colors(len(outlines))
    width = 1.4 if len(outlines) <= MOST_IN_LEGEND else 0.8
    for outline, color in zip(outlines, colors, strict=True):
        axes.add_collection(
            LineCollection(list(outline), colors=[color], linewidths=width, capstyle="round")
        )
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
    axes.locator_params(nbins=6)
    names = [
        f"${letter}_{axis + 1}$" if of_data else rf"$e_{axis + 1}\,/\,\sigma_{axis + 1}$"
        for axis in kept
    ]
    theme.label(axes, names[0], names[1])
    theme.name_panel(axes, STAGE_TITLES[stage], theme.joined(*words))


HEIGHTS = (2.4, 2.2)  # inches
MANY = 12  # number of radii from which marks are small
PART = 0.12  # spacing of the marks at one radius, as a fraction of the distance between radii
STYLES: dict[str, dict[str, Any]] = {
    "test points, start": {"marker": "o", "color": BLUE, "markerfacecolor": "white"},
    "test points, data": {"marker": "^", "color": BLUE},
    "test points, end": {"marker": "x", "color": BLUE, "markeredgewidth": 1.2},
    "fresh data": {"marker": "D", "color": ORANGE},
}


def draw_radius(saved: SavedCoverage, name: str, details: str) -> Figure:
    """Draw coverage against radius, and below it the differences from the exact coverage."""
    radii, seeds = saved.radii, len(saved.fresh)
    fewest = min(saved.count, saved.fresh_count)
    points = f"{saved.count:,} points" + (f", {seeds} seeds" if seeds > 1 else "")
    if saved.fresh_count != saved.count:
        points += f", {saved.fresh_count:,} of fresh data"
    figure, (axes, below) = theme.stacked(
        f"Coverage of {name}",
        theme.joined(details, points, "boundaries refitted" if saved.refitted else ""),
        HEIGHTS,
        "Mahalanobis radius",
    )
    step = float(np.diff(radii).min()) if len(radii) > 1 else 0.5
    grid = np.linspace(0, radii[-1] + step / 2, 401)
    exact, expected = gaussian_content(grid, saved.dim), gaussian_content(radii, saved.dim)
    two_std = 2 * np.sqrt(exact * (1 - exact) / fewest)

    axes.fill_between(grid, exact - two_std, exact + two_std, color=FAINT, lw=0)
    axes.plot(grid, exact, color=INK, lw=1.2, label=f"χ², {saved.dim} dimensions")
    below.fill_between(grid, -100 * two_std, 100 * two_std, color=FAINT, alpha=0.6, lw=0)
    below.axhline(0, color=INK, lw=1.2)
    held = contents_within(saved.boundaries["latent"]) - expected
    below.plot([0, *radii], [0, *(100 * held)], color=MUTED, lw=1, ls=theme.DASHED)
    columns = [*np.moveaxis(saved.coverage, 1, 0), saved.fresh]
    for index, (fractions, (what, style)) in enumerate(zip(columns, STYLES.items(), strict=True)):
        style = {"markersize": 4.5 if len(radii) < MANY else 2.5, "ls": "none", **style}
        mean, spread = mean_and_two_std(fractions)
        axes.plot(radii, mean, label=what, **style)
        beside = radii + (index - (len(columns) - 1) / 2) * PART * step
        bars = None if spread is None else 100 * spread
        below.errorbar(beside, 100 * (mean - expected), yerr=bars, elinewidth=1, **style)
    for panel in (axes, below):
        panel.set_xlim(0, grid[-1])
    axes.set_ylim(0, 1.03)
    theme.label(axes, y="fraction inside")
    theme.legend(axes, 1 + len(columns))
    theme.label(below, y="difference from χ²,\npercentage points")
    bars_are = [f"bars: ±2 standard deviations of {seeds} seeds"] if seeds > 1 else []
    theme.note_above(
        below,
        f"band: ±2 standard deviations of a count of {fewest:,}",
        *bars_are,
        "dashed: coverage of the drawn boundary",
    )
    return figure


SCORES = {"net": "trained network", "exact": "exact denoiser"}


def pictures_of_coverage(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the pictures of a coverage file.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedCoverage.load(path)
    name, details = title_of(path.stem.removesuffix("_coverage"))
    score = parameter(path.with_suffix(".json"), "options", "score")
    words = {"name": name, "details": theme.joined(details, theme.words_for(score, SCORES))}
    draw = {
        "radius": partial(draw_radius, saved, **words),
        "boundaries": partial(draw_boundaries, saved, **words),
    }
    return theme.figures((folder or path.parent) / path.stem, draw)
