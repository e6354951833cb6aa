"""What is drawn of the files that a user names: which pictures, their names and their words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dnnlib.errors import DataError
from torch_utils.results import open_arrays
from training.pictures.correlations.album import (
    pictures_of_image_matrices,
    pictures_of_lags,
    pictures_of_toy_matrices,
)
from training.pictures.correlations.saved_lags import holds_lags
from training.pictures.correlations.saved_matrices import (
    holds_image_matrices,
    holds_residuals,
    holds_toy_matrices,
)
from training.pictures.coverage.album import pictures_of_coverage
from training.pictures.coverage.saved import holds_coverage
from training.pictures.images.album import (
    picture_of_image_files,
    pictures_of_images,
    pictures_of_roundtrips,
)
from training.pictures.images.saved import holds_images, holds_roundtrips
from training.pictures.images.simulations import animate_grid
from training.pictures.saved_training import SavedTraining
from training.pictures.style.colors import colors_of_places
from training.pictures.style.picture import Picture
from training.pictures.training import draw_training
from training.pictures.trajectories.animation import (
    Animation,
    CloudAnimation,
    frame_times,
    write_gif,
    write_mp4,
)
from training.pictures.trajectories.clouds import Row, draw_clouds, seen_places, telling_times
from training.pictures.trajectories.latents import draw_latents
from training.pictures.trajectories.saved import (
    TITLES,
    SavedTrajectory,
    holds_trajectory,
    stem_of,
    title_of,
)

PANELS = 6
MOST_MOVING_POINTS = 1500
STATS = "stats.jsonl"
DrawFile = Callable[[Path, Path | None], list[Picture]]
DRAWN_ALONE: tuple[tuple[Callable[[list[str]], bool], DrawFile], ...] = (
    (holds_roundtrips, pictures_of_roundtrips),
    (holds_coverage, pictures_of_coverage),
    (holds_lags, pictures_of_lags),
    (holds_toy_matrices, pictures_of_toy_matrices),
)
SHORT_TITLES = {"melt": "Melting {}", "gen": "Generating {}"}
COLORS = {
    "melt": "points keep the color of their place in the data",
    "roundtrip": "points have the colors of the melt",
    "gen": "points keep the color of their place in the Gaussian",
}


def pictures_of(
    paths: Iterable[Path], folder: Path | None, animation_format: str | None
) -> list[Picture]:
    """All pictures of the files at some paths. Reads and checks the files; draws nothing yet.

    Args:
        paths: Results files, statistics of runs, zips of images, or folders of any of these.
        folder: Where the pictures go; None for beside their files.
        animation_format: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: A path is missing, broken, or nothing that can be drawn.
    """
    trajectories: list[SavedTrajectory] = []
    pictures: list[Picture] = []
    matrices: list[Path] = []
    for path in drawable_files(paths):
        if path.is_dir() or path.suffix == ".zip":
            pictures.append(picture_of_image_files(path, folder))
        elif path.suffix != ".npz":
            pictures.append(_of_training(path, folder or path.parent))
        elif draw := _drawn_alone(names := _arrays_of(path)):
            pictures += draw(path, folder)
        elif holds_image_matrices(names):
            matrices.append(path)
        elif holds_residuals(names):
            raise DataError(
                f"{path} holds residuals, which are not drawn: give the correlations that "
                "calc_net_residuals_autocorrelations.py makes of them"
            )
        else:
            trajectories.append(SavedTrajectory.load(path))
    pictures += pictures_of_image_matrices(matrices, folder)
    for trajectory in trajectories:
        pictures += _of_trajectory(trajectory, folder or trajectory.path.parent, animation_format)
    pictures += pictures_of_images([item for item in trajectories if item.has_images], folder)
    for melt, gen in _pairs(trajectories):
        path = (folder or melt.path.parent) / f"{stem_of(melt.path)}_overview.png"
        pictures.append(Picture.of_figure(path, partial(_clouds, [melt, gen])))
    return pictures


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


def row_of(trajectory: SavedTrajectory, times: np.ndarray, most: int | None = None) -> Row:
    """A trajectory as a row of a picture.

    Args:
        trajectory: As saved.
        times: Indices of the saved times to show.
        most: How many points to draw at most, evenly spaced ones.
    """
    points = trajectory.points()
    count = points.shape[1]
    points = points[:, np.linspace(0, count - 1, min(count, most or count)).round().astype(int)]
    kind = trajectory.kind
    # A roundtrip ends where its melt began: so they share their colors.
    places = seen_places(points[-1 if kind == "roundtrip" else 0])
    places = places - places.mean(axis=0)
    name, details = title_of(trajectory.path)
    if trajectory.eigenvectors is None:
        seen = f"first {trajectory.shown_dims} of {trajectory.dim} eigen-dimensions"
    else:
        seen = "scaled variable"
    words = [word for word in (details, seen, COLORS[kind]) if word]
    return Row(
        points=points[times],
        times=trajectory.times[times],
        colors=colors_of_places(places, float(places.std(axis=0).max())),
        axis_names=trajectory.axis_names,
        title=TITLES[kind].format(name),
        subtitle=" · ".join(words),
    )


def _can_be_drawn(file: Path) -> bool:
    if file.name.startswith(".") or file.suffix not in (".npz", ".jsonl"):
        return False
    if file.suffix == ".jsonl":
        return file.name == STATS
    names = _arrays_of(file)
    drawn_together = holds_trajectory(names) or holds_image_matrices(names)
    return drawn_together or _drawn_alone(names) is not None


def _drawn_alone(names: list[str]) -> DrawFile | None:
    """What draws a file with arrays of these names, unless it is drawn together with others."""
    return next((draw for holds, draw in DRAWN_ALONE if holds(names)), None)


def _arrays_of(file: Path) -> list[str]:
    with open_arrays(file) as saved:
        return saved.names


def _of_trajectory(
    trajectory: SavedTrajectory, folder: Path, animation_format: str | None
) -> list[Picture]:
    stem = trajectory.path.stem.removesuffix("_results")
    pictures = []
    if not trajectory.has_images:
        path = folder / f"{stem}_clouds.png"
        pictures.append(Picture.of_figure(path, partial(_clouds, [trajectory])))
    if trajectory.kind == "melt":
        path = folder / f"{stem}_latents.png"
        pictures.append(Picture.of_figure(path, partial(_latents, trajectory)))
    if animation_format is not None and trajectory.kind in SHORT_TITLES:
        path = folder / f"{stem}_animation.{animation_format}"
        pictures.append(Picture(path, partial(_save_animation, trajectory)))
    return pictures


def _of_training(path: Path, folder: Path) -> Picture:
    training = SavedTraining.load(path)
    last = training.loss[np.isfinite(training.loss)][-1]
    draw = partial(
        draw_training,
        training.samples,
        training.loss,
        training.learning_rate,
        title=f"Training of {path.resolve().parent.name}",
        subtitle=f"{training.samples[-1]:.3g} million samples, last loss {last:.4f}",
    )
    return Picture.of_figure(folder / "training_curve.png", draw)


def _pairs(
    trajectories: Sequence[SavedTrajectory],
) -> list[tuple[SavedTrajectory, SavedTrajectory]]:
    """Melts and generations of the same run."""
    gens = {
        (item.path.parent, stem_of(item.path), item.dim): item
        for item in trajectories
        if item.kind == "gen"
    }
    keys = [(item.path.parent, stem_of(item.path), item.dim) for item in trajectories]
    return [
        (item, gens[key])
        for item, key in zip(trajectories, keys, strict=True)
        if item.kind == "melt" and key in gens
    ]


def _clouds(trajectories: Sequence[SavedTrajectory]) -> Figure:
    rows = [row_of(item, telling_times(item.points(), PANELS)) for item in trajectories]
    return draw_clouds(rows)


def _latents(trajectory: SavedTrajectory) -> Figure:
    name, details = title_of(trajectory.path)
    words = [
        f"bars: {trajectory.count} points at t = {trajectory.times[-1]:.2f}",
        "curve: closed form",
        f"sampling error of a variance: {np.sqrt(2 / trajectory.count):.1%}",
    ]
    return draw_latents(
        trajectory.last,
        trajectory.closed_form_variance(),
        trajectory.compressed(),
        title=f"Latents of melted {name}" + (f": {details}" if details else ""),
        subtitle=" · ".join(words),
    )


def _save_animation(trajectory: SavedTrajectory, path: Path) -> None:
    name, details = title_of(trajectory.path)
    title = SHORT_TITLES[trajectory.kind].format(name)
    animation: Animation
    if trajectory.has_images:
        animation = animate_grid(trajectory, title, details)
    else:
        row = row_of(trajectory, frame_times(len(trajectory.times)), MOST_MOVING_POINTS)
        animation = CloudAnimation(replace(row, title=title, subtitle=details))
    write = write_gif if path.suffix == ".gif" else write_mp4
    write(path, animation.frames(), animation.seconds())
