"""The training loop and its folder: resuming, stopping, and what a run writes and says."""

import hashlib
import json
import logging
import os
import signal
import threading
import time
from itertools import count
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from dnnlib.errors import DataError
from dnnlib.logs import logger
from tests.support.running import refusal
from tests.support.trainers import Troubled, assert_same_state, circles_trainer, tiny_model, weights
from torch_utils.snapshots import read_state
from training.data.batches import Batch
from training.flow.denoisers import calls_of_fit
from training.learning import run, run_folder
from training.learning.cost import step_seconds
from training.learning.finishing import CalibrationPlan, LatentPlan, calibration_within
from training.learning.run import (
    PostTraining,
    StoppedBySignal,
    StopRequest,
    TimeBudget,
    run_training,
    train,
)
from training.learning.run_folder import Place, Resumed, RunFolder, states_in
from training.trained.network import TrainedNetwork


def statistics(folder):
    """The lines of ``stats.jsonl``, but for what depends on the machine."""
    lines = map(json.loads, (folder.path / "stats.jsonl").read_text().splitlines())
    machine = ("Timing", "Resources")
    return [{k: v for k, v in line.items() if not k.startswith(machine)} for line in lines]


def test_a_run_writes_reports_files_and_averaged_weights(run_folder):
    trainer, source = circles_trainer(snap=2, dump=100)
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
    model = TrainedNetwork.load(folder.network_path(4000))
    assert torch.equal(weights(model.denoiser), weights(trainer.averaged.denoiser))
    assert not torch.equal(weights(model.denoiser), weights(trainer.denoiser))
    assert model.about["seen"] == 4000


def test_reports_come_with_the_first_batch_beyond_each_tick(run_folder):
    trainer, source = circles_trainer(batch=700)
    folder = run_folder("run")
    train(trainer, source, folder)
    assert [line["seen"] for line in statistics(folder)] == [1400, 2100, 3500, 4200]


def test_skipped_steps_survive_a_resume_and_are_reported(run_folder):
    trainer, source = circles_trainer(dump=1)
    folder = run_folder("run")
    train(trainer, Troubled(source, {1, 4, 5}), folder)
    assert [line["Progress/skipped_steps"] for line in statistics(folder)] == [1, 1, 3, 3]
    for line in (folder.path / "stats.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # which other values than numbers would be
    resumed, _ = circles_trainer(dump=1)
    resumed.restore(read_state(folder.state_path(3000)), "the state")
    assert (resumed.step, *resumed.skips.read()) == (6, 3, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_which_can_go_on(number, run_folder):
    unbroken, source = circles_trainer()
    train(unbroken, source, run_folder("whole"))
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    stopped, source = circles_trainer(snap=100, dump=100)
    folder = run_folder("stopped")
    with pytest.raises(StoppedBySignal) as caught:
        train(stopped, Troubled(source, signals={3: number}), folder)
    assert caught.value.exit_code == 128 + number
    assert str(folder.state_path(2000)) in str(caught.value)
    assert folder.state_path(2000).exists()
    assert folder.network_path(2000).exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed, source = circles_trainer()
    run_training(resumed, source, Place(folder.path, ""), {}, Resumed.find(folder.path))
    assert_same_state(resumed.state(), unbroken.state())


def test_a_signal_during_the_last_step_does_not_stop_a_finished_run(run_folder):
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, Troubled(source, signals={7: signal.SIGTERM}), folder)
    assert trainer.seen == 4000
    assert folder.network_path(4000).exists()


@pytest.mark.parametrize("trouble", [DataError("no fit"), KeyboardInterrupt()])
def test_failed_calibrations_lose_nothing(run_folder, trouble):
    def fail(model):
        raise trouble

    trainer, source = circles_trainer()
    folder = run_folder("run")
    with pytest.raises(type(trouble)):
        train(trainer, source, folder, PostTraining(closing=fail))
    assert TrainedNetwork.load(folder.network_path(4000)).about["seen"] == 4000
    finished = []
    resumed, source = circles_trainer()
    resumed.restore(read_state(folder.state_path(4000)), "state.pt")
    train(resumed, source, folder, PostTraining(closing=finished.append))
    assert len(finished) == 1


def test_a_run_that_is_complete_does_nothing_when_resumed(run_folder):
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, source, folder)
    before = statistics(folder)
    resumed, source = circles_trainer()
    run_training(resumed, source, Place(folder.path, ""), {}, Resumed.find(folder.path))
    assert_same_state(resumed.state(), trainer.state())
    assert statistics(folder) == before


