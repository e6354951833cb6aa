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
"""Types of the context and the parameter that click passes with a value."""


class FiniteFloat(click.FloatRange):
    """Type of a floating-point number in a range, without infinities and NaN."""

    def convert(self, value: Any, param: Param, ctx: Context) -> float:
        """Convert a value to a finite number in the range."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)


POSITIVE = FiniteFloat(min=0, min_open=True)
NOT_NEGATIVE = FiniteFloat(min=0)
AMOUNT = FiniteFloat(min=0, min_open=True, max=1e9)
"""Type of an amount of training, in millions of samples."""
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)


class FilePath(click.Path):
    """Type of a path that is valid for a file system.

    Options of a resumed run may contain any text, so that the text must be checked.
    """

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
    """Type of the path of an existing data set, not of the source of a data set."""

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
    """Type of a network file: path of an existing file, or a URL."""

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
    """Type of a number of steps: a positive integer, or ``auto``."""

    name = "integer|auto"

    def convert(self, value: Any, param: Param, ctx: Context) -> int | str:
        """Convert a value to a positive integer, or return ``auto``."""
        if value == "auto":
            return "auto"
        return int(COUNT.convert(value, param, ctx))


STEPS = Steps()


def choice(names: Iterable[str]) -> click.Choice[str]:
    """Return the type of an option that takes one of some names."""
    return click.Choice(list(names))


class Integers(click.ParamType[tuple[int, ...]]):
    """Type of a list of positive integers with a separator between them."""

    what, separator = "a list of positive integers", ","

    def __init__(self, name: str):
        self.name = name

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[int, ...]:
        """Parse positive integers, such as ``16,8``."""
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
        """Format integers in the form that the option takes."""
        return self.separator.join(map(str, numbers))


MULTIPLIERS, SIDES = Integers("2,2,2"), Integers("16,8")


class Shape(Integers):
    """Type of a shape such as ``3x8x8``, or ``set:K``, a set of any number of rows of K numbers."""

    what, separator = "a shape", "x"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[int, ...]:
        """Parse a shape such as ``3x8x8``; ``set:K`` becomes ``(ANY_NUMBER, K)``."""
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
        """Format a shape in the form that the option takes."""
        first, *rest = numbers
        return f"{SET}{super().typed(rest)}" if first == ANY_NUMBER else super().typed(numbers)


SET = "set:"
SHAPE = Shape("3x32x32")


class Numbers(click.ParamType[list[float]]):
    """Type of a comma-separated list of positive numbers."""

    name = "p,q"

    def convert(self, value: Any, param: Param, ctx: Context) -> list[float]:
        """Parse positive numbers, such as ``0.5,0.1``."""
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return [float(POSITIVE.convert(part, param, ctx)) for part in parts]


class Names(click.ParamType[tuple[str, ...]]):
    """Type of a list of names, such as ``age,weight``.

    A name that contains a comma is in double quotes.
    """

    name = "a,b,c"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[str, ...]:
        """Parse a list of names, such as ``age,weight``."""
        several = isinstance(value, tuple | list)
        names = tuple(map(str, value)) if several else tuple(parts_of(str(value)))
        if not (names and all(names)):
            self.fail(f"'{value}' is not a list of names such as a,b,c", param, ctx)
        return names


class Groups(click.ParamType[tuple[tuple[str, ...], ...]]):
    """Type of several lists of names, such as ``y1,y2;y3,y4``."""

    name = "a1,b1;a2,b2"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[tuple[str, ...], ...]:
        """Parse a string such as ``a1,b1;a2,b2`` into lists of names."""
        parts = value if isinstance(value, tuple | list) else str(value).split(";")
        return tuple(Names().convert(part, param, ctx) for part in parts)


class ColumnTypes(click.ParamType[tuple[tuple[str, str], ...]]):
    """Type of a list of column types ``name:type``.

    A type is the name of a type, the ordered levels of a category, or a date format.
    """

    name = "a:category,b:small<large"
    form = re.compile(r"(?P<name>.+?):(?P<type>%.+|[^:]+)")

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[tuple[str, str], ...]:
        """Parse pairs of a column and its type, such as ``age:whole,size:small<large``."""
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
    """Type of a list of ranges ``name:low:high``, whose ends are optional.

    A name that contains a comma is in double quotes.
    """

    name = "a:0:1,b:0:"

    def convert(
        self, value: Any, param: Param, ctx: Context
    ) -> tuple[tuple[str, float, float], ...]:
        """Parse ranges such as ``age:0:,share:0:1``; a missing end is infinite."""
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
    """Type of a list of values ``name:value``.

    A pair that contains a comma is in double quotes.
    """

    name = "a:value,b:value"

    def convert(self, value: Any, param: Param, ctx: Context) -> tuple[tuple[str, str], ...]:
        """Parse pairs of a column and its value, such as ``sex:female,age:40``."""
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
"""Default types of options, by annotation of their fields."""
