"""Predicting the clean state behind a noisy state, and the observation of that clean state.

With ``x_t = x_0 + n``, where n has the noise that was added after the first time, of variances
``g(t) = gamma(t) - gamma(0)``, Tweedie's formula gives for the state x_0 at the first time

    m(x_t) = E[x_0 | x_t] = D + (gamma(0) / gamma(t)) (x_t - D),        D = D(x_t, t).

The error of m differs from place to place. Its covariance, averaged over the prior, ``V(t) = E[(x_0
- m) (x_0 - m)^T]``, is estimated from draws of the prior. Given x_t, the observation y, which is
``A x_0`` with noise R, is therefore distributed approximately as ``N(y; A m, A V A^T + R)``.

**Times.** A step from t_{k+1} to t_k approximates the distribution of x_0 by ``N(m, V)``, and has
the covariance ``b + a V a`` (``samplers.twisted``), with ``a^2 / b = 1 / g_k - 1 / g_{k+1} = r``,
so that V contributes the fraction ``r V / (1 + r V)`` of it. The approximation is wrong because the
errors ``e = x_0 - m`` vary more in one place than in another, and are not normally distributed. A
step of length h therefore has an error of about ``c h^2``, with

    c = Var(q) - 2 tr((R V)^2),   q = e^T R e,   R = r / (1 + r V_ii),   for h = 1,

which is 0 for errors of one normal distribution, however long the step. The sum over steps is
smallest where their density is proportional to ``sqrt(c)`` (``flow.grids``): with K steps it is
then ``W / K``, with W the square of the integral of ``sqrt(c)``. Corrections (``Renoising``) remove
most of that error: for levels that jump, where W is 45 per dimension, widths from 8, 16 and 32
steps are too small by 8, 4 and 3 %.

Observations of columns that are nonlinear functions of linear functions of the state.

Columns of tables are ``x_j = h_j(u_j)``, with ``u = c + B x_0`` linear in the state. An observed
value y_j with Gaussian noise has the likelihood ``L_j(u) = N(y_j; h_j(u), Sigma_jj)``. Its product
with the prior's Gaussian of u_j has a mean and a variance. Dividing the prior out of the Gaussian
with these moments leaves ``N(y'_j; u, R_j)``, which approximates the likelihood (one step of
expectation propagation; Minka 2001). The factor

    int L_j(u) N(u; m, v) du / int N(y'_j; u, R_j) N(u; m, v) du

corrects this approximation for each column separately, if u_j is about N(m, v). Values of columns
are measured from their centers c.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, inf, sqrt
from time import monotonic

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.flow.integration_choice import EqualErrorGrid
from training.inference.draws import OnPart, share_of
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.target import Target

LEAST_SHARE = 1e-6
"""Smallest shrinkage of correlations towards 0, so that no diagonal entry is 0."""


@dataclass(frozen=True)
class LowRank:
    """Covariance matrix with a low-rank and a diagonal part, ``F F^T + diag(d)``.

    Attributes:
        factor: Low-rank factor ``F [D, r]``.
        diagonal: Diagonal part ``d [D]``.
    """

    factor: Tensor
    diagonal: Tensor

    @classmethod
    def shrunk(cls, errors: Tensor) -> "LowRank":
        """Estimate the covariance of errors ``[N, D]``, with correlations shrunk towards 0.

        The errors have mean 0.

        The shrinkage factor minimizes the expected error (Schaefer and Strimmer 2005, section 2.4):
        the sum of the variances of the correlations divided by the sum of their squares.

        The rank r is D if there are more errors than dimensions, otherwise N.
        """
        count, dim = errors.shape
        std = errors.square().mean(dim=0).sqrt().clamp_min(torch.finfo(errors.dtype).tiny)
        unit = errors / std
        square = unit.square()
        # Sums over pairs of columns, from products of the few rows.
        own = square.mean(dim=0).square().sum()
        of_squares = (unit @ unit.T / count).square().sum() - own
        fourth = (square.sum(dim=1).square().sum() - square.square().sum()) / count
        variance = (fourth - of_squares) / (count - 1)
        share = (variance / of_squares).nan_to_num(1.0).clamp(LEAST_SHARE, 1)
        rows = errors if count < dim else torch.linalg.qr(errors, mode="r").R
        return cls(rows.T * ((1 - share) / count).sqrt(), share * std.square())

    @property
    def rank(self) -> int:
        """Rank of the low-rank part, r."""
        return self.factor.shape[1]

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, ``[D]``."""
        return self.factor.square().sum(dim=1) + self.diagonal

    def seen(self, operator: Tensor) -> Tensor:
        """Return the covariance ``[K, K]`` of ``A x``, for a linear map ``A [K, D]``."""
        low = operator @ self.factor
        return (operator * self.diagonal) @ operator.T + low @ low.T

    def beside(self, operator: Tensor) -> Tensor:
        """Return the cross-covariance ``[K, D]`` of ``A x`` and x, for a linear map A."""
        return operator * self.diagonal + (operator @ self.factor) @ self.factor.T

    def times(self, values: Tensor) -> Tensor:
        """Multiply the covariance by values ``[..., D]``, in their dtype."""
        low = (values @ self.factor.to(values)) @ self.factor.T.to(values)
        return low.addcmul_(values, self.diagonal.to(values))

    def sample(self, normal: Tensor) -> Tensor:
        """Transform standard normal numbers ``[..., D + r]`` to samples ``[..., D]``."""
        dim = len(self.diagonal)
        alone = normal[..., :dim] * self.diagonal.sqrt().to(normal)
        return alone + normal[..., dim:] @ self.factor.T.to(normal)


