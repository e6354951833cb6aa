"""A table as others write it: the rows that come of it, what names its columns may have, and what a
user decides about its rows.

Rows come in blocks, so that memory holds the wanted columns once and a block besides.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Real
from typing import Any

import numpy as np

from dnnlib.errors import DataError, UsageError
from dnnlib.numbers import natural
from torch_utils.inert_pickle import shown
from training.names import MISSING

BLOCK_ROWS = 10_000
MOST_COLUMNS = 10_000
"""A basis of as many has 0.8 GB."""
LONGEST_NAME = 200


NO_NAME = "Left out the first column, which has no name, as an index of the rows"


def row_number(row: int) -> str:
    """What messages call a row that stands on no line of a text."""
    return f"row {row + 1}"


@dataclass(frozen=True)
class ForeignTable:
    """A table to be read.

    Attributes:
        name: What messages call it.
        names: Its columns.
        blocks: Gives rows ``[n, len(names)]`` of float64; NaN where a value is missing.
        named: Whether the names are the source's own, and not numbers that columns were given.
        place_of: What messages call a row, counted from 0.
        notes: What was left out already, in lines for people.
    """

    name: str
    names: Sequence[str]
    blocks: Callable[[], Iterator[np.ndarray]]
    named: bool = True
    place_of: Callable[[int], str] = row_number
    notes: Sequence[str] = ()


def row_blocks(rows: Any) -> Iterator[Any]:
    """An array or a data frame in blocks of its rows."""
    return (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))


def numbered(count: int, stem: str = "x") -> list[str]:
    """Names for columns that have none."""
    return [f"{stem}{index}" for index in range(1, count + 1)]


def places_of(
    names: Sequence[str], wanted: Sequence[str] | None, source: object, exclude: Sequence[str] = ()
) -> list[int]:
    """Where the wanted columns are: all that have names, if None, without those to leave out.
    Raises UsageError if one is not there, or is named twice, or none is left."""
    wanted = None if wanted is None else [str(name) for name in wanted]  # frames call some 0
    exclude = [str(name) for name in exclude]
    for name in (*(wanted or ()), *exclude):
        if name not in names:
            near = get_close_matches(name, names, 1)
            hint = f" (is '{shown(near[0])}' meant?)" if near else ""
            raise UsageError(
                f"{source} has no column '{shown(name)}'{hint}: it has {listed(names)}"
            )
    chosen = [name for name in names if name] if wanted is None else wanted
    for name in chosen:
        if chosen.count(name) > 1:
            raise UsageError(f"column '{name}' is named twice: name it once")
    places = [names.index(name) for name in chosen if name not in exclude]
    if not places:
        raise UsageError(f"{source}: no column is left")
    return places


def listed(names: Sequence[str]) -> str:
    """Names of columns, as messages list them: the first ones of many."""
    return ", ".join([*map(shown, names[:20]), *["..."] * (len(names) > 20)])


def with_columns(
    table: ForeignTable, wanted: Sequence[str] | None, exclude: Sequence[str] = ()
) -> ForeignTable:
    """Some columns of a table that is read as a whole."""
    require_names(table.names, table.name)
    if wanted is None and not exclude:
        return table
    places = places_of(table.names, wanted, table.name, exclude)
    names = [table.names[place] for place in places]
    return replace(
        table, names=names, blocks=lambda: (block[:, places] for block in table.blocks())
    )


def require_names(names: Sequence[str], source: object, indexed: bool = False) -> None:
    """Raises DataError unless the names of columns are few, plain, and different; ``indexed``, the
    first of several may have none."""
    if indexed and len(names) > 1 and not names[0]:
        names = ["(no name)", *names[1:]]
    if not names:
        raise DataError(f"{source} has no columns")
    require_few(len(names), source)
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if len(name) > LONGEST_NAME or not name.isprintable() or not name.strip():
            raise DataError(
                f"{source}: the name of column {number} is '{shown(name)}': give it a name of up "
                f"to {LONGEST_NAME} printable characters"
            )
        if _runs_in_spreadsheets(name):
            raise DataError(
                f"{source}: column {number} is named '{shown(name)}', which a spreadsheet would "
                "run as a formula: rename it"
            )
        if name in seen:
            raise DataError(f"{source} has two columns '{name}': rename one")
        seen.add(name)


def _runs_in_spreadsheets(name: str) -> bool:
    """Whether a spreadsheet runs something for a cell of this text.

    A text that starts with a sign is a formula too. Without calls, references to other sheets and
    links to other programs, as in ``-logL`` or ``+1y``, it can only be an error.
    """
    return name[0] in "=@" or (name[0] in "+-" and any(mark in name for mark in "(!|"))


def require_few(columns: int, source: object) -> None:
    """Raises DataError if there are more columns than can be taken."""
    if columns > MOST_COLUMNS:
        raise DataError(f"{source} has {columns} columns: at most {MOST_COLUMNS} are taken")


CHUNK = 40 << 20
"""Bytes that blocks are collected to. The system has so much back as soon as it is free, while the
allocator (glibc's, up to 32 MiB) may keep what was freed in smaller parts."""


def widened(values: np.ndarray) -> np.ndarray:
    """Numbers ``[n]`` or ``[n, D]`` as float64. Columns of less precision that are all rounded to
    decimals have these: 0.1 would be 0.10000000149011612, and no step would be seen."""
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
    """Blocks ``[n, columns]`` as one array ``[N, columns]``, row after row in memory."""
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
    # A block that is large by itself is not copied.
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty((0, columns)), *blocks])


