"""Correlations of residuals: files of ``calc_net_residuals_autocorrelations.py``.

Matrices (``calctoys`` and ``calc``) are float32, with rows for the first time and columns for the
later one; entries of constant dimensions are 0. Beside them are a summary, ``..._summary.npz``, and
``..._summary.json``, which has a correlation_time for each mean: integral up to gone, the first lag
at which the correlation is at most scatter, 2/√(N − 1); bound, which is upper if the time is less
than integral, the spacing of the times, lower if it is more, and otherwise null; e_folding; and
told, a description in words. It also has the options, seconds, and extraction, a description of the
residuals. A dimension is constant at a time if its std is at most 1e-6, the rounding of float32, of
the largest std of any quantity and dimension at that time.

Only a few of the matrices are read. From a toy's file only the chosen times are loaded; of the
files of images, one per time, only the chosen ones are opened. If a matrix is larger than its
picture, each block is reduced to its entry of largest magnitude, since a mean would hide a
diagonal.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils.results import provenance, save_json
from training.files.declared import STORED, WHOLE, Arrays, Format, Key, ResultFile
from training.files.residuals import QUANTITIES, Extraction
from training.names import script
from training.paper.residuals import (
    UPPER,
    Autocorrelations,
    CorrelationTime,
    correlation_time,
    scatter_of,
    varying,
)

ROUNDING = 1e-4
"""Amount by which correlations may exceed 1 because of rounding to float32."""
_POSSIBLE: dict[str, Any] = {"low": -1 - ROUNDING, "high": 1 + ROUNDING}
_AGAIN = "compute the correlations again"
_MATRIX = "correlations of net_outputs, net_residuals and exact_residuals"
AT_ALL_TIMES = ResultFile(
    kind="correlations",
    name="{stem}_toy_autocorrelations.npz",
    sizes="T times and D dimensions",
    keys={
        "times": Key("T", "times", increasing=True),
        "{quantity}_acs": Key("T D D", _MATRIX, STORED, by_rows=True, **_POSSIBLE),
    },
    advice=_AGAIN,
)
AT_ONE_TIME = ResultFile(
    kind="correlations",
    name="{stem}_autocorrelations_times0_{time}.npz",
    sizes="D dimensions",
    keys={
        "time": Key("", "later time"),
        "{quantity}_acs": Key("D D", _MATRIX, **_POSSIBLE),
    },
    advice=_AGAIN,
)
SUMMARY = ResultFile(
    kind="residual summary",
    name="{stem}_autocorrelations_summary.npz",
    sizes="T times and D dimensions",
    keys={
        "times": Key("T", "times", increasing=True),
        "lags": Key("T", "differences from the first time"),
        "n_samples": Key("", "number of samples", WHOLE, low=2),
        "{quantity}_diagonal": Key("T D", "correlation with the first time", **_POSSIBLE),
        "{quantity}_mean": Key("T", "its mean over the varying dimensions", **_POSSIBLE),
        "{quantity}_std": Key("T D", "standard deviations at each time", low=0),
        "{quantity}_constant": Key("T", "constant dimensions, here or at the start", WHOLE),
    },
    least={"T": 2},
    advice=_AGAIN,
)
_MATRICES = "matrices of correlations"
FORMATS = {
    "correlations of one time": Format(
        _MATRICES,
        "correlations.content_of_image_matrices",
        "times",
        wild=None,
        of="correlations",
        needs=["time"],
    ),
    "correlations": Format(_MATRICES, "correlations.content_of_toy_matrices"),
    "residual summary": Format("correlations by lag", "correlations.content_of_lags"),
}
SUFFIX = "_acs"
"""Suffix of the names of correlation matrices in the file."""
FILE = re.compile(r"(?P<stem>.+)_times0_(?P<index>\d{1,9})")
MOST_CELLS = 256
"""Maximum number of rows and columns of a matrix that is kept for drawing."""


def save_correlations(path: Path, times: np.ndarray, matrices: Mapping[str, np.ndarray]) -> None:
    """Write correlation matrices of residuals.

    Args:
        path: Path of the ``.npz``.
        times: Times ``[T]``, or one time ``[]``.
        matrices: Matrices ``[T, D, D]``, or ``[D, D]`` at one time, by name of the quantity.
    """
    file, when = (AT_ALL_TIMES, "times") if times.ndim else (AT_ONE_TIME, "time")
    file.save(path, {when: times, **{f"{name}{SUFFIX}": each for name, each in matrices.items()}})


def save_summary(
    path: Path,
    table: Autocorrelations,
    extraction: Extraction,
    samples: int,
    made: Mapping[str, Any],
) -> None:
    """Write the summary of correlations by lag to two files, and log the main results.

    Args:
        path: Path of the ``.npz``; the JSON is beside it.
        table: Correlations of all times.
        extraction: Description of the residuals.
        samples: Number of samples from which correlations were computed.
        made: Further entries of the JSON, such as the options.
    """
    arrays, facts = table.summary(torch.from_numpy(extraction.times), samples)
    SUMMARY.save(path, arrays)
    about = {"noise": extraction.noise, "scatter": scatter_of(samples), "quantities": facts}
    save_json(
        path.with_suffix(".json"), {"format": SUMMARY.format, **about, **made, **provenance()}
    )
    logger.info(f"Wrote {path.parent}, summary in {path.name}")
    for name, quantity in facts.items():
        lasting, after = quantity["correlation_time"]["told"], quantity["mean_at_next_time"]
        last = quantity["mean_at_last_time"]
        logger.info(
            f"{name}, noise {extraction.noise}: correlation time {lasting} (mean "
            f"correlation with time 0 is {after:.3g} at the next time, {last:.3g} at the "
            f"last; values up to {about['scatter']:.2g} can be chance)"
        )


@dataclass(frozen=True)
class LagCurve:
    """The autocorrelation of a quantity in D dimensions at T lags.

    Attributes:
        mean: Mean autocorrelation ``[T]`` over the dimensions that vary at all times.
        diagonal: Autocorrelation of each dimension ``[T, D]``; NaN for constant dimensions.
        lasting: Correlation time of the mean autocorrelation.
    """

    mean: np.ndarray
    diagonal: np.ndarray
    lasting: CorrelationTime


@dataclass(frozen=True)
class SavedLags:
    """A saved summary of correlations by lag, for T times.

    Attributes:
        times: Increasing times ``[T]``.
        curves: Autocorrelation curves by name of the quantity, at least one.
        count: Number of samples, N.
    """

    times: np.ndarray
    curves: dict[str, LagCurve]
    count: int

    @property
    def lags(self) -> np.ndarray:
        """Lags ``[T]``: differences of the times from the first time."""
        return self.times - self.times[0]

    @property
    def dim(self) -> int:
        """Number of dimensions, D."""
        return next(iter(self.curves.values())).diagonal.shape[1]

    @property
    def lasting(self) -> CorrelationTime:
        """Correlation time of the residuals; without residuals, that of the first quantity."""
        curve = self.curves.get("net_residuals") or next(iter(self.curves.values()))
        return curve.lasting

    @classmethod
    def load(cls, path: Path) -> "SavedLags":
        """Read and check the ``.npz`` of a summary.

        Raises:
            DataError: The file is missing or broken, an array is missing or has a wrong shape, or a
                value is out of range.
        """
        with SUMMARY.open(path) as arrays:
            times, count = arrays.read("times"), int(arrays.read("n_samples"))
            names = _quantities(arrays, "_mean")
            kinds = ("mean", "diagonal", "std")
            quantities = [[arrays.read(f"{name}_{kind}") for kind in kinds] for name in names]
        stds = torch.from_numpy(np.stack([std for _, _, std in quantities]))
        lags = torch.from_numpy(times - times[0])
        curves, scatter = {}, scatter_of(count)
        always = varying(stds).all(dim=1).numpy()
        for name, (mean, diagonal, _), varies in zip(names, quantities, always, strict=True):
            lasting = correlation_time(lags, torch.from_numpy(mean), scatter)
            curves[name] = LagCurve(mean, np.where(varies, diagonal, np.nan), lasting)
        return cls(times, curves, count)


@dataclass(frozen=True)
class SavedMatrices:
    """Saved correlations in D dimensions between the first time and L later times.

    Attributes:
        times: Later times ``[L]``.
        notes: Reason for the choice of each later time; may be an empty text.
        dim: Number of dimensions, D.
        matrices: Correlation matrices ``[L, d, d]`` by quantity, reduced for drawing to
            ``d = ceil(D / block)``. Rows belong to the first time, columns to the later one.
        block: Number of adjacent dimensions that were reduced to one row and column.
    """

    times: np.ndarray
    notes: list[str]
    dim: int
    matrices: dict[str, np.ndarray]
    block: int

    @classmethod
    def of_toy(cls, path: Path) -> "SavedMatrices":
        """Read the correlation matrices of toy data at a few times, chosen automatically.

        Raises:
            DataError: The file is missing or broken, an array is missing or has a wrong shape, or a
                value is out of range.
        """
        with AT_ALL_TIMES.open(path) as arrays:
            times = arrays.read("times")
            summary = _summary(path.with_name(path.stem))
            if summary is not None and not np.array_equal(summary.times, times):
                raise DataError(
                    f"{path} and the summary in its folder have different times: repeat calctoys"
                )
            chosen = telling_lags(times - times[0], summary.lasting if summary else None)
            matrices = {
                name: [
                    _cells(slab[0])
                    for index, slab in enumerate(arrays.rows(f"{name}{SUFFIX}", 1))
                    if index in chosen
                ]
                for name in _quantities(arrays, SUFFIX)
            }
        return cls._of(times[list(chosen)], chosen, arrays.sizes["D"], matrices)

    @classmethod
    def of_images(cls, paths: Iterable[Path]) -> "SavedMatrices":
        """Read the correlation matrices of images at a few times, chosen automatically.

        Args:
            paths: Files of one run, each with the matrices at one time.

        Raises:
            DataError: A file is missing or broken, or files are from different runs.
        """
        paths = sorted(paths, key=lambda path: stem_and_index(path)[1])
        lags = np.array([stem_and_index(path)[1] for path in paths], dtype=np.float64)
        summary = _summary(stem_and_index(paths[0])[0])
        if summary is not None and not np.array_equal(lags, np.arange(len(summary.times))):
            summary = None  # the summary covers other times as well
        if summary is not None:
            lags = summary.lags
        chosen = telling_lags(lags, summary.lasting if summary else None)
        shown = [paths[index] for index in chosen]
        each, matrices, sizes = [], dict[str, list[np.ndarray]](), dict[str, int]()
        for path in shown:
            with AT_ONE_TIME.open(path, **sizes) as arrays:
                each.append(float(arrays.read("time")))
                for name in _quantities(arrays, SUFFIX):
                    matrix = _cells(arrays.read(f"{name}{SUFFIX}"))
                    matrices.setdefault(name, []).append(matrix)
                sizes = arrays.sizes
        if any(len(every) != len(each) for every in matrices.values()):
            raise DataError(
                f"{path} and the files of earlier times contain different quantities: compute "
                "the correlations again"
            )
        times = np.array(each)
        if (np.diff(times) <= 0).any():
            raise DataError(
                f"{shown[0]}: the times in this file and in those numbered after it must increase: "
                "compute the correlations again"
            )
        if summary is not None and not np.array_equal(times, summary.times[list(chosen)]):
            raise DataError(
                f"{shown[0]} and the files with larger indices: their times differ from those "
                "in the summary: compute the correlations again"
            )
        return cls._of(times, chosen, sizes["D"], matrices)

    @classmethod
    def _of(
        cls,
        times: np.ndarray,
        chosen: Mapping[int, str],
        dim: int,
        cells: Mapping[str, list[np.ndarray]],
    ) -> "SavedMatrices":
        together = {name: np.stack(every) for name, every in cells.items()}
        return cls(times, list(chosen.values()), dim, together, math.ceil(dim / MOST_CELLS))


def _cells(matrix: np.ndarray) -> np.ndarray:
    return condensed(matrix, math.ceil(len(matrix) / MOST_CELLS))


def summary_of(stem: Path) -> Path:
    """Return the path of the summary, given the common stem of the files of correlations."""
    return stem.with_name(f"{stem.name}_summary.npz")


def stem_and_index(path: Path) -> tuple[Path, int]:
    """Split the path of the correlations at one time into its stem and the index of the time."""
    match = FILE.fullmatch(path.stem)
    if match is None:
        return path.with_suffix(""), 0
    return path.with_name(match["stem"]), int(match["index"])


def telling_lags(lags: np.ndarray, lasting: CorrelationTime | None) -> dict[int, str]:
    """Choose up to four lags to show, with notes on their choice.

    These are the first lag, the later lag nearest to the correlation time, a lag halfway to the
    end, and the last lag. If the correlation time is unknown, four evenly spaced lags are chosen.

    Args:
        lags: Increasing lags ``[T]``.
        lasting: Correlation time; None if it is unknown.

    Returns:
        Reason for the choice of each lag, by its index, in increasing order of the indices.
    """
    first, last = float(lags[0]), float(lags[-1])
    if lasting is None:
        places = [(share, "") for share in (0.0, 1 / 3, 2 / 3, 1.0)]
        wanted = [(first + share * (last - first), note) for share, note in places]
    else:
        after, about = lags[min(1, len(lags) - 1)], "after" if lasting.bound == UPPER else "≈"
        wanted = [
            (first, "first time"),
            (last, "last time"),
            (max(first + lasting.integral, float(after)), f"{about} the correlation time"),
            ((first + last) / 2, "halfway"),
        ]
    chosen: dict[int, str] = {}
    for lag, note in wanted:
        chosen.setdefault(int(np.abs(lags - lag).argmin()), note)
    return dict(sorted(chosen.items()))


def condensed(matrix: np.ndarray, block: int) -> np.ndarray:
    """Reduce each ``block`` by ``block`` part of a matrix to its entry of largest magnitude."""
    cells = math.ceil(len(matrix) / block)
    room = cells * block - len(matrix)
    blocks = np.pad(matrix, (0, room)).reshape(cells, block, cells, block)
    high, low = blocks.max(axis=(1, 3)), blocks.min(axis=(1, 3))
    return np.where(high >= -low, high, low)


def _quantities(arrays: Arrays, suffix: str) -> list[str]:
    """Return the quantities of an open file, whose arrays have a suffix.

    Raises:
        DataError: The file has none of them.
    """
    quantities = [name for name in QUANTITIES if f"{name}{suffix}" in arrays]
    if not quantities:
        raise DataError(
            f"{arrays.source.path} contains no correlations: write it again with "
            f"{script('calc_net_residuals_autocorrelations')} calc (calctoys for a toy)"
        )
    return quantities


def _summary(stem: Path) -> SavedLags | None:
    path = summary_of(stem)
    return SavedLags.load(path) if path.exists() else None
