"""Denoisers ``D(x_tilde, t) = E[clean | x_tilde]`` in eigenspace, their calibration, and wrappers.

``NetworkDenoiser`` wraps a network in the coefficients of ``preconditioning``.

``MixtureDenoiser`` is exact for Gaussian mixtures with a shared covariance. Its special case
``DiscreteDenoiser`` is exact for a finite set of points. Both reduce to softmax attention.

Wrappers of a denoiser: fixed conditions, blocks of one shape, and recomputed gradients.

The shapes of inputs, and the place of a row among them, determine the order of summation in
convolutions and matrix products. The result for a row is therefore the same in every batch up to a
few units of rounding, and not bit for bit. Blocks of one shape keep the differences small: without
them, products of few rows may take other kernels.

Calibration of a network denoiser: a gain and a slope for each dimension and time.

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

The method ``path`` takes means over the states that the calibrated flow itself reaches from p at
the first time. It therefore accounts for earlier errors in the distribution of states, and inflated
variances are right by construction. It moves from node to node by Heun's method for ``x_hat_i = x_i
/ sqrt(xi_i + gamma_i)``, which removes the linear part of the ODE:

    dx_hat_i/dt = (r_i/2) (f_i x_i - D_i) / sqrt(xi_i + gamma_i),

with beta refitted to the states of each of the two stages. ``gain`` fits no slope.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log, pi
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnnlib.errors import require_known
from torch_utils import distributed
from torch_utils.seeds import normal_numbers
from torch_utils.streams import Stream
from training.flow.eigenbasis import EigenBasis
from training.flow.preconditioning import (
    PRECONDITIONINGS,
    NaturalSpline,
    OutputGain,
    Preconditioning,
)
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import Velocity
from training.names import METHODS, NOISE_CONDITIONINGS, SPACES

Call = Callable[..., Tensor]
"""Type of a denoiser: ``D(x [B, D], t [] or [B], **conditions [B, ...]) -> [B, D]``."""
BLOCK_ROWS = {"cpu": 16, "cuda": 128}
"""Rows per call by device type: enough for nearly full speed."""


def prepared(denoiser: Call, conditions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return conditions after the denoiser's preprocessing, or unchanged if it has none.

    Conditions are preprocessed once for many evaluations of the denoiser.
    """
    prepare = getattr(denoiser, "prepared", None)
    return conditions if prepare is None else prepare(conditions)


def with_trace(
    denoiser: Call, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return denoised points ``[B, D]`` and weighted traces ``[B]`` of the denoiser's Jacobian.

    See ``NetworkDenoiser.with_trace`` for the arguments. The result is None if the denoiser has no
    method for traces, or if points have different times.
    """
    own = getattr(denoiser, "with_trace", None)
    return None if own is None or t.ndim else own(x, t, factors, **conditions)


class ConditionedDenoiser:
    """A denoiser with the same named conditions in every call, for example ``labels [B, L]``.

    Conditions have one row per point, or one row for all points.
    """

    def __init__(self, denoiser: Call, conditions: Mapping[str, Tensor]):
        self._denoiser, self._conditions = denoiser, prepared(denoiser, conditions)

    def __call__(self, x: Tensor, t: Tensor, **further: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of noisy points x at times t, given conditions."""
        rows = {k: v.expand(len(x), *v.shape[1:]) for k, v in self._conditions.items()}
        return self._denoiser(x, t, **rows, **further)

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **further: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return denoised points and weighted traces of the denoiser's Jacobian, or None.

        See ``NetworkDenoiser.with_trace`` for the arguments. The result is None if the denoiser
        does not compute traces.
        """
        rows = {k: v.expand(len(x), *v.shape[1:]) for k, v in self._conditions.items()}
        return with_trace(self._denoiser, x, t, factors, **rows, **further)


class BlockwiseDenoiser:
    """A denoiser that evaluates blocks of exactly ``rows`` rows, and pads the last block.

    Padding rows are zeros, with a time of the same block. The result for a row therefore depends on
    that row alone, up to a few units of rounding, and memory does not grow with the batch.
    """

    def __init__(self, denoiser: Call, rows: int):
        self._denoiser, self._rows = denoiser, rows

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of ``x [B, D]`` at times ``[]`` or ``[B]``."""
        parts = []
        for start in range(0, len(x), self._rows):
            block = {name: self._block(rows, start) for name, rows in conditions.items()}
            times = self._times(t, start) if t.ndim else t
            parts.append(self._denoiser(self._block(x, start), times, **block))
        return torch.cat(parts)[: len(x)] if parts else x

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return denoised points and weighted traces of the Jacobian, computed in blocks.

        See ``NetworkDenoiser.with_trace`` for the arguments. The result is None if the denoiser
        does not compute traces.
        """
        parts = []
        for start in range(0, len(x), self._rows):
            block = {name: self._block(rows, start) for name, rows in conditions.items()}
            part = with_trace(self._denoiser, self._block(x, start), t, factors, **block)
            if part is None:
                return None
            parts.append(part)
        if not parts:
            return None
        values, traces = (torch.cat(column)[: len(x)] for column in zip(*parts, strict=True))
        return values, traces

    def prepared(self, conditions: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return conditions after the denoiser's preprocessing, which is computed in blocks."""
        counts = {len(rows) for rows in conditions.values()}
        count = max(counts, default=0)
        if not hasattr(self._denoiser, "prepared") or counts != {count} or not count:
            return conditions
        parts = [
            prepared(self._denoiser, {k: self._block(v, start) for k, v in conditions.items()})
            for start in range(0, count, self._rows)
        ]
        return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}

    def _times(self, t: Tensor, start: int) -> Tensor:
        block = t[start : start + self._rows]
        # Padding times are not zeros: a schedule need not include time 0.
        return torch.cat([block, block[-1:].expand(self._rows - len(block))])

    def _block(self, rows: Tensor, start: int) -> Tensor:
        block = rows[start : start + self._rows]
        missing = self._rows - len(block)
        return F.pad(block, (0, 0, 0, missing)) if missing else block


