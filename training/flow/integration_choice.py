"""Choice of the cheapest accurate integration schedules, by trials on a flow.

The cheapest accurate schedule (``integrations``) for a use is measured on trajectories of the flow
itself, half of which start from data and half from latents. The error of a candidate is its
deviation from a far finer integration. Candidates have increasing numbers of network evaluations:

* the multistep method with fitted weights (``solvers``), but not for densities of given
  points. Weights are fitted step by step, by least squares on some of the trajectories, at the
  states that the method itself has reached, so that a step corrects the errors of earlier ones. Its
  integrals of the divergence are sums over the same times, with fitted weights too;
* ``exp_rk5``, where that is cheaper. In more than three dimensions there are also variants of
  ``exp_rk4`` and ``exp_rk5`` with traces at the ends of steps only, by a Gauss quadrature whose
  nodes are dense where traces are large.

The error of a candidate is half of the 95 % quantile of absolute deviations on the other
trajectories, which is the standard deviation if they are normal, or a fifth of the 99 % quantile if
that is more. Where modes separate, a few deviations are much larger, and more evaluations for all
would help few. Errors of states are in standard deviations, errors of log densities in nats, and
the larger one of the two starting points (data or latents) counts. The smallest number of
evaluations with acceptable errors is chosen.

Times are placed where steps of ``exp_rk5`` have equal errors. A step h at t of a method of order p
has an error of about ``C(t) h^(p+1)``. ``C`` is measured along trajectories from latents to data:
in each of K even intervals, one step is compared with two steps of a method of order 5. The sum of
n errors is smallest if they are equal, which makes the density of times proportional to
``C^(1/(p+1))`` (de Boor 1973, *Good approximation by splines with variable knots*).
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from dnnlib.errors import DataError
from training.flow.integrations import USES, GaussRule, Integration, Use
from training.flow.likelihood import (
    FEW_PRODUCTS,
    DivergenceIntegral,
    Trace,
    integral_weights,
    value_and_divergence,
)
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import DORMAND_PRINCE, FITTED, SOLVERS, Solver, runge_kutta
from training.names import LARGEST_EXACT

CELLS = 32
LEAST_DENSITY = 0.1
"""Lower bound of the density of times, as a share of its maximum.

