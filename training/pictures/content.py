"""Contents of results: figures, interactive parts, tables, and judged numbers.

The module of each kind of result reads its files and returns a ``Content``. ``visualize.py`` draws
its figures into files; a report shows the same figures, the parts, and the judged numbers.
"""

import base64
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from training.pictures.figure import Color, Figure


@dataclass(frozen=True)
class Choice:
    """Number of points of large files that a report shows.

    Attributes:
        points: Largest number of points per panel.
        seed: Random seed for the choice of points.
    """

    points: int = 5000
    seed: int = 0

    def samples(self, count: int) -> np.ndarray:
        """Return the increasing indices of the samples that are shown, out of ``count``."""
        if count <= self.points:
            return np.arange(count)
        generator = np.random.default_rng(self.seed)
        return np.sort(generator.choice(count, self.points, replace=False))


def judged(right: bool, room: float, most: float) -> bool | None:
    """Return whether a measured number is as expected; None if there are too few samples.

    There are too few samples if the tolerance for chance exceeds the error that a reader would want
    to detect.

    Args:
        right: Whether the number is within its tolerance.
        room: Tolerance for chance.
        most: Error that a reader would want to detect.
    """
    return None if right and room > most else right


@dataclass(frozen=True)
class Result:
    """A headline number, and whether it is as expected.

    Attributes:
        of: Data and setting of the measurement.
        name: Name of the number.
        value: Number, in words.
        target: Expected number, in words.
        holds: Whether the number is as expected; None if there are too few samples to judge, or if
            the number is no test.
    """

    of: str
    name: str
    value: str
    target: str
    holds: bool | None

    @classmethod
    def tested(
        cls, of: str, name: str, value: str, target: str, holds: bool | None, samples: str
    ) -> "Result":
        """Return a result whose value states that there are too few samples to judge, if so.

        Args:
            of: Data and setting of the measurement.
            name: Name of the number.
            value: Number, in words.
            target: Expected number, in words.
            holds: Whether the number is as expected; None if there are too few samples.
            samples: Name of the samples, such as ``rows``.
        """
        few = f": too few {samples} to test" if holds is None else ""
        return cls(of, name, value + few, target, holds)


@dataclass(frozen=True)
class NumberTable:
    """A table of numbers."""

    kind: ClassVar[str] = "table"
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Coloring:
    """A choice of colors for the points of a flow.

    Attributes:
        name: Name in the list of choices.
        note: Meaning of the colors.
        colors: sRGB colors of the points ``[n, 3]``.
        scale: Lowest value in words, sRGB colors from the lowest to the highest value, and highest
            value in words; None without a scale.
    """

    name: str
    note: str
    colors: np.ndarray
    scale: tuple[str, np.ndarray, str] | None = None


