"""Encoder and decoder of a U-Net (Song et al. 2021, arXiv 2011.13456, appendix H).

Each level of the encoder halves the resolution and has ``num_blocks`` residual blocks. The decoder
mirrors it with one more block per level, since it receives the output of every encoder layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError, require_known
from training.names import script
from training.networks.blocks import BlockStyle, FIRFilter, ResidualBlock

ENCODER_TYPES = ("standard", "skip", "residual")
DECODER_TYPES = ("standard", "skip")
MIN_SIDE = 8
MAX_WIDTH = 1 << 16


@dataclass(frozen=True)
class Layout:
    """Sizes of a U-Net: numbers of levels, channels and blocks.

    Attributes:
        image_shape: Channels, height and width; the longer side is at least 8.
        stem_width: Number of channels before the first block.
        widths: Number of channels of each level, finest first.
        num_blocks: Number of residual blocks per encoder level.
        attention_resolutions: Resolutions at which blocks have attention; a resolution that is not
            a power of two counts as the next larger power.
        decoder_attends_once: Whether only the last block of a decoder level has attention.
        further_channels: Number of input channels of the first layer besides the image.

    Raises:
        UsageError: The image or the sizes do not fit a U-Net.
    """

    image_shape: Sequence[int]
    stem_width: int
    widths: Sequence[int]
    num_blocks: int
    attention_resolutions: Sequence[int]
    decoder_attends_once: bool = True
    further_channels: int = 0

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3 or self.image_shape[0] < 1:
            raise UsageError(
                f"the image shape is {list(self.image_shape)}: give (channels, height, width)"
            )
        _, height, width = self.image_shape
        longest = max(height, width)
        if longest < MIN_SIDE or min(height, width) < 1:
            raise UsageError(
                f"images of {height} x {width} pixels do not fit this network: give images with a "
                f"side of at least {MIN_SIDE} ({script('dataset_tool')} --resolution=32x32 "
                "resamples images)"
            )
        if not self.widths or self.num_blocks < 1 or min(self.stem_width, *self.widths) < 1:
            raise UsageError(
                "a U-Net needs at least one resolution, one block and one channel: give larger "
                "sizes"
            )
        if max(self.stem_width, *self.widths) > MAX_WIDTH:
            raise UsageError(
                f"a resolution of the U-Net has more than {MAX_WIDTH} channels: give fewer channels"
            )
        if longest >> (self.depth - 1) < 1:
            raise UsageError(
                f"{self.depth} resolutions halve images of {height} x {width} pixels too "
                f"often: give channel_mult at most {longest.bit_length()} entries"
            )

    @property
    def depth(self) -> int:
        """Number of levels, which is the number of resolutions."""
        return len(self.widths)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of images after adding a border, so that all levels can be halved."""
        height, width = (with_border(side, self.depth) for side in self.image_shape[1:])
        return height, width

    def attends(self, level: int) -> bool:
        """Return whether the blocks of a level have attention."""
        longest = max(self.image_shape[1:])
        return sides_of_levels(longest, self.depth)[level] in self.attention_resolutions


