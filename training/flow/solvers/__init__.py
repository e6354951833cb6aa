"""Solvers of ``dx/dt = v(x, t)``, by name in ``SOLVERS``.

Solvers of the scaled variable are as published. The others integrate the *standardized* variable

    x_hat_i = x_tilde_i / sqrt(xi_i + gamma_i(t)),

which removes the linear part of the probability flow (see ``pfode``). They are *exponential*
integrators of the integrating-factor kind (Lawson 1967, *Generalized Runge-Kutta processes for
stable systems with large Lipschitz constants*), exact for Gaussian data at any step. None of their
coefficients divides by a growth rate, so none needs a limit where a dimension does not inflate.
"""

from dataclasses import replace
from math import inf

from dnnlib.errors import UsageError, require_known
from training.flow.solvers.explicit import (
    ATOL,
    CASH_KARP,
    EULER,
    HEUN,
    RK4,
    RTOL,
    Tableau,
    adams_bashforth,
    dormand_prince,
    runge_kutta,
)
from training.flow.solvers.reversible import reversible, without_gap
from training.flow.solvers.solver import Method, Solver, Velocity

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
