"""Tables as others write them: CSV, TSV, npy, npz, Parquet, and some that ship with scikit-learn.

Rows come in blocks, so that memory holds the wanted columns once and a block besides.
"""

import csv
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.inert_pickle import shown
from torch_utils.results import Header, open_array, open_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.toys import TOY_NAMES, Toy

BLOCK_ROWS = 10_000
MOST_COLUMNS = 10_000
"""A basis of as many has 0.8 GB."""
LONGEST_LINE = 16 << 20
"""Characters of a line of text: 10,000 columns with names of 1,000."""
LONGEST_NAME = 200
MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?", "-"))
"""Cells that stand for no value, in lower case."""
SUFFIXES = (".csv", ".tsv", ".npy", ".npz", ".parquet")
SHIPPED = ("breast_cancer", "diabetes", "wine")
"""Data sets of scikit-learn by name."""
TOY_PREFIX = "toy:"
TOY_ROWS = 20_000


@dataclass(frozen=True)
class ForeignTable:
    """A table to be read.

    Attributes:
        name: What messages call it.
        names: Its columns.
        blocks: Gives rows ``[n, len(names)]`` of float64; NaN where a value is missing.
        first_line: The line of a text file, or the number of the row, that the first row has.
    """

    name: str
    names: Sequence[str]
    blocks: Callable[[], Iterator[np.ndarray]]
    first_line: int = 0


def is_table(source: str) -> bool:
    """Whether a source is a table, by its name."""
    return (
        source in SHIPPED
        or source.startswith(TOY_PREFIX)
        or Path(source).suffix.lower() in SUFFIXES
    )


def open_table(source: str, wanted: Sequence[str] | None, seed: int = 0) -> ForeignTable:
    """A table of a file, of scikit-learn, or of a toy.

    Args:
        source: Its path or name.
        wanted: The columns to read; None for all.
        seed: Of a toy's draws.

    Raises:
        DataError: It is missing or broken, or is no table of numbers.
        UsageError: A wanted column is not there, or the source is unknown.
    """
    if source.startswith(TOY_PREFIX):
        return _chosen(_toy(source, seed), wanted)
    if source in SHIPPED:
        return _chosen(_shipped(source), wanted)
    path = Path(source)
    readers = {
        ".csv": lambda: _text(path, ",", wanted),
        ".tsv": lambda: _text(path, "\t", wanted),
        ".npy": lambda: _chosen(_array(path), wanted),
        ".npz": lambda: _chosen(_archive(path), wanted),
        ".parquet": lambda: _parquet(path, wanted),
    }
    if not path.exists():
        raise DataError(f"{path} does not exist: give a table, {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path} is no file: give a table, {', '.join(SUFFIXES)}")
    return readers[path.suffix.lower()]()


def places_of(names: Sequence[str], wanted: Sequence[str] | None, source: object) -> list[int]:
    """Where the wanted columns are. Raises UsageError if one is not there, or twice."""
    if wanted is None:
        return list(range(len(names)))
    for name in wanted:
        if name not in names:
            told = ", ".join(shown(known) for known in names[:20])
            more = ", ..." if len(names) > 20 else ""
            raise UsageError(f"{source} has no column '{name}': it has {told}{more}")
        if wanted.count(name) > 1:
            raise UsageError(f"column '{name}' is wanted twice")
    return [names.index(name) for name in wanted]


def _chosen(table: ForeignTable, wanted: Sequence[str] | None) -> ForeignTable:
    """Some columns of a table that is read as a whole."""
    require_names(table.names, table.name)
    if wanted is None:
        return table
    places = places_of(table.names, wanted, table.name)
    return ForeignTable(
        table.name,
        [table.names[place] for place in places],
        lambda: (block[:, places] for block in table.blocks()),
        table.first_line,
    )


def require_names(names: Sequence[str], source: object) -> None:
    """Raises DataError unless the names of columns are few, plain, and different."""
    if not names:
        raise DataError(f"{source} has no columns")
    _require_few(len(names), source)
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if len(name) > LONGEST_NAME or not name.isprintable() or not name.strip():
            raise DataError(
                f"{source}: the name of column {number} is '{shown(name)}': give it a name of up "
                f"to {LONGEST_NAME} printable characters"
            )
        if name[0] in "=+-@":
            raise DataError(
                f"{source}: column {number} is named '{shown(name)}', which a spreadsheet would "
                "run as a formula: rename it"
            )
        if name in seen:
            raise DataError(f"{source} has two columns '{name}': rename one")
        seen.add(name)


