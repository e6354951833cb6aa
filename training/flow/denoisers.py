"""Denoisers ``D(x_tilde, t) = E[clean | x_tilde]`` in eigenspace, with one interface.

``NetworkDenoiser`` wraps a network in the coefficients of ``preconditioning``.

``MixtureDenoiser`` is exact for Gaussian mixtures with a shared covariance. Its special case
``DiscreteDenoiser`` is exact for a finite set of points. Both reduce to softmax attention.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from math import log, pi

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
"""Noise conditioning of networks trained with the original code."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Type of a denoiser: from noisy points ``[B, D]`` and times ``[]`` or ``[B]`` to means ``[B, D]``.

The means are those of clean points.
"""


class NetworkDenoiser(nn.Module):
    """A denoiser made of a network F and preconditioning coefficients.

    Args:
        network: Network ``F(z [B, D], c_noise [] or [B], **conditions) -> [B, D]``. A network with
            ``waves`` also gets the noisy pixels, see ``ImageUNet``.
        basis: Eigenbasis with the data variances ``xi`` and the rotation W.
        schedule: Noise schedule ``gamma(t)``.
        space: Coordinates of the network's input and output: ``ES`` for eigenspace, or ``IS`` for
            image space, with rotations before and after the network. The loss has the same value in
            both spaces.
        noise_cond: Noise input of the network. ``log``: a quarter of the log of the largest noise
            standard deviation, smooth in t; ``ddpm``: ``999 t``, for networks trained with this
            input; ``ddpm_float32``: the same with t in float32.
        preconditioning: A name in ``PRECONDITIONINGS``.
        data_variance: Data variance ``[D]`` assumed by the coefficients, not negative. None for the
            variances of the basis, with small values raised to allow divisions in the loss.
        output_gain: Trained gains of the network's output; None for no gains.

    Attributes:
        precision: A name in ``PRECISIONS``: the precision of the network. The coefficients and the
            loss stay in single precision or better.
        calibration: Correction of the network's output in ``forward``; None for no correction.
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
        """Whether labels are conditional queries, already in the coordinates of the flow."""
        return bool(getattr(self.network, "asks", False))

    @property
    def is_trivial(self) -> bool:
        """Whether the network output is 0, as before training: the denoiser is then linear."""
        output = getattr(self.network, "output", None)
        return isinstance(output, nn.Linear) and not output.weight.any() and not output.bias.any()

    def forward(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        """Return the denoised points ``[B, D]`` of noisy points x in eigenspace, in the dtype of x.

        Args:
            x: Noisy points ``[B, D]`` in eigenspace.
            t: Times ``[]`` or ``[B]``.
            conditions: Further inputs of the network, for example ``labels [B, L]``.
        """
        c = self._coefficients_in(x.dtype, t)
        z = c.c_in * x
        return self._denoised(x, c, z, t, self.residual(z, t, **conditions))

    def with_trace(
        self, x: Tensor, t: Tensor, factors: Tensor, **conditions: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return the denoised points D(x) ``[B, D]`` and weighted traces of the Jacobian ``[B]``.

        The trace is ``sum_i factors_i dD_i/dx_i``. Both results are without gradients. Returns None
        if the network does not compute traces itself.

        Args:
            x: Noisy points ``[B, D]`` in eigenspace.
            t: Time ``[]``.
            factors: Weights of the dimensions in the trace ``[D]``.
            conditions: Further inputs of the network, for example ``labels [B, L]``.
        """
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
        """Return the network output ``[B, D]`` times its gain, for inputs z with unit variances.

        Inputs and outputs are in eigenspace.

        Rotations and the result have the dtype of z.
        """
        c_noise = self.noise_condition(t).to(torch.get_default_dtype())
        rows = self.basis.rotate_back(z) if self.space == "IS" else z
        if getattr(self.network, "waves", None) is not None:
            conditions |= self._pixels(z, t)
        with self.autocast(z.device.type):
            out = self.network(rows.to(c_noise.dtype), c_noise, **conditions).to(z.dtype)
        return self._in_eigenspace(out, t)

    def _in_eigenspace(self, out: Tensor, t: Tensor) -> Tensor:
        """Rotate the network's output ``[B, D]`` to eigenspace if needed, and apply its gain."""
        out = self.basis.rotate(out) if self.space == "IS" else out
        return out if self.output_gain is None else self.output_gain(t).to(out.dtype) * out

    def _denoised(
        self, x: Tensor, c: Preconditioning, z: Tensor, t: Tensor, residual: Tensor
    ) -> Tensor:
        """Combine x, z and the residual, after calibration, into ``D [B, D]``."""
        if self.calibration is not None:
            residual = self.calibration(residual, z, t)
        return (c.c_skip * x + c.c_out * residual).to(x.dtype)

    def prepared(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return conditions ``[B, ...]`` with features that the network computes from labels alone.

        The features are computed once for many calls. If the network computes no such features,
        conditions are returned unchanged.
        """
        features_of = getattr(self.network, "features_of", None)
        if features_of is None or "labels" not in conditions:
            return dict(conditions)
        labels = conditions["labels"].to(torch.get_default_dtype())
        with torch.set_grad_enabled(labels.requires_grad), self.autocast(labels.device.type):
            return {**conditions, "features": features_of(labels)}

    def _pixels(self, z: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Return the noisy pixels of ``z [B, D]``, and their average noise variance."""
        noisy = self.basis.from_eigen(z / self.coefficients(t).c_in.to(z.dtype))
        dtype = torch.get_default_dtype()
        noise = self.schedule.noise_variance(t).mean(dim=-1)
        return {"pixels": noisy.to(dtype), "pixel_noise": noise.to(dtype)}

    def autocast(self, device_type: str) -> AbstractContextManager[object]:
        """Return a context that makes the network compute in its precision on a type of device."""
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(device_type, dtype)

    def _coefficients_in(self, dtype: torch.dtype, t: Tensor) -> Preconditioning:
        """Return the preconditioning at times, computed in full precision and then rounded."""
        return Preconditioning(*(each.to(dtype) for each in self.coefficients(t)))

    def coefficients(self, t: Tensor) -> Preconditioning:
        """Return the preconditioning coefficients at times ``[]`` or ``[B]``."""
        noise_variance = self.schedule.noise_variance(t)
        return self.coefficients_under(noise_variance.to(self.data_variance.dtype))

    def coefficients_under(self, noise_variance: Tensor) -> Preconditioning:
        """Return the preconditioning coefficients for noise variances ``gamma [..., D]``."""
        precondition = PRECONDITIONINGS[self.preconditioning]
        return precondition(self.data_variance.to(noise_variance.dtype), noise_variance)

    def noise_condition(self, t: Tensor) -> Tensor:
        """Return the network's noise input ``[...]`` for times ``[...]``."""
        return noise_condition(self.schedule, t, self.noise_cond)


def noise_condition(schedule: NoiseSchedule, t: Tensor, kind: str) -> Tensor:
    """Return the network's noise input ``[...]`` for times t ``[...]``; see ``NetworkDenoiser``."""
    if kind == "log":
        return schedule.reference_log_noise(t) / 8
    # Fourier features amplify a rounding error of t a thousandfold.
    return 999 * (t.float() if kind == FLOAT32_DDPM else t)


class MixtureDenoiser(nn.Module):
    """Exact denoiser of a Gaussian mixture with a shared covariance.

    The mixture is ``sum_k w_k N(A m_k, A S A^T)``, and the noise ``N(0, diag gamma(t))``. In the
    eigenspace of a basis with mean mu and axes W, the components are ``N(o + B m_k, B S B^T)`` with
    ``B = W^T A`` and ``o = -W^T mu``. With noise, all have the covariance ``V = B S B^T + diag
    gamma``, and by Tweedie's formula

        D     = x - gamma V^-1 (x - o - B m_bar),
        m_bar = sum_k softmax_k(log(w_k N(x; o + B m_k, V))) m_k.

    The softmax over components is attention with keys built from the ``m_k``, so the fused
    attention kernel applies. Queries are processed in chunks, which bounds memory without a fused
    kernel.

    Args:
        weights: Weights ``w [K]`` of the components.
        means: Means ``m [K, d]`` of the components.
        covariance: Shared covariance ``S [d, d]``; zero for a set of points.
        embedding: Linear embedding ``A [D, d]`` with orthonormal columns.
        basis: Eigenbasis of the coordinates of x.
        schedule: Noise schedule ``gamma(t)``.
        chunk_elements: Maximum number of (point, component) pairs per chunk.
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
        # A query times a key is the log evidence, up to terms that all components share.
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
        """Return the means ``[B, D]`` of clean points given noisy points x, in the dtype of x."""
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
        """Return the log density ``[B]`` of noisy points ``x [B, D]`` at time t, in nats."""
        centered = x.double() - self.origin
        precision, logdet = self._noisy_precision(self.schedule.noise_variance(t.double()))
        queries = self._queries(centered, precision)
        chunks = torch.split(queries, max(1, self.chunk_elements // len(self.means)))
        evidence = torch.cat([(part @ self.keys.T).logsumexp(dim=1) for part in chunks])
        square = (centered * _rows_times(centered, precision)).sum(dim=1)
        return evidence - 0.5 * (square + logdet + x.shape[1] * log(2 * pi))

    def _noisy_precision(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``V^-1 [..., D, D]`` and ``log det V [...]`` for noise ``gamma [..., D]``."""
        total = self.covariance + torch.diag_embed(gamma)
        # Noise can differ by many orders of magnitude between dimensions; scaled to unit diagonal,
        # V is well conditioned.
        std = total.diagonal(dim1=-2, dim2=-1).sqrt()
        scaling = std[..., :, None] * std[..., None, :]
        correlation = total / scaling
        logdet = torch.logdet(correlation) + 2 * std.log().sum(dim=-1)
        return torch.linalg.inv(correlation) / scaling, logdet

    def _queries(self, centered: Tensor, precision: Tensor) -> Tensor:
        """Return the queries ``[B^T V^-1 (x - o), vec(B^T V^-1 B), 1]`` of the attention."""
        linear = _rows_times(centered, precision) @ self.axes
        quadratic = (self.axes.T @ precision @ self.axes).flatten(-2).expand(len(centered), -1)
        return torch.cat([linear, quadratic, torch.ones_like(linear[:, :1])], dim=1)


class DiscreteDenoiser(MixtureDenoiser):
    """Exact denoiser of the uniform distribution on K points ``[K, D]`` in image space."""

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
    """Return ``rows [B, d]`` times one matrix ``[d, d]``, or a matrix per row ``[B, d, d]``."""
    return rows @ matrix if matrix.ndim == 2 else (rows[:, None, :] @ matrix)[:, 0]


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    attended = F.scaled_dot_product_attention(
        queries[None, None], keys[None, None], values[None, None], scale=1.0
    )
    return attended[0, 0]
