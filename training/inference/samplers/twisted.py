"""Particles that come down the reverse diffusion, and see the observation from afar.

A twisted particle filter (Wu, Trippe, Naesseth, Blei and Cunningham 2023; Whiteley and Lee 2014)
on times ``t_K > ... > t_0``, with m, V, A and R of ``lookahead``, and noise g above the first time.
Given its end x_0, a state goes back by the Gaussian bridge

    x_k | x_{k+1}, x_0 ~ N(x_{k+1} + a (x_0 - x_{k+1}), b),
        a = 1 - g_k / g_{k+1},      b = g_k (g_{k+1} - g_k) / g_{k+1},

and the end is about ``N(m, V)`` under the prior, and ``N(m + G (y - A m), S)`` given y as well,
with ``G = V A^T (A V A^T + R)^-1`` and ``S = (I - G A) V (I - G A)^T + G R G^T``. So particles

    move by   q(x_k | x_{k+1}) = N(x_{k+1} + a (m + G (y - A m) - x_{k+1}), b + a S a),
    weigh     p(x_k | x_{k+1}) psi_k(x_k) / (q(x_k | x_{k+1}) psi_{k+1}(x_{k+1})),

with p the same without y, and ``psi_k = N(y; A m(x_k), A V_k A^T + R)``, times the factor for
curved columns; psi_0 is the likelihood itself. Weights are exact whatever psi is: with many
particles, draws are those of the posterior under the prior that p makes of all steps. That is the
diffusion, not the flow; both have the same law if the denoiser is exact and steps are many.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from training.inference.draws import Draws
from training.inference.lookahead import (
    LookAhead,
    Sight,
    added_noise,
    calls_to_look,
    expected_end,
    log_normal,
    log_standard,
    require_lookahead,
)
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.progress import OnPart, share_of
from training.inference.target import Target
from training.inference.weights import require_some, systematic
from training.measure.posterior.importance import effective_size
from training.names import PARTICLE_STEPS, PARTICLES

NAME = "twisted"
WORTH = 0.5
"""Part of the particles that weights are worth at least: else they are taken by weight."""
DTYPE = torch.float32
"""Of states, and of one step's changes of weights: noise of the first time is far above rounding.
Covariances are decomposed, and weights summed, in float64, and so are points and their
likelihood."""
AT_ONCE = 2**21
"""Numbers of the particles that move at once, if they are of more than one observation. CPUs are
slower with larger tensors: the allocator returns their memory, and asks the system for it again."""


def twist(
    target: Target,
    seed: int,
    numbers: list[int],
    chains: int,
    draws: int,
    particles: int | None = None,
    on_part: OnPart = None,
    ahead: LookAhead | None = None,
) -> Draws:
    """Draws ``[M, C, S]`` of each observation's posterior, from C populations that know nothing of
    each other.

    Args:
        target: The posteriors; Gaussian ones, see ``lookahead``.
        seed: Of all random numbers.
        numbers: The number of each observation, by which it is seeded.
        chains: C.
        draws: S of each population.
        particles: Of each population; None for ``PARTICLES``, or S if that is more.
        on_part: Called with the part of the work that was done.
        ahead: What further observations share with these; None if there are none.

    Raises:
        UsageError: There is no lookahead on this likelihood.
        DataError: The likelihood is 0 at all particles.
    """
    require_lookahead(target)
    size = particles or max(draws, PARTICLES)
    ahead = ahead or LookAhead(PARTICLE_STEPS, seed, 1 / target.count)
    times, errors = ahead.measured(target)
    shared = ahead.share * ahead.calls
    moved, latents = _calls_of_a_population(target.prior, ahead.steps, draws, size)
    most = max(1, AT_ONCE // (chains * size * target.dim))
    parts = []
    for places in torch.split(torch.arange(target.count, device=target.device), most):
        own = [numbers[place] for place in places.tolist()]
        noise = Noise(seed, own, chains * size, target.device, chunk=1, dtype=DTYPE)
        cloud = _Cloud(target.of(places), times, errors, noise, chains, size)
        for step in reversed(range(ahead.steps)):
            cloud.resample(WORTH, step)
            cloud.move(step)
            if on_part:
                on_part(len(places) / target.count * moved / (moved + latents) / ahead.steps)
        left = len(places) / target.count * latents / (moved + latents)
        part = cloud.draws(draws, share_of(on_part, left))
        parts.append(replace(part, calls=part.calls + shared))
    return Draws.joined(parts)


def calls_of(
    target: Target, count: int, steps: int, chains: int, draws: int, particles: int | None
) -> float:
    """Network calls that ``twist`` takes for so many observations: at most, since draws that are of
    one particle share theirs."""
    size, prior = particles or max(draws, PARTICLES), target.prior
    each = chains * sum(_calls_of_a_population(prior, steps, draws, size))
    return calls_to_look(prior, steps) + count * each


def _calls_of_a_population(prior: Prior, steps: int, draws: int, size: int) -> tuple[int, int]:
    """To move its particles, and for the latents of its draws."""
    return size * (steps + 1), min(size, draws) * prior.calls("latents")


class _Cloud:
    """Particles ``[M, C P]`` on their way, with their weights."""

    _m: Tensor
    _psi: Tensor
    _points: Tensor

    def __init__(
        self,
        target: Target,
        times: Tensor,
        errors: Sequence[Tensor],
        noise: Noise,
        chains: int,
        particles: int,
    ):
        self._target = target
        # Psi is free to be too wide: weights are exact.
        self._sight = Sight.of(target).blurred(errors[-1], DTYPE)
        self._chains, self._particles = chains, particles
        self._times, self._errors, self._noise = times, errors, noise
        self._added = added_noise(target, times)
        rows = torch.arange(target.count * chains * particles, device=target.device)
        self._which = rows // (chains * particles)
        self._steps = len(times) - 1
        normal = noise.normal(self._steps + 1, target.dim).flatten(0, 1).double()
        start = target.melted(normal, self._which).to(DTYPE)
        self._x = start.view(target.count, -1, target.dim)
        self._look(self._steps)
        self._log_weights = self._psi.clone()
        self._stages = torch.zeros(target.count, dtype=torch.float64, device=target.device)

    def resample(self, worth: float, step: int) -> None:
        """Takes particles by weight in populations whose weights are worth less than this part."""
        weights = self._by_population(self._log_weights)
        going = effective_size(weights) < worth * self._particles
        if not going.any():
            return
        start = self._by_population(self._noise.uniform(step, 1)[..., 0])[:, 0]
        picks = systematic(weights, start, self._particles)
        own = torch.arange(self._particles, device=picks.device)
        rows = self._rows(torch.where(going[:, None], picks, own))
        self._x, self._m = _taken(self._x, rows), _taken(self._m, rows)
        self._psi = self._psi.gather(1, rows)
        self._log_weights = torch.where(going[:, None], 0, weights).view_as(self._psi)
        self._stages += going.view(-1, self._chains).double().mean(dim=1)

    def move(self, step: int) -> None:
        """Moves from time ``step + 1`` to ``step``, and weighs."""
        here, there = self._added[step + 1], self._added[step]
        a, b = 1 - there / here, there * (here - there) / here
        error = self._errors[step + 1]
        gain, spread = self._given_observation(error)
        of_prior = torch.linalg.cholesky(torch.diag(b) + a[:, None] * error * a)
        of_both = torch.linalg.cholesky(torch.diag_embed(b) + a[:, None] * spread * a)
        off = self._sight.observed[:, None].to(DTYPE) - self._m @ self._sight.operator.T.to(DTYPE)
        normal = self._noise.normal(step, self._target.dim)
        pull = (a[:, None] * gain).mT.to(DTYPE)
        move = torch.baddbmm(off @ pull, normal, of_both.mT.to(DTYPE))
        gained = log_normal(move, of_prior) - log_standard(normal, of_both)
        self._x = self._x.lerp(self._m, a.to(DTYPE)).add_(move)
        old = self._psi
        if step:
            self._look(step)
        else:
            self._arrive()
        self._log_weights = self._log_weights + gained + self._psi - old

    def draws(self, count: int, on_part: OnPart = None) -> Draws:
        """So many of each population, by weight; tells how far their latents are."""
        weights = self._by_population(self._log_weights)
        require_some(weights)
        start = self._by_population(self._noise.uniform(self._steps, 1)[..., 0])[:, 0]
        rows = self._rows(systematic(weights, start, count))
        shape = (self._target.count, self._chains, count)
        points = _taken(self._points, rows)
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        # Draws of one particle, which follow each other, have the same variables.
        flat = points.flatten(0, 1)
        first = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        first[1:] = (flat[1:] != flat[:-1]).any(dim=1)
        before = self._target.calls
        w = self._target.whitened(flat[first], which[first], on_part)[first.cumsum(0) - 1]
        own = first.view(shape[0], -1).double().mean(dim=1).cpu() / first.double().mean().cpu()
        calls = (before + (self._target.calls - before) * own) / shape[0]
        worth = effective_size(weights).view(-1, self._chains).sum(dim=1)
        return Draws(
            w.view(*shape, -1),
            points.view(*shape, -1),
            self._psi.gather(1, rows).view(shape),
            [NAME] * shape[0],
            calls,
            {"effective_size": worth.cpu(), "stages": self._stages.cpu()},
        )

    def _look(self, step: int) -> None:
        """Expected ends, and psi."""
        flat = expected_end(self._target, self._x.flatten(0, 1), self._times[step], self._which)
        self._m = flat.view_as(self._x)
        self._psi = self._sight.log_prob(self._m, self._errors[step]).double()

    def _arrive(self) -> None:
        """Points, and their likelihood."""
        target = self._target
        points = target.of_states(self._x.flatten(0, 1).double(), self._which)
        log_likelihood = target.likelihood.log_prob(points, target.observed[self._which])
        self._points, self._psi = points.view_as(self._x), log_likelihood.view(target.count, -1)

    def _given_observation(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """``G [M, D, K]`` and ``S [M, D, D]``, of ``V [D, D]``."""
        operator, noise = self._sight.operator, self._sight.covariance
        crossed = error @ operator.T
        seen = torch.linalg.cholesky(operator @ crossed + noise)
        gain = torch.cholesky_solve(crossed.T.expand(len(seen), -1, -1), seen).mT
        rest = torch.eye(len(error), dtype=gain.dtype, device=gain.device) - gain @ operator
        return gain, rest @ error @ rest.mT + gain @ noise @ gain.mT

    def _by_population(self, values: Tensor) -> Tensor:
        """``[M, C P]`` as ``[M C, P]``."""
        return values.reshape(-1, self._particles)

    def _rows(self, picks: Tensor) -> Tensor:
        """Picks ``[M C, S]`` of populations as numbers ``[M, C S]`` of an observation's
        particles."""
        first = self._particles * torch.arange(self._chains, device=picks.device)
        shaped = picks.view(self._target.count, self._chains, -1) + first[:, None]
        return shaped.flatten(1)


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """``[M, N, D]`` at rows ``[M, S]``."""
    count, size = values.shape[:2]
    first = torch.arange(count, device=rows.device)[:, None] * size
    return values.flatten(0, 1).index_select(0, (first + rows).flatten()).view(*rows.shape, -1)
