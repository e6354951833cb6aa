"""Types of options: what click takes as a value."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from dnnlib.errors import DataError
from dnnlib.lists import parts_of
from training.names import ANY_NUMBER, COLUMN_TYPES, IDENTIFIER, RAW_TABLES, script

Param = click.Parameter | None
Context = click.Context | None
"""Types of the arguments that click passes with a value."""


class FiniteFloat(click.FloatRange):
    """Float range that excludes infinities and NaN."""

    def convert(self, value: Any, param: Param, ctx: Context) -> float:
        """Convert a value to a finite number in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)


POSITIVE = FiniteFloat(min=0, min_open=True)
NOT_NEGATIVE = FiniteFloat(min=0)
AMOUNT = FiniteFloat(min=0, min_open=True, max=1e9)
"""Millions of samples."""
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)


class FilePath(click.Path):
    """Path that is valid for a file system; options of a resumed run may contain any text."""

    def convert(self, value: Any, param: Param, ctx: Context) -> str | bytes | os.PathLike[str]:
        """Convert a value to a path."""
        try:
            name = os.fsencode(value)
        except UnicodeEncodeError:
            self.fail("it contains characters that a path cannot have", param, ctx)
        if b"\0" in name:
            self.fail("it contains a zero byte", param, ctx)
        return super().convert(value, param, ctx)


FILE = FilePath(path_type=Path)


class DataSetPath(FilePath):
    """Path of an existing data set, as opposed to a file that one is made from."""

    def convert(self, value: Any, param: Param, ctx: Context) -> str | bytes | os.PathLike[str]:
        """Convert a value to the path of a data set.

        Raises:
            DataError: The path does not exist, or is a table that is not a data set.
        """
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.exists():
            raise DataError(
                f"{path} does not exist: give the .npz of a table, or a zip or folder of images"
            )
        if path.is_file() and path.suffix.lower() in RAW_TABLES:
            raise DataError(
                f"{path} is not a data set: convert it with {script('dataset_tool')} "
                f"--source={path} "
                f"--dest={path.stem}.npz"
            )
        return path


DATA_SET = DataSetPath(path_type=Path)


class NetworkFilePath(click.ParamType[str]):
    """Path of an existing file, or a URL; mistakes are reported before any work starts."""

    name = "path|url"

    def convert(self, value: Any, param: Param, ctx: Context) -> str:
        """Return the path of an existing network file, or a URL.

        Raises:
            UsageError: The file does not exist.
        """
        text = str(value)
        if not text.strip():
            self.fail("the value is empty: give a network file or an https URL", param, ctx)
        if "://" not in text:
            from dnnlib.urls import local_file  # here, since --help need not wait for it

            local_file(text)
        return text


NETWORK = NetworkFilePath()


class Steps(click.ParamType[int | str]):
    """A positive number of steps, or ``auto``."""

    name = "integer|auto"

    def convert(self, value: Any, param: Param, ctx: Context) -> int | str:
        """Convert a value to a positive integer, or return ``auto``."""
        if value == "auto":
            return "auto"
        return int(COUNT.convert(value, param, ctx))


STEPS = Steps()


def choice(names: Iterable[str]) -> click.Choice[str]:
    """Return the type of an option with these values."""
    return click.Choice(list(names))


class Integers(click.ParamType[tuple[int, ...]]):
    """Positive integers with a separator; ``name`` is an example."""

    what, separator = "a list of positive integers", ","

    def __init__(self, name: str):
        self.name = name

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[int, ...]:
        """Convert a text with separators to positive integers."""
        if isinstance(value, tuple | list):
            value = self.typed(value)
        try:
            numbers = tuple(int(part) for part in str(value).split(self.separator))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"'{value}' is not {self.what} such as {self.name}", param, ctx)
        return numbers

    def typed(self, numbers: Sequence[int]) -> str:
        """Return numbers as they are typed."""
        return self.separator.join(map(str, numbers))


MULTIPLIERS, SIDES = Integers("2,2,2"), Integers("16,8")


class Shape(Integers):
    """A shape, or ``set:K``, a set of any number of rows of K numbers."""

    what, separator = "a shape", "x"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[int, ...]:
        """Convert a text such as ``3x8x8`` to a shape, or ``set:K`` to ``(ANY_NUMBER, K)``."""
        if isinstance(value, tuple | list):
            value = self.typed(value)
        if not (isinstance(value, str) and value.startswith(SET)):
            return super().convert(value, param, ctx)
        size = value.removeprefix(SET)
        if not (size.isdecimal() and int(size)):
            self.fail(
                f"'{value}' is not a set such as {SET}2, with two numbers per row", param, ctx
            )
        return ANY_NUMBER, int(size)

    def typed(self, numbers: Sequence[int]) -> str:
        """Return a shape as it is typed."""
        first, *rest = numbers
        return f"{SET}{super().typed(rest)}" if first == ANY_NUMBER else super().typed(numbers)


