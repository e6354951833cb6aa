"""Pictures of training and of answers, and the look of all: colors, layouts and words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from scipy.stats import spearmanr

from dnnlib.errors import DataError
from tests.support.answer_files import COUNT, TABLE, save
from tests.support.refusals import refusal
from training.files.answers import SavedAnswers
from training.files.arrays import stem_of, title_of
from training.files.records import columns_json
from training.files.stats import SavedTraining
from training.measure.association import associations
from training.measure.reliability import Z, reliability, wilson
from training.pictures import look
from training.pictures.album import pictures_of
from training.pictures.look import brief, colors_of_places, joined, sequential_colors
from training.pictures.training import draw_training, running_median
from training.report.content import Choice
from training.report.finding import found_in


def report(seen: int, **changes: Any) -> str:
    record = {"seen": seen, "Loss/loss": 0.9, "Progress/learning_rate": 1e-3, **changes}
    return json.dumps({name: value for name, value in record.items() if value != "drop"}) + "\n"


@pytest.mark.parametrize("reports", [1, 5, 5000])
def test_curves_of_few_and_many_reports(reports: int) -> None:
    loss = 0.8 + 0.1 * np.random.default_rng(0).normal(size=reports)
    loss[1:3] = np.nan
    saved = SavedTraining(np.arange(1, reports + 1) / 10, loss, np.full(reports, 1e-3))
    loss_axes, rate_axes = draw_training(saved, "run").axes
    baseline, curve = loss_axes.lines[:2]
    assert (set(baseline.get_ydata()), baseline.get_linestyle()) == ({1.0}, "--")
    assert np.allclose(curve.get_xydata(), np.stack([saved.samples, loss], 1), equal_nan=True)
    assert len(loss_axes.lines) == (3 if reports > 200 else 2)
    low, high = loss_axes.get_ylim()
    assert low < 1 < high
    assert rate_axes.get_xlim() == loss_axes.get_xlim()
    assert np.allclose(rate_axes.lines[0].get_ydata(), 1e-3)


def test_running_median() -> None:
    values = np.array([1.0, 2.0, np.nan, 100.0, 3.0, 4.0])
    smooth = running_median(values, 1)
    assert np.allclose(smooth, [1.5, 1.5, np.nan, 51.5, 4.0, 3.5], equal_nan=True)
    noisy = np.random.default_rng(0).normal(size=101)
    assert running_median(noisy, 5)[50] == np.median(noisy[45:56])


def test_a_record_may_have_gaps_and_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    text = report(1000) + report(2000, **{"Loss/loss": "drop"}) + report(3000) + '{"seen": 40'
    path.write_text(text)  # a run that goes on may be writing its last line
    training = SavedTraining.load(path)
    assert np.allclose(training.samples, [0.001, 0.002, 0.003])
    assert np.allclose(training.loss, [0.9, np.nan, 0.9], equal_nan=True)
    assert np.allclose(training.learning_rate, 1e-3)


def test_wrong_records(tmp_path: Path) -> None:
    for text, message in (
        ("", "nothing to draw"),
        ("no json\n" + report(1), "line 1"),
        ("{}\n", "'seen'"),
        (report(1) + report(2, **{"Loss/loss": float("nan")}), "line 2 .* nan"),
        (report(1, **{"Loss/loss": "low"}), "'low'"),
        (report(1, **{"Loss/loss": "drop"}), "nothing to draw"),
        (report(2) + report(1), "backwards"),
    ):
        (tmp_path / "stats.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            SavedTraining.load(tmp_path / "stats.jsonl")


LUMA = [0.299, 0.587, 0.114]


def test_colors_tell_places_apart_and_hold_for_red_green_blindness() -> None:
    """Lightness tells up from down, blue against yellow tells left from right."""
    across, up = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1.5, 1.5, 7)] * 2))
    places = np.stack([across, up], axis=1)
    colors = colors_of_places(places, 1.0)
    assert ((colors >= 0) & (colors <= 1)).all()
    luma = (colors @ LUMA).reshape(7, 7)
    assert (np.diff(luma, axis=0) > 0).all()
    assert luma.max() < 0.85  # they are seen on white
    yellowness = (colors[:, 0] + colors[:, 1] - 2 * colors[:, 2]).reshape(7, 7)
    assert (yellowness[:, -1] - yellowness[:, 0] > 0.4).all()
    assert np.abs(colors_of_places(places + 1e-3, 1.0) - colors).max() < 0.05
    assert np.allclose(colors_of_places(7 * places, 7.0), colors)


def test_sequential_colors_get_lighter_and_differ() -> None:
    colors = sequential_colors(7)
    luma = colors @ LUMA
    assert (np.diff(luma) > 0).all()
    assert luma.max() < 0.85
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 0.1
    assert sequential_colors(1).shape == (1, 3)


def test_panels_fill_the_page_without_overlap() -> None:
    figure, places = look.panel_page(2, 3, (2.0, 1.0), "title", "subtitle", left=0.7, gap=0.4)
    width, height = figure.get_size_inches()
    left, bottom, wide, high = np.moveaxis(places, -1, 0)
    assert np.allclose(np.diff(left, axis=1), 2.4)
    assert (bottom[0] > bottom[1] + high[1] + 0.5).all()
    assert left.min() == pytest.approx(0.7)
    assert bottom.min() > 0
    assert (left + wide).max() < width
    assert (bottom + high).max() < height - look.TOP
    axes = look.axes_at(figure, places[1, 2])
    assert np.allclose(axes.get_position().bounds * np.array([width, height] * 2), places[1, 2])
    assert [text.get_text() for text in figure.texts] == ["title", "subtitle"]


def test_words_and_titles() -> None:
    shown = [brief(value) for value in (0, 0.00123, 0.5, 3.14, 12.7, 104.2, 9.96e-5, 1.7e-12)]
    assert shown == ["0", "0.0012", "0.5", "3.1", "13", "104", "1·10⁻⁴", "1.7·10⁻¹²"]
    assert joined("a", "", "b") == "a · b"
    font = FontProperties(size=10)
    assert look.shortened("short", 5, font) == "short"
    assert look.shortened("WWWWWWWWWW WWW", 1.4, font) == "WWWWWWWWW…"
    for name, *expected in (
        ("s_curve_PRRto2D_exact_melt_results", "s curve", "PRRto2D schedule, exact denoiser"),
        ("circles_PRP_net_gen_results", "circles", "PRP schedule, trained network"),
        ("cifar10_PRRto100D_roundtrip", "cifar10", "PRRto100D schedule"),
        ("my_own_file", "my own file", ""),
    ):
        assert [*title_of(stem_of(Path(f"x/{name}.npz")))] == expected


CHECK = {"cells": 40, "coverage": {"0.5": 0.6, "0.9": 1.0}, "reliability": [[0.2, 0.25, 40]]}


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    numbers, levels = SavedAnswers.load(save(tmp_path, "predict")).asked
    assert (numbers.low == 4).all()
    assert (numbers.guess == 5).all()
    assert numbers.known.sum() == COUNT - 1
    assert (numbers.right == ((numbers.truth >= 4) & (numbers.truth <= 6))).all()
    assert (levels.probability == 0.75).all()
    assert (levels.right == (levels.truth == 1)).all()
    scores = SavedAnswers.load(save(tmp_path, "score"))
    assert np.isnan(scores.tails[0, 0])
    assert (scores.tails[1:] == [0.001, 0.5]).all()


def test_all_answers_are_drawn_and_reported(tmp_path: Path) -> None:
    check: dict[str, Any] = {"format": "inflationary-flows check of answers 1", "rows": 40}
    check |= {"verdict": "$fine$", "adjusted": {"ranks of b": 0.5}, "detectable": 0.3}
    check |= {"level": 0.05, "columns": {"b": CHECK}}
    (tmp_path / "check.json").write_text(json.dumps(check))
    endings = {"sample": {"marginals", "associations"}, "score": {"odd"}, "predict": {"cells"}}
    for question, expected in endings.items():
        save(tmp_path, question)
        pictures = pictures_of([tmp_path, tmp_path / "answers.csv"], tmp_path / "new", None)
        names = {f"answers_{ending}.png" for ending in expected}
        names |= {"check_intervals.png", "check_levels.png"}
        assert {each.path.name for each in pictures} == names
        for picture in pictures:
            picture.write(tmp_path / picture.path.name)
        findings = found_in([tmp_path], Choice())
        assert (len(findings.sections), findings.broken, findings.foreign) == (2, [], [])
    check["columns"] = {"b": CHECK | {"reliability": [[0.2, 7, 40]]}}
    (tmp_path / "check.json").write_text(json.dumps(check))
    assert "no check of ask" in refusal(pictures_of, [tmp_path / "check.json"], None, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"sheet": None},
        {"sheet": "../answers.csv"},
        {"sheet": "none.csv"},
        {"beside": -1},
        {"table": None},
        {"table": json.loads(columns_json(TABLE)) | {"separator": "ab"}},
        {"options": {"interval": 2.0}},
    ],
)
def test_strange_files_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = save(tmp_path, "predict", **changes)
    with pytest.raises(DataError, match=r"broken, or not|not beside it"):
        SavedAnswers.load(path)


def test_associations_are_those_of_the_types() -> None:
    draw = np.random.default_rng(0)
    level, other = draw.integers(0, 3, (2, 4000)).astype(float)
    number = np.exp(draw.normal(size=4000))
    tied = np.where(level == 1, number + 100, number)
    rows = np.stack([number, tied, level, level[::-1].copy(), other, level], axis=1)
    rows[::7, 0] = np.nan
    made = associations(rows, np.array([False, False, True, True, True, True]))
    there = ~np.isnan(rows[:, 0])
    assert np.isclose(made[0, 1], spearmanr(number[there], tied[there]).statistic)
    assert made[2, 5] == pytest.approx(1)
    assert made[1, 2] == made[2, 1] > 0.8
    assert max(made[0, 4], made[2, 3], made[2, 4]) < 0.05


def test_reliability_is_that_of_bins_and_the_range_is_wilsons() -> None:
    shares = np.array([[0.05, 0.95], [0.07, 0.93], [0.95, 0.05]])
    bins = reliability(shares, np.array([[0, 1], [1, 0], [1, 0]]) == 1)
    assert np.allclose(bins, [[0.17 / 3, 1 / 3, 3], [2.83 / 3, 2 / 3, 3]])
    share, count = np.array([0.0, 0.3, 1.0]), np.array([5, 20, 9])
    for end in wilson(share, count):
        assert np.allclose(np.abs(share - end), Z * np.sqrt(end * (1 - end) / count))
