"""The training loop: schedules of a run, resuming, skipping, stopping, and what it writes."""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from operator import eq
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, TrainingError
from tests.support.draws import normal, seeded
from tests.support.flows import exact_flow
from tests.support.image_models import image_basis, image_model
from tests.support.trainers import circles_trainer
from torch_utils.snapshots import read_state
from torch_utils.stats import RunningMeans
from training.data.batches import Batch, BatchSource
from training.flow.eigenbasis import EigenBasis
from training.learning.loop import train
from training.learning.loss import DenoisingLoss, Draws
from training.learning.resuming import Resumed
from training.learning.run import run_training
from training.learning.run_folder import Place, RunFolder
from training.learning.skipping import MAX_SKIPPED_IN_A_ROW
from training.learning.stopping import StoppedBySignal
from training.learning.trainer import Trainer, TrainingConfig
from training.model.model import Model

MakeFolder = Callable[[str], RunFolder]
CPU = torch.device("cpu")


@dataclass
class Troubled:
    """A source whose batches are not finite at some steps, and bring a signal at others."""

    source: BatchSource
    spoilt: Container[int] = ()
    signals: Mapping[int, int] = field(default_factory=dict)

    def batches(self, first_step: int) -> Iterator[Batch]:
        for step, batch in zip(count(first_step), self.source.batches(first_step)):
            points = batch.points.clone()
            if step in self.spoilt:
                points[0, 0] = math.nan
            if step in self.signals:
                os.kill(os.getpid(), self.signals[step])
            yield Batch(points)


def tensors(state: Any, prefix: str = "") -> dict[str, Any]:
    """A nested state as one flat dictionary."""
    if not isinstance(state, dict | list | tuple):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= tensors(value, f"{prefix}/{key}")
    return flat


def assert_same_state(one: Any, other: Any) -> None:
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    for key, value in first.items():
        same = torch.equal if isinstance(value, Tensor) else eq
        assert same(value, second[key]), key


def go_on(trainer: Trainer, source: BatchSource, location: Path) -> None:
    """Resumes a run from a state file, or from a folder's latest state."""
    run_training(trainer, source, Place(location, ""), {}, Resumed.find(location))


def run_steps(trainer: Trainer, source: BatchSource, steps: int) -> None:
    batches, means = source.batches(trainer.step), RunningMeans(CPU)
    for _ in range(steps):
        trainer.train_step(next(batches), means)


def weights(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def statistics(folder: RunFolder) -> list[dict[str, float]]:
    """The lines of ``stats.jsonl``, but for what depends on the machine."""
    lines = map(json.loads, (folder.path / "stats.jsonl").read_text().splitlines())
    machine = ("Timing", "Resources")
    return [{k: v for k, v in line.items() if not k.startswith(machine)} for line in lines]


def test_the_learning_rate_ramps_up_and_stays_or_decays_along_a_cosine() -> None:
    config = TrainingConfig(total=10_000, batch=100, lr=2e-3, lr_ramp=1000)
    assert config.learning_rate(0) == pytest.approx(2e-3 * 0.1)
    assert config.learning_rate(400) == pytest.approx(2e-3 * 0.5)
    assert [config.learning_rate(seen) for seen in (900, 5000, 10_000)] == [2e-3] * 3
    decaying = TrainingConfig(total=10_000, batch=100, lr=2e-3, lr_ramp=0, lr_decay=True)
    for seen in (0, 2500, 5000, 9900, 10_000):
        expected = 2e-3 * math.cos(math.pi / 2 * seen / 10_000) ** 2
        assert decaying.learning_rate(seen) == pytest.approx(expected, abs=1e-12)


def test_averaged_weights_forget_half_in_a_halflife_or_a_fraction_of_a_short_past() -> None:
    config = TrainingConfig(total=10**9, batch=100, ema_halflife=5000, ema_ramp=0.05)
    late = [config.ema_decay(seen) for seen in range(10**8, 10**8 + 5000, 100)]
    assert math.prod(late) == pytest.approx(0.5)
    assert config.ema_decay(20_000) == pytest.approx(0.5 ** (100 / 1000))
    assert config.ema_decay(100_000) == config.ema_decay(10**8)
    assert TrainingConfig(total=1000, batch=100, ema_halflife=0).ema_decay(500) == 0
    assert TrainingConfig(total=1000, batch=100).total_steps == 10
    assert TrainingConfig(total=1001, batch=100).total_steps == 11


def test_the_optimizer_and_the_average_follow_the_configuration() -> None:
    trainer, source = circles_trainer(lr_decay=True, ema_halflife=300, ema_ramp=0.2)
    average = weights(trainer.denoiser)
    for step in range(5):
        run_steps(trainer, source, 1)
        expected_rate = trainer.config.learning_rate(step * 500)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(expected_rate)
        decay = 0.5 ** (500 / min(300, 0.2 * (step + 1) * 500))
        average = decay * average + (1 - decay) * weights(trainer.denoiser)
    torch.testing.assert_close(weights(trainer.averaged.denoiser), average, rtol=1e-5, atol=1e-7)
    assert trainer.seen == 2500


def test_microbatches_add_up_to_the_gradient_of_the_batch() -> None:
    gradients, losses = [], []
    for size in (None, 1, 7, 32, 100):
        trainer, source = circles_trainer(others=600, batch=32, batch_gpu=size, loss_scale=1.0)
        output = trainer.denoiser.network.output.weight
        nn.init.normal_(output, generator=seeded())
        draws = trainer.loss.draw(32, seeded(1))
        means = RunningMeans(CPU)
        trainer.accumulate(next(source.batches(0)), draws, means)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.denoiser.parameters()]))
        losses.append(means.collect()["Loss/loss"])
        torch.testing.assert_close(gradients[-1], gradients[0], rtol=1e-5, atol=1e-6)
        assert losses[-1]["count"] == 32
        assert losses[-1]["mean"] == pytest.approx(losses[0]["mean"], rel=1e-6)


