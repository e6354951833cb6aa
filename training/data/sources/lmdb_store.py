"""LMDB key-value stores, read by the LMDB library.

The library trusts a store: a damaged one can crash the process that reads it. A store that was cut
short is detected here; otherwise, read only stores from trusted sources.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib.errors import DataError
from training.data.images.containers import MAX_FILE_BYTES

DATA_FILE = "data.mdb"
_PAGE_SIZE, _LAST_PAGE = struct.Struct("<40xI"), struct.Struct("<136xQQ")
"""Fields of the first two pages of a store: page size, and last page with its transaction."""


def count_entries(folder: Path) -> int:
    """Return the number of entries that an LMDB store declares.

    Raises:
        DataError: The store cannot be read, is not an LMDB, or the package lmdb is not installed.
    """
    with _opened(folder) as transaction:
        return int(transaction.stat()["entries"])


def read_entries(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of an LMDB store, in the order of the keys.

    Raises:
        DataError: The store or an entry cannot be read, the store is not an LMDB, or the package
            lmdb is not installed.
    """
    with _opened(folder) as transaction:
        for key, value in transaction.cursor():
            if len(value) > MAX_FILE_BYTES:
                raise _broken(folder, f"a value of {len(value)} bytes is too large for an image")
            yield key, value


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """Open a transaction of a store for reading."""
    path = folder / DATA_FILE
    if not path.is_file():  # opening a pipe would block forever
        raise _broken(folder, f"the entry {DATA_FILE} is not a file. Download the store again")
    if not os.access(path, os.R_OK):
        raise _broken(
            folder,
            f"the file {DATA_FILE} cannot be read: permission denied. Change the permissions",
        )
    if _is_cut_short(path):
        raise _broken(folder, "the store is cut short. Download the store again")
    try:
        import lmdb
    except ImportError as error:
        raise DataError(
            f"{folder} is an LMDB: install the package lmdb (pip install lmdb, or "
            "'.[lmdb]' instead of '.')"
        ) from error
    size = path.stat().st_size
    try:
        with (
            lmdb.open(str(folder), map_size=size, readonly=True, lock=False, create=False) as store,
            store.begin() as transaction,
        ):
            database: Any = store.open_db()  # whose flags lmdb 3.0 declares without arguments
            if any(database.flags(transaction).values()):
                raise _broken(
                    folder, "special keys or duplicate values are not supported. Convert the store"
                )
            yield transaction
    except (lmdb.Error, OSError) as error:
        why = str(error).rpartition(": ")[2]
        raise _broken(folder, f"{why}. Download the store again") from error


def _is_cut_short(path: Path) -> bool:
    """Return whether a data file ends before the last page that it declares."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(_LAST_PAGE.size)
        if len(first) < _LAST_PAGE.size:
            return True
        (page,) = _PAGE_SIZE.unpack_from(first)
        file.seek(page)
        second = file.read(_LAST_PAGE.size)
    if len(second) < _LAST_PAGE.size:
        return True
    last, _ = max((_LAST_PAGE.unpack(each) for each in (first, second)), key=lambda both: both[1])
    return bool((last + 1) * page > size)


def _broken(folder: Path, why: str) -> DataError:
    return DataError(f"{folder} is not a readable LMDB: {why}")
