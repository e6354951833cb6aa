"""Image networks and their blocks: definitions, sizes, conditions, precisions and errors."""

import warnings
from dataclasses import replace
from itertools import product
from math import pi, sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, random_basis
from tests.support.running import refusal
from torch_utils.snapshots import Part, build, read_network, write_network
from training.flow.denoisers import NetworkDenoiser
from training.flow.schedules import InflationSchedule
from training.names import MOST_WAVES
from training.networks import IMAGE_NETWORKS, NETWORKS, blocks
from training.networks.blocks import BlockStyle, FIRFilter, SelfAttention, fan_in_init, xavier_init
from training.networks.embedding import ConditionEmbedding, FourierFeatures, PositionalFeatures
from training.networks.encoder_decoder import DECODER_TYPES, ENCODER_TYPES, InputResidual
from training.networks.unet import PixelWaves

# Small, yet with several levels and attention in encoder and decoder.
SIZES = {"model_channels": 8, "num_blocks": 1, "attention_resolutions": [4]}
SMALL = {
    "ddpmpp": {**SIZES, "channel_mult": [1, 2]},
    "ncsnpp": {**SIZES, "channel_mult": [1, 2]},
    "adm": {**SIZES, "channel_mult": [1, 2, 2], "head_channels": 8},
}
PARAMETERS = {"ddpmpp": 55_733_891, "ncsnpp": 56_397_827, "adm": 279_625_923}
"""At 32 x 32 x 3, with augmentation labels."""

every_network = pytest.mark.parametrize("name", list(IMAGE_NETWORKS))


