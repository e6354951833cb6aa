"""Runs of scripts: parameters files next to results, and the headline numbers in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch_utils.results import last_line, load_json
from training.files.arrays import stem_of
from training.files.stats import STATS
from training.names import KINDS
from training.pictures.content import Result
from training.pictures.theme import brief, joined
from training.report.content import Run

TRAINING = "training_options.json"
PARAMETERS = ("_sim_params.json", "_HD_pfODE_int_sim_params.json")
"""Endings of the names of a simulation's parameters files, after the stem."""
SMALL_RMS = 1e-3
"""Root-mean-square error, relative to unit variance, up to which a roundtrip counts as exact."""
HALF_LEVEL = 0.5
"""Gray levels: smaller errors vanish by rounding."""
WORDS = 120
"""Largest number of letters of a value that are shown."""


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


def roundtrip_results(path: Path, of: str) -> Iterator[Result]:
    """Yield the roundtrip errors in the parameters file of a simulation.

    Args:
        path: File of a simulation.
        of: Name of the data.

    Raises:
        DataError: The parameters are broken.
    """
    errors = _simulated(path)
    largest = number(errors, "max_abs_error")
    exact = number(errors, "exact_pixels")
    rms = number(errors, "rms_error")
    if exact is not None and largest is not None:
        words = f"{exact:.4%} of pixels exact, largest error {brief(largest)} gray levels"
        yield Result(of, "round trip", words, "largest error below ½", largest < HALF_LEVEL)
    elif rms is not None:
        words = f"rms {brief(rms)}" + ("" if largest is None else f", largest {brief(largest)}")
        target = f"rms at most {SMALL_RMS:g} of data of unit variance"
        yield Result(of, "round trip", words, target, rms <= SMALL_RMS)


def _simulated(path: Path) -> Mapping[str, Any]:
    """Return the roundtrip entry of the parameters next to a simulation's file, or an empty one."""
    for ending in PARAMETERS:
        beside = path.with_name(stem_of(path) + ending)
        if beside.exists():
            content = load_json(beside)
            inner = content.get("simulations", content)
            part = inner.get("roundtrip") if isinstance(inner, dict) else None
            return part if isinstance(part, dict) else {}
    return {}


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


def number(content: Any, name: str | int) -> float | None:
    """Return the number under a key of JSON content; None if it is missing or too large to show."""
    value = content.get(name) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"
