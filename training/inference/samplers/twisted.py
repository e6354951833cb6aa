"""Particles that come down the reverse diffusion, and see the observation from afar.

A twisted particle filter (Wu, Trippe, Naesseth, Blei and Cunningham 2023; Whiteley and Lee 2014)
on times ``t_K > ... > t_0``, with m, V, A and R of ``lookahead``, and noise g above the first time.
Given its end x_0, a state goes back by the Gaussian bridge

    x_k | x_{k+1}, x_0 ~ N(x_{k+1} + a (x_0 - x_{k+1}), b),
        a = 1 - g_k / g_{k+1},      b = g_k (g_{k+1} - g_k) / g_{k+1},

and the end is about ``N(m, V)`` under the prior, so that p makes steps ``a (m - x_{k+1}) + u``,
``u ~ N(0, b + a V a)``, after which ``y ~ N(A m + H u, Q)`` (``low_rank``). Steps given y as well
are steps of p, and of what would be seen after them, y', what y is off from that (Matheron's rule;
Journel and Huijbregts 1978):

    u + a V A^T (A V A^T + R)^-1 (y - y'),      y' ~ N(A m + H u, Q).

So no matrix but of what is seen is decomposed. Particles weigh

    p(x_k | x_{k+1}) psi_k(x_k) / (q(x_k | x_{k+1}) psi_{k+1}(x_{k+1})),
        p(x_k | x_{k+1}) / q(x_k | x_{k+1}) = N(y; A m, A V A^T + R) / N(y; A m + H u, Q),

with the step u that was taken, and ``psi_k = N(y; A m(x_k), A V_k A^T + R)``, times the factor for
curved columns; psi_0 is the likelihood itself. Weights are exact whatever psi is: with many
particles, draws are those of the posterior under the prior that p makes of all steps. That is the
diffusion, not the flow; both have the same law if the denoiser is exact and steps are many.

Where errors of the denoiser are far from one normal law, as of digits of which a half is seen, psi
is so wrong that weights would be worth a few particles. There R is made wider, to R / b, so that
they are worth a tenth of them, or 256, and moves that follow forget where they began, unless R is
too little for any move; particles then arrive as draws of ``p(x_0) L(x_0)^b``, from where b goes to
1 (``narrowing``).
"""

from dataclasses import replace
from math import inf, log

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
    require_lookahead,
)
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.progress import OnPart, share_of
from training.inference.samplers.narrowing import WORTH, Narrowing, how_far
from training.inference.samplers.renoising import Diffusion, Particles, Renoising
from training.inference.target import Target
from training.inference.weights import of_populations, require_some, systematic
from training.measure.posterior.importance import effective_size
from training.names import PARTICLE_STEPS, PARTICLES

