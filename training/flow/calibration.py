"""Calibration of a network denoiser: a gain and a slope for each dimension and time.

A network F is trained on the sum of the squared errors of all dimensions, and its output has one
scale for all of them. If some dimensions are predictable and others are not (at middle times, the
kept and the compressed ones), that scale is a compromise: too small for the first, too large for
the second, right on average. The correction is a linear regression in each dimension, of the target
y of F on F itself and on its input ``z = c_in x_tilde``,

    y_i ~ alpha_i(t) F_i - beta_i(t) z_i.

The *gain* alpha is fitted to clean data plus noise, the distribution p_t on which F was trained.
Write F' and y' for the residuals of linear regressions of F and of y - F on z. Then alpha = 1 + b
with ``b = E[F'y'] / E[F'^2]``. For n clean points j with a few noise draws each, b has the variance

    V = sum_j (mean of F'y' over the noises of j)^2 / (n E[F'^2])^2.

The variance is large where F hardly varies, and where a few points dominate, as for pixels that are
almost always black. A normal prior of mean 1 and standard deviation s, ``PRIOR_STD``, shrinks the
estimate to ``1 + b / (1 + V / s^2)``. If a single point determines F', this is within s/2 of 1.

The *slope* beta controls the variances of inflated points. Along the probability-flow ODE the
unscaled state, written x here, obeys ``dx_i/dt = (r_i/2) (x_i - D_i)`` with ``r_i = d log gamma_i /
dt``, hence

    d E[x_i^2] / dt = r_i E[x_i (x_i - D_i)].

Let ``f_i = xi_i / (xi_i + gamma_i)`` be the best linear denoiser. If ``E[(D_i - f_i x_i) x_i] = 0``
at all times, the right side is ``r_i gamma_i E[x_i^2] / (xi_i + gamma_i)``, so that ``E[x_i^2]``
stays in proportion to ``xi_i + gamma_i(t)``, the closed form. The optimal denoiser has this
property (regression residuals are uncorrelated with the input); a trained network has it only
approximately. The missing part is

    beta_i(t) = E[alpha_i F_i z_i] / E[z_i^2] - tau_i,     tau_i = sqrt(gamma_i / v_i)
                                                                   (xi_i - v_i) / (xi_i + gamma_i).

``v`` is the data variance assumed by the preconditioning. The term tau vanishes if v equals the
variance of the data. Otherwise it is the slope that maps the preconditioning's linear denoiser to
the best one.

Sampling noise of the points must not become a slope: a slope of 0.01, the noise level of 10,000
points, changes a variance by 3 percent if it persists at all times. So the prior of beta is an even
mixture of 0 and a normal distribution of standard deviation s (spike and slab, Mitchell and
Beauchamp 1988). For an estimate b whose variance V, as for a gain, sums the squared contributions
of points, the posterior mean is

    w b / (1 + V/s^2),   w / (1 - w) = exp(b^2/2V / (1 + V/s^2)) / sqrt(1 + s^2/V):

with V = s^2/2500, an eighth of b if b is two standard errors, and nearly all of b if it is four. A
gain scales what the network already predicts, so its sampling noise matters little and it needs no
spike.

The methods differ in the points over which means are taken. ``marginal`` uses draws from p_t.
``path`` uses the states that the calibrated flow itself reaches from p at the first time. It
therefore accounts for earlier errors in the distribution of states, and inflated variances are
right by construction. It moves from node to node by Heun's method for ``x_hat_i = x_i / sqrt(xi_i +
gamma_i)``, which removes the linear part of the ODE:

    dx_hat_i/dt = (r_i/2) (f_i x_i - D_i) / sqrt(xi_i + gamma_i),

with beta refitted to the states of each of the two stages. ``gain`` fits no slope.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from dnnlib.errors import require_known
from torch_utils import distributed
from torch_utils.seeds import normal_numbers
from torch_utils.streams import Stream
from training.flow.calls import BlockwiseDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.preconditioning import Preconditioning
from training.flow.schedules import NoiseSchedule
from training.flow.splines import NaturalSpline
from training.names import METHODS

NODES = 17
"""Number of times of a fit.

For a network of digits, inflated variances were 48 % off on average over the kept dimensions. With
9, 17 and 33 times they were 1.0, 0.2 and 0.1 % off.
"""

PRIOR_STD = 0.5
"""Prior standard deviation of gains around 1, and of nonzero slopes around 0.