def test_gradients_of_pixels_in_single_precision_are_right_to_a_millionth() -> None:
    """However small the variance along some axes is."""
    model = image_model(output="random")
    basis = EigenBasis(
        image_basis(64).mean, torch.logspace(0, -7, 64), image_basis(64).eigenvectors
    )
    model.denoiser.basis, model.denoiser.data_variance = basis, basis.floored_variance()
    loss = DenoisingLoss(model.denoiser.schedule, 0.0, 6.0)
    trainer = Trainer(model, loss, TrainingConfig(total=8, batch=8))
    points = basis.from_eigen(basis.eigenvalues.sqrt() * normal(8, 64)).float()
    t, noise = loss.draw(8, seeded())
    gradients = []
    for dtype in (torch.float64, torch.float32):
        draws = Draws(t, noise.float())
        trainer.accumulate(Batch(points.to(dtype)), draws, RunningMeans(CPU))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.denoiser.parameters()]))
        trainer.optimizer.zero_grad()
    exact, found = gradients
    assert (found - exact).norm() < 1e-6 * exact.norm()


def test_the_loss_scale_does_not_reach_the_weights() -> None:
    results = []
    for scale in (1.0, 1024.0):
        trainer, source = circles_trainer(loss_scale=scale)
        run_steps(trainer, source, 4)
        results.append(weights(trainer.denoiser))
    assert torch.equal(*results)  # a power of two changes no digit


def test_training_depends_on_its_seed_alone() -> None:
    results = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 3)):
        trainer, source = circles_trainer(seed=seed)
        torch.manual_seed(global_seed)
        run_steps(trainer, source, 3)
        results.append(weights(trainer.denoiser))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("batch_gpu", [None, 100], ids=["whole", "in microbatches"])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(batch_gpu: int | None) -> None:
    trainer, source = circles_trainer(batch_gpu=batch_gpu)
    run_steps(trainer, source, 2)

    def learnt() -> dict[str, Tensor]:
        parts = {name: trainer.state()[name] for name in ("network", "optimizer")}
        return {k: x.clone() for k, x in tensors(parts).items() if isinstance(x, Tensor)}

    before = learnt()
    run_steps(trainer, Troubled(source, {2}), 1)
    assert_same_state(learnt(), before)
    assert (trainer.step, trainer.skipped) == (3, 1)
    run_steps(trainer, source, 1)
    assert trainer.skipped == 1
    assert weights(trainer.denoiser).isfinite().all()
    assert not torch.equal(weights(trainer.denoiser), before["/network/output.weight"].flatten())


def test_an_infinite_loss_of_finite_gradient_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, source = circles_trainer()
    run_steps(trainer, source, 1)
    before = weights(trainer.denoiser)
    # As that of the square of 1e20, the gradient does not show it.
    per_sample = DenoisingLoss.per_sample
    monkeypatch.setattr(DenoisingLoss, "per_sample", lambda *given: per_sample(*given) + math.inf)
    run_steps(trainer, source, 1)
    assert (trainer.step, trainer.skipped) == (2, 1)
    assert torch.equal(weights(trainer.denoiser), before)


