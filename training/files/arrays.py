"""Information in the names of result files and in the JSON beside them."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.arguments import fits
from torch_utils.results import load_json
from training.names import KINDS

STEM = re.compile(
    r"(?P<data>.+)_(?P<schedule>PRP|PRRto\d+D|EDM|VP|VE)(_(?P<denoiser>net|discrete|exact))?"
)
DENOISERS = {"net": "trained network", "exact": "exact denoiser", "discrete": "discrete denoiser"}


def stem_of(path: Path) -> str:
    """Return the file name of simulation results without the endings that state their kind.

    The inflation (``_melt``), roundtrip and generation (``_gen``) of one run share this stem.
    """
    stem = path.stem.removesuffix("_results")
    for kind in KINDS:
        stem = stem.removesuffix(f"_{kind}")
    return stem


def kind_of(path: Path, times: np.ndarray) -> str:
    """Return the kind of a simulation: ``melt`` (inflation), ``roundtrip`` or ``gen`` (generation).

    Times increase in an inflation only. The file name distinguishes the other two kinds.

    Args:
        path: Path of the results file.
        times: Saved times, at least two.
    """
    if times[-1] > times[0]:
        return "melt"
    return "roundtrip" if path.stem.endswith(("_roundtrip", "_roundtrip_results")) else "gen"


def title_of(stem: str) -> tuple[str, str]:
    """Split the stem of a file name into the name of the data and a description in words.

    The description states the schedule and the denoiser; it is empty if the stem has neither.
    """
    match = STEM.fullmatch(stem)
    if match is None:
        return stem.replace("_", " "), ""
    words = f"{match['schedule']} schedule", DENOISERS.get(match["denoiser"])
    return match["data"].replace("_", " "), ", ".join(word for word in words if word)


def parameter(file: Path, *keys: str) -> Any:
    """Return the value under nested keys of a JSON file; None if the file or a key is missing.

    Raises:
        DataError: The file exists, but is not a JSON object.
    """
    if not file.exists():
        return None
    value: Any = load_json(file)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(content: Any, name: str | int) -> float | None:
    """Return the number under a key of JSON content; None if it is missing or too large to show."""
    value = content.get(name) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def typed(content: Any, broken: DataError, **kinds: Any) -> list[Any]:
    """Return the values of some entries of a JSON object, after a check of their types.

    Args:
        content: The parsed JSON.
        broken: Error to raise if the check fails.
        kinds: Expected type of each entry, by name, such as ``list[str]``.

    Raises:
        DataError: ``broken``, if ``content`` is not an object, or an entry is missing or of another
            type.
    """
    entries = [content.get(name) if isinstance(content, dict) else None for name in kinds]
    if not all(fits(entry, kind) for entry, kind in zip(entries, kinds.values(), strict=True)):
        raise broken
    return entries


def evenly(count: int, most: int) -> np.ndarray:
    """Return at most ``most`` evenly spaced indices from 0 to ``count - 1``, both included."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
