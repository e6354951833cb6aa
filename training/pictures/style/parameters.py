"""What the ``.json`` beside a results file tells of how it was made, for subtitles."""

from pathlib import Path
from typing import Any

from torch_utils.results import load_json


def parameter(path: Path, *keys: str) -> Any:
    """The value under nested keys in the ``.json`` of a result's name; None where there is none.

    Raises:
        DataError: The file is there, but is no JSON object.
    """
    file = path.with_suffix(".json")
    if not file.exists():
        return None
    value: Any = load_json(file)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def told(words: dict[str, str], value: Any) -> str:
    """The words for a value; none for what there are no words for."""
    return words.get(value, "") if isinstance(value, str) else ""
