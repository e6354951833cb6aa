"""What tests ask of a figure: its marks, its words, and that both back ends draw it."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from training.pictures.drawing import draw
from training.pictures.figure import Words
from training.report.drawing import drawn


def marks(panel, kind, label=None):
    """The marks of a class in a panel, or those with a label."""
    found = [mark for mark in panel.marks if isinstance(mark, kind)]
    return [mark for mark in found if label is None or mark.label == label]


def places(mark):
    """The coordinates ``[N, 2]`` of a mark."""
    return np.stack([np.ravel(mark.x), np.ravel(mark.y)], axis=1)


def rendered(figure, dpi=20):
    """A figure of Matplotlib that was drawn, and the charts of Bokeh were made."""
    charts = drawn(figure)
    assert len(charts.charts) == sum(panel is not None for panel in figure.panels)
    made = draw(figure)
    made.set_dpi(dpi)
    FigureCanvasAgg(made).draw()
    return made


def words(figure):
    """All words of a figure, which both back ends can draw."""
    rendered(figure)
    texts = [figure.title, figure.subtitle, figure.sentence]
    texts += [mark.label for mark in figure.legend]
    for panel in figure.panels:
        if panel is not None:
            texts += [panel.title, panel.note, panel.x, panel.y]
            texts += [text for mark in marks(panel, Words) for text in mark.texts]
    return " | ".join(texts)
