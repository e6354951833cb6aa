"""Embedding networks of raw data: from series, images and sets to a few features.

Each network turns a condition into tokens ``h [B, P, W]`` with a mask of present tokens, and pools
them by attention. H heads have scores ``a = s(h)`` of their own (Ilse et al. 2018, "Attention-based
deep multiple instance learning"; Vaswani et al. 2017, section 3.2.2):

    pooled_k = sum_p softmax_p(a_kp) v_k(h_p).

- *Series* of one length: residual convolutions (He et al. 2016, "Identity mappings in deep residual
  networks") that halve the length, after a channel with the position.
- *Images*: the same in two dimensions.
- *Sets*: a perceptron of each element (Zaheer et al. 2017, "Deep sets").
- *Series of different lengths*: patches of ``PATCH`` points, then self-attention (a transformer
  encoder) between patches with a present point, whose positions are sines and cosines.

The result does not depend on absent elements, nor on the order of a set. Summary statistics
(``training.flow.coordinates.raw``) pass beside the network.
"""

import copy
from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError

FEATURES, WIDTH, HEADS = 16, 32, 4
"""Number of learned features, of channels of a token, and of heads."""
MOST_TOKENS = 32
"""Length of a series, or side of an image times four, at which halving ends."""
PATCH, LAYERS = 4, 2
"""Points of a patch of a series of varying length, and layers of its encoder."""
CHUNK = 16
"""Number of different conditions that are embedded together in evaluation."""


class RawEmbedding(nn.Module):
    """Features of raw data: learned features, and summary statistics.

    In evaluation, equal neighboring conditions are embedded once, in blocks of one size. The result
    for a condition then does not depend on the others.

    Args:
        kind: Kind of the data: ``series``, ``images``, ``sets``, or ``arrays`` for a network of the
            user's.
        shape: Shape of one condition, channels last.
        varies: Whether elements can be absent; a mask then follows the values.
        summaries: Number S of summary statistics, the last inputs.
        learned: Number of learned features; 0 for none.
        module_class: Class of the user's network, for messages.
        module: Network of the user's, which is copied; None for the network of the kind.

    Raises:
        UsageError: The user's network is missing, or keeps statistics of batches.
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
        self.shape, self.varies, self.summaries = tuple(shape), varies, summaries
        if module_class and module is None:
            raise UsageError(
                f"the network embeds its conditions with a {module_class}: give an equal one as "
                "embedding="
            )
        self.module = copy.deepcopy(module)
        if module is not None and any(
            getattr(part, "track_running_stats", False) for part in module.modules()
        ):
            raise UsageError(
                f"the embedding {type(module).__name__} keeps running statistics of batches: use "
                "GroupNorm or LayerNorm"
            )
        self.tokens: nn.Module | None = None
        if module is None and learned:
            self.tokens = _tokens(kind, self.shape, varies)
            self.pool = AttentionPool(WIDTH, HEADS)
            self.last = nn.Linear(WIDTH + varies, learned)
        self.width = learned + summaries

    @property
    def label_dim(self) -> int:
        """Number of input values per condition."""
        return prod(self.shape) + self.varies * prod(self.shape[:-1]) + self.summaries

    def forward(self, conditions: Tensor) -> Tensor:
        """Return features ``[B, width]`` of conditions ``[B, label_dim]``."""
        if self.training or not len(conditions):
            return self._features(conditions)
        new = (conditions[1:] != conditions[:-1]).any(dim=1)
        which = F.pad(new.cumsum(0), (1, 0))
        some = conditions[F.pad(new, (1, 0), value=True)]
        padded = F.pad(some, (0, 0, 0, -len(some) % CHUNK))
        return torch.cat([self._features(part) for part in padded.split(CHUNK)])[which]

    def _features(self, conditions: Tensor) -> Tensor:
        sizes = [prod(self.shape), self.varies * prod(self.shape[:-1])]
        values, there, summaries = conditions.split([*sizes, self.summaries], dim=1)
        if self.module is not None:
            return self.module(values.unflatten(1, self.shape))
        if self.tokens is None:
            return summaries
        tokens, mask = self.tokens(values.unflatten(1, self.shape), there)
        pooled = self.pool(tokens, mask)
        if self.varies:
            number = there.sum(dim=1, keepdim=True).clamp_min(1)
            pooled = torch.cat([pooled, number.log()], dim=1)
        return torch.cat([self.last(pooled), summaries], dim=1)


def _tokens(kind: str, shape: Sequence[int], varies: bool) -> nn.Module:
    """Return the module from values ``[B, *shape]`` and mask to tokens and their mask."""
    *size, channels = shape
    if kind == "sets":
        return SetTokens(channels)
    return PatchTokens(channels) if varies else ConvolutionTokens(size, channels)


class AttentionPool(nn.Module):
    """Attention pooling of tokens ``[B, P, W]`` to ``[B, W]``; absent tokens have no weight."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.score, self.value = nn.Linear(width, heads), nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Return the pooled tokens for a mask ``[B, P]`` of present tokens; None if all are."""
        h = self.norm(tokens)
        scores = self.score(h)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], -1e9)
        values = self.value(h).unflatten(2, (self.heads, -1))
        return torch.einsum("bph,bphw->bhw", scores.softmax(dim=1), values).flatten(1)


