"""Likelihoods of trials, of which a flow has learned the law of one:

    log p(y_1, ..., y_n | theta) = sum_i log p(y_i | theta, v_i),

with covariates v of each trial. All pairs of a point and a trial of its observation are rows of one
flow, whatever their number. A value of a discrete column stands for its step: the density of a
trial is then the mean over points of its cell, the same for all theta.

Where posteriors are is found by the Gaussian that the flow starts from: it takes one call, and the
flow's own densities dozens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.cells import offsets
from training.flow.pfode import ProbabilityFlow
from training.inference.likelihoods import Likelihood, checked

BLOCK = 4096
"""Pairs of one call: with blocks of one size a likelihood does not depend on what is beside it."""
FEW = 64
"""The same where gradients are taken."""
MOST_PAIRS = 2**22
"""That are held at once."""
CELL_POINTS = 8
"""Of the cell of a trial with discrete columns."""


@dataclass(frozen=True, eq=False)
class Trials:
    """Trials of M observations, one observation after the other.

    Attributes:
        data: ``[T, K]``.
        covariates: ``[T, V]``.
        counts: Of each observation ``[M]``.
    """

    data: Tensor
    covariates: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def sorted(cls, data: Tensor, covariates: Tensor, datasets: Tensor) -> "Trials":
        """Trials in any order, by the number of the observation ``[T]`` that each is of."""
        order = datasets.argsort(stable=True)
        return cls(data[order], covariates[order], torch.bincount(datasets))


class TrialLikelihood(Likelihood):
    """A learned likelihood of trials; what was observed is the number of the observation.

    Args:
        flow: Of one trial given parameters and covariates.
        trials: Of the observations.
        places: Of the parameters, in their order, among the coordinates of points.
        ends: Of the parameters ``[D, 2]``: beyond what was simulated the likelihood is 0. None for
            none.
        rough: Whether the flow's network is left out.
    """

    own = dear = True

    def __init__(
        self,
        flow: ProbabilityFlow,
        trials: Trials,
        places: Sequence[int],
        ends: Tensor | None = None,
        rough: bool = False,
    ):
        self._flow, self.trials, self._places, self._ends = flow, trials, list(places), ends
        self._rough = rough or bool(getattr(flow.denoiser, "says_nothing", False))
        coordinates = flow.coordinates
        assert coordinates is not None
        steps = coordinates.steps
        cells = offsets(steps > 0).flatten(0, 1)[:CELL_POINTS] if steps.any() else 0 * steps[None]
        centers = coordinates.rounded(trials.data.to(steps))
        self._points = centers[:, None] + cells.to(steps) * steps

    @property
    def numbers(self) -> Tensor:
        """Of all observations, ``[M, 1]``."""
        return torch.arange(len(self.trials), dtype=torch.float64)[:, None]

    def to(self, device: torch.device) -> "TrialLikelihood":
        self._flow = self._flow.to(device)
        trials, self._points = self.trials, self._points.to(device)
        parts = (trials.data, trials.covariates, trials.counts)
        self.trials = Trials(*(part.to(device) for part in parts))
        return self

    def roughly(self) -> "TrialLikelihood":
        return TrialLikelihood(self._flow, self.trials, self._places, self._ends, True)

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        # Gradients are those of the Gaussian, which chains follow: the flow weighs their draws.
        with torch.set_grad_enabled(self._rough and torch.is_grad_enabled()):
            total = checked(self._of_points(points, observed), "the learned likelihood")
            return torch.where(self.inside(points), total, -torch.inf)

    def inside(self, points: Tensor) -> Tensor:
        """Whether parameters ``[N, D]`` are between the bounds of those that were simulated."""
        if self._ends is None:
            return torch.ones_like(points[:, 0], dtype=torch.bool)
        low, high = self._ends.to(points.device).T
        own = points[:, self._places]
        return ((own > low) & (own < high)).all(dim=1)

    def _of_points(self, points: Tensor, observed: Tensor) -> Tensor:
        which, total = observed[:, 0].long(), points.new_zeros(len(points))
        counts = self.trials.counts[which]
        # As many rows as hold so many pairs; one alone may have more.
        ends = torch.bincount(counts.cumsum(0) // MOST_PAIRS)
        start = 0
        for size in ends[ends > 0].tolist():
            rows = slice(start, start + size)
            total[rows] = self._sums(points[rows], which[rows], counts[rows])
            start += size
        return total

    def _sums(self, points: Tensor, which: Tensor, counts: Tensor) -> Tensor:
        """Log likelihoods ``[n]`` of points, of observations ``[n]`` of so many trials ``[n]``."""
        row = torch.arange(len(points), device=points.device).repeat_interleave(counts)
        first = self.trials.counts.cumsum(0) - self.trials.counts
        within = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        trial = first[which][row] + within
        order = torch.arange(len(row), device=row.device)
        size = FEW if torch.is_grad_enabled() else BLOCK  # chains have few points at a time
        blocks = torch.split(F.pad(order, (0, -len(row) % size)), size)
        densities = [self._of_pairs(points[row[at]], trial[at]) for at in blocks]
        density = torch.cat(densities)[: len(row)]
        return points.new_zeros(len(points)).index_add_(0, row, density)

    def _of_pairs(self, points: Tensor, trial: Tensor) -> Tensor:
        """Log densities ``[n]`` of trials ``[n]`` given points ``[n, D]``."""
        given = torch.cat([points[:, self._places], self.trials.covariates[trial]], dim=1)
        of_cell = [self._log_prob(y, given) for y in self._points[trial].unbind(1)]
        return torch.stack(of_cell).logsumexp(dim=0) - log(len(of_cell))

    def _log_prob(self, y: Tensor, given: Tensor) -> Tensor:
        flow = self._flow.given(labels=given)
        if not self._rough:
            return flow.log_prob(y)
        assert flow.coordinates is not None
        u, log_det = flow.coordinates(y)
        variance = flow.noisy_variance(flow.times(1)[0])
        squares = flow.basis.to_eigen(u).square() / variance
        return log_det - (squares + variance.log() + log(2 * pi)).sum(dim=1) / 2

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        raise UsageError(
            "trials are simulated by your own program: a learned likelihood is checked on its "
            "simulations"
        )
