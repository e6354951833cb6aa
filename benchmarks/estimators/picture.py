"""What the benchmark found, in one picture."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from matplotlib.figure import Figure as Canvas

from benchmarks.simulators.published import NPE, SNPE
from training.pictures.drawing import draw
from training.pictures.figure import Figure, Line, Mark, Panel, Points
from training.pictures.theme import BLUE, MUTED, ORANGE

STYLES = {
    "flow": ("this flow", BLUE, "o", 1.8),
    "npe": ("NPE by sbi", ORANGE, "s", 1.2),
    "fmpe": ("FMPE by sbi", ORANGE, "^", 1.2),
    "npse": ("NPSE by sbi", ORANGE, "D", 1.2),
}
"""Label, color, marker and line width by method."""
PUBLISHED = {"NPE, published": (NPE, True), "SNPE, published": (SNPE, False)}
"""Published numbers by label, and whether their line is dashed."""


def picture(results: Sequence[Mapping[str, Any]]) -> Canvas:
    """A panel a task: C2ST against simulations, a line a method."""
    tasks = list(dict.fromkeys(found["task"] for found in results if found["observations"]))
    return draw(
        Figure(
            "Posteriors from simulations",
            "how well a classifier tells draws from the reference (C2ST): 0.5 is perfect",
            [_panel(task, results) for task in tasks],
            min(len(tasks), 4),
            (2.2, 1.8),
            shared=True,
        )
    )


def _panel(task: str, results: Sequence[Mapping[str, Any]]) -> Panel:
    """Lines of a task."""
    marks: list[Mark] = []
    for label, (figures, dashed) in PUBLISHED.items():
        known = figures.get(task, {})
        marks.append(Line(list(known), list(known.values()), MUTED, label, 1.2, dashed))
    methods = {each["method"] for each in results}
    for method in (name for name in STYLES if name in methods):
        found = {
            each["simulations"]: mean(one["c2st"] for one in each["observations"].values())
            for each in results
            if (each["task"], each["method"]) == (task, method) and each["observations"]
        }
        label, color, marker, width = STYLES[method]
        counts = sorted(found)
        values = [found[count] for count in counts]
        marks.append(Line(counts, values, color, width=width))
        marks.append(Points(counts, values, color, label, 4, marker))
    return Panel(
        marks,
        task.replace("_", " "),
        x="simulations",
        x_limits=(800, 125_000),
        y_limits=(0.48, 1.01),
        x_log=True,
    )
