"""Sampling the posteriors of many observations, with a chosen or an automatically chosen sampler.

``auto`` weights a pool of prior draws. In few dimensions it starts with a part of the pool, and
draws the rest where that is likely to be enough. It refines the pool where the effective sample
size is moderate but too small, and anneals populations where posteriors have still not converged.
An expensive likelihood, which a network has learned, is evaluated at the pool only where its cheap
approximation shows that the pool suffices; elsewhere ``auto`` anneals at once. In many dimensions
it goes on to particles or chains. In few dimensions, every result that does not rest on a good pool
is tested with wider proposals (``populations.tested``): a posterior that fails the test has not
converged.

Chains run on a coarse flow with few steps. Their draws are then mapped through the
fine flow and resampled within their chains by the weights ``p(y | x_fine) / p(y | x_coarse)``. For
an expensive likelihood, the denominator is its cheap approximation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, log
from time import monotonic

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import hash_seed, seeded_generator, uniform_numbers
from torch_utils.streams import Stream
from training.inference.draws import (
    GAUSSIAN,
    WEIGHTED,
    Draws,
    OnPart,
    require_some,
    share_of,
    systematic,
    tempered,
    with_more_calls,
)
from training.inference.likelihoods import Gaussian
from training.inference.lookahead import PRIOR_DRAWS, LookAhead, no_lookahead
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.samplers.hamiltonian import Elliptical, Hamiltonian, Kernel, run_chains
from training.inference.samplers.populations import Pool, anneal, refine, tested
from training.inference.samplers.twisted import gaussian_draws, twist
from training.inference.summary import Summary
from training.inference.target import Target
from training.measure.posterior.importance import (
    effective_size,
    k_threshold,
    log_mean,
    smoothed_weights,
)
from training.names import CHAINS, MOST_TESTED, PARTICLE_STEPS, SAMPLERS, WARMUP

KERNELS: dict[str, type[Kernel]] = {kernel.name: kernel for kernel in (Elliptical, Hamiltonian)}
FIRST = 2**14
"""Number of prior draws in the first part of the pool. It suffices for most posteriors in few
dimensions: either their effective sample size reaches DEFENDED, or that of the whole pool would
not.
"""
CONTENT, DEFENDED = 4000, 400
"""Thresholds on the effective sample size of a pool. From DEFENDED on, a pool is refined if it has
less than CONTENT or has not converged: its own weights then bound those of the added draws, so that
no mode goes unnoticed. In many dimensions DEFENDED suffices.
"""
SPARE = 5.0
"""Margin in nats: no pool is drawn if the information of an observation exceeds what a pool can
handle by this much, since non-Gaussian data are less informative.
"""
STARTS, STARTS_WORTH = 1024, 4
"""Number of prior draws that chains start from, and effective sample size per chain of their
weights.
"""


FEWEST = 250
"""Smallest number of draws per chain for expensive likelihoods; the number wanted is kept."""


@dataclass(frozen=True)
class SamplingPlan:
    """Settings of posterior sampling.

    Attributes:
        sampler: Name of the sampler, one of ``SAMPLERS``; or ``GAUSSIAN``, for draws of Gaussian
            approximations, where there is no time for a sampler.
        chains: Number of chains per observation, C.
        draws: Number of draws per chain, S.
        warmup: Number of steps before the draws; None for the sampler's default.
        pool: Number of prior draws, for ``auto``, ``pool``, ``refined`` and ``annealed``.
        first: Number of prior draws in the first round of ``auto``, if the data have few
            dimensions; equal to ``pool`` if many observations share the draws.
        particles: Number of particles per population of ``twisted``; None for the default.
        steps: Number of steps of the diffusion of ``twisted``.
        minutes: Time budget of the particles in minutes, instead of their number; None for no
            budget.
        began: Time by ``time.monotonic`` from which the minutes count.
        seed: Random seed.
        typed: Names of the options given by the user, which may belong to other samplers.
    """

    sampler: str = "auto"
    chains: int = CHAINS
    draws: int = 1000
    warmup: int | None = None
    pool: int = 2**17
    first: int = FIRST
    seed: int = 0
    particles: int | None = None
    steps: int = PARTICLE_STEPS
    minutes: float | None = None
    began: float = field(default_factory=monotonic)
    typed: frozenset[str] = frozenset()

    @property
    def until(self) -> float:
        """Time by ``time.monotonic`` at which the budget ends; infinite without one."""
        return inf if self.minutes is None else self.began + 60 * self.minutes

    def __post_init__(self) -> None:
        if self.sampler not in (*SAMPLERS, GAUSSIAN):
            raise UsageError(f"sampler is '{self.sampler}': give one of {', '.join(SAMPLERS)}")


@dataclass(frozen=True)
class Problem:
    """The posteriors of M observations to sample, with the parts that samplers need.

    Attributes:
        target: Posteriors, whose prior is the fine flow.
        coarse: Prior with fewer steps, for chains and particles.
        numbers: Index of each observation, which seeds its draws.
        differentiable: Whether the likelihood is differentiable.
        ahead: Look-ahead estimates (predictions of clean states from noisy ones) that observations
            sampled by ``twisted`` share; None to compute them when needed.
        network: SHA-256 of the flow's network file, which identifies stored estimates; None to
            store none.
        in_file: Whether the network is in a file, so that estimates may be stored in files, too.
    """

    target: Target
    coarse: Prior
    numbers: list[int]
    differentiable: bool = True
    ahead: LookAhead | None = None
    network: str | None = None
    in_file: bool = True

    def looking_ahead(
        self, plan: SamplingPlan, count: int | None = None, draws: int = PRIOR_DRAWS
    ) -> "Problem":
        """Return a copy with new look-ahead estimates, which several observations share.

        The estimates predict clean states from noisy ones, for the sampler ``twisted``.

        Args:
            plan: Settings of the sampler.
            count: Number of observations that share the estimates; None for all.
            draws: Number of prior draws that the estimates are computed from.
        """
        share = len(self.target.alike()) / (count or self.target.count)
        return replace(self, ahead=LookAhead(plan.steps, plan.seed, share, draws=draws))

    def of(self, places: Tensor) -> "Problem":
        """Return the problem of the observations with indices ``places [m]`` only."""
        numbers = [self.numbers[place] for place in places.tolist()]
        return replace(self, target=self.target.of(places), numbers=numbers)

    def seeds(self, seed: int) -> Tensor:
        """Return a random seed ``[M]`` for each observation."""
        return torch.tensor([hash_seed(seed, number) for number in self.numbers])


def sample_posteriors(
    problem: Problem, plan: SamplingPlan, pool: Pool | None = None, on_part: OnPart = None
) -> Draws:
    """Sample the posterior of each observation.

    Args:
        problem: The posteriors of M observations.
        plan: Settings of the sampler.
        pool: Prior draws for these observations; None to draw a pool where needed.
        on_part: Called with the fraction of the work done since the last call.

    Returns:
        S draws of C chains for each observation.
    """
    plan = settled(problem, plan)
    if pool is None and plan.sampler in ("auto", *WEIGHTED):
        pool = Pool.draw(problem.target, first_pool(problem.target, plan), plan.seed)
    return RUN[plan.sampler](problem, plan, pool, on_part)


def settled(problem: Problem, plan: SamplingPlan) -> SamplingPlan:
    """Replace ``auto`` by a sampler for many dimensions, if a pool of prior draws cannot suffice.

    For Gaussian points and linear observations, the weights of P prior draws have an effective
    sample size of about ``P exp(-I)``, with the information of the observation in nats, ``I = ln
    det(1 + Sigma^-1/2 A C A^T Sigma^-1/2) / 2``: C is the covariance of points, A the observation
    map, and Sigma the noise covariance.
    """
    target = problem.target
    likelihood = target.likelihood
    many = target.prior.flow.basis.dim > MOST_TESTED
    if plan.sampler != "auto" or not many or not isinstance(likelihood, Gaussian):
        return plan
    _, covariance = target.prior.moments(target.labels)
    of_points = likelihood.observe(likelihood.observe(covariance).T)
    noise = likelihood.covariance(len(of_points)).to(of_points)
    determinants = torch.linalg.slogdet(torch.stack([of_points + noise, noise])).logabsdet
    if log(plan.pool / DEFENDED) + SPARE > float(determinants[0] - determinants[1]) / 2:
        return plan
    return replace(plan, sampler=_in_the_end(problem))


def first_pool(target: Target, plan: SamplingPlan) -> int:
    """Return the number of prior draws that the sampler of a plan starts with."""
    small = plan.sampler == "auto" and target.prior.flow.basis.dim <= MOST_TESTED
    return min(plan.first, plan.pool) if small else plan.pool


def _automatic(problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart) -> Draws:
    """Return the pool's draws where they suffice, and elsewhere those of a suitable sampler."""
    assert pool is not None
    if problem.target.likelihood.dear:
        return _of_dear_likelihoods(problem, plan, pool, on_part)
    if problem.target.prior.flow.basis.dim > MOST_TESTED:
        draws = _pooled(problem, plan, pool)
        trusted = draws.stats["pareto_k"] <= k_threshold(plan.pool)
        poor = (~((draws.stats["effective_size"] >= DEFENDED) & trusted)).nonzero()[:, 0]
        if len(poor):
            left = problem.of(poor)
            last = replace(plan, sampler=_in_the_end(left))
            draws = draws.replaced(poor, RUN[last.sampler](left, last, None, on_part))
        return draws
    few = pool.first(plan.first)
    wanting = needs_whole_pool(problem.target, few, plan).cpu()
    if not wanting.any():
        return _in_few_dimensions(problem, plan, few, on_part)
    if len(pool.w) < plan.pool:
        pool = Pool.draw(problem.target, plan.pool, plan.seed, begun=pool)
    parts = []
    for pool_of, places in ((few, ~wanting), (pool, wanting)):
        at = places.nonzero()[:, 0]
        if len(at):
            parts.append((at, _in_few_dimensions(problem.of(at), plan, pool_of.of(at), on_part)))
    return Draws.joined([draws for _, draws in parts], torch.cat([at for at, _ in parts]))


