"""LMDB key-value stores, read by the LMDB library in a separate process.

The library trusts a store: a truncated or malicious one can crash the process that reads it, or
block it forever. In a separate process, a crash is an ordinary error. Its output is checked too:
keys must be in order, and together no larger than the file, so that the work is bounded by the size
of the store.
"""

import importlib.util
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dnnlib.errors import DataError
from training.data.images.containers import MAX_FILE_BYTES

DATA_FILE = "data.mdb"
_SCRIPT = Path(__file__).with_name("lmdb_process.py")
_COUNT, _LENGTHS = struct.Struct("<Q"), struct.Struct("<II")


def count_entries(folder: Path) -> int:
    """Return the number of entries that an LMDB store declares.

    Raises:
        DataError: The store cannot be read, is not an LMDB, or the package lmdb is not installed.
    """
    with _opened(folder) as store:
        return store.count


def read_entries(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of an LMDB store, in the order of the keys.

    Raises:
        DataError: The store or an entry cannot be read, the store is not an LMDB, or the package
            lmdb is not installed.
    """
    with _opened(folder) as store:
        left = (folder / DATA_FILE).stat().st_size
        number, last = 0, b""
        while (entry := store.next_entry()) is not None:
            key, value = entry
            number += 1
            left -= len(key) + len(value)
            if number > store.count or left < 0:
                raise _broken(
                    folder, "the store has more entries than it declares. Download the store again"
                )
            if key <= last:
                raise _broken(
                    folder, "the keys of the store are not in order. Download the store again"
                )
            last = key
            yield key, value
        if number != store.count:
            raise _broken(
                folder,
                f"the store has {number} of {store.count} declared entries. Download the store "
                "again",
            )


@contextmanager
def _opened(folder: Path) -> Iterator["_Store"]:
    path = folder / DATA_FILE
    if not path.is_file():  # opening a pipe would block forever
        raise _broken(folder, f"the entry {DATA_FILE} is not a file. Download the store again")
    if not os.access(path, os.R_OK):
        raise _broken(
            folder,
            f"the file {DATA_FILE} cannot be read: permission denied. Change the permissions",
        )
    if importlib.util.find_spec("lmdb") is None:
        raise DataError(
            f"{folder} is an LMDB: install the package lmdb (pip install lmdb, or "
            "'.[lmdb]' instead of '.')"
        )
    # Isolated from the environment, but with this process's packages: it starts in 20 ms.
    command = [sys.executable, "-IS", str(_SCRIPT), str(folder), str(MAX_FILE_BYTES), *sys.path]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None, "it is a pipe"
            yield _Store(folder, process.stdout)
        finally:
            process.kill()


class _Store:
    """An open store whose entries come from another process.

    Attributes:
        count: Number of entries that the store declares.
    """

    def __init__(self, folder: Path, sent: IO[bytes]):
        self._folder, self._sent = folder, sent
        self.next_entry()
        (self.count,) = _COUNT.unpack(self._read(_COUNT.size))

    def next_entry(self) -> tuple[bytes, bytes] | None:
        """Return the next key and value; None at the end, and once before the first entry."""
        key_length, length = _LENGTHS.unpack(self._read(_LENGTHS.size))
        key, value = self._read(key_length), self._read(length)
        if key:
            return key, value
        if value:
            raise _broken(self._folder, value.decode())
        return None

    def _read(self, size: int) -> bytes:
        content = self._sent.read(size)
        if len(content) < size:
            raise _broken(self._folder, "the LMDB library crashed. Download the store again")
        return content


def _broken(folder: Path, why: str) -> DataError:
    return DataError(f"{folder} is not a readable LMDB: {why}")
