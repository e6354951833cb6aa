"""Log densities of points under the flow, by the instantaneous change of variables.

A solver integrates ``w_i = x_tilde_i / a_i(t)``: the standardized variable, ``a_i = sqrt(xi_i +
gamma_i)``, or the scaled one, ``a_i = 1 / s``. Along a trajectory of ``dw/dt = v(w, t)`` (Chen et
al. 2018, *Neural ordinary differential equations*, theorem 1)

    d log p_w / dt = -tr dv/dw,

so that, with the closed-form term of the change of variables from x_tilde to w,

    log p_0(x_tilde(0)) = log p_T(x_tilde(T)) + int_0^T tr dv/dw dt + sum_i log (a_i(T) / a_i(0)).

The trace is ``sum_k d_k . J d_k`` with the unit vectors as directions ``d_k``, or the mean of ``d_k
. J d_k`` over random signs (Hutchinson 1990). The estimate is unbiased, has no noise from the
diagonal of J, and is smooth in time since a point keeps its directions along its trajectory. The
scatter of the integrals of single directions gives the standard error of their mean.

Vector-Jacobian products are expensive, and traces change slowly. With more than ``FEW_PRODUCTS``
products and enough steps, traces are therefore computed at the ends of steps only, and their cubic
spline is integrated: 21 traces in place of 120. Otherwise the solver integrates the trace together
with the states.

``p_T`` is the base distribution of latents (``latent.distributions``): learned, or the Gaussian of
variances ``xi + gamma(T)``.

``p_0`` is the density of data with the noise ``N(0, diag gamma)`` of the first time added. It is
the same number in image space, since rotations preserve densities.

Gradients of log densities differentiate the discretized integral, traces included.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UsageError, require_known
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.denoisers import CountedVelocity
from training.flow.solvers import ExtendedVelocity, Solver, Velocity
from training.names import DEFAULT_STEPS, LARGEST_EXACT, PROBES, TRACES

LogDensity = Callable[[Tensor, Tensor], Tensor]
"""Function to ``log p_t [N]`` from ``x_tilde [N, D]`` in eigenspace and ``t []``.