def needs_whole_pool(target: Target, few: Pool, plan: SamplingPlan) -> Tensor:
    """Return a mask ``[M]`` of the observations that need the whole pool of prior draws.

    An observation needs the whole pool if its effective sample size is too small with the first
    draws but would suffice with the whole pool, or if its likelihoods are 0 at all first draws.

    Args:
        target: The posteriors of M observations.
        few: The first draws of the pool.
        plan: Settings of the sampler, with the size of the whole pool.
    """
    if target.likelihood.dear:
        return torch.zeros(target.count, dtype=torch.bool, device=target.device)
    worth = few.worth(target)
    hopeless = worth * plan.pool / len(few.w) < DEFENDED
    return (worth < DEFENDED) & (~hopeless | (worth == 0))


def _in_few_dimensions(problem: Problem, plan: SamplingPlan, pool: Pool, on_part: OnPart) -> Draws:
    draws = _pooled(problem, plan, pool)
    worth, few = draws.stats["effective_size"], ~Summary.from_draws(draws, plan.pool).converged
    if not problem.target.likelihood.dear:
        few |= worth < CONTENT
    thin = ((worth >= DEFENDED) & few).nonzero()[:, 0]
    if len(thin):
        draws = draws.replaced(thin, _refined(problem.of(thin), plan, pool.of(thin)))
    poor = (~Summary.from_draws(draws, plan.pool).converged).nonzero()[:, 0]
    if len(poor):
        narrow = problem.of(poor)
        others = _annealed(narrow, plan, pool.of(poor), on_part)
        draws = draws.replaced(poor, others)
    return draws


