"""Simulation-based calibration: truths that are to be found again (Talts et al. 2018).

A truth is drawn, an observation is simulated of it, and its posterior sampled. If prior, likelihood
and sampler are right, the truth is one more draw of that posterior: ranks are uniform, and regions
contain what they say.

A flow that has learned posteriors itself is given the conditions of rows of data, and is to find
their points again. Ranks of any function of both are uniform then, whatever its errors, if truth
and draws go through the same: so log densities of draws are not those that they were drawn with,
but are taken as that of the truth is, from the point to its latent.
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
from training.inference.draws import WEIGHTED, Draws
from training.inference.likelihoods import Likelihood
from training.inference.progress import OnPart
from training.inference.samplers.pool import Pool
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.measure.posterior.calibration import RunValues, Scalar, run_values
from training.measure.posterior.convergence import convergence

LIKELIHOOD, RADIUS, DENSITY = "log likelihood", "radius", "log density"
Functions = Mapping[str, Callable[[Tensor], Tensor]]
"""Numbers ``[N]`` of points ``[N, D]``, by name."""


@dataclass(frozen=True)
class Truths:
    """What is to be found again.

    Attributes:
        points: ``[R, D]``, in the data's units.
        w: Their standard normal variables ``[R, dim]``; None where they are not known.
    """

    points: Tensor
    w: Tensor | None


def truths_of_prior(target: Target, numbers: Sequence[int], seed: int) -> Truths:
    """A draw of the prior for each run of these numbers, with its label, if the target has any; the
    target's observations do not matter."""
    rows = [normal_numbers((target.dim,), seed, Stream.TRUTHS, number) for number in numbers]
    w = torch.stack(rows).to(target.device)
    which = torch.arange(len(w), device=w.device) * (target.labels is not None)
    return Truths(target.points(w, which), w)


def truths_of_data(
    target: Target, points: Tensor, numbers: Sequence[int], seed: int, blurred: bool = False
) -> Truths:
    """Points ``[R, D]`` that were not trained on; their variables are those of the points with the
    noise of the first time, as the prior has it, unless it is deblurred.

    Args:
        target: Has the prior, and the label of each run, if there are any; its observations do not
            matter.
        points: They.
        numbers: Of the runs.
        seed: Of the noise.
        blurred: Whether truths are points with that noise, as draws are, or points as they are.
    """
    prior = target.prior
    if prior.deblurred:
        return Truths(points, None)
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
    # The way of the draws' variables, so that both are off by the same.
    melted = flow.simulate(flow.schedule.scale(start) * states, *prior.way("latents")).end
    w = flow.latent_law(prior.times[-1]).whiten(melted)
    return Truths(prior.of_states(states, given) if blurred else points, w)


def simulated(likelihood: Likelihood, points: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
    """An observation ``[R, K]`` of each point ``[R, D]``."""
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
    """Samples the posterior of each run, of observations that were simulated of the truths, and
    keeps what calibration needs of it, ranks of values of functions too. Prior draws are in a pool,
    if all runs share them; ``on_part`` is called with the part of the work that was done."""
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
    references: Tensor | None = None,
    on_part: OnPart = None,
    functions: Functions = MappingProxyType({}),
) -> RunValues:
    """Draws from learned posteriors, and keeps what calibration needs of each run.

    Args:
        amortized: How to draw; its conditions are those of all runs.
        truths: What is to be found again in these runs, ``[m, D]``.
        places: The numbers of the runs ``[m]``.
        names: Of the coordinates.
        references: TARP's points ``[m, D]``; None for some that know nothing of conditions.
        on_part: As ``Amortized.sample`` takes it.
        functions: Whose values are ranked, too.
    """
    # Beyond exact traces two probes do: what they are off by is alike for truths and draws, whose
    # ranks are as even with it as without.
    trace = amortized.trace or Trace(probes=2)
    along = None if amortized.prior.deblurred else trace
    drawn = replace(amortized, trace=along, fewer=True).sample(places, on_part)
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
        others={DENSITY: scalar, **_of_functions(functions, points, truths)},
        log_density=scalar,
        references=None if references is None else references.to(points),
        scale=covariance.diagonal().sqrt(),
        effective=drawn.stats.get("distinct"),
    )
    # Blurred ones, of draws that are deblurred, are of another law.
    known = drawn.log_density is not None and trace.is_exact(truths.shape[1])
    of_truths = _known(scalar[1]) if known else None
    return replace(values, leaked=drawn.stats.get("leaked"), density=of_truths)


def _known(densities: Tensor) -> Tensor | None:
    """Log densities ``[R]`` on the CPU; None if a truth is where none can be, or has none."""
    return densities.cpu().double() if densities.isfinite().all() else None


def _of_functions(functions: Functions, draws: Tensor, truths: Tensor) -> dict[str, Scalar]:
    """Values of functions at draws ``[R, S, D]`` and truths ``[R, D]``."""
    return {
        name: (function(draws.flatten(0, 1)).view(draws.shape[:2]), function(truths))
        for name, function in functions.items()
    }


def effective(draws: Draws) -> Tensor:
    """How many independent draws each posterior's are worth, ``[M]``: least over coordinates."""
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
    """Distance ``[...]`` of points ``[..., D]`` from the mean, in standard deviations."""
    spread = torch.where(scale > 0, scale, 1.0)
    return ((points - mean) / spread).norm(dim=-1)
