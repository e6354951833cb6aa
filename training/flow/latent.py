"""Base distributions of latents: the start of generation, and the target of inflation.

A learned distribution of compressed latents given the kept ones, by normal mixtures.

Latents u are *standardized* here: divided by the standard deviations of their closed form. Kept
latents are standard normal. In the factorization

    p(u) = prod_i phi(u_i) prod_j p_j(v_j | u_kept, v_1 ... v_{j-1}),     v = A (u_compressed - a),

each compressed latent has a mixture of normal distributions, whose parameters a network computes
from the variables in its condition. In many dimensions the mixtures are conditioned on kept latents
alone (*unchained*), and A rotates compressed latents to their principal axes.

Mapping every ``v_j`` to its normal score *whitens* latents: a triangular map with a positive
diagonal, hence unique, smooth and invertible. Masks between layers restrict the inputs of each
parameter to the variables of its condition (Germain et al. 2015, *MADE*).

A mixture in one dimension with weights ``pi_k``, means ``m_k`` and standard deviations ``s_k`` has
the distribution function ``F(v) = sum_k pi_k Phi((v - m_k) / s_k)``. The *normal score* ``w =
Phi^-1(F(v))`` of a draw from the mixture is standard normal; the *quantile* is its inverse. Both
use logarithms of the lighter tail, so they remain accurate for extreme values.

Latents are the states of the scaled variable at the last time T, in eigenspace. They have mean zero
and uncorrelated dimensions, and dimension i has the variance

    s(T)^2 (xi_i + gamma_i(T)),

exactly, whatever the data: the *closed form*. A base distribution approximates the distribution of
latents. It is either

- a Gaussian with independent dimensions, whose variances are the closed form, those of observed
  latents, or the numbers in the paper's tables;
- or a *learned* distribution, in which compressed dimensions depend on the kept ones
  (``ConditionalMixture``).

Each base distribution can *whiten* latents: map them one-to-one to standard normal ones.
"""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256
from math import inf, log, pi
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from torch_utils.arguments import arguments_of
from training.flow.eigenbasis import identity

LOG_ROOT = log(2 * pi) / 2
NEWTON_STEPS, MOST_STEPS = 3, 200
LIGHTEST, ROUNDING = -600.0, 4e-15
"""Log tail probability below which the first guess of a score is its asymptote, and stopping rule.

The stopping rule is a step size relative to the value.
"""


class NormalMixture(NamedTuple):
    """One-dimensional mixtures of K normal distributions, with fields ``[..., K]``.

    Attributes:
        log_weight: Log weight of each component.
        mean: Mean of each component.
        log_std: Log standard deviation of each component.
    """

    log_weight: Tensor
    mean: Tensor
    log_std: Tensor

    def log_density(self, v: Tensor) -> Tensor:
        """Return the log density ``[...]`` of the mixtures at values ``[...]``, in nats."""
        z = (v[..., None] - self.mean) * (-self.log_std).exp()
        return (self.log_weight - self.log_std - z.square() / 2).logsumexp(dim=-1) - LOG_ROOT

    def normal_score(self, v: Tensor) -> Tensor:
        """Return the normal scores ``Phi^-1(F(v)) [...]`` of values ``v [...]``, float64.

        F is the cumulative distribution function of the mixtures, Phi the standard normal one.
        """
        z = (v[..., None] - self.mean) * (-self.log_std).exp()
        below = (self.log_weight + torch.special.log_ndtr(z)).logsumexp(dim=-1)
        above = (self.log_weight + torch.special.log_ndtr(-z)).logsumexp(dim=-1)
        left = below < above
        score = log_ndtri(torch.where(left, below, above))
        return torch.where(left, score, -score)

    def quantile(self, w: Tensor) -> Tensor:
        """Return the values ``[...]``, float64, whose normal scores are ``w [...]``.

        A last step of Newton's method passes gradients on to w and to the parameters.
        """
        with torch.no_grad():
            each = (part.expand(*w.shape, -1) for part in self)
            flat = NormalMixture(*(part.reshape(-1, part.shape[-1]) for part in each))
            v = flat._solve(w.reshape(-1)).view_as(w)
        score = self.normal_score(v)
        slope = (self.log_density(v) + score.square() / 2 + LOG_ROOT).exp().detach()
        return v - (score - w) / slope

    def _solve(self, w: Tensor) -> Tensor:
        """Solve for values by Newton's method on the log of the lighter tail.

        A step that leaves the bracket is replaced by bisection. At the solution, the component
        scores bracket w: they are not all below it and not all above it.
        """
        side = torch.where(w < 0, 1.0, -1.0).to(w)
        log_tail = torch.special.log_ndtr(-w.abs())
        own = self.mean + self.log_std.exp() * w[:, None]
        low, high = own.amin(dim=1), own.amax(dim=1)
        v = (self.log_weight.exp() * own).sum(dim=1)
        left = torch.arange(len(w), device=w.device)
        for _ in range(MOST_STEPS):
            few = NormalMixture(*(part[left] for part in self))
            at, target = v[left], log_tail[left]
            z = side[left, None] * (at[:, None] - few.mean) * (-few.log_std).exp()
            tail = (few.log_weight + torch.special.log_ndtr(z)).logsumexp(dim=1)
            error = side[left] * (tail - target)
            high[left] = torch.where(error > 0, at, high[left])
            low[left] = torch.where(error > 0, low[left], at)
            newton = at - error * (tail - few.log_density(at)).exp()
            inside = (newton >= low[left]) & (newton <= high[left])
            after = torch.where(inside, newton, (low[left] + high[left]) / 2)
            v[left] = after
            left = left[(after - at).abs() > ROUNDING * (1 + at.abs())]
            if not len(left):
                break
        return v


