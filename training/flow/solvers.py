"""Solvers of ``dx/dt = v(x, t)``, by name in ``SOLVERS``.

Solvers of the scaled variable are as published. The others integrate the *standardized* variable

    x_hat_i = x_tilde_i / sqrt(xi_i + gamma_i(t)),

which removes the linear part of the probability flow (see ``pfode``). They are *exponential*
integrators of the integrating-factor kind (Lawson 1967, *Generalized Runge-Kutta processes for
stable systems with large Lipschitz constants*), exact for Gaussian data at any step. None of their
coefficients divides by a growth rate, so none needs a limit where a dimension does not inflate.

Explicit methods: Runge-Kutta with fixed steps, Dormand-Prince, and Adams-Bashforth.

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

Explicit steps with an exact inverse: two states coupled through a Runge-Kutta method.

With ``x(t + h) = x + P_h(t, x)`` the step of a method, the coupling of McCallum and Foster (2024,
*Efficient, accurate and stable gradients for neural ODEs*, section 3) is

    y' = lambda y + (1 - lambda) z + P_h(t, z),        z' = z - P_-h(t + h, y'),

which has a closed-form inverse for any h:

    z = z' + P_-h(t + h, y'),        y = (y' - (1 - lambda) z - P_h(t, z)) / lambda.

For the standardized variable, which removes the known linear part of the flow, it is the family of
Blasingame and Liu (2025, *Rex: reversible solvers for diffusion models*).

The state is the mean ``x = (y + z) / 2``. It is accompanied by the *gap* ``(y - z) / 2``, which
starts at zero. A method of odd order p makes opposite errors in y and z: they stay in the gap, and
the mean is of order p + 1. The inverse starts from both. Without the gap it is one more integration
that starts with a gap of zero, with the accuracy of its order.

The default of ``COUPLING`` is 1. A smaller lambda damps the gap, by lambda per step, but mixes its
error into the mean, and amplifies rounding errors of the inverse by ``1 / lambda`` per step. The
gap needs little damping here: it shrinks where the flow expands, and grows as ``exp(int |dv/dx|
dt)`` where the flow contracts. This growth is bounded by the ratio of the widths of noise and data.
Measurements are in docs/reference/solvers.md.

A multistep method whose weights are fitted to a flow, for few network evaluations.

One step is

    x_(k+1) = x_k + sum_(j <= k) W_kj v_j,        v_j = v(x_j, t_j),

with one network evaluation a step, reusing all slopes since the start. The weights of Adams methods
are exact for polynomials. The weights here are optimal on average for the flow (see
``integration_choice``), whose trajectories are much alike: for most flows 10 evaluations are as
accurate as 24 of a Runge-Kutta method. Weights are constants, so that the map is as smooth as the
velocity.

Coordinates of a state after its first D are integrals along the trajectory, such as traces of the
Jacobian. They are sums of values at the same times, with their own weights.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, require_known

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Type of a velocity: ``v(x [B, D], t [] or [B]) -> [B, D]``."""

Method = Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]
"""Type of a method: ``method(v, x [B, D], times [S + 1])`` yields the states at ``times[1:]``.

The times are monotone, increasing or decreasing.
"""

PairMethod = Callable[
    [Velocity, Tensor, Tensor | None, Tensor], Iterator[tuple[Tensor, Tensor | None]]
]
"""Type of a method with gaps: ``method(v, x [B, D], gap [B, D] or None, times [S + 1])``.

It yields the states and gaps at ``times[1:]``. With a gap, it reverses the steps that ended at x
with this gap.
"""


@dataclass(frozen=True)
class ExtendedVelocity:
    """The velocity of states extended by integrals along their trajectories.

    Attributes:
        whole: Velocity of all coordinates, including the integrals.
        alone: A cheaper velocity, with 0 for the integrals, for stages of a step without a weight
            of their own. The state's velocity does not depend on the integrals.
    """

    whole: Velocity
    alone: Velocity

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``[B, D]`` of all coordinates of the extended states."""
        return self.whole(x, t)


@dataclass(frozen=True)
class Solver:
    """A numerical solver of ordinary differential equations, and its properties.

    Attributes:
        name: Name in ``SOLVERS``.
        order: Order of the global error in the step size.
        method: Function that integrates a velocity.
        calls_per_step: Velocity evaluations per step (a multistep method takes one more at its
            start); None if they depend on the problem.
        traces_per_step: Number of velocity evaluations per step that have a weight in integrals
            along the trajectory; None if all have one.
        standardized: Whether the solver integrates the standardized variable, not the scaled one.
        multistep: Whether a step depends on the steps before it.
        adaptive: Whether the solver chooses its own steps; given times are then output times only.
        pairs: Method of a reversible solver for pairs of states, which also yields half of their
            difference (the gap), for an exact inverse; None for other solvers.
        quadrature: Weights ``[S + 1]`` of the values at the ends of steps in integrals along the
            trajectory; None to integrate the values together with the state.
    """

    name: str
    order: int
    method: Method
    calls_per_step: int | None = None
    traces_per_step: int | None = None
    standardized: bool = False
    multistep: bool = False
    adaptive: bool = False
    pairs: PairMethod | None = None
    quadrature: Sequence[float] | None = None

    def walk(
        self, v: Velocity, x: Tensor, times: Tensor, gap: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Integrate from ``x [B, D]``, and yield states and gaps at ``times[1:]``.

        The gap of a reversible solver is half of the difference between its two states. Gaps are
        None for other solvers.

        Args:
            v: The velocity.
            x: State ``[B, D]`` at the first time.
            times: Monotone times ``[S + 1]``.
            gap: Gap ``[B, D]`` of the first state; if given, the integration reverses earlier
                steps.

        Raises:
            UsageError: A gap is given, but the solver is not reversible.
        """
        if self.pairs is not None:
            return self.pairs(v, x, gap, times)
        if gap is not None:
            raise UsageError(
                f"{self.name} has a single state and no gap: leave the gap out, or integrate back "
                "with the solver that computed the gap"
            )
        return ((state, None) for state in self.method(v, x, times))


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


