"""Parts of the image networks: FIR resampling, residual blocks, attention.

The residual block is that of BigGAN in the form of Song et al. 2021 (arXiv 2011.13456, appendix H)
and of Dhariwal and Nichol 2021 (arXiv 2105.05233): with R the optional resampling and e the
embedding,

    h = conv(R silu(norm(x))),      h = conv(dropout(silu(norm(h + A e)))),
    x' = c (skip(R x) + h),         x'' = c (x' + attention(norm(x'))).

The former add ``A e`` and have ``c = sqrt(1/2)``, which preserves the variance of a sum of two. The
latter have ``c = 1``, and their embedding also scales the normalized h. ``BlockStyle`` holds these
choices. Second convolutions start at (nearly) zero, so a block starts as its skip connection.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError

Weighted: TypeAlias = nn.Conv2d | nn.Linear
Initializer: TypeAlias = Callable[[Weighted, float], None]


def check_dropout(dropout: float) -> None:
    """Raise UsageError unless dropout is a probability from 0 to below 1."""
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is {dropout:g}: give a probability from 0 to below 1")


def xavier_init(layer: Weighted, gain: float = 1.0) -> None:
    """Initialize weights with variance ``2 gain^2 / (fan_in + fan_out)``, biases with zero."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def fan_in_init(layer: Weighted, gain: float = 1.0) -> None:
    """Initialize weights and biases uniformly on ``+- gain / sqrt(fan_in)``."""
    bound = gain / sqrt(layer.weight[0].numel())
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)


