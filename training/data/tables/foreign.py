"""External tables: their rows, permitted column names, and the user's options for rows.

Rows are read in blocks, so that memory holds the selected columns once and one block.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError, UsageError
from dnnlib.numbers import natural
from torch_utils.inert_pickle import shown
from training.names import MISSING

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


def joined(blocks: Iterable[np.ndarray], columns: int) -> np.ndarray:
    """Join blocks ``[n, columns]`` into one array ``[N, columns]``, row-major."""
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
    values = np.empty((sum(map(len, chunks)), columns))
    chunks.reverse()
    start = 0
    while chunks:
        chunk = chunks.pop()
        values[start : start + len(chunk)] = chunk
        start += len(chunk)
    return values


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
        max_rows: Maximum number of rows to read from the start of the table; None for all rows.
        held_out: Fraction of the rows that is held out of training, for validation.
        seed: Random seed of the split.

    Raises:
        UsageError: A value is invalid.
    """

    missing: str = "keep"
    max_rows: int | None = None
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.missing not in MISSING:
            raise UsageError(f"missing is {self.missing!r}: give one of {', '.join(MISSING)}")
        natural("max_rows", self.max_rows or 0)
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
            rows, impute the mean, or keep missing values. Missing values can be kept in the data of
            trials only; for other columns, ``NotNumbers`` is raised, and the table is read as
            records. Infinite values, for example of failed simulations, are missing too, but are
            never kept.
        dequantize: Whether to detect discrete columns, whose values are dequantized in training.
        bounds: Lower and upper bounds by column, infinite where there is no bound.
        kept: Fraction of the rows for the calibration set, which neither training nor validation
            uses.
    """

    conditions: Sequence[str] = ()
    covariates: Sequence[str] = ()
    dataset: str | None = None
    missing: str = "refuse"
    dequantize: bool = True
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kept: float = 0.0

    def holes(self, names: Sequence[str]) -> list[int]:
        """Return the indices of columns that may keep missing values, which are data of trials.

        Args:
            names: Names of all columns.
        """
        if self.missing != "keep" or self.dataset is None:
            return []
        return [names.index(name) for name in self.conditions]
