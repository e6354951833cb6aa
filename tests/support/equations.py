"""What tests of solvers share: a nonlinear equation with its solution, and how errors fall."""

import torch
from torch import Tensor

from training.flow.solvers import Method, Velocity

START = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)


def riccati(x: Tensor, t: Tensor) -> Tensor:
    """``dx/dt = -2 t x^2``, nonlinear and time-dependent."""
    return -2 * t[..., None] * x**2


def riccati_solution(t: float) -> Tensor:
    """The solution that is ``START`` at t = 0."""
    return 1 / (1 / START + t**2)


def last(method: Method, v: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """The state at the last time."""
    *_, end = method(v, x, times)
    return end