def _of_dear_likelihoods(
    problem: Problem, plan: SamplingPlan, pool: Pool, on_part: OnPart
) -> Draws:
    """Weight the pool where a cheap approximation shows that it suffices, and anneal elsewhere."""
    # Convergence cannot be assessed with few draws.
    wanted, plan = plan.draws, replace(plan, draws=max(plan.draws, FEWEST))
    rough = problem.target.approximate(problem.target.prior)
    suffices = pool.worth(rough).cpu() >= DEFENDED
    parts = []
    for run, places in ((_in_few_dimensions, suffices), (_annealed, ~suffices)):
        at = places.nonzero()[:, 0]
        if len(at):
            share = share_of(on_part, len(at) / problem.target.count)
            parts.append((at, run(problem.of(at), plan, pool.of(at), share)))
    draws = Draws.joined([own for _, own in parts], torch.cat([at for at, _ in parts]))
    every = torch.arange(wanted, device=draws.w.device) * plan.draws // wanted
    return draws.chosen(every.expand(*draws.w.shape[:2], -1))


def _in_the_end(problem: Problem) -> str:
    """Return the sampler that ``auto`` uses in many dimensions where no pool suffices."""
    if no_lookahead(problem.target) is None:
        return "twisted"
    return "hmc" if problem.differentiable else "elliptical"


