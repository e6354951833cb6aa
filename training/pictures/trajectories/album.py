"""Which pictures are drawn of simulations: clouds, latents, densities, animations, overviews."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from training.files.names import stem_of
from training.files.trajectory import SavedTrajectory
from training.pictures.style.picture import Picture, figures
from training.pictures.trajectories.animation import VERBS, animate_cloud, animation_of
from training.pictures.trajectories.clouds import draw_trajectories
from training.pictures.trajectories.densities import draw_densities
from training.pictures.trajectories.latents import draw_joint, draw_latents


def pictures_of_toys(
    paths: Sequence[Path], folder: Path | None, animation: str | None
) -> list[Picture]:
    """All pictures of simulations of points.

    Args:
        paths: Their files.
        folder: Where the pictures go; None for beside their files.
        animation: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: A file is broken.
    """
    trajectories = [SavedTrajectory.load(path) for path in paths]
    pictures = []
    for item in trajectories:
        stem = (folder or item.path.parent) / item.path.stem.removesuffix("_results")
        pictures += figures(stem, {"clouds": partial(draw_trajectories, [item])})
        pictures += pictures_of_latents(item, stem)
        if animation is not None and item.kind in VERBS:
            pictures.append(animation_of(item, stem, animation, animate_cloud))
    return pictures + overviews(trajectories, folder)


def pictures_of_latents(item: SavedTrajectory, stem: Path) -> list[Picture]:
    """What is drawn of a melt's last states, and of the log densities of melts and generations."""
    draw: dict[str, Callable[[], Figure]] = {}
    if item.kind == "melt":
        draw |= {"latents": partial(draw_latents, item), "joint": partial(draw_joint, item)}
    if item.log_prob is not None and item.kind != "roundtrip":
        draw["log_prob"] = partial(draw_densities, item)
    return figures(stem, draw)


def overviews(trajectories: Sequence[SavedTrajectory], folder: Path | None) -> list[Picture]:
    """The clouds of each run's melt and generation together."""

    def run(item: SavedTrajectory) -> tuple[Path, str, int]:
        return item.path.parent, stem_of(item.path), item.dim

    gens = {run(item): item for item in trajectories if item.kind == "gen"}
    pictures = []
    for melt in trajectories:
        if melt.kind == "melt" and run(melt) in gens:
            stem = (folder or melt.path.parent) / stem_of(melt.path)
            draw = partial(draw_trajectories, [melt, gens[run(melt)]])
            pictures += figures(stem, {"overview": draw})
    return pictures