On digits, gains of kept dimensions are between 0.7 and 2.1, and slopes are below 0.5.
"""
GAIN_DRAWS = 4
"""Number of noise draws per point for the gains."""
TINY = torch.finfo(torch.float64).tiny

BLOCK = 250
"""Points per network call: little memory without gradients, and nearly full speed."""


class Calibration(nn.Module):
    """Correction of a network output F to ``gain(t) F - slope(t) z``, where z is the input.

    Gains and slopes differ between the D dimensions, and are natural splines in the time t.

    Args:
        times: Increasing times ``[K]`` of the spline nodes, at least two.
        gains: Gains ``alpha [K, D]`` at these times.
        slopes: Slopes ``beta [K, D]`` at these times.

    Raises:
        ValueError: Shapes do not match, or values are not finite float64.
    """

    gains: Tensor
    slopes: Tensor

    def __init__(self, times: Tensor, gains: Tensor, slopes: Tensor):
        super().__init__()
        self.spline = NaturalSpline(times)
        if slopes.ndim != 2 or len(slopes) != len(times) or gains.shape != slopes.shape:
            shapes = [tuple(values.shape) for values in (times, gains, slopes)]
            raise ValueError(
                f"a calibration has arrays of shapes {shapes}: expected [K], [K, D] and [K, D]"
            )
        for values in (gains, slopes):
            if values.dtype != torch.float64 or not values.isfinite().all():
                raise ValueError(
                    "the gains and slopes of a calibration must be finite float64 numbers: check "
                    "the output of the network"
                )
        self.register_buffer("gains", gains)
        self.register_buffer("slopes", slopes)

    @property
    def times(self) -> Tensor:
        """Increasing times ``[K]`` of the nodes of the splines."""
        return self.spline.times

    def forward(self, residual: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Return the corrected network output ``[B, D]``, float64.

        Args:
            residual: Network output ``F [B, D]``.
            z: Network input ``[B, D]``.
            t: Times ``[]`` or ``[B]``.
        """
        gains, slopes = self.at(t)
        return gains * residual - slopes * z

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return gains and slopes ``[..., D]`` at times ``[...]``."""
        weights = self.spline.weights(t)
        return weights @ self.gains, weights @ self.slopes


class CalibratedNetwork(Protocol):
    """Interface of a network denoiser that ``fit_calibration`` can calibrate."""

    basis: EigenBasis
    schedule: NoiseSchedule
    data_variance: Tensor

    def coefficients(self, t: Tensor) -> Preconditioning:
        """Return the preconditioning coefficients at times ``[]`` or ``[B]``."""
        ...

    def residual(self, z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the network output ``F [B, D]`` in eigenspace, for inputs z of unit variance."""
        ...


def fit_calibration(
    denoiser: CalibratedNetwork,
    points: Tensor,
    times: Tensor,
    seed: int,
    method: str = "gain",
    block: int = BLOCK,
    conditions: Mapping[str, Tensor] | None = None,
    on_node: Callable[[], object] = lambda: None,
) -> Calibration:
    """Fit the gains and slopes of a calibration, on the points of all ranks together.

    Args:
        denoiser: The denoiser to calibrate, with the preconditioning ``ifs``; an earlier
            calibration of the denoiser is ignored.
        points: Clean points ``[n, D]`` in eigenspace: this rank's shard, see ``distributed.shard``.
        times: Increasing times ``[K]`` of the fit; trajectories of the method ``path`` start at the
            first time.
        seed: Random seed of the noise.
        method: A name in ``METHODS``, which selects how slopes are fitted; ``gain`` fits no slopes.
        block: Number of points per network evaluation.
        conditions: Conditions of the points by name, for example ``labels [n, L]``.
        on_node: Called after the gains at each time, then after the slopes at each time, for a
            progress bar.

    Raises:
        UsageError: The method is unknown.
        ValueError: The network returns values that are not finite.
    """
    require_known("method", method, METHODS)
    clean = points.double()
    # Blocks are padded to their size, so a block should not exceed the number of points.
    block = min(block, max(1, len(clean)))
    fit = _Fit(denoiser, clean, times.to(clean), seed, block, conditions or {}, on_node)
    with torch.no_grad():
        return fit.calibration(method)


def calls_of_fit(times: int, method: str) -> int:
    """Return the number of network evaluations per point of a calibration.

    Args:
        times: Number of times of the fit.
        method: A name in ``METHODS``.
    """
    return times * (GAIN_DRAWS + {"gain": 0, "marginal": 1, "path": 2}[method])