def _pooled(
    problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart = None
) -> Draws:
    assert pool is not None
    return pool.sample(problem.target, problem.seeds(plan.seed), plan.chains, plan.draws)


def _refined(problem: Problem, plan: SamplingPlan, pool: Pool) -> Draws:
    """Refine the pool; network evaluations exclude those of the pool."""
    return refine(problem.target, pool, problem.seeds(plan.seed), plan.chains, plan.draws)


def _annealed(problem: Problem, plan: SamplingPlan, pool: Pool, on_part: OnPart) -> Draws:
    """Anneal populations from the pool, and test them; the pool's evaluations are not counted."""
    shape = (plan.chains, plan.draws)
    draws = anneal(problem.target, pool, problem.seeds(plan.seed), *shape, on_part)
    return _tested(problem, plan, draws)


def _annealed_alone(
    problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart
) -> Draws:
    assert pool is not None
    draws = _annealed(problem, plan, pool, on_part)
    return replace(draws, calls=draws.calls + pool.calls)


def _refined_alone(
    problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart
) -> Draws:
    """Refine pools, and test those whose own effective sample size does not bound the weights."""
    assert pool is not None
    draws = _refined(problem, plan, pool)
    draws = replace(draws, calls=draws.calls + pool.calls)
    worth = effective_size(pool.log_weights(problem.target, slice(None)))
    frail = (worth < DEFENDED).nonzero()[:, 0].cpu()
    if not len(frail):
        return draws
    others = _tested(problem.of(frail), plan, draws.of(frail))
    # Replacing draws adds up network evaluations: subtract those that would count twice.
    return draws.replaced(frail, replace(others, calls=others.calls - draws.calls[frail]))


def _tested(problem: Problem, plan: SamplingPlan, draws: Draws) -> Draws:
    """Add the results of the test with wider proposals, in few dimensions."""
    if problem.target.prior.flow.basis.dim > MOST_TESTED:
        return draws
    return tested(problem.target.of(torch.arange(draws.count)), draws, problem.seeds(plan.seed))


def _gaussian(problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart) -> Draws:
    return gaussian_draws(problem.target, plan.seed, problem.numbers, plan.chains, plan.draws)


def _twisted(problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart) -> Draws:
    size = (plan.chains, plan.draws, plan.particles)
    ahead = (problem if problem.ahead else problem.looking_ahead(plan)).ahead
    draws = twist(problem.target, plan.seed, problem.numbers, *size, on_part, ahead)
    return _tested(problem, plan, draws)


def _chains(problem: Problem, plan: SamplingPlan, pool: Pool | None, on_part: OnPart) -> Draws:
    if plan.sampler == "hmc" and not problem.differentiable:
        raise UsageError(
            "hmc needs gradients, which this likelihood does not have: choose another sampler"
        )
    warmup = WARMUP[plan.sampler] if plan.warmup is None else plan.warmup
    steps = warmup + plan.draws

    def run_on(coarse: Target, on_coarse: OnPart) -> Draws:
        return run_chains(
            KERNELS[plan.sampler](coarse),
            starts(coarse, problem.seeds(plan.seed), plan.chains, plan.seed),
            Noise(plan.seed, problem.numbers, plan.chains, coarse.device),
            plan.chains,
            warmup,
            plan.draws,
            (lambda: on_coarse(1 / steps)) if on_coarse else None,
        )

    return _on_coarse_flow(problem, plan, run_on, on_part)


