"""Coverage: fractions inside boundaries by radius, and boundaries carried by a flow."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from training.files.arrays import evenly, parameter, title_of
from training.files.coverage import SavedCoverage
from training.measure.reliability import TELLING
from training.paper.containment import Boundary, gaussian_content
from training.paper.coverage import STAGES, contents_within
from training.pictures.content import Choice, Content, NumberTable, Result, judged
from training.pictures.figure import (
    Band,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Segments,
    subscript,
)
from training.pictures.theme import BLUE, INK, MUTED, ORANGE, joined, sequential_colors, words_for

POINT_COLOR, MOST_POINTS = "#c9ced8", 2500
MOST_IN_LEGEND = 7
STRAYS = 2e-3  # share of the points that may lie outside the limits
STAGE_TITLES = {"latent": "latent, at the start", "data": "data", "end": "latent, at the end"}
CUTS = (1, 0)  # axes normal to the cut planes: across them, sheets appear in profile
NEAR = 0.2  # points within this many standard deviations of a plane are drawn with its cut
SCORES = {"net": "trained network", "exact": "exact denoiser"}
SIGMAS = 3.0
MARKERS: Mapping[str, tuple[str, str, bool]] = {
    "test points, start": ("o", BLUE, True),
    "test points, data": ("^", BLUE, False),
    "test points, end": ("x", BLUE, False),
    "fresh data": ("D", ORANGE, False),
}
"""Marker, color, and whether the marker is hollow, by kind of points."""
PART = 0.12  # spacing of the marks at one radius, as a fraction of the distance between radii


def content_of(path: Path, choice: Choice | None) -> Content:
    """Return the content of a coverage file.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedCoverage.load(path)
    name, details = title_of(path.stem.removesuffix("_coverage"))
    score = parameter(path.with_suffix(".json"), "options", "score")
    words = {"name": name, "details": joined(details, words_for(score, SCORES))}
    return Content(
        f"{name}: coverage",
        "A sphere in latent space has a known probability under the Gaussian; a correct flow "
        "carries it to a boundary with the same probability under the data.",
        "docs/howto/check-a-flow.md",
        {
            f"{path.stem}_radius": partial(by_radius, saved, **words),
            f"{path.stem}_boundaries": partial(boundaries, saved, **words),
        },
        parts=lambda choice: [_table(saved)],
        results=lambda: _results(saved, joined(name, details, by=", ")),
    )


def _shares(saved: SavedCoverage) -> dict[str, np.ndarray]:
    """Return fractions inside ``[R]`` by kind of points."""
    return dict(zip(MARKERS, [*saved.coverage, saved.fresh], strict=True))


def _table(saved: SavedCoverage) -> NumberTable:
    shares = {"χ²": gaussian_content(saved.radii, saved.dim), **_shares(saved)}
    rows = [
        [f"{radius:g}", *(f"{100 * share[k]:.2f} %" for share in shares.values())]
        for k, radius in enumerate(saved.radii)
    ]
    return NumberTable("Fractions inside boundaries", ["radius", *shares], rows)


def _results(saved: SavedCoverage, of: str) -> list[Result]:
    """Return the largest errors of coverage of test points in data space, and of fresh data."""
    exact, shares, results = gaussian_content(saved.radii, saved.dim), _shares(saved), []
    count = min(saved.count, saved.fresh_count)
    errors = np.sqrt(exact * (1 - exact) / count)
    for what in ("test points, data", "fresh data"):
        off = shares[what] - exact
        worst = int(np.abs(off / errors).argmax())
        room = SIGMAS * float(errors[worst])
        right = judged(bool(abs(off[worst]) <= room), room, TELLING)
        value = f"{100 * off[worst]:+.2f}".replace("-", "−")
        value += " points from χ² at the worst radius"
        target = f"within {100 * room:.2g}: {SIGMAS:g} standard deviations of a count"
        name = f"coverage of {what}"
        results.append(Result.tested(of, name, value, target, right, "points"))
    return results


def by_radius(saved: SavedCoverage, name: str, details: str) -> Figure:
    """Return coverage against radius, and below it the differences from the exact coverage."""
    radii, fewest = saved.radii, min(saved.count, saved.fresh_count)
    points = f"{saved.count:,} points"
    if saved.fresh_count != saved.count:
        points += f", {saved.fresh_count:,} of fresh data"
    step = float(np.diff(radii).min()) if len(radii) > 1 else 0.5
    grid = np.linspace(0, radii[-1] + step / 2, 401)
    exact, expected = gaussian_content(grid, saved.dim), gaussian_content(radii, saved.dim)
    two_std = 2 * np.sqrt(exact * (1 - exact) / fewest)
    held = contents_within(saved.boundaries["latent"]) - expected
    band = f"±2 standard deviations of a count of {fewest:,}"
    above: list[Mark] = [
        Band(grid, exact - two_std, exact + two_std, label=band),
        Line(grid, exact, INK, f"χ², {saved.dim} dimensions", 1.2),
    ]
    below: list[Mark] = [
        Band(grid, -100 * two_std, 100 * two_std),
        Rule(0, color=INK),
        Line([0, *radii], [0, *(100 * held)], MUTED, "drawn boundary", 1.0, dashed=True),
    ]
    for index, (what, fractions) in enumerate(_shares(saved).items()):
        marker, color, hollow = MARKERS[what]
        above.append(Points(radii, fractions, color, what, 6, marker, hollow=hollow))
        x = radii + (index - (len(MARKERS) - 1) / 2) * PART * step
        off = 100 * (fractions - expected)
        below.append(Points(x, off, color, size=6, marker=marker, hollow=hollow))
    limits, label = (0.0, float(grid[-1])), "Mahalanobis radius"
    return Figure(
        f"Coverage of {name}",
        joined(details, points, "boundaries refitted" if saved.refitted else ""),
        [
            Panel(above, x=label, y="fraction inside", x_limits=limits, y_limits=(0, 1.03)),
            Panel(below, x=label, y="points from χ²", x_limits=limits),
        ],
        size=(7.0, 2.3),
        shared=True,
    )


