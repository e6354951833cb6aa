"""Steps of training: what they change, their precision, and what several ranks compute."""

import math
import os
import signal
import time
from copy import deepcopy
from dataclasses import replace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dnnlib.errors import DataError, TrainingError
from tests.support import trainers
from tests.support.draws import normal, seeded
from tests.support.image_models import image_basis, image_model
from tests.support.running import refusal
from tests.support.trainers import Troubled, assert_same_state, circles_trainer, run_steps, weights
from torch_utils import distributed
from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.flow.eigenbasis import EigenBasis
from training.learning import cost
from training.learning.cost import fastest_precision, gradient_seconds
from training.learning.loss import DenoisingLoss, NoiseDraws
from training.learning.run import StopRequest
from training.learning.trainer import (
    MAX_SKIPPED_IN_A_ROW,
    START,
    Trainer,
)
from training.recipes import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(duration=0.02, batch=4, lr_ramp=0)


def test_the_rate_ramps_up_and_may_decay_and_averages_forget_half_in_a_halflife():
    recipe = Recipe(duration=0.01, batch=100, lr=2e-3, lr_ramp=1e-3)
    assert recipe.learning_rate(0) == pytest.approx(2e-3 * 0.1)
    assert recipe.learning_rate(400) == pytest.approx(2e-3 * 0.5)
    assert [recipe.learning_rate(seen) for seen in (900, 5000, 10_000)] == [2e-3] * 3
    decaying = Recipe(duration=0.01, batch=100, lr=2e-3, lr_ramp=0, lr_decay=True)
    for seen in (0, 2500, 5000, 9900, 10_000):
        expected = 2e-3 * math.cos(math.pi / 2 * seen / 10_000) ** 2
        assert decaying.learning_rate(seen) == pytest.approx(expected, abs=1e-12)
    recipe = Recipe(duration=1000, batch=100, ema=0.005, ema_ramp=0.05)
    late = [recipe.ema_decay(seen) for seen in range(10**8, 10**8 + 5000, 100)]
    assert math.prod(late) == pytest.approx(0.5)
    assert recipe.ema_decay(20_000) == pytest.approx(0.5 ** (100 / 1000))
    assert recipe.ema_decay(100_000) == recipe.ema_decay(10**8)
    assert Recipe(duration=0.001, batch=100, ema=0).ema_decay(500) == 0
    assert Recipe(duration=0.001, batch=100).steps == 10
    assert Recipe(duration=0.001001, batch=100).steps == 11


def test_the_optimizer_and_the_average_follow_the_configuration():
    trainer, source = circles_trainer(lr_decay=True, ema=3e-4, ema_ramp=0.2)
    average = weights(trainer.denoiser)
    for step in range(5):
        run_steps(trainer, source, 1)
        expected_rate = trainer.recipe.learning_rate(step * 500)
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(expected_rate)
        decay = 0.5 ** (500 / min(300, 0.2 * (step + 1) * 500))
        average = decay * average + (1 - decay) * weights(trainer.denoiser)
    torch.testing.assert_close(weights(trainer.averaged.denoiser), average, rtol=1e-5, atol=1e-7)
    assert trainer.seen == 2500


def test_microbatches_add_up_to_the_gradient_of_the_batch():
    gradients, losses = [], []
    for size in (None, 1, 7, 32, 100):
        trainer, source = circles_trainer(others=600, batch=32, batch_gpu=size, ls=1.0)
        nn.init.normal_(trainer.denoiser.network.output.weight, generator=seeded())
        draws = trainer.loss.draw(32, seeded(1))
        means = RunningMeans(CPU)
        trainer.accumulate(next(source.batches(0)), draws, means)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.denoiser.parameters()]))
        losses.append(means.collect()["Loss/loss"])
        torch.testing.assert_close(gradients[-1], gradients[0], rtol=1e-5, atol=1e-6)
        assert losses[-1]["count"] == 32
        assert losses[-1]["mean"] == pytest.approx(losses[0]["mean"], rel=1e-6)


def test_each_sample_of_each_step_has_a_lot_and_further_points_keep_their_places():
    trainer, source = circles_trainer(others=600, batch=32)
    others = next(source.batches(0)).others
    first = trainer.dealt(others)
    assert len(first.lots.unique()) == 32
    trainer.step += 1
    then = trainer.dealt(others)
    assert len(torch.cat([first.lots, then.lots]).unique()) == 64
    assert then.points is first.points
    assert trainer.dealt(others.clone()).points is not first.points