COUPLING = 1.0
"""Coupling lambda, above 0 and at most 1."""


def reversible(tableau: Tableau, coupling: float = COUPLING) -> PairMethod:
    """Return the reversible method that couples two states by a Runge-Kutta method.

    The method yields the mean of the two states, and their gap: half of their difference.

    Args:
        tableau: Coefficients of the Runge-Kutta method.
        coupling: Coupling lambda, above 0 and at most 1.
    """

    def change(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        return h * weighted_sum(tableau.weights, slopes_of(tableau, v, x, t, h))

    def there(v: Velocity, x: Tensor, times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        y = z = x
        for t, following in pairwise(times):
            h = following - t
            y = coupling * y + (1 - coupling) * z + change(v, z, t, h)
            z = z - change(v, y, following, -h)
            yield (y + z) / 2, (y - z) / 2

    def back(v: Velocity, x: Tensor, gap: Tensor, times: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        y, z = x + gap, x - gap
        for t, before in pairwise(times):
            h = t - before
            z = z + change(v, y, t, -h)
            y = (y - (1 - coupling) * z - change(v, z, before, h)) / coupling
            yield (y + z) / 2, (y - z) / 2

    def integrate(
        v: Velocity, x: Tensor, gap: Tensor | None, times: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        return there(v, x, times) if gap is None else back(v, x, gap, times)

    return integrate


def without_gap(pairs: PairMethod) -> Method:
    """Convert a method for pairs of states to a method for single states.

    The method starts from two equal states, and yields the mean of each pair.
    """

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        return (mean for mean, _ in pairs(v, x, None, times))

    return integrate


FITTED = "fitted"


def fitted(way: Tensor, weights: Tensor, integrals: Tensor | None, dim: int) -> Solver:
    """Return the multistep solver with given weights, which were fitted to a flow.

    Args:
        way: Times ``[n + 1]`` in the order of integration, float64.
        weights: Weights ``W [n, n]`` of the slopes, lower triangular: row k belongs to step k.
        integrals: Weights ``[n]`` of the divergences of the steps in the integral for log
            densities; None without log densities.
        dim: D, the dimension of a state without its integrals.
    """
    own, table = way.cpu(), weights.tolist()
    shares = [0.0] * len(table) if integrals is None else integrals.tolist()

    def integrate(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
        if len(times) != len(own) or not torch.allclose(times.detach().cpu().double(), own):
            raise UsageError(
                f"the fitted solver has fixed times, {len(own) - 1} steps from "
                f"{float(own[0]):g} to {float(own[-1]):g}: choose another solver for "
                "other times"
            )
        if integrals is None and x.shape[1] > dim:
            raise UsageError(
                "the fitted solver cannot compute log densities: choose another solver"
            )
        slopes: list[Tensor] = []
        along = x[:, dim:]
        for row, share, t in zip(table, shares, times[:-1], strict=True):
            slope = v(x, t)
            slopes.append(slope[:, :dim])
            along = along + share * slope[:, dim:]
            x = torch.cat([x[:, :dim] + weighted_sum(row[: len(slopes)], slopes), along], dim=1)
            yield x

    return Solver(FITTED, 1, integrate, calls_per_step=1, standardized=True, multistep=True)


__all__ = ["SOLVERS", "Method", "Solver", "Velocity", "as_solver", "get_solver"]


def _coupled(name: str, order: int, tableau: Tableau) -> Solver:
    pairs, calls = reversible(tableau), 2 * len(tableau.nodes)
    return Solver(name, order, without_gap(pairs), calls, standardized=True, pairs=pairs)


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("euler", 1, runge_kutta(EULER), calls_per_step=1),
        Solver("heun", 2, runge_kutta(HEUN), calls_per_step=2),
        Solver("rk4", 4, runge_kutta(RK4), calls_per_step=4),
        Solver("exp_ab2", 2, adams_bashforth, calls_per_step=1, standardized=True, multistep=True),
        Solver("exp_rk4", 4, runge_kutta(RK4), 4, 4, standardized=True),
        Solver("exp_rk5", 5, runge_kutta(CASH_KARP), 6, sum(CASH_KARP.counts), standardized=True),
        Solver("dopri5", 5, dormand_prince(RTOL, ATOL), standardized=True, adaptive=True),
        _coupled("rev_euler", 2, EULER),
        _coupled("rev_rk5", 6, CASH_KARP),
    )
}


def as_solver(solver: Solver | str) -> Solver:
    """Return a solver, given the solver or its name.

    Raises:
        UsageError: The name is unknown.
    """
    return get_solver(solver) if isinstance(solver, str) else solver


def get_solver(name: str, rtol: float = RTOL, atol: float = ATOL) -> Solver:
    """Return a solver by name.

    Args:
        name: A name in ``SOLVERS``.
        rtol: Relative tolerance of an adaptive solver, for each step and sample.
        atol: Absolute tolerance of an adaptive solver, in standard deviations of the noisy data.

    Raises:
        UsageError: The name is unknown, or a tolerance is not a positive number.
    """
    for label, value in (("rtol", rtol), ("atol", atol)):
        if not 0 < value < inf:
            raise UsageError(f"{label} is {value:g}: give a positive number")
    require_known("solver", name, SOLVERS)
    solver = SOLVERS[name]
    return replace(solver, method=dormand_prince(rtol, atol)) if solver.adaptive else solver
