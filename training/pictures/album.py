"""Files of results: which are read together, and which pictures they have."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from dnnlib.errors import DataError, UsageError
from torch_utils.results import open_arrays
from training.files.answers import params_path
from training.files.arrays import kind_of, stem_of
from training.files.correlations import stem_and_index
from training.files.formats import FORMATS, format_of
from training.files.stats import STATS
from training.names import KINDS, script
from training.pictures.content import Content
from training.pictures.drawing import draw
from training.pictures.figure import Figure
from training.pictures.images import holds_images

SUFFIXES = (".npz", ".nc", ".jsonl", ".json")
"""Suffixes of files that are drawn, besides zips of images."""
Made = TypeVar("Made")


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn.

    Attributes:
        path: File of the picture.
        write: Function that draws the picture into a file.
        note: Advice for the user about the picture; may be empty.
    """

    path: Path
    write: Callable[[Path], None]
    note: str = ""


@dataclass
class Groups:
    """Files in groups that are read together, and the errors of files that cannot be read.

    Attributes:
        files: A path, a list of paths, or the paths of a run by kind of simulation; by folder, kind
            of the files, and name.
        errors: Paths and their errors.
    """

    files: dict[tuple[Path, str, str], Any] = field(default_factory=dict)
    errors: list[tuple[Path, DataError]] = field(default_factory=list)

    @contextmanager
    def noting(self, path: Path) -> Iterator[None]:
        """Record an error of reading a file, and continue."""
        try:
            yield
        except DataError as error:
            self.errors.append((path, error))

    def add(self, file: Path, kind: str) -> None:
        """Add a file to its group.

        Raises:
            DataError: The file is a simulation with fewer than two times.
        """
        grouped, place = FORMATS[kind].group, file.parent
        if grouped == "times":
            stem = stem_and_index(file)[0].name
            self.files.setdefault((place, kind, stem), []).append(file)
        elif grouped == "run":
            with open_arrays(file) as saved:
                times = saved.numbers("times")
            if times.ndim != 1 or len(times) < 2:
                raise DataError(
                    f"{file}: 'times' has shape {list(times.shape)}, expected at least two times: "
                    "make the file again"
                )
            simulation, name = kind_of(file, times), stem_of(file)
            while simulation in self.files.get((place, kind, name), {}):  # two of one name
                name += " again"
            run = {**self.files.get((place, kind, name), {}), simulation: file}
            self.files[place, kind, name] = {each: run[each] for each in KINDS if each in run}
        else:
            self.files[place, kind, file.name] = file

    def read(self, make: Callable[[str, Any], Made]) -> list[tuple[Path, Made]]:
        """Return the folder of each group, and what a function makes of its kind and files.

        Of a run with a broken file, the other files are read.
        """
        made: list[tuple[Path, Made]] = []
        for (place, kind, _), files in self.files.items():
            try:
                made.append((place, make(kind, files)))
                continue
            except DataError as error:
                failed = error
            several = files if isinstance(files, Mapping) else {}
            kept = {}
            for simulation, path in several.items():
                with self.noting(path):
                    make(kind, {simulation: path})
                    kept[simulation] = path
            if len(kept) == len(several):  # each file can be read alone, or there is only one
                first = next(iter(kept.values())) if kept else files
                self.errors.append((first[0] if isinstance(first, list) else first, failed))
            elif kept:
                with self.noting(next(iter(kept.values()))):
                    made.append((place, make(kind, kept)))
        return made


def content_maker(kind: str) -> Callable[..., Content]:
    """Return the function that makes the content of files of a kind.

    The module of the function is imported only when needed, since some imports take half a second.
    """
    module, _, name = FORMATS[kind].content.rpartition(".")
    return getattr(import_module(f"{__package__}.{module}"), name)


def pictures_of(paths: Iterable[Path], folder: Path | None, animation: str | None) -> list[Picture]:
    """Return all pictures of the files at the given paths; see ``pictures_and_errors``.

    Raises:
        DataError: A path is missing, broken, or cannot be drawn.
        UsageError: Two pictures have the same name even with subfolders.
    """
    pictures, errors = pictures_and_errors(paths, folder, animation)
    if errors:
        raise errors[0]
    return pictures


