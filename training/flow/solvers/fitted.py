"""A multistep method whose weights are fitted to a flow, for few network evaluations.

One step is

    x_(k+1) = x_k + sum_(j <= k) W_kj v_j,        v_j = v(x_j, t_j),

with one network evaluation a step, reusing all slopes since the start. The weights of Adams methods
are exact for polynomials. The weights here are optimal on average for the flow (see
``integration_errors``), whose trajectories are much alike: for most flows 10 evaluations are as
accurate as 24 of a Runge-Kutta method. Weights are constants, so that the map is as smooth as the
velocity.

Coordinates of a state after its first D are integrals along the trajectory, such as traces of the
Jacobian. They are sums of values at the same times, with their own weights.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.solvers.explicit import weighted_sum
from training.flow.solvers.solver import Solver, Velocity

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