def _on_coarse_flow(
    problem: Problem,
    plan: SamplingPlan,
    run: Callable[[Target, OnPart], Draws],
    on_part: OnPart,
) -> Draws:
    """Return draws that ``run`` makes on the coarse flow, corrected to the fine flow and tested."""
    target, coarse = problem.target, problem.target.approximate(problem.coarse)
    more = target.count * plan.chains * plan.draws * target.prior.calls("points")
    draws = run(coarse, with_more_calls(on_part, lambda: coarse.calls, more))
    left = more / max(more + coarse.calls, 1)
    draws = corrected(draws, problem, plan.seed, share_of(on_part, left))
    return _tested(problem, plan, draws)


RUN: dict[str, Callable[[Problem, SamplingPlan, Pool | None, OnPart], Draws]] = {
    "auto": _automatic,
    "pool": _pooled,
    "refined": _refined_alone,
    "annealed": _annealed_alone,
    "twisted": _twisted,
    GAUSSIAN: _gaussian,
    "elliptical": _chains,
    "hmc": _chains,
}
"""Samplers by name: functions of the posteriors, the settings, the pool of prior draws (of the
weighted ones), and a callback with fractions of the work.
"""


def starts(target: Target, seeds: Tensor, chains: int, seed: int) -> Tensor:
    """Choose the standard normal variables ``[M, C, dim]`` that chains start from.

    They are prior draws, resampled by tempered weights.

    Args:
        target: The posteriors of M observations.
        seeds: Random seed of the resampling for each observation ``[M]``.
        chains: Number of chains, C.
        seed: Random seed of the prior draws.

    Raises:
        DataError: The likelihood of an observation is 0 at all prior draws.
    """
    pool = Pool.draw(target, STARTS, seed)
    log_weights = pool.log_weights(target, slice(None))
    require_some(log_weights)
    weights = tempered(log_weights, min(STARTS_WORTH * chains, STARTS // 2))
    picks = []
    for row, own in zip(weights.cpu(), seeds.tolist(), strict=True):
        generator = seeded_generator("cpu", own, Stream.STARTS)
        shares = row.softmax(0)
        again = int((shares > 0).sum()) < chains
        picks.append(torch.multinomial(shares, chains, replacement=again, generator=generator))
    return pool.w[torch.stack(picks).to(pool.w.device)]


def corrected(draws: Draws, problem: Problem, seed: int, on_part: OnPart = None) -> Draws:
    """Resample draws of the coarse posterior within their chains to draws of the fine posterior.

    Points are recomputed with the fine flow. The statistic ``fine_k``, the Pareto k of the weights,
    measures the difference between the two posteriors.
    """
    target = problem.target
    count, chains, size = draws.log_likelihood.shape
    which = torch.arange(count, device=target.device).repeat_interleave(chains * size)
    before = target.calls
    fine = target.evaluate(draws.w.flatten(0, 2), which, on_part)
    log_likelihood = fine.log_likelihood.view(count, chains, size)
    weights = smoothed_weights((log_likelihood - draws.log_likelihood).flatten(1))
    seeds = problem.seeds(seed).tolist()
    each = [uniform_numbers((chains,), own, Stream.RESAMPLING) for own in seeds]
    start = torch.stack(each).to(target.device)
    picks = systematic(weights.log_weights.view(count * chains, size), start.flatten(), size)
    stats = {**draws.stats, "fine_k": weights.k.cpu()}
    if "evidence" in stats:
        ratio, error = log_mean((log_likelihood - draws.log_likelihood).flatten(1))
        stats["evidence"] = stats["evidence"] + ratio.cpu()
        stats["evidence_error"] = stats["evidence_error"].hypot(error.cpu())
    moved = replace(
        draws,
        points=fine.points.view(count, chains, size, -1),
        log_likelihood=log_likelihood,
        calls=draws.calls + (target.calls - before) / count,
        stats=stats,
    )
    return moved.chosen(picks.view(count, chains, size))