def test_gradients_of_pixels_in_single_precision_are_right_to_a_millionth():
    """However small the variance along some axes is."""
    model = image_model(output="random")
    plain = image_basis(64)
    basis = EigenBasis(plain.mean, torch.logspace(0, -7, 64), plain.eigenvectors)
    model.denoiser.basis, model.denoiser.data_variance = basis, basis.floored_variance()
    loss = DenoisingLoss(model.denoiser.schedule, 0.0, 6.0)
    trainer = Trainer(model, loss, Recipe(duration=8e-6, batch=8))
    points = basis.from_eigen(basis.eigenvalues.sqrt() * normal(8, 64)).float()
    t, noise = loss.draw(8, seeded())
    gradients = []
    for dtype in (torch.float64, torch.float32):
        draws = NoiseDraws(t, noise.float())
        trainer.accumulate(Batch(points.to(dtype)), draws, RunningMeans(CPU))
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.denoiser.parameters()]))
        trainer.optimizer.zero_grad()
    exact, got = gradients
    assert (got - exact).norm() < 1e-6 * exact.norm()


def test_the_loss_scale_does_not_reach_the_weights():
    results = []
    for scale in (1.0, 1024.0):
        trainer, source = circles_trainer(ls=scale)
        run_steps(trainer, source, 4)
        results.append(weights(trainer.denoiser))
    assert torch.equal(*results)  # a power of two changes no digit


def test_training_depends_on_its_seed_alone():
    results = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 3)):
        trainer, source = circles_trainer(seed=seed)
        torch.manual_seed(global_seed)
        run_steps(trainer, source, 3)
        results.append(weights(trainer.denoiser))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("batch_gpu", [None, 100], ids=["whole", "in microbatches"])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(batch_gpu):
    trainer, source = circles_trainer(batch_gpu=batch_gpu)
    run_steps(trainer, source, 2)

    def learnt():
        parts = {name: trainer.state()[name] for name in ("network", "optimizer")}
        return {k: x.clone() for k, x in trainers.tensors(parts).items() if isinstance(x, Tensor)}

    before = learnt()
    run_steps(trainer, Troubled(source, {2}), 1)
    assert_same_state(learnt(), before)
    assert (trainer.step, trainer.skipped) == (3, 1)
    run_steps(trainer, source, 1)
    assert trainer.skipped == 1
    assert weights(trainer.denoiser).isfinite().all()
    assert not torch.equal(weights(trainer.denoiser), before["/network/output.weight"].flatten())


def test_a_run_of_skipped_steps_is_an_error_and_a_good_one_ends_it():
    trainer, source = circles_trainer(batch=20)
    bad = set(range(100)) - {MAX_SKIPPED_IN_A_ROW - 1}
    run_steps(trainer, Troubled(source, bad), 2 * MAX_SKIPPED_IN_A_ROW - 1)
    assert trainer.skipped == 2 * MAX_SKIPPED_IN_A_ROW - 2
    with pytest.raises(TrainingError, match="not finite in 20 consecutive steps"):
        run_steps(trainer, Troubled(source, bad), 100)
    assert trainer.step == 2 * MAX_SKIPPED_IN_A_ROW


def test_an_incomplete_state_or_one_of_another_model_or_optimizer_is_a_data_error():
    trainer, other = half_trainer()[0], circles_trainer(width=32)[0]
    for lost in ("network", "averaged", "optimizer", "step", "skipped"):
        state = {name: value for name, value in trainer.state().items() if name != lost}
        with pytest.raises(DataError, match=r"state\.pt.*" + lost):
            trainer.restore(state, "state.pt")
    with pytest.raises(DataError, match=r"state\.pt is not a state of this model"):
        trainer.restore(other.state(), "state.pt")
    for broken in (None, 1.0, {**trainer.state()["loss_scale"], "scale": -1.0}, {"scale": 1.0}):
        with pytest.raises(DataError, match=r"state\.pt is not a state.*loss_scale"):
            trainer.restore({**trainer.state(), "loss_scale": broken}, "state.pt")
    trainer, source = circles_trainer()
    run_steps(trainer, source, 1)
    sound = trainer.state()["optimizer"]
    (group,) = sound["param_groups"]
    for changes, part in (
        ({"state": [1]}, "has no state of an optimizer"),
        ({"state": {0: 1}}, "not dictionaries"),
        (
            {"param_groups": [{**group, "lr": "fast"}]},
            "settings of the stored optimizer are of another",
        ),
        ({"param_groups": [{**group, "eps": 1.0}]}, "settings of the stored optimizer differ"),
        ({"state": {99: {}}}, "moments of an unknown parameter, 99"),
        ({"state": {0: {}}}, "moments of parameter 0 do not match its shape"),
    ):
        state = {**trainer.state(), "optimizer": {**sound, **changes}}
        assert part in refusal(trainer.restore, state, "state.pt")


