"""Pictures of training, of answers and of tables, and the look of all."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstwobign, spearmanr

from dnnlib.errors import DataError
from tests.support.figures import marks, places, words
from tests.support.picture_files import ANSWERS, TABLE_ASKED, save_answers, save_table
from tests.support.running import refusal
from training.files.answers import SavedAnswers
from training.files.arrays import stem_of, title_of
from training.files.records import columns_json
from training.files.rows import SavedTable
from training.files.stats import SavedTraining
from training.measure.association import associations
from training.measure.reliability import Z, reliability, wilson
from training.pictures import columns, tables, theme
from training.pictures.album import pictures_of
from training.pictures.answers import DrawnRows
from training.pictures.content import Choice
from training.pictures.figure import Line, Points, Rule, Steps
from training.pictures.theme import brief, colors_of_places, joined, sequential_colors
from training.pictures.training import curves, running_median
from training.report.discovery import found_in

LUMA = [0.299, 0.587, 0.114]
CHECK = {"cells": 40, "coverage": {"0.5": 0.6, "0.9": 1.0}, "reliability": [[0.2, 0.25, 40]]}
NAMES = ["$x^", "a\nb\t\\", "", "ï" * 200]


def report(seen, **changes):
    record = {"seen": seen, "Loss/loss": 0.9, "Progress/learning_rate": 1e-3, **changes}
    return json.dumps({name: value for name, value in record.items() if value != "drop"}) + "\n"


@pytest.mark.parametrize("reports", [1, 5, 5000])
def test_curves_of_few_and_many_reports(reports):
    loss = 0.8 + 0.1 * np.random.default_rng(0).normal(size=reports)
    loss[1:3] = np.nan
    saved = SavedTraining(np.arange(1, reports + 1) / 10, loss, np.full(reports, 1e-3))
    loss_panel, rate_panel = curves(saved, "run").panels
    (baseline,) = marks(loss_panel, Rule)
    assert (baseline.value, baseline.dashed) == (1.0, True)
    curve, *smooth = marks(loss_panel, Line)
    assert np.allclose(places(curve), np.stack([saved.samples, loss], 1), equal_nan=True)
    assert len(smooth) == (reports > 200)
    low, high = loss_panel.y_limits
    assert low < 1 < high
    assert rate_panel.x_limits == loss_panel.x_limits
    assert np.allclose(marks(rate_panel, Line)[0].y, 1e-3)


def test_running_median():
    smooth = running_median(np.array([1.0, 2.0, np.nan, 100.0, 3.0, 4.0]), 1)
    assert np.allclose(smooth, [1.5, 1.5, np.nan, 51.5, 4.0, 3.5], equal_nan=True)
    noisy = np.random.default_rng(0).normal(size=101)
    assert running_median(noisy, 5)[50] == np.median(noisy[45:56])


def test_a_record_may_have_gaps_and_an_unfinished_line(tmp_path):
    path = tmp_path / "stats.jsonl"
    text = report(1000) + report(2000, **{"Loss/loss": "drop"}) + report(3000) + '{"seen": 40'
    path.write_text(text)  # a run that goes on may be writing its last line
    training = SavedTraining.load(path)
    assert np.allclose(training.samples, [0.001, 0.002, 0.003])
    assert np.allclose(training.loss, [0.9, np.nan, 0.9], equal_nan=True)
    assert np.allclose(training.learning_rate, 1e-3)


def test_wrong_records(tmp_path):
    for text, message in (
        ("", "no report with a loss"),
        ("no json\n" + report(1), "line 1"),
        ("{}\n", "'seen'"),
        (report(1) + report(2, **{"Loss/loss": float("nan")}), "line 2 .* nan"),
        (report(1, **{"Loss/loss": "low"}), "'low'"),
        (report(1, **{"Loss/loss": "drop"}), "no report with a loss"),
        (report(2) + report(1), "number of samples decreases"),
    ):
        (tmp_path / "stats.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            SavedTraining.load(tmp_path / "stats.jsonl")


def test_colors_tell_places_apart_and_hold_for_red_green_blindness():
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


def test_sequential_colors_get_lighter_and_differ():
    colors = sequential_colors(7)
    luma = colors @ LUMA
    assert (np.diff(luma) > 0).all()
    assert luma.max() < 0.85
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 0.1
    assert sequential_colors(1).shape == (1, 3)


def test_numbers_and_titles_are_short():
    shown = [brief(value) for value in (0, 0.00123, 0.5, 3.14, 12.7, 104.2, 9.96e-5, 1.7e-12)]
    assert shown == ["0", "0.0012", "0.5", "3.1", "13", "104", "1·10⁻⁴", "1.7·10⁻¹²"]
    assert joined("a", "", "b") == "a · b"
    for name, *expected in (
        ("s_curve_PRRto2D_exact_melt_results", "s curve", "PRRto2D schedule, exact denoiser"),
        ("circles_PRP_net_gen_results", "circles", "PRP schedule, trained network"),
        ("cifar10_PRRto100D_roundtrip", "cifar10", "PRRto100D schedule"),
        ("my_own_file", "my own file", ""),
    ):
        assert [*title_of(stem_of(Path(f"x/{name}.npz")))] == expected


def test_answers_are_read_as_they_were_written(tmp_path):
    numbers, levels = SavedAnswers.load(save_answers(tmp_path, "predict")).asked
    assert (numbers.low == 4).all()
    assert (numbers.guess == 5).all()
    assert numbers.known.sum() == ANSWERS - 1
    assert (numbers.right == ((numbers.truth >= 4) & (numbers.truth <= 6))).all()
    assert (levels.probability == 0.75).all()
    assert (levels.right == (levels.truth == 1)).all()
    scores = SavedAnswers.load(save_answers(tmp_path, "score"))
    assert np.isnan(scores.tails[0, 0])
    assert (scores.tails[1:] == [0.001, 0.5]).all()


def test_all_answers_are_drawn_and_reported(tmp_path):
    check = {"format": "inflationary-flows check of answers 1", "rows": 40}
    check |= {"verdict": "$fine$", "adjusted": {"ranks of b": 0.5}, "detectable": 0.3}
    check |= {"level": 0.05, "columns": {"b": CHECK}}
    (tmp_path / "check.json").write_text(json.dumps(check))
    endings = {"sample": {"marginals", "associations"}, "score": {"odd"}, "predict": {"cells"}}
    for question, expected in endings.items():
        save_answers(tmp_path, question)
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
    assert "not a check of ask" in refusal(pictures_of, [tmp_path / "check.json"], None, None)


def test_a_grid_of_associations_without_numbers_is_not_drawn(tmp_path):
    drawn = DrawnRows(SavedAnswers.load(save_answers(tmp_path, "sample")))
    few = DrawnRows(drawn.saved)
    few.values = [values[:4] for values in few.values]
    assert drawn.has_associations
    assert not few.has_associations


def test_strange_files_are_refused(tmp_path):
    for changes in (
        {"sheet": None},
        {"sheet": "../answers.csv"},
        {"sheet": "none.csv"},
        {"beside": -1},
        {"table": None},
        {"table": json.loads(columns_json(TABLE_ASKED)) | {"separator": "ab"}},
        {"options": {"interval": 2.0}},
    ):
        path = save_answers(tmp_path, "predict", **changes)
        with pytest.raises(DataError, match=r"damaged, or not|its CSV of answers is missing"):
            SavedAnswers.load(path)


def test_associations_are_those_of_the_types():
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


def test_reliability_is_that_of_bins_and_the_range_is_wilsons():
    shares = np.array([[0.05, 0.95], [0.07, 0.93], [0.95, 0.05]])
    bins = reliability(shares, np.array([[0, 1], [1, 0], [1, 0]]) == 1)
    assert np.allclose(bins, [[0.17 / 3, 1 / 3, 3], [2.83 / 3, 2 / 3, 3]])
    share, count = np.array([0.0, 0.3, 1.0]), np.array([5, 20, 9])
    for end in wilson(share, count):
        assert np.allclose(np.abs(share - end), Z * np.sqrt(end * (1 - end) / count))


def load(folder, kind="melt", **changes):
    return SavedTable.load(save_table(folder, kind, **changes))


def test_distances_are_told_with_what_chance_makes_of_them():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 3))
    far = columns.distances(rows, rows * [1, 1e9, -1] + [0, 0, 100])
    assert far[0] == 0
    assert far[2] == 1
    assert columns.chance(300, 200) == pytest.approx(kstwobign.isf(0.05) / np.sqrt(120), rel=1e-3)
    pairs = generator.normal(size=(2, 200, 80, 5))
    far = (columns.distances(*pair).max() for pair in zip(*pairs, strict=True))
    passed = [distance > columns.chance(80, 80, 5) for distance in far]
    assert 0.005 < np.mean(passed) < 0.08


def test_rank_correlations_are_scipys_and_pairs_are_of_columns_where_they_differ():
    rows = np.random.default_rng(0).normal(size=(50, 4)).round(1)
    rows[:, 1] += rows[:, 0]
    assert np.allclose(columns.rank_correlations(rows), spearmanr(rows).statistic)
    rows[:, 2] = 7
    assert np.allclose(columns.rank_correlations(rows)[2], 0)
    data, samples = np.eye(7), np.eye(7)
    samples[2, 5] = samples[5, 2] = 0.9
    samples[5, 6] = samples[6, 5] = -0.4
    assert columns.informative_columns([data, samples], 3).tolist() == [2, 5, 6]
    assert columns.informative_columns([data, data], 3).size == 3
    assert columns.informative_columns([samples[:2, :2]], 5).tolist() == [0, 1]


def test_limits_hold_all_of_few_rows_and_no_wild_samples():
    few = np.random.default_rng(0).normal(size=20)
    low, high = columns.limits(few)
    assert low < few.min() < few.max() < high
    low, high = columns.limits(few, 1e12 * few)
    assert high - low < 4 * np.ptp(few)
    for value in (0.0, -3.0, 1e12, 1e-200):
        low, high = columns.limits(np.full(5, value), np.full(3, value))
        assert low < value < high


def test_ranks_of_one_law_are_uniform():
    generator = np.random.default_rng(0)
    values = [tables.uniformity(*generator.normal(size=(2, 40))) for _ in range(300)]
    assert 0.01 < np.mean(np.array(values) < 0.05) < 0.08
    assert tables.uniformity(np.zeros(40) - 9, generator.normal(size=40)) < 1e-6


def test_the_worst_columns_come_first_by_name_and_distance(tmp_path):
    melt = load(tmp_path, dim=61, count=20)
    points = melt.points.copy()
    points[:, 40] += 1e9
    gen = load(tmp_path, "gen", dim=61, count=20, points=points)
    figure = tables.marginals([melt, gen])
    text = words(figure)
    assert figure.panels[0].title == "column_40"
    assert len(figure.panels) == 20
    assert "KS distance 1.000" in text
    assert "20 worst-fitting of 61" in text
    assert "not shown: KS at most 0 " in text
    for panel in figure.panels:
        low, high = panel.x_limits
        column = melt.points[:, int(panel.title.removeprefix("column_"))]
        assert low < column.min() < column.max() < high


def test_one_set_alone_keeps_the_order_of_the_table(tmp_path):
    for kind, label in (("melt", "data"), ("gen", "samples"), ("roundtrip", "returned rows")):
        figure = tables.marginals([load(tmp_path, kind)])
        assert [panel.title for panel in figure.panels] == [f"column_{k}" for k in range(4)]
        assert label in words(figure)
    (first, *_) = pictures_of([tmp_path / "wine_PRP_gen.npz"], None, None)
    assert first.path.name == "wine_PRP_marginals.png"
    assert first.note.startswith("samples alone")


def test_data_are_below_the_diagonal_and_samples_above_it(tmp_path):
    both = [load(tmp_path), load(tmp_path, "gen")]
    panels = np.array(tables.pairs(both).panels).reshape(4, 4)
    for down, across in ((2, 1), (1, 2)):
        shown = places(marks(panels[down, across], Points)[0])
        assert np.allclose(shown, both[int(across > down)].points[:, [across, down]])
    assert panels[2, 1].x_limits == panels[0, 1].x_limits == panels[1, 1].x_limits
    assert panels[2, 1].y_limits == panels[1, 2].x_limits
    assert panels[3, 0].x == panels[0, 0].y == "column_0"


def test_densities_tell_p_and_the_least_likely_row(tmp_path):
    melt, gen = load(tmp_path), load(tmp_path, "gen")
    text = words(tables.densities([melt, gen]))
    p = tables.uniformity(melt.densities, gen.densities)
    assert f"KS p = {p:.2g}" in text
    assert f"row {100 + melt.densities.argmin()} of the data" in text
    alone = words(tables.densities([gen]))
    assert "least likely" not in alone
    assert "KS" not in alone


def test_errors_of_roundtrips_are_in_standard_deviations(tmp_path):
    melt = load(tmp_path)
    std = melt.points.std(axis=0)
    back = load(tmp_path, "roundtrip", points=melt.points + 1e-3 * std * [1, 2, 0, 4])
    root, largest = tables.column_errors(melt, back)
    assert np.allclose(root, [1e-3, 2e-3, 0, 4e-3], atol=1e-9)
    assert np.allclose(root, largest, atol=1e-9)
    (panel,) = tables.roundtrip(melt, back).panels
    assert [*panel.y_ticks.values()] == ["column_3", "column_1", "column_0", "column_2"]
    assert np.allclose(places(marks(panel, Points, "largest")[0])[0], [4e-3, 3])


def test_a_folder_of_a_run_is_drawn_and_other_units_are_not(tmp_path):
    for kind in ("melt", "roundtrip", "gen"):
        save_table(tmp_path, kind)
    kinds = "log_prob marginals melt_joint melt_latents pairs roundtrip spectrum"
    expected = {f"wine_PRP_{kind}.png" for kind in kinds.split()}
    pictures = pictures_of([tmp_path], tmp_path / "there", "gif")
    assert {picture.path.name for picture in pictures} == expected
    assert {picture.path.parent for picture in pictures} == {tmp_path / "there"}
    save_table(tmp_path, "gen", names=np.array(["other", "columns", "than", "those"]))
    assert "have different columns: use one network" in refusal(pictures_of, [tmp_path], None, None)


def test_the_best_report_on_held_out_rows_is_marked(tmp_path):
    nats = [-9.0, -3.0, -2.0, -2.5]
    text = ""
    for k, value in enumerate(nats):
        own = {"Loss/held_out": 0.95 + 0.01 * k, "Likelihood/held_out_nats": value}
        text += report(1e6 * (k + 1), **{"Loss/loss": 0.9 - 0.1 * k}, **own)
    (tmp_path / "stats.jsonl").write_text(text)
    saved = SavedTraining.load(tmp_path / "stats.jsonl")
    figure = curves(saved, "run")
    loss_panel, nats_panel, _ = figure.panels
    assert saved.best == 2  # by nats, not by loss
    for panel, place in ((loss_panel, [3, 0.97]), (nats_panel, [3, -2.0])):
        (ring,) = marks(panel, Points, "best on the validation set")
        assert places(ring).tolist() == [place]
    assert np.allclose(marks(nats_panel, Line)[0].y, nats)
    assert "best −2 nats" in words(figure)
    images = replace(saved, nats=None)  # which have a held-out loss alone
    assert images.best == 0
    assert len(curves(images, "run").panels) == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dim", [1, 4])
def test_odd_tables_are_drawn(tmp_path, monkeypatch, dim):
    monkeypatch.setattr(theme, "DPI", 30)
    for kind in ("melt", "roundtrip", "gen"):
        made = load(tmp_path, kind, count=20)
        wild = np.where(np.arange(20) == 4, -np.inf, made.log_prob)
        # A constant column, one of two values, and rows that are NaN, infinite or far too large.
        points = made.points.copy()
        points[:, 0], points[:, 1] = 5, points[:, 1] > 0
        points[:3, 2] = np.nan, -np.inf, 1e300
        changes = {"points": points[:, -dim:], "names": np.array(NAMES[-dim:]), "log_prob": wild}
        save_table(tmp_path, kind, dim, 20, **changes)
    own = {f"wine_PRP_{kind}.png" for kind in ("log_prob", "marginals", "pairs", "roundtrip")}
    drawn = [p for p in pictures_of([tmp_path], None, None) if p.path.name in own]
    assert len(drawn) == len(own) - (dim == 1)  # one column has no pairs
    for picture in drawn:
        picture.write(picture.path)
        assert picture.path.stat().st_size > 1000
    table = SavedTable.load(tmp_path / "wine_PRP_melt.npz")
    assert len(table.rows) == (17 if dim > 1 else 20)
    assert len(table.densities) == 19
    if dim == 4:
        assert "17 rows of data (3 not finite, not drawn)" in words(tables.marginals([table]))


def test_constant_densities_and_few_rows(tmp_path):
    two = [load(tmp_path, kind, count=2, log_prob=np.zeros(2)) for kind in ("melt", "gen")]
    for figure in (tables.densities(two), tables.marginals(two), tables.pairs(two)):
        words(figure)
    six = [load(tmp_path, kind, count=6, log_prob=np.arange(6.0)) for kind in ("melt", "gen")]
    for figure in (tables.densities(six), tables.marginals(six)):
        shown = [panel for panel in figure.panels if not panel.equal]
        assert not any(marks(panel, Steps) for panel in shown), "bars of six rows say nothing"
        drawn = [mark for panel in shown for mark in marks(panel, Points)]
        assert {len(mark.x) for mark in drawn} == {6}
    none = save_table(tmp_path, "melt", log_prob=np.full(60, np.nan))
    assert not [p for p in pictures_of([none], None, None) if "log_prob" in p.path.name]


def test_errors_of_log_densities_are_told_in_reports(tmp_path):
    assert not tables.density_results(load(tmp_path), "wine")
    errors = np.where(np.arange(60) == 0, 0.4, 0.0)
    (result,) = tables.density_results(load(tmp_path, log_prob_error=errors), "wine")
    assert result.value == "0.052 nats, root mean square over rows; at most 0.4"
    assert not result.holds
    (result,) = tables.density_results(load(tmp_path, log_prob_error=errors / 2), "wine")
    assert result.holds
