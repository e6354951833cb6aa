"""The network of a student: what carries a point from one time to another in one call."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.networks.mlp import ToyMLP


class FlowMapMLP(nn.Module):
    """Mean slopes between two times, and the mean growth of volumes: ``ToyMLP`` with a second time.

    It starts as a given network F whatever the second time is, and with no growth.

    Args:
        time_features: Number of cosines of each time.
        width: Units of each hidden layer.
        sizes: Further arguments of ``ToyMLP``, of one network without dropout.

    Attributes:
        arguments: Of the constructor.
    """

    sizes_of = ToyMLP

    def __init__(self, time_features: int = 8, width: int = 128, **sizes: Any):
        super().__init__()
        self.arguments = {"time_features": time_features, "width": width, **sizes}
        self.body = ToyMLP(**self.arguments)
        self.label_dim = self.body.label_dim
        self.further = nn.Linear(2 * time_features, width, bias=False)
        self.growth = nn.Linear(width, 1)
        for weight in (self.further.weight, self.growth.weight, self.growth.bias):
            nn.init.zeros_(weight)

    def forward(
        self, z: Tensor, c_noise: Tensor, c_further: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """``[B, D + 1]``, slopes and growth.

        Args:
            z: Standardized states ``[B, D]``.
            c_noise: What tells their time, ``[]`` or ``[B]``.
            c_further: What tells the other time, likewise.
            labels: Conditions ``[B, L]``; of a network without, they are not looked at.
        """
        now, then = self.body.noise(c_noise), self.body.noise(c_further)
        seen = self.further(torch.cat([then - now, then], dim=-1))
        h = self.body.units(z, c_noise, labels, further=seen)
        return torch.cat([self.body.output(h), self.growth(h)], dim=1)

    @classmethod
    def of(cls, teacher: Mapping[str, Any]) -> "FlowMapMLP":
        """As large as the ``ToyMLP`` of these arguments."""
        return cls(**{**teacher, "dropout": 0.0, "members": 1})
