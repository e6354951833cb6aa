"""What the benchmark found, in one picture."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.simulators.published import NPE, SNPE
from training.pictures import theme
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE

STYLES: dict[str, dict[str, Any]] = {
    "flow": {"color": BLUE, "marker": "o", "lw": 1.8, "label": "this flow"},
    "npe": {"color": ORANGE, "marker": "s", "lw": 1.2, "label": "NPE by sbi"},
    "fmpe": {"color": ORANGE, "marker": "^", "lw": 1.2, "label": "FMPE by sbi"},
    "npse": {"color": ORANGE, "marker": "D", "lw": 1.2, "label": "NPSE by sbi"},
}
PUBLISHED = {"NPE, published": (NPE, "--"), "SNPE, published": (SNPE, ":")}
COLUMNS, PANEL, GAP, LEFT, BOTTOM = 4, (2.2, 1.8), (0.3, 0.62), 0.7, 0.5


def picture(results: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a task: C2ST against simulations, a line a method."""
    tasks = list(dict.fromkeys(found["task"] for found in results if found["observations"]))
    rows = -(-len(tasks) // COLUMNS)
    wide = min(len(tasks), COLUMNS)
    width = LEFT + wide * (PANEL[0] + GAP[0]) + 1.4
    height = theme.TOP + rows * (PANEL[1] + GAP[1]) + BOTTOM - GAP[1] / 2
    figure = theme.new_figure(width, height)
    title = "Posteriors from simulations"
    subtitle = "how well a classifier tells draws from the reference (C2ST): 0.5 is perfect"
    theme.headline(figure, title, subtitle, LEFT, height - theme.MARGIN)
    for index, task in enumerate(tasks):
        row, column = divmod(index, COLUMNS)
        place = (
            LEFT + column * (PANEL[0] + GAP[0]),
            BOTTOM + (rows - 1 - row) * (PANEL[1] + GAP[1]),
            *PANEL,
        )
        axes: Axes = theme.axes_at(figure, place)
        _draw(axes, task, results)
        axes.set(xscale="log", xlim=(800, 125_000), ylim=(0.48, 1.01))
        axes.minorticks_off()
        if column:
            axes.tick_params(labelleft=False)
        if row == rows - 1 or index + COLUMNS >= len(tasks):
            axes.set_xlabel("simulations", size=theme.TEXT_SIZE, color=MUTED)
        if index == wide - 1:
            theme.legend(axes, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return figure


def _draw(axes: Axes, task: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Lines of a task."""
    axes.grid(color=FAINT, lw=0.6)
    axes.set_title(task.replace("_", " "), size=theme.TEXT_SIZE, color=INK, loc="left")
    for label, (figures, dashes) in PUBLISHED.items():
        known = figures.get(task, {})
        axes.plot(list(known), list(known.values()), ls=dashes, color=MUTED, lw=1.2, label=label)
    methods = {each["method"] for each in results}
    for method in (name for name in STYLES if name in methods):
        found = {
            each["simulations"]: mean(one["c2st"] for one in each["observations"].values())
            for each in results
            if (each["task"], each["method"]) == (task, method) and each["observations"]
        }
        counts = sorted(found)
        axes.plot(counts, [found[count] for count in counts], ms=4, **STYLES[method])
