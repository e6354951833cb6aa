"""What a network sees of many conditions, or of an image or a series of them."""

from collections.abc import Sequence
from math import ceil, prod

from torch import Tensor, nn

FEATURES, WIDTH = 32, 64
"""Features that come out, and units of a hidden layer."""
CHANNELS, MOST_CHANNELS = 16, 64
"""Of the first convolution; each further one has twice as many, up to a limit."""
SMALLEST = 4
"""Length up to which a direction is not halved any more."""


class ConditionEmbedding(nn.Module):
    """Few features of many conditions, trained with the network that sees them.

    Conditions of shape ``[C]`` go through a perceptron with one hidden layer. Those of ``[C, L]``
    are a series, those of ``[C, H, W]`` an image, of C channels: convolutions halve it until it is
    ``SMALLEST`` long, and a linear layer takes what is left.

    Args:
        shape: Of the conditions of one point.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.shape = tuple(shape)
        channels, *size = self.shape
        layers: list[nn.Module] = []
        if size:
            convolution = nn.Conv1d if len(size) == 1 else nn.Conv2d
            wide = CHANNELS
            while max(size) > SMALLEST or not layers:
                layers += [convolution(channels, wide, 3, stride=2, padding=1), nn.SiLU()]
                channels, wide = wide, min(2 * wide, MOST_CHANNELS)
                size = [ceil(length / 2) for length in size]
            layers += [nn.Flatten(), nn.Linear(channels * prod(size), FEATURES)]
        else:
            layers += [nn.Linear(channels, WIDTH), nn.SiLU(), nn.Linear(WIDTH, FEATURES)]
        self.layers = nn.Sequential(*layers)

    def forward(self, conditions: Tensor) -> Tensor:
        """Features ``[B, FEATURES]`` of conditions ``[B, L]``, the shape flattened."""
        out: Tensor = self.layers(conditions.view(-1, *self.shape))
        return out