def log_ndtri(log_p: Tensor) -> Tensor:
    """Return the standard normal quantiles ``[...]`` of log probabilities up to log 1/2, float64.

    ``torch.special.ndtri`` cannot represent probabilities below the smallest floating-point number.
    """
    with torch.no_grad():
        p = log_p.clamp(min=LIGHTEST).exp()
        x = torch.where(log_p > LIGHTEST, torch.special.ndtri(p), -(-2 * log_p).sqrt())
        for _ in range(NEWTON_STEPS):
            x = x - (torch.special.log_ndtr(x) - log_p) / _log_slope(x)
    return x - (torch.special.log_ndtr(x) - log_p) / _log_slope(x)


def _log_slope(x: Tensor) -> Tensor:
    """Return ``d log Phi(x) / dx``."""
    return (-x.square() / 2 - LOG_ROOT - torch.special.log_ndtr(x)).exp()


BOUND = 4.0
"""Saturation of inputs, as in the networks of toys."""
LEAST_STD = 2e-3
"""Minimum standard deviation of a component, relative to the closed form."""
MOST = 64
"""Maximum number of components and of frequencies."""
FIRST_STD = 0.8
"""Initial standard deviation of the components of an untrained network."""


class ConditionalMixture(nn.Module):
    """The conditional distribution of C standardized compressed latents, given K kept latents.

    Compressed latents belong to the dimensions that the flow compresses, kept latents to the other
    dimensions. Before training the distribution is standard normal.

    Args:
        kept: K, the number of kept latents, which may be 0.
        compressed: C, the number of compressed latents.
        components: Number of components per mixture.
        width: Number of units per hidden layer.
        depth: Number of hidden layers after the first.
        waves: Number of frequencies of sines and cosines per input.
        chained: Whether the distribution of a compressed latent also depends on earlier compressed
            latents.

    Attributes:
        offset: Offset ``a [C]`` subtracted from compressed latents, float64.
        axes: Matrix ``A [C, C]`` that rotates compressed latents after the offset, float64.

    Raises:
        ValueError: A size is out of range.
    """

    offset: Tensor
    axes: Tensor
    frequencies: Tensor
    into: Tensor
    within: Tensor
    out: Tensor

    def __init__(
        self,
        kept: int,
        compressed: int,
        components: int = 8,
        width: int = 64,
        depth: int = 2,
        waves: int = 4,
        chained: bool = True,
    ):
        super().__init__()
        if not (min(kept, depth) >= 0 and min(compressed, width) >= 1):
            raise ValueError(
                f"the latent distribution has K = {kept}, C = {compressed}, width {width} and "
                f"depth {depth}: give C and width of at least 1, and K and depth of at least 0"
            )
        if not (1 <= components <= MOST and 0 <= waves <= MOST):
            raise ValueError(
                f"the latent distribution has {components} components and {waves} frequencies: "
                f"give components from 1 to {MOST}, and frequencies from 0 to {MOST}"
            )
        self.kept, self.compressed, self.components = kept, compressed, components
        self.width, self.depth, self.waves, self.chained = width, depth, waves, chained
        self.arguments = arguments_of(self)
        self.register_buffer("offset", torch.zeros(compressed, dtype=torch.float64))
        self.register_buffer("axes", identity(compressed))
        frequencies = [pi / (BOUND + 1) * index for index in range(1, waves + 1)]
        self.register_buffer("frequencies", torch.tensor(frequencies), persistent=False)
        seen = kept + (compressed - 1 if chained else 0)
        inputs, outputs = seen * (1 + 2 * waves), compressed * components * 3
        self.input = _linear(inputs, width)
        self.hidden = nn.ModuleList(_linear(width, width) for _ in range(depth))
        self.output = _linear(width, outputs)
        shapes = {"into": (width, inputs), "within": (width, width), "out": (outputs, width)}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape, dtype=torch.bool), persistent=False)
        if not self.into.is_meta:  # on meta, comparisons would import the compiler
            self._mask(waves, width)
        self._start_at_normal()

    def _mask(self, waves: int, width: int) -> None:
        """Set the masks: input j reaches mixtures from j on, and units only reach later units."""
        units = torch.arange(width) % (self.compressed if self.chained else 1)
        known = torch.arange(1, self.compressed) if self.chained else units[:0]
        inputs = torch.cat([torch.zeros(self.kept, dtype=torch.long), known])
        inputs = inputs.repeat_interleave(1 + 2 * waves)
        outputs = torch.arange(self.compressed).repeat_interleave(3 * self.components)
        self.into.copy_(units[:, None] >= inputs)
        self.within.copy_(units[:, None] >= units)
        self.out.copy_(outputs[:, None] >= units)

    @torch.no_grad()
    def _start_at_normal(self) -> None:
        """Initialize mixtures that match many standard normal moments, by Gauss-Hermite nodes."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(self.components)
        mean = torch.from_numpy(nodes) * (1 - FIRST_STD**2) ** 0.5
        logits = torch.from_numpy(np.log(weights / weights.sum()))
        std = torch.full_like(mean, FIRST_STD if self.components > 1 else 1.0)
        raw = torch.stack([logits, mean, (std - LEAST_STD).expm1().log()])
        self.output.weight.zero_()
        self.output.bias.copy_(raw.flatten().repeat(self.compressed))

    def mixtures(self, kept: Tensor, v: Tensor) -> NormalMixture:
        """Return the mixtures of rotated compressed latents, with fields ``[N, C, components]``.

        Args:
            kept: Kept latents ``[N, K]``.
            v: Rotated compressed latents ``[N, C]``; a mixture depends on earlier latents if the
                distribution is chained.
        """
        known = torch.cat([kept, v[:, : self.compressed - 1]], dim=1) if self.chained else kept
        x = known.to(self.input.weight)
        bounded = BOUND * torch.tanh(x / BOUND)
        waves = bounded[..., None] * self.frequencies.to(x)
        seen = torch.cat([x[..., None], waves.sin(), waves.cos()], dim=-1).flatten(1)
        h = F.linear(seen, self.input.weight * self.into, self.input.bias)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            h = h + F.silu(F.linear(h, layer.weight * self.within, layer.bias))
        raw = F.linear(h, self.output.weight * self.out, self.output.bias)
        logits, mean, spread = raw.view(len(x), self.compressed, 3, self.components).unbind(dim=2)
        return NormalMixture(
            logits.log_softmax(dim=-1), mean, (LEAST_STD + F.softplus(spread)).log()
        )

    def log_prob(self, kept: Tensor, compressed: Tensor) -> Tensor:
        """Return the log density ``[N]`` of compressed latents given kept latents, in nats.

        Args:
            kept: Kept latents ``[N, K]``.
            compressed: Compressed latents ``[N, C]``.
        """
        v = self.turned(compressed)
        log_det = torch.linalg.slogdet(self.axes).logabsdet
        return self.mixtures(kept, v).log_density(v).sum(dim=1) + log_det

    def whiten(self, kept: Tensor, compressed: Tensor) -> Tensor:
        """Return the normal scores ``[N, C]`` of compressed latents, given kept latents."""
        v = self.turned(compressed)
        return self.mixtures(kept, v).normal_score(v)

    def unwhiten(self, kept: Tensor, scores: Tensor) -> Tensor:
        """Return compressed latents ``[N, C]`` from normal scores: the inverse of ``whiten``."""
        if not self.chained or self.compressed == 1:
            v = self.mixtures(kept, torch.zeros_like(scores)).quantile(scores)
        else:
            drawn: list[Tensor] = []
            for index in range(self.compressed):
                missing = scores.new_zeros(len(scores), self.compressed - index)
                all_ = self.mixtures(kept, torch.cat([*drawn, missing], dim=1))
                own = NormalMixture(*(part[:, index : index + 1] for part in all_))
                drawn.append(own.quantile(scores[:, index : index + 1]))
            v = torch.cat(drawn, dim=1)
        return torch.linalg.solve(self.axes, v.T).T + self.offset

    def turned(self, compressed: Tensor) -> Tensor:
        """Subtract the offset from compressed latents ``[N, C]``, and rotate the result."""
        return (compressed - self.offset.to(compressed)) @ self.axes.to(compressed).T

    def check(self) -> None:
        """Raise ValueError if the buffers and parameters do not define a distribution."""
        if not all(tensor.isfinite().all() for tensor in self.state_dict().values()):
            raise ValueError(
                "a stored parameter of the latent distribution is not finite: restore the file "
                "from a copy"
            )
        if not float(torch.linalg.cond(self.axes)) < 1e8:
            raise ValueError(
                "the stored axes of the latent distribution cannot be inverted: restore the file "
                "from a copy"
            )


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer in float64, which may have no inputs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(inputs, outputs, dtype=torch.float64)


@dataclass(frozen=True, eq=False, repr=False)
class LatentDistribution(ABC):
    """Interface of base distributions of the latents.

    Attributes:
        variance: Variances ``[D]`` of the latents in scaled eigenspace, float64, in the order of
            decreasing data variance.
    """

    variance: Tensor

    @property
    def dim(self) -> int:
        """Dimension D of the latents."""
        return len(self.variance)

    @property
    def std(self) -> Tensor:
        """Standard deviations ``[D]`` of the latents."""
        return self.variance.sqrt()

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents ``[count, D]``, float64, on the device of the variances.

        Args:
            count: Number of latents.
            generator: Random generator on the CPU, so that draws agree on all devices; None for
                torch's global one.
        """
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.unwhiten(noise.to(self.variance.device))

    @abstractmethod
    def whiten(self, x: Tensor) -> Tensor:
        """Map latents ``[N, D]`` to standard normal variables ``w [N, D]``, differentiably."""

    @abstractmethod
    def unwhiten(self, w: Tensor) -> Tensor:
        """Map standard normal variables ``w [N, D]`` to latents: the inverse of ``whiten``."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: Latents do not have D dimensions.
        """

    def digest(self) -> str:
        """Return the SHA-256 of all parameters of the distribution."""
        return sha256(self.variance.cpu().numpy().tobytes()).hexdigest()

    def _require_dim(self, x: Tensor) -> None:
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise DataError(
                f"latents have shape {list(x.shape)}, but this distribution has D = {self.dim}: "
                f"give [..., {self.dim}]"
            )

    def __repr__(self) -> str:
        shown = ", ".join(f"{value:.3g}" for value in self.std[:4].tolist())
        name = type(self).__name__
        return f"{name}(dim={self.dim}, std=[{shown}{', ...' if self.dim > 4 else ''}])"


