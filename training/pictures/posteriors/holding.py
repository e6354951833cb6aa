"""Held-out truths: coverage before and after they set the levels, levels over conditions, and data
simulated of posteriors beside what was observed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from torch_utils.results import open_arrays
from training.files.arrays import title_of
from training.files.posterior import SavedCheck, SavedPredictive
from training.measure.conformal import crossed
from training.measure.posterior.calibration import DENSEST
from training.measure.posterior.coverage import central_values
from training.pictures import look
from training.pictures.look import BLUE, INK, joined, sequential_colors
from training.pictures.posteriors.checks import draw_coverage
from training.pictures.posteriors.words import axis_name

MAP_SIZE, PANEL = (4.2, 3.4), (2.1, 1.4)  # inches
MOST_ROWS, MOST_NUMBERS, BINS = 4, 6, 30


def draw_after(saved: SavedCheck) -> Figure:
    """What regions hold whose levels the other half of the truths has set."""
    values = saved.values
    after = {DENSEST: crossed(values.regions[DENSEST][:, None])[:, 0]}
    # Ranks whose central intervals have the contents that are drawn.
    ranks = (1 + crossed(central_values(values.ranks))) / 2
    shown = replace(saved, values=replace(values, ranks=ranks, regions=after))
    return draw_coverage(shown, "levels by held-out truths, each by the other half of them")


def has_map(path: Path) -> bool:
    """Whether a calibration has levels over two conditions."""
    with open_arrays(path) as saved:
        return {"conditions", "near", "condition_names"} <= set(saved.names)


def draw_map(saved: SavedCheck, path: Path) -> Figure:
    """Truths over the first two conditions, colored by what to ask for near them."""
    with open_arrays(path) as arrays:
        points, near = arrays.numbers("conditions"), arrays.numbers("near")
        names = [str(name) for name in arrays.read("condition_names")]
    figure, places = look.panel_page(
        1,
        1,
        MAP_SIZE,
        f"{saved.name}: what holds 90 % nearby",
        joined(saved.schedule, "content asked of the flow near each truth, %"),
        right=1.1,
    )
    axes = look.axes_at(figure, places[0, 0])
    colors = ListedColormap(sequential_colors(256))
    dots = axes.scatter(points[:, 0], points[:, 1], c=100 * near, s=7, lw=0, cmap=colors)
    look.label(axes, axis_name(names[0]), axis_name(names[1]))
    left, bottom, width, height = places[0, 0]
    bar = look.axes_at(figure, np.array([left + width + 0.15, bottom, 0.12, height]))
    figure.colorbar(dots, cax=bar).outline.set_visible(False)
    return figure


def draw_predictive(saved: SavedPredictive) -> Figure:
    """A row for each of the first observations: simulated data, and what was observed."""
    rows, numbers = min(len(saved.observed), MOST_ROWS), min(len(saved.names), MOST_NUMBERS)
    name, schedule = title_of(saved.path.stem.rpartition("_posterior_")[0])
    figure, places = look.panel_page(
        rows,
        numbers,
        PANEL,
        f"Posterior of {name}: data simulated of draws, and what was observed",
        joined(schedule, f"{saved.simulated.shape[1]:,} simulations of each observation"),
        least_width=look.WIDE,
    )
    for row in range(rows):
        for column in range(numbers):
            axes = look.axes_at(figure, places[row, column])
            values = saved.simulated[row, :, column]
            axes.hist(values, BINS, color=BLUE, alpha=0.5, lw=0)
            axes.axvline(saved.observed[row, column], color=INK, lw=1.4)
            axes.set_yticks([])
            share = float(np.mean(values < saved.observed[row, column]))
            label = axis_name(saved.names[column], PANEL[0])
            look.name_panel(axes, label, f"observation {row + 1}: above {share:.1%}")
    return figure
