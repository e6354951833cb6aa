"""Reads the results file of a simulation into the arrays that are drawn.

Of the states only the scaled eigenspace ones ``xs_es`` are kept, and of these only some samples and
the first dimensions, so that many files fit in memory. Points of image space follow from them:
``x = s·mean + W x_es``, with ``s`` the scale and ``W`` the basis. Of images, the unscaled states
``tilde_xs`` of some samples are kept too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError
from torch_utils.results import SavedArrays, open_arrays
from training.files.arrays import LARGEST, CheckedArrays, evenly
from training.files.names import parameter, stem_of, title_of
from training.pictures.style.words import brief

STATES, IMAGES, IMAGE_SHAPE = "xs_es", "tilde_xs", "image_shape"
SHAPES = {
    "times": "S",
    "scale": "S",
    "mean": "D",
    "eigenvalues": "D",
    "noise_variance": "SD",
}
DENSITIES = ("log_prob", "bits_per_dim")
MOST_SAMPLES, MOST_DIMS, MOST_IMAGES = 3000, 6, 100
# Below this fraction of the top eigenvalue a dimension of an embedded toy holds no data.
EMPTY = 1e-3
CLOSED_FORM = "latents: closed form"


def spaced(count: int) -> np.ndarray:
    """Which of so many samples are drawn in pictures: evenly spaced ones."""
    return evenly(count, MOST_SAMPLES)


def kind_of(path: Path, times: np.ndarray) -> str:
    """``melt``, ``roundtrip`` or ``gen``. Of those that run backwards, the name says which.

    Args:
        path: A results file.
        times: Its saved times, two at least.
    """
    if times[-1] > times[0]:
        return "melt"
    return "roundtrip" if path.stem.endswith(("_roundtrip", "_roundtrip_results")) else "gen"


@dataclass(frozen=True)
class SavedTrajectory:
    """A saved simulation of S times, N samples and D dimensions: what is drawn of it.

    Attributes:
        path: Its file.
        dim: D.
        count: N.
        times: ``[S]``, increasing in a melt, decreasing otherwise.
        states: Scaled, in eigenspace, of the n samples that are chosen, ``[S, n, min(D, 6)]``.
        last: The last states of all samples, ``[N, min(D, 6)]``.
        last_variance: Mean squares of the last states of all samples, ``[D]``.
        scale: ``[S]``.
        mean: Of the data, ``[D]``.
        eigenvalues: Of the data's covariance, ``[D]``.
        noise_variance: ``[S, D]``.
        eigenvectors: Columns ``[D, D]``; None where D > 3, since there only eigenspace is drawn.
        images: Unscaled states of the first samples in image space, float32
            ``[S, min(N, 100), C, H, W]``; None where the samples are no images.
        log_prob: Log density of the data in nats ``[N]``; None where it was not asked for.
        bits_per_dim: The same of images, in bits per dimension ``[N]``; None of others.
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
    log_prob: np.ndarray | None
    bits_per_dim: np.ndarray | None

    @classmethod
    def load(
        cls,
        path: Path,
        of_table: bool = False,
        choose: Callable[[int], np.ndarray] = spaced,
    ) -> "SavedTrajectory":
        """Reads and checks a results file.

        Args:
            path: The file.
            of_table: Whether samples are rows of a table, of which D may be 1. Their densities are
                left to others.
            choose: Gives the indices of the samples whose states are kept, of so many.

        Raises:
            DataError: Missing or broken file, missing array, wrong shape, or impossible value.
        """
        with open_arrays(path) as saved:
            states = saved.numbers(STATES)
            fewest = 1 if of_table else 2
            if states.ndim != 3 or min(states.shape) < fewest or min(states.shape[:2]) < 2:
                raise DataError(
                    f"{path}: '{STATES}' is {list(states.shape)}, but should be "
                    "[times, samples, dimensions], each two or more"
                )
            if np.abs(states).max() > LARGEST:
                raise DataError(f"{path}: '{STATES}' has values beyond {LARGEST:g}: make it again")
            sizes = dict(zip("SND", states.shape, strict=True))
            arrays = CheckedArrays(saved, path, **sizes)
            shapes = SHAPES if sizes["D"] > 3 else {**SHAPES, "eigenvectors": "DD"}
            known = () if of_table else saved.names
            found = {name: arrays.read(name, axes, largest=inf) for name, axes in shapes.items()}
            log_prob, bits = (
                arrays.read(name, "N", largest=inf) if name in known else None for name in DENSITIES
            )
            images = _images(saved, states.shape, path) if IMAGE_SHAPE in saved.names else None
        _check(found, path)
        last = states[-1].astype(float)
        return cls(
            path=path,
            dim=sizes["D"],
            count=sizes["N"],
            # Not views, which would keep the whole array.
            states=states[:, choose(sizes["N"]), :MOST_DIMS].astype(float),
            last=last[:, :MOST_DIMS].copy(),
            last_variance=np.square(last).mean(axis=0),
            eigenvectors=found.pop("eigenvectors", None),
            images=images,
            log_prob=log_prob,
            bits_per_dim=bits,
            **found,
        )

    @property
    def kind(self) -> str:
        """``melt``, ``roundtrip`` or ``gen``."""
        return kind_of(self.path, self.times)

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
        """The scaled points to draw, ``[S, n, shown_dims]``.

        In image space where that can be drawn whole, else the first eigen-dimensions.
        """
        if self.eigenvectors is not None:
            return self.states @ self.eigenvectors.T + self.scale[:, None, None] * self.mean
        return self.states[..., : self.shown_dims]

    def latent_variance(self) -> np.ndarray:
        """The closed form of the variances at the latest time, ``[D]``."""
        end = np.argmax(self.times)
        return np.asarray(self.scale[end] ** 2 * (self.eigenvalues + self.noise_variance[end]))

    def compressed(self) -> np.ndarray:
        """Which dimensions the noise inflates less than others, bool ``[D]``."""
        last = self.noise_variance[np.argmax(self.times)]
        return last < 0.5 * last.max()


