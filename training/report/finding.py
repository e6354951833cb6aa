"""The files that a report shows: each goes to the module of its subject, broken ones are named."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.files.arrays import kind_of, stem_of
from training.files.formats import FORMATS, format_of
from training.names import KINDS
from training.report.content import Choice, Run, Section
from training.report.runs import run_of

Reader = Callable[[Path | Mapping[str, Path], Choice], Section]
"""What makes a section of a file, or of files by kind."""
LOOKED_INTO = (".npz", ".nc", ".json", ".jsonl")


@dataclass(frozen=True)
class Findings:
    """What a report tells.

    Attributes:
        sections: In order.
        runs: Scripts that ran.
        broken: Files that could not be read, and why.
        foreign: Files that look like results and are not of this project, or are not shown.
        others: How many other files there are by the ending of their names.
    """

    sections: list[Section] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def found_in(paths: Iterable[Path], choice: Choice) -> Findings:
    """Reads all that is in some files and folders, and in the folders in these. Raises DataError if
    a path is missing, or none of the files has anything to show."""
    findings = Findings()
    subjects: dict[tuple[Path, str, str], Any] = {}
    for file in _files(paths):
        if file.suffix not in LOOKED_INTO:
            findings.others[file.suffix or "(none)"] += 1
            continue
        with _noting_errors(findings, file):
            _sort(file, findings, subjects)
    order = list(FORMATS)
    folders = list(dict.fromkeys(folder for folder, _, _ in subjects))
    keys = sorted(subjects, key=lambda key: (folders.index(key[0]), order.index(key[1])))
    for folder, subject, name in keys:
        files, read = subjects[folder, subject, name], section_maker(subject)
        if isinstance(files, dict):
            _add_run(findings, files, read, choice)
        else:
            with _noting_errors(findings, files):
                findings.sections.append(read(files, choice))
    if not findings.sections:
        why = f": {findings.broken[0][1]}" if findings.broken else ""
        given = ", ".join(map(str, paths))
        raise DataError(
            f"{given} has nothing to report{why or ': give folders of runs, or files of results'}"
        )
    return findings


def _add_run(findings: Findings, files: dict[str, Path], read: Reader, choice: Choice) -> None:
    """Adds the section of a run's simulations; of those that can be read, if one is broken."""
    ordered = {kind: files[kind] for kind in KINDS if kind in files}
    try:
        findings.sections.append(read(ordered, choice))
    except DataError:
        kept = {}
        for kind, path in ordered.items():
            with _noting_errors(findings, path):
                read({kind: path}, choice)
                kept[kind] = path
        if kept:
            with _noting_errors(findings, next(iter(kept.values()))):
                findings.sections.append(read(kept, choice))


@contextmanager
def _noting_errors(findings: Findings, path: Path) -> Iterator[None]:
    """Around what reads a file: what is wrong with it is told in the report, and all goes on."""
    try:
        yield
    except DataError as error:
        findings.broken.append((str(path), str(error)))


def _files(paths: Iterable[Path]) -> list[Path]:
    """All files, each once, without hidden ones."""
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist: give folders of runs, or files of results")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                files.setdefault(file.resolve(), file)
    return list(files.values())


def _sort(file: Path, findings: Findings, subjects: dict[tuple[Path, str, str], Any]) -> None:
    """Puts a file where its subject is, or says that it has none."""
    kind = format_of(file)
    if file.suffix == ".json":
        run = run_of(file)
        if run:
            findings.runs.append(run)
        if kind is None:
            if run is None:
                findings.foreign.append((str(file), "no parameters of a run"))
            return
    if kind is None:
        findings.foreign.append((str(file), "no results of this project that a report shows"))
    elif not FORMATS[kind].shown:
        findings.foreign.append((str(file), f"{FORMATS[kind].holds}, which are not shown"))
    elif FORMATS[kind].of_run:
        _add_to_run(file, kind, subjects)
    else:
        subjects[file.parent, kind, file.name] = file


def _add_to_run(file: Path, subject: str, subjects: dict[tuple[Path, str, str], Any]) -> None:
    """Adds a simulation to those of its run, by its kind."""
    with open_arrays(file) as saved:
        times = saved.numbers("times")
    if times.ndim != 1 or len(times) < 2:
        raise DataError(f"{file}: 'times' is {list(times.shape)}, not two times or more")
    kind = kind_of(file, times)
    name = stem_of(file)
    while kind in subjects.get((file.parent, subject, name), {}):  # two of one name
        name += " again"
    subjects.setdefault((file.parent, subject, name), {})[kind] = file


def section_maker(kind: str) -> Reader:
    """What makes sections of a kind. Modules are imported when they are needed, since some take
    half a second."""
    module, _, name = FORMATS[kind].shown.rpartition(".")
    return getattr(import_module(f"{__package__}.{module}"), name)
