"""Simulations of points by a flow: clouds at several times, latents, spectra and log densities.

A report shows the clouds as an animation with three panels: where the points start, where they are
now, and where they end. A selection of points in one panel applies to all.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from torch_utils.results import load_json
from training.files.arrays import evenly, number, parameter, stem_of, title_of
from training.files.trajectory import SavedTrajectory
from training.paper.containment import gaussian_content
from training.pictures.animations import animate
from training.pictures.content import Choice, Coloring, Content, Flow, Part, Result, judged
from training.pictures.figure import (
    FEW,
    Band,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
    Span,
    cloud,
    cloud_panel,
    common_box,
    histogram,
    inside,
    page_positions,
    subscript,
)
from training.pictures.theme import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    brief,
    colored,
    colors_of_places,
    joined,
    sequential_colors,
)

CLOSED_FORM = "latents: closed-form Gaussian"
PANELS = 6
"""Number of times of a row of clouds."""
TITLES = {
    "melt": "Inflating {} to a Gaussian",
    "roundtrip": "Generating {} back",
    "gen": "Generating {} from a Gaussian",
}
COLORS = {
    "melt": "colors: position in the data",
    "roundtrip": "colors of the inflated points",
    "gen": "colors: position in the Gaussian",
}
VERBS = {"melt": "Melting", "gen": "Generating"}
EMPTY = 1e-3
"""Fraction of the top eigenvalue below which a dimension of an embedded toy contains no data."""
READING = (
    "Every point keeps its color. Move the time, or select points with the lasso in any panel, to "
    "see where the flow takes them: neighbors stay neighbors."
)
ENDS = {
    "melt": ("data", "latent"),
    "roundtrip": ("latent", "returned data"),
    "gen": ("latent", "generated data"),
}
PARAMETERS = ("_sim_params.json", "_HD_pfODE_int_sim_params.json")
"""Endings of the names of a simulation's parameters files, after the stem."""
SMALL_RMS = 1e-3
"""Largest root-mean-square error of an exact roundtrip, relative to unit variance."""
HALF_LEVEL = 0.5
"""Gray levels: smaller errors vanish by rounding."""
SIGMAS, NEAR = 3.0, 0.01
"""Tolerance of a mean variance in standard errors, and its smallest relative tolerance."""
LARGE = 0.2
"""Error of a variance that a test must be able to detect to conclude that the variance is right."""
FEW_DIMENSIONS = 3
"""Largest number of dimensions of a toy without a spectrum."""
MOST_TIMES, SCALE_COLORS = 40, 9
FAR_DENSITIES = 5e-3
"""Share of the lowest densities that have one color, and that a histogram leaves out."""
MOST_FRAMES, FEW_FRAMES, MOST_MOVING = 90, 20, 1500


def content_of(paths: Mapping[str, Path], choice: Choice | None) -> Content:
    """Return the content of the simulations of toy data in one run.

    Args:
        paths: Files by kind: ``melt`` (inflation), ``roundtrip``, ``gen`` (generation).
        choice: Number of points that are shown; None for all.

    Raises:
        DataError: A file is broken.
    """
    saved = load(paths, choice)
    figures: dict[str, Callable[[], Figure]] = {}
    animations, notes, replaced = {}, {}, set[str]()
    for kind, item in saved.items():
        own = item.path.stem.removesuffix("_results")
        figures[f"{own}_clouds"] = partial(clouds, [item])
        replaced.add(f"{own}_clouds")
        figures |= latent_figures(item, own)
        if kind == "melt" and item.dim > FEW_DIMENSIONS:
            figures[f"{own}_spectrum"] = partial(spectrum, item)
        if kind in VERBS:
            animations[f"{own}_animation"] = partial(animation, item)
            frames = min(len(item.times), MOST_FRAMES)
            if frames < FEW_FRAMES:
                notes[f"{own}_animation"] = f"{frames} frames: more with --save_freq=1"
    both = overview(saved)
    return content_of_run(
        saved,
        "the flow",
        READING,
        "docs/tutorials/toys.md",
        figures | both,
        replaced=replaced | both.keys(),
        animations=animations,
        notes=notes,
    )


