"""Natural cubic splines in time: sums of values at nodes with weights that depend on t alone."""

import torch
from torch import Tensor, nn


class NaturalSpline(nn.Module):
    """Natural cubic spline interpolation in time between fixed nodes.

    The source is de Boor, *A Practical Guide to Splines*, chapter IV. Two continuous derivatives
    preserve the accuracy of high-order solvers; the kinks of linear interpolation would limit the
    accuracy to about 1e-6. A spline is linear in the values at its nodes, so one row of weights
    serves all dimensions, and gradients reach trained values.

    Args:
        times: Increasing times of the K nodes ``[K]``, at least two, float64.

    Raises:
        ValueError: The times do not increase, are too few, or are not finite float64.
    """

    times: Tensor
    units: Tensor
    bends: Tensor

    def __init__(self, times: Tensor):
        super().__init__()
        if times.ndim != 1 or len(times) < 2:
            raise ValueError(
                f"the node times have shape {tuple(times.shape)}: give [K] with K of at least 2"
            )
        if times.dtype != torch.float64:
            raise ValueError(f"the times of a spline have the type {times.dtype}: give float64")
        if not times.isfinite().all() or (times.diff() <= 0).any():
            raise ValueError(
                "the times of a spline are not finite and increasing: give finite, increasing times"
            )
        units = torch.eye(len(times), dtype=torch.float64, device=times.device)
        self.register_buffer("times", times)
        self.register_buffer("units", units, persistent=False)
        self.register_buffer("bends", _second_derivatives(times, units), persistent=False)

    def weights(self, t: Tensor) -> Tensor:
        """Return the interpolation weights ``[..., K]`` of the K node values at times ``[...]``.

        The interpolant is constant beyond the nodes.
        """
        flat = t.reshape(-1).to(self.times).contiguous()
        flat = flat.clamp(self.times[0], self.times[-1])
        after = torch.searchsorted(self.times, flat).clamp(1, len(self.times) - 1)
        # Uses index_select, since indexing by a tensor without dimensions waits for the device.
        nodes = (after - 1, after)
        start, end = (self.times.index_select(0, node) for node in nodes)
        low, high = (self.units.index_select(0, node) for node in nodes)
        bend_low, bend_high = (self.bends.index_select(0, node) for node in nodes)
        width = (end - start)[:, None]
        up = ((flat - start) / (end - start))[:, None]
        down = 1 - up
        cubic = (down**3 - down) * bend_low + (up**3 - up) * bend_high
        weights = down * low + up * high + width**2 / 6 * cubic
        return weights.reshape(*t.shape, -1)


def _second_derivatives(times: Tensor, values: Tensor) -> Tensor:
    """Return second derivatives ``[K, D]`` of natural cubic splines through values ``[K, D]``."""
    bends = torch.zeros_like(values)
    widths = times.diff()
    if len(widths) > 1:
        inner = torch.diag((widths[:-1] + widths[1:]) / 3)
        inner = inner + torch.diag(widths[1:-1] / 6, 1) + torch.diag(widths[1:-1] / 6, -1)
        rates = values.diff(dim=0) / widths[:, None]
        bends[1:-1] = torch.linalg.solve(inner, rates.diff(dim=0))
    return bends
