"""Choice of the pictures of simulations, and animations with one frame per saved time."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dnnlib.errors import DataError, UsageError
from training.files.arrays import evenly, stem_of
from training.files.trajectory import SavedTrajectory
from training.pictures import theme
from training.pictures.theme import FAINT, INK, MUTED
from training.pictures.trajectories.clouds import (
    CLOSED_FORM,
    Row,
    cloud_axes,
    common_box,
    draw_trajectories,
    latent_law,
    name_and_details,
    row_of,
    scatter,
)
from training.pictures.trajectories.latents import draw_densities, draw_joint, draw_latents

SIDE, LEFT, RIGHT, TICKS_HEIGHT, TIME_HEIGHT = 3.7, 0.5, 0.4, 0.45, 0.5  # inches
DPI = 110
MOST_FRAMES = 90
MOVING_SECONDS, FIRST_SECONDS, LAST_SECONDS = 2.8, 0.4, 1.1
NEARLY_WHITE = 248  # of 255, and above the panes of 3-D axes
SHORTEST, LONGEST = 0.03, 0.25  # seconds of one frame
FEW_FRAMES = 20
MOST_POINTS = 1500
VERBS = {"melt": "Melting", "gen": "Generating"}


class CloudAnimation:
    """A point cloud that moves between fixed limits, above a time line.

    Args:
        row: Points at the times of the frames.
        title: Title of the animation.
        subtitle: Line below the title.

    Attributes:
        axes: Axes of the cloud.
        dots: Points of the frame that was drawn last.
    """

    def __init__(self, row: Row, title: str, subtitle: str):
        self._row, self._times = row, row.times
        bottom = TICKS_HEIGHT + TIME_HEIGHT
        height = theme.TOP + SIDE + bottom
        self.figure = theme.new_figure(LEFT + SIDE + RIGHT, height)
        self.figure.set_dpi(DPI)
        self._canvas: Any = FigureCanvasAgg(self.figure)  # its methods have no types
        theme.headline(self.figure, title, subtitle, LEFT, height - theme.MARGIN)
        self._low, self._high = sorted((float(row.times[0]), float(row.times[-1])))
        axes = theme.axes_at(self.figure, (LEFT + 0.6, 0.12, SIDE - 1.25, 0.3))
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        axes.set_axis_off()
        axes.plot([0, 1], [0, 0], color=FAINT, lw=2, solid_capstyle="round", clip_on=False)
        words: dict[str, Any] = {"size": theme.SMALL_SIZE, "color": MUTED, "va": "center_baseline"}
        axes.text(-0.05, 0, "data", ha="right", **words)
        axes.text(1.05, 0, "Gaussian", ha="left", **words)
        (self._mark,) = axes.plot([0], [0], "o", color=INK, markersize=5.5, clip_on=False)
        above: dict[str, Any] = {"ha": "center", "va": "bottom"}
        self._label = axes.text(0, 0.75, "", size=theme.TEXT_SIZE, color=INK, **above)
        place = (LEFT, bottom, SIDE, SIDE)
        self.axes = cloud_axes(self.figure, place, common_box([row.points]), row.axis_names)
        self.dots = scatter(self.axes, row.points[0], row.colors, size=9)

    def _show(self, number: int) -> None:
        points = self._row.points[number]
        if points.shape[-1] == 3:
            # Matplotlib has no public way to move 3-D points.
            self.dots.remove()
            self.dots = scatter(self.axes, points, self._row.colors, size=9)
        else:
            self.dots.set_offsets(points)

    def frames(self) -> list[np.ndarray]:
        """Return the frames as RGB ``[S, height, width, 3]``, 8 bits."""
        made = []
        for number, time in enumerate(self._times.tolist()):
            self._show(number)
            where = (time - self._low) / (self._high - self._low)
            self._mark.set_data([where], [0])
            self._label.set_text(f"t = {time:.2f}")
            self._label.set_x(where)
            self._canvas.draw()
            made.append(np.asarray(self._canvas.buffer_rgba())[..., :3].copy())
        return made

    def seconds(self) -> list[float]:
        """Return the duration of each frame in seconds ``[S]``; the first and last are longer."""
        count = len(self._times)
        each = float(np.clip(MOVING_SECONDS / count, SHORTEST, LONGEST))
        return [FIRST_SECONDS, *[each] * (count - 2), LAST_SECONDS]


def animation_of(trajectory: SavedTrajectory, stem: Path, suffix: str) -> theme.Picture:
    """Return the animation of an inflation (melt) or a generation of toy data.

    Args:
        trajectory: Simulation to animate.
        stem: Folder and first part of the file name.
        suffix: ``gif`` or ``mp4``.
    """
    name, details = name_and_details(trajectory)
    distribution = latent_law(trajectory)
    words = details if distribution in ("", CLOSED_FORM) else distribution
    title = f"{VERBS[trajectory.kind]} {name}"

    def save(path: Path) -> None:
        animation = animate_cloud(trajectory, title, words)
        write = write_gif if suffix == "gif" else write_mp4
        write(path, animation.frames(), animation.seconds())

    frames = min(len(trajectory.times), MOST_FRAMES)
    note = f"{frames} frames: more with --save_freq=1" if frames < FEW_FRAMES else ""
    return theme.Picture(stem.with_name(f"{stem.name}_animation.{suffix}"), save, note)


def animate_cloud(trajectory: SavedTrajectory, title: str, subtitle: str) -> CloudAnimation:
    """Return the animation of all points of a trajectory."""
    row = row_of(trajectory, evenly(len(trajectory.times), MOST_FRAMES), MOST_POINTS)
    return CloudAnimation(row, title, subtitle)


def write_gif(path: Path, frames: Sequence[np.ndarray], seconds: Sequence[float]) -> None:
    """Write an endless GIF of RGB frames with a common palette, so that no color flickers."""
    images = [Image.fromarray(frame) for frame in frames]
    sample = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
    # Keep the page white rather than nearly white: no other color may be close to white.
    sample[sample.min(axis=-1) >= NEARLY_WHITE] = 255
    palette = Image.fromarray(sample).quantize(256, dither=Image.Dither.NONE)
    colors = np.array(palette.getpalette(), dtype=np.uint8).reshape(-1, 3)
    colors[colors.min(axis=1) >= NEARLY_WHITE] = 255
    palette.putpalette(colors.tobytes())
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    # GIF durations are in hundredths of a second.
    durations = [round(second * 100) * 10 for second in seconds]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def require_ffmpeg() -> str:
    """Return the path of ffmpeg.

    Raises:
        UsageError: ffmpeg is not installed.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise UsageError("--format=mp4 needs ffmpeg, which is not installed: use --format=gif")
    return program


