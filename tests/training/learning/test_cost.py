"""Recipes of trainings."""

from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.networks.unet import ADMUNet, UNet
from training.recipes import ImageRecipe, fitted, published

NAMES = ("model_channels", "channel_mult", "dropout", "pixel_waves")
CPU, CUDA = "cpu", "cuda"


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
        **{"cbase": 16, "cres": (1, 2), "augment": 0, "batch": 64, "duration": 0.1, "lr": 2e-3},
        **{"lr_decay": True, "ema": 0.01, "tick": 10, "cache": True, "workers": 0},
        **{"dropout": 0.13, "lr_ramp": 0.05 * 0.1, "snap": 50, "dump": 1},
        **{"precision": "fp32", "pixel_waves": 5, "blocks": 1},
    )
    for side, attend in ((12, (8,)), (28, (8,)), (36, None)):
        recipe = fitted("ddpmpp", 1500, (1, side, 16), CPU, {"attend": None})
        assert (recipe.cbase, recipe.attend) == (16, attend)
    # A run of an earlier version that is resumed gives its recorded sizes.
    resumed = fitted("ddpmpp", 1500, (1, 16, 16), CPU, {"cbase": 32, "cres": (1, 2, 2)})
    assert (resumed.cbase, resumed.attend) == (32, None)
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
