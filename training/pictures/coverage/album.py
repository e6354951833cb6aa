"""Which pictures are drawn of coverage: what boundaries hold, and where a flow carries them."""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from training.measure.boundaries import gaussian_content
from training.measure.coverage import STAGES, contents_within
from training.pictures.coverage.boundaries import Panel, cut, draw_boundaries, edges, limits_of
from training.pictures.coverage.radius import Counts, draw_coverage
from training.pictures.coverage.saved import SavedCoverage
from training.pictures.style.look import joined
from training.pictures.style.parameters import parameter, told
from training.pictures.style.picture import Picture
from training.pictures.trajectories.saved import title_of

STAGE_TITLES = {"latent": "latent, at the start", "data": "data", "end": "latent, at the end"}
CUTS = (1, 0)  # normals of planes: across them, sheets are seen in profile
NEAR = 0.2  # standard deviations from a plane up to which points are drawn with its cut
SCORES = {"net": "trained network", "exact": "exact denoiser"}


def pictures_of_coverage(path: Path, folder: Path | None) -> list[Picture]:
    """The pictures of a file of coverage. Raises DataError if it is broken."""
    saved = SavedCoverage.load(path)
    name, details = title_of(Path(f"{path.stem.removesuffix('_coverage')}.npz"))
    details = joined(details, told(SCORES, parameter(path, "options", "score")))
    stem = (folder or path.parent) / path.stem
    figures = {"radius": _curves, "boundaries": _boundaries}
    return [
        Picture.of_figure(Path(f"{stem}_{kind}.png"), partial(draw, saved, name, details))
        for kind, draw in figures.items()
    ]


def _curves(saved: SavedCoverage, name: str, details: str) -> Figure:
    names = ("test points, start", "test points, data", "test points, end", "fresh data")
    columns = [*np.moveaxis(saved.coverage, 1, 0), saved.fresh]
    seeds = len(saved.fresh)
    return draw_coverage(
        saved.radii,
        [Counts(*pair) for pair in zip(names, columns, strict=True)],
        contents_within(saved.boundaries["latent"]),
        saved.dim,
        saved.count,
        title=f"Coverage of {name}",
        subtitle=joined(
            details,
            f"{saved.count:,} points" + (f", {seeds} seeds" if seeds > 1 else ""),
            "boundaries refitted" if saved.refitted else "",
        ),
    )


def _boundaries(saved: SavedCoverage, name: str, details: str) -> Figure:
    shape = "Circles" if saved.dim == 2 else "Spheres"
    fate = "refitted at each stage" if saved.refitted else "carried to the data and back"
    contents = gaussian_content(saved.radii, saved.dim)
    cuts = (None,) if saved.dim == 2 else CUTS
    return draw_boundaries(
        [[_panel(saved, stage, normal) for stage in STAGES] for normal in cuts],
        [f"r = {r:.3g}: {part:.1%}" for r, part in zip(saved.radii, contents, strict=True)],
        title=f"{shape} of Mahalanobis radius r, {fate}: {name}",
        subtitle=joined(details, "percent: the part of the Gaussian inside (χ²)"),
    )


def _panel(saved: SavedCoverage, stage: str, normal: int | None) -> Panel:
    """The boundaries of a stage, in 3-D cut by the plane through the middle with that normal."""
    points, boundaries = saved.points[stage], saved.boundaries[stage]
    limits = limits_of(points, boundaries)
    of_data = stage == "data"
    letter, shown = ("x", "fresh data") if of_data else ("e", "test points")
    axes = [axis for axis in range(saved.dim) if axis != normal]
    if normal is None:
        outlines, words = [edges(boundary) for boundary in boundaries], [f"gray: {shown}"]
    else:
        outlines = [cut(boundary, normal) for boundary in boundaries]
        near = np.abs(points[:, normal]) < NEAR * points[:, normal].std()
        points, limits = points[near][:, axes], limits[axes]
        words = [f"cut by ${letter}_{normal + 1} = 0$", f"gray: {shown} near it"]
    if not of_data:
        words.append("σ = " + ", ".join(f"{std:.2g}" for std in saved.latent_std))
    names = [
        f"${letter}_{axis + 1}$" if of_data else rf"$e_{axis + 1}\,/\,\sigma_{axis + 1}$"
        for axis in axes
    ]
    return Panel(points, outlines, limits, names, STAGE_TITLES[stage], joined(*words))
