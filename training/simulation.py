"""What the simulation scripts share: time grids, latent laws, simulations shared by the ranks."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.errors import UsageError
from torch_utils import distributed
from training.flow.pfode import ProbabilityFlow, State, Trajectory
from training.flow.solvers import Solver
from training.trajectory_file import trajectory_file

DEFAULT_STEPS = 20
MAX_STEPS = 10**6


@dataclass(frozen=True)
class Simulation:
    """A trajectory of all samples and the seconds it took."""

    trajectory: Trajectory
    seconds: float

    def facts(self, flow: ProbabilityFlow) -> dict[str, Any]:
        """Cost, and second moments of the last state per eigen-dimension beside the closed form."""
        end_time = self.trajectory.times[-1]
        return {
            "denoiser_calls": self.trajectory.calls,
            "seconds": self.seconds,
            "end_time": float(end_time),
            "end_variance": self.trajectory.end.square().mean(dim=0).tolist(),
            "closed_form_variance": flow.latent_variance(end_time).tolist(),
        }


class Simulator:
    """Runs simulations along one time grid, the samples shared by the ranks.

    Args:
        flow: The flow, on this rank's device.
        times: Increasing ``[steps + 1]``.
        solver: How to take a step.
        save_every: Steps between saved states.
    """

    def __init__(self, flow: ProbabilityFlow, times: Tensor, solver: Solver, save_every: int):
        if not (flow.schedule.t_min <= float(times[0]) < float(times[-1])):
            raise UsageError(
                f"T is {float(times[-1]):g}, but simulations start at t = {flow.schedule.t_min:g}"
            )
        if not flow.schedule.noise_variance(times[-1:].to(flow.device)).isfinite().all():
            raise UsageError(f"T is {float(times[-1]):g}: the noise overflows; give a shorter time")
        self._flow, self._solver, self._save_every = flow, solver, save_every
        self._times = times.to(flow.device)

    def melt(
        self, data: Tensor, title: str = "melt", path: Path | None = None, **file: Any
    ) -> Simulation:
        """Inflates points ``[N, D]`` of image space, and writes a results file if it has a path.

        Args:
            data: All points, the same on every rank.
            title: Of the progress bar.
            path: Where the states go as they are made; None keeps them in memory.
            file: What else ``trajectory_file`` takes.
        """
        return self._run(self._flow.melt, self._times, data, title, path, file)

    def generate(
        self, latent: Tensor, title: str, path: Path | None = None, **file: Any
    ) -> Simulation:
        """Generates from scaled eigenspace latents ``[N, D]`` at the last time; as ``melt``."""
        return self._run(self._flow.generate, self._times.flip(0), latent, title, path, file)

    def _run(
        self,
        simulate: Callable[..., Trajectory],
        times: Tensor,
        start: Tensor,
        title: str,
        path: Path | None,
        file: dict[str, Any],
    ) -> Simulation:
        if path is None:
            return self._simulate(simulate, start, title, None)
        last = len(times) - 1
        saved_times = times[[*range(0, last, self._save_every), last]]
        with trajectory_file(path, self._flow, saved_times, len(start), **file) as record:
            return self._simulate(simulate, start, title, record)

    def _simulate(
        self,
        simulate: Callable[..., Trajectory],
        start: Tensor,
        title: str,
        on_state: Callable[[State], None] | None,
    ) -> Simulation:
        count = len(start)
        share = start[distributed.shard(count)].to(self._flow.device)
        hidden = None if distributed.is_main() else True
        began = time.perf_counter()
        with tqdm(total=len(self._times) - 1, desc=title, unit="step", disable=hidden) as bar:
            local = simulate(
                share,
                self._times,
                self._solver,
                save_every=self._save_every,
                on_step=bar.update,
                on_state=on_state,
            )
        whole = replace(
            local,
            states=distributed.gather_rows(local.states, count, dim=1),
            updates=distributed.gather_rows(local.updates, count, dim=1),
        )
        return Simulation(whole, time.perf_counter() - began)


def steps_and_end(
    steps: int | str | None, h: float | None, t_max: float
) -> tuple[int | str, float]:
    """Number of steps, or ``auto``, and the last time T: ``steps * h``, or ``t_max``."""
    if h is None:
        return steps or DEFAULT_STEPS, t_max
    if isinstance(steps, str):
        raise UsageError(f"--steps={steps} finds the step size itself: leave --h out")
    if steps is None:
        if t_max / h > MAX_STEPS:
            raise UsageError(f"h is {h:g}, which makes more than {MAX_STEPS} steps up to {t_max:g}")
        steps = max(1, math.floor(t_max / h * (1 + 1e-9)))
    end = steps * h
    # 7.01 and 701 * 0.01 mean the same time.
    return steps, t_max if math.isclose(end, t_max, rel_tol=1e-9) else end


def parse_eps(text: str) -> float | str:
    """``auto``, ``empirical``, or a positive number. Raises UsageError for anything else."""
    if text in ("auto", "empirical"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"eps is '{text}': give auto, empirical, or a positive variance")
    return value


def latent_law(
    flow: ProbabilityFlow,
    end_time: float,
    eps: float | str,
    dims_to_keep: int,
    melted: Tensor | None = None,
) -> Tensor:
    """Variances ``[D]`` of the Gaussian that generation starts from.

    Args:
        flow: Knows the closed form.
        end_time: T.
        eps: ``auto``: the closed form; a number: that for the compressed dimensions; ``empirical``:
            the second moments of an earlier melt.
        dims_to_keep: Number of dimensions that are not compressed.
        melted: Scaled eigenspace end of a melt ``[N, D]``, for ``empirical``.
    """
    if eps == "empirical":
        if melted is None:
            raise UsageError("eps=empirical needs a melt to take the variances from")
        return melted.square().mean(dim=0)
    t = torch.tensor(end_time, dtype=torch.float64, device=flow.device)
    variance = flow.latent_variance(t)
    if isinstance(eps, float):
        variance[dims_to_keep:] = eps
    return variance