@dataclass(eq=False)
class _Fit:
    """A network and the points to fit its calibration to; see ``fit_calibration``."""

    denoiser: CalibratedNetwork
    clean: Tensor
    times: Tensor
    seed: int
    block: int
    conditions: Mapping[str, Tensor]
    on_node: Callable[[], object]

    def __post_init__(self) -> None:
        self.total = int(distributed.sum_over_ranks(self.clean.new_tensor([len(self.clean)])))
        self.residual = BlockwiseDenoiser(self.denoiser.residual, self.block)

    def calibration(self, method: str) -> Calibration:
        noises = [self._noise(draw) for draw in range(GAIN_DRAWS)]
        gains = torch.stack([self._noted(self._gain(t, noises)) for t in self.times])
        if method == "path":
            slopes = self._slopes_along_path(gains)
        elif method == "marginal":
            slopes = self._marginal_slopes(gains)
        else:
            slopes = torch.zeros_like(gains)
        return Calibration(self.times, gains, slopes)

    def _noted(self, values: Tensor) -> Tensor:
        """Report that one time is done, and return its values."""
        self.on_node()
        return values

    def _gain(self, t: Tensor, noises: list[Tensor]) -> Tensor:
        """Return the gains ``alpha [D]`` at a time."""
        c = self.denoiser.coefficients(t)
        products, squares = torch.zeros_like(self.clean), torch.zeros_like(self.clean)
        for noise in noises:
            z = c.c_in * self._spread(t) * self._noisy(t, noise)
            out = self.residual(z, t, **self.conditions)
            error = c.clean_weight * self.clean + c.noise_weight * noise - out
            zz, out_z, error_z = self._sums(z * z, out * z, error * z)
            out, error = out - out_z / zz * z, error - error_z / zz * z
            products += out * error
            squares += out * out
        # Noise draws of one point are not independent evidence; points are.
        score, information, scatter = self._sums(products, squares, products.square())
        weight = information * PRIOR_STD**2
        return 1 + weight * score / (weight * information + scatter).clamp(min=TINY)

    def _sums(self, *values: Tensor) -> Tensor:
        """Return sums over the points of all ranks, ``[..., D]``, for values ``[n, D]`` each."""
        return distributed.sum_over_ranks(torch.stack([value.sum(0) for value in values]))

    def _marginal_slopes(self, gains: Tensor) -> Tensor:
        """Return ``beta [K, D]`` under the distribution of data plus noise."""
        noise = self._noise(0)
        fitted = [
            self._noted(self._evaluate(self._noisy(t, noise), t, gain)[0])
            for t, gain in zip(self.times, gains, strict=True)
        ]
        return torch.stack(fitted)

    def _slopes_along_path(self, gains: Tensor) -> Tensor:
        """Return ``beta [K, D]`` under the distributions that the calibrated flow produces."""
        nodes = list(zip(self.times, gains, strict=True))
        first, gain = nodes[0]
        states = self._noisy(first, self._noise(0))
        slope, velocity = self._evaluate(states, first, gain)
        slopes = [self._noted(slope)]
        for (start, _), (end, gain) in pairwise(nodes):
            step = end - start
            _, predicted = self._evaluate(states + step * velocity, end, gain)
            states = states + step / 2 * (velocity + predicted)
            slope, velocity = self._evaluate(states, end, gain)
            slopes.append(self._noted(slope))
        return torch.stack(slopes)

    def _noise(self, draw: int) -> Tensor:
        """Return unit noise ``[n, D]`` for this rank's points.

        The noise is a function of the seed, the draw and the global row.
        """
        shape = (self.total, self.clean.shape[1])
        noise = normal_numbers(shape, self.seed, Stream.CALIBRATION_NOISE, draw)
        return noise[distributed.shard(self.total)].to(self.clean.device)

    def _noisy(self, t: Tensor, noise: Tensor) -> Tensor:
        """Return states ``x_hat [n, D]`` under the distribution of data plus noise."""
        gamma = self.denoiser.schedule.noise_variance(t)
        return (self.clean + gamma.sqrt() * noise) / self._spread(t)

    def _spread(self, t: Tensor) -> Tensor:
        """Return ``sqrt(xi + gamma) [D]``, the standard deviations of the unscaled states at t."""
        basis, schedule = self.denoiser.basis, self.denoiser.schedule
        return (basis.eigenvalues + schedule.noise_variance(t)).sqrt()

    def _evaluate(self, states: Tensor, t: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``beta [D]`` for states ``x_hat [n, D]``, and ``dx_hat/dt [n, D]`` with it.

        ``D - f x`` is ``c_out (alpha F - (beta + tau) z)``, and ``beta + tau`` is the slope of
        ``alpha F`` on z.
        """
        data, counted_on = self.denoiser.basis.eigenvalues, self.denoiser.data_variance
        gamma = self.denoiser.schedule.noise_variance(t)
        spread, c = self._spread(t), self.denoiser.coefficients(t)
        z = c.c_in * spread * states
        out = gain * self.residual(z, t, **self.conditions)
        tau = (gamma / counted_on).sqrt() * (data - counted_on) / (data + gamma)
        rest = out - tau * z
        products = rest * z
        slope = _slope(*self._sums(products, z.square(), products.square()))
        rest = rest - slope * z
        velocity = -self.denoiser.schedule.log_noise_rate(t) / 2 * c.c_out / spread * rest
        return slope, velocity


def _slope(score: Tensor, information: Tensor, scatter: Tensor) -> Tensor:
    """Return the posterior mean ``[D]`` of ``b = score / information``.

    Its variance is ``scatter / information^2``. The arguments are sums of products, of squares, and
    of squared products.
    """
    ratio = (information.square() * PRIOR_STD**2 / scatter.clamp(min=TINY)).clamp(max=1 / TINY)
    shrunk = 1 / (1 + 1 / ratio.clamp(min=TINY))
    evidence = score.square() / scatter.clamp(min=TINY)
    weight = torch.sigmoid((evidence * shrunk - ratio.log1p()) / 2)
    return weight * shrunk * score / information.clamp(min=TINY)
