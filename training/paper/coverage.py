"""Coverage: fraction of a distribution inside boundaries that a flow transports.

A flow transports the latent Gaussian to the data and back. The sphere of Mahalanobis radius r
contains the probability ``P(D/2, r^2/2)`` of the Gaussian (``boundaries``), and is what a credible
region looks like in latent space. It is followed through three stages: *latent*, where it starts;
*data*, after generation; *end*, after inflation of the generated data. Two different questions are
answered.

1. Does the fraction of Gaussian *test points* inside the transported sphere stay constant? The flow
   of any smooth velocity is a homeomorphism: the inside of a closed surface stays inside its image.
   For the continuous boundary and exact integration the answer is therefore yes, **however wrong
   the score is**. Changes come from following a polygon or mesh instead of a continuous surface,
   and from errors of integration. The fraction of points that changed sides shows them without the
   cancellation in the difference of two counts.

2. Does the transported sphere contain that fraction of the *data*? *Fresh* points of the data's own
   distribution, with the noise of the first time, are counted inside the boundaries in data space.
   By the change of variables this is the same as mapping them to latent space and counting them
   inside the sphere, so it compares the distribution of the inflated data with the Gaussian that
   generation starts from. It shows the error of the score, and also data that is not Gaussian at
   the last time. The latter is the rule for compressed dimensions, as their noise does not dominate
   the data.

Coordinates are those of the stage in units of its standard deviations along the axes of the
eigenbasis. A linear map changes nothing for a transported boundary, and it gives one length the
same meaning at every stage for a refitted one (``boundaries.alpha_shape``).

*Pairs.* The fraction of fresh data inside a network's boundaries is compared with that inside the
exact flow's. A count of N points with a fraction p inside has the standard error ``sqrt(p (1 - p) /
N)``, 0.35 percentage points for 20,000. Boundaries that the network and the exact denoiser
transport to the data from the same spheres differ by far less than that. Both are applied to the
*same* fresh points, so that only the points between them count: with the fraction a in the first
boundary alone and the fraction b in the second alone, the difference is ``a - b``, and its standard
error ``sqrt((a + b - (a - b)^2) / (N - 1))``, that of redrawing the points for these boundaries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from torch_utils import distributed
from training.paper.containment import (
    Boundary,
    Floats,
    alpha_shape,
    filling_alpha,
    gaussian_content,
    gaussian_content_within,
    inside,
)

STAGES = ("latent", "data", "end")
SEEN = 1e-4
"""Smallest fraction of a distribution that the table shows."""
TABLE_HEAD = ("radius", "chi2 %", "start %", "data %", "end %", "fresh %", "change", "moved")


class Points(NamedTuple):
    """Points that a flow transports: test points, and vertices of boundaries.

    Attributes:
        test: Test points ``[N, D]``.
        boundary: Vertices ``[R, K, D]`` of R boundaries.
    """

    test: Tensor
    boundary: Tensor

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Points":
        """Map all points by a function of points ``[M, D]``, in one call."""
        moved, count = function(torch.cat([self.test, self.boundary.flatten(0, 1)])), len(self.test)
        return Points(moved[:count], moved[count:].view_as(self.boundary))


@dataclass(frozen=True)
class Spheres:
    """Concentric spheres, as polygons or meshes whose vertices differ only in scale.

    Attributes:
        radii: Radii ``[R]``, increasing, in standard deviations.
        unit: Polygon or mesh of the sphere of radius 1.
    """

    radii: Floats
    unit: Boundary

    def __post_init__(self) -> None:
        if not (self.radii[0] > 0 and (np.diff(self.radii) > 0).all()):
            raise UsageError(f"radii must be positive and increasing, got {self.radii.tolist()}")
        for name, after in pairwise(self.names):
            if name == after:
                raise UsageError(
                    f"two radii are equal to six digits, {name}: give fewer radii or a wider range"
                )

    @classmethod
    def between(cls, smallest: float, largest: float, count: int, unit: Boundary) -> "Spheres":
        """Create ``count`` spheres with evenly spaced radii from the smallest to the largest."""
        return cls(np.linspace(smallest, largest, count), unit)

    @property
    def dim(self) -> int:
        """Dimension D of the space, 2 or 3."""
        return self.unit.vertices.shape[1]

    @property
    def names(self) -> list[str]:
        """Radii as texts, for tables and files."""
        return [f"{radius:g}" for radius in self.radii]

    @property
    def vertices(self) -> Tensor:
        """Vertices ``[R, K, D]`` of the spheres, float64."""
        return torch.from_numpy(self.radii[:, None, None] * self.unit.vertices)

    def content(self) -> Floats:
        """Return the standard normal probability ``[R]`` within the exact spheres."""
        return gaussian_content(self.radii, self.dim)

    def content_within(self) -> Floats:
        """Return the standard normal probability ``[R]`` within the polygons or meshes."""
        return contents_within(transported(self.vertices, self.unit))

    def default_alpha(self) -> float:
        """Return the default alpha of alpha shapes, at which ``refitted`` fills the spheres.

        Alpha is one standard deviation, or 1.1 times half the widest gap between neighboring
        spheres, or across the innermost sphere, if that is more.
        """
        gaps = np.diff(self.radii, prepend=-self.radii[0])
        return max(1.0, float(1.1 * gaps.max() / 2))


def carry(
    start: Points, generate: Callable[[Tensor], Tensor], melt: Callable[[Tensor], Tensor]
) -> dict[str, Points]:
    """Map latent points to generated data, and inflate the data to latents again.

    Args:
        start: Points in latent space.
        generate: Function from latents ``[M, D]`` to data.
        melt: Function from data ``[M, D]`` to latents.

    Returns:
        The points at each of ``STAGES``.
    """
    data = start.mapped(generate)
    return {"latent": start, "data": data, "end": data.mapped(melt)}


def transported(vertices: Tensor, unit: Boundary) -> list[Boundary]:
    """Create R boundaries from transported vertices ``[R, K, D]`` and the faces of ``unit``."""
    return [Boundary(moved, unit.faces) for moved in vertices.cpu().numpy()]


def refitted(vertices: Tensor, alpha: float) -> list[Boundary]:
    """Fit an alpha shape to the vertices of each of R spheres and of all smaller spheres.

    The vertices of smaller spheres permit a small alpha. The vertices of one sphere alone surround
    an empty region: an alpha that fills it is at least the radius of the sphere, and then also
    fills regions that a deformed sphere is folded around.

    Args:
        vertices: Vertices ``[R, K, D]`` of the spheres, smallest first.
        alpha: Radius of the alpha shapes.
    """
    points = vertices.cpu().numpy()
    return [alpha_shape(np.concatenate(points[: index + 1]), alpha) for index in range(len(points))]


def contents_within(boundaries: list[Boundary]) -> Floats:
    """Return the standard normal probability ``[R]`` within each of R boundaries."""
    return np.array([gaussian_content_within(*boundary) for boundary in boundaries])


def unfilled(spheres: Spheres, within: Floats, alpha: float) -> str | None:
    """Return a warning if alpha shapes miss a part of the spheres in latent space, else None.

    Args:
        spheres: The spheres.
        within: Probability ``[R]`` of the standard normal distribution inside the alpha shapes.
        alpha: Alpha of the shapes.
    """
    held = spheres.content_within()
    lacking = held - within
    if lacking.max() < SEEN:
        return None
    points, worst = spheres.vertices.numpy(), int(lacking.argmax())
    enough = max(
        filling_alpha(np.concatenate(points[: index + 1]))
        for index in np.flatnonzero(lacking >= SEEN)
    )
    return (
        f"alpha = {alpha:g} does not fill the spheres at the start: at r = "
        f"{spheres.names[worst]} the alpha shape contains {within[worst]:.2%} of the "
        f"Gaussian, the sphere {held[worst]:.2%}; --alpha={1.01 * enough:.3g} fills all "
        "spheres"
    )


def membership(points: Tensor, boundaries: list[Boundary]) -> Tensor:
    """Return a mask ``[R, ...]`` of the points ``[..., D]`` inside each of R boundaries.

    The points are the same on each rank. The ranks divide the work, and all get the whole result.
    """
    rows = points.flatten(0, -2)
    share = rows[distributed.shard(len(rows))].cpu().numpy()
    held = np.stack([inside(share, *boundary) for boundary in boundaries]).astype(np.uint8)
    whole = distributed.gather_rows(torch.from_numpy(held).to(points.device), len(rows), dim=1)
    return whole.bool().reshape(len(boundaries), *points.shape[:-1])


@dataclass(frozen=True)
class Coverage:
    """Fractions of test points and of data inside R transported boundaries.

    Attributes:
        test: Fractions ``[3, R]`` of test points, by stage and boundary.
        fresh: Fractions ``[R]`` of fresh data inside the boundaries in data space.
        changed: Fractions ``[3, R]`` of test points that are inside and were outside in latent
            space at the start, or the reverse.
    """

    test: Floats
    fresh: Floats
    changed: Floats

    @property
    def columns(self) -> dict[str, Floats]:
        """Fractions ``[R]`` of test points by stage, and of fresh data as ``fresh``."""
        return {**dict(zip(STAGES, self.test, strict=True)), "fresh": self.fresh}

    @property
    def largest_change(self) -> Floats:
        """Largest change ``[R]`` of the fraction of test points since the start."""
        return np.asarray(np.abs(self.test - self.test[:1]).max(axis=0))


def measure_coverage(
    points: Mapping[str, Points], boundaries: Mapping[str, list[Boundary]], fresh: Tensor
) -> Coverage:
    """Compute the fractions of test points and of fresh data inside R boundaries.

    Points and boundaries of a stage are in the same coordinates.

    Args:
        points: Test points of each stage in ``STAGES``.
        boundaries: Boundaries at each stage.
        fresh: Fresh data ``[M, D]``, which are compared with the boundaries in data space.
    """
    sides = torch.stack([membership(points[name].test, boundaries[name]) for name in STAGES])
    return Coverage(
        test=_part(sides),
        fresh=_part(membership(fresh, boundaries["data"])),
        changed=_part(sides != sides[:1]),
    )


def summary(spheres: Spheres, coverage: Coverage, within: Floats) -> dict[str, Any]:
    """Return the results of a coverage measurement as plain lists, one value per radius.

    Args:
        spheres: The spheres at the start.
        coverage: Fractions of points inside the boundaries.
        within: Standard normal probability ``[R]`` within the boundaries at the start, which differ
            from the spheres if they are refitted.
    """
    return {
        "radii": spheres.radii.tolist(),
        "exact": spheres.content().tolist(),
        "exact_within_boundary": within.tolist(),
        "coverage": {name: values.tolist() for name, values in coverage.columns.items()},
        "largest_change": coverage.largest_change.tolist(),
        "changed_sides": coverage.changed.max(axis=0).tolist(),
    }


def table(
    spheres: Spheres, coverage: Coverage, more: Mapping[str, list[str]] | None = None
) -> list[str]:
    """Format the results of a coverage measurement as a table of percentages, in lines of text.

    Args:
        spheres: The spheres at the start, one line each.
        coverage: Fractions of points inside the boundaries.
        more: Cells ``[R]`` of further columns, by their headings.
    """
    more = more or {}
    cells = [[f"{value:.2f}" for value in 100 * spheres.content()]]
    for values in coverage.columns.values():
        cells.append([f"{value:.2f}" for value in 100 * values])
    cells.append([f"{value:.3f}" for value in 100 * coverage.largest_change])
    cells.append([f"{value:.3f}" for value in 100 * coverage.changed.max(axis=0)])
    rows = zip(spheres.names, *cells, *more.values(), strict=True)
    lines = [(*TABLE_HEAD, *more), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    ]


@dataclass(frozen=True)
class Paired:
    """Paired comparison of a network with the exact flow, for R boundaries.

    Attributes:
        exact: Fractions ``[R]`` of fresh data inside the boundaries of the exact flow.
        difference: Excess ``[R]`` of the fractions inside the network's boundaries.
        error: Standard errors of the difference ``[R]``.
    """

    exact: Floats
    difference: Floats
    error: Floats

    def summary(self) -> dict[str, Any]:
        """Return the comparison as plain lists, one value per radius, as fractions of 1."""
        return {
            "fresh_exact": self.exact.tolist(),
            "difference": self.difference.tolist(),
            "standard_error": self.error.tolist(),
        }

    def columns(self) -> dict[str, list[str]]:
        """Return further columns of the coverage table, in percentage points, by their headings."""
        return {
            "paired": [f"{value:+.3f}" for value in 100 * self.difference],
            "s.e.": [f"{value:.3f}" for value in 100 * self.error],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the comparison for the ``.npz`` results file, by name."""
        return {
            "coverage_fresh_exact": self.exact,
            "paired_difference": self.difference,
            "paired_standard_error": self.error,
        }