def _require_few(columns: int, source: object) -> None:
    if columns > MOST_COLUMNS:
        raise DataError(f"{source} has {columns} columns: at most {MOST_COLUMNS} are taken")


def _toy(source: str, seed: int) -> ForeignTable:
    name = source.removeprefix(TOY_PREFIX)
    if name not in TOY_NAMES:
        raise UsageError(f"unknown toy '{name}': choose one of {', '.join(TOY_NAMES)}")
    toy = Toy(name)

    def blocks() -> Iterator[np.ndarray]:
        for number in range(TOY_ROWS // BLOCK_ROWS):
            generator = seeded_generator("cpu", seed, Stream.DATA, number)
            yield toy.sample(BLOCK_ROWS, generator).double().numpy()

    return ForeignTable(source, _numbered(toy.dim), blocks)


def _shipped(name: str) -> ForeignTable:
    datasets = importlib.import_module("sklearn.datasets")
    found = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_") for column in found.feature_names]
    return ForeignTable(name, names, lambda: iter([np.asarray(found.data, dtype=np.float64)]))


def _array(path: Path) -> ForeignTable:
    with open_array(path) as (header, _):
        _require_table(path, header)

    def blocks() -> Iterator[np.ndarray]:
        with open_array(path) as (header, file):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), _numbered(header.shape[1]), blocks)


def _rows(path: Path, header: Header, file: IO[bytes]) -> Iterator[np.ndarray]:
    """The rows of an array that is stored after its header, in blocks."""
    count, columns = header.shape
    if header.by_columns:
        content = file.read()
        if len(content) != count * columns * header.dtype.itemsize:
            raise DataError(f"{path} is broken: make it again")
        yield np.frombuffer(content, header.dtype).reshape(columns, count).T.astype(np.float64)
        return
    for start in range(0, count, BLOCK_ROWS):
        shape = (min(BLOCK_ROWS, count - start), columns)
        content = file.read(math.prod(shape) * header.dtype.itemsize)
        if len(content) != math.prod(shape) * header.dtype.itemsize:
            raise DataError(f"{path} is broken: make it again")
        yield np.frombuffer(content, header.dtype).reshape(shape).astype(np.float64)


def _numbered(count: int) -> list[str]:
    return [f"x{index}" for index in range(1, count + 1)]


def _archive(path: Path) -> ForeignTable:
    """An npz with ``points``, or with one table alone, and perhaps ``names``."""
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
        names = _numbered(columns)
        if "names" in saved.names:
            names = [str(entry) for entry in saved.read("names").ravel()]
            if len(names) != columns:
                raise DataError(f"{path} has {columns} columns, but {len(names)} names")

    def blocks() -> Iterator[np.ndarray]:
        with open_arrays(path) as saved, saved.open(name) as (header, file), saved.reading(name):
            yield from _rows(path, header, file)

    return ForeignTable(str(path), names, blocks)


def _require_table(path: Path, header: Header) -> None:
    if len(header.shape) != 2 or header.dtype.kind not in "fiub":
        raise DataError(
            f"{path} is an array of shape {list(header.shape)} and type {header.dtype}: give rows "
            "and columns of numbers"
        )
    _require_few(header.shape[1], path)


def _parquet(path: Path, wanted: Sequence[str] | None) -> ForeignTable:
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
                f"{path}: column '{shown(name)}' holds {kinds[name]}, no numbers: leave it out "
                "with --columns"
            )

    def blocks() -> Iterator[np.ndarray]:
        try:
            for batch in file.iter_batches(BLOCK_ROWS, columns=chosen):
                columns = [batch.column(name).cast(arrow.float64()) for name in chosen]
                yield np.stack([c.to_numpy(zero_copy_only=False) for c in columns], axis=1)
        except foreign as error:
            raise DataError(f"{path} is broken: {str(error).splitlines()[0]}") from error

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


def _text(path: Path, delimiter: str, wanted: Sequence[str] | None) -> ForeignTable:
    """A text file whose first row names the columns, or which has numbers only."""
    with _opened(path) as file:
        _, first = next(_records(path, file, delimiter), (0, []))
    first = [cell.strip() for cell in first]
    has_names = not (first and all(_is_number(cell) for cell in first))
    names = first if has_names else _numbered(len(first))
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

    return ForeignTable(str(path), chosen, blocks, first_line=1 + has_names)


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
