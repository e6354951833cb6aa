"""Autocorrelations of what a denoiser gives, against the lag from the first time.

Between N independent samples a correlation is ``±2 / sqrt(N)`` by chance alone.
"""

from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from torch_utils.results import SavedArrays, open_arrays
from training.files.arrays import CheckedArrays
from training.files.residuals import QUANTITIES
from training.measure.correlation_times import CorrelationTime, correlation_time, scatter_of
from training.measure.correlations import varying
from training.pictures.style import look
from training.pictures.style.colors import BLUE, FAINT, INK, MUTED, ORANGE
from training.pictures.style.picture import Picture, figures
from training.pictures.style.words import joined, parameter, title_of, words_for

ROUNDING = 1e-4  # of float32, by which correlations may pass 1
HEIGHT = 3.2  # inches
FEW = 3  # dimensions up to which each is drawn
MANY = 200  # lags from which lines are thin
QUANTILES = (0.1, 0.9)
COLORS = {"net_outputs": BLUE, "net_residuals": ORANGE, "exact_residuals": INK}
NAMES = {
    "net_outputs": "network output D",
    "net_residuals": "residual D − e",
    "exact_residuals": "error D − exact D",
}
NOISES = {"independent": "fresh noise at each time", "path": "along the flow's own paths"}


@dataclass(frozen=True)
class LagCurve:
    """The autocorrelation of a quantity in D dimensions at T lags.

    Attributes:
        mean: Over the dimensions that vary at all times ``[T]``.
        diagonal: Of each dimension ``[T, D]``; NaN for those that do not.
        lasting: How long the mean lasts.
    """

    mean: np.ndarray
    diagonal: np.ndarray
    lasting: CorrelationTime


@dataclass(frozen=True)
class SavedLags:
    """A summary.

    Attributes:
        times: Increasing ``[T]``.
        curves: By quantity, at least one.
        count: N, the samples; 0 of older files, which do not tell it.
    """

    times: np.ndarray
    curves: dict[str, LagCurve]
    count: int

    @property
    def lags(self) -> np.ndarray:
        """``[T]``, from 0 on."""
        return self.times - self.times[0]

    @property
    def dim(self) -> int:
        return next(iter(self.curves.values())).diagonal.shape[1]

    @property
    def lasting(self) -> CorrelationTime:
        """How long the residuals last, or else the first quantity."""
        curve = self.curves.get("net_residuals") or next(iter(self.curves.values()))
        return curve.lasting

    @classmethod
    def load(cls, path: Path) -> "SavedLags":
        """Reads and checks a summary.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            arrays = CheckedArrays(saved, path)
            times = arrays.read("times", "T", least=2)
            if (np.diff(times) <= 0).any():
                raise DataError(f"{path}: 'times' should increase")
            count = _count(path, saved) if "n_samples" in saved.names else 0
            names = [name for name in QUANTITIES if f"{name}_mean" in saved.names]
            if not names:
                raise DataError(f"{path} has no autocorrelations: make it again")
            found = {
                name: [
                    arrays.read(f"{name}_mean", "T"),
                    arrays.read(f"{name}_diagonal", "TD"),
                    arrays.read(f"{name}_std", "TD"),
                ]
                for name in names
            }
        stds = torch.from_numpy(np.stack([std for _, _, std in found.values()]))
        lags = torch.from_numpy(times - times[0])
        curves, scatter = {}, scatter_of(count) if count else 0.0
        always = varying(stds).all(dim=1).numpy()
        for (name, (mean, diagonal, _)), varies in zip(found.items(), always, strict=True):
            require_correlations(path, f"{name}_mean", mean)
            require_correlations(path, f"{name}_diagonal", diagonal)
            lasting = correlation_time(lags, torch.from_numpy(mean), scatter)
            curves[name] = LagCurve(mean, np.where(varies, diagonal, np.nan), lasting)
        return cls(times, curves, count)


def pictures_of_lags(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a summary of autocorrelations. Raises DataError if it is broken."""
    saved = SavedLags.load(path)
    stem = path.with_name(path.stem.removesuffix("_summary"))
    draw = partial(draw_lags, saved, *name_and_details(stem))
    return figures((folder or path.parent) / stem.name, {"lags": draw})


def name_and_details(stem: Path) -> tuple[str, str]:
    """Of files of correlations with such a stem: the data's name, and how they were made.

    Raises:
        DataError: The parameters beside the summary are broken.
    """
    name, details = title_of(stem.name.removesuffix("_autocorrelations").removesuffix("_toy"))
    noise = parameter(summary_of(stem).with_suffix(".json"), "noise")
    return name, joined(details, words_for(noise, NOISES))


def draw_lags(saved: SavedLags, name: str, details: str) -> Figure:
    """One line for each quantity, the mean of its dimensions, and how they spread.

    Args:
        saved: What to draw.
        name: The data's.
        details: How the file was made.
    """
    figure, (axes,) = look.stacked(
        f"Autocorrelations of {name}",
        joined(details, spread_words(saved.dim)),
        [HEIGHT],
        "lag in t from the first time",
        legend_lines=len(saved.curves),
    )
    axes.axhline(0, color=MUTED, lw=0.8)
    if saved.count:
        chance = 2 / sqrt(saved.count)
        axes.axhspan(-chance, chance, color=FAINT, alpha=0.6, lw=0)
        look.note_above(axes, f"gray: ±2/√N by chance, N = {saved.count:,}")
    lowest = [
        _draw(axes, saved.lags, curve, NAMES[name], COLORS[name])
        for name, curve in saved.curves.items()
    ]
    last = float(saved.lags[-1])
    axes.set(xlim=(-0.008 * last, 1.008 * last), ylim=(min(0, *lowest) - 0.08, 1.04))
    look.label(axes, y="correlation with the first time")
    look.legend(axes)
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


def holds_lags(names: list[str]) -> bool:
    """Whether an ``.npz`` with arrays of these names is a summary of autocorrelations."""
    return any(f"{name}_mean" in names for name in QUANTITIES)


def summary_of(stem: Path) -> Path:
    """Where the summary is of correlations in files of a stem."""
    return stem.with_name(f"{stem.name}_summary.npz")


def _count(path: Path, saved: SavedArrays) -> int:
    count = saved.numbers("n_samples")
    if count.ndim or count < 2:
        raise DataError(f"{path}: 'n_samples' is {shown(count)}, not a number of samples")
    return int(count)


def require_correlations(path: Path, name: str, values: np.ndarray) -> None:
    """Raises DataError for values that no correlation has."""
    if not (np.abs(values) <= 1 + ROUNDING).all():
        raise DataError(f"{path}: '{name}' should hold correlations, which are from -1 to 1")
