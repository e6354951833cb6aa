"""A prior of levels that jump, whose posterior is known by Gibbs sampling, with its exact denoiser.

A signal of D numbers, read row by row as an image, begins with a level that is standard normal; at
each further number it jumps, with probability p, to another one. Noise of variance g gives a
segment of n numbers whose sum is S the evidence, but for what all segmentations share,

    log m = S^2 / (2 g (g + n)) - log(1 + n / g) / 2,

and its level the mean ``S / (n + g)``. Sums over all segmentations come forwards and backwards
(Fearnhead 2006, "Exact and efficient Bayesian inference for multiple changepoint problems"). Under
a linear likelihood evidence is not a product of segments: there jumps are sampled one by one, and
moved by a pixel, with the levels integrated out, by many chains at once. Chains of powers of the
likelihood exchange their jumps with these (parallel tempering; Geyer 1991): of random sums with
little noise, chains without them have a draw's worth each after 100 sweeps.
"""

from dataclasses import dataclass
from functools import partial
from math import log, log1p

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import pad

from benchmarks.inverse.known import Drawn
from training import EigenBasis, InflationSchedule
from training.flow.pfode import ProbabilityFlow
from training.inference.likelihoods import Gaussian

GAMMA0 = 1e-4
JUMP = 0.1
"""Probability p."""
SEGMENTS, CHAINS, WARMUP, SWEEPS = 24, 24, 60, 900
"""Most segments of a signal, of which there are 7 to be expected; and of the Gibbs sampler."""
POWERS = torch.logspace(0, -1.2, 6, dtype=torch.float64)
"""Of the likelihood, which chains have that exchange jumps with their neighbors."""
AT_ONCE = 64
"""Signals of the denoiser, whose segments fit into a processor's cache."""
LEAST = -700.0
"""Logarithm of a chance that is as good as none: of smaller ones a processor is slow."""


@dataclass(frozen=True)
class Jumps:
    """The prior.

    Attributes:
        side: Of the square that the signal is read into.
    """

    side: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, self.side, self.side)

    @property
    def dim(self) -> int:
        return self.side**2

    def sample(self, count: int, seed: int) -> Tensor:
        """``[N, D]``."""
        generator = torch.Generator().manual_seed(seed)
        jumps = torch.rand(count, self.dim, generator=generator) < JUMP
        levels = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        jumps[:, 0] = False
        return levels.gather(1, jumps.cumsum(dim=1))

    @property
    def flow(self) -> ProbabilityFlow:
        """With the exact denoiser; all dimensions are kept."""
        place = torch.arange(self.dim).double()
        covariance = (1 - JUMP) ** (place - place[:, None]).abs()
        basis = EigenBasis.from_moments(torch.zeros_like(place), covariance)
        top = basis.top_variance
        schedule = InflationSchedule.to_dimension(
            self.dim, self.dim, top_variance=top, gamma0=GAMMA0
        )
        return ProbabilityFlow(JumpDenoiser(basis, schedule), schedule, basis)

    def posterior(self, likelihood: Gaussian, observed: Tensor) -> Drawn:
        """That of points with the noise of the first time, as the flow has them."""
        return Drawn(torch.stack([self._gibbs(likelihood, seen) for seen in observed]))

    def _gibbs(self, likelihood: Gaussian, seen: Tensor) -> Tensor:
        """``[S, D]``, of one observation."""
        generator = torch.Generator().manual_seed(9)
        operator = likelihood.observe(torch.eye(self.dim, dtype=torch.float64)).T
        noise = likelihood.covariance(len(operator))
        blurred = noise + GAMMA0 * operator @ operator.T
        precise = torch.linalg.solve(blurred, operator)
        chains = _Chains(operator.T @ precise, precise.T @ seen, generator)
        points = []
        gain = GAMMA0 * torch.linalg.solve(blurred, operator).T
        for sweep in range(WARMUP + SWEEPS):
            chains.sweep(sweep)
            if sweep < WARMUP:
                continue
            signal = chains.signals()
            # The noise of the first time, given the observation (Matheron's rule).
            blur = GAMMA0**0.5 * torch.randn(signal.shape, generator=generator).double()
            other = torch.randn(CHAINS, len(operator), generator=generator).double()
            off = seen - (signal + blur) @ operator.T - other @ torch.linalg.cholesky(noise).T
            points.append(signal + blur + off @ gain.T)
        return torch.cat(points)


