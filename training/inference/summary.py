"""Summaries of posterior draws: means, intervals, and whether the sampler has converged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dnnlib.numbers import rounded
from training.inference.draws import AMORTIZED, GAUSSIAN, INDEPENDENT, WEIGHTED, Draws
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import k_threshold
from training.names import MOST_TESTED

LEVELS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)
"""Levels of the reported quantiles: ends of the central 50, 80, 90 and 95 % intervals, and the
median.
"""
CONTENTS = (0.5, 0.8, 0.9, 0.95)
LARGEST_R_HAT, MEAN_OFF, STD_OFF, ERRORS = 1.01, 0.1, 0.05, 3
"""Limits in up to ``MOST_TESTED`` dimensions: ERRORS standard errors of a mean are at most 0.1
standard deviations, and those of a standard deviation at most 5 %.
"""
LARGEST_OF_MANY, FEWEST_OF_MANY = 1.05, 100
"""Largest R-hat and smallest effective sample size in more dimensions; the latter also for draws of
a flow that are corrected by weights.
"""
RULE = (
    f"In up to {MOST_TESTED} dimensions, {ERRORS} standard errors of each mean are at most "
    f"{MEAN_OFF} posterior standard deviations, {ERRORS} standard errors of each standard "
    f"deviation are at most {100 * STD_OFF:g} % of it, and R-hat between chains or populations is "
    f"at most {LARGEST_R_HAT}. Fresh draws of a wider proposal have the same means and standard "
    "deviations; a pool of prior draws with a large effective sample size needs no such test. In "
    f"more dimensions, R-hat is at most {LARGEST_OF_MANY}, and the effective sample size is at "
    f"least {FEWEST_OF_MANY} in each coordinate. Pareto k of weights is below its threshold, also "
    "of the weights by a finer integration. Draws of a flow are independent; if they are corrected "
    f"by weights, their effective sample size is at least {FEWEST_OF_MANY}. The observation is no "
    "more surprising than 99.9 % of the simulations that a flow was trained on. The draws are not "
    "of a Gaussian approximation."
)
"""Condition under which a posterior has converged."""


REASONS = {
    "worth": "Effective sample size is too small{number}. Give more --draws{more}.",
    "chains": "Chains disagree{number}. Give more --draws, or another --sampler.",
    "test": (
        "Fresh draws from a wider proposal, with a finer integration, differ in mean "
        "or standard deviation, or are too few to compare. Choose another --sampler, "
        "or a larger --n_iters."
    ),
    "tail": (
        "A few draws carry nearly all the weight{number}. Give a larger --pool, or "
        "choose another --sampler."
    ),
    "steps": (
        "The integration inside chains was too coarse{number}. Give a larger --chain_n_iters."
    ),
    "unlike": (
        "The observation is out of distribution, so that its posterior is an "
        "extrapolation. Check the observation, or simulate similar data."
    ),
    "time": (
        "Draws are of a Gaussian with the mean and covariance of the data, because particles take "
        "longer than --minutes. Give more --minutes, or train a smaller network."
    ),
}
"""Reasons why posteriors have not converged, and advice, by the part of ``RULE`` that fails; with
placeholders for a number and for further options.
"""


@dataclass(frozen=True)
class Summary:
    """Summary of M posteriors in D coordinates, float64, on the CPU.

    Attributes:
        mean: Posterior means ``[M, D]``.
        std: Posterior standard deviations ``[M, D]``.
        quantiles: Posterior quantiles ``[M, D, len(LEVELS)]``.
        r_hat: R-hat between chains or populations ``[M, D]``; NaN for pools of weighted prior draws
            and for amortized posteriors (flows), whose draws are independent.
        ess_bulk: Effective sample size for the mean, ``[M, D]``; for pools the effective sample
            size of the weights, for flows the number of draws.
        ess_tail: Effective sample size for the 5 and 95 % quantiles, ``[M, D]``.
        mcse_mean: Monte Carlo standard error of the mean, ``[M, D]``.
        mcse_std: Monte Carlo standard error of the standard deviation, ``[M, D]``.
        failed: Mask ``[M, R]`` of the ``REASONS`` why a posterior has not converged.
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
        """Mask ``[M]`` of the posteriors that have converged by ``RULE``."""
        return ~self.failed.any(dim=1)

    def reasons(self, index: int) -> list[str]:
        """Return the names in ``REASONS`` why a posterior has not converged; empty if it has."""
        return [name for name, bad in zip(REASONS, self.failed[index], strict=True) if bad]

    def explained(
        self, places: Sequence[int], statistics: Sequence[Mapping[str, Any]] = (), more: str = ""
    ) -> str:
        """Explain in sentences why posteriors that share their reasons have not converged.

        Args:
            places: Indices of the posteriors.
            statistics: Statistics of the sampler for all posteriors, where they are known.
            more: Further options that raise the effective sample size, such as ``" or --pool"``.
        """
        numbers = {"worth": self.small_ess(places), "chains": self.large_r_hat(places)}
        for reason, key in (("tail", "pareto_k"), ("steps", "fine_k")):
            known = [statistics[place].get(key) for place in places if place < len(statistics)]
            values = [value for value in known if value is not None]
            numbers[reason] = f": Pareto k is {max(values):.2f}" if values else ""
        return " ".join(
            REASONS[name].format(number=numbers.get(name, ""), more=more)
            for name in self.reasons(places[0])
        )

    def small_ess(self, places: Sequence[int], fewest: int | None = None) -> str:
        """Return the effective sample size of the worst coordinate and the size needed, as text.

        The text continues a sentence, for example ": 38, need at least 400". The text is empty if
        the size is large enough or not known.

        Args:
            places: Indices of the posteriors.
            fewest: Effective sample size needed; None for the size that gives the standard errors
                that ``RULE`` requires in few dimensions, and for ``FEWEST_OF_MANY`` in more.
        """
        size, std = self.ess_bulk[places], self.std[places]
        if fewest is None and size.shape[1] <= MOST_TESTED:
            off = torch.maximum(self.mcse_mean[places] / MEAN_OFF, self.mcse_std[places] / STD_OFF)
            needed = size * (ERRORS * off / std).square()
        else:
            needed = torch.full_like(size, fewest or FEWEST_OF_MANY)
        excess = torch.where(std > 0, needed / size, 0.0).nan_to_num(posinf=0.0)
        worst = int(excess.argmax())
        if not excess.flatten()[worst] > 1:
            return ""
        have, need = (float(each.flatten()[worst]) for each in (size, needed))
        return f": {have:,.0f}, need at least {float(rounded(need, 2)):,.0f}"

    def large_r_hat(self, places: Sequence[int]) -> str:
        """Return the largest R-hat of some posteriors and its limit, as text.

        The text continues a sentence, for example ": R-hat is 1.2, need at most 1.01".

        Args:
            places: Indices of the posteriors.
        """
        known = self.r_hat[places]
        most = LARGEST_R_HAT if known.shape[1] <= MOST_TESTED else LARGEST_OF_MANY
        known = known[~known.isnan()]
        if not len(known) or not known.max() > most:
            return ": R-hat is unknown, because chains are too short or did not move"
        return f": R-hat is {float(known.max()):.3g}, need at most {most:g}"

    @classmethod
    def from_draws(cls, draws: Draws, pool: int) -> "Summary":
        """Summarize the draws of M posteriors.

        Args:
            draws: Draws of the posteriors.
            pool: Number of prior draws in the sampler's pool.
        """
        rows = [_of_one(draws, index, pool) for index in range(draws.count)]
        return cls(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def with_reason(self, name: str, bad: Tensor) -> "Summary":
        """Return a copy where the posteriors in a mask ``bad [M]`` also fail for a reason.

        Args:
            name: A name in ``REASONS``.
            bad: Mask ``[M]`` of the posteriors.
        """
        failed = self.failed.clone()
        failed[:, list(REASONS).index(name)] |= bad
        return replace(self, failed=failed)

    def held(self, truth: Tensor) -> Tensor:
        """Return a mask ``[len(CONTENTS), M, D]`` of central intervals that cover the true values.

        Args:
            truth: True values ``[M, D]``.
        """
        below, above = (1 - torch.tensor(CONTENTS)) / 2, (1 + torch.tensor(CONTENTS)) / 2
        levels = torch.tensor(LEVELS)
        low, high = (
            self.quantiles[..., (levels[:, None] - ends).abs().argmin(dim=0)].movedim(2, 0)
            for ends in (below, above)
        )
        return (low <= truth) & (truth <= high)

    @classmethod
    def joined(cls, parts: list["Summary"]) -> "Summary":
        """Join the summaries of several groups of posteriors."""
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
    weighted = "pareto_k" in stats and name in (*WEIGHTED, AMORTIZED)
    chains = None if name in INDEPENDENT else convergence(points)
    r_hat = nan if chains is None else chains.r_hat
    if chains is None or weighted:
        worth = stats["effective_size"] if weighted else torch.tensor(float(len(flat)))
        bulk = tail = worth.clamp_max(len(flat)).expand_as(std)
        errors = _errors(flat, std, worth)
    else:
        bulk, tail, errors = chains.ess_bulk, chains.ess_tail, (chains.mcse_mean, chains.mcse_std)
    failed = dict.fromkeys(REASONS, False) | {"time": name == GAUSSIAN}
    measured = (*common, r_hat, bulk, tail, *errors)
    if name == AMORTIZED and not weighted:
        return (*measured, torch.tensor(list(failed.values())))
    few = points.shape[2] <= MOST_TESTED and name != AMORTIZED
    if few:
        exact = (ERRORS * errors[0] <= MEAN_OFF * std) & (ERRORS * errors[1] <= STD_OFF * std)
        failed["worth"] = not (exact | (std == 0)).all()
    else:
        failed["worth"] = not (bulk >= FEWEST_OF_MANY).all()
    if chains is not None:
        # A coordinate that does not vary has no R-hat, and cannot differ between chains; but chains
        # that never moved have not converged.
        moved = (draws.w[index] != draws.w[index][:, :1]).flatten(1).any(dim=1).all().cpu()
        largest = LARGEST_R_HAT if few else LARGEST_OF_MANY
        failed["chains"] = not ((r_hat <= largest) | ((std == 0) & moved)).all()
    # Statistics are NaN if there was no test or the sampler does not have them; an inconclusive
    # test is infinite.
    failed["test"] = bool(stats.get("test", nan.sum()) > 1)
    failed["tail"] = weighted and not stats["pareto_k"] <= k_threshold(pool)
    failed["steps"] = bool(stats.get("fine_k", nan.sum()) > k_threshold(max(len(flat), 2)))
    return (*measured, torch.tensor([bool(bad) for bad in failed.values()]))


def _errors(points: Tensor, std: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """Return standard errors ``[D]`` of means and standard deviations of points ``[N, D]``.

    The points have a given effective sample size.
    """
    scaled = (points - points.mean(dim=0)) / torch.where(std > 0, std, 1.0)
    peaked = scaled.pow(4).mean(dim=0)
    worth = worth.clamp_min(1.0)
    return std / worth.sqrt(), std * ((peaked - 1).clamp_min(0) / (4 * worth)).sqrt()


def _quantiles(points: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles ``[D, L]`` of points ``[N, D]``, interpolated between the two nearest.

    Torch's own function accepts at most 16 million numbers.
    """
    ordered = points.sort(dim=0).values
    place = levels * (len(points) - 1)
    below = place.floor().long()
    above = (below + 1).clamp_max(len(points) - 1)
    return ordered[below].lerp(ordered[above], (place - below)[:, None]).T
