"""Readers of tables: text, arrays, Parquet, and data sets of scikit-learn.

External tables: their rows, permitted column names, and the user's options for rows.

Rows are read in blocks, so that memory holds the selected columns once and one block.

Arrow reads text files, plain or compressed, and Parquet and Feather files. Where Arrow refuses a
text, the csv module of the standard library finds the line.
"""

import csv
import importlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import pyarrow
from pyarrow import compute, feather, parquet
from pyarrow import csv as arrow_csv

from dnnlib.errors import DataError, UsageError
from dnnlib.numbers import natural
from torch_utils.inert_pickle import shown
from torch_utils.results import Header, open_array, open_arrays
from torch_utils.seeds import seeded_generator
from torch_utils.snapshots import first_line
from torch_utils.streams import Stream
from training.data.toys import Toy
from training.names import MISSING, RAW_TABLES, SEPARATORS, script

BLOCK_ROWS = 10_000
MOST_COLUMNS = 10_000
"""Maximum number of columns; a basis of this dimension has 0.8 GB."""
LONGEST_NAME = 200


NO_NAME = "Dropped the first column, which has no name, as a row index"


def row_number(row: int) -> str:
    """Return the description of a row in messages, for sources without line numbers.

    Args:
        row: Row number, from 0.
    """
    return f"row {row + 1}"


@dataclass(frozen=True)
class ForeignTable:
    """An external table that is read in blocks of rows.

    Attributes:
        name: Name of the table in messages.
        names: Names of the columns.
        blocks: Function that yields rows ``[n, len(names)]`` of float64; NaN for missing values.
        named: Whether the source contains the names; otherwise names are generated (``x1``, ...).
        place_of: Function from a row number, from 0, to the description of the row in messages.
        notes: Messages about columns that the source has but ``names`` lacks.
    """

    name: str
    names: Sequence[str]
    blocks: Callable[[], Iterator[np.ndarray]]
    named: bool = True
    place_of: Callable[[int], str] = row_number
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        return self.name


TableSource = Path | ForeignTable
"""A table in a file, or an open one."""


def row_blocks(rows: Any) -> Iterator[Any]:
    """Yield the rows of an array or a data frame in blocks."""
    return (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))


def numbered(count: int, stem: str = "x") -> list[str]:
    """Return generated names for columns without names: ``x1``, ``x2`` and so on.

    Args:
        count: Number of columns.
        stem: Text before the number.
    """
    return [f"{stem}{index}" for index in range(1, count + 1)]


def places_of(
    names: Sequence[str], wanted: Sequence[str] | None, source: object, exclude: Sequence[str] = ()
) -> list[int]:
    """Return the indices of the selected columns of a table.

    Args:
        names: Names of all columns.
        wanted: Names of the selected columns; None for all columns that have names.
        source: Name of the table, for messages.
        exclude: Names of columns to leave out.

    Raises:
        UsageError: A column does not exist or is named twice, or no column is left.
    """
    wanted = None if wanted is None else [str(name) for name in wanted]  # frames call some 0
    exclude = [str(name) for name in exclude]
    for name in (*(wanted or ()), *exclude):
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f" (is '{shown(near[0])}' meant?)" if near else ""
            raise UsageError(
                f"{source} has no column '{shown(name)}'{hint}: choose from {listed(names)}"
            )
    chosen = [name for name in names if name] if wanted is None else wanted
    for name in chosen:
        if chosen.count(name) > 1:
            raise UsageError(f"column '{name}' is named twice: name it once")
    places = [names.index(name) for name in chosen if name not in exclude]
    if not places:
        raise UsageError(f"{source}: no columns are left, so exclude fewer columns")
    return places


def listed(names: Sequence[str]) -> str:
    """Return column names as text for a message: only the first 20 if there are more."""
    return ", ".join([*map(shown, names[:20]), *["..."] * (len(names) > 20)])


