"""Data sets of records: an ``.npz`` by ``dataset_tool.py``, for typed tables.

Tables with text, dates or missing values become such a file. Its JSON "columns" has "columns", an
object for each column with its name, type, levels and the format in which the source writes it;
"constants", the single values of columns that are left out because they are constant; "order", the
names of all columns in the order of the source; its "separator" and "decimal" sign; and "beside",
the names of columns that only identify rows. Values are numbers in their units, indices of levels
from 0 on, and days since 1970-01-01.

Beside the file, ``{name}_params.json`` has the options, the findings and actions of the tool, and
the versions.
"""

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.data.tables.formats import require_names
from training.data.tables.schema import CATEGORY, DATE, Column
from training.data.tables.table import DataTable
from training.data.tables.values import GRID
from training.files.arrays import typed
from training.files.declared import BYTE, FLAG, FLOAT, WHOLE, Format, Key, ResultFile, text
from training.files.table import holds_table, load_table
from training.names import COLUMN_TYPES, DECIMALS, SEPARATORS, script

RECORDS = ResultFile(
    kind="records",
    name="a data set",
    sizes="N rows, D columns and K columns that only identify rows",
    keys={
        "columns": text("JSON, see above"),
        "values": Key("N D", "see above; NaN where a cell is missing", FLOAT, missing=True),
        "held_out": Key("N", "rows that are not trained on", FLAG),
        "texts": Key("*", "cells of the K columns, one column after the other, UTF-8", BYTE),
        "text_ends": Key("K N", "the end of each text", WHOLE),
    },
    least={"N": 0, "D": 0, "K": 0},
    advice=f"make it again with {script('dataset_tool')}",
)
FORMATS = {RECORDS.kind: Format("rows of a data set")}
STORED_TYPES = {item.name: item.type for item in fields(Column) if item.compare}
"""Stored properties of a column and their types; a network finds bins in its training rows."""
LONGEST_TEXT = 1000
"""Maximum length of a value's text, such as a format of numbers or dates."""


def columns_json(records: DataTable) -> str:
    """Return a JSON description of the columns of records (rows with typed columns)."""
    about = {
        "columns": [
            {name: getattr(column, name) for name in STORED_TYPES} for column in records.columns
        ],
        "constants": dict(records.constants),
        "order": list(records.order),
        "separator": records.separator,
        "decimal": records.decimal,
        "beside": list(records.beside),
    }
    return json.dumps(about)


def without_rows(json_text: str, broken: DataError) -> DataTable:
    """Return records without rows, with the columns that a JSON description states.

    Args:
        json_text: The description, as from ``columns_json``.
        broken: Error to raise if the description is invalid.

    Raises:
        DataError: ``broken``, if the description is invalid.
    """
    about = _about(json_text, broken)
    columns = [_column(entry, broken) for entry in about["columns"]]
    constants, order, beside = about["constants"], about["order"], about["beside"]
    names = [column.name for column in columns]
    known = {*names, *constants, *beside}
    if len(known) != len(names) + len(constants) + len(beside) or set(order) != known - {
        column.name for column in columns if column.of
    }:
        raise broken
    try:
        require_names(order, "", indexed=True)  # as for tables, since names are written again
    except DataError as error:
        raise broken from error
    none = {name: np.empty(0, dtype=object) for name in beside}
    values, held_out = np.empty((0, len(columns))), np.empty(0, dtype=bool)
    return DataTable(
        columns,
        order,
        constants=constants,
        beside=none,
        separator=about["separator"],
        decimal=about["decimal"],
        typed=True,
        values=values,
        held_out=held_out,
    )


def save_records(path: Path, records: DataTable) -> None:
    """Write a data set of records atomically."""
    beside = list(records.beside)
    texts = [str(text).encode() for name in beside for text in records.beside[name]]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    arrays = {
        "format": RECORDS.format,
        "values": records.values,
        "held_out": records.held_out,
        "columns": columns_json(records),
        "texts": np.frombuffer(b"".join(texts), dtype=np.uint8),
        "text_ends": ends.reshape(len(beside), len(records)),
    }
    RECORDS.save(path, arrays)


