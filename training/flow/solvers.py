"""Solvers of ``dx/dt = v(x, t)``, by name in ``SOLVERS``.

Solvers of the scaled variable are as published. The others integrate the *standardized* variable

    x_hat_i = x_tilde_i / sqrt(xi_i + gamma_i(t)),

which removes the linear part of the probability flow (see ``pfode``). They are *exponential*
integrators of the integrating-factor kind (Lawson 1967, *Generalized Runge-Kutta processes for
stable systems with large Lipschitz constants*), exact for Gaussian data at any step. None of their
coefficients divides by a growth rate, so none needs a limit where a dimension does not inflate.

Runge-Kutta methods are Butcher tableaus:

    k_i = v(x + h sum_j a_ij k_j, t + c_i h),        x(t + h) = x + h sum_i b_i k_i

(Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, section II.1).

The two-step Adams-Bashforth method takes one network evaluation a step, for steps of any size. The
velocity is extrapolated linearly from the last two times and integrated (ibid., section III.5):

    x(t + h) = x + h (v + (v - v_last) h / (2 h_last)).

With even steps the errors, ``5/12 h^3 x'''`` each, add up to a difference of ``x''`` between the
ends, most of which cancels; uneven steps lose that. The first step is Heun's, with one more
evaluation. Euler's would not lower the order, but its error would dominate.

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
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import UsageError, require_known

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Type of a velocity: ``v(x [B, D], t [] or [B]) -> [B, D]``."""

Method = Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]
"""Type of a method: ``method(v, x [B, D], times [S + 1])`` yields the states at ``times[1:]``.

The times are monotone, increasing or decreasing.
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
        calls_per_step: Velocity evaluations per step; a multistep method takes one more at its
            start.
        traces_per_step: Number of velocity evaluations per step that have a weight in integrals
            along the trajectory; None if all have one.
        standardized: Whether the solver integrates the standardized variable, not the scaled one.
        multistep: Whether a step depends on the steps before it.
        quadrature: Weights ``[S + 1]`` of the values at the ends of steps in integrals along the
            trajectory; None to integrate the values together with the state.
    """

    name: str
    order: int
    method: Method
    calls_per_step: int
    traces_per_step: int | None = None
    standardized: bool = False
    multistep: bool = False
    quadrature: Sequence[float] | None = None


class Tableau(NamedTuple):
    """Butcher tableau: the coefficients a, b and c of a Runge-Kutta method.

    Attributes:
        nodes: ``c``, the position of each stage in the step, from 0 to 1.
        stages: ``a``, rows of increasing length; the row of the first stage is empty.
        weights: ``b``, the weights of the stages.
    """

    nodes: Sequence[float]
    stages: Sequence[Sequence[float]]
    weights: Sequence[float]

    @property
    def counts(self) -> list[bool]:
        """Whether each stage has a nonzero weight; stages of weight 0 only serve later stages."""
        return [bool(weight) for weight in self.weights]


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
)
"""Dormand and Prince 1980, *A family of embedded Runge-Kutta formulae*: its order 5.

It measures the errors of single steps (``integration_choice``).
"""


def weighted_sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum ``sum_i w_i k_i`` of stages; at least one weight must be nonzero."""
    terms = [weight * slope for weight, slope in zip(weights, slopes, strict=True) if weight]
    return sum(terms[1:], start=terms[0])


def slopes_of(tableau: Tableau, v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> list[Tensor]:
    """Return the stages ``k_i [B, D]`` of one step of a Runge-Kutta method.

    Args:
        tableau: Coefficients of the method.
        v: The velocity.
        x: State ``[B, D]`` at the start of the step.
        t: Start time ``[]``.
        h: Length of the step ``[]``.
    """
    slopes = [v(x, t)]
    light = v.alone if isinstance(v, ExtendedVelocity) else v
    for node, row, counts in zip(
        tableau.nodes[1:], tableau.stages[1:], tableau.counts[1:], strict=True
    ):
        stage = v if counts else light
        slopes.append(stage(x + h * weighted_sum(row, slopes), t + node * h))
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


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("euler", 1, runge_kutta(EULER), calls_per_step=1),
        Solver("heun", 2, runge_kutta(HEUN), calls_per_step=2),
        Solver("exp_ab2", 2, adams_bashforth, calls_per_step=1, standardized=True, multistep=True),
        # No option chooses it: integration schedules do, for densities with many traces.
        Solver("exp_rk4", 4, runge_kutta(RK4), 4, 4, standardized=True),
        Solver("exp_rk5", 5, runge_kutta(CASH_KARP), 6, sum(CASH_KARP.counts), standardized=True),
    )
}


def as_solver(solver: Solver | str) -> Solver:
    """Return a solver, given the solver or its name.

    Raises:
        UsageError: The name is unknown.
    """
    return get_solver(solver) if isinstance(solver, str) else solver


def get_solver(name: str) -> Solver:
    """Return a solver by name.

    Args:
        name: A name in ``SOLVERS``.

    Raises:
        UsageError: The name is unknown.
    """
    require_known("solver", name, SOLVERS)
    return SOLVERS[name]
