"""From particles of ``p L^b`` to those of the posterior, ``p L``.

In each stage b rises as far as the weights ``L^(b' - b)`` keep an effective sample size of half the
particles. The particles are resampled and then moved by adding and removing noise (``renoising``),
which leaves ``p L^b'`` invariant and separates duplicates, however few particles survived. Before
the first stage, populations that differ by more than chance are moved at the b at which they
arrived, as long as that brings them together: the wider the noise, the more the moves forget their
starting points.
"""

from math import inf, log

import torch
from torch import Tensor

from training.inference.progress import OnPart, share_of
from training.inference.samplers.renoising import Particles, Renoising
from training.inference.weights import largest_exponent, of_populations, systematic
from training.measure.posterior.importance import effective_size

WORTH = 0.5
"""Smallest effective sample size, as a fraction of the particles, before they are resampled."""
LEAST_RISE, ALL = 0.1, 1 - 1e-9
"""Smallest relative rise of b, and the value of b that counts as 1."""
APART, CHANCE = 0.02, 8.0
"""Limit on the variance of the population means relative to that within populations, at which R-hat
is about 1.01, and the expected contribution of chance to it, times the number of particles.
"""
MOST_MOVES, HELPS, LEFT = 8, 0.9, 0.5
"""Limit on the moves until populations agree; largest ratio of their mean distances after and
before a move that is considered to help; and fraction of the work left for the stages where b has
to rise.
"""


def how_far(points: Tensor) -> Tensor:
    """Return the distance ``[..., D]`` between populations in each coordinate.

    The distance is the variance of the population means relative to the variance within
    populations, divided by the limit for agreement: populations disagree if it is above 1.

    Args:
        points: Points of C populations of P particles ``[..., C, P, D]``.
    """
    chains, particles = points.shape[-3:-1]
    if chains == 1:
        return torch.zeros_like(points[..., 0, 0, :])
    means, within = points.mean(dim=-2), points.var(dim=-2).mean(dim=-2)
    return (means.var(dim=-2) / within).nan_to_num() / (APART + CHANCE / particles)


class Narrowing:
    """Stages that move particles from ``p L^b``, with prior p and likelihood L, to the posterior.

    The exponent b rises to 1, and the particles belong to one observation.
    Populations of particles are independent except for comparisons between them.

    Args:
        renoising: Markov moves of the posterior.
        chains: Number of populations, C.
        step: First index of the random numbers to use.
        most_calls: Limit on network evaluations per particle for the moves. If the moves would
            exceed the limit, there are fewer moves before b rises, and b rises faster.

    Attributes:
        target: The posterior of the observation.
        worth: Smallest effective sample size of all populations together.
        stages: Number of resamplings.
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
        """Resample and move particles until they follow the posterior.

        Args:
            particles: C P particles of ``p L^b``.
            log_weights: Log weights of the particles, ``[C, P]``.
            exponent: Exponent b.
            apart: Whether the populations disagree.
            on_part: Called with the fraction of the work done since the last call.
        """
        first, left = exponent, 1.0
        if apart:
            left = LEFT if exponent < 1 else 0.0
            particles = self._by_weight(particles, log_weights)
            log_weights = torch.zeros_like(log_weights)
            particles = self._moved_on(particles, exponent, 1 - left, on_part)
            if exponent < 1:  # moves make duplicates independent again
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
        """Move particles of ``p L^b`` once."""
        before = self.target.calls
        particles, self._step = self._renoising.moved(particles, exponent, self._step)
        self._of_last = (self.target.calls - before) / len(particles.states)
        self._calls += self._of_last
        return particles

    def _needed_rise(self, exponent: float) -> float:
        """Return the smallest rise of b that the remaining network evaluations allow.

        Moves take fewer evaluations as b rises, and few at b = 1.
        """
        left = self._most_calls - self._calls
        moves = max(1, 2 * left / self._of_last) if self._of_last else inf
        return exponent * (exponent ** (-1 / moves) - 1)

    def _moved_on(
        self, particles: Particles, exponent: float, share: float, on_part: OnPart
    ) -> Particles:
        """Move particles as long as that brings populations together.

        Moves take at most a share of the work.
        """

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
        """Resample particles by weights ``[C, P]``, within each population."""
        self.worth = min(self.worth, float(effective_size(log_weights).sum()))
        self.stages += 1
        count = log_weights.shape[1]
        uniform = self._renoising.noise.uniform(self._step, 1)[0]
        self._step += 1
        picks = systematic(log_weights, uniform.view(self._chains, -1)[:, 0], count)
        return particles.taken(of_populations(picks, self._chains, count)[0])