def with_columns(
    table: ForeignTable, wanted: Sequence[str] | None, exclude: Sequence[str] = ()
) -> ForeignTable:
    """Return a table with a selection of the columns of another table.

    Args:
        table: Table whose blocks contain all columns.
        wanted: Names of the selected columns; None for all.
        exclude: Names of columns to leave out.

    Raises:
        DataError: Column names are invalid.
        UsageError: A column does not exist or is named twice, or no column is left.
    """
    require_names(table.names, table.name)
    if wanted is None and not exclude:
        return table
    places = places_of(table.names, wanted, table.name, exclude)
    names = [table.names[place] for place in places]
    return replace(
        table, names=names, blocks=lambda: (block[:, places] for block in table.blocks())
    )


def require_names(names: Sequence[str], source: object, indexed: bool = False) -> None:
    """Raise DataError unless column names are few, printable, and different.

    Args:
        names: Names of the columns.
        source: Name of the table, for messages.
        indexed: Whether the first of several columns may have no name, like a row index.
    """
    if indexed and len(names) > 1 and not names[0]:
        names = ["(no name)", *names[1:]]
    if not names:
        raise DataError(f"{source} has no columns: give a table with columns")
    require_few(len(names), source)
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if len(name) > LONGEST_NAME or not name.isprintable() or not name.strip():
            raise DataError(
                f"{source}: the name of column {number} is '{shown(name)}': give a name of up "
                f"to {LONGEST_NAME} printable characters"
            )
        if _runs_in_spreadsheets(name):
            raise DataError(
                f"{source}: column {number} is named '{shown(name)}', which a spreadsheet would "
                "run as a formula: rename the column"
            )
        if name in seen:
            raise DataError(f"{source} has two columns '{name}': rename one of them")
        seen.add(name)


def _runs_in_spreadsheets(name: str) -> bool:
    """Return whether a spreadsheet would execute a cell of this text.

    Texts that start with a sign are formulas too. Without calls, references to other sheets or
    links to other programs, as in ``-logL`` or ``+1y``, they can only give an error.
    """
    return name[0] in "=@" or (name[0] in "+-" and any(mark in name for mark in "(!|"))


def require_few(columns: int, source: object) -> None:
    """Raise DataError if a table has too many columns.

    Args:
        columns: Number of columns.
        source: Name of the table, for messages.
    """
    if columns > MOST_COLUMNS:
        raise DataError(
            f"{source} has {columns} columns: the limit is {MOST_COLUMNS}, so leave columns out"
        )


CHUNK = 40 << 20
"""Size in bytes to which blocks are collected.

The system reclaims blocks of this size when they are freed, while the allocator (glibc's, up to 32
MiB) can keep smaller ones.
"""


def widened(values: np.ndarray) -> np.ndarray:
    """Convert numbers ``[n]`` or ``[n, D]`` to float64 and restore short decimals.

    If all values of a float32 column are decimals rounded to float32, such as 0.1, the result has
    these decimals. A plain conversion would turn 0.1 into 0.10000000149011612, and the column would
    not be recognized as discrete.
    """
    wide: np.ndarray = values.astype(np.float64)
    if values.dtype.kind == "f" and values.dtype.itemsize < wide.dtype.itemsize:
        for column, own in zip(np.atleast_2d(wide.T), np.atleast_2d(values.T), strict=True):
            gap = np.spacing(np.abs(own[np.isfinite(own)]).max(initial=0)).item()
            digits = 0
            while 2 * gap < 10.0**-digits and digits < own.dtype.itemsize * 4:
                rounded = np.round(column, digits)
                if np.array_equal(rounded.astype(own.dtype), own, equal_nan=True):
                    column[:] = rounded
                    break
                digits += 1
    return wide


