"""Log densities of posteriors with gradients, for optimization and for samplers of other libraries.

``PosteriorDensity`` is the density of a conditional flow, in the parameters. Marginal and
conditional densities of some parameters A, given the others B, need the integral

    q(b) = int q(a, b) da = E_g[q(a, b) / g(a | b)],

estimated with draws of a Gaussian mixture g that is fitted to draws of the posterior, conditioned
on b, and widened. Parameters with bounds are mapped to the real line for this.

``LatentDensity`` is the density of a posterior with a likelihood, in the latents of the flow.
Whitened latents w are standard normal under the prior, and the flow carries them to points x(w), so
that the posterior of w given an observation y is, up to a constant,

    log p(w | y) = log p(y | x(w)) - |w|^2 / 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from math import log
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.quasirandom import SobolEngine

from dnnlib.errors import DataError, UsageError
from dnnlib.warned import warn
from torch_utils.seeds import hash_seed, normal_numbers
from torch_utils.streams import Stream
from training.flow.bin_averages import has_cells
from training.flow.coordinates.maps import ROUNDING, Bounded
from training.flow.likelihood import Density, Trace
from training.inference.amortized import Amortized
from training.inference.draws import weighted_picks, z_order
from training.inference.proposals import COMPONENTS, Proposal
from training.inference.target import Target
from training.measure.posterior.importance import k_threshold, smoothed_weights
from training.models.library import library_class

TRIED, STARTS, ASCENT, FIRST_STEP = 2**8, 4, 60, 0.2
"""Search for a maximum: number of draws tried, of starts among them, and of steps, and size of the
first step in posterior standard deviations.
"""
FITTED, INTEGRATED = 2**11, 2**9
"""Number of draws that a proposal is fitted to, and of its draws for the integral at a point."""
WIDE, WIDE_SHARE = 2.0, 0.2
"""Factor on the standard deviations of a part of a proposal's draws, and this part."""
PER_DRAW = 4
"""Number of weighted draws per draw of a conditional density."""


