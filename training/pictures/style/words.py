"""Words on pictures: brief numbers, and what a file's name and the JSON beside it tell."""

import re
from pathlib import Path
from typing import Any

from torch_utils.results import load_json
from training.names import KINDS

STEM = re.compile(
    r"(?P<data>.+)_(?P<schedule>PRP|PRRto\d+D|EDM|VP|VE)(_(?P<denoiser>net|discrete|exact))?"
)
DENOISERS = {"net": "trained network", "exact": "exact denoiser", "discrete": "discrete denoiser"}


def joined(*words: str, by: str = " · ") -> str:
    """Words in one line, without those that are empty."""
    return by.join(word for word in words if word)


def brief(value: float) -> str:
    """A number that is not negative with two digits, or all of those before its point."""
    if value == 0 or value >= 1e-3:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    first, power = f"{value:.1e}".split("e")
    return f"{first.removesuffix('.0')}·{power_of_ten(int(power))}"


def power_of_ten(power: int) -> str:
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def stem_of(path: Path) -> str:
    """What the names of a melt, a roundtrip and a generation of one run have in common."""
    stem = path.stem.removesuffix("_results")
    for kind in KINDS:
        stem = stem.removesuffix(f"_{kind}")
    return stem


def title_of(stem: str) -> tuple[str, str]:
    """The data's name, and what else the stem of a file's name tells: schedule and denoiser."""
    match = STEM.fullmatch(stem)
    if match is None:
        return stem.replace("_", " "), ""
    schedule = f"{match['schedule']} schedule"
    details = joined(schedule, DENOISERS.get(match["denoiser"], ""), by=", ")
    return match["data"].replace("_", " "), details


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


def words_for(value: Any, words: dict[str, str]) -> str:
    """The words for a value; none for what there are no words for."""
    return words.get(value, "") if isinstance(value, str) else ""
