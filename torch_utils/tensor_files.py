"""Safe reader for files of ``torch.save``, and for the storages that torch pickles.

``torch.load(weights_only=True)`` runs no code from a file. Yet a pickle of a hundred bytes can make
it fill any amount of memory (``bytearray(2**40)``), import modules (``_codecs.encode`` takes the
name of one), create folders (the tar of torch before 1.0), or hash a tuple of tuples for years. So
torch reads nothing itself. The pickle is read as data by ``PickleReader``, with substitutes for
tensors and no other names; nothing in the zip around it is compressed; each storage has its
declared length. The accepted files are those that ``torch.save`` makes of tensors, lists, dicts and
plain values.

Memory is needed for the tensors and for the file. Before version 1.6, a file of torch had five
pickles: a magic number, a version, properties of the machine, the content, and a list of the keys
of storages. The storages follow in this order, each with the number of its values in 8 bytes. torch
still pickles a storage alone in this form.
"""

import codecs
import io
import pickle
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo, is_zipfile

import torch
from torch import Tensor

from torch_utils.inert_pickle import (
    MOST_OPCODES,
    Name,
    Names,
    PickleError,
    PickleReader,
    expect,
    shown,
)

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
"""Types of the values of storages by the names of storages in pickles."""
STORAGE_MAGIC, STORAGE_VERSION = 0x1950A86A20F9469CFC6C, 1001

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


class BrokenFileError(ValueError):
    """Error for a file that is empty, truncated or damaged."""


class ChecksumError(BrokenFileError):
    """Error for a zip whose content does not match a checksum."""


MOST_NUMBERS = 1 << 62
"""Maximum number of values of a tensor that repeats stored values; torch counts in 64 bits."""


def layout_of(stored: int, offset: Any, size: Any, stride: Any) -> tuple[list[int], list[int], int]:
    """Check the layout of a tensor on a storage; return its shape, its strides and its offset.

    Args:
        stored: Number of values of the storage.
        offset: Index of the first value.
        size: Shape, a tuple.
        stride: Distances of neighbors along each axis, a tuple.

    Raises:
        ValueError: The tensor does not fit its storage.
    """
    start = expect(offset, int)
    sizes, strides = ([expect(n, int) for n in expect(each, tuple)] for each in (size, stride))
    if len(sizes) != len(strides) or min([start, *sizes, *strides]) < 0:
        raise ValueError(f"a tensor of shape {sizes} has the strides {strides}, which do not fit")
    count = prod(sizes)
    last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if count > MOST_NUMBERS or (count and last >= stored):
        raise ValueError(f"a tensor of shape {sizes} does not fit its {stored} stored values")
    return sizes, strides, start if count else 0


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any
) -> Tensor:
    values: Tensor = expect(storage, Tensor)
    expect(requires_grad, bool)
    if values.ndim != 1 or expect(hooks, OrderedDict):
        raise ValueError("a tensor has hooks or a strange storage, which are not permitted")
    sizes, strides, start = layout_of(len(values), offset, size, stride)
    return values.as_strided(sizes, strides, start)