def pair(fresh: Tensor, boundaries: list[Boundary], exact: list[Boundary]) -> Paired:
    """Compare the fractions of fresh data inside the boundaries of a network and the exact flow.

    Args:
        fresh: Fresh data ``[N, D]`` in data space.
        boundaries: R boundaries that the network transported.
        exact: R boundaries that the exact flow transported from the same spheres.
    """
    ours, theirs = membership(fresh, boundaries), membership(fresh, exact)
    more, fewer = _part(ours & ~theirs), _part(theirs & ~ours)
    difference = more - fewer
    variance = more + fewer - np.square(difference)
    degrees = max(len(fresh) - 1, 1)
    return Paired(_part(theirs), difference, np.sqrt(np.maximum(variance, 0) / degrees))


def _part(sides: Tensor) -> Floats:
    """Return means ``[...]`` over the points of ``[..., N]``."""
    return np.asarray(sides.double().mean(dim=-1).cpu())


@dataclass(frozen=True)
class CoverageResult:
    """Results of a coverage measurement, with the points and boundaries they come from.

    Attributes:
        spheres: Spheres at the start.
        fractions: Fractions of points inside the boundaries.
        carried: Points at each stage, in the coordinates of the stage.
        boundaries: R boundaries at each stage, in standard deviations of the stage.
        fresh: Fresh data ``[M, D]`` in data space.
        calls: Number of network evaluations for the transported points.
        paired: Comparison with the boundaries that the exact flow transports from the same spheres;
            None if not requested.
        exact: Vertices ``[R, K, D]`` of the exact flow's boundaries in data space, and the R
            boundaries; None if not requested.
    """

    spheres: Spheres
    fractions: Coverage
    carried: Mapping[str, Points]
    boundaries: Mapping[str, list[Boundary]]
    fresh: Tensor
    calls: int
    paired: Paired | None = None
    exact: tuple[Tensor, list[Boundary]] | None = None

    def summary(self) -> dict[str, Any]:
        """Return all results as plain lists, one value per radius, as fractions of 1."""
        within = contents_within(self.boundaries["latent"])
        return {
            **summary(self.spheres, self.fractions, within),
            "paired": self.paired.summary() if self.paired else None,
            "fresh_pts": len(self.fresh),
            "denoiser_calls": self.calls,
        }
