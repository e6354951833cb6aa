"""What a noisy state says of where it ends, and of an observation of that.

With ``x_t = x_0 + n``, where n has the noise that was added after the first time, of variances
``g(t) = gamma(t) - gamma(0)``, Tweedie's formula gives for the state x_0 at the first time

    m(x_t) = E[x_0 | x_t] = D + (gamma(0) / gamma(t)) (x_t - D),        D = D(x_t, t).

How far m is off differs from place to place. Its average over the prior, ``V(t) = E[(x_0 - m)
(x_0 - m)^T]``, is measured on draws of the prior. So y, which is ``A x_0`` with noise R, is about
``N(y; A m, A V A^T + R)``, given x_t.

**Times.** A step from t_{k+1} to t_k takes x_0 for ``N(m, V)``, and has the covariance
``b + a V a`` (``samplers.twisted``), with ``a^2 / b = 1 / g_k - 1 / g_{k+1} = r``, so that V is the
part ``r V / (1 + r V)`` of it. What is wrong is that errors ``e = x_0 - m`` vary more in one place
than in another, and have no normal law. So of a step of the length h is wrong about ``c h^2``, with

    c = Var(q) - 2 tr((R V)^2),   q = e^T R e,   R = r / (1 + r V_ii),   for h = 1,

which is 0 for errors of one normal law, however long the step. The sum over steps is least where
their density goes as ``sqrt(c)`` (``flow.grids``): of K steps it is then ``W / K``, with W the
square of the integral of ``sqrt(c)``. Corrections (``renoising``) take most of that away: of levels
that jump, where W is 45 for each dimension, widths of 8, 16 and 32 steps are too small by 8, 4 and
3 %.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, inf, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.grids import EqualErrorGrid
from training.inference.curved_columns import CurvedColumns
from training.inference.likelihoods import Gaussian
from training.inference.low_rank import LowRank
from training.inference.prior import Prior
from training.inference.progress import OnPart, share_of
from training.inference.target import Target

PRIOR_DRAWS = 2**8
"""Draws of the prior that V is measured on, whose correlations are drawn towards 0 by their own
errors: few, as most of the time of a posterior of images would go into more of them."""
LEAST_DENSITY, CERTAIN = 0.3, 1.5
"""Of times, of the highest; and how many standard errors more than normal errors vary are no
chance."""
MOST_WRONG, ADVISED = 3.0, 1.5
"""Of W / K, for each dimension: beyond the first, as many steps are advised as have the second."""
MOST_LABELS = 32
"""Different labels or conditions of the observations: each has a look-ahead of its own."""
MOST_DIMENSIONS = 3072
"""Of points, of which as many numbers may be seen: matrices of these are decomposed at each
step."""


@dataclass(frozen=True)
class Sight:
    """Observations as linear functions of the states x_0, with Gaussian noise.

    Attributes:
        operator: ``A [K, D]``.
        observed: ``[M, K]``, less what is seen of the state 0.
        covariance: ``R [M, K, K]``, or ``[1, K, K]`` of all.
        columns: What the Gaussians leave out, where columns are curved.
    """

    operator: Tensor
    observed: Tensor
    covariance: Tensor
    columns: CurvedColumns | None = None

    def off(self, ends: Tensor) -> Tensor:
        """Observations less ``A x_0`` of ends ``[M, N, D]``, in their dtype: ``[M, N, K]``."""
        return self.observed[:, None].to(ends) - ends @ self.operator.T.to(ends)

    def log_prob(self, off: Tensor, spread: Tensor) -> Tensor:
        """Log densities ``[M, N]``, but for a constant, of observations that are ``off`` from what
        is expected of them, which has the covariance ``A V A^T``, ``spread [K, K]``."""
        log_likelihood = log_normal(off, torch.linalg.cholesky(spread + self.covariance))
        return log_likelihood + self.log_factor(off, spread)

    def log_factor(self, off: Tensor, spread: Tensor) -> Tensor | float:
        """The part of these that Gaussians leave out."""
        if self.columns is None:
            return 0.0
        return self.columns.log_factor(self.observed[:, None].to(off) - off, spread.diagonal())

    def blurred(self, spread: LowRank, dtype: torch.dtype) -> "Sight":
        """The same, with the rounding of states as further noise: numbers that follow from each
        other have no density at noise below it.

        Args:
            spread: Covariance of states.
            dtype: Of states.
        """
        seen = spread.seen(self.operator).diagonal()
        rounding = torch.finfo(dtype).eps ** 2 * seen.norm().expand(len(seen))
        return replace(self, covariance=self.covariance + rounding.diag())

    def wider(self, exponent: Tensor) -> "Sight":
        """The same with the noise over ``[M]``, as powers of likelihoods have it."""
        return replace(self, covariance=self.covariance / exponent[:, None, None])

    def alone(self, place: int) -> "Sight":
        """Of one observation."""
        one, columns = slice(place, place + 1), self.columns and self.columns.alone(place)
        own = self.covariance.expand(len(self.observed), -1, -1)[one]
        return Sight(self.operator, self.observed[one], own, columns)

    @classmethod
    def of(cls, target: Target) -> "Sight":
        """What is seen by the target's observations, which are Gaussian: see ``no_sight``."""
        likelihood = target.likelihood
        assert isinstance(likelihood, Gaussian)
        coordinates = target.prior.flow.coordinates
        if coordinates is not None and not coordinates.is_linear:
            columns = CurvedColumns.of(target, likelihood)
            noise = torch.diag_embed(columns.variance)
            return cls(columns.operator, columns.observed, noise, columns)
        dim, device = target.prior.flow.basis.dim, target.device
        which = torch.arange(target.count, device=device)
        zero = torch.zeros(target.count, dim, dtype=torch.float64, device=device)
        offset = likelihood.observe(target.of_states(zero, which))
        unit = torch.eye(dim, dtype=torch.float64, device=device)
        first = torch.zeros(dim, dtype=torch.int64, device=device)
        operator = likelihood.observe(target.of_states(unit, first)) - offset[:1]
        root = likelihood.covariance_root(operator.shape[1])
        return cls(operator.T, target.observed - offset, (root @ root.T)[None])