@dataclass(frozen=True)
class BlockStyle:
    """Settings shared by all residual blocks of a network.

    Attributes:
        embedding_dim: Number of units of the embedding e.
        dropout: Fraction of activations dropped in training.
        fir_taps: Taps of the resampling filter along one axis.
        eps: Constant added to the variance in group normalization.
        scaled_by_embedding: Whether the embedding scales and shifts normalized features. Otherwise
            the embedding only shifts features, before the normalization.
        residual_scale: Factor c on the sum of a branch and its skip connection.
        projected_resampling: Whether the skip connection has weights at changes of resolution. At
            changes of the number of channels, the skip connection always has weights.
        head_channels: Number of channels per attention head; None for a single head.
        rounded_heads: Whether to round the number of heads down if heads do not divide the
            channels, and to leave attention out below one head. Otherwise these numbers of channels
            raise UsageError.
        init: Initializer of a layer, given a gain.
        last_gain: Gain of the last layer of a branch.
        image_gain: Gain of the layer that produces the output image.
        qkv_gain: Gain of attention's queries, keys and values.

    Raises:
        UsageError: ``dropout`` is not a fraction below 1.
    """

    embedding_dim: int
    dropout: float = 0.13
    fir_taps: Sequence[float] = (1, 1)
    eps: float = 1e-6
    scaled_by_embedding: bool = False
    residual_scale: float = sqrt(0.5)
    projected_resampling: bool = True
    head_channels: int | None = None
    rounded_heads: bool = False
    init: Initializer = xavier_init
    last_gain: float = 1e-5
    image_gain: float = 1e-5
    qkv_gain: float = sqrt(0.2)

    def __post_init__(self) -> None:
        check_dropout(self.dropout)

    def heads(self, channels: int) -> int:
        """Return the number of attention heads for a number of channels; 0 for no attention.

        Raises:
            UsageError: The heads do not divide the channels.
        """
        head_channels = self.head_channels or channels
        if channels % head_channels and not self.rounded_heads:
            raise UsageError(
                f"attention heads of {head_channels} channels do not divide {channels} channels: "
                f"give multiples of {head_channels}"
            )
        heads = channels // head_channels
        if heads and channels % heads:
            raise UsageError(
                f"{heads} attention heads do not divide {channels} channels: give a multiple of "
                f"{head_channels}"
            )
        return heads

    def linear(self, inputs: int, outputs: int, bias: bool = True, gain: float = 1.0) -> nn.Linear:
        """Return a linear layer with initialized weights."""
        layer = nn.Linear(inputs, outputs, bias=bias)
        self.init(layer, gain)
        return layer

    def conv(self, inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0) -> nn.Conv2d:
        """Return a convolution with initialized weights that keeps the resolution."""
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.init(layer, gain)
        return layer

    def norm(self, channels: int) -> nn.GroupNorm:
        """Return group normalization with up to 32 groups of at least 4 channels."""
        groups = next(n for n in range(max(1, min(32, channels // 4)), 0, -1) if channels % n == 0)
        return nn.GroupNorm(groups, channels, eps=self.eps)


class FIRFilter(nn.Module):
    """Separable low-pass filter that halves or doubles the resolution of images ``[B, C, H, W]``.

    Constants are preserved except near the border, beyond which images are zero. Taps [1, 1]
    average pixels when the resolution is halved, and repeat pixels when it is doubled.

    Args:
        taps: Filter taps along one axis, an even number, which are normalized here.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float]):
        super().__init__()
        if len(taps) < 2 or len(taps) % 2 or sum(taps) == 0:
            raise UsageError(
                f"the taps of a resampling filter are {list(taps)}: give an even number of taps "
                "whose sum is not 0"
            )
        line = [float(tap) / sum(taps) for tap in taps]
        # Plain numbers, since arithmetic on the meta device imports the compiler.
        kernel = torch.tensor([[[[one * other for other in line] for one in line]]])
        self.register_buffer("kernel", kernel, persistent=False)
        self.reach = len(taps) // 2 - 1  # beyond the two pixels of a box filter
        self.is_box = tuple(taps) == (1, 1)

    def down(self, x: Tensor) -> Tensor:
        """Return images filtered and halved in resolution, ``[B, C, H / 2, W / 2]``."""
        if self.is_box:
            return F.avg_pool2d(x, 2)
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=2, padding=self.reach, groups=x.shape[1])

    def up(self, x: Tensor) -> Tensor:
        """Return images filtered and doubled in resolution, ``[B, C, 2 H, 2 W]``."""
        if self.is_box:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        kernel = 4 * self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=self.reach, groups=x.shape[1])

    def blur(self, x: Tensor) -> Tensor:
        """Return filtered images ``[B, C, H + 1, W + 1]``, at unchanged resolution.

        The result is the input of a 3 x 3 convolution of stride 2 without padding.
        """
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, padding=self.reach + 1, groups=x.shape[1])


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return dot-product attention ``[B, heads, HW, C]`` of arrays of that shape.

    On a CPU, half precision is computed in float32. The kernel of PyTorch for bfloat16 raises an
    error if the CPU has matrix units, and the instructions that PyTorch may use are limited.
    """
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float())


class SelfAttention(nn.Module):
    """Self-attention branch over the pixels of feature maps ``x [B, C, H, W]``.

    The branch is ``projection(attention(norm(x)))``.

    Args:
        channels: Number of channels, C.
        style: Settings shared by the network's blocks.
    """

    def __init__(self, channels: int, style: BlockStyle):
        super().__init__()
        self.heads = style.heads(channels)
        self.norm = style.norm(channels)
        self.qkv = style.conv(channels, 3 * channels, kernel=1, gain=style.qkv_gain)
        self.projection = style.conv(channels, channels, kernel=1, gain=style.last_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features ``[B, C, H, W]`` to add to ``x [B, C, H, W]``."""
        # Channels of qkv are ordered by head, then channel, then query, key or value.
        split = self.qkv(self.norm(x)).flatten(2).unflatten(1, (self.heads, -1, 3))
        query, key, value = split.permute(3, 0, 1, 4, 2).contiguous()
        pixels = attention(query, key, value)  # [B, heads, HW, C/heads]
        image = pixels.permute(0, 2, 1, 3).reshape(len(x), *x.shape[2:], x.shape[1])
        return self.projection(image.permute(0, 3, 1, 2))


class ResidualBlock(nn.Module):
    """Residual block with optional resampling and attention, conditioned on an embedding.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        style: Settings shared by the network's blocks.
        resampling: ``up`` to double the resolution, ``down`` to halve it, None to keep it.
        attention: Whether attention follows, if there are enough channels for a head.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style: BlockStyle,
        resampling: Literal["up", "down"] | None = None,
        attention: bool = False,
    ):
        super().__init__()
        self.style, self.resampling = style, resampling
        self.fir = FIRFilter(style.fir_taps) if resampling else None
        self.norm1 = style.norm(in_channels)
        self.conv1 = style.conv(in_channels, out_channels)
        modulated = 2 * out_channels if style.scaled_by_embedding else out_channels
        self.modulation = style.linear(style.embedding_dim, modulated)
        self.norm2 = style.norm(out_channels)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = style.conv(out_channels, out_channels, gain=style.last_gain)
        projected = in_channels != out_channels or (resampling and style.projected_resampling)
        self.skip = style.conv(in_channels, out_channels, kernel=1) if projected else nn.Identity()
        attends = attention and style.heads(out_channels) > 0
        self.attention = SelfAttention(out_channels, style) if attends else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the features ``[B, out_channels, H', W']`` for feature maps x and embeddings.

        Args:
            x: Features ``[B, in_channels, H, W]``.
            embedding: Embeddings ``[B, embedding_dim]``.
        """
        h = self.conv1(self._resample(F.silu(self.norm1(x))))
        modulation = self.modulation(embedding)[:, :, None, None]
        if self.style.scaled_by_embedding:
            scale, shift = modulation.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + modulation)
        h = self.conv2(self.dropout(F.silu(h)))
        x = self._join(self.skip(self._resample(x)), h)
        return x if self.attention is None else self._join(x, self.attention(x))

    def _resample(self, x: Tensor) -> Tensor:
        if self.fir is None:
            return x
        return self.fir.up(x) if self.resampling == "up" else self.fir.down(x)

    def _join(self, x: Tensor, branch: Tensor) -> Tensor:
        return (x + branch) * self.style.residual_scale