def boundaries(saved: SavedCoverage, name: str, details: str) -> Figure:
    """Return boundaries and points: one column per stage and, in 3-D, one row per cutting plane.

    The stages are latent space, generated data, and latents after inflation of the data. A boundary
    has the same color in all panels.
    """
    cuts = (None,) if saved.dim == 2 else CUTS
    shape = "Circles" if saved.dim == 2 else "Spheres"
    fate = "refitted at each stage" if saved.refitted else "carried to the data and back"
    return Figure(
        f"{shape} of Mahalanobis radius r, {fate}: {name}",
        joined(details, "percent: probability of the sphere under the Gaussian (χ²)"),
        [_stage(saved, stage, normal) for normal in cuts for stage in STAGES],
        columns=len(STAGES),
        size=(3.0, 3.0),
    )


def edges(boundary: Boundary) -> np.ndarray:
    """Return the end points ``[F, 2, 2]`` of the sides of a polygon."""
    return boundary.vertices[boundary.faces]


def cut(boundary: Boundary, axis: int) -> np.ndarray:
    """Return the section of a mesh by the plane where the coordinate with index ``axis`` is 0.

    Returns:
        End points ``[M, 2, 2]`` of M segments, in the remaining two coordinates.
    """
    start = boundary.vertices[boundary.faces]
    end = np.roll(start, -1, axis=1)
    above, next_above = start[..., axis], end[..., axis]
    # A point in the plane counts as above it, so a triangle has either two crossing edges or none.
    crossed = (above < 0) != (next_above < 0)
    share = (above / np.where(crossed, above - next_above, 1))[..., None]
    ends = (start + share * (end - start))[crossed].reshape(-1, 2, 3)
    return np.delete(ends, axis, axis=2)


def limits_of(points: np.ndarray, boundaries: Sequence[Boundary]) -> np.ndarray:
    """Return axis limits ``[D, 2]``, a square or cube that contains boundaries and most points."""
    within = np.quantile(points, [STRAYS / 2, 1 - STRAYS / 2], axis=0)
    corners = np.concatenate([within, *(boundary.vertices for boundary in boundaries)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-9) * 1.05
    middle = (low + high) / 2
    return np.stack([middle - half, middle + half], axis=1)


def _stage(saved: SavedCoverage, stage: str, normal: int | None) -> Panel:
    """Return the boundaries of a stage; in 3-D, their section by the plane with this normal."""
    points, shapes = saved.points[stage], saved.boundaries[stage]
    limits = limits_of(points, shapes)
    of_data = stage == "data"
    letter, shown = ("x", "fresh data") if of_data else ("e", "test points")
    kept = [axis for axis in range(saved.dim) if axis != normal]
    if normal is None:
        outlines, words = [edges(each) for each in shapes], [f"gray: {shown}"]
    else:
        outlines = [cut(each, normal) for each in shapes]
        near = np.abs(points[:, normal]) < NEAR * points[:, normal].std()
        points, limits = points[near][:, kept], limits[kept]
        words = [f"cut by {letter}{subscript(normal + 1)} = 0", f"gray: {shown} near it"]
    if not of_data:
        words.append("σ = " + ", ".join(f"{std:.2g}" for std in saved.latent_std))
    points = points[evenly(len(points), MOST_POINTS)]
    marks: list[Mark] = [Points(points[:, 0], points[:, 1], POINT_COLOR, size=1.8)]
    colors = sequential_colors(len(outlines))
    contents, named = (
        gaussian_content(saved.radii, saved.dim),
        evenly(len(outlines), MOST_IN_LEGEND),
    )
    for index, (outline, color) in enumerate(zip(outlines, colors, strict=True)):
        label = f"r = {saved.radii[index]:.3g}: {contents[index]:.1%}" if index in named else ""
        start, end = outline.reshape(-1, 2, 2).swapaxes(0, 1)
        sides = (start[:, 0], end[:, 0], start[:, 1], end[:, 1])
        marks.append(Segments(*sides, color[None], label, 1.4 if len(outlines) <= 7 else 0.8))
    names = [f"{letter}{subscript(axis + 1)}" for axis in kept]
    if not of_data:
        names = [f"{each} / σ{subscript(axis + 1)}" for each, axis in zip(names, kept, strict=True)]
    x_limits, y_limits = ((float(low), float(high)) for low, high in limits)
    title, note = STAGE_TITLES[stage], joined(*words)
    return Panel(marks, title, note, names[0], names[1], x_limits, y_limits, equal=True)
