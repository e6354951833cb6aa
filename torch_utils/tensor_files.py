"""Safe reader for files of ``torch.save``.

``torch.load(weights_only=True)`` runs no code from a file. Yet a pickle of a hundred bytes can make
it fill any amount of memory (``bytearray(2**40)``), import modules (``_codecs.encode`` takes the
name of one), create folders (the tar of torch before 1.0), or hash a tuple of tuples for years. So
a file is checked first. Its pickle is read as data by ``PickleReader``, with substitutes for
tensors and no other names; nothing in the zip around it is compressed; each storage has its
declared length. The accepted files are those that ``torch.save`` makes of tensors, lists, dicts and
plain values. torch then reads a rebuilt zip: its own zip reader accepts other zips than Python's,
ignores checksums, and could be given another pickle.

Memory is needed for the tensors and for the file.
"""

import codecs
import io
import pickle
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import torch

from torch_utils.inert_arrays import STORAGE_MAGIC, STORAGE_VERSION, STORAGES
from torch_utils.inert_pickle import (
    Name,
    Names,
    PickleError,
    PickleReader,
    Unfinished,
    expect,
    shown,
)

STORAGE_BYTES = {kind: int(code[1]) for kind, code in STORAGES.items()}
STORAGE_BYTES["torch.BFloat16Storage"] = 2  # a type that NumPy does not have
"""Bytes per value by kind of storage."""

# zipfile imports it for names that are not UTF-8; files should cause no imports at all.
codecs.lookup("cp437")
# Errors of torch, NumPy and zipfile for foreign bytes. They are caught around calls of these
# libraries only, so that a bug here is not mistaken for a broken file.
FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BadZipFile,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
)
_ZIP_START = b"PK\x03\x04"
# A file of torch before 1.6 has three pickles on the format, the content, and the storage keys.
_LEGACY_PICKLES = 5


class BrokenFileError(ValueError):
    """Error for a file that is empty, truncated or damaged."""


class ChecksumError(BrokenFileError):
    """Error for a zip whose content does not match a checksum."""


class _Mapping(dict[Any, Any], Unfinished):
    """Substitute for an ``OrderedDict``; the state of a module has version metadata with it."""

    def build(self, state: Any) -> "_Mapping":
        if expect(state, dict).keys() != {"_metadata"}:
            raise ValueError("a dict has attributes, which are not permitted")
        return self


class _Storage:
    """Substitute for a storage, without content."""


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> None:
    """Check the arguments of a tensor; torch checks whether it fits its storage."""
    expect(storage, _Storage), expect(offset, int), expect(requires_grad, bool)
    for number in (*expect(size, tuple), *expect(stride, tuple)):
        expect(number, int)
    if expect(hooks, _Mapping):
        raise ValueError("a tensor has hooks, which are not permitted")


_NAMES: Names = {
    **dict.fromkeys(STORAGE_BYTES),
    "collections.OrderedDict": lambda: _Mapping(),
    "torch._utils._rebuild_tensor_v2": _tensor,
}


def load_tensors(file: IO[bytes], legacy: bool = False) -> Any:
    """Return the content of a file that was written by ``torch.save``, on the CPU.

    Args:
        file: File opened for reading, at its start.
        legacy: Whether to also accept the format before PyTorch 1.6, which has no checksums.

    Raises:
        PickleError: The file contains other objects than tensors, lists, dicts and plain values.
        ChecksumError: A checksum in the file does not match the content.
        BrokenFileError: The file is empty, truncated or damaged, or was not written by
            ``torch.save``.
        OSError: The file cannot be read.
    """
    with _parsing():
        zipped = is_zipfile(file)
    if zipped:
        with _parsing():
            archive = ZipFile(file)
        with archive:
            content = _checked_zip(archive, file.seek(0, io.SEEK_END))
    else:
        file.seek(0)
        start = file.read(len(_ZIP_START))
        if not start:
            raise BrokenFileError("the file is empty: restore it from a copy, or make it again")
        if start == _ZIP_START:
            raise BrokenFileError("the file is incomplete: copy or download it again")
        if not legacy:
            raise PickleError(
                "the file is a pickle, not a zip"
                if start[:1] == b"\x80"
                else "the file is not a zip"
            )
        data = start + file.read()
        _check_legacy(data)
        content = io.BytesIO(data)
    with _parsing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about properties that are checked here
        return torch.load(content, map_location="cpu", weights_only=True)


