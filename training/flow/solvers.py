"""Solvers of ``dx/dt = v(x, t)``: one function a step, by name in ``SOLVERS``.

Each is a Runge-Kutta method (Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations
I*, section II.1). A step may go backwards in time.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dnnlib.errors import UsageError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""``v(x [B, D], t []) -> [B, D]``."""


class Solver(NamedTuple):
    """A method of fixed steps: ``step(v, x, t, h)`` is the state at ``t + h``."""

    name: str
    order: int
    calls_per_step: int
    step: Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]


def euler_step(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Forward Euler."""
    return x + h * v(x, t)


def heun_step(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Heun's method: the explicit trapezoidal rule."""
    k1 = v(x, t)
    k2 = v(x + h * k1, t + h)
    return x + h / 2 * (k1 + k2)


def rk4_step(v: Velocity, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """The classical fourth-order Runge-Kutta method."""
    k1 = v(x, t)
    k2 = v(x + h / 2 * k1, t + h / 2)
    k3 = v(x + h / 2 * k2, t + h / 2)
    k4 = v(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * (k2 + k3) + k4)


SOLVERS = {
    solver.name: solver
    for solver in (
        Solver("euler", order=1, calls_per_step=1, step=euler_step),
        Solver("heun", order=2, calls_per_step=2, step=heun_step),
        Solver("rk4", order=4, calls_per_step=4, step=rk4_step),
    )
}


def get_solver(name: str) -> Solver:
    """Raises UsageError for a name that is not in ``SOLVERS``."""
    if name not in SOLVERS:
        raise UsageError(f"unknown solver '{name}': choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name]
