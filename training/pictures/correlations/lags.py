"""Autocorrelations of what a denoiser gives, against the lag from the first time."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.pictures.correlations.saved_lags import LagCurve, SavedLags
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

WIDTH, LEFT, RIGHT = 8.0, 0.75, 0.2  # inches
PANEL_HEIGHT, LINE_HEIGHT, BOTTOM = 3.2, 0.2, 0.5
FEW = 3  # dimensions up to which each is drawn
MANY = 200  # lags from which lines are thin
QUANTILES = (0.1, 0.9)
COLORS = {"net_outputs": BLUE, "net_residuals": ORANGE, "exact_residuals": INK}
NAMES = {
    "net_outputs": "network output D",
    "net_residuals": "residual D − e",
    "exact_residuals": "error D − exact D",
}


def draw_lags(saved: SavedLags, title: str, subtitle: str) -> Figure:
    """One line for each quantity, the mean of its dimensions, and how they spread.

    Args:
        saved: What to draw.
        title: What is seen.
        subtitle: How to read it.
    """
    legend = LINE_HEIGHT * len(saved.curves)
    height = 0.1 + HEADLINE_HEIGHT + legend + PANEL_HEIGHT + BOTTOM
    figure = new_figure(WIDTH, height)
    headline(figure, title, subtitle, LEFT, height - 0.1)
    axes = axes_at(figure, LEFT, BOTTOM, WIDTH - LEFT - RIGHT, PANEL_HEIGHT)
    axes.axhline(0, color=MUTED, lw=0.8)
    lowest = [
        _draw(axes, saved.lags, curve, NAMES[name], COLORS[name])
        for name, curve in saved.curves.items()
    ]
    last = float(saved.lags[-1])
    axes.set(xlim=(-0.008 * last, 1.008 * last), ylim=(min(0, *lowest) - 0.08, 1.04))
    axes.set_xlabel("lag in t from the first time", size=TEXT_SIZE, color=MUTED)
    axes.set_ylabel("correlation with the first time", size=TEXT_SIZE, color=MUTED)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        frameon=False,
        fontsize=SMALL_SIZE,
        labelcolor=MUTED,
        borderpad=0,
        handlelength=1.4,
    )
    quiet(axes)
    axes.grid(axis="y", color=FAINT, lw=0.6, alpha=0.7)
    return figure


def spread_words(dim: int) -> str:
    """How the spread over so many dimensions is drawn."""
    if dim == 1:
        return ""
    if dim <= FEW:
        return f"thick: mean over {dim} dimensions, thin: each"
    low, high = QUANTILES
    return f"line: mean over {dim} dimensions, band: {low:.0%} to {high:.0%} of them"


def quantile_band(diagonal: np.ndarray) -> np.ndarray:
    """Quantiles over the dimensions that vary of ``[T, D]``, as ``[2, T]``; 0 where none does."""
    varies = np.isfinite(diagonal).any(axis=1, keepdims=True)
    band: np.ndarray = np.nanquantile(np.where(varies, diagonal, 0), QUANTILES, axis=1)
    return band


def _draw(axes: Axes, lags: np.ndarray, curve: LagCurve, name: str, color: str) -> float:
    """Draws a quantity, and returns the lowest value drawn."""
    spread = curve.diagonal if curve.diagonal.shape[1] <= FEW else quantile_band(curve.diagonal).T
    if spread is curve.diagonal:
        axes.plot(lags, spread, color=color, lw=0.7, alpha=0.5)
    else:
        axes.fill_between(lags, *spread.T, color=color, alpha=0.15, lw=0)
    style: dict[str, Any] = {"color": color, "marker": "^", "markersize": 7, "markeredgewidth": 0}
    axes.plot(curve.lasting.integral, 0, ls="none", clip_on=False, zorder=4, **style)
    style |= {"lw": 1.8 if len(lags) < MANY else 1.2, "markevery": []}  # in the legend alone
    axes.plot(lags, curve.mean, label=f"{name}, correlation time {curve.lasting}", **style)
    return float(np.nanmin(spread, initial=curve.mean.min()))
