"""The probability-flow ODE, which carries data to a Gaussian (*melt*) and back (*generate*).

In eigenspace, for the scaled variable ``x = s x_tilde`` (Inflationary Flows, section 3.1; Song et
al. 2021, equation 13, for general noise),

    dx_i/dt = (d log s/dt + r_i/2) x_i - (r_i/2) s D_i(x/s, t),     r_i = d log gamma_i / dt.

States are carried in float64; the denoiser decides its own precision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from training.flow.calls import BlockwiseDenoiser, ConditionedDenoiser
from training.flow.denoisers import Denoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import Solver


class State(NamedTuple):
    """A saved point of a simulation: time ``[]``, scaled eigenspace ``x [N, D]`` in float64, and
    the last step's change of it, ``update [N, D]``, zero at the start."""

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


class ProbabilityFlow:
    """A denoiser, a schedule and a basis, put together as an invertible map.

    Args:
        denoiser: ``D(x_tilde [B, D], t []) -> [B, D]`` in eigenspace.
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
        """``dx/dt [N, D]`` of scaled eigenspace states ``x [N, D]`` at one time ``t []``."""
        half_rate = self.schedule.log_noise_rate(t) / 2
        scale = self.schedule.scale(t)
        linear = self.schedule.log_scale_rate(t) + half_rate
        return linear * x - half_rate * scale * self.denoiser(x / scale, t)

    @torch.no_grad()
    def simulate(
        self,
        x: Tensor,
        times: Tensor,
        solver: Solver,
        save_every: int | None = None,
        on_step: Callable[[], None] | None = None,
        on_state: Callable[[State], None] | None = None,
    ) -> Trajectory:
        """Integrates from ``times[0]`` to ``times[-1]``, in either direction.

        Args:
            x: Scaled eigenspace states ``[N, D]`` at ``times[0]``.
            times: ``[steps + 1]``, monotone.
            solver: How to take a step.
            save_every: Steps between saved states; the first and last are always saved, and are
                the only ones if this is None.
            on_step: Called after each step, for a progress bar.
            on_state: Takes each saved state as it is made. The trajectory then keeps the first and
                the last alone, so that memory does not grow with the number of saved states.

        Raises:
            DataError: The end state is not finite.
        """
        steps = len(times) - 1
        if save_every is not None and save_every < 1:
            raise UsageError(f"save_freq is {save_every}: it must be at least 1")
        x = x.double()
        times = times.to(x)
        kept: list[State] = []

        def keep(state: State, last: bool) -> None:
            if on_state:
                on_state(state)
            if not on_state or last or not kept:
                kept.append(state)

        keep(State(times[0], x, torch.zeros_like(x)), last=False)
        for index in range(steps):
            t = times[index]
            following = solver.step(self.velocity, x, t, times[index + 1] - t)
            last = index + 1 == steps
            if last and not following.isfinite().all():
                raise DataError(
                    f"the integration left the finite numbers between t = {float(times[0]):g} and "
                    f"{float(times[-1]):g}: use more steps, or look at the network"
                )
            if last or (save_every and (index + 1) % save_every == 0):
                keep(State(times[index + 1], following, following - x), last)
            x = following
            if on_step:
                on_step()
        saved_times, states, updates = (torch.stack(column) for column in zip(*kept, strict=True))
        return Trajectory(saved_times, states, updates, calls=steps * solver.calls_per_step)

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

    def latent_variance(self, t: Tensor) -> Tensor:
        """``s(t)^2 (xi + gamma(t)) [D]``, the variance of each latent dimension."""
        return self.schedule.latent_variance(t, self.basis.eigenvalues)


def sample_latent(count: int, variance: Tensor, generator: torch.Generator) -> Tensor:
    """Draws ``[count, D]`` from the zero-mean Gaussian with the given variances ``[D]``."""
    noise = torch.randn(count, len(variance), generator=generator, dtype=torch.float64)
    return noise.to(variance.device) * variance.sqrt()