def network(name, side=8, channels=1, **options):
    """A small network that has left its start, hence is sensitive to all its inputs."""
    arguments = {"image_shape": [channels, side, side], **SMALL[name], **options}
    net = IMAGE_NETWORKS[name](**arguments).eval()
    generator = seeded(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net


def inputs(count, side=8, channels=1):
    generator = seeded(1)
    z = torch.randn(count, channels * side * side, generator=generator)
    return z, torch.rand(count, generator=generator)


def test_parameter_counts_are_the_published_ones():
    assert list(IMAGE_NETWORKS) == list(PARAMETERS)
    assert set(IMAGE_NETWORKS) < set(NETWORKS)
    for name, count in PARAMETERS.items():
        with torch.device("meta"):
            net = IMAGE_NETWORKS[name](image_shape=(3, 32, 32), augment_dim=9)
        assert sum(parameter.numel() for parameter in net.parameters()) == count


@every_network
@torch.no_grad()
def test_other_sides_are_those_of_a_border_of_zeros(name):
    net, larger = (network(name, side, channel_mult=[1, 2, 2]) for side in (10, 12))
    larger.load_state_dict(net.state_dict())
    z, c_noise = inputs(2, 10)
    bordered = F.pad(z.view(2, 10, 10), (1, 1, 1, 1)).flatten(1)
    cut = larger(bordered, c_noise).view(2, 12, 12)[:, 1:-1, 1:-1].flatten(1)
    torch.testing.assert_close(net(z, c_noise), cut)
    waves = network(name, 10, channel_mult=[1, 2, 2], pixel_waves=2)
    assert waves(z, c_noise, pixels=z, pixel_noise=c_noise).shape == z.shape


@every_network
@torch.no_grad()
def test_outputs_are_shaped_like_inputs_and_begin_near_zero(name):
    for side, channels in ((8, 3), (17, 1), (32, 3)):
        net = network(name, side, channels)
        z, c_noise = inputs(2, side, channels)
        output = net(z, c_noise)
        assert output.shape == z.shape
        assert output.is_contiguous()
        assert output.isfinite().all()
    fresh = IMAGE_NETWORKS[name](image_shape=(1, 8, 8), **SMALL[name]).eval()
    assert fresh(*inputs(4)).abs().max() < 1e-3


@every_network
def test_every_parameter_receives_gradient(name):
    net = network(name, label_dim=3, augment_dim=9, dropout=0.0)
    z, c_noise = inputs(4)
    labels, augment_labels = torch.eye(3)[[0, 1, 2, 0]], torch.ones(4, 9)
    net(z, c_noise, labels, augment_labels).square().mean().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key


@every_network
@torch.no_grad()
def test_labels_reach_the_output_and_missing_ones_are_zeros(name):
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
    assert_close(without(z, c_noise), weightless(z, c_noise, torch.eye(3)[:2]))
    for kind, *labels in (("class ", torch.zeros(2, 10)), ("augment", None, torch.zeros(2, 9))):
        with pytest.raises(UsageError, match=kind):
            without(z, c_noise, *labels)


@every_network
@torch.no_grad()
def test_images_of_a_batch_do_not_influence_each_other_and_dropout_acts_in_training(name):
    net, (z, c_noise) = network(name), inputs(3)
    alone = torch.cat([net(z[i : i + 1], c_noise[i : i + 1]) for i in range(3)])
    assert_close(net(z, c_noise), alone, rtol=1e-4, atol=1e-4)
    one = torch.tensor(0.7)
    assert_close(net(z, one), net(z, one.expand(3)))
    assert float((net(z, one) - net(z, one + 0.5)).abs().max()) > 1e-3
    net, (z, c_noise) = network(name, dropout=0.3), inputs(2)
    assert torch.equal(net(z, c_noise), net(z, c_noise))
    net.train()
    assert not torch.equal(net(z, c_noise), net(z, c_noise))


@every_network
def test_reduced_precision_is_close_and_returns_float32(name):
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
def test_the_network_compiles_without_a_break(name):
    # As small as they come, since the compiler takes seconds for each level.
    few = {"ddpmpp": {"channel_mult": [1], "attention_resolutions": [8]}}
    few["ncsnpp"] = few["adm"] = {"channel_mult": [1, 1], "attention_resolutions": [4]}
    net, (z, c_noise) = network(name, **few[name]), inputs(2)
    with warnings.catch_warnings():  # older compilers of torch leave filters of their own
        compiled = torch.compile(net, fullgraph=True, backend="eager")
        assert_close(compiled(z, c_noise), net(z, c_noise))


@every_network
@torch.no_grad()
def test_convolutions_keep_their_channels_last_when_loaded(name, tmp_path):
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


def test_variants_of_encoder_and_decoder():
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
def test_impossible_sizes_and_inputs_are_refused(name):
    for shape in ((3, 7, 7), (3, 16, 0), (0, 8, 8), (8, 8), (1, 0, 0)):
        with pytest.raises(UsageError, match=r"side of at least 8|image shape"):
            IMAGE_NETWORKS[name](image_shape=shape, **SMALL[name])
    no_features = ({"model_channels": 7}, "noise features")
    if name == "ncsnpp":
        no_features = ({"model_channels": 0}, "at least one resolution")
    for options, message in (
        *(({"pixel_waves": count}, "frequencies of pixels") for count in (-1, MOST_WAVES + 1)),
        ({"channel_mult": [1, 1, 1, 1, 1]}, "at most 4 entries"),
        ({"channel_mult": []}, "at least one resolution"),
        ({"num_blocks": 0}, "at least one resolution"),
        no_features,
    ):
        with pytest.raises(UsageError, match=message):
            network(name, **options)
    for shape in ((2, 63), (2, 1, 8, 8), (64,)):
        with pytest.raises(UsageError, match="expected a batch of flattened 1 x 8 x 8 images"):
            network(name)(torch.zeros(shape), torch.tensor(0.0))


def test_waves_are_those_of_clean_pixels_on_average_and_tell_close_levels_apart():
    waves, clean = PixelWaves(3), torch.linspace(-1, 1, 5).reshape(1, 1, 1, 5)
    variance = torch.tensor([0.02])
    noise = variance.sqrt() * torch.randn(40_000, 1, 1, 5, generator=seeded())
    average = waves(clean + noise, torch.zeros(len(noise))).mean(dim=0)
    got = waves(clean, variance)[0]
    assert got.shape == (waves.per_channel, 1, 5)
    assert_close(got[1:], average[1:], rtol=0, atol=0.02)
    assert float(got[1:3].abs().max()) > 0.8  # the slowest, which that noise hardly blurs
    levels = torch.linspace(-1, 1, 17).reshape(1, 1, 1, 17)
    between = levels[..., 1:] - 1 / 16
    on, off = (PixelWaves(5)(u, torch.tensor([5e-4]))[0, -1, 0] for u in (levels, between))
    assert float((on.min() - off.max()).abs()) > 1


@pytest.mark.parametrize("space", ["ES", "IS"])
def test_a_denoiser_shows_the_noisy_points_as_they_are_in_image_space(space):
    basis = random_basis(3)
    schedule = InflationSchedule.to_dimension(1, 3, top_variance=basis.top_variance)
    points, t = normal(4, 3), double([0.0, 1.0, 3.0, 6.0])
    seen = {}
    network = FunctionNetwork(lambda z, c, **pixels: seen.update(pixels) or z)
    network.waves = PixelWaves(1)
    NetworkDenoiser(network, basis, schedule, space=space)(basis.to_eigen(points), t)
    assert_close(seen["pixels"], points.float(), rtol=1e-4, atol=1e-4)
    # Of all pixels together, the noise is the same in any axes.
    assert_close(seen["pixel_noise"], schedule.noise_variance(t).mean(1).float())


@every_network
def test_image_networks_learn_from_pixels_and_do_not_go_without(name):
    net, c_noise = network(name, channels=3, pixel_waves=2, dropout=0.0), torch.tensor(0.1)
    z, pixels = torch.randn(2, 2, 192, generator=seeded(2))
    pixels.requires_grad_()
    net(z, c_noise, pixels=pixels, pixel_noise=torch.tensor(0.1)).square().sum().backward()
    assert (pixels.grad != 0).all()
    assert "noisy pixels" in refusal(net, z, c_noise, kind=UsageError)


FILTERS = [(1, 1), (1, 3, 3, 1), (1, 2, 5, 5, 2, 1)]
DDPMPP = BlockStyle(embedding_dim=12, dropout=0.0)
OTHER = {"scaled_by_embedding": True, "residual_scale": 1.0, "projected_resampling": False}
ADM = replace(DDPMPP, head_channels=4, init=fan_in_init, last_gain=0.0, qkv_gain=1.0, **OTHER)
STYLES = pytest.mark.parametrize("style", [DDPMPP, ADM], ids=["ddpmpp", "adm"])


def stirred(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module


@pytest.mark.parametrize("taps", FILTERS)
def test_resampling_keeps_constants_and_one_way_is_the_transpose_of_the_other(taps):
    fir, ones = FIRFilter(taps), torch.ones(1, 2, 16, 16)
    torch.testing.assert_close(fir.kernel.sum(), torch.tensor(1.0))
    margin = len(taps)
    up, middle = fir.up(ones), fir.down(ones)[..., 3:-3, 3:-3]
    assert up.shape == (1, 2, 32, 32)
    inner = up[..., margin:-margin, margin:-margin]
    torch.testing.assert_close(inner, torch.ones_like(inner))
    torch.testing.assert_close(fir.down(up)[..., 4:-4, 4:-4], ones[..., 4:-4, 4:-4])
    torch.testing.assert_close(middle, torch.ones_like(middle))
    fine, coarse = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8)
    down, up = (fir.down(fine) * coarse).sum(), (fine * fir.up(coarse)).sum()
    torch.testing.assert_close(4 * down, up)


def test_box_filter_equals_the_general_path():
    box, general, x = FIRFilter((1, 1)), FIRFilter((2, 2)), torch.randn(2, 3, 8, 8)
    assert box.is_box
    assert not general.is_box
    torch.testing.assert_close(box.down(x), general.down(x))
    torch.testing.assert_close(box.up(x), general.up(x))
    torch.testing.assert_close(box.down(box.up(x)), x)


@pytest.mark.parametrize("taps", FILTERS)
def test_strided_convolution_of_the_blurred_is_the_convolution_downsampled(taps):
    layer = InputResidual(3, 5, BlockStyle(embedding_dim=4, fir_taps=taps))
    features, image = torch.randn(2, 5, 4, 4), torch.randn(2, 3, 8, 8)
    full = F.conv2d(image, layer.conv.weight, padding=1 + layer.fir.reach)
    kernel = layer.fir.kernel.expand(5, -1, -1, -1)
    small = F.conv2d(full, kernel, layer.conv.bias, stride=2, groups=5)
    x, passed_on = layer(features, image)
    assert passed_on is x
    torch.testing.assert_close(x, (features + small) * sqrt(0.5))


def test_positional_features_are_waves_of_geometric_frequencies():
    c_noise = torch.tensor([0.0, 0.3, 700.0])
    frequencies = 10 ** torch.linspace(0, -4, 8, dtype=torch.float64)
    phase = c_noise[:, None].double() * frequencies
    features = PositionalFeatures(16)(c_noise).double()
    torch.testing.assert_close(features[:, :8], phase.sin(), atol=1e-4, rtol=0)
    torch.testing.assert_close(features[:, 8:], phase.cos(), atol=1e-4, rtol=0)
    features = PositionalFeatures(8, last=False, cosines_first=True)
    torch.testing.assert_close(features.frequencies, torch.tensor([1.0, 1e-1, 1e-2, 1e-3]))
    torch.testing.assert_close(features(torch.zeros(1)), torch.tensor([[1.0] * 4 + [0.0] * 4]))
    assert not features.state_dict()
    exponents = np.arange(32, dtype=np.float32) / np.float32(31)
    known = torch.from_numpy(np.float32(1e-4) ** exponents)
    given = PositionalFeatures(64, float32=True).frequencies
    torch.testing.assert_close(given, known, rtol=1.2e-7, atol=0)
    assert not torch.equal(given, PositionalFeatures(64).frequencies)


def test_fourier_features_have_random_frequencies_that_are_kept_in_the_state():
    features = FourierFeatures(4096)
    assert float(features.frequencies.std()) == pytest.approx(16, rel=0.05)
    assert set(features.state_dict()) == {"frequencies"}
    assert not list(features.parameters())
    waves = features(torch.tensor([0.1]))
    torch.testing.assert_close(waves[:, :2048], (0.2 * pi * features.frequencies[None]).sin())
    torch.testing.assert_close(waves[:, :2048] ** 2 + waves[:, 2048:] ** 2, torch.ones(1, 2048))


def test_impossible_sizes_are_refused():
    for taps in ((), (1,), (1, 2, 1), (1, -1)):
        assert "even number of taps" in refusal(FIRFilter, taps, kind=UsageError)
    for make, width in product((PositionalFeatures, FourierFeatures), (0, 7)):
        assert "noise features" in refusal(make, width, kind=UsageError)
    assert "heads of 4 channels do not divide 6" in refusal(SelfAttention, 6, ADM, kind=UsageError)
    rounded = replace(ADM, rounded_heads=True)
    assert SelfAttention(6, rounded).heads == 1
    assert blocks.ResidualBlock(8, 3, rounded, attention=True).attention is None
    with pytest.raises(UsageError, match="2 attention heads do not divide 11"):
        SelfAttention(11, rounded)
    for dropout in (-0.1, 1.0):
        assert "dropout" in refusal(BlockStyle, embedding_dim=4, dropout=dropout, kind=UsageError)


def test_one_hot_labels_are_scaled_to_unit_mean_square():
    embedding = ConditionEmbedding(PositionalFeatures(8), 8, DDPMPP, label_dim=4)
    seen = []
    embedding.label.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedding(torch.randn(4), torch.eye(4))
    torch.testing.assert_close(seen[0], 2 * torch.eye(4))


@pytest.mark.parametrize("head_channels", [None, 4])
def test_attention_equals_a_softmax_written_out(head_channels):
    channels, side = 8, 3
    style = BlockStyle(embedding_dim=4, head_channels=head_channels)
    attention = stirred(SelfAttention(channels, style))
    x = torch.randn(2, channels, side, side)
    width = head_channels or channels
    qkv = attention.qkv(attention.norm(x)).reshape(2, channels // width, width, 3, side * side)
    query, key, value = qkv.unbind(3)
    weights = torch.softmax(query.mT @ key / sqrt(width), dim=-1)
    expected = attention.projection((value @ weights.mT).reshape(x.shape))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-4)


@STYLES
def test_block_starts_as_its_skip(style):
    for resampling, channels in product((None, "up", "down"), (8, 12)):
        block = blocks.ResidualBlock(8, channels, style, resampling, attention=True)
        x = torch.randn(2, 8, 8, 8)
        resampled = getattr(block.fir, resampling)(x) if resampling else x
        skip, side = block.skip(resampled), {"up": 16, "down": 4}.get(resampling, 8)
        assert skip.shape == (2, channels, side, side)
        scale = style.residual_scale**2  # one for the convolutions, one for the attention
        start = block(x, torch.randn(2, 12))
        torch.testing.assert_close(start, scale * skip, atol=1e-4, rtol=1e-4)
        projected = channels != 8 or (resampling and style is DDPMPP)
        assert isinstance(block.skip, nn.Conv2d) == bool(projected)


@STYLES
def test_block_follows_its_definition(style):
    block = stirred(blocks.ResidualBlock(8, 12, style))
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    h = block.conv1(F.silu(block.norm1(x)))
    affine = block.modulation(embedding)[:, :, None, None]
    if style is ADM:
        h = block.norm2(h) * (1 + affine[:, :12]) + affine[:, 12:]
    else:
        h = block.norm2(h + affine)
    expected = (block.skip(x) + block.conv2(F.silu(h))) * style.residual_scale
    torch.testing.assert_close(block(x, embedding), expected)


def test_groups_of_the_normalization_and_scales_of_the_first_weights():
    groups = {2: 1, 8: 2, 96: 24, 128: 32, 512: 32, 180: 30}
    assert {channels: DDPMPP.norm(channels).num_groups for channels in groups} == groups
    conv = nn.Conv2d(40, 80, 3)
    xavier_init(conv, 0.5)
    assert float(conv.weight.detach().std()) == pytest.approx(0.5 * sqrt(2 / (9 * 120)), rel=0.02)
    assert not conv.bias.any()
    fan_in_init(conv)
    assert float(conv.weight.detach().std()) == pytest.approx(sqrt(1 / (3 * 9 * 40)), rel=0.02)
    assert float(conv.bias.detach().abs().max()) <= 1 / sqrt(9 * 40)
    fan_in_init(conv, 0.0)
    assert not conv.weight.any()
