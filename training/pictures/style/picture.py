"""A picture that can be made: its name, and how it is drawn into a file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture that can be made.

    Attributes:
        path: What it is to be named.
        write: Draws it into a file.
    """

    path: Path
    write: Callable[[Path], None]

    @classmethod
    def of_figure(cls, path: Path, draw: Callable[[], Figure]) -> "Picture":
        """A PNG of a figure that is drawn when it is written."""
        return cls(path, lambda destination: draw().savefig(destination, format="png"))
