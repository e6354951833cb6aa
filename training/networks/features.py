"""Smooth features that tell a network how noisy its input is."""

from math import pi

import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError


class NoiseFeatures(nn.Module):
    """Cosines ``cos(pi k tau)``, ``k = 1..count``, of the noise condition scaled to [0, 1].

    Low frequencies only: what the network does between two times is then as smooth as the data
    allows, and high-order solvers pay.

    Args:
        noise_range: Noise conditions of the first and the last time, mapped to ``tau`` 0 and 1.
        count: Number of cosines.
    """

    frequencies: Tensor

    def __init__(self, noise_range: tuple[float, float], count: int = 8):
        super().__init__()
        self.low, self.high = noise_range
        if not self.low < self.high:
            raise UsageError(
                f"the noise range {noise_range} is empty: its end must exceed its start"
            )
        # Plain numbers, since arithmetic on the meta device imports the compiler.
        frequencies = torch.tensor([pi * index for index in range(1, count + 1)])
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        """``[...]`` to ``[..., count]``."""
        tau = (c_noise - self.low) / (self.high - self.low)
        return (tau[..., None] * self.frequencies).cos()
