"""What draws from posteriors say: means, intervals, and whether the sampler has converged."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.inference.amortized import SAMPLER
from training.inference.draws import POOLED, WEIGHTED, Draws
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import k_threshold
from training.names import MOST_TESTED

LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
"""Of the quantiles: ends of the central 50, 80, 90 and 95 % intervals, and the median."""
CONTENTS = (0.5, 0.8, 0.9, 0.95)
LARGEST_R_HAT, MEAN_OFF, STD_OFF, ERRORS = 1.01, 0.1, 0.05, 3
"""In few dimensions: so many standard errors of a mean are within 0.1 standard deviations, and of a
standard deviation within 5 %."""
LARGEST_OF_MANY, FEWEST_OF_MANY = 1.05, 100
"""In more, and of draws of a flow that are corrected."""
RULE = (
    f"in up to {MOST_TESTED} dimensions {ERRORS} standard errors are at most {MEAN_OFF} standard "
    f"deviations in means and {100 * STD_OFF:g} % in standard deviations, R-hat of chains and of "
    f"populations is at most {LARGEST_R_HAT}, and fresh draws of wider proposals agree in both, "
    "unless a good pool of prior draws defends the weights; in more dimensions R-hat is at most "
    f"{LARGEST_OF_MANY}, and effective draws are at least {FEWEST_OF_MANY} in all coordinates; "
    "Pareto k of weights, of those of the fine flow too, is below its threshold; draws of a flow "
    f"are independent, and if they are corrected, worth at least {FEWEST_OF_MANY}; and an "
    "observation is no more surprising than 99.9 % of the simulations that a flow was trained on"
)


REASONS = {
    "worth": "its draws are worth too few: give more --draws",
    "chains": "its chains do not agree: give more --draws or --warmup, or another --sampler",
    "test": "fresh draws of wider proposals, by a finer integration, differ from its draws, or "
    "cannot tell: give another --sampler, or a larger --n_iters",
    "tail": "a few draws have nearly all the weight: give a larger --pool, or another --sampler",
    "steps": "chains ran on a flow that is too coarse: give a larger --chain_n_iters",
    "unlike": "the observation is unlike the simulations, so that its posterior is extrapolated: "
    "check the observation, or simulate data like it",
}
"""Why posteriors have not converged, and what to do, by the part of ``RULE`` that failed."""


@dataclass(frozen=True)
class Summary:
    """Of M posteriors in D coordinates, float64, on the CPU.

    Attributes:
        mean: ``[M, D]``.
        std: ``[M, D]``.
        quantiles: ``[M, D, len(LEVELS)]``.
        r_hat: ``[M, D]``, between chains or populations; NaN of pools and of flows, whose draws are
            independent.
        ess_bulk: Effective draws for the mean, ``[M, D]``; of pools the worth of their weights, of
            flows all draws.
        ess_tail: Effective draws for the 5 and 95 % quantiles, ``[M, D]``.
        mcse_mean: Monte Carlo standard error of the mean, ``[M, D]``.
        mcse_std: That of the standard deviation, ``[M, D]``.
        failed: Which of ``REASONS`` there are against each, ``[M, R]``.
    """

    mean: Tensor
    std: Tensor
    quantiles: Tensor
    r_hat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    mcse_mean: Tensor
    mcse_std: Tensor
    failed: Tensor

    @property
    def converged(self) -> Tensor:
        """``[M]``, by ``RULE``."""
        return ~self.failed.any(dim=1)

    def reasons(self, index: int) -> list[str]:
        """The names of the reasons against one posterior."""
        return [name for name, bad in zip(REASONS, self.failed[index], strict=True) if bad]

    @classmethod
    def of(cls, draws: Draws, pool: int) -> "Summary":
        """The summary of draws of M posteriors; a pool has so many prior draws."""
        rows = [_of_one(draws, index, pool) for index in range(draws.count)]
        return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def with_reason(self, name: str, bad: Tensor) -> "Summary":
        """Add one of ``REASONS`` against those posteriors for which ``bad [M]`` is true."""
        failed = self.failed.clone()
        failed[:, list(REASONS).index(name)] |= bad
        return replace(self, failed=failed)

    def held(self, truth: Tensor) -> Tensor:
        """Whether the central intervals of ``CONTENTS`` hold the true numbers ``[M, D]``,
        ``[len(CONTENTS), M, D]``."""
        below, above = (1 - torch.tensor(CONTENTS)) / 2, (1 + torch.tensor(CONTENTS)) / 2
        levels = torch.tensor(LEVELS)
        low, high = (
            self.quantiles[..., (levels[:, None] - ends).abs().argmin(dim=0)].movedim(2, 0)
            for ends in (below, above)
        )
        return (low <= truth) & (truth <= high)

    @classmethod
    def joined(cls, parts: list["Summary"]) -> "Summary":
        """The summaries of several groups of posteriors."""
        names = cls.__dataclass_fields__
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _of_one(draws: Draws, index: int, pool: int) -> tuple[Tensor, ...]:
    points = draws.points[index].cpu()
    flat = points.flatten(0, 1)
    std = flat.std(dim=0) if len(flat) > 1 else torch.full_like(flat[0], torch.nan)
    levels = torch.tensor(LEVELS, dtype=flat.dtype)
    common = (flat.mean(dim=0), std, _quantiles(flat, levels))
    nan = torch.full_like(std, torch.nan)
    name, stats = draws.sampler[index], {k: v[index] for k, v in draws.stats.items()}
    weighted = "pareto_k" in stats and name in (*WEIGHTED, SAMPLER)
    chains = None if name in (*POOLED, SAMPLER) else convergence(points)
    r_hat = nan if chains is None else chains.r_hat
    if chains is None or weighted:
        worth = stats["effective_size"] if weighted else torch.tensor(float(len(flat)))
        bulk = tail = worth.clamp_max(len(flat)).expand_as(std)
        errors = _errors(flat, std, worth)
    else:
        bulk, tail, errors = chains.ess_bulk, chains.ess_tail, (chains.mcse_mean, chains.mcse_std)
    failed = dict.fromkeys(REASONS, False)
    measured = (*common, r_hat, bulk, tail, *errors)
    if name == SAMPLER and not weighted:
        return (*measured, torch.tensor(list(failed.values())))
    few = points.shape[2] <= MOST_TESTED and name != SAMPLER
    if few:
        exact = (ERRORS * errors[0] <= MEAN_OFF * std) & (ERRORS * errors[1] <= STD_OFF * std)
        failed["worth"] = not (exact | (std == 0)).all()
    else:
        failed["worth"] = not (bulk >= FEWEST_OF_MANY).all()
    if chains is not None:
        # A coordinate that does not vary has no R-hat, and nothing in it that could differ; but
        # chains that never moved have not converged.
        moved = (draws.w[index] != draws.w[index][:, :1]).flatten(1).any(dim=1).all().cpu()
        largest = LARGEST_R_HAT if few else LARGEST_OF_MANY
        failed["chains"] = not ((r_hat <= largest) | ((std == 0) & moved)).all()
    # What was not tested is not a number, nor what chains alone have; what a test could not tell is
    # infinite.
    failed["test"] = bool(stats.get("test", nan.sum()) > 1)
    failed["tail"] = weighted and not stats["pareto_k"] <= k_threshold(pool)
    failed["steps"] = bool(stats.get("fine_k", nan.sum()) > k_threshold(max(len(flat), 2)))
    return (*measured, torch.tensor([bool(bad) for bad in failed.values()]))


def _errors(points: Tensor, std: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """Standard errors ``[D]`` of means and standard deviations of points ``[N, D]`` that are worth
    so many independent draws."""
    scaled = (points - points.mean(dim=0)) / torch.where(std > 0, std, 1.0)
    peaked = scaled.pow(4).mean(dim=0)
    worth = worth.clamp_min(1.0)
    return std / worth.sqrt(), std * ((peaked - 1).clamp_min(0) / (4 * worth)).sqrt()


def _quantiles(points: Tensor, levels: Tensor) -> Tensor:
    """``[D, L]`` of points ``[N, D]``, between the two nearest; torch's takes 16 million numbers at
    most."""
    ordered = points.sort(dim=0).values
    place = levels * (len(points) - 1)
    below = place.floor().long()
    above = (below + 1).clamp_max(len(points) - 1)
    return ordered[below].lerp(ordered[above], (place - below)[:, None]).T
