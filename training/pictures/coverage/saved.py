"""Reads the results file of ``toy_mesh_exps.py`` into what is drawn of it.

Latent points are read in units of the latent's standard deviations, in which spheres of a
Mahalanobis radius are round however thin the latent is. They are not in the file, but follow from
the spheres at the start, since ``sum_i (x_i / sigma_i)^2 = r^2`` is linear in ``1 / sigma_i^2``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import SavedArrays, open_arrays
from training.files.arrays import LARGEST, CheckedArrays, evenly
from training.measure.boundaries import Boundary
from training.measure.containment import require_closed
from training.measure.coverage import STAGES

MOST_POINTS = 20_000
ROUND = 1e-3  # relative error of squared radii


@dataclass(frozen=True)
class SavedCoverage:
    """Coverage by R boundaries in D dimensions, measured on N test and M fresh points with S seeds.

    Attributes:
        path: Its file.
        radii: Mahalanobis radii of the spheres ``[R]``, increasing.
        coverage: Fractions of the test points inside, by stage ``[S, 3, R]``.
        fresh: Fractions of fresh data inside the boundaries in data space ``[S, R]``.
        count: N.
        fresh_count: M, which is N but for tables.
        latent_std: Standard deviations of the latent ``[D]``.
        boundaries: R of them by stage; those at ``latent`` and ``end`` in units of ``latent_std``.
        points: Of the first seed, by stage and in the same units ``[min(N, 20000), D]``: test
            points, in data space fresh data.
        refitted: Whether boundaries were refitted at each stage, not carried.
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
        return len(self.latent_std)

    @classmethod
    def load(cls, path: Path) -> "SavedCoverage":
        """Reads and checks such a file.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            arrays = CheckedArrays(saved, path, G=len(STAGES))
            radii, fresh_data = arrays.read("radii", "R"), arrays.read("fresh_data", "SMD")
            if arrays.sizes["D"] not in (2, 3):
                raise DataError(
                    f"{path} has points in {arrays.sizes['D']}-D, but boundaries are drawn in 2-D "
                    "and 3-D"
                )
            coverage, fresh = arrays.read("coverage", "SGR"), arrays.read("coverage_fresh", "SR")
            points = {
                "latent": arrays.read("test_latent", "SND"),
                "data": fresh_data,
                "end": arrays.read("test_end", "SND"),
            }
            vertices = {name: arrays.read(f"boundary_{name}", "RKD") for name in STAGES}
            boundaries = {name: _boundaries(saved, path, name, vertices[name]) for name in STAGES}
            refitted = any(name.startswith("faces_") for name in saved.names)
        _check(path, radii, {"coverage": coverage, "coverage_fresh": fresh})
        std = _latent_std(path, radii, vertices["latent"])
        units = {"latent": std, "data": np.ones_like(std), "end": std}
        count, fresh_count = arrays.sizes["N"], arrays.sizes["M"]
        shown = {name: evenly(len(points[name][0]), MOST_POINTS) for name in STAGES}
        points = {name: points[name][0, shown[name]] / units[name] for name in STAGES}
        boundaries = {
            name: [Boundary(corners / units[name], faces) for corners, faces in boundaries[name]]
            for name in STAGES
        }
        for name in STAGES:
            drawn = [points[name], *(boundary.vertices for boundary in boundaries[name])]
            if max(np.abs(values).max() for values in drawn) > LARGEST:
                raise DataError(f"{path}: points at stage '{name}' are too far away to be drawn")
        return cls(
            path, radii, coverage, fresh, count, fresh_count, std, boundaries, points, refitted
        )


def _boundaries(saved: SavedArrays, path: Path, stage: str, vertices: np.ndarray) -> list[Boundary]:
    """The boundaries of a stage with vertices ``[R, K, D]``.

    A carried one has the faces of all; a refitted one has its own, between all vertices up to its.
    """
    found = []
    for index, corners in enumerate(vertices):
        name = f"faces_{stage}_{index}"
        if name in saved.names:
            corners = vertices[: index + 1].reshape(-1, vertices.shape[2])
        else:
            name = "faces"
        faces = saved.numbers(name)
        try:
            require_closed(faces, corners)
        except DataError as error:
            raise DataError(f"{path}: '{name}' do not fit: {error}") from error
        found.append(Boundary(corners, faces.astype(np.int64)))
    return found


def _check(path: Path, radii: np.ndarray, fractions: dict[str, np.ndarray]) -> None:
    if not (radii[0] > 0 and (np.diff(radii) > 0).all()):
        raise DataError(f"{path}: 'radii' should be positive and increase")
    for name, values in fractions.items():
        if values.min() < 0 or values.max() > 1:
            raise DataError(f"{path}: '{name}' should hold fractions, which are from 0 to 1")


def _latent_std(path: Path, radii: np.ndarray, spheres: np.ndarray) -> np.ndarray:
    """Standard deviations ``[D]`` by which spheres ``[R, K, D]`` have their radii ``[R]``."""
    with np.errstate(over="ignore"):
        squares = np.square(spheres / radii[:, None, None]).reshape(-1, spheres.shape[2])
    largest = squares.max(axis=0)
    if largest.min() > 0 and np.isfinite(largest).all():
        scaled = squares / largest
        inverse = np.linalg.lstsq(scaled, np.ones(len(scaled)), rcond=None)[0]
        if inverse.min() > 0 and np.abs(scaled @ inverse - 1).max() < ROUND:
            return np.asarray(np.sqrt(largest / inverse))
    raise DataError(f"{path}: 'boundary_latent' are not ellipsoids of the radii along the axes")
