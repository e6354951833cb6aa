"""Writing of records in the format of their source: its columns, in its order, in its notation."""

import csv
import importlib
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.files import atomic_path
from training.data.records.records import CATEGORY, DATE, WHOLE, RecordColumn, Records
from training.data.records.values import date_text, number_in, rounded_moment

MOST_INTEGER = 2.0**63
"""Limit from which whole numbers exceed integers of 64 bits."""


def text_of(column: RecordColumn, value: float, decimal: str = ".") -> str:
    """Return a value of a column as text, in the notation of the source.

    Args:
        column: Type and format of the column.
        value: The value, NaN if missing.
        decimal: Decimal sign.
    """
    if isnan(value):
        return column.missing
    if column.type == CATEGORY:
        return column.levels[_place(column, value)]
    if column.type == DATE:
        return date_text(value, column.date_format)
    if column.type == WHOLE:
        value = float(round(value))
    digits = f"{value!r}"
    if column.decimals is not None:
        digits = f"{value:{',' * column.grouped}.{column.decimals}f}"
        if float(digits.replace(",", "")) == 0:
            digits = digits.removeprefix("-")
    if decimal == ",":
        digits = digits.translate({ord(","): ".", ord("."): ","})
    sign = "-" if digits.startswith("-") else ""
    return f"{sign}{column.prefix}{digits.removeprefix('-')}{column.suffix}"


def _place(column: RecordColumn, value: float) -> int:
    return min(max(round(value), 0), len(column.levels) - 1)


def texts_of(
    records: Records, values: np.ndarray | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return rows as texts, in the notation and the order of the source.

    Args:
        records: The records.
        values: New rows ``[n, D]``, which have empty identifiers; None for the rows of the records.

    Returns:
        The names of the source's columns, and the texts of the rows ``[n][len(names)]``.
    """
    rows = records.values if values is None else values
    columns = []
    for name in records.order:
        if name in records.constants:
            columns.append([records.constants[name]] * len(rows))
        elif name in records.beside:
            texts = records.beside[name].tolist()
            columns.append(texts if values is None else [""] * len(rows))
        else:
            column, numbers = _column(records, name, rows)
            texts = [text_of(column, one, records.decimal) for one in numbers.tolist()]
            for row, text in records.as_written.get(name, {}).items() if values is None else ():
                texts[row] = text
            columns.append(texts)
    return list(records.order), [list(row) for row in zip(*columns, strict=True)]


def save_texts(
    path: Path, names: Sequence[str], rows: Sequence[Sequence[str]], separator: str = ","
) -> None:
    """Write a table of texts with column names to a file, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(rows)


def frame_of(records: Records, values: np.ndarray | None = None) -> Any:
    """Return rows as a pandas data frame, in the order of the source.

    Numbers are rounded to the decimals of their column, whole numbers are integers, categories have
    the type category, dates are times, and identifiers are texts. Constants are numbers if
    possible, else texts.

    Args:
        records: The records.
        values: New rows ``[n, D]``, which have no identifiers; None for the rows of the records.
    """
    pandas = importlib.import_module("pandas")
    rows = records.values if values is None else values
    columns: dict[str, Any] = {}
    for name in records.order:
        if name in records.constants:
            number = number_in(records.constants[name], records.decimal)
            columns[name] = [number.value if number else records.constants[name]] * len(rows)
        elif name not in records.beside:
            columns[name] = _series(pandas, *_column(records, name, rows))
        elif values is None:
            columns[name] = records.beside[name]
    return pandas.DataFrame(columns)


def _column(records: Records, name: str, rows: np.ndarray) -> tuple[RecordColumn, np.ndarray]:
    index = records.names.index(name)
    return records.columns[index], rows[:, index]


def _series(pandas: Any, column: RecordColumn, values: np.ndarray) -> Any:
    missing = np.isnan(values)
    if column.type == CATEGORY:
        places = [-1 if isnan(value) else _place(column, value) for value in values.tolist()]
        return pandas.Categorical.from_codes(places, list(column.levels), column.ordered)
    if column.type == DATE:
        moments = [
            None if isnan(value) else rounded_moment(value, column.date_format)
            for value in values.tolist()
        ]
        return pandas.Series(moments, dtype="datetime64[us]")
    if column.type == WHOLE:
        whole = np.where(missing, 0, values).round()
        if np.abs(whole).max(initial=0) >= MOST_INTEGER:
            return values
        if not missing.any():
            return whole.astype(np.int64)
        return pandas.arrays.IntegerArray(whole.astype(np.int64), missing)
    return values if column.decimals is None else values.round(column.decimals)
