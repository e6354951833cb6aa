"""Pictures of a point cloud at several times; every point keeps its color."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from training.files.arrays import evenly, parameter, stem_of, title_of
from training.files.trajectory import SavedTrajectory
from training.pictures import theme
from training.pictures.theme import INK, MUTED

CLOSED_FORM = "latents: closed-form Gaussian"


def name_and_details(trajectory: SavedTrajectory) -> tuple[str, str]:
    """Return the name of the data, and its schedule and denoiser in words."""
    return title_of(stem_of(trajectory.path))


def latent_law(trajectory: SavedTrajectory) -> str:
    """Describe the base distribution that a generation drew its latents from.

    The result is empty for other simulations, or if the distribution is unknown.

    Raises:
        DataError: The parameters next to the file are broken.
    """
    if trajectory.kind != "gen":
        return ""
    stem = stem_of(trajectory.path)
    path = trajectory.path.with_name(f"{stem}_sim_params.json")
    options = parameter(path, "options")
    if options is None:  # images, which may have been simulated one by one
        path = trajectory.path.with_name(f"{stem}_HD_pfODE_int_sim_params.json")
        options = parameter(path, "gen", "options")
    options = options if isinstance(options, dict) else {}
    chosen = options.get("eps")
    if chosen is None:
        return ""
    eps, compressed = str(chosen), trajectory.compressed()
    paper, number = eps.startswith("paper"), eps.rpartition(":")[2]
    if "empirical" in (eps, options.get("gen_source")):
        return "latents: variances of the melt"
    if eps == "learned":
        return "latents: learned distribution"
    if eps == "auto" or not (compressed.any() or paper):
        return CLOSED_FORM
    if not compressed.any():
        return "latents: variance A0²"
    distribution = ("A0² and " if paper else "") + f"ε = {number:.12}"
    closed_form = theme.brief(trajectory.latent_variance()[compressed].mean())
    return f"latents: {distribution}, closed form {closed_form}"


PANELS = 6
LEFT, RIGHT, GAP = 0.5, 0.1, 0.14  # inches around and between the panels
TIME_HEIGHT, TICKS_HEIGHT = 0.24, 0.6
# Share of a cloud's points that may lie outside the limits of an axis, so that strays do not shrink
# the rest. A cube needs more room than a square to contain the same points.
STRAYS = {2: 5e-4, 3: 4e-3}
TITLES = {
    "melt": "Inflating {} to a Gaussian",
    "roundtrip": "Generating {} back",
    "gen": "Generating {} from a Gaussian",
}
EMPTY = 1e-3
"""Fraction of the top eigenvalue below which a dimension of an embedded toy contains no data."""
COLORS = {
    "melt": "colors: position in the data",
    "roundtrip": "colors of the inflated points",
    "gen": "colors: position in the Gaussian",
}


def shown_dims(trajectory: SavedTrajectory) -> int:
    """Return the number of dimensions to draw: 3 if the data has exactly three, else 2."""
    full = int((trajectory.eigenvalues > EMPTY * trajectory.eigenvalues.max()).sum())
    return 3 if trajectory.dim == 3 or (trajectory.dim > 3 and full == 3) else 2


def axis_names(trajectory: SavedTrajectory) -> list[str]:
    """Return a name for each shown dimension."""
    letter = "x" if trajectory.eigenvectors is not None else "e"
    return [f"${letter}_{number}$" for number in range(1, shown_dims(trajectory) + 1)]


def points_of(trajectory: SavedTrajectory) -> np.ndarray:
    """Return the scaled points to draw, ``[S, n, shown_dims]``.

    Points are in image space if that can be drawn completely, else in the first eigen-dimensions.
    """
    if trajectory.eigenvectors is not None:
        shift = trajectory.scale[:, None, None] * trajectory.mean
        return trajectory.states @ trajectory.eigenvectors.T + shift
    return trajectory.states[..., : shown_dims(trajectory)]


@dataclass(frozen=True)
class Row:
    """One trajectory to draw.

    Attributes:
        points: Points ``[K, N, 2 or 3]``.
        times: Times ``[K]``.
        colors: Color of each point ``[N, 3]``.
        axis_names: Name of each dimension.
        title: Title of the row.
        subtitle: How to read the row.
    """

    points: np.ndarray
    times: np.ndarray
    colors: np.ndarray
    axis_names: Sequence[str]
    title: str
    subtitle: str


def draw_trajectories(trajectories: Sequence[SavedTrajectory]) -> Figure:
    """Draw a row for each trajectory, at its most informative times."""
    return draw_clouds(
        [row_of(item, telling_times(points_of(item), PANELS)) for item in trajectories]
    )


def row_of(trajectory: SavedTrajectory, times: np.ndarray, most: int | None = None) -> Row:
    """Return a trajectory as a row of a picture.

    Args:
        trajectory: Trajectory to draw.
        times: Indices of saved times.
        most: Largest number of points, an evenly spaced subset; None for all.
    """
    points, kind = points_of(trajectory), trajectory.kind
    points = points[:, evenly(points.shape[1], most or points.shape[1])]
    # A roundtrip ends where its melt began, so the two share their colors.
    places = page_positions(points[-1 if kind == "roundtrip" else 0])
    places = places - places.mean(axis=0)
    name, details = name_and_details(trajectory)
    if trajectory.eigenvectors is None:
        seen = f"first {shown_dims(trajectory)} of {trajectory.dim} eigen-dimensions"
    else:
        seen = "scaled variable"
    return Row(
        points=points[times],
        times=trajectory.times[times],
        colors=theme.colors_of_places(places, float(places.std(axis=0).max())),
        axis_names=axis_names(trajectory),
        title=TITLES[kind].format(name),
        subtitle=theme.joined(details, latent_law(trajectory), seen, COLORS[kind]),
    )


def draw_clouds(rows: Sequence[Row]) -> Figure:
    """Draw rows of panels under one another, all on the same scale, one panel per time."""
    columns = max(len(row.times) for row in rows)
    side = (theme.WIDE - LEFT - RIGHT - GAP * (columns - 1)) / columns
    figure, places = theme.panel_page(
        len(rows),
        columns,
        (side, side),
        left=LEFT,
        right=RIGHT,
        gap=GAP,
        top=theme.MARGIN,
        above=theme.HEADLINE_HEIGHT + TIME_HEIGHT,
        below=TICKS_HEIGHT,
    )
    box = common_box([row.points for row in rows])
    for row, line in zip(rows, places, strict=True):
        top = line[0, 1] + side + TIME_HEIGHT + theme.HEADLINE_HEIGHT
        theme.headline(figure, row.title, row.subtitle, LEFT, top)
        beyond = int((~inside(row.points, box)).any(axis=0).sum())
        if beyond:
            text = f"{beyond} of {row.points.shape[1]} points are outside the axes"
            width, height = figure.get_size_inches()
            style: dict[str, Any] = {"size": theme.SMALL_SIZE, "ha": "right", "va": "top"}
            figure.text(1 - RIGHT / width, top / height, text, color=MUTED, **style)
        # The first panel names the axes for all.
        names = [row.axis_names, *[()] * (columns - 1)]
        for points, time, place, named in zip(row.points, row.times, line, names, strict=False):
            axes = cloud_axes(figure, place, box, named)
            scatter(axes, points, row.colors)
            axes.set_title(f"t = {time:.2f}", size=theme.TEXT_SIZE, color=INK, pad=5)
    return figure


def common_box(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """Return the limits ``[d, 2]`` of a square or cube around several clouds ``[..., d]``.

    Stray points may lie outside.
    """
    share = STRAYS[clouds[0].shape[-1]] / 2
    ends = [np.quantile(cloud, [share, 1 - share], axis=-2) for cloud in clouds]
    low, high = np.concatenate([end.reshape(2, -1, end.shape[-1]) for end in ends], axis=1)
    low, high = low.min(axis=0), high.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9) * 1.08
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def inside(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a mask ``[...]`` of the points ``[..., d]`` within limits ``[d, 2]``."""
    return np.asarray(((points >= box[:, 0]) & (points <= box[:, 1])).all(axis=-1))


