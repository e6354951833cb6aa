"""Inference of the type of a column from the texts of its cells."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn
from training.data.records.values import DATE_FORMATS, NOTHING, NumberForm, formats_of, number_in
from training.data.tables.marginals import IDENTIFIER as CALLED_IDENTIFIER
from training.names import COLUMN_TYPES, IDENTIFIER

MOST_COUNTED = 100_000
"""Maximum number of different texts of a column that are counted."""
MOST_DECIMALS = 9
"""Maximum number of decimals for rounding written numbers; longer numbers are written in full."""
MOST_LEVELS, FEWEST_ROWS = 100, 5
"""Maximum number of levels of a category, and minimum rows per level; other levels are merged."""
CONSTANT = "constant"
"""Type of a column with one value: it is left out of the model, and restored on output."""


@dataclass
class Survey:
    """Statistics of the texts in a column's cells, from which its type is inferred.

    Attributes:
        name: Name of the column.
        missing_marks: Texts that represent missing values, in lower case.
        rows: Number of cells.
        missing: Number of cells without a value.
        missing_texts: Different texts of the cells without a value.
        counts: Number of cells by text, for the first ``MOST_COUNTED`` different texts.
        forms: Written forms of the numbers, by decimal sign; None if some cell is not a number with
            this decimal sign.
        only: Decimal signs that are required, since some cell is a number with this sign only.
        formats: Date formats that fit all cells.
    """

    name: str
    missing_marks: frozenset[str] = NOTHING
    rows: int = 0
    missing: int = 0
    missing_texts: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    forms: dict[str, set[NumberForm] | None] = field(
        default_factory=lambda: {".": set(), ",": set()}
    )
    only: set[str] = field(default_factory=set)
    formats: tuple[str, ...] = DATE_FORMATS

    def add(self, texts: Sequence[str]) -> None:
        """Add more cells to the statistics."""
        self.rows += len(texts)
        for text, count in Counter(texts).items():
            if text.lower() in self.missing_marks:
                self.missing += count
                self.missing_texts.add(text)
                continue
            if text not in self.counts:
                self._look_at(text)
            if text in self.counts or len(self.counts) < MOST_COUNTED:
                self.counts[text] += count

    def _look_at(self, text: str) -> None:
        known = set()
        for sign, forms in self.forms.items():
            number = None if forms is None else number_in(text, sign)
            if forms is None or number is None:
                self.forms[sign] = None
            else:
                forms.add(number.form)
                known.add(sign)
        if len(known) == 1:
            self.only |= known
        if known:
            self.formats = ()
        elif self.formats:
            self.formats = formats_of(text, self.formats)

    def numbers(self, decimal: str) -> RecordColumn | None:
        """Return a numeric column if all texts are numbers in one currency or unit, else None.

        Args:
            decimal: Decimal sign.
        """
        forms = self.forms[decimal]
        if not forms:
            return None
        prefixes = {form.prefix for form in forms if form.prefix}
        suffixes = {form.suffix for form in forms if form.suffix}
        if len(prefixes) > 1 or len(suffixes) > 1:
            return None
        digits = [MOST_DECIMALS + 1 if form.decimals is None else form.decimals for form in forms]
        return RecordColumn(
            self.name,
            WHOLE if all(form.whole for form in forms) else NUMBER,
            decimals=max(digits) if max(digits) <= MOST_DECIMALS else None,
            prefix="".join(prefixes),
            suffix="".join(suffixes),
            grouped=any(form.grouped for form in forms),
        )

    def has_codes(self, decimal: str) -> bool:
        """Return whether any number has a leading zero, as in zip codes.

        Args:
            decimal: Decimal sign.
        """
        return any(form.coded for form in self.forms[decimal] or ())

    @property
    def present(self) -> int:
        """Number of cells with a value."""
        return self.rows - self.missing

    @property
    def level_texts(self) -> list[str]:
        """Different texts, sorted: numbers by value, then other texts alphabetically."""

        def key(text: str) -> tuple[bool, float, str]:
            number = number_in(text)
            return number is None, 0.0 if number is None else number.value, text

        return sorted(self.counts, key=key)

    @property
    def rarely_repeats(self) -> bool:
        """Whether repeated texts are rare, as for identifiers.

        Frequent texts then cover less than half of the cells, or there are too many texts to count.
        """
        if len(self.counts) == MOST_COUNTED:
            return True
        fewest = fewest_rows(self.present)
        frequent = (count for _, count in self.counts.most_common(MOST_LEVELS))
        return 2 * sum(count for count in frequent if count >= fewest) < self.present


def fewest_rows(present: int) -> int:
    """Return the minimum number of rows of a category; smaller categories are merged.

    Args:
        present: Number of cells with a value.
    """
    return min(FEWEST_ROWS, max(2, present // 20))


def decimal_of(surveys: Iterable[Survey], usual: str = ".") -> str:
    """Return the decimal sign of a table.

    The sign is a comma if some column is numeric only with a comma, and no column only with a
    point.

    Args:
        surveys: Statistics of the columns.
        usual: Sign to return if all cells are ambiguous, such as 4,500.
    """
    signs = {sign for survey in surveys for sign in survey.only if survey.numbers(sign) is not None}
    return "," if signs == {","} else "." if signs else usual


def column_of(
    survey: Survey, decimal: str, asked: str | tuple[str, ...] | None
) -> RecordColumn | str:
    """Return the typed column; ``IDENTIFIER`` or ``CONSTANT`` for a column that is not modeled.

    Args:
        survey: Statistics of the column.
        decimal: Decimal sign of the table.
        asked: Type given by the user: a name in ``COLUMN_TYPES``, ``IDENTIFIER``, ordered levels
            such as ``small<medium<large`` or a tuple of levels, or a date format such as
            ``%d.%m.%Y``. None infers the type.

    Raises:
        UsageError: The cells do not fit the user's type.
        DataError: The column has no values.
    """
    column = _inferred(survey, decimal) if asked is None else _asked_for(survey, decimal, asked)
    if isinstance(column, RecordColumn) and len(survey.missing_texts) == 1:
        return replace(column, missing=next(iter(survey.missing_texts)))
    return column


def _inferred(survey: Survey, decimal: str) -> RecordColumn | str:
    name, numbers = survey.name, survey.numbers(decimal)
    if not name:
        return IDENTIFIER
    if len(survey.counts) < 2:
        return CONSTANT
    if numbers is not None and not survey.has_codes(decimal) and len(survey.counts) > 2:
        return numbers
    if survey.formats:
        return RecordColumn(name, DATE, date_format=survey.formats[0])
    every_one = len(survey.counts) == survey.present
    if len(survey.counts) > 2 and (
        survey.rarely_repeats or (every_one and CALLED_IDENTIFIER.fullmatch(name))
    ):
        return IDENTIFIER
    return RecordColumn(name, CATEGORY, tuple(survey.level_texts))


def _asked_for(survey: Survey, decimal: str, asked: str | tuple[str, ...]) -> RecordColumn | str:
    name = survey.name
    if not survey.counts:
        raise DataError(f"column '{shown(name)}' has no values: leave the column out")
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
                f"column '{shown(name)}' has '{shown(strange[0])}', which is not a date"
                + (": give the date format, for example" if asked == DATE else f" of {asked}:")
                + f' --types="{name}:%d.%m.%Y %H:%M"'
            )
        return RecordColumn(name, DATE, date_format=formats[0])
    if asked in (NUMBER, WHOLE):
        column = survey.numbers(decimal)
        if column is None or (asked == WHOLE and column.type != WHOLE):
            numbers = {text: number_in(text, decimal) for text in survey.counts}
            strange = [
                text
                for text, number in numbers.items()
                if number is None or (asked == WHOLE and not number.form.whole)
            ]
            kind = "a whole number" if asked == WHOLE else "a number"
            raise UsageError(
                (
                    f"column '{shown(name)}' has '{shown(strange[0])}', which is not {kind}: "
                    "give another type, or declare it missing with --missing_values"
                )
                if strange
                else f"column '{shown(name)}' has numbers with several units: use one unit"
            )
        return replace(column, type=asked)
    if asked == CATEGORY:
        if len(survey.counts) == MOST_COUNTED:
            raise UsageError(
                f"column '{shown(name)}' has {MOST_COUNTED:,} or more categories: give another type"
            )
        return RecordColumn(name, CATEGORY, tuple(survey.level_texts))
    levels = tuple(level.strip() for level in asked.split("<"))
    unknown = [text for text in survey.counts if text not in levels]
    if len(levels) < 2 or len(set(levels)) < len(levels):
        raise UsageError(
            f"'{asked}' is not a valid type of column '{shown(name)}': give "
            f"{', '.join(COLUMN_TYPES)}, {IDENTIFIER}, ordered levels "
            "(small<medium<large) or a date format (%d.%m.%Y)"
        )
    if unknown:
        raise UsageError(
            f"column '{shown(name)}' has '{shown(unknown[0])}', which is not one of {asked}: add "
            "this level, or correct the cells"
        )
    return RecordColumn(name, CATEGORY, levels, ordered=True)