def narrowed(values: np.ndarray, places: Sequence[int]) -> np.ndarray:
    """The columns ``[N, len(places)]`` at different places of rows ``[N, D]`` that lie one after
    the other, in the memory of all: ``values`` is lost."""
    count, kept = len(values), len(places)
    memory = values.reshape(-1)
    assert np.shares_memory(memory, values) or not count
    for start in range(0, count, BLOCK_ROWS):
        # It is a copy, and the place of these columns reaches no row that is still to come.
        block = values[start : start + BLOCK_ROWS, places]
        memory[start * kept : start * kept + block.size] = block.reshape(-1)
    return memory[: count * kept].reshape(count, kept)


@dataclass(frozen=True)
class RowChoices:
    """Which rows are taken, and for what.

    Attributes:
        missing: One of ``MISSING``.
        max_rows: Rows to take at most, the first ones; None for all.
        held_out: Fraction of the rows that is not to be trained on.
        seed: Seed of the choice of these.

    Raises:
        UsageError: One of them is none of these; from Python nothing else looks at them.
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
            raise UsageError(f"held_out is {given!r}: give a part of the rows, as 0.1")


@dataclass(frozen=True)
class TableChoices(RowChoices):
    """What a user decides about a table; see ``RowChoices``.

    Attributes:
        conditions: Columns that are conditioned on.
        covariates: Columns that are conditioned on too, but are no data.
        dataset: Column that says which rows are trials of one dataset; None where each row has
            parameters of its own.
        missing: One of ``MISSING``: refuse missing values, drop their rows, or take the mean; to
            keep them is for data of trials, and otherwise left to records (``NotNumbers`` is
            raised). Infinite ones are missing too, as a simulation that failed leaves them, but are
            not kept.
        dequantize: Whether to look for discrete columns.
        bounds: Lowest and highest value by column, infinite where there is none.
        kept: Further fraction that no choice is to be made by either.
    """

    conditions: Sequence[str] = ()
    covariates: Sequence[str] = ()
    dataset: str | None = None
    missing: str = "refuse"
    dequantize: bool = True
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kept: float = 0.0

    def holes(self, names: Sequence[str]) -> list[int]:
        """Places of the columns that may have holes: data of trials, if missing values are kept."""
        if self.missing != "keep" or self.dataset is None:
            return []
        return [names.index(name) for name in self.conditions]