def load(paths: Mapping[str, Path], choice: Choice | None) -> dict[str, SavedTrajectory]:
    """Load the simulations of a run, all points or those that are chosen.

    Raises:
        DataError: A file is broken.
    """
    choose = None if choice is None else choice.samples
    return {kind: SavedTrajectory.load(path, choose=choose) for kind, path in paths.items()}


def content_of_run(
    saved: Mapping[str, SavedTrajectory],
    what: str,
    reading: str,
    page: str,
    figures: Mapping[str, Callable[[], Figure]],
    parts: Callable[[Choice], Sequence[Part]] = lambda choice: (),
    results: Callable[[], Sequence[Result]] = lambda: (),
    **more: Any,
) -> Content:
    """Return the content of the simulations of one run, with the animations of its points.

    A roundtrip repeats its inflation, and is animated only if it is the only simulation. Points in
    one dimension have no animation.

    Args:
        saved: Simulations by kind.
        what: Title without the name of the data.
        reading: Sentence on how to read the result.
        page: Page of the documentation.
        figures: Functions that make the figures, by name of the picture.
        parts: Function that makes further parts, which come before the animations.
        results: Function that returns further judged numbers.
        **more: Further fields of the content.
    """
    first, melt = next(iter(saved.values())), saved.get("melt")
    name, details = name_and_details(first)
    moved = [item for kind, item in saved.items() if kind != "roundtrip" or len(saved) == 1]

    def all_parts(choice: Choice) -> list[Part]:
        return [*parts(choice), *(flow_of(item) for item in moved if item.dim > 1)]

    def all_results() -> list[Result]:
        of = joined(name, details, by=", ")
        latent = [latent_result(melt)] if melt else []
        return [*roundtrip_results(first.path, of), *results(), *latent]

    title = joined(f"{name}: {what}", details, by=", ")
    return Content(title, reading, page, figures, all_parts, results=all_results, **more)


def name_and_details(trajectory: SavedTrajectory) -> tuple[str, str]:
    """Return the name of the data, and its schedule and denoiser in words."""
    return title_of(stem_of(trajectory.path))


def latent_law(trajectory: SavedTrajectory) -> str:
    """Describe the base distribution that a generation drew its latents from.

    The result is empty for other simulations, or if the distribution is unknown.

    Raises:
        DataError: The parameters next to the file are broken.
    """
    if trajectory.kind != "gen":
        return ""
    stem = stem_of(trajectory.path)
    path = trajectory.path.with_name(f"{stem}_sim_params.json")
    options = parameter(path, "options")
    if options is None:  # images, which may have been simulated one by one
        path = trajectory.path.with_name(f"{stem}_HD_pfODE_int_sim_params.json")
        options = parameter(path, "gen", "options")
    options = options if isinstance(options, dict) else {}
    chosen = options.get("eps")
    if chosen is None:
        return ""
    eps, compressed = str(chosen), trajectory.compressed()
    paper, value = eps.startswith("paper"), eps.rpartition(":")[2]
    if "empirical" in (eps, options.get("gen_source")):
        return "latents: variances of the melt"
    if eps == "learned":
        return "latents: learned distribution"
    if eps == "auto" or not (compressed.any() or paper):
        return CLOSED_FORM
    if not compressed.any():
        return "latents: variance A0²"
    distribution = ("A0² and " if paper else "") + f"ε = {value:.12}"
    closed_form = brief(trajectory.latent_variance()[compressed].mean())
    return f"latents: {distribution}, closed form {closed_form}"


def roundtrip_results(path: Path, of: str) -> list[Result]:
    """Return the roundtrip errors in the parameters file of a simulation, if they are known.

    Args:
        path: File of a simulation.
        of: Name of the data.

    Raises:
        DataError: The parameters are broken.
    """
    beside = (path.with_name(stem_of(path) + ending) for ending in PARAMETERS)
    content = next((load_json(each) for each in beside if each.exists()), {})
    inner = content.get("simulations", content)
    errors = inner.get("roundtrip") if isinstance(inner, dict) else None
    names = ("exact_pixels", "max_abs_error", "rms_error")
    exact, largest, rms = (number(errors, name) for name in names)
    if exact is not None and largest is not None:
        words = f"{exact:.4%} of pixels exact, largest error {brief(largest)} gray levels"
        target, right = "largest error below ½", largest < HALF_LEVEL
    elif rms is not None:
        words = f"rms {brief(rms)}" + ("" if largest is None else f", largest {brief(largest)}")
        target = f"rms at most {SMALL_RMS:g} of data of unit variance"
        right = rms <= SMALL_RMS
    else:
        return []
    return [Result(of, "round trip", words, target, right)]


