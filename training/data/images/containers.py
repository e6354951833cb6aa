"""Zips and folders of image files behind one interface, and labels in their ``dataset.json``.

Zips are untrusted: names that would leave a folder, links, and entries of huge declared size are
rejected, and nothing is ever extracted to disk.
"""

import json
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from dnnlib.errors import DataError
from torch_utils.snapshots import first_line

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
LABEL_FILE = "dataset.json"
MAX_FILE_BYTES = 256 << 20
MAX_LABEL_BYTES, MOST_LABEL_LISTS = 64 << 20, 4_000_000
"""Limits for ``dataset.json``.

It is kept in memory, where an empty list takes twenty times its length in the file.
"""
LONGEST_QUOTED = 200
MAX_CLASSES = 100_000
"""Maximum number of classes, one more than the largest label: labels become one-hot vectors."""

Label = int | list[float]

_DRIVE_OR_CONTROL = re.compile(r"^[A-Za-z]:|[\x00-\x1f\x7f]")


class Container(Protocol):
    """Interface of zips and folders, as collections of files with relative names.

    Attributes:
        path: The zip or folder.
        names: Names of all files, sorted, with ``/`` between folders.
    """

    path: Path
    names: list[str]

    def where(self, name: str) -> str:
        """Return the description of a file for error messages."""

    def read(self, name: str) -> bytes:
        """Return the content of a file in bytes.

        Raises:
            DataError: The file is too large or cannot be read completely.
        """

    def close(self) -> None:
        """Close all open files of the container."""
        ...


def open_container(path: Path) -> Container:
    """Open a folder or a zip as a container.

    Raises:
        DataError: The path does not exist, is neither a folder nor a zip, or the zip has an unsafe
            entry.
    """
    if path.is_dir():
        return FolderContainer(path)
    if not path.exists():
        raise DataError(f"{path} does not exist: give a folder or zip of images")
    return ZipContainer(path)


class FolderContainer:
    """Container with all files below a folder.

    Links to files are followed, links to folders are not.
    """

    def __init__(self, path: Path):
        self.path = path
        self.names: list[str] = []
        # A folder that cannot be listed is an error: otherwise it would appear empty.
        for folder, _, files in os.walk(path, onerror=_reraise):
            below = Path(folder).relative_to(path)
            self.names.extend((below / file).as_posix() for file in files)
        self.names.sort()

    def where(self, name: str) -> str:
        """Return the path of a file; if not printable, its quoted name and the folder."""
        whole = str(self.path / name)
        return whole if name.isprintable() else f"{quoted(name)} in {self.path}"

    def read(self, name: str) -> bytes:
        """Return the content of a file in bytes.

        Raises:
            DataError: The file is not an ordinary file, is too large, or cannot be read.
        """
        file = self.path / name
        try:
            # Opening a pipe or a device could block forever.
            if not stat.S_ISREG(file.stat().st_mode):
                raise DataError(f"{self.where(name)} is not an ordinary file: remove it")
            with file.open("rb") as stream:
                data = stream.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            reason = error.strerror or first_line(error)
            raise DataError(
                f"{self.where(name)} cannot be read: {reason}. Check the file and its permissions"
            ) from error
        if len(data) > MAX_FILE_BYTES:
            raise DataError(
                f"{self.where(name)} is larger than the limit of {MAX_FILE_BYTES >> 20} MiB: "
                "reduce its size"
            )
        return data

    def close(self) -> None:
        """Do nothing: no file is held open."""


