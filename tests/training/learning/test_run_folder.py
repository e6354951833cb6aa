"""Which training states stay, and which one a run goes on from."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dnnlib.errors import DataError
from training.learning.resuming import Resumed
from training.learning.run_folder import RunFolder, states_in


@pytest.fixture
def folder(run_folder: Callable[[str], RunFolder]) -> RunFolder:
    return run_folder("run")


def save(folder: RunFolder, *numbers: int, keep: int = 9) -> None:
    for number in numbers:
        folder.save_state({"step": number}, 1000 * number, keep)


def numbers(folder: RunFolder) -> list[int]:
    return [int(path.stem.rpartition("-")[2]) for path in states_in(folder.path)]


@pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (9, [1, 2, 3, 4, 5])])
def test_the_newest_states_stay(folder: RunFolder, keep: int, kept: list[int]) -> None:
    save(folder, *range(1, 6), keep=keep)
    assert numbers(folder) == kept


def test_older_states_go_after_the_newer_one_is_written_and_not_if_it_cannot_be(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 1, keep=1)

    def fail(path: Path, state: object) -> None:
        assert numbers(folder) == [1]
        raise OSError("no space")

    monkeypatch.setattr("training.learning.run_folder.write_state", fail)
    with pytest.raises(OSError, match="no space"):
        save(folder, 2, keep=1)
    assert numbers(folder) == [1]


def test_states_are_in_order_and_a_resumed_run_keeps_its_own(folder: RunFolder) -> None:
    save(folder, 1, 2, 5, 6)
    save(folder, 3, keep=2)
    assert numbers(folder) == [2, 3, 5, 6]
    save(folder, 999_999, 1_000_000)
    assert numbers(folder) == [2, 3, 5, 6, 999_999, 1_000_000]


@pytest.mark.parametrize(
    ("seen", "kept"), [(6000, [5, 6]), (5000, [2, 5, 6]), (7000, [1, 2, 5, 6])]
)
def test_a_run_killed_before_it_removed_old_states_removes_them_when_it_goes_on(
    folder: RunFolder, seen: int, kept: list[int]
) -> None:
    save(folder, 1, 2, 5, 6)
    RunFolder.reopen(folder.path, seen, keep=2)
    assert numbers(folder) == kept


def test_a_torn_newest_state_is_skipped_with_a_warning(folder: RunFolder) -> None:
    save(folder, 1, 2, 3)
    for number, length in ((2, 0), (3, 300)):
        path = folder.state_path(1000 * number)
        path.write_bytes(path.read_bytes()[:length])
    resumed = Resumed.find(folder.path)
    assert (resumed.path, resumed.state["step"]) == (folder.state_path(1000), 1)
    log = (folder.path / "log.txt").read_text()
    for number in (2, 3):
        assert f"Warning: {folder.state_path(1000 * number)} is " in log
    with pytest.raises(DataError, match="000003"):
        Resumed.find(folder.state_path(3000))


def test_a_folder_without_a_whole_state_is_an_error(folder: RunFolder) -> None:
    with pytest.raises(DataError, match=r"no training-state-\*\.pt"):
        Resumed.find(folder.path)
    for number in (1, 2):
        folder.state_path(1000 * number).write_bytes(b"torn")
    with pytest.raises(DataError, match=r"no state that can be read.*000001"):
        Resumed.find(folder.path)
