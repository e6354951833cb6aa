"""What the name of a file tells, and the JSON beside it."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from torch_utils.results import load_json
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
    """``melt``, ``roundtrip`` or ``gen``. Of those that run backwards, the name says which.

    Args:
        path: A results file.
        times: Its saved times, two at least.
    """
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
    """The value under nested keys of a JSON file; None where there is none.

    Raises:
        DataError: The file is there, but is no JSON object.
    """
    if not file.exists():
        return None
    value: Any = load_json(file)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
