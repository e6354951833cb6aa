"""The posterior of the standard normal variables w, given observations:

    p(w | y) ~ N(w; 0, I) p(y | x(w)),        x(w) of the prior.

It is evaluated for many observations at once, in blocks of one size: so memory does not grow with
their number, and results do not depend on it. Variables are rows ``[N, dim]``, and ``which [N]``
says which observation each belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import normal_numbers
from torch_utils.streams import Stream
from training.inference.likelihoods import Likelihood
from training.inference.prior import Prior
from training.inference.progress import OnPart
from training.inference.proposals import normal_given

FARTHEST = 10.0
"""Standard deviations beyond which a variable has no likelihood. The prior puts 1e-23 there, and
steps of chains that went astray, where the flow may overflow, are refused by it."""
AT_ONCE, NUMBERS_AT_ONCE = 4, 2**16
"""Blocks' worth of points that are made, moved or placed at once, as long as these have no more
numbers: points of few dimensions come by the thousand, and calls of few small images are dear."""
GRADIENT_CALLS = 4
"""Calls that a gradient counts as: forward, forward again, and twice as much backward."""


class Evaluated(NamedTuple):
    """Points ``[N, D]`` of variables, and their log likelihoods ``[N]``."""

    points: Tensor
    log_likelihood: Tensor


class Placed(NamedTuple):
    """Variables ``[N, dim]`` of states, points ``[N, D]``, log likelihoods ``[N]``, and the log
    densities ``[N]`` of the states under the prior."""

    w: Tensor
    points: Tensor
    log_likelihood: Tensor
    log_prior: Tensor


class LinearView(Protocol):
    """Observations as linear functions of states, with Gaussian noise: see ``lookahead.Sight``."""

    @property
    def operator(self) -> Tensor: ...

    @property
    def observed(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


@dataclass
class Target:
    """Log likelihoods of variables, and their gradients, for M observations.

    Attributes:
        prior: Points of variables.
        likelihood: Of observations, given points.
        observed: What was observed, ``[M, K]``.
        rows: Points of one block.
        labels: What the network is given with each observation, ``[M, L]``; None for nothing.
        calls: Network calls so far, summed over points; a gradient counts as ``GRADIENT_CALLS``.
    """

    prior: Prior
    likelihood: Likelihood
    observed: Tensor
    rows: int
    labels: Tensor | None = None
    calls: int = 0

    @property
    def dim(self) -> int:
        """The number of variables of a point."""
        return self.prior.dim

    @property
    def count(self) -> int:
        """M."""
        return len(self.observed)

    @property
    def device(self) -> torch.device:
        return self.observed.device

    def roughly(self, prior: Prior) -> Target:
        """The same observations under a prior of fewer steps, and what is cheap of the likelihood;
        no calls counted yet."""
        return Target(prior, self.likelihood.roughly(), self.observed, self.rows, self.labels)

    def of(self, places: Tensor) -> Target:
        """The observations at these places ``[m]`` alone, no calls counted yet."""
        labels = None if self.labels is None else self.labels[places]
        return Target(self.prior, self.likelihood, self.observed[places], self.rows, labels)

    @property
    def conditions(self) -> dict[str, Tensor]:
        """What the network is given with each observation, by name."""
        return {} if self.labels is None else {"labels": self.labels}

    @property
    def label(self) -> tuple[float, ...]:
        """What the network is given with the first observation; empty for nothing."""
        return () if self.labels is None else tuple(self.labels[0].tolist())

    def alike(self) -> list[Tensor]:
        """Places of the observations with which the network is given the same."""
        if self.labels is None:
            return [torch.arange(self.count, device=self.device)]
        _, which = torch.unique(self.labels, dim=0, return_inverse=True)
        return [(which == number).nonzero()[:, 0] for number in range(int(which.max()) + 1)]

    @torch.no_grad()
    def evaluate(self, w: Tensor, which: Tensor, on_part: OnPart = None) -> Evaluated:
        """Points and log likelihoods. Raises DataError if one is not finite."""

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            near, astray = _near(w)
            points = self._points(near, which)
            log_likelihood = self.likelihood.log_prob(points, self.observed[which])
            return points, log_likelihood.masked_fill(astray, -torch.inf)

        return Evaluated(*self._in_blocks(block, 1, w, which, on_part=on_part))

    @torch.no_grad()
    def points(self, w: Tensor, which: Tensor, on_part: OnPart = None) -> Tensor:
        """Points ``[N, D]`` alone."""

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            return (self._points(w, which),)

        return self._in_blocks(block, 1, w, which, self.many, on_part=on_part)[0]

    @torch.no_grad()
    def melted(self, w: Tensor, which: Tensor) -> Tensor:
        """Unscaled states ``[N, D]`` at the last time."""
        return self._mapped(self.prior.melted, 0, w, which)

    @torch.no_grad()
    def states(self, w: Tensor, which: Tensor, on_part: OnPart = None) -> Tensor:
        """Unscaled states ``[N, D]`` at the first time."""

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            states, self._calls = self.prior.states(w, self._conditions(which))
            return (states,)

        return self._in_blocks(block, 1, w, which, on_part=on_part)[0]

    @torch.no_grad()
    def of_states(self, states: Tensor, which: Tensor) -> Tensor:
        """Points ``[N, D]`` of unscaled states ``[N, D]`` at the first time."""
        return self._mapped(self.prior.of_states, 0, states, which)

    @torch.no_grad()
    def denoised(self, states: Tensor, t: Tensor, which: Tensor) -> Tensor:
        """What the denoiser makes ``[N, D]`` of unscaled states ``[N, D]`` at time ``t []``, in
        their dtype."""

        def denoised(states: Tensor, conditions: dict[str, Tensor]) -> Tensor:
            return self.prior.denoised(states, t, conditions)

        return self._mapped(denoised, 1, states, which, self.many)

    @torch.no_grad()
    def to_states(self, points: Tensor, which: Tensor) -> Tensor:
        """The unscaled states ``[N, D]`` at the first time that points ``[N, D]`` are."""
        return self._mapped(self.prior.to_states, 0, points, which)

    @torch.no_grad()
    def place(
        self, states: Tensor, normal: Tensor, which: Tensor, seen: LinearView | None = None
    ) -> Placed:
        """Unscaled states ``[N, D]`` at the first time, of observations of these numbers, as
        variables, with their log densities.

        The further variables of a deblurred prior are made of standard normal numbers ``[N, dim -
        D]``, given the state and what is seen of it, if that is linear, and the log density is then
        the prior's of all, over that of these. Raises DataError if a density is not finite."""
        prior = self.prior
        width = prior.flow.noisy_std(prior.times[0]).double()

        def block(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            near, astray = _near(states[rows] / width)
            clean, conditions = near * width, self._conditions(which)
            melted, density = prior.melted_with_density(clean, conditions)
            w, self._calls = melted.points, melted.calls
            if prior.deblurred:
                denoised, root = prior.behind(clean, conditions)
                further, ratio = _behind(denoised, root, normal[rows], which, seen)
                clean = denoised + (root @ further[..., None])[..., 0]
                w, density = torch.cat([w, further], dim=1), density + ratio
                self._calls += prior.flow.basis.dim
            w, far = _near(w)
            points = prior.of_states(clean, conditions)
            likelihood = self.likelihood.log_prob(points, self.observed[which])
            return w, points, likelihood.masked_fill(astray | far, -torch.inf), density

        rows = torch.arange(len(states), device=states.device)
        # A population has always as many: how its last block is cut depends on nothing beside it.
        return Placed(*self._in_blocks(block, 1, rows, which, self.many, self.rows))

    @torch.no_grad()
    def whitened(self, points: Tensor, which: Tensor, on_part: OnPart = None) -> Tensor:
        """The variables ``[N, dim]`` of points ``[N, D]``."""

        calls = self.prior.calls("latents")
        return self._mapped(self.prior.whitened, calls, points, which, self.many, on_part)

    def slope(self, w: Tensor, which: Tensor) -> tuple[Evaluated, Tensor]:
        """Points, log likelihoods, and the gradients ``[N, dim]`` of these. Raises DataError if one
        is not finite, UsageError if the likelihood has no gradients."""

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            near, astray = _near(w.detach())
            leaf = near.requires_grad_()
            points = self._points(leaf, which, differentiable=True)
            log_likelihood = self.likelihood.log_prob(points, self.observed[which])
            if not log_likelihood.requires_grad:
                raise UsageError(
                    "the likelihood has no gradients, which hmc follows: write it in torch, or "
                    "take another sampler"
                )
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), leaf)
            return (
                points.detach(),
                log_likelihood.detach().masked_fill(astray, -torch.inf),
                gradient,
            )

        with torch.enable_grad():
            points, log_likelihood, gradient = self._in_blocks(block, GRADIENT_CALLS, w, which)
        return Evaluated(points, log_likelihood), gradient

    def curvature(self, w: Tensor, which: Tensor) -> Tensor | None:
        """``J^T A^T Sigma^-1 A J [N, dim, dim]`` of a Gaussian likelihood, its Gauss-Newton Hessian
        and Fisher information, with ``J = dx/dw``; None for other likelihoods."""
        root = self.likelihood.curvature_root(self.prior.flow.basis.dim)
        if root is None:
            return None
        # One row of the Jacobian is one gradient: K rows of a point are K points.
        count, size = len(w), len(root)
        pairs = torch.arange(count * size, device=w.device)

        def block(pair: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            leaf = w[pair // size].detach().requires_grad_()
            points = self._points(leaf, which, differentiable=True)
            (gradient,) = torch.autograd.grad((points * root[pair % size]).sum(), leaf)
            return (gradient,)

        with torch.enable_grad():
            spread = which.repeat_interleave(size)
            (rows,) = self._in_blocks(block, GRADIENT_CALLS, pairs, spread)
        jacobian = rows.view(count, size, self.dim)
        return jacobian.mT @ jacobian

    @property
    def many(self) -> int:
        """Points of a block where no more is kept of them than they are."""
        fit = NUMBERS_AT_ONCE // (self.prior.flow.basis.dim * self.rows)
        return self.rows * max(1, min(AT_ONCE, fit))

    def _points(self, w: Tensor, which: Tensor, differentiable: bool = False) -> Tensor:
        points, self._calls = self.prior.points(w, self._conditions(which), differentiable)
        return points

    def _conditions(self, which: Tensor) -> dict[str, Tensor]:
        return {name: rows[which] for name, rows in self.conditions.items()}

    def _mapped(
        self,
        function: Callable[[Tensor, dict[str, Tensor]], Tensor],
        calls: int,
        rows: Tensor,
        which: Tensor,
        size: int | None = None,
        on_part: OnPart = None,
    ) -> Tensor:
        """What a function of rows and conditions makes, that takes so many network calls."""

        def block(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            self._calls = calls
            return (function(rows, self._conditions(which)),)

        return self._in_blocks(block, 1, rows, which, size, on_part=on_part)[0]

    def _in_blocks(
        self,
        function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
        cost: int,
        rows: Tensor,
        which: Tensor,
        size: int | None = None,
        unit: int | None = None,
        on_part: OnPart = None,
    ) -> list[Tensor]:
        """What a function makes of rows, called with exactly so many of them at a time, by default
        ``self.rows``; what is left is filled up to that, or to a multiple of a unit, by its first
        row again. Tells after each block which part of all it was."""
        count, size = len(rows), size or self.rows
        blocks = []
        for start in range(0, count, size):
            block = [each[start : start + size] for each in (rows, which)]
            if missing := -len(block[0]) % (unit or size):
                first = [each[:1].expand(missing, *each.shape[1:]) for each in block]
                block = [torch.cat(parts) for parts in zip(block, first, strict=True)]
            blocks.append(function(*block))
            if on_part:
                on_part(min(size, count - start) / count)
        self.calls += count * cost * self._calls
        return [torch.cat(parts)[:count] for parts in zip(*blocks, strict=True)]


def prior_draws(target: Target, count: int, seed: int) -> Tensor:
    """So many points of the prior ``[count, D]``, given what goes with the first observation."""
    w = normal_numbers((count, target.dim), seed, Stream.SHOWN_PRIOR)
    which = torch.zeros(count, dtype=torch.int64, device=target.device)
    return target.points(w.to(target.device), which)


def _behind(
    denoised: Tensor, root: Tensor, normal: Tensor, which: Tensor, seen: LinearView | None
) -> tuple[Tensor, Tensor]:
    """Further variables ``[N, D]`` of clean states ``denoised + root w``, and logs ``[N]`` of their
    standard normal density over that which they are drawn with: given what is seen, if it is."""
    if seen is None:
        return normal, torch.zeros_like(normal[:, 0])
    apart = seen.observed[which] - denoised @ seen.operator.T
    given = normal_given(seen.operator @ root, apart, seen.covariance[which])
    w = given.mean + (given.root @ normal[..., None])[..., 0]
    volume = given.root.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return w, (normal.square() - w.square()).sum(dim=1) / 2 + volume


def _near(w: Tensor) -> tuple[Tensor, Tensor]:
    """Variables ``[N, dim]``, rows that went astray replaced by 0, and which these are ``[N]``."""
    astray = ~(w.abs().amax(dim=1) <= FARTHEST)  # NaN too
    return w.masked_fill(astray[:, None], 0.0), astray
