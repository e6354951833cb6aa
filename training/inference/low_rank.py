"""Covariances in many dimensions estimated from few draws: a low-rank part and a diagonal."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEAST_SHARE = 1e-6
"""Smallest shrinkage of correlations towards 0, so that no diagonal entry is 0."""


@dataclass(frozen=True)
class LowRank:
    """Covariance matrix with a low-rank and a diagonal part, ``F F^T + diag(d)``.

    Attributes:
        factor: Low-rank factor ``F [D, r]``.
        diagonal: Diagonal part ``d [D]``.
    """

    factor: Tensor
    diagonal: Tensor

    @classmethod
    def shrunk(cls, errors: Tensor) -> "LowRank":
        """Estimate the covariance of errors ``[N, D]``, with correlations shrunk towards 0.

        The errors have mean 0.

        The shrinkage factor minimizes the expected error (Schaefer and Strimmer 2005, section 2.4):
        the sum of the variances of the correlations divided by the sum of their squares.

        The rank r is D if there are more errors than dimensions, otherwise N.
        """
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
        """Rank of the low-rank part, r."""
        return self.factor.shape[1]

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, ``[D]``."""
        return self.factor.square().sum(dim=1) + self.diagonal

    def seen(self, operator: Tensor) -> Tensor:
        """Return the covariance ``[K, K]`` of ``A x``, for a linear map ``A [K, D]``."""
        low = operator @ self.factor
        return (operator * self.diagonal) @ operator.T + low @ low.T

    def beside(self, operator: Tensor) -> Tensor:
        """Return the cross-covariance ``[K, D]`` of ``A x`` and x, for a linear map A."""
        return operator * self.diagonal + (operator @ self.factor) @ self.factor.T

    def times(self, values: Tensor) -> Tensor:
        """Multiply the covariance by values ``[..., D]``, in their dtype."""
        low = (values @ self.factor.to(values)) @ self.factor.T.to(values)
        return low.addcmul_(values, self.diagonal.to(values))

    def sample(self, normal: Tensor) -> Tensor:
        """Transform standard normal numbers ``[..., D + r]`` to samples ``[..., D]``."""
        dim = len(self.diagonal)
        alone = normal[..., :dim] * self.diagonal.sqrt().to(normal)
        return alone + normal[..., dim:] @ self.factor.T.to(normal)


@dataclass(frozen=True)
class Bridge:
    """Reverse step of a diffusion from a noisy state x: ``a (x_0 - x) + n``, with ``n ~ N(0, b)``.

    The clean state x_0, given the state x, is approximately ``N(m, V)``.

    Attributes:
        pull: Factor ``a [D]``.
        noise: Variance ``b [D]`` of the added noise.
        end: Covariance V of the clean state.
    """

    pull: Tensor
    noise: Tensor
    end: LowRank

    @cached_property
    def step(self) -> LowRank:
        """Covariance ``b + a V a`` of the step, including the uncertainty of the clean state."""
        pull = self.pull[:, None]
        return LowRank(pull * self.end.factor, self.noise + self.pull.square() * self.end.diagonal)

    def end_after(self, operator: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distribution of ``A x_0`` given a step, for a linear map ``A [K, D]``.

        A step is written ``a (m - x) + u``.

        Returns:
            The matrix ``H [K, D]`` of the mean ``A m + H u``, and the covariance ``[K, K]``.
        """
        alone, left, right = self._after
        seen = operator @ left
        noise = self.noise / self._variance
        covariance = (operator * (self.end.diagonal * noise)) @ operator.T + seen @ seen.T
        return operator * alone + seen @ right, covariance

    def end_moved(self, by: Tensor) -> Tensor:
        """Return the shifts ``[..., D]`` of the expected clean state that steps u cause.

        Args:
            by: Steps ``u [..., D]``, less their mean ``a (m - x)``.
        """
        alone, left, right = (part.to(by) for part in self._after)
        return ((by @ right.T) @ left.T).addcmul_(by, alone)

    @cached_property
    def _variance(self) -> Tensor:
        """Variances p of the steps' diagonal part, as in ``_after``, ``[D]``."""
        return self.step.diagonal.clamp_min(torch.finfo(self.step.diagonal.dtype).tiny)

    @cached_property
    def _after(self) -> tuple[Tensor, Tensor, Tensor]:
        """Vector ``h [D]`` and matrices ``L [D, r]`` and ``G [r, D]`` of the end after a step.

        H for all of x_0 is ``diag(h) + L G``, and the covariance is ``diag(b d / p) + L L^T``.

        Write ``x_0 - m = F w + e``, where w is standard normal and e has the variances d, so that
        ``u = a F w + a e + n``. Given w, u has the variances ``p = b + a d a``: given u too, e has
        the mean ``(a d / p) (u - a F w)`` and the variances ``b d / p``, and the covariance of w
        given u is the inverse of ``I + F^T (a^2 / p) F``. No number is the difference of two nearly
        equal ones, and where b is 0 the end is known exactly.
        """
        variance, factor = self._variance[:, None], self.step.factor
        unit = factor / variance.sqrt()
        root = torch.linalg.cholesky(torch.eye(unit.shape[1]).to(unit) + unit.T @ unit)
        left = (self.noise[:, None] / variance * self.end.factor).T
        left = torch.linalg.solve_triangular(root, left, upper=False).T
        right = torch.linalg.solve_triangular(root, (factor / variance).T, upper=False)
        return self.pull * self.end.diagonal / self._variance, left, right
