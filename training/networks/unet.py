"""U-Nets for images: DDPM++, NCSN++ and ADM.

DDPM++ and NCSN++ are those of Song et al. 2021 (arXiv 2011.13456, app. H). ADM is the ablated
diffusion model (Dhariwal and Nichol 2021, arXiv 2105.05233).

Sizes and other settings are those of Karras et al. 2022 (arXiv 2206.00364, table 7). Compared with
DDPM++, the embedding of ADM scales as well as shifts, attention heads have 64 channels, more blocks
have attention, nothing is divided by ``sqrt(2)``, and class labels enter the embedding late.

Inputs and outputs are flat images ``[B, C H W]``, as in the flow. Inside, images are channels-last,
which is faster on most processors. If the side of an image cannot be halved evenly at all levels,
it gets a border of zeros, which is cropped at the end.

Networks can take the noisy pixels as inputs in addition to the whitened image. Whitening amplifies
small directions to the size of large ones. Simple structure in pixels, such as an edge, a
background of one value, or 17 gray levels, is then spread over all directions and hidden. With
noise of variance ``v`` per pixel, the inputs for a pixel u are

    u / sqrt(1 + v)   and   exp(-w^2 v / 2) sin(w u),  exp(-w^2 v / 2) cos(w u),   w = pi 2^k.

Waves separate nearby values, like the Fourier features of Kingma et al. 2021 (*Variational
diffusion models*). A wave fades as the noise becomes as wide as its period: the factor is the mean
attenuation, by noise, of a clean pixel's wave.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError, require_known
from training.names import MOST_WAVES
from training.networks.blocks import BlockStyle, fan_in_init
from training.networks.embedding import ConditionEmbedding, FourierFeatures, PositionalFeatures
from training.networks.encoder_decoder import Decoder, Encoder, Layout


class PixelWaves(nn.Module):
    """Input channels for noisy pixels: the pixels, and sines and cosines of their values.

    Wavelengths start at 2, the range of pixels, and halve ``count - 1`` times.

    Args:
        count: Number of frequencies.

    Raises:
        UsageError: ``count`` is not from 1 to ``MOST_WAVES``.
    """

    frequencies: Tensor

    def __init__(self, count: int):
        super().__init__()
        if not 1 <= count <= MOST_WAVES:
            raise UsageError(
                f"the number of frequencies of pixels is {count}: give from 1 to {MOST_WAVES}"
            )
        # On the CPU, since arithmetic on the meta device imports the compiler.
        frequencies = torch.tensor([pi * 2**k for k in range(count)], device="cpu")
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def per_channel(self) -> int:
        """Number of output channels per image channel."""
        return 1 + 2 * len(self.frequencies)

    def forward(self, pixels: Tensor, noise_variance: Tensor) -> Tensor:
        """Return the channels ``[B, C (1 + 2 count), H, W]`` of noisy pixels.

        Args:
            pixels: Noisy pixels ``[B, C, H, W]``.
            noise_variance: Noise variance of each image ``[B]``.
        """
        variance = noise_variance[:, None, None, None]
        seen = [pixels * (1 + variance).rsqrt()]
        for frequency in self.frequencies:
            left = (-0.5 * frequency.square() * variance).exp()
            phase = frequency * pixels
            seen += [left * phase.sin(), left * phase.cos()]
        return torch.cat(seen, dim=1)


# Class, and number of features per model channel.
NOISE_FEATURES: dict[str, tuple[type[nn.Module], int]] = {
    "positional": (PositionalFeatures, 1),
    "fourier": (FourierFeatures, 2),
}


class ImageUNet(nn.Module):
    """A U-Net for flattened images, conditioned on noise and labels.

    Args:
        layout: Sizes of the network.
        style: Settings shared by the network's blocks.
        embedding: Embedding of the noise condition and the labels.
        encoder_type: ``skip`` and ``residual`` feed downsampled images to the coarser levels.
        decoder_type: ``skip`` makes every level produce an image.
        pixel_waves: Number of waves of the noisy pixels as inputs; 0 for the whitened image only.
    """

    def __init__(
        self,
        layout: Layout,
        style: BlockStyle,
        embedding: ConditionEmbedding,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        pixel_waves: int = 0,
    ):
        super().__init__()
        self.image_shape = tuple(layout.image_shape)
        down = layout.sides[0] - self.image_shape[1]
        across = layout.sides[1] - self.image_shape[2]
        # Left, right, top and bottom, in the order of torch's padding.
        self._border = (across // 2, across - across // 2, down // 2, down - down // 2)
        self.waves = PixelWaves(pixel_waves) if pixel_waves else None
        if self.waves is not None:
            further = self.image_shape[0] * self.waves.per_channel
            layout = replace(layout, further_channels=further)
        self.embedding = embedding
        self.encoder = Encoder(layout, style, encoder_type)
        self.decoder = Decoder(self.encoder.feature_channels, layout, style, decoder_type)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        z: Tensor,
        c_noise: Tensor,
        labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
        pixels: Tensor | None = None,
        pixel_noise: Tensor | None = None,
    ) -> Tensor:
        """Return the network output F for flattened images.

        Args:
            z: Flattened images ``[B, C H W]``, scaled to unit variance.
            c_noise: Noise conditions ``[]`` or ``[B]``.
            labels: Class labels ``[B, label_dim]``, one-hot; None for zeros.
            augment_labels: Augmentation labels ``[B, augment_dim]``; None for zeros.
            pixels: Noisy images ``[B, C H W]``, for a network with ``pixel_waves``.
            pixel_noise: Noise variance of the noisy images ``[]`` or ``[B]``, for a network with
                ``pixel_waves``.

        Returns:
            The output F ``[B, C H W]``, in the dtype of z also under autocast.

        Raises:
            UsageError: The input does not have the shape of a batch of images, or noisy pixels are
                missing.
        """
        channels, height, width = self.image_shape
        if z.shape[1:] != (channels * height * width,):
            raise UsageError(
                f"the input has shape {tuple(z.shape)}, expected a batch of flattened "
                f"{channels} x {height} x {width} images"
            )
        image = self._bordered(z.reshape(-1, *self.image_shape))
        embedding = self.embedding(c_noise.expand(len(z)), labels, augment_labels)
        further = None
        if self.waves is not None:
            if pixels is None or pixel_noise is None:
                raise UsageError(
                    "this network needs noisy pixels: give pixels and pixel_noise with each image"
                )
            noisy = pixels.reshape(-1, *self.image_shape)
            further = self._bordered(self.waves(noisy, pixel_noise.expand(len(z))))
        features = self.encoder(image, embedding, further)
        bordered, (left, _, top, _) = self.decoder(features, embedding), self._border
        own = bordered[..., top : top + height, left : left + width]
        return own.flatten(1).to(z.dtype)

    def _bordered(self, images: Tensor) -> Tensor:
        """Return images ``[B, C, H, W]`` with a border of zeros."""
        if any(self._border):
            images = F.pad(images, self._border)
        return images.contiguous(memory_format=torch.channels_last)


class UNet(ImageUNet):
    """U-Net for images, of the family of DDPM++ and NCSN++.

    Args:
        image_shape: Shape ``(C, H, W)`` of the images, whose longer side is at least 8.
        label_dim: Number of classes; 0 for none.
        augment_dim: Number of augmentation labels; 0 for none.
        model_channels: Number of channels of the finest level, before its factor.
        channel_mult: Factor of each level.
        num_blocks: Number of residual blocks per encoder level.
        attention_resolutions: Resolutions at which blocks have attention.
        dropout: Fraction of activations dropped in training.
        noise_features: Kind of the noise features: ``positional``, or ``fourier`` for twice as many
            random Fourier features.
        float32_frequencies: See ``PositionalFeatures``.
        pixel_waves: See ``ImageUNet``.
        encoder_type: See ``ImageUNet``.
        decoder_type: See ``ImageUNet``.
        fir_taps: Filter of the resampling.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        num_blocks: int = 4,
        attention_resolutions: Sequence[int] = (16,),
        dropout: float = 0.13,
        noise_features: str = "positional",
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        fir_taps: Sequence[float] = (1, 1),
        float32_frequencies: bool = False,
        pixel_waves: int = 0,
    ):
        require_known("noise_features", noise_features, NOISE_FEATURES)
        widths = [factor * model_channels for factor in channel_mult]
        layout = Layout(image_shape, model_channels, widths, num_blocks, attention_resolutions)
        style = BlockStyle(4 * model_channels, dropout, fir_taps=fir_taps)
        make_features, factor = NOISE_FEATURES[noise_features]
        width = factor * model_channels
        precision = {"float32": float32_frequencies} if noise_features == "positional" else {}
        features = make_features(width, **precision)
        embedding = ConditionEmbedding(features, width, style, label_dim, augment_dim)
        super().__init__(layout, style, embedding, encoder_type, decoder_type, pixel_waves)


