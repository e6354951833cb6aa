"""Declarations of result files, with the reader and the writer that all of them share.

A module of this package declares each array of its files once::

    POPULATION = ResultFile(
        kind="population",
        name="{draws}_population.npz",
        sizes="C chains of S draws, M members and D parameters",
        keys={
            "names": names("D", "names of the parameters"),
            "mean": Key("C S D", "population means"),
        },
    )

``POPULATION.save`` writes a file and ``POPULATION.load`` reads it, both after a check against the
declaration. ``docs/make_files.py`` lists the arrays on the page of all files. An axis is a symbol
or a number. Equal symbols in a file mean equal sizes. A name such as ``{quantity}_mean`` stands for
all names of this form.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from torch_utils.results import Header, SavedArrays, open_arrays, save_arrays

PREFIX = "inflationary-flows "
LARGEST = 1e6
"""Maximum magnitude of coordinates to be drawn, which are in standard deviations or gray levels."""
DRAWN: dict[str, Any] = {"low": -LARGEST, "high": LARGEST}
"""Limits of arrays that are drawn."""


class Kind(NamedTuple):
    """Kind of the values of an array.

    Attributes:
        words: Name of the kind in messages and in the documentation.
        codes: Types that the kind admits: codes of NumPy's ``dtype.kind``, or types such as ``u1``.
        dtype: Type of the values after reading; None for the type in the file.
    """

    words: str
    codes: Collection[str]
    dtype: Any = None


NUMBER, STORED = Kind("numbers", "fiu", np.float64), Kind("numbers", "fiu")
FLOAT, WHOLE = Kind("floats", "f", np.float64), Kind("integers", "iu")
STORED_FLOAT = Kind("floats", "f")
FLAG, TEXT, BYTE = Kind("booleans", "b"), Kind("text", "U"), Kind("uint8", ("u1",))


@dataclass(frozen=True)
class Key:
    """Declaration of an array.

    Attributes:
        axes: Sizes of the axes, symbols or numbers with spaces between them, such as ``S N D``;
            empty for a single value. The axis ``*`` has any size. A last axis ``...`` stands for
            any number of further axes.
        meaning: Contents of the array with their units, for the documentation.
        kind: Kind of the values.
        optional: Whether a file may lack the array.
        low: Smallest permitted value.
        high: Largest permitted value.
        missing: Whether values may be NaN.
        wild: Whether values may be NaN or infinite.
        increasing: Whether values must increase strictly along the first axis.
        distinct: Whether values must differ from each other.
        by_rows: Whether the array must be stored row by row, since it is read in batches.
    """

    axes: str
    meaning: str
    kind: Kind = NUMBER
    optional: bool = False
    low: float = -inf
    high: float = inf
    missing: bool = False
    wild: bool = False
    increasing: bool = False
    distinct: bool = False
    by_rows: bool = False

    def problem_with(self, values: np.ndarray) -> str | None:
        """Return the reason why an array cannot have these values; None if it can."""
        checked = values.dtype.kind == "f" and not self.wild
        if checked and (np.isinf(values) if self.missing else ~np.isfinite(values)).any():
            return "has values that are not finite"
        limited = values.dtype.kind in "fiu" and (self.low > -inf or self.high < inf)
        if limited and ((values < self.low) | (values > self.high)).any():
            return f"has values outside {self.low:g} to {self.high:g}"
        if self.increasing and (values[1:] <= values[:-1]).any():
            return "must be increasing"
        if self.distinct and len(np.unique(values)) < values.size:
            return "has two equal entries, but must have different ones"
        return None


def names(axes: str, meaning: str, **limits: Any) -> Key:
    """Declare texts that differ from each other."""
    return Key(axes, meaning, TEXT, distinct=True, **limits)


def text(meaning: str, **limits: Any) -> Key:
    """Declare a single text."""
    return Key("", meaning, TEXT, **limits)


def is_of_form(name: str, form: str) -> bool:
    """Return whether a name is of a form: ``net_outputs_mean`` is of ``{quantity}_mean``."""
    parts = re.split(r"(\{\w+\})", form)
    pattern = (".+" if part.startswith("{") else re.escape(part) for part in parts)
    return re.fullmatch("".join(pattern), name) is not None


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """Declaration of a kind of file with arrays.

    Attributes:
        kind: Kind in the entry ``format`` of a file; empty for files without this entry.
        name: File name with its parts in braces, or another name for the documentation.
        sizes: Meaning of the symbols of axes, for the documentation.
        keys: Arrays by name, in the order of reading.
        least: Smallest size of an axis by its symbol; 1 for other symbols.
        advice: Advice at the end of messages about broken files.
    """

    kind: str = ""
    name: str
    sizes: str
    keys: Mapping[str, Key]
    least: Mapping[str, int] = field(default_factory=dict)
    advice: str = "make the file again"

    @property
    def format(self) -> str:
        """Text of the entry ``format``."""
        return f"{PREFIX}{self.kind} 1"

    def path(self, folder: Path, **parts: object) -> Path:
        """Return the path of a file in a folder, given the parts of its name."""
        return folder / self.name.format(**parts)

    def key(self, name: str) -> Key:
        """Return the declaration of an array.

        Raises:
            KeyError: The array is not declared, which is a mistake of the calling code.
        """
        if name in self.keys:
            return self.keys[name]
        for form, key in self.keys.items():
            if is_of_form(name, form):
                return key
        raise KeyError(name)

    def misfit(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], sizes: dict[str, int]
    ) -> str | None:
        """Return the reason why an array cannot have a shape and type; None if it can.

        Args:
            name: Name of the array.
            shape: Shape of the array.
            dtype: Type of the array.
            sizes: Known sizes by symbol; those of the array are added.
        """
        key, found = self.key(name), dict(sizes)
        axes = key.axes.split()
        if axes[-1:] == ["..."]:
            axes[-1:] = ["*"] * (len(shape) - len(axes) + 1)
        symbols = {axis: self.least.get(axis, 1) for axis in axes if axis.isalpha()}
        same = len(axes) == len(shape)
        for axis, size in zip(axes, shape, strict=True) if same else ():
            known = int(axis) if axis.isdecimal() else found.setdefault(axis, size)
            same = same and (axis == "*" or known == size)
        small = [f"{a} at least {n}" for a, n in symbols.items() if same and found[a] < n]
        if small or not same:
            wanted = f"[{', '.join(str(sizes.get(axis, axis)) for axis in axes)}]"
            wanted = " with ".join([wanted if axes else "a single value", *small])
            return f"has shape {list(shape)}, expected {wanted}"
        sizes |= {axis: found[axis] for axis in symbols}
        empty_list = key.kind is TEXT and 0 in shape  # NumPy makes such a list one of floats
        if not {dtype.kind, dtype.str[1:]} & {*key.kind.codes} and not empty_list:
            return f"contains {dtype}, expected {key.kind.words}"
        return None

    def broken(self, path: Path, name: str, problem: str) -> DataError:
        """Return the error for an array with a problem."""
        return DataError(f"{path}: '{shown(name)}' {problem}: {self.advice}")

    def arrays(self, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return arrays as a file contains them, without those that are None.

        Args:
            given: Arrays, tensors, lists, texts and numbers by name of the array.

        Raises:
            ValueError: An array does not have its declared shape, which is a mistake of the caller.
        """
        made = {
            name: values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
            for name, values in given.items()
            if values is not None
        }
        sizes: dict[str, int] = {}
        for name, array in made.items():
            problem = (
                None if name == "format" else self.misfit(name, array.shape, array.dtype, sizes)
            )
            if problem:
                raise ValueError(f"'{name}' {problem}: correct the array, or its declaration")
        return made

    def save(self, path: Path, given: Mapping[str, Any]) -> None:
        """Write a file atomically: arrays as for ``arrays``, and its format if they lack it."""
        made = self.arrays(given)
        own = {"format": np.array(self.format)} if self.kind and "format" not in made else {}
        save_arrays(path, made | own)

    @contextmanager
    def open(self, path: Path, **sizes: int) -> Iterator["Arrays"]:
        """Open a file, and yield a reader that checks its arrays.

        Args:
            path: The file.
            sizes: Known sizes of axes by symbol.

        Raises:
            DataError: The file is missing or damaged.
        """
        with open_arrays(path) as source:
            yield Arrays(source, self, **sizes)

    def load(self, path: Path) -> dict[str, np.ndarray]:
        """Return all declared arrays of a file by name.

        Raises:
            DataError: The file is missing or damaged, or an array is missing or wrong.
        """
        with self.open(path) as arrays:
            return arrays.all()


