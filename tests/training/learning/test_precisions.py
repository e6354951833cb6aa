"""Precisions: the loss scale of float16, which one is chosen, and compiled steps."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dnnlib.errors import DataError, UsageError
from tests.support.card_training import model_of, run_steps
from tests.support.trainers import circles_trainer
from training.data.batches import ToyBatches
from training.learning import safeguards, speed
from training.learning.safeguards import LARGEST, START, LossScale
from training.learning.speed import compile_network, fastest_precision, gradient_seconds
from training.learning.trainer import Trainer, TrainingConfig

CPU = torch.device("cpu")


def half_trainer(loss_scale: float = 1.0) -> tuple[Trainer, ToyBatches]:
    trainer, source = circles_trainer()
    model, config = trainer.averaged, replace(trainer.config, loss_scale=loss_scale)
    model.denoiser.precision = "fp16"
    return Trainer(model, trainer.loss, config), source


def test_it_doubles_after_finite_steps_and_else_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safeguards, "GROWTH_STEPS", 3)
    scale, found = LossScale(1.0, True, CPU), []
    for outcome in "+++ ++- +++ +++":
        if outcome != " ":
            scale.update(torch.tensor(outcome == "+"))
            found.append(float(scale.value) / START)
    assert found == [1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2, 4]
    for _ in range(100):
        scale.update(torch.tensor(True))
    assert scale.value == LARGEST


def test_other_precisions_keep_theirs() -> None:
    scale = LossScale(128.0, False, CPU)
    scale.update(torch.tensor(False))
    assert scale.value == 128


def test_a_training_in_float16_finds_a_scale_and_learns() -> None:
    trainer, source = half_trainer(LARGEST / START)
    means = run_steps(trainer, source, 19).collect()
    assert 0 < trainer.skipped < 19
    assert trainer.loss_scale.value == LARGEST / 2**trainer.skipped
    # Without the scale, the norm is that of single precision.
    single, source = circles_trainer()
    expected = run_steps(single, source, 19).collect()["Gradient/norm"]["mean"]
    assert means["Gradient/norm"]["mean"] == pytest.approx(expected, rel=0.2)


def test_a_resumed_training_has_its_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safeguards, "GROWTH_STEPS", 4)
    unbroken, source = half_trainer()
    run_steps(unbroken, source, 6)
    resumed, _ = half_trainer()
    resumed.restore(deepcopy(unbroken.state()), "a state")
    assert resumed.loss_scale.state() == {"value": 2 * START, "finite_steps": 2}
    for trainer in (unbroken, resumed):
        run_steps(trainer, source, 3)
    assert resumed.loss_scale.state() == unbroken.loss_scale.state()
    pairs = zip(resumed.denoiser.parameters(), unbroken.denoiser.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_broken_scale_is_a_data_error() -> None:
    trainer, _ = half_trainer()
    state = trainer.state()
    for broken in (None, 1.0, {"value": -1.0, "finite_steps": 0}, {"value": 1.0}):
        with pytest.raises(DataError, match=r"a state is no state.*loss_scale"):
            trainer.restore({**state, "loss_scale": broken}, "a state")


CONFIG = TrainingConfig(total=20_000, batch=4, lr_ramp=0)


@pytest.mark.parametrize(("half", "expected"), [(0.6, "bf16"), (0.8, "fp32"), (1.3, "fp32")])
def test_half_precision_is_chosen_if_it_is_much_faster(
    half: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"fp32": 1.0, "bf16": half}  # of the names that are the fourth argument
    monkeypatch.setattr(speed, "gradient_seconds", lambda *given: seconds[given[3]])
    model = model_of("DDPM++ of classes")
    assert fastest_precision(*model, CONFIG) == expected
    # A training that is over at once is not worth a trial.
    assert fastest_precision(*model, replace(CONFIG, total=5000)) == "fp32"


def test_a_trial_changes_neither_the_network_nor_what_is_drawn_after_it() -> None:
    model, loss = model_of("ensemble with conditions")  # which has dropout
    weights = [value.clone() for value in model.denoiser.parameters()]
    drawn = torch.get_rng_state()
    assert all(gradient_seconds(model, loss, CONFIG, name, 2) > 0 for name in ("fp32", "bf16"))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.denoiser.precision == "fp32"
    assert all(map(torch.equal, weights, model.denoiser.parameters()))
    assert all(value.grad is None for value in model.denoiser.parameters())


def test_the_batch_it_is_tried_with_is_not_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: asked.append(network))
    weights = []
    for compiled in (False, True):
        trainer, source = circles_trainer()
        if compiled:
            compile_network(trainer, source)
            assert asked == [trainer.denoiser.network]
        run_steps(trainer, source, 2)
        weights.append(nn.utils.parameters_to_vector(trainer.denoiser.parameters()))
    assert torch.equal(*weights)


def test_what_cannot_be_compiled_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # The base of all errors of the compiler: where it has moved, take what torch.compile raises for
    # a backend that does not exist.
    import torch._dynamo.exc

    def fail(network: nn.Module, *given: Any) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no compiler\n  in a traceback")

    for broken in ("compile", "forward"):
        trainer, source = circles_trainer()
        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "compile", lambda network: None)
            patch.setattr(type(trainer.denoiser.network), broken, fail)
            with pytest.raises(UsageError, match=r"here \(no compiler\): leave --compile out$"):
                compile_network(trainer, source)
