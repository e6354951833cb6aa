"""Pareto-smoothed importance weights, with a diagnostic of their reliability.

The T largest of P weights are replaced by quantiles of a generalized Pareto distribution fitted to
their excess over the next one, ``T = ceil(min(P / 5, 3 sqrt(P)))``, and all are truncated at the
largest raw weight (Vehtari, Simpson, Gelman, Yao and Gabry 2024, "Pareto smoothed importance
sampling", section 2). Excesses y have the distribution function ``1 - (1 + k y / sigma)^(-1 / k)``.
With ``theta = -k / sigma`` the fit is

    k(theta) = mean log(1 - theta y),      l(theta) = n (log(-theta / k(theta)) - k(theta) - 1)
    theta_i  = 1 / y_max + (1 - sqrt(m / (i - 1/2))) / (3 y_{1/4}),  i = 1 .. m = 30 + floor(sqrt n)

the mean of ``theta_i`` under weights ``exp l(theta_i)`` (Zhang and Stephens 2009), and k is shrunk
towards 1/2 as by ten more observations (Vehtari et al., appendix C).

With k above ``k_threshold``, P draws cannot estimate means of the weights; at k >= 1 the mean does
not exist.
"""

from dataclasses import dataclass
from math import ceil, isqrt, log, log10, sqrt

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError

SHORTEST_TAIL = 5
LOG_TINY = log(torch.finfo(torch.float64).tiny)
PRIOR_K, PRIOR_COUNT = 0.5, 10
BLOCK_NUMBERS = 2**23
"""Largest number of values that a fit holds at once."""


@dataclass(frozen=True)
class SmoothedWeights:
    """Pareto-smoothed importance weights of P draws in M problems, float64.

    Attributes:
        log_weights: Log weights ``[M, P]``, normalized so that the weights of a problem sum to 1;
            all ``-inf`` if all given log weights were.
        k: Pareto shape k ``[M]`` of the tail. Infinite if fewer than 5 weights are in the tail, so
            that k is unknown, and ``-inf`` if the tail is empty because the largest weights are
            equal.
        effective_size: Effective sample size of the smoothed weights ``[M]``.
    """

    log_weights: Tensor
    k: Tensor
    effective_size: Tensor