NAME = "twisted"
LEAST_WORTH, ENOUGH = 0.1, 256
"""The part of the particles, or how many if that is fewer, below which R is made wider."""
OF_FEW, PILOTS = 0.3, 4
"""That part of the few particles that say how many moves there will be, since weights of many are
worth less; and of how many observations these are."""
MOST_WIDER, BISECTIONS = 2.0, 10
"""How much of log b a step may take, and how often that is halved to find what is needed."""
DTYPE = torch.float32
"""Of states, and of one step's changes of weights: noise of the first time is far above rounding.
Covariances are decomposed, and weights summed, in float64, and so are points and their
likelihood."""
MOST_NUMBERS = 2**24
"""Of the particles of one observation, where more of them come down anew."""
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
    each other but whether they agree.

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
    ahead = ahead or LookAhead(PARTICLE_STEPS, seed, len(target.alike()) / target.count)
    down, again, latents = _calls_of_a_population(target.prior, ahead, draws, size)
    most = max(1, AT_ONCE // (chains * size * target.dim))
    parts, groups = [], [each for own in target.alike() for each in torch.split(own, most)]
    for places in groups:
        own = [numbers[place] for place in places.tolist()]
        share = len(places) / target.count / (down + again + latents)
        cloud = _Cloud.arrived(
            target.of(places),
            ahead,
            (seed, own),
            chains,
            size,
            LEAST_WORTH,
            share_of(on_part, share * down),
        )
        cloud.narrow(ahead.most, share_of(on_part, share * again))
        parts.append(cloud.draws(draws, share_of(on_part, share * latents)))
    joined = Draws.joined(parts, torch.cat(groups))
    return replace(joined, calls=joined.calls + ahead.share * ahead.measured(target).calls)


def measure_moves(
    target: Target, ahead: LookAhead, seed: int, numbers: list[int], chains: int, particles: int
) -> None:
    """Lets ``ahead`` know how many network calls a particle's moves take, as so few particles of
    the first observations of one label do, on average."""
    places = target.alike()[0][:PILOTS]
    few, own = target.of(places), [numbers[place] for place in places.tolist()]
    cloud = _Cloud.arrived(few, ahead, (seed, own), chains, particles, OF_FEW)
    before = few.calls
    cloud.narrow()
    ahead.again = (few.calls - before) / (len(own) * chains * particles)


def calls_of(
    target: Target,
    count: int,
    ahead: LookAhead,
    chains: int,
    draws: int,
    particles: int | None,
) -> float:
    """Network calls that ``twist`` takes for so many observations, as far as moves take what was
    measured of them: at most, since draws that are of one particle share theirs."""
    size, prior = particles or max(draws, PARTICLES), target.prior
    each = chains * sum(_calls_of_a_population(prior, ahead, draws, size))
    looking = (ahead.share * count - ahead.kept) * calls_to_look(prior, ahead.steps)
    return looking + count * each


def _calls_of_a_population(
    prior: Prior, ahead: LookAhead, draws: int, size: int
) -> tuple[float, float, float]:
    """For its particles to arrive, for their moves, and for the latents of its draws."""
    return size * (ahead.steps + 1), size * ahead.again, min(size, draws) * prior.calls("latents")


class _Cloud:
    """Particles ``[M, C P]`` on their way, with their weights."""

    _m: Tensor
    _spread: Tensor
    _psi: Tensor
    _points: Tensor
    _log_likelihood: Tensor

    def __init__(
        self,
        target: Target,
        diffusion: Diffusion,
        noise: Noise,
        chains: int,
        particles: int,
        least_worth: float,
    ):
        self._target, self._diffusion = target, diffusion
        # Psi is free to be too wide: weights are exact.
        self._sight = Sight.of(target).blurred(diffusion.errors[-1], DTYPE)
        self._exponent = torch.ones(target.count, dtype=torch.float64, device=target.device)
        self._seen = self._sight  # with R / b
        self._chains, self._particles, self._noise = chains, particles, noise
        self._least_worth = min(least_worth * particles, ENOUGH)
        self._moves: dict[int, Renoising] = {}
        rows = torch.arange(target.count * chains * particles, device=target.device)
        self._which = rows // (chains * particles)
        self._steps = len(diffusion.times) - 1
        normal = noise.normal(self._steps + 1, target.dim).flatten(0, 1).double()
        start = target.melted(normal, self._which).to(DTYPE)
        self._x = start.view(target.count, -1, target.dim)
        self._look(self._steps)
        self._log_weights = self._psi.clone()
        self._stages = torch.zeros(target.count, dtype=torch.float64, device=target.device)
        self._again = torch.zeros_like(self._stages)
        self._worth = torch.full_like(self._stages, torch.inf)

    @classmethod
    def arrived(
        cls,
        target: Target,
        ahead: LookAhead,
        seeds: tuple[int, list[int]],
        chains: int,
        particles: int,
        least_worth: float,
        on_part: OnPart = None,
    ) -> "_Cloud":
        """Particles at the first time.

        Args:
            target: M observations.
            ahead: What they share.
            seeds: The seed, and the number of each observation.
            chains: Populations, C.
            particles: Of each, P.
            least_worth: Part of the particles below which R is made wider, unless as many as
                ``ENOUGH`` are left.
            on_part: Called with the part of the work that was done.
        """
        seen = ahead.measured(target)
        noise = Noise(*seeds, chains * particles, target.device, chunk=1, dtype=DTYPE)
        diffusion = Diffusion(seen.times, seen.errors, added_noise(target, seen.times))
        cloud = cls(target, diffusion, noise, chains, particles, least_worth)
        cloud.come_down(on_part)
        return cloud

    def come_down(self, on_part: OnPart) -> None:
        """To the first time."""
        for step in reversed(range(self._steps)):
            self.resample(WORTH, step)
            self.move(step)
            if on_part:
                on_part(1 / self._steps)

    def resample(self, worth: float, step: int) -> None:
        """Takes particles by weight in populations whose weights are worth less than this part."""
        weights = self._by_population(self._log_weights)
        going = effective_size(weights) < worth * self._particles
        if not going.any():
            return
        start = self._by_population(self._noise.uniform(step, 1)[..., 0])[:, 0]
        picks = systematic(weights, start, self._particles)
        own = torch.arange(self._particles, device=picks.device)
        rows = self._numbered(torch.where(going[:, None], picks, own))
        self._x, self._m = _taken(self._x, rows), _taken(self._m, rows)
        self._log_weights = torch.where(going[:, None], 0, weights).view_as(self._log_weights)
        self._stages += going.view(-1, self._chains).double().mean(dim=1)

    def move(self, step: int) -> None:
        """Moves from time ``step + 1`` to ``step``, and weighs."""
        seen, bridge = self._seen, self._diffusion.bridge(step + 1, step)
        operator, own = seen.operator, self._target.dim + bridge.end.rank
        after, rest = bridge.end_after(operator)
        open_root = torch.linalg.cholesky(rest + seen.covariance)
        normal = self._noise.normal(step, own + len(operator))
        # A step of the prior, and what y is off from what would be seen after it.
        off, by = seen.off(self._m), bridge.step.sample(normal[..., :own])
        missed = off - by @ after.T.to(by) - normal[..., own:] @ open_root.mT.to(by)
        # That goes back to the step, which is then one given y.
        whole = torch.linalg.cholesky(self._spread + seen.covariance)
        back = bridge.end.beside(operator) * bridge.pull
        by = by + missed @ torch.cholesky_solve(back.expand(len(whole), -1, -1), whole).to(by)
        self._x = self._x.lerp(self._m, bridge.pull.to(by)) + by
        known = log_normal(off - by @ after.T.to(by), open_root)
        before = self._log_weights - known - seen.log_factor(off, self._spread)
        if step:
            self._look(step)
            self._widen(before)
        else:
            self._arrive()
        self._log_weights = before + self._psi

    def narrow(self, most_calls: float = inf, on_part: OnPart = None) -> None:
        """Takes particles by weight and moves them: where the noise of observations was made wider,
        until it is their own, and where it was not, but populations do not agree, until they do, or
        moves of a particle took so many network calls. Where these are enough for more particles
        to come down, of observations whose noise is their own, that is done instead."""
        require_some(self._by_population(self._log_weights))
        apart, wide = self._apart() > 1, self._exponent < 1
        times = self._affordable(most_calls)
        anew = apart & ~wide & (times > 1)
        places = (apart | wide).nonzero()[:, 0].tolist()
        places = [place for place in places if anew[place] or self._renoising(place).goes]
        for place in places:
            part = share_of(on_part, 1 / len(places))
            if anew[place]:
                self._come_anew(place, times, part)
            else:
                self._narrow(place, bool(apart[place]), most_calls, part)
        if on_part and not places:
            on_part(1)

    def _affordable(self, most_calls: float) -> int:
        """How many times as many particles may come down for so many calls of each."""
        most = MOST_NUMBERS // self._x[0].numel()
        return min(int(most_calls / (self._steps + 1)), most) if most_calls < inf else 1

    def _narrow(self, place: int, apart: bool, most_calls: float, on_part: OnPart) -> None:
        """Moves an observation's particles, until its noise is its own again."""
        renoising = self._moves.pop(place)  # its matrices are not needed any more
        narrowing = Narrowing(renoising, self._chains, self._steps + 2, most_calls)
        particles = Particles(self._x[place], self._points[place], self._log_likelihood[place])
        log_weights = self._log_weights[place].view(self._chains, -1)
        own = float(self._exponent[place]), apart
        particles = narrowing.narrowed(particles, log_weights, *own, on_part)
        self._points[place], self._psi[place] = particles.points, particles.log_likelihood
        self._log_weights[place], self._worth[place] = 0, narrowing.worth
        self._count(place, narrowing.stages, renoising.target.calls)

    def _come_anew(self, place: int, times: int, on_part: OnPart) -> None:
        """Takes an observation's particles from so many times as many."""
        self._moves.pop(place, None)
        own = self._target.of(torch.tensor([place], device=self._target.device))
        count = self._chains * self._particles * times
        noise = self._noise.alone(place, count)
        many = _Cloud(own, self._diffusion, noise, self._chains, self._particles * times, 0.0)
        many.come_down(on_part)
        rows = many.rows_by_weight(self._particles)
        self._points[place] = _taken(many._points, rows)[0]
        self._psi[place] = many._psi.gather(1, rows)[0]
        self._log_weights[place] = 0
        self._worth[place] = many._worths()[0]
        self._count(place, float(many._stages[0]), own.calls)

    def _count(self, place: int, stages: float, calls: int) -> None:
        """Of what was done for an observation after its particles had arrived."""
        self._stages[place] += stages
        self._again[place] = calls
        self._target.calls += calls

    def _apart(self) -> Tensor:
        """How far populations are apart on each observation, in the coordinate where they are
        farthest, ``[M]``."""
        weights = self._by_population(self._log_weights)
        middle = torch.full_like(weights[:, 0], 0.5)
        rows = self._numbered(systematic(weights, middle, self._particles))
        points = _taken(self._points, rows)
        shape = (self._target.count, self._chains, self._particles, -1)
        return how_far(points.view(shape)).amax(dim=1)

    def _renoising(self, place: int) -> Renoising:
        """The moves of an observation's particles."""
        if place not in self._moves:
            target = self._target.of(torch.tensor([place], device=self._target.device))
            own = (self._sight.alone(place), self._diffusion, self._noise.alone(place))
            self._moves[place] = Renoising(target, *own)
        return self._moves[place]

    def rows_by_weight(self, count: int) -> Tensor:
        """So many particles of each population, ``[M, C S]``."""
        weights = self._by_population(self._log_weights)
        start = self._by_population(self._noise.uniform(self._steps, 1)[..., 0])[:, 0]
        return self._numbered(systematic(weights, start, count))

    def _worths(self) -> Tensor:
        """What weights are worth, of all populations together, ``[M]``."""
        each = effective_size(self._by_population(self._log_weights))
        return each.view(-1, self._chains).sum(dim=1)

    def draws(self, count: int, on_part: OnPart = None) -> Draws:
        """So many of each population; tells how far their latents are."""
        rows = self.rows_by_weight(count)
        shape = (self._target.count, self._chains, count)
        points = _taken(self._points, rows)
        which = torch.arange(len(rows), device=rows.device).repeat_interleave(rows.shape[1])
        # Draws of one particle, which follow each other, have the same variables.
        flat = points.flatten(0, 1)
        first = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        first[1:] = (flat[1:] != flat[:-1]).any(dim=1)
        before = self._target.calls
        w = self._target.whitened(flat[first], which[first], on_part)[first.cumsum(0) - 1]
        own = first.view(shape[0], -1).double().sum(dim=1) / first.double().sum()
        again = self._again + (self._target.calls - before) * own
        calls = (before - self._again.sum()) / shape[0] + again
        worth = self._worths()
        return Draws(
            w.view(*shape, -1),
            points.view(*shape, -1),
            self._psi.gather(1, rows).view(shape),
            [NAME] * shape[0],
            calls.cpu(),
            {"effective_size": worth.minimum(self._worth).cpu(), "stages": self._stages.cpu()},
        )

    def _look(self, step: int) -> None:
        """Expected ends, and psi."""
        flat = expected_end(
            self._target, self._x.flatten(0, 1), self._diffusion.times[step], self._which
        )
        self._m = flat.view_as(self._x)
        self._spread = self._diffusion.errors[step].seen(self._seen.operator)
        self._psi = self._seen.log_prob(self._seen.off(self._m), self._spread).double()

    def _widen(self, before: Tensor) -> None:
        """Makes the noise of observations wider where weights ``before`` times psi are worth too
        little in most populations, unless it is too little for a move: then nothing would part
        again those that were taken often when it is narrowed."""

        off = self._sight.off(self._m)

        def seen_at(log_exponent: Tensor) -> tuple[Sight, Tensor]:
            seen = self._sight.wider(log_exponent.exp())
            return seen, seen.log_prob(off, self._spread).double()

        def fits(psi: Tensor) -> Tensor:
            worth = effective_size(self._by_population(before + psi)).view(-1, self._chains)
            return worth.median(dim=1).values >= self._least_worth

        good, widest = fits(self._psi), self._exponent.log()
        for place in (~good).nonzero()[:, 0].tolist():
            renoising = self._renoising(place)
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

    def _arrive(self) -> None:
        """Points, and their likelihood."""
        target = self._target
        points = target.of_states(self._x.flatten(0, 1).double(), self._which)
        log_likelihood = target.likelihood.log_prob(points, target.observed[self._which])
        self._points = points.view_as(self._x)
        self._log_likelihood = log_likelihood.view(target.count, -1)
        self._psi = self._exponent[:, None] * self._log_likelihood

    def _by_population(self, values: Tensor) -> Tensor:
        """``[M, C P]`` as ``[M C, P]``."""
        return values.reshape(-1, self._particles)

    def _numbered(self, picks: Tensor) -> Tensor:
        return of_populations(picks, self._chains, self._particles)


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """``[M, N, D]`` at rows ``[M, S]``."""
    count, size = values.shape[:2]
    first = torch.arange(count, device=rows.device)[:, None] * size
    return values.flatten(0, 1).index_select(0, (first + rows).flatten()).view(*rows.shape, -1)
