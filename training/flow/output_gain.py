"""A gain of the network's output in each dimension of eigenspace, trained with the network."""

import torch
from torch import Tensor, nn

from training.flow.splines import NaturalSpline

NODES = 17
SPEED = 5.0
"""Of a gain over that of a weight: Adam moves either by about the learning rate in a step, but a
gain may have as far to go as 1 in a short run."""


class OutputGain(nn.Module):
    """``g_i(t)``, natural splines through trained values, 1 to begin with.

    What can be predicted of a dimension depends on its own noise, and differs most between kept and
    compressed ones. A network of images can hardly scale single eigenvectors, so that its output
    has one scale for all: too small where much can be predicted, too large where little. With its
    own factor, each dimension is scaled by what it is good for, while the network trains.

    Args:
        times: Nodes ``[K]``, increasing, at least two, float64.
        gains: ``g [K, D]`` at the nodes, floating point.

    Raises:
        ValueError: They do not belong together, or are not finite.
    """

    def __init__(self, times: Tensor, gains: Tensor):
        super().__init__()
        self.spline = NaturalSpline(times)
        if gains.ndim != 2 or len(gains) != len(times):
            shapes = f"times {tuple(times.shape)} and gains {tuple(gains.shape)}"
            raise ValueError(f"an output gain of {shapes}: it needs [K] and [K, D]")
        if not gains.is_floating_point() or not gains.isfinite().all():
            raise ValueError("an output gain must be of finite numbers in floating point")
        self.offsets = nn.Parameter((gains - 1) / SPEED)

    @property
    def gains(self) -> Tensor:
        """``g [K, D]`` at the nodes."""
        return 1 + SPEED * self.offsets.detach()

    @classmethod
    def ones(cls, t_min: float, t_max: float, dim: int) -> "OutputGain":
        """At ``NODES`` times from t_min to t_max."""
        times = torch.linspace(t_min, t_max, NODES, dtype=torch.float64)
        return cls(times, torch.ones(NODES, dim))

    def forward(self, t: Tensor) -> Tensor:
        """``g(t) [..., D]`` at times ``[...]``; before and after the nodes, that of the ends."""
        return 1 + SPEED * (self.spline.weights(t).to(self.offsets.dtype) @ self.offsets)
