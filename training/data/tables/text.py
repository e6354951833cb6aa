"""Text tables: rows of cells, each with its line number in the file.

The csv module of the standard library splits cells, since it knows their lines and rejects broken
text; other readers silently pad short rows.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from dnnlib.errors import DataError
from torch_utils.inert_pickle import shown
from training.data.tables.foreign import BLOCK_ROWS, listed, numbered, require_names
from training.names import SEPARATORS

LONGEST_LINE = 16 << 20
"""Maximum number of characters per line: 10,000 columns with names of 1,000."""
SNIFFED_LINES = 30
"""Number of first lines from which the separator is inferred."""
COMMENT = "#"
EVEN = 1e-6
"""Rounding error of steps between numbers, relative to the largest."""


@dataclass(frozen=True)
class TextTable:
    """A table in a text file, as texts of cells.

    Attributes:
        path: The file.
        separator: Separator of the cells in a line.
        names: Names of the columns. The first name may be empty, as for a row index written by
            pandas or R.
        named: Whether the names come from the file.
    """

    path: Path
    separator: str
    names: Sequence[str]
    named: bool

    @classmethod
    def open(
        cls,
        path: Path,
        separator: str | None = None,
        header: str = "auto",
        known: Sequence[str] | None = None,
    ) -> "TextTable":
        """Open a file, and determine its separator and the names of its columns.

        Args:
            path: The file.
            separator: Separator of the cells; None detects the separator.
            header: Whether the first row has names, ``yes`` or ``no``; ``auto`` treats a row of
                numbers as data.
            known: Names that columns may have; None if unknown. With ``auto``, a first row of known
                names is a header even if the names are numbers; a first row of other numbers is
                data.

        Raises:
            DataError: The file is missing or damaged, or the first row has numbers that may be
                names.
        """
        separator = _separator(path) if separator is None else separator
        with _opened(path) as file:
            records = _records(path, file, separator)
            cells = [cell.strip() for cell in next(records, (0, []))[1]]
            second = next(records, (0, []))[1]
        has_names = header == "yes"
        if header == "auto":
            has_names = not all(map(is_number, cells)) or set(cells) <= set(known or ())
            if not has_names and known is None and _counts_up(cells) and not _counts_up(second):
                raise DataError(
                    f"{path}: the first row, {listed(cells)}, contains increasing "
                    "numbers, which may be column names: give --header=yes if they are, "
                    "and --header=no if they are data"
                )
        names = cells if has_names else numbered(len(cells))
        if not names:
            raise DataError(f"{path} is empty: give a table whose first row names its columns")
        if has_names and len(second) == len(names) + 1 > 2:
            names = ["", *names]  # R writes no name above the row names
        require_names(names, path, indexed=True)
        return cls(path, separator, names, has_names)

    def blocks(self) -> Iterator[tuple[list[list[str]], list[int]]]:
        """Yield blocks of rows: the texts of cells ``[n][D]``, and line numbers ``[n]``."""
        rows = self._rows()
        while block := list(islice(rows, BLOCK_ROWS)):
            lines, cells = zip(*block, strict=True)
            yield list(cells), list(lines)

    def place_of(self, row: int) -> str:
        """Return the line number of a row as text for messages.

        Args:
            row: Row number, from 0.
        """
        return f"line {next(islice(self._rows(), row, None), (0, []))[0]}"

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        with _opened(self.path) as file:
            records = _records(self.path, file, self.separator)
            if self.named:
                next(records)
            for line, cells in records:
                if len(cells) == len(self.names):
                    yield line, cells
                elif not cells[0].startswith(COMMENT):
                    raise DataError(
                        f"{self.path}, line {line} has {len(cells)} cells for {len(self.names)} "
                        f"columns: the last column is '{shown(self.names[-1])}'. Correct the line"
                    )


def _separator(path: Path) -> str:
    """Return the separator that splits the first lines into equally many cells, two or more."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    with _opened(path) as file:
        lines = list(islice(_lines(path, file), SNIFFED_LINES))
    for named_rows in (False, True):
        for separator in (usual, *SEPARATORS.values()):
            try:
                rows = [row for row in csv.reader(lines, delimiter=separator) if row]
            except csv.Error:
                continue
            if len(lines) == SNIFFED_LINES:
                rows = rows[:-1]  # which may continue in the next line
            widths = [len(row) for row in rows if not row[0].startswith(COMMENT)]
            head, body = widths[:1], set(widths[1:])
            if head > [1] and body <= {head[0] + named_rows}:
                return separator
    return usual


def _counts_up(cells: Sequence[str]) -> bool:
    """Return whether cells look like numeric names rather than data.

    They are increasing whole numbers, or three or more numbers at equal steps: years, positions and
    wavelengths are such names, and rows of data rarely are.
    """
    if not all(map(is_number, cells)):
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
        raise DataError(f"{path} is not encoded in UTF-8: save it as UTF-8") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}. Check the file and its permissions"
        ) from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the lines of a file, with a limit on their length."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise DataError(
                f"{path} has a line of more than {LONGEST_LINE:,} characters: check that the "
                "file is a table with line breaks"
            )
        yield line


def _records(path: Path, file: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield nonempty rows with their first line numbers, without comments at the top."""
    reader = csv.reader(_lines(path, file), delimiter=separator, strict=True)
    begun = False
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {line}: {error}. Correct the line") from error
        if cells and (begun or not cells[0].startswith(COMMENT)):
            begun = True
            yield line, cells


def is_number(cell: str) -> bool:
    """Return whether a cell is a number in Python's notation, without underscores as in 2020_01."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