def latent_result(melt: SavedTrajectory) -> Result:
    """Return the mean variance of latents in kept dimensions, relative to the closed form."""
    kept = ~melt.compressed()
    mean = float((melt.last_variance / melt.latent_variance())[kept].mean())
    # Standard error under the closed form; variances that are too large would have a larger one.
    room = max(SIGMAS * math.sqrt(2 / (melt.count * int(kept.sum()))), NEAR)
    ratio = f"{mean:.3f} of the closed form, mean of {int(kept.sum())} kept dimensions"
    target = f"1 ± {room:.2g}: {SIGMAS:g} standard errors of {melt.count:,} samples"
    right = judged(abs(mean - 1) <= room, room, LARGE)
    of = joined(*name_and_details(melt), by=", ")
    return Result.tested(of, "latent variances", ratio, target, right, "samples")


def shown_dims(trajectory: SavedTrajectory) -> int:
    """Return the number of dimensions to draw: 3 if the data has exactly three, else 2."""
    full = int((trajectory.eigenvalues > EMPTY * trajectory.eigenvalues.max()).sum())
    return 3 if trajectory.dim == 3 or (trajectory.dim > 3 and full == 3) else 2


def axis_names(trajectory: SavedTrajectory) -> list[str]:
    """Return a name for each shown dimension."""
    letter = "x" if trajectory.eigenvectors is not None else "e"
    return [f"{letter}{subscript(axis)}" for axis in range(1, shown_dims(trajectory) + 1)]


def points_of(trajectory: SavedTrajectory) -> np.ndarray:
    """Return the scaled points to draw, ``[S, n, shown_dims]``.

    Points are in image space if that can be drawn completely, else in the first eigen-dimensions.
    """
    if trajectory.eigenvectors is not None:
        shift = trajectory.scale[:, None, None] * trajectory.mean
        return trajectory.states @ trajectory.eigenvectors.T + shift
    return trajectory.states[..., : shown_dims(trajectory)]


def colors_of_points(trajectory: SavedTrajectory, points: np.ndarray) -> np.ndarray:
    """Return the colors ``[n, 3]`` of points ``[S, n, d]`` by the place where they start.

    A roundtrip ends where its inflation began, so the two share their colors.
    """
    places = page_positions(points[-1 if trajectory.kind == "roundtrip" else 0])
    places = places - places.mean(axis=0)
    return colors_of_places(places, float(places.std(axis=0).max()) or 1.0)


def flow_of(
    trajectory: SavedTrajectory, times: np.ndarray | None = None, most: int | None = None
) -> Flow:
    """Return the points of a trajectory in two or more dimensions at some times.

    Args:
        trajectory: Trajectory to draw.
        times: Indices of saved times; None for evenly spaced ones.
        most: Largest number of points, an evenly spaced subset; None for all.
    """
    times = evenly(len(trajectory.times), MOST_TIMES) if times is None else times
    points, kind = points_of(trajectory), trajectory.kind
    kept = evenly(points.shape[1], most or points.shape[1])
    samples, points = trajectory.chosen[kept], points[:, kept]
    colorings = [Coloring("start of a point", COLORS[kind], colors_of_points(trajectory, points))]
    if trajectory.log_prob is not None:
        values = trajectory.log_prob[samples]
        low, high = float(np.quantile(values, FAR_DENSITIES)), float(values.max())
        scale = (f"{low:.3g}", sequential_colors(SCALE_COLORS), f"{high:.3g} nats")
        note = "Log density of the data point at the start or end"
        colorings.append(Coloring("log density", note, colored(values, low, high), scale))
    if trajectory.classes is not None:
        labels = trajectory.classes[samples]
        count = int(labels.max()) + 1
        palette = sequential_colors(max(count, 2))
        ends = ("0", palette[:count], str(count - 1))
        colorings.append(Coloring("label", "Class of the data", palette[labels], ends))
    seen = f"first {shown_dims(trajectory)} of {trajectory.dim} eigen-dimensions"
    return Flow(
        TITLES[kind].format(name_and_details(trajectory)[0]),
        joined(latent_law(trajectory), seen * (trajectory.eigenvectors is None)),
        kind,
        points[times],
        trajectory.times[times],
        len(trajectory.times),
        samples,
        trajectory.numbers[samples],
        trajectory.count,
        axis_names(trajectory),
        ENDS[kind],
        colorings,
    )