It bounds step sizes where errors happen to vanish for the few samples.
"""

Grid = Callable[[int], Tensor]
"""Function from a number of steps to ``steps + 1`` increasing times, float64."""


@dataclass(frozen=True)
class EqualErrorGrid:
    """A time grid, for any number of steps, whose steps have equal errors.

    Attributes:
        times: Increasing reference times ``[K + 1]``, float64, between which times are
            interpolated.
    """

    times: Tensor

    @classmethod
    def from_density(cls, times: Tensor, density: Tensor, least: float) -> "EqualErrorGrid":
        """Return the time grid whose steps have a given density in each of K intervals.

        Args:
            times: Ends ``[K + 1]`` of the intervals, increasing, float64 on the CPU.
            density: Relative number of steps per unit of time in each interval ``[K]``, not
                negative. If all values are 0, times are evenly spaced.
            least: Lower bound of the density, as a share of its maximum.
        """
        density = density.clamp_min(least * (float(density.max()) or 1.0))
        mass = torch.cat([torch.zeros(1, dtype=torch.float64), (density * times.diff()).cumsum(0)])
        quantiles = torch.linspace(0, 1, 2 * len(density) + 1, dtype=torch.float64) * mass[-1]
        cell = torch.searchsorted(mass, quantiles).clamp(1, len(density))
        weight = (quantiles - mass[cell - 1]) / (mass[cell] - mass[cell - 1])
        placed = torch.lerp(times[cell - 1], times[cell], weight)
        placed[0], placed[-1] = times[0], times[-1]
        return cls(placed)

    def __call__(self, steps: int) -> Tensor:
        """Return ``steps + 1`` increasing times for a number of steps."""
        place = torch.linspace(0, len(self.times) - 1, steps + 1, dtype=torch.float64)
        place = place.to(self.times.device)
        cell = place.long().clamp(max=len(self.times) - 2)
        return torch.lerp(self.times[cell], self.times[cell + 1], place - cell)


@torch.no_grad()
def fit_equal_error_grid(
    flow: ProbabilityFlow, latents: Tensor, times: Tensor, solver: Solver
) -> EqualErrorGrid:
    """Return the time grid on which all steps of a solver have equal errors.

    Args:
        flow: The flow, on its device.
        latents: Latents ``[n, D]`` in scaled eigenspace at the last time.
        times: Increasing times; only the first and the last are used.
        solver: A Runge-Kutta solver.

    Raises:
        DataError: The errors are not finite.
    """
    first, last = float(times[0]), float(times[-1])
    even = torch.linspace(last, first, CELLS + 1, dtype=torch.float64, device=latents.device)
    errors = _errors_of_steps(flow, latents.double(), even, solver)
    density = errors.cpu() ** (1 / (solver.order + 1))
    if not density.isfinite().all():
        raise DataError(
            "the errors of the solver are NaN or infinite: check the network, or train it to a "
            "shorter time"
        )
    # For Gaussian data all errors are 0, and times are even.
    return EqualErrorGrid.from_density(even.flip(0).cpu(), density.flip(0), LEAST_DENSITY)


def _errors_of_steps(flow: ProbabilityFlow, x: Tensor, times: Tensor, solver: Solver) -> Tensor:
    """Return RMS errors ``[S]`` of single steps between times ``[S + 1]``, from accurate states."""
    velocity = flow.standardized_velocity if solver.standardized else flow.velocity
    state = x / flow.latent_std(times[0]) if solver.standardized else x
    exact = runge_kutta(DORMAND_PRINCE)
    errors = []
    for start, end in pairwise(times):
        *_, following = exact(velocity, state, torch.stack([start, (start + end) / 2, end]))
        (reached,) = solver.method(velocity, state, torch.stack([start, end]))
        errors.append((reached - following).square().mean().sqrt())
        state = following
    return torch.stack(errors)


FITS = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24)
"""Numbers of network evaluations of the fitted method."""
STEPS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20)
"""Numbers of steps of ``exp_rk4`` and ``exp_rk5``."""
FASTEST = 8
"""Maximum order at which an error falls with the number of steps.

Candidates that are still too inaccurate at this rate, by an earlier trial, are skipped.
"""
ORDER = 4
"""Order of the Adams method that fitted weights are shrunk toward."""
RIDGE = 1e-10
"""Ridge penalty, relative to the sum of squares of the slopes.

It is small enough to affect underdetermined directions only.
"""
FITTED_TO = 4
"""One trajectory in this many is used for the fit; the others measure errors.

