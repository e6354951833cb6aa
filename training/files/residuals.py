"""Residuals: files of ``calc_net_residuals_autocorrelations.py extract`` and ``extracttoys``.

Residuals are in eigenspace (for tables, along the axes of the flow's coordinates), in float32:

    {toy}_{schedule}_toy_net_outputs_residuals.npz       arrays [T, N, D]
    {data}_{schedule}_net_outputs_residuals_time{t}.npz  arrays [N, D], and time []

Arrays are net_outputs and net_residuals, and exact_residuals where the exact denoiser is known.
Every file describes its extraction, and the files of one extraction agree in these entries:

    data_name, schedule   text: used in the file names
    noise                 text: independent or path
    dims_to_keep          [], of the schedule
    times                 [T], all of them
    origin                text: a digest of all options that the numbers depend on, also in the
                          .json beside the files
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.array_stream import stream_arrays
from torch_utils.inert_pickle import shown
from torch_utils.results import SavedArrays, load_json, open_arrays
from training.paper.residuals import Put

FORMAT = "inflationary-flows residuals 1"
QUANTITIES = ("net_outputs", "net_residuals", "exact_residuals")
FLOAT32 = np.dtype(np.float32)
MIB, GIB = 2**20, 2**30
SPARE_BYTES = 64 * MIB
"""Number of bytes that remain free on a disk after writing."""


@dataclass(frozen=True)
class Extraction:
    """Description of an extraction of denoiser residuals; each of its files contains a copy.

    Attributes:
        data_name: Name of the data.
        schedule: Name of the schedule.
        noise: Kind of the noise, ``independent`` or ``path``.
        dims_to_keep: Number of kept dimensions of the schedule.
        times: Increasing times ``[T]``.
        origin: Digest of all options that the residuals depend on.
    """

    data_name: str
    schedule: str
    noise: str
    dims_to_keep: int
    times: np.ndarray
    origin: str

    @property
    def stem(self) -> str:
        """Start of the file names: the name of the data and the schedule."""
        return f"{self.data_name}_{self.schedule}"

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the entries of the description as arrays, as each file contains them."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def read(cls, path: Path) -> "Extraction":
        """Read the description of an extraction from one of its files.

        Raises:
            DataError: An entry is missing or invalid.
        """
        with open_arrays(path) as saved:
            words = {name: _word(path, saved, name) for name in ("data_name", "schedule", "noise")}
            origin = _word(path, saved, "origin")
            kept, times = saved.numbers("dims_to_keep"), saved.numbers("times")
        if kept.ndim or kept < 1:
            raise DataError(
                f"{path}: 'dims_to_keep' is {shown(kept)}, expected a positive integer: extract "
                "again"
            )
        if times.ndim != 1 or len(times) < 2 or (np.diff(times) <= 0).any():
            raise DataError(f"{path}: 'times' must be at least two increasing times: extract again")
        return cls(**words, dims_to_keep=int(kept), times=times.astype(np.float64), origin=origin)


def describe_extraction(extraction: Extraction, parameters: Path) -> dict[str, Any]:
    """Return the description of an extraction without its times, together with four options.

    The options are ``network``, ``calibration``, ``n_samples`` and ``seed``; each is None if
    ``parameters``, the JSON of the options, is missing or belongs to another extraction.

    Raises:
        DataError: The JSON is broken.
    """
    saved = load_json(parameters) if parameters.exists() else {}
    options = saved.get("options") if saved.get("origin") == extraction.origin else None
    known = {name: value for name, value in vars(extraction).items() if name != "times"}
    return known | {
        name: options.get(name) if isinstance(options, dict) else None
        for name in ("network", "calibration", "n_samples", "seed")
    }


def digest(settings: Mapping[str, Any]) -> str:
    """Return a short hash of settings, which differs if the settings differ."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def residual_writer(
    paths: list[Path], names: tuple[str, ...], count: int, dim: int, extraction: Extraction
) -> Iterator[Put]:
    """Yield a function that writes residuals to files; the files appear when the block ends.

    Args:
        paths: One path per time, or one path for all times.
        names: Names of the residuals.
        count: Number of samples.
        dim: Dimension of the samples.
        extraction: Description that each file contains.
    """
    alone, small = len(paths) == 1, {**extraction.arrays(), "format": np.array(FORMAT)}
    shape = (len(extraction.times), count, dim) if alone else (count, dim)
    shapes = dict.fromkeys(names, shape)
    with ExitStack() as stack:
        streams = []
        for path, time in zip(paths, extraction.times, strict=False):
            own = small if alone else {"time": np.asarray(time), **small}
            streams.append(stack.enter_context(stream_arrays(path, shapes, FLOAT32, own)))

        def put(index: int, first: int, rows: Mapping[str, np.ndarray]) -> None:
            place = index * count + first if alone else first
            for name, values in rows.items():
                streams[0 if alone else index].put_rows(name, place, values)

        yield put


