"""Networks of the original code: equal outputs by other names, and nothing taken on trust."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from original_files import (
    Persistent,
    Shared,
    View,
    dumps,
    image_content,
    module,
    randomized,
    toy_content,
)
from torch import Tensor, nn

from dnnlib.errors import DataError
from training.networks import NETWORKS
from training.original.model import import_original

SHAPE = (1, 8, 8)
EXPONENTS = [1.0] * 10 + [-10 / 54] * 54
SMALL = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.13}
SONG = {**SMALL, "attn_resolutions": [4], "label_dim": 0}
ADM = {**SMALL, "model_channels": 32, "channel_mult": [2, 4], "attn_resolutions": [8, 4]}
FOURIER = {"embedding_type": "fourier", "channel_mult_noise": 2}
NCSNPP = {**FOURIER, "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}
OURS = {
    "attn_resolutions": "attention_resolutions",
    "embedding_type": "noise_features",
    "resample_filter": "fir_taps",
}
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


def our_network(class_name: str, kwargs: dict[str, Any]) -> nn.Module:
    """Ours with random weights, of the original's arguments."""
    name = "adm" if class_name == "DhariwalUNet" else "ddpmpp"
    left_out = ("channel_mult_noise", "channel_mult_emb", "label_dropout")
    arguments = {OURS.get(k, k): v for k, v in kwargs.items() if k not in left_out}
    arguments |= {"rounded_heads": True} if name == "adm" else {}
    return randomized(NETWORKS[name](image_shape=SHAPE, **arguments, float32_frequencies=True))


def image_file(path: Path, case: str, space: str = "IS") -> tuple[nn.Module, dict[str, Any]]:
    class_name, kwargs = CASES[case]
    network = our_network(class_name, kwargs)
    content = image_content(class_name, network, EXPONENTS, space, **kwargs)
    path.write_bytes(dumps(content))
    return network, content


def refused(path: Path, content: dict[str, Any]) -> str:
    """Why a file with this content is not imported."""
    path.write_bytes(dumps(content))
    with pytest.raises(DataError) as caught:
        import_original(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 64, generator=generator), torch.tensor([0.01, 0.5, 3.0, 12.0])


@pytest.mark.parametrize("case", CASES)
def test_an_image_network_gives_what_it_gave(
    tmp_path: Path, points: tuple[Tensor, Tensor], case: str
) -> None:
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
def test_the_denoiser_is_the_one_that_was_trained(
    tmp_path: Path, points: tuple[Tensor, Tensor], space: str
) -> None:
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


def test_a_toy_network_gives_what_it_gave(tmp_path: Path) -> None:
    content = toy_content()
    (tmp_path / "original.pkl").write_bytes(dumps(content))
    model = import_original(tmp_path / "original.pkl").model
    # The network that the content was made of.
    known = randomized(NETWORKS["OriginalToyConvUNet"](**model.recipe.network_arguments))
    z, t = torch.randn(5, 2, generator=torch.Generator().manual_seed(1)), torch.linspace(0, 7, 5)
    with torch.no_grad():
        out = known(z, 999 * t)
        torch.testing.assert_close(model.denoiser.network(z, 999 * t), out)
    assert out.abs().max() > 1e-3


def parts(content: dict[str, Any], *names: str) -> dict[str, Any]:
    """The attributes of a module of the network in a content."""
    found = content["ema"].child("model", *names)
    return found.state if isinstance(found, Persistent) else found.__dict__


def drop_weight(content: dict[str, Any]) -> None:
    del parts(content, "enc", "4x4_block0", "affine")["_parameters"]["bias"]


def add_weight(content: dict[str, Any]) -> None:
    parts(content, "map_layer0")["_parameters"]["scale"] = nn.Parameter(torch.ones(3))


def add_module(content: dict[str, Any]) -> None:
    parts(content, "dec")["_modules"]["4x4_block9"] = module("Conv2d", weight=torch.ones(1))


def reshape_weight(content: dict[str, Any]) -> None:
    parameters = parts(content, "dec", "8x8_aux_conv")["_parameters"]
    parameters["weight"] = parameters["weight"][:, :, :1]


def break_weight(content: dict[str, Any]) -> None:
    parts(content, "map_layer1")["_parameters"]["weight"].data[0, 0] = torch.nan


def whole_weight(content: dict[str, Any]) -> None:
    parts(content, "map_layer1")["_parameters"]["bias"] = torch.ones(32, dtype=torch.int64)


def list_weight(content: dict[str, Any]) -> None:
    parts(content, "map_layer1")["_parameters"]["bias"] = [0.0] * 32


def other_groups(content: dict[str, Any]) -> None:
    parts(content, "enc", "8x8_block0", "norm0")["num_groups"] = 1


def other_eps(content: dict[str, Any]) -> None:
    parts(content, "enc", "8x8_block0", "norm1")["eps"] = 1e-5


def other_heads(content: dict[str, Any]) -> None:
    parts(content, "enc", "4x4_block0")["num_heads"] = 2


def other_scale(content: dict[str, Any]) -> None:
    parts(content, "dec", "8x8_block0")["skip_scale"] = 1.0


def other_modulation(content: dict[str, Any]) -> None:
    parts(content, "dec", "8x8_block0")["adaptive_scale"] = True


def no_heads(content: dict[str, Any]) -> None:
    del parts(content, "enc", "4x4_block0")["num_heads"]


def other_filter(content: dict[str, Any]) -> None:
    parts(content, "enc", "4x4_down", "conv0")["_buffers"]["resample_filter"] = torch.ones(
        1, 1, 2, 2
    )


