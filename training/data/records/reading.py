"""Records of a table as others write it: types are inferred and told, and holes stay holes.

A table is read twice, in blocks: once for the types of its columns, once for their values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from training.data.records.cells import Cells
from training.data.records.inferring import CONSTANT, Survey, column_of, decimal_of
from training.data.records.parsing import marks_of
from training.data.records.records import RecordColumn, Records
from training.data.records.summary import summary_of
from training.data.records.tidying import (
    with_made_columns,
    with_rare_levels_together,
    without_holes,
    without_identifiers,
)
from training.data.records.values import numbers_of, reader_of
from training.data.tables.choices import RowChoices
from training.data.tables.foreign import NO_NAME, ForeignTable
from training.data.tables.making import FEWEST_ROWS, choose_held_out
from training.names import IDENTIFIER


@dataclass(frozen=True)
class RecordChoices(RowChoices):
    """What a user decides about records; see ``RowChoices``.

    Attributes:
        types: By column, as ``column_of`` takes them; others are inferred.
        missing: Of ``mean``: of a category it is the most frequent level.
        missing_values: Texts, or numbers in any form, that stand for no value too.
        calendar: Whether dates get their weekday and season as further columns.
        is_missing: Columns of which a further one says where their cells are missing.
        decimal: The decimal sign; None finds it.
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
            raise UsageError(f"types is {given!r}: give texts by column, as {{'zip': 'category'}}")

    @property
    def missing_marks(self) -> frozenset[str]:
        """All texts that stand for no value, in lower case."""
        return marks_of(self.missing_values)


@dataclass(frozen=True)
class SurveyedTable:
    """A table that has been looked at once.

    Attributes:
        cells: Its texts, no more rows than are wanted.
        choices: What a user decided.
        surveys: What was seen of each column.
        decimal: The decimal sign.
    """

    cells: Cells
    choices: RecordChoices
    surveys: Sequence[Survey]
    decimal: str

    @classmethod
    def of(cls, cells: Cells, choices: RecordChoices) -> "SurveyedTable":
        """Reads a table for its types.

        Raises:
            DataError: It is broken, or has too few rows.
            UsageError: A type is given for a column that is not there.
        """
        for name in choices.types:
            if name not in cells.names:
                raise UsageError(f"--types: {cells.name} has no column '{shown(name)}'")
        every = cells.blocks
        cells = replace(cells, blocks=lambda: _first_rows(every(), choices.max_rows))
        surveys = [Survey(name, choices.missing_marks) for name in cells.names]
        for block in cells.blocks():
            for survey, texts in zip(surveys, block, strict=True):
                survey.add(texts)
        count = surveys[0].rows
        if count < FEWEST_ROWS:
            raise DataError(f"{cells.name} has {count} rows: at least {FEWEST_ROWS} are needed")
        return cls(cells, choices, surveys, choices.decimal or decimal_of(surveys))

    @property
    def only_numbers(self) -> bool:
        """Whether it can be a table of numbers: there are no others, and no holes to be kept."""
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
        """It as a table of numbers, if it is one."""
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
        """Its records; also tells what was found and done, in lines for people.

        Raises:
            DataError: A cell is missing and must not be, or no column varies.
            UsageError: A type that was given is not that of the cells.
        """
        types: dict[str, str | tuple[str, ...]] = {**self.cells.levels, **self.choices.types}
        kinds = {
            survey.name: column_of(survey, self.decimal, types.get(survey.name))
            for survey in self.surveys
        }
        columns = [kind for kind in kinds.values() if isinstance(kind, RecordColumn)]
        beside_names = [name for name, kind in kinds.items() if kind == IDENTIFIER]
        values, texts = self._read(columns, beside_names)
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
        records = without_holes(records, self.choices.missing, self.cells, lines)
        held_out = choose_held_out(len(records), self.choices.held_out, self.choices.seed)
        records = replace(records, held_out=held_out.numpy())
        records = with_rare_levels_together(records, self.choices.types, lines)
        if not records.columns:
            raise DataError(
                f"{self.cells.name} has constants and identifiers alone: there is nothing to "
                "learn, unless --types say otherwise"
            )
        records = with_made_columns(records, self.choices.calendar, self.choices.is_missing)
        return records, [*summary_of(records, self.surveys, self.choices.types), *lines]

    def _read(
        self, columns: Sequence[RecordColumn], beside: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Values ``[N, D]`` of columns, and the texts ``[N]`` of others."""
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
