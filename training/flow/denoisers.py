"""Denoisers ``D(x_tilde, t) = E[clean | x_tilde]`` in eigenspace, all with one interface.

``NetworkDenoiser`` is a network between the coefficients of ``preconditioning``.

``MixtureDenoiser`` is exact for Gaussian mixtures with one shared covariance, and with it the
``DiscreteDenoiser``, whose mixture is a finite set of points. Both reduce to softmax attention.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from math import log, pi
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import require_known
from training.flow.calibration import Calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.output_gain import OutputGain
from training.flow.preconditioning import PRECONDITIONINGS, Preconditioning
from training.flow.schedules import NoiseSchedule
from training.names import NOISE_CONDITIONINGS, SPACES

FLOAT32_DDPM = "ddpm_float32"
"""What networks of the original code were trained with."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Denoiser(Protocol):
    """Maps noisy points ``[B, D]`` and times (``[]`` or ``[B]``) to clean means ``[B, D]``."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor: ...


class NetworkDenoiser(nn.Module):
    """A network F between the preconditioning coefficients.

    Args:
        network: ``F(z [B, D], c_noise [] or [B], **conditions) -> [B, D]``. One with ``waves`` is
            given the noisy pixels too, see ``ImageUNet``.
        basis: Gives ``xi`` and the rotation W.
        schedule: Gives ``gamma(t)``.
        space: Coordinates of the network's input and output. ``IS`` rotates into image space and
            back; the loss is the same number in both.
        noise_cond: ``log``: a quarter of the log of the largest noise std, smooth in t; ``ddpm``:
            ``999 t``, for networks trained that way; ``ddpm_float32``: the same of t in float32.
        preconditioning: A name in ``PRECONDITIONINGS``.
        data_variance: ``[D]``, not negative, the variance that the coefficients count on; None
            takes that of the basis with its small values raised, by which a loss can divide.
        output_gain: Factors of the network's output, or None.

    Attributes:
        precision: A name in ``PRECISIONS``: what the network computes in. All around it, the
            coefficients and the loss, stays in single precision or better.
        calibration: The correction of the network's output in ``forward``, or None.
    """

    data_variance: Tensor

    def __init__(
        self,
        network: nn.Module,
        basis: EigenBasis,
        schedule: NoiseSchedule,
        space: str = "ES",
        noise_cond: str = "log",
        preconditioning: str = "ifs",
        data_variance: Tensor | None = None,
        output_gain: OutputGain | None = None,
    ):
        super().__init__()
        require_known("space", space, SPACES)
        require_known("noise_cond", noise_cond, (*NOISE_CONDITIONINGS, FLOAT32_DDPM))
        require_known("precond", preconditioning, PRECONDITIONINGS)
        self.network, self.basis, self.schedule = network, basis, schedule
        self.output_gain = output_gain
        self.space, self.noise_cond, self.preconditioning = space, noise_cond, preconditioning
        self.precision = "fp32"
        self.calibration: Calibration | None = None
        variance = basis.floored_variance() if data_variance is None else data_variance
        self.register_buffer("data_variance", variance.to(basis.eigenvalues))

    @property
    def asks(self) -> bool:
        """Whether labels are questions, in coordinates of the flow, not conditions with units."""
        return bool(getattr(self.network, "asks", False))

    @property
    def says_nothing(self) -> bool:
        """Whether the network is 0, as before it is trained: it is the best linear denoiser."""
        output = getattr(self.network, "output", None)
        return isinstance(output, nn.Linear) and not output.weight.any() and not output.bias.any()

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The denoised points ``[B, D]`` of ``x [B, D]`` in eigenspace, in the dtype of x, at times
        ``[]`` or ``[B]``. Conditions, such as ``labels [B, L]``, are further inputs of the
        network."""
        c = self._coefficients_in(x.dtype, t)
        z = c.c_in * x
        return self._denoised(x, c, z, t, self.residual(z, t, **conditions))

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """D ``[B, D]`` as ``forward`` at a time ``[]``, and ``sum_i factors_i dD_i/dx_i [B]``,
        without gradients; None where the network takes no traces itself."""
        traces = getattr(self.network, "with_trace", None)
        if traces is None or t.ndim or self.network.training or self.precision != "fp32":
            return None
        c = self._coefficients_in(x.dtype, t)
        z = c.c_in * x
        straight, inner = c.c_skip * factors, c.c_out * factors
        if self.calibration is not None:
            gains, slopes = self.calibration.at(t)
            straight, inner = straight - slopes * inner * c.c_in, gains * inner
        if self.output_gain is not None:
            inner = self.output_gain(t) * inner
        matrix = (inner * c.c_in).diag()
        c_noise = self.noise_condition(t).to(torch.get_default_dtype())
        rows = z
        if self.space == "IS":
            rows = self.basis.rotate_back(z)
            matrix = self.basis.rotate_back(self.basis.rotate_back(matrix).T)
        out, trace = traces(rows.to(c_noise.dtype), c_noise, matrix, **conditions)
        denoised = self._denoised(x, c, z, t, self._in_eigenspace(out.to(z.dtype), t))
        return denoised, straight.sum() + trace.to(x.dtype)

    def residual(self, z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """The output F for unit-variance inputs ``z [B, D]``, in eigenspace, times its gain.

        Rotations are done in the dtype of z, and F is given back in it.
        """
        c_noise = self.noise_condition(t).to(torch.get_default_dtype())
        rows = self.basis.rotate_back(z) if self.space == "IS" else z
        if getattr(self.network, "waves", None) is not None:
            conditions |= self._pixels(z, t)
        with self.autocast(z.device.type):
            out = self.network(rows.to(c_noise.dtype), c_noise, **conditions).to(z.dtype)
        return self._in_eigenspace(out, t)

    def _in_eigenspace(self, out: Tensor, t: Tensor) -> Tensor:
        """The network's output ``[B, D]``, rotated to where it belongs, times its gain."""
        out = self.basis.rotate(out) if self.space == "IS" else out
        return out if self.output_gain is None else self.output_gain(t).to(out.dtype) * out

    def _denoised(
        self, x: Tensor, c: Preconditioning, z: Tensor, t: Tensor, residual: Tensor
    ) -> Tensor:
        """``D [B, D]`` of x and z, with the residual calibrated."""
        if self.calibration is not None:
            residual = self.calibration(residual, z, t)
        return (c.c_skip * x + c.c_out * residual).to(x.dtype)

    def prepared(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Conditions ``[B, ...]`` and what the network makes of labels alone, once for many calls;
        the same where it makes nothing."""
        features_of = getattr(self.network, "features_of", None)
        if features_of is None or "labels" not in conditions:
            return dict(conditions)
        labels = conditions["labels"].to(torch.get_default_dtype())
        with torch.set_grad_enabled(labels.requires_grad), self.autocast(labels.device.type):
            return {**conditions, "features": features_of(labels)}

    def _pixels(self, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The noisy pixels of ``z [B, D]``, and the variance of their noise, averaged over them."""
        noisy = self.basis.from_eigen(z / self.coefficients(t).c_in.to(z.dtype))
        dtype = torch.get_default_dtype()
        noise = self.schedule.noise_variance(t).mean(dim=-1)
        return {"pixels": noisy.to(dtype), "pixel_noise": noise.to(dtype)}

    def autocast(self, device_type: str) -> AbstractContextManager[object]:
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(device_type, dtype)

    def _coefficients_in(self, dtype: torch.dtype, t: Tensor) -> Preconditioning:
        """The preconditioning at times, rounded last."""
        return Preconditioning(*(each.to(dtype) for each in self.coefficients(t)))

    def coefficients(self, t: Tensor) -> Preconditioning:
        """The preconditioning at times ``[]`` or ``[B]``."""
        noise_variance = self.schedule.noise_variance(t)
        return self.coefficients_under(noise_variance.to(self.data_variance.dtype))

    def coefficients_under(self, noise_variance: Tensor) -> Preconditioning:
        """The preconditioning for noise variances ``gamma [..., D]``, in their dtype."""
        precondition = PRECONDITIONINGS[self.preconditioning]
        return precondition(self.data_variance.to(noise_variance.dtype), noise_variance)

    def noise_condition(self, t: Tensor) -> Tensor:
        return noise_condition(self.schedule, t, self.noise_cond)


def noise_condition(schedule: NoiseSchedule, t: Tensor, kind: str) -> Tensor:
    """What tells a network the time t ``[...]``, of the same shape; see ``NetworkDenoiser``."""
    if kind == "log":
        return schedule.reference_log_noise(t) / 8
    # Fourier features turn a rounding of t into an error a thousand times as large.
    return 999 * (t.float() if kind == FLOAT32_DDPM else t)


class MixtureDenoiser(nn.Module):
    """Exact denoiser of ``sum_k w_k N(A m_k, A S A^T)`` under ``N(0, diag gamma(t))`` noise.

    In eigenspace the components are ``N(o + B m_k, B S B^T)`` with ``B = W^T A``, ``o = -W^T mu``.
    Noisy, all have the covariance ``V = B S B^T + diag gamma``, and by Tweedie's formula

        D     = x - gamma V^-1 (x - o - B m_bar),
        m_bar = sum_k softmax_k(log(w_k N(x; o + B m_k, V))) m_k.

    The softmax over components is attention with keys made of the ``m_k``, so the fused attention
    kernel does the work. Queries go in chunks, which bounds memory where no fused kernel exists.

    Args:
        weights: ``w [K]``.
        means: ``m [K, d]``.
        covariance: ``S [d, d]``; zero for a set of points.
        embedding: ``A [D, d]`` with orthonormal columns.
        basis: Eigenbasis of the coordinates that x is in.
        schedule: Gives ``gamma(t)``.
        chunk_elements: Largest number of (point, component) pairs handled at once.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariance: Tensor,
        embedding: Tensor,
        basis: EigenBasis,
        schedule: NoiseSchedule,
        chunk_elements: int = 1 << 22,
    ):
        super().__init__()
        self.basis, self.schedule, self.chunk_elements = basis, schedule, chunk_elements
        axes = basis.eigenvectors.T @ embedding.double()
        means = means.double()
        # A query times a key is the log evidence, but for terms that all components share.
        outer = (-0.5 * means[:, :, None] * means[:, None, :]).flatten(1)
        keys = torch.cat([means, outer, weights.double().log()[:, None]], dim=1)
        self.register_buffer("keys", keys)
        self.register_buffer("means", means)
        self.register_buffer("axes", axes)
        self.register_buffer("covariance", axes @ covariance.double() @ axes.T)
        self.register_buffer("origin", -basis.eigenvectors.T @ basis.mean)

    keys: Tensor
    means: Tensor
    axes: Tensor
    covariance: Tensor
    origin: Tensor

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The posterior means ``[B, D]`` of ``x [B, D]``, in the dtype of x."""
        centered = x.double() - self.origin
        gamma = self.schedule.noise_variance(t.double())
        precision, _ = self._noisy_precision(gamma)
        queries = self._queries(centered, precision)
        count, dim = self.means.shape
        values = F.pad(self.means, (0, self.keys.shape[1] - dim))
        chunks = torch.split(queries, max(1, self.chunk_elements // count))
        mean = torch.cat([_attend(part, self.keys, values)[:, :dim] for part in chunks])
        residual = centered - mean @ self.axes.T
        return (x - gamma * _rows_times(residual, precision)).to(x.dtype)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """``log p_t(x) [B]`` of noisy points ``[B, D]``, in nats."""
        centered = x.double() - self.origin
        precision, logdet = self._noisy_precision(self.schedule.noise_variance(t.double()))
        queries = self._queries(centered, precision)
        chunks = torch.split(queries, max(1, self.chunk_elements // len(self.means)))
        evidence = torch.cat([(part @ self.keys.T).logsumexp(dim=1) for part in chunks])
        square = (centered * _rows_times(centered, precision)).sum(dim=1)
        return evidence - 0.5 * (square + logdet + x.shape[1] * log(2 * pi))

    def _noisy_precision(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """``V^-1 [..., D, D]`` and ``log det V [...]`` for noise variances ``gamma [..., D]``."""
        total = self.covariance + torch.diag_embed(gamma)
        # Noise may differ by many orders between dimensions; scaled to unit diagonal, V is tame.
        std = total.diagonal(dim1=-2, dim2=-1).sqrt()
        scaling = std[..., :, None] * std[..., None, :]
        correlation = total / scaling
        logdet = torch.logdet(correlation) + 2 * std.log().sum(dim=-1)
        return torch.linalg.inv(correlation) / scaling, logdet

    def _queries(self, centered: Tensor, precision: Tensor) -> Tensor:
        """``[B^T V^-1 (x - o), vec(B^T V^-1 B), 1]``, all that log evidences need of a point."""
        linear = _rows_times(centered, precision) @ self.axes
        quadratic = (self.axes.T @ precision @ self.axes).flatten(-2).expand(len(centered), -1)
        return torch.cat([linear, quadratic, torch.ones_like(linear[:, :1])], dim=1)


class DiscreteDenoiser(MixtureDenoiser):
    """Denoiser of a finite set of points ``[K, D]`` (image space) that stands for the data."""

    def __init__(self, points: Tensor, basis: EigenBasis, schedule: NoiseSchedule):
        count, dim = points.shape
        super().__init__(
            weights=points.new_full((count,), 1 / count),
            means=points,
            covariance=points.new_zeros(dim, dim),
            embedding=torch.eye(dim, dtype=points.dtype, device=points.device),
            basis=basis,
            schedule=schedule,
        )


def _rows_times(rows: Tensor, matrix: Tensor) -> Tensor:
    """``rows [B, d]`` times one matrix ``[d, d]``, or times a matrix each ``[B, d, d]``."""
    return rows @ matrix if matrix.ndim == 2 else (rows[:, None, :] @ matrix)[:, 0]


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    attended = F.scaled_dot_product_attention(
        queries[None, None], keys[None, None], values[None, None], scale=1.0
    )
    return attended[0, 0]