def saved_shapes(path: Path, axes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the residuals in a file by name, after a check that they are equal.

    Raises:
        DataError: Residuals are missing, have different shapes, or do not have ``axes`` axes.
    """
    with open_arrays(path) as saved:
        names = [name for name in QUANTITIES if name in saved.names or name != "exact_residuals"]
        shapes = {name: saved.header(name).shape for name in names}
    shape = shapes["net_outputs"]
    wanted = "[times, samples, dims]" if axes == 3 else "[samples, dims]"
    if len(shape) != axes or set(shapes.values()) != {shape} or 0 in shape:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise DataError(f"{path}: its arrays are {listed}; expected {wanted}: extract again")
    return shapes


def require_space(folder: Path, size: int) -> str:
    """Check that ``size`` bytes fit on the disk of a folder; return a text with the sizes.

    The folder need not exist.

    Raises:
        DataError: The free space is too small; the message states both sizes.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if size + SPARE_BYTES > free:
        raise DataError(
            f"{folder} has {free / GIB:.3g} GiB of free disk space, but {size / GIB:.3g} "
            "GiB are needed: use fewer samples or times, or another disk"
        )
    return f"Writing {size / MIB:,.1f} MiB to {folder}; {free / MIB:,.0f} MiB are free"


def _word(path: Path, saved: SavedArrays, name: str) -> str:
    value = saved.read(name)
    if value.ndim or value.dtype.kind != "U":
        raise DataError(f"{path}: '{name}' is not text: extract again")
    text = str(value)
    # These texts become parts of file names.
    if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", text):
        raise DataError(
            f"{path}: '{name}' is '{shown(text)}', which cannot be part of a file name: extract "
            "again"
        )
    return text


def toy_file(folder: Path, stem: str) -> Path:
    """Return the path of the residuals of a toy at all times."""
    return folder / f"{stem}_toy_net_outputs_residuals.npz"


def time_file(folder: Path, stem: str, index: int | str) -> Path:
    """Return the path of the residuals of images at the time with an index."""
    return folder / f"{stem}_net_outputs_residuals_time{index}.npz"


def find_first(folder: Path, data_name: str | None, dims_to_keep: int | None) -> Path:
    """Find the file with the residuals of images at the first time.

    Args:
        folder: The folder.
        data_name: Name of the data; None for any.
        dims_to_keep: Number of kept dimensions; None for any.

    Raises:
        DataError: The folder contains no residuals of images.
        UsageError: Several files, or none, have this name and number of dimensions.
    """
    extractions = {
        path: Extraction.read(path) for path in sorted(folder.glob(time_file(folder, "*", 0).name))
    }
    if not extractions:
        raise DataError(f"{folder} contains no residuals: make them with 'extract'")
    fitting = [
        path
        for path, made in extractions.items()
        if data_name in (None, made.data_name) and dims_to_keep in (None, made.dims_to_keep)
    ]
    if len(fitting) != 1:
        there = ", ".join(
            f"--data_name={made.data_name} --dims_to_keep={made.dims_to_keep}"
            for made in extractions.values()
        )
        asked = {"data_name": data_name, "dims_to_keep": dims_to_keep}
        words = " and ".join(f"--{name} is {value}" for name, value in asked.items() if value)
        raise UsageError(
            f"{words or 'neither --data_name nor --dims_to_keep is given'}, but {folder} has "
            f"residuals of {there}: give the options of one of them"
        )
    return fitting[0]


def require_same(folder: Path, first: Extraction, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that the files of all times exist and belong to one extraction.

    Raises:
        DataError: A file is missing, or belongs to another extraction.
    """
    for index, time in enumerate(first.times):
        path = time_file(folder, first.stem, index)
        made = Extraction.read(path)
        own, known = made.arrays(), first.arrays()
        same = all(np.array_equal(own[name], known[name]) for name in known)
        with open_arrays(path) as saved:
            same = same and np.array_equal(saved.numbers("time"), time)
        if not same:
            raise DataError(
                f"{path} and the file of time 0 are not from the same extraction: extract again"
            )
        there = saved_shapes(path, axes=2)
        if there != shapes:
            raise DataError(
                f"{path} has arrays {there}, but the file of time 0 has {dict(shapes)}: extract "
                "again"
            )
