"""Particles that follow the reverse diffusion, guided by the observation from the start.

This is a twisted particle filter (Wu, Trippe, Naesseth, Blei and Cunningham 2023; Whiteley and Lee
2014) on times ``t_K > ... > t_0``, with m, V, A and R of ``lookahead``, and noise variance g above
the first time. Given its end x_0, a state follows the Gaussian bridge

    x_k | x_{k+1}, x_0 ~ N(x_{k+1} + a (x_0 - x_{k+1}), b),
        a = 1 - g_k / g_{k+1},      b = g_k (g_{k+1} - g_k) / g_{k+1},

and the end is approximately ``N(m, V)`` under the prior. The prior process p therefore takes steps
``a (m - x_{k+1}) + u``, ``u ~ N(0, b + a V a)``, after which ``y ~ N(A m + H u, Q)``
(``low_rank``). A step given y as well is a step of p, plus a correction by the difference of y from
an observation y' simulated after that step (Matheron's rule; Journel and Huijbregts 1978):

    u + a V A^T (A V A^T + R)^-1 (y - y'),      y' ~ N(A m + H u, Q).

Thus only matrices of the size of the observation are decomposed. Particles have the weights

    p(x_k | x_{k+1}) psi_k(x_k) / (q(x_k | x_{k+1}) psi_{k+1}(x_{k+1})),
        p(x_k | x_{k+1}) / q(x_k | x_{k+1}) = N(y; A m, A V A^T + R) / N(y; A m + H u, Q),

with the step u that was taken, and ``psi_k = N(y; A m(x_k), A V_k A^T + R)``, times the factor for
curved columns; psi_0 is the likelihood itself. Then x_k and m are corrected to second order
(``Diffusion``), as those of the prior are. Weights are exact for any psi: with many particles,
draws follow the posterior under the prior that the steps of p define. That prior is the
diffusion's,
not the flow's; both agree if the denoiser is exact and there are many steps.

Where psi misses a part of the posterior, weights have long tails, and a few particles that reached
this part decide among many. Populations of more than ``ISLAND`` particles are therefore divided
into islands, which are independent and count equally.
"""

from math import ceil, inf, log

import torch
from torch import Tensor

from training.inference.lookahead import (
    LinearObservation,
    LookAhead,
    added_noise,
    expected_end,
    log_normal,
)
from training.inference.noise import Noise
from training.inference.progress import OnPart
from training.inference.samplers.final_particles import FinalParticles, rows_of
from training.inference.samplers.narrowing import WORTH
from training.inference.samplers.renoising import Diffusion, Renoising
from training.inference.target import Target
from training.inference.weights import of_populations, require_some, systematic
from training.measure.posterior.importance import effective_size

ENOUGH = 256
"""Effective sample size from which R is never widened."""
ISLAND = 2**11
"""Largest number of particles that are resampled together."""
MOST_WIDER, BISECTIONS = 2.0, 10
"""Largest change of log b in a step, and number of bisections to find the change needed."""
DTYPE = torch.float32
"""Data type of states, and of the changes of weights in a step: the noise of the first time is far
above rounding. Covariances are decomposed, weights summed, and points and their likelihoods
computed in float64.
"""
MOST_NUMBERS = 2**24
"""Limit on the number of values of one observation's particles, where it is run again with more
particles.
"""


