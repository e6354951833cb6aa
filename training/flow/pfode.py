"""The probability-flow ODE, which carries data to a Gaussian (*melt*) and back (*generate*).

In eigenspace, for the scaled variable ``x = s x_tilde`` (Inflationary Flows, section 3.1; Song et
al. 2021, equation 13, for general noise),

    dx_i/dt = (d log s/dt + r_i/2) x_i - (r_i/2) s D_i(x/s, t),     r_i = d log gamma_i / dt.

The best linear denoiser is ``c_i x_tilde_i`` with ``c_i = xi_i / (xi_i + gamma_i)``. Under it alone
``x_tilde_i`` grows as ``sqrt(xi_i + gamma_i)``; so for the *standardized* variable

    y_i = x_tilde_i / sqrt(xi_i + gamma_i),      dy_i/dt = (r_i/2) (c_i x_tilde_i - D_i)
                                                           / sqrt(xi_i + gamma_i),

the linear part is gone, and what is left to integrate vanishes for Gaussian data. With a network F,
``D = c_skip x_tilde + c_out F(y)``, it is ``dy_i = -F_i du_i``: a turn by the angles
``u_i = arctan sqrt(gamma_i / xi_i)``.

States are carried in float64; the denoiser decides its own precision.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnnlib.errors import DataError, UsageError
from training.flow.calls import BlockwiseDenoiser, ConditionedDenoiser
from training.flow.denoisers import Denoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.latent import LatentLaw
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import Solver, Velocity


class State(NamedTuple):
    """A saved point of a simulation: time ``[]``, scaled eigenspace ``x [N, D]`` in float64, and
    the last step's change of it, ``update [N, D]``, zero at the start (of an adaptive solver, the
    change since the last saved state)."""

    time: Tensor
    x: Tensor
    update: Tensor


@dataclass(frozen=True)
class Trajectory:
    """States along the ODE, in the order in which they were visited.

    Attributes:
        times: ``[S]``.
        states: Scaled eigenspace ``x [S, N, D]``, float64.
        updates: ``[S, N, D]``, the last step's change of the state; zero at the start.
        calls: Number of denoiser calls made.
    """

    times: Tensor
    states: Tensor
    updates: Tensor
    calls: int

    @property
    def end(self) -> Tensor:
        """The last state ``[N, D]``."""
        return self.states[-1]


class Counted:
    """A velocity whose calls are counted and, on request, kept for gradients by their inputs only.

    Args:
        velocity: What is called.
        checkpoint: Whether to repeat calls on the way back instead of storing what they computed.
    """

    def __init__(self, velocity: Velocity, checkpoint: bool = False):
        self._velocity, self._checkpoint = velocity, checkpoint
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        if not self._checkpoint:
            return self._velocity(x, t)
        # A velocity is a function: nothing in it is random that would have to be repeated.
        result: Tensor = checkpoint(
            self._velocity, x, t, use_reentrant=False, preserve_rng_state=False
        )
        return result


class ProbabilityFlow:
    """A denoiser, a schedule and a basis, put together as an invertible map.

    Args:
        denoiser: ``D(x_tilde [B, D], t [] or [B]) -> [B, D]`` in eigenspace.
        schedule: Noise and scale.
        basis: Between image space and eigenspace.
    """

    def __init__(self, denoiser: Denoiser, schedule: NoiseSchedule, basis: EigenBasis):
        self.denoiser, self.schedule, self.basis = denoiser, schedule, basis

    @property
    def device(self) -> torch.device:
        return self.basis.mean.device

    def to(self, device: torch.device) -> "ProbabilityFlow":
        """Moves the schedule, the basis, and a denoiser that is a module; returns itself."""
        for part in (self.schedule, self.basis, self.denoiser):
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def given(self, **conditions: Tensor) -> "ProbabilityFlow":
        """The flow under conditions such as ``labels [N, L]``, one row for each point."""
        denoiser = ConditionedDenoiser(self.denoiser, conditions)
        return ProbabilityFlow(denoiser, self.schedule, self.basis)

    def in_blocks(self, rows: int) -> "ProbabilityFlow":
        """The flow with a denoiser that is called with exactly so many rows at a time."""
        denoiser = BlockwiseDenoiser(self.denoiser, rows)
        return ProbabilityFlow(denoiser, self.schedule, self.basis)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """``dx/dt [N, D]`` of scaled eigenspace states ``x [N, D]`` at times ``[]`` or ``[N]``."""
        half_rate = self.schedule.log_noise_rate(t) / 2
        scale = self.schedule.scale(t)[..., None]
        linear = self.schedule.log_scale_rate(t)[..., None] + half_rate
        return linear * x - half_rate * scale * self.denoiser(x / scale, t)

    def standardized_velocity(self, y: Tensor, t: Tensor) -> Tensor:
        """``dy/dt [N, D]`` of standardized states ``y [N, D]`` at times ``[]`` or ``[N]``."""
        std = self.noisy_std(t)
        x_tilde = std * y
        linear = self.basis.eigenvalues / std.square() * x_tilde
        half_rate = self.schedule.log_noise_rate(t) / 2
        return half_rate / std * (linear - self.denoiser(x_tilde, t))

    def noisy_std(self, t: Tensor) -> Tensor:
        """``sqrt(xi + gamma(t)) [..., D]``, the standard deviations of noisy data at ``[...]``."""
        return (self.basis.eigenvalues + self.schedule.noise_variance(t)).sqrt()

    def latent_std(self, t: Tensor) -> Tensor:
        """``s(t) sqrt(xi + gamma(t)) [..., D]``: the scaled variable over the standardized one."""
        return self.schedule.scale(t)[..., None] * self.noisy_std(t)

    def simulate(
        self,
        x: Tensor,
        times: Tensor,
        solver: Solver,
        save_every: int | None = None,
        on_step: Callable[[], None] | None = None,
        on_state: Callable[[State], None] | None = None,
        differentiable: bool = False,
    ) -> Trajectory:
        """Integrates from ``times[0]`` to ``times[-1]``, in either direction.

        Args:
            x: Scaled eigenspace states ``[N, D]`` at ``times[0]``.
            times: ``[steps + 1]``, monotone. An adaptive solver takes those of saved states only.
            solver: How to integrate.
            save_every: Steps between saved states; the first and last are always saved, and are
                the only ones if this is None.
            on_step: Called for each step, for a progress bar.
            on_state: Takes each saved state as it is made. The trajectory then keeps the first and
                the last alone, so that memory does not grow with the number of saved states.
            differentiable: Gradients flow back to x. Calls of the denoiser keep their inputs only
                and are repeated on the way back, so that memory is that of one call and the states.

        Raises:
            DataError: The end state is not finite, or an adaptive or implicit solver fails.
        """
        steps = len(times) - 1
        if save_every is not None and save_every < 1:
            raise UsageError(f"save_freq is {save_every}: it must be at least 1")
        x = (x if differentiable else x.detach()).double()
        times = times.to(x)
        saved = [*range(save_every or steps, steps, save_every or steps), steps]
        kept: list[State] = []

        def keep(state: State, last: bool) -> None:
            if on_state:
                on_state(state)
            if not on_state or last or not kept:
                kept.append(state)

        velocity = Counted(
            self.standardized_velocity if solver.standardized else self.velocity, differentiable
        )
        visited = [0, *saved] if solver.adaptive else list(range(steps + 1))
        kept_indices = set(saved)
        with torch.set_grad_enabled(differentiable):
            keep(State(times[0], x, torch.zeros_like(x)), last=False)
            walk = self._walk(velocity, x, times[visited], solver)
            for (done, index), (before, after) in zip(
                pairwise(visited), pairwise(walk), strict=True
            ):
                last = index == steps
                if last and not after.isfinite().all():
                    raise DataError(
                        f"the integration left the finite numbers between t = {float(times[0]):g} "
                        f"and {float(times[-1]):g}: use more steps, or look at the network"
                    )
                if index in kept_indices:
                    keep(State(times[index], after, after - before), last)
                if on_step:
                    for _ in range(done, index):
                        on_step()
        columns = zip(*kept, strict=True)
        saved_times, states, updates = (torch.stack(column) for column in columns)
        return Trajectory(saved_times, states, updates, calls=velocity.calls)

    def _walk(
        self, velocity: Velocity, x: Tensor, times: Tensor, solver: Solver
    ) -> Iterator[Tensor]:
        """Scaled states at all of the times."""
        yield x
        if not solver.standardized:
            yield from solver.method(velocity, x, times)
            return
        y = x / self.latent_std(times[0])
        for t, state in zip(times[1:], solver.method(velocity, y, times), strict=True):
            yield self.latent_std(t) * state

    def melt(self, data: Tensor, times: Tensor, solver: Solver, **options: Any) -> Trajectory:
        """Inflates clean points ``[N, D]`` of image space along increasing times."""
        start = self.schedule.scale(times[0].to(data)) * self.basis.to_eigen(data)
        return self.simulate(start, times, solver, **options)

    def generate(self, latent: Tensor, times: Tensor, solver: Solver, **options: Any) -> Trajectory:
        """Carries scaled eigenspace latents ``[N, D]`` back along the same increasing times."""
        return self.simulate(latent, times.flip(0), solver, **options)

    def to_data(self, x: Tensor, t: Tensor) -> Tensor:
        """Scaled eigenspace states ``[..., N, D]`` at time ``t []`` as points of image space."""
        return self.basis.from_eigen(x / self.schedule.scale(t))

    def latent_law(self, t: Tensor) -> LatentLaw:
        """The closed-form law of latents at time ``t []``."""
        return LatentLaw.auto(self.schedule, self.basis.eigenvalues, t)
