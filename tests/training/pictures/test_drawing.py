"""What both back ends make of a description: no word is cut off, covered, or mathematics."""

from itertools import pairwise

import numpy as np
import pytest
from bokeh.models import PlainText
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from tests.support.figures import rendered
from training.pictures.drawing import draw, wrapped
from training.pictures.figure import (
    Band,
    Boxes,
    Figure,
    Image,
    Line,
    Panel,
    Points,
    Rule,
    Scale,
    Segments,
    Span,
    Steps,
    Words,
)
from training.report.drawing import drawn

X = np.arange(5.0)
NAME = "$$x^2$$ <b>"
MARKS = [
    Points(X, X, "#3f5fd0", "points", marker="D"),
    Points(X, X, np.linspace(0, 1, 15).reshape(5, 3), hollow=False),
    Line(X, X**2, "#e8862e", "a line", dashed=True),
    Segments(X, X, X, X + 1, "#3f5fd0", "bars"),
    Band(X, X - 1, X + 1, label="a band"),
    Boxes(X, X + 0.5, X, X + 0.5, "#e8862e", filled=False),
    Steps(np.arange(6.0), X, "#3f5fd0", NAME, filled=True),
    Rule(2.0, label="a rule"),
    Span(1.0, 2.0, vertical=True, label="a span"),
    Words(X, X, [NAME] * 5, bold=[True] * 5),
]


def panel(**changes):
    words = {"title": NAME, "note": NAME, "x": NAME, "y": NAME, "y_ticks": {1.0: NAME}}
    return Panel(MARKS, **{**words, **changes})


def test_names_of_files_are_never_read_as_mathematics():
    figure = Figure(NAME, NAME, [panel()], sentence=NAME)
    made = rendered(figure)
    assert all(not text.get_parse_math() for text in made.findobj(Text) if "$" in text.get_text())
    plot = drawn(figure).charts[0].plot
    named = [plot.xaxis[0].axis_label, plot.yaxis[0].axis_label]
    named += plot.yaxis[0].major_label_overrides.values()
    assert all(isinstance(text, PlainText) and text.text == NAME for text in named)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"equal": True}, {"y_ticks": {}, "note": ""}])
@pytest.mark.parametrize("shared", [False, True])
def test_words_stay_on_the_page_and_apart(columns, shared, changes):
    title, note = "a title of some panel", "a note of many words that does not fit into one line"
    words = {"title": title, "note": note, "y_ticks": None, **changes}
    panels = [panel(**words) for _ in range(6)]
    scale = Scale("low", "high", np.zeros((3, 3)), "meaning")
    figure = draw(
        Figure(
            "Title " * 30,
            "subtitle " * 40,
            panels,
            columns,
            sentence="word " * 80,
            scale=scale,
            shared=shared,
        )
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.bbox
    heads = [text.get_window_extent() for text in figure.texts]
    heads += [legend.get_window_extent() for legend in figure.legends]
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for box in [*heads, *boxes]:
        assert (box.x0 > whole.x0 - 2) & (box.x1 < whole.x1 + 2), "nothing is cut off at a side"
        assert (box.y0 > whole.y0 - 2) & (box.y1 < whole.y1 + 2), "nor above or below"
    for upper, lower in pairwise(heads):
        assert lower.y1 < upper.y0 + 4
    assert all(box.y1 < min(head.y0 for head in heads) + 4 for box in boxes)
    frames = [axes.get_window_extent() for axes in figure.axes]
    for one, other in ((a, b) for k, a in enumerate(frames) for b in frames[:k]):
        apart = one.x1 <= other.x0 + 1 or other.x1 <= one.x0 + 1
        assert apart or one.y1 <= other.y0 + 1 or other.y1 <= one.y0 + 1


@given(st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Cs", "Cc"]), max_size=300))
def test_wrapped_texts_are_short_and_lose_nothing_but_their_end(text):
    lines = wrapped(text, 2.0, 10, 3)
    assert len(lines) <= 3
    kept = "".join(lines).removesuffix("…")
    assert "".join(text.split()).startswith("".join(kept.split()))


def test_images_and_limits_reach_both_back_ends():
    cells = np.zeros((2, 3, 3), np.uint8)
    made = Panel([Image(cells, (0.5, 3.5, 2.5, 0.5))], x_limits=(0.5, 3.5), y_limits=(2.5, 0.5))
    plot = drawn(Figure("", "", [made])).charts[0].plot
    assert (plot.y_range.start, plot.y_range.end) == (2.5, 0.5)
    axes = draw(Figure("", "", [made])).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.5, 3.5), (2.5, 0.5))
