"""Search for the files of a report; each goes to the module of its kind."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dnnlib.errors import DataError
from training.files.formats import FORMATS, format_of
from training.pictures.album import Groups, content_maker
from training.pictures.content import Choice, Result
from training.report.drawing import drawn
from training.report.runs import Run, run_of

LOOKED_INTO = (".npz", ".nc", ".json", ".jsonl")


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        title: Heading.
        reading: Sentence on how to read the section.
        page: Page of the documentation.
        place: Folder, as the user gave it.
        parts: Figures, tables and interactive parts, as the page's template takes them.
        results: Headline numbers.
    """

    title: str
    reading: str
    page: str
    place: str
    parts: Sequence[Any]
    results: Sequence[Result] = ()


@dataclass(frozen=True)
class Findings:
    """Contents of a report.

    Attributes:
        sections: Sections in order.
        runs: Runs of scripts.
        broken: Files that could not be read, and the reason for each.
        foreign: Files that look like results but are not shown, and the reason for each.
        others: Number of other files by suffix.
    """

    sections: list[Section] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def found_in(paths: Iterable[Path], choice: Choice) -> Findings:
    """Read all files at the given paths and in folders below them.

    Raises:
        DataError: A path is missing, or no file has anything to show.
    """
    findings, groups = Findings(), Groups()
    for file in _files(paths):
        if file.suffix not in LOOKED_INTO:
            findings.others[file.suffix or "(none)"] += 1
            continue
        with groups.noting(file):
            _sort(file, findings, groups)
    order, folders = list(FORMATS), list(dict.fromkeys(folder for folder, _, _ in groups.files))

    def place(key: tuple[Path, str, str]) -> tuple[int, int]:
        return folders.index(key[0]), order.index(key[1])

    groups.files = {key: groups.files[key] for key in sorted(groups.files, key=place)}
    for _, section in groups.read(partial(_section, choice)):
        findings.sections.append(section)
    findings.broken.extend((str(path), str(error)) for path, error in groups.errors)
    if not findings.sections:
        why = f": {findings.broken[0][1]}" if findings.broken else ""
        given = ", ".join(map(str, paths))
        raise DataError(
            f"{given} contains nothing to report"
            f"{why or ': give folders of runs, or files of results'}"
        )
    return findings


def _files(paths: Iterable[Path]) -> list[Path]:
    """Return all files, each once, without hidden ones.

    Raises:
        DataError: A path does not exist.
    """
    files: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist: give folders of runs, or files of results")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                files.setdefault(file.resolve(), file)
    return list(files.values())


def _sort(file: Path, findings: Findings, groups: Groups) -> None:
    """Add a file to its group, or to the files that are not shown."""
    kind = format_of(file)
    if file.suffix == ".json":
        run = run_of(file)
        if run:
            findings.runs.append(run)
        if kind is None:
            if run is None:
                findings.foreign.append((str(file), "not a file of parameters"))
            return
    if kind is None:
        findings.foreign.append((str(file), "not results that a report shows"))
    elif not FORMATS[kind].content:
        findings.foreign.append((str(file), f"{FORMATS[kind].holds}, which are not shown"))
    else:
        groups.add(file, kind)


def _section(choice: Choice, kind: str, files: Any) -> Section:
    """Return the section of a report about a group of files."""
    content = content_maker(kind)(files, choice)
    parts = [drawn(part) for part in content.shown(choice)]
    several = list(files.values()) if isinstance(files, dict) else files
    first = several[0] if isinstance(several, list) else several
    words = (content.title, content.reading, content.page, str(first.parent))
    return Section(*words, parts, content.results())
