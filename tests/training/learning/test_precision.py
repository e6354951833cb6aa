"""The precision of a training on a CPU, by a short trial."""

from dataclasses import replace

import pytest
import torch

from tests.support.card_training import model_of
from training.learning import speed
from training.learning.speed import fastest_precision, gradient_seconds
from training.learning.trainer import TrainingConfig

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
