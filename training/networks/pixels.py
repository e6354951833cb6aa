"""What an image network sees of the noisy pixels themselves, beside the whitened image.

Whitening makes small directions as loud as large ones, so that what is plain in pixels, an edge, a
background of one value, 17 gray levels, is spread over all of them and buried. With noise of the
variance ``v`` a pixel, a pixel u is seen as

    u / sqrt(1 + v)   and   exp(-w^2 v / 2) sin(w u),  exp(-w^2 v / 2) cos(w u),   w = pi 2^k.

Waves tell apart values that lie close together, as the Fourier features of Kingma et al. 2021
(*Variational diffusion models*) do. Each fades where noise as wide as its period blurs it anyway:
the factor is what noise leaves of the wave of a clean pixel on average.
"""

from math import pi

import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.names import MOST_WAVES


class PixelWaves(nn.Module):
    """Noisy pixels and their waves, as channels.

    Args:
        count: Number of wave lengths, from 2, the range of pixels, down by halves.

    Raises:
        UsageError: The number is not from 1 to ``MOST_WAVES``.
    """

    frequencies: Tensor

    def __init__(self, count: int):
        super().__init__()
        if not 1 <= count <= MOST_WAVES:
            raise UsageError(f"{count} waves of pixels: give from 1 to {MOST_WAVES}")
        # On the CPU, since arithmetic on the meta device imports the compiler.
        frequencies = torch.tensor([pi * 2**k for k in range(count)], device="cpu")
        self.register_buffer("frequencies", frequencies, persistent=False)

    @property
    def per_channel(self) -> int:
        """Channels that are made of one."""
        return 1 + 2 * len(self.frequencies)

    def forward(self, pixels: Tensor, noise_variance: Tensor) -> Tensor:
        """``[B, C, H, W]`` and variances ``[B]`` to ``[B, C (1 + 2 count), H, W]``."""
        variance = noise_variance[:, None, None, None]
        seen = [pixels * (1 + variance).rsqrt()]
        for frequency in self.frequencies:
            left = (-0.5 * frequency.square() * variance).exp()
            phase = frequency * pixels
            seen += [left * phase.sin(), left * phase.cos()]
        return torch.cat(seen, dim=1)