def name_and_details(trajectory: SavedTrajectory) -> tuple[str, str]:
    """The data's name; schedule and denoiser."""
    return title_of(stem_of(trajectory.path))


def latent_law(trajectory: SavedTrajectory) -> str:
    """What a generation drew its latents from, in words; none for others, or if it is unknown.

    Raises:
        DataError: The parameters beside the file are broken.
    """
    if trajectory.kind != "gen":
        return ""
    stem = stem_of(trajectory.path)
    path = trajectory.path.with_name(f"{stem}_sim_params.json")
    options = parameter(path, "options")
    if options is None:  # of images, which may have been simulated one by one
        path = trajectory.path.with_name(f"{stem}_HD_pfODE_int_sim_params.json")
        options = parameter(path, "gen", "options")
    options = options if isinstance(options, dict) else {}
    chosen = options.get("eps")
    if chosen is None:
        return ""
    eps, compressed = str(chosen), trajectory.compressed()
    paper, number = eps.startswith("paper"), eps.rpartition(":")[2]
    if "empirical" in (eps, options.get("gen_source")):
        return "latents: variances of the melt"
    if eps == "learned":
        return "latents: learned law"
    if eps == "auto" or not (compressed.any() or paper):
        return CLOSED_FORM
    if not compressed.any():
        return "latents: variance A0²"
    law = ("A0² and " if paper else "") + f"ε = {number:.12}"
    return f"latents: {law}, closed form {brief(trajectory.latent_variance()[compressed].mean())}"


def _images(saved: SavedArrays, whole: tuple[int, ...], path: Path) -> np.ndarray:
    shape = saved.numbers(IMAGE_SHAPE)
    fits = shape.shape == (3,) and shape.dtype.kind in "iu" and shape.min() > 0
    if not fits or shape[0] not in (1, 3) or prod(shape.tolist()) != whole[2]:
        raise DataError(
            f"{path}: '{IMAGE_SHAPE}' is {shape.tolist()}, but should be [C, H, W] with C 1 or 3, "
            f"and {whole[2]} numbers in all"
        )
    states = saved.numbers(IMAGES)
    if states.shape != whole:
        raise DataError(
            f"{path}: '{IMAGES}' is {list(states.shape)}, but '{STATES}' {list(whole)}: they "
            "should be alike"
        )
    return states[:, :MOST_IMAGES].astype(np.float32).reshape(whole[0], -1, *shape)


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    steps = np.diff(arrays["times"])
    if not ((steps > 0).all() or (steps < 0).all()):
        raise DataError(f"{path}: 'times' neither increase nor decrease throughout")
    variances = arrays["eigenvalues"] + arrays["noise_variance"]
    if not ((arrays["scale"] > 0).all() and (variances > 0).all()):
        raise DataError(f"{path}: scales and variances should be positive")