class _Chains:
    """Of jumps ``[P C, D]``, C for each of P powers of the likelihood, largest first.

    Args:
        information: Precision of the whole likelihood, ``[D, D]``.
        pull: Times its mean, ``[D]``.
        generator: Of all that is drawn.
    """

    def __init__(self, information: Tensor, pull: Tensor, generator: torch.Generator):
        # Sums over segments are differences of sums from the beginning.
        self._squares = pad(information.cumsum(dim=0).cumsum(dim=1), (1, 0, 1, 0))
        self._pulls = pad(pull.cumsum(dim=0), (1, 0))
        self._dim, self._generator = len(pull), generator
        self._powers = POWERS.repeat_interleave(CHAINS)
        self._jumps = torch.rand(len(self._powers), self._dim, generator=generator) < JUMP
        self._jumps[:, 0] = True

    def sweep(self, number: int) -> None:
        """Draws each jump, moves each by a pixel, and exchanges those of neighboring powers."""
        dim, jumps, powers = self._dim, self._jumps, self._powers
        now, prior = self._evidence(jumps, powers), log(JUMP) - log1p(-JUMP)
        for here in (1 + torch.randperm(dim - 1, generator=self._generator)).tolist():
            other = jumps.clone()
            other[:, here] ^= True
            evidence = self._evidence(other, powers)
            log_odds = evidence - now + torch.where(other[:, here], prior, -prior)
            taken = self._taken(F.logsigmoid(log_odds))
            jumps = torch.where(taken[:, None], other, jumps)
            now = torch.where(taken, evidence, now)
        for here in (1 + torch.randperm(dim - 2, generator=self._generator)).tolist():
            rows = (jumps[:, here] ^ jumps[:, here + 1]).nonzero()[:, 0]
            moved = jumps[rows]
            moved[:, here : here + 2] ^= True
            evidence = self._evidence(moved, powers[rows])
            taken = self._taken(evidence - now[rows])
            rows = rows[taken]
            jumps[rows], now[rows] = moved[taken], evidence[taken]
        rows = torch.arange(len(powers)).view(-1, CHAINS)[number % 2 :]
        cold, hot = (rows[k : len(rows) // 2 * 2 : 2].flatten() for k in (0, 1))
        gain = self._evidence(jumps[hot], powers[cold]) - now[cold]
        gain += self._evidence(jumps[cold], powers[hot]) - now[hot]
        taken, order = self._taken(gain), torch.arange(len(jumps))
        order[cold], order[hot] = torch.where(taken, hot, cold), torch.where(taken, cold, hot)
        self._jumps = jumps[order]

    def signals(self) -> Tensor:
        """Of the posterior, with levels that are drawn, ``[C, D]``."""
        jumps = self._jumps[:CHAINS]
        root, pulled = self._fitted(jumps, self._powers[:CHAINS])
        mean = torch.cholesky_solve(pulled[..., None], root)
        normal = torch.randn(mean.shape, generator=self._generator, dtype=torch.float64)
        level = mean + torch.linalg.solve_triangular(root.mT, normal, upper=True)
        return level[..., 0].gather(1, jumps.cumsum(dim=1) - 1)

    def _fitted(self, jumps: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
        """Root of the precision of the levels, which are of no pixel at the end, and pull."""
        begins = torch.where(jumps, torch.arange(self._dim), self._dim).sort(dim=1).values
        most = min(SEGMENTS, max(jumps.sum(dim=1).tolist(), default=1))
        ends = pad(begins[:, :most], (0, 1), value=self._dim)
        sums = self._squares[ends[:, :, None], ends[:, None]].diff(dim=1).diff(dim=2)
        precision = powers[:, None, None] * sums + torch.eye(most, dtype=torch.float64)
        return torch.linalg.cholesky(precision), powers[:, None] * self._pulls[ends].diff(dim=1)

    def _evidence(self, jumps: Tensor, powers: Tensor) -> Tensor:
        root, pulled = self._fitted(jumps, powers)
        solved = torch.linalg.solve_triangular(root, pulled[..., None], upper=False)
        volume = root.diagonal(dim1=1, dim2=2).log().sum(dim=1)
        return solved.square().sum(dim=(1, 2)) / 2 - volume

    def _taken(self, log_chance: Tensor) -> Tensor:
        return torch.rand(len(log_chance), generator=self._generator).log() < log_chance


class JumpDenoiser(nn.Module):
    """The exact denoiser, of states ``[B, D]`` in eigenspace and a time ``[]``, in their dtype."""

    def __init__(self, basis: EigenBasis, schedule: InflationSchedule):
        super().__init__()
        self.schedule, self.basis = schedule, basis
        place = torch.arange(basis.dim)
        self.length = length = (place[:, None] - place + 1).clamp_min(0).double()
        inner = (length - 1).clamp_min(0) * log1p(-JUMP)
        last = (place[:, None] == basis.dim - 1) | (length == 0)
        self.log_prior = torch.where(last, inner, inner + log(JUMP))
        self.log_prior[length == 0] = -torch.inf

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        gamma = self.schedule.noise_variance(t.double()).reshape(-1)[0]
        axes, length = self.basis.eigenvectors.double(), self.length
        scale = 1 / (gamma + length)
        log_prior = self.log_prior - (length / gamma).log1p() / 2
        blocks = torch.split(x.double() @ axes.T, AT_ONCE)
        denoised = torch.cat([_denoised(block, scale, gamma, log_prior) for block in blocks])
        return (denoised @ axes).to(x)


def _denoised(pixels: Tensor, scale: Tensor, gamma: Tensor, log_prior: Tensor) -> Tensor:
    """Of signals ``[B, D]``; ``1 / (g + n)`` and what a segment has of itself, ``[end, first]``."""
    count, dim = pixels.shape
    sums = pad(pixels.cumsum(dim=1), (1, 0))
    total = sums[:, 1:, None] - sums[:, None, :-1]  # of segments [B, end, first]
    level = total * scale
    fit = total.mul_(level).mul_(0.5 / gamma).add_(log_prior)
    # In units of the best segmentation of all before a place, no sum is below one.
    best = torch.zeros_like(sums)
    for end in range(dim):
        torch.amax(best[:, : end + 1] + fit[:, end, : end + 1], dim=1, out=best[:, end + 1])
    fit += best[:, None, :-1]
    fit -= best[:, 1:, None]
    chance = fit.clamp_(min=LEAST).exp_()
    # before[e + 1] = sum of before[f] chance[e, f], after[f] = sum of after[e + 1] chance[e, f].
    steps = torch.eye(dim + 1, dtype=pixels.dtype).repeat(count, 1, 1)
    steps[:, 1:, :-1] -= chance
    start = torch.zeros(count, dim + 1, 1, dtype=pixels.dtype)
    start[:, 0] = 1
    solve = partial(torch.linalg.solve_triangular, unitriangular=True)
    before = solve(steps, start, upper=False)
    after = solve(steps.mT, start.flip(1), upper=True) / before[:, -1:]
    # A pixel has the levels of the segments that began, and did not end, before it.
    level *= chance
    begun = before[:, :-1] * (level.mT @ after[:, 1:])
    ended = after[:, 1:] * (level @ before[:, :-1])
    begun[:, 1:] -= ended[:, :-1]
    return begun[..., 0].cumsum(dim=1)
