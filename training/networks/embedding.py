"""Embedding of noise condition, class label and augmentation for image networks.

Positional features are those of Song et al. 2021 for DDPM++ and, with cosines first, of Dhariwal
and Nichol 2021 for ADM. Random Fourier features are those of NCSN++.
"""

from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.networks.blocks import BlockStyle


class PositionalFeatures(nn.Module):
    """Sines and cosines of the noise condition, at frequencies from 1 down to 1/10000.

    Args:
        width: Number of features.
        last: Whether the lowest frequency is 1/10000; otherwise the next higher frequency of the
            geometric sequence is the lowest.
        cosines_first: Whether cosines are the first half of the features; otherwise sines are.
        float32: Whether frequencies are computed in single precision, as in networks of the
            original code. At a noise condition of 15,000 their rounding errors change phases by
            1e-3.
    """

    frequencies: Tensor

    def __init__(
        self, width: int, last: bool = True, cosines_first: bool = False, float32: bool = False
    ):
        super().__init__()
        count = _half(width)
        self.cosines_first = cosines_first
        # On the CPU, since arithmetic on the meta device imports the compiler.
        dtype = torch.float32 if float32 else torch.float64
        exponents = torch.arange(count, dtype=dtype, device="cpu") / max(count - int(last), 1)
        frequencies = (1e-4**exponents).float()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        """Return features ``[B, width]`` of noise conditions ``[B]``."""
        phase = c_noise[:, None] * self.frequencies
        waves = (phase.cos(), phase.sin()) if self.cosines_first else (phase.sin(), phase.cos())
        return torch.cat(waves, dim=1)


class FourierFeatures(nn.Module):
    """Random Fourier features of the noise condition: sines, then cosines, of ``2 pi f c_noise``.

    The frequencies f are drawn from N(0, 16^2). Frequencies are not trained, but stored in the
    network file.

    Args:
        width: Number of features, even.
    """

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        # On the CPU, since arithmetic on the meta device imports the compiler.
        self.register_buffer("frequencies", 16.0 * torch.randn(_half(width), device="cpu"))

    def forward(self, c_noise: Tensor) -> Tensor:
        """Return features ``[B, width]`` of noise conditions ``[B]``."""
        phase = c_noise[:, None] * (2 * pi * self.frequencies)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


def _half(width: int) -> int:
    if width < 2 or width % 2:
        raise UsageError(
            f"{width} noise features cannot be half sines, half cosines: give an even number"
        )
    return width // 2


class ConditionEmbedding(nn.Module):
    """Embedding e of noise condition, class labels and augmentation labels, by two layers.

    Args:
        features: Module from noise conditions ``[B]`` to noise features ``[B, width]``.
        width: Number of noise features.
        style: Settings shared by the network's blocks.
        label_dim: Number of classes; 0 for none.
        augment_dim: Number of augmentation labels; 0 for none.
        late_labels: Whether class labels are added after the two layers (ADM); otherwise class
            labels are added to the noise features.
    """

    def __init__(
        self,
        features: nn.Module,
        width: int,
        style: BlockStyle,
        label_dim: int = 0,
        augment_dim: int = 0,
        late_labels: bool = False,
    ):
        super().__init__()
        self.features, self.late_labels = features, late_labels
        self.label_dim, self.augment_dim = label_dim, augment_dim
        self.augment = self.label = None
        if augment_dim:
            gain = 0.0 if late_labels else 1.0
            self.augment = style.linear(augment_dim, width, bias=False, gain=gain)
        if label_dim and late_labels:
            self.label = nn.Linear(label_dim, style.embedding_dim, bias=False)
            nn.init.normal_(self.label.weight)
        elif label_dim:
            self.label = style.linear(label_dim, width)
        self.first = style.linear(width, style.embedding_dim)
        self.second = style.linear(style.embedding_dim, style.embedding_dim)

    def forward(
        self, c_noise: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        """Return the embedding ``[B, embedding_dim]``.

        Args:
            c_noise: Noise conditions ``[B]``.
            labels: Class labels ``[B, label_dim]``; None for zeros.
            augment_labels: Augmentation labels ``[B, augment_dim]``; None for zeros.

        Raises:
            UsageError: The labels of an image do not have the length that the network expects.
        """
        h = self.features(c_noise)
        size = len(c_noise)
        augment_labels = _labels_or_zeros(augment_labels, size, self.augment_dim, h, "augmentation")
        labels = _labels_or_zeros(labels, size, self.label_dim, h, "class")
        if self.augment is not None:
            h = h + self.augment(augment_labels)
        if self.label is not None and not self.late_labels:
            # Entries of one-hot labels have mean square 1/label_dim; those of the features have
            # 1/2.
            h = h + self.label(labels * sqrt(self.label_dim))
        h = self.second(F.silu(self.first(h)))
        if self.label is not None and self.late_labels:
            h = h + self.label(labels)
        return F.silu(h)


def _labels_or_zeros(labels: Tensor | None, size: int, dim: int, like: Tensor, kind: str) -> Tensor:
    if labels is None:
        return like.new_zeros(size, dim)
    if labels.shape != (size, dim):
        raise UsageError(
            f"{kind} labels of {size} images have shape {tuple(labels.shape)}: give {dim} values "
            "per image"
        )
    return labels.to(like.dtype)
