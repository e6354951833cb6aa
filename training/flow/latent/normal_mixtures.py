"""Mixtures of normal distributions in one dimension, and their maps to the standard normal.

With weights ``pi_k``, means ``m_k`` and standard deviations ``s_k``, the distribution function is
``F(v) = sum_k pi_k Phi((v - m_k) / s_k)``. The *normal score* ``w = Phi^-1(F(v))`` of a value drawn
from the mixture is standard normal; the *quantile* is its inverse. Both are taken by logarithms of
the lighter tail, so that neither rounds off however far out a value is.
"""

from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

LOG_ROOT = log(2 * pi) / 2
NEWTON_STEPS, MOST_STEPS = 3, 200
LIGHTEST, ROUNDING = -600.0, 4e-15
"""Logarithm of a tail from which on its score is first guessed by its asymptote; and what a step is
when it is done, in units of a value."""


class NormalMixture(NamedTuple):
    """Mixtures of K normal distributions, each field ``[..., K]``."""

    log_weight: Tensor
    mean: Tensor
    log_std: Tensor

    def log_density(self, v: Tensor) -> Tensor:
        """The log density ``[...]`` at values ``[...]``, in nats."""
        z = (v[..., None] - self.mean) * (-self.log_std).exp()
        return (self.log_weight - self.log_std - z.square() / 2).logsumexp(dim=-1) - LOG_ROOT

    def normal_score(self, v: Tensor) -> Tensor:
        """The normal scores ``[...]`` of values ``[...]``, float64."""
        z = (v[..., None] - self.mean) * (-self.log_std).exp()
        below = (self.log_weight + torch.special.log_ndtr(z)).logsumexp(dim=-1)
        above = (self.log_weight + torch.special.log_ndtr(-z)).logsumexp(dim=-1)
        left = below < above
        score = log_ndtri(torch.where(left, below, above))
        return torch.where(left, score, -score)

    def quantile(self, w: Tensor) -> Tensor:
        """The values ``[...]``, float64, of which ``w [...]`` are the normal scores.

        A last step of Newton's method passes gradients on to w and to the parameters.
        """
        with torch.no_grad():
            mixture = self._on(w)
            flat = NormalMixture(*(part.reshape(-1, part.shape[-1]) for part in mixture))
            v = flat._solve(w.reshape(-1)).view_as(w)
        score = self.normal_score(v)
        slope = (self.log_density(v) + score.square() / 2 + LOG_ROOT).exp().detach()
        return v - (score - w) / slope

    def _on(self, w: Tensor) -> "NormalMixture":
        """With a mixture for each of w."""
        return NormalMixture(*(part.expand(*w.shape, -1) for part in self))

    def _solve(self, w: Tensor) -> Tensor:
        """By Newton's method on the log of the lighter tail; by halves where that leaves a bracket.

        Where the score is w, no component's own score is below it in all, or above it in all.
        """
        side = torch.where(w < 0, 1.0, -1.0).to(w)
        log_tail = torch.special.log_ndtr(-w.abs())
        own = self.mean + self.log_std.exp() * w[:, None]
        low, high = own.amin(dim=1), own.amax(dim=1)
        v = (self.log_weight.exp() * own).sum(dim=1)
        left = torch.arange(len(w), device=w.device)
        for _ in range(MOST_STEPS):
            few = NormalMixture(*(part[left] for part in self))
            at, target = v[left], log_tail[left]
            z = side[left, None] * (at[:, None] - few.mean) * (-few.log_std).exp()
            tail = (few.log_weight + torch.special.log_ndtr(z)).logsumexp(dim=1)
            error = side[left] * (tail - target)
            high[left] = torch.where(error > 0, at, high[left])
            low[left] = torch.where(error > 0, low[left], at)
            newton = at - error * (tail - few.log_density(at)).exp()
            inside = (newton >= low[left]) & (newton <= high[left])
            after = torch.where(inside, newton, (low[left] + high[left]) / 2)
            v[left] = after
            left = left[(after - at).abs() > ROUNDING * (1 + at.abs())]
            if not len(left):
                break
        return v


def log_ndtri(log_p: Tensor) -> Tensor:
    """``x [...]`` with ``log Phi(x) = log_p``, for logarithms ``[...]`` of at most a half, float64.

    ``ndtri`` cannot take a probability that is too small for a floating-point number.
    """
    with torch.no_grad():
        p = log_p.clamp(min=LIGHTEST).exp()
        x = torch.where(log_p > LIGHTEST, torch.special.ndtri(p), -(-2 * log_p).sqrt())
        for _ in range(NEWTON_STEPS):
            x = x - (torch.special.log_ndtr(x) - log_p) / _log_slope(x)
    return x - (torch.special.log_ndtr(x) - log_p) / _log_slope(x)


def _log_slope(x: Tensor) -> Tensor:
    """``d log Phi(x) / dx``."""
    return (-x.square() / 2 - LOG_ROOT - torch.special.log_ndtr(x)).exp()
