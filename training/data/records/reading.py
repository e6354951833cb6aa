"""Reading of tables as records: types are inferred and reported, and missing cells are kept.

A table is read twice, in blocks: once for the types of its columns, once for their values.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from training.data.records.date_grids import grid_of
from training.data.records.inferring import CONSTANT, Survey, column_of, decimal_of
from training.data.records.raw_tables import Cells
from training.data.records.records import CATEGORY, DATE, NUMBER, WHOLE, RecordColumn, Records
from training.data.records.tidying import (
    SHOWN_LEVELS,
    with_made_columns,
    with_rare_levels_together,
    without_identifiers,
    without_missing,
)
from training.data.records.values import (
    date_text,
    day_of,
    marks_of,
    number_in,
    numbers_of,
    reader_of,
    visible,
)
from training.data.records.writing import text_of
from training.data.tables.foreign import NO_NAME, ForeignTable, RowChoices
from training.data.tables.making import FEWEST_ROWS, choose_held_out
from training.names import IDENTIFIER


@dataclass(frozen=True)
class RecordChoices(RowChoices):
    """User options for records; see ``RowChoices`` for further attributes.

    Attributes:
        types: Type by column, as for ``column_of``; the types of other columns are inferred.
        missing: Method for missing values, a name in ``MISSING``; for a category column, ``mean``
            imputes the most frequent category.
        missing_values: Texts or numbers that represent missing values, in addition to usual texts
            such as NA.
        calendar: Whether to add the weekday and season of dates as columns.
        is_missing: Columns for which an indicator of missing cells is added.
        decimal: Decimal sign; None detects the sign.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    missing_values: Sequence[str] = ()
    calendar: bool = False
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
        every = cells.blocks
        cells = replace(cells, blocks=lambda: _first_rows(every(), choices.max_rows))
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
        return not (
            choices.types or choices.calendar or choices.is_missing or self.cells.levels
        ) and all(
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

    def records(self) -> tuple[Records, list[str]]:
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
        columns = [kind for kind in kinds.values() if isinstance(kind, RecordColumn)]
        beside_names = [name for name, kind in kinds.items() if kind == IDENTIFIER]
        values, texts = self._read(columns, beside_names)
        columns = [
            replace(column, grid=grid_of(own)) if column.type == DATE else column
            for column, own in zip(columns, values.T, strict=True)
        ]
        records = Records(
            columns,
            values,
            np.zeros(len(values), dtype=bool),
            {
                survey.name: next(iter(survey.counts), "")
                for survey in self.surveys
                if kinds[survey.name] == CONSTANT
            },
            texts,
            list(self.cells.names),
            self.cells.separator,
            self.decimal,
        )
        lines: list[str] = []

        def texts_of(name: str) -> np.ndarray:
            return self._read([], [name])[1][name]

        records = without_identifiers(records, self.choices.types, lines, texts_of)
        records = without_missing(records, self.choices.missing, self.cells, lines)
        held_out = choose_held_out(len(records), self.choices.held_out, self.choices.seed)
        records = replace(records, held_out=held_out.numpy())
        records = with_rare_levels_together(records, self.choices.types, lines)
        if not records.columns:
            raise DataError(
                f"{self.cells.name} contains only constants and identifiers: there is nothing to "
                "learn. Declare types of columns with --types"
            )
        records = with_made_columns(records, self.choices.calendar, self.choices.is_missing)
        return records, [*summary_of(records, self.surveys, self.choices.types), *lines]

    def _read(
        self, columns: Sequence[RecordColumn], beside: Sequence[str]
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


def _first_rows(blocks: Iterator[list[list[str]]], most: int | None) -> Iterator[list[list[str]]]:
    left = most
    for block in blocks:
        yield block if left is None else [texts[:left] for texts in block]
        if left is not None:
            left -= len(block[0])
            if left <= 0:
                return


SHOWN_COLUMNS = 60
MOST_WORDS = 3
"""Maximum number of different words in a numeric column that may represent missing values."""


def summary_of(records: Records, surveys: Sequence[Survey], asked: Collection[str]) -> list[str]:
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


def _seen(column: RecordColumn, values: np.ndarray, decimal: str) -> str:
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
    surveys: Sequence[Survey], records: Records, asked: Collection[str]
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
