"""Image networks: their sizes, conditions, precisions and errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError
from torch_utils.snapshots import Part, build, read_network, write_network
from training.networks import IMAGE_NETWORKS, NETWORKS
from training.networks.encoder_decoder import DECODER_TYPES, ENCODER_TYPES

# Small, yet with several levels and attention in encoder and decoder.
SMALL: dict[str, dict[str, Any]] = {
    "ddpmpp": {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attention_resolutions": [4],
    },
    "adm": {
        "model_channels": 8,
        "channel_mult": [1, 2, 2],
        "num_blocks": 1,
        "attention_resolutions": [4],
        "head_channels": 8,
    },
}
SMALL["ncsnpp"] = SMALL["ddpmpp"]

every_network = pytest.mark.parametrize("name", list(IMAGE_NETWORKS))


def network(name: str, side: int = 8, channels: int = 1, **options: Any) -> nn.Module:
    """A small network that has left its start, hence is sensitive to all its inputs."""
    torch.manual_seed(0)
    arguments = {"image_shape": [channels, side, side], **SMALL[name], **options}
    net = IMAGE_NETWORKS[name](**arguments).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


def inputs(count: int, side: int = 8, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, channels * side * side, generator=generator)
    return z, torch.rand(count, generator=generator)


@pytest.mark.parametrize(
    ("name", "count"), [("ddpmpp", 55_733_891), ("ncsnpp", 56_397_827), ("adm", 279_625_923)]
)
def test_parameter_counts_at_32_with_augmentation_labels(name: str, count: int) -> None:
    with torch.device("meta"):
        net = IMAGE_NETWORKS[name](image_shape=(3, 32, 32), augment_dim=9)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_the_registry_joins_networks_of_toys_and_images() -> None:
    assert list(IMAGE_NETWORKS) == ["ddpmpp", "ncsnpp", "adm"]
    assert set(IMAGE_NETWORKS) < set(NETWORKS)


@every_network
@pytest.mark.parametrize("side", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_are_shaped_like_inputs(name: str, side: int, channels: int) -> None:
    net = network(name, side, channels)
    z, c_noise = inputs(2, side, channels)
    with torch.no_grad():
        output = net(z, c_noise)
    assert output.shape == z.shape
    assert output.is_contiguous()
    assert output.isfinite().all()


@every_network
def test_the_recipe_begins_near_zero(name: str) -> None:
    torch.manual_seed(0)
    net = IMAGE_NETWORKS[name](image_shape=(1, 8, 8), **SMALL[name]).eval()
    with torch.no_grad():
        assert net(*inputs(4)).abs().max() < 1e-3


@every_network
def test_every_parameter_receives_gradient(name: str) -> None:
    net = network(name, label_dim=3, augment_dim=9, dropout=0.0)
    z, c_noise = inputs(4)
    labels, augment_labels = torch.eye(3)[[0, 1, 2, 0]], torch.ones(4, 9)
    net(z, c_noise, labels, augment_labels).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key


@every_network
def test_labels_reach_the_output_and_missing_ones_are_zeros(name: str) -> None:
    net, (z, c_noise) = network(name, label_dim=3, augment_dim=9), inputs(2)
    with torch.no_grad():
        none = net(z, c_noise)
        zeros = net(z, c_noise, torch.zeros(2, 3), torch.zeros(2, 9))
        classes = [net(z, c_noise, torch.eye(3)[[i, i]]) for i in range(3)]
        augmented = net(z, c_noise, None, torch.ones(2, 9))
    torch.testing.assert_close(none, zeros)
    for other in (*classes, augmented):
        assert float((other - none).abs().max()) > 1e-3
    assert float((classes[0] - classes[1]).abs().max()) > 1e-3


@every_network
def test_a_network_without_classes_equals_one_with_weightless_classes(name: str) -> None:
    without, (z, c_noise) = network(name), inputs(2)
    classes = network(name, label_dim=3)
    for key, parameter in classes.named_parameters():
        if key.startswith("embedding.label"):
            nn.init.zeros_(parameter)
    classes.load_state_dict(without.state_dict(), strict=False)
    with torch.no_grad():
        given = classes(z, c_noise, torch.eye(3)[:2])
        torch.testing.assert_close(without(z, c_noise), given)


@every_network
def test_one_condition_for_all_equals_one_for_each(name: str) -> None:
    net, (z, _) = network(name), inputs(3)
    one = torch.tensor(0.7)
    with torch.no_grad():
        torch.testing.assert_close(net(z, one), net(z, one.expand(3)))
        assert float((net(z, one) - net(z, one + 0.5)).abs().max()) > 1e-3


@every_network
def test_images_of_a_batch_do_not_influence_each_other(name: str) -> None:
    net, (z, c_noise) = network(name), inputs(3)
    with torch.no_grad():
        alone = torch.cat([net(z[i : i + 1], c_noise[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(net(z, c_noise), alone, rtol=1e-4, atol=1e-4)


@every_network
def test_dropout_acts_in_training_only(name: str) -> None:
    net, (z, c_noise) = network(name, dropout=0.3), inputs(2)
    with torch.no_grad():
        assert torch.equal(net(z, c_noise), net(z, c_noise))
        net.train()
        assert not torch.equal(net(z, c_noise), net(z, c_noise))


@every_network
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_reduced_precision_is_close_and_returns_float32(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    net, (z, c_noise) = network(name, label_dim=3), inputs(4)
    labels = torch.eye(3)[[0, 1, 2, 0]]
    expected = net(z, c_noise, labels)
    with torch.autocast("cpu", dtype):
        output = net(z, c_noise, labels)
    assert output.dtype == torch.float32
    error = (output - expected).detach().norm() / expected.detach().norm()
    assert float(error) < tolerance
    output.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@every_network
def test_the_network_compiles_without_a_break(name: str) -> None:
    net, (z, c_noise) = network(name), inputs(2)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(z, c_noise), net(z, c_noise))


@every_network
def test_convolutions_keep_their_channels_last_when_loaded(name: str, tmp_path: Path) -> None:
    net, (z, c_noise) = network(name, label_dim=2), inputs(2)
    arguments = {"image_shape": [1, 8, 8], **SMALL[name], "label_dim": 2}
    path = tmp_path / "network.pkl"
    write_network(path, {"network": Part(name, arguments, net.state_dict())}, {})
    parts, _ = read_network(path)
    loaded = build(path, "network", parts["network"], NETWORKS).eval()
    for parameter in loaded.parameters():
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(loaded(z, c_noise), net(z, c_noise))


@pytest.mark.parametrize("encoder_type", ENCODER_TYPES)
@pytest.mark.parametrize("decoder_type", DECODER_TYPES)
@pytest.mark.parametrize("fir_taps", [(1, 1), (1, 3, 3, 1)])
def test_variants_of_encoder_and_decoder(
    encoder_type: str, decoder_type: str, fir_taps: tuple[float, ...]
) -> None:
    net = network(
        "ddpmpp",
        channel_mult=[1, 2, 2],
        encoder_type=encoder_type,
        decoder_type=decoder_type,
        fir_taps=fir_taps,
    )
    z, c_noise = inputs(2)
    net(z, c_noise).square().mean().backward()
    assert all((parameter.grad != 0).any() for parameter in net.parameters())


def test_ncsnpp_is_ddpmpp_with_other_settings() -> None:
    settings = {"noise_features": "fourier", "encoder_type": "residual", "fir_taps": (1, 3, 3, 1)}
    z, c_noise = inputs(2)
    same = network("ddpmpp", **settings)
    with torch.no_grad():
        torch.testing.assert_close(network("ncsnpp")(z, c_noise), same(z, c_noise))
    assert "embedding.features.frequencies" in same.state_dict()


@every_network
@pytest.mark.parametrize(
    "shape", [(1, 12, 12), (3, 4, 4), (3, 16, 8), (0, 8, 8), (8, 8), (1, 0, 0)]
)
def test_images_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"power of two|image shape"):
        IMAGE_NETWORKS[name](image_shape=shape, **SMALL[name])


@every_network
@pytest.mark.parametrize("shape", [(2, 63), (2, 1, 8, 8), (64,)])
def test_inputs_that_are_no_flat_images_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="no batch of flat 1 x 8 x 8 images"):
        network(name)(torch.zeros(shape), torch.tensor(0.0))


@every_network
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_mult": [1, 1, 1, 1, 1]}, "at most 4 entries"),
        ({"channel_mult": []}, "at least one level"),
        ({"num_blocks": 0}, "at least one level"),
        ({"dropout": 1.5}, "dropout"),
        ({"model_channels": 7}, "noise features"),
    ],
)
def test_impossible_sizes_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    if name == "ncsnpp" and "model_channels" in options:
        options = {"model_channels": 0}
        message = "at least one"
    with pytest.raises(UsageError, match=message):
        network(name, **options)


@pytest.mark.parametrize("option", ["encoder_type", "decoder_type", "noise_features"])
def test_unknown_variants_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=r"unknown .* 'nonsense': choose one of [sp]\w+, "):
        network("ddpmpp", **{option: "nonsense"})


@every_network
def test_labels_for_a_network_without_them_are_refused(name: str) -> None:
    net, (z, c_noise) = network(name), inputs(2)
    with pytest.raises(UsageError, match="class labels"):
        net(z, c_noise, torch.zeros(2, 10))
    with pytest.raises(UsageError, match="augmentation labels"):
        net(z, c_noise, None, torch.zeros(2, 9))
