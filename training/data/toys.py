"""Toy data sets in two and three dimensions, with their exact distributions.

Every toy is a curve or a sheet plus Gaussian noise,

    u = (c(v) + n - mean) / std,      v ~ Uniform([0, 1]^p),   n ~ N(0, diag(noise^2)),

where ``mean`` and ``std`` are the moments of the distribution itself, never of a batch. Toys whose
name starts with ``unscaled_`` omit both, as in the paper's code. Replacing the integral over ``v``
by Gauss-Legendre quadrature turns the distribution into a finite Gaussian mixture that equals it to
about 1e-9: the nodes are closer together than one noise standard deviation, where the quadrature
error of a smooth integrand vanishes exponentially. Moments, exact denoisers and exact densities all
follow from that mixture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UsageError, require_known
from training.names import TOY_NAMES

Skeleton = Callable[[Tensor], Tensor]
"""Type of a map from parameters ``[n, p]`` in the unit cube to points ``[n, d]``."""

EMBEDDING_SEED = 2407
LARGEST_MISMATCH = 0.25
"""Maximum mismatch of a toy and its own data: far above that of any sample."""


class GaussianMixture(NamedTuple):
    """Gaussian mixture ``sum_k w_k N(A m_k, A S A^T)`` of K components with equal covariances.

    Attributes:
        weights: Weights ``w [K]`` of the components, summing to 1.
        means: Means ``m [K, d]`` of the components, in the intrinsic coordinates of the toy.
        covariance: Shared covariance ``S [d, d]`` of the components.
        embedding: Linear embedding ``A [D, d]`` with orthonormal columns; the identity unless the
            toy is embedded.
    """

    weights: Tensor
    means: Tensor
    covariance: Tensor
    embedding: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean ``[D]`` and covariance ``[D, D]`` of the whole mixture."""
        mean = self.weights @ self.means
        centered = self.means - mean
        covariance = (self.weights[:, None] * centered).T @ centered + self.covariance
        return self.embedding @ mean, self.embedding @ covariance @ self.embedding.T


@dataclass(frozen=True)
class _Recipe:
    """A toy before standardization: equally likely pieces of a curve or sheet, plus noise."""

    pieces: Sequence[Skeleton]
    nodes: tuple[int, ...]  # quadrature nodes along each parameter
    noise: tuple[float, ...]  # standard deviation along each dimension
    fixed_std: tuple[float | None, ...] = (None, None, None)  # None: scale to unit variance
    standardized: bool = True


def _circle(radius: float) -> Skeleton:
    return lambda v: radius * torch.cat([(2 * pi * v).cos(), (2 * pi * v).sin()], dim=1)


def _upper_moon(v: Tensor) -> Tensor:
    return torch.cat([(pi * v).cos(), (pi * v).sin()], dim=1)


def _lower_moon(v: Tensor) -> Tensor:
    return torch.cat([1 - (pi * v).cos(), 0.5 - (pi * v).sin()], dim=1)


def _sine1(v: Tensor) -> Tensor:
    return torch.cat([v, (4 * pi * v).sin()], dim=1)


def _sine2(v: Tensor) -> Tensor:
    x = 2 * v - 1
    return torch.cat([x, (4 * pi * x).sin() / 4], dim=1)


def _half_s_curve(sign: int) -> Skeleton:
    """Return one of the two smooth bends of the S, between which its curvature jumps."""

    def bend(v: Tensor) -> Tensor:
        angle, thickness = 1.5 * pi * v[:, :1], 2 * v[:, 1:]
        return torch.cat([sign * angle.sin(), thickness, sign * (angle.cos() - 1)], dim=1)

    return bend


def _swirl(v: Tensor) -> Tensor:
    angle, thickness = 1.5 * pi * (1 + 2 * v[:, :1]), 21 * v[:, 1:]
    return torch.cat([angle * angle.cos(), thickness, angle * angle.sin()], dim=1)


def _flattened(sheet: Skeleton) -> Skeleton:
    """Return the sheet's curve: its thickness (the second dimension) is set to zero."""

    def curve(v: Tensor) -> Tensor:
        points = sheet(torch.cat([v, torch.zeros_like(v)], dim=1))
        points[:, 1] = 0
        return points

    return curve


def _with_normal_thickness(sheet: _Recipe) -> _Recipe:
    """Return the sheet with its second dimension replaced by an independent normal variable."""
    return replace(
        sheet,
        pieces=[_flattened(piece) for piece in sheet.pieces],
        nodes=sheet.nodes[:1],
        noise=(sheet.noise[0], 0.5, sheet.noise[2]),
        fixed_std=(None, 1.0, None),
    )


_S_CURVE = _Recipe([_half_s_curve(-1), _half_s_curve(1)], nodes=(48, 24), noise=(0.2,) * 3)
_SWIRL = _Recipe([_swirl], nodes=(192, 36), noise=(1.25,) * 3)
_RECIPES = {
    "circles": _Recipe([_circle(1.0), _circle(0.5)], nodes=(192,), noise=(0.08, 0.08)),
    # Without noise on x, the nodes must be closer together than sqrt(gamma0) in that dimension;
    # they are for gamma0 down to 1e-4.
    "sine1": _Recipe([_sine1], nodes=(640,), noise=(0.0, 0.8)),
    "sine2": _Recipe([_sine2], nodes=(640,), noise=(0.0, 0.15)),
    "moons": _Recipe([_upper_moon, _lower_moon], nodes=(96,), noise=(0.08, 0.08)),
    "s_curve": _S_CURVE,
    "swirl": _SWIRL,
    "alt_s_curve": _with_normal_thickness(_S_CURVE),
    "alt_swirl": _with_normal_thickness(_SWIRL),
}
UNSCALED = "unscaled_"
for _name in ("alt_s_curve", "alt_swirl"):
    _RECIPES[UNSCALED + _name] = replace(_RECIPES[_name], standardized=False)


