"""Coverage against the radius: what boundaries hold, against the chi-square distribution.

A sphere of Mahalanobis radius r holds the part ``p = P(D/2, r^2/2)`` of a Gaussian in D dimensions.
Counted among N points of it, that part has the standard deviation ``sqrt(p (1 - p) / N)``, which is
far below what can be seen on the scale of p: so the difference from p is drawn below it.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.files.coverage import SavedCoverage
from training.measure.boundaries import gaussian_content
from training.measure.coverage import contents_within, mean_and_two_std
from training.pictures.style import look
from training.pictures.style.colors import BLUE, FAINT, INK, MUTED, ORANGE
from training.pictures.style.words import joined

HEIGHTS = (2.4, 2.2)  # inches
MANY = 12  # radii from which marks are small
PART = 0.12  # of the distance of two radii: how far apart marks of one radius are drawn
STYLES: dict[str, dict[str, Any]] = {
    "test points, start": {"marker": "o", "color": BLUE, "markerfacecolor": "white"},
    "test points, data": {"marker": "^", "color": BLUE},
    "test points, end": {"marker": "x", "color": BLUE, "markeredgewidth": 1.2},
    "fresh data": {"marker": "D", "color": ORANGE},
}


def draw_radius(saved: SavedCoverage, name: str, details: str) -> Figure:
    """Fractions inside by radius, and below them their difference from the exact ones.

    Args:
        saved: What to draw.
        name: The data's.
        details: How the file was made.
    """
    radii, seeds = saved.radii, len(saved.fresh)
    fewest = min(saved.count, saved.fresh_count)
    points = f"{saved.count:,} points" + (f", {seeds} seeds" if seeds > 1 else "")
    if saved.fresh_count != saved.count:
        points += f", {saved.fresh_count:,} of fresh data"
    figure, (axes, below) = look.stacked(
        f"Coverage of {name}",
        joined(details, points, "boundaries refitted" if saved.refitted else ""),
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
    below.plot([0, *radii], [0, *(100 * held)], color=MUTED, lw=1, ls=look.DASHED)
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
    look.label(axes, y="fraction inside")
    look.legend(axes, 1 + len(columns))
    look.label(below, y="difference from χ²,\npercentage points")
    bars_are = [f"bars: ±2 standard deviations of {seeds} seeds"] if seeds > 1 else []
    look.note_above(
        below,
        f"band: ±2 standard deviations of a count of {fewest:,}",
        *bars_are,
        "dashed: what the drawn boundary holds",
    )
    return figure
