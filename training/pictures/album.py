"""Files of results: which are read together, and which pictures they have."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

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


Groups = dict[tuple[Path, str, str], Any]
"""Files that are read together, by folder, kind and name: a path, a list of paths, or the paths of
a run by kind of simulation."""
SUFFIXES = (".npz", ".nc", ".jsonl", ".json")
"""Suffixes of files that are drawn, besides zips of images."""


def pictures_of(paths: Iterable[Path], folder: Path | None, animation: str | None) -> list[Picture]:
    """Return all pictures of the files at the given paths.

    Files are read and checked. Nothing is drawn yet.

    Args:
        paths: Results files, statistics of runs, zips of images, or folders of any of these.
        folder: Output folder for the pictures, or None to write them next to their files. If
            pictures from several folders would have the same name, each folder gets a subfolder of
            its own name.
        animation: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: A path is missing, broken, or cannot be drawn.
        UsageError: Two pictures have the same name even with subfolders.
    """
    files = drawable_files(paths)
    pictures = _drawn(files, folder, animation)
    if folder is not None and _twice(pictures):
        homes: dict[Path, list[Path]] = {}
        for path in files:
            homes.setdefault(path.resolve().parent, []).append(path)
        parts = (_drawn(own, folder / home.name, animation) for home, own in homes.items())
        pictures = list(chain(*parts))
    if doubled := _twice(pictures):
        raise UsageError(
            f"two pictures would have the name {doubled[0]}: draw them in separate calls, "
            "each with its own --dest"
        )
    return pictures


def pictures_and_errors(
    paths: Iterable[Path], folder: Path | None, animation: str | None
) -> tuple[list[Picture], list[DataError]]:
    """Return the pictures of all files that can be drawn, and an error for each other file.

    Args:
        paths: Results files, statistics of runs, zips of images, or folders of any of these.
        folder: Output folder for the pictures, or None to write them next to their files.
        animation: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: Each file can be drawn alone, but the files are not from the same run.
        UsageError: Two pictures would have the same name.
    """
    paths = list(paths)
    try:
        return pictures_of(paths, folder, animation), []
    except DataError:
        good, errors = list[Path](), list[DataError]()
    for path in chain(*map(_files_in, paths)):
        try:
            pictures_of([path], folder, animation)
            good.append(path)
        except DataError as error:
            errors.append(error)
    if not errors:
        return pictures_of(paths, folder, animation), []
    return pictures_of(good, folder, animation), errors


def _files_in(path: Path) -> list[Path]:
    """Return the files of a folder that can be drawn or are broken; else the path itself."""
    files = []
    for file in sorted(path.iterdir()) if path.is_dir() else ():
        try:
            wanted = _can_be_drawn(file)
        except DataError:
            wanted = True
        files += [file] * wanted
    return files or [path]


def _twice(pictures: Iterable[Picture]) -> list[Path]:
    """Return the paths that more than one picture would be written to."""
    counts = Counter(picture.path.resolve() for picture in pictures)
    return [path for path, count in counts.items() if count > 1]


def _drawn(files: Iterable[Path], folder: Path | None, animation: str | None) -> list[Picture]:
    """Return the pictures of files; see ``pictures_of``."""
    groups = Groups()
    for path in files:
        kind = format_of(path)
        if kind is None:
            raise DataError(f"{path} contains no known data: give results of this project")
        known = FORMATS[kind]
        if not known.content:
            raise DataError(
                f"{path} contains {known.holds}, which cannot be drawn: "
                f"{known.advice or 'leave it out'}"
            )
        if path.suffix == ".npz" and known.wild is not None:
            _require_finite(path, known.wild)
        add_file(path, kind, groups)
    pictures: list[Picture] = []
    for (place, kind, _), own in groups.items():
        content = content_maker(kind)(own, None)
        pictures += _pictures_of(content, folder or content.place or place, animation)
    return pictures


def add_file(file: Path, kind: str, groups: Groups) -> None:
    """Add a file to the group of files with which it is read.

    Raises:
        DataError: The file is a simulation with fewer than two times.
    """
    grouped, place = FORMATS[kind].group, file.parent
    if grouped == "times":
        stem = stem_and_index(file)[0].name
        groups.setdefault((place, kind, stem), []).append(file)
    elif grouped == "run":
        with open_arrays(file) as saved:
            times = saved.numbers("times")
        if times.ndim != 1 or len(times) < 2:
            raise DataError(
                f"{file}: 'times' has shape {list(times.shape)}, expected at least two times: make "
                "the file again"
            )
        simulation, name = kind_of(file, times), stem_of(file)
        while simulation in groups.get((place, kind, name), {}):  # two of one name
            name += " again"
        runs = groups.setdefault((place, kind, name), {})
        runs[simulation] = file
        groups[place, kind, name] = {each: runs[each] for each in KINDS if each in runs}
    else:
        groups[place, kind, file.name] = file


def drawable_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that can be drawn, each once.

    A folder is replaced by the drawable files in it. A folder of images without drawable files is
    kept: its images are drawn as one picture.

    Raises:
        DataError: A path does not exist or cannot be drawn.
    """
    drawable: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if _can_be_drawn(file)]
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


def _can_be_drawn(file: Path) -> bool:
    if file.name.startswith(".") or file.suffix not in SUFFIXES:
        return False
    kind = format_of(file)
    return kind is not None and bool(FORMATS[kind].content)


def _pictures_of(content: Content, folder: Path, animation: str | None) -> list[Picture]:
    """Return the pictures of a content, and its animations in a format, or none."""

    def picture(name: str, make: Callable[[], Figure]) -> Picture:
        def write(path: Path) -> None:
            draw(make()).savefig(path, format="png")

        return Picture(folder / f"{name}.png", write, content.notes.get(name, ""))

    made = [picture(name, make) for name, make in content.figures.items()]
    if animation is None:
        return made
    for name, animate in content.animations.items():
        path = folder / f"{name}.{animation}"
        write = partial(animate, suffix=animation)
        made.append(Picture(path, write, content.notes.get(name, "")))
    return made


def content_maker(kind: str) -> Callable[..., Content]:
    """Return the function that makes the content of files of a kind.

    The module of the function is imported only when needed, since some imports take half a second.
    """
    module, _, name = FORMATS[kind].content.rpartition(".")
    return getattr(import_module(f"{__package__}.{module}"), name)


def _require_finite(file: Path, but: Collection[str]) -> None:
    """Check that float arrays of a file contain no NaN or infinity, even if they are not drawn.

    Args:
        file: Results file.
        but: Names of arrays that may contain such values.

    Raises:
        DataError: Another array contains one.
    """
    with open_arrays(file) as saved:
        for name in saved.names:
            if name in but:
                continue
            with saved.open(name) as (header, _):
                is_float = header.dtype.kind == "f"
            if is_float:
                saved.numbers(name)
