"""Contents of a report: sections with a sentence on how to read them, and their parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bokeh.plotting import figure

from training.pictures.content import Result

BRIEF = {"seed": "seed {}", "device": "on {}", "seconds": "{} s"}
BRIEF["network evaluations"] = "{} evaluations"
"""Facts of a run for its one-line summary, with their formats."""


@dataclass(frozen=True)
class Key:
    """An entry of a legend.

    Attributes:
        text: Text of the entry.
        color: CSS color.
        mark: ``line``, ``dashed``, ``dot`` or ``band``.
    """

    text: str
    color: str
    mark: str = "line"


@dataclass(frozen=True)
class Chart:
    """A Bokeh figure with its texts.

    Attributes:
        plot: Figure, whose name identifies its place on the page.
        title: Title of the chart.
        alt: Description for readers who cannot see the chart, with the numbers that matter.
        keys: Entries of the legend.
        note: Note below the chart.
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
    """A choice of colors for points.

    Attributes:
        name: Name in the list of choices.
        column: Column of the points' source.
        note: Meaning of the colors.
        scale: Lowest value in words, CSS colors from the lowest to the highest value, and highest
            value in words.
    """

    name: str
    column: str
    note: str
    scale: tuple[str, Sequence[str], str] | None = None


@dataclass(frozen=True)
class Flow:
    """An animation of points: panels that share their points, and the frames.

    Attributes:
        name: Name by which the page's script finds the sources ``{name}-points`` and
            ``{name}-frames``.
        panels: Charts of the points at the start, at the current time, and at the end.
        planes: Coordinate planes in which 3-D points are shown at the current time.
        times: Times of the frames.
        saved_times: Number of times in the file.
        count: Number of points shown.
        whole: Number of points in the file.
        colorings: Choices of colors, at least one.
        moved: Kind of the simulation, ``melt`` (inflation), ``roundtrip`` or ``gen`` (generation).
        turns: Whether the reader can rotate the 3-D points in the panels.
        title: Title of the animation.
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
        """Settings for the page's script."""
        return {
            "name": self.name,
            "times": list(self.times),
            "count": self.count,
            "turns": self.turns,
            "legends": [vars(each) for each in self.colorings],
        }


@dataclass(frozen=True)
class Picker:
    """A selection list, whose options are prefixes of the names of columns."""

    label: str
    options: Sequence[str]
    chosen: int = 0


@dataclass(frozen=True)
class Views:
    """A chart of two selectable columns.

    Attributes:
        chart: Chart.
        sets: Names of the sources of points; the columns of a source are in ``{set}-columns``.
        groups: Selection among several sets of columns; None for one set.
        across: Selection of the horizontal column.
        up: Selection of the vertical column.
    """

    kind: ClassVar[str] = "views"
    chart: Chart
    sets: Sequence[str]
    groups: Picker | None
    across: Picker
    up: Picker

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings for the page's script."""
        return {"sets": list(self.sets)}


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        title: Heading.
        reading: Sentence on how to read the section.
        page: Page of the documentation.
        place: Folder, as the user gave it.
        parts: Charts, tables and other parts.
        results: Headline numbers.
    """

    title: str
    reading: str
    page: str
    place: str
    parts: Sequence[Any]
    results: Sequence[Result] = ()


@dataclass(frozen=True)
class Run:
    """A run of a script: facts from its parameters file, as pairs of name and value."""

    title: str
    place: str
    facts: Sequence[tuple[str, str]]
    options: Sequence[tuple[str, str]] = field(default=())

    @property
    def brief(self) -> str:
        """Most important facts, in one line."""
        facts = dict(self.facts)
        return ", ".join(form.format(facts[name]) for name, form in BRIEF.items() if name in facts)
