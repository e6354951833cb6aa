"""What tests of solvers share: a nonlinear equation with its solution, and how errors fall."""

import numpy as np
import torch
from scipy.integrate import solve_ivp
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


def scipys_end(v: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """The state at the last time by the order 8 method of scipy, all samples as one vector."""

    def right_side(t: float, state: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(state).view(x.shape)
        return v(rows, torch.tensor(t, dtype=torch.float64)).flatten().numpy()

    span = (float(times[0]), float(times[-1]))
    with torch.no_grad():
        found = solve_ivp(
            right_side, span, x.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-14
        )
    assert found.success
    return torch.from_numpy(found.y[:, -1]).view(x.shape)