def clouds(trajectories: Sequence[SavedTrajectory]) -> Figure:
    """Return a row of clouds for each trajectory, at its most informative times, on one scale."""
    rows = [flow_of(item, telling_times(points_of(item), PANELS)) for item in trajectories]
    return cloud_rows(rows, name_and_details(trajectories[0])[1])


def cloud_rows(rows: Sequence[Flow], details: str) -> Figure:
    """Return rows of clouds, one panel per time."""
    columns, panels = max(len(row.times) for row in rows), list[Panel | None]()
    box = common_box([row.points for row in rows])
    words = []
    for place, row in enumerate(rows, start=1):
        coloring = row.colorings[0]
        beyond = int((~inside(row.points, box)).any(axis=0).sum())
        strays = f"{beyond} of {row.points.shape[1]} points are outside the axes" * (beyond > 0)
        own = (row.words or "scaled variable", coloring.note, strays)
        words.append(joined(f"row {place}" * (len(rows) > 1), *own))
        for index, (points, time) in enumerate(zip(row.points, row.times, strict=True)):
            marks, names = [cloud(points, coloring.colors, box)], row.names if index == 0 else ()
            panels.append(cloud_panel(marks, box, names, f"t = {time:.2f}"))
        panels += [None] * (columns - len(row.times))
    return Figure(
        joined(*(row.title for row in rows)),
        joined(details, *words) if len(rows) == 1 else details,
        panels,
        columns,
        (1.75, 1.75),
        sentence="" if len(rows) == 1 else "; ".join(words),
        shared=True,
    )


def overview(saved: Mapping[str, SavedTrajectory]) -> dict[str, Callable[[], Figure]]:
    """Return the figure of the inflation and the generation of one run, by name of the picture."""
    melt, gen = saved.get("melt"), saved.get("gen")
    if melt is None or gen is None or melt.dim != gen.dim:
        return {}
    return {f"{stem_of(melt.path)}_overview": partial(clouds, [melt, gen])}


def telling_times(points: np.ndarray, count: int) -> np.ndarray:
    """Return indices of at most ``count`` informative times of points ``[S, N, d]``.

    The first and last times are always included. The points move about equally far between chosen
    times, since most saved times may be near the data, where points hardly move. The number of
    saved times in between has a small weight.
    """
    saved = len(points)
    moved = np.sqrt(np.square(np.diff(points, axis=0)).sum(axis=-1).mean(axis=-1))
    path = np.concatenate([[0.0], np.cumsum(moved)])
    share = 0.75 * path / max(path[-1], 1e-12) + 0.25 * np.linspace(0, 1, saved)
    count = min(count, saved)
    chosen = [0]
    for number_ in range(1, count):
        nearest = int(np.abs(share - share[-1] * number_ / (count - 1)).argmin())
        chosen.append(int(np.clip(nearest, chosen[-1] + 1, saved - count + number_)))
    return np.array(chosen)


def animation(trajectory: SavedTrajectory, path: Path, suffix: str) -> None:
    """Write an animation of an inflation (melt) or a generation of toy data.

    Args:
        trajectory: Simulation to animate.
        path: File to write.
        suffix: ``gif`` or ``mp4``.
    """
    name, details = name_and_details(trajectory)
    law = latent_law(trajectory)
    flow = flow_of(trajectory, evenly(len(trajectory.times), MOST_FRAMES), MOST_MOVING)
    words = details if law in ("", CLOSED_FORM) else law
    animate(path, suffix, flow, f"{VERBS[trajectory.kind]} {name}", words)


MOST_PANELS, COLUMNS = 6, 3
RANGE = 4.0  # standard deviations of the Gaussian on either side
LEAST_BINS, MOST_BINS = 16, 48
TALLEST = 1.7  # bars are cut at this many times the Gaussian's peak
RADII = np.array([1.0, 2.0, 3.0])
MOST_POINTS, MOST_QUANTILES = 3000, 400


