"""A learned distribution of compressed latents given the kept ones, by normal mixtures.

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
"""

import warnings
from math import log, pi
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
