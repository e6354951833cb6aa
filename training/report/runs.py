"""What was run: the parameters files beside results, and the headline numbers that are in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch_utils.results import last_line, load_json
from training.files.arrays import stem_of
from training.files.stats import STATS
from training.names import KINDS
from training.pictures.look import brief, joined
from training.report.content import Result, Run

TRAINING = "training_options.json"
PARAMETERS = ("_sim_params.json", "_HD_pfODE_int_sim_params.json")
"""How the names of files with a simulation's parameters end, after the stem."""
SMALL_RMS = 1e-3
"""Of what has unit variance: a roundtrip that errs less is one to a tenth of a percent."""
HALF_LEVEL = 0.5
"""Gray levels: smaller errors are none after rounding."""
WORDS = 120
"""Letters of a value that are shown."""


def run_of(path: Path) -> Run | None:
    """What ran, by a parameters file; None if it is none of a run. Raises DataError if the file is
    broken."""
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
    # Those of the first part that has any.
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
        "network calls": _total(content, "denoiser_calls", "{:,.0f}")
        or _total(content, "network_calls", "{:,.0f}"),
        "started": last.get("started"),
        "finished": last.get("finished"),
    }
    facts = [(name, _brief(value)) for name, value in listed.items() if value not in (None, "")]
    shown = [(str(name), _brief(value)) for name, value in options.items() if value is not None]
    return Run(str(last["command"][0]), str(path), facts, shown)


def roundtrip_results(path: Path, of: str) -> Iterator[Result]:
    """What the parameters beside a file of a simulation say of the way back, of such data. Raises
    DataError if they are broken."""
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
    """What the parameters beside a simulation's file say of the way back."""
    for ending in PARAMETERS:
        beside = path.with_name(stem_of(path) + ending)
        if beside.exists():
            content = load_json(beside)
            inner = content.get("simulations", content)
            part = inner.get("roundtrip") if isinstance(inner, dict) else None
            return part if isinstance(part, dict) else {}
    return {}


def _parts(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A file's parameters: its own, or those of each kind of simulation."""
    kinds = [content[kind] for kind in KINDS if isinstance(content.get(kind), dict)]
    return [content, *kinds]


def _total(content: Mapping[str, Any], name: str, form: str) -> str:
    """The sum of a number over all that ran; empty where it is not told."""
    inner = content.get("simulations")
    places = [*_parts(content), *(inner.values() if isinstance(inner, dict) else ())]
    known = [value for place in places if (value := number(place, name)) is not None]
    return form.format(sum(known)) if known else ""


def number(content: Any, name: str | int) -> float | None:
    """One of this name, as far as it can be shown; None if there is none."""
    value = content.get(name) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= WORDS else text[: WORDS - 1] + "…"
