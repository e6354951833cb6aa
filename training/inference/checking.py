"""Simulation-based calibration of posteriors (Talts et al. 2018).

Each run draws true parameters from the prior, simulates an observation from them, and samples the
posterior. If prior, likelihood and sampler are correct, the true parameters are distributed as one
more draw of the posterior: ranks are uniform, and regions have their nominal coverage.

For a flow that has learned posteriors itself, the conditions are those of rows of data, and the
rows' points are the true values. Ranks of any function of both are uniform, whatever its numerical
errors, if the true point and the draws are processed alike. The log densities of draws are
therefore not those computed while sampling; like the true point's, they are computed from the point
back to its latent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from torch_utils.seeds import hash_seed, normal_numbers, seeded_generator
from torch_utils.streams import Stream
from training.flow.likelihood import Trace
from training.inference.amortized import Amortized
from training.inference.draws import WEIGHTED, Draws, OnPart
from training.inference.likelihoods import Likelihood
from training.inference.samplers.populations import Pool
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues, Scalar, run_values
from training.measure.posterior.convergence import convergence

LIKELIHOOD, RADIUS, DENSITY = "log likelihood", "radius", "log density"
Functions = Mapping[str, Callable[[Tensor], Tensor]]
"""Functions by name, each from points ``[N, D]`` to values ``[N]``."""


@dataclass(frozen=True)
class Truths:
    """True points of calibration runs.

    Attributes:
        points: Points ``[R, D]``, in the data's units.
        w: Standard normal variables of the points ``[R, dim]``; None where they are not known.
    """

    points: Tensor
    w: Tensor | None


def true_points_of_prior(target: Target, numbers: Sequence[int], seed: int) -> Truths:
    """Draw the true point of each calibration run from the prior.

    Args:
        target: Target with the prior and, if there are any, the conditions of each run; its
            observations are not used.
        numbers: Indices of the runs, which seed their points.
        seed: Random seed.
    """
    rows = [normal_numbers((target.dim,), seed, Stream.TRUTHS, number) for number in numbers]
    w = torch.stack(rows).to(target.device)
    which = torch.arange(len(w), device=w.device) * (target.labels is not None)
    return Truths(target.points(w, which), w)


def true_points_of_data(
    target: Target, points: Tensor, numbers: Sequence[int], seed: int, blurred: bool = False
) -> Truths:
    """Use held-out points ``[R, D]`` as the true points of calibration runs.

    The noise of the first (least noisy) time is added before the points are mapped to standard
    normal variables, since draws of the prior contain this noise too.

    Args:
        target: Target with the prior and, if there are any, the conditions of each run; its
            observations are not used.
        points: Held-out points ``[R, D]``.
        numbers: Indices of the runs, which seed their noise.
        seed: Random seed of the noise.
        blurred: Whether the returned true points include the added noise, as draws do, rather than
            being the held-out points themselves.
    """
    prior = target.prior
    start = prior.times[0]
    noise = torch.cat(
        [
            prior.flow.schedule.sample_noise(
                1, start.cpu(), seeded_generator("cpu", seed, Stream.MELT_NOISE, number)
            )
            for number in numbers
        ]
    ).to(points)
    given = target.conditions
    flow, states = prior.flow.in_blocks(target.rows), prior.to_states(points, given) + noise
    flow = flow.given(**given) if given else flow
    # Use the integration schedule of the draws' variables, so that both have the same error.
    melted = flow.simulate(flow.schedule.scale(start) * states, *prior.way("latents")).end
    w = flow.latent_law(prior.times[-1]).whiten(melted)
    return Truths(prior.of_states(states, given) if blurred else points, w)


def simulated(likelihood: Likelihood, points: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
    """Simulate one observation of each true point; return observations ``[R, K]``.

    Args:
        likelihood: Likelihood of the observations.
        points: True points of the runs ``[R, D]``.
        numbers: Indices of the runs, which seed their noise.
        seed: Random seed.
    """
    rows = [
        likelihood.simulate(
            points[index : index + 1],
            seeded_generator("cpu", seed, Stream.OBSERVATION_NOISE, number),
        )
        for index, number in enumerate(numbers)
    ]
    return torch.cat(rows).to(points.device)


def check_runs(
    problem: Problem,
    plan: SamplingPlan,
    truths: Truths,
    names: Sequence[str],
    pool: Pool | None = None,
    functions: Functions = MappingProxyType({}),
    on_part: OnPart = None,
) -> tuple[RunValues, Draws]:
    """Sample the posterior of each calibration run, and compute its calibration statistics.

    Args:
        problem: Posteriors of observations that were simulated from the true points.
        plan: Settings of the sampler.
        truths: True points of the runs.
        names: Names of the coordinates.
        pool: Prior draws, if all runs share them.
        functions: Further functions of points whose values are ranked.
        on_part: Called with the fraction of the work done since the last call.

    Returns:
        Calibration statistics of each run, and the draws.
    """
    draws = sample_posteriors(problem, plan, pool, on_part)
    target = problem.target
    mean, covariance = target.prior.moments()
    count, dim = truths.points.shape
    points = draws.points.reshape(count, -1, dim)
    log_likelihood = draws.log_likelihood.reshape(count, -1)
    of_truth = target.likelihood.log_prob(truths.points, target.observed)
    scale = covariance.diagonal().sqrt()
    density = None
    if truths.w is not None:
        w = draws.w.reshape(count, log_likelihood.shape[1], -1)
        density = (
            log_likelihood - w.square().sum(dim=2) / 2,
            of_truth - truths.w.square().sum(dim=1) / 2,
        )
    values = run_values(
        points,
        truths.points,
        seeded_generator("cpu", hash_seed(plan.seed, problem.numbers[0])),
        names=names,
        others={
            LIKELIHOOD: (log_likelihood, of_truth),
            RADIUS: (_radius(points, mean, scale), _radius(truths.points, mean, scale)),
            **_of_functions(functions, points, truths.points),
        },
        log_density=density,
        scale=scale,
        effective=effective(draws),
    )
    evidence = draws.stats.get("evidence")
    if not target.likelihood.own or evidence is None:
        return values, draws
    of_prior = target.prior.log_density(truths.points, target.conditions, Trace("exact"))
    return replace(values, density=_known(of_prior + of_truth - evidence.to(of_truth))), draws


def check_learned(
    amortized: Amortized,
    truths: Tensor,
    places: Tensor,
    names: Sequence[str],
    references: Tensor | None,
    on_part: OnPart = None,
) -> RunValues:
    """Draw from the amortized posteriors of some runs, and compute their calibration statistics.

    Args:
        amortized: Amortized posteriors, with the conditions of all runs.
        truths: True points of the m runs ``[m, D]``.
        places: Indices of the m runs ``[m]``.
        names: Names of the coordinates.
        references: Reference points of the TARP test ``[m, D]``; None for points that do not depend
            on the conditions.
        on_part: Called with the fraction of the work done since the last call.
    """
    # Where no exact trace was requested, two random probes are enough: their error affects true
    # points and draws alike, so ranks remain uniform.
    trace = amortized.trace or Trace(probes=2)
    drawn = replace(amortized, trace=trace, fewer=True).sample(places, on_part)
    points, truths = drawn.points.flatten(1, 2), truths.to(drawn.points)
    if drawn.log_density is None:
        density = amortized.log_density(torch.cat([truths[:, None], points], 1), places, trace)
        scalar = (density[:, 1:], density[:, 0])
    else:
        density = amortized.log_density(truths[:, None], places, trace)[:, 0]
        if "leaked" in drawn.stats:
            density = density - (1 - drawn.stats["leaked"].to(density)).log()
        scalar = (drawn.log_density.flatten(1), density)
    _, covariance = amortized.prior.moments(amortized.conditions)
    values = run_values(
        points,
        truths,
        seeded_generator("cpu", hash_seed(amortized.seed, int(places[0]))),
        names=names,
        others={DENSITY: scalar},
        log_density=scalar,
        references=None if references is None else references.to(points),
        scale=covariance.diagonal().sqrt(),
        effective=drawn.stats.get("effective_size", drawn.stats.get("distinct")),
    )
    known = drawn.log_density is not None and trace.is_exact(truths.shape[1])
    of_truths = scalar[1]
    if amortized.log_posterior:
        of_truths = amortized.log_posteriors(truths[:, None], places)[:, 0]
        of_truths = of_truths - drawn.stats["evidence"].to(of_truths)
    return replace(
        values, leaked=drawn.stats.get("leaked"), density=_known(of_truths) if known else None
    )


def _known(densities: Tensor) -> Tensor | None:
    """Return log densities ``[R]`` on the CPU; None if one of them is not finite."""
    return densities.cpu().double() if densities.isfinite().all() else None


def _of_functions(functions: Functions, draws: Tensor, truths: Tensor) -> dict[str, Scalar]:
    """Evaluate functions at draws ``[R, S, D]`` and true points ``[R, D]``."""
    return {
        name: (function(draws.flatten(0, 1)).view(draws.shape[:2]), function(truths))
        for name, function in functions.items()
    }


def effective(draws: Draws) -> Tensor:
    """Return the effective sample size ``[M]`` of each posterior, in its worst coordinate."""
    worth = []
    for index in range(draws.count):
        if draws.sampler[index] in WEIGHTED:
            size = draws.log_likelihood[index].numel()
            worth.append(draws.stats["effective_size"][index].clamp(max=size))
        else:
            ess = convergence(draws.points[index].cpu()).ess_bulk
            worth.append(ess.min())
    return torch.stack(worth).double()


def _radius(points: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return distances ``[...]`` of points ``[..., D]`` from the mean, in standard deviations."""
    spread = torch.where(scale > 0, scale, 1.0)
    return ((points - mean) / spread).norm(dim=-1)