def joined(
    blocks: Iterable[np.ndarray], columns: int, parts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Join blocks ``[n, columns]``, and part their columns into row-major arrays.

    Memory holds the rows once, and one chunk.

    Args:
        blocks: Blocks of rows.
        columns: Number of columns of a block.
        parts: Indices of the columns of each array.

    Returns:
        An array ``[N, len(part)]`` for each part.
    """
    chunks: list[np.ndarray] = []
    pending: list[np.ndarray] = []
    size = 0
    for block in blocks:
        pending.append(block)
        size += block.nbytes
        if size >= CHUNK:
            chunks.append(_concatenated(pending, columns))
            pending, size = [], 0
    chunks.append(_concatenated(pending, columns))
    pending.clear()
    count = sum(map(len, chunks))
    made = [np.empty((count, len(part))) for part in parts]
    chunks.reverse()
    start = 0
    while chunks:
        chunk = chunks.pop()
        for array, part in zip(made, parts, strict=True):
            array[start : start + len(chunk)] = chunk[:, part]
        start += len(chunk)
    return made


def _concatenated(blocks: Sequence[np.ndarray], columns: int) -> np.ndarray:
    # A single large block is not copied.
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty((0, columns)), *blocks])


def narrowed(values: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """Return the columns with indices ``places`` of row-major rows ``[N, D]``.

    The result ``[N, len(places)]`` uses the memory of ``values``, which is overwritten.
    """
    count, kept = len(values), len(places)
    memory = values.reshape(-1)
    assert np.shares_memory(memory, values) or not count
    for start in range(0, count, BLOCK_ROWS):
        # This is a copy, and its destination does not overlap with later rows.
        block = values[start : start + BLOCK_ROWS, places]
        memory[start * kept : start * kept + block.size] = block.reshape(-1)
    return memory[: count * kept].reshape(count, kept)


@dataclass(frozen=True)
class RowChoices:
    """User options for the selection of rows, and for their split into training and validation.

    Attributes:
        missing: Method for missing values, a name in ``MISSING``.
        held_out: Fraction of the rows that is held out of training, for validation.
        seed: Random seed of the split.

    Raises:
        UsageError: A value is invalid.
    """

    missing: str = "keep"
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise UsageError(f"missing is {self.missing!r}: give one of {', '.join(MISSING)}")
        natural("seed", self.seed)
        given: object = self.held_out
        if not (isinstance(given, Real) and 0 <= float(given) <= 1):
            raise UsageError(f"held_out is {given!r}: give a fraction, for example 0.1")


@dataclass(frozen=True)
class TableChoices(RowChoices):
    """User options for a numeric table; see ``RowChoices`` for further attributes.

    Attributes:
        conditions: Names of condition columns that are data.
        covariates: Names of condition columns that are not data, such as a design or a time.
        dataset: Name of the column that identifies the dataset of each trial; None if each row has
            its own parameters.
        missing: Method for missing values, a name in ``MISSING``: refuse missing values, drop their
            rows, impute the mean, or keep missing values. To keep them, ``NotNumbers`` is raised,
            and the table is read as records. Infinite values, for example of failed simulations,
            are missing too.
        bounds: Lower and upper bounds by column, infinite where there is no bound.
        kept: Fraction of the rows for the calibration set, which neither training nor validation
            uses.
    """

    conditions: Sequence[str] = ()
    covariates: Sequence[str] = ()
    dataset: str | None = None
    missing: str = "refuse"
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kept: float = 0.0


LONGEST_LINE = 4 << 20
"""Maximum number of characters per line, and size of blocks: 10,000 columns with names of 400."""
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
        first_line: Line number of the first row of data; None without rows.
    """

    path: Path
    separator: str
    names: Sequence[str]
    named: bool
    first_line: int | None

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
            first_line, first = next(records, (None, []))
            second_line, second = next(records, (None, []))
        cells = [cell.strip() for cell in first]
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
        return cls(path, separator, names, has_names, second_line if has_names else first_line)

    def blocks(self) -> Iterator[list[pyarrow.Array]]:
        """Yield blocks of rows as texts by column ``[D][n]``, without surrounding whitespace.

        Raises:
            DataError: A row has too few or too many cells, or the file is broken.
        """
        if self.first_line is None:
            return
        names = [str(place) for place in range(len(self.names))]
        try:
            with arrow_csv.open_csv(
                self.path,
                read_options=arrow_csv.ReadOptions(
                    use_threads=False,
                    block_size=LONGEST_LINE,
                    skip_rows=self.first_line - 1,
                    column_names=names,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self.separator,
                    newlines_in_values=True,
                    invalid_row_handler=_skip_comment,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=False
                ),
            ) as reader:
                block = None
                for block in reader:
                    yield [compute.utf8_trim_whitespace(texts) for texts in block.columns]
        except pyarrow.ArrowInvalid as error:
            self._require_sound()
            raise DataError(f"{self.path} cannot be read: {first_line(error)}") from error
        if block and "\n" in block.columns[-1][-1].as_py():
            self._require_sound()  # a quotation mark may lack its partner

    def _require_sound(self) -> None:
        """Raise DataError, with the line, if a row is broken."""
        for _ in self._rows():
            pass

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


def _skip_comment(row: Any) -> str:
    """Return what Arrow does with a row that has too few or too many cells."""
    return "skip" if row.text.startswith(COMMENT) else "error"


def _separator(path: Path) -> str:
    """Return the separator that splits the first lines into equally many cells, two or more."""
    usual = "\t" if table_suffix(path) == ".tsv" else ","
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
    """Open a text file, plain or compressed."""
    try:
        compression = "detect" if path.suffix.lower() in COMPRESSED else None
        with io.TextIOWrapper(
            pyarrow.input_stream(str(path), compression), encoding="utf-8-sig", newline=""
        ) as file:
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


SHIPPED = ("breast_cancer", "diabetes", "wine")
"""Names of data sets of scikit-learn."""
TOY_PREFIX = "toy:"
TOY_ROWS = 20_000


INDEX = re.compile(r"__index_level_\d+__")
"""Name that pandas gives to an unnamed index in a Parquet file."""
NO_INDEX = "Dropped the row index, which has no name"
SINGLE = ("float", "halffloat")
"""Arrow's names of types of lower precision."""
STREAMED: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 16}
"""Options with which Arrow does not hold a whole row group, or the whole file, in memory."""


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
def _by_arrow(path: Path) -> Iterator[None]:
    """Return a context that converts errors of Arrow to DataErrors with the path."""
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        kind = table_suffix(path)[1:].capitalize() or "Parquet"
        raise DataError(f"{path} is not a readable {kind} file: {first_line(error)}") from error


