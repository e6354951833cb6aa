"""The ablated diffusion model, ADM (Dhariwal and Nichol 2021, arXiv 2105.05233).

Against DDPM++: the embedding scales as well as shifts, heads of attention have 64 channels, more
blocks have attention, nothing divides by ``sqrt(2)``, and class labels enter the embedding late.
Settings are those of Karras et al. 2022 (arXiv 2206.00364, table 7).
"""

from collections.abc import Sequence

from training.networks.blocks import BlockStyle, fan_in_init
from training.networks.embedding import ConditionEmbedding, PositionalFeatures
from training.networks.encoder_decoder import Layout
from training.networks.unet import ImageUNet


class ADMUNet(ImageUNet):
    """ADM: 279.6 million parameters at 32 x 32, which made its name at 64 x 64 and above.

    Args:
        image_shape: ``(C, H, W)``, with H = W a power of two and at least 8.
        label_dim: Number of classes; 0 for none.
        augment_dim: Number of augmentation labels; 0 for none.
        model_channels: Channels of the finest level, but for its factor.
        channel_mult: Factor of each level.
        num_blocks: Residual blocks of an encoder level.
        attention_resolutions: Resolutions at which blocks have attention.
        dropout: Fraction of activations dropped in training.
        head_channels: Channels of one attention head.
        float32_frequencies: See ``PositionalFeatures``.
        rounded_heads: See ``BlockStyle``.
        pixel_waves: See ``ImageUNet``.
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
