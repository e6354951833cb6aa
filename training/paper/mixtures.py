"""Mixtures over the latents of a flow, and inference of their weights.

Weights of a Gaussian mixture over latents, inferred from points that were observed with noise.

This is the paper's experiment (Yang, Simmons et al. 2024). Whitened latents come from K components,
the flow maps them to data, and the observations are noisy:

    pi ~ Dirichlet(alpha, ..., alpha),  k_n ~ pi,  w_n ~ N(m_k, s_k^2 I),  y_n ~ p(y | x(w_n)).

Means, standard deviations and noise are known; the weights pi are not. Given the flow, the data
inform the weights only through the *evidence* of each component for each point,

    L_nk = integral N(w; m_k, s_k^2 I) p(y_n | x(w)) dw,
    p(pi | y) ~ prod_k pi_k^(alpha - 1) prod_n sum_k pi_k L_nk.

L is a mean over draws of each component, which all points share (``Pool``). The weights
are then sampled by Gibbs' method: ``k_n | pi`` has probabilities ``~ pi_k L_nk``, and ``pi | k`` is
``Dirichlet(alpha + counts)``.

The chains are checked against moments of the same posterior that are computed without chains. In
stick-breaking form, ``pi_1 = v_1``, ``pi_2 = (1 - v_1) v_2``, ..., the Dirichlet prior makes the
``v_j ~ Beta(alpha, (K - j) alpha)`` independent, and the likelihood ``prod_n sum_k pi_k L_nk`` is a
polynomial of degree N in each of them. A Gauss-Jacobi rule of ``N // 2 + 2`` nodes for each
integrates it, times ``pi_k pi_l``, exactly: the moments are right up to rounding. Where K and N
would need too many nodes, moments are weighted means over draws of a Dirichlet distribution near
the posterior.

Recovery of a mixture's weights from simulated data sets, or inference from observed data.

Ranks share the draws of components and the data sets. Results depend only on the seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Any

import torch
from scipy.special import gammaincinv, roots_jacobi
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils import distributed
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.streams import Stream
from training.inference.likelihoods import Likelihood
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.samplers.populations import TINY, even_normal
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues, run_values
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import effective_size, smoothed_weights
from training.names import CHAINS

RADIUS, WIDEST, APART = 1.5, 0.5, 3.0
"""Default components: distance from the origin, largest standard deviation, and distance between
neighbors in standard deviations.
"""
BLOCK_NUMBERS = 2**22
"""Largest number of component probabilities held in memory at once."""


@dataclass(frozen=True)
class Components:
    """Components of a mixture over whitened latents.

    Attributes:
        mean: Means ``[K, D]``, float64.
        std: Standard deviations ``[K]``, the same in all directions.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or len(self.mean) < 2:
            raise UsageError(
                f"the means of the components have shape {list(self.mean.shape)}: give two or more "
                "rows, one per component"
            )
        if self.std.shape != self.mean.shape[:1]:
            raise UsageError(
                f"{len(self.mean)} components have {self.std.numel()} standard deviations: give "
                "one standard deviation per component"
            )
        if not ((self.std > 0) & self.std.isfinite()).all():
            raise UsageError(
                "the standard deviations of all components must be positive: correct them"
            )

    @classmethod
    def spread(cls, count: int, dim: int) -> "Components":
        """Place ``count`` components evenly on a circle, or on a line in one dimension.

        The circle is in the first two dimensions and has the radius 1.5; the line is [-1.5, 1.5].
        The standard deviation of the components is a third of the distance between neighbors, but
        at most 0.5.
        """
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
        """Number of components, K."""
        return len(self.mean)

    def carried(self, normal: Tensor, which: Tensor) -> Tensor:
        """Map standard normal variables ``[N, dim]`` to draws ``[N, dim]`` of components.

        Args:
            normal: Standard normal variables. Dimensions beyond D, which deblurred points need,
                are returned unchanged.
            which: Index of the component of each row ``[N]``.
        """
        dim = self.mean.shape[1]
        inside = self.mean[which] + self.std[which, None] * normal[:, :dim]
        return torch.cat([inside, normal[:, dim:]], dim=1)


