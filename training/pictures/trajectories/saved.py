"""Reads the results file of a simulation into the arrays that are drawn.

Of a file only the scaled eigenspace state ``xs_es`` and the small arrays are read, and of the state
only some samples and the first dimensions are kept, so that many files fit in memory. Points of
image space follow from them: ``x = s·mean + W x_es``, with ``s`` the scale and ``W`` the basis. Of
images, the unscaled states ``tilde_xs`` of some samples are read too.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import SavedArrays, open_arrays
from training.pictures.checked_arrays import LARGEST
from training.pictures.images.saved import checked_shape

STATES, IMAGES, IMAGE_SHAPE = "xs_es", "tilde_xs", "image_shape"
SHAPES = {
    "times": "S",
    "scale": "S",
    "mean": "D",
    "eigenvalues": "D",
    "noise_variance": "SD",
}
MOST_SAMPLES, MOST_DIMS, MOST_IMAGES = 3000, 6, 100
# Below this fraction of the top eigenvalue a dimension of an embedded toy holds no data.
EMPTY = 1e-3
TITLES = {
    "melt": "Melting {} into a Gaussian",
    "roundtrip": "Melted {} flowing back",
    "gen": "Generating {} from a Gaussian",
}
KINDS = tuple(TITLES)
STEM = re.compile(
    r"(?P<data>.+)_(?P<schedule>PRP|PRRto\d+D|EDM|VP|VE)(_(?P<denoiser>net|discrete|exact))?"
)


@dataclass(frozen=True)
class SavedTrajectory:
    """A saved simulation of S times, N samples and D dimensions: what is drawn of it.

    Attributes:
        path: Its file.
        dim: D.
        count: N.
        times: ``[S]``, increasing in a melt, decreasing otherwise.
        states: Scaled, in eigenspace, of evenly spaced samples, ``[S, min(N, 3000), min(D, 6)]``.
        last: The last states of all samples, ``[N, min(D, 6)]``.
        last_variance: Mean squares of the last states of all samples, ``[D]``.
        scale: ``[S]``.
        mean: Of the data, ``[D]``.
        eigenvalues: Of the data's covariance, ``[D]``.
        noise_variance: ``[S, D]``.
        eigenvectors: Columns ``[D, D]``; None where D > 3, since there only eigenspace is drawn.
        images: Unscaled states of the first samples in image space, float32
            ``[S, min(N, 100), C, H, W]``; None where the samples are no images.
    """

    path: Path
    dim: int
    count: int
    times: np.ndarray
    states: np.ndarray
    last: np.ndarray
    last_variance: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    eigenvalues: np.ndarray
    noise_variance: np.ndarray
    eigenvectors: np.ndarray | None
    images: np.ndarray | None

    @classmethod
    def load(cls, path: Path) -> "SavedTrajectory":
        """Reads and checks a results file.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            states = saved.numbers(STATES)
            if states.ndim != 3 or min(states.shape) < 2:
                raise DataError(
                    f"{path}: '{STATES}' is {list(states.shape)}, but should be "
                    "[times, samples, dimensions], each two or more"
                )
            if np.abs(states).max() > LARGEST:
                raise DataError(f"{path}: '{STATES}' has values beyond {LARGEST:g}: make it again")
            whole, count, dim = states.shape, states.shape[1], states.shape[2]
            samples = np.linspace(0, count - 1, min(count, MOST_SAMPLES)).round().astype(int)
            last = states[-1].astype(float)
            # Not views, which would keep the whole array.
            states = states[:, samples, :MOST_DIMS].astype(float)
            shapes = SHAPES if dim > 3 else {**SHAPES, "eigenvectors": "DD"}
            arrays = {name: saved.numbers(name).astype(float, copy=False) for name in shapes}
            _check(arrays, shapes, whole, path)
            images = _images(saved, whole, path) if IMAGE_SHAPE in saved.names else None
        return cls(
            path=path,
            dim=dim,
            count=count,
            states=states,
            last=last[:, :MOST_DIMS].copy(),
            last_variance=np.square(last).mean(axis=0),
            eigenvectors=arrays.pop("eigenvectors", None),
            images=images,
            **arrays,
        )

    @property
    def kind(self) -> str:
        """``melt``, ``roundtrip`` or ``gen``. What runs backwards is told apart by its name."""
        if self.times[-1] > self.times[0]:
            return "melt"
        return (
            "roundtrip" if self.path.stem.endswith(("_roundtrip", "_roundtrip_results")) else "gen"
        )

    @property
    def has_images(self) -> bool:
        return self.images is not None

    @property
    def shown_dims(self) -> int:
        """2 or 3: a third dimension is drawn where the data has three and no more."""
        full = int((self.eigenvalues > EMPTY * self.eigenvalues.max()).sum())
        return 3 if self.dim == 3 or (self.dim > 3 and full == 3) else 2

    @property
    def axis_names(self) -> list[str]:
        """One for each shown dimension."""
        letter = "x" if self.eigenvectors is not None else "e"
        return [f"${letter}_{number}$" for number in range(1, self.shown_dims + 1)]

    def points(self) -> np.ndarray:
        """The scaled points to draw, ``[S, min(N, 3000), shown_dims]``.

        In image space where that can be drawn whole, else the first eigen-dimensions.
        """
        if self.eigenvectors is not None:
            return self.states @ self.eigenvectors.T + self.scale[:, None, None] * self.mean
        return self.states[..., : self.shown_dims]

    def closed_form_variance(self) -> np.ndarray:
        """What the law of the flow says of the last state's variance, ``[D]``."""
        return self.scale[-1] ** 2 * (self.eigenvalues + self.noise_variance[-1])

    def compressed(self) -> np.ndarray:
        """Which dimensions the noise inflates less than others, bool ``[D]``."""
        last = self.noise_variance[np.argmax(self.times)]
        return last < 0.5 * last.max()