def with_border(side: int, depth: int) -> int:
    """Return the smallest side, at least ``side``, that is divisible by ``2^(depth - 1)``."""
    unit = 1 << (depth - 1)
    return -(-side // unit) * unit


def sides_of_levels(side: int, depth: int) -> list[int]:
    """Return the sides of an image at each level, rounded up to powers of two."""
    whole = with_border(side, depth)
    return [1 << ((whole >> level) - 1).bit_length() for level in range(depth)]


class InputSkip(nn.Module):
    """Layer that adds a downsampled image to the features, through a 1 x 1 convolution."""

    def __init__(self, image_channels: int, width: int, style: BlockStyle):
        super().__init__()
        self.fir = FIRFilter(style.fir_taps)
        self.conv = style.conv(image_channels, width, kernel=1)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new features of a level, and the image at its resolution.

        Args:
            x: Features of the level.
            image: Image at twice the resolution.
        """
        image = self.fir.down(image)
        return x + self.conv(image), image


class InputResidual(nn.Module):
    """Layer that adds the downsampled result of the previous level to the features of a level."""

    def __init__(self, image_channels: int, width: int, style: BlockStyle):
        super().__init__()
        self.fir = FIRFilter(style.fir_taps)
        self.conv = nn.Conv2d(image_channels, width, 3, stride=2)
        style.init(self.conv, 1.0)

    def forward(self, x: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new features of a level twice: also as the image for the next level.

        Args:
            x: Features of the level.
            image: Image, or new features of the previous level, at twice the resolution.
        """
        x = (x + self.conv(self.fir.blur(image))) * sqrt(0.5)
        return x, x


class EncoderLevel(nn.Module):
    """Residual blocks of one level of the encoder.

    All levels but the finest begin by halving the resolution.

    Args:
        in_channels: Number of input channels.
        level: Index of the level, 0 for the finest.
        layout: Sizes of the U-Net.
        style: Settings shared by the network's blocks.
    """

    def __init__(self, in_channels: int, level: int, layout: Layout, style: BlockStyle):
        super().__init__()
        width, attends = layout.widths[level], layout.attends(level)
        self.down = ResidualBlock(in_channels, in_channels, style, "down") if level else None
        self.pyramid: nn.Module | None = None
        self.blocks = nn.ModuleList()
        for _ in range(layout.num_blocks):
            self.blocks.append(ResidualBlock(in_channels, width, style, attention=attends))
            in_channels = width

    def forward(self, x: Tensor, image: Tensor, embedding: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the features after each layer of the level, and the image for the next level."""
        features = []
        if self.down is not None:
            x = self.down(x, embedding)
            if self.pyramid is not None:
                x, image = self.pyramid(x, image)
            features.append(x)
        for block in self.blocks:
            x = block(x, embedding)
            features.append(x)
        return features, image


class Encoder(nn.Module):
    """Encoder of a U-Net, from images ``[B, C, H, W]`` to the features after each layer.

    Args:
        layout: Sizes of the U-Net.
        style: Settings shared by the network's blocks.
        kind: A name in ``ENCODER_TYPES``. With ``skip``, coarser levels add downsampled images to
            their features. With ``residual``, they add the downsampled sum of the previous level,
            starting from the image.
    """

    def __init__(self, layout: Layout, style: BlockStyle, kind: str = "standard"):
        super().__init__()
        require_known("encoder type", kind, ENCODER_TYPES)
        width = layout.stem_width
        self.stem = style.conv(layout.image_shape[0] + layout.further_channels, width)
        self.feature_channels = [width]
        self.levels = nn.ModuleList()
        image_channels = layout.image_shape[0]
        for index, level_width in enumerate(layout.widths):
            level = EncoderLevel(width, index, layout, style)
            if index and kind == "skip":
                level.pyramid = InputSkip(image_channels, width, style)
            elif index and kind == "residual":
                level.pyramid = InputResidual(image_channels, width, style)
                image_channels = width
            self.levels.append(level)
            self.feature_channels += [width] * bool(index) + [level_width] * layout.num_blocks
            width = level_width

    def forward(
        self, image: Tensor, embedding: Tensor, further: Tensor | None = None
    ) -> list[Tensor]:
        """Return the features after each layer, coarsest last.

        Args:
            image: Images ``[B, C, H, W]``.
            embedding: Embeddings ``[B, embedding_dim]``.
            further: Further input channels of the first layer ``[B, C', H, W]``; None for none.
        """
        seen = image if further is None else torch.cat([image, further], dim=1)
        features = [self.stem(seen)]
        for level in self.levels:
            more, image = level(features[-1], image, embedding)
            features += more
        return features


class ToImage(nn.Module):
    """Output layers from features to an image that is near zero before training."""

    def __init__(self, width: int, image_channels: int, style: BlockStyle):
        super().__init__()
        self.norm = style.norm(width)
        self.conv = style.conv(width, image_channels, gain=style.image_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Return images ``[B, image_channels, H, W]`` from features ``[B, width, H, W]``."""
        return self.conv(F.silu(self.norm(x)))


class DecoderLevel(nn.Module):
    """Residual blocks of one level of the decoder.

    All levels but the coarsest begin by doubling the resolution.

    Args:
        in_channels: Number of input channels.
        skips: Numbers of channels of the encoder's features. The entries of this level are removed
            from the end of the list.
        level: Index of the level, 0 for the finest.
        layout: Sizes of the U-Net.
        style: Settings shared by the network's blocks.
    """

    def __init__(
        self, in_channels: int, skips: list[int], level: int, layout: Layout, style: BlockStyle
    ):
        super().__init__()
        width = layout.widths[level]
        coarsest = level == layout.depth - 1
        self.up = None if coarsest else ResidualBlock(in_channels, in_channels, style, "up")
        self.fir = FIRFilter(style.fir_taps)
        self.to_image: nn.Module | None = None
        self.blocks = nn.ModuleList()
        for index in range(layout.num_blocks + 1):
            here = index == layout.num_blocks or not layout.decoder_attends_once
            attends = here and layout.attends(level)
            block = ResidualBlock(in_channels + skips.pop(), width, style, attention=attends)
            self.blocks.append(block)
            in_channels = width

    def forward(
        self, x: Tensor, image: Tensor | None, skips: list[Tensor], embedding: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the new features and the new image, and remove used features from ``skips``.

        Args:
            x: Features of the coarser level.
            image: Image of the coarser levels; None if there is none.
            skips: Features of the encoder; one per block is removed from the end.
            embedding: Embeddings ``[B, embedding_dim]``.
        """
        if self.up is not None:
            x = self.up(x, embedding)
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        if self.to_image is None:
            return x, image
        finer = self.to_image(x)
        return x, finer if image is None else finer + self.fir.up(image)


class Decoder(nn.Module):
    """Decoder of a U-Net, from the encoder's features to images ``[B, C, H, W]``.

    Args:
        feature_channels: Numbers of channels of the encoder's features, coarsest last.
        layout: Sizes of the U-Net.
        style: Settings shared by the network's blocks.
        kind: A name in ``DECODER_TYPES``. With ``skip``, every level produces an image, and the
            output is the upsampled sum of the images.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        layout: Layout,
        style: BlockStyle,
        kind: str = "standard",
    ):
        super().__init__()
        require_known("decoder type", kind, DECODER_TYPES)
        skips, width = list(feature_channels), feature_channels[-1]
        middle = (ResidualBlock(width, width, style, attention=first) for first in (True, False))
        self.middle = nn.ModuleList(middle)
        self.levels = nn.ModuleList()  # coarsest first
        for index in reversed(range(layout.depth)):
            level = DecoderLevel(width, skips, index, layout, style)
            width = layout.widths[index]
            if kind == "skip" or index == 0:
                level.to_image = ToImage(width, layout.image_shape[0], style)
            self.levels.append(level)

    def forward(self, features: list[Tensor], embedding: Tensor) -> Tensor:
        """Return images ``[B, C, H, W]`` from the encoder's features and embeddings."""
        skips, x = list(features), features[-1]
        for block in self.middle:
            x = block(x, embedding)
        image: Tensor | None = None
        for level in self.levels:
            x, image = level(x, image, skips, embedding)
        assert image is not None
        return image
