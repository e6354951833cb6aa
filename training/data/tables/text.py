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
    listed,
    numbered,
    places_of,
    require_names,
)

LONGEST_LINE = 16 << 20
"""Characters of a line of text: 10,000 columns with names of 1,000."""
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
"""Cells that stand for no value, in lower case."""
EVEN = 1e-6
"""Of steps between numbers, relative to the largest: what is less is rounding."""


def open_text(
    path: Path,
    delimiter: str,
    wanted: Sequence[str] | None,
    header: str = "auto",
    known: Sequence[str] | None = None,
) -> ForeignTable:
    """A text file whose first row names the columns, or which has numbers only.

    Args:
        path: The file.
        delimiter: What is between cells.
        wanted: The columns to read; None for all.
        header: Whether the first row has names, ``yes`` or ``no``; ``auto`` takes numbers for data.
        known: Names that columns may have, where that is known: a first row of these is a header
            though they be numbers, and any other numbers are data.

    Raises:
        DataError: It is missing or broken, or the first row are numbers that may well be names.
        UsageError: A wanted column is not there, or twice.
    """
    with _opened(path) as file:
        records = _records(path, file, delimiter)
        cells = [cell.strip() for cell in next(records, (0, []))[1]]
        has_names = header == "yes"
        if header == "auto":
            has_names = not all(map(_is_number, cells)) or set(cells) <= set(known or ())
            if not has_names and known is None and _counts_up(cells):
                _require_data(path, cells, next(records, (0, []))[1])
    names = cells if has_names else numbered(len(cells))
    if not names:
        raise DataError(f"{path} is empty: give a table whose first row names its columns")
    require_names(names, path)
    if len(names) == 1 and ";" in cells[0]:
        raise DataError(f"{path} has one column, '{shown(cells[0])}': are its cells parted by ';'?")
    places = places_of(names, wanted, path)
    chosen = [names[place] for place in places]

    def blocks() -> Iterator[np.ndarray]:
        with _opened(path) as file:
            records = _records(path, file, delimiter, int(has_names))
            if has_names:
                next(records)
            rows: list[list[str]] = []
            number = 0
            for number, cells in records:
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}, row {number} has {len(cells)} cells, but there are {len(names)} "
                        f"columns: the last is '{shown(names[-1])}'"
                    )
                rows.append([cells[place] for place in places])
                if len(rows) == BLOCK_ROWS:
                    yield _numbers(path, rows, number, chosen)
                    rows = []
            if rows:
                yield _numbers(path, rows, number, chosen)

    return ForeignTable(str(path), chosen, blocks, has_names)


def _require_data(path: Path, first: Sequence[str], second: Sequence[str]) -> None:
    """Raises DataError if a first row that counts up is unlike the next, and may be a header."""
    if not _counts_up(second):
        raise DataError(
            f"{path}: the first row, {listed(first)}, is of numbers that rise as names of columns "
            "may: give --header=yes if they are, and --header=no if they are data"
        )


def _counts_up(cells: Sequence[str]) -> bool:
    """Whether cells are whole numbers that rise from each to the next, or three or more numbers at
    equal steps: years, places and wavelengths are such names, and rows of data seldom are."""
    if not all(map(_is_number, cells)):
        return False
    steps = np.diff(np.array(cells, dtype=np.float64))
    if not (steps > 0).all():
        return False
    evenly = len(steps) > 1 and bool(np.ptp(steps) <= EVEN * steps.max())
    return evenly or all(cell.strip().isdecimal() for cell in cells)


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


def _records(
    path: Path, file: TextIO, delimiter: str, headers: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a text file that are not empty, numbered from 1 on, after so many headers."""
    reader = csv.reader(_lines(path, file), delimiter=delimiter, strict=True)
    number = 1 - headers
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        if cells:
            yield number, cells
            number += 1


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(path: Path, rows: list[list[str]], last: int, names: Sequence[str]) -> np.ndarray:
    """The values of cells: NaN where one is missing. Raises DataError for what is no number.

    Args:
        path: The file.
        rows: The cells.
        last: The number of the last row.
        names: Of the columns.
    """
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
                    f"{path}, row {last - len(rows) + number + 1}, column '{names[place]}': "
                    f"'{shown(cell)}' is no number: mend it, or leave the column out"
                )
    return values