@dataclass(frozen=True)
class Format:
    """A kind of file, with the function that returns what its files show.

    Attributes:
        holds: Content of the files, in words.
        content: Name of the function in ``training.pictures`` that returns the content of files of
            this kind; empty if they are not shown.
        group: Which files are read together: ``run`` for the simulations of a run, ``times`` for
            the times of one quantity, empty for each file alone.
        wild: Names of arrays that may contain non-finite numbers; None if only the arrays to be
            drawn are read.
        advice: Advice on which file to give instead, if files of this kind are not drawn.
        of: Kind in the entry ``format`` of the file, if several kinds share it; empty for its own.
        needs: Names of arrays that distinguish this kind from others with the same entry.
    """

    holds: str
    content: str = ""
    group: str = ""
    wild: Collection[str] | None = ()
    advice: str = ""
    of: str = ""
    needs: Collection[str] = ()


def kind_of_arrays(saved: SavedArrays) -> str | None:
    """Return the kind of an ``.npz``, such as ``trajectory``; None if its arrays do not show it."""
    if "format" not in saved:
        return None
    entry = str(saved.read("format"))
    kind, _, version = entry.removeprefix(PREFIX).rpartition(" ")
    return kind if entry.startswith(PREFIX) and version.isdecimal() else None


class Source(Protocol):
    """An open file of arrays: an ``.npz`` or a netCDF file."""

    @property
    def path(self) -> Path:
        """Path of the file."""

    def __contains__(self, name: str, /) -> bool:
        """Return whether the file has an array."""

    def header(self, name: str) -> Header:
        """Return the header of an array; DataError if the array is missing or damaged."""

    def read(self, name: str, *part: slice) -> np.ndarray:
        """Return an array or a part of it; DataError if it is missing or damaged."""