@dataclass(frozen=True)
class Evidence:
    """Evidence of each of K mixture components for each of N observed points.

    Attributes:
        log: Log evidence ``log L [N, K]``, in nats.
        halves: Log evidence from the first and the second half of the draws, ``[2, N, K]``; their
            difference shows the sampling error.
        effective_size: Effective sample size ``[N]``, for each point, of the draws of the component
            with the largest evidence.
    """

    log: Tensor
    halves: Tensor
    effective_size: Tensor

    @classmethod
    def from_points(cls, points: Tensor, likelihood: Likelihood, observed: Tensor) -> "Evidence":
        """Average the likelihoods of observations ``[N, ...]`` over draws of each component.

        Args:
            points: Draws of each component in data space ``[K, P, D]``.
            likelihood: Likelihood of the observations.
            observed: Observations ``[N, ...]``.

        Raises:
            DataError: All likelihoods of an observation are 0, since it is far from all draws.
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
                f"observation {int(lost.nonzero()[0, 0]) + 1} has likelihood 0 at all "
                "draws of the components: it does not come from this mixture, or the "
                "noise is too small: increase the noise, or leave the observation out"
            )
        sizes = torch.tensor([size // 2 + size % 2, size // 2], dtype=torch.float64).to(sums)
        return cls(whole, sums - sizes.log()[:, None, None], torch.stack(worth))


def dirichlet(shapes: Tensor, uniform: Tensor) -> Tensor:
    """Transform uniform numbers ``[..., K]`` to Dirichlet weights ``[..., K]``, which sum to 1.

    The weights are gamma variables, computed by the inverse distribution function and divided by
    their sum.

    Args:
        shapes: Parameters of the Dirichlet distribution ``[..., K]``.
        uniform: Uniform random numbers in (0, 1).
    """
    gamma = torch.from_numpy(gammaincinv(shapes.cpu().numpy(), uniform.cpu().numpy()))
    # For small shapes, all can be too small for floating-point numbers.
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
    """Draw the mixture weights ``[R, C, S, K]`` of R data sets by Gibbs sampling.

    Chains start from draws of the prior. The draws for a data set depend only on the seed and on
    the index of the data set.

    Args:
        log_evidence: Log evidence ``[R, N, K]`` of the K components for the N points of each data
            set.
        concentration: Concentration of the Dirichlet prior, alpha.
        chains: Number of chains, C.
        draws: Number of draws per chain, S.
        warmup: Number of steps before the first draw.
        seed: Random seed.
        numbers: Indices of the data sets; 0, 1, ... by default.
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
        # The component is the first whose cumulative probability exceeds a uniform fraction of the
        # sum.
        summed = (weights[:, :, None] * relative).cumsum(dim=3)
        level = uniform[..., :points, None] * summed[..., -1:]
        at_most = (summed > level).sum(dim=2).to(prior)
        counts = torch.diff(at_most, dim=2, prepend=torch.zeros_like(at_most[..., :1]))
        weights = dirichlet(prior + counts, uniform[..., points:])
        if step >= warmup:
            kept[:, :, step - warmup] = weights
    return kept


