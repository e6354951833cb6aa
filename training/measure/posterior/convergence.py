"""Convergence of chains, and accuracy of their means.

For N draws in M chains of n draws each, where every chain was split into two halves:

    R-hat   = sqrt((B / W + n - 1) / n)         B, W: variances between and within chains
    rho_t   = 1 - (W - mean over chains of the autocovariance at lag t) / ((n - 1) W / n + B / n)
    P_k     = rho_{2k} + rho_{2k+1}
    tau     = -1 + 2 sum_{k < K} min_{j <= k} P_j + rho_{2K}        K: the first with P_K <= 0
    ESS     = N / tau

(Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, "Rank-normalization, folding, and
localization"; the sum over lags is that of Geyer 1992, an initial monotone sequence.)
The last lag is ``rho_{2K}`` where it is positive, and ``tau`` is at least ``1 / log10 N``.

*Rank-normalized* values are ``Phi^-1((r - 3/8) / (N + 1/4))`` with r the average rank in all
chains. R-hat is the larger of that of these values and that of the values folded about the median.
The *bulk* effective sample size is that of the normalized values, the *tail* one the smaller of
those of ``x <= q`` for the 5 % and 95 % quantiles. Monte Carlo errors use the effective sample
sizes of ``x`` and of ``(x - mean)^2``.

These functions depend on the draws alone, not on the sampler.
"""

from dataclasses import dataclass, fields
from math import log10

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from dnnlib.errors import DataError

FEWEST_DRAWS = 4
"""Smallest number of draws per chain: half of a chain must have a variance."""
ROUNDING = 1e-12
"""Rounding tolerance relative to the range of draws: closer draws count as equal."""
BLOCK_NUMBERS = 2**22
"""Largest number of values processed at once; the transforms take several times their memory."""


@dataclass(frozen=True)
class Convergence:
    """Convergence statistics of chains, for each variable ``[...]``, float64.

    Attributes:
        r_hat: R-hat ``[...]``, 1 if all chains agree; NaN for constant draws, and infinite if each
            chain is stuck at its own value.
        ess_bulk: Effective sample size for the mean ``[...]``; all draws if they are constant.
        ess_tail: Effective sample size for the 5 % and 95 % quantiles ``[...]``.
        mcse_mean: Standard error of the mean of all draws ``[...]``, in units of the draws.
        mcse_std: Standard error of the standard deviation of all draws ``[...]``; NaN for constant
            draws.
    """

    r_hat: Tensor
    ess_bulk: Tensor
    ess_tail: Tensor
    mcse_mean: Tensor
    mcse_std: Tensor


