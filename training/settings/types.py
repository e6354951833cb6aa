"""Types of options: how text or a Python value becomes the value of an option.

A type parses a value, or raises ``ValueError`` with an explanation. The command line and Python
share these types.
"""

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dnnlib.errors import DataError
from dnnlib.lists import joined, parts_of
from training.names import ANY_NUMBER, COLUMN_TYPES, IDENTIFIER, RAW_TABLES, script


class OptionType(ABC):
    """Type of an option.

    Attributes:
        name: Placeholder of a value in the help, such as ``path``.
    """

    name: str = "text"

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """Convert a value to the type of the option.

        Raises:
            ValueError: The value is invalid; the message states what is expected.
        """


class Text(OptionType):
    """Any text."""

    def parse(self, value: Any) -> str:
        """Convert a value to text."""
        return str(value)


class TextOrObject(Text):
    """Text on the command line; in Python also a model, a table, an array, or a function.

    Numbers, and lists of numbers or names, are converted to comma-separated text.
    """

    def parse(self, value: Any) -> Any:
        """Return texts and numbers as text, lists as comma-separated text, and other objects."""
        if getattr(value, "ndim", None) in (0, 1):  # an array or a tensor
            value = value.tolist()
        if isinstance(value, str | int | float | os.PathLike):
            return str(value)
        if isinstance(value, list | tuple):
            values = [each.item() if hasattr(each, "item") else each for each in value]
            if all(type(each) in (str, int, float) for each in values):
                return joined(values)
        return value


class Flag(OptionType):
    """True or false."""

    name = "boolean"
    words: ClassVar = {"true": True, "1": True, "yes": True, "on": True} | {
        "false": False, "0": False, "no": False, "off": False
    }  # fmt: skip

    def parse(self, value: Any) -> bool:
        """Convert a boolean, or a word such as ``yes``, to a boolean."""
        word = str(value).lower()
        if word not in self.words:
            raise ValueError(f"{value!r} is not true or false")
        return self.words[word]


@dataclass(frozen=True)
class Choice(OptionType):
    """One of some names."""

    names: tuple[str, ...]

    def parse(self, value: Any) -> str:
        """Return the name if it is one of the choices."""
        if value not in self.names:
            raise ValueError(f"{value!r} is none of {', '.join(self.names)}")
        return str(value)


@dataclass(frozen=True)
class Whole(OptionType):
    """A whole number in a range.

    Attributes:
        min: Smallest number; None for no limit.
        max: Largest number; None for no limit.
    """

    min: int | None = None
    max: int | None = None

    def __str__(self) -> str:
        ends = [f"at least {self.min}"] if self.min is not None else []
        return " and ".join(ends + ([f"at most {self.max}"] if self.max is not None else []))

    def parse(self, value: Any) -> int:
        """Convert a value to a whole number in the range."""
        what = f"a whole number of {self}" if str(self) else "a whole number"
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{value!r} is not {what}") from None
        low, high = (number if end is None else end for end in (self.min, self.max))
        if (isinstance(value, float) and number != value) or not low <= number <= high:
            raise ValueError(f"{value} is not {what}")
        return number


@dataclass(frozen=True)
class Real(OptionType):
    """A finite number in a range.

    Attributes:
        min: Smallest number; None for no limit.
        max: Largest number; None for no limit.
        min_open: Whether the smallest number itself is excluded.
        max_open: Whether the largest number itself is excluded.
    """

    min: float | None = None
    max: float | None = None
    min_open: bool = False
    max_open: bool = False

    def __contains__(self, number: float) -> bool:
        low, high = (number if end is None else end for end in (self.min, self.max))
        excluded = (self.min_open and number == low) or (self.max_open and number == high)
        return low <= number <= high and not excluded

    def __str__(self) -> str:
        ends = []
        if self.min is not None:
            ends.append(f"{'above' if self.min_open else 'at least'} {self.min:g}")
        if self.max is not None:
            ends.append(f"{'below' if self.max_open else 'at most'} {self.max:g}")
        return " and ".join(ends)

    def parse(self, value: Any) -> float:
        """Convert a value to a finite number in the range."""
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or number not in self:
            what = f"a number {self}" if str(self) else "a finite number"
            raise ValueError(f"{value!r} is not {what}")
        return number