See ``MixtureDenoiser.log_density``.
"""
LOG_PROB_ERROR = "log_prob_error"
FEW_PRODUCTS = 3
"""Maximum number of products for a trace to be no costlier than its network evaluation."""


class Density(NamedTuple):
    """Log densities of N points, with standard errors.

    Attributes:
        log_prob: Log densities ``[N]`` in nats.
        error: Standard errors ``[N]`` of the log densities from random probes or averages; 0 if
            log densities are exact.
    """

    log_prob: Tensor
    error: Tensor

    def at(self, places: Tensor) -> "Density":
        """Return the log densities and errors of the points at the given indices."""
        return Density(self.log_prob[places], self.error[places])


@dataclass(frozen=True)
class Trace:
    """Method for computing the traces of the velocity's Jacobian, exactly or by random probes.

    Attributes:
        kind: ``exact``: D vector-Jacobian products per trace; ``hutchinson``: one product per
            probe, with a standard error; ``auto``: exact in up to ``LARGEST_EXACT`` dimensions,
            otherwise by probes.
        probes: Number of random directions per point, at least two, since their spread gives the
            standard error.
        seed: Random seed of the directions, which are a function of the seed and the index of the
            point.

    Raises:
        UsageError: The kind is unknown, or there are too few probes.
    """

    kind: str = "auto"
    probes: int = PROBES
    seed: int = 0

    def __post_init__(self) -> None:
        require_known("trace", self.kind, TRACES)
        if self.probes < 2:
            raise UsageError(
                f"probes is {self.probes}: give at least 2, because their spread "
                "estimates the error"
            )

    def is_exact(self, dim: int) -> bool:
        """Return whether traces of ``dim x dim`` matrices are computed exactly."""
        return self.kind == "exact" or (self.kind == "auto" and dim <= LARGEST_EXACT)

    def directions(self, rows: slice, dim: int) -> Tensor:
        """Return K directions per point ``[K, n, D]``, float64: unit vectors, or random signs.

        Args:
            rows: Indices of the n points, from ``rows.start`` up to ``rows.stop``.
            dim: D, the dimension of the points.
        """
        count = rows.stop - rows.start
        if self.is_exact(dim):
            return torch.eye(dim, dtype=torch.float64)[:, None].expand(-1, count, -1)
        # Integers are drawn sequentially: the draws of a point do not depend on the number of
        # points after it.
        bits = torch.randint(
            2,
            (rows.stop, self.probes, dim),
            generator=seeded_generator("cpu", self.seed, Stream.PROBES),
            dtype=torch.int8,
        )
        return (2 * bits[rows.start :] - 1).movedim(1, 0).double()


class DivergenceIntegral:
    """The integral of the velocity's divergence along the N trajectories of one simulation.

    Args:
        solver: The solver of the simulation.
        trace: Method for the traces.
        rows: Indices of the points.
        dim: D, the dimension of the states.

    Attributes:
        products: Number of vector-Jacobian products so far.
    """

    def __init__(self, solver: Solver, trace: Trace, rows: slice, dim: int):
        self._given, self._directions = solver, trace.directions(rows, dim)
        self._exact = trace.is_exact(dim)
        self._integrals = torch.zeros(0, 1)
        self.products = 0

    @property
    def solver(self) -> Solver:
        """Solver of the simulation, extended so that it also computes the integral.

        The integral is added to the coordinates of the state, in nats per dimension.

        The solver is created on each access. A stored solver would form a reference cycle, which
        would keep gigabytes of states in memory.
        """
        return replace(self._given, method=self._integrate)

    @property
    def value(self) -> Tensor:
        """Integral of the divergence ``[N]`` in nats, available after the simulation."""
        return self._integrals.mean(dim=1)

    @property
    def error(self) -> Tensor:
        """Standard error ``[N]`` of the integral in nats; 0 if traces are exact."""
        if self._exact:
            return torch.zeros_like(self.value)
        return self._integrals.std(dim=1) / len(self._directions) ** 0.5

    def _integrate(self, v: Velocity, w: Tensor, times: Tensor) -> Iterator[Tensor]:
        if self._given.quadrature is not None:
            return self._at_ends_of_steps(v, w, times)
        few = len(self._directions) <= FEW_PRODUCTS or len(times) <= DEFAULT_STEPS
        # With one network evaluation a step, one trace a step is no more.
        along = few or self._given.calls_per_step == 1
        return self._along(v, w, times) if along else self._at_ends_of_steps(v, w, times)

    def _along(self, v: Velocity, w: Tensor, times: Tensor) -> Iterator[Tensor]:
        dim, directions = w.shape[1], self._directions.to(w)
        columns = 1 if self._exact else len(directions)

        def traced(state: Tensor, t: Tensor) -> Tensor:
            slope, traces = self._traces(v, state[:, :dim], t, directions)
            return torch.cat([slope, traces / dim], dim=1)

        def alone(state: Tensor, t: Tensor) -> Tensor:
            return torch.cat([v(state[:, :dim], t), torch.zeros_like(state[:, dim:])], dim=1)

        widened = ExtendedVelocity(traced, alone)
        zero = torch.zeros_like(w[:, :1]).expand(-1, columns)
        start = torch.cat([w, zero], dim=1)
        for state in self._given.method(widened, start, times):
            self._integrals = dim * state[:, dim:]
            yield state[:, :dim]

    def _at_ends_of_steps(self, v: Velocity, w: Tensor, times: Tensor) -> Iterator[Tensor]:
        directions = self._directions.to(w)
        weights = self._given.quadrature or integral_weights(times, len(times)).tolist()
        columns = 1 if self._exact else len(directions)
        self._integrals = torch.zeros_like(w[:, :1]).expand(-1, columns)
        known: list[tuple[Tensor, Tensor, Tensor]] = []

        def add(weight: float, state: Tensor, t: Tensor) -> None:
            if weight:
                slope, traces = self._traces(v, state, t, directions)
                self._integrals = self._integrals + weight * traces
                known[:] = [(state, t, slope)]

        def remembered(x: Tensor, t: Tensor) -> Tensor:
            if known and known[0][0] is x and bool(known[0][1] == t):
                return known[0][2]  # a step starts where its trace was computed
            return v(x, t)

        add(weights[0], w, times[0])
        states = self._given.method(remembered, w, times)
        for weight, t, state in zip(weights[1:], times[1:], states, strict=True):
            add(weight, state, t)
            yield state

    def _traces(
        self, v: Velocity, w: Tensor, t: Tensor, directions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``v [N, D]``, and traces ``[N, 1]`` or their estimates by direction ``[N, K]``."""
        self.products += len(directions)
        if self._exact:
            value, divergence = value_and_divergence(v, w, t)
            return value, divergence[:, None]
        return value_and_products(v, w, t, directions)


