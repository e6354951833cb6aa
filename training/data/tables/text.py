"""Tables as text: CSV and TSV."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from training.data.tables.foreign import (
    BLOCK_ROWS,
    ForeignTable,
    numbered,
    places_of,
    require_names,
)

LONGEST_LINE = 16 << 20
"""Characters of a line of text: 10,000 columns with names of 1,000."""
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
"""Cells that stand for no value, in lower case."""


def open_text(path: Path, delimiter: str, wanted: Sequence[str] | None) -> ForeignTable:
    """A text file whose first row names the columns, or which has numbers only."""
    with _opened(path) as file:
        _, first = next(_records(path, file, delimiter), (0, []))
    first = [cell.strip() for cell in first]
    has_names = not (first and all(_is_number(cell) for cell in first))
    names = first if has_names else numbered(len(first))
    if not names:
        raise DataError(f"{path} is empty: give a table whose first row names its columns")
    require_names(names, path)
    if len(names) == 1 and len(first[0].split(";")) > 1:
        raise DataError(f"{path} has one column, '{shown(first[0])}': are its cells parted by ';'?")
    places = places_of(names, wanted, path)
    chosen = [names[place] for place in places]

    def blocks() -> Iterator[np.ndarray]:
        with _opened(path) as file:
            records = _records(path, file, delimiter)
            if has_names:
                next(records)
            rows: list[list[str]] = []
            lines: list[int] = []
            for line, cells in records:
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}, line {line} has {len(cells)} cells, but there are {len(names)} "
                        "columns"
                    )
                rows.append([cells[place] for place in places])
                lines.append(line)
                if len(rows) == BLOCK_ROWS:
                    yield _numbers(path, rows, lines, chosen)
                    rows, lines = [], []
            if rows:
                yield _numbers(path, rows, lines, chosen)

    return ForeignTable(str(path), chosen, blocks)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (at byte {error.start} of a block): save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """The lines of a file, none longer than is reasonable."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} characters")
        yield line


def _records(path: Path, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text file that are not empty, each with the number of its last line."""
    reader = csv.reader(_lines(path, file), delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}") from error
        if cells:
            yield reader.line_num, cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(
    path: Path, rows: list[list[str]], lines: list[int], names: Sequence[str]
) -> np.ndarray:
    """The values of cells: NaN where one is missing. Raises DataError for what is no number."""
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError:
        pass  # one by one, to know which
    values = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            if cell.strip().lower() in MISSING:
                values[number, place] = np.nan
            elif _is_number(cell):
                values[number, place] = float(cell)
            else:
                raise DataError(
                    f"{path}, line {lines[number]}, column '{names[place]}': '{shown(cell)}' is no "
                    "number: mend it, or leave the column out with --columns"
                )
    return values