class RecomputedDenoiser:
    """A denoiser that recomputes its calls in the backward pass instead of storing activations.

    The wrapped denoiser must be deterministic, hence in evaluation mode. If rows are computed in
    blocks, gradients take the memory of one block.
    """

    def __init__(self, denoiser: Call):
        self._denoiser = denoiser

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of ``x [B, D]`` at times ``[]`` or ``[B]``."""
        if not torch.is_grad_enabled():
            return self._denoiser(x, t, **conditions)
        return repeated(partial(self._denoiser, **conditions), x, t)


def repeated(function: Callable[[Tensor, Tensor], Any], x: Tensor, t: Tensor) -> Any:
    """Call a deterministic function with checkpointing, so that the backward pass recomputes it."""
    return checkpoint(function, x, t, use_reentrant=False, preserve_rng_state=False)


class CountedVelocity:
    """A velocity function that counts its calls, and can recompute them in the backward pass.

    Args:
        velocity: The velocity to call, which may also compute its divergence (``FlowVelocity``).
        repeats: Whether to recompute calls in the backward pass instead of storing activations.

    Attributes:
        calls: Number of calls so far.
    """

    def __init__(self, velocity: Velocity, repeats: bool):
        self._velocity, self._repeats, self.calls = velocity, repeats, 0

    def with_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the velocity ``[B, D]`` and its divergence ``[B]``.

        The result is None if the velocity does not compute its divergence itself.
        """
        divergence = getattr(self._velocity, "with_divergence", None)
        if divergence is None:
            return None
        known = repeated(divergence, x, t) if self._repeats else divergence(x, t)
        self.calls += known is not None
        return known

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``[B, D]`` of states ``x [B, D]``, and count the call."""
        self.calls += 1
        return repeated(self._velocity, x, t) if self._repeats else self._velocity(x, t)


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
    return times * (GAIN_DRAWS + {"gain": 0, "path": 2}[method])


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
        along_path = method == "path"
        slopes = self._slopes_along_path(gains) if along_path else torch.zeros_like(gains)
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


FLOAT32_DDPM = "ddpm_float32"
"""Noise conditioning of networks trained with the original code."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Type of a denoiser: from noisy points ``[B, D]`` and times ``[]`` or ``[B]`` to means ``[B, D]``.