class Arrays:
    """Reader of an open file that checks arrays against their declaration.

    A symbol takes its size from the first array read.

    Attributes:
        source: The open file.
        file: Declaration of the file.
        sizes: Known sizes by symbol.
    """

    def __init__(self, source: Source, file: ResultFile, **sizes: int):
        self.source, self.file, self.sizes = source, file, sizes

    def __contains__(self, name: str) -> bool:
        return name in self.source

    def check(self, name: str) -> tuple[int, ...]:
        """Check the type and shape of an array without reading its values; return the shape.

        Raises:
            DataError: The array is missing or damaged, or has another shape or type.
        """
        header = self.source.header(name)
        problem = self.file.misfit(name, header.shape, header.dtype, self.sizes)
        if header.by_columns and self.file.key(name).by_rows:
            problem = problem or "is not stored row by row"
        if problem:
            raise self.file.broken(self.source.path, name, problem)
        return header.shape

    def read(self, name: str, *part: slice) -> np.ndarray:
        """Return an array, or a part of an array of a netCDF file.

        Raises:
            DataError: The array is missing, damaged, or not as declared.
        """
        self.check(name)
        return self._checked(name, self.source.read(name, *part))

    def rows(self, name: str, size: int) -> Iterator[np.ndarray]:
        """Yield the rows of an array of an ``.npz`` in batches, with the errors of ``read``."""
        self.check(name)
        assert isinstance(self.source, SavedArrays)
        for rows in self.source.rows(name, size):
            yield self._checked(name, rows)

    def _checked(self, name: str, values: np.ndarray) -> np.ndarray:
        key = self.file.key(name)
        problem = key.problem_with(values)
        if problem:
            raise self.file.broken(self.source.path, name, problem)
        wanted = key.kind.dtype or values.dtype.newbyteorder("=")
        return values.astype(wanted, copy=False)

    def get(self, name: str, *part: slice) -> np.ndarray | None:
        """Return an array or a part of it as ``read``; None if the file does not have the array."""
        return self.read(name, *part) if name in self else None

    def all(self) -> dict[str, np.ndarray]:
        """Return all declared arrays by name, without those that are optional and missing."""
        assert isinstance(self.source, SavedArrays)
        read: dict[str, np.ndarray] = {}
        for form, key in self.file.keys.items():
            own = [form] if form in self or not key.optional else []
            if "{" in form:
                own = [n for n in self.source.names if is_of_form(n, form) and n not in read]
            read |= {name: self.read(name) for name in own}
        return read
