"""The picture of a zip or folder of images: the first of them in a grid."""

import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from training.data.images.containers import image_names, open_container
from training.data.images.dataset import ImageDataset
from training.pictures.images.grids import draw_grid
from training.pictures.images.pixels import pixel_cells
from training.pictures.style.picture import Picture, figures

MOST_IN_GRID = 100
PART = re.compile(r"\d{5,6}")  # a folder of a thousand of the images


def pictures_of_image_files(path: Path, folder: Path | None) -> list[Picture]:
    """The picture of a zip or folder of images, of which it reads as many as are drawn.

    It lies beside them and not among them, where it would be taken for one of them.
    """
    pixels, count = first_images(path, MOST_IN_GRID)
    place = Path(os.path.abspath(path))  # a name for "." too, and links stay links
    name = place.name if place.is_dir() else place.stem
    while PART.fullmatch(place.name):
        place = place.parent
        name = f"{place.name}_{name}"
    draw = partial(draw_grid, pixel_cells(pixels), count, f"Images of {name}")
    return figures((folder or place.parent) / name, {"images": draw})


def holds_images(path: Path) -> bool:
    """Whether a zip or folder has images in it, or in folders that are called by numbers.

    Raises:
        DataError: A zip that cannot be read, or with unsafe names.
    """
    container = open_container(path)
    try:
        names = image_names(container)
    finally:
        container.close()
    return any(all(part.isdigit() for part in name.split("/")[:-1]) for name in names)


def first_images(path: Path, count: int) -> tuple[np.ndarray, int]:
    """The first images of a zip or folder, by name, and how many it has in all.

    Returns:
        Pixels ``[n, C, H, W]`` uint8, with n no more than the count; and the number of all.

    Raises:
        DataError: No images, or one that is broken, not square, or of another shape than the first.
    """
    dataset = ImageDataset(path)
    try:
        pixels, _ = dataset.read(range(min(count, len(dataset))))
    finally:
        dataset.close()
    return pixels.numpy(), len(dataset)
