"""Filters, features, attention and residual blocks against their definitions."""

from dataclasses import replace
from itertools import product
from math import pi, sqrt
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dnnlib.errors import UsageError
from tests.support.refusals import refusal
from training.networks.blocks import (
    BlockStyle,
    FIRFilter,
    ResidualBlock,
    SelfAttention,
    fan_in_init,
    xavier_init,
)
from training.networks.embedding import ConditionEmbedding, FourierFeatures, PositionalFeatures
from training.networks.encoder_decoder import InputResidual

FILTERS = [(1, 1), (1, 3, 3, 1), (1, 2, 5, 5, 2, 1)]
DDPMPP = BlockStyle(embedding_dim=12, dropout=0.0)
OTHER = {"scaled_by_embedding": True, "residual_scale": 1.0, "projected_resampling": False}
ADM = replace(DDPMPP, head_channels=4, init=fan_in_init, last_gain=0.0, qkv_gain=1.0, **OTHER)
STYLES = pytest.mark.parametrize("style", [DDPMPP, ADM], ids=["ddpmpp", "adm"])


def stirred(module: nn.Module) -> nn.Module:
    """The module with all its parameters moved away from where they start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return module


@pytest.mark.parametrize("taps", FILTERS)
def test_resampling_keeps_constants_and_one_way_is_the_transpose_of_the_other(taps: Any) -> None:
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


def test_box_filter_equals_the_general_path() -> None:
    box, general, x = FIRFilter((1, 1)), FIRFilter((2, 2)), torch.randn(2, 3, 8, 8)
    assert box.is_box
    assert not general.is_box
    torch.testing.assert_close(box.down(x), general.down(x))
    torch.testing.assert_close(box.up(x), general.up(x))
    torch.testing.assert_close(box.down(box.up(x)), x)


@pytest.mark.parametrize("taps", FILTERS)
def test_strided_convolution_of_the_blurred_is_the_convolution_downsampled(taps: Any) -> None:
    layer = InputResidual(3, 5, BlockStyle(embedding_dim=4, fir_taps=taps))
    features, image = torch.randn(2, 5, 4, 4), torch.randn(2, 3, 8, 8)
    full = F.conv2d(image, layer.conv.weight, padding=1 + layer.fir.reach)
    kernel = layer.fir.kernel.expand(5, -1, -1, -1)
    small = F.conv2d(full, kernel, layer.conv.bias, stride=2, groups=5)
    x, passed_on = layer(features, image)
    assert passed_on is x
    torch.testing.assert_close(x, (features + small) * sqrt(0.5))


def test_positional_features_are_waves_of_geometric_frequencies() -> None:
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


def test_fourier_features_have_random_frequencies_that_are_kept_in_the_state() -> None:
    features = FourierFeatures(4096)
    assert float(features.frequencies.std()) == pytest.approx(16, rel=0.05)
    assert set(features.state_dict()) == {"frequencies"}
    assert not list(features.parameters())
    waves = features(torch.tensor([0.1]))
    torch.testing.assert_close(waves[:, :2048], (0.2 * pi * features.frequencies[None]).sin())
    torch.testing.assert_close(waves[:, :2048] ** 2 + waves[:, 2048:] ** 2, torch.ones(1, 2048))


def test_impossible_sizes_are_refused() -> None:
    for taps in ((), (1,), (1, 2, 1), (1, -1)):
        assert "even number of taps" in refusal(FIRFilter, taps, kind=UsageError)
    for make, width in product((PositionalFeatures, FourierFeatures), (0, 7)):
        assert "noise features" in refusal(make, width, kind=UsageError)
    assert "heads of 4 channels do not divide 6" in refusal(SelfAttention, 6, ADM, kind=UsageError)
    rounded = replace(ADM, rounded_heads=True)
    assert SelfAttention(6, rounded).heads == 1
    assert ResidualBlock(8, 3, rounded, attention=True).attention is None
    with pytest.raises(UsageError, match="2 attention heads do not divide 11"):
        SelfAttention(11, rounded)
    for dropout in (-0.1, 1.0):
        assert "dropout" in refusal(BlockStyle, embedding_dim=4, dropout=dropout, kind=UsageError)


def test_one_hot_labels_are_scaled_to_unit_mean_square() -> None:
    embedding = ConditionEmbedding(PositionalFeatures(8), 8, DDPMPP, label_dim=4)
    seen = []
    embedding.label.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embedding(torch.randn(4), torch.eye(4))
    torch.testing.assert_close(seen[0], 2 * torch.eye(4))


@pytest.mark.parametrize("head_channels", [None, 4])
def test_attention_equals_a_softmax_written_out(head_channels: Any) -> None:
    channels, side = 8, 3
    style = BlockStyle(embedding_dim=4, head_channels=head_channels)
    attention = stirred(SelfAttention(channels, style))
    x = torch.randn(2, channels, side, side)
    width = head_channels or channels
    qkv = attention.qkv(attention.norm(x)).reshape(2, channels // width, width, 3, side * side)
    expected = torch.empty(2, channels, side * side)
    for image in range(2):
        for head in range(channels // width):
            query, key, value = qkv[image, head].unbind(1)
            weights = torch.softmax(query.T @ key / sqrt(width), dim=1)
            expected[image, head * width : (head + 1) * width] = value @ weights.T
    expected = attention.projection(expected.reshape(x.shape))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-4)


@STYLES
def test_block_starts_as_its_skip(style: Any) -> None:
    for resampling, channels in product((None, "up", "down"), (8, 12)):
        block = ResidualBlock(8, channels, style, resampling, attention=True)
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
def test_block_follows_its_definition(style: Any) -> None:
    block = stirred(ResidualBlock(8, 12, style))
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 12)
    h = block.conv1(F.silu(block.norm1(x)))
    affine = block.modulation(embedding)[:, :, None, None]
    if style is ADM:
        h = block.norm2(h) * (1 + affine[:, :12]) + affine[:, 12:]
    else:
        h = block.norm2(h + affine)
    expected = (block.skip(x) + block.conv2(F.silu(h))) * style.residual_scale
    torch.testing.assert_close(block(x, embedding), expected)


def test_groups_of_the_normalization() -> None:
    groups = {2: 1, 8: 2, 96: 24, 128: 32, 512: 32, 180: 30}
    assert {channels: DDPMPP.norm(channels).num_groups for channels in groups} == groups


def test_initial_weights() -> None:
    conv = nn.Conv2d(40, 80, 3)
    xavier_init(conv, 0.5)
    assert float(conv.weight.detach().std()) == pytest.approx(0.5 * sqrt(2 / (9 * 120)), rel=0.02)
    assert not conv.bias.any()
    fan_in_init(conv)
    assert float(conv.weight.detach().std()) == pytest.approx(sqrt(1 / (3 * 9 * 40)), rel=0.02)
    assert float(conv.bias.detach().abs().max()) <= 1 / sqrt(9 * 40)
    fan_in_init(conv, 0.0)
    assert not conv.weight.any()
