"""Which pictures are drawn of correlations of residuals: against the lag, and as matrices."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from training.pictures.correlations.lags import NAMES, draw_lags, spread_words
from training.pictures.correlations.matrices import draw_matrices
from training.pictures.correlations.saved_lags import SavedLags, summary_of
from training.pictures.correlations.saved_matrices import SavedMatrices, stem_of_times
from training.pictures.style.look import joined
from training.pictures.style.parameters import parameter, told
from training.pictures.style.picture import Picture
from training.pictures.trajectories.saved import title_of

NOISES = {"independent": "fresh noise at each time", "path": "along the flow's own paths"}


def pictures_of_lags(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a summary of autocorrelations. Raises DataError if it is broken."""
    saved = SavedLags.load(path)
    stem = path.stem.removesuffix("_summary")
    name, details = _title(stem)
    draw = partial(
        draw_lags,
        saved,
        title=f"Autocorrelations of {name}: {details}"
        if details
        else f"Autocorrelations of {name}",
        subtitle=joined(told(NOISES, parameter(path, "noise")), spread_words(saved.dim)),
    )
    return [Picture.of_figure((folder or path.parent) / f"{stem}_lags.png", draw)]


def pictures_of_toy_matrices(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a toy's correlation matrices. Raises DataError if its file is broken."""
    saved = SavedMatrices.of_toy(path)
    return [_of_matrices(saved, path.parent / path.stem, folder)]


def pictures_of_image_matrices(paths: Iterable[Path], folder: Path | None) -> list[Picture]:
    """The pictures of correlation matrices of images, in files of one time each.

    Files that have a folder and a stem in common are drawn together.

    Raises:
        DataError: A file that is to be drawn is broken, or does not belong to the others.
    """
    together: dict[Path, list[Path]] = {}
    for path in paths:
        together.setdefault(path.parent / stem_of_times(path), []).append(path)
    return [
        _of_matrices(SavedMatrices.of_images(files), stem, folder)
        for stem, files in together.items()
    ]


def _of_matrices(saved: SavedMatrices, stem: Path, folder: Path | None) -> Picture:
    name, details = _title(stem.name)
    each = f"each cell: the largest of {saved.block} × {saved.block}" if saved.block > 1 else ""
    noise = told(NOISES, parameter(summary_of(stem), "noise"))
    draw = partial(
        draw_matrices,
        [(NAMES[name], matrices) for name, matrices in saved.matrices.items()],
        saved.dim,
        saved.times,
        saved.notes,
        title=f"Correlations with the first time: {name}",
        subtitle=joined(details, noise, f"{saved.dim} eigen-dimensions", each),
    )
    return Picture.of_figure((folder or stem.parent) / f"{stem.name}_matrices.png", draw)


def _title(stem: str) -> tuple[str, str]:
    stem = stem.removesuffix("_autocorrelations").removesuffix("_toy")
    return title_of(Path(f"{stem}.npz"))