def test_jumping_clocks_do_no_harm(run_folder, monkeypatch):
    jumps = count(0, -86_400)
    monkeypatch.setattr("time.time", lambda: 1.8e9 + next(jumps))
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, source, folder)
    for line in (folder.path / "stats.jsonl").read_text().splitlines():
        timing = {k: v for k, v in json.loads(line).items() if k.startswith("Timing")}
        assert all(0 <= value < 60 for value in timing.values()), timing


@pytest.fixture
def folder(run_folder):
    return run_folder("run")


def save(folder, *numbers, keep=9):
    with mock.patch.object(run_folder, "STATES", keep):
        for number in numbers:
            folder.save_state({"step": number}, 1000 * number)


def numbers(folder):
    return [int(path.stem.rpartition("-")[2]) for path in states_in(folder.path)]


def test_older_states_go_only_after_the_newer_one_is_written(folder, monkeypatch):
    save(folder, 0, 1, keep=1)

    def fail(path, state):
        assert numbers(folder) == [1]
        raise OSError("no space")

    monkeypatch.setattr("training.learning.run_folder.write_state", fail)
    with pytest.raises(OSError, match="no space"):
        save(folder, 2, keep=1)
    assert numbers(folder) == [1]


def test_states_are_in_order_and_a_resumed_run_keeps_its_own(folder):
    save(folder, 1, 2, 5, 6)
    save(folder, 3, keep=2)
    assert numbers(folder) == [2, 3, 5, 6]
    save(folder, 999_999, 1_000_000)
    assert numbers(folder) == [2, 3, 5, 6, 999_999, 1_000_000]


@pytest.mark.parametrize(("at", "kept"), [(6000, [5, 6]), (5000, [2, 5, 6]), (7000, [1, 2, 5, 6])])
def test_old_states_that_a_kill_left_are_removed(folder, at, kept):
    save(folder, 1, 2, 5, 6)
    RunFolder.reopen(folder.path, at)
    assert numbers(folder) == kept


def test_a_torn_newest_state_is_skipped_with_a_warning(folder):
    save(folder, 1, 2, 3)
    for number, length in ((2, 0), (3, 300)):
        path = folder.state_path(1000 * number)
        path.write_bytes(path.read_bytes()[:length])
    resumed = Resumed.find(folder.path)
    assert (resumed.path, resumed.state["step"]) == (folder.state_path(1000), 1)
    log = (folder.path / "log.txt").read_text()
    for number in (2, 3):
        assert f"Warning: {folder.state_path(1000 * number)} is " in log
    assert "000003" in refusal(Resumed.find, folder.state_path(3000))


def test_a_folder_without_a_whole_state_is_an_error(folder):
    assert "no training-state-*.pt" in refusal(Resumed.find, folder.path)
    for number in (1, 2):
        folder.state_path(1000 * number).write_bytes(b"torn")
    with pytest.raises(DataError, match=r"no readable state.*000001"):
        Resumed.find(folder.path)


