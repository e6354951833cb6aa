"""Embedding networks of raw data: from series, images and sets to a few features.

Each network turns a condition into tokens ``h [B, P, W]`` and pools them by attention. H heads have
scores ``a = s(h)`` of their own (Ilse et al. 2018, "Attention-based deep multiple instance
learning"; Vaswani et al. 2017, section 3.2.2):

    pooled_k = sum_p softmax_p(a_kp) v_k(h_p).

- *Series* and *images*: residual convolutions (He et al. 2016, "Identity mappings in deep residual
  networks") that halve each side, after channels with the position, and with the mask of present
  points if some can be absent.
- *Sets*: a perceptron of each element (Zaheer et al. 2017, "Deep sets"). The result does not depend
  on absent elements, nor on the order.

Summary statistics (``training.flow.coordinates.raw``) pass beside the network.
"""

import copy
from collections.abc import Sequence
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.names import SETS

FEATURES, WIDTH, HEADS = 16, 32, 4
"""Number of learned features, of channels of a token, and of heads."""
LONGEST = {1: 32, 2: 8}
"""Longest side at which halving ends, by the number of sides."""
CHUNK = 16
"""Number of different conditions that are embedded together in evaluation."""


class RawEmbedding(nn.Module):
    """Features of raw data: learned features, and summary statistics.

    In evaluation, equal neighboring conditions are embedded once, in blocks of one size. The result
    for a condition then does not depend on the others.

    Args:
        kind: Kind of the data, a name in ``DATA_AS``.
        shape: Shape of one condition, channels last.
        varies: Whether elements can be absent; a mask then follows the values.
        summaries: Number S of summary statistics, the last inputs.
        learned: Number of learned features; 0 for none.
        module_class: Class of the user's network, which a file needs; empty for none.
        module: Network of the user's, which is copied; None for the network of the kind.

    Raises:
        UsageError: The user's network keeps statistics of batches.
    """

    def __init__(
        self,
        kind: str,
        shape: Sequence[int],
        varies: bool = False,
        summaries: int = 0,
        learned: int = FEATURES,
        module_class: str = "",
        module: nn.Module | None = None,
    ):
        super().__init__()
        self.shape, self.summaries, self.width = tuple(shape), summaries, learned + summaries
        self.masked = prod(self.shape[:-1]) if varies else 0
        parts = [] if module is None else module.modules()
        if any(getattr(part, "track_running_stats", False) for part in parts):
            raise UsageError(
                f"the embedding {type(module).__name__} keeps running statistics of batches: use "
                "GroupNorm or LayerNorm"
            )
        self.module = copy.deepcopy(module)
        self.network = None
        if module is None and learned:
            self.network = RawNetwork(kind, self.shape, varies, learned)

    @property
    def label_dim(self) -> int:
        """Number of input values per condition."""
        return prod(self.shape) + self.masked + self.summaries

    def forward(self, conditions: Tensor) -> Tensor:
        """Return features ``[B, width]`` of conditions ``[B, label_dim]``."""
        if self.training or not len(conditions):
            return self._features(conditions)
        new = (conditions[1:] != conditions[:-1]).any(dim=1)
        which = F.pad(new.cumsum(0), (1, 0))
        some = conditions[F.pad(new, (1, 0), value=True)]
        padded = F.pad(some, (0, 0, 0, -len(some) % CHUNK))
        return torch.cat([self._features(part) for part in torch.split(padded, CHUNK)])[which]

    def _features(self, conditions: Tensor) -> Tensor:
        sizes = [prod(self.shape), self.masked, self.summaries]
        flat, there, summaries = torch.split(conditions, sizes, dim=1)
        values = flat.reshape(-1, *self.shape)
        if self.module is not None:
            return torch.cat([self.module(values), summaries], dim=1)
        if self.network is None:
            return summaries
        return torch.cat([self.network(values, there), summaries], dim=1)


class RawNetwork(nn.Module):
    """Network from raw data to learned features.

    Args:
        kind: ``series``, ``images`` or ``sets``.
        shape: Shape of one condition, channels last.
        varies: Whether elements can be absent.
        features: Number of features.
    """

    def __init__(self, kind: str, shape: Sequence[int], varies: bool, features: int):
        super().__init__()
        *size, channels = shape
        self.of_sets = kind == SETS
        if self.of_sets:
            layers = [nn.Linear(channels, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)]
        else:
            convolution = nn.Conv1d if len(size) == 1 else nn.Conv2d
            inputs, length = channels + len(size) + varies, ceil(max(size) / 2)
            layers = [convolution(inputs, WIDTH, 5, stride=2, padding=2)]
            while len(layers) == 1 or length > LONGEST[len(size)]:
                layers.append(ConvolutionBlock(convolution))
                length = ceil(length / 2)
        self.tokens = nn.Sequential(*layers)
        self.norm, self.score = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HEADS)
        self.value, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, features)

    def forward(self, values: Tensor, there: Tensor) -> Tensor:
        """Return features ``[B, features]`` of standardized values ``[B, *shape]``.

        Args:
            values: Values, 0 where they are absent.
            there: Mask ``[B, P]`` of the present elements; ``[B, 0]`` if all are.
        """
        if self.of_sets:
            h = self.norm(self.tokens(values))
            scores = self.score(h).masked_fill(there[..., None] == 0, -1e9)
        else:
            lines = [torch.linspace(-1, 1, n, device=values.device) for n in values.shape[1:-1]]
            places = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
            parts = [values, places.to(values).expand(len(values), *places.shape)]
            if there.shape[1]:
                parts.append(there.reshape(*values.shape[:-1], 1))
            h = self.tokens(torch.cat(parts, dim=-1).movedim(-1, 1))
            h = self.norm(h.flatten(2).mT)
            scores = self.score(h)
        by_head = self.value(h).reshape(*h.shape[:2], HEADS, -1)
        return self.last(torch.einsum("bph,bphw->bhw", scores.softmax(dim=1), by_head).flatten(1))


class ConvolutionBlock(nn.Module):
    """Residual block of two convolutions that halves each side."""

    def __init__(self, convolution: type[nn.Conv1d] | type[nn.Conv2d]):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(4, WIDTH) for _ in range(2))
        self.layers = nn.ModuleList(convolution(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.pool = F.avg_pool1d if convolution is nn.Conv1d else F.avg_pool2d

    def forward(self, h: Tensor) -> Tensor:
        """Return features ``[B, W, ...]`` of half the size."""
        h = self.pool(h, 2, ceil_mode=True)
        branch = h
        for norm, layer in zip(self.norms, self.layers, strict=True):
            branch = layer(F.silu(norm(branch)))
        return h + branch
