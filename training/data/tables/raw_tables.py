"""Tables as texts of cells, from any source: text files, Parquet, Feather, data frames."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile, ZipFile

import numpy as np
import pyarrow
from pyarrow import compute

from dnnlib.errors import DataError, UsageError
from torch_utils.results import MAX_INFLATED_BYTES
from torch_utils.snapshots import first_line
from training.data.tables.formats import (
    ArrowTable,
    ForeignTable,
    TextTable,
    open_table,
    places_of,
    require_names,
    require_table_file,
    row_blocks,
    row_number,
    table_suffix,
)

TEXTS = (".csv", ".tsv")
FRAMES = (".parquet", ".feather", ".xlsx")
ALL_DIGITS = {"integer_object_nulls": True}
"""Options for integers from Arrow, which become floating-point if some are missing."""
Block = list[pyarrow.Array]
"""Rows as texts by column, ``[D][n]``."""


@dataclass(frozen=True)
class Cells:
    """A table as texts of cells, without surrounding whitespace.

    Attributes:
        name: Name of the table in messages.
        names: Names of the columns.
        blocks: Function that yields blocks of rows as Arrow's texts by column, ``[D][n]``; missing
            cells are empty.
        place_of: Function from a row number, from 0, to the description of the row in messages.
        separator: Separator of the cells in a text file.
        levels: Levels of the columns that the source declares as ordered categories, by name.
    """

    name: str
    names: Sequence[str]
    blocks: Callable[[], Iterator[Block]]
    place_of: Callable[[int], str] = row_number
    separator: str = ","
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def only(self, wanted: Sequence[str] | None, exclude: Sequence[str]) -> "Cells":
        """Return a table with a selection of the columns, in their present order.

        Args:
            wanted: Names of the selected columns; None for all.
            exclude: Names of columns to leave out.

        Raises:
            UsageError: A column does not exist.
        """
        places = sorted(places_of(self.names, wanted, self.name, exclude))
        if wanted is None and not self.names[0]:
            places = [0, *places]

        def blocks() -> Iterator[Block]:
            return ([block[place] for place in places] for block in self.blocks())

        return replace(self, names=[self.names[place] for place in places], blocks=blocks)


def open_cells(
    source: Any, separator: str | None = None, header: str = "auto", seed: int = 0
) -> Cells:
    """Open the cells of a file or a data frame.

    Args:
        source: A path (CSV and other texts, Parquet, Feather, or a source of ``open_table``), an
            open table of numbers, or a data frame, for example of pandas or polars.
        separator: Separator of the cells of a text file; None detects the separator.
        header: Whether the first row of a text file has names, see ``TextTable.open``.
        seed: Random seed of a toy's draws.

    Raises:
        DataError: The source is missing or broken.
        UsageError: The source is neither a file nor a data frame.
    """
    if isinstance(source, ForeignTable):
        return _of_numbers(source)
    if not isinstance(source, str | Path):
        if hasattr(source, "to_pandas"):
            source = source.to_pandas()
        if not hasattr(source, "columns"):
            raise UsageError(f"table is {type(source).__name__}: give a file or a data frame")
        return _of_frame(source, "table")
    path = Path(source)
    suffix = table_suffix(path)
    if suffix not in (*TEXTS, *FRAMES) and not path.is_dir():
        return _of_numbers(open_table(str(source), None, seed))
    require_table_file(path)
    if suffix in TEXTS:
        table = TextTable.open(path, separator, header)
        return Cells(str(path), table.names, table.blocks, table.place_of, table.separator)
    return _of_sheet(path) if suffix == ".xlsx" else _of_arrow(ArrowTable.open(path))


def _of_numbers(table: ForeignTable) -> Cells:
    def blocks() -> Iterator[Block]:
        return ([_numerals(column) for column in block.T] for block in table.blocks())

    return Cells(table.name, table.names, blocks, table.place_of)


def _of_arrow(table: ArrowTable) -> Cells:
    def frames() -> Iterator[Any]:
        return (_with_index(batch.to_pandas(**ALL_DIGITS)) for batch in table.batches(None))

    empty = table.schema.empty_table().to_pandas()
    return _of_frames(next(frames(), _with_index(empty)), frames, str(table.path))


def _of_sheet(path: Path) -> Cells:
    """Open the first sheet of an Excel file.

    Raises:
        UsageError: openpyxl is not installed.
        DataError: The file is broken.
    """
    if find_spec("openpyxl") is None:
        raise UsageError(f"{path} needs openpyxl: pip install openpyxl, or save the table as CSV")
    try:
        with ZipFile(path) as archive:
            promised = sum(member.file_size for member in archive.infolist())
        if promised > MAX_INFLATED_BYTES:
            raise DataError(
                f"{path} declares {promised >> 20} MiB: the limit is {MAX_INFLATED_BYTES >> 20} "
                "MiB, so save the table as CSV"
            )
        frame = importlib.import_module("pandas").read_excel(path, engine="openpyxl")
    except (ValueError, KeyError, OSError, BadZipFile, ParseError) as error:
        raise DataError(f"{path} is not a readable Excel file: {first_line(error)}") from error
    return _of_frame(frame, str(path))


def _with_index(frame: Any) -> Any:
    """Return a data frame with the named levels of its index as columns."""
    named = [name for name in frame.index.names if name is not None]
    return frame.reset_index(level=named) if named else frame


def _of_frame(frame: Any, name: str) -> Cells:
    return _of_frames(frame, partial(row_blocks, frame), name)


def _of_frames(first: Any, frames: Callable[[], Iterator[Any]], name: str) -> Cells:
    names = [str(column).strip() for column in first.columns]
    require_names(names, name, indexed=True)
    levels = {
        each: tuple(map(str, first.dtypes.iloc[place].categories))
        for place, each in enumerate(names)
        if getattr(first.dtypes.iloc[place], "ordered", False)
    }

    times = [place for place, dtype in enumerate(first.dtypes) if _is_time(dtype)]

    @cache
    def days() -> set[int]:
        """Return the indices of time columns whose times are midnight in all rows."""
        left = set(times)
        for frame in frames() if times else ():
            for place in tuple(left):
                moments = _moments(frame.iloc[:, place])
                there = moments[~np.isnat(moments)]
                if (there.astype("datetime64[D]") != there).any():
                    left.discard(place)
        return left

    def blocks() -> Iterator[Block]:
        for frame in frames():
            yield [_texts(frame.iloc[:, place], place in days()) for place in range(len(names))]

    return Cells(name, names, blocks, levels=levels)


def _is_time(dtype: Any) -> bool:
    """Return whether a column of a data frame has times; Arrow dates are texts already."""
    return getattr(dtype, "kind", "O") == "M" and dtype.type is not date


def _moments(column: Any) -> np.ndarray:
    """Return the times of a column, converted to UTC if they have a time zone."""
    return np.asarray(column.to_numpy("datetime64[us]"))


def _texts(column: Any, days: bool) -> pyarrow.Array:
    """Return the cells of a column of a data frame; times are written as days if requested."""
    if _is_time(column.dtype):
        moments = pyarrow.array(np.datetime_as_string(_moments(column), "D" if days else "us"))
        written = compute.replace_substring(moments, "T", " ")
        return compute.if_else(compute.equal(moments, "NaT"), "", written)
    kind = getattr(column.dtype, "kind", "O")
    if kind == "f":
        # In its own precision: 0.1 in single precision is 0.10000000149011612 in double.
        size = min(getattr(column.dtype, "itemsize", 8), 8)  # a sparse column has none
        return _numerals(column.to_numpy(np.dtype(f"f{size}"), na_value=np.nan))
    if kind in "iu":
        return pyarrow.array(column, from_pandas=True).cast(pyarrow.string()).fill_null("")
    missing = column.isna()
    cells = ["" if gone else str(cell) for cell, gone in zip(column, missing, strict=True)]
    return compute.utf8_trim_whitespace(pyarrow.array(cells, pyarrow.string()))


def _numerals(values: np.ndarray) -> pyarrow.Array:
    """Write numbers ``[n]`` with as many digits as distinguish them, and without exponents."""
    texts = pyarrow.array(values).cast(pyarrow.string())
    long = np.array(compute.match_substring(texts, "e")) & np.isfinite(values)
    written = [np.format_float_positional(value, trim="-") for value in values[long]]
    texts = compute.replace_with_mask(texts, long, pyarrow.array(written, pyarrow.string()))
    return compute.if_else(np.isfinite(values), texts, "")
