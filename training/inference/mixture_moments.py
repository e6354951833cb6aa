"""Moments of the posterior of a mixture's weights without chains: what chains are held against.

Broken like a stick, ``pi_1 = v_1``, ``pi_2 = (1 - v_1) v_2``, ..., the Dirichlet prior makes the
``v_j ~ Beta(alpha, (K - j) alpha)`` independent, and the likelihood ``prod_n sum_k pi_k L_nk`` is a
polynomial of degree N in each of them. A Gauss-Jacobi rule of ``N // 2 + 2`` nodes for each
integrates it, times ``pi_k pi_l``, exactly: the moments are right to rounding. Where K and N make
that too many nodes, moments are weighted means over draws of a Dirichlet law near the posterior.
"""

from dataclasses import dataclass

import torch
from scipy.special import roots_jacobi
from torch import Tensor

from training.inference.mixtures import dirichlet, log_likelihood
from training.inference.samplers.pool import TINY
from training.measure.posterior.importance import smoothed_weights

MOST_NUMBERS = 2**25
"""Nodes times points: for 3 components some 500 points, for 4 some 120."""
IMPORTANCE_DRAWS, WIDER = 2**14, 1.5
"""Draws of a law whose variances are larger than the posterior's by that."""


@dataclass(frozen=True)
class Moments:
    """Of the posterior of the weights.

    Attributes:
        mean: ``[K]``.
        std: ``[K]``.
        method: ``quadrature`` or ``importance``.
        error: Standard error of the means, the largest; 0 of quadrature.
    """

    mean: Tensor
    std: Tensor
    method: str
    error: float = 0.0


def moments(log_evidence: Tensor, concentration: float, draws: Tensor, seed: int) -> Moments:
    """By quadrature where it is feasible, by importance weights elsewhere.

    Args:
        log_evidence: ``[N, K]``.
        concentration: alpha.
        draws: ``[S, K]``, by which a law near the posterior is chosen.
        seed: Of that law's draws.
    """
    if can_integrate(*log_evidence.shape):
        return quadrature(log_evidence, concentration)
    return importance(log_evidence, concentration, draws, seed)


def can_integrate(points: int, components: int) -> bool:
    """Whether quadrature is feasible."""
    nodes: int = (points // 2 + 2) ** (components - 1)
    return nodes * points <= MOST_NUMBERS


def quadrature(log_evidence: Tensor, concentration: float) -> Moments:
    """Exact moments, given the evidence ``[N, K]``."""
    points, components = log_evidence.shape
    rest = torch.ones(1, dtype=torch.float64)
    log_weight = torch.zeros(1, dtype=torch.float64)
    parts: list[Tensor] = []
    for after in range(components - 1, 0, -1):
        v, weight = _rule(points // 2 + 2, concentration, after * concentration)
        parts = [part.repeat_interleave(len(v)) for part in parts]
        parts.append((rest[:, None] * v).flatten())
        rest = (rest[:, None] * (1 - v)).flatten()
        log_weight = (log_weight[:, None] + weight.log()).flatten()
    nodes = torch.stack([*parts, rest], dim=1).to(log_evidence.device)
    log_weight = log_weight.to(log_evidence.device) + log_likelihood(nodes, log_evidence)
    return Moments(*_weighted(nodes, log_weight.softmax(dim=0)), "quadrature")


def importance(log_evidence: Tensor, concentration: float, draws: Tensor, seed: int) -> Moments:
    """Moments by smoothed importance weights, of evidence ``[N, K]``.

    Args:
        log_evidence: ``[N, K]``.
        concentration: alpha.
        draws: ``[S, K]`` of the posterior: draws are proposed by the Dirichlet law of their mean,
            and of the largest variance that they show, with some to spare.
        seed: Of the draws.
    """
    mean = draws.mean(dim=0)
    precision = (mean * (1 - mean) / draws.var(dim=0)).min() / WIDER
    shapes = mean * (precision - 1).clamp_min(float(concentration))
    generator = torch.Generator().manual_seed(seed)
    size = (IMPORTANCE_DRAWS, len(mean))
    uniform = torch.rand(size, generator=generator, dtype=torch.float64).clamp(TINY, 1 - TINY)
    proposed = dirichlet(shapes.expand(size), uniform.to(mean.device))
    ratio = ((concentration - shapes) * proposed.log()).sum(dim=1)
    weights = smoothed_weights((ratio + log_likelihood(proposed, log_evidence))[None])
    share = weights.log_weights[0].exp()
    mean, std = _weighted(proposed, share)
    error = ((share[:, None] * (proposed - mean)).square().sum(dim=0)).sqrt()
    return Moments(mean, std, "importance", float(error.max()))


def _rule(count: int, below: float, above: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``[count]`` for ``v ~ Beta(below, above)``."""
    place, weight = roots_jacobi(count, above - 1, below - 1)
    v = torch.from_numpy((1 + place) / 2)
    return v, torch.from_numpy(weight / weight.sum())


def _weighted(points: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[K]`` of points ``[S, K]``."""
    mean = share @ points
    return mean, (share @ (points - mean).square()).sqrt()
