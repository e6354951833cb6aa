"""The loss scale of float16: it finds its size, and a resumed training has it."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from dnnlib.errors import DataError
from tests.support.card_training import run_steps
from tests.support.trainers import circles_trainer
from training.data.batches import ToyBatches
from training.learning import safeguards
from training.learning.safeguards import LARGEST, START, LossScale
from training.learning.trainer import Trainer

CPU = torch.device("cpu")


def half_trainer(loss_scale: float = 1.0) -> tuple[Trainer, ToyBatches]:
    trainer, source = circles_trainer()
    model, config = trainer.averaged, replace(trainer.config, loss_scale=loss_scale)
    model.denoiser.precision = "fp16"
    return Trainer(model, trainer.loss, config), source


def test_it_doubles_after_many_finite_steps_and_is_halved_by_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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
