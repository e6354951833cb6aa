"""Calibration of a network denoiser: a gain and a slope for each dimension and time.

A network F is trained on the sum of the squared errors of all dimensions, and one scale of its
output serves them all. Where some can be predicted and others cannot, as kept and compressed ones
at middle times, it ends between: too small in the first, too large in the second, right in the
mean. What corrects it is, in each dimension, a linear regression of the target y of F on F itself
and on its input ``z = c_in x_tilde``,

    y_i ~ alpha_i(t) F_i - beta_i(t) z_i.

The *gain* alpha is fitted to clean data plus noise, the law p_t that F was trained on. Write F' and
y' for what z does not explain, linearly, of F and of y - F. Then alpha = 1 + b with
``b = E[F'y'] / E[F'^2]``. From n clean points j, each with a few noises, b has the variance

    V = sum_j (mean of F'y' over the noises of j)^2 / (n E[F'^2])^2.

It is large where F hardly varies, and where a few points decide, as for pixels that are seldom
anything but black. A normal prior of mean 1 and std s, ``PRIOR_STD``, makes of the estimate
``1 + b / (1 + V / s^2)``; where F' is that of a single point, this is within s/2 of 1.

The *slope* beta decides the variances of a melt. Along the probability-flow ODE the unscaled state,
written x here, obeys ``dx_i/dt = (r_i/2) (x_i - D_i)`` with ``r_i = d log gamma_i / dt``, hence

    d E[x_i^2] / dt = r_i E[x_i (x_i - D_i)].

Let ``f_i = xi_i / (xi_i + gamma_i)`` be the best linear denoiser. If ``E[(D_i - f_i x_i) x_i] = 0``
at all times, the right side is ``r_i gamma_i E[x_i^2] / (xi_i + gamma_i)``, so that ``E[x_i^2]``
stays in proportion to ``xi_i + gamma_i(t)``, the closed form. The optimal denoiser has this
property (regression leaves a rest that is uncorrelated with its input); a trained network has it
but nearly. The missing part is

    beta_i(t) = E[alpha_i F_i z_i] / E[z_i^2] - tau_i,     tau_i = sqrt(gamma_i / v_i)
                                                                   (xi_i - v_i) / (xi_i + gamma_i).

``v`` is the data variance that the preconditioning counts on; tau vanishes where it is the data's
own, and else is the slope that takes the preconditioning's linear denoiser to the best one.

What is only the scatter of the points must not become a slope: 0.01, which is the noise of 10,000
of them, held at all times, changes a variance by 3 percent. So beta is, a priori, 0 or drawn from a
normal law of std s, with even odds (spike and slab, Mitchell and Beauchamp 1988). Of an estimate b
with variance V, which like that of a gain sums the squares of what each point adds, this makes its
posterior mean,

    w b / (1 + V/s^2),   w / (1 - w) = exp(b^2/2V / (1 + V/s^2)) / sqrt(1 + s^2/V):

with V = s^2/2500, an eighth of b where it is two standard errors, and nearly all of it where it is
four. A gain scales what the network knows, so that its scatter does little; it needs no spike.

Means over which points? ``marginal`` takes those of p_t. ``path`` takes the states at which the
calibrated flow itself has arrived, starting from p at the first time: errors of the law that the
flow makes earlier count, and the variances of a melt come out right by construction. It goes from
node to node by Heun's method for ``x_hat_i = x_i / sqrt(xi_i + gamma_i)``, in which the linear part
of the ODE is gone:

    dx_hat_i/dt = (r_i/2) (f_i x_i - D_i) / sqrt(xi_i + gamma_i),

with beta fitted anew to the states of each of the two stages. ``gain`` fits no slope.
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
"""Times of a fit. With 9, 17, 33 of them, melted variances of a network of digits were 1.0, 0.2,
0.1 % off in the mean over its kept dimensions, where they had been 48 % off."""

PRIOR_STD = 0.5
"""Of gains about 1, and of slopes about 0 that are none: on digits, gains of kept dimensions lie
between 0.7 and 2.1, and slopes below 0.5."""
GAIN_DRAWS = 4
"""Noises that each point gets for the gains."""
TINY = torch.finfo(torch.float64).tiny

BLOCK = 250
"""Points of one network call: little memory without gradients, and nearly full speed."""


class Calibration(nn.Module):
    """What becomes of a network's output F: ``gain(t) F - slope(t) z``, natural splines in t.

    Args:
        times: Increasing ``[K]``, at least two.
        gains: ``alpha [K, D]`` at these times.
        slopes: ``beta [K, D]`` at these times.

    Raises:
        ValueError: They do not belong together, or are not finite float64.
    """

    gains: Tensor
    slopes: Tensor

    def __init__(self, times: Tensor, gains: Tensor, slopes: Tensor):
        super().__init__()
        self.spline = NaturalSpline(times)
        if slopes.ndim != 2 or len(slopes) != len(times) or gains.shape != slopes.shape:
            shapes = [tuple(values.shape) for values in (times, gains, slopes)]
            raise ValueError(f"a calibration of shapes {shapes}: it needs [K], [K, D] and [K, D]")
        for values in (gains, slopes):
            if values.dtype != torch.float64 or not values.isfinite().all():
                raise ValueError("a calibration must be in float64, and finite")
        self.register_buffer("gains", gains)
        self.register_buffer("slopes", slopes)

    @property
    def times(self) -> Tensor:
        return self.spline.times

    def forward(self, residual: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The corrected output ``[B, D]``, in float64, of ``F [B, D]`` and its input ``[B, D]`` at
        times ``[]`` or ``[B]``."""
        gains, slopes = self.at(t)
        return gains * residual - slopes * z

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Gains and slopes ``[..., D]`` at times ``[...]``."""
        weights = self.spline.weights(t)
        return weights @ self.gains, weights @ self.slopes


class CalibratedNetwork(Protocol):
    """What a fit needs to know of a network denoiser."""

    basis: EigenBasis
    schedule: NoiseSchedule
    data_variance: Tensor

    def coefficients(self, t: Tensor) -> Preconditioning: ...

    def residual(self, z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor: ...


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
    """Fits gains and slopes at the given times, to the points of all ranks together.

    Args:
        denoiser: The denoiser to calibrate, with the coefficients of ``ifs``; its own calibration
            is not used.
        points: Clean ``[n, D]`` in eigenspace: this rank's share, as ``distributed.shard`` cuts it.
        times: Increasing ``[K]``; the path starts at the first.
        seed: Seed of the noise.
        method: A name in ``METHODS``: which slopes to fit with the gains, or none.
        block: Points of one network call.
        conditions: Such as ``labels [n, L]``.
        on_node: Called for each of the times of gains, then of slopes, for a progress bar.

    Raises:
        UsageError: An unknown method.
        ValueError: The network gives values that are not finite.
    """
    require_known("method", method, METHODS)
    clean = points.double()
    # A block is filled up to its size: no more than there is to fill it with.
    block = min(block, max(1, len(clean)))
    fit = _Fit(denoiser, clean, times.to(clean), seed, block, conditions or {}, on_node)
    with torch.no_grad():
        return fit.calibration(method)


def calls_of_fit(times: int, method: str) -> int:
    """Network calls of a point that a fit at so many times takes."""
    return times * (GAIN_DRAWS + {"gain": 0, "marginal": 1, "path": 2}[method])


@dataclass(eq=False)
class _Fit:
    """One network, and the points to fit it to; see ``fit_calibration``."""

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
        """Values of one time, which are done."""
        self.on_node()
        return values

    def _gain(self, t: Tensor, noises: list[Tensor]) -> Tensor:
        """``alpha [D]``."""
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
        # Noises of one point are not independent evidence: it is points that are.
        score, information, scatter = self._sums(products, squares, products.square())
        weight = information * PRIOR_STD**2
        return 1 + weight * score / (weight * information + scatter).clamp(min=TINY)

    def _sums(self, *values: Tensor) -> Tensor:
        """Over the points of all ranks, of each of ``[n, D]``: ``[..., D]``."""
        return distributed.sum_over_ranks(torch.stack([value.sum(0) for value in values]))

    def _marginal_slopes(self, gains: Tensor) -> Tensor:
        """``beta [K, D]`` under the law of the data with noise."""
        noise = self._noise(0)
        fitted = [
            self._noted(self._evaluate(self._noisy(t, noise), t, gain)[0])
            for t, gain in zip(self.times, gains, strict=True)
        ]
        return torch.stack(fitted)

    def _slopes_along_path(self, gains: Tensor) -> Tensor:
        """``beta [K, D]`` under the laws that the calibrated flow makes."""
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
        """Unit noise ``[n, D]`` of this rank's points, a function of the seed, the draw and the
        global row."""
        shape = (self.total, self.clean.shape[1])
        noise = normal_numbers(shape, self.seed, Stream.CALIBRATION_NOISE, draw)
        return noise[distributed.shard(self.total)].to(self.clean.device)

    def _noisy(self, t: Tensor, noise: Tensor) -> Tensor:
        """States ``x_hat [n, D]`` under the law of the data with noise."""
        gamma = self.denoiser.schedule.noise_variance(t)
        return (self.clean + gamma.sqrt() * noise) / self._spread(t)

    def _spread(self, t: Tensor) -> Tensor:
        """``sqrt(xi + gamma) [D]``: the standard deviations of the unscaled states at t."""
        basis, schedule = self.denoiser.basis, self.denoiser.schedule
        return (basis.eigenvalues + schedule.noise_variance(t)).sqrt()

    def _evaluate(self, states: Tensor, t: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """``beta [D]`` of states ``x_hat [n, D]``, and with it their ``dx_hat/dt [n, D]``.

        ``D - f x`` is ``c_out (alpha F - (beta + tau) z)``, and ``beta + tau`` the slope of
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
    """The posterior mean ``[D]`` of ``b = score / information``, with variance ``scatter /
    information^2``: sums of products, of squares, and of the products' squares."""
    ratio = (information.square() * PRIOR_STD**2 / scatter.clamp(min=TINY)).clamp(max=1 / TINY)
    shrunk = 1 / (1 + 1 / ratio.clamp(min=TINY))
    evidence = score.square() / scatter.clamp(min=TINY)
    weight = torch.sigmoid((evidence * shrunk - ratio.log1p()) / 2)
    return weight * shrunk * score / information.clamp(min=TINY)
