"""Residuals: files of ``calc_net_residuals_autocorrelations.py extract`` and ``extracttoys``.

Residuals are in eigenspace (for tables, along the axes of the flow's coordinates), in float32.
Every file describes its extraction, and the files of one extraction agree in this description.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.array_stream import stream_arrays
from torch_utils.inert_pickle import shown
from torch_utils.results import load_json
from training.files.declared import STORED, WHOLE, Format, Key, ResultFile, text
from training.names import script
from training.paper.residuals import Put

_ABOUT = {
    "data_name": text("name of the data, a part of file names"),
    "schedule": text("name of the schedule, a part of file names"),
    "noise": text("independent or path"),
    "dims_to_keep": Key("", "number of kept dimensions of the schedule", WHOLE, low=1),
    "times": Key("T", "all times of the extraction", increasing=True),
    "origin": text("digest of the options that the residuals depend on; in the JSON too"),
}
QUANTITIES = ("net_outputs", "net_residuals", "exact_residuals")


def _quantities(axes: str) -> dict[str, Key]:
    meanings = ("outputs of the network", "their errors", "errors of the exact denoiser, if known")
    keys = [Key(axes, meaning, STORED, by_rows=True) for meaning in meanings]
    return dict(zip(QUANTITIES, [*keys[:2], replace(keys[2], optional=True)], strict=True))


AT_ALL_TIMES = ResultFile(
    kind="residuals",
    name="{stem}_toy_net_outputs_residuals.npz",
    sizes="T times, N samples and D dimensions",
    keys=_ABOUT | _quantities("T N D"),
    least={"T": 2},
    advice="extract again",
)
AT_ONE_TIME = replace(
    AT_ALL_TIMES,
    name="{stem}_net_outputs_residuals_time{time}.npz",
    keys=_ABOUT | _quantities("N D") | {"time": Key("", "time of these residuals")},
)
FORMATS = {
    "residuals": Format(
        "residuals",
        advice="give the correlations that "
        f"{script('calc_net_residuals_autocorrelations')} computes from them",
    )
}
FLOAT32 = np.dtype(np.float32)
MIB, GIB = 2**20, 2**30
SPARE_BYTES = 64 * MIB
"""Number of bytes that remain free on a disk after writing."""


@dataclass(frozen=True)
class Extraction:
    """Description of an extraction of denoiser residuals, which each of its files declares."""

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

    @classmethod
    def read(cls, path: Path) -> "Extraction":
        """Read the description of an extraction from one of its files.

        Raises:
            DataError: An entry is missing or invalid.
        """
        with AT_ALL_TIMES.open(path) as arrays:
            about = {name: arrays.read(name) for name in _ABOUT}
        times, entries = about.pop("times"), {name: each.item() for name, each in about.items()}
        for name, value in entries.items():
            # These texts become parts of file names.
            if isinstance(value, str) and not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", value):
                problem = f"is '{shown(value)}', which cannot be part of a file name"
                raise AT_ALL_TIMES.broken(path, name, problem)
        return cls(**entries, times=times)


def describe_extraction(extraction: Extraction, parameters: Path) -> dict[str, Any]:
    """Return the description of an extraction without its times, together with three options.

    The options are ``network``, ``n_samples`` and ``seed``; each is None if ``parameters``, the
    JSON of the options, is missing or belongs to another extraction.

    Raises:
        DataError: The JSON is broken.
    """
    saved = load_json(parameters) if parameters.exists() else {}
    options = saved.get("options") if saved.get("origin") == extraction.origin else None
    known = {name: value for name, value in vars(extraction).items() if name != "times"}
    return known | {
        name: options.get(name) if isinstance(options, dict) else None
        for name in ("network", "n_samples", "seed")
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
    alone = len(paths) == 1
    shape = (len(extraction.times), count, dim) if alone else (count, dim)
    shapes = dict.fromkeys(names, shape)
    with ExitStack() as stack:
        streams = []
        for path, time in zip(paths, extraction.times, strict=False):
            own = {} if alone else {"time": time}
            own |= {**vars(extraction), "format": AT_ONE_TIME.format}
            own = (AT_ALL_TIMES if alone else AT_ONE_TIME).arrays(own)
            streams.append(stack.enter_context(stream_arrays(path, shapes, FLOAT32, own)))

        def put(index: int, first: int, rows: Mapping[str, np.ndarray]) -> None:
            place = index * count + first if alone else first
            for name, values in rows.items():
                streams[0 if alone else index].put_rows(name, place, values)

        yield put


def saved_shapes(path: Path, file: ResultFile) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the residuals in a file by name, after a check that they are equal.

    Raises:
        DataError: Residuals are missing, or their shapes do not fit the declaration of the file.
    """
    with file.open(path) as arrays:
        arrays.check("times")
        names = [name for name in QUANTITIES if name in arrays or not file.keys[name].optional]
        return {name: arrays.check(name) for name in names}


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
        path: Extraction.read(path)
        for path in sorted(folder.glob(AT_ONE_TIME.name.format(stem="*", time=0)))
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
        path = AT_ONE_TIME.path(folder, stem=first.stem, time=index)
        own, known = vars(Extraction.read(path)), vars(first)
        with AT_ONE_TIME.open(path) as arrays:
            same = np.array_equal(arrays.read("time"), time)
        same = same and all(np.array_equal(own[name], known[name]) for name in known)
        if not same:
            raise DataError(
                f"{path} and the file of time 0 are not from the same extraction: extract again"
            )
        there = saved_shapes(path, AT_ONE_TIME)
        if there != shapes:
            raise DataError(
                f"{path} has arrays {there}, but the file of time 0 has {dict(shapes)}: extract "
                "again"
            )
