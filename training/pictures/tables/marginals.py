"""The columns of a table, rows of data against samples: those that fit worst come first."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from training.pictures.style import look
from training.pictures.style.words import joined
from training.pictures.tables.columns import counted, draw_column, fitting, legend_below_headline
from training.pictures.tables.fit import chance, distances
from training.pictures.tables.saved import SavedTable
from training.pictures.trajectories.saved import latent_law, name_and_details

MOST, ACROSS = 20, 5
LEFT, GAP, WIDEST, HEIGHT = 0.3, 0.32, 3.4, 1.15  # inches
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
        *_headline(tables, None if far is None else far[order]),
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
    legend_below_headline(figure, LEFT, labels)
    return figure


def _headline(tables: Sequence[SavedTable], ordered: np.ndarray | None) -> tuple[str, str]:
    """Title and subtitle.

    Args:
        tables: What is drawn.
        ordered: Distances of all columns, falling; None where nothing is compared.
    """
    name, details = name_and_details(tables[0].trajectory)
    dim, law = len(tables[0].names), latent_law(tables[-1].trajectory)
    if ordered is None:
        which = f"{MOST} of {dim} columns" if dim > MOST else "Columns"
        title = f"{which} of {name}: {tables[0].label}"
        return title, joined(details, counted(tables, [len(table.rows) for table in tables]), law)
    which = f"The {MOST} worst-fitted of {dim} columns" if dim > MOST else "Columns"
    bound = chance(len(tables[0].rows), len(tables[1].rows), dim)
    words = [
        "worst first" if 1 < dim <= MOST else "",
        f"others at most {ordered[MOST]:.2g}" if dim > MOST else "",
        f"by chance {'all KS distances are' if dim > 1 else 'it is'} below {bound:.2g} (95 %)",
    ]
    return f"{which} of {name}: data and samples", joined(
        details, counted(tables, [len(table.rows) for table in tables]), law, *words
    )