POSITIVE = Real(min=0, min_open=True)
NOT_NEGATIVE = Real(min=0)
AMOUNT = Real(min=0, min_open=True, max=1e9)
"""Type of an amount of training, in millions of samples."""
COUNT = Whole(min=1)
SEED = Whole(min=0, max=2**63 - 1)


class FilePath(OptionType):
    """A path that is valid for a file system.

    Options of a resumed run may contain any text, so that the text must be checked.
    """

    name = "path"

    def parse(self, value: Any) -> Any:
        """Convert text to a path; other objects, such as a table in memory, are unchanged."""
        if not isinstance(value, str | os.PathLike):
            return value
        try:
            name = os.fsencode(value)
        except UnicodeEncodeError:
            raise ValueError("it contains characters that a path cannot have") from None
        if b"\0" in name:
            raise ValueError("it contains a zero byte")
        return Path(value)


FILE = FilePath()


class DataSetPath(FilePath):
    """The path of an existing data set, not of the source of a data set."""

    def parse(self, value: Any) -> Any:
        """Convert text to the path of a data set; other objects are unchanged.

        Raises:
            DataError: The path does not exist, or is a table that is not a data set.
        """
        path = super().parse(value)
        if not isinstance(path, Path):
            return path
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


DATA_SET = DataSetPath()


class NetworkFilePath(OptionType):
    """A network file: path of an existing file, or a URL."""

    name = "path|url"

    def parse(self, value: Any) -> Any:
        """Return the path of an existing network file, or a URL; a model in memory is unchanged.

        Raises:
            UsageError: The file does not exist.
        """
        if not isinstance(value, str | os.PathLike):
            return value
        text = str(value)
        if not text.strip():
            raise ValueError("the value is empty: give a network file or an https URL")
        if "://" not in text:
            from dnnlib.urls import local_file  # here, since --help need not wait for it

            local_file(text)
        return text


NETWORK = NetworkFilePath()


class CountOrAuto(OptionType):
    """A positive whole number, or ``auto``."""

    name = "integer|auto"

    def parse(self, value: Any) -> int | str:
        """Convert a value to a positive whole number, or return ``auto``."""
        return "auto" if value == "auto" else COUNT.parse(value)


def choice(names: Iterable[str]) -> Choice:
    """Return the type of an option that takes one of some names."""
    return Choice(tuple(names))


class Integers(OptionType):
    """A list of positive whole numbers with a separator between them."""

    what, separator = "a list of positive integers", ","

    def __init__(self, name: str):
        self.name = name

    def parse(self, value: Any) -> tuple[int, ...]:
        """Parse positive integers, such as ``16,8``."""
        if isinstance(value, tuple | list):
            value = self.typed(value)
        try:
            numbers = tuple(int(part) for part in str(value).split(self.separator))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            raise ValueError(f"'{value}' is not {self.what} such as {self.name}")
        return numbers

    def typed(self, numbers: Sequence[int]) -> str:
        """Format integers in the form that the option takes."""
        return self.separator.join(map(str, numbers))


MULTIPLIERS, SIDES = Integers("2,2,2"), Integers("16,8")


class Shape(Integers):
    """A shape such as ``3x8x8``, or ``set:K``, a set of any number of rows of K numbers."""

    what, separator = "a shape", "x"

    def parse(self, value: Any) -> tuple[int, ...]:
        """Parse a shape such as ``3x8x8``; ``set:K`` becomes ``(ANY_NUMBER, K)``."""
        if isinstance(value, tuple | list):
            value = self.typed(value)
        if not (isinstance(value, str) and value.startswith(SET)):
            return super().parse(value)
        size = value.removeprefix(SET)
        if not (size.isdecimal() and int(size)):
            raise ValueError(f"'{value}' is not a set such as {SET}2, with two numbers per row")
        return ANY_NUMBER, int(size)

    def typed(self, numbers: Sequence[int]) -> str:
        """Format a shape in the form that the option takes."""
        first, *rest = numbers
        return f"{SET}{super().typed(rest)}" if first == ANY_NUMBER else super().typed(numbers)


SET = "set:"
SHAPE = Shape("3x32x32")


