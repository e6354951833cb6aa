"""Explicit methods: Runge-Kutta with fixed steps, Dormand-Prince, and Adams-Bashforth.

Runge-Kutta methods with fixed steps are Butcher tableaus:

    k_i = v(x + h sum_j a_ij k_j, t + c_i h),        x(t + h) = x + h sum_i b_i k_i

(Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, section II.1).

In the embedded method of Dormand and Prince, order 5 (4), each sample has its own steps. The
difference e of the two orders estimates a step's error. With ``tol = atol + rtol max(|x|,
|x_new|)`` per dimension, a step is accepted if the root mean square of ``e / tol`` over the
dimensions of the sample is at most 1. The next step is longer by ``0.9 rms^(-1/5)``, within limits
(ibid., section II.4, also for the guess of the first step). Libraries take one step for a whole
batch, whose samples then depend on each other; here the steps of a sample depend on that sample
alone.

The two-step Adams-Bashforth method takes one network evaluation a step, for steps of any size. The
velocity is extrapolated linearly from the last two times and integrated (ibid., section III.5):

    x(t + h) = x + h (v + (v - v_last) h / (2 h_last)).

With even steps the errors, ``5/12 h^3 x'''`` each, add up to a difference of ``x''`` between the
ends, most of which cancels; uneven steps lose that. The first step is Heun's, with one more
evaluation. Euler's would not lower the order, but its error would dominate.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import DataError
from training.flow.solvers.solver import ExtendedVelocity, Method, Velocity


class Tableau(NamedTuple):
    """Butcher tableau: the coefficients a, b and c of a Runge-Kutta method.

    Attributes:
        nodes: ``c``, the position of each stage in the step, from 0 to 1.
        stages: ``a``, rows of increasing length; the row of the first stage is empty.
        weights: ``b``, the weights of the stages.
        error: ``b - b_hat``, the difference to an embedded method; empty if there is none.
    """

    nodes: Sequence[float]
    stages: Sequence[Sequence[float]]
    weights: Sequence[float]
    error: Sequence[float] = ()

    @property
    def counts(self) -> list[bool]:
        """Whether each stage has a nonzero weight; stages of weight 0 only serve later stages."""
        error = self.error or self.weights
        return [bool(b or e) for b, e in zip(self.weights, error, strict=False)]


EULER = Tableau(nodes=(0,), stages=((),), weights=(1,))
HEUN = Tableau(nodes=(0, 1), stages=((), (1,)), weights=(1 / 2, 1 / 2))
RK4 = Tableau(
    nodes=(0, 1 / 2, 1 / 2, 1),
    stages=((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
    weights=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
CASH_KARP = Tableau(
    nodes=(0, 1 / 5, 3 / 10, 3 / 5, 1, 7 / 8),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (3 / 10, -9 / 10, 6 / 5),
        (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
        (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
    ),
    weights=(37 / 378, 0, 250 / 621, 125 / 594, 0, 512 / 1771),
)
"""Cash and Karp 1990, *A variable order Runge-Kutta method*: order 5, and stable at long steps."""
DORMAND_PRINCE = Tableau(
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    # The last entry is for the velocity at the end of the step, the first of the next one.
    error=(71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Dormand and Prince 1980, *A family of embedded Runge-Kutta formulae*: order 5 (4)."""


def weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum ``sum_i w_i k_i`` of stages; at least one weight must be nonzero."""
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return sum(terms[1:], start=terms[0])


def slopes_of(
    tableau: Tableau, v: Velocity, x: Tensor, t: Tensor, h: Tensor, first: Tensor | None = None
) -> list[Tensor]:
    """Return the stages ``k_i [B, D]`` of one step of a Runge-Kutta method.

    Args:
        tableau: Coefficients of the method.
        v: The velocity.
        x: State ``[B, D]`` at the start of the step.
        t: Start time, ``[]`` or ``[B]``.
        h: Length of the step, ``[]`` or ``[B]``.
        first: Velocity ``v(x, t) [B, D]``, if already computed.
    """
    slopes = [v(x, t) if first is None else first]
    light = v.alone if isinstance(v, ExtendedVelocity) else v
    for node, row, counts in zip(
        tableau.nodes[1:], tableau.stages[1:], tableau.counts[1:], strict=True
    ):
        stage = v if counts else light
        slopes.append(stage(x + h[..., None] * weighted_sum(row, slopes), t + node * h))
    return slopes


def runge_kutta(tableau: Tableau) -> Method:
    """Return the Runge-Kutta method of a tableau, with one step between neighboring times."""

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        for t, following in pairwise(times):
            h = following - t
            slopes = slopes_of(tableau, v, x, t, h)
            x = x + h * weighted_sum(tableau.weights, slopes)
            yield x

    return integrate


RTOL = ATOL = 1e-6
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
MAX_TRIALS = 10_000
"""Maximum number of steps, accepted or rejected, from the first time to the last."""
SMALLEST_STEP = 1e-12
"""Minimum step, as a share of the whole time."""


def dormand_prince(rtol: float, atol: float) -> Method:
    """Return the adaptive method of Dormand and Prince with the given tolerances.

    Args:
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
    """

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
                        f"dopri5 does not reach its tolerances (rtol {rtol:g}, atol "
                        f"{atol:g}) near t = {float(t[(~arrived).nonzero()[0, 0]]):g}: "
                        "give larger tolerances, or check the network"
                    )
                slopes = slopes_of(DORMAND_PRINCE, v, x, t, step, slope)
                new = x + step[:, None] * weighted_sum(DORMAND_PRINCE.weights, slopes)
                slopes.append(v(new, t + step))
                error = step[:, None] * weighted_sum(DORMAND_PRINCE.error, slopes)
                size = _rms(error / _tolerance(rtol, atol, x, new))
                taken = (size <= 1) & ~arrived
                # A size that is NaN counts as too large.
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
    """Return first steps ``[B]`` with the sign of the span, from estimated second derivatives."""
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


def adams_bashforth(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Integrate by the two-step Adams-Bashforth method, and yield the states at ``times[1:]``."""
    last_slope, last_h = None, None
    for t, following in pairwise(times):
        h = following - t
        slope = v(x, t)
        if last_slope is None or last_h is None:
            x = x + h / 2 * (slope + v(x + h * slope, following))
        else:
            x = x + h * (slope + (slope - last_slope) * (h / (2 * last_h)))
        last_slope, last_h = slope, h
        yield x
