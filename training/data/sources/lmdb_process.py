"""Process that opens an LMDB store: ``python lmdb_process.py FOLDER MOST_BYTES PATHS...``.

``lmdb_store`` runs it, and explains why. Once the store is open, the process writes to stdout
``<II`` (0, 0) and the number of entries as ``<Q``; then each entry as ``<II`` (lengths of key and
value), key, value; after the last ``<II`` (0, 0). An error is ``<II`` (0, length of a message) and
the message, in place of either (0, 0) or an entry. Packages are imported from PATHS.
"""

import faulthandler
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

PATIENCE = 30.0  # seconds for one entry; a broken store can block the library forever


def main(folder: str, most_bytes: int) -> None:
    """Write all entries of an LMDB store, or an error message, to stdout.

    Args:
        folder: Folder of the store.
        most_bytes: Largest allowed size of a value; a larger value is an error.
    """
    import lmdb

    output = sys.stdout.buffer
    try:
        size = os.path.getsize(os.path.join(folder, "data.mdb"))
        with (
            lmdb.open(folder, map_size=size, readonly=True, lock=False, create=False) as store,
            store.begin(buffers=True) as transaction,
        ):
            database: Any = store.open_db()  # whose flags lmdb 3.0 declares without arguments
            if any(database.flags(transaction).values()):
                raise ValueError(
                    "an LMDB with special keys or duplicate values is not supported. Convert the "
                    "store"
                )
            _put(output, b"", b"")
            output.write(struct.pack("<Q", transaction.stat()["entries"]))
            for key, value in _watched(transaction.cursor()):
                if len(value) > most_bytes:
                    raise ValueError(
                        f"the file has a value of {len(value)} bytes, too large for an image"
                    )
                _put(output, key, value)
        _put(output, b"", b"")
    except (lmdb.Error, OSError, ValueError) as error:
        _put(output, b"", str(error).rpartition(": ")[2].encode())
    output.flush()


def _put(output: IO[bytes], key: Any, value: Any) -> None:
    output.write(struct.pack("<II", len(key), len(value)))
    output.write(key)
    output.write(value)


def _watched(entries: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield the same entries; end the process if one takes too long."""
    iterator = iter(entries)
    with open(os.devnull, "w") as nowhere:
        while True:
            # A signal would not arrive inside the library, and Windows has none.
            faulthandler.dump_traceback_later(PATIENCE, exit=True, file=nowhere)
            entry = next(iterator, None)
            faulthandler.cancel_dump_traceback_later()
            if entry is None:
                return
            yield entry


if __name__ == "__main__":
    sys.path[:] = sys.argv[3:]
    main(sys.argv[1], int(sys.argv[2]))
