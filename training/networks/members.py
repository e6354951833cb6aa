"""Layers of several networks that run side by side."""

from math import sqrt

import torch
from torch import Tensor, nn


class MemberLinear(nn.Module):
    """A linear layer of each of K networks, with weights as ``nn.Linear`` draws them.

    Args:
        members: K.
        inputs: Units before the layer.
        outputs: Units after it.
    """

    def __init__(self, members: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``[K, B, outputs]`` of ``[K, B, inputs]``, or of ``[B, inputs]`` that all members see."""
        rows = x.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT)
