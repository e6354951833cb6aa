"""What is drawn of the files that a user names: each goes to the room of its subject."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.files.formats import kind_of_arrays
from training.files.posterior_draws import is_posterior
from training.files.rows import MAY_BE_WILD, SavedTable, is_table
from training.files.stats import STATS
from training.files.trajectory import SavedTrajectory
from training.pictures.correlations.lags import pictures_of_lags
from training.pictures.correlations.matrices import (
    pictures_of_image_matrices,
    pictures_of_toy_matrices,
)
from training.pictures.coverage.album import pictures_of_coverage
from training.pictures.images.folders import holds_images, pictures_of_image_files
from training.pictures.images.roundtrips import pictures_of_roundtrips
from training.pictures.images.simulations import pictures_of_images
from training.pictures.posteriors.album import pictures_of_check, pictures_of_posteriors
from training.pictures.style.picture import Picture
from training.pictures.tables.album import pictures_of_tables
from training.pictures.training import pictures_of_training
from training.pictures.trajectories.album import pictures_of_toys

TRAJECTORY, IMAGE_MATRICES = "trajectory", "correlations of one time"
DRAWN_ALONE: dict[str, Callable[[Path, Path | None], list[Picture]]] = {
    "worst roundtrips": pictures_of_roundtrips,
    "coverage": pictures_of_coverage,
    "residual summary": pictures_of_lags,
    "correlations": pictures_of_toy_matrices,
    "posterior check": pictures_of_check,
}
"""What draws a file of a kind, in a folder or beside it."""
DRAWN = {TRAJECTORY, IMAGE_MATRICES, *DRAWN_ALONE}


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
    tables: list[SavedTable] = []
    for path in drawable_files(paths):
        if path.is_dir() or path.suffix == ".zip":
            pictures += pictures_of_image_files(path, folder)
        elif path.suffix == ".nc":
            pictures += pictures_of_posteriors(path, folder)
        elif path.suffix != ".npz":
            pictures += pictures_of_training(path, folder)
        elif (kind := _kind(path)) == IMAGE_MATRICES:  # only those that are shown are read
            matrices.append(path)
        elif kind == TRAJECTORY and is_table(path):
            _require_finite(path, but=MAY_BE_WILD)
            tables.append(SavedTable.load(path))
        elif kind == TRAJECTORY:
            _require_finite(path)
            trajectories.append(SavedTrajectory.load(path))
        elif kind in DRAWN_ALONE:
            _require_finite(path)
            pictures += DRAWN_ALONE[kind](path, folder)
        elif kind == "residuals":
            raise DataError(
                f"{path} holds residuals, which are not drawn: give the correlations that "
                "calc_net_residuals_autocorrelations.py makes of them"
            )
        else:
            raise DataError(f"{path} holds {kind or 'nothing that is known'}, which is not drawn")
    images = [item for item in trajectories if item.has_images]
    toys = [item for item in trajectories if not item.has_images]
    return [
        *pictures,
        *pictures_of_image_matrices(matrices, folder),
        *pictures_of_toys(toys, folder, animation),
        *pictures_of_images(images, folder, animation),
        *pictures_of_tables(tables, folder),
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
                    f"{path} holds neither results (.npz, .nc) that can be drawn, nor {STATS}, nor "
                    "images"
                )
        elif not path.exists():
            raise DataError(
                f"{path} does not exist: give results (.npz, .nc), {STATS}, a zip of images, or a "
                "folder"
            )
        elif path.suffix in (".npz", ".nc", ".jsonl", ".zip"):
            files = [path]
        else:
            raise DataError(
                f"{path} cannot be drawn: give results (.npz, .nc), {STATS}, a zip of images, or a "
                "folder with such files or with images"
            )
        found |= {file.resolve(): file for file in files if file.resolve() not in found}
    return list(found.values())


def _can_be_drawn(file: Path) -> bool:
    if file.name.startswith(".") or file.suffix not in (".npz", ".nc", ".jsonl"):
        return False
    if file.suffix == ".nc":
        return is_posterior(file)
    if file.suffix == ".jsonl":
        return file.name == STATS
    return _kind(file) in DRAWN


def _kind(file: Path) -> str | None:
    """The kind of a results file; None if it is unknown."""
    with open_arrays(file) as saved:
        kind = kind_of_arrays(saved)
        return IMAGE_MATRICES if kind == "correlations" and "time" in saved.names else kind


def _require_finite(file: Path, but: Collection[str] = ()) -> None:
    """Raises DataError for what went wrong anywhere but in some arrays, also if it is not drawn."""
    with open_arrays(file) as saved:
        for name in saved.names:
            if name in but:
                continue
            with saved.open(name) as (header, _):
                is_float = header.dtype.kind == "f"
            if is_float:
                saved.numbers(name)