def integral_weights(times: Tensor, count: int) -> Tensor:
    """Return the weights ``[count]`` of function values in an integral over time, float64.

    The values belong to the first ``count`` of S monotone times. Their cubic spline is integrated
    over all times, with extrapolation to the last time. The weights are on the device of the times.
    """
    from scipy.interpolate import CubicSpline

    nodes = times.double().cpu().numpy()
    sign = 1.0 if nodes[-1] > nodes[0] else -1.0
    spline = CubicSpline(sign * nodes[:count], np.eye(count))
    integral = sign * spline.integrate(sign * nodes[0], sign * nodes[-1])
    return torch.from_numpy(integral).to(times.device)


def value_and_divergence(v: Velocity, w: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the velocity ``v(w, t) [N, D]`` of points w and its divergence ``tr dv/dw [N]``.

    The points are independent. The divergence is computed by the velocity itself if available, or
    by D vector-Jacobian products.
    """
    known = v.with_divergence(w, t) if isinstance(v, CountedVelocity) else None
    if known is not None:
        return known
    units = torch.eye(w.shape[1]).to(w)[:, None].expand(-1, len(w), -1)
    value, products = value_and_products(v, w, t, units)
    return value, products.sum(dim=1)


def value_and_products(
    v: Velocity, w: Tensor, t: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the velocity ``v(w, t) [N, D]`` and its directional derivatives ``[N, K]``.

    The derivatives are the products ``d_k . (dv/dw) d_k``, for independent points. Both have
    gradients if these are enabled.

    Args:
        v: The velocity.
        w: Points ``[N, D]``.
        t: Time ``[]`` or times ``[N]``.
        directions: Directions ``d [K, N, D]``.
    """
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        if not (further and w.requires_grad):
            w = w.detach().requires_grad_()
        value = v(w, t)
        products = []
        # One product at a time: a batch is faster for few points only, and fills the memory.
        for direction in directions:
            (pulled,) = torch.autograd.grad(
                value, w, direction, retain_graph=True, create_graph=further
            )
            products.append((pulled * direction).sum(dim=1))
    together = torch.stack(products, dim=1)
    return (value, together) if further else (value.detach(), together.detach())


def bits_per_dim(log_prob: Tensor, dim: int, levels_per_unit: float) -> Tensor:
    """Return bits per dimension ``[N]``, ``-log2 p / D``, from log densities in nats.

    Args:
        log_prob: Log densities ``[N]`` of images in data units, in nats.
        dim: D, the number of values of an image.
        levels_per_unit: Number of gray levels per data unit. For example, 8-bit levels ``l = 127.5
            (u + 1)`` of data u have ``log p(l) = log p(u) - D log 127.5``.
    """
    return (log(levels_per_unit) - log_prob / dim) / log(2)


@dataclass(frozen=True)
class DensityPlan:
    """Options of the densities to compute along a simulation.

    Attributes:
        trace: Method for the traces of Jacobians.
        levels_per_unit: Number of gray levels per data unit of images; None for data other than
            images.
    """

    trace: Trace
    levels_per_unit: float | None = None

    def arrays(self, density: Density, dim: int) -> dict[str, Tensor]:
        """Return the arrays of results by name.

        The arrays are ``log_prob [N]``, ``log_prob_error [N]`` unless densities are exact, and
        ``bits_per_dim [N]`` for images.

        Args:
            density: Log densities of N points.
            dim: D, the dimension of the points.
        """
        arrays = {"log_prob": density.log_prob}
        if density.error.any():
            arrays[LOG_PROB_ERROR] = density.error
        if self.levels_per_unit is not None:
            arrays["bits_per_dim"] = bits_per_dim(density.log_prob, dim, self.levels_per_unit)
        return arrays