def longer_filter(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["resample_filter"] = [1, 3, 3, 1]


def other_frequencies(content: dict[str, Any]) -> None:
    parts(content, "map_noise")["endpoint"] = False


def other_class(content: dict[str, Any]) -> None:
    content["ema"].child("model", "enc", "4x4_block0").class_name = "OtherBlock"


def other_network(content: dict[str, Any]) -> None:
    content["ema"].child("model").class_name = "VisionTransformer"


def other_embedding(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["channel_mult_emb"] = 2


def more_features(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["channel_mult_noise"] = 2


def unknown_argument(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["use_wavelets"] = True


def unknown_encoder(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["encoder_type"] = "wavelet"


def nameless_arguments(content: dict[str, Any]) -> None:
    parts(content)["_init_args"] = (8, 1, 1)


def many_blocks(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["num_blocks"] = 60000


def many_channels(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["model_channels"] = 60000


def negative_labels(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["augment_dim"] = -3


def odd_channels(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["channel_mult"] = [1, 1.5]


def list_of_lists(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["channel_mult"] = [[1], [2]]


def no_labels(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["label_dim"] = []


def many_words(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["embedding_type"] = "positional" * 100


def other_size(content: dict[str, Any]) -> None:
    parts(content)["_init_kwargs"]["img_resolution"] = 16


REFUSED: dict[Callable[[dict[str, Any]], None], str] = {
    drop_weight: "lacks the weight 'enc.4x4_block0.affine.bias'",
    add_weight: "has the weight 'map_layer0.scale'",
    add_module: "has the weight 'dec.4x4_block9.weight'",
    reshape_weight: r"'dec.8x8_aux_conv.weight' has the shape \(1, 8, 1, 3\), not \(1, 8, 3, 3\)",
    break_weight: "'map_layer1.weight' has values that are not finite",
    whole_weight: "its 'bias' is int64",
    list_weight: "its 'bias' is list",
    other_groups: "'enc.8x8_block0.norm0' has 1 as its 'num_groups', not 2",
    other_eps: "'enc.8x8_block0.norm1' has 1e-05 as its 'eps', not 1e-06",
    other_heads: "'enc.4x4_block0' has 2 as its 'num_heads', not 1",
    other_scale: "'dec.8x8_block0' has 1 as its 'skip_scale', not 0.707107",
    other_modulation: "'dec.8x8_block0' has 1 as its 'adaptive_scale', not 0",
    no_heads: "'enc.4x4_block0' has nothing as its 'num_heads'",
    other_filter: "'enc.4x4_down.conv0.resample_filter' is not the filter",
    longer_filter: "resample_filter' is not the filter",
    other_frequencies: "'map_noise' has 0 as its 'endpoint', not 1",
    other_class: "has a OtherBlock as its 'enc.4x4_block0'",
    other_network: "has the network 'VisionTransformer'",
    other_embedding: "has 2 as its 'channel_mult_emb', not 4",
    more_features: "has 2 as its 'channel_mult_noise', not 1",
    unknown_argument: "has 'use_wavelets', which is not known",
    unknown_encoder: "unknown encoder type 'wavelet'",
    nameless_arguments: "from arguments without names",
    many_blocks: "promises more layers",
    many_channels: r"'map_layer1.weight' has the shape \(32, 32\), not \(240000, 240000\)",
    negative_labels: "cannot be built here",
    odd_channels: "has another kind of 'channel_mult'",
    list_of_lists: "has another kind of 'channel_mult'",
    no_labels: "has another kind of 'label_dim'",
    many_words: "has another kind of 'embedding_type'",
    other_size: "has 16 as its 'img_resolution', not 8",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_another_network_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    _, content = image_file(tmp_path / "original.pkl", "ddpmpp")
    change(content)
    assert re.search(REFUSED[change], refused(tmp_path / "original.pkl", content))


def test_the_noise_features_of_adm_are_told_from_those_of_ddpmpp(tmp_path: Path) -> None:
    _, content = image_file(tmp_path / "original.pkl", "adm")
    parts(content, "map_noise")["endpoint"] = True
    assert "'map_noise' has 1 as its 'endpoint', not 0" in refused(tmp_path / "o.pkl", content)


@pytest.mark.parametrize(
    ("names", "attribute", "value", "message"),
    [
        (("downresblock4", "conv1"), "stride", 1, "'downresblock4.conv1' has 1 as its 'stride'"),
        (("upresblock1", "conv1"), "up", False, "'upresblock1.conv1' has 0 as its 'up', not 1"),
        (("upresblock4", "gnorm1"), "eps", 1e-6, "'upresblock4.gnorm1' has 1e-06 as its 'eps'"),
        (("downresblock1", "gnorm1"), "num_groups", 8, "has 8 as its 'num_groups', not 4"),
    ],
)
def test_another_toy_network_is_refused(
    tmp_path: Path, names: tuple[str, ...], attribute: str, value: Any, message: str
) -> None:
    content = toy_content()
    parts(content, *names)[attribute] = value
    assert message in refused(tmp_path / "original.pkl", content)


@pytest.mark.parametrize("layer", ["dense11", "dense22", "dense41", "map_fc_layer0"])
def test_a_toy_network_without_a_layer_is_refused(tmp_path: Path, layer: str) -> None:
    content = toy_content()
    del parts(content)["_modules"][layer]
    refused(tmp_path / "original.pkl", content)


def test_weights_that_share_few_values_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    content = toy_content()
    values = Shared(torch.zeros(1 << 18))
    for name, layer in parts(content)["_modules"].items():
        if name.startswith("dense"):
            layer.state["_parameters"]["weight"] = View(values, 512, 512)
    assert "promises more weights than the file has" in refused(tmp_path / "o.pkl", content)
