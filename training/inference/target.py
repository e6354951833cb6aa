"""Posterior of the standard normal variables w, given observations.

The posterior is

    p(w | y) ~ N(w; 0, I) p(y | x(w)),        x(w) of the prior.

It is evaluated for many observations at once, in blocks of one size, so that memory does not grow
with their number and results do not depend on it. Variables are rows ``[N, dim]``, and
``which [N]`` is the observation of each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import normal_numbers
from torch_utils.streams import Stream
from training.inference.draws import OnPart
from training.inference.likelihoods import Likelihood
from training.inference.prior import Prior

LARGE, LINEAR_ROWS = 256, 1024
"""Number of dimensions from which points are mapped to states, and back, in large blocks; and the
number of rows of these.
"""
FARTHEST = 10.0
"""Number of standard deviations beyond which a variable has no likelihood. The prior probability
beyond it is 1e-23. It rejects diverging steps of chains, where the flow may overflow.
"""
AT_ONCE, NUMBERS_AT_ONCE = 4, 2**16
"""Limits on larger blocks, for points that are generated, moved or mapped together: number of
ordinary blocks, and number of coordinates. Points of few dimensions come by the thousand, and
evaluations of few small images are inefficient.
"""
GRADIENT_CALLS = 4
"""Network evaluations that a gradient counts as: forward, forward again, and twice as much
backward.
"""


class EvaluatedPoints(NamedTuple):
    """Points of data space, with their log likelihoods.

    Attributes:
        points: Points ``[N, D]`` of data space.
        log_likelihood: Log likelihoods ``[N]`` of the points, in nats.
    """

    points: Tensor
    log_likelihood: Tensor


class EvaluatedStates(NamedTuple):
    """States at the first (least noisy) time, as variables and as points, with log densities.

    Attributes:
        w: Standard normal variables ``[N, dim]`` of the states.
        points: Points ``[N, D]`` of data space.
        log_likelihood: Log likelihoods ``[N]`` of the points.
        log_prior: Log densities ``[N]`` of the states under the prior.
    """

    w: Tensor
    points: Tensor
    log_likelihood: Tensor
    log_prior: Tensor


@dataclass
class Target:
    """The posteriors of M observations, as functions of standard normal variables.

    In methods, variables are rows ``w [N, dim]``, and ``which [N]`` is the index of the observation
    of each row.

    Attributes:
        prior: Prior, which maps standard normal variables to points.
        likelihood: Likelihood of observations, given points.
        observed: Observations ``[M, K]``.
        rows: Number of points per block.
        labels: Conditions of the network for each observation, ``[M, L]``; None for no conditions.
        calls: Number of network evaluations so far, summed over points; a gradient counts as
            ``GRADIENT_CALLS``.
    """

    prior: Prior
    likelihood: Likelihood
    observed: Tensor
    rows: int
    labels: Tensor | None = None
    calls: int = 0

    @property
    def dim(self) -> int:
        """Number of standard normal variables per point."""
        return self.prior.dim

    @property
    def count(self) -> int:
        """Number of observations, M."""
        return len(self.observed)

    @property
    def device(self) -> torch.device:
        """Device of the observations, on which the target is evaluated."""
        return self.observed.device

    def approximate(self, prior: Prior) -> Target:
        """Return a cheap approximation of the posteriors, which counts its own evaluations.

        Args:
            prior: Prior with fewer steps; the likelihood is replaced by its cheap approximation.
        """
        return Target(prior, self.likelihood.approximate(), self.observed, self.rows, self.labels)

    def of(self, places: Tensor) -> Target:
        """Return the target of the observations with indices ``places [m]`` only.

        The count of network evaluations of the result starts at 0.
        """
        labels = None if self.labels is None else self.labels[places]
        return Target(self.prior, self.likelihood, self.observed[places], self.rows, labels)

    @property
    def conditions(self) -> dict[str, Tensor]:
        """Conditions of the network for each observation, by name; empty for no conditions."""
        return {} if self.labels is None else {"labels": self.labels}

    @property
    def label(self) -> tuple[float, ...]:
        """Conditions of the first observation as numbers; empty for no conditions."""
        return () if self.labels is None else tuple(self.labels[0].tolist())

    def alike(self) -> list[Tensor]:
        """Return the indices of the observations, in groups with equal conditions."""
        if self.labels is None:
            return [torch.arange(self.count, device=self.device)]
        _, which = torch.unique(self.labels, dim=0, return_inverse=True)
        return [(which == number).nonzero()[:, 0] for number in range(int(which.max()) + 1)]

    @torch.no_grad()
    def evaluate(self, w: Tensor, which: Tensor, on_part: OnPart = None) -> EvaluatedPoints:
        """Map standard normal variables to points, and compute their log likelihoods.

        Raises:
            DataError: A point or a log likelihood is not finite.
        """

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            near, astray = _near(w)
            points = self._points(near, which)
            log_likelihood = self.likelihood.log_prob(points, self.observed[which])
            return points, log_likelihood.masked_fill(astray, -torch.inf)

        return EvaluatedPoints(*self._in_blocks(block, 1, w, which, on_part=on_part))

    @torch.no_grad()
    def points(self, w: Tensor, which: Tensor, on_part: OnPart = None) -> Tensor:
        """Map standard normal variables to points ``[N, D]``, without likelihoods."""

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            return (self._points(w, which),)

        return self._in_blocks(block, 1, w, which, self.many, on_part=on_part)[0]

    @torch.no_grad()
    def melted(self, w: Tensor, which: Tensor) -> Tensor:
        """Map standard normal variables to unscaled states at the last (noisiest) time."""
        return self._mapped(self.prior.melted, 0, w, which)

    @torch.no_grad()
    def states(self, w: Tensor, which: Tensor, on_part: OnPart = None) -> Tensor:
        """Map standard normal variables to unscaled states at the first (least noisy) time."""

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            states, self._calls = self.prior.states(w, self._conditions(which))
            return (states,)

        return self._in_blocks(block, 1, w, which, on_part=on_part)[0]

    @torch.no_grad()
    def of_states(self, states: Tensor, which: Tensor) -> Tensor:
        """Map unscaled states ``[N, D]`` at the first (least noisy) time to points ``[N, D]``."""
        return self._mapped(self.prior.of_states, 0, states, which, *self._linear)

    @torch.no_grad()
    def denoised(self, states: Tensor, t: Tensor, which: Tensor) -> Tensor:
        """Denoise unscaled states ``[N, D]`` at time ``t []``, in their dtype."""

        def denoised(states: Tensor, conditions: dict[str, Tensor]) -> Tensor:
            return self.prior.denoised(states, t, conditions)

        return self._mapped(denoised, 1, states, which, self.many)

    @torch.no_grad()
    def to_states(self, points: Tensor, which: Tensor) -> Tensor:
        """Map points ``[N, D]`` to unscaled states ``[N, D]`` at the first (least noisy) time."""
        return self._mapped(self.prior.to_states, 0, points, which, *self._linear)

    @torch.no_grad()
    def place(self, states: Tensor, which: Tensor) -> EvaluatedStates:
        """Map states at the first (least noisy) time to variables, and compute log densities.

        Args:
            states: Unscaled states at the first time ``[N, D]``.
            which: Index of the observation of each state ``[N]``.

        Raises:
            DataError: A density is not finite.
        """
        prior = self.prior
        width = prior.flow.noisy_std(prior.times[0]).double()

        def block(states: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            near, astray = _near(states / width)
            clean, conditions = near * width, self._conditions(which)
            melted, density = prior.inflated_with_density(clean, conditions)
            self._calls = melted.calls
            w, far = _near(melted.points)
            points = prior.of_states(clean, conditions)
            likelihood = self.likelihood.log_prob(points, self.observed[which])
            return w, points, likelihood.masked_fill(astray | far, -torch.inf), density

        # The padding of the last block depends only on the size of a population, which is constant.
        return EvaluatedStates(*self._in_blocks(block, 1, states, which, self.many, self.rows))

    @torch.no_grad()
    def whitened(self, points: Tensor, which: Tensor, on_part: OnPart = None) -> Tensor:
        """Map points ``[N, D]`` to standard normal variables ``[N, dim]``."""
        calls = self.prior.calls("latents")
        return self._mapped(self.prior.whitened, calls, points, which, self.many, on_part=on_part)

    def slope(self, w: Tensor, which: Tensor) -> tuple[EvaluatedPoints, Tensor]:
        """Return points, log likelihoods, and the gradients ``[N, dim]`` of the log likelihoods.

        Gradients are with respect to the variables.

        Raises:
            DataError: A point or a log likelihood is not finite.
            UsageError: The likelihood has no gradients.
        """

        def block(w: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            near, astray = _near(w.detach())
            leaf = near.requires_grad_()
            points = self._points(leaf, which, differentiable=True)
            log_likelihood = self.likelihood.log_prob(points, self.observed[which])
            if not log_likelihood.requires_grad:
                raise UsageError(
                    "hmc needs gradients of the likelihood: write the likelihood in "
                    "PyTorch, or choose another sampler"
                )
            (gradient,) = torch.autograd.grad(log_likelihood.sum(), leaf)
            return (
                points.detach(),
                log_likelihood.detach().masked_fill(astray, -torch.inf),
                gradient,
            )

        with torch.enable_grad():
            points, log_likelihood, gradient = self._in_blocks(block, GRADIENT_CALLS, w, which)
        return EvaluatedPoints(points, log_likelihood), gradient

    def curvature(self, w: Tensor, which: Tensor) -> Tensor | None:
        """Return the Fisher information ``[N, dim, dim]`` of a Gaussian likelihood, else None.

        The information (or Gauss-Newton Hessian) with respect to the variables is ``J^T A^T
        Sigma^-1 A J``, with the Jacobian ``J = dx/dw`` of points.
        """
        root = self.likelihood.curvature_root(self.prior.flow.basis.dim)
        if root is None:
            return None
        # One row of the Jacobian takes one gradient: K rows for a point are evaluated as K points.
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
        """Number of points per block for operations that need little memory besides the points."""
        fit = NUMBERS_AT_ONCE // (self.prior.flow.basis.dim * self.rows)
        return self.rows * max(1, min(AT_ONCE, fit))

    def _points(self, w: Tensor, which: Tensor, differentiable: bool = False) -> Tensor:
        points, self._calls = self.prior.points(w, self._conditions(which), differentiable)
        return points

    def _conditions(self, which: Tensor) -> dict[str, Tensor]:
        return {name: rows[which] for name, rows in self.conditions.items()}

    @property
    def _linear(self) -> tuple[int, int]:
        """Numbers of rows in blocks without network evaluations, and in the last of them.

        A large matrix takes as long for a few rows as for many.
        """
        many = self.prior.flow.basis.dim >= LARGE
        return (max(self.rows, LINEAR_ROWS) if many else self.rows), self.rows

    def _mapped(
        self,
        function: Callable[[Tensor, dict[str, Tensor]], Tensor],
        calls: int,
        rows: Tensor,
        which: Tensor,
        size: int | None = None,
        unit: int | None = None,
        on_part: OnPart = None,
    ) -> Tensor:
        """Apply a function of rows and conditions, in blocks; see ``_in_blocks``.

        The function takes ``calls`` network evaluations per row.
        """

        def block(rows: Tensor, which: Tensor) -> tuple[Tensor, ...]:
            self._calls = calls
            return (function(rows, self._conditions(which)),)

        return self._in_blocks(block, 1, rows, which, size, unit, on_part)[0]

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
        """Apply a function to rows in blocks of exactly ``size`` rows, by default ``self.rows``.

        The last block is padded with its first row to that size, or to a multiple of ``unit``. Call
        ``on_part`` after each block with its fraction of all rows.
        """
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
    """Draw ``count`` points ``[count, D]`` of the prior, under the first observation's conditions.

    Args:
        target: Target with the prior.
        count: Number of points.
        seed: Random seed.
    """
    w = normal_numbers((count, target.dim), seed, Stream.SHOWN_PRIOR)
    which = torch.zeros(count, dtype=torch.int64, device=target.device)
    return target.points(w.to(target.device), which)


def _near(w: Tensor) -> tuple[Tensor, Tensor]:
    """Set diverging rows of variables ``[N, dim]`` to 0.

    Returns:
        The variables, and a mask ``[N]`` of the diverging rows.
    """
    astray = ~(w.abs().amax(dim=1) <= FARTHEST)  # NaN too
    return w.masked_fill(astray[:, None], 0.0), astray
