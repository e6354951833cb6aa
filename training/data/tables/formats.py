"""Which formats of tables are read, and by what."""

from collections.abc import Sequence
from pathlib import Path

from dnnlib.errors import DataError
from training.data.tables.arrays import (
    SHIPPED,
    TOY_PREFIX,
    open_archive,
    open_npy,
    open_parquet,
    open_shipped,
    open_toy,
)
from training.data.tables.foreign import ForeignTable, with_columns
from training.data.tables.text import open_text
from training.names import RAW_TABLES

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
