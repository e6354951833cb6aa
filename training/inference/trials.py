"""Likelihoods of trials, of which a flow has learned the law of one:

    log p(y_1, ..., y_n | theta) = sum_i log p(y_i | theta, v_i),

with covariates v of each trial. All pairs of a point and a trial of its observation are rows of one
call, whatever their number. Where posteriors are is found by what is roughly the law of a trial,
with gradients; the law itself weighs what is drawn there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.cells import offsets
from training.flow.coordinates.coordinates import Coordinates
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


class TrialLaw(ABC):
    """``p(y | theta, v)``: what one trial may be, given parameters and covariates of it.

    Rows do not depend on those beside them, and those of one size not on their number.
    """

    is_rough: bool = False
    """Whether what is roughly the law is the law."""

    @abstractmethod
    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """Log densities ``[n]`` in nats of trials ``[n, K]`` given covariates ``[n, V]`` and
        parameters ``[n, D]``, of levels or steps the probability's log but a constant."""

    @abstractmethod
    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        """The same, near and cheap and with gradients by the parameters, to find where posteriors
        are."""

    @abstractmethod
    def to(self, device: torch.device) -> "TrialLaw":
        """Itself, on another device."""


def cell_shifts(steps: Tensor) -> Tensor:
    """From a trial to points of its cell ``[P, K]``, by the steps of discrete columns ``[K]``."""
    if not steps.any():
        return 0 * steps[None]
    return offsets(steps > 0).flatten(0, 1)[:CELL_POINTS].to(steps) * steps


class FlowLaw(TrialLaw):
    """The law that a conditional flow has learned, whose points are trials, and its conditions
    parameters and then covariates; roughly, the Gaussian that it starts from.

    A value of a discrete column stands for its step: the density of a trial is then the mean over
    points of its cell, the same for all theta. The Gaussian takes one call, and the flow's own
    densities dozens."""

    def __init__(self, flow: ProbabilityFlow):
        coordinates = flow.coordinates
        assert coordinates is not None
        self._flow, self._cells = flow, cell_shifts(coordinates.steps)
        # Of levels the Gaussian has one density in a cell: that of its center.
        self._rough_cells = self._cells[:1] * 0 if coordinates.levels else self._cells
        self.is_rough = bool(getattr(flow.denoiser, "says_nothing", False))

    def to(self, device: torch.device) -> "FlowLaw":
        return FlowLaw(self._flow.to(device))

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        flow = self._flow.given(labels=torch.cat([parameters, covariates], dim=1))
        return self._over_cells(trials, self._cells, flow.log_prob)

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        given = torch.cat([parameters, covariates], dim=1)
        return self._over_cells(trials, self._rough_cells, partial(self._start_log_prob, given))

    def _start_log_prob(self, given: Tensor, y: Tensor) -> Tensor:
        """Log densities ``[n]`` of the flow if its network said nothing, in one call."""
        flow = self._flow
        assert flow.coordinates is not None
        u, log_det = flow.coordinates.given(given)(y)
        variance = flow.noisy_variance(flow.times(1)[0])
        squares = flow.basis.to_eigen(u).square() / variance
        return log_det - (squares + variance.log() + log(2 * pi)).sum(dim=1) / 2

    def _over_cells(
        self, trials: Tensor, cells: Tensor, log_prob: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Logs ``[n]`` of the mean densities at points of cells ``[P, K]`` of trials ``[n, K]``."""
        assert self._flow.coordinates is not None
        centers = self._flow.coordinates.rounded(trials)
        of_cell = [log_prob(centers + shift) for shift in cells]
        return torch.stack(of_cell).logsumexp(dim=0) - log(len(of_cell))


class WithLevels(TrialLaw):
    """The law of trials of numbers and levels, in this order: probabilities of levels, which
    coordinates know, the last of their conditions, and the law of numbers given these, which are
    covariates to it."""

    def __init__(self, numbers: TrialLaw, coordinates: Coordinates):
        self._numbers, self._coordinates = numbers, coordinates
        self.is_rough = numbers.is_rough

    def to(self, device: torch.device) -> "WithLevels":
        return WithLevels(self._numbers.to(device), self._coordinates.to(device))

    def log_prob(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        return self._with_levels(self._numbers.log_prob, trials, covariates, parameters)

    def rough(self, trials: Tensor, covariates: Tensor, parameters: Tensor) -> Tensor:
        return self._with_levels(self._numbers.rough, trials, covariates, parameters)

    def _with_levels(
        self,
        of_numbers: Callable[[Tensor, Tensor, Tensor], Tensor],
        trials: Tensor,
        covariates: Tensor,
        parameters: Tensor,
    ) -> Tensor:
        numbers, levels = trials.tensor_split([self._coordinates.dim], dim=1)
        beside = torch.cat([covariates, levels], dim=1)
        log_levels = self._coordinates.log_levels(torch.cat([parameters, beside], dim=1))
        return log_levels + of_numbers(numbers, beside, parameters)


class TrialLikelihood(Likelihood):
    """A learned likelihood of trials; what was observed is the number of the observation.

    Args:
        law: Of one trial.
        trials: Of the observations.
        places: Of the parameters, in their order, among the coordinates of points.
        ends: Of the parameters ``[D, 2]``: beyond what was simulated the likelihood is 0. None for
            none.
        rough: Whether to take what is roughly the law.
    """

    own = dear = True

    def __init__(
        self,
        law: TrialLaw,
        trials: Trials,
        places: Sequence[int],
        ends: Tensor | None = None,
        rough: bool = False,
    ):
        self._law, self.trials, self._places, self._ends = law, trials, list(places), ends
        self._rough = rough or law.is_rough

    @property
    def numbers(self) -> Tensor:
        """Of all observations, ``[M, 1]``."""
        return torch.arange(len(self.trials), dtype=torch.float64)[:, None]

    def to(self, device: torch.device) -> "TrialLikelihood":
        self._law, trials = self._law.to(device), self.trials
        parts = (trials.data, trials.covariates, trials.counts)
        self.trials = Trials(*(part.to(device) for part in parts))
        return self

    def roughly(self) -> "TrialLikelihood":
        return TrialLikelihood(self._law, self.trials, self._places, self._ends, True)

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        # Chains follow gradients of what is rough: the law weighs their draws.
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
        log_prob = self._law.rough if self._rough else self._law.log_prob
        data, covariates = self.trials.data, self.trials.covariates
        densities = [
            log_prob(data[trial[at]], covariates[trial[at]], points[row[at]][:, self._places])
            for at in blocks
        ]
        density = torch.cat(densities)[: len(row)]
        return points.new_zeros(len(points)).index_add_(0, row, density)

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        raise UsageError(
            "trials are simulated by your own program: a learned likelihood is checked on its "
            "simulations"
        )
