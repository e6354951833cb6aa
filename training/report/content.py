"""What a report is made of: sections with a sentence on how to read them, and their parts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from bokeh.plotting import figure

BRIEF = {"seed": "seed {}", "device": "on {}", "seconds": "{} s", "network calls": "{} calls"}
"""Facts of a run that one line tells, and how."""


@dataclass(frozen=True)
class Choice:
    """How much of large files is shown: so many points of a panel at most, by a seed."""

    points: int = 5000
    seed: int = 0

    def samples(self, count: int) -> np.ndarray:
        """Which of so many samples are shown, rising."""
        if count <= self.points:
            return np.arange(count)
        generator = np.random.default_rng(self.seed)
        return np.sort(generator.choice(count, self.points, replace=False))


def judged(right: bool, room: float, most: float) -> bool | None:
    """Return whether a number is what it should be; None where too few samples can tell.

    A number is said to be right only with enough evidence: the error that it may have by chance
    alone is at most what a reader would want to know of.

    Args:
        right: Whether the number is within what it may be off by.
        room: What it may be off by.
        most: The largest room of a number that tells something.
    """
    return None if right and room > most else right


@dataclass(frozen=True)
class Result:
    """A headline number, and whether it is what it should be.

    Attributes:
        of: What was measured, of which data.
        name: Of the number.
        value: It, in words.
        target: What it should be, in words.
        holds: Whether it is; None where too few samples can tell, or the number is no test.
    """

    of: str
    name: str
    value: str
    target: str
    holds: bool | None


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        text: What it is.
        color: A color of CSS.
        mark: ``line``, ``dashed``, ``dot`` or ``band``.
    """

    text: str
    color: str
    mark: str = "line"


@dataclass(frozen=True)
class Chart:
    """A Bokeh figure and its words.

    Attributes:
        plot: The figure; its name is its place on the page.
        title: What is drawn.
        alt: The same for those who do not see it, with the numbers that matter.
        keys: The legend.
        note: Below it.
    """

    plot: figure
    title: str
    alt: str
    keys: Sequence[Key] = ()
    note: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as far as there is room, and the legend that they share."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    keys: Sequence[Key] = ()


@dataclass(frozen=True)
class Coloring:
    """A way to color points.

    Attributes:
        name: As it is chosen.
        column: Of the points' source.
        note: What the colors mean.
        scale: Colors of CSS from the lowest to the highest value, with these values as words.
    """

    name: str
    column: str
    note: str
    scale: tuple[str, Sequence[str], str] | None = None


@dataclass(frozen=True)
class Flow:
    """Points in motion: panels that share their points, and what moves them.

    Attributes:
        name: By which the page's script finds its sources, ``{name}-points`` and ``{name}-frames``.
        panels: Where the points start, are, and end.
        planes: Of points in 3-D: the planes that they are seen in now.
        times: Of the frames.
        saved_times: How many there are in the file.
        count: Points shown.
        whole: Points in the file.
        colorings: At least one.
        moved: ``melt``, ``roundtrip`` or ``gen``: what images of the same section are called, too.
        turns: Whether the panels look at points in 3-D, from a side that can be chosen.
        title: What moves.
    """

    kind: ClassVar[str] = "flow"
    name: str
    panels: Sequence[Chart]
    times: Sequence[float]
    saved_times: int
    count: int
    whole: int
    colorings: Sequence[Coloring]
    moved: str
    title: str
    planes: Sequence[Chart] = ()
    turns: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the page's script needs to know."""
        return {
            "name": self.name,
            "times": list(self.times),
            "count": self.count,
            "turns": self.turns,
            "legends": [vars(each) for each in self.colorings],
        }


@dataclass(frozen=True)
class Sheet:
    """Images in rows of one picture, from which the page cuts single ones.

    Attributes:
        title: What these images are.
        note: How they are shown.
        uri: The picture.
    """

    title: str
    note: str
    uri: str


def sheet_columns(count: int) -> int:
    """How many images lie side by side in a sheet."""
    return math.ceil(math.sqrt(count))


@dataclass(frozen=True)
class Images:
    """A grid of images, and of the one that is chosen a strip of what becomes of it.

    Attributes:
        title: What the images are.
        moved: ``melt``, ``roundtrip`` or ``gen``, if they are points of a flow; else empty.
        labels: Of each image.
        sheets: The columns of the strip; images have one place in all of them.
        first: Which sheet the grid shows.
        shape: Height and width of an image in pixels.
        note: Below the strip.
        draws: Further sheets, of which the end of the strip shows one; empty for none.
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
        """Of images in a sheet."""
        return sheet_columns(len(self.labels))

    @property
    def rows(self) -> int:
        return -(-len(self.labels) // self.columns)


@dataclass(frozen=True)
class Picker:
    """A list of which one is chosen: ``options`` by the start of the names of columns."""

    label: str
    options: Sequence[str]
    chosen: int = 0


@dataclass(frozen=True)
class Views:
    """A chart of two columns that are chosen.

    Attributes:
        chart: It.
        sets: Names of the sources of points; the columns are in ``{set}-columns``.
        groups: Several sets of columns of which one is chosen; None for one.
        across: The columns.
        up: The same, with another one chosen.
    """

    kind: ClassVar[str] = "views"
    chart: Chart
    sets: Sequence[str]
    groups: Picker | None
    across: Picker
    up: Picker

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"sets": list(self.sets)}


@dataclass(frozen=True)
class NumberTable:
    """Numbers in rows."""

    kind: ClassVar[str] = "table"
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        title: What it is about.
        reading: One sentence on how to read it.
        page: Of the documentation.
        place: The folder, as it was given.
        parts: What it shows.
        results: Its headline numbers.
    """

    title: str
    reading: str
    page: str
    place: str
    parts: Sequence[Any]
    results: Sequence[Result] = ()


@dataclass(frozen=True)
class Run:
    """A script that ran: facts of its parameters file, in pairs of name and value."""

    title: str
    place: str
    facts: Sequence[tuple[str, str]]
    options: Sequence[tuple[str, str]] = field(default=())

    @property
    def brief(self) -> str:
        """The facts that matter most, in a line."""
        facts = dict(self.facts)
        return ", ".join(form.format(facts[name]) for name, form in BRIEF.items() if name in facts)
