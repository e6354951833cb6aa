"""Recipes of trainings, and what their steps take."""

from functools import cache
from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.support.running import slowly
from tests.support.trainers import model_of, tiny_model
from torch_utils.live_memory import GRAIN
from training.learning.cost import PaperStep, largest_that_fits
from training.learning.trainer import TrainingConfig
from training.networks.unet import ADMUNet, UNet
from training.recipes import ImageRecipe, fitted, published

NAMES = ("model_channels", "channel_mult", "dropout", "pixel_waves")
CPU, CUDA = "cpu", "cuda"
ROWS = 12


@pytest.mark.parametrize(("arch", "network"), [("ddpmpp", UNet), ("adm", ADMUNet)])
def test_the_published_network_is_the_networks_own_default(arch, network):
    recipe, defaults = published(arch, {}), signature(network).parameters
    sizes = [defaults[name].default for name in NAMES]
    assert [recipe.cbase, recipe.cres, recipe.dropout, recipe.pixel_waves] == sizes
    assert recipe.blocks == 0
    assert (recipe.duration, recipe.batch, recipe.lr, recipe.lr_ramp) == (200, 512, 1e-3, 10)


def test_digits_get_what_was_measured_and_cifar_on_cuda_a_tenth_of_what_was_published():
    recipe = fitted("ddpmpp", 1500, (1, 8, 8), CPU, {})
    assert recipe == ImageRecipe(
        **{"cbase": 32, "cres": (1, 2), "augment": 0, "batch": 64, "duration": 0.1, "lr": 2e-3},
        **{"lr_decay": True, "ema": 0.01, "tick": 10, "cache": True, "workers": 0},
        **{"dropout": 0.13, "lr_ramp": 0.05 * 0.1, "snap": 50, "dump": 1},
        **{"precision": "fp32", "pixel_waves": 5, "blocks": 1},
    )
    recipe = fitted("ddpmpp", 50_000, (3, 32, 32), CUDA, {})
    size = (recipe.cbase, recipe.cres, recipe.batch, recipe.augment)
    assert size == (128, (2, 2, 2), 512, 0.12)
    assert recipe.duration == 20


@given(
    arch=st.sampled_from(["ddpmpp", "ncsnpp", "adm"]),
    images=st.integers(2, 10**7),
    side=st.sampled_from([8, 16, 32, 64, 256]),
    channels=st.sampled_from([1, 3]),
    cuda=st.booleans(),
    chosen=st.fixed_dictionaries(
        {},
        optional={
            "duration": st.floats(1e-6, 1e3),
            "cbase": st.sampled_from([16, 64, 192]),
            "batch": st.integers(1, 4096),
            "cache": st.booleans(),
            "lr_decay": st.booleans(),
            "augment": st.floats(0, 1),
        },
    ),
)
def test_what_a_user_chose_is_kept(arch, images, side, channels, cuda, chosen):
    shape, device = (channels, side, side), CUDA if cuda else CPU
    for recipe in (fitted(arch, images, shape, device, chosen), published(arch, chosen)):
        assert {name: getattr(recipe, name) for name in chosen} == chosen
        assert recipe.duration > 0
        assert min(recipe.tick, recipe.snap, recipe.dump, recipe.batch) >= 1
        assert recipe.lr_ramp <= 10
        assert len(recipe.cres) <= side.bit_length()
        assert arch != "adm" or "cbase" in chosen or recipe.cbase % 64 == 0


def paper(name, precision="fp32", card=False, fake=True):
    config = TrainingConfig(total=100, batch=ROWS, batch_gpu=4, lr_ramp=0)
    return PaperStep(*model_of(name), config, precision, card, fake)


@pytest.mark.parametrize(("name", "precision"), [("ADM", "bf16"), ("embedded conditions", "fp32")])
def test_a_step_without_numbers_holds_what_one_with_numbers_does(name, precision):
    fake, real = (paper(name, precision, fake=fake) for fake in (True, False))
    assert fake.state_bytes == real.state_bytes
    assert fake.peak(4) == real.peak(4)


@pytest.mark.parametrize(
    "name", slowly(["ADM", "ensemble with conditions", "ToySongUNet"], "ADM", "ToySongUNet")
)
def test_parameters_are_counted_and_are_there_four_times_between_steps(name):
    """Weights, averages, and the two moments of Adam."""
    model, _ = model_of(name)
    step = paper(name, "bf16", card=True)
    assert step.parameters == sum(weights.numel() for weights in model.denoiser.parameters())
    assert step.state_bytes > 4 * 4 * step.parameters


def test_operations_of_a_perceptron_are_those_of_its_products():
    model, loss = tiny_model(width=16, depth=2)
    layers = [part for part in model.denoiser.modules() if isinstance(part, nn.Linear)]
    forward, both = PaperStep(model, loss, TrainingConfig(total=9, batch=9)).flops()
    assert forward == 2 * sum(layer.weight.numel() for layer in layers)
    # Each product has two in the backward pass, but that of what needs no gradient, which has one.
    assert 2 * forward < both < 3 * forward


@pytest.mark.slow
def test_memory_is_affine_in_the_samples_and_less_in_half_precision_and_the_most_fit():
    images = paper("ADM")
    peak = cache(images.peak)
    first, second, third = (peak(count) for count in (3, 6, 9))
    assert third - second == pytest.approx(second - first, rel=0.02)
    assert second - first > 3 * GRAIN
    # On the card norms are in single precision.
    card, host = (paper("ADM", "bf16", card=card) for card in (True, False))
    assert host.peak(6) < card.peak(6) < peak(6)
    assert largest_that_fits(peak, peak(6), ROWS) == 6
    cost = images.cost(card=80)
    assert (cost.largest, cost.peak_bytes) == (ROWS, peak(4))


def test_few_trials_find_what_fits_where_memory_is_a_broken_line():
    tried = []

    def needed(count):
        tried.append(count)
        return max(5000, 10 * count + 7)

    assert largest_that_fits(needed, 12_340, 100_000) == 1233
    assert len(tried) <= 8
    assert largest_that_fits(lambda count: 7, 7, 1) == 1
    assert largest_that_fits(needed, 4999, 100_000) == 0