def pictures_and_errors(
    paths: Iterable[Path], folder: Path | None, animation: str | None
) -> tuple[list[Picture], list[DataError]]:
    """Return the pictures of all files that can be drawn, and an error for each other file.

    Files are read and checked. Nothing is drawn yet.

    Args:
        paths: Results files, statistics of runs, zips of images, or folders of any of these.
        folder: Output folder for the pictures, or None to write them next to their files. If
            pictures from several folders would have the same name, each folder gets a subfolder of
            its own name.
        animation: ``gif``, ``mp4``, or None for no animations.

    Raises:
        UsageError: Two pictures have the same name even with subfolders.
    """
    groups, files = Groups(), dict[Path, Path]()
    for path in paths:
        with groups.noting(path):
            files |= {file.resolve(): file for file in drawable_files([path])}
    for file in files.values():
        with groups.noting(file):
            groups.add(file, _drawn_kind(file))
    contents = groups.read(lambda kind, own: content_maker(kind)(own, None))
    pictures = _pictures_in(contents, folder, animation)
    if folder is not None and _twice(pictures):
        pictures = []
        for place, content in contents:
            own = folder / (content.place or place).resolve().name
            pictures += _pictures_in([(place, content)], own, animation)
    if doubled := _twice(pictures):
        raise UsageError(
            f"two pictures would have the name {doubled[0]}: draw them in separate calls, "
            "each with its own --dest"
        )
    return pictures, [error for _, error in groups.errors]


def _twice(pictures: Iterable[Picture]) -> list[Path]:
    """Return the paths that more than one picture would be written to."""
    counts = Counter(picture.path.resolve() for picture in pictures)
    return [path for path, count in counts.items() if count > 1]


def _pictures_in(
    contents: Iterable[tuple[Path, Content]], folder: Path | None, animation: str | None
) -> list[Picture]:
    """Return the pictures of contents, and their animations in a format, or none."""

    def write_figure(path: Path, make: Callable[[], Figure]) -> None:
        draw(make()).savefig(path, format="png")

    pictures = []
    for place, content in contents:
        home = folder or content.place or place
        for name, make in content.figures.items():
            write = partial(write_figure, make=make)
            pictures.append(Picture(home / f"{name}.png", write, content.notes.get(name, "")))
        for name, animate in content.animations.items() if animation else ():
            path = home / f"{name}.{animation}"
            write = partial(animate, suffix=animation)
            pictures.append(Picture(path, write, content.notes.get(name, "")))
    return pictures


def drawable_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that can be drawn, each once, and those in folders that are broken.

    A folder is replaced by the drawable files in it. A folder of images without drawable files is
    kept: its images are drawn as one picture.

    Raises:
        DataError: A path does not exist or cannot be drawn.
    """
    drawable: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if _may_be_drawn(file)]
            if not files and holds_images(path):
                files = [path]
            if not files:
                raise DataError(
                    f"{path} contains no results (.npz, .nc) that can be drawn, no {STATS} "
                    "and no images: give another folder"
                )
        elif not path.exists():
            raise DataError(
                f"{path} does not exist: give results (.npz, .nc), {STATS}, a zip of images, or a "
                "folder"
            )
        elif path.suffix in (*SUFFIXES, ".zip"):
            files = [path]
        elif path.suffix == ".csv":
            files = [params_path(path)]  # its parameters name the question that it answers
            if not files[0].exists():
                raise DataError(
                    f"{path} cannot be drawn without the file {files[0].name} in its folder: give "
                    f"a CSV of {script('ask')}, with its parameters"
                )
        else:
            raise DataError(
                f"{path} cannot be drawn: give results (.npz, .nc), {STATS}, a zip of "
                "images, or a folder of such files or images"
            )
        drawable |= {file.resolve(): file for file in files if file.resolve() not in drawable}
    return list(drawable.values())


def _may_be_drawn(file: Path) -> bool:
    """Return whether a file can be drawn, or is broken."""
    if file.name.startswith(".") or file.suffix not in SUFFIXES:
        return False
    try:
        kind = format_of(file)
    except DataError:
        return True
    return kind is not None and bool(FORMATS[kind].content)


def _drawn_kind(file: Path) -> str:
    """Return the kind of a file that can be drawn.

    Float arrays must not contain NaN or infinity, even if they are not drawn.

    Raises:
        DataError: The file is broken, or of a kind that is not drawn.
    """
    kind = format_of(file)
    if kind is None:
        raise DataError(f"{file} contains no known data: give results of this project")
    known = FORMATS[kind]
    if not known.content:
        raise DataError(
            f"{file} contains {known.holds}, which cannot be drawn: "
            f"{known.advice or 'leave it out'}"
        )
    if file.suffix == ".npz" and known.wild is not None:
        _require_finite(file, known.wild)
    return kind


def _require_finite(file: Path, but: Collection[str]) -> None:
    """Check that the float arrays of a file are finite, except those of some names.

    Raises:
        DataError: Another array contains NaN or infinity.
    """
    with open_arrays(file) as saved:
        for name in saved.names:
            if name in but:
                continue
            with saved.open(name) as (header, _):
                is_float = header.dtype.kind == "f"
            if is_float:
                saved.numbers(name)
