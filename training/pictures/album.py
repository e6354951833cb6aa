"""What is drawn of the files that a user names: each goes to the room of its subject."""

from collections.abc import Callable, Iterable
from pathlib import Path

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.pictures.correlations.lags import pictures_of_lags
from training.pictures.correlations.matrices import (
    pictures_of_image_matrices,
    pictures_of_toy_matrices,
)
from training.pictures.correlations.saved import (
    holds_image_matrices,
    holds_lags,
    holds_residuals,
    holds_toy_matrices,
)
from training.pictures.coverage.album import pictures_of_coverage
from training.pictures.coverage.saved import holds_coverage
from training.pictures.images.folders import holds_images, pictures_of_image_files
from training.pictures.images.roundtrips import holds_roundtrips, pictures_of_roundtrips
from training.pictures.images.simulations import pictures_of_images
from training.pictures.style.picture import Picture
from training.pictures.training import STATS, pictures_of_training
from training.pictures.trajectories.album import pictures_of_toys
from training.pictures.trajectories.saved import SavedTrajectory, holds_trajectory

# How a kind of results file is known by the names of its arrays, and what draws a file of it, in a
# folder or beside the file.
DRAWN_ALONE: dict[Callable[[list[str]], bool], Callable[[Path, Path | None], list[Picture]]] = {
    holds_roundtrips: pictures_of_roundtrips,
    holds_coverage: pictures_of_coverage,
    holds_lags: pictures_of_lags,
    holds_toy_matrices: pictures_of_toy_matrices,
}


def pictures_of(paths: Iterable[Path], folder: Path | None, animation: str | None) -> list[Picture]:
    """All pictures of the files at some paths. Reads and checks the files; draws nothing yet.

    Args:
        paths: Results files, statistics of runs, zips of images, or folders of any of these.
        folder: Where the pictures go; None for beside their files.
        animation: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: A path is missing, broken, or nothing that can be drawn.
    """
    pictures: list[Picture] = []
    matrices: list[Path] = []
    trajectories: list[SavedTrajectory] = []
    for path in drawable_files(paths):
        if path.is_dir() or path.suffix == ".zip":
            pictures += pictures_of_image_files(path, folder)
        elif path.suffix != ".npz":
            pictures += pictures_of_training(path, folder)
        elif draw := _drawn_alone(names := _names(path)):
            _require_finite(path)
            pictures += draw(path, folder)
        elif holds_image_matrices(names):
            matrices.append(path)
        elif holds_residuals(names):
            raise DataError(
                f"{path} holds residuals, which are not drawn: give the correlations that "
                "calc_net_residuals_autocorrelations.py makes of them"
            )
        else:
            _require_finite(path)
            trajectories.append(SavedTrajectory.load(path))
    images = [item for item in trajectories if item.has_images]
    toys = [item for item in trajectories if not item.has_images]
    return [
        *pictures,
        *pictures_of_image_matrices(matrices, folder),
        *pictures_of_toys(toys, folder, animation),
        *pictures_of_images(images, folder, animation),
    ]


def drawable_files(paths: Iterable[Path]) -> list[Path]:
    """What can be drawn, each once: the files themselves, and of folders those in them.

    A folder without such files is one thing to draw itself, if it has images.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if _can_be_drawn(file)]
            if not files and holds_images(path):
                files = [path]
            if not files:
                raise DataError(
                    f"{path} holds neither results (.npz) that can be drawn, nor {STATS}, nor "
                    "images"
                )
        elif not path.exists():
            raise DataError(
                f"{path} does not exist: give results (.npz), {STATS}, a zip of images, or a folder"
            )
        elif path.suffix in (".npz", ".jsonl", ".zip"):
            files = [path]
        else:
            raise DataError(
                f"{path} cannot be drawn: give results (.npz), {STATS}, a zip of images, or a "
                "folder with such files or with images"
            )
        found |= {file.resolve(): file for file in files if file.resolve() not in found}
    return list(found.values())


def _can_be_drawn(file: Path) -> bool:
    if file.name.startswith(".") or file.suffix not in (".npz", ".jsonl"):
        return False
    if file.suffix == ".jsonl":
        return file.name == STATS
    names = _names(file)
    drawn_together = holds_trajectory(names) or holds_image_matrices(names)
    return drawn_together or _drawn_alone(names) is not None


def _drawn_alone(names: list[str]) -> Callable[[Path, Path | None], list[Picture]] | None:
    """What draws a file with arrays of these names, unless it is drawn together with others."""
    return next((draw for holds, draw in DRAWN_ALONE.items() if holds(names)), None)


def _require_finite(file: Path) -> None:
    """Raises DataError for what went wrong anywhere, also in arrays that are not drawn."""
    with open_arrays(file) as saved:
        for name in saved.names:
            with saved.open(name) as (header, _):
                is_float = header.dtype.kind == "f"
            if is_float:
                saved.numbers(name)


def _names(file: Path) -> list[str]:
    with open_arrays(file) as saved:
        return saved.names
