"""The probability-flow ODE, which maps data to a Gaussian (*melt*) and back (*generate*).

In eigenspace, for the scaled variable ``x = s x_tilde`` (Inflationary Flows, section 3.1; Song et
al. 2021, equation 13, for general noise),

    dx_i/dt = (d log s/dt + r_i/2) x_i - (r_i/2) s D_i(x/s, t),     r_i = d log gamma_i / dt.

The best linear denoiser is ``f_i x_tilde_i`` with ``f_i = xi_i / (xi_i + gamma_i)``. Under it alone
``x_tilde_i`` grows as ``sqrt(xi_i + gamma_i)``; so for the *standardized* variable

    x_hat_i = x_tilde_i / sqrt(xi_i + gamma_i),
    dx_hat_i/dt = (r_i/2) (f_i x_tilde_i - D_i) / sqrt(xi_i + gamma_i),

the linear part is gone, and the remaining right side vanishes for Gaussian data. With a network F,
``D = c_skip x_tilde + c_out F(x_hat)``, it is ``dx_hat_i = -F_i dtheta_i``: a rotation by the
angles ``theta_i = arctan sqrt(gamma_i / xi_i)``.

States are in float64; the denoiser chooses its own precision.

The right side of the probability-flow ODE, for scaled or standardized states.

With ``x_tilde = a(t) x`` both are ``dx_i/dt = l_i x_i - (r_i / 2) D_i(x_tilde, t) / a_i``, where

    scaled          a = 1 / s,               l_i = d log s/dt + r_i / 2,
    standardized    a_i = sqrt(xi_i + gamma_i),  l_i = (r_i / 2) xi_i / (xi_i + gamma_i),

so that the divergence depends on the diagonal of the denoiser's Jacobian only:

    sum_i l_i - sum_i (r_i / 2) dD_i/dx_tilde_i.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from math import isclose
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

from dnnlib.errors import DataError, UsageError
from dnnlib.numbers import natural
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import (
    BlockwiseDenoiser,
    ConditionedDenoiser,
    CountedVelocity,
    Denoiser,
    with_trace,
)
from training.flow.eigenbasis import EigenBasis
from training.flow.integrations import Integration
from training.flow.latent import (
    ConditionalMixture,
    GaussianLatents,
    LatentDistribution,
    LearnedLatents,
)
from training.flow.likelihood import Density, DivergenceIntegral, LogDensity, Trace
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import Solver, Velocity, as_solver
from training.names import DEFAULT_SOLVER, DEFAULT_STEPS


@dataclass(frozen=True)
class FlowVelocity:
    """The right side of the probability-flow ODE, for states ``[N, D]`` in eigenspace.

    Attributes:
        denoiser: Denoiser D.
        schedule: Noise schedule with the rates ``r_i = d log gamma_i / dt`` and the scale s.
        basis: Eigenbasis with the data variances xi.
        standardized: Whether states are standardized rather than scaled.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    basis: EigenBasis
    standardized: bool

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``[N, D]`` of states ``x [N, D]`` at times ``[]`` or ``[N]``."""
        unit, linear, half_rate = self._terms(t)
        return linear * x - half_rate / unit * self.denoiser(unit * x, t)

    def with_divergence(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the velocity and its divergence ``[N]``.

        The result is None if the denoiser does not compute traces itself (``calls.with_trace``).
        """
        unit, linear, half_rate = self._terms(t)
        known = with_trace(self.denoiser, unit * x, t, half_rate)
        if known is None:
            return None
        denoised, trace = known
        return linear * x - half_rate / unit * denoised, linear.sum() - trace

    def _terms(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a, l and r / 2 ``[..., D]``."""
        half_rate = self.schedule.log_noise_rate(t) / 2
        if self.standardized:
            variance = self.basis.eigenvalues + self.schedule.noise_variance(t)
            return variance.sqrt(), half_rate * self.basis.eigenvalues / variance, half_rate
        scale, rate = self.schedule.scale(t), self.schedule.log_scale_rate(t)
        return 1 / scale[..., None], rate[..., None] + half_rate, half_rate


class State(NamedTuple):
    """A saved state of N points during an integration.

    Attributes:
        time: Time of the state ``[]``.
        x: The scaled variable in eigenspace ``[N, D]``, float64.
        update: Change of x in the last step ``[N, D]``, zero at the start.
    """

    time: Tensor
    x: Tensor
    update: Tensor


@dataclass(frozen=True)
class Trajectory:
    """Saved states of an integration of the ODE, in the order in which they were visited.

    Attributes:
        times: Times of the S states ``[S]``.
        states: The scaled variable in eigenspace ``[S, N, D]``, float64.
        updates: Change of each state in its last step ``[S, N, D]``; zero at the start.
        calls: Number of network evaluations (NFE).
    """

    times: Tensor
    states: Tensor
    updates: Tensor
    calls: int

    @property
    def end(self) -> Tensor:
        """Last state ``[N, D]``."""
        return self.states[-1]

    def __repr__(self) -> str:
        saved, count, dim = self.states.shape
        first, last = float(self.times[0]), float(self.times[-1])
        return (
            f"Trajectory({saved} states of {count} points, dim={dim}, t={first:g} to {last:.4g}, "
            f"calls={self.calls})"
        )


def saved_steps(steps: int, save_every: int | None) -> list[int]:
    """Return the indices of the steps with saved states: 0, multiples of ``save_every``, the last.

    Args:
        steps: Number of steps.
        save_every: Number of steps between saved states; None for the first and last state only.

    Raises:
        UsageError: ``save_every`` is less than 1.
    """
    if save_every is not None and save_every < 1:
        raise UsageError(f"save_freq is {save_every}: give at least 1")
    return [*range(0, steps, save_every or steps), steps]


def walk(
    solver: Solver,
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    unit: Callable[[Tensor], Tensor] | None,
) -> Iterator[Tensor]:
    """Yield the states ``[N, D]`` at all times ``[steps + 1]``, the start included.

    Args:
        solver: The solver.
        velocity: Velocity of the variable that the solver integrates.
        x: State ``[N, D]`` at the first time.
        times: Monotone times ``[steps + 1]``.
        unit: Function from a time to the ratio ``[D]`` of x to the integrated variable; None if
            the two variables are the same.
    """
    yield x
    if unit is None:
        yield from solver.method(velocity, x, times)
        return
    steps = solver.method(velocity, x / unit(times[0]), times)
    for t, state in zip(times[1:], steps, strict=True):
        yield unit(t) * state


def follow(
    walk: Iterable[Tensor],
    times: Tensor,
    saved: Collection[int],
    on_step: Callable[[], object] | None,
    on_state: Callable[[State], None] | None,
) -> list[State]:
    """Run an integration to its end, and return its saved states.

    Args:
        walk: States ``[N, D]`` at all times, the start included.
        times: Times ``[steps + 1]`` of the steps.
        saved: Indices of the steps after which states are saved.
        on_step: Called for each step, for a progress bar.
        on_state: Called with each saved state. Only the first and the last state are then returned.

    Raises:
        DataError: The last state is NaN or infinite.
    """
    kept: list[State] = []
    before = None
    for index, x in enumerate(walk):
        last = index == len(times) - 1
        if last and not x.isfinite().all():
            raise DataError(
                f"{int((~x.isfinite()).any(dim=1).sum())} of {len(x)} states became NaN "
                f"or infinite between t = {float(times[0]):g} and t = {float(times[-1]):g}: "
                "use more steps, or check the network"
            )
        if index in saved:
            update = torch.zeros_like(x) if before is None else x - before
            state = State(times[index], x, update)
            if on_state:
                on_state(state)
            if not on_state or last or not kept:
                kept.append(state)
        if on_step and index:
            on_step()
        before = x
    return kept


class ProbabilityFlow:
    """The probability flow: an invertible map between data and latents, defined by a denoiser.

    Points are ``[N, D]`` in data space, latents ``[N, D]`` in scaled eigenspace. Optional
    coordinates map between data space and the space of the basis; densities refer to data space.
    The default integration has ``DEFAULT_STEPS`` steps to the end time. Many points at once take
    much memory in large networks: see ``in_blocks``.

    Args:
        denoiser: ``D(x_tilde [B, D], t [] or [B]) -> [B, D]`` in eigenspace.
        schedule: Noise variances and scale as functions of time.
        basis: Map between data space and eigenspace.
        end_time: T, the time of latents; None for the default of the schedule.
        coordinates: Map between data space and the space of the basis; None if the two spaces are
            the same.
        learned: Distribution of standardized compressed latents at the end time, given the kept
            latents; None for the Gaussian of the closed form.
        integrations: Integration schedules by use; for uses without one, ``DEFAULT_STEPS`` of
            ``DEFAULT_SOLVER``.

    Example:
        >>> import torch
        >>> from training import EigenBasis, InflationSchedule, Toy
        >>> from training.flow.denoisers import MixtureDenoiser
        >>> toy = Toy("circles")
        >>> basis = EigenBasis.from_moments(*toy.moments())
        >>> schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
        >>> exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
        >>> flow = ProbabilityFlow(exact, schedule, basis)
        >>> flow
        ProbabilityFlow(PRP, dim=2, end_time=9.798)
        >>> points = flow.sample(100, torch.Generator().manual_seed(0))
        >>> latents = flow.encode(points)
        >>> bool((flow.decode(latents) - points).abs().max() < 1e-3)
        True
        >>> flow.log_prob(points).shape
        torch.Size([100])
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: NoiseSchedule,
        basis: EigenBasis,
        end_time: float | None = None,
        coordinates: Coordinates | None = None,
        learned: ConditionalMixture | None = None,
        integrations: Mapping[str, Integration] | None = None,
    ):
        self.denoiser, self.schedule, self.basis = denoiser, schedule, basis
        self.integrations = dict(integrations or {})
        self._end_time, self.coordinates, self.learned = end_time, coordinates, learned
        self.rows: int | None = None  # number of condition rows, if each point has its own

    def __repr__(self) -> str:
        try:
            end = f"{self.end_time:.4g}"
        except UsageError:  # the initial noise already exceeds the end variance
            end = "unknown"
        return f"ProbabilityFlow({self.schedule.name}, dim={self.basis.dim}, end_time={end})"

    @property
    def device(self) -> torch.device:
        """Device on which the flow is computed."""
        return self.basis.mean.device

    @property
    def end_time(self) -> float:
        """End time T, the time of latents."""
        return self.schedule.default_t_max() if self._end_time is None else self._end_time

    @property
    def latent(self) -> LatentDistribution:
        """Base distribution of latents at the end time."""
        t = torch.tensor(self.end_time, dtype=torch.float64, device=self.device)
        return self.latent_law(t)

    def times(self, steps: int = DEFAULT_STEPS) -> Tensor:
        """Return ``steps + 1`` increasing times from the first to the end time."""
        return self.schedule.times(steps, self.end_time).to(self.device)

    def integration(
        self, use: str, times: Tensor | None = None, solver: Solver | str | None = None
    ) -> tuple[Tensor, Solver]:
        """Return the times ``[steps + 1]`` and the solver of an integration.

        If neither times nor solver are given, the flow's integration schedule for the use is
        returned, provided that the schedule spans the flow's times.

        Args:
            use: A name in ``integrations.USES``.
            times: Increasing times; None for the default.
            solver: The solver, or its name; None for the default.
        """
        integration = self.integrations.get(use)
        ends = (self.schedule.t_min, self.end_time)
        if (
            integration is None
            or times is not None
            or solver is not None
            or not integration.spans(*ends)
        ):
            return (self.times() if times is None else times), as_solver(solver or DEFAULT_SOLVER)
        return integration.times.to(self.device), integration.solver

    def sample(
        self,
        count: int,
        generator: torch.Generator | None = None,
        times: Tensor | None = None,
        solver: Solver | str | None = None,
    ) -> Tensor:
        """Generate points ``[count, D]``, float64.

        Args:
            count: Number of points.
            generator: Random generator on the CPU; None for torch's global one.
            times: Increasing times ``[steps + 1]``; see ``integration`` for the defaults of times
                and solver.
            solver: The solver, or its name.

        Raises:
            UsageError: The count is negative or not a whole number, or the generator is invalid.
            DataError: A generated point is NaN or infinite.
        """
        count = natural("count", count)
        if not (generator is None or hasattr(generator, "manual_seed")):
            raise UsageError(
                f"the generator is {generator!r}: give a torch.Generator, for example "
                "torch.Generator().manual_seed(0)"
            )
        times, solver = self.integration("points", times, solver)
        return self.decode(self.latent_law(times[-1]).sample(count, generator), times, solver)

    def encode(
        self, points: ArrayLike, times: Tensor | None = None, solver: Solver | str = DEFAULT_SOLVER
    ) -> Tensor:
        """Return the latents ``[N, D]`` of points ``[N, D]`` in data space; see ``melt``."""
        return self.melt(points, times, solver).end

    def decode(
        self, latents: ArrayLike, times: Tensor | None = None, solver: Solver | str = DEFAULT_SOLVER
    ) -> Tensor:
        """Return the points ``[N, D]`` in data space of latents ``[N, D]``; see ``generate``."""
        generated = self.generate(latents, times, solver)
        return self.to_data(generated.end, generated.times[-1])

    def log_prob(
        self,
        points: ArrayLike,
        times: Tensor | None = None,
        solver: Solver | str | None = None,
        latent_log_density: LogDensity | None = None,
        trace: Trace | None = None,
        first_row: int = 0,
        differentiable: bool = False,
    ) -> Tensor:
        """Return the log densities ``[N]`` of points ``[N, D]``; see ``log_prob_with_error``.

        Raises:
            UsageError: The density would be an estimate, and no trace method was given.
        """
        if trace is None:
            self.require_exact()
        return self.log_prob_with_error(
            points, times, solver, latent_log_density, trace, first_row, differentiable
        ).log_prob

    def require_exact(self) -> None:
        """Check that log densities are not estimates without an explicit trace method.

        Raises:
            UsageError: There are too many dimensions.
        """
        dim = self.basis.dim
        if not Trace().is_exact(dim):
            raise UsageError(
                f"log densities in {dim} dimensions are estimates: use log_prob_with_error"
            )

    def log_prob_with_error(
        self,
        points: ArrayLike,
        times: Tensor | None = None,
        solver: Solver | str | None = None,
        latent_log_density: LogDensity | None = None,
        trace: Trace | None = None,
        first_row: int = 0,
        differentiable: bool = False,
    ) -> Density:
        """Return the log densities ``[N]`` of points ``[N, D]`` in nats, with standard errors.

        The density is the density of data plus the noise of the first time (``likelihood``). The
        denoiser must be differentiable, and a network must be in evaluation mode.

        Args:
            points: Points ``[N, D]`` of data space at which to evaluate the density.
            times: Increasing times; the points are data at the first time, latents belong to the
                last time.
            solver: The solver, or its name.
            latent_log_density: Log density of the latents at the last time; None for the base
                distribution.
            trace: Method for the traces of Jacobians; None for ``Trace()``.
            first_row: Index of the first point, if the points are part of a larger set.
            differentiable: Whether gradients flow back to the points and the conditions.

        Raises:
            DataError: Points do not have D dimensions, or a latent or a density is not finite.
        """
        points = self._rows_of("points", points)
        rows = slice(first_row, first_row + len(points))
        times, solver = self.integration("densities", times, solver)
        integral = DivergenceIntegral(solver, trace or Trace(), rows, self.basis.dim)
        trajectory = self.melt(points, times, integral.solver, differentiable=differentiable)
        return self.log_prob_along(trajectory, integral, latent_log_density)

    def log_prob_along(
        self,
        trajectory: Trajectory,
        integral: DivergenceIntegral,
        latent_log_density: LogDensity | None = None,
    ) -> Density:
        """Return the log densities ``[N]`` in nats of the points of a simulation, at its data end.

        Args:
            trajectory: A simulation with the integral's solver, in either direction.
            integral: The divergence integral of this simulation.
            latent_log_density: Log density of the latents at the last time; None for the base
                distribution.

        Raises:
            DataError: A density is not finite.
        """
        times, states = trajectory.times, trajectory.states
        melted = bool(times[-1] > times[0])
        first, last = (times[0], times[-1]) if melted else (times[-1], times[0])
        latents, scale = states[-1] if melted else states[0], self.schedule.scale(last)
        if latent_log_density:
            log_prob = latent_log_density(latents / scale, last)
        else:
            log_prob = self.latent_law(last).log_prob(latents) + self.basis.dim * scale.log()
        log_prob = log_prob + (integral.value if melted else -integral.value)
        log_prob = log_prob + self._log_unit(last, integral.solver)
        log_prob = log_prob - self._log_unit(first, integral.solver)
        if self.coordinates is not None:
            points = self.to_data(states[0] if melted else states[-1], first)
            log_prob = log_prob + self.coordinates.log_det(points)
        if not log_prob.isfinite().all():
            raise DataError(
                f"the log density of {int((~log_prob.isfinite()).sum())} point(s) is NaN or "
                "infinite: use more steps, or check the weights"
            )
        return Density(log_prob, integral.error)

    def to(self, device: torch.device | str) -> "ProbabilityFlow":
        """Move all parts of the flow that are modules to a device, and return the flow itself."""
        for part in (self.schedule, self.basis, self.denoiser, self.coordinates, self.learned):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def with_denoiser(self, denoiser: Denoiser) -> "ProbabilityFlow":
        """Return a copy of the flow with the given denoiser."""
        flow = copy(self)
        flow.denoiser = denoiser
        return flow

    def with_distribution(self, learned: ConditionalMixture | None) -> "ProbabilityFlow":
        """Return a copy with a given distribution of latents; None for the closed-form Gaussian."""
        flow = copy(self)
        flow.learned = learned
        return flow

    def under(self, conditions: Mapping[str, Tensor]) -> "ProbabilityFlow":
        """Return the flow conditional on network inputs by name, for example ``labels [N, L]``."""
        return self.with_denoiser(ConditionedDenoiser(self.denoiser, conditions))

    def given(self, **conditions: ArrayLike) -> "ProbabilityFlow":
        """Return the flow conditional on values in their own units, for example ``labels [N, L]``.

        Conditions have one row for each point, or one row for all points, ``[1, L]`` or ``[L]``.

        Raises:
            UsageError: The flow has no conditions.
            DataError: Conditions are not numeric or not finite, or their number is wrong.
        """
        given = {name: self._numbers(name, values) for name, values in conditions.items()}
        rows = {name: v if v.ndim > 1 else v[None] for name, v in given.items()}
        flow = copy(self)
        flow.rows = max((len(v) for v in rows.values() if len(v) != 1), default=None)
        if self.coordinates is not None and not getattr(self.denoiser, "asks", False):
            flow.coordinates = self.coordinates.given(rows.get("labels"))
            labels = flow.coordinates.labels
            rows |= {} if labels is None else {"labels": labels}
        return flow.under(rows)

    def in_blocks(self, rows: int) -> "ProbabilityFlow":
        """Return a copy of the flow that calls its denoiser with ``rows`` rows at a time."""
        return self.with_denoiser(BlockwiseDenoiser(self.denoiser, rows))

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``dx/dt [N, D]`` of scaled states x at times ``[]`` or ``[N]``."""
        return self.slope(standardized=False)(x, t)

    def standardized_velocity(self, x_hat: Tensor, t: Tensor) -> Tensor:
        """Return the velocity ``[N, D]`` of standardized states at times ``[]`` or ``[N]``."""
        return self.slope()(x_hat, t)

    def slope(self, standardized: bool = True, differentiable: bool = False) -> CountedVelocity:
        """Return the velocity function of the flow, which also counts its evaluations.

        Args:
            standardized: Whether states are standardized rather than scaled.
            differentiable: Whether evaluations are recomputed in the backward pass for gradients.
        """
        velocity = FlowVelocity(self.denoiser, self.schedule, self.basis, standardized)
        return CountedVelocity(velocity, differentiable)

    def noisy_variance(self, t: Tensor) -> Tensor:
        """Return the variances ``xi + gamma(t) [..., D]`` of noisy data at times ``[...]``."""
        return self.basis.eigenvalues + self.schedule.noise_variance(t)

    def noisy_std(self, t: Tensor) -> Tensor:
        """Return the standard deviations ``sqrt(xi + gamma(t)) [..., D]`` of noisy data."""
        return self.noisy_variance(t).sqrt()

    def latent_std(self, t: Tensor) -> Tensor:
        """Return the standard deviations ``s(t) sqrt(xi + gamma(t)) [..., D]`` of scaled states."""
        return self.schedule.scale(t)[..., None] * self.noisy_std(t)

    def simulate(
        self,
        x: Tensor,
        times: Tensor,
        solver: Solver | str,
        save_every: int | None = None,
        on_step: Callable[[], object] | None = None,
        on_state: Callable[[State], None] | None = None,
        differentiable: bool = False,
    ) -> Trajectory:
        """Integrate states along the ODE from ``times[0]`` to ``times[-1]``, in either direction.

        Args:
            x: Scaled eigenspace states ``[N, D]`` at ``times[0]``.
            times: Monotone times ``[steps + 1]``.
            solver: The solver, or its name.
            save_every: Number of steps between saved states. The first and last states are always
                saved; None saves these two states only.
            on_step: Called for each step, for a progress bar.
            on_state: Called with each saved state. The trajectory then keeps the first and the last
                state only, so that memory does not grow with the number of saved states.
            differentiable: Whether gradients flow back to x. Denoiser evaluations are recomputed in
                the backward pass, so that memory is needed for the states and a single evaluation
                only.

        Raises:
            DataError: The states do not have D dimensions, or the end state is NaN or infinite.
            UsageError: There are fewer than two times.
        """
        self._require_rows("states", x)
        solver, steps = as_solver(solver), len(times) - 1
        if steps < 1:
            raise UsageError(f"an integration has {len(times)} times: give at least two")
        saved = saved_steps(steps, save_every)
        x = (x if differentiable else x.detach()).double()
        times = times.to(x)
        velocity = self.slope(solver.standardized, differentiable)
        with torch.set_grad_enabled(differentiable):
            unit = self.latent_std if solver.standardized else None
            states_met = walk(solver, velocity, x, times, unit)
            kept = follow(states_met, times, saved, on_step, on_state)
        columns = zip(*kept, strict=True)
        saved_times, states, updates = (torch.stack(column) for column in columns)
        return Trajectory(saved_times, states, updates, velocity.calls)

    def melt(
        self,
        points: ArrayLike,
        times: Tensor | None = None,
        solver: Solver | str = DEFAULT_SOLVER,
        **options: Any,
    ) -> Trajectory:
        """Inflate points ``[N, D]`` of data space: integrate them forward to latents.

        Args:
            points: Points ``[N, D]``: a tensor on any device, an array, or lists of numbers.
            times: Increasing times ``[steps + 1]``.
            solver: The solver, or its name.
            options: Further arguments of ``simulate``.
        """
        points = self._rows_of("points", points)
        times = self.times() if times is None else times
        start = self.schedule.scale(times[0].to(points)) * self.to_eigen(points)
        return self.simulate(start, times, solver, **options)

    def generate(
        self,
        latents: ArrayLike,
        times: Tensor | None = None,
        solver: Solver | str = DEFAULT_SOLVER,
        **options: Any,
    ) -> Trajectory:
        """Generate data from latents ``[N, D]`` in scaled eigenspace: integrate backward in time.

        Args:
            latents: Latents ``[N, D]``: a tensor on any device, an array, or lists of numbers.
            times: Increasing times ``[steps + 1]``; the integration runs from the last to the
                first.
            solver: The solver, or its name.
            options: Further arguments of ``simulate``.
        """
        latents = self._rows_of("latents", latents)
        times = self.times() if times is None else times
        return self.simulate(latents, times.flip(0), solver, **options)

    def to_data(self, x: Tensor, t: Tensor) -> Tensor:
        """Map scaled eigenspace states ``[..., N, D]`` at time ``t []`` to data space."""
        points = self.basis.from_eigen(x / self.schedule.scale(t))
        return points if self.coordinates is None else self.coordinates.to_data(points)

    def to_eigen(self, points: Tensor) -> Tensor:
        """Map points ``[..., N, D]`` of data space to unscaled states in eigenspace."""
        if self.coordinates is not None:
            points = self.coordinates.to_flow(points)
        return self.basis.to_eigen(points)

    def latent_law(self, t: Tensor) -> LatentDistribution:
        """Return the base distribution of the states at time ``t []``.

        At the end time, the learned distribution is returned if there is one.
        """
        distribution = self.gaussian_latents(t)
        if self.learned is None or not isclose(float(t), self.end_time, rel_tol=1e-9):
            return distribution
        return LearnedLatents(distribution.variance, self.learned)

    def gaussian_latents(self, t: Tensor) -> GaussianLatents:
        """Return the Gaussian base distribution with closed-form variances at time ``t []``."""
        return GaussianLatents(self.schedule.latent_variance(t, self.basis.eigenvalues))

    def _rows_of(self, name: str, values: ArrayLike) -> Tensor:
        """Return rows ``[N, D]`` on the flow's device; raise DataError for other shapes."""
        rows = self._numbers(name, values)
        self._require_rows(name, rows)
        return rows

    def _numbers(self, name: str, values: ArrayLike) -> Tensor:
        """Convert a user's values to a tensor on the flow's device: arrays and lists to float64."""
        if isinstance(values, Tensor):
            return values.to(self.device)
        try:
            array = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"{name} are not numeric: give a tensor or a NumPy array") from None
        return torch.from_numpy(array.copy()).to(self.device)

    def _require_rows(self, name: str, x: Tensor) -> None:
        """Raise DataError unless ``x`` is ``[N, D]`` and has as many rows as the conditions."""
        dim = self.basis.dim
        if x.ndim != 2 or x.shape[1] != dim:
            raise DataError(
                f"{name} have shape {list(x.shape)}, but this flow has D = {dim}: give [N, {dim}]"
            )
        if self.rows not in (None, len(x)):
            raise DataError(
                f"there are {len(x)} {name} but {self.rows} rows of conditions: give one row "
                f"of conditions for each of the {name}, or one row for all"
            )

    def _log_unit(self, t: Tensor, solver: Solver) -> Tensor:
        """Return ``sum_i log a_i(t)`` for the integrated variable ``x_tilde_i / a_i``."""
        if solver.standardized:
            return self.noisy_std(t).log().sum()
        return -self.basis.dim * self.schedule.scale(t).log()


