"""How long it takes to say which points lie inside boundaries, and what inscribed spheres lack.

    python benchmarks/containment.py [--repeats 5]

The first table has the seconds that seven boundaries take together, the median of the repeats. The
boundaries are spheres of Mahalanobis radius 0.5 to 3.5 in a Gaussian, bent and twisted with the
test points as a flow would do; ``transport`` is the time for the carried boundaries, ``alpha`` that
for alpha shapes of the same vertices, of which ``fitting`` is spent before the first test point.

The second table has what a polygon or mesh of so many vertices on the unit sphere lacks of the
ball's volume, and by how much it misses the ball's probability at Mahalanobis radius 2: with its
vertices on the sphere, and moved outward to equal volume.
"""

import math
import statistics
import sys
import time
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.measure.boundaries import (
    Boundary,
    alpha_shape,
    enclosed_volume,
    gaussian_content,
    gaussian_content_within,
    unit_sphere,
)
from training.measure.containment import Floats, inside

RADII = np.linspace(0.5, 3.5, 7)
SIZES = [(2, 200, 20_000), (2, 20_000, 20_000), (2, 200, 1_000_000)]
SIZES += [(3, 200, 20_000), (3, 2_000, 20_000), (3, 20_000, 20_000), (3, 2_000, 1_000_000)]
# In units of the boundary's radius: wide enough to bridge 200 points.
ALPHA = 0.8


def bent(points: Floats) -> Floats:
    """A map of the plane or of space without folds, that leaves convex bodies far from it."""
    moved = points * np.array([1.0, 0.3, 0.6])[: points.shape[1]]
    moved[:, 1] += 0.5 * moved[:, 0] ** 2
    if points.shape[1] == 3:
        angle = moved[:, 2] + moved[:, 0]
        y, z = moved[:, 1], moved[:, 2] + 0.3 * np.sin(3 * moved[:, 0])
        moved[:, 1:] = np.stack(
            [y * np.cos(angle) - z * np.sin(angle), y * np.sin(angle) + z * np.cos(angle)], axis=1
        )
    return moved


def seconds(dim: int, vertex_count: int, point_count: int) -> tuple[float, float, float]:
    """Of transport, of alpha shapes, and of fitting the latter; all boundaries together."""
    sphere = unit_sphere(dim, vertex_count)
    carried = [Boundary(bent(radius * sphere.vertices), sphere.faces) for radius in RADII]
    points = bent(np.random.default_rng(0).normal(size=(point_count, dim)))
    marks = [time.perf_counter()]
    for boundary in carried:
        inside(points, *boundary)
    marks.append(time.perf_counter())
    shapes = [
        alpha_shape(boundary.vertices, ALPHA * radius)
        for boundary, radius in zip(carried, RADII, strict=True)
    ]
    marks.append(time.perf_counter())
    for shape in shapes:
        inside(points, *shape)
    marks.append(time.perf_counter())
    transport, fitting, looking = np.diff(marks).tolist()
    return transport, fitting + looking, fitting


def bias(dim: int, vertex_count: int) -> tuple[float, float, float]:
    """What a sphere of so many vertices lacks: volume, probability, and that at equal volume."""
    ball = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)
    vertices, faces = unit_sphere(dim, vertex_count)
    volume, exact = enclosed_volume(vertices, faces), float(gaussian_content(2, dim))
    radii = (2.0, 2 * (ball / volume) ** (1 / dim))
    inscribed, equal = (exact - gaussian_content_within(r * vertices, faces) for r in radii)
    return 1 - volume / ball, inscribed, equal


@click.command(help=__doc__)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True)
def main(repeats: int) -> None:
    print("| D | boundaries | vertices | faces | test points | transport s | alpha s | fitting s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for dim, vertex_count, point_count in SIZES:
        runs = [seconds(dim, vertex_count, point_count) for _ in range(repeats)]
        medians = " | ".join(f"{statistics.median(run):.2f}" for run in zip(*runs, strict=True))
        face_count = vertex_count if dim == 2 else 2 * vertex_count - 4
        print(
            f"| {dim} | {len(RADII)} | {vertex_count:,} | {face_count:,} | {point_count:,} "
            f"| {medians} |",
            flush=True,
        )
    print()
    print("| D | vertices | volume lacking | probability lacking | at equal volume |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for dim in (2, 3):
        for vertex_count in (50, 200, 800, 3_200, 12_800):
            lacks = " | ".join(f"{value:.1e}" for value in bias(dim, vertex_count))
            print(f"| {dim} | {vertex_count:,} | {lacks} |", flush=True)


if __name__ == "__main__":
    main()