def log_likelihood(weights: Tensor, log_evidence: Tensor) -> Tensor:
    """Return the log likelihoods ``[S]`` of mixture weights, up to a constant of the data.

    The log likelihood of weights pi is ``sum_n log sum_k pi_k L_nk``, with the evidence L.

    Args:
        weights: Mixture weights ``[S, K]``.
        log_evidence: Log evidence ``log L [N, K]``.
    """
    relative = relative_evidence(log_evidence)
    block = max(1, BLOCK_NUMBERS // len(relative))
    return torch.cat([(part @ relative.T).log().sum(dim=1) for part in torch.split(weights, block)])


def relative_evidence(log_evidence: Tensor) -> Tensor:
    """Return the evidence ``[..., N, K]`` relative to the largest evidence of each point."""
    return (log_evidence - log_evidence.amax(dim=-1, keepdim=True)).exp()


MOST_NUMBERS = 2**25
"""Limit on nodes times points: about 500 points for 3 components, about 120 for 4."""
IMPORTANCE_DRAWS, WIDER = 2**14, 1.5
"""Number of draws from the proposal distribution, and ratio of its variances to the posterior's.
"""


@dataclass(frozen=True)
class Moments:
    """Moments of the posterior of the K mixture weights.

    Attributes:
        mean: Posterior means of the weights ``[K]``.
        std: Posterior standard deviations of the weights ``[K]``.
        method: Method of the computation, ``quadrature`` or ``importance``.
        error: Largest standard error of the means; 0 for quadrature.
    """

    mean: Tensor
    std: Tensor
    method: str
    error: float = 0.0


def moments(log_evidence: Tensor, concentration: float, draws: Tensor, seed: int) -> Moments:
    """Compute posterior moments of the mixture weights, by quadrature or by importance weights.

    Quadrature is used where feasible (``can_integrate``).

    Args:
        log_evidence: Log evidence ``[N, K]``.
        concentration: Concentration of the Dirichlet prior, alpha.
        draws: Draws of the posterior ``[S, K]``, which determine the proposal distribution.
        seed: Random seed of the proposals.
    """
    if can_integrate(*log_evidence.shape):
        return quadrature(log_evidence, concentration)
    return importance(log_evidence, concentration, draws, seed)


def can_integrate(points: int, components: int) -> bool:
    """Return whether the quadrature over the mixture weights needs few enough nodes.

    Args:
        points: Number of observed points, N.
        components: Number of mixture components, K.
    """
    nodes: int = (points // 2 + 2) ** (components - 1)
    return nodes * points <= MOST_NUMBERS


def quadrature(log_evidence: Tensor, concentration: float) -> Moments:
    """Compute the exact posterior moments of the mixture weights, by Gauss-Jacobi quadrature.

    Args:
        log_evidence: Log evidence ``[N, K]``.
        concentration: Concentration of the Dirichlet prior, alpha.
    """
    points, components = log_evidence.shape
    rest = torch.ones(1, dtype=torch.float64)
    log_weight = torch.zeros(1, dtype=torch.float64)
    parts: list[Tensor] = []
    for after in range(components - 1, 0, -1):
        # Nodes and weights for v ~ Beta(concentration, after concentration).
        place, weights = roots_jacobi(points // 2 + 2, after * concentration - 1, concentration - 1)
        v, weight = torch.from_numpy((1 + place) / 2), torch.from_numpy(weights / weights.sum())
        parts = [part.repeat_interleave(len(v)) for part in parts]
        parts.append((rest[:, None] * v).flatten())
        rest = (rest[:, None] * (1 - v)).flatten()
        log_weight = (log_weight[:, None] + weight.log()).flatten()
    nodes = torch.stack([*parts, rest], dim=1).to(log_evidence.device)
    log_weight = log_weight.to(log_evidence.device) + log_likelihood(nodes, log_evidence)
    return Moments(*_weighted(nodes, log_weight.softmax(dim=0)), "quadrature")


def importance(log_evidence: Tensor, concentration: float, draws: Tensor, seed: int) -> Moments:
    """Compute posterior moments of the mixture weights by smoothed importance weights.

    The proposal is a Dirichlet distribution with the mean of the posterior draws, and with
    variances that are at least ``WIDER`` times those of the draws.

    Args:
        log_evidence: Log evidence ``[N, K]``.
        concentration: Concentration of the Dirichlet prior, alpha.
        draws: Posterior draws of the weights ``[S, K]``.
        seed: Random seed of the proposals.
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


def _weighted(points: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean and standard deviation ``[K]`` of points ``[S, K]``."""
    mean = share @ points
    return mean, (share @ (points - mean).square()).sqrt()


@dataclass(frozen=True)
class MixturePlan:
    """Settings for simulation and inference.

    Attributes:
        components: Components of the mixture.
        concentration: Concentration of the weights' Dirichlet prior.
        weights: True weights ``[K]``; None to draw them from the prior in each run.
        points: Number of points observed in each run, N.
        runs: Number of runs, R.
        draws: Number of draws per chain, S.
        seed: Random seed.
        chains: Number of chains, C.
        warmup: Number of warmup steps per chain.
        pool: Number of latents drawn of each component, P.
    """

    components: Components
    concentration: float
    weights: Tensor | None
    points: int
    runs: int
    draws: int
    seed: int
    chains: int = CHAINS
    warmup: int = 200
    pool: int = 2**14


@dataclass(frozen=True)
class Recovered:
    """Inferred weights of R data sets, on the CPU.

    Attributes:
        observed: Observations ``[R, N, ...]``.
        truth: True weights ``[R, K]``; None for data that were not simulated.
        log_evidence: Log evidence of each component ``[R, N, K]``.
        effective_size: Effective sample size of the evidence of a point ``[R, N]``.
        draws: Draws of the weights, ``[R, C, S, K]``.
        mean: Posterior means ``[R, K]``, computed without Markov chains.
        std: Posterior standard deviations ``[R, K]``, computed without Markov chains.
        error: Standard errors of ``mean``, ``[R]``; 0 for quadrature.
        halves: Estimated error, ``[R]``, due to the finite pool of draws: half of the largest
            difference between posterior means from the two halves of the pool.
    """

    observed: Tensor
    truth: Tensor | None
    log_evidence: Tensor
    effective_size: Tensor
    draws: Tensor
    mean: Tensor
    std: Tensor
    error: Tensor
    halves: Tensor

    @property
    def method(self) -> str:
        """Method of computing moments without chains."""
        return "quadrature" if can_integrate(*self.log_evidence.shape[1:]) else "importance"

    def values(self, concentration: float, seed: int) -> RunValues:
        """Return ranks and scores of the runs, for a calibration check."""
        assert self.truth is not None
        draws = self.draws.flatten(1, 2)
        both = torch.cat([draws, self.truth[:, None]], dim=1)
        log_likelihoods = torch.stack(
            [log_likelihood(*pair) for pair in zip(both, self.log_evidence, strict=True)]
        )
        tiny = torch.finfo(torch.float64).tiny
        density = log_likelihoods + (concentration - 1) * both.clamp_min(tiny).log().sum(dim=2)
        worth = convergence(self.draws.permute(1, 2, 0, 3)).ess_bulk.amin(dim=1)
        return run_values(
            draws,
            self.truth,
            seeded_generator("cpu", hash_seed(seed, Stream.RESAMPLING)),
            names=[f"weight{k + 1}" for k in range(self.truth.shape[1])],
            others={"log likelihood": (log_likelihoods[:, :-1], log_likelihoods[:, -1])},
            log_density=(density[:, :-1], density[:, -1]),
            effective=worth,
        )

    def summary(self) -> dict[str, Any]:
        """Return numbers of each run, and the most important ones of all runs."""
        mean, std = self.draws.mean(dim=(1, 2)), self.draws.flatten(1, 2).std(dim=1)
        chains = convergence(self.draws.permute(1, 2, 0, 3))
        by_run: dict[str, Tensor] = {
            "mean": mean,
            "std": std,
            f"{self.method}_mean": self.mean,
            f"{self.method}_std": self.std,
            "r_hat": chains.r_hat,
            "ess_bulk": chains.ess_bulk,
        }
        if self.truth is not None:
            by_run = {"truth": self.truth, **by_run}
        return {
            "r_hat": {"largest": float(chains.r_hat.max())},
            "ess_bulk": {"smallest": float(chains.ess_bulk.min())},
            "compared_with": self.method,
            "largest_difference": {
                "mean": float((mean - self.mean).abs().max()),
                "std": float((std - self.std).abs().max()),
            },
            "standard_error_of_importance": float(self.error.max()),
            "pool": {
                "largest_error_of_a_mean": float(self.halves.max()),
                "effective_size": {
                    "smallest": float(self.effective_size.min()),
                    "median": float(self.effective_size.median()),
                },
            },
            "posteriors": [
                {name: numbers[run].tolist() for name, numbers in by_run.items()}
                for run in range(len(mean))
            ],
        }


def recover(
    prior: Prior, likelihood: Likelihood, rows: int, plan: MixturePlan, observed: Tensor | None
) -> Recovered:
    """Infer the weights of one observed data set, or of R simulated ones.

    Args:
        prior: Prior of the points.
        likelihood: Likelihood of the observations.
        rows: Number of points per block.
        plan: Settings.
        observed: Observed data set ``[N, ...]``; None to simulate.
    """
    device = prior.flow.device
    carry = _Carry(prior, likelihood, rows, plan.components)
    pool = carry.pool(plan.pool, hash_seed(plan.seed, Stream.PRIOR_DRAWS))
    runs = plan.runs if observed is None else 1
    share = distributed.shard(runs)
    numbers = list(range(runs))[share]
    if observed is None:
        truth, sets = carry.simulated(plan, numbers)
    else:
        truth, sets = None, [observed.to(device)] * len(numbers)
    evidence = [Evidence.from_points(pool, likelihood, one) for one in sets]
    count, dim = plan.components.mean.shape[0], pool.shape[2]
    dummy = torch.zeros(1, dim, dtype=torch.float64, device=device)
    seen = likelihood.simulate(dummy, torch.Generator()).shape[1]
    points = plan.points if observed is None else len(observed)
    # A rank without a data set has empty tensors of the same shapes.
    log_evidence = stacked([one.log.cpu() for one in evidence], (points, count))
    halves = stacked([one.halves.cpu() for one in evidence], (2, points, count))
    sizes = (plan.chains, plan.draws, plan.warmup, plan.seed)
    draws = sample_weights(log_evidence, plan.concentration, *sizes, numbers)
    of_chains = draws.flatten(1, 2)
    exact = [
        moments(one, plan.concentration, of_run, hash_seed(plan.seed, number))
        for one, of_run, number in zip(log_evidence, of_chains, numbers, strict=True)
    ]
    errors = [
        pool_error(pair, one, of_run, plan.concentration)
        for pair, one, of_run in zip(halves, log_evidence, of_chains, strict=True)
    ]

    def whole(local: Tensor) -> Tensor:
        return distributed.gather_rows(local.to(device), runs).cpu()

    return Recovered(
        whole(stacked(sets, (points, seen))),
        None if truth is None else whole(truth),
        whole(log_evidence),
        whole(stacked([one.effective_size for one in evidence], (points,))),
        whole(draws),
        whole(stacked([one.mean for one in exact], (count,))),
        whole(stacked([one.std for one in exact], (count,))),
        whole(torch.tensor([one.error for one in exact], dtype=torch.float64)),
        whole(stacked(errors, ())),
    )


def stacked(parts: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Stack tensors of one shape; without tensors, return an empty stack of this shape."""
    return torch.stack(parts) if parts else torch.zeros(0, *shape, dtype=torch.float64)


def pool_error(halves: Tensor, log_evidence: Tensor, draws: Tensor, concentration: float) -> Tensor:
    """Return half of the largest difference between posterior means from both halves of a pool.

    Without quadrature, draws of the posterior are weighted by the likelihood ratio of a half.

    Args:
        halves: Log evidence from each half, ``[2, N, K]``.
        log_evidence: Log evidence from the whole pool, ``[N, K]``.
        draws: Draws of the posterior from the whole pool, ``[S, K]``.
        concentration: Concentration of the prior.
    """

    def mean(half: Tensor) -> Tensor:
        if can_integrate(*half.shape):
            return quadrature(half, concentration).mean
        ratio = log_likelihood(draws, half) - log_likelihood(draws, log_evidence)
        return ratio.softmax(dim=0) @ draws

    first, second = (mean(half) for half in halves)
    return (first - second).abs().max() / 2


@dataclass(frozen=True)
class _Carry:
    """Map from latents of components to data space."""

    prior: Prior
    likelihood: Likelihood
    rows: int
    components: Components

    def points(self, normal: Tensor, which: Tensor) -> Tensor:
        """Return points ``[N, D]`` of normal draws ``[N, dim]`` and components ``[N]``."""
        device = self.prior.flow.device
        w = self.components.carried(normal, which).to(device)
        zeros = torch.zeros(len(w), dtype=torch.int64, device=device)
        # The target needs observations, but its points do not depend on them.
        target = Target(self.prior, self.likelihood, w.new_zeros(1, 0), self.rows)
        return target.points(w, zeros)

    def pool(self, size: int, seed: int) -> Tensor:
        """Return draws of each component in data space ``[K, P, D]``, shared by all ranks."""
        normal = even_normal(size, self.prior.dim, seed)
        count = self.components.count
        which = torch.arange(count).repeat_interleave(size)
        share = distributed.shard(count * size)
        mine = self.points(normal.repeat(count, 1)[share], which[share])
        return distributed.gather_rows(mine, count * size).view(count, size, -1)

    def simulated(self, plan: MixturePlan, numbers: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Return true weights ``[r, K]`` of these runs, and their observations ``[N, ...]``."""
        count = self.components.count
        shapes = torch.full((count,), plan.concentration, dtype=torch.float64)
        weights, normals, components = [], [], []
        for number in numbers:
            generator = seeded_generator("cpu", plan.seed, Stream.TRUTHS, number)
            uniform = torch.rand(count, generator=generator, dtype=torch.float64)
            weight = dirichlet(shapes, uniform) if plan.weights is None else plan.weights
            level = torch.rand(plan.points, 1, generator=generator, dtype=torch.float64)
            summed = weight.cumsum(dim=0)
            components.append((summed <= level * summed[-1]).sum(dim=1))
            size = (plan.points, self.prior.dim)
            normals.append(torch.randn(size, generator=generator, dtype=torch.float64))
            weights.append(weight)
        if not numbers:
            return torch.zeros(0, count, dtype=torch.float64), []
        points = torch.split(self.points(torch.cat(normals), torch.cat(components)), plan.points)
        observed = [
            self.likelihood.simulate(
                one, seeded_generator("cpu", plan.seed, Stream.OBSERVATION_NOISE, number)
            ).to(one.device)
            for one, number in zip(points, numbers, strict=True)
        ]
        return torch.stack(weights), observed