_NAMES: Names = {
    **dict.fromkeys(STORAGES),
    "collections.OrderedDict": lambda: OrderedDict(),
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
            return _from_zip(archive, file.seek(0, io.SEEK_END))
    file.seek(0)
    start = file.read(len(_ZIP_START))
    if not start:
        raise BrokenFileError("the file is empty: restore it from a copy, or make it again")
    if start == _ZIP_START:
        raise BrokenFileError("the file is incomplete: copy or download it again")
    if not legacy:
        form = "a pickle, not a zip" if start[:1] == b"\x80" else "not a zip"
        raise PickleError(f"the file is {form}")
    return read_legacy(start + file.read(), _NAMES)


@contextmanager
def _parsing() -> Iterator[None]:
    """Convert errors of zipfile or torch about broken bytes to BrokenFileError, in this block."""
    try:
        yield
    except FOREIGN_ERRORS as error:
        raise BrokenFileError(
            "the file is damaged: restore it from a copy, or make it again"
        ) from error


def _from_zip(archive: ZipFile, size: int) -> Any:
    """Return the content of a zip of ``size`` bytes, after a check that it is one of tensors."""
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
    parts = {name: _read(archive, member) for name, member in members.items()}
    if parts.get(f"{top}/byteorder", b"little") != b"little":
        raise _broken("is from a big-endian machine, which is not supported")
    storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def storage(description: Any) -> Tensor:
        key, dtype, count = _described(description, _NAMES)
        content = parts.get(f"{top}/data/{key}")
        if content is None or len(content) != count * dtype.itemsize:
            raise ValueError(f"the storage of a tensor does not have {count} values")
        if (key, dtype) not in storages:
            storages[key, dtype] = _filled(torch.empty(count, dtype=dtype), content)
        return storages[key, dtype]

    reader = _TensorPickle(parts[f"{top}/data.pkl"], _NAMES, storage)
    value = reader.read()
    if reader.rest():
        raise PickleError("the file continues after its pickle: restore it from a copy")
    return value


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


def read_legacy(data: bytes, names: Names, most_opcodes: int = MOST_OPCODES) -> Any:
    """Return the content of a file of the form before PyTorch 1.6; storages are tensors ``[N]``.

    Args:
        data: All bytes.
        names: Permitted names in the pickles, with those of permitted storages.
        most_opcodes: Maximum number of opcodes of all pickles together.

    Raises:
        PickleError: The bytes contain objects that the names do not permit.
        BrokenFileError: The bytes are truncated or damaged, or from another machine.
    """
    storages: dict[str, Tensor] = {}

    def storage(description: Any) -> Tensor:
        key, dtype, count = _described(description, names)
        known = sum(each.nbytes for each in storages.values())
        # Nothing is laid out for a promise of more bytes than there are.
        if key not in storages and known + count * dtype.itemsize <= len(data):
            storages[key] = torch.empty(count, dtype=dtype)
        made = storages.get(key)
        if made is None or (made.dtype, len(made)) != (dtype, count):
            raise ValueError(f"the storage of a tensor does not have {count} values")
        return made

    reader = _TensorPickle(data, names, storage, most_opcodes)
    if reader.read() != STORAGE_MAGIC:
        raise PickleError("the pickle was not written by torch.save")
    version, machine, content, keys = (reader.read() for _ in range(4))
    little = isinstance(machine, dict) and machine.get("little_endian") is True
    if version != STORAGE_VERSION or not little:
        raise BrokenFileError(
            "the file is from an unsupported version of PyTorch or a big-endian machine: save it "
            "again with a newer PyTorch"
        )
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _broken("has storage keys that are not text")
    if sorted(keys) != sorted(storages):
        raise _broken("has keys of unknown storages")
    rest, place = memoryview(reader.rest()), 0
    for made in map(storages.__getitem__, keys):
        start, place = place + 8, place + 8 + made.nbytes
        count = int.from_bytes(rest[start - 8 : start], "little")
        if place > len(rest) or count != len(made):
            raise _broken("has storages whose lengths differ from the declared lengths")
        _filled(made, rest[start:place])
    if place != len(rest):
        raise _broken("continues after its storages")
    return content


def _filled(storage: Tensor, content: bytes | memoryview) -> Tensor:
    """Set the values of a storage from as many bytes."""
    storage.view(torch.uint8).numpy().data[:] = content
    return storage


def _broken(problem: str) -> BrokenFileError:
    """Return the error for a damaged file: its problem, and the advice to restore it."""
    return BrokenFileError(f"the file {problem}: restore it from a copy")


def _described(description: Any, names: Mapping[str, Any]) -> tuple[str, torch.dtype, int]:
    """Return the key, the type and the number of values of a storage, from its persistent id."""
    match description:
        case ("storage", Name(text=kind), str(key), str(), int(count), *view):
            if kind in STORAGES and kind in names and count >= 0 and view in ([], [None]):
                return key, STORAGES[kind], count
    raise ValueError("the storage of a tensor has an unknown format")


class _TensorPickle(PickleReader):
    """Reader of a file's pickles. Keys may be numbers, which optimizers use for parameters."""

    key_types = (str, int)

    def __init__(
        self,
        data: bytes,
        names: Names,
        storage: Callable[[Any], Tensor],
        most_opcodes: int = MOST_OPCODES,
    ):
        super().__init__(
            data, names, without=("NEWOBJ",), persistent=storage, most_opcodes=most_opcodes
        )

    def _build(self, target: Any, state: Any) -> None:
        # The state of a module has version metadata with it.
        if expect(state, dict).keys() != {"_metadata"}:
            raise ValueError("a dict has attributes, which are not permitted")
        vars(expect(target, OrderedDict))["_metadata"] = state["_metadata"]
        self._stack.append(target)