class Descent:
    """Weighted particles of a reverse diffusion to the first (least noisy) time.

    Each of M observations has C populations of P particles.

    Args:
        target: Posteriors of M observations, which share their conditions.
        ahead: Look-ahead estimates.
        noise: Random numbers of C P particles for each observation.
        chains: Number of populations, C.
        least_worth: Limit on the effective sample size, as a fraction of the particles. Below this
            limit and ``ENOUGH``, the covariance of the observation noise is increased; 0 to never
            increase the covariance.
    """

    _m: Tensor
    _spread: Tensor
    _psi: Tensor

    def __init__(
        self, target: Target, ahead: LookAhead, noise: Noise, chains: int, least_worth: float
    ):
        seen = ahead.measured(target)
        added = added_noise(target, seen.times)
        self._target, self._ahead, self._noise, self.chains = target, ahead, noise, chains
        self._diffusion = diffusion = Diffusion(seen.times, seen.errors, added)
        # Psi may be too wide, as weights are exact for any psi.
        self._linear = LinearObservation.from_target(target).blurred(diffusion.errors[-1], DTYPE)
        self._exponent = torch.ones(target.count, dtype=torch.float64, device=target.device)
        self._seen = self._linear  # with R / b
        size = noise.chains // chains
        self._islands = chains * islands_of(size)
        self._particles = noise.chains // self._islands
        self._least_worth = min(least_worth * size, ENOUGH)
        self._moves: dict[int, Renoising] = {}
        rows = torch.arange(target.count * noise.chains, device=target.device)
        self._which = rows // noise.chains
        self.steps = len(diffusion.times) - 1
        normal = noise.normal(self.steps + 1, target.dim).flatten(0, 1).double()
        start = target.melted(normal, self._which).to(DTYPE)
        self._x = start.view(target.count, -1, target.dim)
        self._look(self.steps)
        self._log_weights = self._psi.clone()
        self._stages = torch.zeros(target.count, dtype=torch.float64, device=target.device)

    def arrived(self, on_part: OnPart = None) -> FinalParticles:
        """Run the particles to the first (least noisy) time; return them with their weights.

        Args:
            on_part: Called with the fraction of the work done since the last call.
        """
        for step in reversed(range(self.steps)):
            self._resample(step)
            self._move(step)
            if on_part:
                on_part(1 / self.steps)
        target = self._target
        points = target.of_states(self._x.flatten(0, 1).double(), self._which)
        log_likelihood = target.likelihood.log_prob(points, target.observed[self._which])
        log_likelihood = log_likelihood.view(target.count, -1)
        log_weights = self._by_island(self._log_weights + self._exponent[:, None] * log_likelihood)
        require_some(log_weights)
        start = self._noise.uniform(self.steps, 1)[..., 0].view(target.count, self.chains, -1)
        return FinalParticles(
            target,
            self._x,
            points.view_as(self._x),
            log_likelihood,
            log_weights.log_softmax(dim=1).view_as(log_likelihood),
            self._exponent,
            start[..., 0],
            self._stages,
        )

    def alone(self, place: int, times: int) -> "Descent":
        """Return a new descent of one observation with more particles and the true noise only.

        Its observation noise is never widened.

        Args:
            place: Index of the observation.
            times: Factor on the number of particles.
        """
        own = self._target.of(torch.tensor([place], device=self._target.device))
        noise = self._noise.alone(place, self._noise.chains * times)
        return Descent(own, self._ahead, noise, self.chains, 0.0)

    def affordable(self, most_calls: float) -> int:
        """Return the largest affordable factor on the number of particles.

        Args:
            most_calls: Limit on the network evaluations per present particle; inf gives a factor
                of 1.
        """
        most = MOST_NUMBERS // self._x[0].numel()
        return min(int(most_calls / (self.steps + 1)), most) if most_calls < inf else 1

    def moves(self, place: int) -> Renoising:
        """Return the Markov moves for one observation's particles at the first, least noisy time.

        Args:
            place: Index of the observation.
        """
        if place not in self._moves:
            target = self._target.of(torch.tensor([place], device=self._target.device))
            own = (self._linear.alone(place), self._diffusion, self._noise.alone(place))
            self._moves[place] = Renoising(target, *own)
        return self._moves[place]

    def release_moves(self, place: int) -> Renoising:
        """Return the Markov moves for one observation's particles, and remove them from the cache.

        Args:
            place: Index of the observation.
        """
        moves = self.moves(place)
        del self._moves[place]
        return moves

    def _resample(self, step: int) -> None:
        """Resample particles on islands whose effective sample size is too small."""
        weights = self._by_island(self._log_weights)
        going = effective_size(weights) < WORTH * self._particles
        if not going.any():
            return
        start = self._by_island(self._noise.uniform(step, 1)[..., 0])[:, 0]
        picks = systematic(weights, start, self._particles)
        own = torch.arange(self._particles, device=picks.device)
        picks = torch.where(going[:, None], picks, own)
        rows = of_populations(picks, self._islands, self._particles)
        self._x, self._m = rows_of(self._x, rows), rows_of(self._m, rows)
        self._log_weights = torch.where(going[:, None], 0, weights).view_as(self._log_weights)
        self._stages += going.view(-1, self._islands).double().mean(dim=1)

    def _move(self, step: int) -> None:
        """Move particles from time ``step + 1`` to ``step``, and update their weights."""
        seen, bridge = self._seen, self._diffusion.bridge(step + 1, step)
        operator, own = seen.operator, self._target.dim + bridge.end.rank
        after, rest = bridge.end_after(operator)
        open_root = torch.linalg.cholesky(rest + seen.covariance)
        normal = self._noise.normal(step, own + len(operator))
        # A step of the prior, and the difference of y from an observation simulated after it.
        off, by = seen.off(self._m), bridge.step.sample(normal[..., :own])
        missed = off - by @ after.T.to(by) - normal[..., own:] @ open_root.mT.to(by)
        # The difference corrects the step, which then is one given y.
        whole = torch.linalg.cholesky(self._spread + seen.covariance)
        back = bridge.end.beside(operator) * bridge.pull
        by = by + missed @ torch.cholesky_solve(back.expand(len(whole), -1, -1), whole).to(by)
        self._x = self._x.lerp(self._m, bridge.pull.to(by)) + by
        known = log_normal(off - by @ after.T.to(by), open_root)
        before = self._log_weights - known - seen.log_factor(off, self._spread)
        self._log_weights = before
        if step:
            self._look(step, self._m + bridge.end_moved(by))
            self._widen()
            self._log_weights = before + self._psi

    def _look(self, step: int, expected: Tensor | None = None) -> None:
        """Update expected ends and psi after a step.

        The step predicted the ends ``expected``; None at the start.
        """
        flat = expected_end(
            self._target, self._x.flatten(0, 1), self._diffusion.times[step], self._which
        )
        self._m = flat.view_as(self._x)
        if expected is not None:
            both = (self._x, self._m, expected)
            self._x, self._m = self._diffusion.corrected(*both, step + 1, step)
        self._spread = self._diffusion.errors[step].seen(self._seen.operator)
        self._psi = self._seen.log_prob(self._seen.off(self._m), self._spread).double()

    def _widen(self) -> None:
        """Widen the noise of observations where the effective sample size with psi is too small.

        The size must be too small in most populations. Noise that is too small for any move is
        kept: moves are needed to separate duplicates again when the noise is narrowed.
        """
        off = self._linear.off(self._m)

        def seen_at(log_exponent: Tensor) -> tuple[LinearObservation, Tensor]:
            seen = self._linear.wider(log_exponent.exp())
            return seen, seen.log_prob(off, self._spread).double()

        def fits(psi: Tensor) -> Tensor:
            worth = effective_size(self._by_island(self._log_weights + psi))
            worth = worth.view(len(psi), self.chains, -1).sum(dim=2)
            return worth.median(dim=1).values >= self._least_worth

        good, widest = fits(self._psi), self._exponent.log()
        for place in (~good).nonzero()[:, 0].tolist():
            renoising = self.moves(place)
            good[place] = not renoising.goes
            if renoising.goes:
                widest[place] = min(float(widest[place]), log(renoising.widest))
        if good.all():
            return
        high = self._exponent.log()
        low = high - MOST_WIDER
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fit = fits(seen_at(middle)[1])
            low, high = torch.where(fit, middle, low), torch.where(fit, high, middle)
        wider = torch.where(good, self._exponent.log(), low.minimum(widest))
        self._exponent = wider.exp()
        self._seen, self._psi = seen_at(wider)

    def _by_island(self, values: Tensor) -> Tensor:
        """Reshape values ``[M, C P]`` to ``[M I, C P / I]``, for I islands."""
        return values.reshape(-1, self._particles)


def islands_of(particles: int) -> int:
    """Return the number of islands of a population: equal groups that are resampled separately.

    The number is 1 if no small number divides the particles evenly.

    Args:
        particles: Number of particles of the population.

    Example:
        >>> islands_of(2048), islands_of(4096), islands_of(6147), islands_of(4099)
        (1, 2, 9, 1)
    """
    fewest = ceil(particles / ISLAND)
    return next((n for n in range(fewest, 3 * fewest) if particles % n == 0), 1)