@contextmanager
def _parsing() -> Iterator[None]:
    """Convert errors of zipfile or torch about broken bytes to BrokenFileError, in this block."""
    try:
        yield
    except FOREIGN_ERRORS as error:
        raise BrokenFileError(
            "the file is damaged: restore it from a copy, or make it again"
        ) from error


def _checked_zip(archive: ZipFile, size: int) -> io.BytesIO:
    """Return a rebuilt copy of a zip, after a check that it is one of tensors."""
    members = {member.filename: member for member in archive.infolist()}
    top = next(iter(members), "").partition("/")[0]
    if f"{top}/data.pkl" not in members or any(name.partition("/")[0] != top for name in members):
        raise BrokenFileError(
            "the file is a zip, but was not written by torch.save: give a file of torch.save"
        )
    if any(member.compress_type != ZIP_STORED for member in members.values()):
        raise _broken("has compressed members, which PyTorch does not write")
    if sum(member.file_size for member in members.values()) > size:
        raise _broken("declares more bytes than it contains")

    def storage(description: Any) -> _Storage:
        key, length = _described(description)
        member = members.get(f"{top}/data/{key}")
        if member is None or member.file_size != length:
            raise ValueError(f"the storage of a tensor does not have {length} bytes")
        return _Storage()

    content = io.BytesIO()
    parts = {name: _read(archive, member) for name, member in members.items()}
    with _parsing(), ZipFile(content, "w") as made:
        for name, part in parts.items():
            made.writestr(name, part)
    reader = _TensorPickle(parts[f"{top}/data.pkl"], storage)
    reader.read()
    if reader.rest():
        raise PickleError("the file continues after its pickle: restore it from a copy")
    content.seek(0)
    return content


def _read(archive: ZipFile, member: ZipInfo) -> bytes:
    try:
        return archive.read(member)
    except FOREIGN_ERRORS as error:
        if isinstance(error, BadZipFile) and "CRC" in str(error):
            name = shown(member.filename)
            raise ChecksumError(
                f"the checksum of '{name}' is wrong: restore the file from a copy, or make it again"
            ) from error
        raise BrokenFileError(
            "the file is damaged: restore it from a copy, or make it again"
        ) from error


def _check_legacy(data: bytes) -> None:
    lengths: dict[str, int] = {}

    def storage(description: Any) -> _Storage:
        key, length = _described(description)
        if lengths.setdefault(key, length) != length:
            raise ValueError("the storage of a tensor has two lengths")
        return _Storage()

    reader = _TensorPickle(data, storage)
    first = reader.read()
    if first != STORAGE_MAGIC:
        raise PickleError("the file was not written by torch.save")
    version, machine, _, keys = (reader.read() for _ in range(_LEGACY_PICKLES - 1))
    little = isinstance(machine, dict) and machine.get("little_endian") is True
    if version != STORAGE_VERSION or not little:
        raise BrokenFileError(
            "the file is from an unsupported version of PyTorch or a big-endian machine: save it "
            "again with a newer PyTorch"
        )
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _broken("has storage keys that are not text")
    if sorted(keys) != sorted(lengths):
        raise _broken("has keys of unknown storages")
    # The number of values in 8 bytes, and the values.
    if len(reader.rest()) != sum(8 + length for length in lengths.values()):
        raise _broken("has storages whose lengths differ from the declared lengths")


def _broken(problem: str) -> BrokenFileError:
    """Return the error for a damaged file: its problem, and the advice to restore it."""
    return BrokenFileError(f"the file {problem}: restore it from a copy")


def _described(description: Any) -> tuple[str, int]:
    """Return the key of a storage and its length in bytes, from its persistent id."""
    match description:
        case ("storage", Name(text=kind), str(key), str(), int(count), *view):
            if kind in STORAGE_BYTES and count >= 0 and view in ([], [None]):
                return key, count * STORAGE_BYTES[kind]
    raise ValueError("the storage of a tensor has an unknown format")


class _TensorPickle(PickleReader):
    """Reader of a file's pickles. Keys may be numbers, which optimizers use for parameters."""

    key_types = (str, int)

    def __init__(self, data: bytes, storage: Callable[[Any], _Storage]):
        super().__init__(data, _NAMES, without=("NEWOBJ",), persistent=storage)
