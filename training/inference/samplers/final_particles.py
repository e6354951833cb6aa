"""Weighted particles that have reached the first time, and how they become draws."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.inference.draws import Draws
from training.inference.progress import OnPart
from training.inference.samplers.narrowing import Narrowing, how_far
from training.inference.samplers.renoising import Particles
from training.inference.target import Target
from training.inference.weights import of_populations, systematic
from training.measure.posterior.importance import effective_size

NAME = "twisted"


@dataclass
class FinalParticles:
    """Weighted particles at the first (least noisy) time: C populations of P per observation.

    Attributes:
        target: The posteriors of the observations.
        states: Unscaled states of the particles ``[M, C P, D]``.
        points: Points of data space ``[M, C P, D]``.
        log_likelihood: Log likelihoods of the points ``[M, C P]``.
        log_weights: Log weights ``[M, C P]``; the weights of each island, a group of particles that
            are resampled together, sum to 1.
        exponent: Exponents b of the likelihoods in the weights, ``[M]``.
        start: Random starts of the systematic resampling of each population, ``[M, C]``.
        stages: Number of resamplings of each observation ``[M]``.
        again: Number of network evaluations since arrival ``[M]``.
        worth: Smallest effective sample size since arrival ``[M]``.
    """

    target: Target
    states: Tensor
    points: Tensor
    log_likelihood: Tensor
    log_weights: Tensor
    exponent: Tensor
    start: Tensor
    stages: Tensor
    again: Tensor = field(init=False)
    worth: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.again = torch.zeros_like(self.stages)
        self.worth = torch.full_like(self.stages, torch.inf)

    def apart(self) -> Tensor:
        """Return the distance between the populations of each observation ``[M]``.

        Populations disagree if the distance is above 1. It is the distance in the coordinate where
        populations differ most (``how_far``).
        """
        rows = self.by_weight(self._particles, torch.full_like(self.start, 0.5))
        shape = (*self.start.shape, self._particles, -1)
        return how_far(rows_of(self.points, rows).view(shape)).amax(dim=1)

    def narrow(self, place: int, narrowing: Narrowing, apart: bool, on_part: OnPart) -> None:
        """Move one observation's particles while its widened noise is narrowed to the true noise.

        Args:
            place: Index of the observation.
            narrowing: Moves of the particles.
            apart: Whether the populations disagree.
            on_part: Called with the fraction of the work done since the last call.
        """
        own = Particles(self.states[place], self.points[place], self.log_likelihood[place])
        log_weights = self.log_weights[place].view(self.start.shape[1], -1)
        own = narrowing.narrowed(own, log_weights, float(self.exponent[place]), apart, on_part)
        self.points[place], self.log_likelihood[place] = own.points, own.log_likelihood
        self.worth[place] = narrowing.worth
        self._count(place, narrowing.stages, narrowing.target.calls)

    def take(self, place: int, many: "FinalParticles") -> None:
        """Replace one observation's particles by resampling from a larger set of particles.

        Args:
            place: Index of the observation.
            many: More particles, for this observation only.
        """
        rows = many.by_weight(self._particles)
        self.points[place] = rows_of(many.points, rows)[0]
        self.log_likelihood[place] = many.log_likelihood.gather(1, rows)[0]
        self.worth[place] = many._worths()[0]
        self._count(place, float(many.stages[0]), many.target.calls)

    def _count(self, place: int, stages: float, calls: int) -> None:
        """Record the work for an observation, whose particles now have equal weights."""
        self.log_weights[place] = 0
        self.stages[place] += stages
        self.again[place] = calls
        self.target.calls += calls

    def by_weight(self, count: int, start: Tensor | None = None) -> Tensor:
        """Return the indices ``[M, C S]`` of particles resampled by weight in each population.

        Args:
            count: S, the number of particles to choose from each population.
            start: Random starts of the resampling ``[M, C]``; None for ``self.start``.
        """
        start = self.start if start is None else start
        picks = systematic(self._by_population(), start.flatten(), count)
        return of_populations(picks, start.shape[1], self._particles)

    def draws(self, count: int, on_part: OnPart = None) -> Draws:
        """Resample ``count`` particles of each population to draws, and compute their latents."""
        rows = self.by_weight(count)
        shape = (*self.start.shape, count)
        points = rows_of(self.points, rows)
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        # Consecutive draws of one particle have the same variables.
        flat = points.flatten(0, 1)
        first = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        first[1:] = (flat[1:] != flat[:-1]).any(dim=1)
        before = self.target.calls
        w = self.target.whitened(flat[first], which[first], on_part)[first.cumsum(0) - 1]
        own = first.view(shape[0], -1).double().sum(dim=1) / first.double().sum()
        again = self.again + (self.target.calls - before) * own
        calls = (before - self.again.sum()) / shape[0] + again
        return Draws(
            w.view(*shape, -1),
            points.view(*shape, -1),
            self.log_likelihood.gather(1, rows).view(shape),
            [NAME] * shape[0],
            calls.cpu(),
            {
                "effective_size": self._worths().minimum(self.worth).cpu(),
                "stages": self.stages.cpu(),
            },
        )

    def _worths(self) -> Tensor:
        """Return the effective sample size of all populations together, ``[M]``."""
        return effective_size(self._by_population()).view_as(self.start).sum(dim=1)

    @property
    def _particles(self) -> int:
        """Number of particles per population, P."""
        return self.log_weights.shape[1] // self.start.shape[1]

    def _by_population(self) -> Tensor:
        """Return log weights ``[M C, P]``."""
        return self.log_weights.reshape(-1, self._particles)


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """Select values ``[M, S, D]`` by row indices, separately for each of M groups.

    Args:
        values: Values ``[M, N, D]``.
        rows: Row indices ``[M, S]``, from 0 to N - 1.
    """
    count, size = values.shape[:2]
    first = torch.arange(count, device=rows.device)[:, None] * size
    return values.flatten(0, 1).index_select(0, (first + rows).flatten()).view(*rows.shape, -1)
