"""What a reader does with a file, hostile or a mutant of a valid one, and whether it may.

A reader may give what it read, or raise a domain error whose message is one line, printable and
short, and says which file it is about. All else is a violation: other exceptions, warnings and
output, results that make no sense, more time or memory than the limits, an audit event of
``FORBIDDEN``, and any change of the files around it.
"""

import codecs
import faulthandler
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from unittest import mock

from PIL import Image

from dnnlib.errors import InflationError
from tests.fuzz.mutations import BY_END

MADE = time.struct_time((2026, 1, 1, 0, 0, 0, 3, 1, 0))


def written(name, save):
    def write(folder):
        save(folder / name)
        return folder / name

    return write


@dataclass(frozen=True)
class Reader:
    """A way in which files are opened.

    Attributes:
        valid: Functions that write files of two or more kinds to an empty folder, and give the one
            to open.
        probe: Opens a path, and raises AssertionError if what it gets makes no sense.
        hostile: Likewise write files that were made by hand.
        mutate: By the last part of a file's name; files that no part fits are left as they are.
        parses: Whether headers may be parsed by ``ast.literal_eval``.
        writes: Whether files may be written beside the one that is opened.
        names_file: Whether errors name the file, or may name an option that came from it.
        also_allowed: Errors beside ``InflationError`` that scripts make one line of.
    """

    name: str
    valid: tuple
    probe: Callable
    hostile: Mapping = field(default_factory=dict)
    mutate: Mapping = field(default_factory=BY_END.copy)
    parses: bool = False
    writes: bool = False
    names_file: bool = True
    also_allowed: tuple = ()

    def mutation_of(self, name):
        return next((how for end, how in self.mutate.items() if name.endswith(end)), None)


@dataclass(frozen=True)
class Sample:
    """A valid set of files in memory: bytes by name, and which of them is opened."""

    files: Mapping[str, bytes]
    opened: str

    @classmethod
    def of(cls, write, folder):
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

    def write(self, folder):
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.opened


class Cases:
    """Cases of a reader by number: its hostile files, then its mutants."""

    def __init__(self, reader, seed, folder):
        self.reader, self._seed = reader, seed
        self.samples = [Sample.of(write, folder / "sample") for write in reader.valid]

    def write(self, index, folder):
        """The name of a case, and the path that is to be opened."""
        hostile = list(self.reader.hostile.items())
        if index < len(hostile):
            name, write = hostile[index]
            return name, write(folder)
        number = index - len(hostile)
        random = Random(f"{self.reader.name} {self._seed} {number}")
        sample, other = random.choice(self.samples), random.choice(self.samples)
        names = [name for name in sample.files if self.reader.mutation_of(name)]
        name = random.choice(names)
        mutate = self.reader.mutation_of(name)
        same_end = [content for end, content in other.files.items() if end[-4:] == name[-4:]]
        content = sample.files[name]
        mutant = mutate(content, random.choice(same_end or [content]), random)
        mutated = Sample({**sample.files, name: mutant}, sample.opened)
        return f"mutant {number}", mutated.write(folder)


FORBIDDEN = {
    *("compile", "exec", "import", "code", "marshal", "pickle", "cpython", "ctypes"),
    *("subprocess", "socket", "os", "shutil", "tempfile", "pty", "urllib", "http", "ftplib"),
}
"""First parts of the names of events that reading data gives no reason for."""
LOOKING = {"os.listdir", "os.scandir", "os.walk"}
WRITING_MODES, WRITING_FLAGS = set("wax+"), 0o3
# A header of NumPy is parsed to a tree of literals, which is not run: ast.parse calls it so.
PARSED = "<unknown>"


class Validation:
    """Listens to the events of this process, to its end. Files may be written inside
    of a folder, and literals parsed, if given."""

    def __init__(self, inside=None, parses=False):
        self._inside = None if inside is None else str(inside)
        self._parses = parses
        self._listening = False
        self._heard = []
        sys.addaudithook(self._hear)

    @contextmanager
    def listening(self):
        self._heard = []
        self._listening = True
        try:
            yield self._heard
        finally:
            self._listening = False

    def _hear(self, event, arguments):
        if self._listening and self._is_forbidden(event, arguments):
            self._heard.append(f"{event} {ascii(arguments)[:200]}")

    def _is_forbidden(self, event, arguments):
        if event == "open":
            path, mode, flags = arguments
            writes = bool(set(mode or "") & WRITING_MODES) or bool((flags or 0) & WRITING_FLAGS)
            return writes and not self._is_inside(path)
        if event == "compile" and self._parses:
            return arguments[1] != PARSED
        if event == "import":
            return arguments[0] not in sys.modules
        if event in LOOKING or event.split(".")[0] not in FORBIDDEN:
            return False
        return not (event.startswith("os.") and all(map(self._is_inside, arguments)))

    def _is_inside(self, path):
        if self._inside is None:
            return False
        # Beside paths, events tell of modes and of folders' descriptors, -1 for none.
        return isinstance(path, int) or str(path).startswith(self._inside)