class Toy:
    """A toy distribution with unlimited samples and known density.

    Args:
        name: A name in ``TOY_NAMES``.
        augment_to: Number of dimensions in which to embed the toy, by a fixed matrix with
            orthonormal columns; 0 for no embedding.

    Raises:
        UsageError: The name is unknown, or there are fewer dimensions than the toy has.
    """

    def __init__(self, name: str, augment_to: int = 0):
        require_known("toy", name, TOY_NAMES)
        self.name, self.augment_to = name, augment_to
        self._recipe = _RECIPES[name]
        self.intrinsic_dim = len(self._recipe.noise)
        if augment_to and augment_to < self.intrinsic_dim:
            raise UsageError(
                f"augment_to is {augment_to}, but '{name}' has {self.intrinsic_dim} "
                f"dimensions: give 0 (not embedded) or at least {self.intrinsic_dim}"
            )
        self.dim = augment_to or self.intrinsic_dim
        self._embedding = _orthonormal(self.dim, self.intrinsic_dim)
        self._mean, self._std = self._raw_moments()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw points ``[count, D]``, float64, on the generator's device."""
        device, recipe = generator.device, self._recipe
        piece = torch.randint(len(recipe.pieces), (count, 1), generator=generator, device=device)
        parameters = _draw(torch.rand, generator, count, len(recipe.nodes))
        points = recipe.pieces[0](parameters)
        for index, skeleton in enumerate(recipe.pieces[1:], start=1):
            points = torch.where(piece == index, skeleton(parameters), points)
        noise_std = torch.tensor(recipe.noise, dtype=torch.float64, device=device)
        points = points + noise_std * _draw(torch.randn, generator, count, self.intrinsic_dim)
        standardized = (points - self._mean.to(device)) / self._std.to(device)
        return (
            standardized if self._embedding is None else standardized @ self._embedding.T.to(device)
        )

    @cached_property
    def mixture(self) -> GaussianMixture:
        """Gaussian mixture that equals the distribution of the toy to about 1e-9."""
        weights, means = self._quadrature()
        noise_std = torch.tensor(self._recipe.noise, dtype=torch.float64) / self._std
        embedding = self._embedding
        if embedding is None:
            embedding = torch.eye(self.dim, dtype=torch.float64)
        return GaussianMixture(
            weights, (means - self._mean) / self._std, torch.diag(noise_std**2), embedding
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the exact mean ``[D]`` and covariance ``[D, D]`` of the toy."""
        return self.mixture.moments()

    def mismatch(self, center: Tensor, second_moments: Tensor) -> float:
        """Return the largest deviation of second moments from the moments of the toy; 0 if equal.

        The deviation is relative to the variances of the toy.

        Args:
            center: Point ``[D]`` about which the moments are taken.
            second_moments: Second moments ``[D, D]`` to compare with the second moments of the toy.
        """
        mean, covariance = self.moments()
        axes = self.mixture.embedding
        offset = mean - center
        difference = second_moments - covariance - offset.outer(offset)
        within = axes.T @ difference @ axes
        std = (axes.T @ (covariance + offset.outer(offset)) @ axes).diagonal().sqrt()
        elsewhere = (difference.trace() - within.trace()).abs() / std.square().sum()
        return float(max((within / std.outer(std)).abs().max(), elsewhere))

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Return the weights ``[K]`` and raw points ``[K, d]`` of Gauss-Legendre rules."""
        axes = [np.polynomial.legendre.leggauss(count) for count in self._recipe.nodes]
        parameters = torch.tensor(list(product(*((nodes + 1) / 2 for nodes, _ in axes))))
        weights = torch.tensor(list(product(*(weights / 2 for _, weights in axes)))).prod(dim=1)
        pieces = self._recipe.pieces
        points = torch.cat([skeleton(parameters) for skeleton in pieces])
        return weights.repeat(len(pieces)) / len(pieces), points

    def _raw_moments(self) -> tuple[Tensor, Tensor]:
        weights, points = self._quadrature()
        mean = weights @ points
        if not self._recipe.standardized:
            return torch.zeros_like(mean), torch.ones_like(mean)
        noise_variance = torch.tensor(self._recipe.noise, dtype=torch.float64) ** 2
        std = (weights @ (points - mean) ** 2 + noise_variance).sqrt()
        fixed = self._recipe.fixed_std[: self.intrinsic_dim]
        for index, value in enumerate(fixed):
            if value is not None:
                std[index] = value
        return mean, std


def _draw(distribution: Callable[..., Tensor], generator: torch.Generator, *shape: int) -> Tensor:
    return distribution(*shape, generator=generator, device=generator.device, dtype=torch.float64)


def _orthonormal(rows: int, columns: int) -> Tensor | None:
    if rows == columns:
        return None
    generator = torch.Generator().manual_seed(EMBEDDING_SEED)
    orthonormal, _ = torch.linalg.qr(_draw(torch.randn, generator, rows, columns))
    return orthonormal
