"""Animations of point clouds, with one frame per saved time."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from dnnlib.errors import DataError, UsageError
from training.pictures.content import Flow
from training.pictures.drawing import draw
from training.pictures.figure import (
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Words,
    cloud,
    cloud_panel,
    common_box,
)
from training.pictures.theme import FAINT, INK, MUTED

DPI = 110
MOVING_SECONDS, FIRST_SECONDS, LAST_SECONDS = 2.8, 0.4, 1.1
NEARLY_WHITE = 248  # of 255
SHORTEST, LONGEST = 0.03, 0.25  # seconds of one frame


def animate(path: Path, suffix: str, flow: Flow, title: str, subtitle: str) -> None:
    """Write an animation of a point cloud that moves between fixed limits, above a time line.

    Args:
        path: File to write.
        suffix: ``gif`` or ``mp4``.
        flow: Points at the times of the frames.
        title: Title of the animation.
        subtitle: Line below the title.

    Raises:
        UsageError: The program for videos is not installed.
        DataError: The program for videos failed.
    """
    write = write_gif if suffix == "gif" else write_mp4
    write(path, frames_of(flow, title, subtitle), seconds_of(len(flow.times)))


def frames_of(flow: Flow, title: str, subtitle: str) -> list[np.ndarray]:
    """Return the frames of an animation as RGB ``[height, width, 3]``, 8 bits.

    The page is laid out once; then the points and the mark of the time move.
    """
    points, times, colors = flow.points, flow.times, flow.colorings[0].colors
    box, (low, high) = common_box([points]), sorted((float(times[0]), float(times[-1])))
    line: list[Mark] = [
        Line([0, 1], [0, 0], FAINT, width=2),
        Words([-0.05], [0], ["data"], MUTED, align="right"),
        Words([1.05], [0], ["Gaussian"], MUTED, align="left"),
        Points([0.0], [0.0], INK, size=5.5),
        Words([0.0], [1.0], ["t"], INK, 9.5),
    ]
    panels = [
        cloud_panel([cloud(points[0], colors, box, 3.0)], box, flow.names),
        Panel(line, x_limits=(-0.45, 1.45), y_limits=(-0.6, 1.6), axes=False),
    ]
    page = draw(Figure(title, subtitle, panels, size=(3.7, 3.7), heights=[3.7, 0.35]))
    page.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(page)  # its methods have no types
    page.draw_without_rendering()
    page.set_layout_engine("none")
    above, below = page.axes
    dots, mark, label = above.collections[-1], below.collections[-1], below.texts[-1]
    made = []
    for moved, time in zip(points, times.tolist(), strict=True):
        shown = cloud(moved, colors, box)
        dots.set_offsets(np.stack([shown.x, shown.y], axis=1))
        dots.set_facecolor(list(map(tuple, shown.color)))
        where = (time - low) / (high - low)
        mark.set_offsets([[where, 0.0]])
        label.set(x=where, text=f"t = {time:.2f}")
        canvas.draw()
        made.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return made


def seconds_of(count: int) -> list[float]:
    """Return the duration of each frame in seconds; the first and last are longer."""
    each = float(np.clip(MOVING_SECONDS / count, SHORTEST, LONGEST))
    return [FIRST_SECONDS, *[each] * (count - 2), LAST_SECONDS]


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
