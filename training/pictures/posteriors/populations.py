"""Members of a population: what each tells alone, and what all of them tell together."""

import numpy as np
from matplotlib.figure import Figure

from training.files.population import QUANTILES, SavedPopulation
from training.pictures import look
from training.pictures.look import BLUE, FAINT, MUTED, ORANGE
from training.pictures.posteriors.words import axis_name

PANEL = (2.7, 2.6)  # inches
MOST_PARAMETERS, MOST_MEMBERS = 6, 60


def draw_population(saved: SavedPopulation, name: str) -> Figure:
    """A panel for each parameter: intervals of each member alone and in the population, sorted by
    the latter, over those of a further member."""
    count = saved.members.shape[2]
    figure, places = look.panel_page(
        1,
        min(len(saved.names), MOST_PARAMETERS),
        PANEL,
        f"{count} members of a population: {name}",
        "90 % of each alone (gray) and given all others (blue), of a further member (orange)",
        least_width=look.WIDE,
    )
    together = np.quantile(saved.members, QUANTILES, axis=(0, 1))
    further = np.quantile(saved.further, QUANTILES, axis=(0, 1))
    for place in range(min(len(saved.names), MOST_PARAMETERS)):
        axes = look.axes_at(figure, places[0, place])
        order = np.argsort(together[1, :, place], kind="stable")
        if count > MOST_MEMBERS:
            order = order[np.linspace(0, count - 1, MOST_MEMBERS).round().astype(int)]
        rows = np.arange(len(order))
        low, middle, high = further[:, place]
        note = f"of a further member {low:.3g} to {high:.3g}"
        axes.axvspan(low, high, color=ORANGE, alpha=0.18, lw=0)
        axes.axvline(middle, color=ORANGE, lw=1.2)
        for values, color, shift in ((saved.alone, FAINT, 0.16), (together, BLUE, -0.16)):
            low, middle, high = values[:, order, place]
            axes.hlines(rows + shift, low, high, color=color, lw=1.6)
            dots = MUTED if color == FAINT else color
            axes.scatter(middle, rows + shift, s=7, color=dots, lw=0, zorder=3)
        axes.set_yticks([])
        look.name_panel(axes, axis_name(saved.names[place], PANEL[0]), note)
    return figure
