"""Weights of a Gaussian mixture over latents, inferred from points that were observed with noise.

The paper's experiment (Yang, Simmons et al. 2024). Whitened latents come from K components, the
flow carries them to data, and what is observed is noisy:

    pi ~ Dirichlet(alpha, ..., alpha),  k_n ~ pi,  w_n ~ N(m_k, s_k^2 I),  y_n ~ p(y | x(w_n)).

Means, standard deviations and noise are known; the weights pi are not. Given the flow, all that
the data say of them is the *evidence* of each component for each point,

    L_nk = integral N(w; m_k, s_k^2 I) p(y_n | x(w)) dw,
    p(pi | y) ~ prod_k pi_k^(alpha - 1) prod_n sum_k pi_k L_nk.

L is a mean over draws of each component, which all points share (``samplers/pool``). The weights
are then sampled by Gibbs' method: ``k_n | pi`` has probabilities ``~ pi_k L_nk``, and ``pi | k`` is
``Dirichlet(alpha + counts)``. ``mixture_moments`` has the same posterior's moments by quadrature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi

import torch
from scipy.special import gammaincinv
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from training.inference.likelihoods import Likelihood
from training.inference.noise import Noise
from training.measure.posterior.importance import effective_size

RADIUS, WIDEST, APART = 1.5, 0.5, 3.0
"""Of the default components: how far out they are, how wide at most, and how many of their standard
deviations lie between two neighbors."""
BLOCK_NUMBERS = 2**22
"""Probabilities of components that are held at once."""


@dataclass(frozen=True)
class Components:
    """Components of a mixture over whitened latents.

    Attributes:
        mean: ``[K, D]``, float64.
        std: ``[K]``, the same in all directions.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or len(self.mean) < 2:
            raise UsageError(
                f"means of components have shape {list(self.mean.shape)}: give two or more, one in "
                "each row"
            )
        if self.std.shape != self.mean.shape[:1]:
            raise UsageError(f"{len(self.mean)} components have {self.std.numel()} widths")
        if not ((self.std > 0) & self.std.isfinite()).all():
            raise UsageError("the standard deviations of components must be positive")

    @classmethod
    def spread(cls, count: int, dim: int) -> "Components":
        """So many: evenly on the circle of radius 1.5 in the first two dimensions, or in [-1.5,
        1.5] of one; as wide as a third of the distance between neighbors, and 0.5 at most."""
        mean = torch.zeros(count, dim, dtype=torch.float64)
        if dim == 1:
            mean[:, 0] = torch.linspace(-RADIUS, RADIUS, count, dtype=torch.float64)
        else:
            angle = 2 * pi * torch.arange(count, dtype=torch.float64) / count
            mean[:, 0], mean[:, 1] = RADIUS * angle.cos(), RADIUS * angle.sin()
        distance = (mean[1:] - mean[:-1]).norm(dim=1).min() if count > 1 else torch.tensor(1.0)
        std = min(WIDEST, float(distance) / APART)
        return cls(mean, torch.full((count,), std, dtype=torch.float64))

    @property
    def count(self) -> int:
        """K."""
        return len(self.mean)

    def carried(self, normal: Tensor, which: Tensor) -> Tensor:
        """Variables ``[N, dim]`` of standard normal ones, each of component ``which [N]``.

        What ``normal`` has beyond D dimensions, as deblurred points need it, stays as it is.
        """
        dim = self.mean.shape[1]
        inside = self.mean[which] + self.std[which, None] * normal[:, :dim]
        return torch.cat([inside, normal[:, dim:]], dim=1)


