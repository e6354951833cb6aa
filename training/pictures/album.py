"""What is drawn of the files that a user names: which pictures, their names and their words."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dnnlib.errors import DataError
from training.pictures.animation import Animation, frame_times, write_gif, write_mp4
from training.pictures.clouds import Row, draw_clouds, seen_places, telling_times
from training.pictures.colors import colors_of_places
from training.pictures.curves import draw_training
from training.pictures.latents import draw_latents
from training.pictures.runs import SavedTraining
from training.pictures.trajectories import SavedTrajectory, is_trajectory, stem_of, title_of

PANELS = 6
MOST_MOVING_POINTS = 1500
STATS = "stats.jsonl"
TITLES = {
    "melt": "Melting {} into a Gaussian",
    "roundtrip": "Melted {} flowing back",
    "gen": "Generating {} from a Gaussian",
}
SHORT_TITLES = {"melt": "Melting {}", "gen": "Generating {}"}
COLORS = {
    "melt": "points keep the color of their place in the data",
    "roundtrip": "points have the colors of the melt",
    "gen": "points keep the color of their place in the Gaussian",
}


@dataclass(frozen=True)
class Picture:
    """A picture that can be made.

    Attributes:
        path: What it is to be named.
        write: Draws it into a file.
    """

    path: Path
    write: Callable[[Path], None]


def pictures_of(
    paths: Iterable[Path], folder: Path | None, animation_format: str | None
) -> list[Picture]:
    """All pictures of the files at some paths. Reads and checks the files; draws nothing yet.

    Args:
        paths: Results files, statistics of runs, or folders of these.
        folder: Where the pictures go; None for beside their files.
        animation_format: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: A path is missing, broken, or nothing that can be drawn.
    """
    trajectories, pictures = [], []
    for path in drawable_files(paths):
        if path.suffix == ".npz":
            trajectories.append(SavedTrajectory.load(path))
        else:
            pictures.append(_of_training(path, folder or path.parent))
    for trajectory in trajectories:
        pictures += _of_trajectory(trajectory, folder or trajectory.path.parent, animation_format)
    for melt, gen in _pairs(trajectories):
        path = (folder or melt.path.parent) / f"{stem_of(melt.path)}_overview.png"
        pictures.append(Picture(path, partial(_save_clouds, [melt, gen])))
    return pictures


def drawable_files(paths: Iterable[Path]) -> list[Path]:
    """The files themselves, and those of the folders that can be drawn, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if _can_be_drawn(file)]
            if not files:
                raise DataError(f"{path} holds neither results (.npz) of a simulation nor {STATS}")
        elif not path.exists():
            raise DataError(f"{path} does not exist: give results (.npz), {STATS}, or a folder")
        elif path.suffix in (".npz", ".jsonl"):
            files = [path]
        else:
            raise DataError(
                f"{path} cannot be drawn: give results (.npz) of a simulation, {STATS}, or a "
                "folder with such files"
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
    if file.name.startswith("."):
        return False
    return file.name == STATS or (file.suffix == ".npz" and is_trajectory(file))


def _of_trajectory(
    trajectory: SavedTrajectory, folder: Path, animation_format: str | None
) -> list[Picture]:
    stem = trajectory.path.stem.removesuffix("_results")
    pictures = [Picture(folder / f"{stem}_clouds.png", partial(_save_clouds, [trajectory]))]
    if trajectory.kind == "melt":
        path = folder / f"{stem}_latents.png"
        pictures.append(Picture(path, partial(_save_latents, trajectory)))
    if animation_format is not None and trajectory.kind in SHORT_TITLES:
        path = folder / f"{stem}_animation.{animation_format}"
        pictures.append(Picture(path, partial(_save_animation, trajectory)))
    return pictures


def _of_training(path: Path, folder: Path) -> Picture:
    training = SavedTraining.load(path)
    last = training.loss[np.isfinite(training.loss)][-1]

    def write(destination: Path) -> None:
        figure = draw_training(
            training.samples,
            training.loss,
            training.learning_rate,
            title=f"Training of {path.resolve().parent.name}",
            subtitle=f"{training.samples[-1]:.3g} million samples, last loss {last:.4f}",
        )
        _save(figure, destination)

    return Picture(folder / "training_curve.png", write)


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


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png")


def _save_clouds(trajectories: Sequence[SavedTrajectory], path: Path) -> None:
    rows = [row_of(item, telling_times(item.points(), PANELS)) for item in trajectories]
    _save(draw_clouds(rows), path)


def _save_latents(trajectory: SavedTrajectory, path: Path) -> None:
    name, details = title_of(trajectory.path)
    words = [
        f"bars: {trajectory.count} points at t = {trajectory.times[-1]:.2f}",
        "curve: closed form",
        f"sampling error of a variance: {np.sqrt(2 / trajectory.count):.1%}",
    ]
    figure = draw_latents(
        trajectory.last,
        trajectory.closed_form_variance(),
        trajectory.compressed(),
        title=f"Latents of melted {name}" + (f": {details}" if details else ""),
        subtitle=" · ".join(words),
    )
    _save(figure, path)


def _save_animation(trajectory: SavedTrajectory, path: Path) -> None:
    row = row_of(trajectory, frame_times(len(trajectory.times)), MOST_MOVING_POINTS)
    name, details = title_of(trajectory.path)
    title = SHORT_TITLES[trajectory.kind].format(name)
    animation = Animation(replace(row, title=title, subtitle=details))
    write = write_gif if path.suffix == ".gif" else write_mp4
    write(path, animation.frames(), animation.seconds())