def convergence(draws: Tensor) -> Convergence:
    """Compute convergence statistics of chains of equal lengths.

    Each chain is split into halves, without the middle draw if their number is odd. The halves of a
    single chain cannot reveal a mode that the chain never visited. The statistics of a variable do
    not depend on other variables. They are NaN if a draw of the variable is not finite, or if
    chains have fewer than 4 draws.

    Args:
        draws: Draws ``[C, S, ...]``: chains, draws, and variables of any shape.

    Raises:
        DataError: There is no chain, or the array has fewer than two dimensions.

    Example:
        >>> import torch
        >>> draws = torch.randn(4, 1000, 3, generator=torch.Generator().manual_seed(0))
        >>> bool((convergence(draws).r_hat < 1.01).all())
        True
    """
    if draws.ndim < 2 or draws.shape[0] == 0:
        raise DataError(f"draws have shape {list(draws.shape)}: expected [chains, draws, ...]")
    chains, length, *shape = draws.shape
    if length < FEWEST_DRAWS or 0 in shape:
        unknown = torch.full(tuple(shape), torch.nan, dtype=torch.float64, device=draws.device)
        return Convergence(*(unknown.clone() for _ in fields(Convergence)))
    rows = draws.reshape(chains, length, -1)
    blocks = torch.split(rows, max(1, BLOCK_NUMBERS // (chains * length)), dim=2)
    parts = [_measures(block.permute(2, 0, 1).double().contiguous()) for block in blocks]
    return Convergence(*(part.view(shape) for part in torch.cat(parts, dim=1)))


def _measures(draws: Tensor) -> Tensor:
    """Return the five statistics ``[5, V]`` of draws ``[V, C, S]``."""
    finite = draws.isfinite().all(dim=2).all(dim=1)
    draws = torch.where(finite[:, None, None], draws, 0.0)
    halves = _halves(draws)
    normalized, median = _normalized(halves)
    folded, _ = _normalized((halves - median[:, None, None]).abs())
    squares = (draws - _mean(draws)[:, None, None]).square()
    variance, count = _mean(squares), draws.shape[1] * draws.shape[2]
    error_of_variance = (_mean(squares.square()) - variance.square()) / _ess(_halves(squares))
    measures = [
        # Folded draws may be constant where draws are not: then only the unfolded R-hat is defined.
        torch.fmax(_r_hat(normalized), _r_hat(folded)),
        _ess(normalized),
        _ess_tail(draws),
        (variance * count / (count - 1) / _ess(halves)).sqrt(),
        (error_of_variance / variance).sqrt() / 2,
    ]
    return torch.where(finite, torch.stack(measures), torch.nan)


def _mean(draws: Tensor) -> Tensor:
    """Return means ``[V]`` of draws ``[V, C, S]``."""
    return draws.mean(dim=(1, 2))


def _halves(draws: Tensor) -> Tensor:
    """Split each chain into two: ``[V, 2C, S // 2]``."""
    half = draws.shape[2] // 2
    return torch.cat([draws[..., :half], draws[..., -half:]], dim=1)


def _normalized(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return normal scores of ranks ``[V, M, n]``, and medians ``[V]``.

    Equal draws have their average rank. The median of an even number of draws is between the two
    in the middle.
    """
    ordered, places = draws.flatten(1).sort(dim=1)
    count = ordered.shape[1]
    index = torch.arange(count, device=draws.device)
    changes = ordered[:, 1:] != ordered[:, :-1]
    # First and last place of draws that are equal.
    first = F.pad(index[1:] * changes, (1, 0)).cummax(dim=1).values
    last = torch.where(F.pad(changes, (0, 1), value=True), index, count)
    last = last.flip(1).cummin(dim=1).values.flip(1)
    rank = 1 + (first + last).double() / 2
    scores = torch.special.ndtri((rank - 3 / 8) / (count + 1 / 4))
    median = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
    return torch.empty_like(scores).scatter_(1, places, scores).view(draws.shape), median


def _r_hat(chains: Tensor) -> Tensor:
    """Return R-hat ``[V]`` of chains ``[V, M, n]``."""
    length = chains.shape[2]
    between = length * chains.mean(dim=2).var(dim=1)
    within = chains.var(dim=2).mean(dim=1)
    return ((between / within + length - 1) / length).sqrt()


def _ess(chains: Tensor) -> Tensor:
    """Return the effective sample size ``[V]`` of draws ``[V, M, n]``.

    It is the number of draws if they are constant.
    """
    _, count, length = chains.shape
    covariance = _autocovariance(chains).mean(dim=1)
    within = covariance[:, :1] * length / (length - 1)
    total = covariance[:, :1] + chains.mean(dim=2).var(dim=1)[:, None]
    rho = 1 - (within - covariance) / total
    rho[:, 0] = 1
    draws = count * length
    tau = _summed_lags(rho).clamp(min=1 / log10(draws))
    constant = chains.amax(dim=(1, 2)) == chains.amin(dim=(1, 2))
    return torch.where(constant, draws, draws / tau)


def _summed_lags(rho: Tensor) -> Tensor:
    """Return ``tau [V]`` of autocorrelations ``[V, n]``, by Geyer's initial monotone sequence."""
    pairs = max(1, (rho.shape[1] - 1) // 2)
    even = rho[:, 0 : 2 * pairs : 2]
    sums = even + rho[:, 1 : 2 * pairs : 2]
    first = (sums > 0).cumprod(dim=1).sum(dim=1, keepdim=True).clamp(max=pairs - 1)
    before = torch.arange(pairs, device=rho.device) < first
    monotone = torch.where(before, sums.cummin(dim=1).values, 0.0).sum(dim=1)
    last = even.gather(1, first)
    last = torch.where(sums.gather(1, first) > 0, last, last.clamp(min=0))
    return 2 * monotone - 1 + last[:, 0]


def _autocovariance(chains: Tensor) -> Tensor:
    """Return autocovariances at all lags, divided by n, ``[V, M, n]``."""
    length = chains.shape[2]
    centered = chains - chains.mean(dim=2, keepdim=True)
    padded = next_fast_len(2 * length, real=True)
    spectrum = torch.fft.rfft(centered, n=padded)
    power = spectrum.real.square() + spectrum.imag.square()
    return torch.fft.irfft(power, n=padded)[..., :length] / length


def _ess_tail(draws: Tensor) -> Tensor:
    """Return the smaller effective sample size ``[V]`` of ``x <= q`` at two quantiles.

    The quantiles q are those of 5 % and 95 %.
    """
    rows = draws.flatten(1)
    last = rows.shape[1] - 1
    # Draws are below an interpolated quantile where they are at most the draw below it.
    below = [rows.kthvalue(1 + last * percent // 100, dim=1).values for percent in (5, 95)]
    # A state that a chain stays at can be computed in two places, with different rounding.
    same = ROUNDING * (rows.amax(dim=1) - rows.amin(dim=1))
    below = [value + same for value in below]
    low, high = (_ess(_halves((draws <= value[:, None, None]).double())) for value in below)
    return torch.minimum(low, high)
