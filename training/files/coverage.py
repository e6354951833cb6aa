"""The files of ``toy_mesh_exps.py``: numbers, points, and in 3-D a mesh of each boundary."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from torch_utils.results import save_arrays, save_json
from training.measure.boundaries import Boundary, enclosed_volume, write_mesh
from training.measure.coverage import STAGES, Spheres
from training.measure.coverage_result import CoverageResult

FORMAT = "inflationary-flows coverage 1"
NUMBER = r"[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?"
"""A positive one, as a format of ``g`` writes it."""


@dataclass(frozen=True)
class CoverageFiles:
    """The files of an experiment.

    Attributes:
        folder: Where they are.
        stem: Name of the toy and the schedule.
        spheres: At the start.
    """

    folder: Path
    stem: str
    spheres: Spheres

    @property
    def numbers(self) -> Path:
        return self.folder / f"{self.stem}_coverage.json"

    @property
    def points(self) -> Path:
        return self.folder / f"{self.stem}_coverage.npz"

    @property
    def meshes(self) -> dict[tuple[str, int], Path]:
        """The mesh of each stage and radius; there are none in 2-D."""
        if self.spheres.dim == 2:
            return {}
        return {
            (name, index): self.folder / f"{self.stem}_r{radius}_{name}.ply"
            for name in STAGES
            for index, radius in enumerate(self.spheres.names)
        }

    @property
    def all(self) -> list[Path]:
        return [self.numbers, self.points, *self.meshes.values()]

    def save(self, result: CoverageResult, about: Mapping[str, Any]) -> None:
        """Writes all files.

        Args:
            result: What was found.
            about: What else the JSON is to say.
        """
        save_arrays(self.points, {**result_arrays(result), "format": np.array(FORMAT)})
        for (name, index), path in self.meshes.items():
            sphere_and_smaller = result.carried[name].boundary[: index + 1]
            boundary = result.boundaries[name][index]
            write_mesh(path, *seen_from_outside(sphere_and_smaller, boundary))
        save_json(self.numbers, {"format": FORMAT, **result.summary(), **about})

    def remove_others(self) -> None:
        """Removes meshes of other radii that an earlier run left under these names."""
        known = {path.name for path in self.meshes.values()}
        named = re.compile(rf"{re.escape(self.stem)}_r{NUMBER}_({'|'.join(STAGES)})\.ply")
        for path in sorted(self.folder.iterdir()) if known else ():
            if named.fullmatch(path.name) and path.name not in known and path.is_file():
                path.unlink()


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


def result_arrays(result: CoverageResult) -> dict[str, np.ndarray]:
    """What the ``.npz`` holds, points in the coordinates of their stage."""
    spheres = result.spheres
    arrays = {
        "radii": spheres.radii,
        "exact": spheres.content(),
        "coverage": result.found.test,
        "coverage_fresh": result.found.fresh,
        "faces": spheres.unit.faces,
        "fresh_data": result.fresh.cpu().numpy(),
    }
    for name, points in result.carried.items():
        arrays[f"test_{name}"] = points.test.cpu().numpy()
        arrays |= boundary_arrays(name, points.boundary, result.boundaries[name], spheres)
    if result.paired:
        arrays |= result.paired.found.arrays()
        vertices, boundaries = result.paired.vertices, result.paired.boundaries
        arrays |= boundary_arrays("data_exact", vertices, boundaries, spheres)
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
