"""Draws from posteriors: weighted draws, their resampling, and the progress of drawing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log, log2

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.measure.posterior.importance import effective_size

OnPart = Callable[[float], object] | None
"""Callback with the fraction of the work done since the last call; None for no reports."""


def share_of(on_part: OnPart, share: float) -> OnPart:
    """Return a progress callback for a part of the work, which is a given fraction of all work.

    Args:
        on_part: Callback of all work.
        share: Fraction of all work, from 0 to 1.
    """
    if on_part is None:
        return None
    return lambda part: on_part(share * part)


def with_more_calls(on_part: OnPart, calls: Callable[[], int], more: float) -> OnPart:
    """Return a progress callback for work that is followed by further network evaluations.

    The fraction of this work in the total is estimated while the work proceeds. If a fraction f of
    this work took c evaluations, all of it will take c / f, and the completed fraction of the total
    is ``f c / (c + f more)``.

    Args:
        on_part: Callback of the total work.
        calls: Function that returns the number of network evaluations so far.
        more: Number of network evaluations that follow.
    """
    if on_part is None:
        return None
    done = before = 0.0

    def move(part: float) -> None:
        nonlocal done, before
        done += part
        place = done * calls() / max(calls() + done * more, 1)
        on_part(place - before)
        before = place

    return move


BISECTIONS = 40
SMALLEST = 60.0
"""Largest distance of a log exponent below its bound, for observations that are very far off.
"""


def require_some(log_likelihood: Tensor) -> None:
    """Check that each observation has a prior draw with a likelihood above 0.

    Args:
        log_likelihood: Log likelihoods ``[M, P]`` of M observations at P prior draws.

    Raises:
        DataError: All likelihoods of an observation are 0.
    """
    if (log_likelihood.amax(dim=1) == -torch.inf).any():
        raise DataError(
            f"the likelihood is 0 at all {log_likelihood.shape[1]} prior draws: the "
            "posterior cannot be sampled: check the observation and its noise"
        )


def systematic(log_weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Return the indices ``[M, count]`` of draws chosen by systematic resampling.

    Each index occurs as often as its weight requires, to within 1: the method takes ``count`` equal
    steps through the cumulative weights.

    Args:
        log_weights: Log weights ``[M, P]``, up to a constant.
        uniform: Random starts ``[M]``, in [0, 1).
        count: Number of draws.
    """
    total = torch.softmax(log_weights, dim=1).cumsum(dim=1)
    steps = torch.arange(count, dtype=total.dtype, device=total.device)
    levels = (steps + uniform[:, None]) / count * total[:, -1:]
    return torch.searchsorted(total, levels, right=True).clamp_max(log_weights.shape[1] - 1)


def of_populations(picks: Tensor, chains: int, particles: int) -> Tensor:
    """Convert indices of particles within a population to indices within an observation.

    Args:
        picks: Indices within populations ``[M C, S]``.
        chains: Number of populations, C.
        particles: Number of particles per population, P.

    Returns:
        Indices among all ``C P`` particles of an observation, ``[M, C S]``.
    """
    first = particles * torch.arange(chains, device=picks.device)
    return (picks.view(-1, chains, picks.shape[1]) + first[:, None]).flatten(1)


def weighted_picks(log_weights: Tensor, seeds: Tensor, total: int, order: Tensor) -> Tensor:
    """Return the indices ``[M, total]`` of draws resampled by weight, in random order.

    The result can be divided into chains. If neighbors in ``order`` are similar, systematic
    resampling omits and repeats similar draws, so that moments hardly change.

    Args:
        log_weights: Log weights ``[M, P]``, up to a constant.
        seeds: Random seed of each observation ``[M]``.
        total: Number of draws.
        order: Indices ``[M, P]`` that sort the draws so that neighbors are similar (``z_order``).
    """
    log_weights, picks = log_weights.gather(1, order), []
    for row, own in zip(log_weights.cpu(), seeds.tolist(), strict=True):
        generator = seeded_generator("cpu", own, Stream.RESAMPLING)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        taken = systematic(row[None], uniform, total)[0]
        picks.append(taken[torch.randperm(total, generator=generator)])
    return order.gather(1, torch.stack(picks).to(order.device))


