"""Proposal distributions near a posterior: Gaussian mixtures, fitted to weighted draws of it.

The fit is by expectation maximization on N draws x, with the prior on covariances of Fraley and
Raftery (2007). With the responsibility ``r_nk`` of component k for draw n,

    mu_k = sum_n r_nk x_n / N_k,      N_k = sum_n r_nk,
    Sigma_k = (nu S + sum_n r_nk (x_n - mu_k)(x_n - mu_k)^T) / (nu + N_k),

where S is the covariance of all draws, scaled by ``K^(-2/d)``, and ``nu = d + 2``. Draws are
counted by their effective sample size, so that a few heavy draws make wide components. Centers are
initialized as in k-means++ (Arthur and Vassilvitskii 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor

from training.inference.draws import systematic

COMPONENTS = 8
STEPS = 12
"""Number of steps of expectation maximization."""
WIDER = 1.15
"""Factor on the fitted standard deviations of the components: weights are largest where a proposal
is too narrow.
"""
LEAST_SHARE = 0.02
"""Smallest fraction of all draws for components with their weights before conditioning."""
NARROWEST = 1e-8
"""Smallest variance of a component along any axis, where the prior has variance 1."""


class Given(NamedTuple):
    """Gaussian posterior of d standard normal variables, given linear observations.

    Attributes:
        mean: Mean ``[..., d]``.
        root: Lower Cholesky factor of the covariance, ``[..., d, d]``.
        log_density: Log density of the observations, ``[...]``, up to terms that depend on the
            noise alone.
    """

    mean: Tensor
    root: Tensor
    log_density: Tensor


def normal_given(operator: Tensor, observed: Tensor, covariance: Tensor) -> Given:
    """Return the posterior of standard normal variables w, given ``y = A w + n`` with noise n.

    The noise is Gaussian.

    With the Cholesky factor N of the noise covariance, ``B = N^(-1) A`` and ``r = N^(-1) y``,

        [I; B] = Q R,       mean = R^(-1) Q^T [0; r],       covariance = R^(-1) R^(-T),
        log p(y) = -(|mean|^2 + |r - B mean|^2) / 2 - log |det R| + constant.

    No matrix is squared, so the noise may be far below the rounding of covariances.

    Args:
        operator: Linear map ``A [..., N, d]``.
        observed: Observations ``y [..., N]``.
        covariance: Covariance of the noise ``[..., N, N]``.
    """
    both = torch.cat([operator, observed[..., None]], dim=-1)
    scaled = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), both, upper=False)
    seen, apart = scaled[..., :-1], scaled[..., -1:]
    dim = seen.shape[-1]
    identity = torch.eye(dim).to(seen).expand(*seen.shape[:-2], dim, dim)
    turn, narrower = torch.linalg.qr(torch.cat([identity, seen], dim=-2))
    mean = torch.linalg.solve_triangular(narrower, turn[..., dim:, :].mT @ apart, upper=True)
    missed = torch.cat([mean, apart - seen @ mean], dim=-2).square().sum(dim=(-2, -1))
    log_det = narrower.diagonal(dim1=-2, dim2=-1).abs().log().sum(dim=-1)
    inverse = torch.linalg.solve_triangular(narrower, identity, upper=True)
    root = torch.linalg.qr(inverse.mT).R.mT
    root = root * root.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return Given(mean[..., 0], root, -missed / 2 - log_det)


@dataclass(frozen=True)
class Proposal:
    """Proposal distributions: a mixture of K Gaussian components for each of M observations.

    Attributes:
        shares: Weights of the components ``[M, K]``, which sum to 1.
        mean: Means of the components ``[M, K, d]``.
        root: Lower Cholesky factors of covariances, ``[M, K, d, d]``.
    """

    shares: Tensor
    mean: Tensor
    root: Tensor

    @classmethod
    def fit(cls, draws: Tensor, worth: Tensor, uniform: Tensor) -> "Proposal":
        """Fit Gaussian mixtures of K components to equally weighted draws.

        Args:
            draws: Draws ``[M, N, d]``.
            worth: Effective sample size of the draws of each observation ``[M]``.
            uniform: Random numbers ``[M, K]`` in [0, 1), which choose the initial centers.
        """
        count, dim = draws.shape[1:]
        identity = torch.eye(dim, dtype=draws.dtype, device=draws.device)
        apart = draws - draws.mean(dim=1, keepdim=True)
        whole = apart.mT @ apart / count + NARROWEST * identity
        part = whole[:, None] * uniform.shape[1] ** (-2 / dim)
        mean = _centers(draws, torch.linalg.cholesky(whole), uniform)
        shares = torch.full_like(uniform, 1 / uniform.shape[1])
        proposal = cls(shares, mean, torch.linalg.cholesky(part).expand(-1, mean.shape[1], -1, -1))
        for _ in range(STEPS):
            proposal = proposal._step(draws, worth, part + NARROWEST * identity)
        return cls(proposal.shares, proposal.mean, WIDER * proposal.root)

    def conditioned(self, operator: Tensor, observed: Tensor, covariance: Tensor) -> "Proposal":
        """Return the mixtures conditional on observations ``y = A x`` plus Gaussian noise.

        The conditional distribution is a mixture in closed form, except that weights are kept from
        becoming too small.

        Args:
            operator: Linear map ``A [N, d]``.
            observed: Observations ``y [M, N]``.
            covariance: Noise covariances ``[M, N, N]``.
        """
        apart = observed[:, None] - self.mean @ operator.T
        given = normal_given(operator @ self.root, apart, covariance[:, None])
        shares = (self.shares.log() + given.log_density).softmax(dim=1)
        # No component is dropped: the mode that it represents may be nearer than its mean suggests.
        shares = (1 - LEAST_SHARE) * shares + LEAST_SHARE * self.shares
        mean = self.mean + (self.root @ given.mean[..., None])[..., 0]
        return Proposal(shares, mean, self.root @ given.root)

    def given(self, places: Sequence[int], values: Tensor) -> "Proposal":
        """Return the mixtures of the other variables, conditional on exact values of some.

        Args:
            places: Indices of the known variables.
            values: Their values ``[M, N, len(places)]``.

        Returns:
            Mixtures for all N values of each observation in turn, ``M N`` in number.
        """
        others = [place for place in range(self.mean.shape[2]) if place not in places]
        covariance = self.root @ self.root.mT
        known = torch.linalg.cholesky(covariance[..., places, :][..., places])
        across = covariance[..., others, :][..., places]
        gain = torch.cholesky_solve(across.mT, known).mT
        rest = covariance[..., others, :][..., others] - gain @ across.mT
        apart = values[:, :, None] - self.mean[:, None, :, places]
        scaled = torch.linalg.solve_triangular(known[:, None], apart[..., None], upper=False)
        log_det = known.diagonal(dim1=2, dim2=3).log().sum(dim=2)
        log_part = self.shares.log() - log_det
        log_part = log_part[:, None] - scaled.square().sum(dim=(3, 4)) / 2
        mean = self.mean[:, None, :, others] + (gain[:, None] @ apart[..., None])[..., 0]
        eye = torch.eye(len(others)).to(rest)
        root = torch.linalg.cholesky((rest + rest.mT) / 2 + NARROWEST * eye)
        root = root[:, None].expand(-1, values.shape[1], -1, -1, -1)
        return Proposal(
            log_part.softmax(dim=2).flatten(0, 1), mean.flatten(0, 1), root.flatten(0, 1)
        )

    def evened(self) -> "Proposal":
        """Return the mixtures with more weight on rare but remote components.

        Weights are proportional to the square roots of the components' contributions to a second
        moment, so that draws estimate second moments as well as means.
        """
        shares = self.shares[..., None]
        center = (shares * self.mean).sum(dim=1, keepdim=True)
        square = (self.mean - center).square() + self.root.square().sum(dim=3)
        apart = (square / (shares * square).sum(dim=1, keepdim=True)).amax(dim=2)
        weight = (self.shares * apart).sqrt()
        return Proposal(weight / weight.sum(dim=1, keepdim=True), self.mean, self.root)

    def wider(self, factor: float, share: float = 1.0) -> "Proposal":
        """Return the mixtures with part of the weight of each component in a wider copy.

        Args:
            factor: Factor on the standard deviations of the wider copies.
            share: Fraction of the weight in the wider copies.
        """
        wide = Proposal(self.shares, self.mean, factor * self.root)
        return wide if share == 1 else self.beside(wide, share)

    def beside(self, other: "Proposal", share: float) -> "Proposal":
        """Return the mixture of this proposal and another one, which has the weight ``share``."""
        shares = torch.cat([(1 - share) * self.shares, share * other.shares], dim=1)
        pairs = ((self.mean, other.mean), (self.root, other.root))
        mean, root = (torch.cat(pair, dim=1) for pair in pairs)
        return Proposal(shares, mean, root)

    def log_prob(self, w: Tensor) -> Tensor:
        """Return log densities ``[M, N]`` of rows ``[M, N, d]``."""
        return self._parts(w).logsumexp(dim=1)

    def draw(self, uniform: Tensor) -> Tensor:
        """Draw rows ``[M, N, d]`` with random numbers ``[M, N, 1 + d]`` in (0, 1).

        The first of these numbers chooses the component.
        """
        last = self.shares.shape[1] - 1
        above = self.shares.cumsum(dim=1)
        which = torch.searchsorted(above, uniform[:, :, 0].contiguous(), right=True).clamp_max(last)
        rows = torch.arange(len(which), device=which.device)[:, None]
        normal = torch.special.ndtri(uniform[:, :, 1:])
        turned = (self.root[rows, which] @ normal[..., None])[..., 0]
        return self.mean[rows, which] + turned

    def _step(self, draws: Tensor, worth: Tensor, part: Tensor) -> "Proposal":
        """Take one step of expectation maximization."""
        count, dim = draws.shape[1:]
        log_parts = self._parts(draws)
        share = log_parts.softmax(dim=1) * (worth / count)[:, None, None]
        number = share.sum(dim=2, keepdim=True)
        some = number.clamp_min(torch.finfo(number.dtype).tiny)
        mean = torch.where(number > 0, share @ draws / some, self.mean)
        apart = draws[:, None] - mean[:, :, None]
        scatter = (share[..., None] * apart).mT @ apart
        spread = dim + 2 + number[..., None]
        covariance = ((dim + 2) * part + scatter) / spread
        shares = (1 + number[..., 0]) / (number.shape[1] + number.sum(dim=1))
        return Proposal(shares, mean, torch.linalg.cholesky(covariance))

    def _parts(self, w: Tensor) -> Tensor:
        """Return weighted log densities ``[M, K, N]`` of rows ``[M, N, d]`` by component."""
        dim = w.shape[2]
        identity = torch.eye(dim, dtype=w.dtype, device=w.device)
        inverse = torch.linalg.solve_triangular(self.root, identity, upper=False)
        scaled = w[:, None] @ inverse.mT - (self.mean[:, :, None] @ inverse.mT)
        log_det = self.root.diagonal(dim1=2, dim2=3).log().sum(dim=2)
        normalizer = self.shares.log() - log_det - dim * log(2 * pi) / 2
        return normalizer[..., None] - scaled.square().sum(dim=3) / 2


def _centers(draws: Tensor, root: Tensor, uniform: Tensor) -> Tensor:
    """Choose initial centers ``[M, K, d]`` far from one another.

    Each draw is chosen with probability proportional to its squared distance, in standard
    deviations, from the nearest earlier center.
    """
    scaled = torch.linalg.solve_triangular(root, draws.mT, upper=False).mT
    rows = torch.arange(len(draws), device=draws.device)
    nearest = torch.zeros_like(draws[:, :, 0])
    picks: list[Tensor] = []
    for number in uniform.unbind(dim=1):
        # Weights are equal for the first center, and where every draw is already a center.
        log_weights = torch.where(nearest.amax(dim=1, keepdim=True) > 0, nearest.log(), 0.0)
        (pick,) = systematic(log_weights, number, 1).unbind(dim=1)
        distance = (scaled - scaled[rows, pick][:, None]).square().sum(dim=2)
        nearest = distance if not picks else torch.minimum(nearest, distance)
        picks.append(pick)
    return draws[rows[:, None], torch.stack(picks, dim=1)]
