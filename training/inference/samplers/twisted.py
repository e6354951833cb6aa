"""Draws of posteriors by particles that come down the reverse diffusion.

Where errors of the denoiser are far from one normal law, as of digits of which a half is seen, psi
is so wrong that weights would be worth a few particles. There R is made wider, to R / b, so that
they are worth a tenth of them, or 256, and moves that follow forget where they began, unless R is
too little for any move; particles then arrive as draws of ``p(x_0) L(x_0)^b``, from where b goes to
1 (``narrowing``).
"""

from dataclasses import replace
from math import inf

import torch

from training.inference.draws import Draws
from training.inference.lookahead import LookAhead, calls_to_look, require_lookahead
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.progress import OnPart, share_of
from training.inference.samplers.arrival import Arrived
from training.inference.samplers.descent import DTYPE, Descent
from training.inference.samplers.narrowing import Narrowing
from training.inference.target import Target
from training.names import PARTICLE_STEPS, PARTICLES

LEAST_WORTH = 0.1
"""The part of the particles below which R is made wider."""
OF_FEW, PILOTS = 0.3, 4
"""That part of the few particles that say how many moves there will be, since weights of many are
worth less; and of how many observations these are."""
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
        noise = Noise(seed, own, chains * size, target.device, chunk=1, dtype=DTYPE)
        descent = Descent(target.of(places), ahead, noise, chains, LEAST_WORTH)
        cloud = descent.arrived(share_of(on_part, share * down))
        _settle(descent, cloud, ahead.most, share_of(on_part, share * again))
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
    noise = Noise(seed, own, chains * particles, target.device, chunk=1, dtype=DTYPE)
    descent = Descent(few, ahead, noise, chains, OF_FEW)
    cloud = descent.arrived()
    before = few.calls
    _settle(descent, cloud)
    ahead.again = (few.calls - before) / (len(own) * chains * particles)


def calls_of(
    target: Target, count: int, ahead: LookAhead, chains: int, draws: int, particles: int | None
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


def _settle(
    descent: Descent, cloud: Arrived, most_calls: float = inf, on_part: OnPart = None
) -> None:
    """Takes particles by weight and moves them: where the noise of observations was made wider,
    until it is their own, and where it was not, but populations do not agree, until they do, or
    moves of a particle took so many network calls. Where these are enough for more particles
    to come down, of observations whose noise is their own, that is done instead."""
    apart, wide = cloud.apart() > 1, cloud.exponent < 1
    times = descent.affordable(most_calls)
    anew = apart & ~wide & (times > 1)
    places = (apart | wide).nonzero()[:, 0].tolist()
    places = [place for place in places if anew[place] or descent.moves(place).goes]
    for place in places:
        part = share_of(on_part, 1 / len(places))
        if anew[place]:
            cloud.take(place, descent.alone(place, times).arrived(part))
        else:
            moves = descent.release_moves(place)
            narrowing = Narrowing(moves, descent.chains, descent.steps + 2, most_calls)
            cloud.narrow(place, narrowing, bool(apart[place]), part)
    if on_part and not places:
        on_part(1)
