"""A gain of the network's output in each dimension of eigenspace, trained with the network."""

import torch
from torch import Tensor, nn

from training.flow.splines import NaturalSpline

NODES = 17
SPEED = 5.0
"""Speed of a gain relative to a weight.

Adam changes either by about the learning rate per step, but a gain may have to change by 1 in a
short run.
"""


class OutputGain(nn.Module):
    """Trained factors ``g_i(t)`` on the network output, for each eigen-dimension i and time t.

    Gains are natural splines in time through trained values, which start at 1. How well a dimension
    can be predicted depends on its own noise, and differs most between kept and compressed
    dimensions. A network for images can hardly scale single eigenvectors, so that its output has
    one scale for all dimensions: too small for predictable dimensions, too large for unpredictable
    dimensions. A gain per dimension gives each its own scale during training.

    Args:
        times: Increasing times ``[K]`` of the spline nodes, at least two, float64.
        gains: Gains ``g [K, D]`` at the nodes, floating point.

    Raises:
        ValueError: Shapes do not match, or values are not finite.
    """

    def __init__(self, times: Tensor, gains: Tensor):
        super().__init__()
        self.spline = NaturalSpline(times)
        if gains.ndim != 2 or len(gains) != len(times):
            shapes = f"times of shape {tuple(times.shape)} and gains of shape {tuple(gains.shape)}"
            raise ValueError(
                f"an output gain has arrays of shapes {shapes}: expected [K] and [K, D]"
            )
        if not gains.is_floating_point() or not gains.isfinite().all():
            raise ValueError(
                "the stored gains of the network output are not finite floating-point numbers: "
                "restore the file from a copy"
            )
        self.offsets = nn.Parameter((gains - 1) / SPEED)

    @property
    def gains(self) -> Tensor:
        """Gains ``g [K, D]`` at the nodes."""
        return 1 + SPEED * self.offsets.detach()

    @classmethod
    def ones(cls, t_min: float, t_max: float, dim: int) -> "OutputGain":
        """Return constant gains of 1 in ``dim`` dimensions, for times from t_min to t_max."""
        times = torch.linspace(t_min, t_max, NODES, dtype=torch.float64)
        return cls(times, torch.ones(NODES, dim))

    def forward(self, t: Tensor) -> Tensor:
        """Return the gains ``g(t) [..., D]`` at times ``[...]``, constant beyond the nodes."""
        return 1 + SPEED * (self.spline.weights(t).to(self.offsets.dtype) @ self.offsets)