@dataclass(frozen=True)
class Evidence:
    """What points say of components.

    Attributes:
        log: ``log L [N, K]``, in nats.
        halves: The same by the first and the second half of the draws, ``[2, N, K]``: what they
            differ by, the draws do not tell.
        effective_size: ``[N]``, how many draws of the likeliest component each point's is worth.
    """

    log: Tensor
    halves: Tensor
    effective_size: Tensor

    @classmethod
    def of(cls, points: Tensor, likelihood: Likelihood, observed: Tensor) -> "Evidence":
        """Means of likelihoods over draws of each component.

        Args:
            points: ``[K, P, D]``, of data space.
            likelihood: Of observations.
            observed: ``[N, ...]``.

        Raises:
            DataError: A point is so far from all draws that its likelihoods are all 0.
        """
        count, size = points.shape[:2]
        flat = points.flatten(0, 1)
        parts, worth = [], []
        for one in observed:
            log_likelihood = likelihood.log_prob(flat, one.expand(len(flat), -1)).view(count, size)
            halves = torch.stack(
                [half.logsumexp(dim=1) for half in log_likelihood.tensor_split(2, dim=1)]
            )
            parts.append(halves)
            worth.append(effective_size(log_likelihood[halves.logsumexp(dim=0).argmax()]))
        sums = torch.stack(parts, dim=1)
        whole = sums.logsumexp(dim=0) - log(size)
        lost = ~(whole.amax(dim=1) > -torch.inf)
        if lost.any():
            raise DataError(
                f"observation {int(lost.nonzero()[0, 0]) + 1} has likelihood 0 at all draws of the "
                "components: it is not of this mixture, or the noise is too small"
            )
        sizes = torch.tensor([size // 2 + size % 2, size // 2], dtype=torch.float64).to(sums)
        return cls(whole, sums - sizes.log()[:, None, None], torch.stack(worth))


def dirichlet(shapes: Tensor, uniform: Tensor) -> Tensor:
    """Weights ``[..., K]`` that sum to 1, of uniform numbers ``[..., K]``.

    Gamma variables of these shapes by the inverse of their distribution function, over their sum.
    """
    gamma = torch.from_numpy(gammaincinv(shapes.cpu().numpy(), uniform.cpu().numpy()))
    # All can be too small for floating-point numbers, where shapes are.
    gamma = gamma.clamp_min(torch.finfo(torch.float64).tiny)
    return (gamma / gamma.sum(dim=-1, keepdim=True)).to(shapes.device)


def sample_weights(
    log_evidence: Tensor,
    concentration: float,
    chains: int,
    draws: int,
    warmup: int,
    seed: int,
    numbers: Sequence[int] | None = None,
) -> Tensor:
    """Draws ``[R, C, S, K]`` of the weights of R data sets, by Gibbs' method.

    Chains start from draws of the prior. What a data set gives depends on the seed and its number
    alone.

    Args:
        log_evidence: ``[R, N, K]``.
        concentration: alpha.
        chains: C.
        draws: S of each chain.
        warmup: Steps before them.
        seed: Of all random numbers.
        numbers: Of the data sets; 0, 1, ... by default.
    """
    runs, points, components = log_evidence.shape
    numbers = range(runs) if numbers is None else numbers
    step = max(1, BLOCK_NUMBERS // (chains * points * components))
    parts = [
        _gibbs(
            log_evidence[first : first + step],
            concentration,
            Noise(seed, numbers[first : first + step], chains, log_evidence.device),
            (chains, draws, warmup),
        )
        for first in range(0, runs, step)
    ]
    return torch.cat(parts) if parts else log_evidence.new_zeros(0, chains, draws, components)


def _gibbs(
    log_evidence: Tensor, concentration: float, noise: Noise, sizes: tuple[int, int, int]
) -> Tensor:
    chains, draws, warmup = sizes
    runs, points, components = log_evidence.shape
    relative = relative_evidence(log_evidence)[:, None]
    prior = log_evidence.new_full((runs, chains, components), concentration)
    weights = dirichlet(prior, noise.uniform(0, components))
    kept = log_evidence.new_empty(runs, chains, draws, components)
    for step in range(warmup + draws):
        uniform = noise.uniform(step, points + components)
        # Which component: the first whose summed probability is above a uniform part of the sum.
        summed = (weights[:, :, None] * relative).cumsum(dim=3)
        level = uniform[..., :points, None] * summed[..., -1:]
        at_most = (summed > level).sum(dim=2).to(prior)
        counts = torch.diff(at_most, dim=2, prepend=torch.zeros_like(at_most[..., :1]))
        weights = dirichlet(prior + counts, uniform[..., points:])
        if step >= warmup:
            kept[:, :, step - warmup] = weights
    return kept


def log_likelihood(weights: Tensor, log_evidence: Tensor) -> Tensor:
    """``sum_n log sum_k pi_k L_nk [S]`` of weights ``[S, K]``, up to a constant of the data."""
    relative = relative_evidence(log_evidence)
    block = max(1, BLOCK_NUMBERS // len(relative))
    return torch.cat([(part @ relative.T).log().sum(dim=1) for part in torch.split(weights, block)])


def relative_evidence(log_evidence: Tensor) -> Tensor:
    """``L_nk`` over the largest of its point, ``[..., N, K]``."""
    return (log_evidence - log_evidence.amax(dim=-1, keepdim=True)).exp()
