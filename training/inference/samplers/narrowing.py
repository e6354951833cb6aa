"""From particles of ``p L^b`` to those of the posterior, ``p L``.

Each time b rises as far as weights ``L^(b' - b)`` are worth half of the particles. These are taken,
and moved by noise that is put on them and taken off again (``renoising``), which leaves ``p L^b'``
as it is: so each has a place of its own, however few came through. Before, while b is what they
arrived with, they are moved as long as that brings populations together that are farther apart than
chance has them: the wider the noise is, the more of where they began moves forget.
"""

from math import inf, log

import torch
from torch import Tensor

from training.inference.progress import OnPart, share_of
from training.inference.samplers.renoising import Particles, Renoising
from training.inference.weights import largest_exponent, of_populations, systematic
from training.measure.posterior.importance import effective_size

WORTH = 0.5
"""Part of the particles that weights are worth at least: else they are taken by weight."""
LEAST_RISE, ALL = 0.1, 1 - 1e-9
"""Of b, in parts of itself; and what is as good as 1."""
APART, CHANCE = 0.02, 8.0
"""Variance of the means of populations, over that within them, up to which they agree: R-hat is
then about 1.01; and what chance adds, over the number of particles."""
MOST_MOVES, HELPS, LEFT = 8, 0.9, 0.5
"""Moves until they agree, at most; what is left, in the mean over coordinates, of how far they are
apart after one that helps; and the part of the work that is then left, where b has to rise."""


def how_far(points: Tensor) -> Tensor:
    """How far populations ``[..., C, P, D]`` are apart in each coordinate, ``[..., D]``: variances
    of their means over those within them, over that up to which they agree."""
    chains, particles = points.shape[-3:-1]
    if chains == 1:
        return torch.zeros_like(points[..., 0, 0, :])
    means, within = points.mean(dim=-2), points.var(dim=-2).mean(dim=-2)
    return (means.var(dim=-2) / within).nan_to_num() / (APART + CHANCE / particles)


class Narrowing:
    """Of the particles of one observation, in populations that know nothing of each other but
    whether they agree.

    Args:
        renoising: The moves of its posterior.
        chains: Populations, C.
        step: The first number of random numbers.
        most_calls: Network calls that the moves of a particle may take. Where they would take
            more, it is moved on less, and b rises faster.

    Attributes:
        target: The posterior.
        worth: What weights were worth, of all populations, where they were worth least.
        stages: How often particles were taken by weight.
    """

    def __init__(self, renoising: Renoising, chains: int, step: int, most_calls: float = inf):
        self._renoising, self._chains, self._step = renoising, chains, step
        self.target = renoising.target
        self._most_calls, self._calls, self._of_last = most_calls, 0.0, 0.0
        self.worth, self.stages = torch.inf, 0

    def narrowed(
        self,
        particles: Particles,
        log_weights: Tensor,
        exponent: float,
        apart: bool,
        on_part: OnPart = None,
    ) -> Particles:
        """Particles of the posterior, as many as there were, ``[C P]``.

        Args:
            particles: Those of ``p L^b``, ``[C P]``.
            log_weights: Theirs, ``[C, P]``.
            exponent: b.
            apart: Whether their populations are.
            on_part: Called with the part of the work that was done.
        """
        first, left = exponent, 1.0
        if apart:
            left = LEFT if exponent < 1 else 0.0
            particles = self._by_weight(particles, log_weights)
            log_weights = torch.zeros_like(log_weights)
            particles = self._moved_on(particles, exponent, 1 - left, on_part)
            if exponent < 1:  # moves forget how few these came from
                self.worth = torch.inf
        while exponent < 1:
            own = particles.log_likelihood.view(self._chains, -1)
            most, worth = torch.full_like(own[:, 0], 1 - exponent), WORTH * own.shape[1]
            rises = largest_exponent(own, most, worth, log_weights)
            least = max(LEAST_RISE * exponent, self._needed_rise(exponent))
            before, rise = exponent, max(float(rises.median()), least)
            exponent = 1.0 if exponent + rise > ALL else exponent + rise
            log_weights = log_weights + (exponent - before) * own
            particles = self._moved(self._by_weight(particles, log_weights), exponent)
            log_weights = torch.zeros_like(log_weights)
            if on_part:
                on_part(left * log(before / exponent) / log(first))
        return particles

    def _moved(self, particles: Particles, exponent: float) -> Particles:
        """Particles of ``p L^b`` once more."""
        before = self.target.calls
        particles, self._step = self._renoising.moved(particles, exponent, self._step)
        self._of_last = (self.target.calls - before) / len(particles.states)
        self._calls += self._of_last
        return particles

    def _needed_rise(self, exponent: float) -> float:
        """Of b, so that the calls that are left suffice: moves need ever fewer, at b = 1 few."""
        left = self._most_calls - self._calls
        moves = max(1, 2 * left / self._of_last) if self._of_last else inf
        return exponent * (exponent ** (-1 / moves) - 1)

    def _moved_on(
        self, particles: Particles, exponent: float, share: float, on_part: OnPart
    ) -> Particles:
        """The same, as long as that brings populations together, and takes no more than a share of
        the work."""

        def far() -> Tensor:
            return how_far(particles.points.view(self._chains, -1, particles.points.shape[1]))

        most, on_part = share * self._most_calls, share_of(on_part, share)
        before, now, moves = torch.tensor(torch.inf), far(), 0
        while moves < MOST_MOVES and self._calls + self._of_last <= most:
            if now.amax() <= 1 or now.mean() > HELPS * before:
                break
            particles = self._moved(particles, exponent)
            before, now, moves = now.mean(), far(), moves + 1
            if on_part:
                on_part(1 / MOST_MOVES)
        if on_part:
            on_part(1 - moves / MOST_MOVES)
        return particles

    def _by_weight(self, particles: Particles, log_weights: Tensor) -> Particles:
        """Particles that are taken by weights ``[C, P]``, within each population."""
        self.worth = min(self.worth, float(effective_size(log_weights).sum()))
        self.stages += 1
        count = log_weights.shape[1]
        uniform = self._renoising.noise.uniform(self._step, 1)[0]
        self._step += 1
        picks = systematic(log_weights, uniform.view(self._chains, -1)[:, 0], count)
        return particles.taken(of_populations(picks, self._chains, count)[0])
