"""Section of coverage: fractions inside latent spheres, carried by the flow to data and back."""

from pathlib import Path

import numpy as np

from training.files.arrays import title_of
from training.files.coverage import SavedCoverage
from training.measure.reliability import TELLING
from training.paper.boundaries import gaussian_content
from training.paper.coverage import STAGES
from training.pictures.content import Choice, NumberTable, Result, judged
from training.pictures.coverage import STYLES
from training.pictures.theme import BLUE, MUTED, ORANGE, joined
from training.report import charts
from training.report.content import Chart, Charts, Key, Section

READING = (
    "A sphere in latent space has a known probability under the Gaussian; a correct flow "
    "carries it to a boundary with the same probability under the data."
)
SIGMAS = 3.0
MARKS = ("circle", "triangle", "x", "diamond")


def section_of(path: Path, choice: Choice) -> Section:
    """Return the report section about a coverage file.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedCoverage.load(path)
    name, details = title_of(path.stem.removesuffix("_coverage"))
    # Fractions by kind of points, averaged over seeds.
    shares = dict(
        zip(STYLES, [*saved.coverage.mean(axis=0), saved.fresh.mean(axis=0)], strict=True)
    )
    exact = gaussian_content(saved.radii, saved.dim)
    seeds = len(saved.fresh)
    errors = np.sqrt(exact * (1 - exact) / (seeds * min(saved.count, saved.fresh_count)))
    of = joined(name, details, by=", ")
    # test points in data space, and fresh data
    telling = [list(STYLES)[STAGES.index("data")], list(STYLES)[-1]]
    results = [_result(of, what, shares[what], exact, errors) for what in telling]
    head = ["radius", "χ²", *STYLES]
    rows = [
        [f"{radius:g}", *(f"{100 * share[k]:.2f} %" for share in (exact, *shares.values()))]
        for k, radius in enumerate(saved.radii)
    ]
    parts = [Charts([_differences(saved, shares, exact, errors)]), NumberTable("Held", head, rows)]
    return Section(
        f"{name}: coverage", READING, "docs/howto/check-a-flow.md", str(path.parent), parts, results
    )


def _result(
    of: str, what: str, shares: np.ndarray, exact: np.ndarray, errors: np.ndarray
) -> Result:
    off = shares - exact
    worst = int(np.abs(off / errors).argmax())
    room = SIGMAS * float(errors[worst])
    right = judged(bool(abs(off[worst]) <= room), room, TELLING)
    return Result(
        of,
        f"coverage of {what}",
        f"{100 * off[worst]:+.2f}".replace("-", "−")
        + " points from χ² at the worst radius"
        + (": too few points to test" if right is None else ""),
        f"within {100 * room:.2g}: {SIGMAS:g} standard deviations of a count",
        right,
    )


def _differences(
    saved: SavedCoverage, shares: dict[str, np.ndarray], exact: np.ndarray, errors: np.ndarray
) -> Chart:
    plot = charts.plot("Mahalanobis radius", "coverage − χ², points")
    plot.varea(saved.radii, -200 * errors, 200 * errors, fill_color=MUTED, fill_alpha=0.2)
    charts.level(plot, 0, dashed=False)
    keys = [Key("±2 standard deviations of a count", MUTED, "band")]
    for (what, held), mark in zip(shares.items(), MARKS, strict=True):
        color = ORANGE if what == list(STYLES)[-1] else BLUE
        fill = None if mark == "circle" else color
        off = charts.float32(100 * (held - exact))
        plot.scatter(saved.radii, off, marker=mark, size=8, line_color=color, fill_color=fill)
        sign = dict(zip(MARKS, "○▲×◆", strict=True))[mark]
        keys.append(Key(f"{sign} {what}", color, "none"))
    worst = max(float(np.abs(held - exact).max()) for held in shares.values())
    alt = f"Differences from chi-squared by radius, at most {100 * worst:.2f} percentage points."
    return Chart(plot, "Coverage of boundaries minus χ²", alt, keys)
