"""Which pictures are drawn of images: their paths through time, samples, roundtrips, spectra."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.pictures.images.pixels import pixel_cells
from training.pictures.images.saved import SavedRoundtrips, first_images
from training.pictures.images.simulations import (
    MOST_IN_GRID,
    draw_path,
    draw_roundtrip,
    draw_roundtrip_errors,
    draw_samples,
    draw_spectrum_of,
    draw_worst,
    grid_figure,
    images_of,
)
from training.pictures.style.picture import Picture
from training.pictures.trajectories.saved import SavedTrajectory, stem_of

PART = re.compile(r"\d{5,6}")  # a folder of a thousand of the images
SAME = 1e-4  # of the largest value: more than float32 takes from a melt's end


def pictures_of_images(
    trajectories: Sequence[SavedTrajectory], folder: Path | None
) -> list[Picture]:
    """The pictures of simulations of images: all but clouds, latents and animations.

    A roundtrip is drawn together with the melt whose end it starts from, if that is among them.
    """
    pictures = []
    pairs = {melt.path: back for melt, back in _melts_and_roundtrips(trajectories)}
    paired = {back.path for back in pairs.values()}
    for item in trajectories:
        stem = (folder or item.path.parent) / stem_of(item.path)
        figures = {}
        if item.path in pairs:
            figures["roundtrip"] = partial(draw_roundtrip, item, pairs[item.path])
        elif item.path not in paired:
            figures[f"{item.kind}_path"] = partial(draw_path, item)
        if item.kind == "melt":
            figures["spectrum"] = partial(draw_spectrum_of, item)
        if item.kind == "gen":
            figures["samples"] = partial(draw_samples, item)
        for name, draw in figures.items():
            pictures.append(Picture.of_figure(Path(f"{stem}_{name}.png"), draw))
    return pictures


def pictures_of_roundtrips(path: Path, folder: Path | None) -> list[Picture]:
    """The pictures of a file of worst roundtrips. Raises DataError if it is broken."""
    saved = SavedRoundtrips.load(path)
    stem = (folder or path.parent) / path.stem.removesuffix("_worst")
    figures = {"errors": partial(draw_roundtrip_errors, saved)}
    if len(saved.originals):
        figures["worst"] = partial(draw_worst, saved)
    return [Picture.of_figure(Path(f"{stem}_{name}.png"), draw) for name, draw in figures.items()]


def picture_of_image_files(path: Path, folder: Path | None) -> Picture:
    """The picture of a zip or folder of images, of which it reads as many as are drawn.

    It lies beside them and not among them, where it would be taken for one of them.
    """
    pixels, count = first_images(path, MOST_IN_GRID)
    place = Path(os.path.abspath(path))  # a name for "." too, and links stay links
    name = place.name if place.is_dir() else place.stem
    while PART.fullmatch(place.name):
        place = place.parent
        name = f"{place.name}_{name}"
    draw = partial(grid_figure, pixel_cells(pixels), count, f"Images of {name}")
    return Picture.of_figure((folder or place.parent) / f"{name}_images.png", draw)


def _melts_and_roundtrips(
    trajectories: Sequence[SavedTrajectory],
) -> Iterator[tuple[SavedTrajectory, SavedTrajectory]]:
    """Melts, each with the roundtrip that starts where it ends."""
    melts = [item for item in trajectories if item.kind == "melt"]
    for back in trajectories:
        for melt in melts if back.kind == "roundtrip" else ():
            names = [(item.path.parent, stem_of(item.path)) for item in (melt, back)]
            end, start = images_of(melt)[-1], images_of(back)[0]
            if names[0] != names[1] or end.shape != start.shape:
                continue
            if np.abs(end - start).max() <= SAME * np.abs(end).max():
                yield melt, back