class ZipContainer:
    """Container with the entries of a zip."""

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise DataError(
                f"{path} is neither a folder nor an ordinary file: give a folder or zip of images"
            )
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}. Check the file and its "
                "permissions"
            ) from error
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise DataError(
                f"{path} is not a readable zip: {first_line(error)}. Give a folder or zip of images"
            ) from error
        try:
            self._entries = self._checked_entries()
        except DataError:
            self._archive.close()
            raise
        self.names = sorted(self._entries)

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            # zipfile sanitizes its filename attribute; the check is on the original name.
            name = info.orig_filename
            if (
                not name
                or name.startswith("/")
                or "\\" in name
                or ".." in name.split("/")
                or _DRIVE_OR_CONTROL.search(name)
            ):
                raise DataError(
                    f"{self.path} has an entry with an unsafe name, {quoted(name)}: rename it"
                )
            if stat.S_ISLNK(info.external_attr >> 16):
                raise DataError(
                    f"the entry {quoted(name)} of {self.path} is a symbolic link, which is not "
                    "supported: replace the link by its file"
                )
            if name in entries:
                raise DataError(
                    f"{self.path} has the entry {quoted(name)} twice: make the zip again"
                )
            if not info.is_dir():
                entries[name] = info
        return entries

    def where(self, name: str) -> str:
        """Return the quoted name of an entry and the path of the zip, for error messages."""
        return f"{quoted(name)} in {self.path}"

    def read(self, name: str) -> bytes:
        """Return the content of an entry in bytes, after a check of its checksum.

        Raises:
            DataError: The entry declares too large a size, or cannot be read.
        """
        info = self._entries[name]
        if info.file_size > MAX_FILE_BYTES:
            raise DataError(
                f"{self.where(name)} declares {info.file_size} bytes, more than the limit of "
                f"{MAX_FILE_BYTES >> 20} MiB: reduce its size"
            )
        try:
            # zipfile enforces the declared size, and verifies the checksum.
            return self._archive.read(info)
        except (
            OSError,
            EOFError,
            ValueError,
            RuntimeError,  # encrypted; NotImplementedError (an unknown compression) is a subclass
            struct.error,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
        ) as error:
            raise DataError(
                f"{self.where(name)} cannot be read: {first_line(error)}. Make the zip again"
            ) from error

    def close(self) -> None:
        """Close the zip."""
        self._archive.close()


def image_names(container: Container) -> list[str]:
    """Return the sorted names of the image files, without hidden files and macOS shadow folders."""
    return [
        name
        for name in container.names
        if name.lower().endswith(IMAGE_SUFFIXES)
        and not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    ]


def read_labels(container: Container) -> dict[str, Label] | None:
    """Return the labels in ``dataset.json`` by image name; None if the file contains null.

    Raises:
        DataError: The file is missing or malformed, or mixes classes and vectors.
    """
    where = container.where(LABEL_FILE)
    if LABEL_FILE not in container.names:
        raise DataError(
            f"{container.path} has no {LABEL_FILE}: there are no class labels, so train without "
            "labels"
        )
    data = container.read(LABEL_FILE)
    if len(data) > MAX_LABEL_BYTES or data.count(b"[") + data.count(b"{") > MOST_LABEL_LISTS:
        raise DataError(f"{where} has too many labels: use a smaller data set")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not readable JSON: make the data set again") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise DataError(f'{where} is not an object with "labels": make the data set again')
    if content["labels"] is None:
        return None
    if not isinstance(content["labels"], list):
        raise DataError(
            f'"labels" of {where} is neither null nor a list of [name, class]: make the data set '
            "again"
        )
    labels: dict[str, Label] = {}
    for index, pair in enumerate(content["labels"]):
        match pair:
            case [str(name), label] if name not in labels and _is_label(label):
                labels[name] = label
            case _:
                raise DataError(
                    f"label {index} of {where} is {_brief(pair)}: expected [name, class "
                    f"from 0 to {MAX_CLASSES - 1}] or [name, [numbers]], with each name "
                    "once"
                )
    kinds = {len(label) if isinstance(label, list) else 0 for label in labels.values()}
    if len(kinds) > 1:
        raise DataError(
            f"{where} mixes classes and vectors, or vectors of different lengths: give all labels "
            "the same form"
        )
    return labels


def labels_of(container: Container, names: list[str]) -> list[Label] | None:
    """Return the labels of images in the order of ``names``; None if ``dataset.json`` has none.

    Raises:
        DataError: ``dataset.json`` is missing or malformed, mixes classes and vectors, has no label
            for an image, or a label for an image that does not exist.
    """
    labels = read_labels(container)
    if labels is None:
        return None
    there = set(container.names)
    for name in labels:
        if name not in there:
            raise DataError(
                f"{container.where(LABEL_FILE)} has a label for {quoted(name)}, which does not "
                "exist: remove this label"
            )
    for name in names:
        if name not in labels:
            raise DataError(
                f"{container.where(LABEL_FILE)} has no label for {quoted(name)}: add this label"
            )
    return [labels[name] for name in names]


def quoted(name: str) -> str:
    """Return the quoted name of a file for an error message, with special characters escaped.

    Long names are shortened.
    """
    text = repr(name)
    return text if len(text) <= LONGEST_QUOTED else f"{text[:LONGEST_QUOTED]}...'"


def _brief(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deep"
    return text if len(text) <= 80 else f"{text[:80]}..."


def _is_label(value: object) -> bool:
    if type(value) is int:
        return 0 <= value < MAX_CLASSES
    # The comparison is false for NaN, and exact for integers of any size.
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(number) in (int, float) and abs(number) <= 3.4e38 for number in value)
    )


def _reraise(error: OSError) -> None:
    raise error
