"""The columns of a table, rows of data against samples: those that fit worst come first."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from training.files.rows import SavedTable
from training.pictures.style import look
from training.pictures.style.words import joined
from training.pictures.tables.columns import counted, draw_column, fitting, legend_below_headline
from training.pictures.tables.fit import chance, distances
from training.pictures.trajectories.words import latent_law, name_and_details

MOST, ACROSS = 20, 5
LEFT, GAP, WIDEST, HEIGHT = 0.3, 0.32, 5.1, 1.15  # inches
LEAST_WIDTH = 8.0


def draw_marginals(tables: Sequence[SavedTable]) -> Figure:
    """A panel for each of at most 20 columns.

    Args:
        tables: Rows of data and samples, or one of them.
    """
    labels, names = [table.label for table in tables], tables[0].names
    rows = [table.rows for table in tables]
    order, far = np.arange(len(names)), None
    if len(rows) == 2:
        far = distances(rows[0], rows[1])
        order = np.argsort(-far, kind="stable")
    shown = order[:MOST]
    columns = min(len(shown), ACROSS)
    width = min((look.WIDE - 2 * LEFT - GAP * (columns - 1)) / columns, WIDEST)
    figure, places = look.panel_page(
        math.ceil(len(shown) / columns),
        columns,
        (width, HEIGHT),
        *_headline(tables),
        left=LEFT,
        right=LEFT,
        gap=GAP,
        top=look.TOP + 1.3 * look.LINE_HEIGHT,
        above=0.46,
        below=0.42,
        least_width=LEAST_WIDTH,
    )
    for column, place in zip(shown, places.reshape(-1, 4), strict=False):
        axes = look.axes_at(figure, place)
        draw_column(axes, labels, [each[:, column] for each in rows])
        note = "" if far is None else f"KS distance {far[column]:.3f}"
        look.name_panel(axes, fitting(names[column], width), note)
    note = "" if far is None else _comparison(rows, far[order])
    legend_below_headline(figure, LEFT, labels, note=note)
    return figure


def _headline(tables: Sequence[SavedTable]) -> tuple[str, str]:
    name, details = name_and_details(tables[0].trajectory)
    dim, law = len(tables[0].names), latent_law(tables[-1].trajectory)
    subtitle = joined(details, counted(tables, [len(table.rows) for table in tables]), law)
    if len(tables) == 1:
        which = f"{MOST} of {dim} columns" if dim > MOST else "Columns"
        return f"{which} of {name}: {tables[0].label}", subtitle
    which = f"The {MOST} worst-fitted of {dim} columns" if dim > MOST else "Columns"
    return f"{which} of {name}: data and samples", subtitle


def _comparison(rows: Sequence[np.ndarray], ordered: np.ndarray) -> str:
    """How to read distances of all columns ``[D]``, falling."""
    dim = len(ordered)
    bound = chance(len(rows[0]), len(rows[1]), dim)
    return joined(
        "worst first" if dim > 1 else "",
        f"columns not shown: KS at most {ordered[MOST]:.2g}" if dim > MOST else "",
        f"by chance {'all are' if dim > 1 else 'it is'} below {bound:.2g} (95 %)",
    )