def smoothed_weights(log_weights: Tensor) -> SmoothedWeights:
    """Smooth and normalize the importance weights of independent draws, for each problem.

    Args:
        log_weights: Log weights ``[M, P]``, each row up to a constant; ``-inf`` for draws without
            weight.

    Raises:
        DataError: The shape is wrong, or a log weight is NaN or plus infinity.

    Example:
        >>> import torch
        >>> x = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
        >>> bool(smoothed_weights(-0.1 * x.square()).k < 0.5)
        True
    """
    if log_weights.ndim != 2 or log_weights.shape[1] == 0:
        raise DataError(
            f"log weights have shape {list(log_weights.shape)}: expected [problems, draws]"
        )
    if not (log_weights < torch.inf).all():
        raise DataError("some log weights are NaN or +inf: give numbers below infinity")
    count = log_weights.shape[1]
    tail = min(ceil(min(count / 5, 3 * sqrt(count))), count - 1)
    one_fit = max(count, tail * (30 + isqrt(tail)))
    blocks = torch.split(log_weights.double(), max(1, BLOCK_NUMBERS // one_fit))
    parts = [_smoothed(block, tail) for block in blocks]
    smoothed, k = (torch.cat(column) for column in zip(*parts, strict=True))
    return SmoothedWeights(smoothed, k, effective_size(smoothed))


def effective_size(log_weights: Tensor) -> Tensor:
    """Return the effective sample size ``[...]`` of weighted draws, ``(sum w)^2 / sum w^2``.

    The size is between 1 and P, and 0 where no weight is positive.

    Args:
        log_weights: Log weights ``[..., P]``, each row up to a constant.
    """
    size = torch.exp(2 * log_weights.logsumexp(dim=-1) - (2 * log_weights).logsumexp(dim=-1))
    return torch.where(log_weights.amax(dim=-1) > -torch.inf, size, 0.0)


def k_threshold(count: int) -> float:
    """Return the largest Pareto k at which weighted means are reliable (Vehtari et al. 2024).

    Args:
        count: Number of draws.

    Raises:
        UsageError: There are fewer than two draws.
    """
    if count < 2:
        raise UsageError(
            f"{count} draws are too few for the threshold of Pareto k: give at least two"
        )
    return min(1 - 1 / log10(count), 0.7)


def _smoothed(log_weights: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    """Return normalized log weights ``[M, P]`` and shapes ``[M]``.

    Tails have at most ``tail`` weights.
    """
    largest = log_weights.amax(dim=1, keepdim=True)
    some = largest > -torch.inf
    relative = torch.where(some, log_weights - largest, -torch.inf)
    if tail < SHORTEST_TAIL:
        k = relative.new_full((len(relative),), torch.inf)
    else:
        # Only the tail needs sorting, and it is short.
        falling, places = relative.topk(min(tail + 1, relative.shape[1]), dim=1)
        fitted, k = _smoothed_tail(falling.flip(1))
        relative = relative.scatter(1, places.flip(1)[:, -tail:], fitted)
    normalizer = torch.where(some, relative.logsumexp(dim=1, keepdim=True), 0.0)
    return relative - normalizer, k


def _smoothed_tail(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth the T largest log weights ``[M, T]``.

    Args:
        ordered: Log weights ``[M, T + 1]`` that increase to 0; the first is where the tail begins.

    Returns:
        Smoothed log weights ``[M, T]``, and k ``[M]``.
    """
    raw = ordered[:, 1:]
    begin = ordered[:, :1].clamp(min=LOG_TINY).exp()
    excess = (raw.exp() - begin).clamp(min=0)
    inside = excess > 0
    length = inside.sum(dim=1, keepdim=True)
    # Excesses increase: those in the tail are the last ones.
    place = torch.arange(raw.shape[1], device=raw.device) - (raw.shape[1] - length)
    k, sigma = _pareto_fit(excess, inside, length)
    probability = ((place.double() + 0.5) / length).clamp(min=0)
    exponent = -torch.log1p(-probability)
    quantile = torch.expm1(k * exponent) / k * sigma
    fits = (length >= SHORTEST_TAIL) & sigma.isfinite()
    smoothed = (quantile + begin).log().clamp(max=0)
    unknown = torch.where(length > 0, torch.inf, -torch.inf)
    # Without any positive weight there is no tail either, and k is unknown.
    unknown = torch.where(raw[:, -1:] > -torch.inf, unknown, torch.inf)
    return torch.where(fits & inside, smoothed, raw), torch.where(fits, k, unknown)[:, 0]


def _pareto_fit(excess: Tensor, inside: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Fit ``k`` and ``sigma``, ``[M, 1]`` each, to the last n of increasing excesses.

    The excesses are ``[M, T]``, and n is ``[M, 1]``.

    Fits to fewer than 5 excesses have no meaning.
    """
    count = length.double()
    grid = 30 + count.sqrt().floor()
    # The grid is the same for all rows, so that the fit of a row does not depend on the others.
    index = torch.arange(1, 31 + isqrt(excess.shape[1]), dtype=count.dtype, device=count.device)
    quarter = (count / 4 + 0.5).floor().long() - 1 + excess.shape[1] - length
    quartile = excess.gather(1, quarter.clamp(0, excess.shape[1] - 1))
    theta = 1 / excess[:, -1:] + (1 - (grid / (index - 0.5)).sqrt()) / (3 * quartile)
    shape = _mean_log(theta, excess, inside)
    fit = count * ((-theta / shape).log() - shape - 1)
    weight = torch.where(index <= grid, fit, -torch.inf).softmax(dim=1)
    mean = (theta * weight).sum(dim=1, keepdim=True)
    raw = _mean_log(mean, excess, inside)
    return (count * raw + PRIOR_COUNT * PRIOR_K) / (count + PRIOR_COUNT), -raw / mean


def _mean_log(theta: Tensor, excess: Tensor, inside: Tensor) -> Tensor:
    """Return ``k(theta) [M, m]`` of ``theta [M, m]``: excesses of 0 add nothing."""
    summed = torch.log1p(-theta[:, :, None] * excess[:, None, :]).sum(dim=2)
    return summed / inside.sum(dim=1, keepdim=True)


def log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logs ``[M]`` of mean weights, and their standard errors ``[M]`` in nats.

    Errors are those of independent draws; quasi-random draws have smaller errors.

    Args:
        log_weights: Log weights ``[M, P]`` of P draws.
    """
    count = log_weights.shape[1]
    spread = (1 / effective_size(log_weights) - 1 / count).clamp_min(0)
    return log_weights.logsumexp(dim=1) - log(count), spread.sqrt()