@dataclass(frozen=True)
class ArrowTable:
    """A Parquet file, a folder of Parquet files, or a Feather file.

    Attributes:
        path: The file or folder.
        schema: Names and types of the columns.
        batches: Function from the names of columns, or None for all, to blocks of rows.
    """

    path: Path
    schema: pyarrow.Schema
    batches: Callable[[Sequence[str] | None], Iterator[pyarrow.RecordBatch]]

    @classmethod
    def open(cls, path: Path) -> "ArrowTable":
        """Open a file or folder.

        Raises:
            DataError: A file cannot be read, or files of a folder have different columns.
        """
        if table_suffix(path) == ".feather":
            with _by_arrow(path):
                table = feather.read_table(path)
            return cls(path, table.schema, lambda names: _batches_of(table, names))
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        schemas = []
        for file in files:
            with _by_arrow(file):
                schemas.append(parquet.read_schema(file))
            if schemas[-1].names != schemas[0].names:
                raise DataError(
                    f"{file} has columns {listed(schemas[-1].names)}, but {files[0]} has "
                    f"{listed(schemas[0].names)}: give files with the same columns"
                )

        def batches(names: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
            for file in files:
                with _by_arrow(file), parquet.ParquetFile(file, **STREAMED) as opened:
                    yield from opened.iter_batches(BLOCK_ROWS, columns=names)

        return cls(path, schemas[0], batches)


def _batches_of(table: pyarrow.Table, names: Sequence[str] | None) -> Iterator[pyarrow.RecordBatch]:
    return iter((table if names is None else table.select(names)).to_batches(BLOCK_ROWS))


def holds_parquet(path: Path) -> bool:
    """Return whether a path is a folder with Parquet files."""
    return path.is_dir() and next(path.rglob("*.parquet"), None) is not None


def open_arrow(
    table: ArrowTable, wanted: Sequence[str] | None, exclude: Sequence[str]
) -> ForeignTable:
    """Open columns of a Parquet or Feather file as a numeric table.

    Args:
        table: The file.
        wanted: Names of the columns to read; None for all.
        exclude: Names of columns to leave out.

    Raises:
        NotNumbers: A selected column is not numeric.
        UsageError: A selected column does not exist.
    """
    path, names = table.path, list(table.schema.names)
    kinds = {field.name: str(field.type) for field in table.schema}
    require_names(names, path)
    nameless = [name for name in names if INDEX.fullmatch(name) and wanted is None]
    chosen = [names[place] for place in places_of(names, wanted, path, [*exclude, *nameless])]
    for name in chosen:
        if not kinds[name].startswith(("int", "uint", "float", "double", "half", "bool")):
            raise NotNumbers(
                f"{path}: column '{shown(name)}' contains {kinds[name]}, not numbers: leave it out"
            )

    def as_float(name: str, column: pyarrow.Array) -> pyarrow.Array:
        try:
            return column if kinds[name] in SINGLE else column.cast("float64")
        except pyarrow.ArrowInvalid as error:
            raise NotNumbers(
                f"{path}: column '{shown(name)}' has whole numbers with too many digits for "
                "floating point: leave it out"
            ) from error

    def blocks() -> Iterator[np.ndarray]:
        for batch in table.batches(chosen):
            columns = [as_float(name, batch.column(name)) for name in chosen]
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
        before = 0
        for block in table.blocks():
            columns = [block[place] for place in places]
            try:
                yield np.stack([numbers_of(texts, _number) for texts in columns], axis=1)
            except NotNumber as error:
                text = str(error)
                row, name = min(
                    (row, name)
                    for name, texts in zip(chosen, columns, strict=True)
                    if (row := compute.index(texts, text).as_py()) >= 0
                )
                raise NotNumbers(
                    f"{table.path}, {table.place_of(before + row)}, column '{name}': "
                    f"'{shown(text)}' is not a number: correct it, or leave the column out"
                ) from error
            before += len(block[0])

    notes = [] if table.names[0] else [NO_NAME]
    return ForeignTable(str(table.path), chosen, blocks, table.named, table.place_of, notes)


PLAIN = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
"""Pattern of the numbers that Arrow reads."""


class NotNumber(Exception):
    """Error for a text that is neither a number nor missing."""


def numbers_of(texts: pyarrow.Array, number: Callable[[str], float]) -> np.ndarray:
    """Convert texts to numbers ``[n]``, float64.

    Args:
        texts: Texts ``[n]``.
        number: Function that converts a text that is not a plain decimal number.
    """
    try:
        return np.array(texts.cast(pyarrow.float64()))
    except pyarrow.ArrowInvalid:
        plain = compute.match_substring_regex(texts, PLAIN)
    values = np.array(compute.if_else(plain, texts, None).cast(pyarrow.float64()))
    others = texts.filter(compute.invert(plain)).dictionary_encode()
    known = np.array([number(text) for text in others.dictionary.to_pylist()])
    values[~np.array(plain)] = known[np.array(others.indices)]
    return values


def _number(text: str) -> float:
    if text.lower() in MISSING_MARKS:
        return np.nan
    if not is_number(text):
        raise NotNumber(text)
    return float(text)


SUFFIXES = (*RAW_TABLES, ".npz")
COMPRESSED = (".gz", ".zst")


def table_suffix(path: Path) -> str:
    """Return the suffix of a table file in lower case, such as .csv for ``ages.csv.gz``."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def is_table(source: str | ForeignTable) -> bool:
    """Return whether a source is a table: a table file, a shipped data set, or a toy."""
    return (
        isinstance(source, ForeignTable)
        or source in SHIPPED
        or source.startswith(TOY_PREFIX)
        or table_suffix(Path(source)) in SUFFIXES
        or holds_parquet(Path(source))
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
    path, suffix = Path(source), table_suffix(Path(source))
    require_table_file(path)
    if suffix in (".parquet", ".feather") or path.is_dir():
        return open_arrow(ArrowTable.open(path), wanted, exclude)
    if suffix == ".xlsx":
        raise NotNumbers(
            f"{path} is not a numeric table: make a data set from it with {script('dataset_tool')}"
        )
    if suffix in (".npy", ".npz"):
        arrays = open_npy(path) if suffix == ".npy" else open_archive(path)
        return with_columns(arrays, wanted, exclude)
    return open_text(TextTable.open(path, separator, header, known), wanted, exclude)


def require_table_file(path: Path) -> None:
    """Raise DataError unless a path is an existing file, or a folder of Parquet files."""
    if not (path.is_file() or holds_parquet(path)):
        state = "is not a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {state}: give a table, {', '.join(SUFFIXES)}")
