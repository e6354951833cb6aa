"""Recovery of a mixture's weights from simulated data sets, or inference from observed data.

Ranks share the draws of components and the data sets. Results depend only on the seed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.streams import Stream
from training.inference.likelihoods import Likelihood
from training.inference.prior import Prior
from training.inference.samplers.pool import even_normal
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues, run_values
from training.measure.posterior.convergence import convergence
from training.paper import mixtures


@dataclass(frozen=True)
class MixturePlan:
    """Settings for simulation and inference.

    Attributes:
        components: Components of the mixture.
        concentration: Concentration of the weights' Dirichlet prior.
        weights: True weights ``[K]``; None to draw them from the prior in each run.
        points: Number of points observed in each run, N.
        runs: Number of runs, R.
        chains: Number of chains, C.
        draws: Number of draws per chain, S.
        warmup: Number of warmup steps per chain.
        pool: Number of latents drawn of each component, P.
        seed: Random seed.
    """

    components: mixtures.Components
    concentration: float
    weights: Tensor | None
    points: int
    runs: int
    chains: int
    draws: int
    warmup: int
    pool: int
    seed: int


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
        return (
            "quadrature" if mixtures.can_integrate(*self.log_evidence.shape[1:]) else "importance"
        )

    def values(self, concentration: float, seed: int) -> RunValues:
        """Return ranks and scores of the runs, for a calibration check."""
        assert self.truth is not None
        draws = self.draws.flatten(1, 2)
        both = torch.cat([draws, self.truth[:, None]], dim=1)
        log_likelihoods = torch.stack(
            [mixtures.log_likelihood(*pair) for pair in zip(both, self.log_evidence, strict=True)]
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
    evidence = [mixtures.Evidence.from_points(pool, likelihood, one) for one in sets]
    count, dim = plan.components.mean.shape[0], pool.shape[2]
    dummy = torch.zeros(1, dim, dtype=torch.float64, device=device)
    seen = likelihood.simulate(dummy, torch.Generator()).shape[1]
    points = plan.points if observed is None else len(observed)
    # A rank without a data set has empty tensors of the same shapes.
    log_evidence = stacked([one.log.cpu() for one in evidence], (points, count))
    halves = stacked([one.halves.cpu() for one in evidence], (2, points, count))
    sizes = (plan.chains, plan.draws, plan.warmup, plan.seed)
    draws = mixtures.sample_weights(log_evidence, plan.concentration, *sizes, numbers)
    of_chains = draws.flatten(1, 2)
    exact = [
        mixtures.moments(one, plan.concentration, of_run, hash_seed(plan.seed, number))
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
        if mixtures.can_integrate(*half.shape):
            return mixtures.quadrature(half, concentration).mean
        ratio = mixtures.log_likelihood(draws, half) - mixtures.log_likelihood(draws, log_evidence)
        return ratio.softmax(dim=0) @ draws

    first, second = (mean(half) for half in halves)
    return (first - second).abs().max() / 2


@dataclass(frozen=True)
class _Carry:
    """Map from latents of components to data space."""

    prior: Prior
    likelihood: Likelihood
    rows: int
    components: mixtures.Components

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
            weight = mixtures.dirichlet(shapes, uniform) if plan.weights is None else plan.weights
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