def latent_figures(item: SavedTrajectory, own: str) -> dict[str, Callable[[], Figure]]:
    """Return figures of the latents of an inflation, and of log densities if they are known."""
    draw: dict[str, Callable[[], Figure]] = {}
    if item.kind == "melt":
        draw |= {f"{own}_latents": partial(latents, item), f"{own}_joint": partial(joint, item)}
    if item.log_prob is not None and item.kind != "roundtrip":
        draw[f"{own}_log_prob"] = partial(densities, item)
    return draw


def latents(melt: SavedTrajectory) -> Figure:
    """Return histograms of the latents of an inflation in its first dimensions."""
    count = min(melt.last.shape[1], MOST_PANELS)
    error = f"curve: closed form · standard error of a variance: {math.sqrt(2 / melt.count):.1%}"
    panels = [_latent(melt, index) for index in range(count)]
    return Figure(*_headline(melt, error), panels, min(count, COLUMNS), (3.3, 1.75))


def _headline(melt: SavedTrajectory, note: str) -> tuple[str, str]:
    name, details = name_and_details(melt)
    title = joined(f"Latents of {name}", details, by=": ")
    return title, joined(f"{melt.count} points at t = {melt.times[-1]:.2f}", note)


def gaussian(values: np.ndarray, variance: float) -> np.ndarray:
    """Return the density of ``N(0, variance)`` at some values."""
    return np.exp(-0.5 * values**2 / variance) / math.sqrt(2 * math.pi * variance)


def _latent(melt: SavedTrajectory, index: int) -> Panel:
    """Return the histogram of a dimension of latents, and its closed form."""
    values, every = melt.last[:, index], melt.latent_variance()
    variance, small = float(every[index]), bool(melt.compressed()[index])
    color, reach = ORANGE if small else BLUE, RANGE * math.sqrt(variance)
    # Few points in many bins would give only spikes.
    bins = int(np.clip(4 * len(values) ** (1 / 3), LEAST_BINS, MOST_BINS))
    edges = np.linspace(-reach, reach, bins + 1)
    # Relative to all points, not only those in range, so that bars and curve are comparable.
    whole = len(values) * float(edges[1] - edges[0])
    tallest = float(np.histogram(values, edges)[0].max()) / whole if len(values) >= FEW else 0.0
    grid = np.linspace(-reach, reach, 201)
    curve = gaussian(grid, variance)
    peak = float(curve.max())
    style: dict[str, Any] = {"top": whole, "height": 0.1 * peak, "alpha": 0.35, "filled": True}
    top = min(max(1.12 * peak, 1.05 * tallest), TALLEST * peak)
    ratio = f"{variance / every.max():.0%}" if variance >= 0.01 * every.max() else ""
    ratio = ratio or f"{variance / every.max():.1e}"
    measured = float(np.square(values).mean())
    notes = [f"variance {measured:#.3g} = {measured / variance:.3f} × the closed form"]
    if tallest > top:
        notes.append(f"tallest bar cut: {tallest / peak:.1f} × the curve")
    beyond = float((np.abs(values) > reach).mean())
    if beyond > 1e-3:
        notes.append(f"{beyond:.1%} of points are outside")
    return Panel(
        [histogram(values, edges, color, **style), Line(grid, curve, color, width=1.8)],
        f"eigen-dimension {index + 1}" + f", variance compressed to {ratio}" * small,
        "\n".join(notes),
        f"latent e{subscript(index + 1)}, scaled",
        x_limits=(-reach, reach),
        y_limits=(0, top),
        y_ticks={},
    )


def joint(melt: SavedTrajectory) -> Figure:
    """Return latents of an inflation: the first two dimensions, and quantiles of the first six."""
    units = melt.last / np.sqrt(melt.latent_variance()[: melt.last.shape[1]])
    panels = [_joint(units[:, :2]), _quantiles(units, melt.compressed()[: units.shape[1]])]
    return Figure(*_headline(melt, "in units of the closed form's σ"), panels, 2, (3.6, 3.6))


