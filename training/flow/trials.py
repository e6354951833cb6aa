"""As few calls as an answer needs: solvers, and their times, that were tried out on a flow.

Which course (``courses``) is cheap and good enough for a use is measured on trajectories of the
flow itself, half of which start from data and half from latents: what solvers of more and more
calls are off by, from a far finer integration. Tried are

* the multistep method whose weights are fitted (``solvers.fitted``), but not for densities of given
  points: step by step, by least squares on some of the trajectories, at the states that it has
  come to, so that a step mends what those before it did wrong. Its integrals of the divergence
  are sums over the same times, fitted too;
* ``exp_rk5``, where that is cheaper; in more than three dimensions also with traces at the ends of
  its steps alone, or of those of ``exp_rk4``, by a quadrature of Gauss whose nodes are close where
  traces are large.

Errors are half of what 19 in 20 of all others are off by at most, which is the standard deviation
of what is normal, or a fifth of what 99 in 100 are, if that is more: where modes part, a few are
off by much more, and more calls for all would help few. Of states they are in standard deviations,
of log densities in nats, and the larger of those that start from data and those from latents
counts. The least number of calls for which they are small enough is taken. Times lie where steps of
``exp_rk5`` make equal errors (``grids``).
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from training.flow.courses import USES, Course, GaussRule, Use
from training.flow.grids import fit_equal_error_grid
from training.flow.likelihood import (
    FEW_PRODUCTS,
    DivergenceIntegral,
    Trace,
    integral_weights,
    value_and_divergence,
)
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.flow.solvers.fitted import FITTED
from training.names import LARGEST_EXACT

FITS = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 20, 22, 24)
"""Calls of the method that is fitted."""
STEPS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20)
"""Of ``exp_rk4`` and ``exp_rk5``."""
FASTEST = 8
"""Power of the number of steps by which an error falls at most: what a trial shows to be too few
for that is not tried."""
ORDER = 4
"""Of the method of Adams that fits are kept near."""
RIDGE = 1e-10
"""Of the sum of squares of the slopes: it decides nothing but what these leave open."""
FITTED_TO = 4
"""Weights are few, and errors that are rare but large are to be seen: most trajectories judge."""
LEAST_SIZE, FINE = 0.05, 256
"""Share of the largest trace that is counted on everywhere; nodes by which those of a quadrature
are computed."""
PILOTS = 64
"""Trajectories by which times are placed."""


@dataclass(frozen=True)
class Trajectories:
    """Right ways of standardized states, to try solvers on.

    Attributes:
        flow: Whose they are, under the conditions of all of them.
        times: Increasing ``[S]``, float64.
        states: ``[S, N, D]``, float64. One of ``FITTED_TO`` is fitted to, the others judge.
        of_data: How many of the N start from data; the others follow them.
        traces: Divergences ``[S, N]``; None where they were not taken.
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
        """Those from data and those from latents, by so many steps of ``exp_rk5``, under the
        conditions of some rows, those of data first: noisy states ``[n, D]`` at the first time,
        eigenspace, unscaled, and scaled latents ``[m, D]`` at the end time. Exact traces are taken
        along, if they are wanted and not too dear."""
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
        """Of the divergence from the first time to the last, ``[N]``."""
        if self.traces is None:
            return None
        return integral_weights(self.times, len(self.times)) @ self.traces

    def error(self, off: Tensor) -> float:
        """The usual error of what is off by ``[N]`` or ``[N, D]``, of those that judge."""
        judges = ~self.fitted_to
        parts = (slice(0, self.of_data), slice(self.of_data, None))
        return max(_usual(off[part][judges[part]]) for part in parts)

    @property
    def fitted_to(self) -> Tensor:
        """Which trajectories are fitted to, ``[N]``."""
        return torch.arange(self.states.shape[1], device=self.states.device) % FITTED_TO == 0

    def at(self, times: Tensor) -> Tensor:
        """States at other times between, ``[n, N, D]``, by a cubic spline."""
        from scipy.interpolate import CubicSpline

        curve = CubicSpline(self.times.cpu().numpy(), self.states.flatten(1).cpu().numpy())
        states = torch.from_numpy(curve(times.cpu().numpy()))
        return states.view(len(times), *self.states.shape[1:]).to(self.states)


@torch.no_grad()
def choose_courses(
    under: Callable[[slice], ProbabilityFlow],
    noisy: Tensor,
    latents: Tensor,
    steps: int,
    on_trial: Callable[[], object] | None = None,
    densities: bool = True,
) -> dict[str, Course]:
    """The cheapest course for each of ``USES``, but for those that none serves; for the first three
    see ``Trajectories.follow``, and ``steps`` are those of the integration that courses are
    compared with. ``on_trial`` is called after each course that was tried."""
    right = Trajectories.follow(under, noisy, latents, steps, densities)
    few = slice(0, min(PILOTS, len(noisy)))
    ends = right.states[-1, few] * right.flow.latent_std(right.times[-1])
    grid = fit_equal_error_grid(under(few), ends, right.times, SOLVERS["exp_rk5"])
    rule = None
    if right.traces is not None:
        rule = gauss_rule(right.times, right.traces.square().mean(dim=1).sqrt())
    courses: dict[str, Course] = {}
    # For these the same is tried; the least careful come first.
    ways = sorted({use[:2] for use in USES.values() if rule is not None or not use.densities})
    for way in ways:
        wanted = [name for name, use in USES.items() if use[:2] == way]
        least: dict[tuple[str, bool], float] = {}
        for course in candidates(right.flow.basis.dim, USES[wanted[0]], 6 * steps):
            kind = (course.name, course.quadrature)
            if course.steps < least.get(kind, 0):
                continue
            course.place(grid, rule)
            try_one = try_fitted if course.name == FITTED else try_plain
            try_one(course, right, USES[wanted[0]])
            if on_trial:
                on_trial()
            served = [name for name in wanted if course.serves(USES[name])]
            courses |= {name: deepcopy(course) for name in served}  # files hold each of its own
            wanted = [name for name in wanted if name not in served]
            if not wanted:
                break
            excess = min(course.excess(USES[name]) for name in wanted)
            least[kind] = course.steps * excess ** (1 / FASTEST)
    return courses


