"""The results file of a simulation: written state by state while it runs, and read again.

``S`` saved times, ``N`` samples, ``D`` dimensions; ``docs/files.md`` tells of every key.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.array_stream import ArrayStream, stream_arrays
from torch_utils.inert_pickle import shown
from torch_utils.results import SavedArrays, open_arrays
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.flow.trajectory import State

FORMAT = "inflationary-flows trajectory 1"
PARAMETERS_FORMAT = "inflationary-flows simulations 1"
"""Of the JSON beside them."""
DIGITS = 12
"""Digits of a digest that a message shows."""
STATE_KEYS = (
    "tilde_xs",
    "xs",
    "tilde_xs_es",
    "xs_es",
    "net_outs",
    "unscaled_scores",
    "dxs",
    "dxs_es",
)
SAMPLE_KEYS = ("image_index", "row_index")
"""``[N]``: what a melt says of its samples, and a roundtrip from it too."""


class Recorder:
    """Takes what a simulation finds, and writes it on the main rank.

    Args:
        flow: Knows what the denoiser says of a state.
        count: N, over all ranks.
        stream: Where states go; None on the other ranks.
        small: The arrays that are written at the end.
        dtype: Of the states in the file.
    """

    def __init__(
        self,
        flow: ProbabilityFlow,
        count: int,
        stream: ArrayStream | None,
        small: dict[str, np.ndarray],
        dtype: str,
    ):
        self._flow, self._count, self._stream, self._small = flow, count, stream, small
        self._dtype, self._largest = dtype, np.finfo(dtype).max
        self._recorded = 0

    def __call__(self, state: State) -> None:
        """The next saved state of this rank's share.

        Raises:
            DataError: The file's numbers cannot hold it.
        """
        for name, share in describe_state(self._flow, state).items():
            whole = distributed.gather_rows(share, self._count)
            if (whole.isfinite() & (whole.abs() > self._largest)).any():
                raise DataError(
                    f"states at t = {float(state.time):g} are too large for {self._dtype}: use "
                    "more steps, a smaller --eps or --end_vars, or check the weights"
                )
            if self._stream:
                self._stream.put(name, self._recorded, whole.cpu().numpy())
        self._recorded += 1

    def add(self, arrays: Mapping[str, Tensor | np.ndarray]) -> None:
        """Arrays of all ranks that are known at the end only, such as ``log_prob [N]``."""
        for name, array in arrays.items():
            self._small[name] = array.cpu().numpy() if isinstance(array, Tensor) else array


def way_back(gap: Tensor, times: Tensor, solver: Solver) -> dict[str, Tensor | np.ndarray]:
    """What an exact way back needs beside the last state: the gap ``[N, D]``, and by which solver
    and along which times ``[steps + 1]`` it came about."""
    return {"gap": gap, "gap_times": times, "gap_solver": np.array(solver.name)}


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
    """A results file. Yields what takes the saved states of this rank's share, in their order.

    Calls the denoiser once a state. Memory holds one state, the file appears when the block ends.

    Args:
        path: The file; the main rank writes it.
        flow: Knows what the denoiser says of a state.
        times: Saved times ``[S]``.
        count: N, over all ranks.
        dtype: Of what is saved of the states; they are computed in float64.
        network_sha256: Digest of the network, by which a roundtrip knows its melt.
        names: Names of the columns of a table.
        extra: Further arrays, such as ``labels``.
    """
    basis = flow.basis
    times = times.to(flow.device)
    small = {
        "times": times,
        "scale": flow.schedule.scale(times),
        "noise_variance": flow.schedule.noise_variance(times),
        "mean": basis.mean,
        "eigenvectors": basis.eigenvectors,
        "eigenvalues": basis.eigenvalues,
        **extra,
    }
    arrays = {name: tensor.cpu().numpy() for name, tensor in small.items()}
    arrays["format"] = np.array(FORMAT)
    if network_sha256 is not None:
        arrays["network_sha256"] = np.array(network_sha256)
    if names is not None:
        arrays["names"] = np.array(names)
    shapes = dict.fromkeys(STATE_KEYS, (len(times), count, basis.dim))
    if distributed.is_main():
        with stream_arrays(path, shapes, np.dtype(dtype), arrays) as stream:
            yield Recorder(flow, count, stream, arrays, dtype)
    else:
        yield Recorder(flow, count, None, arrays, dtype)


@torch.no_grad()
def describe_state(flow: ProbabilityFlow, state: State) -> dict[str, Tensor]:
    """A state in both spaces, and what the denoiser says of it: ``[N, D]`` by key."""
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
    """Where a saved melt ended.

    Attributes:
        path: Its file.
        x: Scaled eigenspace ``[N, D]``, float64.
        start: What the melt started from, scaled eigenspace ``[N, D]``.
        labels: ``[N, L]``, or None.
        arrays: What else the file says of the samples, such as ``image_index [N]``.
        gap: Beside x ``[N, D]``, float64, if these are the times of a melt that can be undone
            exactly; None if not.
        gap_solver: The name of the solver that can; None without a gap.
    """

    path: Path
    x: Tensor
    start: Tensor
    labels: Tensor | None
    arrays: Mapping[str, Tensor]
    gap: Tensor | None = None
    gap_solver: str | None = None

    def gap_for(self, solver: Solver) -> Tensor | None:
        """The gap ``[N, D]`` to go back with; None if the solver or its times are others.

        Logs a warning if a reversible solver has to go back without one: that is not exact.
        """
        found = self.gap if self.gap_solver == solver.name else None
        if found is None and solver.pairs is not None:
            logger.warning(
                f"Warning: the melt is by another solver than {solver.name}, or by other times: "
                "the way back is one more integration, and no exact inverse"
            )
        return found

    @classmethod
    def load(
        cls, path: Path, flow: ProbabilityFlow, times: Tensor, network_sha256: str | None = None
    ) -> "SavedEnd":
        """Reads a melt along these times in this flow.

        Args:
            path: The melt's file.
            flow: The flow to go on in.
            times: Increasing ``[steps + 1]``.
            network_sha256: Digest of the flow's network. Files of earlier versions have none.

        Raises:
            DataError: The file is missing, broken or no melt, or was made with another network,
                schedule, or time; the message states both values.
        """
        with open_arrays(path) as saved:
            own = {name: saved.numbers(name) for name in ("times", "scale", "eigenvalues")}
            states = saved.numbers("xs_es")
            own["noise_variance"] = saved.numbers("noise_variance")
            labels = saved.numbers("labels") if "labels" in saved.names else None
            about = {name: saved.numbers(name) for name in SAMPLE_KEYS if name in saved.names}
            gap, gap_solver = _saved_gap(saved, times)
            network = str(saved.read("network_sha256")) if "network_sha256" in saved.names else None
        saved_times = own["times"]
        if states.ndim != 3 or saved_times.shape != states.shape[:1] or len(saved_times) < 2:
            raise DataError(f"{path}: 'xs_es' is {list(states.shape)}, not [times, samples, dims]")
        own_lengths = (
            len(own[name]) if own[name].ndim else 0 for name in ("scale", "noise_variance")
        )
        if any(length != len(saved_times) for length in own_lengths):
            raise DataError(f"{path}: 'scale' or 'noise_variance' has not one row a saved time")
        if states.shape[1] < 1 or saved_times[-1] <= saved_times[0]:
            raise DataError(f"{path} is no melt: its times do not increase")
        if states.shape[2] != flow.basis.dim:
            raise DataError(
                f"{path} has {states.shape[2]} dimensions, but the network {flow.basis.dim}"
            )
        ends = times[[0, -1]]
        _agree(path, "times", saved_times[[0, -1]], ends)
        _agree(path, "eigenvalues", own["eigenvalues"], flow.basis.eigenvalues)
        _agree(path, "scales", own["scale"][[0, -1]], flow.schedule.scale(ends))
        exact = flow.schedule.noise_variance(ends)
        _agree(path, "noise variances", own["noise_variance"][[0, -1]], exact)
        if network and network_sha256 and network != network_sha256:
            raise DataError(
                f"{path} was made with another network, or with another calibration of it: its "
                f"digest is {shown(network[:DIGITS])}, but here it is {network_sha256[:DIGITS]}"
            )
        _require_one_a_sample(path, states, labels, gap, about)
        return cls(
            path,
            torch.from_numpy(states[-1].astype(np.float64)),
            torch.from_numpy(states[0].astype(np.float64)),
            None if labels is None else torch.from_numpy(labels.astype(np.float32)),
            {name: torch.from_numpy(values) for name, values in about.items()},
            None if gap is None else torch.from_numpy(gap.astype(np.float64)),
            gap_solver,
        )


def _require_one_a_sample(
    path: Path,
    states: np.ndarray,
    labels: np.ndarray | None,
    gap: np.ndarray | None,
    about: Mapping[str, np.ndarray],
) -> None:
    """Raises DataError unless what goes with states ``[S, N, D]`` has a row for each of N."""
    if labels is not None and (labels.ndim != 2 or len(labels) != states.shape[1]):
        raise DataError(f"{path}: 'labels' is {list(labels.shape)}, not one row a sample")
    if gap is not None and gap.shape != states.shape[1:]:
        raise DataError(f"{path}: 'gap' is {list(gap.shape)}, not {list(states.shape[1:])}")
    for name, values in about.items():
        if values.shape != states.shape[1:2]:
            raise DataError(f"{path}: '{name}' is {list(values.shape)}, not one a sample")


def _saved_gap(saved: SavedArrays, times: Tensor) -> tuple[np.ndarray | None, str | None]:
    """The gap, and the solver that made it, if it did along these times."""
    if not {"gap", "gap_times", "gap_solver"} <= set(saved.names):
        return None, None
    own, known = saved.numbers("gap_times"), times.cpu().numpy()
    if own.shape != known.shape or not np.allclose(own, known, rtol=1e-12, atol=1e-12):
        return None, None
    return saved.numbers("gap"), str(saved.read("gap_solver"))


def _agree(path: Path, name: str, saved: np.ndarray, own: Tensor) -> None:
    known = own.cpu().numpy()
    if saved.shape == known.shape and np.allclose(saved, known, rtol=1e-5, atol=0):
        return
    raise DataError(
        f"{path} was made with another network, schedule or time: its {name} are "
        f"{_brief(saved)}, but here they are {_brief(known)}"
    )


def _brief(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:.5g}" for value in values.ravel()[:4])
    return shown + (", ..." if values.size > 4 else "")
