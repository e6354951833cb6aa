"""Image networks: their sizes, conditions, noisy pixels, precisions and errors."""

import warnings
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import random_basis
from tests.support.refusals import refusal
from torch_utils.snapshots import Part, build, read_network, write_network
from training.flow.denoisers import NetworkDenoiser
from training.flow.schedules import InflationSchedule
from training.names import MOST_WAVES
from training.networks import IMAGE_NETWORKS, NETWORKS
from training.networks.encoder_decoder import DECODER_TYPES, ENCODER_TYPES
from training.networks.pixels import PixelWaves

# Small, yet with several levels and attention in encoder and decoder.
SIZES = {"model_channels": 8, "num_blocks": 1, "attention_resolutions": [4]}
SMALL: dict[str, dict[str, Any]] = {
    "ddpmpp": {**SIZES, "channel_mult": [1, 2]},
    "ncsnpp": {**SIZES, "channel_mult": [1, 2]},
    "adm": {**SIZES, "channel_mult": [1, 2, 2], "head_channels": 8},
}
PARAMETERS = {"ddpmpp": 55_733_891, "ncsnpp": 56_397_827, "adm": 279_625_923}
"""At 32 x 32 x 3, with augmentation labels."""

every_network = pytest.mark.parametrize("name", list(IMAGE_NETWORKS))


