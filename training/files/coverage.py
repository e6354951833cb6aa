"""Coverage: the files of ``toy_mesh_exps.py``.

``{data}_{schedule}_coverage.json`` has the options and, for R radii, fractions of 1; in
parentheses, the column of the printed table:

    radii (radius)             [R], Mahalanobis radii
    exact (chi2 %)             [R], probability of the sphere under the Gaussian
    exact_within_boundary      [R], probability of its polygon, mesh or alpha shape at the start
    coverage.latent (start %)  [R], test points inside at the start
    coverage.data, .end (data %, end %)   the same after generation, and after inflating it again
    coverage.fresh (fresh %)   the same for new samples of a toy, or for held-out rows of a table
    fresh_pts                  the number of these, M; for toys equal to the number of test points
    largest_change (change)    [R], largest difference of data or end from latent
    changed_sides (moved)      [R], maximum number of test points on another side than at the start
    paired.fresh_exact         as coverage.fresh, inside boundaries that the exact denoiser carries;
                               in 2-D with a network of a toy; else paired is null
    paired.difference (paired) coverage.fresh minus that, for the same samples
    paired.standard_error (s.e.)   [R], standard error of the difference
    denoiser_calls             evaluations for the carried points, without those of the exact flow

With a learned latent distribution, the stages latent and end are in whitened latents, which are
standard normal. A refitted boundary has faces between the points of its sphere and all smaller
ones. Arrays with paired or exact in their name are those of this comparison.

In 3-D each mesh is also ``{data}_{schedule}_r{radius}_{stage}.ply``, in single precision, the
radius to six digits; ``--overwrite`` removes the meshes of other radii under these names.

Latent points are read in units of the latent's standard deviations, in which spheres of a
Mahalanobis radius are round however thin the latent is. The standard deviations are not in the
file. They follow from the spheres at the start, since ``sum_i (x_i / sigma_i)^2 = r^2`` is linear
in ``1 / sigma_i^2``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.results import save_json
from training.files.arrays import evenly
from training.files.declared import DRAWN, LARGEST, WHOLE, Arrays, Format, Key, ResultFile
from training.paper.containment import Boundary, enclosed_volume, require_closed, write_mesh
from training.paper.coverage import STAGES, CoverageResult, Spheres

_FRACTION: dict[str, Any] = {"low": 0, "high": 1}
COVERAGE = ResultFile(
    kind="coverage",
    name="{stem}_coverage.npz",
    sizes="R radii, N test points, M fresh points, K vertices and D dimensions; a stage "
    "is latent, data or end",
    keys={
        "radii": Key("R", "Mahalanobis radii", low=0, increasing=True, high=LARGEST),
        "exact": Key("R", "probability of each sphere under the Gaussian", **_FRACTION),
        "fresh_data": Key("M D", "new samples of a toy, or held-out rows", **DRAWN),
        "coverage": Key("3 R", "fractions inside, of test points by stage", **_FRACTION),
        "coverage_fresh": Key("R", "fractions inside, of fresh data", **_FRACTION),
        "test_{stage}": Key("N D", "test points", **DRAWN),
        "boundary_{stage}": Key("R K D", "vertices of the boundaries", **DRAWN),
        "faces": Key("* D", "faces of all boundaries, indices of vertices", WHOLE),
        "faces_{stage}_{index}": Key("* D", "faces of a refitted boundary", WHOLE, optional=True),
        "coverage_fresh_exact": Key("R", "inside exact boundaries", optional=True),
        "paired_difference": Key("R", "difference of both fractions", optional=True),
        "paired_standard_error": Key("R", "its standard error", optional=True),
        "boundary_data_exact": Key("R K D", "vertices carried by the exact flow", optional=True),
    },
)
FORMATS = {"coverage": Format("coverage", "coverage.content_of")}
NUMBER = r"[0-9]+(\.[0-9]+)?(e[-+][0-9]+)?"
"""Regular expression for a positive number in the format ``g``."""
MOST_POINTS = 20_000
"""Maximum number of points per stage that are kept for drawing."""
ROUND = 1e-3
"""Largest relative error of squared radii with which a boundary counts as an ellipsoid."""


@dataclass(frozen=True)
class CoverageFiles:
    """Paths of the files of a coverage experiment.

    Attributes:
        folder: Folder of the files.
        stem: Name of the data and the schedule.
        spheres: Spheres in latent space, the initial boundaries of the experiment.
    """

    folder: Path
    stem: str
    spheres: Spheres

    @property
    def numbers(self) -> Path:
        """Path of the JSON with the options and the coverage."""
        return self.folder / f"{self.stem}_coverage.json"

    @property
    def points(self) -> Path:
        """Path of the ``.npz`` with points, boundaries and coverage."""
        return COVERAGE.path(self.folder, stem=self.stem)

    @property
    def meshes(self) -> dict[tuple[str, int], Path]:
        """Paths of the mesh files, by stage and index of the radius; empty in 2-D."""
        if self.spheres.dim == 2:
            return {}
        return {
            (name, index): self.folder / f"{self.stem}_r{radius}_{name}.ply"
            for name in STAGES
            for index, radius in enumerate(self.spheres.names)
        }

    @property
    def all(self) -> list[Path]:
        """Paths of all files of the experiment."""
        return [self.numbers, self.points, *self.meshes.values()]

    def save(self, result: CoverageResult, about: Mapping[str, Any]) -> None:
        """Write all files of the experiment.

        Args:
            result: Result of the experiment.
            about: Further entries of the JSON, such as the options.
        """
        COVERAGE.save(self.points, result_arrays(result))
        for (name, index), path in self.meshes.items():
            # Vertices of the sphere alone, or also of the smaller ones, in data coordinates.
            vertices, faces = result.boundaries[name][index]
            carried = result.carried[name].boundary[: index + 1].flatten(0, 1)
            points = carried[-len(vertices) :].cpu().numpy()
            # The axes of the eigenbasis may be a mirror image of those of the data.
            inward = enclosed_volume(points, faces) < 0
            write_mesh(path, points, faces[:, ::-1] if inward else faces)
        save_json(self.numbers, {"format": COVERAGE.format, **result.summary(), **about})

    def remove_others(self) -> None:
        """Remove mesh files of radii that only an earlier experiment with the same stem used."""
        known = {path.name for path in self.meshes.values()}
        named = re.compile(rf"{re.escape(self.stem)}_r{NUMBER}_({'|'.join(STAGES)})\.ply")
        for path in sorted(self.folder.iterdir()) if known else ():
            if named.fullmatch(path.name) and path.name not in known and path.is_file():
                path.unlink()


def result_arrays(result: CoverageResult) -> dict[str, Any]:
    """Return the arrays of the ``.npz`` of a coverage experiment, by name."""
    spheres = result.spheres
    arrays: dict[str, Any] = {
        "radii": spheres.radii,
        "exact": spheres.content(),
        "coverage": result.fractions.test,
        "coverage_fresh": result.fractions.fresh,
        "faces": spheres.unit.faces,
        "fresh_data": result.fresh.cpu().numpy(),
    }

    def add(stage: str, vertices: Tensor, boundaries: list[Boundary]) -> None:
        arrays[f"boundary_{stage}"] = vertices.cpu().numpy()
        for index, boundary in enumerate(boundaries):
            if boundary.faces is not spheres.unit.faces:
                arrays[f"faces_{stage}_{index}"] = boundary.faces

    for name, points in result.carried.items():
        arrays[f"test_{name}"] = points.test.cpu().numpy()
        add(name, points.boundary, result.boundaries[name])
    if result.paired and result.exact:
        arrays |= result.paired.arrays()
        add("data_exact", *result.exact)
    return arrays


@dataclass(frozen=True)
class SavedCoverage:
    """Saved coverage of R boundaries in D dimensions, for N test and M fresh points.

    Attributes:
        path: Path of the file.
        radii: Mahalanobis radii ``[R]`` of the spheres, increasing.
        coverage: Fractions of the test points inside the boundaries ``[3, R]``, at the stages
            ``latent``, ``data`` and ``end``.
        fresh: Fractions of fresh data inside the boundaries in data space ``[R]``.
        count: Number of test points, N.
        fresh_count: Number of fresh points, M, which equals N except for tables.
        latent_std: Standard deviations ``[D]`` of the latent coordinates.
        boundaries: R boundaries by stage; those at ``latent`` and ``end`` are in units of
            ``latent_std``.
        points: Points ``[min(N, 20000), D]`` by stage, in the units of the
            boundaries: fresh data at ``data``, test points at ``latent`` and ``end``.
        refitted: Whether boundaries were refitted at each stage, instead of moved by the flow.
    """

    path: Path
    radii: np.ndarray
    coverage: np.ndarray
    fresh: np.ndarray
    count: int
    fresh_count: int
    latent_std: np.ndarray
    boundaries: dict[str, list[Boundary]]
    points: dict[str, np.ndarray]
    refitted: bool

    @property
    def dim(self) -> int:
        """Number of dimensions, D."""
        return len(self.latent_std)

    @classmethod
    def load(cls, path: Path) -> "SavedCoverage":
        """Read and check the ``.npz`` of a coverage experiment.

        Raises:
            DataError: The file is missing or broken, an array is missing or has a wrong shape, or a
                value is out of range.
        """
        with COVERAGE.open(path) as arrays:
            radii, fresh_data = arrays.read("radii"), arrays.read("fresh_data")
            if arrays.sizes["D"] not in (2, 3):
                raise DataError(
                    f"{path} has points in {arrays.sizes['D']}-D, but boundaries can be "
                    "drawn in 2-D and 3-D only: leave this file out"
                )
            coverage, fresh = arrays.read("coverage"), arrays.read("coverage_fresh")
            points = {name: arrays.read(f"test_{name}") for name in ("latent", "end")}
            points["data"] = fresh_data
            vertices = {name: arrays.read(f"boundary_{name}") for name in STAGES}
            boundaries = {name: _boundaries(arrays, name, vertices[name]) for name in STAGES}
            refitted = any(
                f"faces_{name}_{index}" in arrays for name in STAGES for index in range(len(radii))
            )
        std = _latent_std(path, radii, vertices["latent"])
        units = {"latent": std, "data": np.ones_like(std), "end": std}
        count, fresh_count = arrays.sizes["N"], arrays.sizes["M"]
        shown = {name: evenly(len(points[name]), MOST_POINTS) for name in STAGES}
        points = {name: points[name][shown[name]] / units[name] for name in STAGES}
        boundaries = {
            name: [Boundary(corners / units[name], faces) for corners, faces in boundaries[name]]
            for name in STAGES
        }
        for name in STAGES:
            drawn = [points[name], *(boundary.vertices for boundary in boundaries[name])]
            if max(np.abs(values).max() for values in drawn) > LARGEST:
                raise DataError(
                    f"{path}: points at stage '{name}' are beyond {LARGEST:g}, too far to draw: "
                    "check the network, and make the file again"
                )
        return cls(
            path, radii, coverage, fresh, count, fresh_count, std, boundaries, points, refitted
        )


def _boundaries(arrays: Arrays, stage: str, vertices: np.ndarray) -> list[Boundary]:
    """Return the boundaries of a stage with vertices ``[R, K, D]``.

    A carried boundary has the faces shared by all. A refitted one has its own faces, between its
    vertices and those of smaller spheres.
    """
    boundaries = []
    for index, corners in enumerate(vertices):
        name = f"faces_{stage}_{index}"
        if name in arrays:
            corners = vertices[: index + 1].reshape(-1, vertices.shape[2])
        else:
            name = "faces"
        faces = arrays.read(name)
        try:
            require_closed(faces, corners)
        except DataError as error:
            raise DataError(
                f"{arrays.source.path}: vertices and faces of '{name}' do not match: {error}"
            ) from error
        boundaries.append(Boundary(corners, faces.astype(np.int64)))
    return boundaries


def _latent_std(path: Path, radii: np.ndarray, spheres: np.ndarray) -> np.ndarray:
    """Return the standard deviations ``[D]`` for which spheres have their radii.

    Args:
        path: Path of the file, for error messages.
        radii: Mahalanobis radii ``[R]``.
        spheres: Vertices of the spheres ``[R, K, D]``.
    """
    with np.errstate(all="ignore"):
        squares = np.square(spheres / radii[:, None, None]).reshape(-1, spheres.shape[2])
    largest = squares.max(axis=0)
    if largest.min() > 0 and np.isfinite(largest).all():
        scaled = squares / largest
        inverse = np.linalg.lstsq(scaled, np.ones(len(scaled)), rcond=None)[0]
        if inverse.min() > 0 and np.abs(scaled @ inverse - 1).max() < ROUND:
            return np.asarray(np.sqrt(largest / inverse))
    raise DataError(
        f"{path}: the vertices in 'boundary_latent' are not on ellipsoids with the radii in "
        "'radii': make the file again"
    )