def holds_records(path: object) -> bool:
    """Return whether a data set is a file of records."""
    if not isinstance(path, Path) or path.suffix != ".npz" or not path.is_file():
        return False
    with open_arrays(path) as saved:
        return {"values", "columns", "text_ends"} <= set(saved.names)


def load_records(path: Path) -> DataTable:
    """Load a data set of records.

    Raises:
        DataError: The file is missing or broken, or contains no records.
    """
    broken = DataError(
        f"{path} is damaged, or not a typed table: make it again with {script('dataset_tool')}"
    )
    with RECORDS.open(path) as saved:
        empty = without_rows(str(saved.read("columns")), broken)
        saved.sizes |= {"D": len(empty.columns), "K": len(empty.beside)}
        held_out, values = saved.read("held_out"), saved.read("values")
        if not _possible(empty.columns, values):
            raise broken
        if held_out.all() or not empty.columns:
            raise DataError(
                f"{path}: all rows are held out, so that there are no training rows: make it "
                "again with fewer held-out rows"
            )
        texts = _texts(saved.read("texts"), saved.read("text_ends").astype(np.int64), broken)
    beside = dict(zip(empty.beside, texts, strict=True))
    return replace(empty, values=values, held_out=held_out, beside=beside)


def _about(json_text: str, broken: DataError) -> dict[str, Any]:
    """Parse the description of the columns: names are texts, and columns are objects."""
    try:
        about: dict[str, Any] = json.loads(json_text)
    except (ValueError, RecursionError) as error:
        raise broken from error
    lists = {"columns": list[dict[str, Any]], "order": list[str], "beside": list[str]}
    typed(about, broken, **lists, constants=dict[str, str])
    separator, decimal = typed(about, broken, separator=str, decimal=str)
    if separator not in SEPARATORS.values() or decimal not in DECIMALS:
        raise broken
    return about


def _column(entry: Any, broken: DataError) -> Column:
    """Build a column from its JSON."""
    values = typed(entry, broken, **STORED_TYPES)
    # Each cell may contain the texts of its column.
    long = any(isinstance(value, str) and len(value) > LONGEST_TEXT for value in values)
    if entry.keys() != STORED_TYPES.keys() or long or not 0 <= (entry["decimals"] or 0) <= 20:
        raise broken
    levels, rare = tuple(entry["levels"]), tuple(entry["rare"])
    column = Column(**{**entry, "levels": levels, "rare": rare})
    fits = column.type in COLUMN_TYPES and (column.type == CATEGORY) == bool(levels)
    fits &= not column.grid or (column.type == DATE and GRID.fullmatch(column.grid) is not None)
    if not fits or len(set(levels)) < len(levels):
        raise broken
    return column


def _possible(columns: Sequence[Column], values: np.ndarray) -> bool:
    """Return whether the values of categories are indices of levels."""
    for column, numbers in zip(columns, values.T, strict=True):
        places = numbers[~np.isnan(numbers)]
        if column.type == CATEGORY and not np.isin(places, range(len(column.levels))).all():
            return False
    return True


def _texts(data: np.ndarray, ends: np.ndarray, broken: DataError) -> list[np.ndarray]:
    """Return the texts ``[N]`` of each of the K columns."""
    flat = np.concatenate([[0], ends.ravel()])
    if (np.diff(flat) < 0).any() or flat[-1] != data.size:
        raise broken
    whole = data.tobytes()
    try:
        texts = [whole[a:b].decode() for a, b in pairwise(flat.tolist())]
    except UnicodeDecodeError as error:
        raise broken from error
    return list(np.array(texts, dtype=object).reshape(ends.shape))


def load_data_set(path: Path) -> DataTable | None:
    """Load a data set, typed or of numbers; the result is None if the file is neither.

    Rows that are kept for calibration are left out.

    Raises:
        DataError: The file is broken.
    """
    if holds_records(path):
        return load_records(path)
    return load_table(path) if holds_table(path) else None
