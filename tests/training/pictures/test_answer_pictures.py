"""Answers about rows: they are read as they were written, and drawn; strange files are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from dnnlib.errors import DataError
from tests.support.answer_files import COUNT, TABLE, save
from training.files.answers import SavedAnswers
from training.files.records import columns_json
from training.measure.association import associations
from training.measure.reliability import Z, reliability, wilson
from training.pictures.album import pictures_of
from training.report.content import Choice
from training.report.finding import found_in

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
    with pytest.raises(DataError, match="no check of ask"):
        pictures_of([tmp_path / "check.json"], None, None)


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
