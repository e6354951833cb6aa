"""Reading of tables as records: types are inferred and reported, and missing cells are kept.

A table is read twice, in blocks: once for the types of its columns, once for their values.

Cleaning of records: missing cells that are not wanted, identifiers, and rare levels.

Each function reports its changes in lines of text. Columns can get indicators of missing cells.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from training.data.tables.formats import NO_NAME, ForeignTable, TableChoices
from training.data.tables.making import FEWEST_ROWS, Marginal, choose_held_out
from training.data.tables.making import IDENTIFIER as CALLED_IDENTIFIER
from training.data.tables.raw_tables import Cells
from training.data.tables.schema import CATEGORY, DATE, NUMBER, WHOLE, Column
from training.data.tables.table import DataTable
from training.data.tables.values import (
    CONSTANT,
    MOST_LEVELS,
    Survey,
    column_of,
    date_text,
    day_of,
    decimal_of,
    fewest_rows,
    grid_of,
    marks_of,
    number_in,
    numbers_of,
    reader_of,
    text_of,
    visible,
)
from training.names import IDENTIFIER

IS_MISSING = " is missing"
"""Suffix of the name of a column that indicates missing cells."""


def is_missing_indicator(column: Column) -> bool:
    """Return whether a column indicates the missing cells of another column."""
    return column.name == f"{column.of}{IS_MISSING}"


def made_values(values: np.ndarray, names: Sequence[str], column: Column) -> np.ndarray:
    """Return the values ``[N]`` of an indicator of missing cells.

    Args:
        values: Values ``[N, D]`` of the columns.
        names: Names of the D columns.
        column: The indicator column.

    Raises:
        DataError: The column is derived in another way.
    """
    if not is_missing_indicator(column):
        raise DataError(
            f"column '{column.name}' follows from '{column.of}', which is no longer supported: "
            "make the data set again, and train again"
        )
    return np.isnan(values[:, list(names).index(column.of)]).astype(np.float64)


OTHER = "other"
"""Level that represents all rare levels."""
MOST_EXACT = 2.0**53
"""Limit up to which floating-point numbers represent all integers."""
MOST_RARE, SHOWN_LEVELS = 1000, 6
"""Maximum number of rare levels stored per column, and listed in a line."""


def without_missing(records: DataTable, missing: str, cells: Cells, lines: list[str]) -> DataTable:
    """Return records after dropping or imputing missing cells, as a method requires.

    Args:
        records: The records.
        missing: Method for missing cells, a name in ``MISSING``.
        cells: Source of the records, for messages.
        lines: List to add lines of text to, about the changes.

    Raises:
        DataError: Cells are missing although the method refuses them, or too few rows are left.
    """
    holes = np.isnan(records.values)
    if missing == "keep" or not holes.any():
        return records
    if missing == "refuse":
        row, index = map(int, np.argwhere(holes)[0])
        raise DataError(
            f"{cells.name}, {cells.place_of(row)}, column '{records.names[index]}': the value is "
            "missing. Keep missing values with --missing=keep, or drop their rows with "
            "--missing=drop"
        )
    if missing == "drop":
        whole = ~holes.any(axis=1)
        if whole.sum() < FEWEST_ROWS:
            raise DataError(
                f"{cells.name} has {int(whole.sum())} rows without missing cells: need at least "
                f"{FEWEST_ROWS}, or --missing=keep"
            )
        lines.append(f"Dropped {int((~whole).sum())} of {len(whole)} rows with missing cells")
        return records.at(whole)
    values = records.values.copy()
    for index, column in enumerate(records.columns):
        present = values[~holes[:, index], index]
        if column.type == CATEGORY:
            filled = float(np.bincount(present.astype(int)).argmax())
        else:
            filled = present.mean().round() if column.type == WHOLE else present.mean()
        values[holes[:, index], index] = filled
    lines.append(
        f"Warning: {int(holes.sum())} missing cells are replaced by the mean or the most "
        "frequent category of their column; this makes a spike that samples reproduce"
    )
    return replace(records, values=values)


def without_identifiers(
    records: DataTable,
    asked: Collection[str],
    lines: list[str],
    texts_of: Callable[[str], np.ndarray],
) -> DataTable:
    """Return records without identifiers and constants among the modeled columns.

    Args:
        records: The records.
        asked: Names of columns with a type given by the user, which are kept.
        lines: List to add warnings to, about extreme repeated values.
        texts_of: Function from the name of a column to its texts ``[N]`` as written, since numbers
            lose digits of long identifiers.
    """
    kept, beside, constants = [], dict(records.beside), dict(records.constants)
    for index, column in enumerate(records.columns):
        values = records.values[:, index]
        present = values[~np.isnan(values)]
        if column.type in (NUMBER, WHOLE) and column.name not in asked:
            one = Marginal.from_values(present)
            if one.lone is not None:
                lines.append(
                    f"Warning: {column.name} is {one.lone[0]:.10g} in {one.lone[1]} rows, "
                    "far from all its other values: if this stands for a missing value, "
                    f"give --missing_values={one.lone[0]:.10g}"
                )
            counts = present[0] in (0, 1) and bool((np.diff(present) == 1).all())
            called = one.whole and (counts or CALLED_IDENTIFIER.fullmatch(column.name))
            if called or (column.type == WHOLE and np.abs(present).max() > MOST_EXACT):
                texts = texts_of(column.name)
                # Long identifiers may be equal as numbers, and would be written with other digits.
                if called or len(set(texts.tolist())) >= len(present):
                    beside[column.name] = texts
                    continue
            if present.min() == present.max():
                constants[column.name] = text_of(column, float(present[0]), records.decimal)
                continue
        kept.append(index)
    return replace(
        records,
        columns=[records.columns[index] for index in kept],
        values=records.values[:, kept],
        beside=beside,
        constants=constants,
    )


def with_rare_levels_together(
    records: DataTable, asked: Collection[str], lines: list[str]
) -> DataTable:
    """Return records with rare levels of category columns merged into one last level.

    Rare levels have few training rows, or exceed ``MOST_LEVELS``. Ordered levels are not merged.

    Args:
        records: The records.
        asked: Names of columns with a type given by the user; their levels are merged only if there
            are more than ``MOST_LEVELS``.
        lines: List to add lines of text to, about the changes.
    """
    columns, values = list(records.columns), records.values.copy()
    for index, column in enumerate(columns):
        if column.type != CATEGORY or column.ordered:
            continue
        places = values[~records.held_out & ~np.isnan(values[:, index]), index].astype(int)
        counts = np.bincount(places, minlength=len(column.levels))
        frequent = np.argsort(-counts, kind="stable")[:MOST_LEVELS]
        fewest = 1 if column.name in asked else fewest_rows(len(places))
        kept = sorted(place for place in map(int, frequent) if counts[place] >= fewest)
        rare = [place for place in np.argsort(-counts, kind="stable").tolist() if place not in kept]
        if len(rare) < 2:
            continue
        # A level may already have this name: the rare levels are merged with it.
        kept = [place for place in kept if column.levels[place] != OTHER]
        new_places = np.full(len(column.levels), float(len(kept)))
        new_places[kept] = range(len(kept))
        present = ~np.isnan(values[:, index])
        values[present, index] = new_places[values[present, index].astype(int)]
        levels = (*(column.levels[place] for place in kept), OTHER)
        names = tuple(column.levels[place] for place in rare if column.levels[place] != OTHER)
        columns[index] = replace(column, levels=levels, rare=names[:MOST_RARE])
        named = ", ".join(map(visible, names[:SHOWN_LEVELS]))
        lines.append(
            (f"{len(rare)} rare categories of '{column.name}' are merged into '{OTHER}': {named}")
            + ", ..." * (len(rare) > SHOWN_LEVELS)
        )
    return replace(records, columns=columns, values=values)


def with_made_columns(records: DataTable, is_missing: Sequence[str]) -> DataTable:
    """Return records with indicators of missing cells added.

    Args:
        records: The records.
        is_missing: Names of the columns that get an indicator of missing cells.

    Raises:
        UsageError: A column of the same name exists, or a column in ``is_missing`` does not exist
            or has no missing cells.
    """
    added = []
    for name in is_missing:
        if name not in records.names:
            raise UsageError(
                f"--is_missing={visible(name)}: no modeled column has this name, so correct the "
                "name"
            )
        if not np.isnan(records.values[:, records.names.index(name)]).any():
            raise UsageError(
                f"--is_missing={visible(name)}: the column has no missing cells, so leave the "
                "name out"
            )
        indicator = Column(f"{name}{IS_MISSING}", CATEGORY, ("no", "yes"), of=name)
        if indicator.name in records.order:
            raise UsageError(
                f"--is_missing adds the column '{indicator.name}', which already exists: leave "
                "the option out"
            )
        added.append(indicator)
    extra = [made_values(records.values, records.names, column) for column in added]
    return replace(
        records,
        columns=[*records.columns, *added],
        values=np.column_stack([records.values, *extra]),
    )


@dataclass(frozen=True)
class RecordChoices(TableChoices):
    """User options for a table of any types; see ``TableChoices`` for further attributes.

    Attributes:
        missing: Method for missing values, a name in ``MISSING``; for a category column, ``mean``
            imputes the most frequent category.
        types: Type by column, as for ``column_of``; the types of other columns are inferred.
        missing_values: Texts or numbers that represent missing values, in addition to usual texts
            such as NA.
        is_missing: Columns for which an indicator of missing cells is added.
        decimal: Decimal sign; None detects the sign.
    """

    missing: str = "keep"
    types: Mapping[str, str] = field(default_factory=dict)
    missing_values: Sequence[str] = ()
    is_missing: Sequence[str] = ()
    decimal: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        given: object = self.types
        if not (
            isinstance(given, Mapping)
            and all(isinstance(text, str) for pair in given.items() for text in pair)
        ):
            raise UsageError(
                f"types is {given!r}: give types by column, for example {{'zip': 'category'}}"
            )

    @property
    def typed(self) -> bool:
        """Whether cells must be read as texts, even if all are numbers."""
        return bool(self.types or self.is_missing or self.missing_values or self.decimal == ",")

    @property
    def missing_marks(self) -> frozenset[str]:
        """All texts that represent missing values, in lower case."""
        return marks_of(self.missing_values)


@dataclass(frozen=True)
class SurveyedTable:
    """A table of texts with the statistics of its columns, after a first pass over its cells.

    Attributes:
        cells: Texts of the requested rows.
        choices: User options.
        surveys: Statistics of each column.
        decimal: Decimal sign of the table.
    """

    cells: Cells
    choices: RecordChoices
    surveys: Sequence[Survey]
    decimal: str

    @classmethod
    def from_cells(cls, cells: Cells, choices: RecordChoices) -> "SurveyedTable":
        """Read a table once, to collect the statistics of its columns.

        Raises:
            DataError: The table is broken, or has too few rows.
            UsageError: A type is given for a column that does not exist.
        """
        for name in choices.types:
            if name not in cells.names:
                raise UsageError(
                    f"--types: {cells.name} has no column '{shown(name)}', so correct the name"
                )
        surveys = [Survey(name, choices.missing_marks) for name in cells.names]
        for block in cells.blocks():
            for survey, texts in zip(surveys, block, strict=True):
                survey.add(texts)
        count = surveys[0].rows
        if count < FEWEST_ROWS:
            raise DataError(f"{cells.name} has {count} rows: need at least {FEWEST_ROWS}")
        return cls(cells, choices, surveys, choices.decimal or decimal_of(surveys))

    @property
    def only_numbers(self) -> bool:
        """Whether the table is purely numeric, without missing cells that must be kept."""
        choices = self.choices
        return not (choices.types or choices.is_missing or self.cells.levels) and all(
            survey.numbers(self.decimal) is not None
            and not survey.has_codes(self.decimal)
            and (choices.missing != "keep" or not survey.missing)
            for survey in self.surveys
            if survey.name
        )

    def numbers(self) -> ForeignTable:
        """Return the table as a numeric table, without a first column that has no name."""
        places = [place for place, name in enumerate(self.cells.names) if name]

        def blocks() -> Iterator[np.ndarray]:
            for block in self.cells.blocks():
                columns = [
                    numbers_of(block[place], self.decimal, self.choices.missing_marks)
                    for place in places
                ]
                yield np.stack(columns, axis=1)

        names = [self.cells.names[place] for place in places]
        notes = [NO_NAME] * (len(names) < len(self.cells.names))
        return ForeignTable(self.cells.name, names, blocks, True, self.cells.place_of, notes)

    def records(self) -> tuple[DataTable, list[str]]:
        """Read the table again as records; return the records, and a report in lines of text.

        Raises:
            DataError: A cell is missing although missing cells are not allowed, or no column
                varies.
            UsageError: The cells do not fit the user's type.
        """
        types: dict[str, str | tuple[str, ...]] = {**self.cells.levels, **self.choices.types}
        kinds = {
            survey.name: column_of(survey, self.decimal, types.get(survey.name))
            for survey in self.surveys
        }
        columns = [kind for kind in kinds.values() if isinstance(kind, Column)]
        beside_names = [name for name, kind in kinds.items() if kind == IDENTIFIER]
        values, texts = self._read(columns, beside_names)
        columns = [
            replace(column, grid=grid_of(own)) if column.type == DATE else column
            for column, own in zip(columns, values.T, strict=True)
        ]
        records = DataTable(
            columns,
            list(self.cells.names),
            constants={
                survey.name: next(iter(survey.counts), "")
                for survey in self.surveys
                if kinds[survey.name] == CONSTANT
            },
            beside=texts,
            separator=self.cells.separator,
            decimal=self.decimal,
            typed=True,
            values=values,
            held_out=np.zeros(len(values), dtype=bool),
        )
        lines: list[str] = []

        def texts_of(name: str) -> np.ndarray:
            return self._read([], [name])[1][name]

        records = without_identifiers(records, self.choices.types, lines, texts_of)
        records = without_missing(records, self.choices.missing, self.cells, lines)
        held_out = choose_held_out(len(records), self.choices.held_out, self.choices.seed)
        records = replace(records, held_out=held_out)
        records = with_rare_levels_together(records, self.choices.types, lines)
        if not records.columns:
            raise DataError(
                f"{self.cells.name} contains only constants and identifiers: there is nothing to "
                "learn. Declare types of columns with --types"
            )
        records = with_made_columns(records, self.choices.is_missing)
        return records, [*summary_of(records, self.surveys, self.choices.types), *lines]

    def _read(
        self, columns: Sequence[Column], beside: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the values ``[N, D]`` of columns, and the texts ``[N]`` of others."""
        values = np.empty((self.surveys[0].rows, len(columns)))
        texts = {name: np.empty(len(values), dtype=object) for name in beside}
        places = {name: place for place, name in enumerate(self.cells.names)}
        marks = self.choices.missing_marks
        readers = [reader_of(column, self.cells, self.decimal, marks) for column in columns]
        start = 0
        for block in self.cells.blocks():
            rows = slice(start, start + len(block[0]))
            for index, (column, read) in enumerate(zip(columns, readers, strict=True)):
                values[rows, index] = read(block[places[column.name]], start)
            for name, cells in texts.items():
                cells[rows] = block[places[name]]
            start = rows.stop
        return values, texts


