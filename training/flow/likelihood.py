"""Log densities of points under the flow, by the instantaneous change of variables.

A solver integrates ``w_i = x_tilde_i / a_i(t)``: the standardized variable, ``a_i = sqrt(xi_i +
gamma_i)``, or the scaled one, ``a_i = 1 / s``. Along a trajectory of ``dw/dt = v(w, t)`` (Chen et
al. 2018, *Neural ordinary differential equations*, theorem 1)

    d log p_w / dt = -tr dv/dw,

so that, with what the change of variables from x_tilde to w adds in closed form,

    log p_0(x_tilde(0)) = log p_T(x_tilde(T)) + int_0^T tr dv/dw dt + sum_i log (a_i(T) / a_i(0)).

The integral is taken along with the states, by the same solver. The trace is ``sum_k d_k . J d_k``,
exactly with the unit vectors as directions ``d_k``, or as a mean over random signs (Hutchinson
1990): unbiased, without noise from the diagonal of J, and smooth in time since a point keeps its
directions all the way. ``p_T`` is the law of latents (``latent.laws``): learned, or the Gaussian of
variances ``xi + gamma(T)``.

``p_0`` is the density of data with the noise ``N(0, diag gamma)`` of the first time added, which is
the same number in image space, since rotations keep densities. Gradients do not flow through it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.solvers import Solver, Velocity
from training.names import LARGEST_EXACT, TRACES

LogDensity = Callable[[Tensor, Tensor], Tensor]
"""``log p_t(x_tilde [N, D]) [N]`` at ``t []``, eigenspace; as ``MixtureDenoiser.log_density``."""


@dataclass(frozen=True)
class Trace:
    """How the traces of Jacobians are taken.

    Attributes:
        kind: ``exact``: D vector-Jacobian products a call; ``hutchinson``: as many as there are
            probes, with an error; ``auto``: exact in up to ``LARGEST_EXACT`` dimensions.
        probes: Random directions of each point.
        seed: Seed of the directions, which are a function of it and of the number of the point.

    Raises:
        UsageError: An unknown kind, or no probes.
    """

    kind: str = "auto"
    probes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in TRACES:
            raise UsageError(f"unknown trace '{self.kind}': choose one of {', '.join(TRACES)}")
        if self.probes < 1:
            raise UsageError(f"probes is {self.probes}: it must be at least 1")

    def is_exact(self, dim: int) -> bool:
        """Whether the traces of D x D matrices are exact."""
        return self.kind == "exact" or (self.kind == "auto" and dim <= LARGEST_EXACT)

    def directions(self, rows: slice, dim: int) -> Tensor:
        """``d [K, n, D]`` in float64, of the points numbered ``rows.start`` to ``rows.stop``."""
        count = rows.stop - rows.start
        if self.is_exact(dim):
            return torch.eye(dim, dtype=torch.float64)[:, None].expand(-1, count, -1)
        # Integers are drawn one after the other: those of a point do not depend on how many follow.
        bits = torch.randint(
            2,
            (rows.stop, self.probes, dim),
            generator=seeded_generator("cpu", self.seed, Stream.PROBES),
            dtype=torch.int8,
        )
        signs = (2 * bits[rows.start :] - 1).movedim(1, 0)
        return signs.double() / self.probes**0.5


class DivergenceIntegral:
    """The integral of the divergence along the trajectories of one simulation.

    Args:
        solver: The solver of the simulation.
        directions: The directions of its points, ``[K, N, D]``.

    Attributes:
        solver: The given solver, which now takes the integral along: simulate with this one. The
            integral is one more coordinate, in nats per dimension, that an adaptive solver controls
            as any other.
        products_per_call: Vector-Jacobian products that a call of the velocity takes, K.
        value: The integral ``[N]`` in nats, once the simulation has ended.
    """

    value: Tensor

    def __init__(self, solver: Solver, directions: Tensor):
        self._given, self._directions = solver, directions
        self.products_per_call = len(directions)
        pairs = self._integrate if solver.pairs else None
        self.solver = replace(solver, method=self._states, pairs=pairs)

    def _states(self, v: Velocity, w: Tensor, times: Tensor) -> Iterator[Tensor]:
        return (state for state, _ in self._integrate(v, w, None, times))

    def _integrate(
        self, v: Velocity, w: Tensor, gap: Tensor | None, times: Tensor
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        if torch.is_grad_enabled():
            raise ValueError("log densities have no gradients: simulate without")
        dim = w.shape[1]
        directions = self._directions.to(w)

        def widened(state: Tensor, t: Tensor) -> Tensor:
            slope, divergence = value_and_divergence(v, state[:, :dim], t, directions)
            return torch.cat([slope, divergence[:, None] / dim], dim=1)

        zero = torch.zeros_like(w[:, :1])
        start = torch.cat([w, zero], dim=1)
        gap = None if gap is None else torch.cat([gap, zero], dim=1)
        for state, apart in self._given.walk(widened, start, times, gap):
            self.value = dim * state[:, dim]
            yield state[:, :dim], None if apart is None else apart[:, :dim]


def value_and_divergence(
    v: Velocity, w: Tensor, t: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """``v(w, t) [N, D]`` and ``sum_k d_k . (dv/dw) d_k [N]``, of points that do not interact."""
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        value = v(w, t)
        divergence = torch.zeros_like(w[:, 0])
        for direction in directions:
            (pulled,) = torch.autograd.grad(value, w, direction, retain_graph=True)
            divergence = divergence + (pulled * direction).sum(dim=1)
    return value.detach(), divergence.detach()


def bits_per_dim(log_prob: Tensor, dim: int, levels_per_unit: float) -> Tensor:
    """``-log2 p / D [N]`` of densities over data measured in levels.

    With u in data units and p = 127.5 (u + 1) in levels, ``log p(p) = log p(u) - D log 127.5``.

    Args:
        log_prob: ``[N]``, nats, over data in their own unit.
        dim: D.
        levels_per_unit: The number of levels in that unit.
    """
    return (log(levels_per_unit) - log_prob / dim) / log(2)


@dataclass(frozen=True)
class Likelihood:
    """The densities to compute along a simulation.

    Attributes:
        trace: The way to take traces.
        levels_per_unit: The number of gray levels in the unit of images; None for other data.
    """

    trace: Trace
    levels_per_unit: float | None = None

    def along(self, solver: Solver, rows: slice, dim: int) -> DivergenceIntegral:
        """The integral to take along with the states of these rows of a simulation."""
        return DivergenceIntegral(solver, self.trace.directions(rows, dim))

    def arrays(self, log_prob: Tensor, dim: int) -> dict[str, Tensor]:
        """``log_prob [N]`` by its name, and ``bits_per_dim [N]`` of images."""
        found = {"log_prob": log_prob}
        if self.levels_per_unit is not None:
            found["bits_per_dim"] = bits_per_dim(log_prob, dim, self.levels_per_unit)
        return found
