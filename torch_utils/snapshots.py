"""Network files, training states, and the only way they are opened.

A file is written by ``torch.save`` and read by ``torch.load(weights_only=True)``, which rebuilds
tensors and plain values and refuses all else: a file from a stranger cannot run code. Classes are
named by strings that the caller looks up in a fixed registry. A network file is

    {"format": "inflationary-flows network", "version": 1, "parts": {name: {"class", "arguments",
     "state"}}, "about": {...}}

with arguments and ``about`` plain values, and states flat dictionaries of tensors.
"""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path

NETWORK_FORMAT = "inflationary-flows network"
STATE_FORMAT = "inflationary-flows training state"
VERSION = 1
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
# No argument of a network is so large; a depth of billions would be built layer by layer.
LARGEST_ARGUMENT = 1 << 16
# What torch.load raises on bytes that it did not write.
BROKEN_FILE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Part:
    """One module of a network file: its class by name, how to construct it, and its tensors."""

    class_name: str
    arguments: dict[str, Any]
    state: dict[str, Tensor] = field(default_factory=dict)


def write_network(path: Path, parts: Mapping[str, Part], about: Mapping[str, Any]) -> None:
    """Writes a network file, whole or not at all."""
    entries = {
        name: {"class": part.class_name, "arguments": part.arguments, "state": part.state}
        for name, part in parts.items()
    }
    _write(path, {"format": NETWORK_FORMAT, "parts": entries, "about": dict(about)})


def read_network(path: Path) -> tuple[dict[str, Part], dict[str, Any]]:
    """The parts of a network file and what it says about itself.

    Raises:
        DataError: Missing or corrupt, not a network file, of a newer version, or holding more than
            tensors and plain values.
    """
    payload = _read(path, NETWORK_FORMAT, "network file")
    try:
        parts = {
            str(name): Part(str(entry["class"]), dict(entry["arguments"]), dict(entry["state"]))
            for name, entry in payload["parts"].items()
        }
        about = dict(payload["about"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} is not a complete network file: {error!r} in its parts") from error
    for name, part in parts.items():
        for key, value in part.state.items():
            problem = _problem_with(value)
            if problem:
                raise DataError(f"{path}: '{name}.{key}' {problem}")
    return parts, about


def _problem_with(value: object) -> str | None:
    """What keeps a value from being a weight: None if nothing does."""
    if not isinstance(value, Tensor):
        return "is not a tensor"
    if value.layout != torch.strided or value.device.type != "cpu":
        return "is not a plain tensor with its own values"
    if value.dtype not in WEIGHT_DTYPES:
        return f"is of type {value.dtype}, which no weight has"
    # A view that repeats few stored values could ask for any amount of memory.
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "promises more values than the file has"
    if not value.isfinite().all():
        return "has values that are not finite"
    return None


def build(path: Path, name: str, part: Part, registry: Mapping[str, type[nn.Module]]) -> nn.Module:
    """Constructs a part from the registry and gives it its tensors, on the CPU.

    It is laid out on the meta device first: a file that asks for huge layers but does not bring
    their tensors is refused before any memory is taken.

    Raises:
        DataError: Class not in the registry, wrong arguments, or tensors that do not fit.
    """
    if part.class_name not in registry:
        raise DataError(
            f"{path}: '{name}' is a '{part.class_name}', which this version does not know; "
            f"it knows {', '.join(registry)}"
        )
    if _largest_integer(part.arguments) > LARGEST_ARGUMENT:
        raise DataError(f"{path}: '{name}' has an argument larger than {LARGEST_ARGUMENT}")
    try:
        with torch.device("meta"):
            module = registry[part.class_name](**part.arguments)
        expected = {key: value.shape for key, value in module.state_dict().items()}
        given = {key: value.shape for key, value in part.state.items()}
        if expected != given:
            differing = sorted(
                key for key in expected | given if expected.get(key) != given.get(key)
            )
            raise DataError(f"{path}: the tensors of '{name}' do not fit, first '{differing[0]}'")
        module = registry[part.class_name](**part.arguments)
        module.load_state_dict(part.state)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, UsageError) as error:
        reason = first_line(error)
        raise DataError(
            f"{path}: '{name}' cannot be built as {part.class_name}: {reason}"
        ) from error
    return module


def first_line(error: Exception) -> str:
    """An error in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _largest_integer(value: object) -> int:
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, dict):
        value = list(value.values())
    return max(map(_largest_integer, value), default=0) if isinstance(value, list | tuple) else 0


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a training state, whole or not at all."""
    _write(path, {"format": STATE_FORMAT, **state})


def read_state(path: Path) -> dict[str, Any]:
    """A training state, on the CPU. Raises DataError as ``read_network`` does."""
    return _read(path, STATE_FORMAT, "training state")


def _write(path: Path, payload: dict[str, Any]) -> None:
    # Given a path, torch's own writer reports a full disk as an internal error.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"version": VERSION, **payload}, file)


def _read(path: Path, expected: str, what: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign formats that we refuse anyway
            payload = torch.load(path, map_location="cpu", weights_only=True)
        with ZipFile(path) as archive:  # torch does not look at the checksums
            broken = archive.testzip()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: give the path of a {what}") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder: give the path of a {what}") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} is not a {what} of this project: it is broken, or holds objects other than "
            "tensors and plain values, which are never loaded"
        ) from error
    except BROKEN_FILE_ERRORS as error:
        raise DataError(
            f"{path} is no readable {what}: it is empty, cut short or broken"
        ) from error
    if broken:
        raise DataError(f"{path} is no readable {what}: the checksum of '{broken}' is wrong")
    if not isinstance(payload, dict) or payload.get("format") != expected:
        raise DataError(f"{path} is not a {what} of this project")
    version = payload.get("version")
    if not isinstance(version, int):
        raise DataError(f"{path} does not say which version of a {what} it is")
    if version > VERSION:
        raise DataError(
            f"{path} is a {what} of version {version}; this code reads up to {VERSION}: update it"
        )
    return payload