@library_class
class PosteriorDensity:
    """Posteriors of M observations by a conditional flow: log densities and draws with gradients.

    Args:
        posterior: The sampler and density of these posteriors.
        names: Names of the D parameters.

    Attributes:
        names: Names of the D parameters.
        observed: Observations ``[M, C]``, with gradients if they require any.
    """

    def __init__(self, posterior: Amortized, names: Sequence[str]):
        self._posterior, self.names = posterior, list(names)
        self.observed = posterior.conditions

    def log_prob(self, points: Tensor) -> Tensor:
        """Return log densities of points in nats, minus infinity beyond bounds.

        Gradients flow back to the points, and to the observations. If the flow rejects draws beyond
        bounds, the gradient of the probability within the bounds is estimated from draws.

        Args:
            points: Points ``[M, ..., D]``, or ``[..., D]`` for a single observation.

        Returns:
            Log densities ``[M, ...]``, or ``[...]`` for a single observation.

        Raises:
            UsageError: Gradients are needed, but parameters are discrete.
            DataError: The points have another shape, or a density is not finite.
        """
        count, dim = len(self.observed), len(self.names)
        if points.shape[-1:] != (dim,) or (count > 1 and points.shape[:1] != (count,)):
            several = f"[{count}, ..., {dim}]" if count > 1 else f"[..., {dim}]"
            raise DataError(f"points have shape {list(points.shape)}: give {several}")
        seen = self.observed.requires_grad
        grows = torch.is_grad_enabled() and (points.requires_grad or seen)
        if grows and has_cells(self._posterior.prior.flow):
            raise UsageError(
                "densities of discrete parameters have no gradients: pass points.detach()"
            )
        rows = points.to(self.observed.device).double().reshape(count, -1, dim)
        low, high = self._ends
        inside = ((rows > low) & (rows < high)).all(dim=-1, keepdim=True)
        least, most = _just_within(self._ends)  # a point on a bound has no image
        rows = rows.maximum(least).minimum(most).where(inside, rows)
        if not rows.numel():
            return rows.sum(dim=-1).view(points.shape[:-1])
        places = torch.arange(count)
        mass = self._log_mass if grows and seen else self._mass
        block = min(self._posterior.rows, 2 ** (rows.shape[:2].numel() - 1).bit_length())
        posterior = replace(self._posterior, rows=block)
        return posterior.log_prob(rows, places, Trace("exact"), mass).log_prob.view(
            points.shape[:-1]
        )

    def rsample(self, draws: int, seed: int = 0) -> Tensor:
        """Draw ``[M, draws, D]`` points, as differentiable functions of the observations.

        Raises:
            UsageError: Draws beyond bounds are redrawn, or parameters are discrete, so that draws
                have no gradients.
        """
        prior, count = self._posterior.prior, len(self.observed)
        rejects = prior.flow.coordinates is not None and prior.flow.coordinates.rejects
        if rejects or has_cells(prior.flow):
            why = "beyond bounds are redrawn" if rejects else "of discrete parameters are rounded"
            raise UsageError(
                f"rsample: draws {why}, and have no gradients"
                + (": train with bounded='map'" if rejects else "")
            )
        given = {"labels": self.observed.repeat_interleave(draws, dim=0)}
        drawn = prior.points(self._normal(draws, seed), given, differentiable=True)
        return drawn.points.view(count, draws, -1)

    def map(self) -> Tensor:
        """Return the points ``[M, D]`` of the largest density (maximum a posteriori).

        The density is that of the draws, in the units of the parameters. The search starts from the
        best of ``TRIED`` draws, and is accurate to about a hundredth of a posterior standard
        deviation; a maximum at a bound is found just within it.
        """
        draws, std = self._draws[:, :TRIED], self._draws.std(dim=1, keepdim=True)
        with torch.no_grad():
            density = self.log_prob(draws)
        rows = torch.arange(len(draws), device=draws.device)
        start = draws[rows[:, None], density.topk(STARTS, dim=1).indices]
        low, high = ((end - start) / std for end in _just_within(self._ends))
        way = torch.zeros_like(start, requires_grad=True)  # in standard deviations
        optimizer = torch.optim.Adam([way], lr=FIRST_STEP, betas=(0.7, 0.95))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ASCENT, 1e-3)
        top, found = torch.full_like(start[..., 0], -torch.inf), start
        for _ in range(ASCENT):
            points = start + std * way
            density = self.log_prob(points)
            better = density.detach() > top
            top = density.detach().where(better, top)
            found = points.detach().where(better[..., None], found)
            (slope,) = torch.autograd.grad(density.sum(), way)
            way.grad = -slope
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                way.copy_(way.maximum(low).minimum(high))
        return found[rows, top.argmax(dim=1)]

    def marginal(self, names: Sequence[str]) -> "MarginalDensity":
        """Return the density of some of the parameters, with the others integrated out.

        Draws of the marginal are these columns of the posterior's draws.

        Raises:
            UsageError: A name is no parameter, all or none of the parameters are named, or
                parameters are discrete.
        """
        return MarginalDensity(self, self._places(list(names)))

    def conditional(self, values: Mapping[str, float]) -> "ConditionalDensity":
        """Return the posterior given the values of some parameters, by name.

        Raises:
            UsageError: A name is no parameter, all or none of the parameters are named, or
                parameters are discrete.
            DataError: A value is beyond the bounds of its parameter.
        """
        places = self._places(list(values))
        fixed = torch.tensor([float(values[self.names[place]]) for place in places])
        low, high = (end[places] for end in self._ends)
        fixed = fixed.double().to(low)
        for place, inside in zip(places, ((fixed > low) & (fixed < high)).tolist(), strict=True):
            if not inside:
                name = self.names[place]
                raise DataError(f"{name} is {values[name]:g}, which is beyond its bounds")
        return ConditionalDensity(self.marginal(list(values)), fixed)

    @cached_property
    def _mass(self) -> Density:
        """Log probability ``[M]`` within the bounds, without gradients."""
        with torch.no_grad():
            return self._posterior.log_mass(torch.arange(len(self.observed)))

    @property
    def _log_mass(self) -> Density:
        """Log probability ``[M]`` within the bounds, with gradients to the observations.

        The mean of the score ``d log q / dy`` over all draws is 0, and its integral over the region
        within the bounds is the derivative of the probability P. So this derivative is minus the
        integral over the rest, ``d log P / dy = -E[score; outside] / P``.
        """
        beyond, which = self._beyond
        if not len(beyond):
            return self._mass
        log_mass, error = self._mass
        own = replace(self._posterior, rows=min(self._posterior.rows, len(beyond)))
        density = own.log_density(beyond[:, None], which, Trace("exact"))[:, 0]
        lost = torch.zeros_like(log_mass).index_add(0, which, density) / INTEGRATED
        score = lost / log_mass.exp()
        return Density(log_mass - (score - score.detach()), error)

    @cached_property
    def _beyond(self) -> tuple[Tensor, Tensor]:
        """Draws ``[N, D]`` of the flow that are beyond bounds, and their observations ``[N]``."""
        prior, count = self._posterior.prior, len(self.observed)
        which = torch.arange(count, device=self.observed.device).repeat_interleave(INTEGRATED)
        if prior.flow.coordinates is None or not prior.flow.coordinates.rejects:
            return self.observed.new_empty(0, len(self.names)), which[:0]
        with torch.no_grad():
            given = {"labels": self.observed.detach()[which]}
            points = prior.points(self._normal(INTEGRATED, 0), given).points
        outside = ~prior.flow.coordinates.inside(points)
        return points[outside], which[outside]

    @cached_property
    def _draws(self) -> Tensor:
        """Draws ``[M, FITTED, D]`` of the posteriors, without gradients."""
        with torch.no_grad():
            drawer = replace(self._posterior, draws=FITTED, conditions=self.observed.detach())
            return drawer.sample(torch.arange(len(self.observed))).points[:, 0]

    @property
    def _ends(self) -> Tensor:
        """Lower and upper bounds of the parameters ``[2, D]``, infinite where there is none."""
        coordinates = self._posterior.prior.flow.coordinates
        assert coordinates is not None, "flows of simulations have coordinates"
        return coordinates.ends.T

    def _normal(self, draws: int, seed: int) -> Tensor:
        """Return the standard normal variables ``[M draws, D]`` of the draws of ``sample``."""
        shape = (draws, self._posterior.prior.dim)
        rows = [
            normal_numbers(shape, hash_seed(seed, place), Stream.POSTERIOR_DRAWS, 0)
            for place in range(len(self.observed))
        ]
        return torch.cat(rows).to(self.observed.device)

    def _places(self, names: Sequence[str]) -> list[int]:
        if has_cells(self._posterior.prior.flow):
            raise UsageError("marginal and conditional densities are for continuous parameters")
        for name in names:
            if name not in self.names:
                raise UsageError(f"'{name}' is no parameter: give some of {', '.join(self.names)}")
        if not 0 < len(names) < len(self.names) or len(set(names)) < len(names):
            raise UsageError(f"give some, but not all, of {', '.join(self.names)}, each once")
        return [self.names.index(name) for name in names]


