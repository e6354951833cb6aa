"""U-Nets for toys.

U-Nets of toys from the paper's original code, for networks trained with that code.

``OriginalToyConvUNet``: layers with increasing numbers of units lift a point to an image of 8 x 8
pixels, the image passes through a U-Net, and layers with decreasing numbers of units map it back to
a point. Two embeddings of the noise condition, ``e`` for the layers and ``E`` for the U-Net, are
``silu(A f)`` of random Fourier features f. A layer is ``silu(W h + b + A e + a)``, without the
``silu`` where the image becomes a vector. A block of the U-Net, with R a resampling, is

    h = silu(norm(conv(R h) + A E + a)).

R averages windows of two by two pixels, or copies pixels to them. Strides make the resolutions 8,
7, 6, 5, 2, 5, 6, 7, 8. From resolution 5 on, the upward path takes in the features of the downward
path. None of this is in the paper; it was inferred from recorded outputs of the original code,
which it matches to the accuracy of float32.

``OriginalToySongUNet``: two layers map a point to an image, DDPM++ transforms the image, and two
more layers map it back to a point.

Use ``ToyConvUNet`` and ``ToySongUNet`` to train new networks.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.networks.blocks import BlockStyle
from training.networks.embedding import FourierFeatures
from training.networks.encoder_decoder import Decoder, Encoder, Layout
from training.networks.mlp import NoiseFeatures
from training.networks.unet import UNet

SIDE = 8


class ResidualBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions, modulated by a noise embedding (FiLM)."""

    def __init__(self, in_channels: int, out_channels: int, embedding_dim: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.film = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        matches = in_channels == out_channels
        self.skip = nn.Identity() if matches else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the output feature maps ``[B, out_channels, H, W]`` for input feature maps x.

        Args:
            x: Features ``[B, in_channels, H, W]``.
            embedding: Noise embeddings ``[B, embedding_dim]``.
        """
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class ToyConvUNet(nn.Module):
    """Network ``F(z, c_noise)`` by a U-Net with resolutions 8, 4 and 2 and skip connections.

    Args:
        dim: Number of data dimensions D.
        noise_range: Noise conditions of the first and the last time.
        channels: Number of channels at full resolution, a multiple of 8; coarser levels have twice
            as many.
        embedding_dim: Number of units of the noise embedding.
        time_features: Number of cosines of the noise condition.
    """

    def __init__(
        self,
        dim: int,
        noise_range: tuple[float, float],
        channels: int = 32,
        embedding_dim: int = 64,
        time_features: int = 8,
    ):
        super().__init__()
        wide = 2 * channels
        self.embed = nn.Sequential(
            NoiseFeatures(noise_range, time_features),
            nn.Linear(time_features, embedding_dim),
            nn.SiLU(),
        )
        self.lift = nn.Linear(dim, channels * SIDE * SIDE)
        self.down8 = ResidualBlock(channels, channels, embedding_dim)
        self.down4 = ResidualBlock(channels, wide, embedding_dim)
        self.middle2 = ResidualBlock(wide, wide, embedding_dim)
        self.up4 = ResidualBlock(2 * wide, wide, embedding_dim)
        self.up8 = ResidualBlock(wide + channels, channels, embedding_dim)
        self.norm = nn.GroupNorm(8, channels)
        self.lower = nn.Linear(channels * SIDE * SIDE, dim)
        # F = 0 makes D the best linear denoiser, the start of training.
        nn.init.zeros_(self.lower.weight)
        nn.init.zeros_(self.lower.bias)

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return F ``[B, D]`` of ``z [B, D]`` at noise conditions ``[]`` or ``[B]``.

        Labels are ignored.
        """
        embedding = self.embed(c_noise.expand(len(z)))
        at8 = self.down8(self.lift(z).unflatten(1, (-1, SIDE, SIDE)), embedding)
        at4 = self.down4(F.avg_pool2d(at8, 2), embedding)
        at2 = self.middle2(F.avg_pool2d(at4, 2), embedding)
        up4 = self.up4(torch.cat([F.interpolate(at2, scale_factor=2.0), at4], dim=1), embedding)
        up8 = self.up8(torch.cat([F.interpolate(up4, scale_factor=2.0), at8], dim=1), embedding)
        return self.lower(F.silu(self.norm(up8)).flatten(1))


class ToySongUNet(nn.Module):
    """Network ``F(z, c_noise)`` by the encoder and decoder of DDPM++, on an image of the point.

    Unlike in DDPM++, noise features are few and smooth (``NoiseFeatures``).

    Args:
        dim: Number of data dimensions D.
        noise_range: Noise conditions of the first and the last time.
        image_channels: Number of channels of the image that represents a point.
        channels: Number of channels at full resolution, before its factor.
        channel_mult: Factor of each level; resolutions are 8, 4, 2.
        num_blocks: Number of residual blocks per encoder level.
        attention_resolutions: Resolutions at which blocks have attention.
        dropout: Fraction of activations dropped in training.
        time_features: Number of cosines of the noise condition.
    """

    def __init__(
        self,
        dim: int,
        noise_range: tuple[float, float],
        image_channels: int = 4,
        channels: int = 32,
        channel_mult: Sequence[int] = (1, 2),
        num_blocks: int = 1,
        attention_resolutions: Sequence[int] = (4,),
        dropout: float = 0.0,
        time_features: int = 8,
    ):
        super().__init__()
        self.image_shape = (image_channels, SIDE, SIDE)
        widths = [factor * channels for factor in channel_mult]
        layout = Layout(self.image_shape, channels, widths, num_blocks, attention_resolutions)
        # F = 0 makes D the best linear denoiser, the start of training.
        style = BlockStyle(4 * channels, dropout, image_gain=0.0)
        self.embed = nn.Sequential(
            NoiseFeatures(noise_range, time_features),
            style.linear(time_features, style.embedding_dim),
            nn.SiLU(),
            style.linear(style.embedding_dim, style.embedding_dim),
            nn.SiLU(),
        )
        self.lift = style.linear(dim, image_channels * SIDE * SIDE)
        self.encoder = Encoder(layout, style)
        self.decoder = Decoder(self.encoder.feature_channels, layout, style)
        self.lower = style.linear(image_channels * SIDE * SIDE, dim)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return F ``[B, D]`` of ``z [B, D]`` at noise conditions ``[]`` or ``[B]``.

        Labels are ignored.
        """
        embedding = self.embed(c_noise.expand(len(z)))
        image = self.lift(z).unflatten(1, self.image_shape)
        features = self.encoder(image.contiguous(memory_format=torch.channels_last), embedding)
        return self.lower(self.decoder(features, embedding).flatten(1)).to(z.dtype)


DOWN_STRIDES, UP_STRIDES = (1, 1, 1, 2), (3, 1, 1, 1)
FIRST_GROUPS, GROUPS, LAST_GROUPS = 4, 32, 1
"""Numbers of normalization groups in the first block, the middle blocks, and the last block."""


class NoisyLinear(nn.Module):
    """A linear layer ``W h + b + A e + a`` of inputs h and noise embeddings e."""

    def __init__(self, inputs: int, outputs: int, embedding_dim: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.modulation = nn.Linear(embedding_dim, outputs)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the outputs ``[B, outputs]`` for ``h [B, inputs]`` and noise embeddings."""
        return self.linear(h) + self.modulation(embedding)


class ResampledBlock(nn.Module):
    """Block of the original toy U-Net: resampling, convolution and noise embedding.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        embedding_dim: Number of units of the embedding.
        groups: Number of normalization groups.
        stride: Distance between the windows of two by two pixels.
        up: Whether pixels are copied to their windows; otherwise windows are averaged.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        groups: int,
        stride: int,
        up: bool,
    ):
        super().__init__()
        self.stride, self.up = stride, up
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_dim, out_channels)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return resampled feature maps of ``x [B, in_channels, H, W]``."""
        h = self.conv(self._resample(x)) + self.modulation(embedding)[:, :, None, None]
        return F.silu(self.norm(h))

    def _resample(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.avg_pool2d(x, 2, self.stride)
        window = x.new_ones(x.shape[1], 1, 2, 2)
        return F.conv_transpose2d(x, window, stride=self.stride, groups=x.shape[1])


class OriginalToyConvUNet(nn.Module):
    """Convolutional toy network ``F(z, c_noise)`` of the paper's original code.

    Args:
        dim: Number of data dimensions D.
        widths: Numbers of units of the layers that lift a point; the last is the number of pixels.
        channels: Numbers of channels of the four downward blocks.
        layer_embedding_dim: Number of units of the embedding e, even.
        block_embedding_dim: Number of units of the embedding E, even.

    Raises:
        UsageError: The widths or channels do not fit the architecture.
    """

    def __init__(
        self,
        dim: int,
        widths: Sequence[int] = (4, 16, 32, 64),
        channels: Sequence[int] = (32, 64, 128, 256),
        layer_embedding_dim: int = 2,
        block_embedding_dim: int = 256,
    ):
        super().__init__()
        if len(widths) < 2 or widths[-1] != SIDE * SIDE or len(channels) != len(DOWN_STRIDES):
            raise UsageError(
                f"widths are {list(widths)} and channels {list(channels)}: give two or more "
                f"widths, the last {SIDE * SIDE}, and {len(DOWN_STRIDES)} channels"
            )
        self.layer_embedding = _embedding(layer_embedding_dim)
        self.block_embedding = _embedding(block_embedding_dim)
        rising = [dim, *widths]
        self.lift = _layers(rising, layer_embedding_dim)
        self.lower = _layers(rising[:0:-1], layer_embedding_dim)
        self.last = nn.Linear(widths[0], dim)
        down_groups = [FIRST_GROUPS, GROUPS, GROUPS, GROUPS]
        down_sizes = zip([1, *channels[:-1]], channels, down_groups, DOWN_STRIDES, strict=True)
        self.down = nn.ModuleList(
            ResampledBlock(inputs, outputs, block_embedding_dim, groups, stride, up=False)
            for inputs, outputs, groups, stride in down_sizes
        )
        finer = channels[-2::-1]
        joined = [channels[-1], *(2 * width for width in finer)]
        up_groups = [GROUPS, GROUPS, GROUPS, LAST_GROUPS]
        up_sizes = zip(joined, [*finer, 1], up_groups, UP_STRIDES, strict=True)
        self.up = nn.ModuleList(
            ResampledBlock(inputs, outputs, block_embedding_dim, groups, stride, up=True)
            for inputs, outputs, groups, stride in up_sizes
        )

    @property
    def ends(self) -> tuple[nn.Linear, nn.Linear]:
        """First and last layer of the network."""
        entry = self.lift[0]
        assert isinstance(entry, NoisyLinear)
        return entry.linear, self.last

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return F ``[B, D]`` of ``z [B, D]`` at noise conditions ``[]`` or ``[B]``.

        Labels are ignored.
        """
        c_noise = c_noise.expand(len(z))
        layer_embedding = self.layer_embedding(c_noise)
        h = z
        for layer in self.lift:
            h = F.silu(layer(h, layer_embedding))
        h = self._unet(h.reshape(-1, 1, SIDE, SIDE), self.block_embedding(c_noise)).flatten(1)
        h = self.lower[0](h, layer_embedding)
        for layer in self.lower[1:]:
            h = F.silu(layer(h, layer_embedding))
        return self.last(h)

    def _unet(self, x: Tensor, embedding: Tensor) -> Tensor:
        features = []
        for block in self.down:
            x = block(x, embedding)
            features.append(x)
        features.pop()
        x = self.up[0](x, embedding)
        for block in self.up[1:]:
            x = block(torch.cat([x, features.pop()], dim=1), embedding)
        return x


class OriginalToySongUNet(nn.Module):
    """Network ``F(z, c_noise)`` by a U-Net of the DDPM++ family.

    Args:
        dim: Number of data dimensions D.
        image_shape: Shape ``(C, H, W)`` of the image that represents a point.
        sizes: Arguments of ``UNet``.
    """

    sizes_of = UNet

    def __init__(self, dim: int, image_shape: Sequence[int] = (1, SIDE, SIDE), **sizes: Any):
        super().__init__()
        self.unet = UNet(image_shape, **sizes)
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        middle = pixels // 2
        self.lift = nn.ModuleList([nn.Linear(dim, middle), nn.Linear(middle, pixels)])
        self.lower = nn.ModuleList([nn.Linear(pixels, middle), nn.Linear(middle, dim)])

    @property
    def ends(self) -> tuple[nn.Linear, nn.Linear]:
        """First and last layer of the network."""
        entry, exit = self.lift[0], self.lower[1]
        assert isinstance(entry, nn.Linear)
        assert isinstance(exit, nn.Linear)
        return entry, exit

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return F ``[B, D]`` of ``z [B, D]`` at noise conditions ``[]`` or ``[B]``.

        Labels are ignored.
        """
        h = z
        for layer in self.lift:
            h = F.silu(layer(h))
        h = self.unet(h, c_noise)
        return self.lower[1](F.silu(self.lower[0](h)))


def _embedding(width: int) -> nn.Sequential:
    return nn.Sequential(FourierFeatures(width), nn.Linear(width, width), nn.SiLU())


def _layers(sizes: Sequence[int], embedding_dim: int) -> nn.ModuleList:
    """Return a layer between each two neighboring sizes."""
    return nn.ModuleList(NoisyLinear(*pair, embedding_dim) for pair in pairwise(sizes))
