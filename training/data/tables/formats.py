"""Readers of tables: text, arrays, Parquet, and data sets of scikit-learn."""

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from torch_utils.results import Header, open_array, open_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import first_line
from torch_utils.streams import Stream
from training.data.tables.foreign import (
    BLOCK_ROWS,
    NO_NAME,
    ForeignTable,
    numbered,
    places_of,
    require_few,
    require_names,
    widened,
    with_columns,
)
from training.data.tables.text import TextTable, is_number
from training.data.toys import Toy
from training.names import RAW_TABLES, script

SHIPPED = ("breast_cancer", "diabetes", "wine")
"""Names of data sets of scikit-learn."""
TOY_PREFIX = "toy:"
TOY_ROWS = 20_000


INDEX = re.compile(r"__index_level_\d+__")
"""Name that pandas gives to an unnamed index in a Parquet file."""
NO_INDEX = "Dropped the row index, which has no name"
SINGLE = ("float", "halffloat")
"""Arrow's names of types of lower precision."""


def open_npy(path: Path) -> ForeignTable:
    """Open the matrix in an ``.npy`` file as a table, whose columns have no names."""
    with open_array(path) as (header, _):
        _require_table(path, header)

    def blocks() -> Iterator[np.ndarray]:
        with open_array(path) as (header, file):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), numbered(header.shape[1]), blocks, named=False)


def open_archive(path: Path) -> ForeignTable:
    """Open an ``.npz`` file with the array ``points``, or a single array, as a table.

    The optional array ``names`` contains the names of the columns.
    """
    with open_arrays(path) as saved:
        if "points" in saved.names:
            name = "points"
        elif len(saved.names) == 1:
            (name,) = saved.names
        else:
            raise DataError(
                f"{path} has several arrays, none of them 'points': save the rows of the table in "
                "an array 'points'"
            )
        with saved.open(name) as (header, _):
            _require_table(path, header)
            columns = header.shape[1]
        names, named = numbered(columns), "names" in saved.names
        if named:
            names = [str(entry) for entry in saved.read("names").ravel()]
            if len(names) != columns:
                raise DataError(
                    f"{path} has {columns} columns, but {len(names)} column names: give one name "
                    "per column"
                )

    def blocks() -> Iterator[np.ndarray]:
        with open_arrays(path) as saved, saved.open(name) as (header, file), saved.reading(name):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), names, blocks, named)


def _rows(path: Path, header: Header, file: IO[bytes]) -> Iterator[np.ndarray]:
    """Yield the rows of an array that is stored after its header, in blocks."""
    count, columns = header.shape

    def numbers(length: int) -> np.ndarray:
        content = file.read(length * header.dtype.itemsize)
        if len(content) != length * header.dtype.itemsize:
            raise DataError(f"{path} is damaged: the file ends early. Make the file again")
        return np.frombuffer(content, header.dtype)

    if header.by_columns:
        values = np.empty((count, columns))
        for column in values.T:
            column[:] = widened(numbers(count))
        yield values
        return
    for start in range(0, count, BLOCK_ROWS):
        rows = min(BLOCK_ROWS, count - start)
        yield widened(numbers(rows * columns).reshape(rows, columns))


def _require_table(path: Path, header: Header) -> None:
    if len(header.shape) != 2 or header.dtype.kind not in "fiub":
        raise DataError(
            f"{path} is an array of shape {list(header.shape)} and type {header.dtype}: "
            "give a matrix of numbers"
        )
    require_few(header.shape[1], path)


@contextmanager
def by_arrow(path: Path, failure: str = "is damaged: {}") -> Iterator[None]:
    """Return a context that converts errors of Arrow to errors whose message has the path.

    Args:
        path: The file.
        failure: Message for unreadable files, after the path; ``{}`` stands for Arrow's reason.

    Raises:
        UsageError: Arrow is not installed.
        DataError: Arrow cannot read the file.
    """
    try:
        foreign = (importlib.import_module("pyarrow").ArrowException, OSError)
    except ImportError as error:
        raise UsageError(
            f"{path} needs pyarrow: pip install pyarrow, or save the table as CSV"
        ) from error
    try:
        yield
    except foreign as error:
        raise DataError(f"{path} {failure.format(first_line(error))}") from error


def open_parquet(path: Path, wanted: Sequence[str] | None, exclude: Sequence[str]) -> ForeignTable:
    """Open columns of a Parquet file as a numeric table.

    Args:
        path: The file.
        wanted: Names of the columns to read; None for all.
        exclude: Names of columns to leave out.

    Raises:
        DataError: The file cannot be read.
        NotNumbers: A selected column is not numeric.
        UsageError: A selected column does not exist, or Arrow is not installed.
    """
    with by_arrow(path, "is not a readable Parquet file"):
        file = importlib.import_module("pyarrow.parquet").ParquetFile(path)
        names = list(file.schema_arrow.names)
        kinds = {field.name: str(field.type) for field in file.schema_arrow}
    require_names(names, path)
    nameless = [name for name in names if INDEX.fullmatch(name) and wanted is None]
    chosen = [names[place] for place in places_of(names, wanted, path, [*exclude, *nameless])]
    for name in chosen:
        if not kinds[name].startswith(("int", "uint", "float", "double", "half", "bool")):
            raise NotNumbers(
                f"{path}: column '{shown(name)}' contains {kinds[name]}, not numbers: leave it out"
            )

    def blocks() -> Iterator[np.ndarray]:
        with by_arrow(path):
            for batch in file.iter_batches(BLOCK_ROWS, columns=chosen):
                own = [batch.column(name) for name in chosen]
                columns = [
                    column if kinds[name] in SINGLE else column.cast("float64")
                    for name, column in zip(chosen, own, strict=True)
                ]
                each = [widened(column.to_numpy(zero_copy_only=False)) for column in columns]
                yield np.stack(each, axis=1)

    return ForeignTable(str(path), chosen, blocks, notes=[NO_INDEX] * bool(nameless))


