"""Errors of conditional posteriors relative to their widths, as a function of the posterior.

A calibration test over all simulations cannot detect posteriors that are too wide for some
observations and correct on average. The *standardized errors* of simulated parameters theta,

    z_j = (theta_j - m_j) / s_j,

with mean m and standard deviation s of the posterior given their data, have the scale 1 wherever
posteriors have the right width. Here the log of their scale is a polynomial of second degree in m
and log s, fitted by maximum likelihood to simulations. The ratio z / scale has Student's t
distribution with ``FREEDOM`` degrees of freedom, since a few errors are large. A scale of 0.5 means
that, for observations with such a posterior, errors are half as large as the posterior states.
"""

from functools import cache

import torch
from torch import Tensor, nn

from torch_utils.arguments import arguments_of

FREEDOM = 6.0
"""Degrees of freedom of the t distribution."""
PENALTY = 10.0
"""Inverse variance of the coefficients' Gaussian prior."""
FARTHEST = 3.0
"""Clipping of features, in standard deviations, so that the polynomial is not extrapolated."""
MOST_CROSSED = 5
"""Maximum number of parameters for which the polynomial has products of different features."""
MOST_STEPS = 200


class Widths(nn.Module):
    """Regression of the scale of posterior errors on posterior means and standard deviations.

    Errors are standardized: true value minus posterior mean, divided by the posterior standard
    deviation. Their scale is 1 where posteriors have the right width.

    Args:
        dim: Number of parameters, D.

    Attributes:
        center: Means ``[2 D]`` of the 2 D features: posterior means and log standard deviations.
        spread: Standard deviations of the features ``[2 D]``.
        weights: Coefficients ``[P, D]`` of the P terms of a quadratic polynomial in the features.
        bias: Constant term of each parameter ``[D]``.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> mean = torch.rand(500, 1, generator=generator, dtype=torch.float64)
        >>> noise = torch.randn(500, 1, generator=generator, dtype=torch.float64)
        >>> std = torch.full_like(mean, 0.2)  # twice as wide as the errors
        >>> widths = Widths(1).fit(mean, std, mean + 0.1 * noise, torch.zeros(500))
        >>> abs(float(widths(mean, std).mean()) - 0.5) < 0.05
        True
    """

    center: Tensor
    spread: Tensor
    weights: Tensor
    bias: Tensor

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise ValueError(
                f"a regression of posterior widths has {dim} parameters: give at least one"
            )
        self.dim = dim
        self.arguments = arguments_of(self)
        features = 2 * dim
        terms = 2 * features
        if dim <= MOST_CROSSED:
            terms = features + features * (features + 1) // 2
        shapes = {"center": (features,), "spread": (features,), "bias": (dim,)}
        for name, shape in {**shapes, "weights": (terms, dim)}.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return the scale of standardized errors ``[M, D]``.

        Args:
            mean: Posterior means ``[M, D]``, in the user's units.
            std: Posterior standard deviations ``[M, D]``. Where a standard deviation is 0, the
                returned scale is 1.
        """
        terms = self._terms(mean.double(), std.double())
        return torch.where(std > 0, (terms @ self.weights + self.bias).exp(), 1.0)

    def fit(self, mean: Tensor, std: Tensor, truth: Tensor, trained: Tensor) -> "Widths":
        """Fit the polynomial to simulations, and return the module itself.

        Args:
            mean: Posterior means ``[N, D]``.
            std: Posterior standard deviations ``[N, D]``.
            truth: True parameters ``[N, D]``.
            trained: Indicator ``[N]``: 1 for simulations in the training set of the flow, 0 for all
                other simulations. Errors of training simulations have an additional factor, which
                is fitted and then dropped.
        """
        known = (std > 0).all(dim=1)
        mean, std, truth = (part[known].double() for part in (mean, std, truth))
        features = torch.cat([mean, std.log()], dim=1)
        self.center.copy_(features.mean(dim=0))
        self.spread.copy_(features.std(dim=0).clamp_min(1e-12))
        own = trained[known].double()[:, None]
        own = own - own.mean() if own.min() == own.max() else own
        terms = torch.cat([self._terms(mean, std), own], dim=1)
        errors = ((truth - mean) / std).abs()
        weights = torch.zeros(terms.shape[1], self.dim, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(self.dim, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weights, bias], max_iter=MOST_STEPS, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            log_scale = terms @ weights + bias
            squares = (errors * (-log_scale).exp()).square()
            tails = (FREEDOM + 1) / 2 * (squares / FREEDOM).log1p()
            value = (log_scale + tails).sum() + PENALTY / 2 * weights.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        self.weights.copy_(weights.detach()[:-1])
        self.bias.copy_(bias.detach() - _log_scale_of_normal())
        return self

    def check(self) -> None:
        """Raise ValueError if a buffer is not finite, or a spread is not positive."""
        if not all(part.isfinite().all() for part in (self.center, self.weights, self.bias)):
            raise ValueError(
                "a stored parameter of the posterior widths is not finite: restore the file from "
                "a copy"
            )
        if not (self.spread > 0).all():
            raise ValueError(
                "a stored spread of the posterior widths is not positive: restore the file from a "
                "copy"
            )

    def _terms(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return the terms ``[M, P]`` of the polynomial, except for the constant."""
        features = torch.cat([mean, std.clamp_min(1e-300).log()], dim=1)
        x = ((features - self.center) / self.spread).clamp(-FARTHEST, FARTHEST)
        if self.dim > MOST_CROSSED:
            return torch.cat([x, x.square()], dim=1)
        first, second = torch.triu_indices(x.shape[1], x.shape[1], device=x.device)
        return torch.cat([x, x[:, first] * x[:, second]], dim=1)


@cache
def _log_scale_of_normal() -> float:
    """Return the log scale of the t distribution that is fitted to standard normal numbers.

    It solves ``E[(FREEDOM + 1) u^2 / (FREEDOM + u^2)] = 1`` with ``u = z / scale``.
    """
    quantiles = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    z = torch.special.ndtri(quantiles)
    low, high = -2.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        squares = (z * torch.tensor(-middle).exp()).square()
        above = ((FREEDOM + 1) * squares / (FREEDOM + squares)).mean() > 1
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2