def _joint(units: np.ndarray) -> Panel:
    shown = units[evenly(len(units), MOST_POINTS)]
    angle = np.linspace(0, 2 * np.pi, 181)
    marks: list[Mark] = [Points(shown[:, 0], shown[:, 1], BLUE, size=2, alpha=0.5)]
    marks += [Line(r * np.cos(angle), r * np.sin(angle), INK, width=1) for r in RADII]
    distance = np.linalg.norm(units, axis=1)
    held = ", ".join(f"{(distance < radius).mean():.1%}" for radius in RADII)
    exact = ", ".join(f"{part:.1%}" for part in gaussian_content(RADII, 2))
    limits = (-RANGE, RANGE)
    return Panel(
        marks,
        f"1, 2, 3 σ hold {held}",
        f"closed form: {exact}",
        "e₁ / σ₁",
        "e₂ / σ₂",
        limits,
        limits,
        equal=True,
    )


def _quantiles(units: np.ndarray, compressed: np.ndarray) -> Panel:
    """Return quantiles of the dimensions against normal ones, with a band of ±2 standard errors."""
    count, limits = len(units), (-RANGE, RANGE)
    ranks = evenly(count, MOST_QUANTILES)
    shares = (ranks + 0.5) / count
    normal = np.array([NormalDist().inv_cdf(share) for share in shares])
    error = 2 * np.sqrt(shares * (1 - shares) / count) / gaussian(normal, 1.0)
    label = "±2 standard errors of a quantile"
    marks: list[Mark] = [
        Band(normal, normal - error, normal + error, label=label),
        Line(limits, limits, MUTED, width=0.8),
    ]
    for values, small in zip(units.T, compressed, strict=True):
        color, name = (ORANGE, "compressed") if small else (BLUE, "kept")
        marks.append(Line(normal, np.sort(values)[ranks], color, name, 1.2))
    which = "both dimensions" if units.shape[1] == 2 else f"the first {units.shape[1]} dimensions"
    return Panel(
        marks,
        f"Quantiles of {which}",
        "",
        "normal quantile",
        "quantile of the latent / σ",
        limits,
        limits,
        equal=True,
    )


MANY = 200  # number of dimensions from which their axis is logarithmic, to separate the first ones
RATIOS = (0.1, 10.0)  # farthest limits of the lower panel
# Ticks by the largest ratio of the limits at which they are used.
RATIO_TICKS = {
    1.8: (0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4),
    4: (0.4, 0.6, 0.8, 1, 1.25, 1.6, 2),
    math.inf: (0.1, 0.2, 0.5, 1, 2, 5, 10),
}
FAR = 100.0  # reach of the upper panel below the closed form


def spectrum(melt: SavedTrajectory) -> Figure:
    """Return the variances of latents by eigen-dimension, and their ratios to the closed form."""
    measured, exact, compressed = melt.last_variance, melt.latent_variance(), melt.compressed()
    ratios, index = measured / exact, np.arange(1, len(exact) + 1)
    name, details = name_and_details(melt)
    lowest = max(float(measured.min()) / 1.5, float(exact.min()) / FAR)
    limits = (lowest, 1.5 * max(float(measured.max()), float(exact.max())))
    error = 2 * math.sqrt(2 / melt.count)
    low = max(min(float(ratios.min()) / 1.15, 0.9 - error), RATIOS[0])
    high = min(max(float(ratios.max()) * 1.15, 1.1 + error), RATIOS[1])
    ticks = next(ticks for most, ticks in RATIO_TICKS.items() if high / low <= most)
    # A band that reaches zero ends at the axis.
    label = "±2 standard errors of one variance"
    band: list[Mark] = [Span(max(1 - error, low), 1 + error, label=label), Rule(1, color=INK)]
    many = len(index) > MANY
    axis: dict[str, Any] = {"x": "eigen-dimension", "x_log": many, "y_log": True}
    axis["x_limits"] = (0.9, 1.1 * len(index)) if many else (0.4, len(index) + 0.6)
    above = Panel(
        [Line(index, exact, INK, "closed form", 1.2), *_dots(measured, compressed, limits)],
        y="variance of the latent",
        y_limits=limits,
        **axis,
    )
    below = Panel(
        [*band, *_dots(ratios, compressed, (low, high))],
        y="measured / closed form",
        y_limits=(low, high),
        y_ticks={tick: f"{tick:g}" for tick in ticks if low <= tick <= high},
        **axis,
    )
    return Figure(
        joined(f"Spectrum of the latents of {name}", details, by=": "),
        joined(f"{melt.count} latents", mean_ratio(ratios[~compressed], melt.count)),
        [above, below],
        size=(7.0, 2.8),
        heights=[2.8, 1.6],
        shared=True,
    )


