"""Posterior draws: points of toys, columns, images, chains, and members of hierarchical models."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas
from scipy.stats import binom, rankdata

from dnnlib.numbers import beside
from training.data.toys import Toy
from training.files.arrays import evenly, number, parameter, title_of
from training.files.population import QUANTILES, SavedPopulation
from training.files.posterior_draws import SavedPosteriors, load_netcdf
from training.files.rows import printable
from training.inference.draws import POOLED
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.measure.posterior.convergence import FEWEST_DRAWS, convergence
from training.names import TOY_NAMES
from training.pictures.columns import ACROSS, limits, rank_correlations, signed
from training.pictures.content import (
    Choice,
    Cloud,
    Content,
    Images,
    NumberTable,
    Part,
    Result,
    Sheet,
    Views,
    affordable,
)
from training.pictures.figure import (
    FEW,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
    Segments,
    Span,
    Steps,
    cloud,
    cloud_panel,
    common_box,
    page_positions,
)
from training.pictures.pixels import Column, gray_levels, image_rows
from training.pictures.theme import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    brief,
    diverging_colors,
    joined,
    sequential_colors,
    srgb,
)

READING = "Gray points are prior draws, blue points posterior draws."
PAGE = "docs/howto/likelihoods.md"
MOST_SHOWN = 6
"""Number of observations that are shown at most."""
NUMBERS_TOLD = 3
MOST_COLUMNS, MOST_OBSERVATIONS, MOST_PAIRED = 20, 3, 5
"""Numbers of columns and of observations of marginals, and of columns of pairs."""
MOST_POINTS, MOST_VIEWED, MOST_DRAWS = 1500, 12, 32
"""Numbers of points, of columns that a reader explores, and of draws of images."""
BINS, LEAST_BINS, FILL = 30, 8, 0.3
TRUTH: dict[str, Any] = {"marker": "*", "size": 10.0}


def content_of(path: Path, choice: Choice | None) -> Content:
    """Return the content of a file of posterior draws.

    Raises:
        DataError: The file is broken.
    """
    saved = load_netcdf(path, MOST_SHOWN)
    name, details = name_and_details(saved)
    toy = toy_of(saved.toy, len(saved.names))
    draw: dict[str, Callable[[], Figure]] = {}
    if toy is not None:
        draw["points"] = partial(toy_points, saved, toy)
    elif saved.image_shape is not None:
        draw["images"] = partial(images, saved)
    else:
        draw["marginals"] = partial(marginals, saved)
        if len(saved.names) > 1:
            draw["pairs"] = partial(pairs, saved)
    if has_chains(saved):
        draw["chains"] = partial(chains, saved)
    numbers = path.with_suffix(".json")

    def parts(choice: Choice) -> list[Part]:
        made: list[Part] = [strip(saved)] if saved.image_shape is not None else []
        if saved.image_shape is None and len(saved.names) > 1:
            made.append(_views(saved, min(MOST_POINTS, choice.points)))
        return made + _summary(saved, parameter(numbers, "posteriors"))

    return Content(
        f"Posterior of {name}",
        READING,
        PAGE,
        {f"{path.stem}_{ending}": make for ending, make in draw.items()},
        parts,
        replaced={f"{path.stem}_images", f"{path.stem}_pairs"},
        results=lambda: _results(joined(name, details), numbers),
    )


def name_and_details(saved: SavedPosteriors) -> tuple[str, str]:
    """Return the name of the data, and how the posterior draws were made, in words."""
    name, schedule = title_of(saved.path.stem.removesuffix("_posterior"))
    samplers = ", ".join(sorted(set(saved.sampler)))
    chains_, draws = saved.points.shape[:2]
    drawn = f"{chains_ * draws:,} draws each" + (
        f", every {saved.every}th is shown" * (saved.every > 1)
    )
    shown = np.moveaxis(saved.points, 2, 0)
    drawn += distinct_words(shown.reshape(len(shown), chains_ * draws, -1))
    converged = parameter(saved.path.with_suffix(".json"), "converged")
    if isinstance(converged, int) and converged < saved.count:
        drawn += f", {saved.count - converged} of {saved.count} not converged"
    return name, joined(schedule, f"by {samplers}", drawn)


def distinct_words(points: np.ndarray) -> str:
    """Describe in words how many of the draws ``[M, S, D]`` of each observation are different.

    The text is empty if all are different, as with samplers that do not repeat draws.
    """
    counts = [len({row.tobytes() for row in np.ascontiguousarray(draws)}) for draws in points]
    least, most = min(counts), max(counts)
    if least == points.shape[1]:
        return ""
    return f", {least:,} distinct" if least == most else f", {least:,} to {most:,} of them distinct"


def part_of(saved: SavedPosteriors, shown: int) -> str:
    """Describe in words which observations are shown; the text is empty if all are."""
    if shown == saved.count:
        return ""
    return f"first of {saved.count:,}" if shown == 1 else f"first {shown} of {saved.count:,}"


def value_words(values: np.ndarray) -> str:
    """Format an observation ``[K]``, shortened to its first numbers."""
    listed = ", ".join(f"{value:.3g}".replace("-", "−") for value in values[:NUMBERS_TOLD])
    more = ", …" if len(values) > NUMBERS_TOLD else ""
    return f"y = ({listed}{more})" if len(values) > 1 else f"y = {listed}"


def _results(of: str, numbers: Path) -> list[Result]:
    """Return the convergence of the chains, judged by the sampler's own rule.

    Args:
        of: Name of the data, and how the draws were made.
        numbers: JSON file next to the draws.
    """
    count, converged = parameter(numbers, "observations"), parameter(numbers, "converged")
    if not (isinstance(count, int) and isinstance(converged, int)):
        return []
    words = [f"{converged} of {count}"]
    largest = parameter(numbers, "r_hat", "largest")
    if isinstance(largest, float):
        words.append(f"R-hat at most {largest:.3f}")
    smallest = parameter(numbers, "ess_bulk", "smallest")
    if isinstance(smallest, float):
        words.append(f"effective sample size at least {smallest:,.0f}")
    target = "all, by the criteria of the sampler"
    return [Result(of, "posteriors converged", ", ".join(words), target, converged == count)]


def _views(saved: SavedPosteriors, most: int) -> Views:
    """Return a chart of two coordinates against each other, prior and one posterior."""
    chosen = informative_columns(saved, MOST_VIEWED)
    groups = saved.points.shape[2]
    drawn = saved.points.transpose(2, 0, 1, 3).reshape(groups, -1, len(saved.names))
    kinds = [("posterior draws", drawn, BLUE, 0.5)]
    if saved.prior is not None:  # the same for all observations
        kinds.insert(0, ("prior draws", saved.prior[None], MUTED, 0.4))
    clouds = []
    for label, values, color, alpha in kinds:
        rows = values[:, evenly(values.shape[1], most)][:, :, chosen]
        clouds.append(Cloud(f"{label}, {rows.shape[1]:,}", rows, color, alpha))
    seen = [""] * groups
    if saved.observed is not None:
        seen = [f": {value_words(values)}" for values in saved.observed[:groups]]
    return Views(
        "Draws",
        "Posterior draws over prior draws.",
        clouds,
        [printable(saved.names[column]) for column in chosen],
        [f"{k + 1}{words}" for k, words in enumerate(seen)],
        "observation",
        part_of(saved, groups),
    )


def _summary(saved: SavedPosteriors, listed: Any) -> list[Part]:
    """Return means, intervals and diagnostics of the first observations, as in their JSON file."""
    if saved.image_shape is not None or not isinstance(listed, list):
        return []
    rows = []
    for index, posterior in enumerate(listed[: saved.points.shape[2]]):
        quantiles = posterior.get("quantiles") if isinstance(posterior, dict) else None
        if not isinstance(quantiles, dict):
            return []
        for column in informative_columns(saved, MOST_VIEWED):
            name = saved.names[column]
            spread = number(posterior.get("std"), name) or 0.0
            ends = [_cell(quantiles.get(level), name, spread=spread) for level in ("0.05", "0.95")]
            cells = [
                _cell(posterior.get("mean"), name, spread=spread),
                _cell(posterior.get("std"), name),
                " to ".join(ends),
                *_held_out(posterior, name, spread),
                _cell(posterior.get("ess_bulk"), name, "{:,.0f}"),
                _cell(posterior.get("r_hat"), name),
            ]
            rows.append([str(index + 1), name, *cells])
    if not rows:
        return []
    head = ["observation", "of", "mean", "std", "90 % interval"]
    head += ["as held out", "calibration cases as extreme"] * (len(rows[0]) > 7)
    head += ["effective draws", "R-hat"]
    return [NumberTable("Summary", head, rows, part_of(saved, saved.points.shape[2]))]


def _held_out(posterior: dict[str, Any], name: str, spread: float) -> list[str]:
    """Return the conformal 90 % interval and the observation's p-value.

    The result is empty if the network was not calibrated.
    """
    held = posterior.get("held_out")
    if not isinstance(held, dict):
        return []
    interval: Any = held.get("held_out")
    for key in ("0.9", name):
        interval = interval.get(key) if isinstance(interval, dict) else None
    ends = dict(enumerate(interval)) if isinstance(interval, list) else {}
    odd = _cell(held, "p_value", "{:.2%}")
    return [" to ".join(_cell(ends, end, spread=spread) for end in (0, 1)), odd]


def _cell(values: Any, name: str | int, form: str = "{:.4g}", spread: float | None = None) -> str:
    """Format a number in this form, or to the digits that its spread justifies."""
    value = number(values, name)
    if value is None:
        return "–"
    text = form.format(value) if spread is None else beside(value, spread)
    return text.replace("-", "−")


def informative_columns(saved: SavedPosteriors, most: int) -> np.ndarray:
    """Choose at most ``most`` columns about which the first observation is most informative.

    The observation is informative about a column if the posterior is narrower than the prior, or,
    without a prior, than all posteriors together. Unobserved columns take precedence.

    Returns:
        Indices in the order of the columns.
    """
    prior = saved.points.reshape(-1, len(saved.names)) if saved.prior is None else saved.prior
    spread = prior.std(axis=0)
    ratio = saved.points[:, :, 0].std(axis=(0, 1)) / np.where(spread > 0, spread, 1)
    ratio = np.where(spread > 0, ratio, 1) + 2.0 * observed_columns(saved)
    return np.sort(np.argsort(ratio, kind="stable")[:most])


def observed_columns(saved: SavedPosteriors) -> np.ndarray:
    """Return a mask ``[D]`` of the columns that are observed directly."""
    seen = np.zeros(len(saved.names), dtype=bool)
    if saved.likelihood is not None and saved.likelihood.operator is None:
        places = saved.likelihood.coordinates
        seen[slice(None) if places is None else places.numpy()] = True
    return seen


def _observed_at(saved: SavedPosteriors, column: int) -> np.ndarray:
    """Return the observed values of a column, one per observation; empty if it is not observed."""
    if not observed_columns(saved)[column] or saved.observed is None or saved.likelihood is None:
        return np.empty(0)
    places = saved.likelihood.coordinates
    place = column if places is None else int((places == column).nonzero()[0, 0])
    return saved.observed[:, place]


def _which(saved: SavedPosteriors, size: int) -> str:
    """Describe in words which columns are shown; the text is empty if all are."""
    dim = len(saved.names)
    if size == dim:
        return ""
    unseen = "of unobserved columns, " if not observed_columns(saved).all() else ""
    return f"{size} of {dim} columns: {unseen}those with the largest information gain"


def marginals(saved: SavedPosteriors) -> Figure:
    """Return a panel for each of at most 20 columns, with posteriors of the first observations."""
    shown = min(saved.points.shape[2], MOST_OBSERVATIONS)
    chosen = informative_columns(saved, MOST_COLUMNS).tolist()
    name, details = name_and_details(saved)
    colors = list(sequential_colors(max(shown, 2))[:shown, None])
    panels = []
    for column in chosen:
        values = {f"posterior {k + 1}": saved.points[:, :, k, column].ravel() for k in range(shown)}
        prior = None if saved.prior is None else saved.prior[:, column]
        panel = histograms(prior, values, colors)
        marks = list(panel.marks)
        true = np.empty(0) if saved.truth is None else saved.truth[:shown, column]
        for label, dashed, own in (
            ("observed", True, _observed_at(saved, column)[:shown]),
            ("true value", False, true),
        ):
            for value, color in zip(own, colors, strict=False):
                ends = np.full(2, float(value))
                rule = Line(ends, [0, 1.06], color, "", 1.1, dashed)
                marks += [replace(rule, color=MUTED, label=label, x=ends[:0], y=ends[:0]), rule]
        panels.append(replace(panel, marks=marks, title=printable(saved.names[column])))
    across = min(len(panels), ACROSS)
    return Figure(
        f"Posterior of columns of {name}",
        joined(details, _which(saved, len(chosen)), part_of(saved, shown)),
        panels,
        across,
        (max(9.6 / across, 1.9) if across > 2 else 3.4, 1.15),
    )


def histograms(
    prior: np.ndarray | None, values: dict[str, np.ndarray], colors: Sequence[Any]
) -> Panel:
    """Return the filled prior and outlines of posteriors, each scaled to the panel's height.

    Args:
        prior: Prior draws ``[n]``; None if they are unknown.
        values: Posterior draws by label; few draws are points.
        colors: Color of each posterior.
    """
    # Without a prior all posteriors set the limits, so that none lies outside those of the first.
    every = list(values.values())
    low, high = limits(np.concatenate(every) if prior is None else prior, *every)
    marks: list[Mark] = []
    if prior is not None:
        edges = np.linspace(low, high, BINS + 1)
        marks.append(Steps(edges, _scaled(prior, edges), MUTED, "prior", FILL, filled=True))
    for place, ((label, each), color) in enumerate(zip(values.items(), colors, strict=True)):
        if len(each) < FEW:
            height = np.full(len(each), 0.15 + 0.25 * place)
            marks.append(Points(each, height, color, label, 5, alpha=0.7))
            continue
        bins = int(np.clip(2 * len(each) ** (1 / 3), LEAST_BINS, BINS))
        edges = np.linspace(*limits(each), bins + 1)
        marks.append(Steps(edges, _scaled(each, edges), color, label, width=1.3))
    return Panel(marks, x_limits=(low, high), y_limits=(0, 1.06), y_ticks={})


def _scaled(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.histogram(values, edges)[0]
    return np.asarray(counts / max(counts.max(), 1))


def pairs(saved: SavedPosteriors) -> Figure:
    """Return draws given the first observation, as pairs of two to five columns."""
    chosen = informative_columns(saved, MOST_PAIRED).tolist()
    name, details = name_and_details(saved)
    draws = saved.points[:, :, 0].reshape(-1, len(saved.names))
    correlations = rank_correlations(draws[:, chosen])
    sets = [each for each in (saved.prior, draws) if each is not None]
    ends = [limits(*(each[:, column] for each in sets)) for column in chosen]
    size, panels = len(chosen), list[Panel | None]()
    for row, across in np.ndindex(size, size):
        down, along = chosen[row], chosen[across]
        panel: Panel | None = None
        if row == across:
            prior = None if saved.prior is None else saved.prior[:, down]
            panel = histograms(prior, {"posterior": draws[:, down]}, [BLUE])
        elif across < row:
            note = f"ρ {signed(float(correlations[row, across]))}"
            marks = _pair(saved, draws, (along, down))
            panel = Panel(marks, note=note, x_limits=ends[across], y_limits=ends[row])
        if panel is not None:
            panel = replace(
                panel,
                x=printable(saved.names[along]) if row == size - 1 else "",
                y=printable(saved.names[down]) if across == 0 else "",
                x_ticks=None if row == size - 1 else {},
                y_ticks=None if across == 0 and row > 0 else {},
            )
        panels.append(panel)
    of = f"observation 1 of {saved.count:,}" if saved.count > 1 else ""
    subtitle = joined(details, of, _which(saved, size), "ρ: rank correlation")
    title = f"Pairs of columns of the posterior of {name}"
    return Figure(title, subtitle, panels, size, (1.95, 1.95))


def _pair(saved: SavedPosteriors, draws: np.ndarray, plane: tuple[int, int]) -> list[Mark]:
    """Return the marks of two columns: prior, posterior, observation and true value."""
    marks: list[Mark] = []
    for label, values, color, alpha in (
        ("prior", saved.prior, MUTED, 0.25),
        ("posterior", draws, BLUE, 0.45),
    ):
        if values is not None:
            points = values[evenly(len(values), MOST_POINTS)][:, list(plane)]
            marks.append(Points(points[:, 0], points[:, 1], color, label, 2.2, alpha=alpha))
    if saved.likelihood is not None and saved.likelihood.operator is None:
        assert saved.observed is not None
        marks += observed_marks(saved.likelihood, saved.observed[0], plane, len(saved.names))
    if saved.truth is not None:
        point = saved.truth[[0]][:, list(plane)]
        marks.append(Points(point[:, 0], point[:, 1], ORANGE, "true value", **TRUTH))
    return marks


def observed_marks(
    likelihood: Gaussian, observed: np.ndarray, plane: tuple[int, int], dim: int
) -> list[Mark]:
    """Return the point or line that one observation ``[K]`` fixes in a plane, if any.

    Only observed combinations of the two coordinates of the plane alone count.
    """
    rows = likelihood.observe(torch.eye(dim, dtype=torch.float64)).T.numpy()
    others = np.abs(np.delete(rows, list(plane), axis=1)).sum(axis=1)
    here = rows[:, list(plane)]
    own = (others == 0) & (np.abs(here).sum(axis=1) > 0)
    here, values = here[own], observed[own]
    if len(here) == 2 and np.linalg.matrix_rank(here) == 2:
        x, y = np.linalg.solve(here, values)
        return [Points([x], [y], INK, "observed", 8, "P")]
    if len(here) == 1:
        normal = here[0]
        foot = normal * values[0] / (normal @ normal)
        along = np.array([-normal[1], normal[0]]) / np.linalg.norm(normal)
        ends = foot + np.array([[-1e3], [1e3]]) * along
        return [Line(ends[:, 0], ends[:, 1], INK, "observed", 1.2, dashed=True)]
    return []


GRID = 120
"""Number of grid points of a contour along each axis."""
LEAST_SHARE = 1e-7
"""Smallest weight of a visible component, relative to the heaviest component."""
BLOCK = 2**22
"""Number of component densities computed at once."""
CONTENTS = (0.5, 0.9)
"""Probabilities of the regions that contours of the exact posterior bound."""
ZOOM, FAR = 2.6, 0.6
"""Zoom rule: axes show ZOOM ranges of the draws if that is at most FAR of the prior's range."""


