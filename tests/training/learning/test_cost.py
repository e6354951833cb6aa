"""What a step costs on paper is what it costs in numbers."""

from collections.abc import Callable
from functools import cache

import pytest
from torch import nn

from tests.support.card_training import model_of
from tests.support.running import slowly
from tests.support.trainers import tiny_model
from torch_utils.live_memory import GRAIN
from training.learning.cost import PaperStep, largest_that_fits
from training.learning.trainer import TrainingConfig

ROWS = 12


def paper(name: str, precision: str = "fp32", card: bool = False, fake: bool = True) -> PaperStep:
    config = TrainingConfig(total=100, batch=ROWS, batch_gpu=4, lr_ramp=0)
    return PaperStep(*model_of(name), config, precision, card, fake)


@pytest.fixture(scope="module")
def images() -> PaperStep:
    return paper("ADM")


@pytest.fixture(scope="module")
def peak(images: PaperStep) -> Callable[[int], int]:
    return cache(images.peak)


@pytest.mark.parametrize(("name", "precision"), [("ADM", "bf16"), ("embedded conditions", "fp32")])
def test_a_step_without_numbers_holds_what_one_with_numbers_does(name: str, precision: str) -> None:
    fake, real = (paper(name, precision, fake=fake) for fake in (True, False))
    assert fake.state_bytes == real.state_bytes
    assert fake.peak(4) == real.peak(4)


@pytest.mark.parametrize(
    "name", slowly(["ADM", "ensemble with conditions", "ToySongUNet"], "ADM", "ToySongUNet")
)
def test_parameters_are_counted_and_are_there_four_times_between_steps(name: str) -> None:
    """Weights, averages, and the two moments of Adam."""
    model, _ = model_of(name)
    step = paper(name, "bf16", card=True)
    assert step.parameters == sum(weights.numel() for weights in model.denoiser.parameters())
    assert step.state_bytes > 4 * 4 * step.parameters


def test_operations_of_a_perceptron_are_those_of_its_products() -> None:
    model, loss = tiny_model(width=16, depth=2)
    layers = [part for part in model.denoiser.modules() if isinstance(part, nn.Linear)]
    forward, both = PaperStep(model, loss, TrainingConfig(total=9, batch=9)).flops()
    assert forward == 2 * sum(layer.weight.numel() for layer in layers)
    # Each product has two in the backward pass, but that of what needs no gradient, which has one.
    assert 2 * forward < both < 3 * forward


@pytest.mark.slow
def test_memory_is_affine_in_the_samples_at_a_time(peak: Callable[[int], int]) -> None:
    first, second, third = (peak(count) for count in (3, 6, 9))
    assert third - second == pytest.approx(second - first, rel=0.02)
    assert second - first > 3 * GRAIN


@pytest.mark.slow
def test_half_precision_takes_less_and_a_card_normalizes_in_single(
    peak: Callable[[int], int],
) -> None:
    card, host = (paper("ADM", "bf16", card=card) for card in (True, False))
    assert host.peak(6) < card.peak(6) < peak(6)


@pytest.mark.slow
def test_the_most_samples_that_fit_do_and_one_more_does_not(
    images: PaperStep, peak: Callable[[int], int]
) -> None:
    assert largest_that_fits(peak, peak(6), ROWS) == 6
    cost = images.cost(card=80)
    assert (cost.largest, cost.peak_bytes) == (ROWS, peak(4))


def test_few_trials_find_what_fits_where_memory_is_a_broken_line() -> None:
    tried = []

    def needed(count: int) -> int:
        tried.append(count)
        return max(5000, 10 * count + 7)

    assert largest_that_fits(needed, 12_340, 100_000) == 1233
    assert len(tried) <= 8
    assert largest_that_fits(lambda count: 7, 7, 1) == 1
    assert largest_that_fits(needed, 4999, 100_000) == 0
