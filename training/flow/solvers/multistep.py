"""The two-step Adams-Bashforth method, one call a step, for steps of any sizes.

The velocity is extended linearly from the last two times and integrated (Hairer, Norsett and
Wanner, *Solving Ordinary Differential Equations I*, section III.5):

    x(t + h) = x + h (v + (v - v_last) h / (2 h_last)).

With even steps the errors, ``5/12 h^3 x'''`` each, add up to a difference of ``x''`` between the
ends, most of which cancels; uneven steps lose that. The first step is Heun's, at one call more.
Euler's would not lower the order, but its error would be most of what there is.
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from training.flow.solvers.solver import Velocity


def adams_bashforth(v: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    """States at ``times[1:]``."""
    last_slope, last_h = None, None
    for t, following in pairwise(times):
        h = following - t
        slope = v(x, t)
        if last_slope is None or last_h is None:
            x = x + h / 2 * (slope + v(x + h * slope, following))
        else:
            x = x + h * (slope + (slope - last_slope) * (h / (2 * last_h)))
        last_slope, last_h = slope, h
        yield x
