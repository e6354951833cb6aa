"""Runs of scripts: parameters files next to results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch_utils.results import last_line, load_json
from training.files.arrays import number
from training.files.stats import STATS
from training.names import KINDS
from training.pictures.theme import joined

TRAINING = "training_options.json"
WORDS = 120
"""Largest number of letters of a value that are shown."""


BRIEF = {"seed": "seed {}", "device": "on {}", "seconds": "{} s"}
BRIEF["network evaluations"] = "{} evaluations"
"""Facts of a run for its one-line summary, with their formats."""


@dataclass(frozen=True)
class Run:
    """A run of a script: facts from its parameters file, as pairs of name and value."""

    title: str
    place: str
    facts: Sequence[tuple[str, str]]
    options: Sequence[tuple[str, str]] = field(default=())

    @property
    def brief(self) -> str:
        """Most important facts, in one line."""
        facts = dict(self.facts)
        return ", ".join(form.format(facts[name]) for name, form in BRIEF.items() if name in facts)


def run_of(path: Path) -> Run | None:
    """Return the run that a parameters file describes, or None if it describes no run.

    Raises:
        DataError: The file is broken.
    """
    content = load_json(path)
    parts = [
        part
        for part in _parts(content)
        if isinstance(part.get("command"), list) and part["command"]
    ]
    if not (str(content.get("format", "")).startswith("inflationary-flows ") and parts):
        return None
    last = parts[-1]
    trained = last_line(path.with_name(STATS)) if path.name == TRAINING else None
    # options of the first part that has any
    candidates = (part.get("options") for part in _parts(content))
    options = next((options for options in candidates if isinstance(options, dict)), {})
    libraries = last.get("libraries")
    versions = libraries if isinstance(libraries, dict) else {}
    listed = {
        "command": " ".join(map(str, last["command"])),
        "code": joined(str(last.get("code_version", "")), str(last.get("code_revision") or "")),
        "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "seed": options.get("seed"),
        "device": options.get("device_name"),
        "seconds": _total(content, "seconds", "{:,.1f}")
        or _total({"seconds": (trained or {}).get("Timing/seconds")}, "seconds", "{:,.1f}"),
        "network evaluations": _total(content, "denoiser_calls", "{:,.0f}")
        or _total(content, "network_calls", "{:,.0f}"),
        "started": last.get("started"),
        "finished": last.get("finished"),
    }
    facts = [(name, _brief(value)) for name, value in listed.items() if value not in (None, "")]
    shown = [(str(name), _brief(value)) for name, value in options.items() if value is not None]
    return Run(str(last["command"][0]), str(path), facts, shown)


def _parts(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the parameters of a file: those at its top, and those of each kind of simulation."""
    kinds = [content[kind] for kind in KINDS if isinstance(content.get(kind), dict)]
    return [content, *kinds]


def _total(content: Mapping[str, Any], name: str, form: str) -> str:
    """Return the formatted sum of a number over all parts of a run; empty if it is not recorded."""
    inner = content.get("simulations")
    places = [*_parts(content), *(inner.values() if isinstance(inner, dict) else ())]
    known = [value for place in places if (value := number(place, name)) is not None]
    return form.format(sum(known)) if known else ""


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"
