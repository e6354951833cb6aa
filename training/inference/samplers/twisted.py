"""Posterior draws by particles that follow the reverse diffusion.

Where errors of the denoiser are far from normally distributed, for example for half-observed
digits, psi is so wrong that weights would have a tiny effective sample size. There R is widened to
R / b, so that the effective sample size is a tenth of the particles, or 256, and so that the moves
that follow forget their starting points, unless R is too small for any move. Particles then arrive
as draws of ``p(x_0) L(x_0)^b``, and b rises to 1.

Moves of a posterior: noise is added to a state given the observation, and removed by the prior.

Let y be a linear function of the state x_0 at the first time with Gaussian noise, ``N(y; A x_0,
R)``, and z the state with the noise of a time t_k, ``z = x_0 + n`` with ``n ~ N(0, g_k)``. If k is
so early that ``R - A g_k A^T`` is positive definite, y can be regarded as an observation of z,

   y = A z + e,        e ~ N(0, R - A g_k A^T),

so that two conditional draws alternate (split Gibbs sampling; Vono, Dobigeon and Chainais 2019; Xu
and Chi 2024):

   z | x_0, y is Gaussian:  x_0 + n + g_k A^T R^-1 (y - A x_0 - A n - e),  n and e new draws,
   x_0 | z, y is x_0 | z:   the steps of a particle of the prior from t_k on.

Both leave the posterior invariant, whatever its modes, and move as far as the noise of y permits.
Where the likelihood L is only approximately ``N(y; A x_0, R)``, since columns are curved, a move is
accepted with the Metropolis-Hastings probability; otherwise it is always accepted.

From particles of ``p L^b`` to those of the posterior, ``p L``.

In each stage b rises as far as the weights ``L^(b' - b)`` keep an effective sample size of half the
particles. The particles are resampled and then moved by adding and removing noise,
which leaves ``p L^b'`` invariant and separates duplicates, however few particles survived. Before
the first stage, populations that differ by more than chance are moved at the b at which they
arrived, as long as that brings them together: the wider the noise, the more the moves forget their
starting points.

Particles that follow the reverse diffusion, guided by the observation from the start.

This is a twisted particle filter (Wu, Trippe, Naesseth, Blei and Cunningham 2023; Whiteley and Lee
2014) on times ``t_K > ... > t_0``, with m, V, A and R of ``lookahead``, and noise variance g above
the first time. Given its end x_0, a state follows the Gaussian bridge

    x_k | x_{k+1}, x_0 ~ N(x_{k+1} + a (x_0 - x_{k+1}), b),
        a = 1 - g_k / g_{k+1},      b = g_k (g_{k+1} - g_k) / g_{k+1},

and the end is approximately ``N(m, V)`` under the prior. The prior process p therefore takes steps
``a (m - x_{k+1}) + u``, ``u ~ N(0, b + a V a)``, after which ``y ~ N(A m + H u, Q)``.
A step given y as well is a step of p, plus a correction by the difference of y from
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

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import ceil, inf, log
from time import monotonic
from typing import NamedTuple

import torch
from torch import Tensor

from training.inference.draws import (
    GAUSSIAN,
    Draws,
    OnPart,
    largest_exponent,
    of_populations,
    require_some,
    share_of,
    systematic,
)
from training.inference.lookahead import (
    Bridge,
    LinearObservation,
    LookAhead,
    LowRank,
    MoveBudget,
    added_noise,
    calls_to_look,
    expected_end,
    log_normal,
    require_lookahead,
)
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.target import Target
from training.measure.posterior.importance import effective_size
from training.names import PARTICLE_STEPS, PARTICLES

COARSE = 48
"""Stride in times while particles move towards the posterior, times the number of steps. Many steps
are used where ends are far from normal, and fewer would there make widths too small.
"""
UNEVEN = 4.0
"""Largest ratio of the noise variances of two dimensions at the last time."""
FORGOTTEN, WITHIN = 0.3, 1 - 1e-6
"""Fraction of the prior's variance that a noisy state must leave undetermined for moves to forget
their starting points; and largest fraction of the permitted noise that is used, to allow for
rounding.
"""


@dataclass(frozen=True)
class Diffusion:
    """Reverse-diffusion steps of particles of the prior.

    A step takes the covariance V of the clean state to be the same everywhere, which alone would
    give a distribution that is wrong to first order in the step length. The change of the expected
    clean state m measures V at the particle's state: m changes by ``H u`` (``lookahead``) if V is
    right there, and otherwise by e more,

       e = m(x_k) - m(x_{k+1}) - H u.

    This change is caused by the noise that was added between the two times, about evenly over ln g.
    For the part added at g', the step omitted ``1 - g_k / g'``. On average over ln g,

       x_k + kappa e,    m + V_k kappa e / g_k,    kappa = 1 - a / ln(g_{k+1} / g_k),

    therefore replace x_k and its m, as ``dm/dx = V / g`` (Tweedie's second formula). The correction
    is of second order and takes no further network evaluation. Where ends have one normal
    distribution, e is 0, and steps of any length are exact. A multistep solver such as
    SDE-DPM-Solver++(2M) (Lu et al. 2022), which has no V and leaves the whole change of m to the
    next step, is exact for none.

    Attributes:
        times: Increasing times ``[K + 1]``.
        errors: Covariance V at each time.
        added: Variance g of the noise added after the first (least noisy) time, ``[K + 1, D]``.
    """

    times: Tensor
    errors: list[LowRank]
    added: Tensor

    @property
    def even(self) -> bool:
        """Whether the noise grows similarly in all dimensions."""
        return bool(self.added[-1].amax() <= UNEVEN * self.added[-1].amin())

    def bridge(self, high: int, low: int) -> Bridge:
        """Return the reverse step between two times.

        Args:
            high: Index of the time before the step.
            low: Index of the time after the step.
        """
        here, there = self.added[high], self.added[low]
        return Bridge(1 - there / here, there * (here - there) / here, self.errors[high])

    def corrected(
        self, states: Tensor, ends: Tensor, expected: Tensor, high: int, low: int
    ) -> tuple[Tensor, Tensor]:
        """Correct states and their expected clean states after a step, to second order.

        Args:
            states: States ``[..., D]`` after the step.
            ends: Expected clean states m of these states.
            expected: Prediction ``m + H u`` of the expected clean states, made by the step.
            high: Index of the time before the step.
            low: Index of the time after the step.
        """
        here, there = self.added[high], self.added[low]
        further = (ends - expected) * (1 - (1 - there / here) / (here / there).log()).to(ends)
        return states + further, ends + self.errors[low].times(further / there.to(ends))


class Particles(NamedTuple):
    """Particles at the first (least noisy) time of the diffusion.

    Attributes:
        states: Unscaled states ``[N, D]``.
        points: Points of data space ``[N, D]``.
        log_likelihood: Log likelihoods of the points ``[N]``.
    """

    states: Tensor
    points: Tensor
    log_likelihood: Tensor

    @classmethod
    def at(cls, target: Target, states: Tensor) -> "Particles":
        """Compute the points and likelihoods of states ``[N, D]``, for a single observation."""
        which = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        points = target.of_states(states.double(), which)
        return cls(states, points, target.likelihood.log_prob(points, target.observed[which]))

    def taken(self, picks: Tensor) -> "Particles":
        """Select particles by their indices ``picks [N]``."""
        return Particles(*(each[picks] for each in self))


@dataclass(frozen=True)
class Renoising:
    """Markov moves that add and remove noise and leave the posterior of one observation invariant.

    Attributes:
        target: The posterior of one observation.
        linear: Gaussian that equals or approximates the likelihood.
        diffusion: Reverse-diffusion steps of the prior.
        noise: Random numbers of the moves, indexed by ``step``.
    """

    target: Target
    linear: LinearObservation
    diffusion: Diffusion
    noise: Noise
    _added: dict[int, Tensor] = field(default_factory=dict)

    @cached_property
    def root(self) -> Tensor:
        """Lower Cholesky factor ``[K, K]`` of the observation noise covariance R."""
        return torch.linalg.cholesky(self.linear.covariance[0])

    @cached_property
    def _weighed(self) -> Tensor:
        """Matrix ``R^-1 A [K, D]``."""
        return torch.cholesky_solve(self.linear.operator, self.root)

    @cached_property
    def goes(self) -> bool:
        """Whether moves change the states enough to be useful.

        The added noise must be small enough at some time, and of similar size in all dimensions:
        states would hardly move in dimensions with far less noise.
        """
        return self.diffusion.even and self._highest(1.0)[0] > 0

    @cached_property
    def widest(self) -> float:
        """Largest likelihood exponent b at which moves forget their starting points."""
        open_to = torch.stack([errors.variance.sum() for errors in self.diffusion.errors])
        step = int((open_to >= FORGOTTEN * open_to[-1]).nonzero()[0, 0])
        half = torch.linalg.solve_triangular(self.root, self._seen_noise(step), upper=False)
        white = torch.linalg.solve_triangular(self.root, half.mT, upper=False)
        return float(WITHIN / torch.linalg.eigvalsh(white)[-1])

    def moved(self, particles: Particles, exponent: float, step: int) -> tuple[Particles, int]:
        """Move particles of the distribution ``p L^b`` once, with prior p and likelihood L.

        Args:
            particles: The particles.
            exponent: Exponent b.
            step: First index of the random numbers to use.

        Returns:
            The moved particles, and the index after the last random number used.
        """
        high, root = self._highest(exponent)
        if not high:
            return particles, step
        kept, states = particles, self._seen_again(particles.states, exponent, high, root, step)
        steps = len(self.diffusion.times) - 1
        stride = max(1, round(COARSE / steps)) if exponent < 1 else 1
        path, step = [*range(high, 0, -stride), 0], step + 2
        ends = self._ends(states, high)
        for here, there in pairwise(path):
            bridge = self.diffusion.bridge(here, there)
            normal = self.noise.normal(step, states.shape[1] + bridge.end.rank)[0]
            by = bridge.step.sample(normal)
            states, step = states.lerp(ends, bridge.pull.to(states)) + by, step + 1
            if there:
                expected, ends = ends + bridge.end_moved(by), self._ends(states, there)
                states, ends = self.diffusion.corrected(states, ends, expected, here, there)
        moved = Particles.at(self.target, states)
        if self.linear.columns is None:
            return moved, step
        gain = self._beside_gaussian(moved) - self._beside_gaussian(kept)
        uniform = self.noise.uniform(step, 1)[0, :, 0]
        taken = uniform.log() < exponent * gain
        both = zip(moved, kept, strict=True)
        chosen = (torch.where(taken.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in both)
        return Particles(*chosen), step + 1

    def _highest(self, exponent: float) -> tuple[int, Tensor]:
        """Return the largest possible k, and a root of the covariance of e.

        The index k is 0 where no noise can be added.
        """
        covariance = self.linear.covariance[0] / exponent
        low, high, root = 0, len(self.diffusion.times), covariance
        while high - low > 1:
            middle = (low + high) // 2
            tried = torch.linalg.cholesky_ex(covariance - self._seen_noise(middle))
            if int(tried.info):
                high = middle
            else:
                low, root = middle, tried.L
        return low, root

    def _seen_noise(self, step: int) -> Tensor:
        """Return ``A g A^T`` of a time."""
        if step not in self._added:
            operator = self.linear.operator
            self._added[step] = (operator * self.diffusion.added[step]) @ operator.T
        return self._added[step]

    def _seen_again(
        self, states: Tensor, exponent: float, high: int, root: Tensor, step: int
    ) -> Tensor:
        added, operator = self.diffusion.added[high], self.linear.operator.to(states)
        more = self.noise.normal(step, states.shape[1])[0] * added.sqrt().to(states)
        error = self.noise.normal(step + 1, len(root))[0] @ root.T.to(states)
        off = self.linear.observed.to(states) - (states + more) @ operator.T - error
        return states + more + off @ (exponent * added * self._weighed).to(states)

    def _ends(self, states: Tensor, step: int) -> Tensor:
        which = torch.zeros(len(states), dtype=torch.int64, device=states.device)
        return expected_end(self.target, states, self.diffusion.times[step], which)

    def _beside_gaussian(self, particles: Particles) -> Tensor:
        """Return log likelihoods ``[N]`` less those of the Gaussian, up to a constant."""
        off = self.linear.observed - particles.states.double() @ self.linear.operator.T
        return particles.log_likelihood - log_normal(off[None], self.root)[0]


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
        seconds: Limit on the time of the moves, which has the same effect.

    Attributes:
        target: The posterior of the observation.
        worth: Smallest effective sample size of all populations together.
        stages: Number of resamplings.
    """

    def __init__(
        self,
        renoising: Renoising,
        chains: int,
        step: int,
        most_calls: float = inf,
        seconds: float = inf,
    ):
        self._renoising, self._chains, self._step = renoising, chains, step
        self._began, self._seconds = monotonic(), seconds
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
        moves = max(1, 2 * self._calls_left() / self._of_last) if self._of_last else inf
        return exponent * (exponent ** (-1 / moves) - 1)

    def _calls_left(self, share: float = 1.0) -> float:
        """Return how many network evaluations per particle a share of the limits still allows."""
        left, spent = share * self._most_calls - self._calls, monotonic() - self._began
        if self._seconds < inf and self._calls:
            left = min(left, (share * self._seconds - spent) * self._calls / spent)
        return left

    def _moved_on(
        self, particles: Particles, exponent: float, share: float, on_part: OnPart
    ) -> Particles:
        """Move particles as long as that brings populations together.

        Moves take at most a share of the work.
        """

        def far() -> Tensor:
            return how_far(particles.points.view(self._chains, -1, particles.points.shape[1]))

        on_part = share_of(on_part, share)
        before, now, moves = torch.tensor(torch.inf), far(), 0
        while moves < MOST_MOVES and self._of_last <= self._calls_left(share):
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


LEAST_WORTH = 0.1
"""Effective sample size, as a fraction of the particles, below which R is widened."""
ARRIVAL = 0.5
"""Fraction of a pilot run's progress until its particles have arrived."""
OF_FEW, PILOTS = 0.3, 4
"""The same fraction for the few particles of a pilot run, which predicts the number of moves, since
the effective fraction falls with the number of particles; and the number of observations in that
run.
"""
AT_ONCE = 2**21
"""Largest number of values of particles that move at once, if they belong to more than one
observation. CPUs are slower with larger tensors: the allocator returns their memory to the system
and requests it again.
"""


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
    """Sample the posterior of each observation by a twisted particle filter with C populations.

    The populations are independent, so that they can be compared like chains.

    Args:
        target: The posteriors; the likelihood must be Gaussian, see ``lookahead``.
        seed: Random seed.
        numbers: Index of each observation, which seeds its draws.
        chains: Number of populations, C.
        draws: Number of draws per population, S.
        particles: Number of particles per population; None for ``PARTICLES``, or S if that is more.
        on_part: Called with the fraction of the work done since the last call.
        ahead: Look-ahead estimates (predictions of clean states from noisy ones) shared with
            further observations; None to compute them.

    Returns:
        S draws of C populations for each of the M observations.

    Raises:
        UsageError: The look-ahead does not support the target, for example its likelihood.
        DataError: The likelihood is 0 at all particles.
    """
    require_lookahead(target)
    size = particles or max(draws, PARTICLES)
    ahead = ahead or LookAhead(PARTICLE_STEPS, seed, len(target.alike()) / target.count)
    down, again, latents = _calls_of_a_population(target.prior, ahead, draws, size)
    most = max(1, AT_ONCE // (chains * size * target.dim))
    parts, groups = [], [each for own in target.alike() for each in torch.split(own, most)]
    for places in groups:
        own = [numbers[place] for place in places.tolist()]
        share = len(places) / target.count / (down + again + latents)
        noise = Noise(seed, own, chains * size, target.device, chunk=1, dtype=DTYPE)
        descent = Descent(target.of(places), ahead, noise, chains, LEAST_WORTH)
        cloud = descent.arrived(share_of(on_part, share * down))
        if ahead.budget is not None:
            ahead.budget.behind -= len(places)
        _settle(descent, cloud, ahead.most, share_of(on_part, share * again), ahead.budget)
        parts.append(cloud.draws(draws, share_of(on_part, share * latents)))
    joined = Draws.joined(parts, torch.cat(groups))
    return replace(joined, calls=joined.calls + ahead.share * ahead.measured(target).calls)


def measure_moves(
    target: Target,
    ahead: LookAhead,
    seed: int,
    numbers: list[int],
    chains: int,
    particles: int,
    budget: MoveBudget | None = None,
    on_part: OnPart = None,
) -> None:
    """Estimate the mean number of network evaluations per particle for the final Markov moves.

    A few particles of the first observations with equal conditions are moved, of a single one if
    there is a time budget.

    Args:
        target: The posteriors.
        ahead: Look-ahead estimates, where the mean is stored.
        seed: Random seed.
        numbers: Index of each observation, which seeds its draws.
        chains: Number of populations, C.
        particles: Number of particles per population.
        budget: Time for these moves; None for no limit.
        on_part: Called with the fraction of the work done since the last call.
    """
    places = target.alike()[0][: PILOTS if budget is None else 1]
    few, own = target.of(places), [numbers[place] for place in places.tolist()]
    noise = Noise(seed, own, chains * particles, target.device, chunk=1, dtype=DTYPE)
    descent = Descent(few, ahead, noise, chains, OF_FEW)
    cloud = descent.arrived(share_of(on_part, ARRIVAL))
    before = few.calls
    _settle(descent, cloud, inf, share_of(on_part, 1 - ARRIVAL), budget)
    ahead.again = (few.calls - before) / (len(own) * chains * particles)


def gaussian_draws(target: Target, seed: int, numbers: list[int], chains: int, draws: int) -> Draws:
    """Draw from the exact posteriors under the Gaussian with the data's mean and covariance.

    No network is evaluated. A prior draw x and an observation y' simulated from it become a draw
    of the posterior, ``x + S A^T (A S A^T + R)^-1 (y - y')`` (Matheron's rule).

    Args:
        target: The posteriors; the likelihood must be Gaussian, see ``lookahead``.
        seed: Random seed.
        numbers: Index of each observation, which seeds its draws.
        chains: Number of chains, C.
        draws: Number of draws per chain, S.
    """
    require_lookahead(target)
    seen, shape = LinearObservation.from_target(target), (target.count, chains, draws)
    variance = target.prior.flow.noisy_variance(target.prior.times[0]).double()
    noise = Noise(seed, numbers, chains * draws, target.device, chunk=1)
    root = torch.linalg.cholesky(seen.covariance)
    states = noise.normal(0, len(variance)) * variance.sqrt()
    missed = seen.off(states) - noise.normal(1, len(seen.operator)) @ root.mT
    across = seen.operator * variance
    whole = torch.linalg.cholesky(across @ seen.operator.T + seen.covariance)
    states = states + missed @ torch.cholesky_solve(across.expand(len(whole), -1, -1), whole)
    rows, which = states.flatten(0, 1), torch.arange(target.count).repeat_interleave(chains * draws)
    which = which.to(target.device)
    points = target.of_states(rows, which)
    log_likelihood = target.likelihood.log_prob(points, target.observed[which])
    w = rows / variance.sqrt()
    return Draws.by(GAUSSIAN, shape, w, points, log_likelihood, 0.0, {})


def calls_of(
    target: Target, count: int, ahead: LookAhead, chains: int, draws: int, particles: int | None
) -> float:
    """Return an upper bound on the number of network evaluations of ``twist``.

    Repeated draws of one particle share their evaluations and make the true number smaller. The
    final Markov moves are assumed to take as many evaluations as measured.

    Args:
        target: The posteriors.
        count: Number of observations.
        ahead: Look-ahead estimates.
        chains: Number of populations, C.
        draws: Number of draws per population, S.
        particles: Number of particles per population; None for the default.
    """
    size, prior = particles or max(draws, PARTICLES), target.prior
    each = chains * sum(_calls_of_a_population(prior, ahead, draws, size))
    looking = (ahead.share * count - ahead.kept) * calls_to_look(prior, ahead.steps, ahead.draws)
    return looking + count * each


def _calls_of_a_population(
    prior: Prior, ahead: LookAhead, draws: int, size: int
) -> tuple[float, float, float]:
    """Return the network evaluations that a population takes.

    Returns:
        Evaluations for its particles to arrive, for their moves, and for the latents of its draws.
    """
    return size * (ahead.steps + 1), size * ahead.again, min(size, draws) * prior.calls("latents")


def _settle(
    descent: Descent,
    cloud: FinalParticles,
    most_calls: float = inf,
    on_part: OnPart = None,
    budget: MoveBudget | None = None,
) -> None:
    """Resample particles and move them, where that is needed.

    Where the noise of observations was widened, particles are moved until it is the true noise
    again. Where it was not, but populations disagree, they are moved until they agree, or until the
    moves of a particle took ``most_calls`` network evaluations or the time of the budget. If these
    suffice to run more particles instead, that is done for observations whose noise was not
    widened.
    """
    apart, wide = cloud.apart() > 1, cloud.exponent < 1
    times = descent.affordable(most_calls)
    anew = apart & ~wide & (times > 1)
    places = (apart | wide).nonzero()[:, 0].tolist()
    places = [place for place in places if anew[place] or descent.moves(place).goes]
    if budget is not None:
        budget.waiting -= len(cloud.exponent) - len(places)
    for place in places:
        seconds = inf if budget is None else budget.of_next()
        part, more = share_of(on_part, 1 / len(places)), times
        if budget is not None and budget.arrival:
            more = min(times, int(seconds / budget.arrival))
        if anew[place] and more > 1:
            cloud.take(place, descent.alone(place, more).arrived(part))
        elif descent.moves(place).goes:
            moves = descent.release_moves(place)
            narrowing = Narrowing(moves, descent.chains, descent.steps + 2, most_calls, seconds)
            cloud.narrow(place, narrowing, bool(apart[place]), part)
    if on_part and not places:
        on_part(1)
