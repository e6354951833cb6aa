"""Networks of the original code: equal outputs by other names, and nothing taken on trust."""

from functools import cache

import pytest
import torch
from torch import nn

from tests.support.draws import seeded
from tests.support.original_files import (
    Persistent,
    Shared,
    View,
    dumps,
    image_content,
    module,
    randomized,
    toy_content,
)
from tests.support.running import refusal
from training.networks import NETWORKS
from training.original.model import import_original

SHAPE = (1, 8, 8)
EXPONENTS = [1.0] * 10 + [-10 / 54] * 54
SMALL = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.13}
SONG = {**SMALL, "attn_resolutions": [4], "label_dim": 0}
ADM = {**SMALL, "model_channels": 32, "channel_mult": [2, 4], "attn_resolutions": [8, 4]}
FOURIER = {"embedding_type": "fourier", "channel_mult_noise": 2}
NCSNPP = {**FOURIER, "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}
OURS = {"embedding_type": "noise_features", "resample_filter": "fir_taps"}
OURS |= {"attn_resolutions": "attention_resolutions"}
# The original's class and its arguments, and the name of ours.
CASES = {
    "ddpmpp": ("SongUNet", {**SONG, "embedding_type": "positional", "channel_mult_noise": 1}),
    "ddpmpp augmented": ("SongUNet", {**SONG, "augment_dim": 9, "channel_mult_emb": 4}),
    "ddpmpp three levels": ("SongUNet", {**SONG, "channel_mult": [1, 1, 2], "num_blocks": 2}),
    "ddpmpp classes": ("SongUNet", {**SONG, "label_dim": 3, "label_dropout": 0.1}),
    "ddpmpp skips": ("SongUNet", {**SONG, "encoder_type": "skip", "decoder_type": "skip"}),
    "ncsnpp": ("SongUNet", {**SONG, **NCSNPP, "decoder_type": "standard"}),
    "adm": ("DhariwalUNet", ADM),
    "adm narrow": ("DhariwalUNet", {**ADM, "channel_mult": [1, 3, 5]}),
    "adm classes": ("DhariwalUNet", {**ADM, "label_dim": 3, "augment_dim": 9}),
}


@cache
def network_of(case):
    class_name, kwargs = CASES[case]
    name = "adm" if class_name == "DhariwalUNet" else "ddpmpp"
    left_out = ("channel_mult_noise", "channel_mult_emb", "label_dropout")
    arguments = {OURS.get(k, k): v for k, v in kwargs.items() if k not in left_out}
    arguments |= {"rounded_heads": True} if name == "adm" else {}
    return randomized(NETWORKS[name](image_shape=SHAPE, **arguments, float32_frequencies=True))


def image_file(path, case, space="IS"):
    class_name, kwargs = CASES[case]
    network = network_of(case)
    content = image_content(class_name, network, EXPONENTS, space, **kwargs)
    path.write_bytes(dumps(content))
    return network, content


def refused(path, content):
    path.write_bytes(dumps(content))
    return refusal(import_original, path)


@pytest.fixture(scope="module")
def points():
    return torch.randn(4, 64, generator=seeded(1)), torch.tensor([0.01, 0.5, 3.0, 12.0])


@pytest.mark.parametrize("case", CASES)
def test_an_image_network_gives_what_it_gave(tmp_path, points, case):
    network, _ = image_file(tmp_path / "original.pkl", case)
    model = import_original(tmp_path / "original.pkl").model
    z, t = points
    conditions = {}
    if label_dim := CASES[case][1].get("label_dim"):
        conditions["labels"] = torch.eye(label_dim)[torch.tensor([0, 1, 2, 1])]
    with torch.no_grad():
        known = network(z, 999 * t, **conditions)
        torch.testing.assert_close(model.denoiser.network(z, 999 * t, **conditions), known)
    assert known.abs().max() > 1e-3
    assert model.recipe.network == case.split()[0]


@pytest.mark.parametrize("space", ["IS", "ES"])
def test_it_denoises_as_trained(tmp_path, points, space):
    network, content = image_file(tmp_path / "original.pkl", "ddpmpp", space)
    state = content["ema"].state
    axes, exponents = torch.from_numpy(state["_init_kwargs"]["W"]), state["g"].double()
    variances = torch.from_numpy(state["data_eigs"])
    x, t = points[0].double(), points[1].double() + 1e-9  # not in single precision
    noise = 5e-4 * ((1 + exponents) * t[:, None]).exp()
    c_skip = variances / (variances + noise)
    # The four terms of the variance of what the linear denoiser leaves.
    c_out = (variances - 2 * c_skip * variances + c_skip**2 * variances + c_skip**2 * noise).sqrt()
    z = x / (variances + noise).sqrt()
    inputs = z @ axes.T if space == "IS" else z
    with torch.no_grad():
        out = network(inputs.float(), 999 * t.float()).double()
        known = c_skip * x + c_out * (out @ axes if space == "IS" else out)
        model = import_original(tmp_path / "original.pkl").model
        torch.testing.assert_close(model.denoiser(x, t), known, rtol=1e-5, atol=1e-6)
    assert model.denoiser.space == space


def parts(content, *names):
    got = content["ema"].child("model", *names)
    return got.state if isinstance(got, Persistent) else got.__dict__


GONE = object()
ONES = torch.ones
# Module of the network, dictionary in it ("" for its attributes), key, new value, message. A key
# that is empty stands for the name of the class.
CHANGES = (
    ("enc 4x4_block0 affine", "_parameters", "bias", GONE, "lacks the weight 'enc.4x4_block0.affi"),
    ("map_layer0", "_parameters", "scale", nn.Parameter(ONES(3)), "has the weight 'map_layer0.sc"),
    ("dec", "_modules", "4x4_block9", module("Conv2d", weight=ONES(1)), "'dec.4x4_block9.weight'"),
    ("dec 8x8_aux_conv", "_parameters", "weight", ONES(1, 8, 1, 3), r"(1, 8, 1, 3), not (1, 8, 3"),
    ("map_layer1", "_parameters", "weight", ONES(32, 32) * torch.nan, "values that are not finite"),
    ("map_layer1", "_parameters", "bias", ONES(32).long(), "its 'bias' is int64"),
    ("map_layer1", "_parameters", "bias", [0.0] * 32, "its 'bias' is list"),
    ("enc 8x8_block0 norm0", "", "num_groups", 1, "has 1 as its 'num_groups', not 2"),
    ("enc 8x8_block0 norm1", "", "eps", 1e-5, "has 1e-05 as its 'eps', not 1e-06"),
    ("enc 4x4_block0", "", "num_heads", 2, "'enc.4x4_block0' has 2 as its 'num_heads', not 1"),
    ("enc 4x4_block0", "", "num_heads", GONE, "'enc.4x4_block0' has nothing as its 'num_heads'"),
    ("dec 8x8_block0", "", "skip_scale", 1.0, "has 1 as its 'skip_scale', not 0.707107"),
    ("dec 8x8_block0", "", "adaptive_scale", True, "has 1 as its 'adaptive_scale', not 0"),
    ("enc 4x4_down conv0", "_buffers", "resample_filter", ONES(1, 1, 2, 2), "is not the filter"),
    ("map_noise", "", "endpoint", False, "'map_noise' has 0 as its 'endpoint', not 1"),
    ("enc 4x4_block0", "", "", "OtherBlock", "has a OtherBlock as its 'enc.4x4_block0'"),
    ("", "", "", "VisionTransformer", "has the network 'VisionTransformer'"),
    ("", "", "_init_args", (8, 1, 1), "from arguments without names"),
)
# Arguments of the network's constructor.
ARGUMENTS = (
    ("resample_filter", [1, 3, 3, 1], "resample_filter' is not the filter"),
    ("channel_mult_emb", 2, "has 2 as its 'channel_mult_emb', not 4"),
    ("channel_mult_noise", 2, "has 2 as its 'channel_mult_noise', not 1"),
    ("use_wavelets", True, "has 'use_wavelets', which is not known"),
    ("encoder_type", "wavelet", "unknown encoder type 'wavelet'"),
    ("num_blocks", 60000, "promises more layers"),
    ("model_channels", 60000, "has the shape (32, 32), not (240000, 240000)"),
    ("augment_dim", -3, "cannot be built here"),
    ("channel_mult", [1, 1.5], "has another kind of 'channel_mult'"),
    ("channel_mult", [[1], [2]], "has another kind of 'channel_mult'"),
    ("label_dim", [], "has another kind of 'label_dim'"),
    ("embedding_type", "positional" * 100, "has another kind of 'embedding_type'"),
    ("img_resolution", 16, "has 16 as its 'img_resolution', not 8"),
)


@pytest.mark.slow
def test_another_network_is_refused(tmp_path):
    path = tmp_path / "original.pkl"
    given = [("", "_init_kwargs", *argument) for argument in ARGUMENTS]
    for names, inside, key, value, message in (*CHANGES, *given):
        _, content = image_file(path, "ddpmpp")
        state = parts(content, *names.split())
        if not key:
            content["ema"].child("model", *names.split()).class_name = value
        elif value is GONE:
            del (state[inside] if inside else state)[key]
        else:
            (state[inside] if inside else state)[key] = value
        assert message in refused(path, content), message
    # The noise features of ADM are not taken for those of DDPM++.
    _, content = image_file(path, "adm")
    parts(content, "map_noise")["endpoint"] = True
    assert "'map_noise' has 1 as its 'endpoint', not 0" in refused(path, content)


def test_another_toy_network_is_refused(tmp_path):
    path = tmp_path / "original.pkl"
    for names, key, value, message in (
        ("downresblock4 conv1", "stride", 1, "'downresblock4.conv1' has 1 as its 'stride'"),
        ("upresblock1 conv1", "up", False, "'upresblock1.conv1' has 0 as its 'up', not 1"),
        ("upresblock4 gnorm1", "eps", 1e-6, "'upresblock4.gnorm1' has 1e-06 as its 'eps'"),
        ("downresblock1 gnorm1", "num_groups", 8, "has 8 as its 'num_groups', not 4"),
    ):
        content = toy_content()
        parts(content, *names.split())[key] = value
        assert message in refused(path, content)
    for layer in ("dense11", "dense22", "dense41", "map_fc_layer0"):
        content = toy_content()
        del parts(content)["_modules"][layer]
        refused(path, content)


def test_weights_that_share_few_values_are_refused_before_memory_is_taken(tmp_path):
    content = toy_content()
    values = Shared(torch.zeros(1 << 18))
    for name, layer in parts(content)["_modules"].items():
        if name.startswith("dense"):
            layer.state["_parameters"]["weight"] = View(values, 512, 512)
    assert "promises more weights than the file has" in refused(tmp_path / "o.pkl", content)