class FlowDistribution(Distribution):
    """A PyTorch distribution of the points ``[D]`` that a flow generates.

    A conditional flow needs a single row of conditions. Densities have gradients, draws have none.

    Args:
        flow: The flow.
        seed: Random seed of draws; None for PyTorch's global generator.

    Raises:
        UsageError: The flow has several rows of conditions, one for each point.

    Example:
        >>> from training import EigenBasis, InflationSchedule
        >>> from training.flow.denoisers import DiscreteDenoiser
        >>> points = torch.tensor([[0.0, 0.5], [1.0, -0.5], [0.3, 0.1]]).double()
        >>> basis = EigenBasis.fit([points])
        >>> schedule = InflationSchedule.to_dimension(2, 2, top_variance=basis.top_variance)
        >>> flow = ProbabilityFlow(DiscreteDenoiser(points, basis, schedule), schedule, basis)
        >>> FlowDistribution(flow, seed=0).sample([5, 2]).shape
        torch.Size([5, 2, 2])
        >>> FlowDistribution(flow, seed=0).sample([0]).shape
        torch.Size([0, 2])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, flow: ProbabilityFlow, seed: int | None = None):
        if flow.rows is not None:
            raise UsageError(
                f"the flow has {flow.rows} rows of conditions: give a single row, for example "
                "flow.given(labels=row)"
            )
        self.flow = flow
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        super().__init__(Size(), Size([flow.basis.dim]), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws ``[*sample_shape, D]`` from the flow, float64."""
        shape = Size(sample_shape)
        return self.flow.sample(shape.numel(), self._generator).view(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log densities ``[...]``, in nats, of points ``[..., D]``."""
        (dim,) = self.event_shape
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"points have shape {list(value.shape)}: give [..., {dim}]")
        grows = value.requires_grad and torch.is_grad_enabled()
        return self.flow.log_prob(value.reshape(-1, dim), differentiable=grows).view(
            value.shape[:-1]
        )
