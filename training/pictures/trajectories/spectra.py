"""The variances of a melt's latents, over all eigen-dimensions, against their closed form.

At time T dimension i has variance ``s² (ξ_i + γ_i)``: scale s, data variance ξ, noise variance γ.
Measured on N Gaussian samples, a variance has a relative standard error of ``sqrt(2 / N)``.
"""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

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
VARIANCE_HEIGHT, RATIO_HEIGHT, LEGEND_HEIGHT, GAP, BOTTOM = 2.8, 1.3, 0.22, 0.2, 0.5
MANY = 200  # dimensions from which their axis is logarithmic, so that the first ones can be told
RATIOS = (0.1, 10.0)  # farthest limits of the lower panel
RATIO_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
FAR = 100.0  # how far below the closed form the upper panel reaches


def draw_spectrum(
    measured: np.ndarray,
    exact: np.ndarray,
    compressed: np.ndarray,
    count: int,
    title: str,
    subtitle: str,
) -> Figure:
    """Variances by eigen-dimension, and below them their ratio to the closed form.

    Args:
        measured: ``[D]``.
        exact: Of the closed form, ``[D]``, positive.
        compressed: Which dimensions inflate less than others, bool ``[D]``.
        count: N, the samples measured.
        title: What is seen.
        subtitle: How to read it.
    """
    height = 0.1 + HEADLINE_HEIGHT + LEGEND_HEIGHT + VARIANCE_HEIGHT + GAP + RATIO_HEIGHT + BOTTOM
    figure = new_figure(WIDTH, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    wide = WIDTH - LEFT - RIGHT
    ratio_axes = axes_at(figure, LEFT, BOTTOM, wide, RATIO_HEIGHT)
    axes = axes_at(figure, LEFT, BOTTOM + RATIO_HEIGHT + GAP, wide, VARIANCE_HEIGHT)
    index = np.arange(1, len(exact) + 1)
    axes.plot(index, exact, color=INK, lw=1.2, label="closed form", zorder=3)
    lowest = max(float(measured.min()) / 1.5, float(exact.min()) / FAR)
    axes.set_ylim(lowest, 1.5 * max(float(measured.max()), float(exact.max())))
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    _dots(axes, index, measured, compressed)
    axes.set_ylabel("variance of the latent", size=TEXT_SIZE, color=MUTED)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=3,
        frameon=False,
        fontsize=SMALL_SIZE,
        labelcolor=MUTED,
        borderpad=0,
        handlelength=1.4,
        columnspacing=1.6,
        markerscale=1 if len(index) <= MANY else 2,
    )
    _ratios(ratio_axes, index, measured / exact, compressed, 2 * math.sqrt(2 / count))
    ratio_axes.set_xlabel("eigen-dimension", size=TEXT_SIZE, color=MUTED)
    for panel in (axes, ratio_axes):
        if len(index) > MANY:
            panel.set_xscale("log")
            panel.set_xlim(0.9, 1.1 * len(index))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter("{x:g}")
        else:
            panel.set_xlim(0.5 - 0.01 * len(index), len(index) * 1.01 + 0.5)
        quiet(panel)
        panel.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    axes.tick_params(labelbottom=False)
    figure.align_ylabels([axes, ratio_axes])
    return figure


def share_within(ratios: np.ndarray, count: int) -> float:
    """The share of the ratios ``[D]`` that two sampling errors of a variance explain."""
    return float((np.abs(ratios - 1) <= 2 * math.sqrt(2 / count)).mean())


def _ratios(
    axes: Axes, index: np.ndarray, ratios: np.ndarray, compressed: np.ndarray, error: float
) -> None:
    low = max(min(float(ratios.min()) / 1.15, 0.9 - error), RATIOS[0])
    high = min(max(float(ratios.max()) * 1.15, 1.1 + error), RATIOS[1])
    axes.set_ylim(low, high)
    axes.set_yscale("log")
    # A band that reaches zero ends at the axis.
    axes.axhspan(max(1 - error, low), 1 + error, color=FAINT, alpha=0.6, lw=0)
    axes.axhline(1, color=INK, lw=1.2, zorder=3)
    _dots(axes, index, ratios, compressed)
    axes.yaxis.set_major_locator(FixedLocator(RATIO_TICKS))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("measured /\nclosed form", size=SMALL_SIZE, color=MUTED)
    axes.annotate(
        "band: ±2 sampling errors",
        (1, 1),
        xytext=(0, 2),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        size=SMALL_SIZE,
        color=MUTED,
    )


def _dots(axes: Axes, index: np.ndarray, values: np.ndarray, compressed: np.ndarray) -> None:
    """Dots in the colors of their dimensions; arrow heads at the limits for those beyond."""
    low, high = axes.get_ylim()
    small = len(index) > MANY
    for chosen, color, name in (
        (~compressed, BLUE, "measured, kept dimensions"),
        (compressed, ORANGE, "measured, compressed dimensions"),
    ):
        if not chosen.any():
            continue
        style: dict[str, Any] = {"color": color, "ls": "none", "markeredgewidth": 0}
        style["alpha"] = 0.6 if small else 0.9
        inside = chosen & (values >= low) & (values <= high)
        size = 2 if small else 4
        axes.plot(index[inside], values[inside], "o", markersize=size, label=name, **style)
        for beyond, limit, marker in ((values < low, low, "v"), (values > high, high, "^")):
            there = index[chosen & beyond]
            limits = np.full(len(there), limit)
            axes.plot(there, limits, marker, markersize=size + 1.5, clip_on=False, **style)
