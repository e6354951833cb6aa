"""The files of coverage: what they are called, what they hold, and which way meshes look."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from training.measure.boundaries import Boundary, enclosed_volume
from training.measure.coverage import STAGES, Coverage, Points, Spheres

NUMBER = r"[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?"
"""A positive one, as a format of ``g`` writes it."""


def mesh_paths(folder: Path, stem: str, spheres: Spheres) -> dict[tuple[str, int], Path]:
    """Of the mesh of each stage and radius; there are none in 2-D."""
    if spheres.dim == 2:
        return {}
    return {
        (name, index): folder / f"{stem}_r{radius}_{name}.ply"
        for name in STAGES
        for index, radius in enumerate(spheres.names)
    }


def other_meshes(folder: Path, stem: str, meshes: Iterable[Path]) -> list[Path]:
    """Files that are called as ``mesh_paths`` of any radii are, but are none of these meshes."""
    known = {path.name for path in meshes}
    called = re.compile(rf"{re.escape(stem)}_r{NUMBER}_({'|'.join(STAGES)})\.ply")
    return [
        path
        for path in sorted(folder.iterdir())
        if called.fullmatch(path.name) and path.name not in known and path.is_file()
    ]


def seen_from_outside(vertices: Tensor, boundary: Boundary) -> Boundary:
    """A boundary with its vertices in other coordinates, its faces turned outward.

    Args:
        vertices: Those of its sphere and the smaller ones ``[index + 1, K, D]``.
        boundary: Has the last of them or all.
    """
    points = vertices.flatten(0, 1)[-len(boundary.vertices) :].cpu().numpy()
    # The axes of the eigenbasis may be a mirror image of those of the data.
    inward = enclosed_volume(points, boundary.faces) < 0
    return Boundary(points, boundary.faces[:, ::-1] if inward else boundary.faces)


def result_arrays(
    spheres: Spheres,
    carried: Mapping[str, Points],
    boundaries: Mapping[str, list[Boundary]],
    fresh: Tensor,
    found: Coverage,
) -> dict[str, np.ndarray]:
    """What the ``.npz`` holds, points in the coordinates of their stage."""
    arrays = {
        "radii": spheres.radii,
        "exact": spheres.content(),
        "coverage": found.test,
        "coverage_fresh": found.fresh,
        "faces": spheres.unit.faces,
        "fresh_data": fresh.cpu().numpy(),
    }
    for name, points in carried.items():
        arrays[f"test_{name}"] = points.test.cpu().numpy()
        arrays |= boundary_arrays(name, points.boundary, boundaries[name], spheres)
    return arrays


def boundary_arrays(
    name: str, vertices: Tensor, boundaries: list[Boundary], spheres: Spheres
) -> dict[str, np.ndarray]:
    """Vertices ``[R, K, D]`` of a stage, and faces where they are not those of the spheres."""
    faces = {
        f"faces_{name}_{index}": boundary.faces
        for index, boundary in enumerate(boundaries)
        if boundary.faces is not spheres.unit.faces
    }
    return {f"boundary_{name}": vertices.cpu().numpy(), **faces}