def page_positions(points: np.ndarray) -> np.ndarray:
    """Project points ``[..., 2 or 3]`` onto the page ``[..., 2]``, in the units of the points."""
    if points.shape[-1] == 2:
        return points
    elevation, azimuth = np.deg2rad([theme.ELEVATION, theme.AZIMUTH])
    right = [-np.sin(azimuth), np.cos(azimuth), 0.0]
    level = -np.sin(elevation)
    up = [level * np.cos(azimuth), level * np.sin(azimuth), np.cos(elevation)]
    return points @ np.array([right, up]).T


def telling_times(points: np.ndarray, count: int) -> np.ndarray:
    """Return indices of at most ``count`` informative times of points ``[S, N, d]``.

    The first and last times are always included. The points move about equally far between chosen
    times, since most saved times may be near the data, where points hardly move. The number of
    saved times in between has a small weight.
    """
    saved = len(points)
    moved = np.sqrt(np.square(np.diff(points, axis=0)).sum(axis=-1).mean(axis=-1))
    path = np.concatenate([[0.0], np.cumsum(moved)])
    share = 0.75 * path / max(path[-1], 1e-12) + 0.25 * np.linspace(0, 1, saved)
    count = min(count, saved)
    chosen = [0]
    for number in range(1, count):
        nearest = int(np.abs(share - share[-1] * number / (count - 1)).argmin())
        chosen.append(int(np.clip(nearest, chosen[-1] + 1, saved - count + number)))
    return np.array(chosen)


def cloud_axes(figure: Figure, place: ArrayLike, box: np.ndarray, names: Sequence[str]) -> Any:
    """Return axes of equal aspect for a cloud in limits ``[2 or 3, 2]``.

    Args:
        figure: Figure to draw on.
        place: Left, bottom, width and height in inches.
        box: Limits.
        names: Names of the dimensions. Without names the axes have no numbers where neighboring
            axes show them.
    """
    if len(box) == 3:
        axes = theme.axes_at(figure, place, projection="3d")
        axes.set(xlim=box[0], ylim=box[1], zlim=box[2])
        axes.set_box_aspect((1, 1, 1), zoom=1.2)
        theme.quiet_3d(axes, names)
        return axes
    axes = theme.axes_at(figure, place)
    axes.set(xlim=box[0], ylim=box[1], aspect="equal")
    axes.locator_params(nbins=5)
    axes.tick_params(labelleft=bool(names))
    if names:
        theme.label(axes, names[0], names[1])
    return axes


def scatter(axes: Any, points: np.ndarray, colors: np.ndarray, size: float = 4.0) -> Any:
    """Draw points ``[N, 2 or 3]`` in colors ``[N, 3]``; in 3-D, omit points outside the limits."""
    if points.shape[-1] == 2:
        return axes.scatter(*points.T, c=colors, s=size, linewidths=0, alpha=0.85)
    box = np.array([axes.get_xlim(), axes.get_ylim(), axes.get_zlim()])
    seen = inside(points, box)
    # Distant points are drawn paler.
    return axes.scatter(*points[seen].T, c=colors[seen], s=size, linewidths=0, clip_on=False)
