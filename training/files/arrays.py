"""Arrays of a results file that belong together, and what the name of a file tells."""

import re
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import SavedArrays, load_json
from training.names import KINDS

STEM = re.compile(
    r"(?P<data>.+)_(?P<schedule>PRP|PRRto\d+D|EDM|VP|VE)(_(?P<denoiser>net|discrete|exact))?"
)
DENOISERS = {"net": "trained network", "exact": "exact denoiser", "discrete": "discrete denoiser"}


def stem_of(path: Path) -> str:
    """What the names of a melt, a roundtrip and a generation of one run have in common."""
    stem = path.stem.removesuffix("_results")
    for kind in KINDS:
        stem = stem.removesuffix(f"_{kind}")
    return stem


def kind_of(path: Path, times: np.ndarray) -> str:
    """``melt``, ``roundtrip`` or ``gen``, by two saved times or more. Of those that run backwards,
    the name says which."""
    if times[-1] > times[0]:
        return "melt"
    return "roundtrip" if path.stem.endswith(("_roundtrip", "_roundtrip_results")) else "gen"


def title_of(stem: str) -> tuple[str, str]:
    """The data's name, and what else the stem of a file's name tells: schedule and denoiser."""
    match = STEM.fullmatch(stem)
    if match is None:
        return stem.replace("_", " "), ""
    words = f"{match['schedule']} schedule", DENOISERS.get(match["denoiser"])
    return match["data"].replace("_", " "), ", ".join(word for word in words if word)


def parameter(file: Path, *keys: str) -> Any:
    """The value under nested keys of a JSON file; None where there is none. Raises DataError if the
    file is there, but is no JSON object."""
    if not file.exists():
        return None
    value: Any = load_json(file)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def typed(content: Any, broken: DataError, **kinds: type) -> list[Any]:
    """Entries of an object of a JSON file, by their names and types. Raises what is given if it is
    no object, or an entry is missing or of another type."""
    entries = [content.get(name) if isinstance(content, dict) else None for name in kinds]
    if any(type(entry) is not kind for entry, kind in zip(entries, kinds.values(), strict=True)):
        raise broken
    return entries


LARGEST = 1e6
"""Far beyond all that is drawn: points are in units of standard deviations, or pixels."""


def evenly(count: int, most: int) -> np.ndarray:
    """Indices of at most so many of a number of things, evenly spaced, with both ends."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def distinct_texts(path: Path, name: str, values: np.ndarray) -> tuple[str, ...]:
    """Texts, all different. Raises DataError if they are not."""
    if values.dtype.kind != "U" or values.ndim != 1 or len(np.unique(values)) != len(values):
        raise DataError(f"{path}: '{name}' is not a list of names, all different")
    return tuple(values.tolist())


class CheckedArrays:
    """Reads arrays whose shapes are told in letters, such as ``SR``.

    Args:
        saved: The open file.
        path: Of the file, for errors.
        sizes: Of letters that are known already; the others have the size they are first met with.
    """

    def __init__(self, saved: SavedArrays, path: Path, **sizes: int):
        self.saved, self.path, self.sizes = saved, path, sizes

    def read(
        self, name: str, letters: str, least: int = 1, largest: float = LARGEST, holes: bool = False
    ) -> np.ndarray:
        """An array of finite numbers in float64.

        Args:
            name: Of the array.
            letters: One an axis.
            least: Size that no axis is smaller than.
            largest: Magnitude that no value may pass.
            holes: Whether NaN may be among them.

        Raises:
            DataError: It is missing, broken, not finite, far too large, or of another shape.
        """
        values = self.saved.numbers(name, holes)
        shape = values.shape
        fits = len(shape) == len(letters) and min(shape, default=least) >= least
        if fits:
            pairs = zip(letters, shape, strict=True)
            fits = all(self.sizes.setdefault(letter, size) == size for letter, size in pairs)
        if not fits:
            wanted = ", ".join(str(self.sizes.get(letter, letter)) for letter in letters)
            right = f"[{wanted}], each {least} or more" if letters else "one number"
            raise DataError(f"{self.path}: '{name}' is {list(shape)}, but should be {right}")
        values = values.astype(np.float64, copy=False)
        if largest < inf and (np.abs(values) > largest).any():
            raise DataError(f"{self.path}: '{name}' has values beyond {largest:g}: make it again")
        return values
