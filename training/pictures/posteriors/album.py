"""Choice of the pictures of posteriors and of their checks, by the kind of the points."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from training.files.arrays import title_of
from training.files.population import SavedPopulation
from training.files.posterior_draws import load_netcdf
from training.pictures import theme
from training.pictures.posteriors.chains import draw_chains, has_chains
from training.pictures.posteriors.tables import (
    draw_images,
    draw_marginals,
    draw_pairs,
    draw_population,
)
from training.pictures.posteriors.toys import draw_toy, toy_of
from training.pictures.posteriors.words import MOST_SHOWN


def pictures_of_posteriors(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the pictures of a file of posterior draws.

    Raises:
        DataError: The file is broken.
    """
    saved = load_netcdf(path, MOST_SHOWN)
    toy = toy_of(saved.toy, len(saved.names))
    draw: dict[str, Callable[[], Figure]] = {}
    if toy is not None:
        draw["points"] = partial(draw_toy, saved, toy)
    elif saved.image_shape is not None:
        draw["images"] = partial(draw_images, saved)
    else:
        draw["marginals"] = partial(draw_marginals, saved)
        if len(saved.names) > 1:
            draw["pairs"] = partial(draw_pairs, saved)
    if has_chains(saved):
        draw["chains"] = partial(draw_chains, saved)
    return theme.figures((folder or path.parent) / path.stem, draw)


def pictures_of_population(path: Path, folder: Path | None) -> list[theme.Picture]:
    """Return the picture of a hierarchical model and its members.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedPopulation.load(path)
    stem = (folder or path.parent) / path.stem
    name, _ = title_of(path.stem.partition("_posterior")[0])
    return theme.figures(stem, {"members": partial(draw_population, saved, name)})
