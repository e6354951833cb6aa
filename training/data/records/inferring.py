"""The type of a column, from the texts of its cells."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from training.data.records.parsing import (
    DATE_FORMATS,
    NOTHING,
    Number,
    formats_of,
    number_in,
)
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn
from training.data.tables.marginals import IDENTIFIER as CALLED_IDENTIFIER
from training.names import COLUMN_TYPES, IDENTIFIER

MOST_COUNTED = 100_000
"""Different texts of a column that are counted."""
MOST_DECIMALS = 9
"""To which numbers are written again; longer ones are written in full."""
MOST_LEVELS, FEWEST_ROWS = 100, 5
"""Levels of a category, and rows of each: what is beyond is put together."""
CONSTANT = "constant"
"""A column with one value: it is left out, and given back."""


@dataclass
class Numerals:
    """How the numbers of a column are written, if all of its texts are numbers.

    Attributes:
        all: Whether they are.
        plain: Whether one is a number with this decimal sign, but with no other.
        decimals: The most of any; None with exponents.
        whole: Whether all are whole numbers.
        coded: Whether one begins with a zero, as codes do.
        prefixes, suffixes: What is written around them.
        grouped: Whether thousands are parted.
    """

    all: bool = True
    plain: bool = False
    decimals: int | None = 0
    whole: bool = True
    coded: bool = False
    prefixes: set[str] = field(default_factory=set)
    suffixes: set[str] = field(default_factory=set)
    grouped: bool = False

    def add(self, number: Number | None, other: Number | None) -> None:
        if number is None:
            self.all = False
            return
        self.plain |= other is None
        if number.decimals is None or self.decimals is None:
            self.decimals = None
        else:
            self.decimals = max(self.decimals, number.decimals)
        self.whole &= number.value.is_integer()
        self.coded |= number.coded
        self.prefixes.add(number.prefix)
        self.suffixes.add(number.suffix)
        self.grouped |= number.grouped

    @property
    def column(self) -> dict[str, object]:
        """Attributes of a ``RecordColumn`` that writes them again."""
        decimals = self.decimals
        if decimals is not None and decimals > MOST_DECIMALS:
            decimals = None
        (prefix,) = self.prefixes if len(self.prefixes) == 1 else ("",)
        (suffix,) = self.suffixes if len(self.suffixes) == 1 else ("",)
        return {
            "decimals": decimals,
            "prefix": prefix,
            "suffix": suffix,
            "grouped": self.grouped,
        }


@dataclass
class Survey:
    """What was seen of a column.

    Attributes:
        name: Of the column.
        missing_marks: Texts that stand for no value, in lower case.
        rows: How many cells there are.
        missing: How many of them have no value.
        missing_texts: What these are.
        counts: How often each text is there, of the first ``MOST_COUNTED``.
        numerals: How numbers are written, by decimal sign.
        formats: In which all are dates.
    """

    name: str
    missing_marks: frozenset[str] = NOTHING
    rows: int = 0
    missing: int = 0
    missing_texts: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    numerals: Mapping[str, Numerals] = field(
        default_factory=lambda: {".": Numerals(), ",": Numerals()}
    )
    formats: tuple[str, ...] = DATE_FORMATS

    def add(self, texts: Sequence[str]) -> None:
        """Looks at some more cells."""
        self.rows += len(texts)
        for text, count in Counter(texts).items():
            if text.lower() in self.missing_marks:
                self.missing += count
                self.missing_texts.add(text)
            elif text in self.counts or len(self.counts) < MOST_COUNTED:
                fresh = text not in self.counts
                self.counts[text] += count
                if fresh:
                    self._look_at(text)
            else:
                self._look_at(text)

    def _look_at(self, text: str) -> None:
        point, comma = (
            number_in(text, sign) if numerals.all else None
            for sign, numerals in self.numerals.items()
        )
        self.numerals["."].add(point, comma)
        self.numerals[","].add(comma, point)
        if point or comma:
            self.formats = ()
        elif self.formats:
            self.formats = formats_of(text, self.formats)

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def level_texts(self) -> list[str]:
        """The texts in order: numbers by value, others by their letters."""

        def key(text: str) -> tuple[bool, float, str]:
            number = number_in(text)
            return number is None, 0.0 if number is None else number.value, text

        return sorted(self.counts, key=key)

    @property
    def hardly_repeats(self) -> bool:
        """Whether levels that are frequent enough have less than half of the cells."""
        fewest = fewest_rows(self.present)
        frequent = (count for _, count in self.counts.most_common(MOST_LEVELS))
        return 2 * sum(count for count in frequent if count >= fewest) < self.present


def fewest_rows(present: int) -> int:
    """Rows that a level has at least, not to be rare: ``FEWEST_ROWS``, or less in small tables."""
    return min(FEWEST_ROWS, max(2, present // 20))


def decimal_of(surveys: Iterable[Survey]) -> str:
    """The decimal sign of a table: a comma if a column is of numbers only by it, and none only by a
    point."""
    surveys = [survey for survey in surveys if survey.counts]
    only = {
        sign: any(survey.numerals[sign].all and survey.numerals[sign].plain for survey in surveys)
        for sign in ".,"
    }
    return "," if only[","] and not only["."] else "."


def column_of(
    survey: Survey, decimal: str, asked: str | tuple[str, ...] | None
) -> RecordColumn | str:
    """A column's type, with what it takes to read and write its cells; or why it is not modelled,
    ``IDENTIFIER`` or ``CONSTANT``.

    Args:
        survey: What was seen.
        decimal: The decimal sign of the table.
        asked: A type that the user gave: one of ``COLUMN_TYPES``, ``IDENTIFIER``, levels in order
            such as ``small<medium<large`` or a tuple of them, or a date format such as
            ``%d.%m.%Y``. None infers it.

    Raises:
        UsageError: The type that was asked for is not that of the cells.
        DataError: The column has no values.
    """
    numerals = survey.numerals[decimal]
    column = _inferred(survey, numerals) if asked is None else _asked_for(survey, numerals, asked)
    if isinstance(column, RecordColumn) and len(survey.missing_texts) == 1:
        return replace(column, missing=next(iter(survey.missing_texts)))
    return column


def _inferred(survey: Survey, numerals: Numerals) -> RecordColumn | str:
    name = survey.name
    if not name:
        return IDENTIFIER
    if len(survey.counts) < 2:
        return CONSTANT
    if numerals.all and not numerals.coded and len(survey.counts) > 2:
        return _number(survey, numerals)
    if survey.formats:
        return RecordColumn(name, DATE, date_format=survey.formats[0])
    every_one = len(survey.counts) == survey.present
    if len(survey.counts) > 2 and (
        survey.hardly_repeats or (every_one and CALLED_IDENTIFIER.fullmatch(name))
    ):
        return IDENTIFIER
    return RecordColumn(name, CATEGORY, tuple(survey.level_texts))


def _number(survey: Survey, numerals: Numerals) -> RecordColumn:
    kind = WHOLE if numerals.whole else NUMBER
    return RecordColumn(survey.name, kind, **numerals.column)  # type: ignore[arg-type]


def _asked_for(
    survey: Survey, numerals: Numerals, asked: str | tuple[str, ...]
) -> RecordColumn | str:
    name = survey.name
    if not survey.counts:
        raise DataError(f"column '{shown(name)}' has no values at all: leave it out")
    if isinstance(asked, tuple):
        ordered = survey.counts.keys() <= set(asked)  # else a later block has others
        return RecordColumn(
            name, CATEGORY, asked if ordered else tuple(survey.level_texts), ordered
        )
    if asked == IDENTIFIER:
        return IDENTIFIER
    if "%" in asked or asked == DATE:
        formats = survey.formats if asked == DATE else (asked,)
        strange = [text for text in survey.counts if not formats or not formats_of(text, formats)]
        if strange:
            raise UsageError(
                f"column '{shown(name)}' has '{shown(strange[0])}', which is no date"
                + (": say how it is written, such as" if asked == DATE else f" of {asked}:")
                + f' --types="{name}:%d.%m.%Y %H:%M"'
            )
        return RecordColumn(name, DATE, date_format=formats[0])
    if asked in (NUMBER, WHOLE):
        if not numerals.all or (asked == WHOLE and not numerals.whole):
            strange = [text for text in survey.counts if _is_strange(text, asked)]
            raise UsageError(
                f"column '{shown(name)}' has '{shown((*strange, '')[0])}', which is no {asked} "
                "number: give it another type, or say that it is missing by --missing_values"
            )
        column = _number(survey, numerals)
        return column if asked == WHOLE else RecordColumn(name, NUMBER, **numerals.column)  # type: ignore[arg-type]
    if asked == CATEGORY:
        return RecordColumn(name, CATEGORY, tuple(survey.level_texts))
    levels = tuple(level.strip() for level in asked.split("<"))
    unknown = [text for text in survey.counts if text not in levels]
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise UsageError(
            f"'{asked}' is no type of column '{shown(name)}': give {', '.join(COLUMN_TYPES)}, "
            f"{IDENTIFIER}, levels in order (small<medium<large) or a date's form (%d.%m.%Y)"
        )
    if unknown:
        raise UsageError(
            f"column '{shown(name)}' has '{shown(unknown[0])}', which is none of {asked}"
        )
    return RecordColumn(name, CATEGORY, levels, ordered=True)


def _is_strange(text: str, asked: str) -> bool:
    number = number_in(text)
    return number is None or (asked == WHOLE and not number.value.is_integer())