class _Integrand(NamedTuple):
    """Weighted draws of the other parameters, at N points of each of M posteriors.

    Attributes:
        others: Values ``[M, N, K, D - d]`` of the other parameters.
        log_weights: Log weights ``[M, N, K]``, whose mean weight is the marginal density.
    """

    others: Tensor
    log_weights: Tensor


@dataclass(frozen=True, eq=False)
class MarginalDensity:
    """Density of d of the D parameters, with the others integrated out.

    Attributes:
        whole: Density of all parameters.
        places: Indices of the d parameters.
    """

    whole: PosteriorDensity
    places: list[int]

    @property
    def names(self) -> list[str]:
        """Names of the d parameters."""
        return [self.whole.names[place] for place in self.places]

    def log_prob(self, points: Tensor) -> Tensor:
        """Return log densities of points, in nats; see ``log_prob_with_error``."""
        return self.log_prob_with_error(points).log_prob

    def log_prob_with_error(self, points: Tensor) -> Density:
        """Return log densities of points in nats, and their standard errors, without gradients.

        Args:
            points: Points ``[M, N, d]``, or ``[N, d]`` for a single observation.

        Raises:
            DataError: The points have another shape, or a density is not finite.
        """
        count, dim = len(self.whole.observed), len(self.places)
        shape = points.shape[:-1]
        if points.shape[-1:] != (dim,) or len(shape) != (2 if count > 1 else 1):
            several = f"[{count}, N, {dim}]" if count > 1 else f"[N, {dim}]"
            raise DataError(f"points have shape {list(points.shape)}: give {several}")
        rows = points.detach().to(self.whole.observed).double().view(count, -1, dim)
        low, high = (end[self.places] for end in self.whole._ends)
        inside = ((rows > low) & (rows < high)).all(dim=-1)
        middle = self.whole._draws[:, :1, self.places]
        weights = self.weighted(rows.where(inside[..., None], middle), INTEGRATED).log_weights
        density = weights.logsumexp(dim=-1) - log(weights.shape[-1])
        scatter = (weights - density[..., None]).exp().std(dim=-1) / weights.shape[-1] ** 0.5
        return Density(
            density.where(inside, -torch.inf).view(shape), scatter.where(inside, 0.0).view(shape)
        )

    def weighted(self, rows: Tensor, size: int, seed: int = 0) -> _Integrand:
        """Return ``size`` weighted draws of the other parameters at rows ``[M, N, d]``.

        All rows share the quasi-random numbers of the seed.
        """
        dim, whole = len(self.whole.names), self.whole
        others = [place for place in range(dim) if place not in self.places]
        (count, number), ends = rows.shape[:2], whole._ends
        own, rest = (Bounded.between(ends[:, each].T) for each in (self.places, others))
        center, scale, fitted = self._proposal
        known = (own(rows)[0] - center[..., self.places]) / scale[..., self.places]
        proposal = fitted.given(self.places, known).wider(WIDE, WIDE_SHARE)
        engine = SobolEngine(1 + len(others), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        uniform = engine.draw(size, dtype=torch.float64).clamp(1e-12, 1 - 1e-12).to(rows)
        drawn = proposal.draw(uniform.expand(count * number, -1, -1))
        center, scale = (
            each[..., others].repeat_interleave(number, dim=0) for each in (center, scale)
        )
        values = rest.inverse(center + scale * drawn)
        points = rows.new_empty(count, number, size, dim)
        points[..., self.places] = rows[:, :, None]
        points[..., others] = values.view(count, number, size, -1)
        with torch.no_grad():
            flat = points.view(count, -1, dim)
            density = whole.log_prob(flat if count > 1 else flat[0]).view(count * number, size)
        # The density of standardized unbounded coordinates is that of parameters, times |dx/dz|.
        log_det = scale.log().sum(dim=-1) - rest(values)[1]
        log_weights = density + log_det - proposal.log_prob(drawn)
        return _Integrand(
            values.view(count, number, size, -1), log_weights.view(count, number, size)
        )

    @cached_property
    def _proposal(self) -> tuple[Tensor, Tensor, Proposal]:
        """Mean and standard deviation ``[M, 1, D]``, and mixtures, of draws on the real line.

        Draws are mapped to unbounded coordinates and standardized before the fit of Gaussian
        mixtures.
        """
        draws = Bounded.between(self.whole._ends.T)(self.whole._draws)[0]
        scale, center = torch.std_mean(draws, dim=1, keepdim=True)
        generator = torch.Generator().manual_seed(0)
        uniform = torch.rand(len(draws), COMPONENTS, generator=generator, dtype=torch.float64)
        worth = draws.new_full((len(draws),), FITTED)
        return center, scale, Proposal.fit((draws - center) / scale, worth, uniform.to(draws))


@dataclass(frozen=True, eq=False)
class ConditionalDensity:
    """Posterior of some parameters, given values of the others.

    Attributes:
        given: Marginal density of the parameters that are given.
        values: Their values ``[d]``.
    """

    given: MarginalDensity
    values: Tensor

    @property
    def names(self) -> list[str]:
        """Names of the D - d parameters that are not given."""
        return [name for name in self.given.whole.names if name not in self.given.names]

    def log_prob(self, points: Tensor) -> Tensor:
        """Return log densities of points in nats, up to the error of ``MarginalDensity``.

        Gradients flow back to the points.

        Args:
            points: Points ``[M, ..., D - d]``, or ``[..., D - d]`` for a single observation.
        """
        whole, values = self.given.whole, self.values.expand(*points.shape[:-1], -1)
        columns = {
            **dict(zip(self.given.names, values.unbind(-1), strict=True)),
            **dict(zip(self.names, points.to(values).unbind(-1), strict=True)),
        }
        density = whole.log_prob(torch.stack([columns[name] for name in whole.names], dim=-1))
        if len(self._of_values) == 1:
            return density - self._of_values[0]
        return density - self._of_values.view(-1, *[1] * (density.ndim - 1))

    @cached_property
    def _of_values(self) -> Tensor:
        """Log marginal densities ``[M]`` of the given values."""
        count = len(self.given.whole.observed)
        rows = self.values.expand(count, 1, -1) if count > 1 else self.values[None]
        return self.given.log_prob(rows).flatten()

    def sample(self, draws: int, seed: int = 0) -> Tensor:
        """Draw ``[M, draws, D - d]`` points, by weights with a Pareto-smoothed tail.

        A warning names observations whose weights are unreliable.
        """
        whole = self.given.whole
        count = len(whole.observed)
        parts = self.given.weighted(self.values.expand(count, 1, -1), PER_DRAW * draws, seed)
        smoothed = smoothed_weights(parts.log_weights[:, 0])
        bad = smoothed.k > k_threshold(PER_DRAW * draws)
        for place in bad.nonzero()[:1, 0].tolist():
            warn(
                "unreliable-weights",
                f"the conditional draws of {int(bad.sum())} observation(s), first of "
                f"observation {place + 1}, are unreliable: Pareto k is {smoothed.k[place]:.2f}",
            )
        order = z_order(parts.others[:, 0])
        seeds = torch.tensor([hash_seed(seed, place) for place in range(count)])
        picks = weighted_picks(smoothed.log_weights, seeds, draws, order)
        return parts.others[:, 0].gather(1, picks[..., None].expand(-1, -1, len(self.names)))


def _just_within(ends: Tensor) -> Tensor:
    """Return bounds ``[2, D]`` moved inwards by a few units of rounding."""
    margin = ROUNDING * ends.nan_to_num(posinf=0.0, neginf=0.0).abs().amax(dim=0)
    return torch.stack([ends[0] + margin, ends[1] - margin])


class _LogDensity(torch.autograd.Function):
    """A log density with the gradient that a target computes from its likelihood."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, target: Target) -> Tensor:
        which = torch.zeros(len(w), dtype=torch.long, device=w.device)
        evaluated, gradient = target.slope(w, which)
        ctx.save_for_backward(gradient - w)
        return evaluated.log_likelihood - w.square().sum(dim=1) / 2

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0][:, None] * ctx.saved_tensors[0], None


class LatentDensity:
    """The log posterior density of whitened latents, given one observation.

    Attributes:
        dim: Number of latents.
    """

    def __init__(self, target: Target):
        self._target, self.dim = target, target.dim

    def __call__(self, w: Tensor) -> Tensor:
        """Return the log densities ``[...]`` of latents ``[..., dim]``, with gradients.

        Raises:
            UsageError: The likelihood has no gradients.
        """
        rows = w.reshape(-1, self.dim).double().to(self._target.device)
        apply: Callable[..., Tensor] = _LogDensity.apply
        density = apply(rows, self._target)
        return density.view(w.shape[:-1])

    def points(self, w: ArrayLike) -> np.ndarray:
        """Return the points ``[..., D]`` of latents ``[..., dim]``."""
        latents = torch.from_numpy(np.array(w, dtype=np.float64))
        rows = latents.reshape(-1, self.dim).to(self._target.device)
        which = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        points = self._target.evaluate(rows, which).points.cpu().numpy()
        return points.reshape(*latents.shape[:-1], -1)

    def to_jax(self) -> Callable[[Any], Any]:
        """Return the log density as a function of JAX arrays, for BlackJAX and NumPyro.

        The function can be differentiated, compiled and batched; it calls PyTorch.
        """
        jax = import_module("jax")

        def both(w: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
            values = np.asarray(w)
            leaf = torch.tensor(values, dtype=torch.float64, requires_grad=True)
            density = self(leaf)
            (gradient,) = torch.autograd.grad(density.sum(), leaf)
            parts = (density.detach().cpu().numpy(), gradient.cpu().numpy())
            return parts[0].astype(values.dtype), parts[1].astype(values.dtype)

        def called(w: Any) -> tuple[Any, Any]:
            shapes = (
                jax.ShapeDtypeStruct(w.shape[:-1], w.dtype),
                jax.ShapeDtypeStruct(w.shape, w.dtype),
            )
            density, gradient = jax.pure_callback(both, shapes, w, vmap_method="expand_dims")
            return density, gradient

        @jax.custom_vjp
        def log_density(w: Any) -> Any:
            return called(w)[0]

        log_density.defvjp(called, lambda gradient, grad: (grad[..., None] * gradient,))
        return log_density
