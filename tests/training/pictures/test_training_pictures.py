"""Pictures of training: the losses of a run, with gaps, and records that are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnlib.errors import DataError
from training.files.stats import SavedTraining
from training.pictures.training import draw_training, running_median


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