@pytest.fixture
def wishes(monkeypatch):
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append((time.monotonic(), record.getMessage()))

    monkeypatch.setattr(logger, "handlers", [Keep()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    return lines


def test_a_signal_is_acknowledged_though_no_python_runs(wishes):
    with StopRequest() as stop:
        kill = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        kill.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # without a line of Python
        ended = time.monotonic()
        kill.join()
        assert stop.agreed(torch.device("cpu")) == signal.SIGINT
    ((when, line),) = wishes
    assert "stopping after this step" in line
    assert when < ended


@pytest.mark.parametrize("wish", [60, 0], ids=["one wish", "two wishes"])
def test_two_signals_are_one_wish_or_act_at_once(wish, wishes, monkeypatch):
    def act(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "ONE_WISH", wish)
    before = signal.signal(signal.SIGINT, act)
    try:
        with StopRequest():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)
        acted = False
    except KeyboardInterrupt:
        acted = True
    finally:
        signal.signal(signal.SIGINT, before)
    assert acted == (wish == 0)
    assert len(wishes) == 1 + acted


def test_the_block_ends_though_a_worker_holds_copies_of_its_sockets():
    with StopRequest() as stop:
        copy = os.dup(stop._mouth.fileno())  # as a forked process has it
    os.close(copy)


def test_parts_are_told_after_the_first_step_and_in_between_reports(run_folder, monkeypatch):
    monkeypatch.setattr(run, "TELL_EVERY", 0)
    trainer, source = circles_trainer(tick=2)
    told = []
    train(trainer, source, run_folder("run"), progress=told.append)
    assert told[0] == pytest.approx(trainer.recipe.batch / trainer.recipe.samples)
    assert len(told) > trainer.recipe.steps, "at each step, not only at both reports"
    assert told == sorted(told)
    assert told[-1] == 1
    monkeypatch.setattr(run, "TELL_EVERY", 60)
    parts = run.Parts(told.append, total=100, follows=100 / run.CALL)
    told.clear()
    for seen in (1, 2, 3):
        parts.tell(seen, due=seen == 3)
    assert told == [0.005, 0.015], "what follows the steps counts as samples that take as long"


def test_steps_are_timed_with_those_that_start_an_epoch():
    trainer, source = circles_trainer()

    class Slow:
        def batches(self, first):
            for step, batch in enumerate(source.batches(first)):
                time.sleep(0.1 * (step % 4 == 3))
                yield batch

    options = (trainer.averaged, trainer.loss, trainer.recipe)
    assert step_seconds(*options, Slow()) - step_seconds(*options, source) > 0.015


def test_the_length_of_a_training_is_corrected_to_its_time():
    budget = TimeBudget(60.0)
    assert budget.steps(1, 1000, 4.0) == 1000, "too early"
    assert budget.steps(101, 1000, 9.9) == 1000, "60 s as planned, the slow first step left out"
    assert budget.steps(101, 1000, 14.0) == 101 + 460
    assert budget.steps(101, 1000, 8.0) == 101 + 1300
    assert budget.steps(501, 1000, 15.0) == 1000, "the learning rate falls already"
    assert budget.steps(400, 1000, 61.0) == 401


def test_a_training_ends_in_its_time_and_is_resumed_with_its_length(run_folder, monkeypatch):
    trainer, source = circles_trainer(duration=0.5, tick=50)
    now = [0.0]
    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow:
        def batches(self, first):
            for step, batch in enumerate(source.batches(first)):
                now[0] += 1.0 if step % 10 == 0 else 0.1
                yield batch

    folder = run_folder("run", options={"duration": 0.5})
    train(trainer, Slow(), folder, budget=TimeBudget(60.0))
    assert abs(now[0] - 60) < 6
    assert trainer.step == trainer.recipe.steps < 400
    record = json.loads((folder.path / "training_options.json").read_text())
    assert record["options"]["duration"] == trainer.recipe.duration


def test_a_calibration_becomes_coarser_with_less_time_until_it_is_left_out():
    finest = calibration_within(1e9, 1000, "path")
    assert finest == (17, 1000, "path")
    sizes = []
    for evaluations in (60_000, 30_000, 3_000, 1_400, 100):
        times, points, method = calibration_within(evaluations, 1000, "path")
        sizes.append(points * calls_of_fit(times, method) if times else 0)
        if times:
            assert sizes[-1] <= evaluations < 2 * sizes[-1]
            assert points >= 64
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 0


def test_fits_without_time_leave_the_defaults_and_say_so(caplog):
    model, _ = tiny_model(width=8, depth=1)
    for tensor in model.denoiser.parameters():
        tensor.data += 0.01 * torch.randn(tensor.shape)
    batch = Batch(torch.randn(200, 2, dtype=torch.float64))
    plans = (
        CalibrationPlan(lambda: batch, 200, 0, "gain"),
        LatentPlan(lambda n: batch, None, 200, 0, 50),
    )
    PostTraining(*plans, limited=True)(model, time.monotonic() - 1)
    assert model.denoiser.calibration is None
    assert not model.integrations
    for part in ("calibrate the network", "test the latents", "too little time for trials"):
        assert part in caplog.text
    PostTraining(*plans, limited=True)(model, time.monotonic() + 600)
    assert model.denoiser.calibration is not None
    assert model.integrations