def candidates(dim: int, use: Use, calls: int) -> list[Course]:
    """What is tried for a use in D dimensions, of fewer calls than so many, the cheapest first.

    What is fitted to trajectories is not taken for densities of given points, which may be where
    there were none: in the tails it is off by a hundred times as much (``benchmarks/cost.py
    --tails``).
    """
    numbers = () if use.melts and use.densities else FITS
    fits = [Course(FITTED, steps, dim, use.melts, use.densities) for steps in numbers]
    plain = [Course("exp_rk5", steps, dim, use.melts) for steps in STEPS]
    if use.densities and dim > FEW_PRODUCTS:
        ways = product(("exp_rk4", "exp_rk5"), STEPS)
        plain += [Course(name, steps, dim, use.melts, quadrature=True) for name, steps in ways]
    few = [course for course in fits + plain if course.calls < calls]
    return sorted(few, key=lambda course: course.cost(use))


def gauss_rule(times: Tensor, sizes: Tensor) -> GaussRule:
    """Quadratures of functions that are about so large: n nodes are right for the sizes times
    polynomials of degree less than 2 n.

    The polynomials that are orthogonal under the sizes come by Stieltjes's procedure; nodes are
    eigenvalues of the matrix of their recurrence, and weights squares of its eigenvectors (Golub
    and Welsch 1969; Gautschi 2004, *Orthogonal Polynomials*, sections 2.2 and 3.1).

    Args:
        times: Increasing ``[S]``, float64.
        sizes: There ``[S]``, not negative; they are taken to be ``LEAST_SIZE`` of the largest more.
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
        nodes, vectors = np.linalg.eigh(recurrence[:count, :count])  # reads what is below
        nodes = first + (last - first) / 2 * (1 + nodes)
        shares = (last - first) / 2 * weights.sum() * vectors[0] ** 2 / np.exp(log_size(nodes))
        return torch.from_numpy(nodes), torch.from_numpy(shares)

    return rule


def try_plain(course: Course, right: Trajectories, use: Use) -> None:
    """Measures the errors of a solver that needs no fit."""
    flow, way = right.flow, course.way.to(right.times)
    start, end = (0, -1) if course.melts else (-1, 0)
    rows = slice(0, right.states.shape[1])
    integral = DivergenceIntegral(course.solver, Trace("exact"), rows, flow.basis.dim)
    begin = right.states[start] * flow.latent_std(way[0])
    solver = integral.solver if use.densities else course.solver
    reached = flow.simulate(begin, way, solver).end / flow.latent_std(way[-1])
    course.error = right.error(reached - right.states[end])
    if use.densities:
        course.nats = _density_error(right, course.melts, integral.value, reached)


def try_fitted(course: Course, right: Trajectories, use: Use) -> None:
    """Fits a course's weights, and measures its errors on what they were not fitted to."""
    way = course.way.to(right.times)
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
        course.weights[k, : k + 1] = weights
        x = x + rows @ weights
    course.error = right.error(x - states[-1])
    if right.integrals is not None and use.densities and course.error <= use.error:
        columns, sign = torch.stack(traces, dim=1), 1 if course.melts else -1
        base = integral_weights(way, len(traces))
        weights = _ridge(columns[fits], sign * right.integrals[fits], base)
        course.integrals.copy_(weights)
        course.nats = _density_error(right, course.melts, columns @ weights, x)


def _density_error(right: Trajectories, melts: bool, integral: Tensor, reached: Tensor) -> float:
    """Of log densities in nats, by integrals ``[N]`` along a way and where it came to ``[N, D]``:
    latents count as if they were standard normal."""
    assert right.integrals is not None
    if not melts:
        return right.error(integral + right.integrals)
    off = integral - right.integrals
    return right.error(off - (reached.square() - right.states[-1].square()).sum(dim=1) / 2)


def _ridge(rows: Tensor, values: Tensor, base: Tensor) -> Tensor:
    """Weights ``[k]``, near ``base [k]``, with which rows ``[n, k]`` come nearest to values
    ``[n]``."""
    square = rows.mT @ rows
    ridge = RIDGE * square.trace() + torch.finfo(rows.dtype).tiny
    inner = square + ridge * torch.eye(len(base)).to(rows)
    return base + torch.linalg.solve(inner, rows.mT @ (values - rows @ base))


def _polynomial(times: Tensor) -> Tensor:
    """Weights ``[k]`` of values at times ``[k + 1]`` but the last, in the integral over the last
    step, of the polynomial through the latest of them: the method of Adams and Bashforth."""
    nodes, step = times[:-1], times[-1] - times[-2]
    latest = nodes[-ORDER:]
    places, powers = (latest - nodes[-1]) / step, torch.arange(len(latest)).to(nodes)
    weights = torch.linalg.solve(places[None] ** powers[:, None], 1 / (powers + 1))
    return torch.cat([torch.zeros_like(nodes[: -len(latest)]), step * weights])


def _usual(off: Tensor) -> float:
    """Half of what 19 in 20 are off by at most; a fifth of what 99 in 100 are, if that is more."""
    most = off.abs().flatten().quantile(torch.tensor([0.95, 0.99]).to(off))
    return float((most / torch.tensor([2.0, 5.0]).to(off)).max())
