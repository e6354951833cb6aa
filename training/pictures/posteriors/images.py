"""Posteriors of images: what was observed, draws, and their mean and standard deviation."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from training.files.arrays import evenly
from training.files.posterior_draws import SavedPosteriors
from training.pictures.images.grids import Column, Scale, draw_rows
from training.pictures.images.pixels import pixel_cells
from training.pictures.posteriors.words import name_and_details, part_of
from training.pictures.style.colors import BLUE, FAINT, INK
from training.pictures.style.words import brief, joined

DRAWS = 6
APART = 20  # pixels before a column of another kind
WIDEST = 1.0
"""Gray levels of the standard deviation, at least, of the darkest color."""
SPREAD = LinearSegmentedColormap.from_list("spread", ("#f4f5f8", BLUE, INK))


def draw_images(saved: SavedPosteriors) -> Figure:
    """A row for each observation. Pixels are in gray levels."""
    shape, shown = saved.image_shape, saved.points.shape[2]
    assert shape is not None
    draws = saved.points.reshape(-1, shown, *shape)
    std = draws.std(axis=0).mean(axis=1)
    columns = [
        Column(gray_levels(draws.mean(axis=0)), "mean", space=APART),
        *(
            Column(gray_levels(draws[place]), f"draw {number + 1}", space=APART * (number == 0))
            for number, place in enumerate(evenly(len(draws), DRAWS))
        ),
    ]
    seen = observed_cells(saved)
    caption = "Standard deviation: of the draws of each pixel"
    if seen is not None:
        columns.insert(0, Column(seen, "observed"))
        hidden = saved.likelihood is not None and saved.likelihood.coordinates is not None
        caption = joined("Tinted: pixels not observed" * hidden, caption, by=". ")
    if saved.truth is not None:
        truth = gray_levels(saved.truth.reshape(shown, *shape))
        columns.insert(0, Column(truth, "truth"))
    reach = max(float(std.max()), WIDEST)
    columns.append(Column(spread_cells(std, reach), "standard\ndeviation", space=APART))
    values = spread_cells(np.linspace(0, reach, 101), reach)
    name, details = name_and_details(saved)
    return draw_rows(
        columns,
        f"Posterior of {name}",
        joined(details, part_of(saved, shown), f"{shape[2]} × {shape[1]} pixels"),
        f"{caption}.",
        scale=Scale(values, f"0 to {brief(reach)} gray levels"),
    )


def gray_levels(values: np.ndarray) -> np.ndarray:
    """Images of gray levels ``[N, C, H, W]`` as 8-bit RGB ``[N, H, W, 3]``."""
    return pixel_cells(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def spread_cells(std: np.ndarray, reach: float) -> np.ndarray:
    """Standard deviations ``[...]`` as colors of 8 bits ``[..., 3]``, darkest at ``reach``."""
    return np.rint(255 * SPREAD(std / reach)[..., :3]).astype(np.uint8)


def observed_cells(saved: SavedPosteriors) -> np.ndarray | None:
    """What was observed, as images ``[m, H, W, 3]``; None where it is no part of an image."""
    shape, likelihood, observed = saved.image_shape, saved.likelihood, saved.observed
    assert shape is not None
    if observed is None or likelihood is None or likelihood.operator is not None:
        return None
    places = likelihood.coordinates
    dim = int(np.prod(shape))
    where = np.arange(dim) if places is None else places.numpy()
    pixels, known = np.zeros((len(observed), dim)), np.zeros(dim, dtype=bool)
    pixels[:, where], known[where] = observed, True
    cells = gray_levels(pixels.reshape(-1, *shape))
    seen: np.ndarray = known.reshape(shape).min(axis=0)
    tint = np.rint(255 * np.array(to_rgb(FAINT)) * (0.8, 0.9, 1.0)).astype(np.uint8)
    return np.where(seen[:, :, None], cells, tint)
