"""What an experiment on coverage finds: what was counted, and the points and boundaries it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from training.measure.boundaries import Boundary
from training.measure.coverage import Coverage, Points, Spheres, contents_within, summary
from training.measure.paired_coverage import Paired


@dataclass(frozen=True)
class PairedBoundaries:
    """What the exact flow makes of the same spheres.

    Attributes:
        counts: Fresh samples inside its boundaries, against those of the network.
        vertices: ``[R, K, D]`` in data space.
        boundaries: R of them.
    """

    counts: Paired
    vertices: Tensor
    boundaries: list[Boundary]


@dataclass(frozen=True)
class CoverageResult:
    """What was counted, and of what.

    Attributes:
        spheres: At the start.
        fractions: The fractions.
        carried: The points at each stage, in its coordinates.
        boundaries: R of them at each stage, in its standard deviations.
        fresh: Fresh points ``[S, M, D]`` in data space.
        calls: Denoiser calls of the carried points.
        paired: The same with the exact flow; None if it was not asked for.
    """

    spheres: Spheres
    fractions: Coverage
    carried: Mapping[str, Points]
    boundaries: Mapping[str, list[Boundary]]
    fresh: Tensor
    calls: int
    paired: PairedBoundaries | None = None

    def summary(self) -> dict[str, Any]:
        """The numbers as plain lists, one value a radius, fractions of 1."""
        within = contents_within(self.boundaries["latent"])
        return {
            **summary(self.spheres, self.fractions, within),
            "paired": self.paired.counts.summary() if self.paired else None,
            "fresh_pts": self.fresh.shape[1],
            "denoiser_calls": self.calls,
        }
