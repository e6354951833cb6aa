"""Simulations: the results of ``toy_pfODE_int.py`` and ``pfODE_int.py``.

Toys have ``{toy}_{schedule}_{mode}_{sim}_results.npz`` for each sim (melt, roundtrip, gen) and
``{toy}_{schedule}_{mode}_sim_params.json``; images and tables have ``{data}_{schedule}_{sim}.npz``
and ``{data}_{schedule}_HD_pfODE_int_sim_params.json``. The schedule is PRP, PRRto{d}D, EDM, VP or
VE. States of images are in float32, all other numbers in float64. States of rows are in the
coordinates of the flow. Densities, with ``--log_prob``, are those of dequantized images; they have
an error if they are estimated, or means over a quantization bin.

States are saved at the start, every ``--save_freq`` steps, and at the end. So
``tilde_xs == tilde_xs_es @ eigenvectors.T + mean``, and the closed form of a latent variance is
``scale[k]**2 * (eigenvalues + noise_variance[k])``. A roundtrip from a file rejects an inflation by
another network.

The JSON has, for each simulation, options, denoiser_calls, seconds, end_time, and end_variance per
eigen-dimension beside closed_form_variance; errors of a roundtrip; the versions and the command.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils import distributed
from torch_utils.array_stream import ArrayStream, stream_arrays
from torch_utils.inert_pickle import shown
from training.files.arrays import evenly, kind_of
from training.files.declared import (
    LARGEST,
    STORED,
    TEXT,
    WHOLE,
    Arrays,
    Format,
    Key,
    ResultFile,
    text,
)
from training.flow.pfode import ProbabilityFlow, State

PARAMETERS_FORMAT = "inflationary-flows simulations 1"
"""Format of the JSON beside the arrays."""
DIGITS = 12
"""Number of hexadecimal digits of a digest that error messages print."""
_STATES = {
    "tilde_xs": "unscaled states in image space: at time 0, data",
    "xs": "scaled states, scale * tilde_xs",
    "tilde_xs_es": "the same as tilde_xs in eigenspace, where the mean is subtracted",
    "xs_es": "the same as xs in eigenspace",
    "net_outs": "the denoiser at the saved state, unscaled, in eigenspace",
    "unscaled_scores": "(net_outs - tilde_xs_es) / noise_variance, in eigenspace",
    "dxs": "the last step's change of xs_es, rotated to image space; 0 at the start",
    "dxs_es": "the same in eigenspace",
}
STATE_KEYS = tuple(_STATES)
STATES, IMAGES, IMAGE_SHAPE = "xs_es", "tilde_xs", "image_shape"
"""Names of the arrays that are read: states in eigenspace, and states and shape of images."""
SAMPLE_KEYS = ("image_index", "row_index")
"""Names of arrays ``[N]`` that identify the samples of an inflation and of its roundtrip."""
LARGEST_NUMBER = 2**53
"""Largest index that floating point represents exactly."""
TRAJECTORY = ResultFile(
    kind="trajectory",
    name="`{toy}_{schedule}_{mode}_{sim}_results.npz` and `{data}_{schedule}_{sim}.npz`",
    sizes="S saved times, N samples, D dimensions, and L conditions of the network",
    keys={
        **{name: Key("S N D", meaning, STORED) for name, meaning in _STATES.items()},
        "times": Key("S", "saved times in order: increasing for an inflation"),
        "scale": Key("S", "scale of the schedule at the saved times"),
        "noise_variance": Key("S D", "noise variance of the schedule at the saved times"),
        "eigenvalues": Key("D", "variances of the data along the axes, in decreasing order"),
        "mean": Key("D", "mean of the data"),
        "eigenvectors": Key("D D", "axes of the eigenspace, in columns"),
        "network_sha256": text("digest of what determines the flow of a network", optional=True),
        IMAGE_SHAPE: Key("3", "of images: channels, height, width", WHOLE, optional=True, low=1),
        "labels": Key("N L", "of networks with classes: the classes, one-hot", optional=True),
        SAMPLE_KEYS[0]: Key("N", "of images that inflate: indices in the data set", STORED, True),
        SAMPLE_KEYS[1]: Key("N", "of rows that inflate: indices in the data set", STORED, True),
        "log_prob": Key("N", "log density at the first time, in nats", optional=True),
        "log_prob_error": Key("N", "standard error of log_prob", optional=True),
        "points": Key("N D", "rows, inflated or final, in their units", wild=True, optional=True),
        "names": Key("D", "of rows: names of the columns", TEXT, optional=True),
        "bits_per_dim": Key("N", "of images: negative log density", optional=True),
    },
    least={"S": 2},
)
DENSITIES = ("log_prob", "bits_per_dim")
MOST_SAMPLES, MOST_DIMS, MOST_IMAGES = 3000, 6, 100
"""Maximum numbers of samples, dimensions and images that are kept for drawing."""
MOST_CLASSES = 20
"""Maximum number of classes to draw."""
FORMATS = {
    "toy": Format("simulated points", "simulations.content_of", "run", of=TRAJECTORY.kind),
    "images": Format(
        *("simulated images", "images.content_of", "run"),
        of=TRAJECTORY.kind,
        needs=[IMAGE_SHAPE],
    ),
}


@dataclass
class Recorder:
    """A recorder that gathers a simulation's states from all ranks; the main rank writes them.

    Attributes:
        flow: Flow whose denoiser is evaluated at the states.
        count: Number of samples over all ranks, N.
        stream: Open file that receives the states; None on ranks other than the main one.
        small: Small arrays that are written at the end.
        dtype: Type of the states in the file.
        recorded: Number of recorded states.
    """

    flow: ProbabilityFlow
    count: int
    stream: ArrayStream | None
    small: dict[str, np.ndarray]
    dtype: str
    recorded: int = 0

    def __call__(self, state: State) -> None:
        """Record the next saved state of this rank's share.

        Raises:
            DataError: The file's number type cannot represent the state.
        """
        for name, share in describe_state(self.flow, state).items():
            whole = distributed.gather_rows(share, self.count)
            if (whole.isfinite() & (whole.abs() > np.finfo(self.dtype).max)).any():
                raise DataError(
                    f"states at t = {float(state.time):g} are too large for {self.dtype}: "
                    "use more steps, a smaller --eps or --end_vars, or check the network"
                )
            if self.stream:
                self.stream.put(name, self.recorded, whole.cpu().numpy())
        self.recorded += 1

    def add(self, arrays: Mapping[str, Tensor | np.ndarray]) -> None:
        """Add arrays that are known only at the end of the simulation, such as ``log_prob [N]``."""
        self.small |= TRAJECTORY.arrays(arrays)


@contextmanager
def trajectory_file(
    path: Path,
    flow: ProbabilityFlow,
    times: Tensor,
    count: int,
    dtype: str = "float64",
    network_sha256: str | None = None,
    names: Sequence[str] | None = None,
    **extra: Tensor,
) -> Iterator[Recorder]:
    """Open a results file, and yield a recorder that takes the states of this rank in order.

    The denoiser is evaluated once per state. Memory contains one state; the file appears when the
    block ends.

    Args:
        path: Path of the file, which the main rank writes.
        flow: Flow whose denoiser is evaluated at the states.
        times: Saved times ``[S]``.
        count: Number of samples over all ranks, N.
        dtype: Type of the saved states; they are computed in float64.
        network_sha256: Digest of the network, which a roundtrip compares with its own network.
        names: Names of the columns of a table.
        **extra: Further arrays of the file, such as ``labels``.
    """
    basis = flow.basis
    times = times.to(flow.device)
    arrays = TRAJECTORY.arrays(
        {
            "times": times,
            "scale": flow.schedule.scale(times),
            "noise_variance": flow.schedule.noise_variance(times),
            "mean": basis.mean,
            "eigenvectors": basis.eigenvectors,
            "eigenvalues": basis.eigenvalues,
            **extra,
            "format": TRAJECTORY.format,
            "network_sha256": network_sha256,
            "names": names,
        }
    )
    shapes = dict.fromkeys(STATE_KEYS, (len(times), count, basis.dim))
    whole = stream_arrays(path, shapes, np.dtype(dtype), arrays)
    with whole if distributed.is_main() else nullcontext() as stream:
        yield Recorder(flow, count, stream, arrays, dtype)


@torch.no_grad()
def describe_state(flow: ProbabilityFlow, state: State) -> dict[str, Tensor]:
    """Return the arrays ``[N, D]`` that a results file saves of one state, by name.

    These are the scaled and unscaled states in image space and in eigenspace, the denoiser, the
    score and the last update.
    """
    scale = flow.schedule.scale(state.time)
    tilde = state.x / scale
    denoised = flow.denoiser(tilde, state.time)
    tilde_image = flow.basis.from_eigen(tilde)
    return {
        "tilde_xs": tilde_image,
        "xs": scale * tilde_image,
        "tilde_xs_es": tilde,
        "xs_es": state.x,
        "net_outs": denoised,
        "unscaled_scores": (denoised - tilde) / flow.schedule.noise_variance(state.time),
        "dxs": flow.basis.rotate_back(state.update),
        "dxs_es": state.update,
    }


@dataclass(frozen=True)
class SavedEnd:
    """Final state of a saved inflation of N samples.

    Attributes:
        path: Path of the file.
        x: Scaled final state in eigenspace ``[N, D]``, float64.
        start: Scaled initial state in eigenspace ``[N, D]``.
        labels: Conditions of the network ``[N, L]``; None for an unconditional network.
        arrays: Further arrays about the samples, such as ``image_index [N]``.
    """

    path: Path
    x: Tensor
    start: Tensor
    labels: Tensor | None
    arrays: Mapping[str, Tensor]

    @classmethod
    def load(
        cls, path: Path, flow: ProbabilityFlow, times: Tensor, network_sha256: str | None = None
    ) -> "SavedEnd":
        """Read the final state of an inflation, and check that it was made by the same flow.

        Args:
            path: File of the inflation.
            flow: Flow that is to invert the inflation.
            times: Increasing times ``[steps + 1]`` of the inversion.
            network_sha256: Digest of the flow's network; None if it has none.

        Raises:
            DataError: The file is missing, broken or not an inflation, or was made with another
                network, schedule, or time.
        """
        with TRAJECTORY.open(path) as arrays:
            states, own = _read_states(arrays)
            labels = arrays.get("labels")
            about = {name: arrays.read(name) for name in SAMPLE_KEYS if name in arrays}
            network = str(arrays.read("network_sha256")) if "network_sha256" in arrays else ""
        if own["times"][-1] <= own["times"][0]:
            raise DataError(
                f"{path} is not an inflation, since its times decrease: give the results of a melt"
            )
        if states.shape[2] != flow.basis.dim:
            raise DataError(
                f"{path} has {states.shape[2]} dimensions, but the network has {flow.basis.dim}: "
                "give the network of this inflation"
            )
        ends = times[[0, -1]]
        _agree(path, "times", own["times"][[0, -1]], ends)
        _agree(path, "eigenvalues", own["eigenvalues"], flow.basis.eigenvalues)
        _agree(path, "scales", own["scale"][[0, -1]], flow.schedule.scale(ends))
        exact = flow.schedule.noise_variance(ends)
        _agree(path, "noise variances", own["noise_variance"][[0, -1]], exact)
        if network and network_sha256 and network != network_sha256:
            raise DataError(
                f"{path} was made with another network, or another calibration of the "
                f"network: the digest is {shown(network[:DIGITS])}, expected "
                f"{network_sha256[:DIGITS]}: give the network of this inflation"
            )
        return cls(
            path,
            torch.from_numpy(states[-1].astype(np.float64)),
            torch.from_numpy(states[0].astype(np.float64)),
            None if labels is None else torch.from_numpy(labels.astype(np.float32)),
            {name: torch.from_numpy(values) for name, values in about.items()},
        )


@dataclass(frozen=True)
class SavedTrajectory:
    """Parts of a saved simulation that are drawn, for S times, N samples and D dimensions.

    Attributes:
        path: Path of the file.
        dim: Number of dimensions, D.
        count: Number of samples, N.
        times: Times ``[S]``, increasing in an inflation, decreasing otherwise.
        states: Scaled states in eigenspace of the n chosen samples, ``[S, n, min(D, 6)]``.
        chosen: Indices of the chosen samples in the file, ``[n]``.
        last: Final states of all samples, ``[N, min(D, 6)]``.
        last_variance: Mean squares of the final states of all samples, ``[D]``.
        scale: Scale of the schedule ``[S]``.
        mean: Mean of the data, ``[D]``.
        eigenvalues: Eigenvalues of the data's covariance, ``[D]``.
        noise_variance: Noise variance of the schedule ``[S, D]``.
        eigenvectors: Eigenvectors in columns ``[D, D]``; None if D > 3, since then only eigenspace
            is drawn.
        images: Unscaled states of the first samples in image space, float32 ``[S, min(N, 100), C,
            H, W]``; None if the samples are not images.
        log_prob: Log densities of the data in nats ``[N]``; None if they were not requested.
        bits_per_dim: Negative log densities of images ``[N]``, in bits per dimension; None for
            other data.
        numbers: Indices of the samples ``[N]`` in their data set, or else in the file.
        classes: Classes of the samples ``[N]``; None if labels are not one-hot, or there are too
            many.
    """

    path: Path
    dim: int
    count: int
    times: np.ndarray
    states: np.ndarray
    chosen: np.ndarray
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
    numbers: np.ndarray
    classes: np.ndarray | None

    @classmethod
    def load(
        cls, path: Path, of_table: bool = False, choose: Callable[[int], np.ndarray] | None = None
    ) -> "SavedTrajectory":
        """Read and check the results file of a simulation.

        Args:
            path: The file.
            of_table: Whether samples are rows of a table, where D may be 1 and densities are not
                read.
            choose: Function from the number of samples N to the indices of the samples whose
                states are loaded; None for evenly spaced samples.

        Raises:
            DataError: The file is missing or broken, an array is missing or has a wrong shape, or a
                value is out of range.
        """
        with TRAJECTORY.open(path) as arrays:
            states, own = _read_states(arrays)
            count, dim = states.shape[1:]
            if count < 2 or (dim < 2 and not of_table):
                raise DataError(
                    f"{path}: '{STATES}' has shape {list(states.shape)}, expected [times, "
                    "samples, dimensions], each at least two: make the file again"
                )
            if np.abs(states).max() > LARGEST:
                raise TRAJECTORY.broken(path, STATES, f"has values beyond {LARGEST:g}")
            variances = own["eigenvalues"] + own["noise_variance"]
            if not ((own["scale"] > 0).all() and (variances > 0).all()):
                raise DataError(
                    f"{path}: scales and variances must be positive: make the file again"
                )
            own["mean"] = arrays.read("mean")
            axes = None if dim > 3 else arrays.read("eigenvectors")
            log_prob, bits = (None if of_table else arrays.get(name) for name in DENSITIES)
            images = _images(arrays) if IMAGE_SHAPE in arrays else None
            known = [arrays.read(name) for name in SAMPLE_KEYS if name in arrays]
            whole = (each for each in known if np.abs(each).max() < LARGEST_NUMBER)
            indices, classes = next(whole, np.arange(count)).astype(np.int64), _classes(arrays)
        last = states[-1].astype(float)
        chosen = evenly(count, MOST_SAMPLES) if choose is None else choose(count)
        return cls(
            path=path,
            dim=dim,
            count=count,
            # Copies, since views would keep the whole array in memory.
            states=states[:, chosen, :MOST_DIMS].astype(float),
            chosen=chosen,
            last=last[:, :MOST_DIMS].copy(),
            last_variance=np.square(last).mean(axis=0),
            eigenvectors=axes,
            images=images,
            log_prob=log_prob,
            bits_per_dim=bits,
            numbers=indices,
            classes=classes,
            **own,
        )

    @property
    def kind(self) -> str:
        """Kind of the simulation: ``melt`` (inflation), ``roundtrip`` or ``gen`` (generation)."""
        return kind_of(self.path, self.times)

    def latent_variance(self) -> np.ndarray:
        """Return the variances ``[D]`` of the latents (at the latest time) in closed form."""
        end = np.argmax(self.times)
        return np.asarray(self.scale[end] ** 2 * (self.eigenvalues + self.noise_variance[end]))

    def compressed(self) -> np.ndarray:
        """Return a mask ``[D]`` of the compressed dimensions.

        Their final noise variance is less than half of the largest one.
        """
        last = self.noise_variance[np.argmax(self.times)]
        return last < 0.5 * last.max()


def _read_states(arrays: Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the scaled states in eigenspace ``[S, N, D]``, and arrays that belong to them by name.

    Raises:
        DataError: An array is missing, broken, of another shape, or impossible.
    """
    states = arrays.read(STATES)
    own = {name: arrays.read(name) for name in ("times", "scale", "noise_variance", "eigenvalues")}
    steps = np.diff(own["times"])
    if not ((steps > 0).all() or (steps < 0).all()):
        raise TRAJECTORY.broken(arrays.source.path, "times", "are not monotonic")
    return states, own


