"""Preconditioning: what stands between a network and its denoiser.

    D = c_skip x_tilde + c_out F(c_in x_tilde; c_noise)

The inflationary coefficients are those of Karras et al. 2022 (section 5) per eigen-dimension: with
data variance ``xi`` and noise variance ``gamma``,

    c_skip = xi / (xi + gamma),  c_out = sqrt(c_skip gamma),  c_in = 1 / sqrt(xi + gamma).

``c_skip`` is the best linear denoiser; F has inputs and targets of unit variance. The published
``c_out^2`` is a sum of four terms that can cancel below zero; this closed form is equal and cannot.

The isotropic baselines are those of Karras et al. 2022, table 1: ``edm`` with the mean of ``xi`` in
place of ``sigma_data^2``; ``vp`` and ``ve``, in which F predicts the noise.
"""

from collections.abc import Callable
from typing import NamedTuple

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


class Preconditioning(NamedTuple):
    """Coefficients ``[..., D]`` of the denoiser ``D = c_skip x_tilde + c_out F(c_in x_tilde)``.

    For clean points e and noisy points ``x_tilde = e + sqrt(gamma) n`` with standard normal n, the
    target of the network F, ``(e - c_skip x_tilde) / c_out``, equals ``clean_weight e +
    noise_weight n``. This form has no cancellation, however small the noise.

    Attributes:
        c_skip: Weight of the noisy points in the denoiser.
        c_out: Weight of the network output in the denoiser.
        c_in: Factor on the noisy points at the network's input.
        clean_weight: Weight of the clean points in the network's target.
        noise_weight: Weight of the noise in the network's target.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    clean_weight: Tensor
    noise_weight: Tensor


def per_dimension(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the coefficients for data variances ``xi [D]`` and noise variances ``[..., D]``."""
    total = data_variance + noise_variance
    c_skip, c_in, data_std = data_variance / total, total.rsqrt(), data_variance.sqrt()
    return Preconditioning(
        c_skip,
        c_out=(c_skip * noise_variance).sqrt(),
        c_in=c_in,
        clean_weight=c_in * noise_variance.sqrt() / data_std,
        noise_weight=-c_in * data_std,
    )


def edm(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the EDM coefficients, with the mean data variance in place of each variance."""
    return per_dimension(data_variance.mean(), noise_variance)


def vp(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the VP coefficients: noise prediction, with inputs scaled for unit data variance."""
    one = torch.ones_like(noise_variance)
    c_in = (1 + noise_variance).rsqrt()
    return Preconditioning(one, -noise_variance.sqrt(), c_in, 0 * one, one)


def ve(data_variance: Tensor, noise_variance: Tensor) -> Preconditioning:
    """Return the VE coefficients: noise prediction, with unscaled inputs."""
    one = torch.ones_like(noise_variance)
    return Preconditioning(one, noise_variance.sqrt(), one, 0 * one, -one)


PRECONDITIONINGS: dict[str, Callable[[Tensor, Tensor], Preconditioning]] = {
    "ifs": per_dimension,
    "edm": edm,
    "vp": vp,
    "ve": ve,
}
