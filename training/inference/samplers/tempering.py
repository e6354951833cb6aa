"""Tempered sequential Monte Carlo (Del Moral, Doucet and Jasra 2006; Neal 2001).

Particles start as draws of the prior. The likelihood's exponent rises from 0 to 1, each time by as
much as keeps an effective sample size of half the particles (Jasra, Stephens, Doucet and Tsagaris
2011). Particles are then resampled and moved at that exponent. Some moves are Crank-Nicolson steps;
the others are along differences of particles of the same population,

   w' = w + g (w_a - w_b),      g = 2.38 / sqrt(2 d) times 2, 1, 1/2, 1/4 or 1/8; or 1,

(differential evolution; ter Braak 2006). These differences have the shape and the size of the
posterior, and g = 1 jumps from mode to mode. Each half of a population moves along differences of
the other half. Each observation has its own exponents.
"""

import torch
from torch import Tensor

from training.inference.draws import (
    Draws,
    OnPart,
    evidence_of,
    largest_exponent,
    require_some,
    systematic,
)
from training.inference.noise import Noise
from training.inference.target import Target
from training.measure.posterior.importance import log_mean

WANTED = 0.3
"""Target acceptance rate, near the optimum for random walks (Roberts and Rosenthal 2001)."""
FIRST, LEAST = 0.5, 1e-4
"""First and smallest step size."""
WORTH = 0.5
"""Effective sample size of the weights, as a fraction of the particles."""
MOVES = 8
"""Number of moves at each exponent."""
LAST_MOVES = 24
"""Number of moves at the last exponent, after which duplicated particles have separated."""
WALKS = 4
"""Interval of Crank-Nicolson steps among all moves."""
LENGTHS = (2.0, 1.0, 0.5, 0.25, 0.125)
"""Factors on the step length along differences that is best for a normal distribution."""
JUMPS = 0.1
"""Fraction of moves along differences that have the full length of a difference."""
ARRIVED = 1e-9
"""Distance from 1 at which an exponent counts as 1."""


def temper(target: Target, noise: Noise, chains: int, particles: int, on_part: OnPart) -> Draws:
    """Sample each posterior by tempered sequential Monte Carlo.

    The populations of particles are independent, so that they can be compared like chains.

    Args:
        target: The posteriors.
        noise: Random numbers of C P chains.
        chains: Number of populations, C.
        particles: Number of particles per population, P.
        on_part: Called with the mean rise of the exponents since the last call.

    Returns:
        P draws of equal weight from each of the C populations of each observation.

    Raises:
        DataError: The likelihood is 0 at all particles of a population.
    """
    swarm, step = _Particles(target, noise, chains, particles), 1
    while (swarm.exponent < 1).any():
        before = float(swarm.exponent.mean())
        going = swarm.raise_exponents(noise.uniform(step, 1))
        last = swarm.exponent >= 1
        for move in range(LAST_MOVES):
            step += 1
            moving = going & (last | (move < MOVES))
            if moving.any() and move % WALKS:
                for half in range(2):
                    swarm.differ(moving, step, half)
            elif moving.any():
                swarm.move(moving, step)
        step += 1
        if on_part:
            on_part(float(swarm.exponent.mean()) - before)
    return swarm.draws()


