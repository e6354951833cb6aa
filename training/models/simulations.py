"""Simulations of many samples: inflating data, returning, and generating from fresh latents.

The ranks share the samples, and states are written to a file during the simulation. The three
simulations are the same for toys, images and tables. The subject provides the points, and the facts
for the parameters file.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.trajectory import SavedEnd, trajectory_file
from training.flow.bin_averages import cell_log_prob, has_cells
from training.flow.likelihood import LOG_PROB_ERROR, Density, DensityPlan, DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow, State, Trajectory
from training.flow.solvers import Solver
from training.models.integration_settings import LatentChoice
from training.subjects import Subject
from training.subjects.subject import Returns, Samples, Source


@dataclass(frozen=True)
class Simulation:
    """A trajectory of all samples.

    Attributes:
        trajectory: Trajectory of all ranks.
        seconds: Duration.
        densities: Densities ``[N]`` by name, such as ``log_prob``; empty unless requested.
        jacobian_products: Number of vector-Jacobian products of the denoiser for the densities.
        cell_points: Mean number of points per density that is averaged over a bin; None for other
            densities.
        way: Solver and number of steps of the trajectory, by their names in results files.
    """

    trajectory: Trajectory
    seconds: float
    densities: Mapping[str, Tensor] = field(default_factory=dict)
    jacobian_products: int = 0
    cell_points: float | None = None
    way: Mapping[str, Any] = field(default_factory=dict)

    def points(self, flow: ProbabilityFlow) -> Tensor:
        """Return the points ``[N, D]`` in data space at the first time; see ``ends_of``."""
        return ends_of(flow, self.trajectory)

    def facts(self, flow: ProbabilityFlow) -> dict[str, Any]:
        """Return cost, second moments of the last state and their closed form, and the likelihood.

        Moments are per eigen-dimension. The likelihood is included if requested.
        """
        end_time = self.trajectory.times[-1]
        likelihood = {"likelihood": self.likelihood_facts()} if self.densities else {}
        return {
            "denoiser_calls": self.trajectory.calls,
            "seconds": self.seconds,
            "end_time": float(end_time),
            "end_variance": self.trajectory.end.square().mean(dim=0).tolist(),
            "closed_form_variance": flow.gaussian_latents(end_time).variance.tolist(),
            **likelihood,
        }

    def likelihood_facts(self) -> dict[str, Any]:
        """Return means and standard errors of log densities, errors of single values, and costs."""
        summaries: dict[str, Any] = {}
        for name, values in self.densities.items():
            if name == LOG_PROB_ERROR:
                summaries[name] = {"rms": float(values.square().mean().sqrt())}
                continue
            error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
            summaries[name] = {"mean": float(values.mean()), "standard_error": error}
        summaries |= self.way
        if self.cell_points is not None:
            return {**summaries, "cell_points": self.cell_points}
        return {
            **summaries,
            "denoiser_calls": self.trajectory.calls,
            "jacobian_products": self.jacobian_products,
        }


class Simulator:
    """Runner of simulations along one time grid, with the samples shared by the ranks.

    Args:
        flow: Flow, on this rank's device.
        times: Increasing times ``[steps + 1]``.
        solver: Solver.
        save_every: Number of steps between saved states.
        densities: Densities to compute for the ends at the first time; None for none.
        by_course: Whether densities of bins use the network's integration schedule, if it has one.
    """

    def __init__(
        self,
        flow: ProbabilityFlow,
        times: Tensor,
        solver: Solver,
        save_every: int,
        densities: DensityPlan | None = None,
        by_course: bool = False,
    ):
        if not (flow.schedule.t_min <= float(times[0]) < float(times[-1])):
            raise UsageError(
                f"T is {float(times[-1]):g}, but simulations start at t = {flow.schedule.t_min:g}"
            )
        if not flow.schedule.noise_variance(times[-1:].to(flow.device)).isfinite().all():
            raise UsageError(f"T is {float(times[-1]):g}: the noise overflows; give a smaller T")
        self._flow, self._solver, self._save_every = flow, solver, save_every
        self._times, self._plan = times.to(flow.device), densities
        self._cell_way = self._times, solver
        if by_course and "densities" in flow.integrations:
            self._cell_way = flow.integration("densities")

    def melt(
        self, data: Tensor, title: str = "melt", path: Path | None = None, **file: Any
    ) -> Simulation:
        """Inflate points ``[N, D]`` in image space, the same on every rank.

        Args:
            data: Points.
            title: Title of the progress bar.
            path: Results file, written during the simulation; None for no file.
            **file: Further arguments of ``trajectory_file``.
        """
        return self._run(self._flow.melt, self._times, data, title, path, file)

    def generate(
        self,
        latent: Tensor,
        title: str,
        path: Path | None = None,
        **file: Any,
    ) -> Simulation:
        """Generate from latents ``[N, D]`` in scaled eigenspace at the last time, like ``melt``.

        Args:
            latent: Latents.
            title: Title of the progress bar.
            path: Results file; None for no file.
            **file: Further arguments of ``trajectory_file``.
        """
        times = self._times.flip(0)
        return self._run(self._flow.generate, times, latent, title, path, file)

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
            if self._flow.coordinates is not None:
                record.add({"points": simulation.points(self._flow)})
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
        plan = self._plan
        cells = plan if has_cells(self._flow) else None
        integral = None
        if plan and not cells:
            integral = DivergenceIntegral(self._solver, plan.trace, rows, dim)
        began = time.perf_counter()
        with distributed.progress_bar(total=len(self._times) - 1, desc=title, unit="step") as bar:
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
        densities, products, cell_points = {}, 0, None
        if plan and integral:
            own = self._flow.log_prob_along(local, integral)
            density = Density(*(distributed.gather_rows(part, count) for part in own))
            densities, products = plan.arrays(density, dim), integral.products
        if cells:
            density, cell_points = self._of_cells(ends_of(self._flow, local), cells.trace, count)
            densities = cells.arrays(density, dim)
        seconds = time.perf_counter() - began
        times, solver = self._cell_way if cells else (self._times, self._solver)
        way = {"solver": solver.name, "n_iters": len(times) - 1}
        return Simulation(whole, seconds, densities, products, cell_points, way)

    def _of_cells(self, share: Tensor, trace: Trace, count: int) -> tuple[Density, float]:
        """Return densities of the bins of all points, of which this rank has a share ``[n, D]``.

        The second result is the average number of points evaluated per row.
        """
        exact = trace if trace.kind == "hutchinson" else Trace("exact")
        with distributed.progress_bar(total=len(share), desc="log_prob", unit="row") as bar:
            share_density, points = cell_log_prob(
                self._flow, share, *self._cell_way, exact, bar.update
            )
        looked_at = torch.tensor(points * len(share), dtype=torch.float64, device=share.device)
        whole = Density(*(distributed.gather_rows(part, count) for part in share_density))
        return whole, float(distributed.sum_over_ranks(looked_at)) / count


def ends_of(flow: ProbabilityFlow, trajectory: Trajectory) -> Tensor:
    """Return the points ``[N, D]`` in data space at the first time of a trajectory.

    A melt starts and a generation ends there.
    """
    times, states = trajectory.times, trajectory.states
    first = 0 if times[0] < times[-1] else -1
    return flow.to_data(states[first], times[first])


@dataclass(frozen=True)
class FinishedSimulation:
    """A finished simulation that is in its file.

    Attributes:
        kind: One of ``KINDS``.
        simulation: Simulation of all samples.
        facts: Facts for the parameters file.
    """

    kind: str
    simulation: Simulation
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SimulationRun:
    """Simulations of one flow along the same times.

    Attributes:
        subject: Subject.
        flow: Flow of the subject, on this rank's device.
        samples: Samples to inflate; None for none.
        times: Increasing times ``[steps + 1]``.
        solver: Solver.
        latent: Choice of the base distribution of generation.
        count: Number of points to generate, N.
        seed: Random seed.
        paths: Files of the simulations, by kind.
        save_every: Number of steps between saved states.
        by_course: Whether densities of melts and of bins use the network's integration schedule.
        start_noise: Whether melts start with the noise of the first time.
        class_number: Class to generate; None to draw one for each image.
        density_plan: Log densities to compute; None for none.
    """

    subject: Subject
    flow: ProbabilityFlow
    samples: Samples | None
    times: Tensor
    solver: Solver
    latent: LatentChoice
    count: int
    seed: int
    paths: Mapping[str, Path]
    save_every: int
    by_course: bool = False
    start_noise: bool = False
    class_number: int | None = None
    density_plan: DensityPlan | None = None

    def start_of(self, points: Tensor) -> Tensor:
        """Return the start of a melt of points ``[N, D]``: the points, with noise if requested."""
        if not self.start_noise:
            return points
        generator = seeded_generator("cpu", self.seed, Stream.MELT_NOISE)
        first = self.times[0].to(self.flow.device)
        noise = self.flow.schedule.sample_noise(len(points), first, generator)
        return points + self.flow.basis.rotate_back(noise).cpu()

    def densities(self, samples: Samples) -> Simulation | None:
        """Return log densities of a melt from a separate integration, or None if there is none."""
        if not self.density_plan:
            return None
        flow, times, solver = self.given(samples.labels), self.times, self.solver
        points = self.subject.density_points(samples, self.seed)
        if self.by_course and "densities" in flow.integrations:
            times, solver = flow.integration("densities")
            points = self.start_of(samples.points) if points is None else points
        if points is None:
            return None
        simulator = Simulator(flow, times, solver, len(times), self.density_plan)
        return simulator.melt(points, "log_prob")

    def tell(
        self, kinds: Sequence[str], melted: SavedEnd | None = None
    ) -> Iterator[FinishedSimulation]:
        """Run simulations one after the other, each into its file.

        Args:
            kinds: Some of ``KINDS``, in their order.
            melted: End of an earlier inflation (melt), used if ``kinds`` contains no melt.

        Yields:
            Each simulation when it has ended.
        """
        start = end = labels = None
        arrays: Mapping[str, Tensor] = {}
        if melted is not None:
            start, end, labels, arrays = melted.start, melted.x, melted.labels, melted.arrays
        melt: Simulation | None = None
        if "melt" in kinds:
            assert self.samples is not None, "a melt has no start"
            samples = self.samples
            own = self.densities(samples)
            simulator = self._simulator(samples.labels, None if own else self.density_plan)
            file = self._file(samples.labels, {**samples.arrays, **(own.densities if own else {})})
            began = self.start_of(samples.points)
            melt = simulator.melt(began, "melt", self.paths["melt"], **file)
            start, end = melt.trajectory.states[0], melt.trajectory.end
            labels, arrays = samples.labels, samples.arrays
            of_subject = self.subject.melt_facts(self.flow, melt.trajectory)
            facts = {**melt.facts(self.flow), **of_subject}
            if own:
                melt = replace(melt, densities=own.densities)
                facts["likelihood"] = own.likelihood_facts()
            yield FinishedSimulation("melt", melt, facts)
        if "roundtrip" in kinds:
            assert start is not None, "a roundtrip needs a melt"
            assert end is not None
            back = self._generate("roundtrip", end, labels, arrays)
            start = start.to(self.flow.device)
            facts = self.subject.return_facts(self.flow, back.trajectory, start)
            yield FinishedSimulation("roundtrip", back, {**back.facts(self.flow), **facts})
        if "gen" in kinds:
            end = None if end is None else end.to(self.flow.device)
            kept = self.subject.dims_to_keep
            distribution = self.latent.distribution(self.flow, float(self.times[-1]), kept, end)
            latents = distribution.sample(
                self.count, seeded_generator("cpu", self.seed, Stream.LATENT)
            )
            labels = self.subject.drawn_labels(self.count, self.seed, self.class_number)
            gen = self._generate("gen", latents, labels, {})
            beside = {}
            if melt and melt.densities and gen.densities:
                both = melt.densities["log_prob"], gen.densities["log_prob"]
                beside = self.subject.density_facts(*both)
            yield FinishedSimulation("gen", gen, {**gen.facts(self.flow), **beside})

    def check_labels(self, melted: SavedEnd) -> None:
        """Check that the labels of a melt fit the network.

        Raises:
            DataError: The labels have another length.
        """
        length = 0 if melted.labels is None else melted.labels.shape[1]
        if length != self.subject.label_dim:
            assert self.subject.network is not None
            raise DataError(
                f"{melted.path} has conditions of length {length}, but "
                f"{self.subject.network.name} has {self.subject.label_dim}"
            )

    def _generate(
        self,
        kind: str,
        latents: Tensor,
        labels: Tensor | None,
        arrays: Mapping[str, Tensor],
    ) -> Simulation:
        file = self._file(labels, arrays)
        simulator = self._simulator(labels, self.density_plan)
        return simulator.generate(latents, kind, self.paths[kind], **file)

    def _simulator(self, labels: Tensor | None, densities: DensityPlan | None) -> Simulator:
        flow = self.given(labels)
        known = (self.times, self.solver, self.save_every, densities, self.by_course)
        return Simulator(flow, *known)

    def given(self, labels: Tensor | None) -> ProbabilityFlow:
        """Return the flow for this rank's share of samples with these labels ``[N, L]``."""
        if labels is None:
            return self.flow
        share = labels[distributed.shard(len(labels))]
        return self.flow.given(labels=share.to(self.flow.device))

    def _file(self, labels: Tensor | None, arrays: Mapping[str, Tensor]) -> dict[str, Any]:
        given = {} if labels is None else {"labels": labels}
        return {
            "dtype": self.subject.dtype,
            "network_sha256": self.subject.digest,
            "names": self.subject.columns,
            **self.subject.arrays,
            **given,
            **arrays,
        }