def half_trainer(ls=1.0):
    trainer, source = circles_trainer()
    model, recipe = trainer.averaged, replace(trainer.recipe, ls=ls)
    model.denoiser.precision = "fp16"
    return Trainer(model, trainer.loss, recipe), source


def test_a_training_in_float16_finds_a_scale_and_learns():
    trainer, source = half_trainer(2.0**8)
    means = run_steps(trainer, source, 19).collect()
    assert 0 < trainer.skipped < 19
    assert trainer.scaler.get_scale() == START * 2.0**8 / 2**trainer.skipped
    # Without the scale, the norm is that of single precision.
    single, source = circles_trainer()
    expected = run_steps(single, source, 19).collect()["Gradient/norm"]["mean"]
    assert means["Gradient/norm"]["mean"] == pytest.approx(expected, rel=0.2)


def test_a_resumed_training_has_its_scale():
    unbroken, source = half_trainer()
    unbroken.scaler.set_growth_interval(4)
    run_steps(unbroken, source, 6)
    resumed, _ = half_trainer()
    resumed.restore(deepcopy(unbroken.state()), "a state")
    saved = resumed.scaler.state_dict()
    assert (saved["scale"], saved["_growth_tracker"]) == (2 * START, 2)
    for trainer in (unbroken, resumed):
        run_steps(trainer, source, 3)
    assert_same_state(resumed.state(), unbroken.state())


@pytest.mark.parametrize(("half", "expected"), [(0.6, "bf16"), (0.8, "fp32"), (1.3, "fp32")])
def test_half_precision_is_chosen_if_it_is_much_faster(half, expected, monkeypatch):
    seconds = {"fp32": 1.0, "bf16": half}  # of the names that are the third argument
    monkeypatch.setattr(cost, "gradient_seconds", lambda *given: seconds[given[2]])
    model = trainers.model_of("DDPM++ of classes")
    assert fastest_precision(*model, RECIPE) == expected
    # A training that is over at once is not worth a trial.
    assert fastest_precision(*model, replace(RECIPE, duration=0.005)) == "fp32"


def test_a_trial_changes_neither_the_network_nor_what_is_drawn_after_it():
    model, loss = trainers.model_of("ensemble with conditions")  # which has dropout
    weights = [value.clone() for value in model.denoiser.parameters()]
    drawn = torch.get_rng_state()
    assert all(gradient_seconds(model, loss, name, 2) > 0 for name in ("fp32", "bf16"))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.denoiser.precision == "fp32"
    assert all(map(torch.equal, weights, model.denoiser.parameters()))
    assert all(value.grad is None for value in model.denoiser.parameters())


def work_in_which_one_loss_overflows():
    """The number of skipped steps, and whether the weights are what they were."""
    with distributed.process_group("cpu"):
        trainer, source = circles_trainer()
        before = [weights.clone() for weights in trainer.denoiser.parameters()]
        per_sample = DenoisingLoss.per_sample
        more = math.inf if distributed.rank() == 1 else 0.0
        overflowing = lambda *given: per_sample(*given) + more  # noqa: E731
        with mock.patch.object(DenoisingLoss, "per_sample", overflowing):
            trainer.train_step(next(source.batches(0)), RunningMeans(CPU))
        return trainer.skipped, all(map(torch.equal, trainer.denoiser.parameters(), before))


def test_a_loss_that_overflows_on_one_rank_is_skipped_by_all(two_ranks):
    assert list(two_ranks.call(work_in_which_one_loss_overflows)) == [(1, True), (1, True)]


def work_until_a_signal():
    """The signal, the step after which it is known, and how often ranks asked each other."""
    with distributed.process_group("cpu"), StopRequest() as stop:
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as asked:
            for step in range(1, 100_000):
                if step == 50 and distributed.rank() == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1e-4)
                number = stop.agreed(CPU)
                if number:
                    break
        return number, step, asked.call_count


def test_ranks_that_rarely_ask_each_other_stop_at_the_same_step(two_ranks):
    one, other = two_ranks.call(work_until_a_signal)
    assert one == other
    number, step, asked = one
    assert number == signal.SIGTERM
    assert 50 <= step < 100_000
    assert asked < step / 4