MOST_SECONDS = 5.0
"""Of the processor."""
HANGS_AFTER = 20
"""Seconds on the clock, on a machine that may be busy."""
MOST_MIB = 1024
"""Memory in use beyond what was before."""
LONGEST_MESSAGE = 1000
SPARE_BYTES = 4 << 30
"""Address space beyond what is in use: so much memory can be asked for, not only promised."""
# Python imports a codec when it is first used; the formats of zip and JSON can ask for these.
UTF = (f"utf_{width}{end}" for width in (16, 32) for end in ("", "_be", "_le"))
FORMAT_CODECS = ("cp437", *UTF)
# What Python does not show by default.
SILENT_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ResourceWarning)


class Trial:
    """Runs the cases of a reader in this process, which is changed by it for good."""

    def __init__(self, reader, seed, folder):
        self._reader, self._folder = reader, folder
        self._case, self._outside = folder / "case", folder / "outside"
        shutil.rmtree(folder, ignore_errors=True)
        self._outside.mkdir(parents=True)
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
            os.environ[name] = str(self._outside)
        os.chdir(self._outside)
        self._noise = (folder / "noise").open("w+b")
        self._trace = (folder / "trace").open("w+b")
        sys.stdout.flush()
        for descriptor in (1, 2):
            os.dup2(self._noise.fileno(), descriptor)
        self._cases = Cases(reader, seed, folder)
        self._watch = Validation(self._case if reader.writes else None, reader.parses)
        self._warm_up()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = _status("VmSize") * 1024 + SPARE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        faulthandler.enable(self._trace)

    def _warm_up(self):
        """Opens valid files, and a broken one: libraries import parts of themselves when needed."""
        for name in FORMAT_CODECS:
            codecs.lookup(name)
        Image.init()
        allowed = (InflationError, *self._reader.also_allowed)
        for sample in self._cases.samples:
            self._case.mkdir()
            opened = sample.write(self._case)
            self._reader.probe(opened)
            for name in sample.files:
                (self._case / name).write_bytes(b"broken")
            with suppress(*allowed):
                self._reader.probe(opened)
            shutil.rmtree(self._case)

    def run(self, index):
        """Runs a case. Gives its name, its outcome, ``refused``, ``accepted`` or ``violation``,
        and why."""
        self._case.mkdir()
        name, opened = self._cases.write(index, self._case)
        (self._folder / "current").write_text(name)
        before, noise = self._files(), os.fstat(self._noise.fileno()).st_size
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory
        memory, start = _status("VmRSS"), time.process_time()
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True, file=self._trace)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for kind in SILENT_WARNINGS:
                warnings.simplefilter("ignore", kind)
            with self._watch.listening() as heard:
                outcome, why = self._open(opened)
        faulthandler.cancel_dump_traceback_later()
        seconds = time.process_time() - start
        mib = max(0, _status("VmHWM") - memory) / 1024
        problems = [] if why is None else [why]
        problems += [f"event: {event}" for event in heard]
        problems += [f"warning: {warning.message}" for warning in warned]
        if seconds > MOST_SECONDS:
            problems.append(f"{seconds:.1f} s")
        if mib > MOST_MIB:
            problems.append(f"{mib:.0f} MiB")
        if os.fstat(self._noise.fileno()).st_size > noise:
            problems.append("output on stdout or stderr")
        changed = sorted(path for path, _ in before.items() ^ self._files().items())
        if changed and not (self._reader.writes and all("/case/" in path for path in changed)):
            problems.append(f"changed: {', '.join(changed[:3])}")
        shutil.rmtree(self._case)
        return name, "violation" if problems else outcome, "; ".join(problems)

    def _open(self, opened):
        try:
            self._reader.probe(opened)
        except InflationError as error:
            return "refused", self._problem_with(str(error))
        except self._reader.also_allowed:
            return "refused", None
        except BaseException as error:
            ours = traceback.extract_tb(error.__traceback__)
            where = next((f for f in reversed(ours) if "/fuzz/" not in f.filename), ours[-1])
            text = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            return "violation", text[:500]
        return "accepted", None

    def _problem_with(self, message):
        if len(message.splitlines()) != 1 or not message.isprintable():
            return f"not one printable line: {message[:500]!a}"
        if len(message) > LONGEST_MESSAGE:
            return f"a message of {len(message)} characters: {message[:200]}"
        if self._reader.names_file and str(self._case) not in message:
            return f"the message does not name the file: {message}"
        return None

    def _files(self):
        """Facts of all files of the case and around it, which change if anything does."""
        got = {}
        for top in (self._case, self._outside):
            for folder, folders, files in os.walk(top):
                for name in ("", *folders, *files):
                    path = os.path.join(folder, name)
                    info = os.lstat(path)
                    got[path] = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_nlink)
        return got


def _status(name):
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:", 1)[1].split(maxsplit=1)[0])
