"""Network files and training states, with a safe reader.

A file is written by ``torch.save`` and read by ``load_tensors``, which rebuilds tensors and plain
values and rejects everything else: a file from a stranger cannot run code. Classes are named by
strings that the caller looks up in a fixed registry. A network file is

    {"format": "inflationary-flows network", "version": 1, "parts": {name: {"class", "arguments",
     "state"}}, "about": {...}}

with plain values for arguments and ``about``, and flat dictionaries of tensors for states.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dnnlib.errors import DataError, UsageError, in_one_line
from dnnlib.files import atomic_path, open_file
from torch_utils.arguments import check_arguments
from torch_utils.inert_pickle import PickleError, shown
from torch_utils.tensor_files import BrokenFileError, load_tensors

Module = TypeVar("Module", bound=nn.Module)
NETWORK_FORMAT = "inflationary-flows network"
STATE_FORMAT = "inflationary-flows training state"
VERSION = 1
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
# No argument of a network is this large; a depth of billions would be built layer by layer.
LARGEST_ARGUMENT = 1 << 16
# Nested lists can be short to write and endless to read.
MOST_VALUES, DEEPEST_VALUE = 1_000_000, 32
LARGEST_NUMBER = 2**64
# With more missing tensors than this, the message does not name them.
MANY_TENSORS = 1000
MISFITS = (ArithmeticError, RuntimeError, ValueError, UsageError)
"""Errors of constructors and torch for sizes and numbers that do not match.

A TypeError, an AttributeError or a LookupError is never caused by a file, but by a bug.
"""


@dataclass(frozen=True)
class Part:
    """A module of a network file: its class name, constructor arguments, and tensors by name."""

    class_name: str
    arguments: dict[str, Any]
    state: dict[str, Tensor] = field(default_factory=dict)


def write_network(path: Path, parts: Mapping[str, Part], about: Mapping[str, Any]) -> None:
    """Write the parts of a network, by name, and metadata to a network file, atomically."""
    entries = {
        name: {"class": part.class_name, "arguments": part.arguments, "state": part.state}
        for name, part in parts.items()
    }
    _write(path, {"format": NETWORK_FORMAT, "parts": entries, "about": dict(about)})


def read_network(path: Path) -> tuple[dict[str, Part], dict[str, Any]]:
    """Return the parts of a network file by name, and its metadata.

    Raises:
        DataError: The file is missing, damaged, not a network file, of a newer version, or contains
            objects other than tensors and plain values.
    """
    payload = _read(path, NETWORK_FORMAT, "network file")
    about = _entry(path, payload, "about", dict)
    parts = {
        shown(name): _part(path, shown(name), entry)
        for name, entry in _entry(path, payload, "parts", dict).items()
    }
    plain = {"about": about, **{name: part.arguments for name, part in parts.items()}}
    for name, values in plain.items():
        for key, value in _leaves(values):
            if isinstance(value, Tensor):
                raise _damaged(
                    path, f"'{name}' contains a tensor, '{key}', instead of a plain value"
                )
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise _damaged(path, f"'{name}' contains a number beyond 2^64, '{key}'")
    _require_own_values(path, (value for part in parts.values() for value in part.state.values()))
    for name, part in parts.items():
        for key, value in part.state.items():
            problem = _problem_with(value)
            if problem:
                raise DataError(
                    f"{path}: '{shown(f'{name}.{key}')}' {problem}: restore the file from a copy, "
                    "or train again"
                )
    return parts, about


def _damaged(path: Path, problem: str) -> DataError:
    """Return the error for a damaged file: its problem, and the advice to restore it."""
    return DataError(f"{path}: {problem}: restore the file from a copy")


def _part(path: Path, name: str, entry: object) -> Part:
    if not isinstance(entry, dict):
        raise DataError(
            f"{path} is not a complete network file: the part '{name}' is not a dictionary. "
            "Restore the file from a copy"
        )
    class_name = shown(_entry(path, entry, "class", str, name))
    arguments = _entry(path, entry, "arguments", dict, name)
    return Part(class_name, arguments, _entry(path, entry, "state", dict, name))


def _entry(path: Path, entries: Mapping[str, Any], key: str, kind: type, part: str = "") -> Any:
    """Return an entry after a check of its type; names in dictionaries must be strings."""
    what = f"the '{key}' of its '{part}'" if part else f"its '{key}'"
    value = entries.get(key)
    if not isinstance(value, kind):
        problem = f"{what} is missing or not a {kind.__name__}"
        raise DataError(f"{path} is not a complete network file: {problem}. Restore it from a copy")
    for name in value if isinstance(value, dict) else ():
        if not isinstance(name, str):
            raise _damaged(path, f"{what} has a name that is not text, {shown(name)}")
    return value


def _problem_with(value: object) -> str | None:
    """Return the reason why a value cannot be a weight; None if it can."""
    if not isinstance(value, Tensor):
        return "is not a tensor"
    if value.layout != torch.strided or value.device.type != "cpu":
        return "is not a plain tensor with its own values"
    if value.dtype not in WEIGHT_DTYPES:
        return f"has the type {value.dtype}, which weights cannot have"
    # A view that repeats a few stored values could require any amount of memory.
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return "declares more values than the file contains"
    if not value.isfinite().all():
        return "has values that are not finite"
    return None


def _require_own_values(path: Path, values: Iterable[object]) -> None:
    """Raise DataError if tensors share storage, which would make reading them more work."""
    tensors = (value for value in values if isinstance(value, Tensor))
    promised = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if promised > path.stat().st_size:
        raise DataError(
            f"{path} declares tensors of {promised} bytes, more than the whole file: restore it "
            "from a copy"
        )


def build(
    path: Path, name: str, part: Part, registry: Mapping[str, Callable[..., Module]]
) -> Module:
    """Construct a module of a network file, and load its tensors, on the CPU.

    The module is first constructed on the meta device, without memory for its tensors. A file that
    declares huge layers without their tensors is thus rejected early.

    Args:
        path: The network file, for messages.
        name: Name of the part, for messages.
        part: Class name, arguments and tensors of the module.
        registry: Permitted classes by name.

    Raises:
        DataError: The class is not in the registry, arguments are invalid, or tensors do not match.
    """
    if part.class_name not in registry:
        raise DataError(
            f"{path}: '{name}' is of the unknown class '{part.class_name}': update the code, "
            f"whose classes are {', '.join(registry)}"
        )
    if _largest_integer(part.arguments) > LARGEST_ARGUMENT:
        raise _damaged(path, f"'{name}' has an argument larger than {LARGEST_ARGUMENT}")
    make = registry[part.class_name]
    try:
        check_arguments(make, part.arguments)
        with torch.device("meta"), _no_more_parameters(len(part.state) + MANY_TENSORS):
            expected = make(**part.arguments).state_dict()
    except MISFITS as error:
        reason = first_line(error)
        raise DataError(
            f"{path}: '{name}' cannot be built as {part.class_name}: {reason}"
        ) from error
    for key in sorted({*expected, *part.state}):
        if (
            key not in expected
            or key not in part.state
            or (expected[key].shape != part.state[key].shape)
        ):
            raise _damaged(
                path, f"the tensors of '{name}' do not match its architecture, first '{shown(key)}'"
            )
    module = make(**part.arguments)
    module.load_state_dict(part.state)
    return module


@contextmanager
def _no_more_parameters(count: int) -> Iterator[None]:
    """Limit the parameters of modules constructed in the block; raise ValueError above it."""
    left = count

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        left -= parameter is not None
        if left < 0:
            raise ValueError(
                "the file declares far more tensors than it contains: restore it from a copy"
            )

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, printable and not too long."""
    return in_one_line(str(error)) or type(error).__name__