def require_lookahead(target: Target) -> Gaussian:
    """The likelihood, if there is a lookahead on it.

    Raises:
        UsageError: There is none.
    """
    if reason := no_lookahead(target):
        raise UsageError(f"{reason}: take another sampler than twisted")
    assert isinstance(target.likelihood, Gaussian)
    return target.likelihood


def no_lookahead(target: Target) -> str | None:
    """Why there is no lookahead on the target's likelihood; None if there is one."""
    if reason := no_sight(target):
        return f"{reason} is not looked ahead on"
    prior = target.prior
    flow = prior.flow
    if prior.deblurred:
        return "clean points are not looked ahead on"
    if flow.basis.dim > MOST_DIMENSIONS:
        return f"points have more than {MOST_DIMENSIONS} dimensions"
    if len(target.alike()) > MOST_LABELS:
        return f"more than {MOST_LABELS} different conditions are not looked ahead with"
    if (flow.schedule.log_noise_rate(prior.times[0]) <= 0).any():
        return f"the noise of {flow.schedule.name} does not grow everywhere"
    return None


def no_sight(target: Target) -> str | None:
    """What keeps the target's observations from being linear functions of states, with Gaussian
    noise, or nearly so; None if they are."""
    likelihood, coordinates = target.likelihood, target.prior.flow.coordinates
    if not isinstance(likelihood, Gaussian):
        return "a likelihood of one's own"
    curved = coordinates is not None and not coordinates.is_linear
    if curved and likelihood.operator is not None:
        return "an operator on columns that are curved (--marginals=none leaves them straight)"
    if curved and target.labels is not None:
        return "a network with conditions whose columns are curved"
    return None


@dataclass(frozen=True)
class Measured:
    """What does not depend on observations.

    Attributes:
        times: Rising ``[K + 1]``.
        apart: Ends of draws of the prior less what is expected of them, ``[N, D]`` at each time.
        needed: How many steps would make errors of one for each dimension, ``W / D``.
        calls: Network calls that it took.
    """

    times: Tensor
    apart: list[Tensor]
    needed: float
    calls: float

    @cached_property
    def errors(self) -> list[LowRank]:
        """V at each time."""
        return [LowRank.shrunk(apart) for apart in self.apart]

    @property
    def advised(self) -> int | None:
        """A number of steps, if so few as these are too far off."""
        few = self.needed > MOST_WRONG * (len(self.times) - 1)
        return ceil(self.needed / ADVISED) if few else None


@dataclass
class LookAhead:
    """What is measured once for all observations, when first asked for.

    Attributes:
        steps: Of the diffusion.
        seed: Of the draws of the prior.
        share: Of an observation in the network calls that it took, times the number of labels.
        again: Calls that the moves of a particle take, once it has arrived; 0 where that was not
            measured.
        most: Calls that they may take; inf if nothing bounds them.
        known: What was measured, by the label of observations.
        kept: For how many labels that was for earlier posteriors.
    """

    steps: int
    seed: int
    share: float
    again: float = 0
    most: float = inf
    known: dict[tuple[float, ...], Measured] = field(default_factory=dict)
    kept: int = 0

    def measured(self, target: Target, on_part: OnPart = None) -> Measured:
        """What is measured for observations of one label, now if it was not before."""
        label = target.label
        if label not in self.known:
            alone = target.of(torch.arange(1))
            self.known[label] = times_and_errors(alone, self.steps, self.seed, on_part)
        return self.known[label]


