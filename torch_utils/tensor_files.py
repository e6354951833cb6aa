"""Files of ``torch.save``, opened so that reading is all that happens.

``torch.load(weights_only=True)`` runs no code of a file. Yet a pickle of a hundred bytes can have
it fill any amount of memory (``bytearray(2**40)``), import modules (``_codecs.encode`` takes the
name of one), make folders (the tar of torch before 1.0), or hash a tuple of tuples for years. So a
file is looked at first. Its pickle is read as data by ``PickleReader``, with stand-ins for tensors
and no other names; nothing in the zip around it is compressed; each storage is as long as it is
said to be. What passes is what ``torch.save`` makes of tensors, lists, dicts and plain values.
torch is given a zip made anew of it: its own reader of zips takes others for right than Python's
does, looks at no checksums, and could be shown another pickle.

Memory is needed for the tensors and for the file.
"""

import codecs
import io
import warnings
from collections.abc import Callable
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import torch

from torch_utils.inert_pickle import (
    Name,
    Names,
    PickleError,
    PickleReader,
    Unfinished,
    expect,
    shown,
)

STORAGE_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.LongStorage": 8,
    "torch.FloatStorage": 4,
    "torch.IntStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
"""Bytes of a value by kind of storage."""

# zipfile imports it for a name that is not in UTF-8: a file should cause no import at all.
codecs.lookup("cp437")
# What torch, zipfile and the checks here raise on bytes that torch.save did not write.
BROKEN_FILE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# The file of torch before 1.6: three pickles on the format, the content, the keys of its storages.
_LEGACY_PICKLES = 5
_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001


class ChecksumError(ValueError):
    """A zip with a wrong checksum; the message is the name of its member."""


class _Mapping(dict[Any, Any], Unfinished):
    """What stands in for an ``OrderedDict``; a module's state has notes on versions with it."""

    def build(self, state: Any) -> "_Mapping":
        if expect(state, dict).keys() != {"_metadata"}:
            raise ValueError("attributes of a dict")
        return self


class _Storage:
    """What stands in for a storage: nothing is asked of it."""


def _no_items() -> _Mapping:
    return _Mapping()


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> None:
    """What stands in for a tensor; whether it fits its storage is seen by torch."""
    expect(storage, _Storage), expect(offset, int), expect(requires_grad, bool)
    for number in (*expect(size, tuple), *expect(stride, tuple)):
        expect(number, int)
    if expect(hooks, _Mapping):
        raise ValueError("a tensor with hooks")


_NAMES: Names = {
    **dict.fromkeys(STORAGE_BYTES),
    "collections.OrderedDict": _no_items,
    "torch._utils._rebuild_tensor_v2": _tensor,
}


def load_tensors(file: IO[bytes], legacy: bool = False) -> Any:
    """What is in a file of ``torch.save``, on the CPU.

    Args:
        file: Open for reading, at its start.
        legacy: Whether files in the form of torch before 1.6 are read, too. They have no checksums.

    Raises:
        PickleError: It holds other objects than tensors, lists, dicts and plain values.
        ChecksumError: It was changed.
        One of ``BROKEN_FILE_ERRORS``: It is broken, or was not written by ``torch.save``.
    """
    if is_zipfile(file):
        with ZipFile(file) as archive:
            content = _checked_zip(archive, file.seek(0, io.SEEK_END))
    else:
        file.seek(0)
        data = file.read() if legacy else file.read(4)
        if data[:4] in (b"", b"PK\x03\x04"):
            raise BadZipFile("the start of a zip alone")
        if not legacy:
            raise PickleError("it is a pickle" if data[:1] == b"\x80" else "it is no zip")
        _check_legacy(data)
        content = io.BytesIO(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what is checked here
        return torch.load(content, map_location="cpu", weights_only=True)


def _checked_zip(archive: ZipFile, size: int) -> io.BytesIO:
    """The same zip made anew, if it is one of tensors."""
    members = {member.filename: member for member in archive.infolist()}
    (top,) = {name.partition("/")[0] for name in members}
    if any(member.compress_type != ZIP_STORED for member in members.values()):
        raise BadZipFile("compressed members, which torch does not write")
    if sum(member.file_size for member in members.values()) > size:
        raise BadZipFile("more in it than the file has")

    def storage(description: Any) -> _Storage:
        key, length = _described(description)
        if members[f"{top}/data/{key}"].file_size != length:
            raise ValueError(f"a storage of another length than {length} bytes")
        return _Storage()

    content = io.BytesIO()
    with ZipFile(content, "w") as made:
        for name, member in members.items():
            made.writestr(name, _read(archive, member))
    reader = _TensorPickle(archive.read(f"{top}/data.pkl"), storage)
    reader.read()
    if reader.rest():
        raise PickleError("it goes on after its pickle")
    content.seek(0)
    return content


def _read(archive: ZipFile, member: ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except BadZipFile as error:
        if "CRC" in str(error):
            raise ChecksumError(shown(member.filename)) from error
        raise


def _check_legacy(data: bytes) -> None:
    lengths: dict[str, int] = {}

    def storage(description: Any) -> _Storage:
        key, length = _described(description)
        if lengths.setdefault(key, length) != length:
            raise ValueError("a storage of two lengths")
        return _Storage()

    reader = _TensorPickle(data, storage)
    first = reader.read()
    if first != _LEGACY_MAGIC:
        raise PickleError("it is no file of tensors")
    version, machine, _, keys = (reader.read() for _ in range(_LEGACY_PICKLES - 1))
    if version != _LEGACY_VERSION or expect(machine, dict).get("little_endian") is not True:
        raise ValueError("a file of another version or machine")
    if sorted(expect(keys, list)) != sorted(lengths):
        raise ValueError("keys of other storages")
    # The number of values in 8 bytes, and the values.
    if len(reader.rest()) != sum(8 + length for length in lengths.values()):
        raise ValueError("storages of another length than they say")


def _described(description: Any) -> tuple[str, int]:
    """The key of a storage and its length in bytes, by its persistent id."""
    match description:
        case ("storage", Name(text=kind), str(key), str(), int(count), *view):
            if count >= 0 and view in ([], [None]):
                return key, count * STORAGE_BYTES[kind]
    raise ValueError("a storage in an unknown form")


class _TensorPickle(PickleReader):
    """Reads the pickles of a file. Keys may be numbers, by which optimizers call parameters."""

    def __init__(self, data: bytes, storage: Callable[[Any], _Storage]):
        super().__init__(data, _NAMES, without=("NEWOBJ",), persistent=storage)

    def _extend(self, opcode: str) -> None:
        if opcode not in ("SETITEM", "SETITEMS"):
            super()._extend(opcode)
            return
        items = self._pop(2) if opcode == "SETITEM" else self._pop_to_mark()
        target = expect(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[expect(key, str, int)] = value