@dataclass(frozen=True, eq=False)
class Flow:
    """Points of a simulation in two or three dimensions at some times.

    A report shows them as an animation, and the reader can select points.

    Attributes:
        title: Title of the animation.
        words: Base distribution of the latents, and the dimensions that are drawn; may be empty.
        moved: Kind of the simulation, ``melt`` (inflation), ``roundtrip`` or ``gen`` (generation).
        points: Points ``[T, n, d]``.
        times: Times ``[T]``.
        saved_times: Number of times in the file.
        samples: Indices of the points in the file ``[n]``.
        numbers: Numbers of the points in their data set ``[n]``.
        whole: Number of points in the file.
        names: Names of the d axes.
        ends: Titles of the first and of the last state.
        colorings: Choices of colors, at least one.
    """

    title: str
    words: str
    moved: str
    points: np.ndarray
    times: np.ndarray
    saved_times: int
    samples: np.ndarray
    numbers: np.ndarray
    whole: int
    names: Sequence[str]
    ends: tuple[str, str]
    colorings: Sequence[Coloring]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points of a scatter plot of selectable columns.

    Attributes:
        label: Text of the legend.
        rows: Points ``[G, n, K]``. G is the number of groups, or 1 if all groups share the points.
        color: Color.
        alpha: Opacity.
    """

    label: str
    rows: np.ndarray
    color: Color
    alpha: float


@dataclass(frozen=True, eq=False)
class Views:
    """A scatter plot of two of K columns, which the reader selects.

    Attributes:
        title: Title.
        alt: Description for readers who cannot see the chart.
        clouds: Sets of points.
        names: Names of the K columns.
        groups: Names of the groups, for the reader to choose one; empty for one group.
        group: What a group is.
        note: Note below the chart.
    """

    title: str
    alt: str
    clouds: Sequence[Cloud]
    names: Sequence[str]
    groups: Sequence[str] = ()
    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """One picture that contains many images in rows; the page shows single images of it.

    Attributes:
        title: Title of the images.
        note: How the images are shown.
        uri: Data URI of the picture.
    """

    title: str
    note: str
    uri: str

    @classmethod
    def of_cells(cls, cells: np.ndarray, title: str, note: str = "") -> "Sheet":
        """Arrange 8-bit images ``[N, H, W, 3]`` in one picture, in gray if all are gray."""
        page = tiled(cells, sheet_columns(len(cells)), 0)
        gray = bool((page == page[..., :1]).all())
        file = io.BytesIO()
        Image.fromarray(page[..., 0] if gray else page).save(file, "PNG", optimize=True)
        text = base64.b64encode(file.getvalue()).decode()
        return cls(title, note, f"data:image/png;base64,{text}")


def sheet_columns(count: int) -> int:
    """Return the number of images side by side in a sheet."""
    return math.ceil(math.sqrt(count))


def tiled(cells: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """Tile images ``[N, h, w, 3]`` in rows on white, ``gap`` pixels apart: ``[H, W, 3]``."""
    count, height, width, _ = cells.shape
    rows = math.ceil(count / columns)
    page = np.full((rows * columns, height + gap, width + gap, 3), 255, np.uint8)
    page[:count, :height, :width] = cells
    page = page.reshape(rows, columns, height + gap, width + gap, 3).swapaxes(1, 2)
    whole = page.reshape(rows * (height + gap), columns * (width + gap), 3)
    return whole[: -gap or None, : -gap or None]


BUDGET = 5_000_000
"""Bytes of pixels that one set of images may take on the page."""


def affordable(count: int, shape: tuple[int, ...], columns: int) -> int:
    """Return the number of images of shape ``(C, H, W)`` that a report can show, at most ``count``.

    Args:
        count: Number of available images.
        shape: Shape of an image.
        columns: Number of versions of each image that are shown.
    """
    return max(1, min(count, BUDGET // (math.prod(shape) * columns)))


@dataclass(frozen=True)
class Images:
    """A grid of images, and a strip with the stages of the selected image.

    Attributes:
        title: Title of the images.
        labels: Label of each image.
        sheets: Stages of the strip, one sheet per stage. An image has the same place in all sheets.
        first: Index of the sheet that the grid shows.
        shape: Height and width of an image in pixels.
        note: Note below the strip.
        moved: ``melt``, ``roundtrip`` or ``gen`` if the images are points of a flow; else empty.
        draws: Further sheets; the reader chooses the one at the end of the strip. Empty for none.
    """

    kind: ClassVar[str] = "images"
    title: str
    labels: Sequence[str]
    sheets: Sequence[Sheet]
    first: int
    shape: tuple[int, int]
    note: str = ""
    moved: str = ""
    draws: Sequence[Sheet] = ()

    @property
    def columns(self) -> int:
        """Number of images side by side in a sheet."""
        return sheet_columns(len(self.labels))

    @property
    def rows(self) -> int:
        """Number of rows of images in a sheet."""
        return -(-len(self.labels) // self.columns)


Part = Figure | Flow | Images | NumberTable | Views


@dataclass(frozen=True)
class Content:
    """Content of the files of a result. Functions are called only when their output is needed.

    Attributes:
        title: Heading in a report.
        reading: Sentence on how to read the result.
        page: Page of the documentation.
        figures: Functions that make the figures, by the name of the picture's file without ending.
        parts: Function that makes interactive parts and tables for a report.
        replaced: Names of the figures that an interactive part replaces in a report.
        results: Function that returns the judged numbers.
        notes: Advice for the user by the name of a picture.
        place: Folder of the pictures; None for that of the files.
        animations: Functions that write an animation to a path, given its ``suffix``, by name.
    """

    title: str
    reading: str
    page: str
    figures: Mapping[str, Callable[[], Figure]]
    parts: Callable[[Choice], Sequence[Part]] = lambda choice: ()
    replaced: Collection[str] = ()
    results: Callable[[], Sequence[Result]] = lambda: ()
    notes: Mapping[str, str] = field(default_factory=dict)
    place: Path | None = None
    animations: Mapping[str, Callable[..., None]] = field(default_factory=dict)

    def shown(self, choice: Choice) -> list[Any]:
        """Return the parts of a report: interactive ones, then the figures that remain."""
        made = [make() for name, make in self.figures.items() if name not in self.replaced]
        return [*self.parts(choice), *made]
