"""The prior: points as a function of standard normal variables w.

The flow takes latents to points one to one, and the law of latents (``flow.latent``) takes standard
normal variables to latents, so that ``x = generate(unwhiten(w))`` with ``w ~ N(0, I)``. Such points
have the noise of the first time, of variance gamma0: they are *blurred*. The clean point e behind x
has, to second order in that noise (Tweedie; Efron 2011, equations 1.5 and 2.7), the law

    e | x ~ N(D(x, 0), gamma0 dD/dx),

so that ``D`` more standard normal variables draw it: the prior is then *deblurred*.
"""

from dataclasses import dataclass
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.likelihood import DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver

MOST_DEBLURRED = 16
"""Dimensions of which Jacobians are taken whole."""
MOMENT_DRAWS = 2**12


class Generated(NamedTuple):
    """Points ``[N, D]`` of data space, or states, and how many network calls each took."""

    points: Tensor
    calls: int


@dataclass(frozen=True)
class Prior:
    """Points of data space from standard normal variables.

    Attributes:
        flow: The flow; its network is not called in blocks, since callers make the blocks.
        times: Of the integration, increasing ``[steps + 1]``.
        solver: Of the integration.
        deblurred: Whether to draw clean points.
        unit: One of the user's units in those of the flow; images have gray levels.
        origin: The flow's 0 in the user's units.
    """

    flow: ProbabilityFlow
    times: Tensor
    solver: Solver
    deblurred: bool = False
    unit: float = 1.0
    origin: float = 0.0

    def __post_init__(self) -> None:
        if self.deblurred and self.flow.basis.dim > MOST_DEBLURRED:
            raise UsageError(
                f"--deblur takes the Jacobian of the denoiser, in at most {MOST_DEBLURRED} "
                f"dimensions, but there are {self.flow.basis.dim}"
            )

    @property
    def dim(self) -> int:
        """The number of variables w of a point."""
        return self.flow.basis.dim * (1 + self.deblurred)

    def points(
        self, w: Tensor, conditions: dict[str, Tensor] | None = None, differentiable: bool = False
    ) -> Generated:
        """Points of variables ``[N, dim]``, float64.

        Args:
            w: Standard normal ones.
            conditions: What the network is given with each point, such as ``labels [N, L]``.
            differentiable: Whether gradients are to flow back to w.

        Raises:
            DataError: A point is not finite.
        """
        found = self.states(w, conditions, differentiable)
        return Generated(self.of_states(found.points, conditions), found.calls)

    def states(
        self, w: Tensor, conditions: dict[str, Tensor] | None = None, differentiable: bool = False
    ) -> Generated:
        """The same before they go to data space: in eigenspace, at the first time, unscaled."""
        flow = self._given(conditions)
        dim = flow.basis.dim
        latents = flow.latent_law(self.times[-1]).unwhiten(w[:, :dim])
        trajectory = flow.generate(latents, self.times, self.solver, differentiable=differentiable)
        end, calls = trajectory.end, trajectory.calls
        if self.deblurred:
            end, calls = self._clean(flow, end, w[:, dim:]), calls + dim
        return Generated(end / flow.schedule.scale(self.times[0]), calls)

    def of_states(self, states: Tensor, conditions: dict[str, Tensor] | None = None) -> Tensor:
        """Points ``[N, D]`` of data space that are states ``[N, D]`` at the first time."""
        flow, first = self._given(conditions), self.times[0]
        points = flow.to_data(flow.schedule.scale(first) * states, first)
        return self.origin + points / self.unit

    def melted(self, w: Tensor, conditions: dict[str, Tensor] | None = None) -> Tensor:
        """The unscaled states ``[N, D]`` at the last time that variables stand for."""
        flow, last = self._given(conditions), self.times[-1]
        return flow.latent_law(last).unwhiten(w) / flow.schedule.scale(last)

    def denoised(
        self, states: Tensor, t: Tensor, conditions: dict[str, Tensor] | None = None
    ) -> Tensor:
        """What the denoiser makes ``[N, D]`` of unscaled states ``[N, D]`` at time ``t []``."""
        return self._given(conditions).denoiser(states, t).double()

    def points_and_density(
        self, w: Tensor, conditions: dict[str, Tensor], trace: Trace
    ) -> tuple[Generated, Tensor]:
        """Points of variables ``[N, D]``, and their log densities ``[N]`` in the user's units.

        Both come of one integration.

        Args:
            w: Standard normal ones.
            conditions: As ``points`` takes them.
            trace: How traces of Jacobians are taken.

        Raises:
            DataError: A point or its density is not finite.
            UsageError: The prior is deblurred, and has no density.
        """
        if self.deblurred:
            raise UsageError("deblurred points have no log density: leave --deblur or that out")
        flow = self.flow.given(**conditions) if conditions else self.flow
        directions = trace.directions(slice(0, len(w)), flow.basis.dim)
        integral = DivergenceIntegral(self.solver, directions)
        latents = flow.latent_law(self.times[-1]).unwhiten(w)
        trajectory = flow.generate(latents, self.times, integral.solver)
        found = flow.log_prob_along(trajectory, integral) + flow.basis.dim * log(self.unit)
        points = flow.to_data(trajectory.end, self.times[0])
        return Generated(self.origin + points / self.unit, trajectory.calls), found

    def log_density(self, points: Tensor, conditions: dict[str, Tensor], trace: Trace) -> Tensor:
        """Log densities ``[N]`` of blurred points at points ``[N, D]``, in the user's units.

        Args:
            points: In the user's units.
            conditions: As ``points`` takes them.
            trace: How traces of Jacobians are taken.

        Raises:
            DataError: One is not finite, or a point has no place in the flow.
        """
        flow, inner = self._given(conditions), (points - self.origin) * self.unit
        found = flow.log_prob(inner, self.times, self.solver, trace=trace)
        return found + flow.basis.dim * log(self.unit)

    def whitened(self, points: Tensor, conditions: dict[str, Tensor] | None = None) -> Tensor:
        """The standard normal variables ``[N, D]`` of blurred points ``[N, D]``."""
        flow = self._given(conditions)
        points = (points - self.origin) * self.unit
        return flow.latent_law(self.times[-1]).whiten(flow.encode(points, self.times, self.solver))

    def moments(self, conditions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean ``[D]`` and covariance ``[D, D]`` of the data, in the user's units.

        Those of the basis; where coordinates lie between, of a Gaussian with these moments.

        Args:
            conditions: What points are given with, where coordinates have conditions: rows
                ``[M, C]`` that are equally likely.
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

    def _clean(self, flow: ProbabilityFlow, x: Tensor, w: Tensor) -> Tensor:
        """Clean scaled states drawn for states x ``[N, D]`` at the first time."""
        t = self.times[0]
        scale = flow.schedule.scale(t)
        with torch.enable_grad():
            x_tilde = (x / scale).detach().requires_grad_()
            denoised = flow.denoiser(x_tilde, t)
            rows = [
                torch.autograd.grad(denoised[:, index].sum(), x_tilde, retain_graph=True)[0]
                for index in range(flow.basis.dim)
            ]
        jacobian = torch.stack(rows, dim=1)
        gamma = flow.schedule.noise_variance(t)
        covariance = jacobian * gamma
        variance, axes = torch.linalg.eigh((covariance + covariance.mT) / 2)
        # A trained denoiser's Jacobian can have slightly negative eigenvalues; a covariance cannot.
        root = axes * variance.clamp_min(0).sqrt()[:, None, :]
        return scale * (denoised.detach() + (root @ w[:, :, None])[:, :, 0])
