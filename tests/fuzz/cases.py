"""What is run on a reader: its hostile files, then mutants of its valid ones."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest import mock

from tests.fuzz.mutations import BY_END, Mutate

MADE = time.struct_time((2026, 1, 1, 0, 0, 0, 3, 1, 0))
Write = Callable[[Path], Path]
"""Writes files to an empty folder; gives the path to open."""
Probe = Callable[[Path], object]
"""Opens a path and uses what it gets. Raises AssertionError if that makes no sense."""


def written(name: str, save: Callable[[Path], object]) -> Write:
    """Has a file of this name saved, and opened."""

    def write(folder: Path) -> Path:
        save(folder / name)
        return folder / name

    return write


@dataclass(frozen=True)
class Reader:
    """A way in which files are opened.

    Attributes:
        name: Of the reader.
        valid: Write files that it reads, two or more kinds of them.
        probe: How they are opened and used.
        hostile: Write files that were made by hand.
        mutate: By the last part of a file's name, such as ``.zip``; '' for all others. Files that
            no part fits are left as they are.
        parses: Whether headers may be parsed by ``ast.literal_eval``.
        runs: Script that another process may run; None for none.
        writes: Whether files may be written beside the one that is opened.
        names_file: Whether errors name the file, or may name an option that came from it.
        also_allowed: Errors beside ``InflationError`` that scripts make one line of.
    """

    name: str
    valid: tuple[Write, ...]
    probe: Probe
    hostile: Mapping[str, Write] = field(default_factory=dict)
    mutate: Mapping[str, Mutate] = field(default_factory=BY_END.copy)
    parses: bool = False
    runs: Path | None = None
    writes: bool = False
    names_file: bool = True
    also_allowed: tuple[type[Exception], ...] = ()

    def mutation_of(self, name: str) -> Mutate | None:
        return next((how for end, how in self.mutate.items() if name.endswith(end)), None)


@dataclass(frozen=True)
class Sample:
    """A valid set of files in memory: bytes by name, and which of them is opened."""

    files: Mapping[str, bytes]
    opened: str

    @classmethod
    def of(cls, write: Write, folder: Path) -> "Sample":
        """Writes a sample to a folder that is not there yet, and removes it."""
        folder.mkdir()
        # Else each zip would say when it was made, and no mutant of it would come again.
        with mock.patch("time.localtime", return_value=MADE):
            opened = write(folder)
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        shutil.rmtree(folder)
        return cls(files, str(opened.relative_to(folder)))

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.opened


class Cases:
    """Cases of a reader by number: its hostile files, then its mutants."""

    def __init__(self, reader: Reader, seed: int, folder: Path):
        self.reader, self._seed = reader, seed
        self.samples = [Sample.of(write, folder / "sample") for write in reader.valid]

    def name(self, index: int) -> str:
        names = list(self.reader.hostile)
        return names[index] if index < len(names) else f"mutant {index - len(names)}"

    def write(self, index: int, folder: Path) -> Path:
        """Writes the files of a case to an empty folder; gives the path to open."""
        mutant = index - len(self.reader.hostile)
        if mutant < 0:
            return self.reader.hostile[self.name(index)](folder)
        return self._mutant(mutant).write(folder)

    def _mutant(self, index: int) -> Sample:
        random = Random(f"{self.reader.name} {self._seed} {index}")
        sample, other = random.choice(self.samples), random.choice(self.samples)
        names = [name for name in sample.files if self.reader.mutation_of(name)]
        name = random.choice(names)
        mutate = self.reader.mutation_of(name)
        same_end = [content for end, content in other.files.items() if end[-4:] == name[-4:]]
        content = sample.files[name]
        mutant = mutate(content, random.choice(same_end or [content]), random)
        return Sample({**sample.files, name: mutant}, sample.opened)
