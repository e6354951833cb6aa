"""Whether files are whole, and whether folders hold the same results."""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5netcdf
import numpy as np

from dnnlib.errors import DataError
from tests.support.image_runs import equal
from torch_utils.results import load_arrays, load_json
from torch_utils.snapshots import read_state
from training.data.images.codec import decode_exact
from training.data.images.dataset import ImageDataset
from training.model.model import Model

PNG_END = b"IEND\xaeB`\x82"


def read_png(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(PNG_END):
        raise ValueError("cut short")
    decode_exact(content, str(path))


def read_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError("a wrong checksum")
    ImageDataset(path, use_labels=True, cache=True).close()


def read_lines(path: Path) -> None:
    for line in path.read_text().splitlines():
        json.loads(line)


def read_netcdf(path: Path) -> dict[str, np.ndarray]:
    """All numbers and names, by group and name; what the file says about them names its folder."""
    with h5netcdf.File(path) as file:
        read = {
            f"{group}/{name}": np.asarray(variable[...])
            for group in file.groups
            for name, variable in file[group].variables.items()
        }
    # Of texts, bytes are places in memory.
    return {
        name: np.array([text.decode() if isinstance(text, bytes) else text for text in values.flat])
        if values.dtype == object
        else values
        for name, values in read.items()
    }


READERS: dict[str, Callable[[Path], object]] = {
    ".pkl": Model.load,
    ".pt": read_state,
    ".npz": load_arrays,
    ".nc": read_netcdf,
    ".png": read_png,
    ".zip": read_zip,
    ".json": load_json,
    ".jsonl": read_lines,
    ".txt": Path.read_text,
}


def broken_files(folder: Path, names: str) -> list[str]:
    """Files that are not whole, or do not fit the pattern of results' names; not hidden ones."""
    broken = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or any(part.startswith(".") for part in name.split("/")):
            continue
        try:
            if not re.fullmatch(names, name):
                raise ValueError("not among the names of results")
            READERS.get(path.suffix, Path.read_bytes)(path)
        except (DataError, ValueError, OSError, zipfile.BadZipFile) as error:
            broken.append(f"{name} ({error})")
    return broken


def results(folder: Path) -> dict[str, Path]:
    """The networks and states of a run."""
    return {path.name: path for path in folder.glob("[nt]*-*-*.p*")}


def differences(expected: dict[str, Path], found: dict[str, Path]) -> list[str]:
    """What tells two results apart, each files by name."""
    if expected.keys() != found.keys():
        return [f"files differ: {sorted(expected.keys() ^ found.keys())}"]
    return [f"{name} differs" for name in expected if not _same(expected[name], found[name])]


def _same(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    # The zip around arrays tells the time, and the pickle of a state which of its names are one
    # object; what they hold has to be the same to the last bit.
    read = {".npz": load_arrays, ".pt": read_state, ".nc": read_netcdf}.get(one.suffix)
    return read is not None and equal(read(one), read(other))
