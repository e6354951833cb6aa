"""A rank that dies: torchrun starts all again, and the run goes on in its folder."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnlib.logs import logger
from tests.support.finished_runs import SHORT_TOY
from tests.support.image_runs import SHORT
from tests.support.outcomes import assert_same, outcome
from training.learning.resuming import place_to_resume
from training.learning.run_folder import LAUNCH_KEY, OPTIONS_NAME, Place, RunFolder, launch_id

ROOT = Path(__file__).parents[2]
NEVER = -1


def run(script: str, outdir: Path, die_at: int, *options: str) -> tuple[Path, str]:
    """Two ranks, of which one is killed at a step, once; the folder, and what was printed."""
    torchrun = ("--standalone", "--nproc_per_node=2", "--max-restarts=2")
    wrapper = ROOT / "tests" / "reliability" / "dying_rank.py"
    command = [sys.executable, "-m", "torch.distributed.run", *torchrun, str(wrapper), script]
    command += [str(die_at), f"--outdir={outdir}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = outdir.iterdir()
    return folder, done.stdout


@pytest.mark.slow
@pytest.mark.hostile
@pytest.mark.parametrize("script", ["toy_train", "train"])
def test_ranks_that_die_end_with_the_same_result(script: str, blobs: Path, tmp_path: Path) -> None:
    # Before the first state it starts anew in its folder.
    steps, options = [0, 1, 7], list(SHORT_TOY)
    if script == "train":
        steps, options = [50], [f"--data={blobs}", *SHORT, "--duration=0.004"]
    unbroken, _ = run(script, tmp_path / "unbroken", NEVER, *options)
    for step in steps:
        folder, out = run(script, tmp_path / f"dies-{step}", step, *options)
        assert ("Going on from" in out) == (step >= 2), out
        assert_same(outcome(folder), outcome(unbroken))


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch-1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    yield "launch-1"
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def make_run(outdir: Path, name: str, states: int = 0) -> Path:
    folder = RunFolder.create(Place(outdir, name), {"options": {}}).path
    for number in range(states):
        (folder / f"training-state-{number:06d}.pt").touch()
    return folder


def test_only_a_restarted_run_goes_on_by_itself(
    launch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "mine", states=2)
    make_run(tmp_path, "mine", states=0)
    assert json.loads((folder / OPTIONS_NAME).read_text())[LAUNCH_KEY] == launch
    assert place_to_resume(None, tmp_path, False) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch-2")
    other = make_run(tmp_path, "other", states=1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert place_to_resume(None, tmp_path, False) == other
    assert place_to_resume(folder, None, False) == folder
    state = folder / "training-state-000000.pt"
    assert place_to_resume(state, None, False) == state
    # A state that was given may be gone by the time of a restart, but newer ones are there.
    assert place_to_resume(other / "training-state-000000.pt", None, False) == other
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "launch-3")
    assert place_to_resume(None, tmp_path, False) is None
    assert place_to_resume(None, tmp_path / "none", False) is None


def test_a_restarted_run_without_a_state_begins_anew_in_its_folder(
    launch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "run")
    (folder / "stats.jsonl").write_text('{"seen": 1000}\n')
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert place_to_resume(None, tmp_path, False) is None
    assert RunFolder.create(Place(tmp_path, "run"), {}).path == folder
    assert (folder / "stats.jsonl").read_text() == ""


def test_launches_without_a_rendezvous_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch_id() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr("os.getppid", lambda: 5)
    first = launch_id()
    monkeypatch.setattr("os.getppid", lambda: 6)
    assert first != launch_id()
