"""The right side of the probability-flow ODE, for scaled or standardized states (see ``pfode``).

With ``x_tilde = a(t) x`` both are ``dx_i/dt = l_i x_i - (r_i / 2) D_i(x_tilde, t) / a_i``, where

    scaled          a = 1 / s,               l_i = d log s/dt + r_i / 2,
    standardized    a_i = sqrt(xi_i + gamma_i),  l_i = (r_i / 2) xi_i / (xi_i + gamma_i),

so that the divergence depends on the diagonal of the denoiser's Jacobian only:

    sum_i l_i - sum_i (r_i / 2) dD_i/dx_tilde_i.
"""

from dataclasses import dataclass

from torch import Tensor

from training.flow.calls import with_trace
from training.flow.denoisers import Denoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import NoiseSchedule


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
        """Return the velocity and its divergence ``[N]``, without gradients.

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
