"""The prior: points as a function of standard normal variables w.

The flow maps latents to points one to one, and the distribution of latents (``flow.latent``) maps
standard normal variables to latents, so that ``x = generate(unwhiten(w))`` with ``w ~ N(0, I)``.
These points include the noise of the first time, of variance gamma0: they are *blurred*. One more
Euler step continues the ODE in the variance of the noise, dx/dgamma = (x - D(x)) / (2 gamma), from
gamma0 to 0:

    x -> (x + D(x, 0)) / 2,

which removes that noise to first order in its variance. The prior is then *sharpened*: for a
Gaussian of variance v, the variance of draws falls from v + gamma0 to about v + gamma0^2 / (4 v).
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from training.flow.integration_choice import EqualErrorGrid
from training.flow.integrations import USES
from training.flow.likelihood import DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver

MAX_ITERATIONS = 40
"""Number of fixed-point iterations that invert a last step; each halves the error."""
MOMENT_DRAWS, BLUR_DRAWS = 2**12, 2**8


class Generated(NamedTuple):
    """Generated points, with their number of network evaluations.

    Attributes:
        points: Points ``[N, D]`` of data space, states, or variables.
        calls: Network evaluations per point.
    """

    points: Tensor
    calls: int


@dataclass(frozen=True)
class Prior:
    """The prior distribution: a flow that maps standard normal variables to points of data space.

    Attributes:
        flow: The flow; its network is not called in blocks, since callers make the blocks.
        times: Integration times, increasing ``[steps + 1]``.
        solver: Solver of the integrations.
        unit: Size of the user's unit in the units of the flow; for images, the user's unit is a
            gray level.
        origin: Position of the flow's 0 in the user's units.
        sharpened: Whether one more step turns blurred points into nearly clean ones.
        integrations: Integration schedules for ``points_and_densities``, and for ``latents`` and
            ``densities`` of given points (``flow.integrations``), where they differ from the
            schedule of points.
    """

    flow: ProbabilityFlow
    times: Tensor
    solver: Solver
    unit: float = 1.0
    origin: float = 0.0
    sharpened: bool = False
    integrations: Mapping[str, tuple[Tensor, Solver]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Description of the noise in the points, as written to results."""
        if self.sharpened:
            return "without the noise of the first time (first-order correction)"
        return "with the noise of the first time"

    def way(self, use: str) -> tuple[Tensor, Solver]:
        """Return the times ``[steps + 1]`` and the solver of an integration.

        Args:
            use: Purpose of the integration, a name in ``flow.integrations.USES``.
        """
        return self.integrations.get(use, (self.times, self.solver))

    def calls(self, use: str) -> int:
        """Return the number of network evaluations per point of an integration.

        The extra first evaluations of a multistep method are not counted.

        Args:
            use: Purpose of the integration, a name in ``flow.integrations.USES``.
        """
        times, solver = self.way(use)
        return (len(times) - 1) * (solver.calls_per_step or 1)

    def coarse(self) -> "Prior":
        """Return a copy that computes log densities approximately, with half of the steps."""
        times, solver = self.way("densities")
        if solver.quadrature is not None:  # it has its own times
            return self
        fewer = EqualErrorGrid(times)(len(times) // 2)
        return replace(self, integrations={**self.integrations, "densities": (fewer, solver)})

    @property
    def solvers(self) -> dict[str, dict[str, str | int]]:
        """Solver and number of steps by purpose: ``points``, and purposes with another schedule."""
        integrations = {"points": (self.times, self.solver), **self.integrations}
        return {
            use: {"solver": solver.name, "n_iters": len(times) - 1}
            for use, (times, solver) in integrations.items()
        }

    @property
    def dim(self) -> int:
        """Number of standard normal variables per point."""
        return self.flow.basis.dim

    def points(
        self, w: Tensor, conditions: dict[str, Tensor] | None = None, differentiable: bool = False
    ) -> Generated:
        """Map standard normal variables to points ``[N, D]`` of data space.

        Args:
            w: Standard normal variables ``[N, dim]``, float64.
            conditions: Conditions of each point, such as ``labels [N, L]``.
            differentiable: Whether gradients flow back to w.

        Raises:
            DataError: A point is not finite.
        """
        generated = self.states(w, conditions, differentiable)
        return Generated(self.of_states(generated.points, conditions), generated.calls)

    def states(
        self, w: Tensor, conditions: dict[str, Tensor] | None = None, differentiable: bool = False
    ) -> Generated:
        """Map standard normal variables to unscaled states ``[N, D]`` in eigenspace.

        The states are at the first (least noisy) time.

        Args:
            w: Standard normal variables ``[N, dim]``, float64.
            conditions: Conditions of each point, such as ``labels [N, L]``.
            differentiable: Whether gradients flow back to w.
        """
        flow = self._given(conditions)
        latents = flow.latent_law(self.times[-1]).unwhiten(w)
        trajectory = flow.generate(latents, self.times, self.solver, differentiable=differentiable)
        states, calls = trajectory.end / flow.schedule.scale(self.times[0]), trajectory.calls
        if self.sharpened:
            states, calls = (states + flow.denoiser(states, self.times[0]).double()) / 2, calls + 1
        return Generated(states, calls)

    def of_states(self, states: Tensor, conditions: dict[str, Tensor] | None = None) -> Tensor:
        """Map states ``[N, D]`` at the first (least noisy) time to points ``[N, D]``."""
        flow, first = self._given(conditions), self.times[0]
        points = flow.to_data(flow.schedule.scale(first) * states, first)
        return self.origin + points / self.unit

    def melted(self, w: Tensor, conditions: dict[str, Tensor] | None) -> Tensor:
        """Map standard normal variables to unscaled states at the last (noisiest) time."""
        flow, last = self._given(conditions), self.times[-1]
        return flow.latent_law(last).unwhiten(w) / flow.schedule.scale(last)

    def denoised(self, states: Tensor, t: Tensor, conditions: dict[str, Tensor] | None) -> Tensor:
        """Denoise unscaled states ``[N, D]`` at time ``t []``, in their dtype."""
        return self._given(conditions).denoiser(states, t).to(states)

    def points_and_density(
        self, w: Tensor, conditions: dict[str, Tensor], trace: Trace
    ) -> tuple[Generated, Tensor]:
        """Map standard normal variables to points and their log densities, in one integration.

        Args:
            w: Standard normal variables ``[N, D]``.
            conditions: Conditions of each point, such as ``labels [N, L]``.
            trace: Method for the traces of Jacobians.

        Returns:
            The points, and their log densities ``[N]`` per unit of the user's units.

        Raises:
            DataError: A point or its density is not finite.
        """
        flow = self._given(conditions)
        times, solver = self.way("points_and_densities")
        integral = DivergenceIntegral(solver, trace, slice(0, len(w)), flow.basis.dim)
        latents = flow.latent_law(times[-1]).unwhiten(w)
        trajectory = flow.generate(latents, times, integral.solver)
        density = flow.log_prob_along(trajectory, integral).log_prob
        density = density + flow.basis.dim * log(self.unit)
        end, calls = trajectory.end, trajectory.calls
        points = flow.to_data(end, self.times[0])
        if self.sharpened:
            scale, blurred = flow.schedule.scale(self.times[0]), points
            denoised, log_det = self._last_step(flow, end / scale)
            points = flow.to_data((end + scale * denoised) / 2, self.times[0])
            density = density - log_det + _differences(flow, blurred, points)
            calls += 1
        return Generated(self.origin + points / self.unit, calls), density

    def log_density(self, points: Tensor, conditions: dict[str, Tensor], trace: Trace) -> Tensor:
        """Return the log densities ``[N]`` of the prior at points, per unit of the user's units.

        The points contain the noise of the first (least noisy) time, or are sharpened (nearly
        noise-free) if the prior is. Gradients flow back to points and conditions that require them.

        Args:
            points: Points ``[N, D]`` in the user's units.
            conditions: Conditions of each point, such as ``labels [N, L]``.
            trace: Method for the traces of Jacobians.

        Raises:
            DataError: A density is not finite, or a point is beyond the range of the flow.
        """
        flow, inner = self._given(conditions), (points - self.origin) * self.unit
        way = self.way("densities")
        of_which = [points, *conditions.values()]
        grows = torch.is_grad_enabled() and any(each.requires_grad for each in of_which)
        if self.sharpened:
            first = self.times[0]
            states = self._before_last_step(flow, flow.to_eigen(inner), grows)
            _, log_det = self._last_step(flow, states, grows)
            blurred = flow.to_data(flow.schedule.scale(first) * states, first)
            density = flow.log_prob(blurred, *way, trace=trace, differentiable=grows)
            density = density - log_det + _differences(flow, blurred, inner)
        else:
            density = flow.log_prob(inner, *way, trace=trace, differentiable=grows)
        return density + flow.basis.dim * log(self.unit)

    def inflated_with_density(
        self, states: Tensor, conditions: dict[str, Tensor] | None
    ) -> tuple[Generated, Tensor]:
        """Map unscaled states to standard normal variables ``[N, D]`` and log densities ``[N]``.

        The states ``[N, D]`` are at the first (least noisy) time. Traces of Jacobians are exact.
        The number of network evaluations includes the vector-Jacobian products.

        Raises:
            DataError: A density is not finite.
        """
        flow = copy(self._given(conditions))
        # Densities of states do not depend on the map between eigenspace and data space.
        flow.coordinates = None
        times, solver = self.way("densities")
        rows = slice(0, len(states))
        integral = DivergenceIntegral(solver, Trace("exact"), rows, flow.basis.dim)
        start = flow.schedule.scale(times[0]) * states
        trajectory = flow.simulate(start, times, integral.solver)
        density = flow.log_prob_along(trajectory, integral).log_prob
        w = flow.latent_law(times[-1]).whiten(trajectory.end)
        return Generated(w, trajectory.calls + integral.products), density

    def whitened(self, points: Tensor, conditions: dict[str, Tensor] | None = None) -> Tensor:
        """Map noisy points to standard normal variables ``[N, D]``.

        The points have the noise of the first (least noisy) time.

        Args:
            points: Points ``[N, D]``.
            conditions: Conditions of each point, such as ``labels [N, L]``.
        """
        flow = self._given(conditions)
        points = (points - self.origin) * self.unit
        times, solver = self.way("latents")
        return flow.latent_law(times[-1]).whiten(flow.encode(points, times, solver))

    def moments(self, conditions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean ``[D]`` and the covariance ``[D, D]`` of the data, in the user's units.

        The moments are those of the eigenbasis. With nonlinear coordinates, the moments are
        estimated from draws of a Gaussian with the moments of the eigenbasis.

        Args:
            conditions: Equally likely conditions ``[M, C]``, where coordinates depend on
                conditions; None otherwise.
        """
        basis, coordinates = self.flow.basis, self.flow.coordinates
        mean, covariance = basis.mean.double(), basis.covariance().double()
        if coordinates is not None:
            generator = torch.Generator().manual_seed(0)
            noise = torch.randn(MOMENT_DRAWS, basis.dim, generator=generator, dtype=torch.float64)
            states = noise.to(basis.mean.device) * basis.eigenvalues.sqrt()
            if coordinates.condition_dim and conditions is not None:
                rows = torch.arange(MOMENT_DRAWS, device=conditions.device) % len(conditions)
                coordinates = coordinates.given(conditions[rows])
            points = coordinates.to_data(basis.from_eigen(states))
            mean, covariance = points.mean(dim=0), points.T.cov().reshape(basis.dim, -1)
        return self.origin + mean / self.unit, covariance / self.unit**2

    def _given(self, conditions: dict[str, Tensor] | None) -> ProbabilityFlow:
        return self.flow.given(**conditions) if conditions else self.flow

    def to_states(self, points: Tensor, conditions: dict[str, Tensor] | None) -> Tensor:
        """Map points to states ``[N, D]`` at the first (least noisy) time.

        This is the inverse of ``of_states``.
        """
        return self._given(conditions).to_eigen((points - self.origin) * self.unit)

    def plausible(self, points: Tensor) -> Tensor:
        """Round discrete columns of points ``[..., D]`` to values that the data could have."""
        coordinates = self.flow.coordinates
        if coordinates is None:
            return points
        inner = coordinates.plausible((points - self.origin) * self.unit)
        return self.origin + inner / self.unit

    def possible(self, points: Tensor) -> Tensor:
        """Return a mask ``[...]`` of points ``[..., D]`` within the data's quantization bins."""
        coordinates = self.flow.coordinates
        if coordinates is None:
            return torch.ones_like(points[..., 0], dtype=torch.bool)
        return coordinates.possible((points - self.origin) * self.unit)

    def blur(self, points: Tensor, conditions: dict[str, Tensor] | None = None) -> Tensor:
        """Return the standard deviations ``[N, D]`` of the noise that points of the flow contain.

        It is the noise of the first (least noisy) time.

        Args:
            points: Points ``[N, D]`` in the user's units, which are also those of the result.
            conditions: Conditions of each point, such as ``labels [N, L]``.
        """
        generator = torch.Generator().manual_seed(0)
        dim = self.flow.basis.dim
        normal = torch.randn(BLUR_DRAWS, dim, generator=generator, dtype=torch.float64)
        noise = self.flow.schedule.noise_variance(self.times[0]).double().sqrt()
        states = self.to_states(points, conditions)[:, None] + noise * normal.to(noise.device)
        given = {k: v.repeat_interleave(BLUR_DRAWS, dim=0) for k, v in (conditions or {}).items()}
        noisy = self.of_states(states.flatten(0, 1), given).view_as(states)
        return noisy.std(dim=1)

    def _last_step(
        self, flow: ProbabilityFlow, states: Tensor, differentiable: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return ``D(x)`` at unscaled states x ``[N, D]``, and log determinants of the step.

        The step maps x to (x + D(x)) / 2.
        """
        denoised, jacobian = self._denoised_with_jacobian(flow, states, differentiable)
        eye = torch.eye(flow.basis.dim, dtype=jacobian.dtype, device=jacobian.device)
        return denoised, torch.linalg.slogdet((eye + jacobian) / 2).logabsdet

    def _before_last_step(
        self, flow: ProbabilityFlow, clean: Tensor, differentiable: bool = False
    ) -> Tensor:
        """Find the unscaled states x ``[N, D]`` for the given ``clean = (x + D(x)) / 2``.

        Gradients are those of the implicit function: one Newton step from the solution.
        """
        x = clean
        with torch.no_grad():
            for _ in range(MAX_ITERATIONS):
                x = clean + (x - flow.denoiser(x, self.times[0]).double()) / 2
        if not differentiable:
            return x
        x = x.detach()
        _, jacobian = self._denoised_with_jacobian(flow, x)
        step = (torch.eye(flow.basis.dim).to(jacobian) + jacobian.detach()) / 2
        missed = (x + flow.denoiser(x, self.times[0]).double()) / 2 - clean
        return x - torch.linalg.solve(step, missed)

    def _denoised_with_jacobian(
        self, flow: ProbabilityFlow, states: Tensor, differentiable: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return ``D(x) [N, D]`` at unscaled states of the first time, and ``dD/dx [N, D, D]``."""
        with torch.enable_grad():
            x = states if differentiable else states.detach().requires_grad_()
            denoised = flow.denoiser(x, self.times[0]).double()
            rows = [
                torch.autograd.grad(
                    denoised[:, index].sum(), x, retain_graph=True, create_graph=differentiable
                )[0]
                for index in range(flow.basis.dim)
            ]
        jacobian = torch.stack(rows, dim=1)
        return (denoised, jacobian) if differentiable else (denoised.detach(), jacobian.detach())


def integrations_of(flow: ProbabilityFlow) -> dict[str, tuple[Tensor, Solver]]:
    """Return the times and the solver of a flow's integration schedule for each use.

    The result is the argument ``integrations`` of ``Prior``.
    """
    return {use: flow.integration(use) for use in USES if use not in ("look", "points")}


def _differences(flow: ProbabilityFlow, before: Tensor, after: Tensor) -> Tensor:
    """Return the increase ``[N]`` of the coordinates' log determinants over a step.

    Args:
        flow: The flow.
        before: Points before the step ``[N, D]``.
        after: Points after it ``[N, D]``.
    """
    if flow.coordinates is None:
        return torch.zeros_like(after[:, 0])
    return flow.coordinates.log_det(after) - flow.coordinates.log_det(before)
