"""Where a melt ends, against the Gaussian of the closed form: margins, a joint, and quantiles."""

import math
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from training.files.arrays import evenly
from training.files.trajectory import SavedTrajectory
from training.measure.boundaries import gaussian_content
from training.pictures.style import look
from training.pictures.style.colors import BLUE, FAINT, INK, MUTED, ORANGE
from training.pictures.style.words import joined
from training.pictures.trajectories.words import name_and_details

MOST_PANELS, COLUMNS = 6, 3
SIZE, SIDE, LEFT, GAP = (3.4, 1.75), 3.6, 0.3, 0.3  # inches
LEAST_WIDTH = 6.5  # of a page of one dimension
RANGE = 4.0  # standard deviations of the Gaussian on either side
LEAST_BINS, MOST_BINS = 16, 48
TALLEST = 1.7  # bars are cut at this many times the Gaussian's peak
RADII = np.array([1.0, 2.0, 3.0])
MOST_POINTS, MOST_QUANTILES = 3000, 400


def draw_latents(melt: SavedTrajectory) -> Figure:
    """A histogram for each of the first dimensions."""
    latents, variance, compressed = melt.last, melt.latent_variance(), melt.compressed()
    count = min(latents.shape[1], MOST_PANELS)
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    error = f"curve: closed form · sampling error of a variance: {math.sqrt(2 / melt.count):.1%}"
    figure, places = look.panel_page(
        rows,
        columns,
        SIZE,
        *_headline(melt, error),
        left=LEFT,
        right=LEFT,
        gap=GAP,
        below=0.55,
        least_width=LEAST_WIDTH,
    )
    for number, place in enumerate(places.reshape(-1, 4)[:count]):
        values, exact = latents[:, number], float(variance[number])
        axes = look.axes_at(figure, place)
        _histogram(axes, values, exact, ORANGE if compressed[number] else BLUE)
        name = f"eigen-dimension {number + 1}"
        if compressed[number]:
            name += f", variance compressed to {_share(exact / variance.max())}"
        measured = float(np.square(values).mean())
        look.name_panel(
            axes, name, f"variance {measured:#.3g} = {measured / exact:.3f} × the closed form"
        )
        look.label(axes, f"latent $e_{number + 1}$, scaled")
    return figure


def draw_joint(melt: SavedTrajectory) -> Figure:
    """The first two dimensions together, and the quantiles of the first six."""
    words = _headline(melt, "in units of the closed form's σ")
    figure, places = look.panel_page(1, 2, (SIDE, SIDE), *words, gap=0.8)
    units = melt.last / np.sqrt(melt.latent_variance()[: melt.last.shape[1]])
    _joint(look.axes_at(figure, places[0, 0]), units[:, :2])
    axes = look.axes_at(figure, places[0, 1])
    _quantiles(axes, units, melt.compressed()[: units.shape[1]])
    return figure


def gaussian(values: np.ndarray, variance: float) -> np.ndarray:
    """Density of ``N(0, variance)``."""
    return np.exp(-0.5 * values**2 / variance) / math.sqrt(2 * math.pi * variance)


def _headline(melt: SavedTrajectory, note: str) -> tuple[str, str]:
    name, details = name_and_details(melt)
    title = joined(f"Latents of melted {name}", details, by=": ")
    return title, joined(f"{melt.count} points at t = {melt.times[-1]:.2f}", note)


def _histogram(axes: Axes, values: np.ndarray, variance: float, color: str) -> None:
    reach = RANGE * math.sqrt(variance)
    # Few points in many bins would be nothing but spikes.
    bins = int(np.clip(4 * len(values) ** (1 / 3), LEAST_BINS, MOST_BINS))
    edges = np.linspace(-reach, reach, bins + 1)
    # By all points, not only those in range: bars and curve then compare even if some lie beyond.
    density = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
    axes.bar(edges[:-1], density, np.diff(edges), align="edge", color=color, alpha=0.35, lw=0)
    grid = np.linspace(-reach, reach, 201)
    axes.plot(grid, gaussian(grid, variance), color=color, lw=1.8)
    peak = float(gaussian(np.zeros(1), variance)[0])
    top = min(max(1.12 * peak, 1.05 * float(density.max())), TALLEST * peak)
    axes.set(xlim=(-reach, reach), ylim=(0, top), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=7)
    notes = []
    if density.max() > top:
        notes.append(f"tallest bar cut:\n{density.max() / peak:.1f} × the curve")
    beyond = float((np.abs(values) > reach).mean())
    if beyond > 1e-3:
        notes.append(f"{beyond:.1%} of points\nlie beyond")
    look.note_inside(axes, "\n".join(notes))


def _joint(axes: Axes, units: np.ndarray) -> None:
    shown = units[evenly(len(units), MOST_POINTS)]
    axes.plot(*shown.T, "o", ms=2, mew=0, color=BLUE, alpha=0.5)
    for radius in RADII:
        axes.add_patch(Circle((0, 0), radius, fill=False, ec=INK, lw=1))
    axes.set(xlim=(-RANGE, RANGE), ylim=(-RANGE, RANGE), aspect="equal")
    look.label(axes, r"$e_1\,/\,\sigma_1$", r"$e_2\,/\,\sigma_2$")
    distance = np.linalg.norm(units, axis=1)
    held = ", ".join(f"{(distance < radius).mean():.1%}" for radius in RADII)
    exact = ", ".join(f"{part:.1%}" for part in gaussian_content(RADII, 2))
    look.name_panel(axes, f"1, 2, 3 σ hold {held}", f"closed form: {exact}")


def _quantiles(axes: Axes, units: np.ndarray, compressed: np.ndarray) -> None:
    """Quantiles of the dimensions against the normal ones, with ±2 standard errors of these."""
    count = len(units)
    ranks = evenly(count, MOST_QUANTILES)
    shares = (ranks + 0.5) / count
    normal = np.array([NormalDist().inv_cdf(share) for share in shares])
    error = np.sqrt(shares * (1 - shares) / count) / gaussian(normal, 1.0)
    axes.fill_between(normal, normal - 2 * error, normal + 2 * error, color=FAINT, lw=0)
    ends = np.array([-RANGE, RANGE])
    axes.plot(ends, ends, color=MUTED, lw=0.8)
    named: set[str] = set()
    for values, small in zip(units.T, compressed, strict=True):
        color, name = (ORANGE, "compressed") if small else (BLUE, "kept")
        there = np.sort(values)[ranks]
        axes.plot(normal, there, color=color, lw=1.2, label="" if name in named else name)
        named.add(name)
    axes.set(xlim=(-RANGE, RANGE), ylim=(-RANGE, RANGE), aspect="equal")
    look.label(axes, "normal quantile", "quantile of the latent / σ")
    look.legend(axes, 2, loc="upper left", bbox_to_anchor=(0.02, 0.98))
    which = "both dimensions" if units.shape[1] == 2 else f"the first {units.shape[1]} dimensions"
    look.name_panel(axes, f"Quantiles of {which}", "band: ±2 standard errors of a quantile")


def _share(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio >= 0.01 else f"{ratio:.1e}"