SET = "set:"
SHAPE = Shape("3x32x32")


class Numbers(click.ParamType[list[float]]):
    """Comma-separated positive numbers."""

    name = "p,q"

    def convert(self, value: Any, param: Param, ctx: Context) -> list[float]:
        """Convert a text with commas to positive numbers."""
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return [float(POSITIVE.convert(part, param, ctx)) for part in parts]


class Names(click.ParamType[tuple[str, ...]]):
    """Comma-separated names, such as age,weight; one with a comma in double quotes."""

    name = "a,b,c"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[str, ...]:
        """Convert a text with commas to names."""
        several = isinstance(value, tuple | list)
        names = tuple(map(str, value)) if several else tuple(parts_of(str(value)))
        if not (names and all(names)):
            self.fail(f"'{value}' is not a list of names such as a,b,c", param, ctx)
        return names


class Groups(click.ParamType[tuple[tuple[str, ...], ...]]):
    """Lists of names with semicolons between, such as y1,y2;y3,y4."""

    name = "a1,b1;a2,b2"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[tuple[str, ...], ...]:
        """Parse lists of names, such as ``a1,b1;a2,b2``."""
        parts = value if isinstance(value, tuple | list) else str(value).split(";")
        return tuple(Names().convert(part, param, ctx) for part in parts)


class ColumnTypes(click.ParamType[tuple[tuple[str, str], ...]]):
    """Comma-separated types ``name:type``: a listed type, ordered levels or a date format."""

    name = "a:category,b:small<large"
    form = re.compile(r"(?P<name>.+?):(?P<type>%.+|[^:]+)")

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[tuple[str, str], ...]:
        """Convert a text to pairs of a column and its type."""
        if isinstance(value, tuple):
            return value
        types = []
        for part in parts_of(str(value)):
            match = self.form.fullmatch(part)
            kind = match["type"].strip() if match else ""
            if not match or not (kind in (*COLUMN_TYPES, IDENTIFIER) or {"<", "%"} & set(kind)):
                self.fail(
                    f"'{part}' is not name:type, the type {', '.join(COLUMN_TYPES)}, {IDENTIFIER}, "
                    "ordered levels such as small<medium<large, or a date format such as %d.%m.%Y",
                    param,
                    ctx,
                )
            types.append((match["name"].strip(), kind))
        _require_once(self, str(value), [name for name, _ in types], param, ctx)
        return tuple(types)


class Ranges(click.ParamType[tuple[tuple[str, float, float], ...]]):
    """Comma-separated ranges ``name:low:high`` with optional ends; quoted as ``Names``."""

    name = "a:0:1,b:0:"

    def convert(
        self, value: Any, param: Param, ctx: Context
    ) -> tuple[tuple[str, float, float], ...]:
        """Convert a text to columns with a low and a high end; missing ends are infinite."""
        if isinstance(value, tuple):
            return value
        ranges = list[tuple[str, float, float]]()
        for part in parts_of(str(value)):
            name, *ends = part.rsplit(":", 2)
            try:
                low, high = (
                    float(end) if end.strip() else sign * math.inf
                    for end, sign in zip(ends, (-1, 1), strict=True)
                )
            except ValueError:
                self.fail(f"'{part}' is not a range such as a:0:1 or a:0:", param, ctx)
            if not (name.strip() and low < high):
                self.fail(f"'{part}' is not a valid range: low must be below high", param, ctx)
            ranges.append((name.strip(), low, high))
        _require_once(self, str(value), [name for name, _, _ in ranges], param, ctx)
        return tuple(ranges)


def _require_once(
    kind: click.ParamType[Any], text: str, names: Sequence[str], param: Param, ctx: Context
) -> None:
    """Fail if a column is named twice."""
    for name in names:
        if names.count(name) > 1:
            kind.fail(f"'{text}' names column '{name}' twice: name it once", param, ctx)


class Givens(click.ParamType[tuple[tuple[str, str], ...]]):
    """Comma-separated values ``name:value``, quoted as names are."""

    name = "a:value,b:value"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[tuple[str, str], ...]:
        """Convert a text to pairs of a column and its value."""
        if isinstance(value, tuple):
            return value
        pairs = [part.partition(":") for part in parts_of(str(value))]
        for name, colon, given in pairs:
            if not (name.strip() and colon and given.strip()):
                text = f"{name}{colon}{given}"
                hint = "put values with a comma in double quotes"
                self.fail(f"'{text}' is not name:value: {hint}", param, ctx)
        return tuple((name.strip(), given.strip()) for name, _, given in pairs)


BY_ANNOTATION: dict[Any, click.ParamType[Any]] = {
    Path: FILE,
    int: COUNT,
    float: POSITIVE,
    int | str: STEPS,
    list[float]: Numbers(),
    tuple[str, ...]: Names(),
    tuple[tuple[str, ...], ...]: Groups(),
    tuple[tuple[str, float, float], ...]: Ranges(),
}
"""Types of options that follow from the annotations of their fields."""
