"""The variances of a melt's latents, over all eigen-dimensions, against their closed form.

At time T dimension i has variance ``s² (ξ_i + γ_i)``: scale s, data variance ξ, noise variance γ.
Measured on N Gaussian samples, a variance has a relative standard error of ``sqrt(2 / N)``, and the
mean of d such ratios r an error of ``sqrt(2 / N · mean(r²) / d)``.
"""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from training.files.trajectory import SavedTrajectory
from training.pictures.style import look
from training.pictures.style.colors import BLUE, FAINT, INK, ORANGE
from training.pictures.style.words import joined
from training.pictures.trajectories.words import name_and_details

HEIGHTS = (2.8, 1.3)  # inches
MANY = 200  # dimensions from which their axis is logarithmic, so that the first ones can be told
RATIOS = (0.1, 10.0)  # farthest limits of the lower panel
# By the ratio of the limits that there may be at most.
RATIO_TICKS = {
    1.8: (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4),
    4: (0.4, 0.6, 0.8, 1, 1.25, 1.6, 2),
    math.inf: (0.1, 0.2, 0.5, 1, 2, 5, 10),
}
FAR = 100.0  # how far below the closed form the upper panel reaches


def draw_spectrum(melt: SavedTrajectory) -> Figure:
    """Variances by eigen-dimension, and below them their ratio to the closed form."""
    measured, exact, compressed = melt.last_variance, melt.latent_variance(), melt.compressed()
    ratios = measured / exact
    name, details = name_and_details(melt)
    figure, (axes, below) = look.stacked(
        joined(f"Spectrum of melted {name}", details, by=": "),
        joined(f"{melt.count} latents", mean_ratio(ratios[~compressed], melt.count)),
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
    look.label(axes, y="variance of the latent")
    look.legend(axes, 3, markerscale=1 if len(index) <= MANY else 2)
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
    """The mean of variances ``[d]`` over their closed form, each measured on so many samples."""
    ratio, error = ratio_and_error(ratios, count)
    mean = f"mean ratio {ratio:#.3g} ± {error:.2g} (standard error)"
    return f"kept dimensions: {mean}, {int((ratios < 1).sum())} of {len(ratios)} below 1"


def ratio_and_error(ratios: np.ndarray, count: int) -> tuple[float, float]:
    """The mean of ratios ``[d]``, each of a variance of so many samples, and its standard error."""
    error = math.sqrt(2 / count * float(np.square(ratios).mean()) / len(ratios))
    return float(ratios.mean()), error


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
    look.label(axes, y="measured /\nclosed form")
    look.note_above(axes, "band: ±2 standard errors of one variance")


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
