"""Covariances of many dimensions that few draws tell: a part of low rank, and a diagonal."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEAST_SHARE = 1e-6
"""The least share by which correlations are drawn towards 0, so that no diagonal is 0."""


@dataclass(frozen=True)
class LowRank:
    """A covariance ``F F^T + diag(d)``.

    Attributes:
        factor: ``F [D, r]``.
        diagonal: ``d [D]``.
    """

    factor: Tensor
    diagonal: Tensor

    @classmethod
    def shrunk(cls, errors: Tensor) -> "LowRank":
        """``E[e e^T]`` of errors ``[N, D]``, its correlations drawn towards 0 by the share that
        makes them the least wrong (Schaefer and Strimmer 2005, section 2.4): the sum of their
        variances over that of their squares. Of more errors than dimensions r is D, else N."""
        count, dim = errors.shape
        std = errors.square().mean(dim=0).sqrt().clamp_min(torch.finfo(errors.dtype).tiny)
        unit = errors / std
        square = unit.square()
        # Sums over pairs of columns, from products of the few rows.
        own = square.mean(dim=0).square().sum()
        of_squares = (unit @ unit.T / count).square().sum() - own
        fourth = (square.sum(dim=1).square().sum() - square.square().sum()) / count
        variance = (fourth - of_squares) / (count - 1)
        share = (variance / of_squares).nan_to_num(1.0).clamp(LEAST_SHARE, 1)
        rows = errors if count < dim else torch.linalg.qr(errors, mode="r").R
        return cls(rows.T * ((1 - share) / count).sqrt(), share * std.square())

    @property
    def rank(self) -> int:
        """Of the part of low rank, r."""
        return self.factor.shape[1]

    @property
    def variance(self) -> Tensor:
        """Of each dimension, ``[D]``."""
        return self.factor.square().sum(dim=1) + self.diagonal

    def seen(self, operator: Tensor) -> Tensor:
        """That of ``A x``, ``[K, K]``, for ``A [K, D]``."""
        low = operator @ self.factor
        return (operator * self.diagonal) @ operator.T + low @ low.T

    def beside(self, operator: Tensor) -> Tensor:
        """That of ``A x`` with x, ``[K, D]``."""
        return operator * self.diagonal + (operator @ self.factor) @ self.factor.T

    def times(self, values: Tensor) -> Tensor:
        """That times ``[..., D]``, in their dtype."""
        low = (values @ self.factor.to(values)) @ self.factor.T.to(values)
        return low.addcmul_(values, self.diagonal.to(values))

    def sample(self, normal: Tensor) -> Tensor:
        """``[..., D]`` of standard normal numbers ``[..., D + r]``, in their dtype."""
        dim = len(self.diagonal)
        alone = normal[..., :dim] * self.diagonal.sqrt().to(normal)
        return alone + normal[..., dim:] @ self.factor.T.to(normal)


@dataclass(frozen=True)
class Bridge:
    """A step back of a diffusion, ``a (x_0 - x) + n`` with ``n ~ N(0, b)``, to an end of which the
    state x tells that it is about ``N(m, V)``.

    Attributes:
        pull: ``a [D]``.
        noise: ``b [D]``.
        end: V.
    """

    pull: Tensor
    noise: Tensor
    end: LowRank

    @cached_property
    def step(self) -> LowRank:
        """The covariance of the step, ``b + a V a``."""
        pull = self.pull[:, None]
        return LowRank(pull * self.end.factor, self.noise + self.pull.square() * self.end.diagonal)

    def end_after(self, operator: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``A x_0``, once a step u was taken that is counted from its mean ``a (m - x)``:
        ``H [K, D]`` of its mean ``A m + H u``, and its covariance ``[K, K]``."""
        alone, left, right = self._after
        seen = operator @ left
        noise = self.noise / self._variance
        covariance = (operator * (self.end.diagonal * noise)) @ operator.T + seen @ seen.T
        return operator * alone + seen @ right, covariance

    def end_moved(self, by: Tensor) -> Tensor:
        """By how much m moves with steps u ``[..., D]``, in their dtype."""
        alone, left, right = (part.to(by) for part in self._after)
        return ((by @ right.T) @ left.T).addcmul_(by, alone)

    @cached_property
    def _variance(self) -> Tensor:
        """p below, ``[D]``."""
        return self.step.diagonal.clamp_min(torch.finfo(self.step.diagonal.dtype).tiny)

    @cached_property
    def _after(self) -> tuple[Tensor, Tensor, Tensor]:
        """``h [D]``, ``L [D, r]`` and ``G [r, D]``: H for all of x_0 is ``diag(h) + L G``, and the
        covariance is ``diag(b d / p) + L L^T``.

        Write ``x_0 - m = F w + e``, where w is standard normal and e has the variances d, so that
        ``u = a F w + a e + n``. Given w, u has the variances ``p = b + a d a``: it says that e is
        about ``(a d / p) (u - a F w)``, with the variances ``b d / p``, and the covariance of w is
        the inverse of ``I + F^T (a^2 / p) F``. Nothing is the difference of two numbers that are
        nearly equal, and where b is 0 the end is known exactly."""
        variance, factor = self._variance[:, None], self.step.factor
        unit = factor / variance.sqrt()
        root = torch.linalg.cholesky(torch.eye(unit.shape[1]).to(unit) + unit.T @ unit)
        left = (self.noise[:, None] / variance * self.end.factor).T
        left = torch.linalg.solve_triangular(root, left, upper=False).T
        right = torch.linalg.solve_triangular(root, (factor / variance).T, upper=False)
        return self.pull * self.end.diagonal / self._variance, left, right
