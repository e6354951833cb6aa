"""Which of weighted draws to take, and how to temper their weights."""

from math import ceil, log, log2

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.measure.posterior.importance import effective_size

BISECTIONS = 40
SMALLEST = 60.0
"""How far below its bound an exponent may be, in nats: for observations that are very far off."""


def require_some(log_likelihood: Tensor) -> None:
    """Raises DataError if no draw of one of the problems ``[M, P]`` has any likelihood."""
    if (log_likelihood.amax(dim=1) == -torch.inf).any():
        raise DataError(
            f"the likelihood is 0 at all of {log_likelihood.shape[1]} draws of the prior: there is "
            "no posterior to draw from"
        )


def systematic(log_weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    """Numbers ``[M, count]`` of draws, each taken as often as its weight says, to within one, by
    logarithms ``[M, P]`` in any normalization.

    Systematic resampling: ``count`` even steps through the sum of the weights, from random starts
    ``[M]``, in [0, 1)."""
    total = torch.softmax(log_weights, dim=1).cumsum(dim=1)
    steps = torch.arange(count, dtype=total.dtype, device=total.device)
    levels = (steps + uniform[:, None]) / count * total[:, -1:]
    return torch.searchsorted(total, levels, right=True).clamp_max(log_weights.shape[1] - 1)


def of_populations(picks: Tensor, chains: int, particles: int) -> Tensor:
    """Numbers ``[M C, S]`` of particles within their populations as numbers ``[M, C S]`` among all
    ``C P`` of an observation."""
    first = particles * torch.arange(chains, device=picks.device)
    return (picks.view(-1, chains, picks.shape[1]) + first[:, None]).flatten(1)


def weighted_picks(log_weights: Tensor, seeds: Tensor, total: int, order: Tensor) -> Tensor:
    """Numbers ``[M, total]`` of draws, taken by weight ``[M, P]``, in any normalization, and
    shuffled, so that chains can be cut of them. They follow from a number for each observation
    ``[M]``. Where neighbors in the order ``[M, P]`` of draws are alike, even steps through it leave
    out and repeat what is alike, and moments hardly change."""
    log_weights, picks = log_weights.gather(1, order), []
    for row, own in zip(log_weights.cpu(), seeds.tolist(), strict=True):
        generator = seeded_generator("cpu", own, Stream.RESAMPLING)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        taken = systematic(row[None], uniform, total)[0]
        picks.append(taken[torch.randperm(total, generator=generator)])
    return order.gather(1, torch.stack(picks).to(order.device))


def z_order(rows: Tensor) -> Tensor:
    """An order ``[M, P]`` of rows ``[M, P, d]`` in which neighbors are alike: along Morton's curve
    through their ranks."""
    count, dim = rows.shape[1:]
    bits = max(1, min(ceil(log2(max(count, 2))), 62 // dim))
    ranks = rows.argsort(dim=1).argsort(dim=1) * 2**bits // count
    key = torch.zeros_like(ranks[..., 0])
    for bit in range(bits):
        for axis in range(dim):
            key |= ((ranks[..., axis] >> bit) & 1) << (bit * dim + axis)
    return key.argsort(dim=1)


def tempered(log_weights: Tensor, worth: int) -> Tensor:
    """Log weights ``[M, P]`` times the largest exponent, at most 1, at which they are worth so many
    draws."""
    most = torch.ones(len(log_weights), dtype=log_weights.dtype, device=log_weights.device)
    return largest_exponent(log_weights, most, worth)[:, None] * log_weights


def largest_exponent(
    log_weights: Tensor, most: Tensor, worth: float | Tensor, others: Tensor | float = 0.0
) -> Tensor:
    """The largest exponent ``[M]``, at most ``most``, at which weights are worth so many draws.

    Args:
        log_weights: ``[M, P]``; ``-inf`` for draws without weight.
        most: ``[M]``.
        worth: Effective size to keep, of all or of each ``[M]``.
        others: Logarithms of factors of the weights ``[M, P]`` that the exponent leaves alone.
    """

    def is_worth(exponent: Tensor) -> Tensor:
        return effective_size(others + exponent[:, None] * log_weights) >= worth

    # The exponent's logarithm is bisected: it is small where observations are far off.
    low, high = torch.full_like(most, -SMALLEST), torch.zeros_like(most)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = is_worth(most * middle.exp())
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(is_worth(most), most, most * low.exp())


def evidence_of(each: Tensor, by_weights: Tensor | None = None) -> dict[str, Tensor]:
    """Logs of the likelihood's mean over the prior ``[M]``, and their errors in nats, as statistics
    of draws, of populations ``[M, C]``, and the errors of these by their weights, if there are any.
    """
    chains = each.shape[1]
    apart = (each - each.amax(dim=1, keepdim=True)).exp()
    error = apart.std(dim=1, correction=0) / apart.mean(dim=1) / max(1, chains - 1) ** 0.5
    if by_weights is not None:
        error = torch.maximum(error, by_weights.square().sum(dim=1).sqrt() / chains)
    evidence = each.logsumexp(dim=1) - log(chains)
    return {"evidence": evidence.cpu(), "evidence_error": error.cpu()}