SHOWN_COLUMNS = 60
MOST_WORDS = 3
"""Maximum number of different words in a numeric column that may represent missing values."""


def summary_of(records: DataTable, surveys: Sequence[Survey], asked: Collection[str]) -> list[str]:
    """Return a report in lines of text: a table of the columns, and warnings about ambiguous cells.

    The table has the name, the type, the values and the fraction of missing cells of each column.

    Args:
        records: The records.
        surveys: Statistics of the columns.
        asked: Names of columns with a type given by the user.
    """
    shares = {survey.name: survey.missing / survey.rows for survey in surveys}
    rows = [("column", "type", "values", "missing")]
    modelled = {column.name: place for place, column in enumerate(records.columns)}
    for name in [*records.order, *(column.name for column in records.columns if column.of)]:
        if name in modelled:
            column = records.columns[modelled[name]]
            kind = f"{column.type}{', ordered' * column.ordered}"
            seen = _seen(column, records.values[:, modelled[name]], records.decimal)
        elif name in records.constants:
            kind, seen = CONSTANT, visible(records.constants[name]) or "no value"
        else:
            kind, seen = IDENTIFIER, "left out, and stored beside the data"
        share = shares.get(name, 0.0)
        rows.append((visible(name) or "(no name)", kind, seen, f"{share:.1%}" * bool(share)))
    few = rows[: SHOWN_COLUMNS + 1]
    widths = [max(len(row[place]) for row in few) for place in range(3)]
    more = len(rows) - len(few)
    return [
        (
            f"{len(records)} rows, {int(records.held_out.sum())} of them held out for "
            "validation; to change a type, give --types=name:type"
        ),
        *("  " + "  ".join([*map(str.ljust, row, widths), row[3]]).rstrip() for row in few),
        *([f"  ... and {more} more"] if more else []),
        *_other_readings(surveys, records, asked),
    ]