class Numbers(OptionType):
    """A comma-separated list of positive numbers."""

    name = "p,q"

    def parse(self, value: Any) -> list[float]:
        """Parse positive numbers, such as ``0.5,0.1``."""
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return [POSITIVE.parse(part) for part in parts]


class Names(OptionType):
    """A list of names, such as ``age,weight``.

    A name that contains a comma is in double quotes.
    """

    name = "a,b,c"

    def parse(self, value: Any) -> tuple[str, ...]:
        """Parse a list of names, such as ``age,weight``."""
        several = isinstance(value, tuple | list)
        names = tuple(map(str, value)) if several else tuple(parts_of(str(value)))
        if not (names and all(names)):
            raise ValueError(f"'{value}' is not a list of names such as a,b,c")
        return names


class NameGroups(OptionType):
    """Several lists of names, such as ``y1,y2;y3,y4``."""

    name = "a1,b1;a2,b2"

    def parse(self, value: Any) -> tuple[tuple[str, ...], ...]:
        """Parse a string such as ``a1,b1;a2,b2`` into lists of names."""
        parts = value if isinstance(value, tuple | list) else str(value).split(";")
        return tuple(Names().parse(part) for part in parts)


class ColumnTypes(OptionType):
    """A list of column types ``name:type``.

    A type is the name of a type, the ordered levels of a category, or a date format.
    """

    name = "a:category,b:small<large"
    form = re.compile(r"(?P<name>.+?):(?P<type>%.+|[^:]+)")

    def parse(self, value: Any) -> tuple[tuple[str, str], ...]:
        """Parse pairs of a column and its type, such as ``age:whole,size:small<large``."""
        if isinstance(value, tuple):
            return value
        types = []
        for part in parts_of(str(value)):
            match = self.form.fullmatch(part)
            kind = match["type"].strip() if match else ""
            if not match or not (kind in (*COLUMN_TYPES, IDENTIFIER) or {"<", "%"} & set(kind)):
                raise ValueError(
                    f"'{part}' is not name:type, the type {', '.join(COLUMN_TYPES)}, {IDENTIFIER}, "
                    "ordered levels such as small<medium<large, or a date format such as %d.%m.%Y"
                )
            types.append((match["name"].strip(), kind))
        _require_once(str(value), [name for name, _ in types])
        return tuple(types)


class Ranges(OptionType):
    """A list of ranges ``name:low:high``, whose ends are optional.

    A name that contains a comma is in double quotes.
    """

    name = "a:0:1,b:0:"

    def parse(self, value: Any) -> tuple[tuple[str, float, float], ...]:
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
                raise ValueError(f"'{part}' is not a range such as a:0:1 or a:0:") from None
            if not (name.strip() and low < high):
                raise ValueError(f"'{part}' is not a valid range: low must be below high")
            ranges.append((name.strip(), low, high))
        _require_once(str(value), [name for name, _, _ in ranges])
        return tuple(ranges)


def _require_once(text: str, names: Sequence[str]) -> None:
    """Raise ValueError if a column is named twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{text}' names column '{name}' twice: name it once")


class Givens(OptionType):
    """A list of values ``name:value``.

    A pair that contains a comma is in double quotes.
    """

    name = "a:value,b:value"

    def parse(self, value: Any) -> tuple[tuple[str, str], ...]:
        """Parse pairs of a column and its value, such as ``sex:female,age:40``."""
        if isinstance(value, tuple):
            return value
        pairs = [part.partition(":") for part in parts_of(str(value))]
        for name, colon, given in pairs:
            if not (name.strip() and colon and given.strip()):
                text = f"{name}{colon}{given}"
                raise ValueError(
                    f"'{text}' is not name:value: put values with a comma in double quotes"
                )
        return tuple((name.strip(), given.strip()) for name, _, given in pairs)


BY_ANNOTATION: dict[Any, OptionType] = {
    str: Text(),
    bool: Flag(),
    Path: FILE,
    int: COUNT,
    int | str: CountOrAuto(),
    float: POSITIVE,
    list[float]: Numbers(),
    tuple[str, ...]: Names(),
    tuple[tuple[str, ...], ...]: NameGroups(),
    tuple[tuple[str, float, float], ...]: Ranges(),
}
"""Default types of options, by annotation of their fields."""
