"""How long an autocorrelation lasts, as far as N samples at saved times can tell.

The correlation time is ``int_0^s C(t) dt``, by the trapezoidal rule, up to the first lag s at which
C has come down to what correlations of N samples scatter by. Of samples in an order that has
nothing to do with the other's, a correlation has mean 0 and variance ``1 / (N - 1)``, whatever
their distribution (Pitman, 1937, Significance tests which may be applied to samples from any
populations II); two standard deviations count as zero. The mean over D dimensions scatters as much
where they are dependent, and less where they are not, by up to ``1 / sqrt(D)``. Up to zero itself,
the integral would depend on where C happens to cross it: what is gone for good stays positive at
random over some lags, the more of them the more times are saved.

What falls below ``1/e`` before the next saved time, with an integral less than that time, is faster
than the times can tell: the trapezoid from 1 to nothing has the area of half their spacing,
whatever it is. Then the time is known only to be less than the spacing.
"""

from math import e, isnan, nan
from typing import NamedTuple

import torch
from torch import Tensor

UPPER, LOWER = "upper", "lower"


class CorrelationTime(NamedTuple):
    """How long an autocorrelation lasts, in units of t.

    Attributes:
        integral: The correlation time, or a bound on it.
        bound: ``upper``, if the time is less, being less than the spacing of the first two times;
            ``lower``, if it is more, as the correlation is there at the last time; else None.
        gone: The lag from which it cannot be distinguished from zero; NaN if there is none. It and
            the next are linear between times, but no less than the first spacing.
        e_folding: The first lag at which it is ``1/e``; NaN if there is none.
    """

    integral: float
    bound: str | None
    gone: float
    e_folding: float

    def __str__(self) -> str:
        signs = {UPPER: "< ", LOWER: "at least ", None: ""}
        return f"{signs[self.bound]}{self.integral:.3g}"


def scatter_of(count: int) -> float:
    """What correlations of N samples may be by chance: two standard deviations about zero."""
    return 2 / (count - 1) ** 0.5


def correlation_time(
    lags: Tensor, autocorrelation: Tensor, scatter: float = 0.0
) -> CorrelationTime:
    """The time scales of an autocorrelation ``[T]`` at increasing lags ``[T]`` from 0 on.

    Args:
        lags: Lags ``[T]``, at least two.
        autocorrelation: 1 at lag 0, or 0 everywhere where it is not defined.
        scatter: Size below which a correlation counts as zero. With few samples it is large, and
            the time says little.
    """
    lags, values = lags.double(), autocorrelation.double()
    spacing = float(lags[1])
    gone = _first_crossing(lags, values, scatter)
    e_folding = _first_crossing(lags, values, 1 / e)
    if values[0] <= 0:
        return CorrelationTime(0.0, None, gone, e_folding)
    fast = bool(values[1] <= max(scatter, 1 / e))
    if not isnan(gone):
        kept = lags < gone
        end = torch.tensor([gone, scatter], dtype=torch.float64)
        lags, values = torch.cat([lags[kept], end[:1]]), torch.cat([values[kept], end[1:]])
    integral = float(torch.trapezoid(values, lags))
    gone, e_folding = (lag if isnan(lag) else max(lag, spacing) for lag in (gone, e_folding))
    if fast and integral < spacing:
        return CorrelationTime(spacing, UPPER, gone, e_folding)
    return CorrelationTime(integral, LOWER if isnan(gone) else None, gone, e_folding)


def _first_crossing(lags: Tensor, values: Tensor, level: float) -> float:
    """The lag at which values first come down to a level; NaN if they never do."""
    (below,) = torch.where(values <= level)
    if not len(below):
        return nan
    index = int(below[0])
    if index == 0:
        return float(lags[0])
    before, after = float(values[index - 1]), float(values[index])
    fraction = (before - level) / (before - after)
    return float(lags[index - 1] + fraction * (lags[index] - lags[index - 1]))