def _seen(column: Column, values: np.ndarray, decimal: str) -> str:
    if column.type == CATEGORY:
        listed = (" < " if column.ordered else ", ").join(
            map(visible, column.levels[:SHOWN_LEVELS])
        )
        more = ", ..." * (len(column.levels) > SHOWN_LEVELS)
        return f"{len(column.levels)} levels: {listed}{more}"
    ends = [float(np.nanmin(values)), float(np.nanmax(values))]
    if column.decimals is None and column.type != DATE:
        return " to ".join(f"{end:.6g}" for end in ends)
    return " to ".join(text_of(column, end, decimal) for end in ends)


def _other_readings(
    surveys: Sequence[Survey], records: DataTable, asked: Collection[str]
) -> Iterator[str]:
    """Yield lines about ambiguous cells.

    These are dates with the month first, points that group thousands, and words among numbers.
    """
    columns = {column.name: column for column in records.columns}
    for survey in surveys:
        name, column = survey.name, columns.get(survey.name)
        if name in asked or not name:
            continue
        if column is not None and column.type == DATE and len(survey.formats) > 1:
            first, second = survey.formats[:2]
            text = next(iter(survey.counts))
            yield (
                f"Warning: dates of '{name}' are read as {first}, so '{text}' is "
                f"{date_text(day_of(text, first) or 0.0, '%Y-%m-%d')}; if they are "
                f"{second}, give --types={name}:{second}"
            )
        elif column is not None and column.type in (NUMBER, WHOLE):
            other = survey.numbers(",") if records.decimal == "." else None
            if records.separator == ";" and other is not None and other.grouped:
                yield (f"Warning: if points separate thousands in '{name}', give --decimal=,")
        else:
            words = [text for text in survey.counts if number_in(text, records.decimal) is None]
            rows = sum(survey.counts[text] for text in words)
            if 0 < len(words) <= MOST_WORDS and 2 * rows < survey.present:
                listed = ",".join(map(visible, words))
                yield (
                    f"Warning: '{name}' is numeric except for {rows} cells: if these are "
                    f"missing values, give --missing_values={listed}"
                )
