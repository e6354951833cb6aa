"""Weighted particles that have come down to the first time, and what is made of them."""

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
class Arrived:
    """Particles of C populations of P for each of M observations.

    Attributes:
        target: The observations.
        states: ``[M, C P, D]``.
        points: ``[M, C P, D]``.
        log_likelihood: ``[M, C P]``.
        log_weights: ``[M, C P]``; those of each island sum up to 1.
        exponent: Powers b of likelihoods by which they are weighed, ``[M]``.
        start: Where even steps through the weights of each population begin, ``[M, C]``.
        stages: How often particles were taken by weight, ``[M]``.
        again: Network calls since, ``[M]``.
        worth: What weights were worth where they were worth least, since, ``[M]``.
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
        """How far populations are apart on each observation, in the coordinate where they are
        farthest, ``[M]``."""
        rows = self.by_weight(self._particles, torch.full_like(self.start, 0.5))
        shape = (*self.start.shape, self._particles, -1)
        return how_far(rows_of(self.points, rows).view(shape)).amax(dim=1)

    def narrow(self, place: int, narrowing: Narrowing, apart: bool, on_part: OnPart) -> None:
        """Moves an observation's particles until its noise is its own again."""
        own = Particles(self.states[place], self.points[place], self.log_likelihood[place])
        log_weights = self.log_weights[place].view(self.start.shape[1], -1)
        own = narrowing.narrowed(own, log_weights, float(self.exponent[place]), apart, on_part)
        self.points[place], self.log_likelihood[place] = own.points, own.log_likelihood
        self.worth[place] = narrowing.worth
        self._count(place, narrowing.stages, narrowing.target.calls)

    def take(self, place: int, many: "Arrived") -> None:
        """Takes an observation's particles from many more of it alone."""
        rows = many.by_weight(self._particles)
        self.points[place] = rows_of(many.points, rows)[0]
        self.log_likelihood[place] = many.log_likelihood.gather(1, rows)[0]
        self.worth[place] = many._worths()[0]
        self._count(place, float(many.stages[0]), many.target.calls)

    def _count(self, place: int, stages: float, calls: int) -> None:
        """Of what was done for an observation whose particles now weigh alike."""
        self.log_weights[place] = 0
        self.stages[place] += stages
        self.again[place] = calls
        self.target.calls += calls

    def by_weight(self, count: int, start: Tensor | None = None) -> Tensor:
        """So many particles of each population, ``[M, C S]``."""
        start = self.start if start is None else start
        picks = systematic(self._by_population(), start.flatten(), count)
        return of_populations(picks, start.shape[1], self._particles)

    def draws(self, count: int, on_part: OnPart = None) -> Draws:
        """So many of each population; tells how far their latents are."""
        rows = self.by_weight(count)
        shape = (*self.start.shape, count)
        points = rows_of(self.points, rows)
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        # Draws of one particle, which follow each other, have the same variables.
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
        """What weights are worth, of all populations together, ``[M]``."""
        return effective_size(self._by_population()).view_as(self.start).sum(dim=1)

    @property
    def _particles(self) -> int:
        """Of a population, P."""
        return self.log_weights.shape[1] // self.start.shape[1]

    def _by_population(self) -> Tensor:
        """Log weights ``[M C, P]``."""
        return self.log_weights.reshape(-1, self._particles)


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """``[M, N, D]`` at rows ``[M, S]``."""
    count, size = values.shape[:2]
    first = torch.arange(count, device=rows.device)[:, None] * size
    return values.flatten(0, 1).index_select(0, (first + rows).flatten()).view(*rows.shape, -1)
