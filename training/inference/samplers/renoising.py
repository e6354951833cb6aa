"""Moves of a posterior: noise is added to a state given the observation, and removed by the prior.

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
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from training.inference.lookahead import LinearObservation, expected_end, log_normal
from training.inference.low_rank import Bridge, LowRank
from training.inference.noise import Noise
from training.inference.target import Target

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
    clean state m measures V at the particle's state: m changes by ``H u`` (``low_rank``) if V is
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
