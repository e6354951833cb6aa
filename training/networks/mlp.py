"""The default network for toys: a residual multilayer perceptron."""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.networks.features import NoiseFeatures

BOUND = 4.0


class ToyMLP(nn.Module):
    """``F(z, c_noise)`` as a stack of ``h + silu(linear(h))``.

    Beside z itself the network sees ``sin`` and ``cos`` of ``k pi/5 z_i``, with periods from 10 to
    2.5 standard deviations, z being bounded by 4 so that far points do not alias. Without them
    training can stick for good: a dimension that is nearly Gaussian (the thickness of a sheet, say)
    starts with so weak a signal that its input weights shrink before its output weights have grown,
    and then neither has a gradient.

    Args:
        dim: Number of data dimensions D.
        noise_range: See ``NoiseFeatures``.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        time_features: Number of cosines of the noise condition.
        input_features: Number of frequencies k per data dimension.
        dropout: Fraction of the hidden activations dropped in training.
    """

    frequencies: Tensor

    def __init__(
        self,
        dim: int,
        noise_range: tuple[float, float],
        width: int = 128,
        depth: int = 5,
        time_features: int = 8,
        input_features: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout is {dropout:g}: it must be at least 0 and less than 1")
        self.noise = NoiseFeatures(noise_range, time_features)
        frequencies = [pi / (BOUND + 1) * index for index in range(1, input_features + 1)]
        self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)
        self.input = nn.Linear(dim * (1 + 2 * input_features) + time_features, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, dim)
        # F = 0 makes D the best linear denoiser: training starts from there.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, z: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """``z [B, D]`` and ``c_noise`` (``[]`` or ``[B]``) to ``[B, D]``; there are no labels."""
        noise = self.noise(c_noise).expand(len(z), -1)
        bounded = BOUND * torch.tanh(z / BOUND)
        waves = (bounded[..., None] * self.frequencies).flatten(1)
        h = self.input(torch.cat([z, waves.sin(), waves.cos(), noise], dim=1))
        for layer in self.hidden:
            h = h + self.dropout(F.silu(layer(h)))
        return self.output(h)