class GaussianLatents(LatentDistribution):
    """A Gaussian base distribution with mean zero and independent dimensions.

    Example:
        >>> import torch
        >>> distribution = GaussianLatents(torch.tensor([1.0, 0.25], dtype=torch.float64))
        >>> latents = distribution.sample(1000, torch.Generator().manual_seed(0))
        >>> distribution.log_prob(latents).shape
        torch.Size([1000])
        >>> distribution
        GaussianLatents(dim=2, std=[1, 0.5])
    """

    @classmethod
    def empirical(cls, latents: Tensor) -> "GaussianLatents":
        """Return the Gaussian whose variances are the mean squares of latents ``[N, D]``."""
        return cls(latents.square().mean(dim=0))

    @classmethod
    def paper(
        cls, dim: int, dims_to_keep: int, eps: float, end_std: float = 1.0
    ) -> "GaussianLatents":
        """Return the Gaussian with the latent variances of the paper's tables.

        Args:
            dim: D, the number of dimensions.
            dims_to_keep: Number of kept dimensions, which have the variance ``end_std ** 2``.
            eps: Variance of the compressed dimensions.
            end_std: ``A0``, the standard deviation that the schedule's scaled variable approaches.
        """
        kept = torch.full((dim,), end_std**2, dtype=torch.float64)
        return cls(kept).with_compressed(eps, dims_to_keep)

    def with_compressed(self, eps: float, dims_to_keep: int) -> "GaussianLatents":
        """Return a copy whose compressed dimensions have the variance ``eps``.

        Args:
            eps: Variance of the compressed dimensions.
            dims_to_keep: Number of kept dimensions, which come first.

        Raises:
            UsageError: ``eps`` is not a positive number.
        """
        if not 0 < eps < inf:
            raise UsageError(f"eps is {eps:g}: give a positive variance")
        variance = self.variance.clone()
        variance[dims_to_keep:] = eps
        return GaussianLatents(variance)

    def whiten(self, x: Tensor) -> Tensor:
        """Divide latents ``[N, D]`` by their standard deviations."""
        return x / self.std

    def unwhiten(self, w: Tensor) -> Tensor:
        """Multiply standard normal variables ``w [N, D]`` by the standard deviations."""
        return w * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: Latents do not have D dimensions.
        """
        self._require_dim(x)
        std = self.std
        normalizer = std.log().sum() + self.dim * log(2 * pi) / 2
        return -(x / std).square().sum(dim=-1) / 2 - normalizer


@dataclass(frozen=True, eq=False, repr=False)
class LearnedLatents(LatentDistribution):
    """A base distribution with Gaussian kept dimensions and learned compressed dimensions.

    Attributes:
        mixture: Conditional distribution of the compressed dimensions given the kept dimensions,
            both divided by their standard deviations.
    """

    mixture: ConditionalMixture

    def whiten(self, x: Tensor) -> Tensor:
        """Map latents ``[N, D]`` to standard normal variables ``w [N, D]``.

        Kept dimensions are divided by their standard deviations; compressed dimensions become
        normal scores.
        """
        kept, compressed = self._split(x / self.std)
        return torch.cat([kept, self.mixture.whiten(kept, compressed)], dim=1)

    def unwhiten(self, w: Tensor) -> Tensor:
        """Map standard normal variables ``w [N, D]`` to latents ``[N, D]``."""
        kept, scores = self._split(w)
        return torch.cat([kept, self.mixture.unwhiten(kept, scores)], dim=1) * self.std

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density ``[...]`` of latents ``[..., D]``, in nats.

        Raises:
            DataError: Latents do not have D dimensions.
        """
        self._require_dim(x)
        rows = x.reshape(-1, self.dim) / self.std
        kept, compressed = self._split(rows)
        gaussian = -(kept.square() + log(2 * pi)).sum(dim=1) / 2
        log_density = gaussian + self.mixture.log_prob(kept, compressed) - self.std.log().sum()
        return log_density.view(x.shape[:-1])

    def digest(self) -> str:
        """Return the SHA-256 of the variances and the parameters of the mixture."""
        content = sha256(self.variance.cpu().numpy().tobytes())
        for name, tensor in sorted(self.mixture.state_dict().items()):
            content.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        return content.hexdigest()

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.mixture.kept], x[:, self.mixture.kept :]
