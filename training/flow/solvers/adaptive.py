"""The embedded method of Dormand and Prince, order 5 (4), in which each sample has its own steps.

The difference e of the two orders estimates a step's error. With ``tol = atol + rtol max(|x|,
|x_new|)`` per dimension, a step is taken if the root mean square of ``e / tol`` over the dimensions
of the sample is at most 1, and the next one is longer by ``0.9 rms^(-1/5)``, within limits (Hairer,
Norsett and Wanner, *Solving Ordinary Differential Equations I*, section II.4; there too the guess
of the first step). Libraries take one step for a whole batch, whose members then depend on each
other; here all that a sample's steps follow from is the sample.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.flow.solvers.runge_kutta import DORMAND_PRINCE, slopes_of, weighted_sum
from training.flow.solvers.solver import Method, Velocity

RTOL = ATOL = 1e-6
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
MAX_TRIALS = 10_000
"""Steps, taken or not, from the first time to the last."""
SMALLEST_STEP = 1e-12
"""Of the whole time."""


def dormand_prince(rtol: float, atol: float) -> Method:
    """The method for tolerances, each relative to the state and absolute."""

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        t = times[0].expand(len(x))
        slope = v(x, t)
        span = times[-1] - times[0]
        h = _first_step(v, x, t, slope, span, rtol, atol)
        trials = 0
        for target in times[1:]:
            while not (arrived := t == target).all():
                trials += 1
                left = target - t
                last = h.abs() >= left.abs()
                step = torch.where(last, left, h)
                if trials > MAX_TRIALS or bool((~last & (step / span < SMALLEST_STEP)).any()):
                    raise DataError(
                        f"dopri5 does not reach its tolerances (rtol {rtol:g}, atol {atol:g}) near "
                        f"t = {float(t[(~arrived).nonzero()[0, 0]]):g}: give larger ones, or check "
                        "the weights"
                    )
                slopes = slopes_of(DORMAND_PRINCE, v, x, t, step, slope)
                new = x + step[:, None] * weighted_sum(DORMAND_PRINCE.weights, slopes)
                slopes.append(v(new, t + step))
                error = step[:, None] * weighted_sum(DORMAND_PRINCE.error, slopes)
                size = _rms(error / _tolerance(rtol, atol, x, new))
                taken = (size <= 1) & ~arrived
                # A size that is not a number counts as too large.
                factor = (SAFETY * size ** (-1 / 5)).nan_to_num(SHRINK).clamp(SHRINK, GROW)
                grown = torch.where(
                    last & taken,
                    torch.maximum(h.abs(), (step * factor).abs()),
                    (step * factor).abs(),
                )
                h = torch.where(arrived, h, grown.copysign(span))
                x = torch.where(taken[:, None], new, x)
                slope = torch.where(taken[:, None], slopes[-1], slope)
                t = torch.where(taken, torch.where(last, target, t + step), t)
            yield x

    return integrate


def _rms(rows: Tensor) -> Tensor:
    return rows.detach().square().mean(dim=1).sqrt()


def _tolerance(rtol: float, atol: float, *states: Tensor) -> Tensor:
    size = torch.stack([state.detach().abs() for state in states]).amax(dim=0)
    return atol + rtol * size


def _first_step(
    v: Velocity, x: Tensor, t: Tensor, slope: Tensor, span: Tensor, rtol: float, atol: float
) -> Tensor:
    """Guesses ``[B]`` with the sign of the span, from an estimate of the second derivative."""
    tolerance = _tolerance(rtol, atol, x)
    distance, speed = _rms(x / tolerance), _rms(slope / tolerance)
    small = (distance < 1e-5) | (speed < 1e-5)
    h = torch.where(small, 1e-6, 0.01 * distance / speed).clamp(max=float(span.abs()))
    probe = h.copysign(span)
    bend = _rms((v(x + probe[:, None] * slope, t + probe) - slope) / tolerance) / h
    steepest = torch.maximum(speed, bend)
    guess = torch.where(
        steepest <= 1e-15, torch.clamp(h * 1e-3, min=1e-6), (0.01 / steepest) ** (1 / 5)
    )
    return torch.minimum(100 * h, guess).copysign(span)