class DDPMpp(UNet):
    """DDPM++ network: the defaults of ``UNet``, with 55.7 million parameters at 32 x 32."""


class NCSNpp(UNet):
    """NCSN++ network: DDPM++ with Fourier features, an image pyramid and smoother resampling."""

    def __init__(
        self,
        image_shape: Sequence[int],
        *,
        noise_features: str = "fourier",
        encoder_type: str = "residual",
        fir_taps: Sequence[float] = (1, 3, 3, 1),
        **sizes: Any,
    ):
        super().__init__(
            image_shape,
            noise_features=noise_features,
            encoder_type=encoder_type,
            fir_taps=fir_taps,
            **sizes,
        )


class ADMUNet(ImageUNet):
    """ADM network, with 279.6 million parameters at 32 x 32; best known for 64 x 64 and above.

    Args:
        head_channels: Number of channels per attention head; other arguments are those of ``UNet``.
        rounded_heads: See ``BlockStyle``.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_blocks: int = 3,
        attention_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        head_channels: int = 64,
        float32_frequencies: bool = False,
        rounded_heads: bool = False,
        pixel_waves: int = 0,
    ):
        widths = [factor * model_channels for factor in channel_mult]
        layout = Layout(
            image_shape,
            stem_width=widths[0] if widths else 0,
            widths=widths,
            num_blocks=num_blocks,
            attention_resolutions=attention_resolutions,
            decoder_attends_once=False,
        )
        style = BlockStyle(
            embedding_dim=4 * model_channels,
            dropout=dropout,
            eps=1e-5,
            scaled_by_embedding=True,
            residual_scale=1.0,
            projected_resampling=False,
            head_channels=head_channels,
            rounded_heads=rounded_heads,
            init=fan_in_init,
            last_gain=0.0,
            image_gain=0.0,
            qkv_gain=1.0,
        )
        features = PositionalFeatures(
            model_channels, last=False, cosines_first=True, float32=float32_frequencies
        )
        embedding = ConditionEmbedding(
            features, model_channels, style, label_dim, augment_dim, late_labels=True
        )
        super().__init__(layout, style, embedding, pixel_waves=pixel_waves)