class _Particles:
    """Particles of G populations (C for each of M posteriors) and their likelihood exponents."""

    def __init__(self, target: Target, noise: Noise, chains: int, particles: int):
        self._target, self._noise = target, noise
        self._shape = (target.count, chains, particles)
        groups = target.count * chains
        rows = torch.arange(groups * particles, device=target.device)
        self._which, self._group = rows // (chains * particles), rows // particles
        self._w = noise.normal(0, target.dim).flatten(0, 1)
        self._points, self._log_likelihood = target.evaluate(self._w, self._which)
        self.exponent = torch.zeros(groups, dtype=torch.float64, device=target.device)
        self._size = torch.full_like(self.exponent, FIRST)
        self._stages = torch.zeros_like(self.exponent)
        self._evidence = torch.zeros_like(self.exponent)
        require_some(self._log_likelihood.view(groups, particles))

    def raise_exponents(self, uniform: Tensor) -> Tensor:
        """Raise the exponents and resample; return a mask ``[G]`` of the affected populations.

        Args:
            uniform: Uniform random numbers, one per particle.
        """
        particles = self._shape[2]
        going = self.exponent < 1
        log_likelihood = self._log_likelihood.view(-1, particles)
        # Particles without likelihood drop out at the first exponent, however many they are.
        worth = WORTH * log_likelihood.isfinite().sum(dim=1)
        rise = largest_exponent(log_likelihood, 1 - self.exponent, worth)
        start = uniform.view(-1, particles)[:, 0]
        mean, _ = log_mean(rise[:, None] * log_likelihood)
        self._evidence += torch.where(going, mean, 0)
        picks = systematic(rise[:, None] * log_likelihood, start, particles)
        # Populations at the exponent 1 stay as they are.
        own = torch.arange(particles, device=picks.device)
        picks = torch.where(going[:, None], picks, own)
        first = particles * torch.arange(len(picks), device=picks.device)[:, None]
        rows = (first + picks).flatten()
        parts = (self._w, self._points, self._log_likelihood)
        self._w, self._points, self._log_likelihood = (part[rows] for part in parts)
        reached = self.exponent + torch.where(going, rise, 0)
        self.exponent = torch.where(reached > 1 - ARRIVED, 1, reached)
        self._stages += going
        return going

    def differ(self, moving: Tensor, step: int, half: int) -> None:
        """Move half of the particles along differences between particles of the other half.

        This is a step of differential evolution, followed by Metropolis acceptance.

        Args:
            moving: Mask ``[G]`` of the populations to move.
            step: Index of the random numbers.
            half: Half to move, 0 or 1.
        """
        particles, dim = self._shape[2], self._target.dim
        own = torch.arange(half, particles, 2, device=moving.device)
        others = torch.arange(1 - half, particles, 2, device=moving.device)
        if len(others) < 2:
            return
        groups = moving.nonzero()[:, 0]
        uniform = self._noise.uniform(step, 5).view(-1, particles, 5)[groups][:, own]
        first = (uniform[..., 0] * len(others)).long()
        # Choose another particle than the first.
        second = (first + 1 + (uniform[..., 1] * (len(others) - 1)).long()) % len(others)
        sizes = 2.38 / (2 * dim) ** 0.5 * torch.tensor(LENGTHS).to(uniform)
        scale = sizes[(uniform[..., 2] * len(LENGTHS)).long()]
        scale = torch.where(uniform[..., 3] < JUMPS, 1.0, scale)
        w = self._w.view(-1, particles, dim)[groups]
        one, other = (
            w.gather(1, others[k][..., None].expand(-1, -1, dim)) for k in (first, second)
        )
        before = w[:, own]
        proposed = (before + scale[..., None] * (one - other)).flatten(0, 1)
        rows = (particles * groups[:, None] + own).flatten()
        evaluated = self._target.evaluate(proposed, self._which[rows])
        exponent = self.exponent[self._group[rows]]
        gain = exponent * (evaluated.log_likelihood - self._log_likelihood[rows])
        gain += (before.flatten(0, 1).square() - proposed.square()).sum(dim=1) / 2
        fits = uniform[..., 4].flatten().log() < gain
        taken = rows[fits]
        self._w[taken], self._points[taken] = proposed[fits], evaluated.points[fits]
        self._log_likelihood[taken] = evaluated.log_likelihood[fits]

    def move(self, moving: Tensor, step: int) -> None:
        """Move particles by a preconditioned Crank-Nicolson step.

        Args:
            moving: Mask ``[G]`` of the populations to move.
            step: Index of the random numbers.
        """
        rows = moving[self._group].nonzero()[:, 0]
        group, which = self._group[rows], self._which[rows]
        size = self._size[group][:, None]
        xi = self._noise.normal(step, self._target.dim).flatten(0, 1)[rows]
        proposed = (1 - size.square()).sqrt() * self._w[rows] + size * xi
        other = self._target.evaluate(proposed, which)
        gain = self.exponent[group] * (other.log_likelihood - self._log_likelihood[rows])
        fits = self._noise.uniform(step, 1).flatten()[rows].log() < gain
        taken = rows[fits]
        self._w[taken], self._points[taken] = proposed[fits], other.points[fits]
        self._log_likelihood[taken] = other.log_likelihood[fits]
        accepted = torch.zeros_like(self._log_likelihood)
        accepted[rows] = gain.exp().clamp_max(1).nan_to_num()
        change = accepted.view(-1, self._shape[2]).mean(dim=1) - WANTED
        change = torch.where(moving, change, 0)
        self._size = (self._size.log() + change).exp().clamp(LEAST, 1)

    def draws(self) -> Draws:
        count = self._shape[0]
        return Draws.by(
            "smc",
            self._shape,
            self._w,
            self._points,
            self._log_likelihood,
            self._target.calls / count,
            {
                "step_size": self._size.view(count, -1).mean(dim=1).cpu(),
                "stages": self._stages.view(count, -1).mean(dim=1).cpu(),
                **evidence_of(self._evidence.view(count, -1)),
            },
        )
