"""Runs of many posteriors: what they tell while they work, and when they are cut short."""

import logging
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from torch_utils.results import save_arrays
from training.runs import posteriors
from training.runs.posteriors import Groups, Progress


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    """Five posteriors in groups of two."""
    return Groups(tmp_path / "out" / "posterior.part", "this run", 5, 2)


def cut_short(groups: Groups, whole: int, fingerprint: str = "this run") -> None:
    """Runs groups until so many are done, and Ctrl-C is pressed."""

    def work(index: int, places: Tensor, path: Path, progress: Progress) -> bool:
        if index == whole:
            raise KeyboardInterrupt
        save_arrays(path, {"fingerprint": np.array(fingerprint)})
        return False

    with pytest.raises(KeyboardInterrupt), groups.told_when_cut_short():
        groups.run(work)


def test_a_run_that_is_cut_short_says_what_is_kept_and_how_to_go_on(
    groups: Groups, caplog: pytest.LogCaptureFixture
) -> None:
    cut_short(groups, 2)
    assert f"4 of 5 posteriors are done and kept in {groups.folder}" in caplog.text
    assert "The same command goes on from there" in caplog.text
    assert len(list(groups.folder.iterdir())) == 2


def test_parts_of_another_run_are_not_said_to_be_kept(
    groups: Groups, caplog: pytest.LogCaptureFixture
) -> None:
    cut_short(groups, 2, "another run")
    assert "kept" not in caplog.text


def test_no_empty_folder_stays_of_a_run_that_did_nothing(groups: Groups) -> None:
    cut_short(groups, 0)
    assert not groups.folder.parent.exists()


def test_without_a_terminal_lines_say_how_far_a_long_step_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(100, 20)  # seconds, one look after the other
    monkeypatch.setattr(posteriors, "monotonic", lambda: next(clock))
    with (
        caplog.at_level(logging.INFO),
        posteriors.progress("Making 10 draws", "draws", 10, "draw") as move,
    ):
        for _ in range(5):
            move(2)
    assert caplog.messages == [
        "Making 10 draws",
        "Draws: 40 % after 40 s",
        "Draws: 80 % after 80 s",
    ]
