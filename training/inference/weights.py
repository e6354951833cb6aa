"""Resampling weighted draws, and tempering their weights."""

from math import ceil, log, log2

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.measure.posterior.importance import effective_size

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
