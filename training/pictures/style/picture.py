"""A picture that can be made: its name, and how it is drawn into a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture that can be made.

    Attributes:
        path: The file that it will be.
        write: Draws it into a file.
        note: What the user should know about it; may be empty.
    """

    path: Path
    write: Callable[[Path], None]
    note: str = ""


def figures(stem: Path, draw: Mapping[str, Callable[[], Figure]]) -> list[Picture]:
    """PNGs of figures that are drawn when they are written.

    Args:
        stem: Folder and first part of their names.
        draw: What draws them, by the last part of their names.
    """

    def picture(name: str, make: Callable[[], Figure]) -> Picture:
        path = stem.with_name(f"{stem.name}_{name}.png")
        return Picture(path, lambda destination: make().savefig(destination, format="png"))

    return [picture(name, make) for name, make in draw.items()]
