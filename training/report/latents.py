"""Where a melt ends: variances of latents against the closed form."""

import math

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from training.files.trajectory import SavedTrajectory
from training.pictures.look import BLUE, MUTED, ORANGE, joined
from training.pictures.trajectories.clouds import name_and_details
from training.pictures.trajectories.latents import ratio_and_error
from training.report import charts
from training.report.content import Chart, Charts, Key, Result

FEW = 3
"""Dimensions up to which no spectrum is drawn."""
SIGMAS = 3.0
"""Standard errors by which a number may be off."""
NEAR = 0.01
"""What is off by less is right, however many samples tell."""


def latent_results(melt: SavedTrajectory) -> list[Result]:
    """The mean variance of the kept dimensions, over the closed form."""
    kept = ~melt.compressed()
    mean, error = ratio_and_error((melt.last_variance / melt.latent_variance())[kept], melt.count)
    room = max(SIGMAS * error, NEAR)
    ratio = f"{mean:.3f} of the closed form, mean of {int(kept.sum())} kept dimensions"
    target = f"1 ± {room:.2g}: {SIGMAS:g} standard errors of {melt.count:,} samples"
    of = joined(*name_and_details(melt), by=", ")
    return [Result(of, "latent variances", ratio, target, abs(mean - 1) <= room)]


def latent_parts(melt: SavedTrajectory) -> list[object]:
    """The spectrum of latents against the closed form, where there are many."""
    if melt.dim <= FEW:
        return []
    return [Charts([_spectrum(melt), _ratios(melt)])]


def _spectrum(melt: SavedTrajectory) -> Chart:
    exact = melt.latent_variance()
    plot = charts.plot("eigen-dimension", "variance", y_axis_type="log")
    index = np.arange(1.0, melt.dim + 1)
    plot.line(index, charts.float32(exact), color=MUTED, line_width=1.5)
    _dots(plot, melt, np.maximum(melt.last_variance, 1e-300))
    keys = [Key("closed form", MUTED), *_keys(melt)]
    alt = (
        f"Variances of {melt.dim} latents, from {melt.last_variance.min():.3g} to "
        f"{melt.last_variance.max():.3g}; closed form {exact.min():.3g} to {exact.max():.3g}."
    )
    return Chart(plot, "Spectrum of the latents", alt, keys)


def _ratios(melt: SavedTrajectory) -> Chart:
    ratios = melt.last_variance / melt.latent_variance()
    band = 2 * math.sqrt(2 / melt.count)
    plot = charts.plot("eigen-dimension", "measured / closed form")
    plot.varea([0.5, melt.dim + 0.5], 1 - band, 1 + band, fill_color=MUTED, fill_alpha=0.2)
    charts.level(plot, 1.0, dashed=False)
    _dots(plot, melt, ratios)
    alt = f"Ratios to the closed form, from {ratios.min():.3g} to {ratios.max():.3g}; 1 is right."
    keys = [*_keys(melt), Key("±2 standard errors of one variance", MUTED, "band")]
    return Chart(plot, "Variances over the closed form", alt, keys)


def _dots(plot: figure, melt: SavedTrajectory, values: np.ndarray) -> None:
    compressed = melt.compressed()
    index = np.arange(1, melt.dim + 1)
    for chosen, color in ((~compressed, BLUE), (compressed, ORANGE)):
        if chosen.any():
            data = {"x": index[chosen], "y": charts.float32(values[chosen])}
            charts.scatter(plot, ColumnDataSource(data), "x", "y", color)


def _keys(melt: SavedTrajectory) -> list[Key]:
    keys = [Key("kept dimensions", BLUE, "dot")]
    return [*keys, Key("compressed dimensions", ORANGE, "dot")] if melt.compressed().any() else keys
