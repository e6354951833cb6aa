"""A full disk ends in one line that names the file, with what was good before still there."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import toy_train
from tests.support.finished_runs import SHORT_TOY
from tests.support.outcomes import assert_same, outcome
from tests.support.running import Run, trained

FullDisk = Callable[[int], AbstractContextManager[None]]


def results(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("[nt]*-*-*.p*")}


@pytest.fixture(scope="module")
def unbroken(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    return trained(run_script, folder, toy_train, "--keep=9", *SHORT_TOY)


# A state is about four times as large as a network.
@pytest.mark.parametrize(("what", "share"), [("training-state-", 0.99), ("network-snapshot-", 0.1)])
def test_training_keeps_its_last_good_state_and_goes_on_when_there_is_space(
    run_script: Run, unbroken: Path, full_disk: FullDisk, tmp_path: Path, what: str, share: float
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(unbroken, folder)
    for number in (4, 5, 6):
        for name in (f"training-state-00000{number}.pt", f"network-snapshot-00000{number}.pkl"):
            (folder / name).unlink(missing_ok=True)
    before = results(folder)
    good = {name: path.read_bytes() for name, path in before.items()}
    size = (folder / "training-state-000003.pt").stat().st_size
    with full_disk(int(share * size)):
        result = run_script(toy_train, f"--resume={folder}")
    assert result.code == 1
    assert f"{folder / what}000004" in result.error
    after = {name: path.read_bytes() for name, path in results(folder).items()}
    assert {name: after[name] for name in good} == good
    assert "training-state-000004.pt" not in after
    assert not list(folder.rglob(".*"))
    assert run_script(toy_train, f"--resume={folder}").code == 0
    assert_same(outcome(folder), outcome(unbroken))
