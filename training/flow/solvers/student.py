"""The way of a student, a network that was trained to carry states from any time to any other.

    x(s) = Phi(x(t), t, s),        one call between neighboring times

(flow maps: Boffi, Albergo and Vanden-Eijnden 2025, arXiv 2505.18825). What a state carries beside
its D coordinates is the sum of the log-determinants of these maps, in nats per dimension.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from training.flow.solvers.solver import Solver, Velocity
from training.names import STUDENT


def _carry(phi: Velocity, x: Tensor, times: Tensor) -> Iterator[Tensor]:
    for span in pairwise(times):
        carried = phi(x, torch.stack(span))
        dim = carried.shape[1] - 1
        x = torch.cat([carried[:, :dim], x[:, dim:] + carried[:, dim:] / dim], dim=1)
        yield x


BY_STUDENT = Solver(STUDENT, 1, _carry, calls_per_step=1, standardized=True, maps=True)
"""In the place of a solver where a network file has a student."""