def mean_ratio(ratios: np.ndarray, count: int) -> str:
    """Describe in words the mean of ratios ``[d]`` of sample variances to the closed form.

    Args:
        ratios: Ratios.
        count: Number of samples.
    """
    error = math.sqrt(2 / count * float(np.square(ratios).mean()) / len(ratios))
    mean = f"mean ratio {float(ratios.mean()):#.3g} ± {error:.2g} (standard error)"
    return f"kept dimensions: {mean}, {int((ratios < 1).sum())} of {len(ratios)} below 1"


def _dots(values: np.ndarray, compressed: np.ndarray, limits: tuple[float, float]) -> list[Mark]:
    """Return dots in the colors of their dimensions, and arrow heads for those beyond limits."""
    index, (low, high) = np.arange(1, len(values) + 1), limits
    part, alpha = (0.5, 0.6) if len(index) > MANY else (1.0, 0.9)
    marks: list[Mark] = []
    for chosen, color, name in (
        (~compressed, BLUE, "measured, kept dimensions"),
        (compressed, ORANGE, "measured, compressed dimensions"),
    ):
        for there, marker, size in (
            ((values >= low) & (values <= high), "o", 4.0),
            (values < low, "v", 5.5),
            (values > high, "^", 5.5),
        ):
            shown = chosen & there
            if shown.any():
                label, places = name * (marker == "o"), values[shown].clip(low, high)
                marks.append(Points(index[shown], places, color, label, size * part, marker, alpha))
    return marks


BINS = 48


def densities(trajectory: SavedTrajectory) -> Figure:
    """Return a map and a histogram of the log densities of the points of a simulation.

    Images have no map, and their histogram is in bits per dimension instead of nats.
    """
    assert trajectory.log_prob is not None
    values, unit = trajectory.log_prob, "log density in nats"
    if trajectory.bits_per_dim is not None:
        values, unit = trajectory.bits_per_dim, "bits per dimension"
    mapped = trajectory.images is None
    name, details = name_and_details(trajectory)
    source = "generated " if trajectory.kind == "gen" else ""
    what, many = "points" if mapped else "images", len(values) >= FEW
    cut = float(np.quantile(values, FAR_DENSITIES) if mapped and many else values.min())
    shown, top = values[values >= cut], float(values.max())
    edges = np.histogram_bin_edges(shown, BINS)
    bars = histogram(shown, edges, BLUE, height=1.0, alpha=0.55, filled=True)
    error = values.std(ddof=1) / math.sqrt(len(values))
    lower = int((values < cut).sum())
    panels = [
        Panel(
            [bars, Rule(float(values.mean()), vertical=True, color=INK, width=1.2)],
            f"mean {values.mean():.4g} ± {error:.2g} (standard error)".replace("-", "−"),
            (f"{lower} below {cut:.3g} not drawn" if lower else "").replace("-", "−"),
            unit,
            what if many else "",
            y_limits=None if many else (0, 2),
            y_ticks=None if many else {},
        )
    ]
    scale = None
    if mapped:
        panels.insert(0, _map(trajectory, values[trajectory.chosen], cut, top))
        words = (f"{cut:.3g}".replace("-", "−"), f"{top:.3g}".replace("-", "−"))
        scale = Scale(*words, sequential_colors(64), "log density in nats")
    return Figure(
        f"Log density of {source}{name}",
        joined(details, f"{len(values)} {what}", "colors: log density in nats" * mapped),
        panels,
        len(panels),
        (3.3, 3.3 if mapped else 2.2),
        scale=scale,
    )


def _map(trajectory: SavedTrajectory, values: np.ndarray, low: float, high: float) -> Panel:
    points = points_of(trajectory)[trajectory.times.argmin()]
    order, box = values.argsort(), common_box([points])  # the likely points are on top
    dots = cloud(points[order], colored(values[order], low, high), box, 2.5)
    return cloud_panel([dots], box, axis_names(trajectory))
