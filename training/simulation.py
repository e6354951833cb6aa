"""What the simulation scripts share: time grids, latent laws, simulations shared by the ranks."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.errors import UsageError
from dnnlib.options import given_options
from torch_utils import distributed
from training.flow.likelihood import Likelihood, Trace
from training.flow.pfode import ProbabilityFlow, State, Trajectory
from training.flow.solvers import Solver
from training.trajectory_file import trajectory_file

DEFAULT_STEPS = 20
MAX_STEPS = 10**6


@dataclass(frozen=True)
class Simulation:
    """A trajectory of all samples.

    Attributes:
        trajectory: Of all ranks.
        seconds: That it took.
        densities: ``[N]`` by name, such as ``log_prob``; none unless they were asked for.
        jacobian_products: Vector-Jacobian products of the denoiser that these took.
    """

    trajectory: Trajectory
    seconds: float
    densities: Mapping[str, Tensor] = field(default_factory=dict)
    jacobian_products: int = 0

    def facts(self, flow: ProbabilityFlow) -> dict[str, Any]:
        """Cost, second moments of the last state per eigen-dimension beside the closed form, and
        the likelihood if it was asked for."""
        end_time = self.trajectory.times[-1]
        likelihood = {"likelihood": self.likelihood_facts()} if self.densities else {}
        return {
            "denoiser_calls": self.trajectory.calls,
            "seconds": self.seconds,
            "end_time": float(end_time),
            "end_variance": self.trajectory.end.square().mean(dim=0).tolist(),
            "closed_form_variance": flow.latent_variance(end_time).tolist(),
            **likelihood,
        }

    def likelihood_facts(self) -> dict[str, Any]:
        """Mean and standard error of each density, and their cost."""
        summaries: dict[str, Any] = {}
        for name, values in self.densities.items():
            error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
            summaries[name] = {"mean": float(values.mean()), "standard_error": error}
        return {
            **summaries,
            "denoiser_calls": self.trajectory.calls,
            "jacobian_products": self.jacobian_products,
        }


class Simulator:
    """Runs simulations along one time grid, the samples shared by the ranks.

    Args:
        flow: The flow, on this rank's device.
        times: Increasing ``[steps + 1]``.
        solver: How to take a step.
        save_every: Steps between saved states.
        likelihood: What to tell of the densities of the ends at the first time; None for nothing.
    """

    def __init__(
        self,
        flow: ProbabilityFlow,
        times: Tensor,
        solver: Solver,
        save_every: int,
        likelihood: Likelihood | None = None,
    ):
        if not (flow.schedule.t_min <= float(times[0]) < float(times[-1])):
            raise UsageError(
                f"T is {float(times[-1]):g}, but simulations start at t = {flow.schedule.t_min:g}"
            )
        if not flow.schedule.noise_variance(times[-1:].to(flow.device)).isfinite().all():
            raise UsageError(f"T is {float(times[-1]):g}: the noise overflows; give a shorter time")
        self._flow, self._solver, self._save_every = flow, solver, save_every
        self._times, self._likelihood = times.to(flow.device), likelihood

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
            simulation = self._simulate(simulate, start, title, record)
            record.add(simulation.densities)
        return simulation

    def _simulate(
        self,
        simulate: Callable[..., Trajectory],
        start: Tensor,
        title: str,
        on_state: Callable[[State], None] | None,
    ) -> Simulation:
        count, dim = start.shape
        rows = distributed.shard(count)
        share = start[rows].to(self._flow.device)
        likelihood = self._likelihood
        integral = likelihood and likelihood.along(self._solver, rows, dim)
        hidden = None if distributed.is_main() else True
        began = time.perf_counter()
        with tqdm(total=len(self._times) - 1, desc=title, unit="step", disable=hidden) as bar:
            local = simulate(
                share,
                self._times,
                integral.solver if integral else self._solver,
                save_every=self._save_every,
                on_step=bar.update,
                on_state=on_state,
            )
        whole = replace(
            local,
            states=distributed.gather_rows(local.states, count, dim=1),
            updates=distributed.gather_rows(local.updates, count, dim=1),
        )
        densities, products = {}, 0
        if likelihood and integral:
            log_prob = distributed.gather_rows(integral.log_prob(self._flow, local), count)
            densities = likelihood.arrays(log_prob, dim)
            products = local.calls * integral.products_per_call
        return Simulation(whole, time.perf_counter() - began, densities, products)


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


def chosen_likelihood(
    options: Mapping[str, Any], levels_per_unit: float | None = None
) -> Likelihood | None:
    """What ``likelihood_options`` ask for; None if they do not.

    Args:
        options: ``log_prob``, ``trace``, ``probes`` and ``seed``.
        levels_per_unit: Of images.

    Raises:
        UsageError: How is said, but not that, or probes for an exact trace.
    """
    given = given_options()
    for name in ("trace", "probes"):
        if name in given and not options["log_prob"]:
            raise UsageError(f"--{name} goes with --log_prob")
    if "probes" in given and options["trace"] == "exact":
        raise UsageError("--probes goes with --trace=hutchinson: an exact trace has none")
    if not options["log_prob"]:
        return None
    trace = Trace(options["trace"], options["probes"], options["seed"])
    return Likelihood(trace, levels_per_unit)


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
