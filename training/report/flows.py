"""Section of simulated points: animations of a melt and a generation, with selectable points.

An animation has three panels: where the points start, where they are now, and where they end. The
panels have the same scale and share their points, so that a selection in one panel applies to all.
Points in three dimensions are shown in an orthographic projection that can be rotated, and in the
three coordinate planes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from training.files.arrays import evenly
from training.files.trajectory import SavedTrajectory
from training.pictures.content import Choice, Result, judged
from training.pictures.simulations import roundtrip_results
from training.pictures.theme import BLUE, MUTED, ORANGE, colors_of_places, joined, sequential_colors
from training.pictures.trajectories.clouds import (
    COLORS,
    TITLES,
    axis_names,
    common_box,
    latent_law,
    name_and_details,
    page_positions,
    points_of,
    shown_dims,
)
from training.report import charts
from training.report.content import Chart, Charts, Coloring, Flow, Key, Section

FEW = 3
"""Number of dimensions up to which no spectrum is drawn."""
SIGMAS = 3.0
"""Tolerance of a number, in standard errors."""
NEAR = 0.01
"""Smallest tolerance, however many samples there are."""
LARGE = 0.2
"""Error of a variance that a test must be able to detect to conclude that the variance is right."""


def latent_results(melt: SavedTrajectory) -> list[Result]:
    """Return the mean variance of latents in kept dimensions, relative to the closed form."""
    kept = ~melt.compressed()
    mean = float((melt.last_variance / melt.latent_variance())[kept].mean())
    # Standard error under the closed form; variances that are too large would have a larger one.
    room = max(SIGMAS * math.sqrt(2 / (melt.count * int(kept.sum()))), NEAR)
    ratio = f"{mean:.3f} of the closed form, mean of {int(kept.sum())} kept dimensions"
    target = f"1 ± {room:.2g}: {SIGMAS:g} standard errors of {melt.count:,} samples"
    of = joined(*name_and_details(melt), by=", ")
    right = judged(abs(mean - 1) <= room, room, LARGE)
    few = ": too few samples to test" if right is None else ""
    return [Result(of, "latent variances", ratio + few, target, right)]


def latent_parts(melt: SavedTrajectory) -> list[object]:
    """Return a chart of latent variances against the closed form, if there are many dimensions."""
    if melt.dim <= FEW:
        return []
    exact = melt.latent_variance()
    plot = charts.plot("eigen-dimension", "variance", y_axis_type="log")
    index = np.arange(1.0, melt.dim + 1)
    plot.line(index, charts.float32(exact), color=MUTED, line_width=1.5)
    _dots(plot, melt, np.maximum(melt.last_variance, 1e-300))
    keys = [Key("closed form", MUTED), *_keys(melt)]
    alt = (
        f"Variances of {melt.dim} latents, from {melt.last_variance.min():.3g} to "
        f"{melt.last_variance.max():.3g}; closed form {exact.min():.3g} to {exact.max():.3g}."
    )
    return [Charts([Chart(plot, "Spectrum of the latents", alt, keys), _ratios(melt)])]


def _ratios(melt: SavedTrajectory) -> Chart:
    ratios = melt.last_variance / melt.latent_variance()
    band = 2 * math.sqrt(2 / melt.count)
    plot = charts.plot("eigen-dimension", "measured / closed form")
    plot.varea([0.5, melt.dim + 0.5], 1 - band, 1 + band, fill_color=MUTED, fill_alpha=0.2)
    charts.level(plot, 1.0, dashed=False)
    _dots(plot, melt, ratios)
    alt = f"Ratios to the closed form, from {ratios.min():.3g} to {ratios.max():.3g}; 1 is right."
    keys = [*_keys(melt), Key("±2 standard errors of one variance", MUTED, "band")]
    return Chart(plot, "Variances over the closed form", alt, keys)


def _dots(plot: figure, melt: SavedTrajectory, values: np.ndarray) -> None:
    compressed = melt.compressed()
    index = np.arange(1, melt.dim + 1)
    for chosen, color in ((~compressed, BLUE), (compressed, ORANGE)):
        if chosen.any():
            data = {"x": index[chosen], "y": charts.float32(values[chosen])}
            charts.scatter(plot, ColumnDataSource(data), "x", "y", color)


def _keys(melt: SavedTrajectory) -> list[Key]:
    keys = [Key("kept dimensions", BLUE, "dot")]
    return [*keys, Key("compressed dimensions", ORANGE, "dot")] if melt.compressed().any() else keys


READING = (
    "Every point keeps its color. Move the time, or select points with the lasso in any "
    "panel, to see where the flow takes them: neighbors stay neighbors."
)
MOST_TIMES = 40
SCALE_COLORS = 9
FAR = 5e-3
"""Share of the lowest densities that share a color."""
ENDS = {
    "melt": ("data", "latent"),
    "roundtrip": ("latent", "returned data"),
    "gen": ("latent", "generated data"),
}


def section_of(paths: Mapping[str, Path], choice: Choice) -> Section:
    """Return the report section about the simulations of toy data in one run.

    Args:
        paths: Files by kind: ``melt`` (inflation), ``roundtrip``, ``gen`` (generation).
        choice: Number of points that are shown.

    Raises:
        DataError: A file is broken.
    """
    saved = {
        kind: SavedTrajectory.load(path, choose=choice.samples) for kind, path in paths.items()
    }
    return section_of_run(saved, "the flow", READING, "docs/tutorials/toys.md")


def section_of_run(
    saved: Mapping[str, SavedTrajectory],
    what: str,
    reading: str,
    page: str,
    parts: Sequence[object] = (),
    results: Sequence[Result] = (),
) -> Section:
    """Return a report section about the simulations of one run, with the animations of its points.

    A roundtrip repeats its inflation, and is shown only if it is the only simulation. Points in one
    dimension have no animation.

    Args:
        saved: Simulations by kind.
        what: Title of the section, without the name of the data.
        reading: Sentence on how to read the section.
        page: Page of the documentation.
        parts: Further parts, which come before the animations.
        results: Further headline numbers.
    """
    first, melt = next(iter(saved.values())), saved.get("melt")
    name, details = name_and_details(first)
    results = [*roundtrip_results(first.path, joined(name, details, by=", ")), *results]
    alone = len(saved) == 1
    moved = [item for kind, item in saved.items() if kind != "roundtrip" or alone]
    parts = [*parts, *(flow_of(item) for item in moved if item.dim > 1)]
    if melt:
        results += latent_results(melt)
        parts += latent_parts(melt)
    title = joined(f"{name}: {what}", details, by=", ")
    return Section(title, reading, page, str(first.path.parent), parts, results)


def flow_of(saved: SavedTrajectory) -> Flow:
    """Return an animation of points in two or more dimensions.

    It shows all three dimensions of 3-D points, otherwise the first two.
    """
    points, times = points_of(saved), evenly(len(saved.times), MOST_TIMES)
    points = points[times]
    colors = colorings_of(saved, points)
    turned = points.shape[-1] == 3
    source = ColumnDataSource(
        {
            "sample": saved.chosen,
            "number": saved.numbers[saved.chosen],
            **{name: charts.packed(values) for name, (_, values) in colors.items()},
            "color": charts.packed(next(iter(colors.values()))[1]),
            **_panel_columns(points),
        }
    )
    frames = ColumnDataSource({name: charts.float32(points[..., k]) for k, name in _axes(points)})
    name = source.id
    source.name, frames.name = f"{name}-points", f"{name}-frames"
    box = _ball(points) if turned else common_box([points])
    titles = (ENDS[saved.kind][0], "now", ENDS[saved.kind][1])
    names = [plain(each) for each in axis_names(saved)]
    panels = [
        _panel(box, source, (f"{place}_x", f"{place}_y"), title, [] if turned else names)
        for place, title in zip(("start", "now", "end"), titles, strict=True)
    ]
    charts.keep(panels[0].plot, frames)
    for panel in panels[1:]:
        panel.plot.x_range, panel.plot.y_range = panels[0].plot.x_range, panels[0].plot.y_range
    planes = []
    for first, second in combinations(range(3), 2) if turned else ():
        axes = [names[first], names[second]]
        columns = (f"now_{'xyz'[first]}_own", f"now_{'xyz'[second]}_own")
        planes.append(_panel(box, source, columns, f"now, {axes[0]} and {axes[1]}", axes))
    return Flow(
        name=name,
        title=_title(saved),
        moved=saved.kind,
        panels=panels,
        planes=planes,
        times=saved.times[times].tolist(),
        saved_times=len(saved.times),
        count=len(saved.chosen),
        whole=saved.count,
        colorings=[coloring for coloring, _ in colors.values()],
        turns=turned,
    )


def colorings_of(
    saved: SavedTrajectory, points: np.ndarray
) -> dict[str, tuple[Coloring, np.ndarray]]:
    """Return the choices of colors for points ``[S, n, d]``, by name of a column.

    Each choice has the colors ``[n, 3]`` of the points.
    """
    places = page_positions(points[-1 if saved.kind == "roundtrip" else 0])
    if places.shape[1] == 2:
        places = places - places.mean(axis=0)
    width = float(places.std(axis=0).max()) or 1.0
    colorings = {
        "by_place": (
            Coloring("start of a point", "by_place", COLORS[saved.kind]),
            colors_of_places(places, width),
        )
    }
    if saved.log_prob is not None:
        colorings["by_density"] = _by_density(saved.log_prob[saved.chosen])
    if saved.classes is not None:
        colorings["by_label"] = _by_label(saved.classes[saved.chosen])
    return colorings


def plain(name: str) -> str:
    """Return the name of an axis without mathematical markup."""
    return name.replace("$", "").replace("_", "")


def _by_density(values: np.ndarray) -> tuple[Coloring, np.ndarray]:
    low, high = np.quantile(values, FAR), values.max()
    scale = (f"{low:.3g}", charts.css(sequential_colors(SCALE_COLORS)), f"{high:.3g} nats")
    note = "Log density of the data point at the start or end"
    return Coloring("log density", "by_density", note, scale), charts.ramp(values, low, high)


def _by_label(labels: np.ndarray) -> tuple[Coloring, np.ndarray]:
    count = int(labels.max()) + 1
    palette = sequential_colors(max(count, 2))
    scale = ("0", charts.css(palette[:count]), str(count - 1))
    return Coloring("label", "by_label", "Class of the data", scale), palette[labels]


def _title(saved: SavedTrajectory) -> str:
    seen = ""
    if saved.eigenvectors is None:
        seen = f"first {shown_dims(saved)} of {saved.dim} eigen-dimensions"
    return joined(TITLES[saved.kind].format(name_and_details(saved)[0]), latent_law(saved), seen)


def _axes(points: np.ndarray) -> Iterable[tuple[int, str]]:
    return enumerate("xyz"[: points.shape[-1]])


def _panel_columns(points: np.ndarray) -> dict[str, np.ndarray]:
    """Return the initial coordinates of points ``[S, n, d]`` in each panel, projected if in 3-D."""
    seen = page_positions(points[[0, 0, -1]])
    columns = {
        f"{place}_{axis}": charts.float32(seen[number, :, k])
        for number, place in enumerate(("start", "now", "end"))
        for k, axis in enumerate("xy")
    }
    if points.shape[-1] == 3:
        columns |= {f"now_{axis}_own": charts.float32(points[0, :, k]) for k, axis in _axes(points)}
    return columns


def _panel(
    box: np.ndarray,
    source: ColumnDataSource,
    columns: tuple[str, str],
    title: str,
    names: list[str],
) -> Chart:
    plot = charts.cloud(box, *names[:2])
    charts.scatter(plot, source, *columns, "color", hover=[("number", "number")])
    return Chart(plot, title, f"Points: {title}. All panels have the same scale.")


def _ball(points: np.ndarray) -> np.ndarray:
    """Return a square that contains points in 3-D when viewed from any direction."""
    box = common_box([points])
    reach = float(np.abs(box).max())
    return np.array([[-reach, reach], [-reach, reach]])