def _classes(arrays: Arrays) -> np.ndarray | None:
    """Return the classes of the samples ``[N]``.

    They are None unless labels are one-hot and not too many.
    """
    labels = arrays.get("labels")
    if labels is None or not 2 <= labels.shape[1] <= MOST_CLASSES:
        return None
    one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
    return labels.argmax(axis=1) if one_hot else None


def _images(arrays: Arrays) -> np.ndarray:
    """Return the unscaled states of the first samples as images ``[S, n, C, H, W]``."""
    shape = arrays.read(IMAGE_SHAPE)
    if shape[0] not in (1, 3) or prod(shape.tolist()) != arrays.sizes["D"]:
        raise DataError(
            f"{arrays.source.path}: '{IMAGE_SHAPE}' is {shape.tolist()}, expected [C, H, W] with C "
            f"= 1 or 3 and C * H * W = {arrays.sizes['D']}: make the file again"
        )
    states = arrays.read(IMAGES)
    return states[:, :MOST_IMAGES].astype(np.float32).reshape(len(states), -1, *shape)


def _agree(path: Path, name: str, saved: np.ndarray, own: Tensor) -> None:
    known = own.cpu().numpy()
    if saved.shape == known.shape and np.allclose(saved, known, rtol=1e-5, atol=0):
        return
    raise DataError(
        f"{path} was made with another network, schedule or time: its {name} are "
        f"{_brief(saved)}, expected {_brief(known)}: give the options of this inflation"
    )


def _brief(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.5g}" for value in values.ravel()[:4])
    return shown + (", ..." if values.size > 4 else "")