def measure_returns(
    flow: ProbabilityFlow,
    times: Tensor,
    solver: Solver,
    source: Source,
    returns: Returns,
    batch: int,
) -> int:
    """Measure the roundtrip errors of points, and return the denoiser evaluations per point.

    Every rank reads each batch and integrates its share, and holds no more than one batch.

    Args:
        flow: Flow.
        times: Increasing times ``[steps + 1]``.
        solver: Solver.
        source: Points.
        returns: Accumulator of the errors.
        batch: Number of points in a batch, over all ranks.
    """
    count, most_calls = len(source), 0
    starts = range(0, count, batch)
    total = 2 * (len(times) - 1) * len(starts)
    with distributed.progress_bar(total=total, desc="roundtrip", unit="step") as bar:
        for start in starts:
            places = range(start, min(start + batch, count))
            bar.set_postfix_str(f"{places.start} to {places.stop - 1} of {count}")
            samples = source.read(places)
            share, own = distributed.shard(len(places)), flow
            if samples.labels is not None:
                own = flow.given(labels=samples.labels[share].to(flow.device))
            data = samples.points[share].to(flow.device).double()
            melt = own.melt(data, times, solver, on_step=bar.update)
            back = own.generate(melt.end, times, solver, on_step=bar.update)
            ends = torch.stack([melt.end, own.to_data(back.end, back.times[-1])])
            latents, returned = distributed.gather_rows(ends, len(places), dim=1).cpu()
            most_calls = max(most_calls, melt.calls + back.calls)
            returns.add(flow, samples, latents, returned)
    return most_calls