def _largest_integer(value: object) -> int:
    if isinstance(value, int):
        return abs(value)
    if isinstance(value, dict):
        value = list(value.values())
    return max(map(_largest_integer, value), default=0) if isinstance(value, list | tuple) else 0


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state, by name of the entry, to a file, atomically."""
    _write(path, {"format": STATE_FORMAT, **state})


def read_state(path: Path) -> dict[str, Any]:
    """Return a training state, on the CPU: tensors of finite numbers, and plain values.

    Raises:
        DataError: The file is missing, damaged, not a training state, of a newer version, or
            contains objects other than tensors of finite numbers and plain values.
    """
    state = _read(path, STATE_FORMAT, "training state")
    tensors = {name: value for name, value in _leaves(state) if isinstance(value, Tensor)}
    _require_own_values(path, tensors.values())
    for name, tensor in tensors.items():
        problem = _problem_with(tensor)
        if problem:
            raise DataError(f"{path}: '{name}' {problem}: resume from another state")
    return state


def tensors_of(state: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the tensors, by name, in an entry of a training state.

    Raises:
        ValueError: The entry is missing, or is not a dictionary of tensors by name.
    """
    entry = state.get(name)
    if isinstance(entry, dict):
        tensors = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
        if len(tensors) == len(entry) and all(isinstance(key, str) for key in tensors):
            return tensors
    raise ValueError(
        f"the entry '{name}' is not a dictionary of tensors by name: restore the file from a copy"
    )


def _write(path: Path, payload: dict[str, Any]) -> None:
    # Given a path, torch's own writer reports a full disk as an internal error.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save({"version": VERSION, **payload}, file)


def _read(path: Path, expected: str, what: str) -> dict[str, Any]:
    with open_file(path, f"a {what}") as file:
        try:
            payload = load_tensors(file)
            for _ in _leaves(payload):
                pass
        except PickleError as error:
            raise DataError(
                f"{path} is not a {what} of this project: {error}. Only tensors and plain values "
                "are ever loaded: give another file"
            ) from error
        except BrokenFileError as error:
            raise DataError(f"{path} is not a readable {what}: {error}") from error
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}: give the path of a {what}"
            ) from error
    if not isinstance(payload, dict) or payload.get("format") != expected:
        raise DataError(f"{path} is not a {what} of this project: give the path of a {what}")
    version = payload.get("version")
    if not isinstance(version, int):
        raise DataError(f"{path} does not contain the version of a {what}: restore it from a copy")
    if version > VERSION:
        raise DataError(
            f"{path} is a {what} of version {version}, but this code reads versions up to "
            f"{VERSION}: update the code"
        )
    return payload


def _leaves(value: object) -> Iterator[tuple[str, object]]:
    """Yield all values in dicts, lists and tuples, with their keys, joined by dots.

    Raises:
        PickleError: There are too many values, or they are nested too deep.
    """
    waiting: list[tuple[str, int, object]] = [("", 0, value)]
    for _ in range(MOST_VALUES):
        if not waiting:
            return
        name, depth, value = waiting.pop()
        if not isinstance(value, dict | list | tuple):
            yield name.lstrip("."), value
            continue
        if depth >= DEEPEST_VALUE or len(value) > MOST_VALUES:
            break
        items = value.items() if isinstance(value, dict) else enumerate(value)
        waiting += [(f"{name}.{shown(key)}", depth + 1, item) for key, item in items]
    raise PickleError(
        "the pickle contains too many or too deeply nested values for a file of this project"
    )
