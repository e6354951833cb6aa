"""What tests of solvers share: a nonlinear equation with its solution, and how errors fall."""

import torch

START = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)


def riccati(x, t):
    """``dx/dt = -2 t x^2``, nonlinear and time-dependent."""
    return -2 * t[..., None] * x**2


def riccati_solution(t):
    """The solution that is ``START`` at t = 0."""
    return 1 / (1 / START + t**2)


def last(method, v, x, times):
    *_, end = method(v, x, times)
    return end
