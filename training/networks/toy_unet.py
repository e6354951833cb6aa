"""Small residual convolutional U-Nets for toys: the point is lifted to an 8 x 8 image."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.blocks import BlockStyle
from training.networks.encoder_decoder import Decoder, Encoder, Layout
from training.networks.mlp import NoiseFeatures

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