def test_a_run_of_skipped_steps_is_an_error_and_a_good_one_ends_it() -> None:
    trainer, source = circles_trainer(batch=20)
    bad = set(range(100)) - {MAX_SKIPPED_IN_A_ROW - 1}
    run_steps(trainer, Troubled(source, bad), 2 * MAX_SKIPPED_IN_A_ROW - 1)
    assert trainer.skipped == 2 * MAX_SKIPPED_IN_A_ROW - 2
    with pytest.raises(TrainingError, match="not finite in 20 steps in a row"):
        run_steps(trainer, Troubled(source, bad), 100)
    assert trainer.step == 2 * MAX_SKIPPED_IN_A_ROW


def test_training_on_circles_approaches_the_exact_denoiser(run_folder: MakeFolder) -> None:
    generator = seeded()
    sizes = {"width": 64, "depth": 3, "total": 150_000, "tick": 50_000}
    trainer, source = circles_trainer(**sizes, lr=8e-3, lr_decay=True)
    folder = run_folder("run")
    train(trainer, source, folder)
    denoiser = Model.load(folder.network_path(150_000)).denoiser
    toy, flow = exact_flow("circles")
    t, noise = trainer.loss.draw(2000, generator)
    x = flow.basis.to_eigen(toy.sample(2000, generator))
    x = x + flow.schedule.noise_variance(t).sqrt() * noise
    c = denoiser.coefficients(t)
    exact = flow.denoiser(x, t)
    error = ((denoiser(x, t) - exact) / c.c_out).square().mean()
    untrained = ((c.c_skip * x - exact) / c.c_out).square().mean()
    assert float(error / untrained) < 0.8


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


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(run_folder: MakeFolder) -> None:
    # Further points are drawn anew every three steps of 500 samples, and not where it goes on.
    toy = {"others": 12_000, "antithetic": True, "state_ticks": 1, "lr_decay": True}
    unbroken, source = circles_trainer(keep_states=9, **toy)
    whole = run_folder("whole")
    train(unbroken, source, whole)

    broken = run_folder("broken")
    shutil.copy(whole.state_path(2000), broken.path)
    shutil.copy(whole.path / "stats.jsonl", broken.path)  # which has lines of later times too
    resumed, source = circles_trainer(**toy)
    go_on(resumed, source, broken.path)

    assert_same_state(resumed.state(), unbroken.state())
    assert statistics(broken) == statistics(whole)
    networks = [Model.load(folder.network_path(4000)) for folder in (whole, broken)]
    assert_same_state(*(model.denoiser.state_dict() for model in networks))


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
def test_a_failing_calibration_costs_no_training(
    run_folder: MakeFolder, trouble: BaseException
) -> None:
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


def test_an_incomplete_state_or_one_of_another_model_is_a_data_error() -> None:
    trainer, other = circles_trainer()[0], circles_trainer(width=32)[0]
    for lost in ("network", "averaged", "optimizer", "step", "skipped"):
        state = {name: value for name, value in trainer.state().items() if name != lost}
        with pytest.raises(DataError, match=r"state\.pt.*" + lost):
            trainer.restore(state, "state.pt")
    with pytest.raises(DataError, match=r"state\.pt is no state of this model"):
        trainer.restore(other.state(), "state.pt")


def test_the_state_of_another_optimizer_is_a_data_error() -> None:
    trainer, source = circles_trainer()
    run_steps(trainer, source, 1)
    sound = trainer.state()["optimizer"]
    (group,) = sound["param_groups"]
    for changes, part in (
        ({"state": [1]}, "it has no optimizer"),
        ({"state": {0: 1}}, "of another kind"),
        ({"param_groups": [{**group, "lr": "fast"}]}, "settings of its optimizer are of another"),
        ({"param_groups": [{**group, "eps": 1.0}]}, "settings of its optimizer differ"),
        ({"state": {99: {}}}, "moments of a parameter 99"),
        ({"state": {0: {}}}, "moments of parameter 0 do not fit"),
    ):
        state = {**trainer.state(), "optimizer": {**sound, **changes}}
        with pytest.raises(DataError, match=part):
            trainer.restore(state, "state.pt")


def test_a_jumping_clock_changes_no_report(
    run_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = count(0, -86_400)
    monkeypatch.setattr("time.time", lambda: 1.8e9 + next(jumps))
    trainer, source = circles_trainer()
    folder = run_folder("run")
    train(trainer, source, folder)
    for line in (folder.path / "stats.jsonl").read_text().splitlines():
        timing = {k: v for k, v in json.loads(line).items() if k.startswith("Timing")}
        assert all(0 <= value < 60 for value in timing.values()), timing