Weights are few, but rare large errors should be detected.
"""
LEAST_SIZE, FINE = 0.05, 256
"""Floor of trace sizes as a share of the largest, and number of nodes for computing quadratures."""
PILOTS = 64
"""Number of trajectories for placing the times."""


@dataclass(frozen=True)
class Trajectories:
    """Accurate reference trajectories of standardized states, on which solvers are tested.

    Attributes:
        flow: The flow, conditional on the conditions of all trajectories.
        times: Increasing times ``[S]``, float64.
        states: States ``[S, N, D]`` of N trajectories, float64. One trajectory in ``FITTED_TO`` is
            used for fits; all other trajectories measure errors.
        of_data: Number of trajectories that start from data; trajectories from latents follow.
        traces: Divergences of the velocity ``[S, N]``; None if not computed.
    """

    flow: ProbabilityFlow
    times: Tensor
    states: Tensor
    of_data: int
    traces: Tensor | None

    @classmethod
    @torch.no_grad()
    def follow(
        cls,
        under: Callable[[slice], ProbabilityFlow],
        noisy: Tensor,
        latents: Tensor,
        steps: int,
        densities: bool = True,
    ) -> "Trajectories":
        """Integrate reference trajectories from data and from latents by ``exp_rk5``.

        Args:
            under: Function from a slice of trajectories to the flow given their conditions; the
                trajectories from data come first.
            noisy: Noisy states ``[n, D]`` at the first time, eigenspace, unscaled.
            latents: Scaled latents ``[m, D]`` at the end time.
            steps: Number of steps.
            densities: Whether to compute exact traces, unless the dimension makes them too
                expensive.
        """
        count = len(noisy)
        upward, downward = under(slice(0, count)), under(slice(count, None))
        flow, times = under(slice(None)), upward.times(steps)
        start = flow.schedule.scale(times[0]) * noisy
        melted = upward.simulate(start, times, "exp_rk5", save_every=1).states
        made = downward.simulate(latents, times.flip(0), "exp_rk5", save_every=1).states
        states = torch.cat([melted, made.flip(0)], dim=1)
        states = states / torch.stack([flow.latent_std(t) for t in times])[:, None]
        traces = None
        if densities and flow.basis.dim <= LARGEST_EXACT:
            slope, along = flow.slope(), zip(states, times, strict=True)
            traces = torch.stack([value_and_divergence(slope, x, t)[1] for x, t in along])
        return cls(flow, times, states, count, traces)

    @property
    def integrals(self) -> Tensor | None:
        """Integral ``[N]`` of the divergence along each trajectory; None if not computed."""
        if self.traces is None:
            return None
        return integral_weights(self.times, len(self.times)) @ self.traces

    def error(self, off: Tensor) -> float:
        """Return the typical size of deviations on the trajectories that no fit uses.

        The size is half of the 95 % quantile, or a fifth of the 99 % quantile if larger. It is
        computed for trajectories from data and for trajectories from latents. The larger size is
        returned.

        Args:
            off: Deviations ``[N]`` or ``[N, D]`` of all trajectories.
        """
        judges, levels = ~self.fitted_to, torch.tensor([0.95, 0.99]).to(off)
        sizes = []
        for part in (slice(0, self.of_data), slice(self.of_data, None)):
            most = off[part][judges[part]].abs().flatten().quantile(levels)
            sizes.append(float((most / torch.tensor([2.0, 5.0]).to(off)).max()))
        return max(sizes)

    @property
    def fitted_to(self) -> Tensor:
        """Mask ``[N]`` of the trajectories used for fits."""
        return torch.arange(self.states.shape[1], device=self.states.device) % FITTED_TO == 0

    def at(self, times: Tensor) -> Tensor:
        """Return the states ``[n, N, D]`` at n intermediate times, by a cubic spline."""
        from scipy.interpolate import CubicSpline

        curve = CubicSpline(self.times.cpu().numpy(), self.states.flatten(1).cpu().numpy())
        states = torch.from_numpy(curve(times.cpu().numpy()))
        return states.view(len(times), *self.states.shape[1:]).to(self.states)


@torch.no_grad()
def choose_integrations(
    under: Callable[[slice], ProbabilityFlow],
    noisy: Tensor,
    latents: Tensor,
    steps: int,
    on_trial: Callable[[], object] | None = None,
    densities: bool = True,
) -> dict[str, Integration]:
    """Return the cheapest accurate integration schedule for each use, by name in ``USES``.

    Uses without an accurate candidate are left out.

    Args:
        under: Function from a slice of trajectories to the flow given their conditions; the
            trajectories from data come first.
        noisy: Noisy states ``[n, D]`` at the first time, eigenspace, unscaled.
        latents: Scaled latents ``[m, D]`` at the end time.
        steps: Number of steps of the reference integration.
        on_trial: Called after each candidate, for a progress bar.
        densities: Whether to choose schedules for uses with log densities too.
    """
    right = Trajectories.follow(under, noisy, latents, steps, densities)
    few = slice(0, min(PILOTS, len(noisy)))
    ends = right.states[-1, few] * right.flow.latent_std(right.times[-1])
    grid = fit_equal_error_grid(under(few), ends, right.times, SOLVERS["exp_rk5"])
    rule = None
    if right.traces is not None:
        rule = gauss_rule(right.times, right.traces.square().mean(dim=1).sqrt())
    integrations: dict[str, Integration] = {}
    # These uses share their candidates; the least demanding come first.
    ways = sorted({use[:2] for use in USES.values() if rule is not None or not use.densities})
    for way in ways:
        wanted = [name for name, use in USES.items() if use[:2] == way]
        least: dict[tuple[str, bool], float] = {}
        for integration in candidates(right.flow.basis.dim, USES[wanted[0]], 6 * steps):
            kind = (integration.name, integration.quadrature)
            if integration.steps < least.get(kind, 0):
                continue
            integration.place(grid, rule)
            try_one = try_fitted if integration.name == FITTED else try_plain
            try_one(integration, right, USES[wanted[0]])
            if on_trial:
                on_trial()
            served = [name for name in wanted if integration.serves(USES[name])]
            integrations |= {
                name: deepcopy(integration) for name in served
            }  # files store a copy for each
            wanted = [name for name in wanted if name not in served]
            if not wanted:
                break
            excess = min(integration.excess(USES[name]) for name in wanted)
            least[kind] = integration.steps * excess ** (1 / FASTEST)
    return integrations


def candidates(dim: int, use: Use, calls: int) -> list[Integration]:
    """Return the candidate schedules for a use, cheapest first, still without times.

    The fitted method is excluded for densities of given points. Given points may lie in the tails,
    far from the fitted trajectories, where errors are a hundred times as large.

    Args:
        dim: D, the dimension of states.
        use: Use of the schedule.
        calls: Upper limit on the number of network evaluations; candidates take fewer.
    """
    numbers = () if use.melts and use.densities else FITS
    fits = [Integration(FITTED, steps, dim, use.melts, use.densities) for steps in numbers]
    plain = [Integration("exp_rk5", steps, dim, use.melts) for steps in STEPS]
    if use.densities and dim > FEW_PRODUCTS:
        ways = product(("exp_rk4", "exp_rk5"), STEPS)
        plain += [Integration(name, steps, dim, use.melts, quadrature=True) for name, steps in ways]
    few = [integration for integration in fits + plain if integration.calls < calls]
    return sorted(few, key=lambda integration: integration.cost(use))


def gauss_rule(times: Tensor, sizes: Tensor) -> GaussRule:
    """Return the Gauss quadrature rules for functions of time whose size is roughly known.

    The rule with n nodes is exact for the sizes times any polynomial of degree less than 2 n.

    The polynomials that are orthogonal under the sizes come from Stieltjes's procedure; nodes are
    eigenvalues of the matrix of their recurrence, and weights squares of its eigenvectors (Golub
    and Welsch 1969; Gautschi 2004, *Orthogonal Polynomials*, sections 2.2 and 3.1).

    Args:
        times: Increasing times ``[S]``, float64.
        sizes: Sizes of the functions at these times ``[S]``, not negative; ``LEAST_SIZE`` times the
            largest size is added.
    """
    from scipy.interpolate import CubicSpline

    first, last = times[[0, -1]].tolist()
    sizes = sizes / (float(sizes.max()) or 1.0) + LEAST_SIZE
    log_size = CubicSpline(times.cpu().numpy(), sizes.log().cpu().numpy())
    x, weights = leggauss(FINE)
    weights = weights * np.exp(log_size(first + (last - first) / 2 * (1 + x)))

    def rule(count: int) -> tuple[Tensor, Tensor]:
        before, now, beside = np.zeros(FINE), np.full(FINE, weights.sum() ** -0.5), 0.0
        recurrence = np.zeros((count + 1, count + 1))
        for k in range(count):
            recurrence[k, k] = place = weights @ (x * now**2)
            following = (x - place) * now - beside * before
            recurrence[k + 1, k] = beside = (weights @ following**2) ** 0.5
            before, now = now, following / beside
        nodes, vectors = np.linalg.eigh(recurrence[:count, :count])  # uses the lower triangle
        nodes = first + (last - first) / 2 * (1 + nodes)
        shares = (last - first) / 2 * weights.sum() * vectors[0] ** 2 / np.exp(log_size(nodes))
        return torch.from_numpy(nodes), torch.from_numpy(shares)

    return rule


def try_plain(integration: Integration, right: Trajectories, use: Use) -> None:
    """Measure the errors of a schedule whose solver needs no fit, and store them in the schedule.

    Args:
        integration: The schedule, with its times.
        right: Accurate reference trajectories.
        use: Use of the schedule, which decides whether log densities are computed.
    """
    flow, way = right.flow, integration.way.to(right.times)
    start, end = (0, -1) if integration.melts else (-1, 0)
    rows = slice(0, right.states.shape[1])
    integral = DivergenceIntegral(integration.solver, Trace("exact"), rows, flow.basis.dim)
    begin = right.states[start] * flow.latent_std(way[0])
    solver = integral.solver if use.densities else integration.solver
    reached = flow.simulate(begin, way, solver).end / flow.latent_std(way[-1])
    integration.error = right.error(reached - right.states[end])
    if use.densities:
        integration.nats = _density_error(right, integration.melts, integral.value, reached)


def try_fitted(integration: Integration, right: Trajectories, use: Use) -> None:
    """Fit the solver weights of a schedule, and measure its errors on other trajectories.

    Weights and errors are stored in the schedule.

    Args:
        integration: The schedule, with its times.
        right: Accurate reference trajectories; a part is used for the fit, the rest for errors.
        use: Use of the schedule, which decides whether log densities are computed.
    """
    way = integration.way.to(right.times)
    states = right.at(way)
    x, slopes, traces = states[0], [], []
    fits = right.fitted_to
    for k, target in enumerate(states[1:]):
        if use.densities:
            slope, trace = value_and_divergence(right.flow.slope(), x, way[k])
            traces.append(trace)
        else:
            slope = right.flow.standardized_velocity(x, way[k])
        slopes.append(slope)
        base = _polynomial(way[: k + 2])
        rows = torch.stack(slopes, dim=-1)
        weights = _ridge(rows[fits].flatten(0, 1), (target - x)[fits].flatten(), base)
        integration.weights[k, : k + 1] = weights
        x = x + rows @ weights
    integration.error = right.error(x - states[-1])
    if right.integrals is not None and use.densities and integration.error <= use.error:
        columns, sign = torch.stack(traces, dim=1), 1 if integration.melts else -1
        base = integral_weights(way, len(traces))
        weights = _ridge(columns[fits], sign * right.integrals[fits], base)
        integration.integrals.copy_(weights)
        integration.nats = _density_error(right, integration.melts, columns @ weights, x)


def _density_error(right: Trajectories, melts: bool, integral: Tensor, reached: Tensor) -> float:
    """Return the error of log densities in nats, with latents treated as standard normal.

    Args:
        right: Reference trajectories.
        melts: Whether integration runs from data to latents.
        integral: Integrals of the divergence ``[N]``.
        reached: End states ``[N, D]``.
    """
    assert right.integrals is not None
    if not melts:
        return right.error(integral + right.integrals)
    off = integral - right.integrals
    return right.error(off - (reached.square() - right.states[-1].square()).sum(dim=1) / 2)


def _ridge(rows: Tensor, values: Tensor, base: Tensor) -> Tensor:
    """Return ridge weights ``[k]``, shrunk to a base, of rows ``[n, k]`` for values ``[n]``."""
    square = rows.mT @ rows
    ridge = RIDGE * square.trace() + torch.finfo(rows.dtype).tiny
    inner = square + ridge * torch.eye(len(base)).to(rows)
    return base + torch.linalg.solve(inner, rows.mT @ (values - rows @ base))


def _polynomial(times: Tensor) -> Tensor:
    """Return Adams-Bashforth weights ``[k]`` of values at all but the last of times ``[k + 1]``.

    They integrate the polynomial through the latest values over the last step.
    """
    nodes, step = times[:-1], times[-1] - times[-2]
    latest = nodes[-ORDER:]
    places, powers = (latest - nodes[-1]) / step, torch.arange(len(latest)).to(nodes)
    weights = torch.linalg.solve(places[None] ** powers[:, None], 1 / (powers + 1))
    return torch.cat([torch.zeros_like(nodes[: -len(latest)]), step * weights])