class ConvolutionTokens(nn.Module):
    """Residual convolutions of series ``[B, T, K]`` or images ``[B, H, W, K]``."""

    def __init__(self, size: Sequence[int], channels: int):
        super().__init__()
        axes, size = len(size), list(size)
        convolution = nn.Conv1d if axes == 1 else nn.Conv2d
        lines = [torch.linspace(-1, 1, n, device="cpu") for n in size]
        self.register_buffer(
            "places", torch.stack(torch.meshgrid(*lines, indexing="ij")), persistent=False
        )
        self.first: nn.Module = convolution(channels + axes, WIDTH, 5, stride=2, padding=2)
        size = [ceil(n / 2) for n in size]
        blocks: list[nn.Module] = []
        while not blocks or max(size) > MOST_TOKENS // (1 if axes == 1 else 4):
            blocks.append(ConvolutionBlock(convolution))
            size = [ceil(n / 2) for n in size]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        """Return tokens ``[B, P, W]``, all of them present."""
        places = self.places.to(values).expand(len(values), *self.places.shape)
        h = self.first(torch.cat([values.movedim(-1, 1), places], dim=1))
        return self.blocks(h).flatten(2).mT, None


class ConvolutionBlock(nn.Module):
    """Residual block of two convolutions that halves each side."""

    def __init__(self, convolution: Any):
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


class SetTokens(nn.Module):
    """Perceptron of each element of sets ``[B, M, d]``."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``[B, M, W]`` and the mask of present ones."""
        return self.layers(values), mask > 0


class PatchTokens(nn.Module):
    """Transformer encoder of the patches of series ``[B, T, K]`` with absent points."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Linear(PATCH * (channels + 1), WIDTH)
        self.layers = nn.ModuleList(SelfAttention() for _ in range(LAYERS))

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens ``[B, P, W]`` and the mask of patches with a present point."""
        rows = F.pad(torch.cat([values, mask[..., None]], dim=2), (0, 0, 0, -mask.shape[1] % PATCH))
        patches = rows.unflatten(1, (-1, PATCH)).flatten(2)
        present = patches.unflatten(2, (PATCH, -1))[..., -1].any(dim=2)
        exponents = torch.arange(WIDTH // 2, device=values.device) / (WIDTH // 2)
        phase = torch.arange(patches.shape[1], device=values.device)[:, None] / 100**exponents
        h = self.first(patches) + torch.cat([phase.sin(), phase.cos()], dim=1)
        for layer in self.layers:
            h = layer(h, present)
        return h, present


class SelfAttention(nn.Module):
    """Layer of a transformer encoder that normalizes first (Xiong et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.parts, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, h: Tensor, present: Tensor) -> Tensor:
        """Return tokens ``[B, P, W]``, which attend to present tokens only."""
        parts = self.parts(self.norms[0](h)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mask = torch.where(present, 0.0, -1e9)[:, None, None]
        mixed = F.scaled_dot_product_attention(*parts, attn_mask=mask)
        h = h + self.join(mixed.transpose(1, 2).flatten(2))
        return h + self.narrow(F.silu(self.wide(self.norms[1](h))))