def open_shipped(name: str) -> ForeignTable:
    """Open a data set of scikit-learn, by its name in ``SHIPPED``."""
    datasets = importlib.import_module("sklearn.datasets")
    shipped = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_") for column in shipped.feature_names]
    return ForeignTable(name, names, lambda: iter([np.asarray(shipped.data, dtype=np.float64)]))


def open_toy(source: str, seed: int) -> ForeignTable:
    """Open a table of draws from a toy distribution.

    Args:
        source: The toy, as ``toy:NAME``.
        seed: Random seed of the draws.
    """
    toy = Toy(source.removeprefix(TOY_PREFIX))

    def blocks() -> Iterator[np.ndarray]:
        for number in range(TOY_ROWS // BLOCK_ROWS):
            generator = seeded_generator("cpu", seed, Stream.DATA, number)
            yield toy.sample(BLOCK_ROWS, generator).double().numpy()

    return ForeignTable(source, numbered(toy.dim), blocks)


MISSING_MARKS = frozenset(("", "na", "n/a", "nan", "null", "none", ".", "?", "-"))
"""Cells that represent missing values, in lower case."""


class NotNumbers(DataError):
    """Error for a table with missing or non-numeric cells, which can be read as records instead."""


def open_text(
    table: TextTable, wanted: Sequence[str] | None, exclude: Sequence[str]
) -> ForeignTable:
    """Open columns of a text file as a numeric table; a first column without a name is left out.

    Args:
        table: The text file.
        wanted: The columns to read; None for all.
        exclude: Columns to leave out.

    Raises:
        NotNumbers: A cell is not a number; raised when blocks are read.
        UsageError: A selected column does not exist, or is named twice.
    """
    places = places_of(table.names, wanted, table.path, exclude)
    chosen = [table.names[place] for place in places]

    def blocks() -> Iterator[np.ndarray]:
        for rows, lines in table.blocks():
            cells = [[row[place] for place in places] for row in rows]
            yield _numbers(table.path, cells, lines, chosen)

    notes = [] if table.names[0] else [NO_NAME]
    return ForeignTable(str(table.path), chosen, blocks, table.named, table.place_of, notes)


def _numbers(
    path: Path, rows: list[list[str]], lines: Sequence[int], names: Sequence[str]
) -> np.ndarray:
    """Return the values of cells, NaN if missing; ``lines`` are the line numbers of the rows.

    Raises:
        NotNumbers: A cell is not a number.
    """
    try:
        values = np.array(rows, dtype=np.float64)
        if not any("_" in cell for row in rows for cell in row):
            return values
    except ValueError:
        pass  # one by one, to find which
    values = np.empty((len(rows), len(names)))
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            if cell.strip().lower() in MISSING_MARKS:
                values[number, place] = np.nan
            elif is_number(cell):
                values[number, place] = float(cell)
            else:
                raise NotNumbers(
                    f"{path}, line {lines[number]}, column '{names[place]}': '{shown(cell)}' "
                    "is not a number: correct it, or leave the column out"
                )
    return values


SUFFIXES = (*RAW_TABLES, ".npz")


def is_table(source: str | ForeignTable) -> bool:
    """Return whether a source is a table: a table file, a shipped data set, or a toy."""
    return (
        isinstance(source, ForeignTable)
        or source in SHIPPED
        or source.startswith(TOY_PREFIX)
        or Path(source).suffix.lower() in SUFFIXES
    )


def open_table(
    source: str | Path | ForeignTable,
    wanted: Sequence[str] | None,
    seed: int = 0,
    header: str = "auto",
    known: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    separator: str | None = None,
) -> ForeignTable:
    """Open a numeric table: a file, a data set of scikit-learn, or draws of a toy distribution.

    Args:
        source: Path of the file, name of the data set, or ``toy:NAME``; or an open table.
        wanted: Names of the columns to read; None for all.
        seed: Random seed of a toy's draws.
        header: Whether the first row of a text file has names, see ``TextTable.open``.
        known: Names that columns of a text file may have, see ``TextTable.open``.
        exclude: Names of columns to leave out.
        separator: Separator of the cells of a text file; None detects the separator.

    Raises:
        DataError: The source is missing or broken, or is not a numeric table.
        UsageError: A selected column does not exist, or the source is unknown.
    """
    if isinstance(source, ForeignTable):
        return with_columns(source, wanted, exclude)
    source = str(source)
    if source.startswith(TOY_PREFIX):
        return with_columns(open_toy(source, seed), wanted, exclude)
    if source in SHIPPED:
        return with_columns(open_shipped(source), wanted, exclude)
    path, suffix = Path(source), Path(source).suffix.lower()
    require_table_file(path)
    if suffix == ".parquet":
        return open_parquet(path, wanted, exclude)
    if suffix == ".feather":
        raise NotNumbers(
            f"{path} is not a numeric table: make a data set from it with {script('dataset_tool')}"
        )
    if suffix in (".npy", ".npz"):
        arrays = open_npy(path) if suffix == ".npy" else open_archive(path)
        return with_columns(arrays, wanted, exclude)
    return open_text(TextTable.open(path, separator, header, known), wanted, exclude)


def require_table_file(path: Path) -> None:
    """Raise DataError unless a path is an existing file."""
    if not path.is_file():
        state = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {state}: give a table, {', '.join(SUFFIXES)}")
