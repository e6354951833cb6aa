"""Which pictures are drawn of coverage: what boundaries hold, and where a flow carries them."""

from functools import partial
from pathlib import Path

from training.files.coverage import SavedCoverage
from training.files.names import parameter, title_of
from training.pictures.coverage.boundaries import draw_boundaries
from training.pictures.coverage.radius import draw_radius
from training.pictures.style.picture import Picture, figures
from training.pictures.style.words import joined, words_for

SCORES = {"net": "trained network", "exact": "exact denoiser"}


def pictures_of_coverage(path: Path, folder: Path | None) -> list[Picture]:
    """The pictures of a file of coverage. Raises DataError if it is broken."""
    saved = SavedCoverage.load(path)
    name, details = title_of(path.stem.removesuffix("_coverage"))
    score = parameter(path.with_suffix(".json"), "options", "score")
    words = {"name": name, "details": joined(details, words_for(score, SCORES))}
    draw = {
        "radius": partial(draw_radius, saved, **words),
        "boundaries": partial(draw_boundaries, saved, **words),
    }
    return figures((folder or path.parent) / path.stem, draw)
