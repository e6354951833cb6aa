"""The training loop: resuming, stopping, and what a run writes."""

import json
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

from dnnlib.errors import DataError
from tests.support.trainers import Troubled, assert_same_state, circles_trainer, weights
from torch_utils.snapshots import read_state
from training.data.batches import BatchSource
from training.learning.resuming import Resumed
from training.learning.run import run_training, train
from training.learning.run_folder import Place, RunFolder
from training.learning.stopping import StoppedBySignal
from training.learning.trainer import Trainer
from training.model.model import Model

MakeFolder = Callable[[str], RunFolder]


def go_on(trainer: Trainer, source: BatchSource, location: Path) -> None:
    """Resumes a run from a state file, or from a folder's latest state."""
    run_training(trainer, source, Place(location, ""), {}, Resumed.find(location))


def statistics(folder: RunFolder) -> list[dict[str, float]]:
    """The lines of ``stats.jsonl``, but for what depends on the machine."""
    lines = map(json.loads, (folder.path / "stats.jsonl").read_text().splitlines())
    machine = ("Timing", "Resources")
    return [{k: v for k, v in line.items() if not k.startswith(machine)} for line in lines]


def test_a_run_writes_reports_files_and_averaged_weights(run_folder: MakeFolder) -> None:
    trainer, source = circles_trainer(snapshot_ticks=2, state_ticks=None)
    folder = run_folder("run")
    train(trainer, source, folder)
    names = {path.name for path in folder.path.iterdir() if "tfevents" not in path.name}
    networks = {f"network-snapshot-00000{number}.pkl" for number in (2, 4)}
    written = {"log.txt", "stats.jsonl", "training-state-000004.pt", *networks}
    assert names == written | {"training_options.json"}
    assert any("tfevents" in path.name for path in folder.path.iterdir())
    lines = statistics(folder)
    assert [line["seen"] for line in lines] == [1000, 2000, 3000, 4000]
    for line in lines:
        assert {"Loss/loss", "Gradient/norm", "Progress/learning_rate"} <= line.keys()
        assert line["Progress/skipped_steps"] == 0
    log = (folder.path / "log.txt").read_text()
    assert log.count(" loss ") == 4
    assert "network-snapshot-000004.pkl" in log
    model = Model.load(folder.network_path(4000))
    assert torch.equal(weights(model.denoiser), weights(trainer.averaged.denoiser))
    assert not torch.equal(weights(model.denoiser), weights(trainer.denoiser))
    assert model.about["seen"] == 4000


def test_reports_come_with_the_first_batch_beyond_each_tick(run_folder: MakeFolder) -> None:
    trainer, source = circles_trainer(batch=700)
    folder = run_folder("run")
    train(trainer, source, folder)
    assert [line["seen"] for line in statistics(folder)] == [1400, 2100, 3500, 4200]


def test_skipped_steps_survive_a_resume_and_are_reported(run_folder: MakeFolder) -> None:
    trainer, source = circles_trainer(state_ticks=1)
    folder = run_folder("run")
    train(trainer, Troubled(source, {1, 4, 5}), folder)
    assert [line["Progress/skipped_steps"] for line in statistics(folder)] == [1, 1, 3, 3]
    for line in (folder.path / "stats.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # which other values than numbers would be
    resumed, _ = circles_trainer(state_ticks=1)
    resumed.restore(read_state(folder.state_path(3000)), "the state")
    assert (resumed.step, *resumed.skips.read()) == (6, 3, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_which_can_go_on(number: int, run_folder: MakeFolder) -> None:
    unbroken, source = circles_trainer()
    train(unbroken, source, run_folder("whole"))

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    stopped, source = circles_trainer(snapshot_ticks=None, state_ticks=None)
    folder = run_folder("stopped")
    with pytest.raises(StoppedBySignal) as caught:
        train(stopped, Troubled(source, signals={3: number}), folder)
    assert caught.value.exit_code == 128 + number
    assert str(folder.state_path(2000)) in str(caught.value)
    assert folder.state_path(2000).exists()
    assert folder.network_path(2000).exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers

    resumed, source = circles_trainer()
    go_on(resumed, source, folder.path)
    assert_same_state(resumed.state(), unbroken.state())


def test_a_signal_during_the_last_step_does_not_stop_a_finished_run(run_folder: MakeFolder) -> None:
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, Troubled(source, signals={7: signal.SIGTERM}), folder)
    assert trainer.seen == 4000
    assert folder.network_path(4000).exists()


@pytest.mark.parametrize("trouble", [DataError("no fit"), KeyboardInterrupt()])
def test_failed_calibrations_lose_nothing(run_folder: MakeFolder, trouble: BaseException) -> None:
    def fail(model: Model) -> None:
        raise trouble

    trainer, source = circles_trainer()
    folder = run_folder("run")
    with pytest.raises(type(trouble)):
        train(trainer, source, folder, fail)
    assert Model.load(folder.network_path(4000)).about["seen"] == 4000
    finished: list[Model] = []
    resumed, source = circles_trainer()
    resumed.restore(read_state(folder.state_path(4000)), "state.pt")
    train(resumed, source, folder, finished.append)
    assert len(finished) == 1


def test_a_run_that_is_complete_does_nothing_when_resumed(run_folder: MakeFolder) -> None:
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, source, folder)
    before = statistics(folder)
    resumed, source = circles_trainer()
    go_on(resumed, source, folder.path)
    assert_same_state(resumed.state(), trainer.state())
    assert statistics(folder) == before


def test_jumping_clocks_do_no_harm(run_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = count(0, -86_400)
    monkeypatch.setattr("time.time", lambda: 1.8e9 + next(jumps))
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, source, folder)
    for line in (folder.path / "stats.jsonl").read_text().splitlines():
        timing = {k: v for k, v in json.loads(line).items() if k.startswith("Timing")}
        assert all(0 <= value < 60 for value in timing.values()), timing