def write_mp4(path: Path, frames: Sequence[np.ndarray], seconds: Sequence[float]) -> None:
    """Write an H.264 video of RGB frames.

    Raises:
        UsageError: ffmpeg is not installed.
        DataError: ffmpeg failed.
    """
    program, rate = require_ffmpeg(), 30
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])  # H.264 needs even sides
    command = [program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(rate), "-i", "-"]
    command += ["-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p", str(path)]
    raw = b"".join(
        frame[:height, :width].tobytes() * max(1, round(second * rate))
        for frame, second in zip(frames, seconds, strict=True)
    )
    done = subprocess.run(command, input=raw, capture_output=True, check=False)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise DataError(
            f"ffmpeg could not write {path.name}: {reason[-1] if reason else 'unknown reason'}: "
            "use --format=gif"
        )


def pictures_of_toys(
    paths: Sequence[Path], folder: Path | None, animation: str | None
) -> list[theme.Picture]:
    """Return all pictures of simulations of points, in a folder or next to their files.

    Args:
        paths: Files of simulations.
        folder: Output folder, or None for next to the files.
        animation: ``gif``, ``mp4``, or None for no animations.

    Raises:
        DataError: A file is broken.
    """
    trajectories = [SavedTrajectory.load(path) for path in paths]
    pictures = []
    for item in trajectories:
        stem = (folder or item.path.parent) / item.path.stem.removesuffix("_results")
        pictures += theme.figures(stem, {"clouds": partial(draw_trajectories, [item])})
        pictures += pictures_of_latents(item, stem)
        if animation is not None and item.kind in VERBS:
            pictures.append(animation_of(item, stem, animation))
    return pictures + overviews(trajectories, folder)


def pictures_of_latents(item: SavedTrajectory, stem: Path) -> list[theme.Picture]:
    """Return pictures of the latents of an inflation, and of log densities if they are known."""
    draw: dict[str, Callable[[], Figure]] = {}
    if item.kind == "melt":
        draw |= {"latents": partial(draw_latents, item), "joint": partial(draw_joint, item)}
    if item.log_prob is not None and item.kind != "roundtrip":
        draw["log_prob"] = partial(draw_densities, item)
    return theme.figures(stem, draw)


def overviews(trajectories: Sequence[SavedTrajectory], folder: Path | None) -> list[theme.Picture]:
    """Return a picture of each run, with the points of its inflation and generation by time."""

    def run(item: SavedTrajectory) -> tuple[Path, str, int]:
        return item.path.parent, stem_of(item.path), item.dim

    gens = {run(item): item for item in trajectories if item.kind == "gen"}
    pictures = []
    for melt in trajectories:
        if melt.kind == "melt" and run(melt) in gens:
            stem = (folder or melt.path.parent) / stem_of(melt.path)
            draw = partial(draw_trajectories, [melt, gens[run(melt)]])
            pictures += theme.figures(stem, {"overview": draw})
    return pictures
