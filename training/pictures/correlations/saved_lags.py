"""Reads the summary of calctoys or calc: autocorrelations with the first time, and their lags."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from torch_utils.results import SavedArrays, open_arrays
from training.files.residuals import QUANTITIES
from training.measure.correlation_times import CorrelationTime, correlation_time, scatter_of
from training.measure.correlations import varying
from training.pictures.checked_arrays import CheckedArrays

ROUNDING = 1e-4  # of float32, by which correlations may pass 1


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
    """

    times: np.ndarray
    curves: dict[str, LagCurve]

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
            scatter = 0.0  # of older files, which do not tell the number of samples
            if "n_samples" in saved.names:
                scatter = scatter_of(_count(path, saved))
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
        curves = {}
        always = varying(stds).all(dim=1).numpy()
        for (name, (mean, diagonal, _)), varies in zip(found.items(), always, strict=True):
            require_correlations(path, f"{name}_mean", mean)
            require_correlations(path, f"{name}_diagonal", diagonal)
            lasting = correlation_time(lags, torch.from_numpy(mean), scatter)
            curves[name] = LagCurve(mean, np.where(varies, diagonal, np.nan), lasting)
        return cls(times, curves)


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