def z_order(rows: Tensor) -> Tensor:
    """Return the indices ``[M, P]`` that sort rows ``[M, P, d]`` so that neighbors are similar.

    The order follows the Morton curve through the ranks of the rows.
    """
    count, dim = rows.shape[1:]
    bits = max(1, min(ceil(log2(max(count, 2))), 62 // dim))
    ranks = rows.argsort(dim=1).argsort(dim=1) * 2**bits // count
    key = torch.zeros_like(ranks[..., 0])
    for bit in range(bits):
        for axis in range(dim):
            key |= ((ranks[..., axis] >> bit) & 1) << (bit * dim + axis)
    return key.argsort(dim=1)


def tempered(log_weights: Tensor, worth: int) -> Tensor:
    """Temper log weights ``[M, P]`` by the largest exponent that keeps an effective sample size.

    The exponent is at most 1.

    Args:
        log_weights: Log weights ``[M, P]``.
        worth: Effective sample size to keep.
    """
    most = torch.ones(len(log_weights), dtype=log_weights.dtype, device=log_weights.device)
    return largest_exponent(log_weights, most, worth)[:, None] * log_weights


def largest_exponent(
    log_weights: Tensor, most: Tensor, worth: float | Tensor, others: Tensor | float = 0.0
) -> Tensor:
    """Return the largest exponent ``[M]``, at most ``most``, that keeps an effective sample size.

    Args:
        log_weights: Log weights ``[M, P]``; ``-inf`` for draws without weight.
        most: Upper bounds of the exponents ``[M]``.
        worth: Effective sample size to keep, one number or one for each observation ``[M]``.
        others: Log factors of the weights ``[M, P]`` that the exponent does not apply to.
    """

    def has_effective_size(exponent: Tensor) -> Tensor:
        return effective_size(others + exponent[:, None] * log_weights) >= worth

    # The logarithm of the exponent is bisected: the exponent is small where observations are far
    # off.
    low, high = torch.full_like(most, -SMALLEST), torch.zeros_like(most)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = has_effective_size(most * middle.exp())
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(has_effective_size(most), most, most * low.exp())


def evidence_of(each: Tensor, by_weights: Tensor | None = None) -> dict[str, Tensor]:
    """Combine the log evidences of C populations, and return them as statistics of draws.

    Args:
        each: Log evidence from each population ``[M, C]``, in nats.
        by_weights: Standard errors ``[M, C]`` of the log evidences, from the weights; None if not
            known.

    Returns:
        The log evidence ``evidence [M]`` and its standard error ``evidence_error [M]``.
    """
    chains = each.shape[1]
    apart = (each - each.amax(dim=1, keepdim=True)).exp()
    error = apart.std(dim=1, correction=0) / apart.mean(dim=1) / max(1, chains - 1) ** 0.5
    if by_weights is not None:
        error = torch.maximum(error, by_weights.square().sum(dim=1).sqrt() / chains)
    evidence = each.logsumexp(dim=1) - log(chains)
    return {"evidence": evidence.cpu(), "evidence_error": error.cpu()}


GAUSSIAN = "gaussian"
"""Name of draws of Gaussian approximations, used where time allows no sampler."""
POOLED = ("pool", "refined")
"""Samplers whose draws are independent, so that only their weights determine the effective sample
size.
"""
AMORTIZED = "flow"
"""Name of the sampler of amortized posteriors."""
INDEPENDENT = {*POOLED, AMORTIZED, GAUSSIAN}
"""Samplers whose draws are independent, so that they have no chains to compare."""
WEIGHTED = (*POOLED, "annealed")
"""Samplers that start from a pool and report importance weights: those above, and the one whose
chains are populations.
"""


@dataclass(frozen=True)
class Draws:
    """Posterior draws: S draws of C chains for each of M observations.

    Attributes:
        w: Standard normal variables ``[M, C, S, dim]``.
        points: Points of data space ``[M, C, S, D]``.
        log_likelihood: Log likelihoods ``[M, C, S]``, in nats; NaN for amortized posteriors.
        stats: Statistics of the sampler by name, each ``[M]``: ``acceptance``, ``step_size``,
            ``effective_size`` and ``pareto_k`` of weights, and ``evidence``, the log of the mean
            likelihood under the prior, with ``evidence_error``, in nats.
        sampler: Name of the sampler of each observation.
        log_density: Log density ``[M, C, S]`` of the posterior at the draws, in nats, for amortized
            posteriors; otherwise None.
        calls: Network evaluations per observation ``[M]``, float64, on the CPU like the statistics;
            those of a group that is sampled together are divided evenly.
    """

    w: Tensor
    points: Tensor
    log_likelihood: Tensor
    sampler: Sequence[str]
    calls: Tensor
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    log_density: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of observations, M."""
        return len(self.w)

    @classmethod
    def by(
        cls,
        sampler: str,
        shape: tuple[int, int, int],
        w: Tensor,
        points: Tensor,
        log_likelihood: Tensor,
        calls: float,
        stats: Mapping[str, Tensor],
    ) -> "Draws":
        """Create the draws of one sampler from arrays that have one row per draw.

        Args:
            sampler: Name of the sampler.
            shape: Numbers of observations, chains and draws, ``(M, C, S)``.
            w: Standard normal variables ``[M C S, dim]``.
            points: Points ``[M C S, D]``.
            log_likelihood: Log likelihoods ``[M C S]``.
            calls: Network evaluations per observation.
            stats: Statistics of the sampler by name, each ``[M]``.
        """
        w, points = (rows.view(*shape, -1) for rows in (w, points))
        each = torch.full(shape[:1], calls, dtype=torch.float64)
        return cls(w, points, log_likelihood.view(shape), [sampler] * shape[0], each, stats)

    def of(self, places: Tensor) -> "Draws":
        """Return the draws of the observations with indices ``places [m]`` only."""
        pick, at = places.to(self.w.device), places.cpu()
        return replace(
            self._each(lambda values: values[pick]),
            sampler=[self.sampler[place] for place in at.tolist()],
            calls=self.calls[at],
            stats={name: values[at] for name, values in self.stats.items()},
        )

    def without_draws(self) -> "Draws":
        """Return a copy with the statistics of each observation, but without its draws."""
        return self._each(lambda values: values[:, :, :0])

    @property
    def independent(self) -> bool:
        """Whether all samplers make independent draws, which belong to no chain."""
        return {*self.sampler} <= INDEPENDENT

    def in_one_chain(self) -> "Draws":
        """Return the draws of all chains of an observation as one chain."""
        return self._each(lambda values: values.flatten(1, 2)[:, None])

    def chosen(self, picks: Tensor) -> "Draws":
        """Select draws from each chain by their indices ``picks [M, C, S']``."""

        def taken(values: Tensor) -> Tensor:
            rows = picks if values.ndim == 3 else picks[..., None]
            return values.gather(2, rows.expand(*picks.shape, *values.shape[3:]))

        return self._each(taken)

    def cpu(self) -> "Draws":
        """Return the draws on the CPU."""
        stats = {name: values.cpu() for name, values in self.stats.items()}
        return replace(self._each(Tensor.cpu), calls=self.calls.cpu(), stats=stats)

    def _each(self, part: Callable[[Tensor], Tensor]) -> "Draws":
        """Apply a selection to all values that there are per draw."""
        return replace(
            self,
            w=part(self.w),
            points=part(self.points),
            log_likelihood=part(self.log_likelihood),
            log_density=None if self.log_density is None else part(self.log_density),
        )

    def replaced(self, places: Tensor, others: "Draws") -> "Draws":
        """Return a copy with other draws for some of the observations.

        Statistics that the new draws lack are kept from the old draws, and network evaluations add
        up.

        Args:
            places: Indices of the m observations to replace ``[m]``.
            others: Draws of these m observations.
        """
        tried = self.of(places)
        others = replace(
            others, calls=tried.calls + others.calls, stats={**tried.stats, **others.stats}
        )
        kept = torch.ones(self.count, dtype=torch.bool).scatter(0, places.cpu(), False)
        rest = kept.nonzero()[:, 0]
        return Draws.joined([self.of(rest), others], torch.cat([rest, places.cpu()]))

    @classmethod
    def joined(cls, parts: Sequence["Draws"], order: Tensor | None = None) -> "Draws":
        """Join the draws of several groups of observations.

        Statistics that only some samplers report are NaN for draws of other samplers.

        Args:
            parts: Draws of each group.
            order: Index ``[M]`` that each of the joined observations gets in the result; None to
                keep the joined order.
        """
        names = sorted({name for part in parts for name in part.stats})
        stats = {
            name: torch.cat(
                [part.stats.get(name, torch.full_like(part.calls, torch.nan)) for part in parts]
            )
            for name in names
        }
        sampler = [name for part in parts for name in part.sampler]
        density = [part.log_density for part in parts if part.log_density is not None]
        whole = cls(
            torch.cat([part.w for part in parts]),
            torch.cat([part.points for part in parts]),
            torch.cat([part.log_likelihood for part in parts]),
            sampler,
            torch.cat([part.calls for part in parts]),
            stats,
            torch.cat(density) if len(density) == len(parts) else None,
        )
        return whole if order is None else whole.of(order.argsort().cpu())
