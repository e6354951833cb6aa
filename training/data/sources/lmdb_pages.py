"""The key-value stores of LMDB, read page by page in Python.

LMDB's own library trusts a store: one that is cut short or made by a stranger can end the process.
Here every number is checked. A store is a file ``data.mdb`` of equal pages. The first two are
copies of its head, of which that with the later transaction counts; the others make a B+ tree:

    page    number u64, unused u16, kind u16, end of the offsets u16, start of the nodes u16,
            offsets of its nodes u16 each, room, nodes
    node    low u16, high u16, flags u16, length of the key u16, key, value

In a branch, ``low | high << 16 | flags << 32`` is the number of a page further down. In a leaf,
``low | high << 16`` is the length of the value, which is in the node, or, if the flags say so, on
pages of its own, whose number is in the node. Stores of several databases or of several values to a
key are not read: LSUN has none. All is in the byte order of common machines, low bytes first.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from dnnlib.errors import DataError
from training.data.images.containers import MAX_FILE_BYTES

DATA_FILE = "data.mdb"
MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, HEAD = 0x01, 0x02, 0x04, 0x08
FAR_VALUE, OTHER_FLAGS = 0x01, 0x06
NO_PAGE = 2**64 - 1
PAGE_SIZES = tuple(1 << power for power in range(9, 17))
DEEPEST = 32
_PAGE, _NODE = struct.Struct("<QHHHH"), struct.Struct("<HHHH")
_HEAD = struct.Struct("<IIQQ" + 2 * "IHHQQQQQ" + "QQ")


class _Head(NamedTuple):
    """Size of a page, number of the root page, number of entries, and who wrote it last."""

    page_size: int
    root: int
    entries: int
    transaction: int


class LmdbStore:
    """An open store. Attributes: ``entries``, the number of its keys.

    Raises:
        DataError: The store cannot be read, or is none.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            if not (folder / DATA_FILE).is_file():  # opening a pipe would wait for ever
                raise self._broken(f"its {DATA_FILE} is no file")
            self._file: IO[bytes] = (folder / DATA_FILE).open("rb")
        except OSError as error:
            raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
        try:
            self._head = self._read_head()
        except BaseException:
            self._file.close()
            raise
        self.entries = self._head.entries
        self._pages = os.fstat(self._file.fileno()).st_size // self._head.page_size

    def close(self) -> None:
        self._file.close()

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values in the order of the keys. Raises DataError where the store is broken."""
        left = self._pages
        found = 0
        waiting = [] if self._head.root == NO_PAGE else [(self._head.root, 0)]
        while waiting:
            number, depth = waiting.pop()
            page = self._read(number, 1)
            kind, nodes = self._nodes(page, number)
            # Each page is used once: a store cannot be more work than it has pages.
            left -= 1
            if left < 0 or depth > DEEPEST:
                raise self._broken("its pages are not a tree")
            if kind == BRANCH:
                waiting += [(_branch_target(page, node), depth + 1) for node in reversed(nodes)]
                continue
            for node in nodes:
                key, value, used = self._entry(page, node)
                left -= used
                found += 1
                if left < 0 or found > self.entries:
                    raise self._broken("it has more entries than it says")
                yield key, value
        if found != self.entries:
            raise self._broken(f"it has {found} of {self.entries} entries")

    def _read_head(self) -> _Head:
        first = self._head_at(0)
        second = self._head_at(first.page_size)
        return max(first, second, key=lambda head: head.transaction)

    def _head_at(self, offset: int) -> _Head:
        self._file.seek(offset)
        data = self._file.read(_PAGE.size + _HEAD.size)
        if len(data) < _PAGE.size + _HEAD.size:
            raise self._broken("it ends too early")
        kind = _PAGE.unpack_from(data)[2]
        magic, version, _, _, *databases, _, transaction = _HEAD.unpack_from(data, _PAGE.size)
        # Of the first database, that of free pages, only the size of a page is of interest.
        page_size, flags = databases[0], databases[9]
        entries, root = databases[14:16]
        if not kind & HEAD or (magic, version) != (MAGIC, VERSION) or page_size not in PAGE_SIZES:
            raise self._broken("it has no head")
        if flags:
            raise self._broken("it is of a kind that is not read here")
        return _Head(page_size, root, entries, transaction)

    def _read(self, number: int, count: int) -> bytes:
        """So many pages from one on."""
        if not 0 <= number <= self._pages - count:
            raise self._broken("it refers to a page that it does not have")
        size = self._head.page_size
        self._file.seek(number * size)
        data = self._file.read(count * size)
        if len(data) < count * size:
            raise self._broken("it ends too early")
        return data

    def _nodes(self, page: bytes, number: int) -> tuple[int, list[int]]:
        """The kind of a page of the tree, and the offsets of its nodes."""
        own_number, _, kind, end, _ = _PAGE.unpack_from(page)
        if own_number != number or kind not in (BRANCH, LEAF):
            raise self._broken(f"its page {number} is not one of a tree")
        count = (end - _PAGE.size) // 2
        if not 0 <= count <= (len(page) - _PAGE.size) // 2:
            raise self._broken(f"its page {number} has too many nodes")
        offsets = list(struct.unpack_from(f"<{count}H", page, _PAGE.size))
        if any(offset + _NODE.size > len(page) for offset in offsets):
            raise self._broken(f"its page {number} has a node that is not on it")
        return kind, offsets

    def _entry(self, page: bytes, node: int) -> tuple[bytes, bytes, int]:
        """The key and value of a node of a leaf, and how many further pages they took."""
        low, high, flags, key_length = _NODE.unpack_from(page, node)
        start, length = node + _NODE.size + key_length, low | high << 16
        key = page[start - key_length : start]
        if flags & OTHER_FLAGS:
            raise self._broken("it is of a kind that is not read here")
        if length > MAX_FILE_BYTES:
            raise self._broken(f"it has a value of {length} bytes, more than any image")
        used = 0
        if flags & FAR_VALUE:
            (number,) = struct.unpack("<Q", page[start : start + 8].ljust(8, b"\xff"))
            used = -(-(_PAGE.size + length) // self._head.page_size)
            data = self._read(number, used)
            if _PAGE.unpack_from(data)[2] != OVERFLOW:
                raise self._broken("it refers to a value that is not there")
            value = data[_PAGE.size : _PAGE.size + length]
        else:
            value = page[start : start + length]
        if len(key) < key_length or len(value) < length:
            raise self._broken("it has a node that is not on its page")
        return key, value, used

    def _broken(self, why: str) -> DataError:
        return DataError(f"{self._folder} is not a readable LMDB: {why}")


def _branch_target(page: bytes, node: int) -> int:
    low, high, flags, _ = _NODE.unpack_from(page, node)
    return int(low | high << 16 | flags << 32)
