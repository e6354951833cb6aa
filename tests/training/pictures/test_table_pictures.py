"""Pictures of tables: rows in their own units, columns by how they fit, and whatever is odd."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import kstwobign, spearmanr

from tests.support.picture_files import save_table
from training.files.rows import SavedTable
from training.files.stats import SavedTraining
from training.pictures import look
from training.pictures.album import pictures_of
from training.pictures.tables.album import column_errors, draw_densities, draw_roundtrip, uniformity
from training.pictures.tables.columns import (
    chance,
    distances,
    draw_marginals,
    draw_pairs,
    limits,
    rank_correlations,
    telling_columns,
)
from training.pictures.training import draw_training
from training.report.tables import density_results


def load(folder: Path, kind: str = "melt", **changes: Any) -> SavedTable:
    return SavedTable.load(save_table(folder, kind, **changes))


def words(figure: Figure) -> str:
    """All texts of a figure that is drawn, coarsely."""
    figure.set_dpi(20)
    FigureCanvasAgg(figure).draw()
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    told = [text.get_text() for text in texts]
    for axes in figure.axes:
        told += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return " | ".join(told)


def panel_names(figure: Figure) -> list[str]:
    names = [axes.get_title(loc="left") for axes in figure.axes]
    return [name for name in names if name]


# Figures.


def test_distances_are_told_with_what_chance_makes_of_them() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 3))
    far = distances(rows, rows * [1, 1e9, -1] + [0, 0, 100])
    assert far[0] == 0
    assert far[2] == 1
    assert chance(300, 200) == pytest.approx(kstwobign.isf(0.05) / np.sqrt(120), rel=1e-3)
    pairs = generator.normal(size=(2, 200, 80, 5))
    passed = [distances(*pair).max() > chance(80, 80, 5) for pair in zip(*pairs, strict=True)]
    assert 0.005 < np.mean(passed) < 0.08


def test_rank_correlations_are_those_of_scipy_and_0_of_constant_columns() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4)).round(1)
    rows[:, 1] += rows[:, 0]
    assert np.allclose(rank_correlations(rows), spearmanr(rows).statistic)
    rows[:, 2] = 7
    assert np.allclose(rank_correlations(rows)[2], 0)


def test_pairs_are_of_the_columns_whose_correlations_differ() -> None:
    data, samples = np.eye(7), np.eye(7)
    samples[2, 5] = samples[5, 2] = 0.9
    samples[5, 6] = samples[6, 5] = -0.4
    assert telling_columns([data, samples], 3).tolist() == [2, 5, 6]
    assert telling_columns([data, data], 3).size == 3
    assert telling_columns([samples[:2, :2]], 5).tolist() == [0, 1]


def test_limits_hold_all_of_few_rows_and_no_wild_samples() -> None:
    few = np.random.default_rng(0).normal(size=20)
    low, high = limits(few)
    assert low < few.min() < few.max() < high
    low, high = limits(few, 1e12 * few)
    assert high - low < 4 * np.ptp(few)
    for value in (0.0, -3.0, 1e12, 1e-200):
        low, high = limits(np.full(5, value), np.full(3, value))
        assert low < value < high


def test_ranks_of_one_law_are_uniform() -> None:
    generator = np.random.default_rng(0)
    values = [uniformity(*generator.normal(size=(2, 40))) for _ in range(300)]
    assert 0.01 < np.mean(np.array(values) < 0.05) < 0.08
    assert uniformity(np.zeros(40) - 9, generator.normal(size=40)) < 1e-6


# Pictures.


def test_the_worst_columns_come_first_by_name_and_distance(tmp_path: Path) -> None:
    melt = load(tmp_path, dim=61, count=20)
    points = melt.points.copy()
    points[:, 40] += 1e9
    gen = load(tmp_path, "gen", dim=61, count=20, points=points)
    figure = draw_marginals([melt, gen])
    told = words(figure)
    assert panel_names(figure)[0] == "column_40"
    assert len(panel_names(figure)) == 20
    assert "KS distance 1.000" in told
    assert "20 worst-fitted of 61" in told
    assert "not shown: KS at most 0 " in told
    for axes in figure.axes[1:20]:
        low, high = axes.get_xlim()
        column = melt.points[:, int(axes.get_title(loc="left").removeprefix("column_"))]
        assert low < column.min() < column.max() < high


def test_one_set_alone_keeps_the_order_of_the_table(tmp_path: Path) -> None:
    for kind, label in (("melt", "data"), ("gen", "samples"), ("roundtrip", "returned rows")):
        figure = draw_marginals([load(tmp_path, kind)])
        assert panel_names(figure) == [f"column_{index}" for index in range(4)]
        assert label in words(figure)
    (first, *_) = pictures_of([tmp_path / "wine_PRP_gen.npz"], None, None)
    assert first.path.name == "wine_PRP_marginals.png"
    assert first.note.startswith("samples alone")


def test_data_are_below_the_diagonal_and_samples_above_it(tmp_path: Path) -> None:
    tables = [load(tmp_path), load(tmp_path, "gen")]
    figure = draw_pairs(tables)
    panels = np.array(figure.axes[1:]).reshape(4, 4)  # after the legend
    for row, across in ((2, 1), (1, 2)):
        shown = panels[row, across].lines[0].get_xydata()
        assert np.allclose(shown, tables[int(across > row)].points[:, [across, row]])
    assert panels[2, 1].get_xlim() == panels[0, 1].get_xlim() == panels[1, 1].get_xlim()
    assert panels[2, 1].get_ylim() == panels[1, 2].get_xlim()


def test_densities_tell_p_and_the_least_likely_row(tmp_path: Path) -> None:
    melt, gen = load(tmp_path), load(tmp_path, "gen")
    told = words(draw_densities([melt, gen]))
    p = uniformity(melt.densities, gen.densities)
    assert f"KS p = {p:.2g}" in told
    assert f"row {100 + melt.densities.argmin()} of the data" in told
    alone = words(draw_densities([gen]))
    assert "least likely" not in alone
    assert "KS" not in alone


def test_errors_of_roundtrips_are_in_standard_deviations(tmp_path: Path) -> None:
    melt = load(tmp_path)
    std = melt.points.std(axis=0)
    back = load(tmp_path, "roundtrip", points=melt.points + 1e-3 * std * [1, 2, 0, 4])
    root, largest = column_errors(melt, back)
    assert np.allclose(root, [1e-3, 2e-3, 0, 4e-3], atol=1e-9)
    assert np.allclose(root, largest, atol=1e-9)
    (axes,) = draw_roundtrip(melt, back).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["column_3", "column_1", "column_0", "column_2"]


def test_a_folder_of_a_run_is_drawn_and_other_units_are_not(tmp_path: Path) -> None:
    for kind in ("melt", "roundtrip", "gen"):
        save_table(tmp_path, kind)
    kinds = "log_prob marginals melt_joint melt_latents pairs roundtrip spectrum"
    expected = {f"wine_PRP_{kind}.png" for kind in kinds.split()}
    pictures = pictures_of([tmp_path], tmp_path / "there", "gif")
    assert {picture.path.name for picture in pictures} == expected
    assert {picture.path.parent for picture in pictures} == {tmp_path / "there"}
    save_table(tmp_path, "gen", names=np.array(["other", "columns", "than", "those"]))
    names = [picture.path.name for picture in pictures_of([tmp_path], None, None)]
    assert names.count("wine_PRP_marginals.png") == 2


def test_the_best_report_on_held_out_rows_is_marked(tmp_path: Path) -> None:
    nats = [-9.0, -3.0, -2.0, -2.5]
    lines = [
        {
            "seen": 1e6 * (k + 1),
            "Loss/loss": 0.9 - 0.1 * k,
            "Progress/learning_rate": 1e-3,
            "Loss/held_out": 0.95 + 0.01 * k,
            "Likelihood/held_out_nats": nats[k],
        }
        for k in range(4)
    ]
    path = tmp_path / "stats.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    saved = SavedTraining.load(path)
    figure = draw_training(saved, "run")
    loss_axes, nats_axes, _ = figure.axes
    assert saved.best == 2  # by nats, not by loss
    assert loss_axes.lines[-1].get_xydata().tolist() == [[3, 0.97]]
    assert nats_axes.lines[-1].get_xydata().tolist() == [[3, -2.0]]
    assert np.allclose(nats_axes.lines[0].get_ydata(), nats)
    assert "best −2 nats" in words(figure)
    images = replace(saved, nats=None)  # which have a held-out loss alone
    assert images.best == 0
    assert len(draw_training(images, "run").axes) == 2


# What is odd.


def strange(points: np.ndarray) -> np.ndarray:
    """A constant column, one of two values, and rows that are NaN, infinite or far too large."""
    points = points.copy()
    points[:, 0], points[:, 1] = 5, points[:, 1] > 0
    points[:3, 2] = np.nan, -np.inf, 1e300
    return points


NAMES = ["$x^", "a\nb\t\\", "", "ï" * 200]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dim", [1, 4])
def test_odd_tables_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dim: int) -> None:
    monkeypatch.setattr(look, "DPI", 30)
    for kind in ("melt", "roundtrip", "gen"):
        made = load(tmp_path, kind, count=20)
        wild = np.where(np.arange(20) == 4, -np.inf, made.log_prob)
        points = strange(made.points)[:, -dim:]
        changes = {"points": points, "names": np.array(NAMES[-dim:]), "log_prob": wild}
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
        assert "17 rows of data (3 not finite, left out)" in words(draw_marginals([table]))


def test_constant_densities_and_few_rows(tmp_path: Path) -> None:
    two = [load(tmp_path, kind, count=2, log_prob=np.zeros(2)) for kind in ("melt", "gen")]
    for figure in (draw_densities(two), draw_marginals(two), draw_pairs(two)):
        words(figure)
    none = save_table(tmp_path, "melt", log_prob=np.full(60, np.nan))
    assert not [p for p in pictures_of([none], None, None) if "log_prob" in p.path.name]


def test_errors_of_log_densities_are_told_in_reports(tmp_path: Path) -> None:
    assert not density_results(load(tmp_path), "wine")
    errors = np.where(np.arange(60) == 0, 0.4, 0.0)
    (result,) = density_results(load(tmp_path, log_prob_error=errors), "wine")
    assert result.value == "0.052 nats, root mean square of the rows; 0.4 at most"
    assert not result.holds
    (result,) = density_results(load(tmp_path, log_prob_error=errors / 2), "wine")
    assert result.holds
