"""Network files of the paper's original code, read as data.

Such a file is a pickle of a dict: ``ema`` is the network with its preconditioning, ``loss_fn``
describes how it was trained, and ``dataset_kwargs`` the data. Each object of the original code is
written as a call of ``torch_utils.persistence._reconstruct_persistent_obj`` with one argument,

    {"type": "class", "version", "module_src", "class_name", "state"},

where ``module_src`` is the source text of the class, which the original code would run, and
``state`` contains the object's attributes. Here everything but the name of the class and the
attributes is dropped. The attributes ``_parameters``, ``_buffers`` and ``_modules`` of a module are
its components.
"""

import hashlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.inert_arrays import ARRAY_NAMES, SCALAR_NAMES, TENSOR_NAMES
from torch_utils.inert_pickle import Names, PickleError, PickleReader, Unfinished, expect, shown
from torch_utils.snapshots import LARGEST_ARGUMENT

ALLOWED = "only tensors, arrays and the networks of the original code can be imported"
LARGEST_FILE = 2 << 30
PRINCIPAL_AXES = "PCA"
# A layer of a network of the original code lies five modules deep.
DEEPEST_MODULE = 16


class Record(Unfinished):
    """Object in a network file of the original code: its class name and its attributes."""

    def __init__(self, class_name: str, state: Mapping[str, Any] | None = None):
        self.class_name, self.state = class_name, state or {}

    def build(self, state: Any) -> "Record":
        """Set the attributes from a dict, and return the record.

        Raises:
            ValueError: The state is not a dict.
        """
        self.state = expect(state, dict)
        return self


def _persistent_object(meta: Any) -> Record:
    match meta:
        case {"type": "class", "class_name": str(class_name), "state": dict(state)}:
            return Record(class_name, state)
    raise ValueError("the description of an object in the file is invalid")


def _object(class_name: str) -> Callable[[], Record]:
    """Return a constructor of a placeholder for an object of a class.

    The attributes follow. No code of the class is run.
    """
    return lambda: Record(class_name)


def _empty_dict() -> dict[str, Any]:
    return {}


def _size(values: Any) -> tuple[Any, ...]:
    return expect(values, tuple)


def _device(*place: Any) -> None:
    """Ignore the device of a tensor."""


NAMES: Names = {
    **ARRAY_NAMES,
    **SCALAR_NAMES,
    **TENSOR_NAMES,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "torch.nn.modules.container.ModuleDict": _object("ModuleDict"),
    "torch.nn.modules.normalization.GroupNorm": _object("GroupNorm"),
    "sklearn.decomposition._pca.PCA": _object(PRINCIPAL_AXES),
    "torch.device": _device,
    "torch.Size": _size,
    "collections.OrderedDict": _empty_dict,
    "dnnlib.util.EasyDict": _empty_dict,
}
"""All names that such a file may import."""


@dataclass(frozen=True)
class OriginalFile:
    """Content of a network file of the original code.

    Attributes:
        path: Path of the file.
        size: Size in bytes.
        sha256: SHA-256 of the file.
        network: Averaged network with its preconditioning.
        content: Whole content of the file: plain values, read-only arrays and ``Record``.
    """

    path: Path
    size: int
    sha256: str
    network: "Record"
    content: Mapping[str, Any]

    def section(self, name: str) -> "Fields":
        """Return the attributes of the object or dict with this name in the file, if any."""
        value = self.content.get(name)
        if isinstance(value, Record):
            value = value.state
        return Fields(f"{self.path}, '{name}'", value if isinstance(value, dict) else {})

    def principal_axes(self) -> "Fields | None":
        """Return the attributes of the PCA that transformed the training data, or None.

        Raises:
            DataError: The file has another object in place of the PCA.
        """
        data = self.section("dataset_kwargs")
        if data.values.get("pca_trf") is None:
            return None
        record = data.record("pca_trf")
        where = f"{data.where}, 'pca_trf'"
        if record.class_name != PRINCIPAL_AXES:
            raise DataError(
                f"{where} is a {shown(record.class_name)}, not a PCA of scikit-learn: give an "
                "unmodified file"
            )
        return Fields(where, record.state)


def read_original(path: Path) -> OriginalFile:
    """Read a network file of the original code as data, without running code.

    Raises:
        DataError: The file is missing or damaged, or contains objects other than a network of the
            original code.
    """
    if not path.is_file():  # reading a pipe or a device might never end
        exists = path.is_dir() or path.is_symlink() or path.exists()
        what = "is a folder" if path.is_dir() else "is no file" if exists else "does not exist"
        raise DataError(f"{path} {what}: give a file of the original code")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise DataError(
            f"{path} is larger than {LARGEST_FILE >> 30} GiB, too large for a network: give a file "
            "of the original code"
        )
    data = path.read_bytes()
    if data.startswith(b"PK"):
        raise DataError(
            f"{path} is a zip, like network files of this project: use it directly, without import"
        )
    try:
        content = PickleReader(data, NAMES).read()
    except PickleError as error:
        raise DataError(f"{path}: {error}: {ALLOWED}") from error
    if not (isinstance(content, dict) and isinstance(content.get("ema"), Record)):
        raise DataError(
            f"{path} contains no network (a dict with an object 'ema'): give a network file of the "
            "original code"
        )
    digest = hashlib.sha256(data).hexdigest()
    return OriginalFile(path, size, digest, content["ema"], content)


