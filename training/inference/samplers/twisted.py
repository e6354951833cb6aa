"""Posterior draws by particles that follow the reverse diffusion.

Where errors of the denoiser are far from normally distributed, for example for half-observed
digits, psi is so wrong that weights would have a tiny effective sample size. There R is widened to
R / b, so that the effective sample size is a tenth of the particles, or 256, and so that the moves
that follow forget their starting points, unless R is too small for any move. Particles then arrive
as draws of ``p(x_0) L(x_0)^b``, and b rises to 1 (``narrowing``).
"""

from dataclasses import replace
from math import inf

import torch

from training.inference.draws import Draws
from training.inference.lookahead import LookAhead, calls_to_look, require_lookahead
from training.inference.noise import Noise
from training.inference.prior import Prior
from training.inference.progress import OnPart, share_of
from training.inference.samplers.descent import DTYPE, Descent
from training.inference.samplers.final_particles import FinalParticles
from training.inference.samplers.narrowing import Narrowing
from training.inference.target import Target
from training.names import PARTICLE_STEPS, PARTICLES

LEAST_WORTH = 0.1
"""Effective sample size, as a fraction of the particles, below which R is widened."""
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
        _settle(descent, cloud, ahead.most, share_of(on_part, share * again))
        parts.append(cloud.draws(draws, share_of(on_part, share * latents)))
    joined = Draws.joined(parts, torch.cat(groups))
    return replace(joined, calls=joined.calls + ahead.share * ahead.measured(target).calls)


def measure_moves(
    target: Target, ahead: LookAhead, seed: int, numbers: list[int], chains: int, particles: int
) -> None:
    """Estimate the mean number of network evaluations per particle for the final Markov moves.

    A few particles of the first observations with equal conditions are moved.

    Args:
        target: The posteriors.
        ahead: Look-ahead estimates, where the mean is stored.
        seed: Random seed.
        numbers: Index of each observation, which seeds its draws.
        chains: Number of populations, C.
        particles: Number of particles per population.
    """
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
    looking = (ahead.share * count - ahead.kept) * calls_to_look(prior, ahead.steps)
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
    descent: Descent, cloud: FinalParticles, most_calls: float = inf, on_part: OnPart = None
) -> None:
    """Resample particles and move them, where that is needed.

    Where the noise of observations was widened, particles are moved until it is the true noise
    again.
    Where it was not, but populations disagree, they are moved until they agree, or until the moves
    of a
    particle took ``most_calls`` network evaluations. If these suffice to run more particles
    instead,
    that is done for observations whose noise was not widened.
    """
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
