"""The U-Nets of toys in the paper's original code, for networks that were trained with it.

``OriginalToyConvUNet``: a point is lifted to an image of 8 x 8 pixels by layers with ever more
units, the image goes through a U-Net, and layers with ever fewer units make a point of it again.
Two embeddings of the noise condition, ``e`` for the layers and ``E`` for the U-Net, are
``silu(A f)`` of random Fourier features f. A layer is ``silu(W h + b + A e + a)``, but without the
``silu`` where the image turns into a vector; a block of the U-Net, with R a resampling,

    h = silu(norm(conv(R h) + A E + a)).

R averages windows of two by two pixels, or spreads pixels over them; strides make the resolutions
8, 7, 6, 5, 2, 5, 6, 7, 8. From 5 on, the way up takes in the features of the way down. None of this
is in the paper: it is what recorded outputs of the original agree with, to the accuracy of float32.

``OriginalToySongUNet``: two layers make an image of a point, DDPM++ another image of it, and two
more layers a point of that.

The networks to train are ``ToyConvUNet`` and ``ToySongUNet``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.networks.embedding import FourierFeatures
from training.networks.unet import UNet

SIDE = 8
DOWN_STRIDES, UP_STRIDES = (1, 1, 1, 2), (3, 1, 1, 1)
FIRST_GROUPS, GROUPS, LAST_GROUPS = 4, 32, 1
"""Groups of normalization: of the first block, of those between, and of the last."""


class NoisyLinear(nn.Module):
    """``W h + b + A e + a``."""

    def __init__(self, inputs: int, outputs: int, embedding_dim: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.modulation = nn.Linear(embedding_dim, outputs)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.linear(h) + self.modulation(embedding)


class ResampledBlock(nn.Module):
    """The block at the head of this module.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        embedding_dim: Units of the embedding.
        groups: Groups of the normalization.
        stride: Distance between the windows of two by two pixels.
        up: Whether pixels are spread over their windows, or windows averaged.
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
        h = self.conv(self._resample(x)) + self.modulation(embedding)[:, :, None, None]
        return F.silu(self.norm(h))

    def _resample(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.avg_pool2d(x, 2, self.stride)
        window = x.new_ones(x.shape[1], 1, 2, 2)
        return F.conv_transpose2d(x, window, stride=self.stride, groups=x.shape[1])


class OriginalToyConvUNet(nn.Module):
    """``F(z, c_noise)`` as the original code computes it.

    Args:
        dim: Number of data dimensions D.
        widths: Units of the layers that lift a point; the last are the pixels.
        channels: Channels of the four blocks on the way down.
        layer_embedding_dim: Units of the embedding e, even.
        block_embedding_dim: Units of the embedding E, even.
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
                f"widths {list(widths)} must be two or more up to {SIDE * SIDE}, and channels "
                f"{list(channels)} be {len(DOWN_STRIDES)}"
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
        """The layers that a point enters and leaves by."""
        entry = self.lift[0]
        assert isinstance(entry, NoisyLinear)
        return entry.linear, self.last

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """``z [B, D]`` and ``c_noise`` (``[]`` or ``[B]``) to ``[B, D]``; there are no labels."""
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
    """``F(z, c_noise)`` by a U-Net of the family of DDPM++.

    Args:
        dim: Number of data dimensions D.
        image_shape: Of the image that a point becomes, ``(C, H, W)``.
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
        """As those of ``OriginalToyConvUNet``."""
        entry, exit = self.lift[0], self.lower[1]
        assert isinstance(entry, nn.Linear)
        assert isinstance(exit, nn.Linear)
        return entry, exit

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """As that of ``OriginalToyConvUNet``."""
        h = z
        for layer in self.lift:
            h = F.silu(layer(h))
        h = self.unet(h, c_noise)
        return self.lower[1](F.silu(self.lower[0](h)))


def _embedding(width: int) -> nn.Sequential:
    return nn.Sequential(FourierFeatures(width), nn.Linear(width, width), nn.SiLU())


def _layers(sizes: Sequence[int], embedding_dim: int) -> nn.ModuleList:
    """A layer between each two neighbours of the sizes."""
    return nn.ModuleList(NoisyLinear(*pair, embedding_dim) for pair in pairwise(sizes))