@dataclass(frozen=True)
class Fields:
    """Attributes of an object in a network file; methods check them and raise DataError.

    Attributes:
        where: Name of the object in errors.
        values: Attributes by name.
    """

    where: str
    values: Mapping[str, Any]

    def _get(self, name: str, *types: type) -> Any:
        value = self.values.get(name)
        if not isinstance(value, types):
            actual = type(value).__name__ if name in self.values else "nothing"
            wanted = types[0].__name__
            raise DataError(
                f"{self.where}: the attribute '{name}' is {actual}, expected {wanted}: give an "
                "unmodified file"
            )
        return value

    def text(self, name: str) -> str:
        """Return the text of an attribute."""
        return self._get(name, str)

    def number(self, name: str) -> float:
        """Return the finite number of an attribute, which may be an array of one number."""
        value = self._get(name, float, int, np.ndarray)
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.item()
        # An integer of the file may be larger than any float.
        if not isinstance(value, float | int) or not abs(value) <= sys.float_info.max:
            raise DataError(
                f"{self.where}: the attribute '{name}' is not a finite number: give an unmodified "
                "file"
            )
        return value

    def size(self, name: str) -> int:
        """Return the integer of an attribute, from 1 to ``LARGEST_ARGUMENT``."""
        value = self.number(name)
        if not 1 <= value <= LARGEST_ARGUMENT or value != int(value):
            raise DataError(
                f"{self.where}: the attribute '{name}' is {value:g}, expected an integer from 1 to "
                f"{LARGEST_ARGUMENT}: give an unmodified file"
            )
        return int(value)

    def require(self, name: str, expected: float) -> None:
        """Check that an attribute has an expected number or boolean, up to rounding."""
        value = self.number(name)
        if not math.isclose(value, expected, rel_tol=1e-6):
            raise DataError(
                f"{self.where}: the attribute '{name}' is {value:g}, expected {expected:g}: other "
                "values cannot be imported"
            )

    def numbers(self, name: str, *shape: int) -> np.ndarray:
        """Return the array of an attribute, finite numbers in float64.

        Args:
            name: Name of the attribute.
            *shape: Expected shape of the array; -1 matches any size.
        """
        array: np.ndarray = self._get(name, np.ndarray)
        fits = len(shape) == array.ndim and all(
            wanted in (-1, size) for wanted, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            raise DataError(
                f"{self.where}: the attribute '{name}' has the shape {array.shape}, not {shape}: "
                "give an unmodified file"
            )
        if not np.isfinite(array).all():
            raise DataError(
                f"{self.where}: the attribute '{name}' has values that are not finite: give "
                "another network"
            )
        return array.astype(np.float64)

    def record(self, name: str) -> Record:
        """Return the object of an attribute, which has a class of the original code."""
        return self._get(name, Record)

    def mapping(self, name: str) -> "Fields":
        """Return the entries of an attribute that is a dict; empty if the attribute is missing."""
        value = self._get(name, dict) if self.values.get(name) is not None else {}
        return Fields(f"{self.where}, '{name}'", value)


@dataclass(frozen=True)
class Layers:
    """Modules of a network, by dotted names; the network itself has the name ''.

    Attributes:
        class_name: Class name of the network.
        where: Name of the network in errors.
        fields: Attributes of each module.
        weights: Parameters and buffers, read-only.
    """

    class_name: str
    where: str
    fields: Mapping[str, Fields]
    weights: Mapping[str, np.ndarray]

    @classmethod
    def from_record(
        cls, network: Record, where: str, class_names: Set[str], most_bytes: int
    ) -> "Layers":
        """Collect the layers of a network.

        Args:
            network: The network.
            where: Name of the network in errors.
            class_names: Allowed class names of modules.
            most_bytes: Limit on the size of all weights together. Without a limit, tensors that
                share a few stored values could require any amount of memory.

        Raises:
            DataError: A module has another class or is in two places, a weight is not an array of
                floats, or the weights are too large.
        """
        fields: dict[str, Fields] = {}
        weights: dict[str, np.ndarray] = {}
        seen: set[int] = set()
        for name, record in _modules(network, where, "", 0):
            if id(record) in seen:
                raise DataError(
                    f"{where} contains one module twice, also as '{shown(name)}': give an "
                    "unmodified file"
                )
            seen.add(id(record))
            if name and record.class_name not in class_names:
                kind = shown(record.class_name)
                raise DataError(
                    f"{where} contains a {kind} as the module '{shown(name)}': {ALLOWED}"
                )
            here = Fields(f"{where}, '{shown(name)}'" if name else where, record.state)
            fields[name] = here
            for group in ("_parameters", "_buffers"):
                for key, value in here.mapping(group).values.items():
                    if value is not None:
                        weights[f"{name}.{key}".lstrip(".")] = _weight(value, key, here)
        if sum(weight.nbytes for weight in weights.values()) > most_bytes:
            raise DataError(
                f"{where} declares more weights than the file contains: give an unmodified file"
            )
        return cls(network.class_name, where, fields, weights)


def _modules(record: Record, where: str, name: str, depth: int) -> Iterator[tuple[str, Record]]:
    yield name, record
    if depth > DEEPEST_MODULE:
        raise DataError(
            f"{where}: the module '{shown(name)}' is nested more than {DEEPEST_MODULE} deep: give "
            "an unmodified file"
        )
    fields = Fields(f"{where}, '{shown(name)}'", record.state)
    for key, child in fields.mapping("_modules").values.items():
        if child is not None:
            here = f"{name}.{key}".lstrip(".")
            if not isinstance(child, Record):
                kind = type(child).__name__
                raise DataError(
                    f"{where}: the entry '{shown(here)}' is a {kind}, not a module: give an "
                    "unmodified file"
                )
            yield from _modules(child, where, here, depth + 1)


def _weight(value: Any, key: str, fields: Fields) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise DataError(
            f"{fields.where}: the entry '{shown(key)}' is {kind}, not an array of floats: give an "
            "unmodified file"
        )
    return value
