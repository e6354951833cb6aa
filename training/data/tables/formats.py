"""The formats of tables that are read: text, arrays, Parquet, and what comes with scikit-learn."""

import csv
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from torch_utils.results import Header, open_array, open_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.foreign import (
    BLOCK_ROWS,
    ForeignTable,
    listed,
    numbered,
    places_of,
    require_few,
    require_names,
    with_columns,
)
from training.data.toys import Toy
from training.names import RAW_TABLES, TOY_NAMES

SHIPPED = ("breast_cancer", "diabetes", "wine")
"""Data sets of scikit-learn by name."""
TOY_PREFIX = "toy:"
TOY_ROWS = 20_000


def open_npy(path: Path) -> ForeignTable:
    """An npy, whose columns have no names."""
    with open_array(path) as (header, _):
        _require_table(path, header)

    def blocks() -> Iterator[np.ndarray]:
        with open_array(path) as (header, file):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), numbered(header.shape[1]), blocks, named=False)


def open_archive(path: Path) -> ForeignTable:
    """An npz with ``points``, or with one array alone, and perhaps ``names``."""
    with open_arrays(path) as saved:
        if "points" in saved.names:
            name = "points"
        elif len(saved.names) == 1:
            (name,) = saved.names
        else:
            raise DataError(
                f"{path} has no array 'points', and more than one: save the table as 'points'"
            )
        with saved.open(name) as (header, _):
            _require_table(path, header)
            columns = header.shape[1]
        names, named = numbered(columns), "names" in saved.names
        if named:
            names = [str(entry) for entry in saved.read("names").ravel()]
            if len(names) != columns:
                raise DataError(f"{path} has {columns} columns, but {len(names)} names")

    def blocks() -> Iterator[np.ndarray]:
        with open_arrays(path) as saved, saved.open(name) as (header, file), saved.reading(name):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), names, blocks, named)


def _rows(path: Path, header: Header, file: IO[bytes]) -> Iterator[np.ndarray]:
    """The rows of an array that is stored after its header, in blocks."""
    count, columns = header.shape

    def numbers(length: int) -> np.ndarray:
        content = file.read(length * header.dtype.itemsize)
        if len(content) != length * header.dtype.itemsize:
            raise DataError(f"{path} is broken: make it again")
        return np.frombuffer(content, header.dtype)

    if header.by_columns:
        values = np.empty((count, columns))
        for column in values.T:
            column[:] = numbers(count)
        yield values
        return
    for start in range(0, count, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, count - start)
        yield numbers(rows * columns).reshape(rows, columns).astype(np.float64)


def _require_table(path: Path, header: Header) -> None:
    if len(header.shape) != 2 or header.dtype.kind not in "fiub":
        raise DataError(
            f"{path} is an array of shape {list(header.shape)} and type {header.dtype}: give rows "
            "and columns of numbers"
        )
    require_few(header.shape[1], path)


def open_parquet(path: Path, wanted: Sequence[str] | None) -> ForeignTable:
    """Columns of a Parquet file, all of them if none are named."""
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise UsageError(
            f"{path} needs pyarrow: pip install pyarrow, or save the table as CSV"
        ) from error
    foreign = (arrow.ArrowException, OSError)
    try:
        file = parquet.ParquetFile(path)
        names = list(file.schema_arrow.names)
        kinds = {field.name: str(field.type) for field in file.schema_arrow}
    except foreign as error:
        raise DataError(f"{path} is no readable Parquet file") from error
    require_names(names, path)
    chosen = [names[place] for place in places_of(names, wanted, path)]
    for name in chosen:
        if not kinds[name].startswith(("int", "uint", "float", "double", "half", "bool")):
            raise DataError(
                f"{path}: column '{shown(name)}' holds {kinds[name]}, no numbers: leave it out"
            )

    def blocks() -> Iterator[np.ndarray]:
        try:
            for batch in file.iter_batches(BLOCK_ROWS, columns=chosen):
                columns = [batch.column(name).cast(arrow.float64()) for name in chosen]
                yield np.stack([c.to_numpy(zero_copy_only=False) for c in columns], axis=1)
        except foreign as error:
            raise DataError(f"{path} is broken: {str(error).splitlines()[0]}") from error

    return ForeignTable(str(path), chosen, blocks)


def open_shipped(name: str) -> ForeignTable:
    """A data set of scikit-learn."""
    datasets = importlib.import_module("sklearn.datasets")
    shipped = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_") for column in shipped.feature_names]
    return ForeignTable(name, names, lambda: iter([np.asarray(shipped.data, dtype=np.float64)]))


def open_toy(source: str, seed: int) -> ForeignTable:
    """Draws of ``toy:NAME``."""
    name = source.removeprefix(TOY_PREFIX)
    if name not in TOY_NAMES:
        raise UsageError(f"unknown toy '{name}': choose one of {', '.join(TOY_NAMES)}")
    toy = Toy(name)

    def blocks() -> Iterator[np.ndarray]:
        for number in range(TOY_ROWS // BLOCK_ROWS):
            generator = seeded_generator("cpu", seed, Stream.DATA, number)
            yield toy.sample(BLOCK_ROWS, generator).double().numpy()

    return ForeignTable(source, numbered(toy.dim), blocks)


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


SUFFIXES = (*RAW_TABLES, ".npz")


def is_table(source: str) -> bool:
    """Whether a source is a table, by its name."""
    return (
        source in SHIPPED
        or source.startswith(TOY_PREFIX)
        or Path(source).suffix.lower() in SUFFIXES
    )


def open_table(
    source: str,
    wanted: Sequence[str] | None,
    seed: int = 0,
    header: str = "auto",
    known: Sequence[str] | None = None,
) -> ForeignTable:
    """A table of a file, of scikit-learn, or of a toy.

    Args:
        source: Its path or name.
        wanted: The columns to read; None for all.
        seed: Of a toy's draws.
        header: Whether the first row of a text has names, as ``open_text`` takes it.
        known: Names that columns of a text may have, likewise.

    Raises:
        DataError: It is missing or broken, or is no table of numbers.
        UsageError: A wanted column is not there, or the source is unknown.
    """
    if source.startswith(TOY_PREFIX):
        return with_columns(open_toy(source, seed), wanted)
    if source in SHIPPED:
        return with_columns(open_shipped(source), wanted)
    path = Path(source)
    readers = {
        ".csv": lambda: open_text(path, ",", wanted, header, known),
        ".tsv": lambda: open_text(path, "\t", wanted, header, known),
        ".npy": lambda: with_columns(open_npy(path), wanted),
        ".npz": lambda: with_columns(open_archive(path), wanted),
        ".parquet": lambda: open_parquet(path, wanted),
    }
    if not path.exists():
        raise DataError(f"{path} does not exist: give a table, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path} is no file: give a table, {', '.join(SUFFIXES)}")
    return readers[path.suffix.lower()]()