def toy_of(name: str | None, dim: int) -> Toy | None:
    """Return the toy of this name if it has ``dim`` dimensions, else None."""
    toy = Toy(name) if name in TOY_NAMES else None
    return toy if toy is not None and toy.dim == dim else None


def exact_posterior(toy: Toy, likelihood: Gaussian, observed: np.ndarray) -> ExactPosterior:
    """Return the exact posterior of toy data, without components of negligible weight.

    Args:
        toy: Toy that is not embedded.
        likelihood: Likelihood of the observation.
        observed: One observation ``[K]``.
    """
    whole = ExactPosterior.from_components(
        *toy.mixture[:3], likelihood, torch.from_numpy(observed)[None]
    )
    kept = (whole.weights >= LEAST_SHARE * whole.weights.max())[0]
    return ExactPosterior(whole.weights[:, kept], whole.centers[:, kept], whole.covariance)


def plane_density(
    exact: ExactPosterior, x: np.ndarray, y: np.ndarray, plane: tuple[int, int]
) -> np.ndarray:
    """Return the density of two coordinates of an exact posterior on an evenly spaced grid.

    The variance within a grid cell is added, since a toy may have no noise along an axis.

    Args:
        exact: Exact posterior of one observation.
        x: Grid points along the first coordinate.
        y: Grid points along the second coordinate.
        plane: Indices of the two coordinates.

    Returns:
        Densities ``[len(y), len(x)]``.
    """
    pair = list(plane)
    cell = np.diag([(x[1] - x[0]) ** 2, (y[1] - y[0]) ** 2]) / 4
    root = np.linalg.cholesky(exact.covariance.numpy()[np.ix_(pair, pair)] + cell)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    middles, weights = exact.centers[0].numpy()[:, pair], exact.weights[0].numpy()
    points, centers = (np.linalg.solve(root, each.T) for each in (grid, middles))
    total = np.empty(len(grid))
    rows = max(BLOCK // centers.shape[1], 1)
    for first in range(0, len(grid), rows):
        block = points[:, first : first + rows, None] - centers[:, None]
        total[first : first + rows] = np.exp(-np.square(block).sum(axis=0) / 2) @ weights
    return total.reshape(len(y), len(x)) / (2 * np.pi * np.linalg.det(root))


def content_levels(density: np.ndarray, contents: tuple[float, ...]) -> list[float]:
    """Return increasing density levels whose upper level sets have the given probabilities.

    Args:
        density: Densities on a grid.
        contents: Probabilities of the regions.
    """
    ordered = np.sort(density, axis=None)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    places = np.searchsorted(held, sorted(contents, reverse=True))
    return [float(ordered[min(place, len(ordered) - 1)]) for place in places]


def toy_points(saved: SavedPosteriors, toy: Toy) -> Figure:
    """Return posterior draws of toy data.

    In 2-D, each observation has a panel. In 3-D, it has a row: the cloud and three planes.
    """
    shown, flat = saved.points.shape[2], toy.dim == 2
    name, details = name_and_details(saved)
    panels = [panel for index in range(shown) for panel in _observation(saved, toy, index)]
    columns = 4 if not flat else 2 if shown in (2, 4) else min(shown, 3)
    return Figure(
        f"Posterior of {name}",
        joined(details, part_of(saved, shown)),
        panels,
        columns,
        (3.0, 3.0) if flat else (2.2, 2.2),
    )


def _observation(saved: SavedPosteriors, toy: Toy, index: int) -> list[Panel]:
    """Return the panels of one observation."""
    draws = saved.points[:, :, index].reshape(-1, toy.dim)
    draws = draws[evenly(len(draws), MOST_POINTS)]
    title = f"Observation {index + 1}"
    note = "" if saved.observed is None else value_words(saved.observed[index])
    if toy.dim == 2:
        box = zoomed_box(saved.prior, draws)
        return [replace(_plane(saved, toy, index, (0, 1), draws, box), title=title, note=note)]
    box = common_box([draws] if saved.prior is None else [saved.prior, draws])
    marks: list[Mark] = [cloud(draws, BLUE, box)]
    if saved.prior is not None:
        marks.insert(0, cloud(saved.prior, MUTED, box, alpha=0.12))
    if saved.truth is not None:
        point = page_positions(saved.truth[[index]])
        marks.append(Points(point[:, 0], point[:, 1], ORANGE, "true value", **TRUTH))
    names = [printable(each) for each in saved.names]
    planes = combinations(range(3), 2)
    return [
        cloud_panel(marks, box, names, title, note),
        *(_plane(saved, toy, index, plane, draws, box[list(plane)]) for plane in planes),
    ]


def _plane(
    saved: SavedPosteriors,
    toy: Toy,
    index: int,
    plane: tuple[int, int],
    draws: np.ndarray,
    box: np.ndarray,
) -> Panel:
    """Return a panel of two coordinates of one observation."""
    pair, marks = list(plane), list[Mark]()
    if saved.prior is not None:
        x, y = saved.prior[:, pair].T
        marks.append(Points(x, y, MUTED, "prior draws", 2, alpha=0.3))
    x, y = draws[:, pair].T
    marks.append(Points(x, y, BLUE, "posterior draws", 2, alpha=0.5))
    if saved.observed is not None and saved.likelihood is not None:
        observed = saved.observed[index]
        marks += _regions(exact_posterior(toy, saved.likelihood, observed), plane, box)
        marks += observed_marks(saved.likelihood, observed, plane, toy.dim)
    if saved.truth is not None:
        point = saved.truth[[index]][:, pair]
        marks.append(Points(point[:, 0], point[:, 1], ORANGE, "true value", **TRUTH))
    return cloud_panel(marks, box, [printable(saved.names[axis]) for axis in pair])


def _regions(exact: ExactPosterior, plane: tuple[int, int], box: np.ndarray) -> list[Mark]:
    """Return the contours that bound regions of known content of an exact posterior."""
    x, y = (np.linspace(low, high, GRID) for low, high in box)
    density = plane_density(exact, x, y, plane)
    levels = content_levels(density, CONTENTS)
    if not levels[0] < levels[-1]:
        return []
    contours = Canvas().add_subplot().contour(x, y, density, levels).allsegs
    contents = " and ".join(f"{100 * content:g}" for content in CONTENTS)
    label = f"exact posterior of the toy: regions of {contents} %"
    lines = [line for level in contours for line in level]
    return [Line(line[:, 0], line[:, 1], ORANGE, label, 1.1) for line in lines]


def zoomed_box(prior: np.ndarray | None, draws: np.ndarray) -> np.ndarray:
    """Return the limits ``[2, 2]`` of a square around the draws.

    The square also contains the prior's draws unless these reach much farther.
    """
    own = common_box([draws])
    wide = own if prior is None else common_box([prior, draws])
    half = ZOOM * float(np.ptp(own[0])) / 2
    if 2 * half > FAR * float(np.ptp(wide[0])):
        return wide
    middle = own.mean(axis=1)
    return np.stack([middle - half, middle + half], axis=1)


DRAWS = 6
LEAST_REACH = 1.0
"""Least standard deviation, in gray levels, that the darkest color stands for."""


def images(saved: SavedPosteriors) -> Figure:
    """Return a row of images for each observation, with pixels in gray levels."""
    saved, unit = in_gray_levels(saved)
    shape, shown = saved.image_shape, saved.points.shape[2]
    assert shape is not None
    draws = saved.points.reshape(-1, shown, *shape)
    std = draws.std(axis=0).mean(axis=1)
    columns = [Column(gray_levels(draws.mean(axis=0)), "mean")]
    for index, place in enumerate(evenly(len(draws), DRAWS)):
        columns.append(Column(gray_levels(draws[place]), f"draw {index + 1}"))
    caption, seen = "Standard deviation: of the draws of each pixel", observed_cells(saved)
    if seen is not None:
        columns.insert(0, Column(seen, "observed"))
        hidden = saved.likelihood is not None and saved.likelihood.coordinates is not None
        caption = joined("Tinted: unobserved pixels" * hidden, caption, by=". ")
    if saved.truth is not None:
        truth = saved.truth.reshape(shown, *shape)
        columns.insert(0, Column(gray_levels(truth), "true value"))
        columns.append(Column(truth_cells(draws, truth), "true among", "draws"))
        caption += ". True among draws: blue below nearly all draws, orange above"
    reach = max(float(std.max()), LEAST_REACH)
    columns.append(Column(spread_cells(std, reach), "standard", "deviation"))
    values = spread_cells(np.linspace(0, reach, 101), reach) / 255
    name, details = name_and_details(saved)
    return image_rows(
        columns,
        f"Posterior of {name}",
        joined(details, part_of(saved, shown), f"{shape[2]} × {shape[1]} pixels"),
        f"{caption}.",
        scale=Scale("0", brief(reach * unit), values, f"standard deviation{units_of(unit)}"),
    )


def in_gray_levels(saved: SavedPosteriors) -> tuple[SavedPosteriors, float]:
    """Return posteriors of images with values from 0 to 255, and the size of a gray level."""
    if saved.value_range is None:
        return saved, 1.0
    low, high = saved.value_range
    unit = (high - low) / 255

    def levels(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else (values - low) / unit

    points = (saved.points - low) / unit
    observed, truth = levels(saved.observed), levels(saved.truth)
    return replace(saved, points=points, observed=observed, truth=truth, value_range=None), unit


def units_of(unit: float) -> str:
    """Return the units of standard deviations for a text: gray levels, or those of the data."""
    return ", gray levels" if unit == 1 else ", in units of the data"


def strip(saved: SavedPosteriors) -> Images:
    """Return posteriors of images: observation, mean, standard deviation, and single draws."""
    saved, unit = in_gray_levels(saved)
    shape, count = saved.image_shape, saved.points.shape[2]
    assert shape is not None
    draws = saved.points.reshape(-1, count, *shape)
    some = evenly(len(draws), MOST_DRAWS)
    count = affordable(count, shape, len(some) + 5)
    std = draws.std(axis=0).mean(axis=1)[:count]
    reach = max(float(std.max()), LEAST_REACH)
    seen = observed_cells(saved)
    sheets = [Sheet.of_cells(gray_levels(draws.mean(axis=0)[:count]), "mean")]
    spread = f"0 to {brief(reach * unit)}{units_of(unit).replace(',', '')}"
    sheets.append(Sheet.of_cells(spread_cells(std, reach), "std", spread))
    if seen is not None:
        sheets.insert(0, Sheet.of_cells(seen[:count], "observed", "tinted: unobserved"))
    if saved.truth is not None:
        truth = saved.truth[:count].reshape(-1, *shape)
        sheets.insert(0, Sheet.of_cells(gray_levels(truth), "true value"))
        among = truth_cells(draws[:, :count], truth)
        note = "blue: below them, orange: above"
        sheets.append(Sheet.of_cells(among, "true value among draws", note))
    return Images(
        "Observations and their posteriors",
        [f"observation {index + 1}" for index in range(count)],
        sheets,
        0,
        (shape[1], shape[2]),
        part_of(saved, count),
        draws=[
            Sheet.of_cells(gray_levels(draws[place, :count]), f"draw {k + 1} of {len(some)}")
            for k, place in enumerate(some)
        ],
    )


def spread_cells(std: np.ndarray, reach: float) -> np.ndarray:
    """Return standard deviations ``[...]`` as 8-bit colors ``[..., 3]``, darkest at ``reach``."""
    stops = np.stack([srgb(color) for color in ("#f4f5f8", BLUE, INK)])
    channels = [np.interp(std / reach, [0, 0.5, 1], channel) for channel in stops.T]
    return np.rint(255 * np.stack(channels, axis=-1)).astype(np.uint8)


def truth_cells(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Color each pixel of true images by its rank among posterior draws, ``[m, H, W, 3]``.

    The color shows the fraction of draws below the true value minus the fraction above, for the
    channel with the largest absolute difference.

    Args:
        draws: Posterior draws ``[S, m, C, H, W]``.
        truth: True images ``[m, C, H, W]``.
    """
    beyond = ((draws < truth).mean(axis=0) - (draws > truth).mean(axis=0)).astype(np.float64)
    farthest = np.abs(beyond).argmax(axis=1)[:, None]
    share = np.take_along_axis(beyond, farthest, axis=1)[:, 0]
    return np.rint(255 * diverging_colors(share)).astype(np.uint8)


def observed_cells(saved: SavedPosteriors) -> np.ndarray | None:
    """Return observations as images ``[m, H, W, 3]``; None if they cannot be shown as images."""
    shape, likelihood, observed = saved.image_shape, saved.likelihood, saved.observed
    assert shape is not None
    if observed is None or likelihood is None:
        return None
    if likelihood.operator is not None:
        return _small_cells(observed, likelihood.operator.shape, shape)
    places = likelihood.coordinates
    dim = int(np.prod(shape))
    where = np.arange(dim) if places is None else places.numpy()
    pixels, known = np.zeros((len(observed), dim)), np.zeros(dim, dtype=bool)
    pixels[:, where], known[where] = observed, True
    cells = gray_levels(pixels.reshape(-1, *shape))
    seen: np.ndarray = known.reshape(shape).min(axis=0)
    tint = np.rint(255 * srgb(FAINT) * (0.8, 0.9, 1.0)).astype(np.uint8)
    return np.where(seen[:, :, None], cells, tint)


def _small_cells(
    observed: np.ndarray, small: tuple[int, int, int] | None, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Return observations ``[m, K]`` of an operator as images, enlarged and in the upper left.

    Returns:
        Images ``[m, H, W, 3]``, or None if the operator's output is no image or a larger one.
    """
    if small is None or small[0] != shape[0] or small[1] > shape[1] or small[2] > shape[2]:
        return None
    times = min(shape[1] // small[1], shape[2] // small[2])
    pixels = observed.reshape(-1, *small).repeat(times, axis=2).repeat(times, axis=3)
    rest = ((0, 0), (0, 0), *((0, shape[k] - pixels.shape[k + 1]) for k in (1, 2)))
    return gray_levels(np.pad(pixels, rest, constant_values=255))


MOST_TRACES, MOST_CHAINS, RANK_BINS = 4, 8, 20
"""Numbers of coordinates, of chains with distinguishable colors, and of bins of ranks."""


def has_chains(saved: SavedPosteriors) -> bool:
    """Return whether draws of the first observation form chains that are long enough to plot."""
    chains_, draws = saved.points.shape[:2]
    pooled = saved.sampler[0] in POOLED
    return saved.log_likelihood is not None and not pooled and chains_ > 1 and draws >= FEWEST_DRAWS


def chains(saved: SavedPosteriors) -> Figure:
    """Return Markov chains: a row for each of the worst-mixed coordinates and the log likelihood.

    A row has the traces, and the ranks of the draws of each chain among all.
    """
    assert saved.log_likelihood is not None
    points, dim = saved.points[:, :, 0], len(saved.names)
    values = np.concatenate([points, saved.log_likelihood[:, :, :1]], axis=2)
    found = convergence(torch.from_numpy(values))
    r_hat = found.r_hat[:dim].nan_to_num(0).numpy()
    order = [*np.sort(np.argsort(-r_hat, kind="stable")[:MOST_TRACES]).tolist(), dim]
    labels = [*map(printable, saved.names), "log likelihood"]
    shown = min(len(points), MOST_CHAINS)
    panels = []
    for place in order:
        note = f"R-hat {float(found.r_hat[place]):.3f} · ESS {float(found.ess_bulk[place]):,.0f}"
        panels += _chain_panels(values[:, :, place], labels[place], note, shown)
    name, details = name_and_details(saved)
    few = f"first {shown} of {len(points)} chains" * (shown < len(points))
    chosen = f"the {MOST_TRACES} of {dim} coordinates with the largest R-hat" * (dim > MOST_TRACES)
    return Figure(
        f"Chains of the posterior of {name}",
        joined(details, f"observation 1 of {saved.count:,}", chosen, few),
        panels,
        2,
        (4.6, 1.25),
    )


def _chain_panels(values: np.ndarray, label: str, note: str, shown: int) -> list[Panel]:
    """Return the traces of chains ``[C, S]`` and their ranks."""
    draws, colors = values.shape[1], sequential_colors(shown)[:, None]
    bins = min(RANK_BINS, max(draws // 5, 2))
    edges = np.linspace(0, values.size, bins + 1)
    low, high = binom(draws, 1 / bins).ppf([0.025, 0.975])
    counts = rank_counts(values, bins)
    traces: list[Mark] = []
    ranks: list[Mark] = [Span(low, high, label="ranks of independent draws (95 %)")]
    for k, color in enumerate(colors):
        name = f"chain {k + 1}"
        traces.append(Line(np.arange(draws), values[k], color, name, 0.5, alpha=0.8))
        ranks.append(Steps(edges, counts[k], color, width=1.1))
    top = 1.1 * max(counts.max(), high)
    return [
        Panel(traces, label, note, "draw", x_limits=(0, max(draws - 1, 1))),
        Panel(
            ranks,
            x="rank among the draws of all chains",
            y="draws",
            x_limits=(0, values.size),
            y_limits=(0, top),
        ),
    ]


def rank_counts(values: np.ndarray, bins: int) -> np.ndarray:
    """Rank the draws of all chains together, and count those of each chain by rank.

    The bins of ranks have equal sizes.

    Args:
        values: Draws of C chains ``[C, S]``.
        bins: Number of bins.

    Returns:
        Counts ``[C, bins]``.
    """
    ranks = rankdata(values, method="ordinal").reshape(values.shape)
    edges = np.linspace(0, values.size, bins + 1)
    return np.stack([np.histogram(chain - 0.5, edges)[0] for chain in ranks])


MOST_PARAMETERS, MOST_MEMBERS = 6, 60


def content_of_population(path: Path, choice: Choice | None) -> Content:
    """Return the content of a hierarchical model and its members.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedPopulation.load(path)
    name, _ = title_of(path.stem.partition("_posterior")[0])
    return Content(
        f"Hierarchical model of {name}",
        "Members of a hierarchical model inform each other, so that their intervals are narrower "
        "than those of each member alone.",
        PAGE,
        {f"{path.stem}_members": partial(members, saved, name)},
    )


def members(saved: SavedPopulation, name: str) -> Figure:
    """Return intervals of the members of a hierarchical model, in a panel per parameter.

    Each member has the interval of its own posterior and that given all members. Members are sorted
    by the median given all members. The interval of a new member is in the background.
    """
    count, shown = saved.members.shape[2], min(len(saved.names), MOST_PARAMETERS)
    together = np.quantile(saved.members, QUANTILES, axis=(0, 1))
    further = np.quantile(saved.further, QUANTILES, axis=(0, 1))
    panels = []
    for place in range(shown):
        order = np.argsort(together[1, :, place], kind="stable")[evenly(count, MOST_MEMBERS)]
        rows = np.arange(len(order))
        low, middle, high = (float(end) for end in further[:, place])
        marks: list[Mark] = [
            Span(low, high, True, ORANGE, "new member", 0.18),
            Rule(middle, True, ORANGE, width=1.2),
        ]
        for label, values, color, dot, shift in (
            ("member alone", saved.alone, FAINT, MUTED, 0.16),
            ("in the hierarchical model", together, BLUE, BLUE, -0.16),
        ):
            first, median, last = values[:, order, place]
            marks.append(Segments(first, last, rows + shift, rows + shift, color, label, 1.6))
            marks.append(Points(median, rows + shift, dot, size=2.6))
        note = f"new member {low:.3g} to {high:.3g}"
        panels.append(Panel(marks, printable(saved.names[place]), note, y_ticks={}))
    return Figure(
        f"{count} members of a hierarchical model: {name}",
        "90 % intervals",
        panels,
        shown,
        (max(9.6 / shown, 1.7) if shown > 2 else 3.2, 2.6),
    )
