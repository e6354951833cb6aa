"""Coverage against the radius: what boundaries hold, against the chi-square distribution.

A sphere of Mahalanobis radius r holds the part ``p = P(D/2, r^2/2)`` of a Gaussian in D dimensions.
Counted among N points of it, that part has the standard deviation ``sqrt(p (1 - p) / N)``, which is
far below what can be seen on the scale of p: so the difference from p is drawn below it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.measure.boundaries import gaussian_content
from training.measure.coverage import mean_and_two_std
from training.pictures.style.colors import BLUE, FAINT, INK, MUTED, ORANGE
from training.pictures.style.look import (
    HEADLINE_HEIGHT,
    SMALL_SIZE,
    TEXT_SIZE,
    axes_at,
    headline,
    new_figure,
    quiet,
)

WIDTH, LEFT, RIGHT = 8.0, 0.85, 0.2  # inches
COVERAGE_HEIGHT, DIFFERENCE_HEIGHT, LEGEND_HEIGHT, GAP, BOTTOM = 2.4, 2.2, 0.22, 0.3, 0.5
MANY = 12  # radii from which marks are small
PART = 0.12  # of the distance of two radii: how far apart marks of one radius are drawn
STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o", "color": BLUE, "markerfacecolor": "white"},
    {"marker": "^", "color": BLUE},
    {"marker": "x", "color": BLUE, "markeredgewidth": 1.2},
    {"marker": "D", "color": ORANGE},
)


@dataclass(frozen=True)
class Counts:
    """Fractions of points inside boundaries of R radii, of each of S seeds ``[S, R]``."""

    name: str
    fractions: np.ndarray


def draw_coverage(
    radii: np.ndarray,
    counts: list[Counts],
    within: np.ndarray,
    dim: int,
    count: int,
    title: str,
    subtitle: str,
) -> Figure:
    """Fractions inside by radius, and below them their difference from the exact ones.

    Args:
        radii: Mahalanobis radii ``[R]``, increasing.
        counts: Up to four, told apart by their marks.
        within: The part of the Gaussian inside each polygon or mesh at the start ``[R]``.
        dim: D.
        count: N, the points counted for each seed.
        title: What is seen.
        subtitle: How to read it.
    """
    panels = COVERAGE_HEIGHT + GAP + DIFFERENCE_HEIGHT
    height = 0.1 + HEADLINE_HEIGHT + LEGEND_HEIGHT + panels + BOTTOM
    figure = new_figure(WIDTH, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    wide = WIDTH - LEFT - RIGHT
    below = axes_at(figure, LEFT, BOTTOM, wide, DIFFERENCE_HEIGHT)
    axes = axes_at(figure, LEFT, BOTTOM + DIFFERENCE_HEIGHT + GAP, wide, COVERAGE_HEIGHT)
    step = float(np.diff(radii).min()) if len(radii) > 1 else 0.5
    grid = np.linspace(0, radii[-1] + step / 2, 401)
    exact, expected = gaussian_content(grid, dim), gaussian_content(radii, dim)
    two_std = 2 * np.sqrt(exact * (1 - exact) / count)

    axes.fill_between(grid, exact - two_std, exact + two_std, color=FAINT, lw=0)
    axes.plot(grid, exact, color=INK, lw=1.2, label=f"χ², {dim} dimensions")
    below.fill_between(grid, -100 * two_std, 100 * two_std, color=FAINT, alpha=0.6, lw=0)
    below.axhline(0, color=INK, lw=1.2)
    lost = np.concatenate([[0.0], 100 * (within - expected)])
    below.plot(np.concatenate([[0.0], radii]), lost, color=MUTED, lw=1, ls=(0, (5, 4)))
    for index, (item, style) in enumerate(zip(counts, STYLES, strict=False)):
        style = {"markersize": 4.5 if len(radii) < MANY else 2.5, "ls": "none", **style}
        mean, spread = mean_and_two_std(item.fractions)
        axes.plot(radii, mean, label=item.name, **style)
        beside = radii + (index - (len(counts) - 1) / 2) * PART * step
        bars = None if spread is None else 100 * spread
        below.errorbar(beside, 100 * (mean - expected), yerr=bars, elinewidth=1, **style)
    _finish(axes, below, grid, counts)
    return figure


def _finish(axes: Axes, below: Axes, grid: np.ndarray, counts: list[Counts]) -> None:
    axes.set_ylim(0, 1.03)
    axes.tick_params(labelbottom=False)
    axes.set_ylabel("fraction inside", size=TEXT_SIZE, color=MUTED)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=1 + len(counts),
        frameon=False,
        fontsize=SMALL_SIZE,
        labelcolor=MUTED,
        borderpad=0,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.5,
    )
    below.set_ylabel("difference from χ²,\npercentage points", size=SMALL_SIZE, color=MUTED)
    below.set_xlabel("Mahalanobis radius", size=TEXT_SIZE, color=MUTED)
    for panel in (axes, below):
        panel.set_xlim(0, grid[-1])
        quiet(panel)
        panel.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    axes.figure.align_ylabels([axes, below])
    seeds = len(counts[0].fractions)
    notes = ["band: ±2 standard deviations of a count", "dashed: what the drawn boundary holds"]
    if seeds > 1:
        notes.insert(1, f"bars: ±2 standard deviations of {seeds} seeds")
    below.annotate(
        " · ".join(notes),
        (1, 1),
        xytext=(0, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        size=SMALL_SIZE,
        color=MUTED,
    )