def network(name: str, side: int = 8, channels: int = 1, **options: Any) -> nn.Module:
    """A small network that has left its start, hence is sensitive to all its inputs."""
    arguments = {"image_shape": [channels, side, side], **SMALL[name], **options}
    net = IMAGE_NETWORKS[name](**arguments).eval()
    generator = seeded(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def inputs(count: int, side: int = 8, channels: int = 1) -> tuple[Tensor, Tensor]:
    generator = seeded(1)
    z = torch.randn(count, channels * side * side, generator=generator)
    return z, torch.rand(count, generator=generator)


def test_parameter_counts_are_the_published_ones() -> None:
    assert list(IMAGE_NETWORKS) == list(PARAMETERS)
    assert set(IMAGE_NETWORKS) < set(NETWORKS)
    for name, count in PARAMETERS.items():
        with torch.device("meta"):
            net = IMAGE_NETWORKS[name](image_shape=(3, 32, 32), augment_dim=9)
        assert sum(parameter.numel() for parameter in net.parameters()) == count


@every_network
@torch.no_grad()
def test_outputs_are_shaped_like_inputs_and_begin_near_zero(name: str) -> None:
    for side, channels in ((8, 3), (16, 1), (32, 3)):
        net = network(name, side, channels)
        z, c_noise = inputs(2, side, channels)
        output = net(z, c_noise)
        assert output.shape == z.shape
        assert output.is_contiguous()
        assert output.isfinite().all()
    fresh = IMAGE_NETWORKS[name](image_shape=(1, 8, 8), **SMALL[name]).eval()
    assert fresh(*inputs(4)).abs().max() < 1e-3


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
@torch.no_grad()
def test_labels_reach_the_output_and_missing_ones_are_zeros(name: str) -> None:
    net, (z, c_noise) = network(name, label_dim=3, augment_dim=9), inputs(2)
    none = net(z, c_noise)
    zeros = net(z, c_noise, torch.zeros(2, 3), torch.zeros(2, 9))
    classes = [net(z, c_noise, torch.eye(3)[[i, i]]) for i in range(3)]
    augmented = net(z, c_noise, None, torch.ones(2, 9))
    assert_close(none, zeros)
    for other in (*classes, augmented):
        assert float((other - none).abs().max()) > 1e-3
    assert float((classes[0] - classes[1]).abs().max()) > 1e-3
    # A network without classes equals one whose classes have no weight.
    without, weightless = network(name), network(name, label_dim=3)
    for key, parameter in weightless.named_parameters():
        if key.startswith("embedding.label"):
            nn.init.zeros_(parameter)
    weightless.load_state_dict(without.state_dict(), strict=False)
    given = weightless(z, c_noise, torch.eye(3)[:2])
    assert_close(without(z, c_noise), given)
    for kind, *labels in (
        ("class ", torch.zeros(2, 10)),
        ("augmentation ", None, torch.zeros(2, 9)),
    ):
        with pytest.raises(UsageError, match=kind):
            without(z, c_noise, *labels)


@every_network
@torch.no_grad()
def test_images_of_a_batch_and_their_noise_do_not_influence_each_other(name: str) -> None:
    net, (z, c_noise) = network(name), inputs(3)
    alone = torch.cat([net(z[i : i + 1], c_noise[i : i + 1]) for i in range(3)])
    assert_close(net(z, c_noise), alone, rtol=1e-4, atol=1e-4)
    one = torch.tensor(0.7)
    assert_close(net(z, one), net(z, one.expand(3)))
    assert float((net(z, one) - net(z, one + 0.5)).abs().max()) > 1e-3


@every_network
@torch.no_grad()
def test_dropout_acts_in_training_only(name: str) -> None:
    net, (z, c_noise) = network(name, dropout=0.3), inputs(2)
    assert torch.equal(net(z, c_noise), net(z, c_noise))
    net.train()
    assert not torch.equal(net(z, c_noise), net(z, c_noise))


@every_network
def test_reduced_precision_is_close_and_returns_float32(name: str) -> None:
    net, (z, c_noise) = network(name, label_dim=3), inputs(4)
    labels = torch.eye(3)[[0, 1, 2, 0]]
    expected = net(z, c_noise, labels)
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
        with torch.autocast("cpu", dtype):
            output = net(z, c_noise, labels)
        assert output.dtype == torch.float32
        error = (output - expected).detach().norm() / expected.detach().norm()
        assert float(error) < tolerance
        output.square().mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddpmpp", "adm", pytest.param("ncsnpp", marks=pytest.mark.slow)])
@torch.no_grad()
def test_the_network_compiles_without_a_break(name: str) -> None:
    # As small as they come, since the compiler takes seconds for each level.
    few = {"ddpmpp": {"channel_mult": [1], "attention_resolutions": [8]}}
    few["ncsnpp"] = few["adm"] = {"channel_mult": [1, 1], "attention_resolutions": [4]}
    net, (z, c_noise) = network(name, **few[name]), inputs(2)
    with warnings.catch_warnings():  # older compilers of torch leave filters of their own
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        assert_close(compiled(z, c_noise), net(z, c_noise))


@every_network
@torch.no_grad()
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
    assert_close(loaded(z, c_noise), net(z, c_noise))


def test_variants_of_encoder_and_decoder() -> None:
    for encoder, decoder, taps in product(ENCODER_TYPES, DECODER_TYPES, [(1, 1), (1, 3, 3, 1)]):
        types = {"encoder_type": encoder, "decoder_type": decoder}
        net = network("ddpmpp", channel_mult=[1, 2, 2], fir_taps=taps, **types)
        net(*inputs(2)).square().mean().backward()
        assert all((parameter.grad != 0).any() for parameter in net.parameters())
    settings = {"noise_features": "fourier", "encoder_type": "residual", "fir_taps": (1, 3, 3, 1)}
    torch.manual_seed(0)
    ncsnpp = network("ncsnpp")
    torch.manual_seed(0)
    same = network("ddpmpp", **settings)
    with torch.no_grad():
        assert_close(ncsnpp(*inputs(2)), same(*inputs(2)))
    assert "embedding.features.frequencies" in same.state_dict()
    for option in ("encoder_type", "decoder_type", "noise_features"):
        with pytest.raises(UsageError, match=r"unknown .* 'nonsense': choose one of [sp]\w+, "):
            network("ddpmpp", **{option: "nonsense"})


@every_network
def test_impossible_sizes_and_inputs_are_refused(name: str) -> None:
    for shape in ((1, 12, 12), (3, 4, 4), (3, 16, 8), (0, 8, 8), (8, 8), (1, 0, 0)):
        with pytest.raises(UsageError, match=r"power of two|image shape"):
            IMAGE_NETWORKS[name](image_shape=shape, **SMALL[name])
    no_features = ({"model_channels": 7}, "noise features")
    if name == "ncsnpp":
        no_features = ({"model_channels": 0}, "at least one")
    for options, message in (
        *(({"pixel_waves": count}, "waves") for count in (-1, MOST_WAVES + 1)),
        ({"channel_mult": [1, 1, 1, 1, 1]}, "at most 4 entries"),
        ({"channel_mult": []}, "at least one level"),
        ({"num_blocks": 0}, "at least one level"),
        ({"dropout": 1.5}, "dropout"),
        no_features,
    ):
        with pytest.raises(UsageError, match=message):
            network(name, **options)
    for shape in ((2, 63), (2, 1, 8, 8), (64,)):
        with pytest.raises(UsageError, match="no batch of flat 1 x 8 x 8 images"):
            network(name)(torch.zeros(shape), torch.tensor(0.0))


def test_waves_are_those_of_clean_pixels_on_average_over_their_noise() -> None:
    waves, clean = PixelWaves(3), torch.linspace(-1, 1, 5).reshape(1, 1, 1, 5)
    variance = torch.tensor([0.02])
    noise = variance.sqrt() * torch.randn(40_000, 1, 1, 5, generator=seeded())
    average = waves(clean + noise, torch.zeros(len(noise))).mean(dim=0)
    found = waves(clean, variance)[0]
    assert found.shape == (waves.per_channel, 1, 5)
    assert_close(found[1:], average[1:], rtol=0, atol=0.02)
    assert float(found[1:3].abs().max()) > 0.8  # the slowest, which that noise hardly blurs


def test_waves_tell_gray_levels_apart_that_lie_close_together() -> None:
    levels = torch.linspace(-1, 1, 17).reshape(1, 1, 1, 17)
    between = levels[..., 1:] - 1 / 16
    on, off = (PixelWaves(5)(u, torch.tensor([5e-4]))[0, -1, 0] for u in (levels, between))
    assert float((on.min() - off.max()).abs()) > 1


class Seeing(nn.Module):
    """A network that keeps what it was shown."""

    waves = PixelWaves(1)

    def forward(self, z: Tensor, c_noise: Tensor, **seen: Tensor) -> Tensor:
        self.seen = seen
        return z


@pytest.mark.parametrize("space", ["ES", "IS"])
def test_a_denoiser_shows_the_noisy_points_as_they_are_in_image_space(space: str) -> None:
    basis = random_basis(3)
    schedule = InflationSchedule.to_dimension(1, 3, top_variance=basis.top_variance)
    points, t = normal(4, 3), double([0.0, 1.0, 3.0, 6.0])
    network = Seeing()
    NetworkDenoiser(network, basis, schedule, space=space)(basis.to_eigen(points), t)
    assert_close(network.seen["pixels"], points.float(), rtol=1e-4, atol=1e-4)
    # Of all pixels together, the noise is the same in any axes.
    assert_close(network.seen["pixel_noise"], schedule.noise_variance(t).mean(1).float())


@every_network
def test_image_networks_learn_from_pixels_and_do_not_go_without(name: str) -> None:
    net, c_noise = network(name, channels=3, pixel_waves=2, dropout=0.0), torch.tensor(0.1)
    z, pixels = torch.randn(2, 2, 192, generator=seeded(2))
    pixels.requires_grad_()
    net(z, c_noise, pixels=pixels, pixel_noise=torch.tensor(0.1)).square().sum().backward()
    assert (pixels.grad != 0).all()
    assert "noisy pixels" in refusal(net, z, c_noise, kind=UsageError)