@dataclass(frozen=True)
class Bridge:
    """Reverse step of a diffusion from a noisy state x: ``a (x_0 - x) + n``, with ``n ~ N(0, b)``.

    The clean state x_0, given the state x, is approximately ``N(m, V)``.

    Attributes:
        pull: Factor ``a [D]``.
        noise: Variance ``b [D]`` of the added noise.
        end: Covariance V of the clean state.
    """

    pull: Tensor
    noise: Tensor
    end: LowRank

    @cached_property
    def step(self) -> LowRank:
        """Covariance ``b + a V a`` of the step, including the uncertainty of the clean state."""
        pull = self.pull[:, None]
        return LowRank(pull * self.end.factor, self.noise + self.pull.square() * self.end.diagonal)

    def end_after(self, operator: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distribution of ``A x_0`` given a step, for a linear map ``A [K, D]``.

        A step is written ``a (m - x) + u``.

        Returns:
            The matrix ``H [K, D]`` of the mean ``A m + H u``, and the covariance ``[K, K]``.
        """
        alone, left, right = self._after
        seen = operator @ left
        noise = self.noise / self._variance
        covariance = (operator * (self.end.diagonal * noise)) @ operator.T + seen @ seen.T
        return operator * alone + seen @ right, covariance

    def end_moved(self, by: Tensor) -> Tensor:
        """Return the shifts ``[..., D]`` of the expected clean state that steps u cause.

        Args:
            by: Steps ``u [..., D]``, less their mean ``a (m - x)``.
        """
        alone, left, right = (part.to(by) for part in self._after)
        return ((by @ right.T) @ left.T).addcmul_(by, alone)

    @cached_property
    def _variance(self) -> Tensor:
        """Variances p of the steps' diagonal part, as in ``_after``, ``[D]``."""
        return self.step.diagonal.clamp_min(torch.finfo(self.step.diagonal.dtype).tiny)

    @cached_property
    def _after(self) -> tuple[Tensor, Tensor, Tensor]:
        """Vector ``h [D]`` and matrices ``L [D, r]`` and ``G [r, D]`` of the end after a step.

        H for all of x_0 is ``diag(h) + L G``, and the covariance is ``diag(b d / p) + L L^T``.

        Write ``x_0 - m = F w + e``, where w is standard normal and e has the variances d, so that
        ``u = a F w + a e + n``. Given w, u has the variances ``p = b + a d a``: given u too, e has
        the mean ``(a d / p) (u - a F w)`` and the variances ``b d / p``, and the covariance of w
        given u is the inverse of ``I + F^T (a^2 / p) F``. No number is the difference of two nearly
        equal ones, and where b is 0 the end is known exactly.
        """
        variance, factor = self._variance[:, None], self.step.factor
        unit = factor / variance.sqrt()
        root = torch.linalg.cholesky(torch.eye(unit.shape[1]).to(unit) + unit.T @ unit)
        left = (self.noise[:, None] / variance * self.end.factor).T
        left = torch.linalg.solve_triangular(root, left, upper=False).T
        right = torch.linalg.solve_triangular(root, (factor / variance).T, upper=False)
        return self.pull * self.end.diagonal / self._variance, left, right


POINTS, FARTHEST, ZOOMS = 201, 6.0, 4
"""Grid for the integrals: number of points, half-length in standard deviations, and how often the
grid is adapted to the width of the result.
"""
LEAST = 1e-3
"""Smallest fraction of the prior's precision that an observed value adds."""
TABLE, TINY, LARGEST = 601, 1e-300, 20.0
"""Number of points of the table of factors, smallest likelihood in it, and largest absolute log
factor.
"""


@dataclass(frozen=True)
class CurvedColumns:
    """Gaussian approximations of the likelihoods of nonlinearly transformed columns.

    Attributes:
        operator: Rows ``[K, D]`` of the linear map B for the K observed columns.
        observed: Pseudo-observations ``y' [M, K]``, the means of the Gaussians.
        variance: Variances ``R [M, K]`` of the pseudo-observations.
        line: Grid of G values of each column before its transform ``[K, G]``.
        log_likelihood: Log likelihoods on the grid ``[M, K, G]``.
    """

    operator: Tensor
    observed: Tensor
    variance: Tensor
    line: Tensor
    log_likelihood: Tensor

    @classmethod
    def from_target(cls, target: Target, likelihood: Gaussian) -> "CurvedColumns":
        """Approximate the likelihoods of observations that are noisy values of columns.

        Args:
            target: Posteriors of these observations.
            likelihood: Gaussian likelihood of the observations.
        """
        seen = _Seen(target, likelihood)
        mean, std = seen.moments()
        prior = seen.scale**-2
        precision = std**-2 - prior
        known = precision > LEAST * prior
        precision = torch.where(known, precision, LEAST * prior)
        observed = torch.where(known, mean / (std.square() * precision), mean)
        line = _line(TABLE, target.device) * seen.scale
        log_likelihood = seen.log_likelihood(line.expand(-1, target.count, -1)).permute(1, 2, 0)
        return cls(seen.operator, observed, 1 / precision, line[:, 0].T, log_likelihood)

    def alone(self, place: int) -> "CurvedColumns":
        """Return the approximation for the observation with index ``place`` only."""
        one = slice(place, place + 1)
        of_one = (self.observed[one], self.variance[one], self.line, self.log_likelihood[one])
        return CurvedColumns(self.operator, *of_one)

    def log_factor(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the log product ``[M, N]`` of the columns' correction factors.

        Each factor is averaged over an uncertain, approximately normal value of the column.

        Args:
            mean: Means of the values ``[M, N, K]``.
            variance: Variances of the values ``[K]``.
        """
        line, step = self.line, self.line[:, 1] - self.line[:, 0]
        # If values vary by less than the grid spacing, sums over the grid do not approximate the
        # integrals.
        spread = variance.maximum(step.square())[:, None]
        mixed = _blurred(self._likelihood, step[:, None], spread)
        whole = self.variance[..., None] + spread
        stands = -(self.observed[..., None] - line).square() / (2 * whole) - whole.log() / 2
        table = mixed.clamp_min(TINY).log() - stands - self._offset
        table = table.clamp(-LARGEST, LARGEST).mT.to(mean).contiguous()
        place = ((mean - line[:, 0].to(mean)) / step.to(mean)).clamp_(0, line.shape[1] - 1.001)
        below = place.long()
        part = place.sub_(below)
        low, high = table.gather(1, below), table.gather(1, below.add_(1))
        return low.lerp_(high, part).sum(dim=2)

    @cached_property
    def _likelihood(self) -> Tensor:
        """Likelihoods on the grid ``[M, K, G]``, scaled to a maximum of 1."""
        return (self.log_likelihood - self.log_likelihood.amax(dim=2, keepdim=True)).exp()

    @cached_property
    def _offset(self) -> Tensor:
        """Constants ``[M, K, 1]`` that make the factor about 1 where the likelihood is largest.

        They do not depend on the likelihood's height, and are the same at all times, so that
        weights do not depend on them.
        """
        at = self.log_likelihood.argmax(dim=2, keepdim=True)
        apart = self.observed[..., None] - self.line.expand_as(self.log_likelihood).gather(2, at)
        variance = self.variance[..., None]
        return apart.square() / (2 * variance) + variance.log() / 2


class _Seen:
    """Likelihoods of M observations, as functions of K columns before their transforms."""

    def __init__(self, target: Target, likelihood: Gaussian):
        self._target, self._likelihood = target, likelihood
        flow, device = target.prior.flow, target.device
        assert flow.coordinates is not None
        self._bent = flow.coordinates.bent
        unit = torch.eye(flow.basis.dim, dtype=torch.float64, device=device)
        self._center = flow.coordinates.to_columns(flow.basis.from_eigen(0 * unit[:1]))
        whole = flow.coordinates.to_columns(flow.basis.from_eigen(unit)) - self._center
        self._picks = likelihood.observe(torch.arange(len(unit), device=device)[None])[0]
        self.operator = whole.T[self._picks]
        variance = flow.noisy_variance(target.prior.times[0]).double()
        self.scale = (self.operator.square() @ variance).sqrt()
        """Standard deviations of values under the prior ``[K]``."""
        self._noise = likelihood.covariance_root(len(self._picks)).norm(dim=1)

    def log_likelihood(self, values: Tensor) -> Tensor:
        """Return the log likelihoods of columns, up to a constant.

        Args:
            values: G values of each column before its transform, ``[G, M, K]``.
        """
        columns = self._center.expand(values[..., 0].numel(), -1).clone()
        columns[:, self._picks] += values.flatten(0, 1)
        prior = self._target.prior
        seen = self._likelihood.observe(prior.origin + self._bent(columns) / prior.unit)
        return -((seen.view_as(values) - self._target.observed) / self._noise).square() / 2

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the posterior mean and standard deviation of each column alone, ``[M, K]``."""
        line = _line(POINTS, self._target.device)
        std = self.scale.expand(self._target.count, -1)
        mean = torch.zeros_like(std)
        for _ in range(ZOOMS):
            values = mean + line * std
            weight = self.log_likelihood(values) - (values / self.scale).square() / 2
            weight = weight.softmax(dim=0)
            mean = (weight * values).sum(dim=0)
            # At least half a grid spacing, so that the next grid does not miss a mode between two
            # points.
            least = std * FARTHEST / (POINTS - 1)
            std = (weight * (values - mean).square()).sum(dim=0).sqrt().maximum(least)
        return mean, std


def _blurred(values: Tensor, step: Tensor, variance: Tensor) -> Tensor:
    """Return means of gridded values ``[M, K, G]`` under normal distributions around grid points.

    Args:
        values: Values on the grids.
        step: Spacing of the grids ``[K, 1]``.
        variance: Variances of the normal distributions ``[K, 1]``.
    """
    count = values.shape[2]
    apart = torch.arange(1 - count, count, dtype=step.dtype, device=step.device) * step
    density = (-apart.square() / (2 * variance)).exp()
    # Weights of a point are those of its neighbor, shifted by one: rows of a view of one array, if
    # the values are flipped.
    weights = density.unfold(1, count, 1)
    sums = torch.einsum("kgh,mkh->mkg", weights, values.flip(2))
    return sums / weights.sum(dim=2)


def _line(count: int, device: torch.device) -> Tensor:
    """Return a symmetric grid ``[count, 1, 1]``, in standard deviations."""
    place = torch.linspace(-FARTHEST, FARTHEST, count, dtype=torch.float64)
    return place.to(device)[:, None, None]


PRIOR_DRAWS = 2**8
"""Number of prior draws that V is estimated from. Its correlations are shrunk towards 0 according
to their own errors. The number is small, since more draws would take most of the time of a
posterior of images.
"""
LEAST_DENSITY, CERTAIN = 0.3, 1.5
"""Smallest density of times relative to the highest, and number of standard errors beyond normal
variation that is attributed to chance.
"""
MOST_WRONG, ADVISED = 3.0, 1.5
"""Limits on W / K per dimension: above the first, the number of steps is advised that gives the
second.
"""
MOST_LABELS = 32
"""Largest number of different conditions among the observations; each needs its own look-ahead."""
MOST_DIMENSIONS = 3072
"""Largest dimension of points; an observation may have as many values, and matrices of that size
are decomposed at each step.
"""


@dataclass(frozen=True)
class LinearObservation:
    """Observations as linear functions of the clean states x_0, with Gaussian noise.

    Attributes:
        operator: Linear map ``A [K, D]`` from states to observations.
        observed: Observations ``[M, K]``, less the observation of the state 0.
        covariance: Noise covariance ``R [M, K, K]``, or ``[1, K, K]`` shared by all.
        columns: Corrections to the Gaussian approximation for nonlinearly transformed columns; None
            if observations are exactly linear.
    """

    operator: Tensor
    observed: Tensor
    covariance: Tensor
    columns: CurvedColumns | None = None

    def off(self, ends: Tensor) -> Tensor:
        """Return the residuals ``y - A x_0 [M, N, K]`` of observations at states ``[M, N, D]``.

        Residuals have the dtype of the states.
        """
        return self.observed[:, None].to(ends) - ends @ self.operator.T.to(ends)

    def log_prob(self, off: Tensor, spread: Tensor) -> Tensor:
        """Return the log densities ``[M, N]`` of M observations at N states, up to a constant.

        Args:
            off: Observations less their expected values ``[M, N, K]``.
            spread: Covariance ``[K, K]`` of the errors of the expected values.
        """
        log_likelihood = log_normal(off, torch.linalg.cholesky(spread + self.covariance))
        return log_likelihood + self.log_factor(off, spread)

    def log_factor(self, off: Tensor, spread: Tensor) -> Tensor | float:
        """Return the correction ``[M, N]`` to the log densities of the Gaussian approximation.

        Args:
            off: Observations less their expected values ``[M, N, K]``.
            spread: Covariance ``[K, K]`` of the errors of the expected values.

        Returns:
            Log factors ``[M, N]``, or 0 if observations are exactly linear.
        """
        if self.columns is None:
            return 0.0
        return self.columns.log_factor(self.observed[:, None].to(off) - off, spread.diagonal())

    def blurred(self, spread: LowRank, dtype: torch.dtype) -> "LinearObservation":
        """Return a copy with the rounding error of states added to the noise covariance.

        Observed values that are functions of each other have no density if their noise is below the
        rounding error.

        Args:
            spread: Covariance of states.
            dtype: Data type of states.
        """
        seen = spread.seen(self.operator).diagonal()
        rounding = torch.finfo(dtype).eps ** 2 * seen.norm().expand(len(seen))
        return replace(self, covariance=self.covariance + rounding.diag())

    def wider(self, exponent: Tensor) -> "LinearObservation":
        """Return a copy with likelihoods raised to powers ``exponent [M]``.

        A power below 1 is equivalent to wider noise.
        """
        return replace(self, covariance=self.covariance / exponent[:, None, None])

    def alone(self, place: int) -> "LinearObservation":
        """Return a copy for the observation with index ``place`` only."""
        one, columns = slice(place, place + 1), self.columns and self.columns.alone(place)
        own = self.covariance.expand(len(self.observed), -1, -1)[one]
        return LinearObservation(self.operator, self.observed[one], own, columns)

    @classmethod
    def from_target(cls, target: Target) -> "LinearObservation":
        """Express the observations of a target as linear functions of states.

        ``why_not_linear`` returns None for supported targets.
        """
        likelihood = target.likelihood
        assert isinstance(likelihood, Gaussian)
        coordinates = target.prior.flow.coordinates
        if coordinates is not None and not coordinates.is_linear:
            columns = CurvedColumns.from_target(target, likelihood)
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
    """Return the Gaussian likelihood of a target that the sampler ``twisted`` supports.

    Raises:
        UsageError: The sampler does not support the target.
    """
    if reason := no_lookahead(target):
        raise UsageError(f"{reason}: choose another sampler than twisted")
    assert isinstance(target.likelihood, Gaussian)
    return target.likelihood


def no_lookahead(target: Target) -> str | None:
    """Return the reason why the sampler ``twisted`` does not support a target, or None."""
    if reason := why_not_linear(target):
        return f"twisted does not support {reason}"
    prior = target.prior
    flow = prior.flow
    if flow.basis.dim > MOST_DIMENSIONS:
        return f"twisted supports at most {MOST_DIMENSIONS} dimensions"
    if len(target.alike()) > MOST_LABELS:
        return f"twisted supports at most {MOST_LABELS} different conditions"
    if (flow.schedule.log_noise_rate(prior.times[0]) <= 0).any():
        return (
            "twisted needs a schedule whose noise grows in all dimensions, unlike "
            f"{flow.schedule.name}"
        )
    return None


def why_not_linear(target: Target) -> str | None:
    """Return the reason why observations are not linear in the states, or None if they are.

    Observations count as linear if they are at least approximately linear with Gaussian noise.
    """
    likelihood, coordinates = target.likelihood, target.prior.flow.coordinates
    if not isinstance(likelihood, Gaussian):
        return "a user-defined likelihood"
    curved = coordinates is not None and not coordinates.is_linear
    if curved and likelihood.operator is not None:
        return "an operator on nonlinearly transformed columns (train with --marginals=none)"
    if curved and target.labels is not None:
        return "a conditional network with nonlinearly transformed columns"
    return None


@dataclass(frozen=True)
class Measured:
    """Look-ahead estimates: predictions of clean states from noisy ones, and their errors.

    The estimates depend on the conditions of the network, but not on the observation.

    Attributes:
        times: Increasing times ``[K + 1]`` of the diffusion.
        apart: Clean states of N prior draws less their predictions from the noisy states, ``[N,
            D]`` at each time.
        needed: Number of steps that would give an error of one per dimension.
        calls: Network evaluations that the estimates took.
    """

    times: Tensor
    apart: list[Tensor]
    needed: float
    calls: float

    @cached_property
    def errors(self) -> list[LowRank]:
        """Covariance V of the prediction error at each time."""
        return [LowRank.shrunk(apart) for apart in self.apart]

    @property
    def advised(self) -> int | None:
        """Recommended number of steps; None if the present number is large enough."""
        few = self.needed > MOST_WRONG * (len(self.times) - 1)
        return ceil(self.needed / ADVISED) if few else None


@dataclass
class MoveBudget:
    """Time that is left for the moves of particles, divided among the waiting observations.

    Attributes:
        until: Time of ``time.monotonic`` at which all observations are to be drawn.
        waiting: Number of observations that are not yet drawn.
        behind: Number of observations whose particles have not yet arrived.
        arrival: Seconds until the particles of an observation arrive.
        latents: Seconds for the latents of the draws of an observation.
    """

    until: float
    waiting: int
    behind: int = 0
    arrival: float = 0.0
    latents: float = 0.0

    def of_next(self) -> float:
        """Return the seconds for the moves of the next observation, which no longer waits."""
        spoken_for = self.behind * self.arrival + self.waiting * self.latents
        seconds = (self.until - monotonic() - spoken_for) / max(1, self.waiting)
        self.waiting -= 1
        return max(0.0, seconds)


@dataclass
class LookAhead:
    """Look-ahead estimates (predictions of clean states from noisy ones) for all observations.

    The estimates for each set of conditions are computed when first needed.

    Attributes:
        steps: Number of steps of the diffusion.
        seed: Random seed of the prior draws.
        share: Fraction of the network evaluations attributed to one observation, times the number
            of different conditions.
        again: Network evaluations per particle for the Markov moves of final particles; 0 if not
            measured.
        most: Limit on the network evaluations per particle for these moves; inf for no limit.
        budget: Time for these moves; None for no limit.
        known: Estimates by the conditions of observations.
        kept: Number of different conditions whose estimates were loaded from a file.
        draws: Number of prior draws that estimates are computed from.
    """

    steps: int
    seed: int
    share: float
    again: float = 0
    most: float = inf
    budget: MoveBudget | None = None
    known: dict[tuple[float, ...], Measured] = field(default_factory=dict)
    kept: int = 0
    draws: int = PRIOR_DRAWS

    def measured(self, target: Target, on_part: OnPart = None) -> Measured:
        """Return the estimates for observations that share their conditions.

        Estimates are computed for the first target with these conditions, and then stored.
        """
        label = target.label
        if label not in self.known:
            alone = target.of(torch.arange(1))
            self.known[label] = times_and_errors(alone, self.steps, self.seed, on_part, self.draws)
        return self.known[label]


def calls_to_look(prior: Prior, steps: int, draws: int = PRIOR_DRAWS) -> int:
    """Return the number of network evaluations that look-ahead estimates take.

    These estimates predict clean states from the noisy states of prior draws.

    Args:
        prior: Prior of the target.
        steps: Number of steps of the diffusion.
        draws: Number of prior draws.
    """
    return draws * (prior.calls("points") + 2 * steps + 1)


def times_and_errors(
    target: Target, steps: int, seed: int, on_part: OnPart = None, draws: int = PRIOR_DRAWS
) -> Measured:
    """Choose the times of the diffusion, and estimate the prediction errors at each time.

    Both use the same prior draws.

    Args:
        target: The posterior of one observation, whose conditions are used.
        steps: Number of steps of the diffusion.
        seed: Random seed of the prior draws.
        on_part: Called with the fraction of the work done since the last call.
        draws: Number of prior draws.
    """
    generator = seeded_generator("cpu", seed, Stream.LOOKAHEAD)
    shape, prior = (draws, target.dim), target.prior
    first = torch.zeros(draws, dtype=torch.int64, device=target.device)

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(target.device)

    parts = calls_to_look(prior, steps, 1)
    ends = target.states(normal(), first, share_of(on_part, prior.calls("points") / parts))

    def errors(t: Tensor) -> Tensor:
        noisy = ends + _added(target, t).sqrt() * normal()
        apart = ends - expected_end(target, noisy, t, first)
        if on_part:
            on_part(1 / parts)
        return apart

    even = prior.flow.times(steps)
    rates = -torch.gradient(1 / added_noise(target, even[1:]), dim=0)[0]
    each = [step_errors(errors(t), rate) for t, rate in zip(even[1:], rates, strict=True)]
    wrong = torch.stack(each).cpu()
    times = times_by_need(even, wrong)(steps).to(even)
    needed = float(smooth(wrong).sum().square()) / target.dim
    apart = [errors(t) for t in times]
    return Measured(times, apart, needed, target.calls)


def step_errors(errors: Tensor, rate: Tensor) -> Tensor:
    """Return the coefficient ``c []`` of the error ``c h^2`` of a reverse-diffusion step.

    The length of the step is h. The value that N normally distributed prediction errors have by
    chance is subtracted.

    Args:
        errors: Errors of predicted clean states ``[N, D]``.
        rate: Rate of decrease of the inverse variance of the added noise ``[D]``.
    """
    count = len(errors)
    weighted = errors * (1 / rate + errors.square().mean(dim=0)).rsqrt()
    squares = weighted.square().sum(dim=1)
    # Use products of the few rows rather than of the many columns, corrected for chance.
    products = (weighted @ weighted.T / count).square().sum()
    of_normal = 2 * (products - squares.mean().square() / count)
    return squares.var() - (1 + CERTAIN * sqrt(2 / count)) * of_normal


def times_by_need(even: Tensor, wrong: Tensor) -> EqualErrorGrid:
    """Return the time grid that minimizes the sum of the errors of reverse-diffusion steps.

    A step of length h has an error of ``c h^2``.

    Args:
        even: Evenly spaced times ``[K + 1]``.
        wrong: Error coefficients c ``[K]`` at all of these times but the first.
    """
    root = smooth(wrong)
    density = torch.cat([root[:1], (root[1:] + root[:-1]) / 2])
    return EqualErrorGrid.from_density(even.cpu(), density, LEAST_DENSITY)


def smooth(wrong: Tensor) -> Tensor:
    """Average error coefficients ``[K]`` over three adjacent times; return square roots ``[K]``."""
    return F.avg_pool1d(wrong.clamp_min(0)[None], 3, 1, 1, count_include_pad=False)[0].sqrt()


def expected_end(target: Target, states: Tensor, t: Tensor, which: Tensor) -> Tensor:
    """Return the expected clean states ``m [N, D]`` given noisy states at time ``t []``.

    Args:
        target: The posteriors.
        states: Noisy states ``[N, D]``, unscaled.
        t: Time of the states.
        which: Index of the observation of each state ``[N]``, whose conditions are used.
    """
    denoised, schedule = target.denoised(states, t, which), target.prior.flow.schedule
    share = schedule.noise_variance(target.prior.times[0]) / schedule.noise_variance(t)
    return denoised.lerp(states, share.to(states))


def added_noise(target: Target, times: Tensor) -> Tensor:
    """Return the variances ``[T, D]`` of the noise added after the first time, up to T times."""
    return torch.stack([_added(target, t) for t in times])


def _added(target: Target, t: Tensor) -> Tensor:
    schedule = target.prior.flow.schedule
    return (schedule.noise_variance(t) - schedule.noise_variance(target.prior.times[0])).double()


def log_normal(apart: Tensor, root: Tensor) -> Tensor:
    """Return normal log densities ``[M, N]``, given differences from the mean, up to a constant.

    Args:
        apart: Differences from the mean ``[M, N, K]``, which determine the dtype of the result.
        root: Cholesky factors of the covariance, ``[K, K]`` or ``[M, K, K]``.
    """
    inverse = torch.linalg.solve_triangular(root, torch.eye(root.shape[-1]).to(root), upper=False)
    volume = root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    square = torch.linalg.vector_norm(apart @ inverse.mT.to(apart), dim=2).square_()
    return (square / -2).sub_(volume[..., None].to(square))