The means are those of clean points.
"""


class NetworkDenoiser(nn.Module):
    """A denoiser made of a network F and preconditioning coefficients.

    Args:
        network: Network ``F(z [B, D], c_noise [] or [B], **conditions) -> [B, D]``. A network with
            ``waves`` also gets the noisy pixels, see ``ImageUNet``.
        basis: Eigenbasis with the data variances ``xi`` and the rotation W.
        schedule: Noise schedule ``gamma(t)``.
        space: Coordinates of the network's input and output: ``ES`` for eigenspace, or ``IS`` for
            image space, with rotations before and after the network. The loss has the same value in
            both spaces.
        noise_cond: Noise input of the network. ``log``: a quarter of the log of the largest noise
            standard deviation, smooth in t; ``ddpm``: ``999 t``, for networks trained with this
            input; ``ddpm_float32``: the same with t in float32.
        preconditioning: A name in ``PRECONDITIONINGS``.
        data_variance: Data variance ``[D]`` assumed by the coefficients, not negative. None for the
            variances of the basis, with small values raised to allow divisions in the loss.
        output_gain: Trained gains of the network's output; None for no gains.

    Attributes:
        precision: A name in ``PRECISIONS``: the precision of the network. The coefficients and the
            loss stay in single precision or better.
        calibration: Correction of the network's output in ``forward``; None for no correction.
    """

    data_variance: Tensor

    def __init__(
        self,
        network: nn.Module,
        basis: EigenBasis,
        schedule: NoiseSchedule,
        space: str = "ES",
        noise_cond: str = "log",
        preconditioning: str = "ifs",
        data_variance: Tensor | None = None,
        output_gain: OutputGain | None = None,
    ):
        super().__init__()
        require_known("space", space, SPACES)
        require_known("noise_cond", noise_cond, (*NOISE_CONDITIONINGS, FLOAT32_DDPM))
        require_known("precond", preconditioning, PRECONDITIONINGS)
        self.network, self.basis, self.schedule = network, basis, schedule
        self.output_gain = output_gain
        self.space, self.noise_cond, self.preconditioning = space, noise_cond, preconditioning
        self.precision = "fp32"
        self.calibration: Calibration | None = None
        variance = basis.floored_variance() if data_variance is None else data_variance
        self.register_buffer("data_variance", variance.to(basis.eigenvalues))

    @property
    def asks(self) -> bool:
        """Whether labels are conditional queries, already in the coordinates of the flow."""
        return bool(getattr(self.network, "asks", False))

    @property
    def is_trivial(self) -> bool:
        """Whether the network output is 0, as before training: the denoiser is then linear."""
        output = getattr(self.network, "output", None)
        return isinstance(output, nn.Linear) and not output.weight.any() and not output.bias.any()

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of noisy points x in eigenspace, in the dtype of x.

        Args:
            x: Noisy points ``[B, D]`` in eigenspace.
            t: Times ``[]`` or ``[B]``.
            conditions: Further inputs of the network, for example ``labels [B, L]``.
        """
        c = self._coefficients_in(x.dtype, t)
        z = c.c_in * x
        return self._denoised(x, c, z, t, self.residual(z, t, **conditions))

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return the denoised points D(x) ``[B, D]`` and weighted traces of the Jacobian ``[B]``.

        The trace is ``sum_i factors_i dD_i/dx_i``. Returns None if the network does not compute
        traces itself.

        Args:
            x: Noisy points ``[B, D]`` in eigenspace.
            t: Time ``[]``.
            factors: Weights of the dimensions in the trace ``[D]``.
            conditions: Further inputs of the network, for example ``labels [B, L]``.
        """
        traces = getattr(self.network, "with_trace", None)
        if traces is None or t.ndim or self.network.training or self.precision != "fp32":
            return None
        if self.asks and torch.is_grad_enabled():  # whose traces have no gradients
            return None
        c = self._coefficients_in(x.dtype, t)
        z = c.c_in * x
        straight, inner = c.c_skip * factors, c.c_out * factors
        if self.calibration is not None:
            gains, slopes = self.calibration.at(t)
            straight, inner = straight - slopes * inner * c.c_in, gains * inner
        if self.output_gain is not None:
            inner = self.output_gain(t) * inner
        matrix = (inner * c.c_in).diag()
        c_noise = self.noise_condition(t).to(torch.get_default_dtype())
        rows = z
        if self.space == "IS":
            rows = self.basis.rotate_back(z)
            matrix = self.basis.rotate_back(self.basis.rotate_back(matrix).T)
        out, trace = traces(rows.to(c_noise.dtype), c_noise, matrix, **conditions)
        denoised = self._denoised(x, c, z, t, self._in_eigenspace(out.to(z.dtype), t))
        return denoised, straight.sum() + trace.to(x.dtype)

    def residual(self, z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the network output ``[B, D]`` times its gain, for inputs z with unit variances.

        Inputs and outputs are in eigenspace.

        Rotations and the result have the dtype of z.
        """
        c_noise = self.noise_condition(t).to(torch.get_default_dtype())
        rows = self.basis.rotate_back(z) if self.space == "IS" else z
        if getattr(self.network, "waves", None) is not None:
            conditions |= self._pixels(z, t)
        with self.autocast(z.device.type):
            out = self.network(rows.to(c_noise.dtype), c_noise, **conditions).to(z.dtype)
        return self._in_eigenspace(out, t)

    def _in_eigenspace(self, out: Tensor, t: Tensor) -> Tensor:
        """Rotate the network's output ``[B, D]`` to eigenspace if needed, and apply its gain."""
        out = self.basis.rotate(out) if self.space == "IS" else out
        return out if self.output_gain is None else self.output_gain(t).to(out.dtype) * out

    def _denoised(
        self, x: Tensor, c: Preconditioning, z: Tensor, t: Tensor, residual: Tensor
    ) -> Tensor:
        """Combine x, z and the residual, after calibration, into ``D [B, D]``."""
        if self.calibration is not None:
            residual = self.calibration(residual, z, t)
        return (c.c_skip * x + c.c_out * residual).to(x.dtype)

    def prepared(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return conditions ``[B, ...]`` with features that the network computes from labels alone.

        The features are computed once for many calls. If the network computes no such features,
        conditions are returned unchanged.
        """
        features_of = getattr(self.network, "features_of", None)
        if features_of is None or "labels" not in conditions:
            return dict(conditions)
        labels = conditions["labels"].to(torch.get_default_dtype())
        with torch.set_grad_enabled(labels.requires_grad), self.autocast(labels.device.type):
            return {**conditions, "features": features_of(labels)}

    def _pixels(self, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Return the noisy pixels of ``z [B, D]``, and their average noise variance."""
        noisy = self.basis.from_eigen(z / self.coefficients(t).c_in.to(z.dtype))
        dtype = torch.get_default_dtype()
        noise = self.schedule.noise_variance(t).mean(dim=-1)
        return {"pixels": noisy.to(dtype), "pixel_noise": noise.to(dtype)}

    def autocast(self, device_type: str) -> AbstractContextManager[object]:
        """Return a context that makes the network compute in its precision on a type of device."""
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(device_type, dtype)

    def _coefficients_in(self, dtype: torch.dtype, t: Tensor) -> Preconditioning:
        """Return the preconditioning at times, computed in full precision and then rounded."""
        return Preconditioning(*(each.to(dtype) for each in self.coefficients(t)))

    def coefficients(self, t: Tensor) -> Preconditioning:
        """Return the preconditioning coefficients at times ``[]`` or ``[B]``."""
        noise_variance = self.schedule.noise_variance(t)
        return self.coefficients_under(noise_variance.to(self.data_variance.dtype))

    def coefficients_under(self, noise_variance: Tensor) -> Preconditioning:
        """Return the preconditioning coefficients for noise variances ``gamma [..., D]``."""
        precondition = PRECONDITIONINGS[self.preconditioning]
        return precondition(self.data_variance.to(noise_variance.dtype), noise_variance)

    def noise_condition(self, t: Tensor) -> Tensor:
        """Return the network's noise input ``[...]`` for times ``[...]``."""
        return noise_condition(self.schedule, t, self.noise_cond)


def noise_condition(schedule: NoiseSchedule, t: Tensor, kind: str) -> Tensor:
    """Return the network's noise input ``[...]`` for times t ``[...]``; see ``NetworkDenoiser``."""
    if kind == "log":
        return schedule.reference_log_noise(t) / 8
    # Fourier features amplify a rounding error of t a thousandfold.
    return 999 * (t.float() if kind == FLOAT32_DDPM else t)


class MixtureDenoiser(nn.Module):
    """Exact denoiser of a Gaussian mixture with a shared covariance.

    The mixture is ``sum_k w_k N(A m_k, A S A^T)``, and the noise ``N(0, diag gamma(t))``. In the
    eigenspace of a basis with mean mu and axes W, the components are ``N(o + B m_k, B S B^T)`` with
    ``B = W^T A`` and ``o = -W^T mu``. With noise, all have the covariance ``V = B S B^T + diag
    gamma``, and by Tweedie's formula

        D     = x - gamma V^-1 (x - o - B m_bar),
        m_bar = sum_k softmax_k(log(w_k N(x; o + B m_k, V))) m_k.

    The softmax over components is attention with keys built from the ``m_k``, so the fused
    attention kernel applies. Queries are processed in chunks, which bounds memory without a fused
    kernel.

    Args:
        weights: Weights ``w [K]`` of the components.
        means: Means ``m [K, d]`` of the components.
        covariance: Shared covariance ``S [d, d]``; zero for a set of points.
        embedding: Linear embedding ``A [D, d]`` with orthonormal columns.
        basis: Eigenbasis of the coordinates of x.
        schedule: Noise schedule ``gamma(t)``.
        chunk_elements: Maximum number of (point, component) pairs per chunk.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariance: Tensor,
        embedding: Tensor,
        basis: EigenBasis,
        schedule: NoiseSchedule,
        chunk_elements: int = 1 << 22,
    ):
        super().__init__()
        self.basis, self.schedule, self.chunk_elements = basis, schedule, chunk_elements
        axes = basis.eigenvectors.T @ embedding.double()
        means = means.double()
        # A query times a key is the log evidence, up to terms that all components share.
        outer = (-0.5 * means[:, :, None] * means[:, None, :]).flatten(1)
        keys = torch.cat([means, outer, weights.double().log()[:, None]], dim=1)
        self.register_buffer("keys", keys)
        self.register_buffer("means", means)
        self.register_buffer("axes", axes)
        self.register_buffer("covariance", axes @ covariance.double() @ axes.T)
        self.register_buffer("origin", -basis.eigenvectors.T @ basis.mean)

    keys: Tensor
    means: Tensor
    axes: Tensor
    covariance: Tensor
    origin: Tensor

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the means ``[B, D]`` of clean points given noisy points x, in the dtype of x."""
        centered = x.double() - self.origin
        gamma = self.schedule.noise_variance(t.double())
        precision, _ = self._noisy_precision(gamma)
        queries = self._queries(centered, precision)
        count, dim = self.means.shape
        values = F.pad(self.means, (0, self.keys.shape[1] - dim))
        chunks = torch.split(queries, max(1, self.chunk_elements // count))
        mean = torch.cat([_attend(part, self.keys, values)[:, :dim] for part in chunks])
        residual = centered - mean @ self.axes.T
        return (x - gamma * _rows_times(residual, precision)).to(x.dtype)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the log density ``[B]`` of noisy points ``x [B, D]`` at time t, in nats."""
        centered = x.double() - self.origin
        precision, logdet = self._noisy_precision(self.schedule.noise_variance(t.double()))
        queries = self._queries(centered, precision)
        chunks = torch.split(queries, max(1, self.chunk_elements // len(self.means)))
        evidence = torch.cat([(part @ self.keys.T).logsumexp(dim=1) for part in chunks])
        square = (centered * _rows_times(centered, precision)).sum(dim=1)
        return evidence - 0.5 * (square + logdet + x.shape[1] * log(2 * pi))

    def _noisy_precision(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``V^-1 [..., D, D]`` and ``log det V [...]`` for noise ``gamma [..., D]``."""
        total = self.covariance + torch.diag_embed(gamma)
        # Noise can differ by many orders of magnitude between dimensions; scaled to unit diagonal,
        # V is well conditioned.
        std = total.diagonal(dim1=-2, dim2=-1).sqrt()
        scaling = std[..., :, None] * std[..., None, :]
        correlation = total / scaling
        logdet = torch.logdet(correlation) + 2 * std.log().sum(dim=-1)
        return torch.linalg.inv(correlation) / scaling, logdet

    def _queries(self, centered: Tensor, precision: Tensor) -> Tensor:
        """Return the queries ``[B^T V^-1 (x - o), vec(B^T V^-1 B), 1]`` of the attention."""
        linear = _rows_times(centered, precision) @ self.axes
        quadratic = (self.axes.T @ precision @ self.axes).flatten(-2).expand(len(centered), -1)
        return torch.cat([linear, quadratic, torch.ones_like(linear[:, :1])], dim=1)


class DiscreteDenoiser(MixtureDenoiser):
    """Exact denoiser of the uniform distribution on K points ``[K, D]`` in image space."""

    def __init__(self, points: Tensor, basis: EigenBasis, schedule: NoiseSchedule):
        count, dim = points.shape
        super().__init__(
            weights=points.new_full((count,), 1 / count),
            means=points,
            covariance=points.new_zeros(dim, dim),
            embedding=torch.eye(dim, dtype=points.dtype, device=points.device),
            basis=basis,
            schedule=schedule,
        )


def _rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return ``rows [B, d]`` times one matrix ``[d, d]``, or a matrix per row ``[B, d, d]``."""
    return rows @ matrix if matrix.ndim == 2 else (rows[:, None, :] @ matrix)[:, 0]


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    attended = F.scaled_dot_product_attention(
        queries[None, None], keys[None, None], values[None, None], scale=1.0
    )
    return attended[0, 0]