def calls_to_look(prior: Prior, steps: int) -> int:
    """Network calls that ``times_and_errors`` takes."""
    return PRIOR_DRAWS * (prior.calls("points") + 2 * steps + 1)


def times_and_errors(target: Target, steps: int, seed: int, on_part: OnPart = None) -> Measured:
    """Times where they are needed, and errors at each: both come of the same draws of the prior."""
    generator = seeded_generator("cpu", seed, Stream.LOOKAHEAD)
    shape, prior = (PRIOR_DRAWS, target.dim), target.prior
    first = torch.zeros(PRIOR_DRAWS, dtype=torch.int64, device=target.device)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(target.device)

    parts = calls_to_look(prior, steps) / PRIOR_DRAWS
    ends = target.states(normal(), first, share_of(on_part, prior.calls("points") / parts))

    def errors(t: Tensor) -> Tensor:
        noisy = ends + _added(target, t).sqrt() * normal()
        apart = ends - expected_end(target, noisy, t, first)
        if on_part:
            on_part(1 / parts)
        return apart

    even = prior.flow.times(steps)
    rates = -torch.gradient(1 / added_noise(target, even[1:]), dim=0)[0]
    each = [wrong_of_steps(errors(t), rate) for t, rate in zip(even[1:], rates, strict=True)]
    wrong = torch.stack(each).cpu()
    times = times_by_need(even, wrong)(steps).to(even)
    needed = float(smooth(wrong).sum().square()) / target.dim
    apart = [errors(t) for t in times]
    return Measured(times, apart, needed, target.calls)


def wrong_of_steps(errors: Tensor, rate: Tensor) -> Tensor:
    """``c []`` of errors ``[N, D]`` where r is ``rate [D]``, less what so few errors of one normal
    law have by chance."""
    count = len(errors)
    weighted = errors * (1 / rate + errors.square().mean(dim=0)).rsqrt()
    squares = weighted.square().sum(dim=1)
    # By products of few rows rather than of many columns, without what is chance in them.
    products = (weighted @ weighted.T / count).square().sum()
    of_normal = 2 * (products - squares.mean().square() / count)
    return squares.var() - (1 + CERTAIN * sqrt(2 / count)) * of_normal


def times_by_need(even: Tensor, wrong: Tensor) -> EqualErrorGrid:
    """Where steps are needed.

    Args:
        even: ``[K + 1]``.
        wrong: c at all of them but the first ``[K]``.
    """
    root = smooth(wrong)
    density = torch.cat([root[:1], (root[1:] + root[:-1]) / 2])
    return EqualErrorGrid.of(even.cpu(), density, LEAST_DENSITY)


def smooth(wrong: Tensor) -> Tensor:
    """``sqrt(c) [K]``, of means over three times."""
    return F.avg_pool1d(wrong.clamp_min(0)[None], 3, 1, 1, count_include_pad=False)[0].sqrt()


def expected_end(target: Target, states: Tensor, t: Tensor, which: Tensor) -> Tensor:
    """``m [N, D]`` of states ``[N, D]`` at time ``t []``."""
    denoised, schedule = target.denoised(states, t, which), target.prior.flow.schedule
    share = schedule.noise_variance(target.prior.times[0]) / schedule.noise_variance(t)
    return denoised.lerp(states, share.to(states))


def added_noise(target: Target, times: Tensor) -> Tensor:
    """``g [T, D]``, variances of the noise that was added after the first time."""
    return torch.stack([_added(target, t) for t in times])


def _added(target: Target, t: Tensor) -> Tensor:
    schedule = target.prior.flow.schedule
    return (schedule.noise_variance(t) - schedule.noise_variance(target.prior.times[0])).double()


def log_normal(apart: Tensor, root: Tensor) -> Tensor:
    """``[M, N]``: log densities, but for a constant, of ``apart [M, N, K]`` with Cholesky factors
    ``[K, K]`` or ``[M, K, K]`` of covariances, whose inverses are rounded last."""
    inverse = torch.linalg.solve_triangular(root, torch.eye(root.shape[-1]).to(root), upper=False)
    volume = root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    square = torch.linalg.vector_norm(apart @ inverse.mT.to(apart), dim=2).square_()
    return (square / -2).sub_(volume[..., None].to(square))