def holds_trajectory(names: list[str]) -> bool:
    """Whether an ``.npz`` with arrays of these names holds the states of a simulation."""
    return {STATES, "times"} <= set(names)


def title_of(path: Path) -> tuple[str, str]:
    """The data's name, and what else a results file's name tells: schedule and denoiser."""
    stem = stem_of(path)
    match = STEM.fullmatch(stem)
    if match is None:
        return stem.replace("_", " "), ""
    details = f"{match['schedule']} schedule"
    if match["denoiser"]:
        details += {
            "net": ", trained network",
            "exact": ", exact denoiser",
            "discrete": ", discrete denoiser",
        }[match["denoiser"]]
    return match["data"].replace("_", " "), details


def stem_of(path: Path) -> str:
    """What a melt, a roundtrip and a generation of one run have in common in their names."""
    stem = path.stem.removesuffix("_results")
    for kind in KINDS:
        stem = stem.removesuffix(f"_{kind}")
    return stem


def _images(saved: SavedArrays, whole: tuple[int, ...], path: Path) -> np.ndarray:
    shape = checked_shape(saved.numbers(IMAGE_SHAPE), whole[2], path)
    states = saved.numbers(IMAGES)
    if states.shape != whole:
        raise DataError(
            f"{path}: '{IMAGES}' is {list(states.shape)}, but '{STATES}' {list(whole)}: they "
            "should be alike"
        )
    return states[:, :MOST_IMAGES].astype(np.float32).reshape(whole[0], -1, *shape)


def _check(
    arrays: dict[str, np.ndarray], shapes: dict[str, str], whole: tuple[int, ...], path: Path
) -> None:
    sizes = {"S": whole[0], "D": whole[2]}
    for name, letters in shapes.items():
        right = [sizes[letter] for letter in letters]
        if list(arrays[name].shape) != right:
            raise DataError(
                f"{path}: '{name}' is {list(arrays[name].shape)}, but '{STATES}' {list(whole)} "
                f"asks for {right}"
            )
    steps = np.diff(arrays["times"])
    if not ((steps > 0).all() or (steps < 0).all()):
        raise DataError(f"{path}: 'times' neither increase nor decrease throughout")
    variances = arrays["eigenvalues"] + arrays["noise_variance"]
    if not ((arrays["scale"] > 0).all() and (variances > 0).all()):
        raise DataError(f"{path}: scales and variances should be positive")
